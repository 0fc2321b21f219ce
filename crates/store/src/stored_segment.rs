//! The bytes of one segment of the index in an open store: a block of the first file, and where that does not hold of its copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium_index::{SegmentError, SegmentFile};
use alluvium_io::{AlignedBuf, Completion, Device, FileId, IoError, Lane, Op, OpenMode, Read};
use alluvium_types::PAGE_SIZE;
use parking_lot::RwLock;

use crate::error::OpenError;
use crate::index_cache::IndexCache;
use crate::ledger::NamedFile;
use crate::open::StoreInner;

/// Where the bytes are at the moment.
#[derive(Debug)]
enum Place {
    /// In memory until a superblock names the file.
    Memory(Arc<Vec<u8>>),
    File(FileId),
}

/// The bytes of one segment. Dropping it closes the file.
#[derive(Debug)]
pub(crate) struct StoredSegment {
    device: Arc<dyn Device>,
    lane: Lane,
    cache: Arc<IndexCache>,
    file: NamedFile,
    /// The file that is not open: opened for each block that the other one does not have.
    other: String,
    place: RwLock<Place>,
    /// Whether blocks that are read are kept in memory.
    keeps_blocks: AtomicBool,
}

impl StoredSegment {
    /// A segment that is still to be written.
    pub(crate) fn in_memory(inner: &StoreInner, file: NamedFile, bytes: Arc<Vec<u8>>) -> Self {
        let [_, copy] = file.index_paths();
        Self::new(inner, file, copy, Place::Memory(bytes))
    }

    /// Opens a file that a manifest names, or its copy if that is missing. Waits.
    pub(crate) fn open(inner: &StoreInner, file: NamedFile) -> Result<Self, OpenError> {
        let [first, copy] = file.index_paths();
        let (device, lane) = (inner.device.as_ref(), inner.index_lane());
        match open(device, lane, &first, file.len) {
            Ok(id) => Ok(Self::new(inner, file, copy, Place::File(id))),
            Err(error) => {
                inner.index_cache.suspect(file.seq);
                let id = open(device, lane, &copy, file.len).map_err(|_| error)?;
                Ok(Self::new(inner, file, first, Place::File(id)))
            }
        }
    }

    fn new(inner: &StoreInner, file: NamedFile, other: String, place: Place) -> Self {
        Self {
            device: Arc::clone(&inner.device),
            lane: inner.index_lane(),
            cache: Arc::clone(&inner.index_cache),
            file,
            other,
            place: RwLock::new(place),
            keeps_blocks: AtomicBool::new(true),
        }
    }

    /// From here on the bytes are in this file.
    pub(crate) fn place_in(&self, file: FileId) {
        *self.place.write() = Place::File(file);
    }

    /// Whether blocks that are read from now on are kept in memory.
    pub(crate) fn keep_blocks(&self, keep: bool) {
        self.keeps_blocks.store(keep, Ordering::Relaxed);
    }

    fn keep(&self, offset: u64, block: Arc<[u8]>) {
        if self.keeps_blocks.load(Ordering::Relaxed) {
            self.cache.put((self.file.seq, offset), block);
        }
    }

    fn read_other(&self, offset: u64, bytes: usize) -> Result<Arc<[u8]>, IoError> {
        let (device, lane) = (self.device.as_ref(), self.lane);
        let missing = || {
            let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
            IoError::new("open", self.other.clone(), cause)
        };
        // What is left of one that is short may be what is wanted.
        let opened = open(device, lane, &self.other, offset + bytes as u64);
        let file = opened.map_err(|_| missing())?;
        let block = read_block(device, file, offset, bytes);
        drop(device.submit(lane, Op::Close { file }));
        block
    }
}

/// Opens a file of at least so many bytes. Waits.
fn open(device: &dyn Device, lane: Lane, path: &str, len: u64) -> Result<FileId, OpenError> {
    let missing = OpenError::Manifest {
        section: "an index segment it names: the file is missing or short, and so is its copy",
    };
    let opening = Op::Open {
        path: path.to_owned(),
        mode: OpenMode::default(),
    };
    let Completion::Opened { file, len: there } =
        device.submit(lane, opening).wait(device, lane)?
    else {
        return Err(missing);
    };
    if there < len {
        drop(device.submit(lane, Op::Close { file }));
        return Err(missing);
    }
    Ok(file)
}

fn read_block(
    device: &dyn Device,
    file: FileId,
    offset: u64,
    bytes: usize,
) -> Result<Arc<[u8]>, IoError> {
    let begin = offset - offset % PAGE_SIZE as u64;
    let skip = (offset - begin) as usize;
    let mut reads = [Read {
        file,
        offset: begin,
        into: AlignedBuf::zeroed((skip + bytes).next_multiple_of(PAGE_SIZE)),
    }];
    device.read(&mut reads)?;
    Ok(reads[0].into.bytes()[skip..skip + bytes].into())
}

impl SegmentFile for StoredSegment {
    fn len(&self) -> u64 {
        self.file.len
    }

    fn read(
        &self,
        offset: u64,
        bytes: usize,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), SegmentError> {
        self.read_again(offset, bytes, &mut |bytes, _| visit(bytes))
    }

    fn read_again(
        &self,
        offset: u64,
        bytes: usize,
        visit: &mut dyn FnMut(&[u8], bool) -> bool,
    ) -> Result<(), SegmentError> {
        let file = match &*self.place.read() {
            Place::Memory(whole) => return whole.read_again(offset, bytes, visit),
            Place::File(file) => *file,
        };
        if let Some(block) = self.cache.get((self.file.seq, offset), bytes) {
            visit(&block, true);
            return Ok(());
        }
        let first = read_block(self.device.as_ref(), file, offset, bytes);
        if let Ok(block) = &first
            && visit(block, false)
        {
            self.keep(offset, Arc::clone(block));
            return Ok(());
        }
        self.cache.suspect(self.file.seq);
        if let Ok(block) = self.read_other(offset, bytes)
            && visit(&block, false)
        {
            self.cache.copies_read.fetch_add(1, Ordering::Relaxed);
            self.keep(offset, block);
            return Ok(());
        }
        first.map(drop).map_err(|error| SegmentError::Read {
            source: Arc::new(error),
        })
    }
}

impl Drop for StoredSegment {
    fn drop(&mut self) {
        if let Place::File(file) = *self.place.get_mut() {
            drop(self.device.submit(self.lane, Op::Close { file }));
        }
    }
}
