//! A query as plain data.

use std::fmt;

use alluvium_types::{Number, TimeRange};

use super::RequestError;

/// One query, ready to be lowered to a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What is asked.
    pub query: Query,
    /// Over which time, and in which direction.
    pub range: Span,
    /// Of which series, besides the metric: `where`.
    pub filter: Filter,
    /// Which series become one: `group-by-tag`, `pivot-by-tag`.
    pub grouping: Grouping,
    /// Order of rows.
    pub order_by: OrderBy,
    /// Most rows, applied last; `None` is no limit.
    pub limit: Option<u64>,
    /// Rows to skip before `limit` counts.
    pub offset: u64,
    /// What a bucket without points answers.
    pub fill: Fill,
    /// Where buckets begin.
    pub align: Align,
    /// How the answer is written.
    pub output: Output,
    /// Whether to answer the plan instead of rows.
    pub explain: bool,
    /// Whether the answer ends with its cost.
    pub stats: bool,
}

impl Request {
    /// Reads a query; `now_ns` is what `now` means in it.
    ///
    /// # Errors
    /// If the body is no query: see [`RequestError`].
    ///
    /// ```
    /// use alluvium_protocol::json::{Function, Query, Request};
    ///
    /// let body = br#"{"group-aggregate": {"metric": "cpu_idle", "step": "1h", "func": ["min", "mean"]},
    ///                 "range": {"from": "now-1d", "to": "now"}, "where": {"host": ["a", "b"]}}"#;
    /// let request = Request::parse(body, 1_700_000_000_000_000_000).unwrap();
    /// let Query::GroupAggregate { step_ns, functions, .. } = &request.query else { panic!() };
    /// assert_eq!(*step_ns, 3_600_000_000_000);
    /// assert_eq!(functions, &[Function::Min, Function::Mean]);
    /// ```
    pub fn parse(body: &[u8], now_ns: i64) -> Result<Self, RequestError> {
        super::read::read(body, now_ns)
    }
}

/// The query types.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Query {
    /// Raw points.
    Select {
        /// Metric names, that is values of `__name__`; at least one, none twice.
        metrics: Vec<String>,
    },
    /// One row a series over the whole range.
    Aggregate {
        /// Metric names with their functions; at least one each, none twice.
        metrics: Vec<(String, Vec<Function>)>,
    },
    /// One row a series and bucket.
    GroupAggregate {
        /// Metric names; at least one, none twice.
        metrics: Vec<String>,
        /// Length of a bucket in nanoseconds, above 0.
        step_ns: i64,
        /// Functions; at least one, none twice.
        functions: Vec<Function>,
    },
}

/// An aggregate function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Function {
    /// Points, NaN included.
    Count,
    /// Sum.
    Sum,
    /// Smallest value.
    Min,
    /// Largest value.
    Max,
    /// Mean.
    Mean,
    /// Oldest value.
    First,
    /// Newest value.
    Last,
    /// Time of the smallest value.
    MinTimestamp,
    /// Time of the largest value.
    MaxTimestamp,
    /// Time of the oldest point.
    FirstTimestamp,
    /// Time of the newest point.
    LastTimestamp,
    /// Population standard deviation.
    Stddev,
    /// Population variance.
    Variance,
    /// Increase per second.
    Rate,
    /// Growth of a counter, resets counted.
    Increase,
    /// Largest minus smallest.
    Spread,
}

impl Function {
    /// Every function.
    pub const ALL: [Self; 16] = [
        Self::Count,
        Self::Sum,
        Self::Min,
        Self::Max,
        Self::Mean,
        Self::First,
        Self::Last,
        Self::MinTimestamp,
        Self::MaxTimestamp,
        Self::FirstTimestamp,
        Self::LastTimestamp,
        Self::Stddev,
        Self::Variance,
        Self::Rate,
        Self::Increase,
        Self::Spread,
    ];

