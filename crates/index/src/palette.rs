//! A small number for each row, in as few bits as its neighbourhood needs.
//!
//! Rows that were created together mostly share a shape and a field list. A chunk of rows keeps the distinct numbers
//! once and for each row the place among them, in 0, 1, 2, 4, 8, 16 or 32 bits: nothing for a chunk of one
//! measurement, half a byte where nine are mixed.

use std::ops::Range;

/// Rows of one chunk, a power of two.
pub(crate) const CHUNK: usize = 4096;

/// Chunks behind the newest one that may still get numbers which do not stay: the fields of a batch's rows come after
/// the rows.
const UNSETTLED_CHUNKS: usize = 8;

/// Colours of a chunk at which those that no row has any more are dropped: at least half of them.
const COLOURS_MAX: usize = 2 * CHUNK;

/// An append-only list of numbers, mutable in place. Costs a chunk's rewrite when its width grows, so a few
/// microseconds at most.
#[derive(Debug, Clone, Default)]
pub(crate) struct Palette {
    chunks: Vec<Chunk>,
    len: usize,
}

#[derive(Debug, Clone, Default)]
struct Chunk {
    /// Distinct numbers in the order they came; some may be unused since.
    colours: Vec<u32>,
    /// Bits of a place, a power of two, or 0 where there is one colour.
    width: u32,
    /// Rows that there are.
    rows: u32,
    places: Vec<u32>,
}

