//! One run of a merge: what of it comes next, a whole subtree or points.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use alluvium_block::{BlockStore, Page, PageKind, PageMeta};
use alluvium_types::{Column, TimeRange, ValueKind, Values};

use crate::error::TreeError;
use crate::leaf::LeafView;
use crate::long_text::{self, LongText, LongTextError, Stored};
use crate::page_walk;
use crate::reader::Reader;
use crate::snapshot::TreeSnapshot;
use crate::stats::ReadStats;
use crate::subtree_ref::SubtreeRef;
use crate::tree::PageWriter;

/// Leaves read in one batch.
const READ_AHEAD: usize = 16;

/// A run to merge, as it was when its snapshot was taken.
#[derive(Debug, Clone)]
pub struct MergeSource {
    /// The run.
    pub snapshot: TreeSnapshot,
    /// Ranges whose points are not taken over: those that tombstones newer than the run hide from it. In order
    /// of time, without overlaps.
    pub hidden: Vec<TimeRange>,
    /// Volumes that the result must have no page in, ascending: what is there is written anew. They take no more
    /// pages.
    pub leave: Arc<[u32]>,
}

/// Entries of one node that are still to come.
#[derive(Debug)]
struct Frame {
    entries: Arc<Vec<SubtreeRef>>,
    level: u8,
    next: usize,
}

/// What comes next.
#[derive(Debug)]
enum Head {
    Subtree(SubtreeRef, u8),
    /// The decoded points, from `at` on.
    Points,
    Unknown,
    Ended,
}

/// Pages that were opened, by volume: dead once the result has taken the place of the runs.
pub(super) type Opened = BTreeMap<u32, u64>;

/// A run being read in order of time.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) snapshot: TreeSnapshot,
    hidden: Vec<TimeRange>,
    leave: Arc<[u32]>,
    /// Long strings among the points at hand have left the volumes that are to be left.
    texts_moved: bool,
    /// Points up to here were taken before.
    after: Option<i64>,
    frames: Vec<Frame>,
    head: Head,
    points: Column,
    at: usize,
    ahead: VecDeque<(SubtreeRef, Result<Option<Page>, TreeError>)>,
    unsealed_taken: bool,
}

impl Source {
    pub(super) fn new(source: MergeSource, after: Option<i64>) -> Self {
        let MergeSource {
            snapshot,
            hidden,
            leave,
        } = source;
        let levels = snapshot.levels().iter().enumerate();
        let frames = levels.map(|(level, entries)| Frame {
            entries: Arc::clone(entries),
            level: level as u8,
            next: after.map_or(0, |t| entries.partition_point(|e| e.last_time() <= t)),
        });
        Self {
            frames: frames.collect(),
            hidden,
            leave,
            texts_moved: false,
            after,
            head: Head::Unknown,
            points: Column::new(snapshot.kind()),
            at: 0,
            ahead: VecDeque::new(),
            unsealed_taken: false,
            snapshot,
        }
    }

    /// Finds out what comes next, if that is not known. Reads nothing.
    pub(super) fn look(&mut self) -> Result<(), TreeError> {
        loop {
            match self.head {
                Head::Points if self.at >= self.points.len() => self.head = Head::Unknown,
                Head::Unknown => self.turn()?,
                _ => return Ok(()),
            }
        }
    }

    fn turn(&mut self) -> Result<(), TreeError> {
        while let Some(frame) = self.frames.last_mut() {
            if let Some(entry) = frame.entries.get(frame.next) {
                frame.next += 1;
                let (entry, level) = (*entry, frame.level);
                let (first, last) = (entry.first_time(), entry.last_time());
                if self.after.is_none_or(|t| t < last) && !self.hides_all(first, last) {
                    self.head = Head::Subtree(entry, level);
                    return Ok(());
                }
                continue;
            }
            self.frames.pop();
        }
        if self.unsealed_taken {
            self.head = Head::Ended;
            return Ok(());
        }
        self.unsealed_taken = true;
        self.points.clear();
        self.snapshot.unsealed(&mut self.points)?;
        self.show_points();
        Ok(())
    }

    /// Time of what comes next; `None` at the end.
    pub(super) fn time(&self) -> Option<i64> {
        match &self.head {
            Head::Subtree(entry, _) => {
                let first = entry.first_time();
                Some(self.after.map_or(first, |t| first.max(t.saturating_add(1))))
            }
            Head::Points => self.points.times.get(self.at).copied(),
            Head::Unknown | Head::Ended => None,
        }
    }

