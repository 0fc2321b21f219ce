//! Blocks of values: up to 512 of a key in the order of their bytes, each with its rows.
//!
//! Lengths, texts and rows are columns: an expression walks the lengths and the bytes that differ, and the rows of a value
//! are at a place that its number tells, so only those of values that match are looked at. Readers get bytes whose
//! checksum held; they still return `None` on what makes no sense as far as they look at it.

use std::cmp::Ordering;
use std::ops::Range;

use memchr::memmem::Finder;

use crate::automaton::{Automaton, State};
use crate::segment::lanes;
use crate::segment::layout::{ALL_SINGLE, BLOCK_VALUES, INLINE_ROWS, WIDE_LENGTHS};
use crate::segment::packed::{bits_of, pack, packed_bytes, unpack};
use crate::varint::{get_u32, get_u64, put_u64};

/// Where the rows of a value are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueRows {
    /// These of the block's rows, for [`ValueBlock::row`].
    Inline(Range<u32>),
    /// A serialised bitmap elsewhere in the file: offset, bytes.
    Bitmap(u64, u32),
}

/// Gathers values in ascending order.
#[derive(Debug, Default)]
pub(crate) struct ValueBlockBuilder {
    shared: Vec<u32>,
    suffixes: Vec<u32>,
    text: Vec<u8>,
    counts: Vec<u8>,
    rows: Vec<u32>,
    places: Vec<u8>,
    last: String,
    pub(crate) count: u32,
}

impl ValueBlockBuilder {
    pub(crate) fn is_full(&self) -> bool {
        self.count == BLOCK_VALUES
    }

    /// Adds a value whose rows, counted from the segment's first, are these few.
    pub(crate) fn push_inline(&mut self, value: &str, rows: impl ExactSizeIterator<Item = u32>) {
        self.push_text(value);
        debug_assert!((1..=INLINE_ROWS).contains(&rows.len()));
        self.counts.push(rows.len() as u8);
        self.rows.extend(rows);
    }

    /// Adds a value whose bitmap is elsewhere.
    pub(crate) fn push_bitmap(&mut self, value: &str, offset: u64, bytes: u32) {
        self.push_text(value);
        self.counts.push(0);
        put_u64(&mut self.places, offset);
        put_u64(&mut self.places, bytes.into());
    }

    fn push_text(&mut self, value: &str) {
        let pairs = self.last.as_bytes().iter().zip(value.as_bytes());
        let shared = pairs.take_while(|(a, b)| a == b).count();
        self.shared.push(shared as u32);
        self.suffixes.push((value.len() - shared) as u32);
        self.text.extend_from_slice(&value.as_bytes()[shared..]);
        self.last.clear();
        self.last.push_str(value);
        self.count += 1;
    }

    /// The block, and an empty builder again.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let is_single = self.counts.iter().all(|count| *count == 1);
        let lengths = || self.shared.iter().chain(&self.suffixes);
        let is_wide = lengths().any(|length| *length > u8::MAX.into());
        let width = bits_of(self.rows.iter().copied().max().unwrap_or(0));
        let mut out = Vec::with_capacity(self.text.len() + self.rows.len() * 4 + 2048);
        put_u64(&mut out, self.count.into());
        let single = if is_single { ALL_SINGLE } else { 0 };
        let wide = if is_wide { WIDE_LENGTHS } else { 0 };
        out.push(single | wide);
        out.push(width as u8);
        put_u64(&mut out, self.text.len() as u64);
        for length in lengths() {
            let bytes = length.to_le_bytes();
            out.extend_from_slice(if is_wide { &bytes } else { &bytes[..1] });
        }
        out.extend_from_slice(&self.text);
        if !is_single {
            out.extend_from_slice(&self.counts);
        }
        pack(self.rows.iter().copied(), width, &mut out);
        out.extend_from_slice(&self.places);
        self.shared.clear();
        self.suffixes.clear();
        self.text.clear();
        self.counts.clear();
        self.rows.clear();
        self.places.clear();
        self.last.clear();
        self.count = 0;
        out
    }
}

