//! Which pages of a database are alive, and what follows for its volumes.

use alluvium_block::{LogicAddr, PageRange, VolumeSpace};
use hashbrown::HashMap;

/// One volume: what was written when the walk began, and which pages of it something leads to.
#[derive(Debug)]
struct VolumeMarks {
    space: VolumeSpace,
    /// A bit a page.
    live: Vec<u64>,
}

impl VolumeMarks {
    fn is_live(&self, page: u32) -> bool {
        let word = self.live.get(page as usize / 64).copied().unwrap_or(0);
        word >> (page % 64) & 1 == 1
    }

    /// Pages that live, of those that were written.
    fn live_pages(&self) -> u64 {
        let pages = self
            .space
            .written
            .iter()
            .flat_map(|(begin, end)| *begin..*end);
        pages.filter(|page| self.is_live(*page)).count() as u64
    }

    /// Stretches of at least `pages_min` dead pages.
    fn dead_ranges(&self, pages_min: u32) -> Vec<PageRange> {
        let mut out = Vec::new();
        let mut take = |begin: u32, end: u32| {
            if begin < end && end - begin >= pages_min {
                out.push((begin, end));
            }
        };
        for (begin, end) in &self.space.written {
            let mut dead_from = *begin;
            for page in *begin..*end {
                if self.is_live(page) {
                    take(dead_from, page);
                    dead_from = page + 1;
                }
            }
            take(dead_from, *end);
        }
        out
    }
}

/// The pages of a database that are alive, by volume: a bit for each.
#[derive(Debug, Default)]
pub(super) struct Marks {
    volumes: HashMap<u32, VolumeMarks, foldhash::fast::FixedState>,
}

/// When a volume is worth what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worth {
    /// Consecutive dead pages that are worth a hole; `None` where there are no holes.
    pub hole_pages_min: Option<u32>,
    /// A volume of which less than this share lives, holes left out, is left. Percent.
    pub live_percent: u64,
    /// Pages of a volume that still takes some up to which it is let be.
    pub filling_pages_max: u64,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Volumes of which nothing lives, each with its pages.
    pub free: Vec<(u32, u64)>,
    /// Holes in the others.
    pub punch: Vec<(u32, PageRange)>,
    /// Volumes whose living pages, so many, are to be written anew elsewhere.
    pub leave: Vec<(u32, u64)>,
    /// Pages that live.
    pub live: u64,
}

impl Marks {
    pub(super) fn new(volumes: impl Iterator<Item = VolumeSpace>) -> Self {
        let marks = |space: VolumeSpace| {
            let live = vec![0; (space.end as usize).div_ceil(64)];
            (space.id, VolumeMarks { space, live })
        };
        Self {
            volumes: volumes.map(marks).collect(),
        }
    }

    /// Whether no volume is looked at.
    pub(super) fn is_empty(&self) -> bool {
        self.volumes.is_empty()
    }

    /// The newest volume looked at.
    pub(super) fn newest(&self) -> u32 {
        self.volumes.keys().copied().max().unwrap_or(0)
    }

    /// Something leads to this page. One of a volume that is not looked at, or behind what was handed out when the
    /// walk began, is passed over.
    pub(super) fn mark(&mut self, addr: LogicAddr) {
        if let Some(volume) = self.volumes.get_mut(&addr.volume)
            && let Some(word) = volume.live.get_mut(addr.page as usize / 64)
        {
            *word |= 1 << (addr.page % 64);
        }
    }

    /// What follows, once every page that lives is marked.
    pub(super) fn verdict(&self, worth: Worth) -> Verdict {
        let mut verdict = Verdict::default();
        let mut ids: Vec<u32> = self.volumes.keys().copied().collect();
        ids.sort_unstable();
        for volume in ids.iter().filter_map(|id| self.volumes.get(id)) {
            let (id, pages, live) = (volume.space.id, volume.space.pages(), volume.live_pages());
            verdict.live += live;
            let may_go = !volume.space.is_filling || pages > worth.filling_pages_max;
            if live == 0 && may_go {
                verdict.free.push((id, volume.space.allocated));
                continue;
            }
            let holes = worth.hole_pages_min.map(|min| volume.dead_ranges(min));
            let holes = holes.unwrap_or_default();
            let given_back: u64 = holes.iter().map(|(b, e)| u64::from(e - b)).sum();
            let left = pages - given_back;
            verdict
                .punch
                .extend(holes.into_iter().map(|range| (id, range)));
            let stays = volume.space.is_filling && left <= worth.filling_pages_max;
            if !stays && live > 0 && live * 100 < left * worth.live_percent {
                verdict.leave.push((id, live));
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use alluvium_block::Role;

    use super::*;

    fn space(id: u32, is_filling: bool, written: &[PageRange]) -> VolumeSpace {
        VolumeSpace {
            id,
            role: Role::Leaves,
            is_filling,
            end: written.last().map_or(1, |w| w.1),
            written: written.to_vec(),
            allocated: written.iter().map(|(b, e)| u64::from(e - b)).sum(),
        }
    }

    const WORTH: Worth = Worth {
        hole_pages_min: Some(4),
        live_percent: 30,
        filling_pages_max: 20,
    };

    fn verdict(volumes: &[VolumeSpace], live: &[(u32, u32)], worth: Worth) -> Verdict {
        let mut marks = Marks::new(volumes.iter().cloned());
        for (volume, page) in live {
            let addr = LogicAddr {
                volume: *volume,
                page: *page,
            };
            marks.mark(addr);
        }
        marks.verdict(worth)
    }

    #[test]
    fn volumes_go_are_left_or_get_holes() {
        let volumes = [
            space(1, false, &[(1, 100)]),
            space(2, false, &[(1, 50), (60, 100)]),
            space(3, false, &[(1, 16)]),
            space(4, true, &[(1, 15)]),
        ];
        // Every third page of the third volume, and one far behind what was written of the fourth.
        let live = [
            (2, 10),
            (2, 12),
            (2, 49),
            (2, 60),
            (3, 3),
            (3, 6),
            (3, 9),
            (4, 90),
        ];
        let found = verdict(&volumes, &live, WORTH);
        assert_eq!(found.free, [(1, 99)]);
        let holes = [
            (2, (1, 10)),
            (2, (13, 49)),
            (2, (61, 100)),
            (3, (10, 16)),
            (4, (1, 15)),
        ];
        assert_eq!(found.punch, holes);
        // Holes left out, five pages of the second volume are left, and four of them live.
        assert_eq!(found.leave, []);
        assert_eq!(found.live, 7);
    }

    #[test]
    fn without_holes_the_share_of_the_whole_volume_counts() {
        let worth = Worth {
            hole_pages_min: None,
            ..WORTH
        };
        let volumes = [space(2, false, &[(1, 101)]), space(4, true, &[(1, 15)])];
        let live: Vec<(u32, u32)> = (0..29).map(|n| (2, 1 + n * 3)).chain([(4, 1)]).collect();
        let found = verdict(&volumes, &live, worth);
        assert_eq!((found.punch.len(), found.leave), (0, vec![(2, 29)]));
        let more: Vec<(u32, u32)> = live.iter().copied().chain([(2, 100)]).collect();
        assert_eq!(verdict(&volumes, &more, worth).leave, []);
    }
}
