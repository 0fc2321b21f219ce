//! What to do, as plain data; every language lowers to it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use alluvium_types::{Number, SeriesKey, TimeRange};

use crate::error::QueryError;
use crate::function::Function;
use crate::output_series::Tags;
use crate::{Direction, Selector};

/// A question over many series: select, window each, combine by group, order, fill, limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What is selected, one entry a metric, in the order asked for.
    pub selections: Vec<Selection>,
    /// The time covered.
    pub range: TimeRange,
    /// Whether rows go back in time.
    pub direction: Direction,
    /// What becomes of the points of each series.
    pub window: Window,
    /// Which series become one.
    pub grouping: Grouping,
    /// The order of rows. Rows of [`Window::Whole`] are always in the order of series.
    pub order: Order,
    /// What bins without points answer.
    pub fill: Fill,
    /// Rows to leave out, after everything else.
    pub offset: u64,
    /// Rows to answer at most, after the offset.
    pub limit: Option<u64>,
}

/// Stands for every metric that the selectors beside it leave.
pub const EVERY_METRIC: &str = "*";

/// One metric, or every one.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Its name: the derived label `__name__`; or [`EVERY_METRIC`].
    pub metric: String,
    /// It was not spelt out, but found for [`EVERY_METRIC`]: where functions need numbers one of strings is left out
    /// instead of refused.
    pub is_of_every: bool,
    /// Series that match any of these.
    pub alternatives: Vec<Alternative>,
    /// Functions, in the order of columns. Empty for [`Window::Raw`].
    pub functions: Vec<Function>,
}

/// The tags of a series, sorted by key.
pub type TagSet = Vec<(String, String)>;

/// One way for a series to be selected.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    /// All its matchers must hold.
    pub selector: Selector,
    /// Complete tag sets, one of which a series must have; each set sorted by key.
    pub tag_sets: Option<Arc<BTreeSet<TagSet>>>,
}

impl Alternative {
    /// Whether a tag set that its selector matches is one of the tag sets.
    pub fn admits(&self, key: &SeriesKey) -> bool {
        self.tag_sets
            .as_ref()
            .is_none_or(|sets| sets.contains(key.tags()))
    }
}

/// What becomes of the points of each series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// A row for each point.
    Raw,
    /// One row a group over the whole range.
    Whole {
        /// The time of every row; without one, the group's oldest point.
        row_time: Option<i64>,
    },
    /// A row for each group and bin.
    Buckets {
        /// Length of a bin, above 0.
        step_ns: i64,
        /// Where some bin begins.
        origin: i64,
        /// Whether a row carries the last instant of its bin instead of the first.
        time_at_end: bool,
    },
}

/// Which series become one: those of one metric whose remaining tags are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grouping {
    /// Nothing is dropped.
    None,
    /// These tags are dropped. A series that lacks one of them is left out.
    Without(Vec<String>),
    /// All tags but these are dropped. A series that lacks one of them is left out.
    Only(Vec<String>),
}

impl Grouping {
    /// The tags that stay; `None` if the series is left out.
    pub(crate) fn remaining(&self, key: &Arc<SeriesKey>) -> Option<Tags> {
        let (listed, keep) = match self {
            Self::None => return Some(Tags::Whole(Arc::clone(key))),
            Self::Without(tags) => (tags, false),
            Self::Only(tags) => (tags, true),
        };
        if listed.iter().any(|tag| key.tag(tag).is_none()) {
            return None;
        }
        let kept = key
            .tags()
            .iter()
            .filter(|(k, _)| listed.contains(k) == keep);
        Some(Tags::Part(kept.cloned().collect()))
    }
}

/// The order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By time, then by series.
    Time,
    /// By series (metric, then tags), then by time.
    Series,
}

/// What a bin without points answers. The bins are those of the range; of its open ends, those between the
/// group's oldest and newest point. A group without points has no rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// No row.
    None,
    /// A row without values.
    Null,
    /// The values of the bin before it in time.
    Previous,
    /// Values on the line between the bins around it; none before the first and after the last, none for
    /// texts.
    Linear,
    /// This number.
    Value(Number),
}

/// A column of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnName {
    /// Its name.
    pub name: String,
    /// Whether its values are times in nanoseconds, to be written like the times of rows.
    pub times: bool,
}

impl Plan {
    /// A plan for the raw points of metrics, everything else at its default.
    pub fn raw(selections: Vec<Selection>, range: TimeRange) -> Self {
        Self {
            selections,
            range,
            direction: Direction::Forward,
            window: Window::Raw,
            grouping: Grouping::None,
            order: Order::Time,
            fill: Fill::None,
            offset: 0,
            limit: None,
        }
    }

    /// The columns behind series and time.
    ///
    /// Raw points have one, `value`. Over one metric, or with functions that differ by metric, there is one for
    /// each metric and function, `metric:function`, and a row leaves those of other metrics empty. Bins of several
    /// metrics share columns, named by the function alone: a row names its metric.
    pub fn columns(&self) -> Vec<ColumnName> {
        match self.window {
            Window::Raw => vec![ColumnName {
                name: "value".into(),
                times: false,
            }],
            Window::Buckets { .. } if self.shares_columns() => self.selections[0]
                .functions
                .iter()
                .map(|f| ColumnName {
                    name: f.name().into(),
                    times: f.gives_times(),
                })
                .collect(),
            _ => self
                .selections
                .iter()
                .flat_map(|s| {
                    s.functions.iter().map(|f| ColumnName {
                        name: format!("{}:{f}", s.metric),
                        times: f.gives_times(),
                    })
                })
                .collect(),
        }
    }

    /// The first column of each selection.
    pub(crate) fn column_offsets(&self) -> Vec<usize> {
        let shared = self.window == Window::Raw
            || matches!(self.window, Window::Buckets { .. }) && self.shares_columns();
        let mut next = 0;
        self.selections
            .iter()
            .map(|s| {
                let offset = next;
                if !shared {
                    next += s.functions.len();
                }
                offset
            })
            .collect()
    }

    fn shares_columns(&self) -> bool {
        self.selections.len() > 1
            && self
                .selections
                .windows(2)
                .all(|w| w[0].functions == w[1].functions)
    }

    /// Refuses what cannot be executed.
    pub(crate) fn check(&self) -> Result<(), QueryError> {
        if self.selections.is_empty() {
            return Err(QueryError::NoMetric);
        }
        let mut seen = HashSet::with_capacity(self.selections.len());
        for s in &self.selections {
            if !seen.insert(s.metric.as_str()) {
                return Err(QueryError::Repeated {
                    name: s.metric.clone(),
                });
            }
            if self.window == Window::Raw {
                continue;
            }
            if s.functions.is_empty() {
                return Err(QueryError::NoFunction {
                    metric: s.metric.clone(),
                });
            }
            for (j, f) in s.functions.iter().enumerate() {
                if s.functions[..j].contains(f) {
                    return Err(QueryError::Repeated {
                        name: format!("{}:{f}", s.metric),
                    });
                }
            }
        }
        if let Window::Buckets { step_ns, .. } = self.window {
            if step_ns <= 0 {
                return Err(QueryError::BadStep { step_ns });
            }
        } else if self.fill != Fill::None {
            return Err(QueryError::FillWithoutBins);
        }
        Ok(())
    }
}
