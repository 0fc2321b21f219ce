//! What the user is told when a command fails.

use std::fmt;
use std::io::ErrorKind;

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
    /// What was asked for is printed, but for what could not be read.
    Partial(String),
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

    /// Of a request to the server at `url`: whether there is none, or its answer ended early.
    pub(crate) fn asking(url: &str) -> impl FnOnce(std::io::Error) -> Self {
        let url = url.to_owned();
        move |error| {
            Self::Said(match error.kind() {
                ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe => format!(
                    "the connection to {url} ended before the answer was whole ({error}); look into the server's log, and ask again"
                ),
                ErrorKind::WouldBlock => {
                    format!(
                        "the server at {url} does not go on with its answer; ask for less at once"
                    )
                }
                ErrorKind::InvalidData => format!("cannot read the answer from {url}: {error}"),
                _ => format!(
                    "cannot reach a server at {url} ({error}); start one with `alluvium serve`"
                ),
            })
        }
    }

    /// The word in front of it on stderr.
    pub(crate) fn level(&self) -> &'static str {
        match self {
            Self::Partial(_) => "warning",
            _ => "error",
        }
    }

    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serve(error) => error.fmt(f),
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::Partial(why) => write!(f, "points are missing from the answer: {why}"),
            Self::Said(sentence) => f.write_str(sentence),
        }
    }
}

impl From<ServeError> for CliError {
    fn from(error: ServeError) -> Self {
        Self::Serve(error)
    }
}
