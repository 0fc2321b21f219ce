//! Reads the points of a run in order of time, either way, with read-ahead.

use std::collections::VecDeque;
use std::sync::Arc;

use alluvium_block::{BlockStore, Page};
use alluvium_types::{Column, TimeRange, ValueRef, Values};

use crate::error::{BadPageCause, TreeError};
use crate::leaf::LeafView;
use crate::long_text::{self, LongTextError, Stored};
use crate::reader::Reader;
use crate::snapshot::TreeSnapshot;
use crate::stats::ReadStats;
use crate::subtree_ref::{SubtreeRef, overlapping};

/// Leaves read in one batch once a scan has shown that it wants many; it starts with few.
const READ_AHEAD_MAX: usize = 32;
const READ_AHEAD_MIN: usize = 2;
/// Text resolved for one batch, in bytes: 1024 long strings would be 64 MiB.
const BATCH_TEXT_BYTES: usize = 1 << 20;

/// The order of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Oldest point first.
    Forward,
    /// Newest point first.
    Backward,
}

/// Entries of one node that are still to be visited: `begin..end` of `entries`.
#[derive(Debug)]
struct Frame {
    entries: Arc<Vec<SubtreeRef>>,
    level: u8,
    begin: usize,
    end: usize,
}

/// A leaf being read: blocks `begin..end` are still to come.
#[derive(Debug)]
struct OpenedLeaf {
    entry: SubtreeRef,
    page: Page,
    begin: usize,
    end: usize,
}

/// The parts of a run, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Sealed,
    /// Blocks of the open leaf; this many have been read.
    Open(usize),
    Tail,
}

/// A scan under way. It holds at most 32 leaves and the inner pages above them.
#[derive(Debug)]
pub struct Cursor {
    snapshot: TreeSnapshot,
    range: TimeRange,
    direction: Direction,
    part: Option<Part>,
    frames: Vec<Frame>,
    leaves: VecDeque<Result<OpenedLeaf, TreeError>>,
    leaf: Option<OpenedLeaf>,
    read_ahead: usize,
    /// Strings of a block that names long ones, in the order of the scan, and how many were given out.
    texts: Option<(Column, usize)>,
    /// An error that comes after the batch that was given out.
    held: Option<TreeError>,
}

impl Cursor {
    pub(crate) fn new(snapshot: TreeSnapshot, range: TimeRange, direction: Direction) -> Self {
        let mut frames = Vec::new();
        let mut add = |(level, entries): (usize, &Arc<Vec<SubtreeRef>>)| {
            let inside = overlapping(entries, range);
            if let Some(first) = inside.first() {
                let begin = entries.partition_point(|e| e.first_time() < first.first_time());
                frames.push(Frame {
                    entries: Arc::clone(entries),
                    level: level as u8,
                    begin,
                    end: begin + inside.len(),
                });
            }
        };
        // The last frame is visited first.
        let levels = snapshot.levels().iter().enumerate();
        match direction {
            Direction::Forward => levels.for_each(&mut add),
            Direction::Backward => levels.rev().for_each(&mut add),
        }
        let part = match direction {
            Direction::Forward => Part::Sealed,
            Direction::Backward => Part::Tail,
        };
        let overlaps =
            snapshot.points > 0 && range.overlaps(snapshot.first_time, snapshot.last_time);
        Self {
            snapshot,
            range,
            direction,
            part: overlaps.then_some(part),
            frames,
            leaves: VecDeque::new(),
            leaf: None,
            read_ahead: READ_AHEAD_MIN,
            texts: None,
            held: None,
        }
    }

    /// Clears `out` and fills it with the next points, those of about one block and at most 1024, in the
    /// order of the scan. `false` means that there are no more.
    ///
    /// # Errors
    /// If a page that is needed is damaged, or the device fails. The cursor has moved behind a damaged page:
    /// the next call goes on with what follows.
    pub fn next_batch(
        &mut self,
        pages: &BlockStore,
        stats: &mut ReadStats,
        out: &mut Column,
    ) -> Result<bool, TreeError> {
        if out.kind() != self.snapshot.kind() {
            *out = Column::new(self.snapshot.kind());
        }
        loop {
            out.clear();
            if let Some(error) = self.held.take() {
                return Err(error);
            }
            if self.texts.is_some() {
                self.resolve_texts(pages, stats, out);
                if !out.is_empty() {
                    return Ok(true);
                }
                continue;
            }
            let Some(part) = self.part else {
                return Ok(false);
            };
            let more = match part {
                Part::Sealed => self.next_sealed(pages, stats, out)?,
                Part::Open(read) => self.next_open(read, stats, out)?,
                Part::Tail => self.next_tail(stats, out)?,
            };
            if !more {
                self.part = self.next_part(part);
            }
            if self.arrange(out) {
                return Ok(true);
            }
        }
    }

