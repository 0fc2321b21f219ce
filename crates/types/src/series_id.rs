//! Identities: databases, partitions, rows, fields, series, log positions.

use std::fmt;
use std::num::NonZeroU64;

use crate::ValueKind;

/// Partitions of every database, fixed when a data directory is created.
pub const PARTITION_COUNT: usize = 16;

/// A database, numbered from 1 in creation order and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseId(pub u32);

/// One of the [`PARTITION_COUNT`] parts of a database: high bits of the hash of measurement and tag set, so
/// all fields of a line share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u8);

/// A tag set (measurement and sorted tags) within one (database, partition), numbered in creation order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub u32);

/// A field name within one (database, partition, measurement), numbered in creation order, below 2^20.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldId(pub u32);

impl FieldId {
    /// One more than the largest field number.
    pub const LIMIT: u32 = 1 << 20;
}

/// A series within a database: partition (8 bits), row (32), field (20), kind (4), packed from the high end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId(NonZeroU64);

impl SeriesId {
    /// Packs the parts.
    ///
    /// # Panics
    /// If the field number is not below [`FieldId::LIMIT`].
    pub fn new(partition: Partition, row: Row, field: FieldId, kind: ValueKind) -> Self {
        assert!(field.0 < FieldId::LIMIT, "field number past 2^20");
        let packed = u64::from(partition.0) << 56
            | u64::from(row.0) << 24
            | u64::from(field.0) << 4
            | u64::from(kind.number());
        Self(NonZeroU64::new(packed).expect("a kind is never 0"))
    }

    /// The id with this packed form, if its kind and partition exist.
    pub fn from_packed(packed: u64) -> Option<Self> {
        ValueKind::from_number((packed & 0xf) as u8)?;
        if (packed >> 56) as usize >= PARTITION_COUNT {
            return None;
        }
        NonZeroU64::new(packed).map(Self)
    }

    /// The packed form.
    pub fn packed(self) -> u64 {
        self.0.get()
    }

    /// Where the tag set lives.
    pub fn partition(self) -> Partition {
        Partition((self.packed() >> 56) as u8)
    }

    /// The tag set.
    pub fn row(self) -> Row {
        Row((self.packed() >> 24) as u32)
    }

    /// The field.
    pub fn field(self) -> FieldId {
        FieldId((self.packed() >> 4) as u32 & (FieldId::LIMIT - 1))
    }

    /// The kind of its values.
    ///
    /// # Panics
    /// Never: every constructor checks the kind.
    pub fn kind(self) -> ValueKind {
        ValueKind::from_number((self.packed() & 0xf) as u8).expect("kind checked at construction")
    }
}

impl fmt::Display for SeriesId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}/{}",
            self.partition().0,
            self.row().0,
            self.field().0,
            self.kind()
        )
    }
}

/// A log sequence number: one (batch, partition) of the whole store, from 1, in order, not dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No position is given from here on, and none is believed: 2^63, three centuries of one a nanosecond.
    pub const LIMIT: u64 = 1 << 63;

    /// The position that this number names, if it may be one.
    pub fn checked(number: u64) -> Option<Self> {
        (number < Self::LIMIT).then_some(Self(number))
    }
}

/// For each partition a batch touched, the LSN it got; what a client may wait for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position(pub Vec<(Partition, Lsn)>);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (partition, lsn)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{}:{}", partition.0, lsn.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_id_packs_and_unpacks_at_the_borders() {
        for (p, r, f, k) in [
            (0, 0, 0, ValueKind::F64),
            (15, u32::MAX, FieldId::LIMIT - 1, ValueKind::Str),
            (7, 1, 2, ValueKind::Bool),
        ] {
            let id = SeriesId::new(Partition(p), Row(r), FieldId(f), k);
            assert_eq!(
                (id.partition().0, id.row().0, id.field().0, id.kind()),
                (p, r, f, k)
            );
            assert_eq!(SeriesId::from_packed(id.packed()), Some(id));
        }
        assert_eq!(SeriesId::from_packed(0), None);
        assert_eq!(SeriesId::from_packed(16 << 56 | 1), None);
    }
}
