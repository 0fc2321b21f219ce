//! Opens a real directory with the best backend that the system grants.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FlockOperation;

use crate::device::Device;
use crate::error::{IoError, IoErrorKind};
use crate::files::Files;
use crate::sync_engine::SyncDevice;
use crate::uring::UringDevice;

/// The file that one process at a time holds.
const LOCK_FILE: &str = "LOCK";
/// The file by which a directory is known as ours where the lock file was left behind by a copy.
const MARK_FILE: &str = "superblock";

/// How to reach the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Backend {
    /// `io_uring` where the system grants it, else `pwritev`.
    #[default]
    Auto,
    /// `io_uring`, or an error.
    Uring,
    /// `pwritev` on a thread per lane.
    Pwritev,
}

/// How `io_uring` writes the pages of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PageWriteMode {
    /// One vector entry per page; no copy.
    #[default]
    Vectored,
    /// Copied into buffers that the kernel has mapped once (4 of 256 KiB per lane), where one is free.
    Gathered,
}

/// How to open a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceOptions {
    /// See [`Backend`].
    pub backend: Backend,
    /// Submission lanes, at least 1.
    pub lanes: usize,
    /// See [`PageWriteMode`].
    pub page_writes: PageWriteMode,
    /// Whether files that ask for it bypass the page cache, where the file system allows it.
    pub direct: bool,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            backend: Backend::Auto,
            lanes: 1,
            page_writes: PageWriteMode::Vectored,
            direct: true,
        }
    }
}

/// Opens the directory `root`, creates it if it is absent, and locks it against other processes until the
/// device is dropped. A directory that is not empty must hold the lock file or a superblock.
///
/// # Errors
/// [`IoErrorKind::Locked`] if another process holds the directory; [`IoErrorKind::Foreign`] if it holds something
/// else, and nothing was put into it then; `Uring` alone fails where the system
/// refuses rings; otherwise what the system says about the directory.
pub fn open(root: &Path, options: &DeviceOptions) -> Result<Arc<dyn Device>, IoError> {
    let shown = || root.display().to_string();
    std::fs::create_dir_all(root).map_err(|e| IoError::new("create", shown(), e))?;
    refuse_foreign(root)?;
    let lock = lock(root)?;
    let files = Arc::new(Files::new(root, lock, options.direct)?);
    let lanes = options.lanes.max(1);
    let pwritev = |reason: String| -> Result<Arc<dyn Device>, IoError> {
        let device = SyncDevice::new(Arc::clone(&files), lanes, reason);
        Ok(Arc::new(device.map_err(|e| {
            IoError::new("start the threads of", shown(), e)
        })?))
    };
    if options.backend == Backend::Pwritev {
        return pwritev("pwritev (chosen by the settings)".into());
    }
    match UringDevice::new(Arc::clone(&files), lanes, options.page_writes) {
        Ok(device) => Ok(Arc::new(device)),
        Err(refusal) if options.backend == Backend::Auto => pwritev(format!("pwritev ({refusal})")),
        Err(refusal) => Err(IoError::new(
            "use io_uring in",
            shown(),
            std::io::Error::other(refusal),
        )),
    }
}

/// Refuses a directory with anything in it but no sign of ours, before the lock file is put there.
fn refuse_foreign(root: &Path) -> Result<(), IoError> {
    let failed = |e: std::io::Error| IoError::new("read", root.display().to_string(), e);
    let mut found: Option<OsString> = None;
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        // What a freshly made file system of its own holds.
        if name == "lost+found" {
            continue;
        }
        if found.as_ref().is_none_or(|first| name < *first) {
            found = Some(name);
        }
    }
    let Some(found) = found else {
        return Ok(());
    };
    // Looked for only now: another process may have begun a data directory meanwhile, its lock first.
    for ours in [LOCK_FILE, MARK_FILE] {
        if root.join(ours).try_exists().map_err(failed)? {
            return Ok(());
        }
    }
    // Quoted, so that a name with a line break stays within the sentence.
    let found = found.to_string_lossy();
    let text = format!(
        "it holds {found:?} but no superblock, so it is not an Alluvium directory; choose an empty or a new one"
    );
    let shown = root.display().to_string();
    let mut error = IoError::new("use the directory", shown, std::io::Error::other(text));
    error.kind = IoErrorKind::Foreign;
    Err(error)
}

/// Takes the lock file and writes our process id into it.
fn lock(root: &Path) -> Result<File, IoError> {
    let path = root.join(LOCK_FILE);
    let failed = |e: std::io::Error| IoError::new("lock", path.display().to_string(), e);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed)?;
    if let Err(e) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if e != rustix::io::Errno::WOULDBLOCK {
            return Err(failed(e.into()));
        }
        let mut holder = String::new();
        // Who holds it is only said to help; not knowing is no reason to fail otherwise.
        let _ = (&mut file).take(32).read_to_string(&mut holder);
        let holder = match holder.trim() {
            "" => "another process".to_owned(),
            pid => format!("process {pid}"),
        };
        let text =
            format!("{holder} has this directory open; stop it, or choose another directory");
        let mut error = failed(std::io::Error::other(text));
        error.kind = IoErrorKind::Locked;
        return Err(error);
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(failed)?;
    Ok(file)
}
