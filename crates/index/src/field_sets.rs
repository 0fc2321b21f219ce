//! Which fields a row has, shared between rows.
//!
//! Rows of one measurement mostly carry the same fields, so each distinct list of (field, kinds) is kept once
//! and a row holds its number. Adding a field to a row follows a remembered transition from list to list: ten
//! fields of a new row cost ten look-ups in a small table. Lists that no row holds any more (the steps on the
//! way) are let go of, some at each addition, where there are many of them, and then a list that only one row holds
//! is changed in place: rows of which each has fields of its own leave nothing behind. So are lists of more than
//! [`WIDE`] fields, so that a row with 10,000 fields costs no more than its own list.
//!
//! No addition costs more than a list, and a part of a table: a million lists grow as a hundred do.

use alluvium_types::{FieldId, ValueKind};

use crate::kind_set::KindSet;
use crate::paged::Paged;
use crate::steps::Steps;
use crate::table::Table;

/// Fields above which a list is wide.
const WIDE: usize = 64;

/// Unused lists that are kept in any case.
const IDLE_MIN: usize = 1024;

/// Of so many lists one more unused one is kept.
const IDLE_SHARE: usize = 8;

/// Lists looked at, at one addition, for unused ones to let go of: twice as many as it takes to find one.
const LOOKS: usize = 2 * IDLE_SHARE;

/// The number of the empty list.
pub(crate) const NO_FIELDS: u32 = 0;

/// All distinct field lists of a partition.
#[derive(Debug, Clone)]
pub(crate) struct FieldSets {
    sets: Paged<FieldSet>,
    free: Paged<u32>,
    by_content: Table<u64>,
    /// Between narrow lists only.
    steps: Steps,
    /// Lists with no rows, [`NO_FIELDS`] apart.
    idle: usize,
    /// The list looked at last for unused ones.
    hand: usize,
}

#[derive(Debug, Clone, Default)]
struct FieldSet {
    /// field << 8 | byte of the kind set, ascending.
    entries: Vec<u32>,
    rows: u32,
    /// (field, kind) pairs.
    series: u32,
    /// Sum of the mixed entries, so that a change of one costs the same at any width.
    hash: u64,
}

impl FieldSets {
    pub(crate) fn new() -> Self {
        let mut sets = Paged::default();
        sets.push(FieldSet::default());
        Self {
            sets,
            free: Paged::default(),
            by_content: Table::new(),
            steps: Steps::default(),
            idle: 0,
            hand: 0,
        }
    }

    pub(crate) fn kinds(&self, set: u32, field: FieldId) -> KindSet {
        let entries = self.entries(set);
        match find(entries, field) {
            Ok(at) => kinds_of(entries[at]),
            Err(_) => KindSet::EMPTY,
        }
    }

