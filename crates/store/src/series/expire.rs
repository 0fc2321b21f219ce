//! What of a series has expired leaves memory.

use alluvium_nbtree::PageWriter;

use crate::cut::Cut;
use crate::late::LateBuffer;
use crate::series::SeriesLock;

impl SeriesLock<'_> {
    /// Drops what has expired: runs whose aggregates are gone, late points, and of runs whose points are gone all
    /// points that no page holds. Returns whether anything changed. A series that is being merged is left for later, and
    /// so is one of which only a part is in memory.
    pub(crate) fn expire(&mut self, out: &mut PageWriter<'_>, cut: &Cut) -> bool {
        if self.rare().is_some_and(|r| r.merging.is_some()) || self.older().is_some() {
            return false;
        }
        let mut changed = false;
        if let Some(rare) = &mut self.lock.rare {
            if let Some(late) = &mut rare.late {
                changed |= late.forget_before(cut.points);
            }
            rare.late = rare.late.take().filter(|late| !late.is_empty());
            let runs = rare.more.len();
            rare.more
                .retain(|run| !is_before(run.last_time(), cut.aggregates));
            changed |= rare.more.len() < runs;
            for run in &mut rare.more {
                if is_before(run.last_time(), cut.points) {
                    changed |= run.writer().give_up_open(out);
                }
            }
        }
        let place = self.place;
        let (first, state) = self.lock.split(|kind| place.id(kind));
        if let Some(mut first) = first {
            if is_before(first.last_time(), cut.aggregates) {
                let next = state.rare.as_mut().filter(|r| !r.more.is_empty());
                let next = next.map(|r| r.more.remove(0));
                let plain = state.is_plain();
                match next {
                    Some(next) => self.lock.put(next, !plain),
                    None => self.lock.clear(),
                }
                changed = true;
            } else if is_before(first.last_time(), cut.points) {
                changed |= first.give_up_open(out);
            }
        }
        if changed {
            self.only_pushed = false;
            self.settle_readers();
        }
        changed
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_empty(&mut self) -> bool {
        self.older().is_none() && self.runs() == 0 && self.rare().is_none_or(|r| r.late.is_none())
    }

    /// Whether anything of this class, text or numbers, has not expired. Late points of another class count, too: they
    /// are newer than the cut, or soon gone, and what is not in memory.
    pub(crate) fn has_live(&mut self, is_text: bool, cut: &Cut) -> bool {
        let late = self.rare().and_then(|r| r.late.as_ref());
        let is_late = late.and_then(LateBuffer::last_time) >= Some(cut.points);
        if is_late || self.older().is_some() {
            return true;
        }
        let ends = self.ends();
        let mut of_class = ends.iter().filter(|r| r.kind.is_numeric() != is_text);
        of_class.any(|r| !is_before(r.last, cut.aggregates))
    }
}

fn is_before(last: Option<i64>, time: i64) -> bool {
    last.is_none_or(|last| last < time)
}
