//! What can go wrong between memory and files.

use std::sync::Arc;

/// Why an operation failed, as its caller would treat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum IoErrorKind {
    /// No room on the device.
    NoSpace,
    /// The file or directory is absent.
    NotFound,
    /// Another process holds the directory.
    Locked,
    /// The directory holds something else than data of ours.
    Foreign,
    /// The device or file system has no such operation. Nothing was done.
    Unsupported,
    /// The file has several names, so its content is not ours alone. Nothing was done.
    Linked,
    /// Anything else; the device is not to be trusted with writes any more.
    Other,
}

/// A failed operation: what was attempted, on which path, and why. Cheap to clone, so that every waiter of a
/// group commit can have it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {attempt} {path}: {cause}")]
pub struct IoError {
    /// How to treat it.
    pub kind: IoErrorKind,
    /// The verb, such as `write`.
    pub attempt: &'static str,
    /// The path below the device's root.
    pub path: String,
    /// The system's reason.
    #[source]
    pub cause: Arc<std::io::Error>,
}

/// What systems say of a sector that they cannot read: `EIO`, `ENODATA`, `EILSEQ`, `EREMOTEIO`.
const OF_MEDIUM: [i32; 4] = [5, 61, 84, 121];

impl IoError {
    /// Whether it is of the place that was read, so that others may be read still.
    pub fn is_of_medium(&self) -> bool {
        let errno = self.cause.raw_os_error();
        errno.is_some_and(|errno| OF_MEDIUM.contains(&errno))
    }

    /// Wraps the system's error, taking the kind from it.
    pub fn new(attempt: &'static str, path: impl Into<String>, cause: std::io::Error) -> Self {
        let kind = match cause.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                IoErrorKind::NoSpace
            }
            std::io::ErrorKind::NotFound => IoErrorKind::NotFound,
            std::io::ErrorKind::Unsupported => IoErrorKind::Unsupported,
            std::io::ErrorKind::WouldBlock => IoErrorKind::Locked,
            _ => IoErrorKind::Other,
        };
        Self {
            kind,
            attempt,
            path: path.into(),
            cause: Arc::new(cause),
        }
    }
}
