//! What the simulated disk is like and what goes wrong on it.

use std::collections::{BTreeMap, BTreeSet};

/// Something that goes wrong with one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails with an input/output error and does nothing.
    Eio,
    /// It fails for want of space and does nothing.
    NoSpace,
    /// A write puts a random number of its first 512-byte sectors down and fails. Like [`Fault::Eio`] for others.
    Torn,
    /// A sync fails and what it should have made durable never will be, though later syncs succeed (a kernel
    /// marks pages clean that it could not write). Like [`Fault::Eio`] for others.
    LosesContent,
    /// It claims success and does nothing (openings excepted). Can only be detected.
    Lost,
    /// A write lands this many bytes further on and claims success. Can only be detected.
    Misdirected {
        /// Added to the offset.
        by: u64,
    },
}

/// Which operations go wrong. Operations are numbered from 0 in the order in which they take effect
/// ([`SimDevice::ops`](crate::SimDevice::ops) is the number of the next), syncs from 0 among themselves.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    /// Faults by number of the operation.
    pub ops: BTreeMap<u64, Fault>,
    /// Writes to files whose path begins with the text, counted from 0 from the moment the plan is set, that go
    /// wrong. A fault of `ops` comes first.
    pub writes_below: Option<(String, BTreeMap<u64, Fault>)>,
    /// Faults by number of the sync; linked syncs of writes count.
    pub syncs: BTreeMap<u64, Fault>,
    /// Reads that fail with an input/output error, by number ([`SimDevice::reads`](crate::SimDevice::reads)).
    pub reads: BTreeSet<u64>,
    /// All syncs fail from this operation on.
    pub fail_syncs_from_op: Option<u64>,
    /// The power goes after so many operations: every later one fails, nothing more reaches the disk.
    pub crash_after_ops: Option<u64>,
    /// Bytes of blocks that fit; more is refused for want of space.
    pub capacity: Option<u64>,
}

/// What the device is like.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Submission lanes.
    pub lanes: usize,
    /// Alignment of offsets: 512 or 4096.
    pub offset_align: u32,
    /// An operation completes in one of the first this many drives of its lane, at least 1. 1 with `ordered`
    /// is the tamest device.
    pub latency_drives_max: u32,
    /// A sync, or a write with one, takes up to so many drives more, as the seed decides.
    pub sync_drives_max: u32,
    /// Operations that complete in one drive do so in order of submission instead of by seed.
    pub ordered: bool,
    /// The file system has no holes: punching is refused.
    pub no_holes: bool,
    /// Files whose path begins so are written from their beginning to their end: a write that begins before the end of
    /// one by the same opening, so into a block that a sync may have covered, is a panic.
    pub append_only: Option<&'static str>,
    /// See [`FaultPlan`].
    pub faults: FaultPlan,
}

impl Default for SimConfig {
    /// Two lanes, blocks of 512 bytes, up to four drives of latency, no faults.
    fn default() -> Self {
        Self {
            lanes: 2,
            offset_align: 512,
            latency_drives_max: 4,
            sync_drives_max: 0,
            ordered: false,
            no_holes: false,
            append_only: None,
            faults: FaultPlan::default(),
        }
    }
}
