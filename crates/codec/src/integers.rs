//! Integer columns: times, integers, mantissas of decimals, bit patterns, dictionary ids.
//!
//! First byte: encoding; with its high bit set the model is that of the column before, which has the same
//! encoding. Then the model, then what is each column's own.
//!
//! | id | encoding | model | own |
//! |---|---|---|---|
//! | 0 | const | | the value |
//! | 1 | arithmetic | delta | first value |
//! | 2, 3, 4 | frames, order 0, 1, 2 | g, m | first value, residuals in frames of 128 |
//! | 5, 6, 7 | Huffman, order 0, 1, 2 | g, m, code | first value, zigzag residuals |
//! | 8 | raw | | eight bytes each |
//! | 9 | runs | | see `repeats.rs` |
//! | 10 | symbols | code | all values, each 0 to 255 |
//! | 11 | periodic | g, varint p, p deltas by g | first value |
//!
//! g is a common divisor of all distances from the first value, m about the median. With k = (x - first) / g the
//! n-1 residuals are k - m, delta of k - m, or delta of delta of k; order 2 has no m. Where the first value is
//! known from elsewhere it is left out. All sums wrap, so every 64-bit column comes back.

use crate::Compression;
use crate::error::CodecError;
use crate::frames::{self, FRAME, Window};
use crate::huffman::{Code, Histogram};
use crate::repeats;
use crate::simd::multiversion;
use crate::steps::{PERIOD_MAX, centre, differences, distances, period, spread};
use crate::streams;
use crate::varint::{get_i64, get_u64, put_i64, put_u64, unzigzag, zigzag};

/// Values a run has on average where runs are tried.
const RUN_LENGTH_MIN: usize = 4;

/// Fewest residuals that a Huffman code is tried for: below, its table is what takes the bytes.
const HUFFMAN_MIN: usize = 32;

const CONST: u8 = 0;
const ARITHMETIC: u8 = 1;
const FRAMES: u8 = 2;
const HUFFMAN: u8 = 5;
const RAW: u8 = 8;
const RUNS: u8 = 9;
const SYMBOLS: u8 = 10;
const PERIODIC: u8 = 11;

/// The bit of the first byte that says that the model is that of the column before.
pub(crate) const LENT: u8 = 0x80;

/// What is known of a column from elsewhere, and what it may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    /// The column before that has a model of its own, from its first byte on.
    pub(crate) lent: Option<&'a [u8]>,
    /// Whether the first value is left out.
    pub(crate) first_known: bool,
    pub(crate) compression: Compression,
    /// Whether this column is part of runs.
    pub(crate) part: bool,
}

impl Setting<'_> {
    pub(crate) fn own(compression: Compression) -> Self {
        Self {
            lent: None,
            first_known: false,
            compression,
            part: false,
        }
    }
}

/// Reused buffers of encoding.
#[derive(Debug, Default)]
pub(crate) struct IntegerScratch {
    steps: Vec<i64>,
    deltas: Vec<i64>,
    seconds: Vec<i64>,
    shifted: Vec<i64>,
    offsets: Vec<u64>,
    windows: Vec<Window>,
}

/// What columns of one page may share.
#[derive(Debug)]
struct Model {
    id: u8,
    /// Of arithmetic columns the delta.
    g: i64,
    m: i64,
    code: Option<Code>,
    /// Deltas of one period, each by g.
    period: Vec<i64>,
}

impl Model {
    fn of(id: u8, g: i64, m: i64) -> Self {
        Self {
            id,
            g,
            m,
            code: None,
            period: Vec::new(),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.id);
        match self.id {
            ARITHMETIC => put_i64(out, self.g),
            FRAMES..RAW => {
                put_u64(out, self.g as u64);
                if order_of(self.id) < 2 {
                    put_i64(out, self.m);
                }
            }
            PERIODIC => {
                put_u64(out, self.g as u64);
                put_u64(out, self.period.len() as u64);
                self.period.iter().for_each(|delta| put_i64(out, *delta));
            }
            _ => {}
        }
        if let Some(code) = &self.code {
            code.put(out);
        }
    }

