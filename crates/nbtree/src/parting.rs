//! A run in two parts: its newest points in memory, the older ones in a record on disk. Here is what cuts the older
//! part off, and what puts newer points onto it again.
//!
//! Numbers only: long strings stand in pages of their own.

use std::sync::Arc;

use alluvium_codec::{Encoder, Tail};
use alluvium_types::Column;

use crate::edge::Head;
use crate::error::TreeError;
use crate::open_leaf::SmallBlock;
use crate::owned::Tree;
use crate::sealed::Sealed;
use crate::sealing::{block, column_of, part, tail_of};
use crate::snapshot::TreeSnapshot;
use crate::tree::{PageWriter, TreeMut};

impl TreeMut<'_> {
    /// Points ever pushed.
    pub fn points(&self) -> u64 {
        let sealed = self.edge.sealed().map_or(0, |s| s.points);
        sealed + self.edge.end().map_or(0, |end| end.points as u64)
    }

    /// Whether anything of it is a block or a page.
    pub fn has_blocks(&self) -> bool {
        self.edge.sealed().is_some()
    }

    /// Forgets all but the `newest` points, so that pushes go on as if these were all. Returns by how much the heap grew;
    /// `None`, and nothing is changed, if they are not all in the tail, or are strings. Pages stay where they are.
    ///
    /// Cost: decoding and encoding the tail, 512 points at most.
    pub fn keep_newest(&mut self, newest: u64) -> Option<i64> {
        let kind = self.kind();
        let tail = self.snapshot().tail;
        let first = (tail.points() as u64).checked_sub(newest)?;
        if !kind.is_numeric() {
            return None;
        }
        let mut column = column_of(kind, tail.points());
        tail.decode_into(&mut column)
            .expect("a tail reads what it wrote");
        let kept = tail_of(&column, first as usize).unwrap_or_else(|| Tail::new(kind));
        let (encoder, end, bytes) = kept.into_parts();
        self.core.encoder = encoder;
        Some(self.edge.replace(kind, None, &bytes, end.points))
    }

    /// Makes blocks of the points that wait for that, and leaves where they fill pages. Some of the newest stay in the
    /// tail.
    ///
    /// Cost: as if the tail were full.
    pub fn settle_open(&mut self, out: &mut PageWriter<'_>) {
        let waits = self.edge.sealed().is_some_and(|s| !s.open.small.is_empty());
        if waits || self.edge.end().is_some_and(|end| end.points > 0) {
            self.flush_whole(out);
        }
    }
}

impl TreeSnapshot {
    /// Whether the open leaf holds more than a page takes, as [`Tree::extend_open`] may leave it.
    pub fn has_more_than_a_page_open(&self) -> bool {
        let open = self.open().map_or(0, |open| {
            let blocks: usize = open.blocks().map(|block| block.bytes.len()).sum();
            blocks - open.small_bytes() / 2
        });
        // Tails take twice the bytes of blocks, about.
        open + self.tail.bytes.len() / 2 > crate::knobs::KNOBS.leaf_bytes
    }

    /// Appends the points that no page holds to `out`, a column of its kind; long strings as references.
    ///
    /// # Errors
    /// If the state it was made of was malformed.
    pub fn open_points(&self, out: &mut Column) -> Result<(), TreeError> {
        self.unsealed(out)
    }
}

