//! Makes one run of several of a series, copy-on-write.
//!
//! Runs are read in order of time. A subtree that overlaps no other run is adopted: its page stays where it is and
//! only pages above it are written anew. Where runs overlap, their points are merged, the higher ordinal's winning
//! at equal times, and packed into new leaves. So late points cost about the leaves they fall into, and runs side
//! by side cost little more than the inner pages above their borders.
//!
//! The run with the greatest last time may grow meanwhile. [`Merge::follow`] takes over what it has grown by, and
//! [`Merge::finish`] the last points of it, which are in memory.

use std::collections::BTreeMap;

use alluvium_block::BlockStore;
use alluvium_types::{Column, Lsn};

use crate::error::TreeError;
use crate::merge::source::{Opened, Source};
use crate::owned::Tree;
use crate::packer::Packer;
use crate::sealed::Sealed;
use crate::snapshot::TreeSnapshot;
use crate::stats::ReadStats;
use crate::tree::PageWriter;

#[cfg(test)]
mod leave_tests;
mod source;
#[cfg(test)]
mod tests;

pub use source::MergeSource;

/// Points or adopted subtrees that count as much as a page, when a step is measured.
const POINTS_A_PAGE: usize = 1024;
const ADOPTED_A_PAGE: usize = 64;

/// Whether a merge needs another step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeProgress {
    /// There is more to do.
    More,
    /// Everything in the snapshots is taken over.
    Drained,
}

/// What a merge did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergeStats {
    /// Subtrees that stayed where they are.
    pub adopted_subtrees: u64,
    /// Leaves of them.
    pub adopted_leaves: u64,
    /// Points that went to new leaves, or to the open one.
    pub points_moved: u64,
    /// Points that a later write replaced.
    pub points_dropped: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Pages by volume that no tree refers to once the result has taken the place of its sources.
    pub dead_pages: BTreeMap<u32, u64>,
    /// What was read.
    pub reads: ReadStats,
}

/// A merge under way. It holds a decoded leaf and at most 16 pages of each source, and the points of at most two
/// leaves that are not written yet.
#[derive(Debug)]
pub struct Merge {
    /// By ordinal.
    sources: Vec<Source>,
    /// Index of the source that may grow.
    growing: usize,
    /// Leaves of the result.
    result: Sealed,
    packer: Packer,
    /// The result once points go to its open leaf, where nothing can be adopted any more.
    opened_result: Option<Tree>,
    opened: Opened,
    stats: MergeStats,
}

impl Merge {
    /// A merge of runs of one series and kind, by ascending ordinal. The result has the lowest ordinal and the
    /// highest birth.
    ///
    /// # Panics
    /// If there is no source, or they are of several series, or not in order.
    pub fn new(sources: Vec<MergeSource>) -> Self {
        let snapshots = || sources.iter().map(|s| &s.snapshot);
        let (series, ordinal) = snapshots()
            .map(|s| (s.series, s.run_ordinal))
            .next()
            .expect("a merge has a source");
        assert!(
            snapshots().all(|s| s.series == series)
                && sources
                    .windows(2)
                    .all(|w| w[0].snapshot.run_ordinal < w[1].snapshot.run_ordinal),
            "a merge of runs of several series, or out of order"
        );
        let birth = snapshots().filter_map(|s| s.birth).max();
        let mut result = Sealed::new(series, ordinal, birth.unwrap_or(Lsn(0)));
        result.next_leaf = snapshots().map(TreeSnapshot::next_leaf).max().unwrap_or(0);
        let growing = (0..sources.len()).max_by_key(|i| sources[*i].snapshot.last_time());
        Self {
            growing: growing.unwrap_or(0),
            sources: sources.into_iter().map(|s| Source::new(s, None)).collect(),
            result,
            packer: Packer::new(series.kind()),
            opened_result: None,
            opened: Opened::new(),
            stats: MergeStats::default(),
        }
    }

    /// Gives the result a later birth: that of the newest tombstone whose points it leaves out, so that none of
    /// those it knew has anything to hide in it. Before the first step.
    pub fn born_at_least(&mut self, birth: Lsn) {
        self.result.birth = self.result.birth.max(birth);
    }

    /// Ordinals of the runs being merged, ascending.
    pub fn ordinals(&self) -> impl ExactSizeIterator<Item = u32> {
        self.sources.iter().map(|s| s.snapshot.run_ordinal)
    }