    /// Takes the model off the front: the column's own, or else the one lent to it.
    fn get(bytes: &mut &[u8], lent: Option<&[u8]>) -> Result<Self, CodecError> {
        let (mut model, lent_code) = Self::get_head(bytes, lent)?;
        if matches!(model.id, HUFFMAN..RAW | SYMBOLS) {
            model.code = Some(match lent_code {
                Some(mut lent) => Code::get(&mut lent)?,
                None => Code::get(bytes)?,
            });
        }
        Ok(model)
    }

    /// Takes the model but for its code off the front: the column's own, or else the one lent to it, with what
    /// follows there.
    fn get_head<'a>(
        bytes: &mut &[u8],
        lent: Option<&'a [u8]>,
    ) -> Result<(Self, Option<&'a [u8]>), CodecError> {
        let (first, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
        *bytes = rest;
        if first & LENT == 0 {
            return Ok((Self::get_own(*first, bytes)?, None));
        }
        let wrong = CodecError::Invalid {
            field: "encoding without a model",
            value: u64::from(*first),
        };
        let (own, mut model) = lent.and_then(<[u8]>::split_first).ok_or(wrong)?;
        if *own != first & !LENT {
            return Err(wrong);
        }
        Ok((Self::get_own(*own, &mut model)?, Some(model)))
    }

    fn get_own(id: u8, bytes: &mut &[u8]) -> Result<Self, CodecError> {
        let mut model = Self::of(id, 1, 0);
        let (g, m) = (&mut model.g, &mut model.m);
        match id {
            ARITHMETIC => *g = get_i64(bytes)?,
            FRAMES..RAW => {
                *g = get_u64(bytes)? as i64;
                if order_of(id) < 2 {
                    *m = get_i64(bytes)?;
                }
            }
            PERIODIC => {
                *g = get_u64(bytes)? as i64;
                let deltas = get_u64(bytes)?;
                if !(2..=PERIOD_MAX as u64).contains(&deltas) {
                    return Err(CodecError::Invalid {
                        field: "deltas of a period",
                        value: deltas,
                    });
                }
                for _ in 0..deltas {
                    model.period.push(get_i64(bytes)?);
                }
            }
            _ => {}
        }
        Ok(model)
    }
}

fn order_of(id: u8) -> u8 {
    if id < HUFFMAN {
        id - FRAMES
    } else {
        id - HUFFMAN
    }
}

fn shift(values: &[i64], centre: i64, out: &mut Vec<i64>) {
    out.clear();
    out.extend(values.iter().map(|v| v.wrapping_sub(centre)));
}

/// Appends a column of at least one value.
pub(crate) fn encode(
    values: &[i64],
    setting: Setting<'_>,
    scratch: &mut IntegerScratch,
    out: &mut Vec<u8>,
) {
    if encode_even(values, setting, out) {
        return;
    }
    let start = out.len();
    encode_residuals(values, setting, scratch, out);
    if setting.part {
        return;
    }
    let changes = values.windows(2).filter(|w| w[0] != w[1]).count();
    if (changes + 1) * RUN_LENGTH_MIN <= values.len() {
        let second = out.len();
        out.push(RUNS);
        repeats::encode_runs(values, setting.compression, scratch, out);
        keep_shorter(out, start, second);
    }
}

/// Of two encodings, from `first` and from `second` on, drops the longer.
pub(crate) fn keep_shorter(out: &mut Vec<u8>, first: usize, second: usize) {
    if out.len() - second < second - first {
        out.drain(first..second);
    } else {
        out.truncate(second);
    }
}

