//! A tree built of parts of others: pages that stay where they are, and points as they stand in leaves.

use std::sync::Arc;

use alluvium_types::{Column, Lsn, SeriesId};

use crate::inner;
use crate::knobs::Knobs;
use crate::open_leaf::OpenLeaf;
use crate::subtree_ref::SubtreeRef;
use crate::tree::{PageWriter, Tree};

impl Tree {
    /// An empty run that goes on where others ended: `next_leaf` is the greatest of theirs, `lsn` the newest.
    pub(crate) fn merged(
        series: SeriesId,
        run_ordinal: u32,
        birth: Lsn,
        next_leaf: u32,
        lsn: Lsn,
        knobs: &'static Knobs,
    ) -> Self {
        let mut tree = Self::with_knobs(series, run_ordinal, birth, knobs);
        tree.next_leaf = next_leaf;
        tree.lsn = lsn;
        tree
    }

    /// Whether a subtree of `level` may be adopted without closing an inner page that is less than half full:
    /// what is unfinished below the level must be closed first.
    pub(crate) fn can_adopt(&self, level: usize) -> bool {
        let half = |entries: &[SubtreeRef]| {
            entries.len() * 2 >= self.knobs.fan_out_max
                || inner::encoded_bytes(entries, None) * 2 >= self.knobs.inner_bytes
        };
        // A page closed below adds an entry, alone on its level if that is empty.
        let mut closed_below = false;
        for entries in self.levels.iter().take(level) {
            if entries.is_empty() {
                if closed_below {
                    return false;
                }
            } else if half(entries) {
                closed_below = true;
            } else {
                return false;
            }
        }
        // Levels that do not exist yet would each get a single entry.
        !closed_below || self.levels.len() >= level
    }

    /// Adds a subtree of `level`, all of whose points are newer than the newest here. Its pages stay where they
    /// are. What is unfinished below the level is closed.
    ///
    /// # Panics
    /// If the open leaf holds points, or the subtree begins too early.
    pub(crate) fn adopt(&mut self, out: &mut PageWriter<'_>, level: usize, entry: SubtreeRef) {
        assert!(
            self.open.is_none() && self.tail.is_empty(),
            "a subtree adopted behind an open leaf"
        );
        assert!(
            self.points == 0 || self.last_time < entry.first_time(),
            "a subtree adopted that is not after the newest point"
        );
        for below in 0..level.min(self.levels.len()) {
            let unfinished = std::mem::take(&mut self.levels[below]);
            if !unfinished.is_empty() {
                let closed = self.seal_inner(out, &unfinished, below as u8 + 1);
                self.add_entry(out, below + 1, closed);
            }
        }
        if self.points == 0 {
            self.first_time = entry.first_time();
        }
        self.points += entry.aggregate.count;
        self.last_time = entry.last_time();
        self.last_bits = entry.aggregate.last.bits;
        self.add_entry(out, level, entry);
    }

    /// Goes on with an open leaf that has finished blocks and nothing else.
    ///
    /// # Panics
    /// If there is one already.
    pub(crate) fn adopt_open(&mut self, open: OpenLeaf) {
        assert!(
            self.open.is_none() && self.tail.is_empty(),
            "an open leaf adopted behind another"
        );
        let points = open.finished_aggregate;
        if self.points == 0 {
            self.first_time = points.first.time;
        }
        self.points += points.count;
        self.last_time = points.last.time;
        self.last_bits = points.last.bits;
        self.open = Some(Arc::new(open));
    }

    /// Appends the points `begin..end` as they stand in leaves: long strings are references, others are quoted.
    ///
    /// # Panics
    /// As [`Self::push`].
    pub(crate) fn push_stored(
        &mut self,
        out: &mut PageWriter<'_>,
        column: &Column,
        begin: usize,
        end: usize,
    ) {
        let lsn = self.lsn;
        for i in begin..end {
            let (time, value) = (column.times[i], column.value(i));
            let value = value.expect("as many values as times");
            self.advance(time, value.bits().unwrap_or_default(), lsn);
            self.tail.push(time, value);
            self.settle_tail(out);
        }
    }
}
