//! Durable records before pages fill: streams of frames, group commit, replay.
//!
//! It knows neither pages nor trees; what a section means to a series is the store's business.
//!
//! ```
//! use std::sync::Arc;
//! use alluvium_io::{Lane, MemoryDevice};
//! use alluvium_types::{DatabaseId, Lsn, Partition};
//! use alluvium_wal::{Entry, LogConfig, LogWriter, SectionBuilder, list_streams, read_section, replay};
//!
//! let device = Arc::new(MemoryDevice::new(1));
//! let mut log = LogWriter::new(device.clone(), Lane(0), 7, 1, 0, LogConfig::default());
//! let mut section = SectionBuilder::default();
//! section.begin(DatabaseId(1), Partition(3), Lsn(1));
//! section.mark(42);
//! let ticket = log.push(section.finish(), 0, true, 0);
//! while ticket.result().is_none() {
//!     log.drive();
//! }
//! let mut found = Vec::new();
//! for stream in list_streams(device.as_ref())? {
//!     replay(device.as_ref(), &stream, 7, 0, &mut |_, bytes| {
//!         found.extend(read_section(bytes)?.entries);
//!         Ok(())
//!     })?;
//! }
//! assert_eq!(found, [Entry::Mark(42)]);
//! # Ok::<(), alluvium_wal::LogError>(())
//! ```
//!
//! What it is not: it does not decide what may be trimmed, and nothing in it waits but [`replay`],
//! [`list_streams`] and [`sync_stream`], which belong to opening, and [`StreamCheck`], to the scrubber. [`LogWriter::drive`] moves the writer on; the
//! lane itself is driven by whoever owns it.
//!
//! Limits: one frame in flight a stream; frames below 4 GiB; 2^32 segments a stream; at most two trimmed
//! segments a stream are kept for reuse. What the bytes are stands in `docs/format/log.md`.

mod check;
mod error;
mod folder;
mod frame_buffer;
mod group;
mod layout;
mod record;
mod replay;
mod row_key;
mod stream;
mod tombstone;
mod whole;
mod writer;

pub use check::StreamCheck;
pub use error::LogError;
pub use folder::FolderSync;
pub use group::{GROUP_VALUES_MAX, PointGroup};
pub use record::{Entry, Section, SectionBuilder, SectionReader, read_section, section_head};
pub use replay::{StreamEnd, replay, skim};
pub use row_key::RowKey;
pub use stream::{StreamInfo, list_streams, remove_stream, sync_stream};
pub use tombstone::{Among, Tombstone};
pub use whole::{SavedFrames, copy_frames, salvage_frames};
pub use writer::{LogConfig, LogTicket, LogWriter};
