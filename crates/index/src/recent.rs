//! Ids of short names that come again and again, in front of a dictionary: found in one line of the cache.

/// Entries; a power of two.
const ENTRIES: usize = 64;

/// Bytes of the longest name that is kept.
const SHORT: usize = 16;

/// Names met before any is kept: a dictionary of few rows needs no such table.
const WARM_UP: u32 = 1024;

/// Any odd number with many ones and zeros will do.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// A name of at most [`SHORT`] bytes: its first and its last eight, which may overlap, and how many it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Short {
    first: u64,
    last: u64,
    len: u32,
}

/// A table in which each name has one place, and the one met last has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recent {
    met: u32,
    /// Empty until [`WARM_UP`] names were met again.
    entries: Vec<(Short, u32)>,
}

impl Short {
    #[inline]
    fn of(name: &[u8]) -> Option<Self> {
        let (first, last) = match (name.first_chunk(), name.last_chunk()) {
            (Some(first), Some(last)) if name.len() <= SHORT => {
                (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
            }
            (Some(_), _) => return None,
            _ => match (name.first_chunk(), name.last_chunk()) {
                (Some(first), Some(last)) => (
                    u32::from_le_bytes(*first).into(),
                    u32::from_le_bytes(*last).into(),
                ),
                _ => (
                    name.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)),
                    0,
                ),
            },
        };
        Some(Self {
            first,
            last,
            len: name.len() as u32,
        })
    }

    #[inline]
    fn place(self) -> usize {
        let mixed =
            (self.first ^ self.last.rotate_left(29) ^ u64::from(self.len)).wrapping_mul(MIX);
        (mixed >> 40) as usize % ENTRIES
    }
}

impl Recent {
    #[inline]
    pub(crate) fn find(&self, name: &[u8]) -> Option<u32> {
        if self.entries.is_empty() {
            return None;
        }
        let short = Short::of(name)?;
        let (there, id) = self.entries.get(short.place())?;
        (*there == short).then_some(*id)
    }

    /// Notes a name that was there already.
    pub(crate) fn note(&mut self, name: &[u8], id: u32) {
        self.met = self.met.saturating_add(1);
        if self.met < WARM_UP {
            return;
        }
        let Some(short) = Short::of(name) else { return };
        if self.entries.is_empty() {
            // No name has a length of its own.
            let nothing = Short {
                first: 0,
                last: 0,
                len: u32::MAX,
            };
            self.entries = vec![(nothing, 0); ENTRIES];
        }
        if let Some(entry) = self.entries.get_mut(short.place()) {
            *entry = (short, id);
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<(Short, u32)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_under_their_own_id_or_not_at_all() {
        let mut recent = Recent::default();
        let text = "a\0b\0\0abcdefghijklmnopqrstuvwxyz";
        let mut names: Vec<&[u8]> = Vec::new();
        for begin in 0..text.len() {
            names.extend((begin..=text.len()).map(|end| &text.as_bytes()[begin..end]));
        }
        names.sort_unstable();
        names.dedup();
        for (id, name) in (0..).zip(&names) {
            assert_eq!(recent.find(name), None);
            recent.note(name, id);
            if names.len() < WARM_UP as usize {
                assert_eq!(recent.find(name), None, "nothing is kept yet");
            }
        }
        recent.met = WARM_UP;
        for (id, name) in (0..).zip(&names) {
            recent.note(name, id);
            assert_eq!(recent.find(name), (name.len() <= SHORT).then_some(id));
        }
        let mut there = 0;
        for (id, name) in (0..).zip(&names) {
            let found = recent.find(name);
            assert!(found.is_none_or(|found| found == id), "{name:?}");
            there += usize::from(found.is_some());
        }
        assert!(there > ENTRIES / 2, "{there} names have a place");
        assert!(recent.heap_bytes() >= ENTRIES * 24);
    }
}
