//! Where the records of series are that are away, those of a block of rows in one string of bytes.
//!
//! Records mostly lie in a file as their series do in the table, one behind the other. So an offset is kept where that ends
//! and every 256 records, and of each record its length, in as many bits as the longest of them needs above the shortest. A
//! hundred and twenty-eight rows of one series each take some 40 bytes and their lengths, in all about a byte a row.

use alluvium_types::FieldId;
use smallvec::SmallVec;

use crate::tail_files::RecordPlace;

/// Rows of a block: as many as a word of the set of its rows has bits.
pub(super) const ROWS: usize = u128::BITS as usize;
/// Number of fields of rows that do not have the same ones.
const LISTED: u8 = u8::MAX;
/// A number of a field: below 2^24.
const FIELD_BYTES: usize = 3;
/// An index, the number of a file, and an offset.
const ANCHOR_BYTES: usize = 10;
/// Records that are told by their lengths alone: what is summed to find one.
const ANCHOR_EVERY: usize = 256;
/// So that a length is read as one word wherever it begins.
const PAD_BYTES: usize = 4;

/// A series that is away: its row in the block, its field, and its record.
pub(crate) type AwayEntry = (u8, FieldId, RecordPlace);

/// Series of a block that are away, by row and field. Never empty.
///
/// The bytes are: the set of rows; the fields that each of them has, or rows and fields of all; the anchors, each the index
/// of a record and where it is; the shortest length and the bits of a difference; the differences.
#[derive(Debug, Clone)]
pub(crate) struct Packed(Box<[u8]>);

/// Which fields the rows have.
enum Fields<'a> {
    /// Each row these.
    Alike(&'a [[u8; FIELD_BYTES]]),
    /// Row and field of each series.
    Listed(&'a [[u8; 1 + FIELD_BYTES]]),
}

/// The parts of the bytes.
struct View<'a> {
    rows: u128,
    fields: Fields<'a>,
    anchors: &'a [[u8; ANCHOR_BYTES]],
    /// Shortest record.
    shortest: u32,
    width: u32,
    lens: &'a [u8],
    /// Bytes of rows and fields.
    keys: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word) as usize
}

fn field_of([low, middle, high]: [u8; FIELD_BYTES]) -> FieldId {
    FieldId(u32::from_le_bytes([low, middle, high, 0]))
}

impl<'a> View<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let (rows, rest) = bytes.split_at(16);
        let mut word = [0; 16];
        word.copy_from_slice(rows);
        let (fields, rest) = match rest[0] {
            LISTED => {
                let len = (1 + FIELD_BYTES) * u32_at(rest, 1);
                let (listed, rest) = rest[5..].split_at(len);
                (Fields::Listed(listed.as_chunks().0), rest)
            }
            count => {
                let (alike, rest) = rest[1..].split_at(FIELD_BYTES * usize::from(count));
                (Fields::Alike(alike.as_chunks().0), rest)
            }
        };
        let keys = bytes.len() - rest.len();
        let (anchors, rest) = rest[4..].split_at(ANCHOR_BYTES * u32_at(rest, 0));
        Self {
            rows: u128::from_le_bytes(word),
            fields,
            anchors: anchors.as_chunks().0,
            shortest: u32::from_le_bytes([rest[0], rest[1], rest[2], 0]),
            width: u32::from(rest[3]),
            lens: &rest[4..],
            keys,
        }
    }

    fn count(&self) -> usize {
        match self.fields {
            Fields::Alike(fields) => self.rows.count_ones() as usize * fields.len(),
            Fields::Listed(listed) => listed.len(),
        }
    }

    /// The indexes of a row's series.
    fn of_row(&self, row: u8) -> std::ops::Range<usize> {
        if self.rows >> row & 1 == 0 {
            return 0..0;
        }
        match self.fields {
            Fields::Alike(fields) => {
                let before = (self.rows & ((1 << row) - 1)).count_ones() as usize;
                before * fields.len()..(before + 1) * fields.len()
            }
            Fields::Listed(listed) => {
                let begin = listed.partition_point(|s| s[0] < row);
                begin..begin + listed[begin..].partition_point(|s| s[0] == row)
            }
        }
    }

    fn field(&self, index: usize) -> FieldId {
        match self.fields {
            Fields::Alike(fields) => field_of(fields[index % fields.len()]),
            Fields::Listed(listed) => {
                let [_, field @ ..] = listed[index];
                field_of(field)
            }
        }
    }

    fn index(&self, row: u8, field: FieldId) -> Option<usize> {
        let of_row = self.of_row(row);
        let (mut low, mut high) = (of_row.start, of_row.end);
        while low < high {
            let middle = low.midpoint(high);
            if self.field(middle) < field {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low < of_row.end && self.field(low) == field).then_some(low)
    }

    fn len(&self, index: usize) -> u64 {
        let bit = index * self.width as usize;
        let mut word = [0; 4];
        word.copy_from_slice(&self.lens[bit / 8..bit / 8 + 4]);
        let above = u32::from_le_bytes(word) >> (bit % 8) & ((1 << self.width) - 1);
        u64::from(self.shortest + above)
    }

    /// Of one of the anchors: index, file and offset.
    fn anchor(&self, number: usize) -> Option<(usize, u8, u64)> {
        let anchor = self.anchors.get(number)?;
        let mut word = [0; 8];
        word[..5].copy_from_slice(&anchor[5..]);
        Some((u32_at(anchor, 0), anchor[4], u64::from_le_bytes(word)))
    }

    fn place(&self, index: usize) -> Option<RecordPlace> {
        let behind = self.anchors.partition_point(|a| u32_at(a, 0) <= index);
        let (from, file, offset) = self.anchor(behind.checked_sub(1)?)?;
        let between: u64 = (from..index).map(|before| self.len(before)).sum();
        RecordPlace::new(file, offset + between, self.len(index))
    }

    /// All of them, by row and field.
    fn entries(&self) -> impl Iterator<Item = AwayEntry> {
        let mut anchors = (0..).map_while(|n| self.anchor(n)).peekable();
        let (mut file, mut offset) = (0, 0);
        let mut rows = self.rows;
        let mut left = 0;
        (0..self.count()).filter_map(move |index| {
            let row = match self.fields {
                Fields::Alike(fields) => {
                    if left == 0 {
                        left = fields.len();
                        if index > 0 {
                            rows &= rows - 1;
                        }
                    }
                    left -= 1;
                    rows.trailing_zeros() as u8
                }
                Fields::Listed(listed) => listed[index][0],
            };
            if let Some(anchor) = anchors.next_if(|(at, ..)| *at == index) {
                (_, file, offset) = anchor;
            }
            let (at, len) = (offset, self.len(index));
            offset += len;
            Some((row, self.field(index), RecordPlace::new(file, at, len)?))
        })
    }
}