    /// The fields of a list, ascending.
    pub(crate) fn fields(&self, set: u32) -> impl Iterator<Item = (FieldId, KindSet)> + '_ {
        self.entries(set)
            .iter()
            .map(|&e| (FieldId(e >> 8), kinds_of(e)))
    }

    /// Number of (field, kind) pairs of a list.
    pub(crate) fn series(&self, set: u32) -> u64 {
        let list = self.sets.get(set as usize);
        list.map_or(0, |list| u64::from(list.series))
    }

    /// Whether a list that a row holds has a field of several kinds.
    pub(crate) fn any_mixed(&self) -> bool {
        let mixed = |set: &FieldSet| set.entries.iter().any(|e| kinds_of(*e).len() > 1);
        self.sets.iter().any(|set| set.rows > 0 && mixed(set))
    }

    /// Moves one row from `set` to the list with (field, kind) added, which is not in it yet.
    pub(crate) fn add(&mut self, set: u32, field: FieldId, kind: ValueKind) -> u32 {
        debug_assert!(!self.kinds(set, field).contains(kind));
        let from = &self.sets[set as usize];
        if let Some(to) = self.steps.find(set, field, kind)
            && let Some(list) = self.sets.get(to as usize)
            && list.is_with(from, field, kind)
        {
            return self.move_row(set, to);
        }
        let is_many = from.entries.len() > WIDE || self.idle >= self.idle_max();
        if is_many && from.rows == 1 {
            return self.add_in_place(set, field, kind);
        }
        // Steps lead to narrow lists only: wide ones change in place and are freed at once.
        let remembered = from.entries.len() < WIDE;
        let next = from.with(field, kind);
        let to = self.intern(next);
        if remembered {
            self.steps.note(set, field, kind, to);
        }
        self.move_row(set, to)
    }

    /// Moves one row from `set` to the list of `entries` (ascending, no field twice).
    pub(crate) fn replace(&mut self, set: u32, entries: &[(FieldId, KindSet)]) -> u32 {
        let entries: Vec<u32> = entries
            .iter()
            .map(|(field, kinds)| field.0 << 8 | u32::from(kinds.byte()))
            .collect();
        if entries.is_empty() {
            return self.move_row(set, NO_FIELDS);
        }
        let to = self.intern(FieldSet::of(entries));
        self.move_row(set, to)
    }

    /// As [`FieldSets::replace`] for a row whose target another row already holds.
    pub(crate) fn join(&mut self, set: u32, to: u32) -> u32 {
        self.move_row(set, to)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let entries: usize = self.sets.iter().map(|s| s.entries.capacity() * 4).sum();
        entries
            + self.sets.heap_bytes()
            + self.free.heap_bytes()
            + self.by_content.heap_bytes()
            + self.steps.heap_bytes()
    }

    fn entries(&self, set: u32) -> &[u32] {
        self.sets
            .get(set as usize)
            .map_or(&[], |s| s.entries.as_slice())
    }

    fn intern(&mut self, set: FieldSet) -> u32 {
        if let Some(found) = self.twin_of(&set) {
            return found;
        }
        let hash = set.short_hash();
        self.idle += 1;
        let number = if let Some(number) = self.free.pop() {
            self.sets[number as usize] = set;
            number
        } else {
            self.sets.push(set);
            self.sets.len() as u32 - 1
        };
        self.by_content.insert(hash, number);
        number
    }

    /// The list with the same entries.
    fn twin_of(&self, set: &FieldSet) -> Option<u32> {
        let is_it = |number: u32| {
            let list = self.sets.get(number as usize);
            list.is_some_and(|list| list.entries == set.entries)
        };
        self.by_content.find(set.short_hash(), is_it)
    }

    fn move_row(&mut self, from: u32, to: u32) -> u32 {
        if from == to {
            return to;
        }
        if to != NO_FIELDS {
            let target = &mut self.sets[to as usize];
            self.idle -= usize::from(target.rows == 0);
            target.rows += 1;
        }
        if from != NO_FIELDS {
            let source = &mut self.sets[from as usize];
            source.rows -= 1;
            if source.rows == 0 {
                self.idle += 1;
                if source.entries.len() > WIDE {
                    self.release(from);
                } else if self.idle > self.idle_max() {
                    self.let_go();
                }
            }
        }
        to
    }

    fn add_in_place(&mut self, set: u32, field: FieldId, kind: ValueKind) -> u32 {
        self.unlink(set);
        let mut changed = std::mem::take(&mut self.sets[set as usize]);
        changed.add(field, kind);
        let twin = self.twin_of(&changed);
        if let Some(twin) = twin {
            self.free.push(set);
            let target = &mut self.sets[twin as usize];
            self.idle -= usize::from(target.rows == 0);
            target.rows += 1;
            return twin;
        }
        self.by_content.insert(changed.short_hash(), set);
        self.sets[set as usize] = changed;
        set
    }

    fn unlink(&mut self, set: u32) {
        let hash = self.sets[set as usize].short_hash();
        let was_there = self.by_content.remove(hash, set);
        debug_assert!(was_there, "every list is listed");
    }

    /// Frees an idle list. Steps that lead to it find that out.
    fn release(&mut self, set: u32) {
        self.unlink(set);
        self.sets[set as usize] = FieldSet::default();
        self.free.push(set);
        self.idle -= 1;
    }

    /// Idle lists beyond which some are let go of.
    fn idle_max(&self) -> usize {
        IDLE_MIN + self.sets.len() / IDLE_SHARE
    }

    /// Frees the idle ones of the next few lists.
    fn let_go(&mut self) {
        for _ in 0..LOOKS {
            self.hand = (self.hand + 1) % self.sets.len();
            let list = &self.sets[self.hand];
            if list.rows == 0 && !list.entries.is_empty() {
                self.release(self.hand as u32);
            }
        }
    }
}

