//! What other codecs take for the same points, in pages of the same header that each stand alone.
//!
//! Gorilla (Pelkonen and others 2015) and Chimp128 (Liakos and others 2022) are counted, not written; pco is called.
//! The times of the first two are Gorilla's delta-of-delta classes of 14, 17, 20 and 64 bits. Texts are given as the
//! ids of their words, and each page of pco is charged the words it names.

use alluvium_types::{Column, PAGE_HEADER_BYTES, PAGE_SIZE, ValueKind, Values};

/// Name and bytes used.
pub(crate) const CODECS: &[(&str, fn(&Column) -> usize)] =
    &[("gorilla", gorilla), ("chimp128", chimp), ("pco", pco)];

const BODY: usize = PAGE_SIZE - PAGE_HEADER_BYTES;

/// Numbers of a column: floats and integers as they are, texts as ids of words.
fn numbers(column: &Column) -> Vec<u64> {
    match &column.values {
        Values::Numeric(bits) => bits.clone(),
        Values::Strings(texts) => {
            let mut words: Vec<&str> = Vec::new();
            let id = |text| {
                let known = words.iter().position(|w| *w == text);
                known.unwrap_or_else(|| {
                    words.push(text);
                    words.len() - 1
                }) as u64
            };
            texts.iter().map(id).collect()
        }
    }
}

/// Counts the bits of streams in pages.
trait Stream: Default {
    /// Bits of a point; the first of a page is raw.
    fn value(&mut self, bits: u64) -> usize;
}

fn streamed<S: Stream>(column: &Column) -> usize {
    let (mut full, mut used) = (0, 0);
    let (mut stream, mut last, mut delta) = (S::default(), 0_i64, 0_i64);
    for (time, bits) in column.times.iter().zip(numbers(column)) {
        let step = time.wrapping_sub(last);
        let second = step.wrapping_sub(delta);
        let time_bits = match second {
            0 => 1,
            -0x2000..=0x2000 => 2 + 14,
            -0x10000..=0x10000 => 3 + 17,
            -0x80000..=0x80000 => 4 + 20,
            _ => 4 + 64,
        };
        let mut taken = time_bits + stream.value(bits);
        if used == 0 || used + taken > BODY * 8 {
            full += usize::from(used > 0);
            (used, stream) = (0, S::default());
            stream.value(bits);
            taken = 128;
        }
        used += taken;
        (last, delta) = (*time, if taken == 128 { 0 } else { step });
    }
    full * PAGE_SIZE + PAGE_HEADER_BYTES + used.div_ceil(8)
}

struct Gorilla {
    last: u64,
    leading: u32,
    trailing: u32,
}

impl Default for Gorilla {
    fn default() -> Self {
        Self {
            last: 0,
            leading: 64,
            trailing: 0,
        }
    }
}

impl Stream for Gorilla {
    fn value(&mut self, bits: u64) -> usize {
        let xor = bits ^ self.last;
        self.last = bits;
        if xor == 0 {
            return 1;
        }
        let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        if leading >= self.leading && trailing >= self.trailing {
            return 2 + (64 - self.leading - self.trailing) as usize;
        }
        (self.leading, self.trailing) = (leading, trailing);
        2 + 5 + 6 + (64 - leading - trailing) as usize
    }
}

fn gorilla(column: &Column) -> usize {
    streamed::<Gorilla>(column)
}

struct Chimp {
    /// The last 128 values and, by their low 14 bits, where each was.
    ring: [u64; 128],
    places: Vec<usize>,
    count: usize,
    leading: u32,
}

impl Default for Chimp {
    fn default() -> Self {
        Self {
            ring: [0; 128],
            places: vec![usize::MAX; 1 << 14],
            count: 0,
            leading: 65,
        }
    }
}

impl Stream for Chimp {
    fn value(&mut self, bits: u64) -> usize {
        // Leading zeros are rounded down to one of eight numbers.
        let rounded = |leading: u32| match leading {
            24.. => 24,
            22.. => 22,
            20.. => 20,
            18.. => 18,
            16.. => 16,
            12.. => 12,
            8.. => 8,
            _ => 0,
        };
        let key = (bits & 0x3fff) as usize;
        let place = self.places[key];
        let before = self.ring[(self.count + 127) % 128];
        let recent = place != usize::MAX && self.count - place < 128;
        let referred = if recent {
            self.ring[place % 128]
        } else {
            before
        };
        let xor = bits ^ referred;
        let taken = if recent && xor == 0 {
            self.leading = 65;
            2 + 7
        } else if recent && xor.trailing_zeros() > 13 {
            let leading = rounded(xor.leading_zeros());
            self.leading = 65;
            2 + 7 + 3 + 6 + (64 - leading - xor.trailing_zeros()) as usize
        } else {
            let leading = rounded((bits ^ before).leading_zeros());
            if leading == self.leading {
                2 + (64 - leading) as usize
            } else {
                self.leading = leading;
                2 + 3 + (64 - leading) as usize
            }
        };
        self.ring[self.count % 128] = bits;
        self.places[key] = self.count;
        self.count += 1;
        taken
    }
}

fn chimp(column: &Column) -> usize {
    streamed::<Chimp>(column)
}

/// Bytes of the different texts of some points, each behind a byte of length.
fn words_bytes(column: &Column, begin: usize, end: usize) -> usize {
    let Values::Strings(texts) = &column.values else {
        return 0;
    };
    let words: std::collections::BTreeSet<&str> =
        (begin..end).filter_map(|i| texts.get(i)).collect();
    words.iter().map(|word| word.len() + 1).sum()
}

fn pco(column: &Column) -> usize {
    let config = pco::ChunkConfig::default();
    let bits = numbers(column);
    let size = |begin: usize, end: usize| {
        let times = pco::standalone::simple_compress(&column.times[begin..end], &config);
        let bits = &bits[begin..end];
        let values = match column.kind() {
            ValueKind::F64 => {
                let floats: Vec<f64> = bits.iter().map(|b| f64::from_bits(*b)).collect();
                pco::standalone::simple_compress(&floats, &config)
            }
            ValueKind::I64 => {
                let signed: Vec<i64> = bits.iter().map(|b| *b as i64).collect();
                pco::standalone::simple_compress(&signed, &config)
            }
            _ => pco::standalone::simple_compress(bits, &config),
        };
        let words = words_bytes(column, begin, end);
        times.expect("pco takes any times").len()
            + values.expect("pco takes any numbers").len()
            + words
    };
    let (mut begin, mut pages, mut points) = (0, 0, 1024);
    while begin < column.len() {
        let left = column.len() - begin;
        // The longest prefix that fits, sought from the length of the page before.
        let (mut low, mut high) = (0, left + 1);
        let mut probe = points;
        while high - low > 1 + low / 500 {
            probe = probe.clamp(low + 1, high - 1);
            if size(begin, begin + probe) <= BODY {
                low = probe;
                probe += probe / 16 + 1;
            } else {
                high = probe;
                probe = usize::midpoint(low, high);
            }
        }
        if low == left {
            return pages * PAGE_SIZE + PAGE_HEADER_BYTES + size(begin, column.len());
        }
        (begin, points, pages) = (begin + low, low, pages + 1);
    }
    pages * PAGE_SIZE
}
