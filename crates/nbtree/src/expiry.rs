//! What reading a run means once a part of its points has expired.
//!
//! A leaf whose points have all expired may outlive them as one *compound* point: its aggregate, in the entry that its
//! parent keeps. It stands at the time of its oldest point and cannot be divided. So it answers a range or a bucket
//! that holds that time, whole, whether its page is still there or not: answers do not depend on where volumes end.
//! Of a leaf that has expired in part the points still answer, one by one, as long as its page is there.

use std::sync::Arc;

use alluvium_block::{LogicAddr, PageRef};
use alluvium_codec::Tail;
use alluvium_types::{Aggregate, Column};

use crate::error::TreeError;
use crate::open_leaf::OpenLeaf;
use crate::sealed::Sealed;
use crate::snapshot::TreeSnapshot;
use crate::subtree_ref::SubtreeRef;
use crate::tree::{PageWriter, TreeMut};

/// Which points of a run have expired, as far as its aggregates are concerned. The default: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// Leaves whose points are all before this instant are compound points. The reader cuts its ranges itself where
    /// nothing is kept.
    pub compound_before: i64,
    /// Volumes up to this one may be gone although they held points before [`Self::gone_end`] that have not expired:
    /// their aggregates are not used whole. 0 if there are none.
    pub gone_volume: u32,
    /// First instant behind the points that went with those volumes.
    pub gone_end: i64,
}

impl Default for Expiry {
    fn default() -> Self {
        Self {
            compound_before: i64::MIN,
            gone_volume: 0,
            gone_end: i64::MIN,
        }
    }
}

impl Expiry {
    /// Whether expired leaves outlive their points.
    pub(crate) fn keeps(&self) -> bool {
        self.compound_before != i64::MIN
    }

    /// Whether the aggregate of a subtree stands for points that are all there, or are kept as compounds.
    pub(crate) fn may_use(&self, entry: &SubtreeRef) -> bool {
        entry.oldest_volume > self.gone_volume
            || entry.first_time() >= self.gone_end
            || self.keeps()
    }

    /// Whether a leaf is a compound point.
    pub(crate) fn is_compound(&self, leaf: &SubtreeRef) -> bool {
        leaf.last_time() < self.compound_before
    }
}

/// An address that no page ever has: volumes are numbered from 1.
const NOWHERE: PageRef = PageRef {
    addr: LogicAddr { volume: 0, page: 0 },
    generation: 0,
    crc: 0,
};

impl TreeMut<'_> {
    /// Gives up the points that are only in memory, which must all have expired, but for their aggregate: it takes the
    /// place of a leaf that has expired. Pushes go on behind. Returns whether there were any.
    ///
    /// Cost: decoding the tail, 512 points at most.
    pub fn give_up_open(&mut self, out: &mut PageWriter<'_>) -> bool {
        let kind = self.kind();
        let snapshot = self.snapshot();
        let aggregate = snapshot
            .open_aggregate()
            .expect("a tail reads what it wrote");
        if aggregate.count == 0 {
            return false;
        }
        let mut sealed = match self.edge.sealed() {
            Some(sealed) => Sealed::clone(sealed),
            None => Sealed::new(self.series, self.core.run_ordinal, self.core.birth),
        };
        if sealed.points == 0 {
            sealed.first_time = aggregate.first.time;
        }
        sealed.points += snapshot.tail.points() as u64;
        sealed.last_time = aggregate.last.time;
        sealed.last_bits = aggregate.last.bits;
        sealed.open = OpenLeaf::new(kind);
        sealed.next_leaf += 1;
        let entry = SubtreeRef {
            page: NOWHERE,
            oldest_volume: NOWHERE.addr.volume,
            leaves: 1,
            aggregate,
        };
        sealed.add_entry(out, 0, entry);
        let (encoder, end, bytes) = Tail::new(kind).into_parts();
        self.core.encoder = encoder;
        let head = Some(Arc::new(sealed));
        out.heap += self.edge.replace(kind, head, &bytes, end.points);
        true
    }
}

