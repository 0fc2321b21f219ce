//! Hands out extents of consecutive pages: a volume at a time per set, volumes growing from 1 MiB.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_types::{ByteCount, PAGE_SIZE};

use crate::volume::Volume;

/// Sizes of a set's first volumes; later ones have the configured size. A thousand small databases cost
/// little, and a large one soon has large volumes.
const FIRST_VOLUME_BYTES: [u64; 3] = [1 << 20, 16 << 20, 256 << 20];

/// Consecutive pages of one volume, reserved for one appender.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub volume: Arc<Volume>,
    /// Next page to give out.
    pub next: u32,
    /// First page behind.
    pub end: u32,
}

/// What one set knows.
#[derive(Debug, Default)]
pub(crate) struct VolumeSet {
    pub active: Option<Arc<Volume>>,
    /// First page of the active volume that belongs to no extent.
    pub next_page: u32,
    /// Volumes created so far.
    pub created: u32,
    /// Unfilled extents of an earlier process life or of a closed appender.
    pub free: Vec<Extent>,
}

impl VolumeSet {
    /// An extent of at most `extent_pages`; `create` makes the next volume of so many pages.
    pub(crate) fn take(
        &mut self,
        extent_pages: u32,
        volume_bytes: u64,
        create: impl FnOnce(u32) -> Arc<Volume>,
    ) -> Extent {
        if let Some(extent) = self.free.pop() {
            return extent;
        }
        let has_room = self
            .active
            .as_ref()
            .is_some_and(|v| self.next_page < v.pages);
        if !has_room {
            let bytes = FIRST_VOLUME_BYTES
                .get(self.created as usize)
                .map_or(volume_bytes, |first| volume_bytes.min(*first));
            // Two pages at least: the header and one more.
            let pages = (bytes / PAGE_SIZE as u64).clamp(2, u64::from(u32::MAX)) as u32;
            self.active = Some(create(pages));
            self.created += 1;
            self.next_page = 1;
        }
        let volume = Arc::clone(self.active.as_ref().expect("a volume was just made active"));
        let next = self.next_page;
        let end = next.saturating_add(extent_pages).min(volume.pages);
        self.next_page = end;
        volume.handed_out.store(end, Ordering::Release);
        Extent { volume, next, end }
    }
}

/// Pages and bytes of one volume set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetUsage {
    /// Volumes.
    pub volumes: u32,
    /// Pages appended to them.
    pub pages: u64,
    /// The same in bytes.
    pub bytes: ByteCount,
    /// Bytes of them that were not given back.
    pub allocated: ByteCount,
    /// Bytes of them that mean something, headers included.
    pub used: ByteCount,
}

#[cfg(test)]
mod tests {
    use alluvium_types::DatabaseId;

    use super::*;
    use crate::retention::VolumeTimes;
    use crate::volume::{Role, VolumeSetId};

    #[test]
    fn volumes_grow_up_to_the_configured_size() {
        let sizes = |volume_bytes: u64| {
            let mut set = VolumeSet::default();
            let mut sizes = Vec::new();
            while sizes.len() < 5 {
                set.take(u32::MAX, volume_bytes, |pages| {
                    sizes.push(u64::from(pages) * PAGE_SIZE as u64);
                    let id = VolumeSetId {
                        database: DatabaseId(1),
                        role: Role::Leaves,
                    };
                    let times = VolumeTimes::new(0);
                    Arc::new(Volume::new(1, 1, id, pages, (0, 0), times))
                });
            }
            sizes.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>()
        };
        assert_eq!(sizes(4 << 30), [1, 16, 256, 4096, 4096]);
        assert_eq!(sizes(64 << 20), [1, 16, 64, 64, 64]);
        assert_eq!(sizes(1 << 20), [1, 1, 1, 1, 1]);
    }
}