/// A value block as it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ValueBlock<'a> {
    pub(crate) count: u32,
    is_wide: bool,
    /// For each value the bytes it shares with the one before.
    shared: &'a [u8],
    /// For each value the bytes behind those.
    suffixes: &'a [u8],
    text: &'a [u8],
    /// Rows of each value; `None` if every one has one.
    counts: Option<&'a [u8]>,
    rows: &'a [u8],
    width: u32,
    places: &'a [u8],
}

impl<'a> ValueBlock<'a> {
    pub(crate) fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let count = get_u32(&mut bytes).filter(|n| *n <= BLOCK_VALUES)?;
        let (&[form, width], rest) = bytes.split_first_chunk()?;
        bytes = rest;
        if form & !(ALL_SINGLE | WIDE_LENGTHS) != 0 || width > 32 {
            return None;
        }
        let text = usize::try_from(get_u64(&mut bytes)?).ok()?;
        let is_wide = form & WIDE_LENGTHS != 0;
        let column = count as usize * if is_wide { 4 } else { 1 };
        let (shared, bytes) = bytes.split_at_checked(column)?;
        let (suffixes, bytes) = bytes.split_at_checked(column)?;
        let (text, bytes) = bytes.split_at_checked(text)?;
        let (counts, rows, bytes) = if form & ALL_SINGLE != 0 {
            (None, count, bytes)
        } else {
            let (counts, bytes) = bytes.split_at_checked(count as usize)?;
            if counts.iter().any(|n| usize::from(*n) > INLINE_ROWS) {
                return None;
            }
            (
                Some(counts),
                counts.iter().map(|n| u32::from(*n)).sum(),
                bytes,
            )
        };
        let width = width.into();
        let (rows, places) = bytes.split_at_checked(packed_bytes(rows, width))?;
        Some(Self {
            count,
            is_wide,
            shared,
            suffixes,
            text,
            counts,
            rows,
            width,
            places,
        })
    }

    /// The shared bytes and the rest of each value; `W` is the bytes of a length. `None` for what is not there.
    #[inline]
    fn texts<const W: usize>(&self) -> impl Iterator<Item = Option<(usize, &'a [u8])>> {
        let (shared, suffixes) = (
            self.shared.as_chunks::<W>().0,
            self.suffixes.as_chunks::<W>().0,
        );
        let mut rest = self.text;
        shared.iter().zip(suffixes).map(move |(shared, suffix)| {
            let (suffix, after) = rest.split_at_checked(length(suffix))?;
            rest = after;
            Some((length(shared), suffix))
        })
    }

    /// Calls `visit` with each value and its place in the block, until it answers `false`.
    pub(crate) fn values(&self, visit: impl FnMut(u32, &str) -> bool) -> Option<()> {
        if self.is_wide {
            spell(self.texts::<4>(), visit)
        } else {
            spell(self.texts::<1>(), visit)
        }
    }

    /// The place of a value, or none. Bytes that a value shares with the one before are not looked at again.
    pub(crate) fn find(&self, value: &[u8]) -> Option<Range<u32>> {
        if self.is_wide {
            find(self.texts::<4>(), value)
        } else {
            find(self.texts::<1>(), value)
        }
    }

    /// The places of the values that an expression accepts. What a value shares with the one before it was decided there:
    /// only bytes that differ cost a step. `states` saves an allocation.
    pub(crate) fn accepted(
        &self,
        automaton: &Automaton,
        states: &mut Vec<State>,
    ) -> Option<ValueSet> {
        if self.is_wide {
            accepted(self.texts::<4>(), automaton, states)
        } else {
            accepted(self.texts::<1>(), automaton, states)
        }
    }

    /// The places of the values that contain a text, which is not empty. Values that differ in few bytes are spelt side by
    /// side and searched at once; of others, only where a byte that a value does not share with the one before may end the
    /// text is more than that byte looked at. `value` saves an allocation.
    pub(crate) fn containing(&self, text: &Finder<'_>, value: &mut Vec<u8>) -> Option<ValueSet> {
        if self.spell(text.needle(), value).is_some() {
            return Some(lanes::containing(value, self.count, text));
        }
        if self.is_wide {
            containing(self.texts::<4>(), text.needle(), value)
        } else {
            containing(self.texts::<1>(), text.needle(), value)
        }
    }

    /// As [`lanes::spell`] does.
    pub(crate) fn spell(&self, wanted: &[u8], out: &mut Vec<u8>) -> Option<()> {
        if self.is_wide {
            return None;
        }
        lanes::spell(self.shared, self.suffixes, self.text, wanted, out)
    }

    /// Where the rows of each value are, in order; nothing more behind a place that makes no sense.
    pub(crate) fn rows(&self) -> RowLists<'a> {
        RowLists {
            counts: self.counts,
            places: self.places,
            next: 0,
            row: 0,
        }
    }

    /// One of the block's rows, counted from the segment's first.
    #[inline]
    pub(crate) fn row(&self, at: u32) -> Option<u32> {
        unpack(self.rows, at, self.width)
    }
}

