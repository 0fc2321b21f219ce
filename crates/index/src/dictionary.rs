//! Interned names: string to dense id and back.

use foldhash::quality::RandomState;
use std::hash::BuildHasher;
use std::hint::black_box;

use memchr::memmem::Finder;

use crate::blobs::Blobs;
use crate::partition::BATCH;
use crate::recent::Recent;
use crate::selector::{CompiledMatcher, CompiledTest};
use crate::table::{Slot, Table};

/// Names numbered from 0 in the order they came.
#[derive(Debug, Clone)]
pub(crate) struct Dictionary {
    names: Blobs,
    table: Table<u64>,
    // Random per dictionary: tag values come from strangers. Ids do not depend on it.
    hasher: RandomState,
    recent: Recent,
}

impl Dictionary {
    pub(crate) fn new() -> Self {
        Self {
            names: Blobs::default(),
            table: Table::new(),
            hasher: RandomState::default(),
            recent: Recent::default(),
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.names.len() as u32
    }

    fn hash(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name) >> 32
    }

    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.table.find(self.hash(name.as_bytes()), |id| {
            self.names.get(id as usize) == Some(name.as_bytes())
        })
    }

    /// The id of a name, new if need be. The caller bounds the number of names below `u32::MAX`.
    pub(crate) fn intern(&mut self, name: &str) -> u32 {
        self.intern_bytes(name.as_bytes())
    }

    /// As [`Self::intern`] of the bytes of a string.
    pub(crate) fn intern_bytes(&mut self, name: &[u8]) -> u32 {
        if let Some(id) = self.recent.find(name) {
            return id;
        }
        self.intern_hashed(name, self.hash(name))
    }

    fn intern_hashed(&mut self, name: &[u8], hash: u64) -> u32 {
        let names = &self.names;
        let found = self
            .table
            .find(hash, |id| names.get(id as usize) == Some(name));
        if let Some(id) = found {
            self.recent.note(name, id);
            return id;
        }
        let id = self.len();
        self.names.push(name);
        self.table.insert(hash, id);
        id
    }

    /// As [`Self::intern_bytes`] of some names, in their order. The cache misses of those that were not met lately overlap.
    pub(crate) fn intern_all(&mut self, names: &[&[u8]], ids: &mut Vec<u32>) {
        for names in names.chunks(BATCH) {
            let mut hashes = [None; BATCH];
            for (hash, name) in hashes.iter_mut().zip(names) {
                if self.recent.find(name).is_none() {
                    let wanted = self.hash(name);
                    // For the cache alone: a name among these may move what is there.
                    black_box(self.table.probe(wanted));
                    *hash = Some(wanted);
                }
            }
            for (hash, name) in hashes.iter().zip(names) {
                // A name that was met lately may be met no more.
                let met = self.recent.find(name);
                ids.push(met.unwrap_or_else(|| {
                    let hash = hash.unwrap_or_else(|| self.hash(name));
                    self.intern_hashed(name, hash)
                }));
            }
        }
    }

    /// Appends a name that is taken for new, and cannot be found before [`Self::list_from`].
    pub(crate) fn push_unlisted(&mut self, name: &str) -> u32 {
        self.names.push(name.as_bytes());
        self.len() - 1
    }

    /// Lets the names from `from` on, which were only pushed, be found; `false` if one of them was there already.
    pub(crate) fn list_from(&mut self, from: u32) -> bool {
        let name = |id: u32| self.names.get(id as usize);
        let hashed = |id| Slot::new(self.hash(name(id).unwrap_or_default()), id);
        let mut slots: Vec<u64> = (from..self.len()).map(hashed).collect();
        slots.sort_unstable();
        let twice = slots.chunk_by(|a, b| a.same_hash(*b)).any(|same| {
            let is_there = |slot: &u64| {
                let name = name(slot.id());
                let is_it = |id| self.names.get(id as usize) == name;
                from > 0 && self.table.find(*slot >> 32, is_it).is_some()
            };
            let behind = |at: usize| same.get(at + 1..).unwrap_or_default();
            (0..same.len()).any(|at| {
                is_there(&same[at])
                    || behind(at)
                        .iter()
                        .any(|s| name(s.id()) == name(same[at].id()))
            })
        });
        self.table.add_sorted(slots);
        !twice
    }

    pub(crate) fn name(&self, id: u32) -> Option<&str> {
        // Only whole strings are ever pushed.
        std::str::from_utf8(self.names.get(id as usize)?).ok()
    }

    /// The bytes of a name, which are in the same order.
    pub(crate) fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.names.get(id as usize)
    }

    /// All names, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> + '_ {
        self.names
            .iter()
            .map(|name| std::str::from_utf8(name).unwrap_or_default())
    }

    /// The ids of the names for which an expression holds, not yet negated, ascending. Costs about 4 ns a name, and what an
    /// expression costs that is no plain text.
    pub(crate) fn matching(&self, matcher: &CompiledMatcher) -> Vec<u32> {
        let names = &self.names;
        let is_text =
            |name: &[u8], holds: &dyn Fn(&str) -> bool| std::str::from_utf8(name).is_ok_and(holds);
        match &matcher.test {
            CompiledTest::Begins(text) => names.beginning(text.as_bytes(), |_| true),
            CompiledTest::Ends(text) => {
                names.beginning(b"", |name| name.ends_with(text.as_bytes()))
            }
            CompiledTest::Contains(text) if !text.is_empty() => {
                names.containing(&Finder::new(text.as_bytes()))
            }
            CompiledTest::Regex { regex, prefix } => match matcher.automaton() {
                Some(automaton) => names.beginning(prefix.as_bytes(), |name| {
                    let end = name.iter().fold(automaton.begin(), |state, byte| {
                        automaton.step(state, *byte)
                    });
                    automaton.accepts(end)
                }),
                None => names.beginning(prefix.as_bytes(), |name| {
                    is_text(name, &|text| regex.is_match(text))
                }),
            },
            test => names.beginning(b"", |name| is_text(name, &|text| test.matches(text))),
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.names.heap_bytes() + self.table.heap_bytes() + self.recent.heap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dense_and_stable() {
        let mut names = Dictionary::new();
        for i in 0..5000 {
            assert_eq!(names.find(&format!("n{i}")), None);
            assert_eq!(names.intern(&format!("n{i}")), i);
        }
        for i in 0..5000 {
            assert_eq!(names.intern(&format!("n{i}")), i);
            assert_eq!(names.name(i), Some(format!("n{i}").as_str()));
        }
        assert_eq!(names.len(), 5000);
        assert_eq!(names.name(5000), None);
        assert!(names.iter().enumerate().all(|(i, n)| n == format!("n{i}")));
    }
}