impl FieldSet {
    fn of(entries: Vec<u32>) -> Self {
        Self {
            hash: entries.iter().fold(0_u64, |h, &e| h.wrapping_add(mix(e))),
            series: entries.iter().map(|&e| kinds_of(e).len() as u32).sum(),
            entries,
            rows: 0,
        }
    }

    /// What the table of lists goes by.
    fn short_hash(&self) -> u64 {
        self.hash >> 32
    }

    fn add(&mut self, field: FieldId, kind: ValueKind) {
        let (at, entry) = self.changed(field, kind);
        match at {
            Ok(i) => {
                self.hash = self.hash.wrapping_sub(mix(self.entries[i]));
                self.entries[i] = entry;
            }
            Err(i) => self.entries.insert(i, entry),
        }
        self.hash = self.hash.wrapping_add(mix(entry));
        self.series += 1;
    }

    /// A list with one more series and no rows.
    fn with(&self, field: FieldId, kind: ValueKind) -> Self {
        let mut entries = Vec::with_capacity(self.entries.len() + 1);
        entries.extend_from_slice(&self.entries);
        let mut next = Self {
            entries,
            rows: 0,
            ..*self
        };
        next.add(field, kind);
        next
    }

    /// Whether this is a list with one more series.
    fn is_with(&self, from: &Self, field: FieldId, kind: ValueKind) -> bool {
        if self.series != from.series + 1 {
            return false;
        }
        // Fields mostly come in their order.
        if from.entries.last().is_none_or(|last| last >> 8 < field.0) {
            let entry = field.0 << 8 | u32::from(KindSet::of(kind).byte());
            let (last, rest) = match self.entries.split_last() {
                Some((last, rest)) => (*last, rest),
                None => return false,
            };
            return last == entry && rest == from.entries;
        }
        let (at, entry) = from.changed(field, kind);
        let (i, behind) = match at {
            Ok(i) => (i, i + 1),
            Err(i) => (i, i),
        };
        self.entries.get(..i) == from.entries.get(..i)
            && self.entries.get(i) == Some(&entry)
            && self.entries.get(i + 1..) == from.entries.get(behind..)
    }

    /// Where the entry of a field is or belongs, and what it is with one more kind.
    fn changed(&self, field: FieldId, kind: ValueKind) -> (Result<usize, usize>, u32) {
        let at = find(&self.entries, field);
        let kinds = at.map_or(KindSet::EMPTY, |i| kinds_of(self.entries[i]));
        (at, field.0 << 8 | u32::from(kinds.with(kind).byte()))
    }
}

fn find(entries: &[u32], field: FieldId) -> Result<usize, usize> {
    entries.binary_search_by(|e| (e >> 8).cmp(&field.0))
}