impl TreeSnapshot {
    /// The aggregate of the points that are only in memory.
    pub(crate) fn open_aggregate(&self) -> Result<Aggregate, TreeError> {
        let mut aggregate = Aggregate::empty(self.kind());
        if let Some(open) = self.open() {
            aggregate.merge(&open.finished_aggregate);
            for small in &open.small {
                aggregate.merge(&small.aggregate);
            }
        }
        let mut column = Column::new(self.kind());
        let series = self.series;
        self.tail
            .decode_into(&mut column)
            .map_err(|cause| TreeError::OpenLeaf { series, cause })?;
        aggregate.merge(&Aggregate::of(self.kind(), &column.times, column.bits()));
        Ok(aggregate)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use alluvium_block::{BlockConfig, BlockStore, Role};
    use alluvium_codec::Encoder;
    use alluvium_io::{Lane, MemoryDevice};
    use alluvium_types::{
        Budget, DatabaseId, FieldId, Lsn, Partition, Row, SeriesId, TimeRange, ValueKind,
    };

    use super::*;
    use crate::owned::Tree;
    use crate::stats::ReadStats;

    const POINTS: i64 = 60_000;
    const CUT: i64 = 30_011;

    fn store() -> Arc<BlockStore> {
        let config = BlockConfig {
            volume_bytes: 64 << 10,
            extent_pages: 4,
            batch_pages: 4,
            cache_bytes: 0,
        };
        let budget = Arc::new(Budget::new(u64::MAX));
        BlockStore::create(Arc::new(MemoryDevice::new(1)), config, [7; 16], 1, budget)
    }

    fn answers(pages: &BlockStore, tree: &TreeSnapshot) -> Vec<(i64, Aggregate)> {
        let mut all = Vec::new();
        let mut stats = ReadStats::default();
        let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
        let mut roll = |n: i64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((dice >> 33) as i64) % n
        };
        for _ in 0..40 {
            let (a, b) = (roll(POINTS), roll(POINTS));
            let range = TimeRange::new(a.min(b), a.max(b)).unwrap();
            all.push((-1, tree.aggregate(pages, range, &mut stats).unwrap()));
            let step = 1 + roll(9000);
            let mut emit = |begin: i64, aggregate: &Aggregate| {
                all.push((begin, *aggregate));
                ControlFlow::Continue(())
            };
            tree.buckets(pages, range, step, 7, &mut stats, &mut emit)
                .unwrap();
        }
        all
    }

    fn count(all: &[(i64, Aggregate)]) -> u64 {
        all.iter().map(|(_, a)| a.count).sum()
    }

    #[test]
    fn what_has_expired_answers_the_same_before_and_after_its_volumes_go() {
        let pages = store();
        let (mut appender, mut encoder) = (pages.appender(Lane(0)), Encoder::default());
        let mut out = PageWriter::new(&mut appender, &mut encoder, DatabaseId(1), Lsn(1));
        let series = SeriesId::new(Partition(0), Row(0), FieldId(0), ValueKind::F64);
        let mut tree = Tree::new(series, 0, Lsn(1));
        for n in 0..POINTS {
            // Of full precision: many leaves.
            let value = (n as f64 * 0.37).sin();
            tree.push_bits(&mut out, n, value.to_bits());
        }
        let expiry = Expiry {
            compound_before: CUT,
            ..Expiry::default()
        };
        let whole = TimeRange::new(0, POINTS).unwrap();
        let exact = tree.snapshot();
        let tree = tree.snapshot().with_expiry(expiry);
        let before = answers(&pages, &tree);
        let mut stats = ReadStats::default();
        let parts = |pages: &BlockStore, tree: &TreeSnapshot| {
            let mut parts = 0;
            let mut stats = ReadStats::default();
            for begin in (0..POINTS).step_by(500) {
                let range = TimeRange::new(begin, begin + 500).unwrap();
                parts += tree.aggregate(pages, range, &mut stats).unwrap().count;
            }
            parts
        };
        assert_eq!(
            parts(&pages, &tree),
            POINTS as u64,
            "every leaf counts once"
        );
        let all = pages.volumes();
        let gone = all
            .iter()
            .filter(|v| v.role == Role::Leaves && v.end <= CUT);
        let gone: Vec<u32> = gone.map(|v| v.id).collect();
        assert!(gone.len() > 2, "too few volumes to mean anything: {all:?}");
        pages.close_volumes(&gone);
        appender.leave_closed();
        pages.free_volumes(&gone);
        appender.forget_volumes(&gone);
        assert_eq!(answers(&pages, &tree), before);
        assert_eq!(parts(&pages, &tree), POINTS as u64);
        assert_eq!(
            tree.aggregate(&pages, whole, &mut stats).unwrap().count,
            POINTS as u64
        );
        // Behind the cut every point answers for itself.
        let live = TimeRange::new(CUT, POINTS).unwrap();
        let live = tree.aggregate(&pages, live, &mut stats).unwrap();
        assert_eq!((live.count, live.first.time), ((POINTS - CUT) as u64, CUT));
        // Without the cut, ranges would lose what they cannot divide.
        assert!(count(&answers(&pages, &exact)) < count(&before));
    }