    /// The subtree that comes next, with its level, if all of it may be taken as it is.
    pub(super) fn whole_subtree(&self) -> Option<(SubtreeRef, u8)> {
        let Head::Subtree(entry, level) = &self.head else {
            return None;
        };
        let (first, last) = (entry.first_time(), entry.last_time());
        let whole = self.after.is_none_or(|t| t < first)
            && !self.hidden.iter().any(|h| h.overlaps(first, last));
        whole.then_some((*entry, *level))
    }

    /// Whether a subtree that could stay as it is must be opened all the same, for it has pages in volumes that are to
    /// be left. May say so of one of a high level that has none: opening that costs one page.
    pub(super) fn must_open(
        &self,
        pages: &BlockStore,
        entry: &SubtreeRef,
        level: u8,
        stats: &mut ReadStats,
    ) -> Result<bool, TreeError> {
        let Some(newest) = self.leave.last() else {
            return Ok(false);
        };
        let is_left =
            |entry: &SubtreeRef| self.leave.binary_search(&entry.page.addr.volume).is_ok();
        if is_left(entry) {
            return Ok(true);
        }
        let is_text = self.snapshot.kind() == ValueKind::Str;
        if entry.oldest_volume > *newest || level == 0 && !is_text {
            return Ok(false);
        }
        if level > 1 {
            return Ok(true);
        }
        let mut reader = Reader {
            pages,
            series: self.snapshot.series,
            stats,
        };
        let Some(page) = reader.fetch(&[*entry], level).pop().transpose()?.flatten() else {
            return Ok(false);
        };
        if level == 0 {
            let column = page_walk::decode(&mut reader, entry, &page)?;
            return Ok((0..column.len()).any(|i| self.long_to_move(&column, i).is_some()));
        }
        let mut children = Vec::new();
        reader.expand(entry, &page, TimeRange::ALL, &mut children)?;
        let with_texts = |c: &SubtreeRef| is_text && c.oldest_volume <= *newest;
        Ok(children.iter().any(|c| is_left(c) || with_texts(c)))
    }

    /// The long string at `i` if a page of it may be in a volume that is to be left.
    fn long_to_move(&self, column: &Column, i: usize) -> Option<LongText> {
        let Values::Strings(texts) = &column.values else {
            return None;
        };
        match long_text::unquote(texts.get(i)?) {
            Ok(Stored::Long(long)) if long.may_be_in(&self.leave) => Some(long),
            _ => None,
        }
    }

    /// Writes the long strings of the points at hand anew that are in volumes to be left.
    pub(super) fn move_texts(
        &mut self,
        pages: &BlockStore,
        out: &mut PageWriter<'_>,
        stats: &mut ReadStats,
    ) -> Result<(), TreeError> {
        if self.leave.is_empty() || std::mem::replace(&mut self.texts_moved, true) {
            return Ok(());
        }
        if !(self.at..self.points.len()).any(|i| self.long_to_move(&self.points, i).is_some()) {
            return Ok(());
        }
        let series = self.snapshot.series;
        let mut moved = Column::new(self.points.kind());
        for i in self.at..self.points.len() {
            let Some(long) = self.long_to_move(&self.points, i) else {
                moved.extend_from(&self.points, i, i + 1);
                continue;
            };
            let time = self.points.times[i];
            match long_text::read(pages, series.packed(), long, stats) {
                Ok(text) => {
                    let meta = PageMeta {
                        kind: PageKind::Overflow,
                        database: out.database,
                        series: series.packed(),
                        run_ordinal: self.snapshot.run_ordinal,
                        leaf_ordinal: self.snapshot.next_leaf(),
                        lsn: out.lsn,
                        items: 0,
                        level: 0,
                        flags: 0,
                    };
                    moved.push_str(time, &long_text::write(out.appender, meta, time, &text));
                }
                // Its point is gone with it.
                Err(LongTextError::Expired) => {}
                Err(error) => return Err(page_walk::lost(series, time, error)),
            }
        }
        (self.points, self.at) = (moved, 0);
        Ok(())
    }

    pub(super) fn is_subtree(&self) -> bool {
        matches!(self.head, Head::Subtree(..))
    }

    /// Goes behind the subtree at hand.
    pub(super) fn skip_subtree(&mut self) {
        self.head = Head::Unknown;
    }

    /// The decoded points and where those to come begin.
    pub(super) fn points(&self) -> (&Column, usize) {
        (&self.points, self.at)
    }