/// Walks over the values of a block for their rows.
#[derive(Debug, Clone)]
pub(crate) struct RowLists<'a> {
    counts: Option<&'a [u8]>,
    places: &'a [u8],
    next: u32,
    /// Rows of the values before.
    row: u32,
}

impl RowLists<'_> {
    /// Those of a value, which is behind all asked for before. Costs a look at each between.
    #[inline]
    pub(crate) fn of(&mut self, value: u32) -> Option<ValueRows> {
        let Some(counts) = self.counts else {
            return Some(ValueRows::Inline(value..value + 1));
        };
        let between = counts.get(self.next as usize..value as usize)?;
        let bitmaps: usize = between.iter().map(|count| usize::from(*count == 0)).sum();
        self.places = skip(self.places, 2 * bitmaps)?;
        self.row += between.iter().map(|count| u32::from(*count)).sum::<u32>();
        self.next = value;
        self.step(counts)
    }

    fn step(&mut self, counts: &[u8]) -> Option<ValueRows> {
        let count = *counts.get(self.next as usize)?;
        self.next += 1;
        if count == 0 {
            let offset = get_u64(&mut self.places)?;
            return Some(ValueRows::Bitmap(offset, get_u32(&mut self.places)?));
        }
        let begin = self.row;
        self.row += u32::from(count);
        Some(ValueRows::Inline(begin..self.row))
    }
}

/// What is behind so many numbers.
fn skip(bytes: &[u8], numbers: usize) -> Option<&[u8]> {
    let Some(last) = numbers.checked_sub(1) else {
        return Some(bytes);
    };
    let mut ends = (1..).zip(bytes).filter(|(_, byte)| **byte < 0x80);
    bytes.get(ends.nth(last)?.0..)
}

/// Some of the values of a block, by their places.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueSet([u64; BLOCK_VALUES as usize / 64]);

impl ValueSet {
    /// Adds a value if `is_in`; one that is no block's is nothing.
    #[inline]
    pub(crate) fn add(&mut self, value: usize, is_in: bool) {
        if let Some(word) = self.0.get_mut(value / 64) {
            *word |= u64::from(is_in) << (value % 64);
        }
    }

    /// The others among the first `count`.
    pub(crate) fn inverse(&self, count: u32) -> Self {
        let mut others = Self::default();
        for (i, (other, word)) in (0..).zip(others.0.iter_mut().zip(self.0)) {
            let here = count.saturating_sub(i * 64).min(64);
            *other = !word & u64::MAX.checked_shr(64 - here).unwrap_or(0);
        }
        others
    }

    /// Those in it, ascending.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        (0..).zip(self.0).flat_map(|(i, mut word)| {
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(i * 64 + bit)
            })
        })
    }
}

#[inline]
fn length<const W: usize>(bytes: &[u8; W]) -> usize {
    bytes
        .iter()
        .rev()
        .fold(0, |length, byte| length << 8 | usize::from(*byte))
}

fn spell<'a>(
    texts: impl Iterator<Item = Option<(usize, &'a [u8])>>,
    mut visit: impl FnMut(u32, &str) -> bool,
) -> Option<()> {
    let mut value: Vec<u8> = Vec::with_capacity(64);
    for (i, text) in (0..).zip(texts) {
        let (shared, suffix) = text?;
        if shared > value.len() {
            return None;
        }
        value.truncate(shared);
        value.extend_from_slice(suffix);
        if !visit(i, std::str::from_utf8(&value).ok()?) {
            break;
        }
    }
    Some(())
}

