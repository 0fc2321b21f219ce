//! What can go wrong, by what a caller would do about it.

use std::sync::Arc;

use alluvium_block::RootError;
use alluvium_index::{IndexError, LoadError, SegmentError, SelectorError};
use alluvium_io::{IoError, IoErrorKind};
use alluvium_nbtree::TreeError;
use alluvium_types::{BudgetExceeded, ValueKind};
use alluvium_wal::LogError;

use crate::bounds::BoundsError;
use crate::commit::LeftOutLines;
use crate::retention_settings::{Age, RetentionError};
use crate::series_limits::TooManySeries;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The superblock, manifest or a volume does not hold.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The log does not hold: acknowledged data is damaged, nothing was changed.
    #[error("the log cannot be replayed: {0}")]
    Log(#[from] LogError),
    /// The definitions of series do not hold.
    #[error("the series definitions cannot be read: {0}")]
    Index(#[from] IndexError),
    /// The segments of the series index do not hold.
    #[error("the series index cannot be read: {0}; restore from a backup or run salvage")]
    Segments(#[from] LoadError),
    /// The checkpointed tails do not hold.
    #[error("the checkpointed tails cannot be read: {0}")]
    Tails(#[from] TreeError),
    /// The manifest names something that is not there or does not parse.
    #[error("the manifest is damaged in {section}; restore from a backup or run salvage")]
    Manifest {
        /// Which part.
        section: &'static str,
    },
    /// The log speaks of something that neither it nor the checkpoint defines.
    #[error(
        "the log of partition {partition} refers to {what}, which is not defined; restore from a backup or run salvage"
    )]
    Undefined {
        /// Which partition.
        partition: u8,
        /// What is missing.
        what: &'static str,
    },
    /// A setting is out of its range.
    #[error("setting {name} is {value}; it must be {range}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// What was given.
        value: u64,
        /// What is allowed.
        range: &'static str,
    },
    /// A checkpointed tail that redo needs cannot be read.
    #[error(transparent)]
    Recall(#[from] RecallError),
    /// The device failed.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl OpenError {
    /// Whether the checkpoint before the newest may do without what is wrong.
    pub(crate) fn may_be_of_one_checkpoint(&self) -> bool {
        match self {
            Self::Root(RootError::Io(error)) | Self::Io(error) => {
                error.kind == IoErrorKind::NotFound
            }
            Self::Segments(LoadError::Segment(SegmentError::Read { .. }))
            | Self::Recall(_)
            | Self::Log(_)
            | Self::Undefined { .. }
            | Self::Setting { .. } => false,
            Self::Root(_)
            | Self::Index(_)
            | Self::Segments(_)
            | Self::Tails(_)
            | Self::Manifest { .. } => true,
        }
    }
}

/// Why a series that is not in memory could not be brought back.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RecallError {
    /// Its record cannot be read.
    #[error("a series' checkpointed tail cannot be read: {0}")]
    Read(#[source] Arc<IoError>),
    /// Its record is damaged.
    #[error("a series' checkpointed tail is damaged ({0}); restore from a backup or run salvage")]
    Record(#[source] Arc<TreeError>),
    /// Where its record should be is another's.
    #[error("a series' checkpointed tail is another's; restore from a backup or run salvage")]
    Foreign,
    /// It comes and goes faster than it can be read.
    #[error("a series left memory while it was read; try again in a second")]
    Unsettled,
    /// There is no room for it.
    #[error("{0}; try again later or raise the setting memory")]
    Memory(#[from] BudgetExceeded),
}

/// Why an operation of an open store failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A write or flush failed; nothing is acknowledged until the store is opened again. Reads go on.
    #[error(
        "writing stopped after a failure ({reason}); reads go on, restart the server when the disk is sound"
    )]
    Failed {
        /// The first failure.
        reason: String,
    },
    /// The name of a database is not `[A-Za-z0-9_.-]{1,64}`.
    #[error("database name {name:?} is not allowed; use 1 to 64 of A-Z a-z 0-9 _ . -")]
    BadName {
        /// What was given, cut to 80 characters.
        name: String,
    },
    /// There is no such database.
    #[error("database not found: {name:?}; create it with CREATE DATABASE or by a first write")]
    NoDatabase {
        /// What was asked for.
        name: String,
    },
    /// Every id that a database can have has been given once, or the catalogue says so.
    #[error(
        "every id that a database can have has been given; back up those that are needed and restore them in a new directory"
    )]
    NoDatabaseIds,
    /// There are as many databases as may be.
    #[error("{limit} databases exist, the most that setting databases_max allows")]
    TooManyDatabases {
        /// The limit.
        limit: usize,
    },
    /// The disk is full; try again when there is room.
    #[error("the disk is full: nothing new can be recorded until there is room, reads go on")]
    Full,
    /// A checkpoint found no room. It is tried again every second.
    #[error(
        "the disk is full ({reason}): the checkpoint is tried again until there is room, reads go on"
    )]
    NoRoom {
        /// What found none.
        reason: String,
    },
    /// A setting of retention is refused.
    #[error(transparent)]
    Retention(#[from] RetentionError),
    /// A selector does not compile.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// A segment of the series index cannot be read.
    #[error("the series index cannot be read: {0}")]
    Index(#[from] SegmentError),
    /// A series that is not in memory cannot be brought back.
    #[error(transparent)]
    Recall(#[from] RecallError),
    /// A list of series would be too large.
    #[error(
        "a list of series would take {asked} bytes of memory, more than {limit}; ask for fewer series"
    )]
    LargeSelection {
        /// What it would take, roughly.
        asked: u64,
        /// What it may take.
        limit: u64,
    },
    /// A question met its bounds, or whoever asked it is gone.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
    /// The store is being closed.
    #[error("the store is closing")]
    Closing,
}

