//! What the user is told when a command fails.

use std::fmt;

use alluvium_server::ServeError;

/// One sentence with the way out.
#[derive(Debug)]
pub(crate) enum CliError {
    Serve(ServeError),
    /// Reading or writing something of the user's.
    Io {
        what: String,
        source: std::io::Error,
    },
    /// Anything else, already a sentence.
    Said(String),
}

impl CliError {
    pub(crate) fn said(sentence: impl Into<String>) -> Self {
        Self::Said(sentence.into())
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            what: what.into(),
            source,
        }
    }

    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serve(error) => error.fmt(f),
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::Said(sentence) => f.write_str(sentence),
        }
    }
}

impl From<ServeError> for CliError {
    fn from(error: ServeError) -> Self {
        Self::Serve(error)
    }
}
