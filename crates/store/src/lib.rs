//! The embedded database: open a directory, append batches, take a snapshot, read.
//!
//! It conducts: which shard takes a point, which log record makes it durable, which run of a series holds it,
//! when a checkpoint is taken and how a crash is undone. It encodes nothing, combines no series, and starts no
//! thread beyond those that redo the log while opening: the embedder calls [`Store::drive`] or gives a thread
//! to [`Store::pump`].
//!
//! ```
//! use std::sync::Arc;
//! use alluvium_store::{Direction, Selector, Store, StoreConfig, SystemClock, TimeRange, ValueRef};
//! # use alluvium_io::MemoryDevice;
//!
//! let config = StoreConfig { shards: 1, ..StoreConfig::default() };
//! // A lane for each shard and one for checkpoints; `alluvium_io::open` gives a real directory.
//! let device = Arc::new(MemoryDevice::new(2));
//! let store = Store::open(device, Arc::new(SystemClock), config)?;
//! let (database, created) = store.create_database("home")?;
//! created.wait()?;
//!
//! let mut writer = database.writer();
//! let row = writer.resolve(b"room,name=attic", alluvium_types::SeriesKey::new("room", [("name", "attic")]).unwrap());
//! writer.begin_line(row, 1_700_000_000_000_000_000)?;
//! writer.field("celsius", ValueRef::F64(21.5))?;
//! writer.end_line()?;
//! writer.commit(None)?.wait()?;
//!
//! let snapshot = database.snapshot();
//! let series = snapshot.select(&Selector::default())?;
//! let aggregate = snapshot.series(&series[0]).aggregate(TimeRange::ALL, &mut Default::default())?;
//! assert_eq!(aggregate.mean(), Some(21.5));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Limits: see [`StoreConfig`]; one process opens a directory at a time.

mod backup;
mod barrier;
mod believed_clock;
mod bounds;
mod capture;
mod cardinality;
mod checkpoint;
mod commit;
mod config;
mod config_numbers;
mod copies;
mod copying;
mod cut;
mod database;
mod database_settings;
mod databases;
mod delete;
mod error;
mod expired;
mod governor;
mod index_cache;
mod late;
mod ledger;
mod lineage;
mod losses;
mod mended_tails;
mod merging;
mod minute_counts;
mod named_file;
mod numbers;
mod open;
mod overlay;
mod part_tags;
mod parting;
mod partition;
mod piece_file;
mod purge;
mod raw_keys;
mod readers;
mod recall;
mod recovery;
mod reserve;
mod restore;
mod retention;
mod retention_settings;
mod returning;
mod salvage;
mod scrub;
mod search;
mod segments;
mod series;
mod series_limits;
mod series_table;
mod shard;
mod snapshot;
mod space;
mod split_table;
mod status;
mod stored_segment;
mod sweep;
mod tail_files;
mod tails_check;
mod tails_writer;
mod tombstones;
mod twin_file;
mod verify;
mod write;

pub use alluvium_block::BAD_PAGES_MAX;
pub use alluvium_codec::{Compression, CompressionError};
pub use alluvium_index::{DayGrowth, Label, Matcher, MeasurementSize, Selector, Test};
pub use alluvium_io::{Clock, Device, SystemClock};
pub use alluvium_nbtree::{Direction, ReadStats};
pub use alluvium_types::{Aggregate, TimeRange, ValueRef};
pub use backup::{BackupError, BackupReport, BackupTarget};
pub use believed_clock::{CLOCK_JUMP_MAX_NS, ClockStatus};
pub use bounds::{Bounds, BoundsError};
pub use cardinality::{Cardinality, Count, SeriesRate, TagCount, ValueCount};
pub use commit::{Commit, LEFT_OUT_REASONS_MAX, LeftOut, LeftOutLines};
pub use config::{Durability, DurabilityError, HeapProbe, StoreConfig};
pub use config_numbers::SettingError;
pub use database::{Database, DatabaseInfo, KindConflict, LogPin, MadeDatabase, Store};
pub use database_settings::DatabaseSettings;
pub use delete::{
    Affected, Comparison, DELETE_RANGES_MAX, Delete, DeletePlan, DeleteSelection, Deleted,
    ValueTest,
};
pub use error::{
    DeleteError, OpenError, RecallError, RefusedLine, SeriesReadError, StoreError, WriteError,
};
pub use governor::GovernorStatus;
pub use losses::IndexLoss;
pub use merging::MergingStatus;
pub use recovery::RecoveryReport;
pub use restore::{RestoreReport, restore};
pub use retention_settings::{Age, KeepAggregates, MAX_DISK_MIN, Retention, RetentionError};
pub use salvage::{SALVAGED_MEASUREMENT, SalvageReport, salvage};
pub use scrub::ScrubStatus;
pub use search::{Found, FoundTagSet, NameKind};
pub use series_limits::{LimitError, SeriesLimits, TooManySeries};
pub use snapshot::{SeriesCursor, SeriesInfo, SeriesSnapshot, Snapshot};
pub use space::SpaceStatus;
pub use status::{DatabaseStatus, IndexStatus, RetentionStatus, Status};
pub use verify::{FINDINGS_MAX, Finding, LostPoints, VerifyReport, verify};
pub use write::{RowToken, Writer};
