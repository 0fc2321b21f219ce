//! Running a plan: batches of rows, as fast as they are taken.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use alluvium_types::{TimeRange, Value};

use crate::ReadStats;
use crate::buckets::BucketMerge;
use crate::combined::{Combined, TextAt};
use crate::error::QueryError;
use crate::every::expand;
use crate::groups::{Group, resolve};
use crate::limits::{Guard, Limits};
use crate::plan::{ColumnName, Order, Plan, Window};
use crate::raw::RawMerge;
use crate::row_batch::RowBatch;
use crate::source::{SeriesReader, Source};
use crate::{Direction, SeriesInfo};

/// Guess of what an open series costs beside its batch: run roots and a copy of the open leaf's tail.
pub(crate) const READER_BYTES: u64 = 2048;

/// What a query has cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Series selected.
    pub series: u64,
    /// Groups they make.
    pub groups: u64,
    /// Rows answered.
    pub rows: u64,
    /// Nanoseconds since the start.
    pub elapsed_ns: u64,
    /// Most bytes held at once.
    pub memory_bytes_max: u64,
    /// What was read for it.
    pub read: ReadStats,
}

impl Stats {
    /// As the text of one JSON object.
    pub fn json(&self) -> String {
        let r = &self.read;
        format!(
            "{{\"series\":{},\"groups\":{},\"rows\":{},\"leaf_pages\":{},\"inner_pages\":{},\"cached_pages\":{},\
             \"aggregates_used\":{},\"points_decoded\":{},\"expired_pages\":{},\"bad_pages\":{},\
             \"memory_bytes_max\":{},\"milliseconds\":{}.{:03}}}",
            self.series,
            self.groups,
            self.rows,
            r.leaf_pages,
            r.inner_pages,
            r.cached_pages,
            r.aggregates_used,
            r.points_decoded,
            r.expired_pages,
            r.bad_pages,
            self.memory_bytes_max,
            self.elapsed_ns / 1_000_000,
            self.elapsed_ns / 1_000 % 1_000,
        )
    }
}

/// A plan under way. It reads only what the next batch needs and holds no lock; dropping it cancels it.
#[expect(missing_debug_implementations, reason = "holds a source of any kind")]
pub struct Execution {
    context: Context,
    stage: Option<Stage>,
    /// The first group no stage has taken yet.
    next_group: usize,
    ended: bool,
    columns: Vec<ColumnName>,
    warnings: Vec<String>,
}

enum Stage {
    Raw(RawMerge),
    Buckets(BucketMerge),
    Whole(Range<usize>),
}

/// A series and the part of the plan's range in which it has points.
pub(crate) type Opened = (Box<dyn SeriesReader>, TimeRange);

/// Gives the texts that aggregates do not hold.
pub(crate) type TextSource<'a> =
    dyn FnMut(&mut Context, TextAt) -> Result<Option<Box<str>>, QueryError> + 'a;

/// What all stages share.
pub(crate) struct Context {
    pub source: Box<dyn Source>,
    pub plan: Plan,
    pub groups: Vec<Group>,
    pub guard: Guard,
    pub stats: Stats,
    width: usize,
    /// The first column of each selection.
    offsets: Vec<usize>,
    skip: u64,
    left: u64,
    /// Emptied rows, to save an allocation a row.
    pub spare_values: Vec<Vec<Option<Value>>>,
}