    /// Goes to the point at `at`.
    pub(super) fn advance_to(&mut self, at: usize) {
        self.at = at;
    }

    /// Opens the subtree at hand: its children come next, or its points. Leaves behind it
    /// that have points of `others` among theirs are read with it.
    pub(super) fn open(
        &mut self,
        pages: &BlockStore,
        others: [&[Self]; 2],
        stats: &mut ReadStats,
        opened: &mut Opened,
    ) -> Result<(), TreeError> {
        let Head::Subtree(entry, level) = std::mem::replace(&mut self.head, Head::Unknown) else {
            return Ok(());
        };
        let mut reader = Reader {
            pages,
            series: self.snapshot.series,
            stats,
        };
        let page = self.fetch(&mut reader, &entry, level, others)?;
        *opened.entry(entry.page.addr.volume).or_default() += 1;
        // An expired page is absent, and its points with it.
        let Some(page) = page else { return Ok(()) };
        if level > 0 {
            let mut children = Vec::new();
            reader.expand(&entry, &page, TimeRange::ALL, &mut children)?;
            self.frames.push(Frame {
                entries: Arc::new(children),
                level: level - 1,
                next: 0,
            });
            return Ok(());
        }
        self.points.clear();
        let decoded = LeafView::new(page.body(), page.meta().items.into())
            .map_err(Into::into)
            .and_then(|view| (0..view.len()).try_for_each(|b| view.decode(b, &mut self.points)));
        reader.stats.points_decoded += self.points.len() as u64;
        decoded.map_err(|cause| reader.bad(&entry, cause))?;
        self.show_points();
        Ok(())
    }

    fn fetch(
        &mut self,
        reader: &mut Reader<'_>,
        entry: &SubtreeRef,
        level: u8,
        others: [&[Self]; 2],
    ) -> Result<Option<Page>, TreeError> {
        // What was read ahead in vain lies before.
        while let Some((ahead, _)) = self.ahead.front()
            && ahead.first_time() < entry.first_time()
        {
            self.ahead.pop_front();
        }
        if let Some((ahead, _)) = self.ahead.front()
            && ahead.page == entry.page
        {
            return self.ahead.pop_front().map_or(Ok(None), |(_, page)| page);
        }
        let mut wanted = vec![*entry];
        if level == 0
            && self.ahead.is_empty()
            && let Some(frame) = self.frames.last()
            && frame.level == 0
        {
            let next = frame.entries.iter().skip(frame.next).take(READ_AHEAD - 1);
            wanted.extend(next.filter(|e| {
                let (first, last) = (e.first_time(), e.last_time());
                others
                    .iter()
                    .copied()
                    .flatten()
                    .any(|o| o.has_point_in(first, last))
            }));
        }
        let mut results = reader.fetch(&wanted, level).into_iter();
        let first = results.next().unwrap_or(Ok(None));
        if wanted.len() > 1 {
            self.ahead = wanted.into_iter().skip(1).zip(results).collect();
        }
        first
    }

    /// Shows the decoded points that are wanted.
    fn show_points(&mut self) {
        self.at = self
            .after
            .map_or(0, |t| self.points.times.partition_point(|p| *p <= t));
        let (first, last) = (self.points.times.first(), self.points.times.last());
        if let (Some(first), Some(last)) = (first, last)
            && self.hidden.iter().any(|h| h.overlaps(*first, *last))
        {
            let mut kept = Column::new(self.points.kind());
            for i in self.at..self.points.len() {
                let time = self.points.times[i];
                if !self.hidden.iter().any(|h| h.contains(time)) {
                    kept.extend_from(&self.points, i, i + 1);
                }
            }
            (self.points, self.at) = (kept, 0);
        }
        self.texts_moved = false;
        self.head = Head::Points;
    }

    fn hides_all(&self, first: i64, last: i64) -> bool {
        self.hidden.iter().any(|h| h.covers(first, last))
    }

    /// Whether it is known to have a point still to come in this span, both ends included.
    fn has_point_in(&self, first: i64, last: i64) -> bool {
        match &self.head {
            Head::Subtree(entry, _) => [entry.first_time(), entry.last_time()]
                .iter()
                .any(|t| (first..=last).contains(t)),
            Head::Points => {
                let times = self.points.times.get(self.at..).unwrap_or_default();
                let next = times.partition_point(|t| *t < first);
                times.get(next).is_some_and(|t| *t <= last)
            }
            Head::Unknown | Head::Ended => false,
        }
    }
}