    /// Ordinal of the only run that may take points until the merge is finished: the one with the greatest last
    /// time.
    pub fn growing(&self) -> u32 {
        self.sources[self.growing].snapshot.run_ordinal
    }

    /// What it did so far.
    pub fn stats(&self) -> MergeStats {
        MergeStats {
            dead_pages: self.opened.clone(),
            ..self.stats.clone()
        }
    }

    /// Goes on until about `budget_pages` pages were read or written, or everything is taken over.
    ///
    /// # Errors
    /// If a page is damaged or the device fails: then nothing has happened to the runs, and the pages written so
    /// far are garbage.
    pub fn step(
        &mut self,
        pages: &BlockStore,
        out: &mut PageWriter<'_>,
        budget_pages: usize,
    ) -> Result<MergeProgress, TreeError> {
        let mark = out.appender.mark();
        let mut done = Effort::default();
        let mut progress = MergeProgress::More;
        while done.pages(out.appender.mark() - mark) < budget_pages {
            if !self.take_next(pages, out, &mut done)? {
                progress = MergeProgress::Drained;
                break;
            }
        }
        self.stats.pages_written += out.appender.mark() - mark;
        Ok(progress)
    }

    /// Takes one subtree or one stretch of points. `false` at the end.
    fn take_next(
        &mut self,
        pages: &BlockStore,
        out: &mut PageWriter<'_>,
        done: &mut Effort,
    ) -> Result<bool, TreeError> {
        // The source that comes next, by time and then by ordinal, and when another one comes.
        let mut next: Option<(i64, usize)> = None;
        let mut other = i64::MAX;
        for (i, source) in self.sources.iter_mut().enumerate() {
            source.look()?;
            let Some(time) = source.time() else { continue };
            match next {
                Some((first, _)) if time >= first => other = other.min(time),
                _ => {
                    other = next.map_or(other, |(first, _)| other.min(first));
                    next = Some((time, i));
                }
            }
        }
        let Some((time, index)) = next else {
            return Ok(false);
        };
        if other == time {
            self.take_equal(pages, out, time, done)?;
            return Ok(true);
        }
        if let Some((entry, level)) = self.sources[index].whole_subtree()
            && entry.last_time() < other
            && !self.sources[index].must_open(pages, &entry, level, &mut self.stats.reads)?
            && self.may_adopt(out, level)
        {
            self.result.adopt(out, level.into(), entry);
            self.sources[index].skip_subtree();
            self.stats.adopted_subtrees += 1;
            self.stats.adopted_leaves += u64::from(entry.leaves);
            done.adopted += 1;
        } else if self.sources[index].is_subtree() {
            self.open(pages, index, done)?;
        } else {
            self.sources[index].move_texts(pages, out, &mut self.stats.reads)?;
            let (column, begin) = self.sources[index].points();
            let end = begin + count_below(&column.times[begin..], other);
            self.take_points(out, index, end, done);
        }
        Ok(true)
    }

    fn may_adopt(&mut self, out: &mut PageWriter<'_>, level: u8) -> bool {
        self.opened_result.is_none()
            && self.packer.settle(out, &mut self.result)
            && self.result.can_adopt(out.knobs, level.into())
    }

    /// Several sources have a point at `time`, or a subtree that begins there.
    fn take_equal(
        &mut self,
        pages: &BlockStore,
        out: &mut PageWriter<'_>,
        time: i64,
        done: &mut Effort,
    ) -> Result<(), TreeError> {
        let here: Vec<usize> = (0..self.sources.len())
            .filter(|i| self.sources[*i].time() == Some(time))
            .collect();
        if let Some(index) = here.iter().find(|i| self.sources[**i].is_subtree()) {
            return self.open(pages, *index, done);
        }
        let Some(winner) = here.last() else {
            return Ok(());
        };
        self.sources[*winner].move_texts(pages, out, &mut self.stats.reads)?;
        if self.sources[*winner].time() != Some(time) {
            // Its text has expired: look again.
            return Ok(());
        }
        let end = self.sources[*winner].points().1 + 1;
        self.take_points(out, *winner, end, done);
        for index in here.iter().filter(|i| *i != winner) {
            let at = self.sources[*index].points().1;
            self.sources[*index].advance_to(at + 1);
            self.stats.points_dropped += 1;
        }
        Ok(())
    }

