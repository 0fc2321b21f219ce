//! The seam to storage: a directory of files that moves aligned blocks and says when they are durable.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::{AlignedBuf, PageBuf};
use crate::error::IoError;
use crate::ticket::Ticket;

/// What a device asks of offsets, lengths and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Offsets and lengths must be multiples of this many bytes (512 or 4096).
    pub offset_align: u32,
    /// Buffers must start at multiples of this many bytes.
    pub memory_align: u32,
    /// Most buffers of one vectored write.
    pub max_vectors: u32,
}

/// A submission lane: operations of different lanes never wait for each other. One per shard, one more for
/// checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lane(pub usize);

/// An open file of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId(pub u32);

/// How to open a file. Paths are relative to the device, with `/` between parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenMode {
    /// Create the file (and its parent directories) if it is absent; otherwise absence is an error.
    pub create: bool,
    /// Allocate this many bytes, so that later writes below it cannot meet a full disk. 0 for none.
    /// The file's length becomes at least this.
    pub allocate: u64,
    /// Bypass the page cache of the kernel where the file system allows it.
    pub direct: bool,
}

/// What a write carries. The device owns it until the operation completes.
#[derive(Debug, Clone)]
pub enum WriteData {
    /// Whole pages, written one after the other by one vectored write (or gathered, where that pays).
    Pages(Vec<Arc<PageBuf>>),
    /// One buffer.
    Buffer(Arc<AlignedBuf>),
}

impl WriteData {
    /// Bytes to write.
    pub fn len(&self) -> usize {
        match self {
            Self::Pages(pages) => pages.len() * alluvium_types::PAGE_SIZE,
            Self::Buffer(buffer) => buffer.len(),
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An operation. Operations of one lane may complete in any order and are made durable only by a later
/// `Sync` of the file (content) and `SyncDir` of the directory (names) that is submitted after they completed.
#[derive(Debug, Clone)]
pub enum Op {
    /// Opens a file. Completes with [`Completion::Opened`].
    Open {
        /// Path below the device's root.
        path: String,
        /// See [`OpenMode`].
        mode: OpenMode,
    },
    /// Closes a file; its id must not be used again.
    Close {
        /// The file.
        file: FileId,
    },
    /// Writes all of `data` at `offset`; a short write of the system is continued inside.
    Write {
        /// The file.
        file: FileId,
        /// Bytes from its start; a multiple of the geometry's alignment.
        offset: u64,
        /// The bytes.
        data: WriteData,
        /// Sync the file's data after the write, as one linked operation.
        sync: bool,
    },
    /// Makes everything written to the file before durable, with the metadata needed to read it back.
    Sync {
        /// The file.
        file: FileId,
    },
    /// Makes creations, renames and removals in a directory durable. `""` is the root.
    SyncDir {
        /// Path below the root.
        path: String,
    },
    /// Renames a file, replacing what stands there.
    Rename {
        /// Path below the root.
        from: String,
        /// Path below the root.
        to: String,
    },
    /// Gives the blocks of a range back: it reads as zeros, the length of the file stays. Fails with
    /// [`IoErrorKind::Unsupported`](crate::IoErrorKind::Unsupported) where the file system has no holes, and with
    /// [`IoErrorKind::Linked`](crate::IoErrorKind::Linked) where the file has another name: a backup's. Like a write
    /// it has happened or not after a power cut, until a later `Sync`.
    Punch {
        /// The file.
        file: FileId,
        /// Bytes from its start; a multiple of the geometry's alignment.
        offset: u64,
        /// How many; likewise.
        len: u64,
    },
    /// Removes a file; absence is not an error.
    Remove {
        /// Path below the root.
        path: String,
    },
}

/// What an operation gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// The file and its length in bytes.
    Opened {
        /// The file.
        file: FileId,
        /// Its length.
        len: u64,
    },
    /// Nothing but success.
    Done,
}

/// One read of a batch.
#[derive(Debug)]
pub struct Read {
    /// The file.
    pub file: FileId,
    /// Bytes from its start, aligned.
    pub offset: u64,
    /// Where to put the bytes; its length is how many are wanted. Bytes past the end of the file read as zero.
    pub into: AlignedBuf,
}

/// A file found by [`Device::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name within the directory.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
    /// Bytes of allocated blocks.
    pub allocated: u64,
}

/// A directory of files on something that stores blocks.
///
/// `submit` and `drive` never wait for the device. `read` and `list` wait, and belong to readers and to
/// opening. Implementations are shared by all threads; each lane has a lock of its own, held only while
/// entries are queued or reaped.
pub trait Device: Send + Sync + fmt::Debug {
    /// Alignment and limits.
    fn geometry(&self) -> Geometry;

    /// Name of the backend and why it was chosen, in one sentence for people.
    fn backend(&self) -> String;

    /// How many lanes there are.
    fn lanes(&self) -> usize;

    /// Queues an operation. Nothing may reach the device before `drive` of the same lane, which real
    /// backends call themselves when the queue is full.
    fn submit(&self, lane: Lane, op: Op) -> Ticket;

    /// Hands queued operations to the device and completes the tickets of those that ended. Returns how
    /// many ended. Never waits.
    fn drive(&self, lane: Lane) -> usize;

    /// Waits until something may have completed on any lane, [`Device::wake`] is called, or the time is up.
    fn wait(&self, timeout: Duration);

    /// Ends a [`Device::wait`] of another thread, or the next one.
    fn wake(&self);

    /// Reads a batch, many in flight where the device can, and returns when all are in.
    ///
    /// # Errors
    /// The first failure.
    fn read(&self, reads: &mut [Read]) -> Result<(), IoError>;

    /// The files of a directory, in no order; an absent directory is empty.
    ///
    /// # Errors
    /// If the directory cannot be read.
    fn list(&self, path: &str) -> Result<Vec<Listed>, IoError>;

    /// Gives a file a second name, `to` in the file system of the machine: an absolute path, whose directory is made if need
    /// be. No holes are made in a file with several names. Waits; the name is durable once its directory was synced.
    ///
    /// # Errors
    /// [`IoErrorKind::Unsupported`](crate::IoErrorKind::Unsupported) if the device has no such names or `to` is in
    /// another file system: then the bytes are to be copied.
    fn link(&self, path: &str, to: &Path) -> Result<(), IoError> {
        let _ = to;
        let cause = std::io::ErrorKind::Unsupported.into();
        Err(IoError::new("link", path, cause))
    }
}
