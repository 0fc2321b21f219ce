//! Reading pages from the device although they may be in memory, and opening what is left of a damaged store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_io::{AlignedBuf, Device, Lane, PageBuf, Read};
use alluvium_types::{Budget, PAGE_SIZE};

use crate::error::{ReadError, RootError};
use crate::logic_addr::PageRef;
use crate::manifest::Manifest;
use crate::page::Page;
use crate::store::{BlockConfig, BlockStore, Expect};
use crate::volume::Volume;

impl BlockStore {
    /// As [`Self::open`], but volumes that are missing or foreign are left out and told: their pages read as expired.
    ///
    /// # Errors
    /// If the manifest is damaged.
    pub fn open_what_holds(
        device: Arc<dyn Device>,
        config: BlockConfig,
        (instance, incarnation): ([u8; 16], u32),
        budget: Arc<Budget>,
        manifest: &Manifest,
    ) -> Result<(Arc<Self>, Vec<(u32, RootError)>), RootError> {
        let store = Self::create(device, config, instance, incarnation, budget);
        store.load_manifest(manifest)?;
        let mut bad = Vec::new();
        let mut volumes = store.volumes.write();
        volumes.retain(|id, volume| {
            let opened = volume.open_existing(store.device.as_ref(), Lane(0), instance, None);
            opened.map_err(|error| bad.push((*id, error))).is_ok()
        });
        drop(volumes);
        bad.sort_unstable_by_key(|(id, _)| *id);
        Ok((store, bad))
    }

    /// Reads pages from the device and checks them, whether memory has them or not; those that have not reached the
    /// device yet are taken from memory. What is damaged is remembered as if a reader had met it. The page cache stays
    /// as it is. Results are in the order asked. Waits.
    pub fn reread(&self, pages: &[PageRef], expect: Expect) -> Vec<Result<Page, ReadError>> {
        let read_one = |page: &PageRef| {
            if let Some(buffer) = self.cache.pinned(page.addr) {
                return self.checked(buffer, *page, expect, true);
            }
            let volume = self.volume_of(*page);
            let volume = volume.filter(|v| !v.is_hole(page.addr.page));
            let Some((file, volume)) = volume.and_then(|v| Some((v.file()?, v))) else {
                return Err(self.gone(*page));
            };
            let mut reads = [Read {
                file,
                offset: u64::from(page.addr.page) * PAGE_SIZE as u64,
                into: AlignedBuf::zeroed(PAGE_SIZE),
            }];
            self.metrics().pages_read.fetch_add(1, Ordering::Relaxed);
            self.device.read(&mut reads)?;
            if volume.is_hole(page.addr.page) {
                return Err(self.gone(*page));
            }
            let [read] = reads;
            let buffer = PageBuf::from_buffer(read.into).expect("one block was asked for");
            self.checked(Arc::new(buffer), *page, expect, false)
        };
        pages.iter().map(read_one).collect()
    }

    /// The volumes whose headers have reached the device, ascending.
    pub fn headed_volumes(&self) -> Vec<u32> {
        let volumes = self.volumes.read();
        let headed = volumes
            .values()
            .filter(|v| v.header_written.load(Ordering::Acquire));
        let mut ids: Vec<u32> = headed.map(|v| v.id).collect();
        ids.sort_unstable();
        ids
    }

    /// Reads the header of one of [`Self::headed_volumes`] from the device. One that has gone since is sound. Waits.
    ///
    /// # Errors
    /// If the header is damaged, or another's.
    pub fn check_volume_header(&self, id: u32) -> Result<(), RootError> {
        let volume = self.volumes.read().get(&id).map(Arc::clone);
        let Some((volume, file)) = volume.and_then(|v| v.file().map(|file| (v, file))) else {
            return Ok(());
        };
        let checked = volume.check_header(self.device.as_ref(), file, self.instance, None);
        let is_there = |now: &Arc<Volume>| Arc::ptr_eq(now, &volume);
        if self.volumes.read().get(&id).is_some_and(is_there) {
            return checked;
        }
        Ok(())
    }
}
