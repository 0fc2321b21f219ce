//! A directory of real files and the calls on them that may block; both real backends stand on it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::device::{Completion, FileId, Geometry, Listed, Op, OpenMode, Read, WriteData};
use crate::error::{IoError, IoErrorKind};
use crate::ticket::IoResult;

/// Most buffers of one `pwritev` (`IOV_MAX` of Linux).
pub(crate) const VECTORS_MAX: usize = 1024;
/// `EAGAIN` is retried this often before it counts as a failure.
pub(crate) const RETRIES_MAX: u32 = 64;

#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) fd: OwnedFd,
    pub(crate) path: String,
}

/// The root directory, the lock on it, and the open files.
#[derive(Debug)]
pub(crate) struct Files {
    root: OwnedFd,
    /// Holds the lock until the device is dropped.
    _lock: File,
    direct: bool,
    pub(crate) geometry: Geometry,
    open: RwLock<HashMap<u32, Arc<OpenFile>>>,
    next: AtomicU32,
}

impl Files {
    pub(crate) fn new(root: &Path, lock: File, direct: bool) -> Result<Self, IoError> {
        let failed = |e: Errno| IoError::new("open", root.display().to_string(), e.into());
        let geometry = geometry(&lock, direct);
        let root = rustix::fs::open(
            root,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed)?;
        Ok(Self {
            root,
            _lock: lock,
            direct,
            geometry,
            open: RwLock::default(),
            next: AtomicU32::new(0),
        })
    }

    pub(crate) fn get(
        &self,
        attempt: &'static str,
        file: FileId,
    ) -> Result<Arc<OpenFile>, IoError> {
        self.open.read().get(&file.0).cloned().ok_or_else(|| {
            let cause = Error::new(ErrorKind::NotFound, "no such open file");
            IoError::new(attempt, format!("file {}", file.0), cause)
        })
    }

    /// Refuses offsets that a device opened past the page cache would refuse.
    pub(crate) fn check(
        &self,
        attempt: &'static str,
        file: &OpenFile,
        offset: u64,
        len: usize,
    ) -> Result<(), IoError> {
        self.geometry.check(attempt, &file.path, offset, len)
    }

    /// Performs an operation on the calling thread.
    pub(crate) fn perform(&self, op: &Op) -> IoResult {
        match op {
            Op::Open { path, mode } => self.open(path, *mode),
            Op::Close { file } => {
                let closed = self.open.write().remove(&file.0);
                closed.map(|_| Completion::Done).ok_or_else(|| {
                    IoError::new(
                        "close",
                        format!("file {}", file.0),
                        ErrorKind::NotFound.into(),
                    )
                })
            }
            Op::Write {
                file,
                offset,
                data,
                sync,
            } => {
                let file = self.get("write", *file)?;
                self.check("write", &file, *offset, data.len())?;
                write_all(&file, *offset, data)?;
                if *sync {
                    sync_data(&file)?;
                }
                Ok(Completion::Done)
            }
            Op::Sync { file } => {
                let file = self.get("sync", *file)?;
                sync_data(&file)?;
                Ok(Completion::Done)
            }
            Op::SyncDir { path } => self.sync_dir(path),
            Op::Rename { from, to } => {
                confined("rename", from)?;
                confined("rename", to)?;
                let done = rustix::fs::renameat(&self.root, from, &self.root, to);
                done.map_err(|e| IoError::new("rename", from, e.into()))?;
                Ok(Completion::Done)
            }
            Op::Punch { file, offset, len } => {
                let file = self.get("punch", *file)?;
                self.check("punch", &file, *offset, *len as usize)?;
                punch(&file, *offset, *len)?;
                Ok(Completion::Done)
            }
            Op::Remove { path } => {
                confined("remove", path)?;
                match rustix::fs::unlinkat(&self.root, path, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => Ok(Completion::Done),
                    Err(e) => Err(IoError::new("remove", path, e.into())),
                }
            }
        }
    }

    fn open(&self, path: &str, mode: OpenMode) -> IoResult {
        confined("open", path)?;
        let failed = |e: Errno| IoError::new("open", path, e.into());
        if mode.create {
            self.create_parents(path).map_err(failed)?;
        }
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        flags.set(OFlags::CREATE, mode.create);
        let open = |flags| rustix::fs::openat(&self.root, path, flags, Mode::from_raw_mode(0o640));
        let fd = if mode.direct && self.direct {
            match open(flags | OFlags::DIRECT) {
                // The file system has no way past the page cache.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => open(flags),
                other => other,
            }
        } else {
            open(flags)
        }
        .map_err(failed)?;
        let length = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|s| s.st_size as u64);
        let mut len = length(&fd).map_err(failed)?;
        if mode.allocate > 0 {
            allocate(&fd, len, mode.allocate)
                .map_err(|e| IoError::new("allocate", path, e.into()))?;
            len = length(&fd).map_err(failed)?;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(
            id,
            Arc::new(OpenFile {
                fd,
                path: path.to_owned(),
            }),
        );
        Ok(Completion::Opened {
            file: FileId(id),
            len,
        })
    }