impl From<LogError> for StoreError {
    fn from(error: LogError) -> Self {
        Self::Failed {
            reason: error.to_string(),
        }
    }
}

impl From<IoError> for StoreError {
    fn from(error: IoError) -> Self {
        Self::Failed {
            reason: error.to_string(),
        }
    }
}

/// Why a batch was refused whole. Nothing of it was applied.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The disk is full; try again when there is room.
    #[error("the disk is full: writes are refused until there is room, reads go on")]
    Full,
    /// The device is behind; try again soon.
    #[error(
        "the device is behind by {pending_bytes} bytes of log and pages; try again in a second"
    )]
    Backlog {
        /// Bytes waiting.
        pending_bytes: u64,
    },
    /// The memory budget is used up; try again when there is room.
    #[error("{0}; try again later or raise the setting memory")]
    Memory(#[from] BudgetExceeded),
    /// Lines are refused that only the index could refuse, and the batch was to be taken whole: see
    /// [`Writer::commit_whole`](crate::Writer::commit_whole).
    #[error("nothing was written: {0}")]
    Lines(Box<LeftOutLines>),
    /// Memory is nearly used up: new series are refused before points of known ones are.
    #[error(
        "new series are refused: {0}; try again later, send fewer of them at once, or raise the setting memory"
    )]
    NewSeries(#[source] BudgetExceeded),
    /// The store stopped acknowledging or is closing.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<RecallError> for WriteError {
    fn from(error: RecallError) -> Self {
        match error {
            RecallError::Memory(exceeded) => Self::Memory(exceeded),
            other => Self::Store(StoreError::Recall(other)),
        }
    }
}

/// Why a delete was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteError {
    /// The log has no room; try again when the disk has.
    #[error("the disk is full: not even a delete can be recorded until there is room, reads go on")]
    Full,
    /// The device is behind; try again soon.
    #[error("the device is behind by {pending_bytes} bytes of log; try again in a second")]
    Backlog {
        /// Bytes waiting.
        pending_bytes: u64,
    },
    /// The test of values holds for too many ranges of points.
    #[error(
        "the points whose values pass lie in more than {limit} ranges; delete a shorter time or fewer series at once"
    )]
    TooManyRanges {
        /// The limit.
        limit: usize,
    },
    /// The database remembers as many deletes as it may.
    #[error(
        "the database remembers as many deletes as setting {setting} allows ({limit}); wait until merging has carried some out, delete longer times at once, or raise it"
    )]
    TooManyTombstones {
        /// The setting.
        setting: &'static str,
        /// Its value.
        limit: usize,
    },
    /// Series were written to faster than their values could be tested.
    #[error(
        "the points to delete are being written at this moment; delete a time that ends before now, or try again"
    )]
    Disturbed,
    /// A page cannot be read.
    #[error("the points to delete cannot be counted: {0}")]
    Read(#[from] SeriesReadError),
    /// The store stopped acknowledging or is closing, or the selector does not compile.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why one line of a batch was refused. The others are kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusedLine {
    /// The end of time is reserved.
    #[error(
        "timestamp 9223372036854775807 is reserved; the largest allowed is 9223372036854775806"
    )]
    ReservedTime,
    /// The point is further ahead of the clock than a database with retention by age takes.
    #[error(
        "timestamp {time} is more than {limit} ahead of the server's clock, which setting future_max refuses in a \
         database with retention by age"
    )]
    FutureTime {
        /// Its time, nanoseconds.
        time: i64,
        /// The limit.
        limit: Age,
    },
    /// The point has expired before it came.
    #[error(
        "timestamp {time} is before {cut}: what is older has expired in this database, see its settings retention \
         and max_disk"
    )]
    ExpiredTime {
        /// Its time, nanoseconds.
        time: i64,
        /// The oldest instant kept, nanoseconds.
        cut: i64,
    },
    /// A string value is too long.
    #[error("string value of field {field:?} has {bytes} bytes, more than {limit}")]
    LongString {
        /// The field.
        field: String,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A measurement, tag key, tag value or field name is too long.
    #[error("a name has {bytes} bytes, more than {limit}")]
    LongName {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A tag set has too many tags.
    #[error("the line has {tags} tags, more than {limit}")]
    ManyTags {
        /// How many.
        tags: usize,
        /// The limit.
        limit: usize,
    },
    /// A line without fields.
    #[error("the line has no fields")]
    NoFields,
    /// A new series, of which there are as many as may be.
    #[error(transparent)]
    TooManySeries(#[from] TooManySeries),
    /// A partition has as many rows or fields as its ids can number.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeriesReadError {
    /// A page is damaged or unreadable.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// It is not in memory and cannot be brought back.
    #[error(transparent)]
    Recall(#[from] RecallError),
    /// Numbers were asked of a string series.
    #[error("the series holds {kind} values, which have no {what}")]
    Kind {
        /// What it holds.
        kind: ValueKind,
        /// What was asked.
        what: &'static str,
    },
}