impl Execution {
    /// Selects the series of a plan; reads none of their points yet. Once `cancel` is set the query ends.
    ///
    /// # Errors
    /// If the plan is refused, its only metric is unknown, or too many series match.
    pub fn start(
        source: Box<dyn Source>,
        mut plan: Plan,
        limits: Limits,
        cancel: Arc<AtomicBool>,
    ) -> Result<Self, QueryError> {
        plan.check()?;
        expand(&mut plan, &*source)?;
        let mut guard = Guard::new(limits, cancel);
        let mut warnings = Vec::new();
        let groups = resolve(&*source, &plan, &mut guard, &mut warnings)?;
        let columns = plan.columns();
        let stats = Stats {
            series: groups.iter().map(|g| g.members.len() as u64).sum(),
            groups: groups.len() as u64,
            ..Stats::default()
        };
        let mut context = Context {
            offsets: plan.column_offsets(),
            width: columns.len(),
            skip: plan.offset,
            left: plan.limit.unwrap_or(u64::MAX),
            spare_values: Vec::new(),
            source,
            plan,
            groups,
            guard,
            stats,
        };
        context.note_cost();
        Ok(Self {
            context,
            stage: None,
            next_group: 0,
            ended: false,
            columns,
            warnings,
        })
    }

    /// The columns of values; series and time come before them.
    pub fn columns(&self) -> &[ColumnName] {
        &self.columns
    }

    /// Replaces the content of `out` by the next rows. False, and no rows, at the end and after an error.
    ///
    /// # Errors
    /// If a limit is passed, the query is cancelled, or a series cannot be read.
    pub fn next_batch(&mut self, out: &mut RowBatch) -> Result<bool, QueryError> {
        out.reset(self.context.width);
        if self.ended {
            return Ok(false);
        }
        // Asked behind the reading: before it, it could go in between.
        let result = self.advance(out);
        let result = self.context.source.check().and(result);
        self.context.note_cost();
        if let Err(error) = result {
            self.end();
            out.reset(self.context.width);
            return Err(error);
        }
        Ok(!out.is_empty())
    }

    /// What the query has cost so far.
    pub fn stats(&self) -> &Stats {
        &self.context.stats
    }

    /// What the asker should know beside the rows.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn advance(&mut self, out: &mut RowBatch) -> Result<(), QueryError> {
        while !out.is_full() {
            self.context.guard.check()?;
            if self.context.is_done() {
                self.end();
                break;
            }
            let exhausted = match &mut self.stage {
                None if self.next_group >= self.context.groups.len() => {
                    self.end();
                    break;
                }
                None => {
                    self.stage = Some(self.open_stage()?);
                    false
                }
                Some(Stage::Raw(merge)) => merge.fill(&mut self.context, out)?,
                Some(Stage::Buckets(merge)) => merge.fill(&mut self.context, out)?,
                Some(Stage::Whole(groups)) => whole(&mut self.context, groups, out)?,
            };
            if exhausted {
                self.stage = None;
            }
        }
        Ok(())
    }

    fn open_stage(&mut self) -> Result<Stage, QueryError> {
        let all = self.next_group..self.context.groups.len();
        let taken = match self.context.plan.order {
            Order::Time => all.clone(),
            Order::Series => all.start..all.start + 1,
        };
        let context = &mut self.context;
        let (stage, next) = match context.plan.window {
            Window::Raw => (
                Stage::Raw(RawMerge::open(context, taken.clone())?),
                taken.end,
            ),
            Window::Buckets { .. } => (
                Stage::Buckets(BucketMerge::open(context, taken.clone())?),
                taken.end,
            ),
            Window::Whole { .. } => (Stage::Whole(all.clone()), all.end),
        };
        self.next_group = next;
        Ok(stage)
    }

    fn end(&mut self) {
        self.ended = true;
        self.stage = None;
    }
}

impl Context {
    /// Whether the next row goes out: not one of the offset.
    ///
    /// # Errors
    /// If it would be one row too many.
    pub(crate) fn admit(&mut self) -> Result<bool, QueryError> {
        if self.skip > 0 {
            self.skip -= 1;
            // Filled bins cost no read, at which the guard is asked otherwise.
            if self.skip.is_multiple_of(4096) {
                self.guard.check()?;
            }
            return Ok(false);
        }
        if self.stats.rows >= self.guard.limits.rows {
            return Err(QueryError::TooManyRows {
                limit: self.guard.limits.rows,
            });
        }
        self.stats.rows += 1;
        self.left -= 1;
        Ok(true)
    }