impl Packed {
    /// Packs series, which ascend by row and field; `None` if there are none.
    pub(crate) fn new(entries: &[AwayEntry]) -> Option<Self> {
        let (first, _, _) = entries.first()?;
        let mut out: SmallVec<[u8; 512]> = SmallVec::new();
        let rows = entries
            .iter()
            .fold(0, |rows, (row, ..)| rows | 1_u128 << row);
        out.extend_from_slice(&rows.to_le_bytes());
        let width = entries.iter().take_while(|(row, ..)| row == first).count();
        let alike = &entries[..width];
        let are_alike = width < usize::from(LISTED)
            && entries.len() == width * rows.count_ones() as usize
            && entries.chunks(width).all(|of_row| {
                let mut pairs = of_row.iter().zip(alike);
                pairs.all(|(a, b)| a.0 == of_row[0].0 && a.1 == b.1)
            });
        let bytes_of = |field: FieldId| {
            let [low, middle, high, _] = field.0.to_le_bytes();
            [low, middle, high]
        };
        if are_alike {
            out.push(width as u8);
            for (_, field, _) in alike {
                out.extend_from_slice(&bytes_of(*field));
            }
        } else {
            out.push(LISTED);
            out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
            for (row, field, _) in entries {
                out.push(*row);
                out.extend_from_slice(&bytes_of(*field));
            }
        }
        let counted = out.len();
        out.extend_from_slice(&[0; 4]);
        let (mut anchors, mut next, mut since) = (0_u32, None, 0);
        for (index, (.., place)) in entries.iter().enumerate() {
            since += 1;
            if next != Some((place.file(), place.offset())) || since == ANCHOR_EVERY {
                (anchors, since) = (anchors + 1, 0);
                out.extend_from_slice(&(index as u32).to_le_bytes());
                out.push(place.file());
                out.extend_from_slice(&place.offset().to_le_bytes()[..5]);
            }
            next = Some((place.file(), place.offset() + place.len()));
        }
        out[counted..counted + 4].copy_from_slice(&anchors.to_le_bytes());
        let lens = entries.iter().map(|(.., place)| place.len());
        let shortest = lens.clone().min().unwrap_or(0);
        let longest = lens.clone().max().unwrap_or(0);
        let width = u64::BITS - (longest - shortest).leading_zeros();
        out.extend_from_slice(&shortest.to_le_bytes()[..3]);
        out.push(width as u8);
        // Fewer than 8 bits wait, and a difference has at most 24.
        let (mut word, mut bits) = (0_u64, 0);
        for len in lens {
            word |= (len - shortest) << bits;
            bits += width;
            while bits >= 8 {
                out.push(word as u8);
                (word, bits) = (word >> 8, bits - 8);
            }
        }
        out.extend_from_slice(&word.to_le_bytes()[..1]);
        out.extend_from_slice(&[0; PAD_BYTES]);
        Some(Self(out.as_slice().into()))
    }

    /// The record of a series.
    pub(super) fn get(&self, row: u8, field: FieldId) -> Option<RecordPlace> {
        let view = View::of(&self.0);
        view.place(view.index(row, field)?)
    }