impl Tree {
    /// Appends numbers, all behind its newest point, without writing a page: the open leaf grows past one, if need
    /// be, and is divided when points are pushed again.
    ///
    /// Cost: decoding what waits to be a block, less than 1,024 points mostly, and encoding it with the new points.
    ///
    /// # Panics
    /// If the points are of another kind, or not behind the newest one.
    pub fn extend_open(&mut self, encoder: &mut Encoder, column: &Column) {
        let (kind, knobs) = (self.kind(), &crate::knobs::KNOBS);
        assert!(
            kind == column.kind() && kind.is_numeric(),
            "a run extended by points of another kind"
        );
        let (Some(first), Some(last)) = (column.times.first(), column.times.last()) else {
            return;
        };
        assert!(
            self.last_time().is_none_or(|newest| newest < *first),
            "a run extended by points that are not behind its newest"
        );
        let before = self.snapshot();
        if self.extend_tail(&before, column) {
            return;
        }
        let mut sealed = match before.sealed.as_deref() {
            Some(sealed) => sealed.clone(),
            None => Sealed::new(self.series(), self.run_ordinal(), self.birth()),
        };
        let waiting = sealed.open.small_points() + before.tail.points();
        let mut all = column_of(kind, waiting + column.len());
        for small in std::mem::take(&mut sealed.open.small) {
            small
                .decode(&mut all)
                .expect("a block of our own making decodes");
        }
        before
            .tail
            .decode_into(&mut all)
            .expect("a tail reads what it wrote");
        all.extend_from(column, 0, column.len());
        let mut begin = 0;
        let mut bytes = Vec::with_capacity(knobs.tail_bytes);
        while all.len() - begin >= knobs.block_points {
            let room = sealed.open.room(knobs.leaf_bytes, all.times[begin]);
            let end = begin + knobs.block_points;
            bytes.clear();
            let models = sealed.open.models();
            encoder.encode(&all, begin..end, &mut sealed.hint, models, &mut bytes);
            if bytes.len() > room {
                break;
            }
            let open = &mut sealed.open;
            open.finished_aggregate.merge(&part(&all, begin, end));
            open.finished.push(block(&all, begin, end, &bytes));
            begin = end;
        }
        while begin < all.len() {
            let end = all.len().min(begin + knobs.tail_points);
            let mut some = column_of(kind, end - begin);
            some.extend_from(&all, begin, end);
            let tail = tail_of(&some, 0).unwrap_or_else(|| Tail::new(kind));
            sealed.open.small.push(SmallBlock {
                block: block(&all, begin, end, tail.bytes()),
                is_tail: true,
                aggregate: part(&all, begin, end),
            });
            begin = end;
        }
        if sealed.points == 0 {
            sealed.first_time = all.times[0];
        }
        sealed.points += (before.tail.points() + column.len()) as u64;
        sealed.last_time = *last;
        sealed.last_bits = column.bits().last().copied().unwrap_or_default();
        self.replace_edge(Some(Arc::new(sealed)), Tail::new(kind), *last);
    }

    /// Appends to the tail alone; `false`, and nothing is changed, if that would be full.
    fn extend_tail(&mut self, before: &TreeSnapshot, column: &Column) -> bool {
        let knobs = &crate::knobs::KNOBS;
        let points = before.tail.points() + column.len();
        if points >= knobs.tail_points {
            return false;
        }
        let mut all = column_of(self.kind(), points);
        before
            .tail
            .decode_into(&mut all)
            .expect("a tail reads what it wrote");
        all.extend_from(column, 0, column.len());
        let tail = tail_of(&all, 0).filter(|tail| tail.bytes().len() < knobs.tail_bytes);
        let Some((tail, last)) = tail.zip(all.times.last().copied()) else {
            return false;
        };
        self.replace_edge(before.sealed.clone(), tail, last);
        true
    }

    fn replace_edge(&mut self, head: Head, tail: Tail, last: i64) {
        let kind = self.kind();
        let (encoder, end, bytes) = tail.into_parts();
        self.core.encoder = encoder;
        self.edge.writer().replace(kind, head, &bytes, end.points);
        *self.edge.last_time.get_mut() = last;
    }
}

