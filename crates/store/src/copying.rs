//! Files from one device to another, in pieces. Waits: it belongs to backups and restores.

use std::sync::Arc;

use alluvium_block::UNFINISHED_FILE;
use alluvium_io::{
    AlignedBuf, Completion, Device, FileId, IoError, Lane, Op, OpenMode, Read, WriteData,
};
use alluvium_types::PAGE_SIZE;

/// Bytes of one read and of one write. A piece of zeros is not written: it stays a hole.
const PIECE_BYTES: u64 = 256 << 10;

/// A device and the lane on which its files are opened and written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side<'a> {
    pub device: &'a dyn Device,
    pub lane: Lane,
}

impl Side<'_> {
    /// Performs an operation and waits for its end.
    pub(crate) fn run(self, op: Op) -> Result<Completion, IoError> {
        self.device
            .submit(self.lane, op)
            .wait(self.device, self.lane)
    }

    /// Opens a file; gives its length, too.
    pub(crate) fn open(self, path: &str, create: bool) -> Result<(FileId, u64), IoError> {
        let mode = OpenMode {
            create,
            allocate: 0,
            direct: true,
        };
        let path = path.to_owned();
        match self.run(Op::Open {
            path: path.clone(),
            mode,
        })? {
            Completion::Opened { file, len } => Ok((file, len)),
            Completion::Done => {
                let cause = std::io::Error::other("the device opened nothing");
                Err(IoError::new("open", path, cause))
            }
        }
    }

    pub(crate) fn close(self, file: FileId) -> Result<(), IoError> {
        self.run(Op::Close { file }).map(drop)
    }

    pub(crate) fn write(self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        let mut buffer = AlignedBuf::zeroed(bytes.len().next_multiple_of(PAGE_SIZE));
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let data = WriteData::Buffer(Arc::new(buffer));
        let sync = false;
        let write = Op::Write {
            file,
            offset,
            data,
            sync,
        };
        self.run(write).map(drop)
    }

    pub(crate) fn sync_dir(self, path: &str) -> Result<(), IoError> {
        self.run(Op::SyncDir { path: path.into() }).map(drop)
    }

    /// Says, durably, that the directory is being filled.
    pub(crate) fn begin(self) -> Result<(), IoError> {
        let (file, _) = self.open(UNFINISHED_FILE, true)?;
        self.run(Op::Sync { file })?;
        self.close(file)?;
        self.sync_dir("")
    }

    /// Takes [`Self::begin`] back, once the superblock is durable.
    pub(crate) fn end(self) -> Result<(), IoError> {
        let path = UNFINISHED_FILE.into();
        self.run(Op::Remove { path })?;
        self.sync_dir("")
    }
}

/// Copies the first `len` bytes of an open file to a new one, and makes them durable, but not their name. Returns how
/// many bytes were written.
pub(crate) fn copy_file(
    (from, source): (Side<'_>, FileId),
    to: Side<'_>,
    path: &str,
    len: u64,
) -> Result<u64, IoError> {
    let (file, _) = to.open(path, true)?;
    let copied = copy_bytes((from, source), (to, file), len);
    let closed = to.close(file);
    copied.and_then(|written| closed.map(|()| written))
}

/// Copies what can be read of an open file, as [`copy_file`] does all of it. Returns how many bytes were written, and the pages
/// that are zeros in the copy because they cannot be read, with the reason why the first cannot.
pub(crate) fn copy_readable(
    (from, source): (Side<'_>, FileId),
    to: Side<'_>,
    path: &str,
    len: u64,
) -> Result<(u64, Option<(Vec<u64>, IoError)>), IoError> {
    let (file, _) = to.open(path, true)?;
    let (mut written, mut unread) = (0, None);
    let mut pieces = || {
        for offset in (0..len).step_by(PIECE_BYTES as usize) {
            let bytes = (len - offset).min(PIECE_BYTES) as usize;
            let (piece, missing) = read_pages(from, source, offset, bytes);
            to.write(file, offset, &piece)?;
            written += piece.len() as u64;
            if let Some((pages, error)) = missing {
                let first = offset / PAGE_SIZE as u64;
                let (all, _) = unread.get_or_insert((Vec::new(), error));
                all.extend(pages.iter().map(|page| first + *page as u64));
            }
        }
        to.run(Op::Sync { file }).map(drop)
    };
    let copied = pieces();
    let closed = to.close(file);
    copied.and(closed)?;
    Ok((written, unread))
}

/// Whole pages of a file; those that cannot be read are zeros: which, and why the first cannot. Waits.
pub(crate) fn read_pages(
    from: Side<'_>,
    file: FileId,
    offset: u64,
    len: usize,
) -> (Vec<u8>, Option<(Vec<usize>, IoError)>) {
    let read = |offset, len| {
        let mut reads = [Read {
            file,
            offset,
            into: AlignedBuf::zeroed(len),
        }];
        let result = from.device.read(&mut reads);
        result.map(|()| reads[0].into.bytes().to_vec())
    };
    let len = len.next_multiple_of(PAGE_SIZE);
    if len == 0 {
        return (Vec::new(), None);
    }
    if let Ok(bytes) = read(offset, len) {
        return (bytes, None);
    }
    // A sector that cannot be read takes none of the others with it.
    let mut bytes = vec![0; len];
    let mut unread: Option<(Vec<usize>, IoError)> = None;
    for (i, page) in bytes.chunks_mut(PAGE_SIZE).enumerate() {
        match read(offset + (i * PAGE_SIZE) as u64, PAGE_SIZE) {
            Ok(read) => page.copy_from_slice(&read),
            Err(error) => unread.get_or_insert((Vec::new(), error)).0.push(i),
        }
    }
    (bytes, unread)
}

fn copy_bytes(
    (from, source): (Side<'_>, FileId),
    (to, file): (Side<'_>, FileId),
    len: u64,
) -> Result<u64, IoError> {
    let mut written = 0;
    for offset in (0..len).step_by(PIECE_BYTES as usize) {
        let bytes = (len - offset).min(PIECE_BYTES) as usize;
        let mut reads = [Read {
            file: source,
            offset,
            into: AlignedBuf::zeroed(bytes.next_multiple_of(PAGE_SIZE)),
        }];
        from.device.read(&mut reads)?;
        let [read] = reads;
        if read.into.bytes().iter().all(|b| *b == 0) {
            continue;
        }
        written += read.into.len() as u64;
        let data = WriteData::Buffer(Arc::new(read.into));
        let sync = false;
        to.run(Op::Write {
            file,
            offset,
            data,
            sync,
        })?;
    }
    to.run(Op::Sync { file })?;
    Ok(written)
}
