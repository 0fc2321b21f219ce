//! The way down through every page of a run, a batch of one level at a time, for whoever decides what to read of it.

use std::sync::Arc;

use crate::snapshot::TreeSnapshot;
use crate::subtree_ref::SubtreeRef;

/// Pages read in one batch.
const BATCH: usize = 16;

#[derive(Debug)]
struct Frame {
    entries: Arc<Vec<SubtreeRef>>,
    level: u8,
    next: usize,
}

/// What is left of a run: what lies below comes before what lies beside, so that it holds one page of entries a level.
#[derive(Debug)]
pub(crate) struct Descent {
    frames: Vec<Frame>,
}

impl Descent {
    /// From the top of `snapshot`.
    pub(crate) fn new(snapshot: &TreeSnapshot) -> Self {
        let levels = snapshot.levels().iter().enumerate();
        let frames = levels.map(|(level, entries)| Frame {
            entries: Arc::clone(entries),
            level: level as u8,
            next: 0,
        });
        Self {
            frames: frames.collect(),
        }
    }

    /// The next entries of one level that `wants` asks for, shown each with its level, and that level; none of them may
    /// want it. Leaves that were given up have no page and are passed over. `None` at the end.
    pub(crate) fn next_batch(
        &mut self,
        mut wants: impl FnMut(&SubtreeRef, u8) -> bool,
    ) -> Option<(u8, Vec<SubtreeRef>)> {
        let frame = self.frames.last_mut()?;
        let level = frame.level;
        // Of higher levels one at a time: what lies below comes first.
        let batch = if level <= 1 { BATCH } else { 1 };
        let mut wanted = Vec::new();
        while let Some(entry) = frame.entries.get(frame.next)
            && wanted.len() < batch
        {
            frame.next += 1;
            if entry.page.addr.volume != 0 && wants(entry, level) {
                wanted.push(*entry);
            }
        }
        if frame.next >= frame.entries.len() {
            self.frames.pop();
        }
        Some((level, wanted))
    }

    /// The children of a page of `level` come next.
    pub(crate) fn push(&mut self, level: u8, children: Vec<SubtreeRef>) {
        self.frames.push(Frame {
            entries: Arc::new(children),
            level: level.saturating_sub(1),
            next: 0,
        });
    }
}