/// Appends a column all of whose deltas are equal; says whether it is one.
fn encode_even(values: &[i64], setting: Setting<'_>, out: &mut Vec<u8>) -> bool {
    let first = values[0];
    let delta = values.get(1).map_or(0, |v| v.wrapping_sub(first));
    if values.windows(2).any(|w| w[1].wrapping_sub(w[0]) != delta) {
        return false;
    }
    if delta == 0 {
        out.push(CONST);
    } else {
        let own = Model::of(ARITHMETIC, delta, 0);
        let lent = setting
            .lent
            .and_then(|mut lent| Model::get(&mut lent, None).ok());
        if lent.is_some_and(|lent| lent.id == ARITHMETIC && lent.g == delta) {
            out.push(ARITHMETIC | LENT);
        } else {
            own.put(out);
        }
    }
    if !setting.first_known {
        put_i64(out, first);
    }
    true
}

fn encode_residuals(
    values: &[i64],
    setting: Setting<'_>,
    scratch: &mut IntegerScratch,
    out: &mut Vec<u8>,
) {
    let first = values[0];
    let start = out.len();
    let lent = setting
        .lent
        .and_then(|mut lent| Model::get(&mut lent, None).ok());
    let g = distances(values, &mut scratch.steps);
    if let Some(p) = period(values) {
        // Not the distances of neighbours by g: one may pass 63 bits, and then g does not divide what is left of it.
        differences(&scratch.steps[..p], &mut scratch.deltas);
        let own = Model {
            period: scratch.deltas.clone(),
            ..Model::of(PERIODIC, g, 0)
        };
        match &lent {
            Some(lent) if lent.id == PERIODIC && lent.g == g && lent.period == own.period => {
                out.push(PERIODIC | LENT);
            }
            _ => own.put(out),
        }
        if !setting.first_known {
            put_i64(out, first);
        }
        return;
    }
    // A smaller divisor that costs no bytes.
    let lends = |lent: &Model| (FRAMES..RAW).contains(&lent.id) && lent.g > 0 && g % lent.g == 0;
    let lent = lent.filter(lends);
    let mut factor = 1;
    let g = match &lent {
        Some(lent) if g / lent.g < 4 => {
            factor = g / lent.g;
            lent.g
        }
        _ => g,
    };
    let IntegerScratch {
        steps,
        deltas,
        seconds,
        shifted,
        offsets,
        windows,
    } = scratch;
    if factor > 1 {
        steps
            .iter_mut()
            .for_each(|step| *step = step.wrapping_mul(factor));
    }
    differences(steps, deltas);
    let centres = [centre(steps, shifted), centre(deltas, shifted), 0];
    let mut spreads = [
        spread(steps, centres[0]),
        spread(deltas, centres[1]),
        u64::MAX,
    ];
    // Where deltas are wider than values, their own deltas are wider still.
    if spreads[1] < spreads[0] {
        differences(deltas, seconds);
        spreads[2] = spread(seconds, 0);
    }
    let orders: [&[i64]; 3] = [steps, deltas, seconds];
    let order = (0..3).min_by_key(|o| spreads[*o]).unwrap_or(0);
    let residuals = orders[order];
    let lent = lent.filter(|lent| usize::from(order_of(lent.id)) == order && lent.g == g);
    let m = centres[order];

    // The cost of frames, each with a base of its own.
    let frames_lent = lent.as_ref().filter(|lent| lent.id < HUFFMAN);
    let frames_m = frames_lent.map_or(m, |lent| lent.m);
    windows.clear();
    for frame in residuals.chunks(FRAME) {
        shift(frame, frames_m, shifted);
        windows.push(frames::choose(shifted));
    }
    let frames_bytes: usize = windows.iter().map(|w| w.bytes).sum();
    let huffman = (residuals.len() >= HUFFMAN_MIN)
        .then(|| {
            huffman_of(
                residuals,
                m,
                lent.as_ref().filter(|l| l.id >= HUFFMAN),
                offsets,
            )
        })
        .flatten();
    let huffman = huffman.filter(|h| h.bytes < setting.compression.share_of(frames_bytes));
    let put_first = |out: &mut Vec<u8>| {
        if !setting.first_known {
            put_i64(out, first);
        }
    };
    if let Some(huffman) = huffman {
        match (&huffman.own, &lent) {
            (None, Some(lent)) => {
                out.push(lent.id | LENT);
                put_first(out);
                if let Some(code) = &lent.code {
                    offsets.clear();
                    offsets.extend(residuals.iter().map(|r| zigzag(r.wrapping_sub(lent.m))));
                    streams::put(code, offsets, out);
                }
            }
            (own, _) => {
                let model = Model {
                    code: own.clone(),
                    ..Model::of(HUFFMAN + order as u8, g, m)
                };
                model.put(out);
                put_first(out);
                if let Some(code) = &model.code {
                    offsets.clear();
                    offsets.extend(residuals.iter().map(|r| zigzag(r.wrapping_sub(m))));
                    streams::put(code, offsets, out);
                }
            }
        }
    } else {
        let model = Model::of(FRAMES + order as u8, g, m);
        match frames_lent {
            Some(lent) => out.push(lent.id | LENT),
            None => model.put(out),
        }
        put_first(out);
        for (frame, window) in residuals.chunks(FRAME).zip(windows.iter()) {
            shift(frame, frames_m, shifted);
            frames::put(shifted, *window, offsets, out);
        }
    }
    if out.len() - start > 1 + values.len() * 8 {
        out.truncate(start);
        out.push(RAW);
        values
            .iter()
            .for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
    }
}

