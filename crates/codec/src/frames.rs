//! Frames of residuals: up to 128 signed numbers about a base of their own.
//!
//! Patched frame of reference (Zukowski et al. 2006) with the window anywhere: the base is chosen so that the
//! window from it of `width` bits holds most residuals, whether the others lie above, below or on both sides.
//!
//! Layout: byte width (0 to 64; high bit: exceptions follow), zigzag varint base by 2^(width - 9) (by 1 below); if there are exceptions a byte
//! with their number; the low bits of every residual less base, packed; for each exception a byte with its place
//! and the bits above the width as a zigzag varint.

use crate::error::CodecError;
use crate::packing::{pack, packed_bytes, unpack};
use crate::simd::multiversion;
use crate::varint::{get_i64, put_i64, zigzag};

/// Residuals of one frame.
pub(crate) const FRAME: usize = 128;

/// The bit of the width byte that says that exceptions follow.
const PATCHED: u8 = 0x80;

/// Bits of a window's width below which its base is exact.
const BASE_BITS: u32 = 9;

/// Residuals looked at to find the middle of a frame.
const MIDDLE_SAMPLE: usize = 9;

fn bit_len(value: u64) -> u32 {
    64 - value.leading_zeros()
}

/// Bases are multiples of this power of two: a wide window need not lie exactly.
fn base_shift(width: u32) -> u32 {
    width.saturating_sub(BASE_BITS)
}

fn varint_bytes(value: u64) -> usize {
    bit_len(value).max(1).div_ceil(7) as usize
}

/// A window and what a frame takes with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    base: i64,
    width: u32,
    /// Bytes of the frame, about: exact but for the varints of exceptions.
    pub(crate) bytes: usize,
}

/// How many residuals have each bit length.
#[inline(always)]
fn lengths(frame: &[i64], offset: impl Fn(i64) -> u64) -> [u8; 65] {
    // Counters of neighbours are apart: they would wait for each other.
    let mut counts = [[0_u8; 72]; 4];
    let mut fours = frame.chunks_exact(4);
    for four in &mut fours {
        for (lane, r) in counts.iter_mut().zip(four) {
            lane[bit_len(offset(*r)) as usize] += 1;
        }
    }
    for r in fours.remainder() {
        counts[0][bit_len(offset(*r)) as usize] += 1;
    }
    let mut sums = [0; 65];
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = counts[0][i] + counts[1][i] + counts[2][i] + counts[3][i];
    }
    sums
}

/// Bytes and width of the cheapest window whose misfits at each width are those longer than it.
fn cheapest(counts: &[u8; 65], widest: usize, len: usize) -> (usize, u32) {
    let mut best = (packed_bytes(len, widest as u32), widest as u32);
    let (mut exceptions, mut bits_above) = (0, 0);
    for width in (0..widest).rev() {
        exceptions += usize::from(counts[width + 1]);
        bits_above += exceptions;
        // Each costs two bytes at least: a narrower width cannot pay for that many.
        if exceptions * 2 >= best.0 {
            break;
        }
        // Place, sign, seven bits a byte, half a byte of rounding.
        let patches = exceptions + (bits_above + exceptions * 4) / 7;
        let bytes = packed_bytes(len, width as u32) + 1 + patches;
        if bytes < best.0 {
            best = (bytes, width as u32);
        }
    }
    best
}

/// Whether a distance from the base does not fit the width.
#[inline(always)]
fn misfits(offset: u64, width: u32) -> bool {
    width < 64 && offset >> width != 0
}

/// The lowest base of a window of `width` bits with `highest` at its top.
fn below(highest: i64, width: u32) -> i64 {
    let span = 1_u64.checked_shl(width).unwrap_or(0).wrapping_sub(1);
    highest.wrapping_sub(span as i64)
}

multiversion! {
    /// A good window for 1 to 128 residuals: one that begins at the least, one that ends at the greatest, or one
    /// about the middle.
    pub(crate) fn choose(frame: &[i64]) -> Window {
        let (mut min, mut max) = (i64::MAX, i64::MIN);
        for r in frame {
            min = min.min(*r);
            max = max.max(*r);
        }
        let widest = bit_len(max.wrapping_sub(min) as u64) as usize;
        let mut sample = [0; MIDDLE_SAMPLE];
        for (i, slot) in sample.iter_mut().enumerate() {
            *slot = frame[i * frame.len() / MIDDLE_SAMPLE];
        }
        sample.sort_unstable();
        let middle = sample[MIDDLE_SAMPLE / 2];
        // Those that do not fit lie where the frame reaches farthest from its middle.
        let reach = |from: i64, to: i64| bit_len(to.wrapping_sub(from) as u64);
        let (down, up) = (reach(min, middle), reach(middle, max));
        let n = frame.len();
        let (bytes, width, base) = if up > down + 1 {
            let low = lengths(frame, |r| r.wrapping_sub(min) as u64);
            let (bytes, width) = cheapest(&low, widest, n);
            (bytes, width, min)
        } else if down > up + 1 {
            let high = lengths(frame, |r| max.wrapping_sub(r) as u64);
            let (bytes, width) = cheapest(&high, widest, n);
            (bytes, width, below(max, width))
        } else {
            let both = lengths(frame, |r| zigzag(r.wrapping_sub(middle)));
            let both_widest = both.iter().rposition(|c| *c > 0).unwrap_or(0);
            let (bytes, width) = cheapest(&both, both_widest, n);
            let all = packed_bytes(n, widest as u32);
            if all <= bytes {
                (all, widest as u32, min)
            } else {
                let half = 1_i64.checked_shl(width.wrapping_sub(1)).unwrap_or(0);
                (bytes, width, middle.wrapping_sub(half))
            }
        };
        // Down, up or to the nearest multiple: what a window was put against stays in it.
        let shift = base_shift(width);
        let step = 1_i64 << shift;
        let round = match base {
            _ if base == min => 0,
            _ if base == below(max, width) => step - 1,
            _ => step / 2,
        };
        let window = |base: i64, width: u32, bytes: usize| {
            let shift = base_shift(width);
            Window { base, width, bytes: bytes + 1 + varint_bytes(zigzag(base >> shift)) }
        };
        let base = base.saturating_add(round) >> shift << shift;
        // Rounding may push out what lies close together at the window's edge.
        let misfits = frame.iter().filter(|r| misfits(r.wrapping_sub(base) as u64, width)).count();
        let all = packed_bytes(n, widest as u32);
        if misfits > 0 && packed_bytes(n, width) + misfits * 2 > all {
            let shift = base_shift(widest as u32);
            return window(min >> shift << shift, widest as u32, all);
        }
        window(base, width, bytes)
    }
}

