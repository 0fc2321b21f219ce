//! Integer columns: times, integers, mantissas of decimals, dictionary ids.
//!
//! First byte: encoding. 0 const: the value. 1 arithmetic: first value, delta. 2, 3, 4 PFOR of order 0, 1, 2:
//! first value, common divisor g of all distances from it, for orders 0 and 1 the median m, then for the n-1
//! others residuals in blocks of 128. With k = (x - first) / g the residual is k - m, delta of k - m, or delta
//! of delta of k. 8 raw: eight bytes each. All sums wrap, so every 64-bit column comes back.
//!
//! A block of residuals (patched frame of reference, Zukowski et al. 2006): byte width, byte exceptions, the
//! low bits packed, then for each exception its place and the bits above as a varint.

use crate::error::CodecError;
use crate::packing::{pack, packed_bytes, unpack};
use crate::varint::{get_i64, get_u64, put_i64, put_u64, unzigzag, zigzag};

/// Values looked at to find a centre.
const CENTRE_SAMPLE: usize = 255;

/// Residuals of one width.
const BLOCK: usize = 128;

const CONST: u8 = 0;
const ARITHMETIC: u8 = 1;
const PFOR: u8 = 2;
const RAW: u8 = 8;

/// Reused buffers of encoding.
#[derive(Debug, Default)]
pub(crate) struct IntegerScratch {
    steps: Vec<i64>,
    deltas: Vec<i64>,
    residuals: Vec<u64>,
    sorted: Vec<i64>,
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Greatest common divisor of the distances from the first value; 1 where a distance passes 64 bits.
fn divisor(values: &[i64]) -> u64 {
    let mut g = 0;
    for value in &values[1..] {
        let Some(distance) = value.checked_sub(values[0]) else {
            return 1;
        };
        g = gcd(g, distance.unsigned_abs());
        if g == 1 {
            return 1;
        }
    }
    g.max(1)
}

/// Each value less the one before it, the first less zero.
fn differences(values: &[i64], out: &mut Vec<i64>) {
    out.clear();
    let Some(first) = values.first() else { return };
    out.push(*first);
    out.extend(values.windows(2).map(|w| w[1].wrapping_sub(w[0])));
}

fn bit_len(value: u64) -> u32 {
    64 - value.leading_zeros()
}

/// About the median: of every so many-th value.
fn centre(values: &[i64], scratch: &mut Vec<i64>) -> i64 {
    scratch.clear();
    scratch.extend(values.iter().step_by(values.len().div_ceil(CENTRE_SAMPLE)));
    let middle = scratch.len() / 2;
    *scratch.select_nth_unstable(middle).1
}

fn total_bits(values: &[i64], centre: i64) -> u64 {
    values
        .iter()
        .map(|v| u64::from(bit_len(zigzag(v.wrapping_sub(centre)))))
        .sum()
}

/// Appends a column of at least one value.
pub(crate) fn encode(values: &[i64], scratch: &mut IntegerScratch, out: &mut Vec<u8>) {
    let first = values[0];
    let delta = values.get(1).map_or(0, |v| v.wrapping_sub(first));
    if values.windows(2).all(|w| w[1].wrapping_sub(w[0]) == delta) {
        out.push(if delta == 0 { CONST } else { ARITHMETIC });
        put_i64(out, first);
        if delta != 0 {
            put_i64(out, delta);
        }
        return;
    }
    let start = out.len();
    let g = divisor(values);
    let IntegerScratch {
        steps,
        deltas,
        residuals,
        sorted,
    } = scratch;
    // A divisor past the signed range would only ever divide one distance.
    let g = if g > i64::MAX as u64 { 1 } else { g };
    steps.clear();
    if g == 1 {
        steps.extend(values[1..].iter().map(|x| x.wrapping_sub(first)));
    } else {
        steps.extend(values[1..].iter().map(|x| x.wrapping_sub(first) / g as i64));
    }
    differences(steps, deltas);
    // Bits of all residuals by order, each about its own centre.
    let centre0 = centre(steps, sorted);
    let centre1 = centre(deltas, sorted);
    let cost0 = total_bits(steps, centre0);
    let cost1 = total_bits(deltas, centre1);
    differences(deltas, sorted);
    let cost2 = total_bits(sorted, 0);
    let (order, chosen, about): (u8, &[i64], i64) = if cost0 <= cost1 && cost0 <= cost2 {
        (0, steps, centre0)
    } else if cost1 <= cost2 {
        (1, deltas, centre1)
    } else {
        (2, sorted, 0)
    };
    residuals.clear();
    residuals.extend(chosen.iter().map(|r| zigzag(r.wrapping_sub(about))));
    out.push(PFOR + order);
    put_i64(out, first);
    put_u64(out, g);
    match order {
        0 | 1 => put_i64(out, about),
        _ => {}
    }
    for block in residuals.chunks(BLOCK) {
        put_block(block, out);
    }
    if out.len() - start > 1 + values.len() * 8 {
        out.truncate(start);
        out.push(RAW);
        values
            .iter()
            .for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
    }
}

fn put_block(block: &[u64], out: &mut Vec<u8>) {
    let mut counts = [0_u32; 65];
    for z in block {
        counts[bit_len(*z) as usize] += 1;
    }
    let widest = counts.iter().rposition(|c| *c > 0).unwrap_or(0);
    // From the widest down: each step narrows all values and turns some into exceptions, which take a byte for
    // their place and seven bits a byte for what is above the width.
    let (mut best, mut best_bits) = (widest, packed_bytes(block.len(), widest as u32) * 8);
    let mut exceptions = 0;
    for width in (0..widest).rev() {
        exceptions += counts[width + 1] as usize;
        // Each costs two bytes at least: a narrower width cannot pay for that many.
        if exceptions * 16 >= best_bits {
            break;
        }
        let patch_bytes: usize = (width + 1..=widest)
            .map(|w| counts[w] as usize * (1 + (w - width).div_ceil(7)))
            .sum();
        let bits = (packed_bytes(block.len(), width as u32) + patch_bytes) * 8;
        if bits < best_bits {
            (best, best_bits) = (width, bits);
        }
    }
    let width = best as u32;
    let exceptions: u32 = counts[best + 1..].iter().sum();
    out.push(width as u8);
    out.push(exceptions as u8);
    pack(out, block, width);
    if exceptions > 0 {
        for (place, z) in block
            .iter()
            .enumerate()
            .filter(|(_, z)| bit_len(**z) > width)
        {
            out.push(place as u8);
            put_u64(out, z >> width);
        }
    }
}

fn get_block(bytes: &mut &[u8], out: &mut [u64]) -> Result<(), CodecError> {
    let ([width, exceptions], rest) = bytes
        .split_first_chunk::<2>()
        .ok_or(CodecError::Truncated)?;
    let (width, exceptions) = (u32::from(*width), *exceptions);
    *bytes = rest;
    if width > 64 {
        return Err(CodecError::Invalid {
            field: "width",
            value: u64::from(width),
        });
    }
    unpack(bytes, width, out)?;
    for _ in 0..exceptions {
        let (place, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
        *bytes = rest;
        let high = get_u64(bytes)?;
        let slot = out
            .get_mut(usize::from(*place))
            .ok_or(CodecError::Invalid {
                field: "place of an exception",
                value: u64::from(*place),
            })?;
        *slot |= high.checked_shl(width).unwrap_or(0);
    }
    Ok(())
}

/// Turns differences into what they add up to, going on from `total`.
fn sum_up(values: &mut [u64], total: &mut u64) {
    let mut sum = *total;
    for value in values {
        sum = sum.wrapping_add(*value);
        *value = sum;
    }
    *total = sum;
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

/// Takes a column of `n` values, at least one, off the front, appending to `out`.
pub(crate) fn decode<W: Word>(
    bytes: &mut &[u8],
    n: usize,
    out: &mut Vec<W>,
) -> Result<(), CodecError> {
    let (encoding, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
    *bytes = rest;
    match *encoding {
        CONST => {
            let value = get_i64(bytes)?;
            out.resize(out.len() + n, W::of(value));
        }
        ARITHMETIC => {
            let (first, delta) = (get_i64(bytes)?, get_i64(bytes)?);
            out.extend((0..n as i64).map(|i| W::of(first.wrapping_add(delta.wrapping_mul(i)))));
        }
        RAW => {
            let (words, rest) = bytes.split_at_checked(n * 8).ok_or(CodecError::Truncated)?;
            *bytes = rest;
            let word = |w: &[u8]| W::of(w.first_chunk::<8>().map_or(0, |w| i64::from_le_bytes(*w)));
            out.extend(words.chunks_exact(8).map(word));
        }
        pfor if (PFOR..PFOR + 3).contains(&pfor) => {
            let order = pfor - PFOR;
            let first = get_i64(bytes)?;
            let g = get_u64(bytes)? as i64;
            let centre = if order < 2 { get_i64(bytes)? } else { 0 };
            out.push(W::of(first));
            let (mut step, mut delta) = (0_u64, 0_u64);
            let mut left = n - 1;
            let mut block = [0_u64; BLOCK];
            while left > 0 {
                let take = left.min(BLOCK);
                let residuals = &mut block[..take];
                get_block(bytes, residuals)?;
                for z in residuals.iter_mut() {
                    *z = unzigzag(*z).wrapping_add(centre) as u64;
                }
                match order {
                    0 => {}
                    1 => sum_up(residuals, &mut step),
                    _ => {
                        sum_up(residuals, &mut delta);
                        sum_up(residuals, &mut step);
                    }
                }
                // A multiplication a value is only paid where there is a divisor.
                if g == 1 {
                    out.extend(
                        residuals
                            .iter()
                            .map(|k| W::of(first.wrapping_add(*k as i64))),
                    );
                } else {
                    out.extend(
                        residuals
                            .iter()
                            .map(|k| W::of(first.wrapping_add((*k as i64).wrapping_mul(g)))),
                    );
                }
                left -= take;
            }
        }
        other => {
            return Err(CodecError::Invalid {
                field: "integer encoding",
                value: u64::from(other),
            });
        }
    }
    Ok(())
}