    #[test]
    fn aggregates_over_gone_volumes_are_not_used_where_nothing_is_kept() {
        let pages = store();
        let (mut appender, mut encoder) = (pages.appender(Lane(0)), Encoder::default());
        let mut out = PageWriter::new(&mut appender, &mut encoder, DatabaseId(1), Lsn(1));
        let series = SeriesId::new(Partition(0), Row(0), FieldId(0), ValueKind::F64);
        let mut tree = Tree::new(series, 0, Lsn(1));
        for n in 0..POINTS {
            tree.push_bits(&mut out, n, (n as f64 * 0.37).sin().to_bits());
        }
        let leaves = pages.volumes();
        let gone = leaves
            .iter()
            .find(|v| v.role == Role::Leaves && v.oldest > POINTS / 3);
        let gone = *gone.unwrap();
        pages.close_volumes(&[gone.id]);
        appender.leave_closed();
        pages.free_volumes(&[gone.id]);
        let expiry = Expiry {
            gone_volume: gone.id,
            gone_end: gone.end,
            ..Expiry::default()
        };
        let tree = tree.snapshot().with_expiry(expiry);
        let mut stats = ReadStats::default();
        let mut scanned = 0;
        let mut cursor = tree.scan(TimeRange::ALL, crate::cursor::Direction::Forward);
        let mut batch = Column::new(ValueKind::F64);
        while cursor.next_batch(&pages, &mut stats, &mut batch).unwrap() {
            scanned += batch.len() as u64;
        }
        let counted = tree.aggregate(&pages, TimeRange::ALL, &mut stats).unwrap();
        assert_eq!(counted.count, scanned);
        assert_eq!(scanned, POINTS as u64 - (gone.end - gone.oldest) as u64);
    }

    #[test]
    fn what_is_given_up_counts_as_the_compound_it_was() {
        let pages = store();
        let (mut appender, mut encoder) = (pages.appender(Lane(0)), Encoder::default());
        let mut out = PageWriter::new(&mut appender, &mut encoder, DatabaseId(1), Lsn(1));
        let series = SeriesId::new(Partition(0), Row(0), FieldId(0), ValueKind::I64);
        let mut tree = Tree::new(series, 0, Lsn(1));
        for n in 0..5000 {
            tree.push_bits(&mut out, n, (n * n) as u64);
        }
        let expiry = Expiry {
            compound_before: 5000,
            ..Expiry::default()
        };
        let before = answers(&pages, &tree.snapshot().with_expiry(expiry));
        let heap = tree.heap_bytes();
        assert!(tree.writer().give_up_open(&mut out));
        assert!(!tree.writer().give_up_open(&mut out));
        assert!(tree.heap_bytes() < heap);
        assert_eq!(
            answers(&pages, &tree.snapshot().with_expiry(expiry)),
            before
        );
        // The saved state holds it, and pushes go on behind.
        let mut state = Vec::new();
        tree.snapshot()
            .encode_state(&mut Encoder::default(), &mut state);
        let (mut tree, _) = Tree::decode_state(&state).unwrap();
        for n in 5000..9000 {
            tree.push_bits(&mut out, n, 1);
        }
        let mut stats = ReadStats::default();
        let whole = tree.snapshot().with_expiry(expiry);
        let whole = whole.aggregate(&pages, TimeRange::ALL, &mut stats).unwrap();
        assert_eq!(whole.count, 9000);
    }
}