/// Appends 1 to 128 residuals. `offsets` is scratch.
pub(crate) fn put(frame: &[i64], window: Window, offsets: &mut Vec<u64>, out: &mut Vec<u8>) {
    let Window { base, width, .. } = window;
    offsets.clear();
    offsets.extend(frame.iter().map(|r| r.wrapping_sub(base) as u64));
    let exceptions = offsets.iter().filter(|o| misfits(**o, width)).count();
    out.push(width as u8 | if exceptions > 0 { PATCHED } else { 0 });
    put_i64(out, base >> base_shift(width));
    if exceptions > 0 {
        out.push(exceptions as u8);
    }
    pack(out, offsets, width);
    if exceptions > 0 {
        for (place, offset) in offsets
            .iter()
            .enumerate()
            .filter(|(_, o)| misfits(**o, width))
        {
            out.push(place as u8);
            put_i64(out, *offset as i64 >> width);
        }
    }
}

/// Takes a frame of `out.len()` residuals off the front, each still to be added to the base that is returned.
pub(crate) fn get(bytes: &mut &[u8], out: &mut [u64]) -> Result<u64, CodecError> {
    let (head, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
    *bytes = rest;
    let width = u32::from(head & !PATCHED);
    if width > 64 {
        return Err(CodecError::Invalid {
            field: "width",
            value: u64::from(width),
        });
    }
    let base = (get_i64(bytes)? as u64) << base_shift(width);
    let mut exceptions = 0;
    if head & PATCHED != 0 {
        let (count, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
        (exceptions, *bytes) = (*count, rest);
    }
    unpack(bytes, width, out)?;
    for _ in 0..exceptions {
        let (place, rest) = bytes.split_first().ok_or(CodecError::Truncated)?;
        *bytes = rest;
        let above = get_i64(bytes)? as u64;
        let slot = out
            .get_mut(usize::from(*place))
            .ok_or(CodecError::Invalid {
                field: "place of an exception",
                value: u64::from(*place),
            })?;
        *slot = slot.wrapping_add(above.checked_shl(width).unwrap_or(0));
    }
    Ok(base)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(frame: &[i64]) -> usize {
        let window = choose(frame);
        let mut bytes = Vec::new();
        put(frame, window, &mut Vec::new(), &mut bytes);
        // Exceptions are costed on average.
        assert!(
            bytes.len() <= frame.len() * 8 + 12 + frame.len() / 4,
            "{} bytes for {frame:?}",
            bytes.len()
        );
        let mut back = vec![0; frame.len()];
        let mut rest = bytes.as_slice();
        let base = get(&mut rest, &mut back).unwrap();
        assert!(rest.is_empty());
        let back: Vec<i64> = back.iter().map(|v| v.wrapping_add(base) as i64).collect();
        assert_eq!(back, frame);
        bytes.len()
    }

    #[test]
    fn windows_lie_where_the_residuals_are() {
        // One bit each, wherever the outlier.
        let near = |outlier: i64| {
            let mut frame: Vec<i64> = (0..128).map(|i| 1000 + i % 2).collect();
            frame[77] = outlier;
            check(&frame)
        };
        assert_eq!(
            check(&(0..128).map(|i| 1000 + i % 2).collect::<Vec<_>>()),
            3 + 16
        );
        assert_eq!(near(1_000_000), 3 + 16 + 1 + 4);
        assert_eq!(near(-1_000_000), 3 + 16 + 1 + 4);
        assert_eq!(check(&[7; 100]), 2);
        check(&[i64::MIN, i64::MAX, 0, -1]);
        check(&[i64::MIN; 3]);
        check(&[i64::MAX]);
    }

    proptest! {
        #[test]
        fn frames_come_back(
            scale in 0_u32..64,
            residuals in prop::collection::vec(any::<i64>(), 1..=FRAME),
            wild in prop::collection::vec((any::<prop::sample::Index>(), any::<i64>()), 0..6),
        ) {
            let mut frame: Vec<i64> = residuals.iter().map(|r| r >> scale).collect();
            for (place, value) in wild {
                let place = place.index(frame.len());
                frame[place] = value;
            }
            check(&frame);
        }
    }
}
