//! Which field list a list becomes with one more series: the steps met last.

use alluvium_types::{FieldId, ValueKind};

/// Steps there is room for at first, and at most: powers of two.
const FEWEST: usize = 64;
const MOST: usize = 1 << 15;

/// How much larger the next size is.
const GROWTH: usize = 4;

/// No list has this number.
const EMPTY: u64 = u64::MAX;

/// Any odd number with many ones and zeros will do.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// A step has one place, and the one noted last has it. What is found may lead to a list that has been given up or changed
/// since: who asks looks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steps {
    /// Where a step begins, with what, and where it ends.
    places: Vec<(u64, u32)>,
    filled: usize,
}

fn key(set: u32, field: FieldId, kind: ValueKind) -> u64 {
    u64::from(set) << 32 | u64::from(field.0) << 8 | u64::from(kind.number())
}

impl Steps {
    #[inline]
    pub(crate) fn find(&self, set: u32, field: FieldId, kind: ValueKind) -> Option<u32> {
        let key = key(set, field, kind);
        let (found, to) = self.places.get(self.place(key))?;
        (*found == key).then_some(*to)
    }

    /// Notes where a step leads. Costs the clearing of a larger table now and then, a part of a millisecond at most.
    pub(crate) fn note(&mut self, set: u32, field: FieldId, kind: ValueKind, to: u32) {
        if self.filled * 2 >= self.places.len() && self.places.len() < MOST {
            // What was noted is soon noted again.
            let size = (self.places.len() * GROWTH).clamp(FEWEST, MOST);
            self.places = vec![(EMPTY, 0); size];
            self.filled = 0;
        }
        let key = key(set, field, kind);
        let at = self.place(key);
        if let Some(place) = self.places.get_mut(at) {
            self.filled += usize::from(place.0 == EMPTY);
            *place = (key, to);
        }
    }

    fn place(&self, key: u64) -> usize {
        let mixed = (key ^ key >> 29).wrapping_mul(MIX);
        (mixed >> 40) as usize & self.places.len().wrapping_sub(1)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.places.capacity() * size_of::<(u64, u32)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_as_noted_last_or_not_at_all() {
        let mut steps = Steps::default();
        assert_eq!(steps.find(0, FieldId(0), ValueKind::F64), None);
        for round in 0..3 {
            let mut found = 0;
            for set in 0..3000 {
                steps.note(set, FieldId(set % 50), ValueKind::F64, set + round);
            }
            for set in 0..3000 {
                let to = steps.find(set, FieldId(set % 50), ValueKind::F64);
                assert!(to.is_none_or(|to| to == set + round), "{set}");
                found += u32::from(to.is_some());
                assert_eq!(steps.find(set, FieldId(set % 50), ValueKind::Str), None);
                assert_eq!(steps.find(set, FieldId(set % 50 + 1), ValueKind::F64), None);
            }
            // What was noted before the table grew is noted again in the next round.
            assert!(found > [500, 1000, 2500][round as usize], "{found}");
        }
        for set in 0..1 << 20 {
            steps.note(set, FieldId(7), ValueKind::I64, set);
        }
        assert_eq!(steps.heap_bytes(), MOST * 16);
    }
}