#[cfg(test)]
mod tests {
    use alluvium_block::BlockStore;
    use alluvium_io::{Lane, MemoryDevice};
    use alluvium_types::{
        DatabaseId, FieldId, Lsn, Partition, Row, SeriesId, TimeRange, ValueKind,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::cursor::Direction;
    use crate::stats::ReadStats;

    fn bits(n: i64) -> u64 {
        ((n as f64 * 0.37).sin() * 1000.0).round().to_bits()
    }

    fn column(range: std::ops::Range<i64>) -> Column {
        let mut column = column_of(ValueKind::F64, 0);
        for n in range {
            column.push(
                n * 10,
                alluvium_types::ValueRef::from_bits(ValueKind::F64, bits(n)),
            );
        }
        column
    }

    fn all_of(snapshot: &TreeSnapshot, store: &BlockStore) -> Column {
        let mut all = Column::new(ValueKind::F64);
        let mut batch = Column::new(ValueKind::F64);
        let mut cursor = snapshot.scan(TimeRange::ALL, Direction::Forward);
        while cursor
            .next_batch(store, &mut ReadStats::default(), &mut batch)
            .unwrap()
        {
            all.extend_from(&batch, 0, batch.len());
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// As a store does it: a record, more points in memory, a record of both, and pushes again.
        #[test]
        fn parts_make_a_whole(steps in prop::collection::vec((1..700_i64, 0..200_i64, any::<bool>()), 1..14)) {
            let store = BlockStore::ephemeral(std::sync::Arc::new(MemoryDevice::new(1)));
            let (mut appender, mut encoder) = (store.appender(Lane(0)), Encoder::default());
            let series = SeriesId::new(Partition(0), Row(0), FieldId(0), ValueKind::F64);
            let mut older = Tree::new(series, 0, Lsn(1));
            let mut newer = Tree::new(series, 0, Lsn(1));
            let mut at = 0;
            let mut encode = Encoder::default();
            for (begin, since, joins) in steps {
                let mut out = PageWriter::new(&mut appender, &mut encoder, DatabaseId(1), Lsn(1));
                for n in at..at + begin {
                    newer.push_bits(&mut out, n * 10, bits(n));
                }
                at += begin;
                let captured = newer.snapshot();
                for n in at..at + since {
                    newer.push_bits(&mut out, n * 10, bits(n));
                }
                at += since;
                let mut points = Column::new(ValueKind::F64);
                captured.open_points(&mut points).unwrap();
                older.extend_open(&mut encode, &points);
                let mut state = Vec::new();
                older.snapshot().encode_state(&mut encode, &mut state);
                older = Tree::decode_state(&state).unwrap().0;
                let left = newer.writer().points() - captured.points();
                if newer.writer().keep_newest(left).is_none() {
                    // The tail became a block meanwhile: all of it is put together.
                    prop_assert!(newer.writer().has_blocks());
                    let (mut both, mut rest) = (Column::new(ValueKind::F64), Column::new(ValueKind::F64));
                    newer.snapshot().open_points(&mut both).unwrap();
                    rest.extend_from(&both, captured.points() as usize, both.len());
                    older.extend_open(&mut encode, &rest);
                    newer = Tree::new(series, 0, Lsn(1));
                }
                prop_assert_eq!(older.snapshot().points() + newer.writer().points(), at as u64);
                if joins {
                    let rest = all_of(&newer.snapshot(), &store);
                    for (i, time) in rest.times.iter().enumerate() {
                        older.push_bits(&mut out, *time, rest.bits()[i]);
                    }
                    older.writer().settle_open(&mut out);
                    newer = Tree::new(series, 0, Lsn(1));
                    prop_assert!(older.snapshot().open().unwrap().small_points() < 1024);
                }
            }
            let mut all = all_of(&older.snapshot(), &store);
            let rest = all_of(&newer.snapshot(), &store);
            all.extend_from(&rest, 0, rest.len());
            let expected = column(0..at);
            prop_assert_eq!(&all.times, &expected.times);
            prop_assert_eq!(all.bits(), expected.bits());
            let aggregate = older.snapshot().aggregate(&store, TimeRange::ALL, &mut ReadStats::default()).unwrap();
            prop_assert_eq!(aggregate.count, older.snapshot().points());
        }
    }

    #[test]
    fn only_what_is_in_the_tail_is_kept() {
        let store = BlockStore::ephemeral(std::sync::Arc::new(MemoryDevice::new(1)));
        let (mut appender, mut encoder) = (store.appender(Lane(0)), Encoder::default());
        let mut out = PageWriter::new(&mut appender, &mut encoder, DatabaseId(1), Lsn(1));
        let series = SeriesId::new(Partition(0), Row(0), FieldId(0), ValueKind::F64);
        let mut tree = Tree::new(series, 0, Lsn(1));
        for n in 0..600 {
            tree.push_bits(&mut out, n * 10, bits(n));
        }
        assert_eq!(tree.writer().keep_newest(590), None);
        assert!(tree.writer().keep_newest(5).is_some_and(|heap| heap < 0));
        assert_eq!(all_of(&tree.snapshot(), &store), column(595..600));
        assert_eq!(tree.last_time(), Some(5990));
        assert!(tree.writer().keep_newest(0).is_some());
        assert_eq!((tree.last_time(), tree.writer().points()), (None, 0));
        // Of a run without a point any time is taken.
        tree.push_bits(&mut out, 7, bits(7));
        assert_eq!(tree.last_time(), Some(7));
    }
}
