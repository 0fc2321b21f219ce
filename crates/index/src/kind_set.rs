//! Which kinds of value one field of one row has had.

use std::fmt;

use alluvium_types::ValueKind;

/// A set of [`ValueKind`] that remembers which came first: the kind that wins when a reader asks for one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KindSet(u8);

/// Low bits: one for each kind. High three bits: the number of the first kind.
const MASK: u8 = 0x1f;

impl KindSet {
    /// No kind at all: the series does not exist.
    pub const EMPTY: Self = Self(0);

    /// The set of one kind.
    pub fn of(kind: ValueKind) -> Self {
        Self(bit(kind) | kind.number() << 5)
    }

    /// The set with one more kind.
    #[must_use]
    pub fn with(self, kind: ValueKind) -> Self {
        if self.is_empty() {
            Self::of(kind)
        } else {
            Self(self.0 | bit(kind))
        }
    }

    /// The kinds that are in both sets; the first one stays the first if it is among them.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        let first = self.first().filter(|k| other.contains(*k));
        let rest = self.iter().filter(|k| other.contains(*k));
        first.into_iter().chain(rest).fold(Self::EMPTY, Self::with)
    }

    /// Whether the kind is in the set.
    pub fn contains(self, kind: ValueKind) -> bool {
        self.0 & bit(kind) != 0
    }

    /// Whether there is no kind.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of kinds.
    pub fn len(self) -> usize {
        (self.0 & MASK).count_ones() as usize
    }

    /// The kind that was created first; `None` if empty.
    pub fn first(self) -> Option<ValueKind> {
        ValueKind::from_number(self.0 >> 5)
    }

    /// The kinds, by number.
    pub fn iter(self) -> impl Iterator<Item = ValueKind> {
        ValueKind::ALL
            .into_iter()
            .filter(move |k| self.contains(*k))
    }

    /// The byte that stands for the set, on disk too.
    pub(crate) fn byte(self) -> u8 {
        self.0
    }

    /// The set of a byte from disk, if it is one: not empty, the first kind in it.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        let set = Self(byte);
        set.first().filter(|k| set.contains(*k)).map(|_| set)
    }
}

fn bit(kind: ValueKind) -> u8 {
    1 << (kind.number() - 1)
}

impl fmt::Debug for KindSet {
    /// The first kind, then the others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first();
        f.debug_list()
            .entries(first)
            .entries(self.iter().filter(|k| Some(*k) != first))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_kind_is_kept() {
        let set = KindSet::EMPTY.with(ValueKind::Str).with(ValueKind::F64);
        assert_eq!(set.first(), Some(ValueKind::Str));
        assert_eq!(set.len(), 2);
        assert_eq!(set.with(ValueKind::Str), set);
        assert_eq!(
            set.iter().collect::<Vec<_>>(),
            [ValueKind::F64, ValueKind::Str]
        );
        assert_eq!(format!("{set:?}"), "[Str, F64]");
        assert_eq!(KindSet::EMPTY.first(), None);
    }

    #[test]
    fn bytes_are_checked() {
        let good = (0..=255).filter_map(KindSet::from_byte).count();
        assert_eq!(good, 5 * 16, "five first kinds, any set of the four others");
        for kind in ValueKind::ALL {
            assert_eq!(
                KindSet::from_byte(KindSet::of(kind).byte()),
                Some(KindSet::of(kind))
            );
        }
    }
}