/// What a Huffman code comes to.
struct Huffman {
    /// `None`: the lent one.
    own: Option<Code>,
    bytes: usize,
}

/// The cheaper of the lent code and one for these residuals.
fn huffman_of(
    residuals: &[i64],
    m: i64,
    lent: Option<&Model>,
    numbers: &mut Vec<u64>,
) -> Option<Huffman> {
    let mut zigzags = |m: i64| {
        numbers.clear();
        numbers.extend(residuals.iter().map(|r| zigzag(r.wrapping_sub(m))));
        std::mem::take(numbers)
    };
    const STREAMS: usize = 3;
    let by_lent = lent.and_then(|lent| {
        let code = lent.code.as_ref()?;
        let numbers = zigzags(lent.m);
        let bits = code.bits(&code.histogram(&numbers)?)?;
        Some(bits as usize / 8 + STREAMS)
    });
    let (histogram, about) = Histogram::best(&zigzags(m))?;
    let about = about as usize / 8 + STREAMS;
    if let Some(bytes) = by_lent
        && bytes <= about
    {
        return Some(Huffman { own: None, bytes });
    }
    Some(Huffman {
        own: Some(Code::of(&histogram)),
        bytes: about,
    })
}

/// Appends values of 0 to 255 as symbols if that is shorter than what stands from `start` on.
pub(crate) fn encode_symbols(
    values: &[i64],
    setting: Setting<'_>,
    scratch: &mut IntegerScratch,
    start: usize,
    out: &mut Vec<u8>,
) {
    let numbers = &mut scratch.offsets;
    numbers.clear();
    numbers.extend(values.iter().map(|v| *v as u64));
    let Some((histogram, about)) = Histogram::symbols(numbers) else {
        return;
    };
    let taken = out.len() - start;
    let lent = setting
        .lent
        .and_then(|mut lent| Model::get(&mut lent, None).ok());
    let lent = lent
        .filter(|lent| lent.id == SYMBOLS)
        .and_then(|lent| lent.code);
    let by_lent = lent.as_ref().and_then(|code| code.bits(&histogram));
    let own_bytes = about as usize / 8;
    let lent_bytes = by_lent.map_or(usize::MAX, |bits| bits as usize / 8);
    if own_bytes.min(lent_bytes) >= setting.compression.share_of(taken) {
        return;
    }
    out.truncate(start);
    match lent {
        Some(code) if lent_bytes <= own_bytes => {
            out.push(SYMBOLS | LENT);
            streams::put(&code, numbers, out);
        }
        _ => {
            let code = Code::of(&histogram);
            out.push(SYMBOLS);
            code.put(out);
            streams::put(&code, numbers, out);
        }
    }
}