impl Palette {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, number: u32) {
        let at = self.len % CHUNK;
        if at == 0 {
            self.chunks.push(Chunk::default());
        }
        self.len += 1;
        let chunk = self.chunks.last_mut().expect("pushed when absent");
        chunk.set(at, number);
    }

    /// As [`Self::push`] of a number that will be another soon: a chunk that is some chunks old forgets what its rows had
    /// before.
    pub(crate) fn push_for_now(&mut self, number: u32) {
        self.push(number);
        if self.len % CHUNK == 1
            && let Some(old) = self.chunks.len().checked_sub(1 + UNSETTLED_CHUNKS)
            && let Some(chunk) = self.chunks.get_mut(old)
        {
            chunk.settle();
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<u32> {
        if index >= self.len {
            return None;
        }
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    /// Lets the full chunks that hold a part of `range` take as few bits as their numbers need by now. Costs some
    /// microseconds a chunk.
    pub(crate) fn settle(&mut self, range: Range<usize>) {
        let (begin, end) = (range.start / CHUNK, range.end.min(self.len) / CHUNK);
        let chunks = self.chunks.get_mut(begin..end).into_iter().flatten();
        chunks.for_each(Chunk::settle);
    }

    /// The number that all of a chunk have; `None` if they differ, or there is no such chunk.
    pub(crate) fn uniform(&self, chunk: usize) -> Option<u32> {
        let chunk = self.chunks.get(chunk).filter(|chunk| chunk.width == 0)?;
        chunk.colours.first().copied()
    }

    /// Whether rows of a chunk have a number that `is_meant` accepts. Asks it of each number once, and costs a look at some
    /// hundred words for each that is accepted and that a row had.
    pub(crate) fn any(&self, chunk: usize, is_meant: impl FnMut(u32) -> bool) -> bool {
        self.chunks.get(chunk).is_some_and(|c| c.any(is_meant))
    }

    /// Changes a number; `false` if there is no such row.
    pub(crate) fn set(&mut self, index: usize, number: u32) -> bool {
        if index >= self.len {
            return false;
        }
        let Some(chunk) = self.chunks.get_mut(index / CHUNK) else {
            return false;
        };
        chunk.set(index % CHUNK, number);
        true
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let chunks: usize = self
            .chunks
            .iter()
            .map(|c| (c.colours.capacity() + c.places.capacity()) * 4)
            .sum();
        chunks + self.chunks.capacity() * size_of::<Chunk>()
    }
}

impl Chunk {
    #[inline]
    fn get(&self, at: usize) -> Option<u32> {
        self.colours.get(self.place(at)).copied()
    }

    #[inline]
    fn place(&self, at: usize) -> usize {
        if self.width == 0 {
            return 0;
        }
        let bit = at * self.width as usize;
        let word = self.places.get(bit / 32).copied().unwrap_or(0);
        (word >> (bit % 32) & mask(self.width)) as usize
    }

    fn any(&self, mut is_meant: impl FnMut(u32) -> bool) -> bool {
        let mut meant = (0..).zip(&self.colours).filter(|(_, c)| is_meant(**c));
        meant.any(|(place, _)| self.has_place(place))
    }

    /// Whether a row has this place among the colours.
    fn has_place(&self, place: u32) -> bool {
        if self.width == 0 {
            return place == 0;
        }
        let (width, rows) = (self.width as usize, self.rows as usize);
        // A lane of zeros borrows from its highest bit.
        let lanes = |lane: u32| (0..32).step_by(width).fold(0, |word, at| word | lane << at);
        let (same, lowest, highest) = (lanes(place), lanes(1), lanes(1 << (width - 1)));
        let whole = rows * width / 32;
        let has_it = |word: &u32| {
            let other = word ^ same;
            other.wrapping_sub(lowest) & !other & highest != 0
        };
        // What was never written down is a zero.
        let written = self.places.get(..whole).unwrap_or(&self.places);
        written.iter().any(has_it)
            || (written.len() * 32 / width..rows).any(|at| self.place(at) == place as usize)
    }

    fn set(&mut self, at: usize, number: u32) {
        // The last colour is the likeliest: rows come in the order of their shapes.
        let found = self.colours.iter().rposition(|c| *c == number);
        let place = found.unwrap_or_else(|| {
            if self.colours.len() >= COLOURS_MAX {
                self.recolour();
            }
            self.colours.push(number);
            self.colours.len() - 1
        });
        let needed = width_of(self.colours.len());
        if needed != self.width {
            self.widen(needed);
        }
        self.rows = self.rows.max(at as u32 + 1);
        self.put(at, place as u32);
    }

    fn put(&mut self, at: usize, place: u32) {
        if self.width == 0 {
            return;
        }
        let bit = at * self.width as usize;
        if self.places.len() <= bit / 32 {
            self.places.resize(bit / 32 + 1, 0);
        }
        let word = &mut self.places[bit / 32];
        let shift = bit % 32;
        *word = *word & !(mask(self.width) << shift) | place << shift;
    }

    /// Gives places another width, which all that are in use fit.
    fn widen(&mut self, width: u32) {
        let rows = 0..self.rows as usize;
        let old: Vec<u32> = rows.map(|at| self.place(at) as u32).collect();
        self.width = width;
        let words = (old.len() * width as usize).div_ceil(32);
        // A chunk of places is a power of two, and so is what it doubles from.
        self.places = Vec::with_capacity(words.next_power_of_two());
        for (at, place) in old.into_iter().enumerate() {
            self.put(at, place);
        }
    }

    /// Drops the colours that no row has any more, and the bits they took; for a full chunk.
    fn settle(&mut self) {
        if self.width == 0 {
            return;
        }
        if let Some(number) = self.only_number() {
            *self = Self {
                colours: vec![number],
                rows: self.rows,
                ..Self::default()
            };
            return;
        }
        self.recolour();
        let needed = width_of(self.colours.len());
        if needed < self.width {
            self.widen(needed);
        }
        self.colours.shrink_to_fit();
    }

    /// The number that every row of a full chunk of several colours has, if there is one.
    fn only_number(&self) -> Option<u32> {
        let number = self.get(0)?;
        let repeated = (0..32 / self.width).fold(0, |word, i| {
            word | (self.place(0) as u32) << (i * self.width)
        });
        let is_full = self.places.len() == CHUNK * self.width as usize / 32;
        (is_full && self.places.iter().all(|word| *word == repeated)).then_some(number)
    }

    /// Drops the colours that no row has any more.
    fn recolour(&mut self) {
        let rows = 0..self.rows as usize;
        let numbers: Vec<u32> = rows.filter_map(|at| self.get(at)).collect();
        let mut colours = numbers.clone();
        colours.sort_unstable();
        colours.dedup();
        for (at, number) in numbers.into_iter().enumerate() {
            let place = colours.binary_search(&number).unwrap_or(0);
            self.put(at, place as u32);
        }
        self.colours = colours;
    }
}

fn width_of(colours: usize) -> u32 {
    match colours {
        0 | 1 => 0,
        n => (usize::BITS - (n - 1).leading_zeros()).next_power_of_two(),
    }
}

fn mask(width: u32) -> u32 {
    u32::MAX >> (32 - width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_however_many_there_are() {
        for colours in [1_u32, 2, 9, 300, 5000, 100_000] {
            let mut palette = Palette::default();
            let mut expected = Vec::new();
            for i in 0..3 * CHUNK as u32 + 7 {
                let number = i.wrapping_mul(2_654_435_761) % colours;
                palette.push(number);
                expected.push(number);
            }
            for i in (0..expected.len()).step_by(3) {
                let number = i as u32 % colours + 1;
                assert!(palette.set(i, number));
                expected[i] = number;
            }
            for (i, number) in expected.iter().enumerate() {
                assert_eq!(palette.get(i), Some(*number), "{colours} colours, row {i}");
            }
            assert_eq!(palette.len(), expected.len());
            assert_eq!(palette.get(palette.len()), None);
            assert!(!palette.set(palette.len(), 1));
        }
    }

    #[test]
    fn a_row_may_change_for_ever() {
        let mut palette = Palette::default();
        for _ in 0..CHUNK {
            palette.push(0);
        }
        for number in 0..9 * CHUNK as u32 {
            palette.set(number as usize % CHUNK, number);
            assert_eq!(palette.get(number as usize % CHUNK), Some(number));
        }
        assert!(palette.chunks[0].colours.len() <= COLOURS_MAX);
    }

    #[test]
    fn chunks_settle_on_what_is_left() {
        let mut palette = Palette::default();
        for i in 0..3 * CHUNK + 9 {
            palette.push(1);
            palette.set(i, 2);
            palette.set(i, 3 + (i / CHUNK == 1) as u32 * (i % 2) as u32);
        }
        let expected: Vec<_> = (0..palette.len()).map(|i| palette.get(i)).collect();
        assert_eq!(palette.uniform(0), None, "not known before");
        let before = palette.heap_bytes();
        palette.settle(0..palette.len());
        let found: Vec<_> = (0..palette.len()).map(|i| palette.get(i)).collect();
        assert_eq!(found, expected);
        let uniform: Vec<_> = (0..5).map(|chunk| palette.uniform(chunk)).collect();
        assert_eq!(uniform, [Some(3), None, Some(3), None, None]);
        assert!(palette.heap_bytes() * 2 < before);
        palette.set(5, 9);
        assert_eq!((palette.get(5), palette.get(6)), (Some(9), Some(3)));
    }

    #[test]
    fn old_chunks_forget_what_their_rows_had_before() {
        let mut palette = Palette::default();
        for i in 0..=(UNSETTLED_CHUNKS + 2) * CHUNK {
            palette.push_for_now(0);
            palette.set(i, 5 + u32::from(i / CHUNK == 1) * (i as u32 % 2));
        }
        let uniform: Vec<_> = (0..4).map(|chunk| palette.uniform(chunk)).collect();
        assert_eq!(uniform, [Some(5), None, Some(5), None]);
        let any = |chunk, number| palette.any(chunk, |n| n == number);
        assert!(any(1, 5) && any(1, 6) && any(3, 5));
        assert!(!any(1, 0) && !any(3, 0) && !any(9999, 5));
        assert_eq!(palette.get(CHUNK + 1), Some(6));
    }

    #[test]
    fn numbers_that_rows_have_are_told_from_those_they_had() {
        for colours in [1_u32, 2, 3, 9, 200, 5000] {
            for rows in [1, 31, 32, 33, 1000, CHUNK as u32] {
                let mut palette = Palette::default();
                for row in 0..rows {
                    palette.push(row % colours);
                }
                for gone in [0, 1, colours / 2, colours - 1] {
                    let mut palette = palette.clone();
                    for row in 0..rows {
                        if row % colours == gone {
                            palette.set(row as usize, 70_000);
                        }
                    }
                    for number in (0..colours.min(300)).chain([70_000, 80_000]) {
                        let has = (0..rows as usize).any(|row| palette.get(row) == Some(number));
                        let told = palette.any(0, |n| n == number);
                        assert_eq!(told, has, "{number} of {colours} in {rows} rows");
                    }
                }
            }
        }
    }

    #[test]
    fn few_rows_cost_little_whatever_their_colours() {
        let mut palette = Palette::default();
        (0..9).for_each(|number| palette.push(number));
        assert!(palette.heap_bytes() < 500, "{}", palette.heap_bytes());
        (9..CHUNK as u32).for_each(|number| palette.push(number));
        assert_eq!(palette.chunks[0].places.capacity(), CHUNK / 2);
    }

    #[test]
    fn one_colour_costs_nothing_a_row() {
        let mut palette = Palette::default();
        (0..100 * CHUNK).for_each(|_| palette.push(7));
        assert!(palette.heap_bytes() < 100 * 256, "{}", palette.heap_bytes());
    }
}
