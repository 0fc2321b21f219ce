//! What can go wrong with pages, volumes and the superblock.

use alluvium_io::IoError;

use crate::logic_addr::LogicAddr;

/// Why a page could not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The volume of the address is gone or lives a later life: the page is to be treated as absent.
    #[error("page {addr} expired: its volume is gone")]
    Expired {
        /// The address asked for.
        addr: LogicAddr,
    },
    /// The page was given back since whoever asks learned its address: what it held was written anew elsewhere, or
    /// deleted. Unlike an expired page it must not be treated as absent: ask again from the start.
    #[error(
        "page {addr} was given back: its series was written anew since this was begun; repeat it"
    )]
    GivenBack {
        /// The address asked for.
        addr: LogicAddr,
    },
    /// The bytes at the address are not the page that was written there.
    #[error("page {addr} is damaged: {reason}")]
    Corrupt {
        /// The address asked for.
        addr: LogicAddr,
        /// What did not hold.
        reason: Damage,
    },
    /// The device failed.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// What did not hold of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The page's own checksum fails: torn or rotten.
    #[error("its checksum does not match its bytes")]
    Checksum,
    /// A valid page, but not the one its parent points to: a lost write.
    #[error("its checksum is not the one its parent remembers")]
    NotTheChild,
    /// A valid page that belongs elsewhere: a misdirected write.
    #[error("it says it belongs to another address")]
    Misplaced,
    /// A valid page of an earlier life of the volume or a rolled-back life of the process.
    #[error("it is of another life of its volume")]
    OtherLife,
    /// A valid page of another kind or series.
    #[error("it is of another kind or series")]
    Unexpected,
    /// The device refuses to read it, twice: a bad sector.
    #[error("the device cannot read it")]
    Unreadable,
    /// A header field out of its range.
    #[error("its header is malformed")]
    Header,
}

/// Why the superblock or manifest could not be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// The directory holds files but no superblock.
    #[error(
        "the directory holds {example} but no superblock, so it is not an Alluvium directory; choose an empty or a new one"
    )]
    Foreign {
        /// One of the files.
        example: String,
    },
    /// A backup or a restore that did not end.
    #[error(
        "the directory holds {example}, so it is a backup or restore that did not end; remove the directory and begin again"
    )]
    Unfinished {
        /// The file that says so.
        example: &'static str,
    },
    /// Neither slot of the superblock is whole.
    #[error(
        "both superblock slots are damaged ({first}; {second}); restore from a backup or run salvage"
    )]
    NoSlot {
        /// Why slot 0 was refused.
        first: String,
        /// Why slot 1 was refused.
        second: String,
    },
    /// Written by a version this build does not know.
    #[error(
        "the directory has format {found}, this build reads {known}; open it with the version that wrote it"
    )]
    Format {
        /// Format in the superblock.
        found: u32,
        /// Format this build writes.
        known: u32,
    },
    /// A section of the manifest does not parse.
    #[error("the manifest is damaged in {section}; restore from a backup or run salvage")]
    Manifest {
        /// Which part.
        section: &'static str,
    },
    /// A volume that the manifest names is absent or foreign.
    #[error("volume {volume} is {problem}; put the file back or restore from a backup")]
    Volume {
        /// The volume's number.
        volume: u32,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The device failed.
    #[error(transparent)]
    Io(#[from] IoError),
}