    /// Whether a series is among these.
    pub(super) fn contains(&self, row: u8, field: FieldId) -> bool {
        View::of(&self.0).index(row, field).is_some()
    }

    /// Fields and records of a row's series.
    pub(super) fn of_row(&self, row: u8) -> SmallVec<[(FieldId, RecordPlace); 4]> {
        let view = View::of(&self.0);
        let series = view.of_row(row);
        let series = series.filter_map(|index| Some((view.field(index), view.place(index)?)));
        series.collect()
    }

    /// All series, by row and field.
    pub(crate) fn entries(&self) -> SmallVec<[AwayEntry; ROWS]> {
        View::of(&self.0).entries().collect()
    }

    pub(super) fn count(&self) -> usize {
        View::of(&self.0).count()
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.0.len()
    }

    /// Whether these are the same series, and none of `other` is in this file or has lost its points.
    pub(super) fn may_replace(&self, other: &Self, file: u8) -> bool {
        let (new, old) = (View::of(&self.0), View::of(&other.0));
        let pointless = RecordPlace::POINTLESS.file();
        let mut anchors = (0..).map_while(|n| old.anchor(n));
        self.0[..new.keys] == other.0[..old.keys]
            && anchors.all(|(_, of, _)| of != file && of != pointless)
    }

    /// Says in which file all of them are.
    pub(crate) fn set_file(&mut self, file: u8) {
        let view = View::of(&self.0);
        let (begin, count) = (view.keys + 4, view.anchors.len());
        let (anchors, _) = self.0[begin..].as_chunks_mut::<ANCHOR_BYTES>();
        let anchors = anchors.iter_mut().take(count);
        anchors.for_each(|anchor| anchor[4] = file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(row: u8, field: u32, file: u8, offset: u64, len: u64) -> AwayEntry {
        let place = RecordPlace::new(file, offset, len).unwrap();
        (row, FieldId(field), place)
    }

    fn check(entries: &[AwayEntry]) -> Packed {
        let packed = Packed::new(entries).unwrap();
        assert_eq!(packed.entries().as_slice(), entries);
        assert_eq!(packed.count(), entries.len());
        for (row, field, place) in entries {
            assert_eq!(packed.get(*row, *field), Some(*place));
            assert!(packed.contains(*row, *field));
        }
        for row in 0..ROWS as u8 {
            let here = entries.iter().filter(|e| e.0 == row);
            let here: Vec<_> = here.map(|e| (e.1, e.2)).collect();
            assert_eq!(packed.of_row(row).as_slice(), here);
            assert_eq!(packed.get(row, FieldId((1 << 24) - 1)), None);
        }
        packed
    }

    #[test]
    fn rows_that_are_alike_and_lie_together_take_about_a_byte_each() {
        let mut offset = 1 << 39;
        let entries: Vec<_> = (0..ROWS as u8)
            .map(|row| {
                let len = 60 + u64::from(row % 15);
                offset += len;
                entry(row, 7, 3, offset - len, len)
            })
            .collect();
        let packed = check(&entries);
        assert!(packed.heap_bytes() <= ROWS, "{} bytes", packed.heap_bytes());
    }

    #[test]
    fn any_rows_fields_files_and_lengths_come_back() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for round in 0..400 {
            let (alike, longest) = (draw(2) == 0, 1 << (1 + draw(24)));
            let most = if round % 40 == 0 { 300 } else { 12 };
            let fields: Vec<u32> = (0..=draw(most)).map(|f| (f * 3000) as u32).collect();
            let mut entries = Vec::new();
            let mut next = (0, 0);
            for row in (0..ROWS as u8).filter(|_| draw(3) > 0).collect::<Vec<_>>() {
                for field in &fields {
                    if !alike && draw(4) == 0 {
                        continue;
                    }
                    if draw(10) == 0 {
                        next = (draw(128) as u8, draw((1 << 40) - (1 << 36)));
                    }
                    let len = 1 + draw(longest - 1);
                    entries.push(entry(row, *field, next.0, next.1, len));
                    next.1 += len;
                }
            }
            if entries.is_empty() {
                continue;
            }
            let packed = check(&entries);
            let mut other = packed.clone();
            other.set_file(200);
            assert!(other.may_replace(&packed, 200), "round {round}");
            assert!(!packed.may_replace(&other, 200));
            let moved = other.entries();
            assert!(moved.iter().all(|(.., place)| place.file() == 200));
            assert!(moved.iter().zip(&entries).all(|(a, b)| {
                (a.0, a.1, a.2.offset(), a.2.len()) == (b.0, b.1, b.2.offset(), b.2.len())
            }));
            let some = draw(entries.len() as u64) as usize;
            entries[some].2 = RecordPlace::POINTLESS;
            let emptied = Packed::new(&entries).expect("they fitted before");
            assert!(!other.may_replace(&emptied, 200), "it has no points now");
            let fewer = Packed::new(&entries[..entries.len() - 1]);
            assert!(fewer.is_none_or(|fewer| !fewer.may_replace(&packed, 200)));
        }
    }
}