/// The name of a column's encoding, for people.
pub(crate) fn encoding_name(column: &[u8]) -> &'static str {
    match column.first().map(|id| id & !LENT) {
        Some(CONST) => "const",
        Some(ARITHMETIC) => "arithmetic",
        Some(2) => "frames of values",
        Some(3) => "frames of deltas",
        Some(4) => "frames of second deltas",
        Some(5) => "Huffman of values",
        Some(6) => "Huffman of deltas",
        Some(7) => "Huffman of second deltas",
        Some(RAW) => "raw",
        Some(RUNS) => "runs",
        Some(SYMBOLS) => "symbols",
        Some(PERIODIC) => "periodic",
        _ => "unknown",
    }
}

/// What a column of integers is read into: times and integers as they are, raw bits for values.
pub(crate) trait Word: Copy {
    fn of(value: i64) -> Self;
}

impl Word for i64 {
    #[inline(always)]
    fn of(value: i64) -> Self {
        value
    }
}

impl Word for u64 {
    #[inline(always)]
    fn of(value: i64) -> Self {
        value as u64
    }
}

/// What is known of a column before it is read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known<'a> {
    /// The column before that has a model of its own, from its first byte on.
    pub(crate) lent: Option<&'a [u8]>,
    pub(crate) first: Option<i64>,
    /// Whether this column is part of runs.
    pub(crate) part: bool,
}

/// Takes a column of `n` values, at least one, off the front, appending to `out`.
pub(crate) fn decode<W: Word>(
    bytes: &mut &[u8],
    n: usize,
    known: Known<'_>,
    out: &mut Vec<W>,
) -> Result<(), CodecError> {
    let (model, lent_code) = Model::get_head(bytes, known.lent)?;
    let first = |bytes: &mut &[u8]| match known.first {
        Some(first) => Ok(first),
        None => get_i64(bytes),
    };
    match model.id {
        CONST => {
            let value = first(bytes)?;
            out.resize(out.len() + n, W::of(value));
        }
        ARITHMETIC => {
            arithmetic(first(bytes)?, model.g, n, out);
        }
        RAW => {
            let (words, rest) = bytes.split_at_checked(n * 8).ok_or(CodecError::Truncated)?;
            *bytes = rest;
            let word = |w: &[u8]| W::of(w.first_chunk::<8>().map_or(0, |w| i64::from_le_bytes(*w)));
            out.extend(words.chunks_exact(8).map(word));
        }
        FRAMES..HUFFMAN => {
            let mut sums = Sums::new(first(bytes)?, &model);
            out.push(W::of(sums.first));
            let mut left = n - 1;
            let mut block = [0_u64; FRAME];
            while left > 0 {
                let take = left.min(FRAME);
                let residuals = &mut block[..take];
                let base = frames::get(bytes, residuals)?;
                sums.extend(base.wrapping_add(model.m as u64), residuals, out);
                left -= take;
            }
        }
        HUFFMAN..RAW => {
            streams::get(lent_code, bytes, n - 1, first, |first, residuals| {
                out.push(W::of(first));
                let mut sums = Sums::new(first, &model);
                for residuals in residuals.chunks_mut(FRAME) {
                    undo_zigzag(residuals);
                    sums.extend(model.m as u64, residuals, out);
                }
            })?;
        }
        SYMBOLS => {
            let none = |_: &mut &[u8]| Ok(());
            streams::get(lent_code, bytes, n, none, |(), symbols| {
                out.extend(symbols.iter().map(|s| W::of(*s as i64)));
            })?;
        }
        PERIODIC => {
            let mut value = first(bytes)?;
            out.push(W::of(value));
            for delta in model.period.iter().cycle().take(n - 1) {
                value = value.wrapping_add(delta.wrapping_mul(model.g));
                out.push(W::of(value));
            }
        }
        RUNS if !known.part => repeats::decode_runs(bytes, n, out)?,
        other => {
            return Err(CodecError::Invalid {
                field: "integer encoding",
                value: u64::from(other),
            });
        }
    }
    Ok(())
}

