//! What a delete hides, as the log and the checkpoint's manifest keep it.
//!
//! Varint `(field + 1) << 2 | among` with 0 for all fields, begin of the range (zigzag), its length (varint), the
//! number of runs of rows, then for each run the rows skipped since the last one and the rows it has, less one.

use alluvium_codec::CodecError;
use alluvium_codec::varint::{get_i64, get_u64, put_i64, put_u64};
use alluvium_types::{FieldId, Row, RowSet, TimeRange, ValueKind};

use crate::group::count;

/// Values of which kinds a tombstone hides. Numeric siblings read as one series, texts as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Among {
    /// Of every kind.
    All,
    /// Only numbers.
    Numbers,
    /// Only texts.
    Texts,
}

impl Among {
    /// Whether values of this kind are meant.
    pub fn includes(self, kind: ValueKind) -> bool {
        match self {
            Self::All => true,
            Self::Numbers => kind.is_numeric(),
            Self::Texts => !kind.is_numeric(),
        }
    }

    fn number(self) -> u64 {
        match self {
            Self::All => 0,
            Self::Numbers => 1,
            Self::Texts => 2,
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        [Self::All, Self::Numbers, Self::Texts]
            .into_iter()
            .find(|a| a.number() == number)
    }
}

/// Hides the points of some series of one partition inside a range of time, as far as they were written before
/// the position of the batch that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// The rows.
    pub rows: RowSet,
    /// The field, numbered within the measurement of the rows; all fields if `None`.
    pub field: Option<FieldId>,
    /// Of which kinds.
    pub among: Among,
    /// When.
    pub range: TimeRange,
}

pub(crate) fn put_tombstone(tombstone: &Tombstone, out: &mut Vec<u8>) {
    let field = tombstone.field.map_or(0, |f| u64::from(f.0) + 1);
    put_u64(out, field << 2 | tombstone.among.number());
    let range = tombstone.range;
    put_i64(out, range.begin());
    put_u64(out, range.end().wrapping_sub(range.begin()) as u64);
    let runs = tombstone.rows.runs();
    put_u64(out, runs.len() as u64);
    let mut next = 0;
    for (first, last) in runs {
        put_u64(out, u64::from(first.0) - next);
        put_u64(out, u64::from(last.0 - first.0));
        next = u64::from(last.0) + 1;
    }
}

pub(crate) fn get_tombstone(r: &mut &[u8]) -> Result<Tombstone, CodecError> {
    let bad = |field, value| CodecError::Invalid { field, value };
    let head = get_u64(r)?;
    let among = Among::from_number(head & 3).ok_or(bad("kinds", head))?;
    let field = match head >> 2 {
        0 => None,
        n => Some(n - 1)
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n < FieldId::LIMIT)
            .map(|n| Some(FieldId(n)))
            .ok_or(bad("field", n))?,
    };
    let begin = get_i64(r)?;
    let length = get_u64(r)?;
    let end = i64::try_from(i128::from(begin) + i128::from(length));
    let range = end
        .ok()
        .and_then(|end| TimeRange::new(begin, end).ok())
        .ok_or(bad("range", length))?;
    let mut rows = RowSet::default();
    let mut next = 0_u64;
    for i in 0..count(r)? {
        let skipped = get_u64(r)?;
        let first = next
            .checked_add(skipped)
            .and_then(|n| u32::try_from(n).ok());
        let first = first.ok_or(bad("row", skipped))?;
        let more = get_u64(r)?;
        let last = u64::from(first).checked_add(more);
        let last = last.and_then(|n| u32::try_from(n).ok());
        let last = last.ok_or(bad("rows", more))?;
        // Neighbouring runs would be one: every set has one spelling.
        if (i > 0 && skipped == 0) || !rows.push_run(Row(first), Row(last)) {
            return Err(bad("row", skipped));
        }
        next = u64::from(last) + 1;
    }
    Ok(Tombstone {
        rows,
        field,
        among,
        range,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(tombstone: &Tombstone) -> Vec<u8> {
        let mut out = Vec::new();
        put_tombstone(tombstone, &mut out);
        out
    }

    #[test]
    fn every_set_comes_back_and_a_cut_one_is_refused() {
        let sets = [
            vec![0],
            vec![7, 8, 9, 100],
            (0..1000).collect(),
            vec![u32::MAX - 1],
        ];
        let ranges = [TimeRange::ALL, TimeRange::new(-5, 7).unwrap()];
        for rows in sets {
            for range in ranges {
                for (field, among) in [
                    (None, Among::All),
                    (Some(FieldId(3)), Among::Numbers),
                    (Some(FieldId(FieldId::LIMIT - 1)), Among::Texts),
                ] {
                    let rows = rows.iter().copied().map(Row).collect();
                    let tombstone = Tombstone {
                        rows,
                        field,
                        among,
                        range,
                    };
                    let bytes = bytes_of(&tombstone);
                    let mut rest = bytes.as_slice();
                    assert_eq!(get_tombstone(&mut rest).unwrap(), tombstone);
                    assert!(rest.is_empty());
                    for cut in 0..bytes.len() {
                        assert!(get_tombstone(&mut &bytes[..cut]).is_err());
                    }
                }
            }
        }
    }

    #[test]
    fn a_million_neighbours_take_a_few_bytes() {
        let rows = if cfg!(miri) { 1_000 } else { 1_000_000 };
        let tombstone = Tombstone {
            rows: (0..rows).map(Row).collect(),
            field: None,
            among: Among::All,
            range: TimeRange::ALL,
        };
        assert!(bytes_of(&tombstone).len() < 32);
    }

    #[test]
    fn other_spellings_and_impossible_numbers_are_refused() {
        let row_too_high = [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x1f, 0];
        let neighbours = [0, 0, 0, 2, 0, 0, 0, 0];
        let among = [3, 0, 0, 0];
        let mut range = vec![0];
        put_i64(&mut range, i64::MAX);
        put_u64(&mut range, 1);
        range.push(0);
        for bytes in [
            row_too_high.as_slice(),
            &neighbours,
            &among,
            range.as_slice(),
        ] {
            assert!(get_tombstone(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
