//! Which runs of a series are merged, and when.

use alluvium_nbtree::TreeSnapshot;
use smallvec::SmallVec;

use crate::config::StoreConfig;

/// Ordinals of runs.
pub(crate) type Ordinals = SmallVec<[u32; 8]>;

/// Runs merged at once: bounds what a merge holds in memory.
const SOURCES_MAX: usize = 64;

/// Runs of one kind that may be merged, and what leaving them apart costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Ascending.
    pub(super) ordinals: Ordinals,
    /// Points of the largest run.
    main_points: u64,
    /// Points of the others.
    pub(super) late_points: u64,
    /// The spans of two of them overlap, so that reads merge points there.
    overlaps: bool,
}

impl Group {
    /// Whether it should be merged although the series may still be taking late points.
    pub(super) fn is_due(&self, config: &StoreConfig) -> bool {
        let share = self.main_points / 100 * config.merge_late_percent;
        self.ordinals.len() > config.merge_runs_max
            || self.overlaps && self.late_points >= config.merge_late_points.max(share)
    }
}

/// The largest group of runs that may become one, if there is any. Runs are given by ordinal.
///
/// Numeric runs are of one class and overrule each other whatever their kinds; texts are another. Within a class
/// a group is of one kind and no run of another kind lies between, or a point of that run would change places
/// with one of the group.
pub(super) fn group(runs: &[TreeSnapshot]) -> Option<Group> {
    let classes = [true, false].map(|numeric| {
        let of_class = runs.iter().filter(|r| r.kind().is_numeric() == numeric);
        let of_class: SmallVec<[&TreeSnapshot; 8]> = of_class.filter(|r| r.points() > 0).collect();
        let groups = of_class.chunk_by(|a, b| a.kind() == b.kind());
        // The highest ordinals of too many: they are the smallest.
        let longest = groups.max_by_key(|g| g.len()).unwrap_or_default();
        let from = longest.len().saturating_sub(SOURCES_MAX);
        measure(&longest[from..])
    });
    classes
        .into_iter()
        .flatten()
        .max_by_key(|g| g.ordinals.len())
}

fn measure(runs: &[&TreeSnapshot]) -> Option<Group> {
    if runs.len() < 2 {
        return None;
    }
    let all: u64 = runs.iter().map(|r| r.points()).sum();
    let main_points = runs.iter().map(|r| r.points()).max().unwrap_or(0);
    let mut spans: SmallVec<[_; 8]> = runs
        .iter()
        .filter_map(|r| Some((r.first_time()?, r.last_time()?)))
        .collect();
    spans.sort_unstable();
    Some(Group {
        ordinals: runs.iter().map(|r| r.run_ordinal()).collect(),
        main_points,
        late_points: all - main_points,
        overlaps: spans.windows(2).any(|w| w[1].0 <= w[0].1),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use alluvium_block::BlockStore;
    use alluvium_io::{Lane, MemoryDevice};
    use alluvium_nbtree::{Encoder, PageWriter, Tree};
    use alluvium_types::{DatabaseId, FieldId, Lsn, Partition, Row, SeriesId, ValueKind, ValueRef};

    use super::*;

    fn runs(kinds: &[(ValueKind, i64, i64)]) -> Vec<TreeSnapshot> {
        let store = BlockStore::ephemeral(Arc::new(MemoryDevice::new(1)));
        let (mut appender, mut encoder) = (store.appender(Lane(0)), Encoder::default());
        let mut out = PageWriter::new(&mut appender, &mut encoder, DatabaseId(1), Lsn(1));
        let tree = |(ordinal, (kind, begin, end)): (usize, &(ValueKind, i64, i64))| {
            let id = SeriesId::new(Partition(0), Row(0), FieldId(0), *kind);
            let mut tree = Tree::new(id, ordinal as u32, Lsn(1));
            for time in *begin..*end {
                match kind {
                    ValueKind::Str => tree.push(&mut out, time, ValueRef::Str("x")),
                    _ => tree.push_bits(&mut out, time, 1),
                }
            }
            tree.snapshot()
        };
        kinds.iter().enumerate().map(tree).collect()
    }

    #[test]
    fn runs_of_one_kind_are_grouped_where_no_other_kind_lies_between() {
        use ValueKind::{F64, I64, Str};
        let ordinals = |kinds: &[_]| group(&runs(kinds)).map(|g| g.ordinals.to_vec());
        assert_eq!(ordinals(&[(F64, 0, 9)]), None);
        assert_eq!(ordinals(&[(F64, 0, 9), (I64, 3, 5)]), None);
        assert_eq!(ordinals(&[(F64, 0, 9), (F64, 3, 5)]), Some(vec![0, 1]));
        let texts_do_not_matter = [(F64, 0, 9), (Str, 3, 5), (F64, 1, 2)];
        assert_eq!(ordinals(&texts_do_not_matter), Some(vec![0, 2]));
        let between = [(F64, 0, 9), (I64, 3, 5), (F64, 1, 2), (F64, 0, 1)];
        assert_eq!(ordinals(&between), Some(vec![2, 3]));
        let many: Vec<_> = (0..100).map(|n| (F64, -n, 1 - n)).collect();
        assert_eq!(ordinals(&many), Some((36..100).collect()));
    }

    #[test]
    fn many_runs_and_large_overlaps_are_due() {
        use ValueKind::F64;
        let config = StoreConfig {
            merge_runs_max: 3,
            merge_late_points: 50,
            merge_late_percent: 10,
            ..StoreConfig::default()
        };
        let due = |kinds: &[_]| group(&runs(kinds)).is_some_and(|g| g.is_due(&config));
        assert!(!due(&[(F64, 0, 400), (F64, 100, 140)]), "few late points");
        assert!(due(&[(F64, 0, 400), (F64, 100, 150)]));
        assert!(!due(&[(F64, 0, 900), (F64, 100, 150)]), "a small share");
        assert!(!due(&[(F64, 500, 900), (F64, 0, 450)]), "side by side");
        let four = [(F64, 40, 50), (F64, 30, 35), (F64, 20, 25), (F64, 10, 15)];
        assert!(!due(&four[..3]) && due(&four));
    }
}