    /// Whether the limit is reached.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Rows that can still be wanted, those of the offset included.
    pub(crate) fn rows_wanted(&self) -> u64 {
        self.left.saturating_add(self.skip)
    }

    /// Opens a series; `None` if it has no point in the range.
    pub(crate) fn open(&mut self, info: &SeriesInfo) -> Result<Option<Opened>, QueryError> {
        self.guard.check()?;
        let reader = self.source.open(info)?;
        let Some((first, last)) = reader.bounds() else {
            return Ok(None);
        };
        let range = self
            .plan
            .range
            .intersect(TimeRange::inclusive(first.min(last), last));
        Ok((!range.is_empty()).then_some((reader, range)))
    }

    /// The values of a row: those of its group's functions at their columns, the others missing.
    pub(crate) fn row_values(
        &mut self,
        group: usize,
        combined: &Combined,
        text: &mut TextSource<'_>,
        out: &mut Vec<Option<Value>>,
    ) -> Result<(), QueryError> {
        out.clear();
        out.resize(self.width, None);
        let selection = self.groups[group].selection;
        for (i, column) in self.own_columns(group).enumerate() {
            let function = self.plan.selections[selection].functions[i];
            out[column] = combined.value(function, &mut |at| text(self, at))?;
        }
        Ok(())
    }

    /// The columns of a group's functions.
    pub(crate) fn own_columns(&self, group: usize) -> Range<usize> {
        let selection = self.groups[group].selection;
        let begin = self.offsets[selection];
        begin..begin + self.plan.selections[selection].functions.len()
    }

    /// The text of a string series at a time.
    pub(crate) fn text(
        &mut self,
        reader: &dyn SeriesReader,
        time: i64,
    ) -> Result<Option<Box<str>>, QueryError> {
        let mut column = alluvium_types::Column::new(alluvium_types::ValueKind::Str);
        let mut scan = reader.scan(TimeRange::inclusive(time, time), Direction::Forward);
        while scan.next_batch(&mut self.stats.read, &mut column)? {
            if let Some(alluvium_types::ValueRef::Str(text)) = column.value(0) {
                return Ok(Some(text.into()));
            }
        }
        Ok(None)
    }

    pub(crate) fn note_cost(&mut self) {
        self.stats.elapsed_ns = self.guard.elapsed_ns();
        self.stats.memory_bytes_max = self.stats.memory_bytes_max.max(self.guard.used());
    }
}

/// One row a group over the whole range. Returns whether no group is left.
fn whole(
    context: &mut Context,
    groups: &mut Range<usize>,
    out: &mut RowBatch,
) -> Result<bool, QueryError> {
    let Window::Whole { row_time } = context.plan.window else {
        return Ok(true);
    };
    let range = context.plan.range;
    let mut values = Vec::new();
    while !out.is_full() && !context.is_done() {
        let Some(group) = groups.next() else {
            return Ok(true);
        };
        let mut combined = Combined::new();
        for member in 0..context.groups[group].members.len() {
            context.guard.check()?;
            let reader = context
                .source
                .open(&context.groups[group].members[member])?;
            combined.add(
                member as u32,
                &reader.aggregate(range, &mut context.stats.read)?,
            );
        }
        let Some(first) = combined.first_time() else {
            continue;
        };
        if !context.admit()? {
            continue;
        }
        let mut text = |context: &mut Context, at: TextAt| {
            let reader = context
                .source
                .open(&context.groups[group].members[at.member as usize])?;
            context.text(&*reader, at.time)
        };
        context.row_values(group, &combined, &mut text, &mut values)?;
        out.begin(
            group as u32,
            &context.groups[group].output,
            row_time.unwrap_or(first),
        );
        out.push_all(&values);
    }
    Ok(false)
}
