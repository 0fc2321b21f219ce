//! Fills leaves with points given in bulk, so that none but the last is less than half full.
//!
//! The last complete leaf is held back until the one behind it is half full: when the points end before that, the
//! points of both are dealt to two leaves evenly.

use alluvium_codec::{Hint, MAX_BLOCK_POINTS, Models};
use alluvium_types::{Column, ValueKind};

use crate::leaf::directory_bytes;
use crate::long_text;
use crate::sealed::Sealed;
use crate::sealing::{FILL_SHARE, Fitter, SLACK_SHARE, part};
use crate::tree::PageWriter;

#[derive(Debug)]
struct PackedBlock {
    first_time: i64,
    points: u16,
    bytes: Vec<u8>,
}

/// The blocks of a leaf that is not written yet.
#[derive(Debug, Default)]
struct Draft {
    blocks: Vec<PackedBlock>,
    points: usize,
    bytes: usize,
}

impl Draft {
    fn room(&self, leaf_bytes: usize, first_time: i64) -> usize {
        let blocks = self.blocks.iter();
        let blocks = blocks.map(|b| (b.first_time, b.points, b.bytes.len()));
        // Of as few points as there may be, so that no entry is longer than this one.
        let next = (first_time, 1, MAX_BLOCK_POINTS);
        leaf_bytes.saturating_sub(self.bytes + directory_bytes(blocks.chain([next])))
    }

    fn models(&self) -> Models<'_> {
        self.blocks.iter().fold(Models::default(), |models, block| {
            models
                .after(&block.bytes)
                .expect("a block of our own making is whole")
        })
    }
}

/// Points on their way into leaves of a merged run.
#[derive(Debug)]
pub(crate) struct Packer {
    /// Not in a written leaf yet, oldest first: those of `ready`, those of `draft`, and the rest.
    points: Column,
    ready: Option<Draft>,
    draft: Draft,
    hint: Hint,
}

impl Packer {
    pub(crate) fn new(kind: ValueKind) -> Self {
        Self {
            points: Column::new(kind),
            ready: None,
            draft: Draft::default(),
            hint: Hint::default(),
        }
    }

    /// Takes the points `begin..end` of a column of stored values, newer than all before.
    pub(crate) fn extend(
        &mut self,
        out: &mut PageWriter<'_>,
        run: &mut Sealed,
        column: &Column,
        begin: usize,
        end: usize,
    ) {
        self.points.extend_from(column, begin, end);
        while self.points.len() - self.drafted() >= out.knobs.block_points {
            self.encode_next(out, run, self.points.len());
        }
    }

    /// Writes everything, unless that is less than half a leaf: then nothing is written, and the points of the next
    /// leaf should be taken too. Returns whether everything is written.
    pub(crate) fn settle(&mut self, out: &mut PageWriter<'_>, run: &mut Sealed) -> bool {
        self.fill(out, run, self.points.len());
        let small = self.draft.bytes * 2 < out.knobs.leaf_bytes;
        if small && self.ready.is_none() && self.draft.points > 0 {
            self.draft = Draft::default();
            return false;
        }
        if small && self.draft.points > 0 {
            self.ready = None;
            self.draft = Draft::default();
            self.fill(out, run, self.points.len().div_ceil(2));
            self.complete(out, run);
            self.fill(out, run, self.points.len());
        }
        // The second leaf first becomes the one held back, then it goes, too.
        self.complete(out, run);
        self.write_ready(out, run);
        true
    }

    /// Gives up: returns the points that are in no written leaf.
    pub(crate) fn drain(&mut self, out: &mut PageWriter<'_>, run: &mut Sealed) -> Column {
        self.write_ready(out, run);
        self.draft = Draft::default();
        let kind = self.points.kind();
        std::mem::replace(&mut self.points, Column::new(kind))
    }

    fn drafted(&self) -> usize {
        self.ready.as_ref().map_or(0, |d| d.points) + self.draft.points
    }

    /// Makes blocks of the points up to `end`, which moves forward when a leaf is written.
    fn fill(&mut self, out: &mut PageWriter<'_>, run: &mut Sealed, end: usize) {
        let behind = self.points.len() - end;
        while self.drafted() < self.points.len() - behind {
            self.encode_next(out, run, self.points.len() - behind);
        }
    }

    /// Makes a block of the points before `end`, or completes the leaf that has no room for one.
    fn encode_next(&mut self, out: &mut PageWriter<'_>, run: &mut Sealed, end: usize) {
        let leaf_bytes = out.knobs.leaf_bytes;
        let begin = self.drafted();
        let take = (end - begin).min(out.knobs.block_points);
        let room = self.draft.room(leaf_bytes, self.points.times[begin]);
        if room < leaf_bytes / FILL_SHARE && self.draft.points > 0 {
            self.complete(out, run);
            return;
        }
        let mut bytes = Vec::with_capacity(leaf_bytes.min(MAX_BLOCK_POINTS));
        let mut fitter = Fitter {
            encoder: out.encoder,
            hint: &mut self.hint,
            models: self.draft.models(),
            column: &self.points,
            begin,
            room,
            slack: leaf_bytes / SLACK_SHARE,
            must: self.draft.points == 0,
        };
        // Clearly too much for the page: do not encode it only to see that.
        let estimate = self.draft.bytes * take / self.draft.points.max(1);
        let full = estimate <= room + room / 4 && fitter.encode(take, &mut bytes) <= room;
        let taken = if full {
            take
        } else {
            fitter.fit(take, estimate.max(bytes.len()), &mut bytes)
        };
        let left = room.saturating_sub(bytes.len());
        if taken > 0 {
            self.draft.points += taken;
            self.draft.bytes += bytes.len();
            self.draft.blocks.push(PackedBlock {
                first_time: self.points.times[begin],
                points: taken as u16,
                bytes,
            });
        }
        if !full && (taken == 0 || left < leaf_bytes / 8) {
            self.complete(out, run);
        } else if self.draft.bytes * 2 >= leaf_bytes {
            self.write_ready(out, run);
        }
    }

    /// Holds the draft back as complete.
    fn complete(&mut self, out: &mut PageWriter<'_>, run: &mut Sealed) {
        if self.draft.points > 0 {
            self.write_ready(out, run);
            self.ready = Some(std::mem::take(&mut self.draft));
        }
    }

    fn write_ready(&mut self, out: &mut PageWriter<'_>, run: &mut Sealed) {
        let Some(ready) = self.ready.take() else {
            return;
        };
        let aggregate = part(&self.points, 0, ready.points);
        let oldest_text = long_text::oldest_volume(&self.points, 0, ready.points);
        let blocks = ready.blocks.iter();
        let blocks = blocks.map(|b| (b.first_time, b.points, b.bytes.as_slice()));
        let entry = run.write_leaf(out, blocks, aggregate, oldest_text);
        run.adopt(out, 0, entry);
        self.points.keep(ready.points, self.points.len());
    }
}
