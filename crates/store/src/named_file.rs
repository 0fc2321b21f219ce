//! Reads files that a manifest names, and checks that they are what it names.

use alluvium_io::{AlignedBuf, Completion, Device, Lane, Op, OpenMode, Read};

use crate::error::OpenError;
use crate::ledger::NamedFile;

/// Bytes read at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Reads a file that the manifest names and checks it. Waits.
pub(crate) fn read_named(
    device: &dyn Device,
    path: &str,
    file: NamedFile,
) -> Result<Vec<u8>, OpenError> {
    // Not by its length, which may be damaged.
    let mut whole = Vec::new();
    check_named(device, path, file, |piece| whole.extend_from_slice(piece))?;
    Ok(whole)
}

/// Checks a file that the manifest names, a piece in memory at a time, each of which is shown to `visit` before the
/// checksum of all is known. Waits.
pub(crate) fn check_named(
    device: &dyn Device,
    path: &str,
    file: NamedFile,
    mut visit: impl FnMut(&[u8]),
) -> Result<(), OpenError> {
    let bad = OpenError::Manifest {
        section: "a file it names: length or checksum differs",
    };
    let lane = Lane(0);
    let opening = Op::Open {
        path: path.to_owned(),
        mode: OpenMode {
            // What the system remembers would hide what has become of it.
            direct: true,
            ..OpenMode::default()
        },
    };
    let Completion::Opened { file: id, len } = device.submit(lane, opening).wait(device, lane)?
    else {
        return Err(bad);
    };
    let mut pieces = || {
        if file.len > len {
            return Ok(None);
        }
        let (mut read, mut crc) = (0, 0);
        while read < file.len {
            let want = (file.len - read).min(PIECE_BYTES) as usize;
            let mut reads = [Read {
                file: id,
                offset: read,
                into: AlignedBuf::zeroed(want),
            }];
            device.read(&mut reads)?;
            let piece = &reads[0].into.bytes()[..want];
            crc = alluvium_block::crc32c_append(crc, piece);
            visit(piece);
            read += want as u64;
        }
        Ok::<_, alluvium_io::IoError>(Some(crc))
    };
    let crc = pieces();
    device
        .submit(lane, Op::Close { file: id })
        .wait(device, lane)?;
    match crc? {
        Some(crc) if crc == file.crc => Ok(()),
        _ => Err(bad),
    }
}
