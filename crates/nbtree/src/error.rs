//! What can go wrong when a tree is read or restored.

use alluvium_block::{LogicAddr, ReadError};
use alluvium_codec::CodecError;
use alluvium_io::IoError;
use alluvium_types::SeriesId;

/// Why a tree could not be read or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A page is lost. Everything outside the span is still readable: ask again around it, or go on with
    /// the cursor, which has moved behind it.
    #[error(
        "series {series}: page {addr} is lost, and {points} points from {first_time} to {last_time} ns with it: {cause}"
    )]
    BadPage {
        /// Where the page is.
        addr: LogicAddr,
        /// Whose.
        series: SeriesId,
        /// Time of the oldest point lost, in nanoseconds.
        first_time: i64,
        /// Time of the newest point lost, in nanoseconds.
        last_time: i64,
        /// How many points are lost.
        points: u64,
        /// What did not hold.
        #[source]
        cause: BadPageCause,
    },
    /// The run was written anew and its old pages given back while this read went on. Nothing is lost: the same
    /// question, asked again, gets its answer.
    #[error(
        "series {series} was written anew while it was read, for longer than pages are kept for readers: {cause}"
    )]
    GivenBack {
        /// Whose.
        series: SeriesId,
        /// Which page.
        #[source]
        cause: ReadError,
    },
    /// The device failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The part of a tree that lives in memory does not decode: a broken checkpoint, or a bug.
    #[error("series {series}: the open leaf does not decode: {cause}")]
    OpenLeaf {
        /// Whose.
        series: SeriesId,
        /// What did not hold.
        #[source]
        cause: CodecError,
    },
    /// A saved state is malformed.
    #[error("a saved tree is malformed: {0}")]
    State(&'static str),
    /// A record of a tails file is malformed.
    #[error("a record of a tails file is malformed: {0}")]
    Record(#[from] CodecError),
}

/// What was wrong with a page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadPageCause {
    /// The page itself fails its checks.
    #[error(transparent)]
    Page(ReadError),
    /// A block of it does not decode.
    #[error("a block does not decode: {0}")]
    Block(#[from] CodecError),
    /// Its body contradicts itself or its parent.
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// What contradicts itself in the body of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its body is malformed: {0}")]
pub struct BodyError(pub &'static str);
