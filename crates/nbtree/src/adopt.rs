//! A run built of parts of others: pages that stay where they are.

use crate::inner;
use crate::knobs::Knobs;
use crate::sealed::Sealed;
use crate::subtree_ref::SubtreeRef;
use crate::tree::PageWriter;

impl Sealed {
    /// Whether a subtree of `level` may be adopted without closing an inner page that is less than half full:
    /// what is unfinished below the level must be closed first.
    pub(crate) fn can_adopt(&self, knobs: &Knobs, level: usize) -> bool {
        let half = |entries: &[SubtreeRef]| {
            entries.len() * 2 >= knobs.fan_out_max
                || inner::encoded_bytes(entries, None) * 2 >= knobs.inner_bytes
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
            self.open.blocks().next().is_none(),
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
}