fn kinds_of(entry: u32) -> KindSet {
    KindSet::from_byte(entry as u8).unwrap_or_default()
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
fn mix(entry: u32) -> u64 {
    let mut z = u64::from(entry).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grow(sets: &mut FieldSets, fields: impl IntoIterator<Item = u32>) -> u32 {
        fields.into_iter().fold(NO_FIELDS, |set, f| {
            sets.add(set, FieldId(f), ValueKind::F64)
        })
    }

    fn list(sets: &FieldSets, set: u32) -> Vec<u32> {
        sets.fields(set).map(|(f, _)| f.0).collect()
    }

    #[test]
    fn rows_with_the_same_fields_share_a_list_in_any_order() {
        let mut sets = FieldSets::new();
        let a = grow(&mut sets, 0..10);
        let b = grow(&mut sets, (0..10).rev());
        assert_eq!(a, b);
        assert_eq!(list(&sets, a), (0..10).collect::<Vec<_>>());
        let c = sets.add(a, FieldId(3), ValueKind::Str);
        assert_eq!(sets.kinds(c, FieldId(3)).first(), Some(ValueKind::F64));
        assert_eq!((sets.series(a), sets.series(c)), (10, 11));
    }

    #[test]
    fn wide_rows_leave_nothing_behind() {
        let mut sets = FieldSets::new();
        let a = grow(&mut sets, 0..5000);
        let b = grow(&mut sets, 0..5000);
        assert_eq!(a, b);
        assert_eq!(list(&sets, a).len(), 5000);
        assert!(sets.heap_bytes() < 200_000, "{} bytes", sets.heap_bytes());
    }

    #[test]
    fn idle_lists_are_swept_and_held_ones_are_not() {
        let mut sets = FieldSets::new();
        let mut held = Vec::new();
        for row in 0..3000_u32 {
            // Each row takes a path of its own.
            let fields: Vec<u32> = (0..12)
                .map(|i| (row * 7 + i * i * (row + 1)) % 4099)
                .collect();
            let mut unique = fields.clone();
            unique.sort_unstable();
            unique.dedup();
            let set = grow(&mut sets, unique.iter().rev().copied());
            held.push((set, unique));
        }
        for (set, fields) in held {
            assert_eq!(list(&sets, set), fields);
        }
        let used = sets.sets.len() - sets.free.len();
        assert!(used < 3000 + 3000 / 2 + IDLE_MIN + 64, "{used} lists");
    }

    #[test]
    fn lists_that_change_in_place_are_found_by_others() {
        let mut sets = FieldSets::new();
        // Enough unused lists that nothing more is remembered.
        let paths = (0..3 * IDLE_MIN as u32).map(|i| grow(&mut sets, [i * 3 + 900, i * 3 + 901]));
        let held: Vec<u32> = paths.collect();
        assert!(sets.idle >= sets.idle_max());
        let a = grow(&mut sets, 0..9);
        let b = grow(&mut sets, (0..9).rev());
        assert_eq!(a, b, "{:?} {:?}", list(&sets, a), list(&sets, b));
        // Two rows hold it now: the third gets a list of its own.
        let c = grow(&mut sets, 0..9);
        let c = sets.add(c, FieldId(9), ValueKind::F64);
        assert_eq!(list(&sets, a), (0..9).collect::<Vec<_>>());
        assert_eq!(list(&sets, c), (0..10).collect::<Vec<_>>());
        for (i, set) in (0..).zip(held) {
            assert_eq!(list(&sets, set), [i * 3 + 900, i * 3 + 901]);
        }
    }

    #[test]
    fn rows_with_fields_of_their_own_leave_little_beside_their_lists() {
        let mut sets = FieldSets::new();
        for row in 0..20_000_u32 {
            // Sixteen of 48 fields, hardly any two rows with the same.
            let mixed = mix(row);
            let fields = (0..48).filter(|field| mixed >> field & 1 == 1);
            let set = grow(&mut sets, fields.take(16));
            assert_eq!(sets.series(set), list(&sets, set).len() as u64);
        }
        let used = sets.sets.len() - sets.free.len();
        assert!(used < 20_000 * 5 / 4 + IDLE_MIN, "{used} lists");
        // Entries with their slack, the list, its place in the table.
        let bytes = sets.heap_bytes() / 20_000;
        assert!(bytes < 250, "{bytes} bytes a list");
    }
}
