//! Names of streams and their segments.

use std::collections::BTreeMap;

use alluvium_io::{Completion, Device, IoError, Lane, Op, OpenMode};

use crate::error::LogError;

/// The directory of the log.
pub(crate) const DIR: &str = "wal";

/// What one shard of one process life wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// The process life.
    pub incarnation: u32,
    /// The shard.
    pub shard: u16,
    /// Numbers and lengths in bytes of its segments, ascending.
    pub segments: Vec<(u32, u64)>,
    /// Numbers of trimmed segments that were kept for reuse; they hold nothing.
    pub free: Vec<u32>,
}

impl StreamInfo {
    /// The name in messages.
    pub fn name(&self) -> String {
        format!("{:08}-{:04}", self.incarnation, self.shard)
    }
}

pub(crate) fn segment_path(incarnation: u32, shard: u16, segment: u32) -> String {
    format!("{DIR}/{incarnation:08}-{shard:04}.{segment:08}")
}

/// Where a trimmed segment waits to be used again.
pub(crate) fn free_path(incarnation: u32, shard: u16, segment: u32) -> String {
    format!("{DIR}/free.{incarnation:08}-{shard:04}.{segment:08}")
}

fn parse(name: &str) -> Option<(u32, u16, u32)> {
    let (stream, segment) = name.split_once('.')?;
    let (incarnation, shard) = stream.split_once('-')?;
    let (incarnation, shard, segment) = (
        incarnation.parse().ok()?,
        shard.parse().ok()?,
        segment.parse().ok()?,
    );
    // Another spelling of the numbers is another file, and none of ours.
    let spelled = segment_path(incarnation, shard, segment);
    (spelled.strip_prefix(DIR)?.strip_prefix('/')? == name).then_some((incarnation, shard, segment))
}

/// All streams of a data directory, by life and shard. Files with other names are left out.
///
/// # Errors
/// If the directory cannot be read.
pub fn list_streams(device: &dyn Device) -> Result<Vec<StreamInfo>, LogError> {
    let mut streams: BTreeMap<(u32, u16), StreamInfo> = BTreeMap::new();
    for file in device.list(DIR)? {
        let free = file.name.strip_prefix("free.");
        let Some((incarnation, shard, segment)) = parse(free.unwrap_or(&file.name)) else {
            continue;
        };
        let stream = streams
            .entry((incarnation, shard))
            .or_insert_with(|| StreamInfo {
                incarnation,
                shard,
                segments: Vec::new(),
                free: Vec::new(),
            });
        if free.is_some() {
            stream.free.push(segment);
        } else {
            stream.segments.push((segment, file.len));
        }
    }
    let mut streams: Vec<StreamInfo> = streams.into_values().collect();
    for stream in &mut streams {
        stream.segments.sort_unstable();
        stream.free.sort_unstable();
    }
    Ok(streams)
}

/// Makes a stream that was replayed durable. Waits.
///
/// After a kill its last frames may be in the kernel only; what the next process life builds on them (rows
/// that they define, positions that they took) must not outlive them.
///
/// # Errors
/// If a segment cannot be opened or synced.
pub fn sync_stream(device: &dyn Device, lane: Lane, stream: &StreamInfo) -> Result<(), LogError> {
    for (segment, _) in &stream.segments {
        let path = segment_path(stream.incarnation, stream.shard, *segment);
        let mode = OpenMode::default();
        let open = Op::Open {
            path: path.clone(),
            mode,
        };
        let Completion::Opened { file, .. } = device.submit(lane, open).wait(device, lane)? else {
            return Err(not_opened(&path).into());
        };
        device.submit(lane, Op::Sync { file }).wait(device, lane)?;
        device.submit(lane, Op::Close { file }).wait(device, lane)?;
    }
    device
        .submit(lane, Op::SyncDir { path: DIR.into() })
        .wait(device, lane)?;
    Ok(())
}

/// Removes the files of a stream that no superblock needs. Does not wait: a file that stays is removed the
/// next time.
pub fn remove_stream(device: &dyn Device, lane: Lane, stream: &StreamInfo) {
    for (segment, _) in &stream.segments {
        let path = segment_path(stream.incarnation, stream.shard, *segment);
        drop(device.submit(lane, Op::Remove { path }));
    }
    for segment in &stream.free {
        let path = free_path(stream.incarnation, stream.shard, *segment);
        drop(device.submit(lane, Op::Remove { path }));
    }
}

/// An error for a segment that turned out to be something else.
pub(crate) fn not_opened(path: &str) -> IoError {
    IoError::new(
        "open",
        path,
        std::io::Error::other("the device opened nothing"),
    )
}