    fn next_part(&self, part: Part) -> Option<Part> {
        match (part, self.direction) {
            (Part::Sealed, Direction::Forward) | (Part::Tail, Direction::Backward) => {
                Some(Part::Open(0))
            }
            (Part::Open(_), Direction::Forward) => Some(Part::Tail),
            (Part::Open(_), Direction::Backward) => Some(Part::Sealed),
            (Part::Tail, Direction::Forward) | (Part::Sealed, Direction::Backward) => None,
        }
    }

    /// Cuts `out` to the range and puts it in the order of the scan. Whether it may be given out as it is.
    fn arrange(&mut self, out: &mut Column) -> bool {
        let begin = out.times.partition_point(|t| *t < self.range.begin());
        let end = out.times.partition_point(|t| *t < self.range.end());
        out.keep(begin, end.max(begin));
        if out.is_empty() {
            return false;
        }
        if self.direction == Direction::Backward {
            out.reverse();
        }
        if let Values::Strings(texts) = &out.values
            && texts.iter().any(long_text::is_quoted)
        {
            let column = std::mem::replace(out, Column::new(self.snapshot.kind()));
            self.texts = Some((column, 0));
            return false;
        }
        true
    }

    fn resolve_texts(&mut self, pages: &BlockStore, stats: &mut ReadStats, out: &mut Column) {
        let Some((column, mut at)) = self.texts.take() else {
            return;
        };
        let series = self.snapshot.series;
        let mut text_bytes = 0;
        while text_bytes < BATCH_TEXT_BYTES {
            let (Some(time), Some(ValueRef::Str(stored))) =
                (column.times.get(at), column.value(at))
            else {
                return;
            };
            at += 1;
            let bad = |addr, cause| TreeError::BadPage {
                addr,
                series,
                first_time: *time,
                last_time: *time,
                points: 1,
                cause,
            };
            let long = match long_text::unquote(stored) {
                Ok(Stored::Text(text)) => {
                    out.push_str(*time, text);
                    text_bytes += text.len();
                    continue;
                }
                Ok(Stored::Long(long)) => long,
                Err(_) => {
                    // Only a text we wrote ourselves can begin so; give it as it stands.
                    out.push_str(*time, stored);
                    continue;
                }
            };
            match long_text::read(pages, series.packed(), long, stats) {
                Ok(text) => {
                    out.push_str(*time, &text);
                    text_bytes += text.len();
                }
                Err(LongTextError::Expired) => stats.expired_pages += 1,
                Err(LongTextError::Bad(addr, cause)) => {
                    stats.bad_pages += 1;
                    self.held = Some(bad(addr, cause));
                    break;
                }
                Err(LongTextError::GivenBack(cause)) => {
                    self.held = Some(TreeError::GivenBack { series, cause });
                    break;
                }
                Err(LongTextError::Io(error)) => {
                    self.held = Some(error.into());
                    break;
                }
            }
        }
        self.texts = Some((column, at));
    }

    fn next_tail(&mut self, stats: &mut ReadStats, out: &mut Column) -> Result<bool, TreeError> {
        let tail = &self.snapshot.tail;
        let Some((first, last)) = tail.span() else {
            return Ok(false);
        };
        if self.range.overlaps(first, last) {
            let series = self.snapshot.series;
            tail.decode_into(out)
                .map_err(|cause| TreeError::OpenLeaf { series, cause })?;
            stats.blocks_decoded += 1;
            stats.points_decoded += out.len() as u64;
        }
        Ok(false)
    }

    fn next_open(
        &mut self,
        read: usize,
        stats: &mut ReadStats,
        out: &mut Column,
    ) -> Result<bool, TreeError> {
        let Some(open) = self.snapshot.open() else {
            return Ok(false);
        };
        let count = open.finished.len() + open.small.len();
        let index = match self.direction {
            Direction::Forward => read,
            Direction::Backward => (count.wrapping_sub(1)).wrapping_sub(read),
        };
        let at = |i: usize| {
            let small = i.checked_sub(open.finished.len());
            small.map_or_else(
                || open.finished.get(i),
                |i| open.small.get(i).map(|s| &s.block),
            )
        };
        let Some(block) = at(index) else {
            return Ok(false);
        };
        self.part = Some(Part::Open(read + 1));
        let next = at(index + 1).map(|b| b.first_time);
        let behind = next.is_some_and(|next| next <= self.range.begin());
        if !behind && block.first_time < self.range.end() {
            let series = self.snapshot.series;
            open.decode(index, out)
                .map_err(|cause| TreeError::OpenLeaf { series, cause })?;
            stats.blocks_decoded += 1;
            stats.points_decoded += out.len() as u64;
        }
        Ok(read + 1 < count)
    }