    /// Creates the absent directories above `path`, each durable before what it holds.
    fn create_parents(&self, path: &str) -> Result<(), Errno> {
        for (end, _) in path.match_indices('/') {
            let dir = &path[..end];
            match rustix::fs::mkdirat(&self.root, dir, Mode::from_raw_mode(0o750)) {
                Ok(()) => {
                    let above = dir.rfind('/').map_or("", |i| &dir[..i]);
                    rustix::fs::fsync(self.directory(above)?)?;
                }
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.root, path, flags, Mode::empty())
    }

    fn sync_dir(&self, path: &str) -> IoResult {
        if !path.is_empty() {
            confined("sync", path)?;
        }
        let synced = self.directory(path).and_then(rustix::fs::fsync);
        synced.map_err(|e| IoError::new("sync", path, e.into()))?;
        Ok(Completion::Done)
    }

    /// One read of the system's, continued until it is whole or the file ends.
    pub(crate) fn read(&self, read: &mut Read) -> Result<(), IoError> {
        let file = self.get("read", read.file)?;
        self.check("read", &file, read.offset, read.into.len())?;
        read_rest(&file, read, 0)
    }

    /// Gives a file a second name, in the file system of the machine.
    pub(crate) fn link(&self, path: &str, to: &Path) -> Result<(), IoError> {
        confined("link", path)?;
        if let Some(parent) = to.parent() {
            let made = std::fs::create_dir_all(parent);
            made.map_err(|e| IoError::new("create", parent.display().to_string(), e))?;
        }
        let linked = rustix::fs::linkat(&self.root, path, rustix::fs::CWD, to, AtFlags::empty());
        linked.map_err(|e| {
            let cause = match e {
                // Another file system, one without links, or a file that has as many names as it may.
                Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK => {
                    ErrorKind::Unsupported.into()
                }
                e => e.into(),
            };
            IoError::new("link", path, cause)
        })
    }

    pub(crate) fn list(&self, path: &str) -> Result<Vec<Listed>, IoError> {
        let failed = |e: Errno| IoError::new("list", path, e.into());
        if !path.is_empty() {
            confined("list", path)?;
        }
        let dir = match self.directory(path) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut listed = Vec::new();
        for entry in rustix::fs::Dir::read_from(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let stat = match rustix::fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
            {
                // Removed since.
                Err(Errno::NOENT) => continue,
                other => other.map_err(failed)?,
            };
            // A name that is not UTF-8 is not ours.
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
                listed.push(Listed {
                    name: name.to_owned(),
                    len: stat.st_size as u64,
                    allocated: stat.st_blocks as u64 * 512,
                });
            }
        }
        Ok(listed)
    }
}

impl Geometry {
    /// Refuses an offset or length that is not aligned as this geometry asks.
    ///
    /// # Errors
    /// Kind `Other`, cause `InvalidInput`.
    pub fn check(
        &self,
        attempt: &'static str,
        path: &str,
        offset: u64,
        len: usize,
    ) -> Result<(), IoError> {
        let align = u64::from(self.offset_align);
        if offset.is_multiple_of(align)
            && (len as u64).is_multiple_of(align)
            && offset
                .checked_add(len as u64)
                .is_some_and(|end| i64::try_from(end).is_ok())
        {
            return Ok(());
        }
        let text = format!("{len} bytes at {offset} are not aligned to {align}");
        Err(IoError::new(
            attempt,
            path,
            Error::new(ErrorKind::InvalidInput, text),
        ))
    }
}

/// What the file system asks of unbuffered access; 4096 where it does not say.
fn geometry(file: &File, direct: bool) -> Geometry {
    let safe = Geometry {
        offset_align: 4096,
        memory_align: 4096,
        max_vectors: VECTORS_MAX as u32,
    };
    if !direct {
        return safe;
    }
    let Ok(stat) = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else {
        return safe;
    };
    let (memory, offset) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
    let fits = |align: u32| align.is_power_of_two() && align <= 4096;
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 || !fits(memory) || !fits(offset) {
        return safe;
    }
    Geometry {
        offset_align: offset.max(512),
        memory_align: memory.max(512),
        ..safe
    }
}

