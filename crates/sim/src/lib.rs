//! A disk that lies within the rules, and a clock that obeys: the ground that every layer above is tested on.
//!
//! [`SimDevice`] keeps files in memory twice: what programs see, and what would survive a power cut. A write
//! or a change of names is volatile until the matching sync completes; operations complete in an order that
//! the seed decides; [`SimDevice::crash`] and [`SimDevice::kill`] give the device that the next process would
//! find. [`FaultPlan`] makes the n-th operation fail, or worse, not do what it says it did.
//!
//! A [`SimFolder`] is a part of a disk with a root of its own, and files may have names in several: hard links.
//!
//! The same seed and the same calls give the same device, to the bit ([`SimDevice::state_hash`]).
//!
//! ```
//! use alluvium_io::{AlignedBuf, Completion, Device, Lane, Op, OpenMode, WriteData};
//! use alluvium_sim::{SimConfig, SimDevice};
//! use std::sync::Arc;
//!
//! let disk = SimDevice::new(7, SimConfig::default());
//! let run = |op| disk.submit(Lane(0), op).wait(&*disk, Lane(0));
//! let mode = OpenMode { create: true, ..OpenMode::default() };
//! let Ok(Completion::Opened { file, .. }) = run(Op::Open { path: "log".into(), mode }) else { panic!() };
//! let data = WriteData::Buffer(Arc::new(AlignedBuf::zeroed(4096)));
//! run(Op::Write { file, offset: 0, data, sync: true })?;
//! run(Op::SyncDir { path: String::new() })?;
//! assert_eq!(disk.crash().list("")?[0].len, 4096);
//! # Ok::<(), alluvium_io::IoError>(())
//! ```
//!
//! What it is not: a model of speed, or of one file system. It allows every state that POSIX allows after a
//! power cut (a file whose data is durable but whose name is not, a rename without the creation before it),
//! so it is harsher than ext4. Directories themselves are always durable. Everything is memory: keep volumes
//! of tests small (pages that were never written cost nothing).
mod clock;
mod config;
mod content;
mod device;
mod disk;
mod folder;
mod prng;

pub use clock::SimClock;
pub use config::{Fault, FaultPlan, SimConfig};
pub use device::SimDevice;
pub use folder::SimFolder;
pub use prng::Prng;
