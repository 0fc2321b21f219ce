//! What deletes hide in one partition, for readers, for the rule that picks a run, and for whoever rewrites runs.
//!
//! A tombstone hides the points of runs born before its position. Points that come later go to runs born later
//! (see `barrier.rs`), so they are seen although they lie inside its range. A series' late buffer is newer than
//! every run and loses what is deleted at once.
//!
//! Tombstones of a few rows are kept by row; those of many, which are few, are looked through one by one.

use alluvium_types::{DatabaseId, FieldId, Lsn, Partition, Row, RowSet, TimeRange, ValueKind};
use alluvium_wal::{Among, SectionBuilder, Tombstone};
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Rows up to which a tombstone is kept by row.
const NARROW_ROWS_MAX: u64 = 4;

/// What one costs there for each row, about.
const NARROW_BYTES: usize = size_of::<(Option<FieldId>, Hidden)>() + size_of::<Row>();

/// Tombstones of one row up to which one that is covered by another is looked for.
const COVERED_AMONG_MAX: usize = 64;

/// What one tombstone hides of one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hidden {
    pub range: TimeRange,
    pub among: Among,
    /// Only what was written before this.
    pub lsn: Lsn,
}

/// Everything that is hidden of one (row, field).
#[derive(Debug, Clone, Default)]
pub(crate) struct HiddenParts(pub SmallVec<[Hidden; 2]>);

impl HiddenParts {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges in which a run of this kind and birth, or a late buffer last changed at `birth`, is hidden:
    /// ascending, none touching the next. A merge of runs leaves these points out of what it rewrites.
    pub(crate) fn holes(&self, kind: ValueKind, birth: Lsn) -> Vec<TimeRange> {
        let hides = |h: &&Hidden| birth < h.lsn && h.among.includes(kind);
        let mut ranges: Vec<TimeRange> = self.0.iter().filter(hides).map(|h| h.range).collect();
        ranges.sort_unstable_by_key(|r| (r.begin(), r.end()));
        let mut out: Vec<TimeRange> = Vec::with_capacity(ranges.len());
        for range in ranges.into_iter().filter(|r| !r.is_empty()) {
            match out.last_mut() {
                Some(last) if range.begin() <= last.end() => {
                    let end = last.end().max(range.end());
                    *last = TimeRange::new(last.begin(), end).unwrap_or(range);
                }
                _ => out.push(range),
            }
        }
        out
    }

    /// Position of the newest of them.
    pub(crate) fn newest(&self) -> Lsn {
        self.0.iter().map(|h| h.lsn).max().unwrap_or_default()
    }
}

/// A tombstone and its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub tombstone: Tombstone,
    pub lsn: Lsn,
}

impl Placed {
    fn hidden(&self) -> Hidden {
        Hidden {
            range: self.tombstone.range,
            among: self.tombstone.among,
            lsn: self.lsn,
        }
    }

    /// Bytes it takes, about.
    fn bytes(tombstone: &Tombstone) -> usize {
        let rows = tombstone.rows.len();
        if rows <= NARROW_ROWS_MAX {
            rows as usize * NARROW_BYTES
        } else {
            size_of::<Self>() + tombstone.rows.runs().len() * size_of::<(Row, Row)>()
        }
    }
}

/// The tombstones of one partition.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    narrow: HashMap<Row, Vec<(Option<FieldId>, Hidden)>, foldhash::fast::FixedState>,
    wide: Vec<Placed>,
    bytes: usize,
}

impl Tombstones {
    pub(crate) fn is_empty(&self) -> bool {
        self.narrow.is_empty() && self.wide.is_empty()
    }

    /// How many there are, those of a few rows once a row.
    pub(crate) fn count(&self) -> usize {
        self.wide.len() + self.narrow.values().map(Vec::len).sum::<usize>()
    }

    /// How many have more than a few rows: each of them costs every look-up a binary search.
    pub(crate) fn wide_count(&self) -> usize {
        self.wide.len()
    }

    /// Memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What `list` would add to [`Self::bytes`] and to [`Self::wide_count`].
    pub(crate) fn cost(list: &[Tombstone]) -> (usize, usize) {
        let wide = list.iter().filter(|t| t.rows.len() > NARROW_ROWS_MAX);
        (list.iter().map(Placed::bytes).sum(), wide.count())
    }

    /// What is hidden of a series. Cost: one look-up, and a binary search for each tombstone of many rows.
    pub(crate) fn of(&self, row: Row, field: FieldId) -> HiddenParts {
        let wide = self.wide.iter().filter(|p| {
            let t = &p.tombstone;
            t.field.is_none_or(|f| f == field) && t.rows.contains(row)
        });
        let narrow = self.narrow.get(&row).into_iter().flatten();
        let narrow = narrow.filter(|(f, _)| f.is_none_or(|f| f == field));
        HiddenParts(
            wide.map(Placed::hidden)
                .chain(narrow.map(|(_, hidden)| *hidden))
                .collect(),
        )
    }