/// Reserves blocks for a file of length `before`, or leaves it as it was.
fn allocate(fd: &OwnedFd, before: u64, wanted: u64) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(fd)?;
    let missing = wanted.saturating_sub(stat.st_blocks as u64 * 512);
    let space = rustix::fs::fstatvfs(fd)?;
    // Asked first, because ext4 takes all there is before it finds that it is not enough, and until that is
    // given back every other writer of the machine meets a full disk.
    if missing > space.f_bavail.saturating_mul(space.f_frsize) {
        return Err(Errno::NOSPC);
    }
    let allocated = retry(|| rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, wanted));
    match allocated {
        // Without allocation a later write may meet a full disk; that it is reported is all we can do.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) if before < wanted => {
            rustix::fs::ftruncate(fd, wanted)
        }
        Err(Errno::OPNOTSUPP | Errno::NOSYS) | Ok(()) => Ok(()),
        Err(e) => {
            // Gives back what was taken; that the allocation failed matters more than if this does.
            let _ = rustix::fs::ftruncate(fd, before);
            Err(e)
        }
    }
}

/// Refuses paths that could leave the root.
fn confined(attempt: &'static str, path: &str) -> Result<(), IoError> {
    if path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0') {
        return Ok(());
    }
    let cause = Error::new(
        ErrorKind::InvalidInput,
        "the path is not one below the root",
    );
    Err(IoError::new(attempt, path, cause))
}

/// The memory of a write from `skip` bytes on, at most [`VECTORS_MAX`] pieces of it.
fn slices(data: &WriteData, skip: usize) -> Vec<IoSlice<'_>> {
    match data {
        WriteData::Buffer(buffer) => vec![IoSlice::new(&buffer.bytes()[skip..])],
        WriteData::Pages(pages) => {
            let size = alluvium_types::PAGE_SIZE;
            let mut within = skip % size;
            let rest = pages.iter().skip(skip / size).take(VECTORS_MAX);
            rest.map(|page| IoSlice::new(&page.bytes()[std::mem::take(&mut within)..]))
                .collect()
        }
    }
}

fn write_all(file: &OpenFile, offset: u64, data: &WriteData) -> Result<(), IoError> {
    let failed = |e: Error| IoError::new("write", &file.path, e);
    let mut done = 0;
    while done < data.len() {
        let pieces = slices(data, done);
        let wrote = retry(|| rustix::io::pwritev(&file.fd, &pieces, offset + done as u64));
        match wrote.map_err(|e| failed(e.into()))? {
            0 => return Err(failed(ErrorKind::WriteZero.into())),
            n => done += n,
        }
    }
    Ok(())
}

fn punch(file: &OpenFile, offset: u64, len: u64) -> Result<(), IoError> {
    let failed = |e: Error| IoError::new("punch", &file.path, e);
    if rustix::fs::fstat(&file.fd)
        .map_err(|e| failed(e.into()))?
        .st_nlink
        > 1
    {
        let mut error = failed(Error::other("a backup has the file, too"));
        error.kind = IoErrorKind::Linked;
        return Err(error);
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched = retry(|| rustix::fs::fallocate(&file.fd, flags, offset, len));
    punched.map_err(|e| {
        let cause = match e {
            Errno::OPNOTSUPP | Errno::NOSYS => ErrorKind::Unsupported.into(),
            e => e.into(),
        };
        failed(cause)
    })
}

fn sync_data(file: &OpenFile) -> Result<(), IoError> {
    // A failed sync is never retried: the kernel may have dropped the pages it could not write.
    rustix::fs::fdatasync(&file.fd).map_err(|e| IoError::new("sync", &file.path, e.into()))
}

/// Continues a read of which `done` bytes are in; what lies past the end of the file becomes zero.
pub(crate) fn read_rest(file: &OpenFile, read: &mut Read, mut done: usize) -> Result<(), IoError> {
    let into = read.into.bytes_mut();
    // Past an unaligned end there is nothing, and unbuffered reads may not begin there.
    while done < into.len() && done.is_multiple_of(512) {
        let got = retry(|| {
            rustix::io::pread(
                file.fd.as_fd(),
                &mut into[done..],
                read.offset + done as u64,
            )
        });
        match got.map_err(|e| IoError::new("read", &file.path, e.into()))? {
            0 => break,
            n => done += n,
        }
    }
    into[done..].fill(0);
    Ok(())
}

/// Repeats a call that was interrupted, or that the system asked to repeat.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let mut left = RETRIES_MAX;
    loop {
        match call() {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if left > 0 => left -= 1,
            other => return other,
        }
    }
}
