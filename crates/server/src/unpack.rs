//! Packed bodies. It knows no HTTP, so that the fuzz target `gzip_body` takes this file as it is.

use std::io::Read;

use alluvium_types::BudgetExceeded;
use flate2::bufread::MultiGzDecoder;

/// What is asked for first.
const ROOM_MIN: usize = 64 << 10;

/// Why a body could not be unpacked.
#[derive(Debug)]
pub(crate) enum UnpackError {
    /// It holds more than the limit.
    TooLarge,
    Gzip(std::io::Error),
    Memory(BudgetExceeded),
}

/// Unpacks one gzip stream behind the other, never past `limit` bytes. `grow` is asked before there is room for so many
/// bytes in all. CPU work.
pub(crate) fn unpack(
    packed: &[u8],
    limit: usize,
    mut grow: impl FnMut(usize) -> Result<(), BudgetExceeded>,
) -> Result<Vec<u8>, UnpackError> {
    let mut decoder = MultiGzDecoder::new(packed);
    // Zeros up to its length; a stream of many small members fills it a little at a time.
    let mut out: Vec<u8> = Vec::new();
    let mut filled = 0;
    loop {
        if filled == out.len() {
            // One byte past the limit tells a body that fits from one that does not.
            let wanted = (out.len() * 2).max(ROOM_MIN).min(limit + 1);
            grow(wanted).map_err(UnpackError::Memory)?;
            out.reserve_exact(wanted - out.len());
            out.resize(wanted, 0);
        }
        let read = decoder
            .read(&mut out[filled..])
            .map_err(UnpackError::Gzip)?;
        filled += read;
        if filled > limit {
            return Err(UnpackError::TooLarge);
        }
        if read == 0 {
            out.truncate(filled);
            return Ok(out);
        }
    }
}
