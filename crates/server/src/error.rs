//! Why a server does not start.

use std::path::PathBuf;

use alluvium_io::{IoError, IoErrorKind};
use alluvium_store::{OpenError, StoreError};

/// Why a server did not start, or did not stop cleanly: one sentence with the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address does not parse or has no host.
    #[error(
        "{address:?} is no address to listen on ({source}); give HOST:PORT such as 127.0.0.1:8181"
    )]
    Address {
        /// What was given.
        address: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Somebody else listens there.
    #[error("{address} is in use by another process; stop it, or choose another port with --http")]
    AddressInUse {
        /// The address.
        address: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address} ({source}); choose another address with --http")]
    Listen {
        /// The address.
        address: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Everybody could read and write.
    #[error(
        "{address} can be reached from other machines and no tokens are set; give --token-file FILE, or --insecure to allow everybody"
    )]
    Insecure {
        /// The address.
        address: String,
    },
    /// The token file cannot be read.
    #[error("cannot read the token file {path:?} ({source}); check the path and its permissions")]
    TokenFile {
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line of the token file is malformed.
    #[error("line {line} of the token file {path:?} is not \"TOKEN read|write|admin DATABASE|*\"")]
    TokenLine {
        /// Its path.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// Another process has the directory open.
    #[error(
        "the data directory {path:?} is open in another process ({source}); stop that one or give another directory"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Names the process.
        source: IoError,
    },
    /// The directory holds something else.
    #[error(transparent)]
    Foreign(IoError),
    /// The directory cannot be opened.
    #[error(
        "cannot open the data directory {path:?} ({source}); check the path, its permissions and the free space"
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: IoError,
    },
    /// The data cannot be opened.
    #[error("the data cannot be opened: {0}")]
    Open(#[from] OpenError),
    /// A thread could not be started, or opening panicked.
    #[error("cannot start the server: {0}")]
    Start(String),
    /// The store did not close cleanly; the next start recovers from the log.
    #[error("the store did not close cleanly ({0}); the next start recovers from the log")]
    Close(#[from] StoreError),
}

impl ServeError {
    pub(crate) fn directory(path: PathBuf, source: IoError) -> Self {
        match source.kind {
            IoErrorKind::Locked => Self::Locked { path, source },
            // A whole sentence: it names the directory, a file in it and the way out.
            IoErrorKind::Foreign => Self::Foreign(source),
            _ => Self::Directory { path, source },
        }
    }
}