#[inline]
fn find<'a>(
    texts: impl Iterator<Item = Option<(usize, &'a [u8])>>,
    value: &[u8],
) -> Option<Range<u32>> {
    // Bytes that the value before, which was smaller, has in common with the one looked for.
    let mut common = 0;
    for (i, text) in (0..).zip(texts) {
        let (shared, suffix) = text?;
        // One that shares more differs where the one before did, one that shares less is larger.
        match shared.cmp(&common) {
            Ordering::Greater => continue,
            Ordering::Less => break,
            Ordering::Equal => {}
        }
        let rest = value.get(common..)?;
        let same = suffix.iter().zip(rest).take_while(|(a, b)| a == b).count();
        match suffix.get(same..)?.cmp(rest.get(same..)?) {
            Ordering::Less => common += same,
            Ordering::Equal => return Some(i..i + 1),
            Ordering::Greater => break,
        }
    }
    Some(0..0)
}

#[inline]
fn accepted<'a>(
    texts: impl Iterator<Item = Option<(usize, &'a [u8])>>,
    automaton: &Automaton,
    states: &mut Vec<State>,
) -> Option<ValueSet> {
    let mut found = ValueSet::default();
    // The states behind each byte of the value before, of which there are `len`.
    let mut len = 0;
    states.resize(states.len().max(1), automaton.begin());
    *states.first_mut()? = automaton.begin();
    for (i, text) in texts.enumerate() {
        let (shared, suffix) = text?;
        if shared > len {
            return None;
        }
        len = shared + suffix.len();
        if states.len() <= len {
            states.resize(len + 1, automaton.begin());
        }
        let mut state = *states.get(shared)?;
        for (place, byte) in states.get_mut(shared + 1..=len)?.iter_mut().zip(suffix) {
            state = automaton.step(state, *byte);
            *place = state;
        }
        found.add(i, automaton.accepts(state));
    }
    Some(found)
}

#[inline]
fn containing<'a>(
    texts: impl Iterator<Item = Option<(usize, &'a [u8])>>,
    text: &[u8],
    value: &mut Vec<u8>,
) -> Option<ValueSet> {
    let mut found = ValueSet::default();
    let last = *text.last()?;
    // Length of the value before, and its bytes up to which it contains the text.
    let (mut len, mut end) = (0, usize::MAX);
    for (i, of_value) in texts.enumerate() {
        let (shared, suffix) = of_value?;
        if shared > len {
            return None;
        }
        len = shared + suffix.len();
        if value.len() < len {
            value.resize(len, 0);
        }
        if shared < end {
            end = usize::MAX;
        }
        for (at, byte) in (shared..).zip(suffix) {
            *value.get_mut(at)? = *byte;
            if *byte == last && end == usize::MAX && ends_with(value.get(..=at)?, text) {
                end = at + 1;
            }
        }
        found.add(i, end <= len);
    }
    Some(found)
}