    /// Adds a tombstone unless it is there; those of the same rows that it covers go.
    pub(crate) fn insert(&mut self, placed: Placed) {
        let Placed { tombstone, lsn } = placed;
        if tombstone.rows.is_empty() || tombstone.range.is_empty() {
            return;
        }
        if tombstone.rows.len() <= NARROW_ROWS_MAX {
            for row in tombstone.rows.iter() {
                let hidden = Hidden {
                    range: tombstone.range,
                    among: tombstone.among,
                    lsn,
                };
                self.insert_narrow(row, tombstone.field, hidden);
            }
            return;
        }
        let placed = Placed { tombstone, lsn };
        let whole = |p: &Placed| (p.tombstone.field, p.hidden());
        let same = |p: &Placed| p.tombstone.rows == placed.tombstone.rows;
        let (field, hidden) = whole(&placed);
        if self.wide.iter().any(|p| {
            let (f, h) = whole(p);
            same(p) && covers((f, &h), (field, &hidden))
        }) {
            return;
        }
        let bytes = &mut self.bytes;
        self.wide.retain(|p| {
            let (f, h) = whole(p);
            let goes = same(p) && covers((field, &hidden), (f, &h));
            if goes {
                *bytes -= Placed::bytes(&p.tombstone);
            }
            !goes
        });
        self.bytes += Placed::bytes(&placed.tombstone);
        self.wide.push(placed);
    }

    fn insert_narrow(&mut self, row: Row, field: Option<FieldId>, hidden: Hidden) {
        let entries = self.narrow.entry(row).or_default();
        let (Ok(at) | Err(at)) = entries.binary_search_by_key(&place(&(field, hidden)), place);
        if entries.get(at).is_some_and(|e| *e == (field, hidden)) {
            return;
        }
        let before = entries.len();
        entries.insert(at, (field, hidden));
        if entries.len() <= COVERED_AMONG_MAX {
            let newest = entries.clone();
            entries.retain(|b| {
                let covered =
                    |a: &(Option<FieldId>, Hidden)| a != b && covers((a.0, &a.1), (b.0, &b.1));
                !newest.iter().any(covered)
            });
        }
        self.bytes = self.bytes + entries.len() * NARROW_BYTES - before * NARROW_BYTES;
    }

