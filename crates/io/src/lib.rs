//! Moves aligned pages between memory and files, and says when they are durable.
//!
//! A [`Device`] is a directory of files. Operations are [submitted](Device::submit) to a [`Lane`], which gives a
//! [`Ticket`], and make progress when the lane is [driven](Device::drive); nothing on the write path waits.
//! [`open()`] gives the best real device of the system: `io_uring` with a ring per lane, or `pwritev` on a
//! thread per lane where rings are refused; [`MemoryDevice`] serves tests, and a simulated disk that lies
//! stands in a crate of its own.
//!
//! ```
//! use alluvium_io::{AlignedBuf, Completion, Device, DeviceOptions, Lane, Op, OpenMode, WriteData};
//! use std::sync::Arc;
//!
//! let dir = tempfile::tempdir()?;
//! let device = alluvium_io::open(dir.path(), &DeviceOptions::default())?;
//! let run = |op| device.submit(Lane(0), op).wait(&*device, Lane(0));
//! let mode = OpenMode { create: true, direct: true, ..OpenMode::default() };
//! let Completion::Opened { file, .. } = run(Op::Open { path: "log/0".into(), mode })? else { panic!() };
//! let data = WriteData::Buffer(Arc::new(AlignedBuf::zeroed(4096)));
//! run(Op::Write { file, offset: 0, data, sync: true })?;
//! run(Op::SyncDir { path: "log".into() })?; // now the name is durable too
//! assert_eq!(device.list("log")?[0].len, 4096);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it is not: it knows no pages' content, no checksums and no order between operations in flight: whoever
//! needs an order submits the second after the first has ended. A vectored write is not atomic.
//!
//! Limits: Linux. One process holds a directory at a time. Queues of a lane are as long as the callers make
//! them, so callers bound what they have in flight.
mod bell;
mod buffer;
mod clock;
mod device;
mod error;
mod files;
mod heap;
mod layer;
mod memory;
mod open;
mod published;
mod shim;
mod sync_engine;
mod ticket;
mod uring;
mod usage;

pub use buffer::{AlignedBuf, BUFFER_ALIGN, PageBuf};
pub use clock::{Clock, SystemClock};
pub use device::{
    Completion, Device, FileId, Geometry, Lane, Listed, Op, OpenMode, Read, WriteData,
};
pub use error::{IoError, IoErrorKind};
pub use heap::{HeapUse, heap_use, trim_heap, tune_heap};
pub use layer::Layer;
pub use memory::MemoryDevice;
pub use open::{Backend, DeviceOptions, PageWriteMode, open};
pub use published::{
    Guarded, GuardedLock, NOTE_BITS, PUBLISHED_BYTES_MAX, Pin, Published, PublishedEnd,
    PublishedWriter, SHORT_WORDS, View, prefetch,
};
pub use ticket::{Completer, IoResult, Ticket};
pub use usage::{process_cpu_time, resident_bytes, thread_cpu_time};