    /// The name in queries and in column names (`metric:min`).
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::First => "first",
            Self::Last => "last",
            Self::MinTimestamp => "min_timestamp",
            Self::MaxTimestamp => "max_timestamp",
            Self::FirstTimestamp => "first_timestamp",
            Self::LastTimestamp => "last_timestamp",
            Self::Stddev => "stddev",
            Self::Variance => "variance",
            Self::Rate => "rate",
            Self::Increase => "increase",
            Self::Spread => "spread",
        }
    }

    /// The function of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Direction of time in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Oldest first.
    Forward,
    /// Newest first.
    Backward,
}

/// The time a query covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The instants covered. A forward range is `[from, to)`; a backward one, `(to, from]`, is already turned
    /// into the half-open `[to + 1, from + 1)`.
    pub range: TimeRange,
    /// Backward if `to` was before `from`.
    pub direction: Direction,
    /// The `from` that was asked for: the anchor of [`Align::From`]. `i64::MIN` if absent.
    pub from: i64,
}

impl Span {
    /// All of time, oldest first.
    pub const ALL: Self = Self {
        range: TimeRange::ALL,
        direction: Direction::Forward,
        from: i64::MIN,
    };

    /// The span from one instant towards another.
    pub fn new(from: i64, to: i64) -> Self {
        let (begin, end, direction) = if to < from {
            (to + 1, from.saturating_add(1), Direction::Backward)
        } else {
            (from, to, Direction::Forward)
        };
        Self {
            // Both branches order their ends; a range of nothing would be the answer otherwise.
            range: TimeRange::new(begin, end).unwrap_or(TimeRange::ALL),
            direction,
            from,
        }
    }
}

/// Which series.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Filter {
    /// All of the metric.
    #[default]
    All,
    /// Those that satisfy every one of these.
    Tags(Vec<TagMatch>),
    /// Those whose complete tag set is one of these; tags sorted by key.
    Sets(Vec<Vec<(String, String)>>),
}

/// A condition on one tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagMatch {
    /// The tag's key.
    pub tag: String,
    /// What its value must be.
    pub pattern: Pattern,
}

/// What the value of a tag must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// One of these; one text is a list of one.
    OneOf(Vec<String>),
    /// Text in which this regular expression finds a match; `^` and `$` anchor it. Not compiled yet.
    Regex(String),
    /// Any text: the series has the tag.
    Exists,
    /// Not this; a series without the tag satisfies it.
    Not(Box<Pattern>),
}

impl Pattern {
    /// Whether a regular expression decides.
    pub fn is_regex(&self) -> bool {
        match self {
            Self::Regex(_) => true,
            Self::Not(inner) => inner.is_regex(),
            Self::OneOf(_) | Self::Exists => false,
        }
    }
}

/// Which series become one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Grouping {
    /// Each stays by itself.
    #[default]
    None,
    /// `group-by-tag`: these tags are dropped from names, and series whose names become equal are one.
    Drop(Vec<String>),
    /// `pivot-by-tag`: only these tags are kept.
    Keep(Vec<String>),
}

/// Order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OrderBy {
    /// By time, then series.
    #[default]
    Time,
    /// By series, then time.
    Series,
}

/// What a bucket without points answers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Fill {
    /// No row.
    #[default]
    None,
    /// A row without values.
    Null,
    /// The values of the bucket before.
    Previous,
    /// A line between the neighbours.
    Linear,
    /// This number, an integer as it was written.
    Value(Number),
}

/// Where buckets begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Align {
    /// At multiples of the step since 1970.
    #[default]
    Epoch,
    /// At multiples of the step from the range's `from`.
    From,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Output {
    /// The format.
    pub format: Format,
    /// How times are written.
    pub timestamp: TimeFormat,
    /// Whether csv begins with the names of its columns.
    pub header: bool,
    /// Whether json has rows or series.
    pub shape: Shape,
}

/// Format of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Format {
    /// One object.
    #[default]
    Json,
    /// Comma-separated values.
    Csv,
}

/// How times are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeFormat {
    /// Integer nanoseconds.
    #[default]
    Raw,
    /// RFC 3339 with nine digits.
    Iso,
}

/// Shape of a json answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// A list of rows.
    #[default]
    Rows,
    /// A list of series, each with its labels and rows.
    Series,
}