    fn open(
        &mut self,
        pages: &BlockStore,
        index: usize,
        done: &mut Effort,
    ) -> Result<(), TreeError> {
        done.read += 1;
        let (before, rest) = self.sources.split_at_mut(index);
        let Some((source, behind)) = rest.split_first_mut() else {
            return Ok(());
        };
        let (stats, opened) = (&mut self.stats.reads, &mut self.opened);
        source.open(pages, [before, behind], stats, opened)
    }

    /// Takes the points of a source up to the one at `end`.
    fn take_points(
        &mut self,
        out: &mut PageWriter<'_>,
        index: usize,
        end: usize,
        done: &mut Effort,
    ) {
        let source = &mut self.sources[index];
        let (column, begin) = source.points();
        if let Some(result) = &mut self.opened_result {
            result.writer().push_stored(out, column, begin, end);
        } else {
            self.packer
                .extend(out, &mut self.result, column, begin, end);
        }
        source.advance_to(end);
        done.points += end - begin;
        self.stats.points_moved += (end - begin) as u64;
    }

    /// Whether the run that may grow has written leaves since its snapshot: then [`Self::follow`] and go on.
    pub fn has_outgrown(&self, run: &TreeSnapshot) -> bool {
        run.next_leaf() != self.sources[self.growing].snapshot.next_leaf()
    }

    /// Goes on with what the growing run has taken since its snapshot. The merge must be drained.
    ///
    /// # Panics
    /// If `source` is another run.
    pub fn follow(&mut self, source: MergeSource) {
        let old = &self.sources[self.growing].snapshot;
        assert_eq!(
            (source.snapshot.series, source.snapshot.run_ordinal),
            (old.series, old.run_ordinal),
            "another run followed"
        );
        let after = old.last_time();
        self.sources[self.growing] = Source::new(source, after);
    }

    /// Prepares the end of a drained merge: nothing is adopted any more. Cost: what the last leaf of points costs to
    /// append, which [`Self::finish`] would otherwise pay.
    pub fn open_result(&mut self, out: &mut PageWriter<'_>) {
        let Self {
            result,
            packer,
            opened_result,
            stats,
            ..
        } = self;
        opened_result.get_or_insert_with(|| {
            let mark = out.appender.mark();
            let left = packer.drain(out, result);
            let empty = Sealed::new(result.series, result.run_ordinal, result.birth);
            let mut tree = Tree::of(std::mem::replace(result, empty));
            tree.writer().push_stored(out, &left, 0, left.len());
            stats.pages_written += out.appender.mark() - mark;
            tree
        });
    }

    /// Ends a drained merge: takes the points that the growing run got since it was last followed, all of which are
    /// in memory. The result takes the place of the sources.
    ///
    /// # Errors
    /// If its open leaf does not decode.
    ///
    /// # Panics
    /// If the run has outgrown the merge.
    pub fn finish(
        mut self,
        out: &mut PageWriter<'_>,
        run: &TreeSnapshot,
    ) -> Result<Tree, TreeError> {
        assert!(
            !self.has_outgrown(run),
            "a merge finished that is not up to date"
        );
        let taken = self.sources[self.growing].snapshot.last_time();
        let mut points = Column::new(run.kind());
        if run.last_time() > taken {
            run.unsealed(&mut points)?;
        }
        let begin = taken.map_or(0, |t| points.times.partition_point(|p| *p <= t));
        self.open_result(out);
        let mut result = self.opened_result.expect("opened above");
        result
            .writer()
            .push_stored(out, &points, begin, points.len());
        Ok(result)
    }
}

/// How many of the ascending times are before `end`; cheap where they are few.
fn count_below(times: &[i64], end: i64) -> usize {
    let mut bound = 1;
    while bound < times.len() && times[bound] < end {
        bound *= 2;
    }
    let begin = bound / 2;
    begin + times[begin..bound.min(times.len())].partition_point(|t| *t < end)
}

/// What a step did.
#[derive(Debug, Default)]
struct Effort {
    read: usize,
    points: usize,
    adopted: usize,
}

impl Effort {
    fn pages(&self, written: u64) -> usize {
        self.read + written as usize + self.points / POINTS_A_PAGE + self.adopted / ADOPTED_A_PAGE
    }
}