/// Appends `n` values from `first` on, each `delta` after the one before it: eight running sums, no multiplication.
fn arithmetic<W: Word>(first: i64, delta: i64, n: usize, out: &mut Vec<W>) {
    let mut lanes: [i64; 8] =
        std::array::from_fn(|i| first.wrapping_add(delta.wrapping_mul(i as i64)));
    let stride = delta.wrapping_mul(8);
    out.reserve(n);
    for _ in 0..n / 8 {
        out.extend_from_slice(&lanes.map(W::of));
        lanes = lanes.map(|lane| lane.wrapping_add(stride));
    }
    out.extend(lanes.iter().take(n % 8).map(|lane| W::of(*lane)));
}

/// Residuals back to values.
struct Sums {
    order: u8,
    first: i64,
    g: u64,
    step: u64,
    delta: u64,
}

impl Sums {
    fn new(first: i64, model: &Model) -> Self {
        Self {
            order: order_of(model.id),
            first,
            g: model.g as u64,
            step: 0,
            delta: 0,
        }
    }

    /// Appends the values of residuals, each less `add`.
    fn extend<W: Word>(&mut self, add: u64, residuals: &mut [u64], out: &mut Vec<W>) {
        to_values(self, add, residuals);
        out.extend(residuals.iter().map(|v| W::of(*v as i64)));
    }
}

multiversion! {
    /// Undoes the zigzag of each.
    fn undo_zigzag(values: &mut [u64]) {
        for z in values {
            *z = unzigzag(*z) as u64;
        }
    }
}

/// Turns each value into the sum of `sum`, it and those before it; returns the last. Of four, only one addition waits
/// for the four before them.
#[inline(always)]
fn running_sums(mut sum: u64, values: &mut [u64]) -> u64 {
    let mut fours = values.chunks_exact_mut(4);
    for four in &mut fours {
        let ab = four[0].wrapping_add(four[1]);
        let abc = ab.wrapping_add(four[2]);
        let abcd = ab.wrapping_add(four[2].wrapping_add(four[3]));
        four[0] = sum.wrapping_add(four[0]);
        four[1] = sum.wrapping_add(ab);
        four[2] = sum.wrapping_add(abc);
        four[3] = sum.wrapping_add(abcd);
        sum = four[3];
    }
    for value in fours.into_remainder() {
        sum = sum.wrapping_add(*value);
        *value = sum;
    }
    sum
}

multiversion! {
    /// Turns residuals, each less `add`, into values.
    fn to_values(sums: &mut Sums, add: u64, residuals: &mut [u64]) {
        let first = sums.first as u64;
        let g = sums.g;
        // All at once: the sums below wait for one addition each then, not for two.
        if sums.order > 0 {
            residuals.iter_mut().for_each(|r| *r = r.wrapping_add(add));
        }
        match sums.order {
            0 => {
                let first = first.wrapping_add(add.wrapping_mul(g));
                // A multiplication a value is only paid where there is a divisor.
                if g == 1 {
                    residuals.iter_mut().for_each(|r| *r = r.wrapping_add(first));
                } else {
                    residuals.iter_mut().for_each(|r| *r = r.wrapping_mul(g).wrapping_add(first));
                }
            }
            1 => {
                let mut step = sums.step;
                if g == 1 {
                    let value = running_sums(first.wrapping_add(step), residuals);
                    step = value.wrapping_sub(first);
                } else {
                    for r in residuals.iter_mut() {
                        step = step.wrapping_add(*r);
                        *r = step.wrapping_mul(g).wrapping_add(first);
                    }
                }
                sums.step = step;
            }
            _ => {
                let (mut step, mut delta) = (sums.step, sums.delta);
                for r in residuals.iter_mut() {
                    delta = delta.wrapping_add(*r);
                    step = step.wrapping_add(delta);
                    *r = step.wrapping_mul(g).wrapping_add(first);
                }
                (sums.step, sums.delta) = (step, delta);
            }
        }
    }
}