    fn next_sealed(
        &mut self,
        pages: &BlockStore,
        stats: &mut ReadStats,
        out: &mut Column,
    ) -> Result<bool, TreeError> {
        loop {
            if let Some(leaf) = &mut self.leaf {
                if leaf.begin == leaf.end {
                    self.leaf = None;
                    continue;
                }
                let block = match self.direction {
                    Direction::Forward => {
                        leaf.begin += 1;
                        leaf.begin - 1
                    }
                    Direction::Backward => {
                        leaf.end -= 1;
                        leaf.end
                    }
                };
                let decoded = LeafView::new(leaf.page.body(), leaf.page.meta().items.into())
                    .map_err(BadPageCause::Body)
                    .and_then(|view| view.decode(block, out));
                if let Err(cause) = decoded {
                    out.clear();
                    let entry = leaf.entry;
                    self.leaf = None;
                    return Err(self.reader(pages, stats).bad(&entry, cause));
                }
                stats.blocks_decoded += 1;
                stats.points_decoded += out.len() as u64;
                return Ok(true);
            }
            match self.leaves.pop_front() {
                Some(leaf) => self.leaf = Some(leaf?),
                None if self.frames.is_empty() => return Ok(false),
                None => self.read_leaves(pages, stats),
            }
        }
    }

    fn reader<'a>(&self, pages: &'a BlockStore, stats: &'a mut ReadStats) -> Reader<'a> {
        Reader {
            pages,
            series: self.snapshot.series,
            stats,
        }
    }

    /// Reads the next leaves in one batch.
    fn read_leaves(&mut self, pages: &BlockStore, stats: &mut ReadStats) {
        let mut reader = self.reader(pages, stats);
        let mut wanted = Vec::new();
        let mut failed = None;
        while wanted.len() < self.read_ahead {
            let Some((entry, level)) = self.next_entry() else {
                break;
            };
            if level == 0 {
                wanted.push(entry);
                continue;
            }
            match expand(&mut reader, &entry, level, self.range) {
                Ok(children) => self.frames.push(Frame {
                    begin: 0,
                    end: children.len(),
                    entries: Arc::new(children),
                    level: level - 1,
                }),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        self.read_ahead = (self.read_ahead * 2).min(READ_AHEAD_MAX);
        if !wanted.is_empty() {
            let results = reader.fetch(&wanted, 0);
            for (entry, result) in wanted.into_iter().zip(results) {
                let page = match result {
                    Ok(Some(page)) => page,
                    Ok(None) => continue,
                    Err(error) => {
                        self.leaves.push_back(Err(error));
                        continue;
                    }
                };
                let leaf = LeafView::new(page.body(), page.meta().items.into())
                    .map(|view| view.blocks_in(self.range));
                self.leaves.push_back(match leaf {
                    Ok((begin, end)) => Ok(OpenedLeaf {
                        entry,
                        page,
                        begin,
                        end,
                    }),
                    Err(e) => Err(reader.bad(&entry, e.into())),
                });
            }
        }
        self.leaves.extend(failed.map(Err));
    }

    /// The next subtree in the order of the scan, with its level.
    fn next_entry(&mut self) -> Option<(SubtreeRef, u8)> {
        while let Some(frame) = self.frames.last_mut() {
            if frame.begin < frame.end {
                let index = match self.direction {
                    Direction::Forward => {
                        frame.begin += 1;
                        frame.begin - 1
                    }
                    Direction::Backward => {
                        frame.end -= 1;
                        frame.end
                    }
                };
                return frame.entries.get(index).map(|entry| (*entry, frame.level));
            }
            self.frames.pop();
        }
        None
    }
}

/// The children of a subtree that overlap `range`; none if it has expired.
fn expand(
    reader: &mut Reader<'_>,
    entry: &SubtreeRef,
    level: u8,
    range: TimeRange,
) -> Result<Vec<SubtreeRef>, TreeError> {
    let mut children = Vec::new();
    for page in reader.fetch(std::slice::from_ref(entry), level) {
        if let Some(page) = page? {
            reader.expand(entry, &page, range, &mut children)?;
        }
    }
    Ok(children)
}
