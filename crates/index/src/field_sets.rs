//! Which fields a row has, shared between rows.
//!
//! Rows of one measurement mostly carry the same fields, so each distinct list of (field, kinds) is kept once
//! and a row holds its number. Adding a field to a row follows a remembered transition from list to list: ten
//! fields of a new row cost ten look-ups in a small map. Lists that no row holds any more (the steps on the
//! way) are swept once they outnumber the others; lists of more than [`WIDE`] fields are not remembered as
//! steps but changed in place, so that a row with 10,000 fields costs no more than its own list.

use alluvium_types::{FieldId, ValueKind};
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};

use crate::kind_set::KindSet;

/// Fields above which a list is wide.
const WIDE: usize = 64;

/// Unused lists that are kept in any case.
const IDLE_MIN: usize = 1024;

/// The number of the empty list.
pub(crate) const NO_FIELDS: u32 = 0;

/// All distinct field lists of a partition.
#[derive(Debug, Clone)]
pub(crate) struct FieldSets {
    sets: Vec<FieldSet>,
    free: Vec<u32>,
    by_content: HashTable<u32>,
    /// (list, field, kind) to the list with that added; narrow lists only.
    steps: HashMap<u64, u32, FixedState>,
    /// Lists with no rows, [`NO_FIELDS`] apart.
    idle: usize,
}

#[derive(Debug, Clone, Default)]
struct FieldSet {
    /// field << 8 | byte of the kind set, ascending.
    entries: Vec<u32>,
    rows: u32,
    /// Sum of the mixed entries, so that a change of one costs the same at any width.
    hash: u64,
}

impl FieldSets {
    pub(crate) fn new() -> Self {
        Self {
            sets: vec![FieldSet::default()],
            free: Vec::new(),
            by_content: HashTable::new(),
            steps: HashMap::with_hasher(FixedState::default()),
            idle: 0,
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
        self.entries(set)
            .iter()
            .map(|&e| kinds_of(e).len() as u64)
            .sum()
    }

    /// Whether a list that a row holds has a field of several kinds.
    pub(crate) fn any_mixed(&self) -> bool {
        let mixed = |set: &FieldSet| set.entries.iter().any(|e| kinds_of(*e).len() > 1);
        self.sets.iter().any(|set| set.rows > 0 && mixed(set))
    }

    /// Moves one row from `set` to the list with (field, kind) added, which is not in it yet.
    pub(crate) fn add(&mut self, set: u32, field: FieldId, kind: ValueKind) -> u32 {
        debug_assert!(!self.kinds(set, field).contains(kind));
        let step = u64::from(set) << 32 | u64::from(field.0) << 8 | u64::from(kind.number());
        if let Some(&to) = self.steps.get(&step) {
            return self.move_row(set, to);
        }
        let from = &self.sets[set as usize];
        if from.entries.len() > WIDE && from.rows == 1 {
            return self.add_in_place(set, field, kind);
        }
        // Steps lead to narrow lists only: wide ones change in place and are freed at once.
        let remembered = from.entries.len() < WIDE;
        let mut next = FieldSet {
            entries: from.entries.clone(),
            rows: 0,
            hash: from.hash,
        };
        next.add(field, kind);
        let to = self.intern(next);
        if remembered {
            self.steps.insert(step, to);
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
        let hash = entries.iter().fold(0_u64, |h, &e| h.wrapping_add(mix(e)));
        let to = self.intern(FieldSet {
            entries,
            rows: 0,
            hash,
        });
        self.move_row(set, to)
    }

    /// As [`FieldSets::replace`] for a row whose target another row already holds.
    pub(crate) fn join(&mut self, set: u32, to: u32) -> u32 {
        self.move_row(set, to)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let entries: usize = self.sets.iter().map(|s| s.entries.capacity() * 4).sum();
        entries
            + self.sets.capacity() * size_of::<FieldSet>()
            + self.free.capacity() * 4
            + self.by_content.allocation_size()
            + self.steps.allocation_size()
    }

    fn entries(&self, set: u32) -> &[u32] {
        self.sets
            .get(set as usize)
            .map_or(&[], |s| s.entries.as_slice())
    }

    fn intern(&mut self, set: FieldSet) -> u32 {
        let sets = &self.sets;
        if let Some(&found) = self
            .by_content
            .find(set.hash, |&i| sets[i as usize].entries == set.entries)
        {
            return found;
        }
        let hash = set.hash;
        self.idle += 1;
        let number = if let Some(number) = self.free.pop() {
            self.sets[number as usize] = set;
            number
        } else {
            self.sets.push(set);
            self.sets.len() as u32 - 1
        };
        let sets = &self.sets;
        self.by_content
            .insert_unique(hash, number, |&i| sets[i as usize].hash);
        number
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
                } else if self.idle > IDLE_MIN + self.sets.len() / 2 {
                    self.sweep();
                }
            }
        }
        to
    }

    fn add_in_place(&mut self, set: u32, field: FieldId, kind: ValueKind) -> u32 {
        self.unlink(set);
        let mut changed = std::mem::take(&mut self.sets[set as usize]);
        changed.add(field, kind);
        let sets = &self.sets;
        let twin = self
            .by_content
            .find(changed.hash, |&i| {
                sets[i as usize].entries == changed.entries
            })
            .copied();
        if let Some(twin) = twin {
            self.free.push(set);
            let target = &mut self.sets[twin as usize];
            self.idle -= usize::from(target.rows == 0);
            target.rows += 1;
            return twin;
        }
        let hash = changed.hash;
        self.sets[set as usize] = changed;
        let sets = &self.sets;
        self.by_content
            .insert_unique(hash, set, |&i| sets[i as usize].hash);
        set
    }

    fn unlink(&mut self, set: u32) {
        let hash = self.sets[set as usize].hash;
        if let Ok(entry) = self.by_content.find_entry(hash, |&i| i == set) {
            entry.remove();
        }
    }

    /// Frees an idle list that no step leads to.
    fn release(&mut self, set: u32) {
        self.unlink(set);
        self.sets[set as usize] = FieldSet::default();
        self.free.push(set);
        self.idle -= 1;
    }

    fn sweep(&mut self) {
        self.steps.clear();
        for set in 1..self.sets.len() as u32 {
            let it = &self.sets[set as usize];
            if it.rows == 0 && !it.entries.is_empty() {
                self.release(set);
            }
        }
        self.steps.shrink_to_fit();
    }
}

impl FieldSet {
    fn add(&mut self, field: FieldId, kind: ValueKind) {
        let at = find(&self.entries, field);
        let kinds = at.map_or(KindSet::EMPTY, |i| kinds_of(self.entries[i]));
        let entry = field.0 << 8 | u32::from(kinds.with(kind).byte());
        match at {
            Ok(i) => {
                self.hash = self.hash.wrapping_sub(mix(self.entries[i]));
                self.entries[i] = entry;
            }
            Err(i) => self.entries.insert(i, entry),
        }
        self.hash = self.hash.wrapping_add(mix(entry));
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
        assert!(used < 2 * 3000 + 2 * IDLE_MIN + 64, "{used} lists");
    }
}
