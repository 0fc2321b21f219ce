//! Something that holds points of one series, a run or late points, and where nothing of it is deleted.

use std::collections::VecDeque;
use std::sync::Arc;

use alluvium_nbtree::{Direction, TreeSnapshot};
use alluvium_types::{Column, Lsn, TimeRange, ValueKind};
use smallvec::{SmallVec, smallvec};

use crate::overlay::pieces;
use crate::tombstones::HiddenParts;

/// Something that holds points of one kind in order of time, and where nothing of it is deleted.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) points: Points,
    /// First and last time of each piece, both included, ascending. Where the first begins and the last ends is
    /// a bound: the points there may be deleted.
    pub(super) pieces: SmallVec<[(i64, i64); 1]>,
}

#[derive(Debug, Clone)]
pub(super) enum Points {
    Run(TreeSnapshot),
    /// The late buffer, which is newer than every run.
    Late(Arc<Column>),
}

impl Source {
    /// `birth`: deletes at or before it hide nothing here.
    pub(super) fn new(points: Points, birth: Lsn, hidden: &HiddenParts) -> Option<Self> {
        let mut source = Self {
            points,
            pieces: SmallVec::new(),
        };
        let (first, last) = source.span()?;
        if hidden.is_empty() {
            source.pieces = smallvec![(first, last)];
            return Some(source);
        }
        let holes = hidden.holes(source.kind(), birth);
        source.pieces = pieces(first, last, &holes).collect();
        source.points = match source.points {
            Points::Run(tree) => Points::Run(tree.with_holes(&holes)),
            late @ Points::Late(_) => late,
        };
        (!source.pieces.is_empty()).then_some(source)
    }

    /// Its first and last time, deleted points included.
    pub(super) fn span(&self) -> Option<(i64, i64)> {
        match &self.points {
            Points::Run(tree) => tree.first_time().zip(tree.last_time()),
            Points::Late(column) => {
                let times = &column.times;
                times.first().copied().zip(times.last().copied())
            }
        }
    }

    pub(super) fn kind(&self) -> ValueKind {
        match &self.points {
            Points::Run(tree) => tree.kind(),
            Points::Late(column) => column.kind(),
        }
    }

    /// The pieces inside `range`, in the order of `direction`.
    pub(super) fn pieces_in(&self, range: TimeRange, direction: Direction) -> VecDeque<TimeRange> {
        let inside = |(first, last): &(i64, i64)| {
            let piece = range.intersect(TimeRange::inclusive(*first, *last));
            (!piece.is_empty()).then_some(piece)
        };
        match direction {
            Direction::Forward => self.pieces.iter().filter_map(inside).collect(),
            Direction::Backward => self.pieces.iter().rev().filter_map(inside).collect(),
        }
    }
}