/// As the method of slices, but without a call: most values differ in the byte before the last.
#[inline]
fn ends_with(value: &[u8], text: &[u8]) -> bool {
    let mut pairs = value.iter().rev().zip(text.iter().rev());
    value.len() >= text.len() && pairs.all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Label, Matcher, Selector, Test};

    #[test]
    fn an_automaton_decides_as_the_matcher_does() {
        let mut values: Vec<String> = (0..300).map(|n| format!("host_{n}")).collect();
        let others = [
            "",
            "a\nb",
            "é",
            "éé-99",
            "HOST_7",
            "x y",
            "web-1.eu",
            "web-11.eu",
        ];
        values.extend(others.map(str::to_owned));
        values.sort_unstable();
        let mut builder = ValueBlockBuilder::default();
        for value in &values {
            builder.push_inline(value, std::iter::once(1));
        }
        let bytes = builder.finish();
        let block = ValueBlock::read(&bytes).unwrap();
        let mut states = Vec::new();
        for pattern in [
            ".*99.*",
            ".*9",
            "host_1.*",
            "host_[12]+",
            "h.*|w.*",
            "(?i)host_7",
            ".*",
            ".+b",
            "a.b",
            "[^h].*",
            r"web-\d\.eu",
            r"\w+",
            ".*é.*",
            "",
            "(?-s).*b",
            "^host_7$",
            ".*(a|b|9)$",
            "host_1?.?",
            "x\\sy",
            "..",
        ] {
            let matchers = vec![Matcher::new(
                Label::Tag("t".into()),
                Test::Regex(pattern.into()),
            )];
            let selector = Selector { matchers }.compile().unwrap();
            let matcher = &selector.matchers[0];
            let Some(automaton) = matcher.automaton() else {
                assert!(pattern.is_empty(), "{pattern} has no table");
                continue;
            };
            let found = block.accepted(automaton, &mut states).unwrap();
            let expected = places_of(&values, |value| matcher.matches(value));
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{pattern}");
            let others = found.inverse(block.count);
            let expected = places_of(&values, |value| !matcher.matches(value));
            assert_eq!(others.iter().collect::<Vec<_>>(), expected, "not {pattern}");
        }
        for (place, value) in (0..).zip(&values) {
            let found = block.find(value.as_bytes());
            assert_eq!(found, Some(place..place + 1), "{value}");
        }
        for value in [
            "a",
            "host",
            "host_",
            "host_1000",
            "host_29x",
            "web-1",
            "zz",
            "\n",
        ] {
            assert_eq!(block.find(value.as_bytes()), Some(0..0), "{value}");
        }
        for text in ["9", "99", "1.eu", "st_2", "é", "host_299", "\n", "11", "zz"] {
            let found = block
                .containing(&Finder::new(text), &mut vec![b'9'; 3])
                .unwrap();
            let expected = places_of(&values, |value| value.contains(text));
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{text}");
        }
        // What looks around has none, and what is too large.
        assert!(Automaton::new(r"\bhost\b").is_none());
        assert!(Automaton::new(r"(\w{40}){20}").is_none());
    }

    fn places_of(values: &[String], is_in: impl Fn(&str) -> bool) -> Vec<u32> {
        let places = (0..).zip(values).filter(|(_, value)| is_in(value));
        places.map(|(place, _)| place).collect()
    }

    #[test]
    fn values_come_back_with_their_rows() {
        let long = "b".repeat(300);
        for values in [
            ["", "a", "ab", "abc", "b", "é", "éa"],
            ["", "a", "ab", "abc", &long, "é", "éa"],
        ] {
            for few in [0, 1, 3] {
                values_come_back(&values, few);
            }
        }
    }

    /// Each value has `few` rows, or every third a bitmap if that is 3.
    fn values_come_back(values: &[&str], few: u32) {
        let few = few.max(1);
        let has_bitmap = |i: u32| few == 3 && i % 3 == 2;
        let mut builder = ValueBlockBuilder::default();
        for (i, value) in (0..).zip(values) {
            if has_bitmap(i) {
                builder.push_bitmap(value, u64::from(i) * 1000, 77);
            } else {
                builder.push_inline(value, (0..few).map(|n| i + 10 * n));
            }
        }
        let bytes = builder.finish();
        assert_eq!(builder.count, 0);
        let block = ValueBlock::read(&bytes).unwrap();
        let mut found = Vec::new();
        block.values(|i, v| {
            found.push((i as usize, v.to_owned()));
            true
        });
        let expected: Vec<_> = values.iter().map(|v| (*v).to_owned()).enumerate().collect();
        assert_eq!(found, expected);
        for step in [1, 2, 4] {
            let mut lists = block.rows();
            for i in (0..values.len() as u32).step_by(step) {
                match lists.of(i).unwrap() {
                    ValueRows::Bitmap(at, 77) if has_bitmap(i) => {
                        assert_eq!(at, u64::from(i) * 1000);
                    }
                    ValueRows::Inline(places) if !has_bitmap(i) => {
                        let rows: Option<Vec<u32>> = places.map(|at| block.row(at)).collect();
                        assert_eq!(rows, Some((0..few).map(|n| i + 10 * n).collect()));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        for cut in 0..bytes.len() {
            if let Some(block) = ValueBlock::read(&bytes[..cut]) {
                let mut lists = block.rows();
                let is_whole = (0..block.count).all(|i| lists.of(i).is_some());
                assert!(!is_whole, "cut at {cut}");
            }
        }
    }
}