    /// Takes one of [`Self::all`] out.
    pub(crate) fn remove(&mut self, placed: &Placed) {
        let tombstone = &placed.tombstone;
        if tombstone.rows.len() > NARROW_ROWS_MAX {
            if let Some(at) = self.wide.iter().position(|p| p == placed) {
                self.bytes -= Placed::bytes(&self.wide.swap_remove(at).tombstone);
            }
            return;
        }
        let gone = (tombstone.field, placed.hidden());
        for row in tombstone.rows.iter() {
            let Some(entries) = self.narrow.get_mut(&row) else {
                continue;
            };
            if let Ok(at) = entries.binary_search_by_key(&place(&gone), place)
                && entries.get(at) == Some(&gone)
            {
                entries.remove(at);
                self.bytes -= NARROW_BYTES;
            }
            if entries.is_empty() {
                self.narrow.remove(&row);
            }
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Placed> {
        let narrow = self.narrow.iter().flat_map(|(row, entries)| {
            let placed = |(field, hidden): &(_, _)| of_row(*row, *field, *hidden);
            entries.iter().map(placed)
        });
        self.wide.iter().cloned().chain(narrow).collect()
    }

    /// As log sections, one for each position, for a checkpoint.
    pub(crate) fn encode(&self, database: DatabaseId, partition: Partition) -> Vec<Vec<u8>> {
        let mut all = self.all();
        all.sort_by_key(|p| {
            (
                p.lsn,
                p.tombstone.rows.runs().next(),
                p.tombstone.range.begin(),
            )
        });
        let mut section = SectionBuilder::default();
        let mut out = Vec::new();
        for same in all.chunk_by(|a, b| a.lsn == b.lsn) {
            let Some(first) = same.first() else { continue };
            section.begin(database, partition, first.lsn);
            let list: Vec<Tombstone> = same.iter().map(|p| p.tombstone.clone()).collect();
            section.delete(&list);
            out.push(section.finish().to_vec());
        }
        out
    }
}

fn of_row(row: Row, field: Option<FieldId>, hidden: Hidden) -> Placed {
    Placed {
        tombstone: Tombstone {
            rows: RowSet::one(row),
            field,
            among: hidden.among,
            range: hidden.range,
        },
        lsn: hidden.lsn,
    }
}

/// The order of the tombstones of one row.
fn place((field, hidden): &(Option<FieldId>, Hidden)) -> (Lsn, i64, i64, Option<FieldId>, u8) {
    let range = hidden.range;
    let among = hidden.among as u8;
    (hidden.lsn, range.begin(), range.end(), *field, among)
}

/// Whether `a` hides all that `b` hides, for the same rows.
fn covers(a: (Option<FieldId>, &Hidden), b: (Option<FieldId>, &Hidden)) -> bool {
    let ((a_field, a), (b_field, b)) = (a, b);
    let among = a.among == Among::All || a.among == b.among;
    let range = a.range.begin() <= b.range.begin() && b.range.end() <= a.range.end();
    (a_field.is_none() || a_field == b_field) && among && range && b.lsn <= a.lsn
}

#[cfg(test)]
mod tests {
    use alluvium_wal::{Entry, read_section};

    use super::*;

    fn r(begin: i64, end: i64) -> TimeRange {
        TimeRange::new(begin, end).unwrap()
    }

    fn placed(
        rows: std::ops::Range<u32>,
        field: Option<u32>,
        range: TimeRange,
        lsn: u64,
    ) -> Placed {
        Placed {
            tombstone: Tombstone {
                rows: rows.map(Row).collect(),
                field: field.map(FieldId),
                among: Among::All,
                range,
            },
            lsn: Lsn(lsn),
        }
    }

    #[test]
    fn holes_are_those_of_older_runs_only() {
        let mut set = Tombstones::default();
        for p in [
            placed(0..100, None, r(0, 10), 5),
            placed(3..4, Some(1), r(10, 20), 7),
            placed(3..4, Some(2), r(50, 60), 7),
            placed(3..4, None, r(30, 40), 9),
        ] {
            set.insert(p.clone());
            // Redo of what a checkpoint has changes nothing.
            let (bytes, count) = (set.bytes(), set.count());
            set.insert(p);
            assert_eq!((set.bytes(), set.count()), (bytes, count));
        }
        let holes = |row, field, birth| {
            set.of(Row(row), FieldId(field))
                .holes(ValueKind::F64, Lsn(birth))
        };
        assert_eq!(holes(3, 1, 4), [r(0, 20), r(30, 40)]);
        assert_eq!(holes(3, 1, 5), [r(10, 20), r(30, 40)]);
        assert_eq!(holes(3, 1, 9), []);
        assert_eq!(holes(3, 2, 8), [r(30, 40)]);
        assert_eq!(holes(4, 1, 4), [r(0, 10)]);
        assert!(set.of(Row(100), FieldId(0)).is_empty());
        assert_eq!(set.of(Row(3), FieldId(1)).newest(), Lsn(9));
    }

    #[test]
    fn what_a_later_one_covers_goes() {
        let mut set = Tombstones::default();
        for i in 0..10 {
            set.insert(placed(0..50, Some(1), r(i, i + 1), i as u64));
            set.insert(placed(60..61, Some(1), r(i, i + 1), i as u64));
        }
        assert_eq!((set.count(), set.wide_count()), (20, 10));
        set.insert(placed(0..50, None, r(0, 10), 20));
        set.insert(placed(60..61, None, r(0, 10), 20));
        assert_eq!((set.count(), set.wide_count()), (2, 1));
        set.remove(&set.all()[1].clone());
        assert_eq!((set.count(), set.wide_count()), (1, 1));
        set.remove(&set.all()[0].clone());
        assert!(set.is_empty());
        assert_eq!(set.bytes(), 0);
    }

    #[test]
    fn kinds_are_hidden_apart() {
        let mut set = Tombstones::default();
        let mut p = placed(1..2, None, r(0, 10), 5);
        p.tombstone.among = Among::Numbers;
        set.insert(p);
        let parts = set.of(Row(1), FieldId(0));
        assert!(parts.holes(ValueKind::Str, Lsn(1)).is_empty());
        assert_eq!(parts.holes(ValueKind::Bool, Lsn(1)), [r(0, 10)]);
    }

    #[test]
    fn sections_bring_everything_back() {
        let mut set = Tombstones::default();
        set.insert(placed(0..50, Some(1), r(1, 2), 3));
        set.insert(placed(7..9, None, r(1, 2), 3));
        set.insert(placed(7..9, None, r(4, 6), 4));
        let sections = set.encode(DatabaseId(1), Partition(2));
        assert_eq!(sections.len(), 2);
        let mut copy = Tombstones::default();
        for bytes in &sections {
            let section = read_section(bytes).unwrap();
            for entry in section.entries {
                let Entry::Delete(list) = entry else {
                    panic!("{entry:?}")
                };
                for tombstone in list {
                    let lsn = section.lsn;
                    copy.insert(Placed { tombstone, lsn });
                }
            }
        }
        assert_eq!(copy.encode(DatabaseId(1), Partition(2)), sections);
        assert_eq!((copy.count(), copy.bytes()), (set.count(), set.bytes()));
    }
}
