//! The block store: all volumes, the page cache, and reading.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use alluvium_codec::{CodecError, varint};
use alluvium_io::{AlignedBuf, Device, IoError, Lane, Op, PageBuf, Read, Ticket};
use alluvium_types::{Budget, ByteCount, DatabaseId, PAGE_SIZE};
use hashbrown::{HashMap, HashSet};
use parking_lot::{Mutex, RwLock};

use crate::appender::Appender;
use crate::cache::PageCache;
use crate::error::{Damage, ReadError, RootError};
use crate::logic_addr::{LogicAddr, PageRef};
use crate::manifest::{Manifest, TAG_VOLUMES};
use crate::page::{Page, PageKind};
use crate::retention::VolumeTimes;
use crate::volume::{Role, Volume, VolumeSetId};
use crate::volume_set::{Extent, SetUsage, VolumeSet};

/// Damaged pages remembered by address. The first ones tell where the damage lies; a device that returns only
/// rubbish must not fill the memory with its addresses.
pub const BAD_PAGES_MAX: usize = 1000;

/// Settings of a block store.
#[derive(Debug, Clone)]
pub struct BlockConfig {
    /// Size of a volume once a set has outgrown its first ones.
    pub volume_bytes: u64,
    /// Consecutive pages an appender reserves at a time.
    pub extent_pages: u32,
    /// Pages of one vectored write.
    pub batch_pages: usize,
    /// Bound of the page cache.
    pub cache_bytes: u64,
}

impl Default for BlockConfig {
    fn default() -> Self {
        Self {
            volume_bytes: 4 << 30,
            extent_pages: 64,
            batch_pages: 64,
            cache_bytes: 256 << 20,
        }
    }
}

/// What a reader knows of the page it asks for.
#[derive(Debug, Clone, Copy)]
pub struct Expect {
    /// Its kind.
    pub kind: PageKind,
    /// Its series, `SeriesId::packed`.
    pub series: u64,
}

/// Counters of a block store since it was opened.
#[derive(Debug, Default)]
pub struct BlockMetrics {
    /// Pages read from the device.
    pub pages_read: AtomicU64,
    /// Pages served from memory.
    pub cache_hits: AtomicU64,
    /// Pages written to the device.
    pub pages_written: AtomicU64,
    /// Vectored writes they took.
    pub write_batches: AtomicU64,
    /// Reads that met a damaged page, of one page as often as it was read.
    pub bad_pages: AtomicU64,
}

/// All volumes of a data directory. Shared by every shard and reader.
#[derive(Debug)]
pub struct BlockStore {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) config: BlockConfig,
    pub(crate) instance: [u8; 16],
    pub(crate) incarnation: u32,
    pub(crate) cache: PageCache,
    pub(crate) volumes: RwLock<HashMap<u32, Arc<Volume>, foldhash::fast::FixedState>>,
    pub(crate) sets: Mutex<HashMap<VolumeSetId, VolumeSet, foldhash::fast::FixedState>>,
    next_volume: AtomicU32,
    /// Volumes that were dropped or freed and whose files may still be open.
    dropped: Mutex<Vec<Arc<Volume>>>,
    /// Volumes that went although what they held lives on elsewhere. Their numbers are never given out again.
    pub(crate) retired: Mutex<HashSet<u32, foldhash::fast::FixedState>>,
    /// The file system has refused to make holes.
    pub(crate) no_holes: AtomicBool,
    /// Volumes were removed since the directory was last synced.
    removed: AtomicBool,
    bad: Mutex<BTreeMap<(u32, u32), Damage>>,
    /// What the clock shows, as far as this crate was told.
    pub(crate) now: AtomicI64,
    /// Bytes of new volumes, where a database has a bound of its own.
    pub(crate) volume_limits: Mutex<HashMap<DatabaseId, u64, foldhash::fast::FixedState>>,
    metrics: BlockMetrics,
}

impl BlockStore {
    /// A store without volumes.
    pub fn create(
        device: Arc<dyn Device>,
        config: BlockConfig,
        instance: [u8; 16],
        incarnation: u32,
        budget: Arc<Budget>,
    ) -> Arc<Self> {
        Arc::new(Self {
            cache: PageCache::new(config.cache_bytes, budget),
            device,
            config,
            instance,
            incarnation,
            volumes: RwLock::default(),
            sets: Mutex::default(),
            next_volume: AtomicU32::new(1),
            dropped: Mutex::default(),
            retired: Mutex::default(),
            no_holes: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            bad: Mutex::default(),
            now: AtomicI64::new(i64::MAX),
            volume_limits: Mutex::default(),
            metrics: BlockMetrics::default(),
        })
    }

    /// A store that nobody will open again: for tests and examples of the layers above.
    pub fn ephemeral(device: Arc<dyn Device>) -> Arc<Self> {
        let budget = Arc::new(Budget::new(u64::MAX));
        Self::create(device, BlockConfig::default(), [7; 16], 1, budget)
    }

    /// The store that `manifest` describes, with every append since rolled back. Waits for the device.
    ///
    /// # Errors
    /// If the manifest is damaged or a volume is missing or foreign.
    pub fn open(
        device: Arc<dyn Device>,
        config: BlockConfig,
        instance: [u8; 16],
        incarnation: u32,
        budget: Arc<Budget>,
        manifest: &Manifest,
    ) -> Result<Arc<Self>, RootError> {
        let store = Self::create(device, config, instance, incarnation, budget);
        store.load_manifest(manifest)?;
        let opened = store.volumes.read().values().try_for_each(|volume| {
            volume.open_existing(store.device.as_ref(), Lane(0), instance, Some(incarnation))
        });
        if opened.is_err() {
            store.close_all(Lane(0));
        }
        opened.map(|()| store)
    }

    /// Closes the files of all volumes, for a store that nobody goes on with and to which nothing was appended.
    pub fn close_all(&self, lane: Lane) {
        for volume in self.volumes.read().values() {
            if let Some(file) = volume.file() {
                drop(self.device.submit(lane, Op::Close { file }));
            }
        }
    }

    /// Lets no page join the volumes that there are, nor any that `other` names: whoever opens the store by `other` again finds all
    /// of its pages as they were.
    ///
    /// # Errors
    /// If `other` is damaged.
    pub fn leave_volumes(&self, other: &Manifest) -> Result<(), RootError> {
        let next = other
            .get(TAG_VOLUMES)
            .map(|mut rest| varint::get_u64(&mut rest));
        let next = next.transpose().map_err(|_| RootError::Manifest {
            section: "its volumes",
        })?;
        self.number_volumes_from(next.unwrap_or(0) as u32);
        let sets = self.sets.lock();
        let filling = sets.values().flat_map(|set| {
            let free = set.free.iter().map(|extent| extent.volume.id);
            free.chain(set.active.as_ref().map(|volume| volume.id))
        });
        let filling: Vec<u32> = filling.collect();
        drop(sets);
        self.close_volumes(&filling);
        Ok(())
    }

    /// New volumes get this number at least: a file that stands there may be somebody else's, too, as a backup's.
    pub fn number_volumes_from(&self, id: u32) {
        self.next_volume.fetch_max(id, Ordering::Relaxed);
    }

    pub(crate) fn load_manifest(&self, manifest: &Manifest) -> Result<(), RootError> {
        let loaded = manifest.get(TAG_VOLUMES).map_or(Ok(()), |b| self.load(b));
        loaded.map_err(|_| RootError::Manifest {
            section: "its volumes",
        })
    }

    /// The appender of one shard.
    pub fn appender(self: &Arc<Self>, lane: Lane) -> Appender {
        Appender::new(Arc::clone(self), lane)
    }

    /// Counters.
    pub fn metrics(&self) -> &BlockMetrics {
        &self.metrics
    }

    /// Addresses of the first [`BAD_PAGES_MAX`] pages found damaged since the store was opened, with what did not
    /// hold. [`BlockMetrics::bad_pages`] goes on counting.
    pub fn bad_pages(&self) -> Vec<(LogicAddr, Damage)> {
        let bad = self.bad.lock();
        bad.iter()
            .map(|((volume, page), d)| {
                (
                    LogicAddr {
                        volume: *volume,
                        page: *page,
                    },
                    *d,
                )
            })
            .collect()
    }

    /// Reads one page, from memory if it is there.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(&self, page: PageRef, expect: Expect) -> Result<Page, ReadError> {
        self.read_many(&[page], expect)
            .pop()
            .expect("one result a page")
    }

    /// Keeps at most so many bytes of pages in memory from now on, beside those on their way to the device.
    pub fn bound_cache(&self, bytes: u64) {
        self.cache.bound(bytes);
    }

    /// Reads pages of one kind and series, those not in memory as one batch of the device. Results are in
    /// the order asked.
    pub fn read_many(&self, pages: &[PageRef], expect: Expect) -> Vec<Result<Page, ReadError>> {
        let mut results: Vec<Option<Result<Page, ReadError>>> = Vec::with_capacity(pages.len());
        let mut reads = Vec::new();
        let mut wanted = Vec::new();
        // Held while they are read, so that their files stay open.
        let mut volumes = Vec::new();
        for (i, page) in pages.iter().enumerate() {
            if let Some(buffer) = self.cache.get(page.addr, page.generation) {
                self.metrics.cache_hits.fetch_add(1, Ordering::Relaxed);
                results.push(Some(self.checked(buffer, *page, expect, true)));
                continue;
            }
            let volume = self.volume_of(*page);
            let volume = volume.filter(|v| !v.is_hole(page.addr.page));
            match volume.and_then(|v| Some((v.file()?, v))) {
                None => results.push(Some(Err(self.gone(*page)))),
                Some((file, volume)) => {
                    volumes.push(volume);
                    let offset = u64::from(page.addr.page) * PAGE_SIZE as u64;
                    reads.push(Read {
                        file,
                        offset,
                        into: AlignedBuf::zeroed(PAGE_SIZE),
                    });
                    wanted.push(i);
                    results.push(None);
                }
            }
        }
        if !reads.is_empty() {
            self.metrics
                .pages_read
                .fetch_add(reads.len() as u64, Ordering::Relaxed);
            let read = self.device.read(&mut reads);
            for ((i, mut one), volume) in wanted.into_iter().zip(reads).zip(&volumes) {
                let page = pages[i];
                // A batch fails as a whole; one bad sector must not take the pages around it along.
                let read = match &read {
                    Err(_) => self.device.read(std::slice::from_mut(&mut one)),
                    Ok(()) => Ok(()),
                };
                results[i] = Some(if volume.is_hole(page.addr.page) {
                    // It was given back meanwhile, and the bytes may be zeros.
                    Err(self.gone(page))
                } else if let Err(error) = read {
                    if error.is_of_medium() {
                        Err(self.damaged(page, Damage::Unreadable))
                    } else {
                        Err(error.into())
                    }
                } else {
                    let buffer = PageBuf::from_buffer(one.into).expect("one block was asked for");
                    self.admit(Arc::new(buffer), page, expect)
                });
            }
        }
        results
            .into_iter()
            .map(|r| r.expect("every page has a result"))
            .collect()
    }

    pub(crate) fn volume_of(&self, page: PageRef) -> Option<Arc<Volume>> {
        let volumes = self.volumes.read();
        let volume = volumes.get(&page.addr.volume)?;
        (volume.generation == page.generation).then(|| Arc::clone(volume))
    }

    /// Why there is no such page.
    pub(crate) fn gone(&self, page: PageRef) -> ReadError {
        let addr = page.addr;
        let is_rewritten = self.volume_of(page).is_some_and(|v| v.is_hole(addr.page))
            || self.retired.lock().contains(&addr.volume);
        if is_rewritten {
            ReadError::GivenBack { addr }
        } else {
            ReadError::Expired { addr }
        }
    }

    /// Checks a page from the device and keeps it.
    fn admit(
        &self,
        buffer: Arc<PageBuf>,
        page: PageRef,
        expect: Expect,
    ) -> Result<Page, ReadError> {
        let checked = self.checked(Arc::clone(&buffer), page, expect, false)?;
        self.cache.insert(page.addr, page.generation, buffer, false);
        Ok(checked)
    }

    pub(crate) fn checked(
        &self,
        buffer: Arc<PageBuf>,
        want: PageRef,
        expect: Expect,
        cached: bool,
    ) -> Result<Page, ReadError> {
        let verdict = Page::check(buffer, cached).and_then(|page| {
            let found = page.page_ref();
            let meta = page.meta();
            if found.addr != want.addr {
                Err(Damage::Misplaced)
            } else if found.generation != want.generation || page.incarnation() > self.incarnation {
                Err(Damage::OtherLife)
            } else if found.crc != want.crc {
                Err(Damage::NotTheChild)
            } else if meta.kind != expect.kind || meta.series != expect.series {
                Err(Damage::Unexpected)
            } else {
                Ok(page)
            }
        });
        verdict.map_err(|reason| self.damaged(want, reason))
    }

    /// Notes that a page does not hold.
    fn damaged(&self, want: PageRef, reason: Damage) -> ReadError {
        self.metrics.bad_pages.fetch_add(1, Ordering::Relaxed);
        let (address, mut bad) = ((want.addr.volume, want.addr.page), self.bad.lock());
        if bad.len() < BAD_PAGES_MAX || bad.contains_key(&address) {
            bad.insert(address, reason);
        }
        drop(bad);
        ReadError::Corrupt {
            addr: want.addr,
            reason,
        }
    }

    pub(crate) fn take_extent(&self, set: VolumeSetId) -> Extent {
        let mut sets = self.sets.lock();
        let limit = self.volume_limits.lock().get(&set.database).copied();
        let volume_bytes = self.config.volume_bytes;
        sets.entry(set).or_default().take(
            self.config.extent_pages,
            limit.map_or(volume_bytes, |limit| limit.min(volume_bytes)),
            |pages| {
                let id = self.next_volume.fetch_add(1, Ordering::Relaxed);
                let times = VolumeTimes::new(self.now.load(Ordering::Relaxed));
                let volume = Arc::new(Volume::new(id, 1, set, pages, (0, 0), times));
                self.volumes.write().insert(id, Arc::clone(&volume));
                volume
            },
        )
    }

    /// Gives back what an appender did not fill.
    pub(crate) fn return_extent(&self, set: VolumeSetId, extent: Extent) {
        // A full one given out again would let a page past its end.
        let mut sets = self.sets.lock();
        let known = sets.get_mut(&set);
        match known.filter(|_| !extent.volume.times.is_closed()) {
            Some(known) if extent.next < extent.end => known.free.push(extent),
            _ => extent.volume.leave_unwritten((extent.next, extent.end)),
        }
    }

    /// Forgets the volumes of a database: their pages read as expired from now on. Returns their paths; the
    /// files may be removed once no superblock names them.
    pub fn drop_database(&self, database: DatabaseId) -> Vec<String> {
        self.sets.lock().retain(|set, _| set.database != database);
        let mut volumes = self.volumes.write();
        let gone: Vec<Arc<Volume>> = volumes
            .values()
            .filter(|v| v.set.database == database)
            .map(Arc::clone)
            .collect();
        for volume in &gone {
            volumes.remove(&volume.id);
        }
        drop(volumes);
        self.forget(gone)
    }

    /// What is left to do when volumes are out of the map. Returns their paths.
    pub(crate) fn forget(&self, gone: Vec<Arc<Volume>>) -> Vec<String> {
        for volume in &gone {
            self.cache.forget_volume(volume.id);
        }
        let paths = gone.iter().map(|v| v.path()).collect();
        let is_gone = |id: u32| gone.iter().any(|v| v.id == id);
        self.bad.lock().retain(|(volume, _), _| !is_gone(*volume));
        self.dropped.lock().extend(gone);
        paths
    }

    /// Closes the files of dropped and freed volumes that no write, sync or read uses any more: a removed file
    /// keeps its blocks until then. Call it now and then.
    pub fn close_dropped(&self, lane: Lane) {
        self.dropped.lock().retain_mut(|volume| {
            // Nobody can find it any more, so a count of one stays one.
            let Some(volume) = Arc::get_mut(volume) else {
                return true;
            };
            match volume.take_file() {
                Err(()) => true,
                Ok(None) => false,
                Ok(Some(file)) => {
                    drop(self.device.submit(lane, Op::Close { file }));
                    false
                }
            }
        });
    }

    /// Notes that volume files were removed: the next sync makes that durable, too.
    pub fn note_removal(&self) {
        self.removed.store(true, Ordering::Release);
    }

    /// Pages of a database, by role.
    pub fn usage(&self, database: DatabaseId, role: Role) -> SetUsage {
        let set = VolumeSetId { database, role };
        let mut usage = SetUsage::default();
        for volume in self.volumes.read().values().filter(|v| v.set == set) {
            usage.volumes += 1;
            usage.pages += volume.appended.load(Ordering::Relaxed);
            usage.allocated.0 += volume.allocated() * PAGE_SIZE as u64;
            usage.used.0 += volume.used.load(Ordering::Relaxed);
        }
        usage.bytes = ByteCount(usage.pages * PAGE_SIZE as u64);
        usage
    }

    /// Starts making every volume written since the last call durable, with the names of new ones. Call it
    /// when the writes concerned have completed.
    pub fn start_sync(&self, lane: Lane) -> SyncBatch {
        let (mut tickets, mut synced) = (Vec::new(), Vec::new());
        let mut names = self.removed.swap(false, Ordering::AcqRel);
        for volume in self.volumes.read().values() {
            let is_named = volume.header_written.load(Ordering::Acquire);
            names |= is_named && !volume.name_synced.swap(true, Ordering::AcqRel);
            if volume.dirty.swap(false, Ordering::AcqRel)
                && let Some(file) = volume.file()
            {
                tickets.push(self.device.submit(lane, Op::Sync { file }));
                synced.push(Arc::clone(volume));
            }
        }
        if names {
            tickets.push(self.device.submit(lane, Op::SyncDir { path: "vol".into() }));
        }
        SyncBatch {
            tickets,
            _volumes: synced,
        }
    }

    /// Writes this crate's section of a manifest. `open` are the extents of every appender. Call it before
    /// [`Self::start_sync`]: it names the volumes whose headers have been written by now, and the sync that
    /// follows makes them durable.
    pub fn save(&self, manifest: &mut Manifest, open: &[OpenExtent]) {
        let mut out = Vec::new();
        let sets = self.sets.lock();
        varint::put_u64(
            &mut out,
            u64::from(self.next_volume.load(Ordering::Relaxed)),
        );
        let volumes = self.volumes.read();
        // A volume without a header holds no page that anything durable speaks of.
        let mut written: Vec<&Arc<Volume>> = volumes
            .values()
            .filter(|v| v.header_written.load(Ordering::Acquire))
            .collect();
        written.sort_unstable_by_key(|v| v.id);
        varint::put_u64(&mut out, written.len() as u64);
        written.iter().for_each(|volume| volume.put(&mut out));
        let is_written = |id: u32| written.binary_search_by_key(&id, |v| v.id).is_ok();
        varint::put_u64(&mut out, sets.len() as u64);
        let mut ordered: Vec<_> = sets.iter().collect();
        ordered.sort_unstable_by_key(|(id, _)| **id);
        for (id, set) in ordered {
            let active = set.active.as_ref().filter(|v| is_written(v.id));
            for number in [
                u64::from(id.database.0),
                id.role as u64,
                u64::from(set.created),
                active.map_or(0, |v| u64::from(v.id)),
                u64::from(set.next_page),
            ] {
                varint::put_u64(&mut out, number);
            }
            let mut free: Vec<(u32, u32, u32)> = set
                .free
                .iter()
                .map(|e| (e.volume.id, e.next, e.end))
                .collect();
            free.extend(
                open.iter()
                    .filter(|e| e.set == *id)
                    .map(|e| (e.volume, e.next, e.end)),
            );
            free.retain(|(volume, next, end)| next < end && is_written(*volume));
            varint::put_u64(&mut out, free.len() as u64);
            for (volume, next, end) in free {
                for number in [volume, next, end] {
                    varint::put_u64(&mut out, u64::from(number));
                }
            }
        }
        manifest.set(TAG_VOLUMES, out);
    }

    fn load(&self, mut rest: &[u8]) -> Result<(), CodecError> {
        let r = &mut rest;
        let u32_of = |r: &mut &[u8]| varint::get_u64(r).map(|v| v as u32);
        let next_volume = u32_of(r)?;
        self.next_volume.store(next_volume, Ordering::Relaxed);
        let mut volumes = self.volumes.write();
        // Every number below is checked: a page must not be given out twice, nor behind the end of its volume.
        let checked = |holds: bool, field, value: u32| {
            let value = u64::from(value);
            holds
                .then_some(())
                .ok_or(CodecError::Invalid { field, value })
        };
        for _ in 0..varint::get_u64(r)? {
            let volume = Volume::get(r)?;
            checked(volume.id < next_volume, "number of a volume", volume.id)?;
            volumes.insert(volume.id, Arc::new(volume));
        }
        let mut sets = self.sets.lock();
        for _ in 0..varint::get_u64(r)? {
            let id = VolumeSetId::get(r)?;
            let created = u32_of(r)?;
            let active = volumes.get(&u32_of(r)?);
            let active = active.filter(|v| !v.times.is_closed()).map(Arc::clone);
            let next_page = u32_of(r)?;
            let pages = active.as_ref().map_or(u32::MAX, |v| v.pages);
            checked(next_page <= pages, "next page of a volume", next_page)?;
            let mut set = VolumeSet {
                active,
                next_page,
                created,
                free: Vec::new(),
            };
            for _ in 0..varint::get_u64(r)? {
                let (volume, next, end) = (u32_of(r)?, u32_of(r)?, u32_of(r)?);
                // A volume may have been closed behind the list of open extents.
                let volume = volumes.get(&volume).filter(|v| !v.times.is_closed());
                if let Some(volume) = volume {
                    let fits = next < end && end <= volume.pages;
                    checked(fits, "end of an extent", end)?;
                    set.free.push(Extent {
                        volume: Arc::clone(volume),
                        next,
                        end,
                    });
                }
            }
            sets.insert(id, set);
        }
        Ok(())
    }

    /// The databases that have volumes.
    pub fn databases(&self) -> Vec<DatabaseId> {
        let volumes = self.volumes.read();
        let mut all: Vec<DatabaseId> = volumes.values().map(|v| v.set.database).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(crate) fn count_write(&self, pages: usize) {
        self.metrics
            .pages_written
            .fetch_add(pages as u64, Ordering::Relaxed);
        self.metrics.write_batches.fetch_add(1, Ordering::Relaxed);
    }
}

/// Paths of the volumes that a manifest names.
///
/// # Errors
/// If the manifest is damaged.
pub fn named_volumes(manifest: &Manifest) -> Result<Vec<String>, RootError> {
    let parse = |mut rest: &[u8]| {
        let r = &mut rest;
        varint::get_u64(r)?;
        let mut paths = Vec::new();
        for _ in 0..varint::get_u64(r)? {
            paths.push(Volume::get(r)?.path());
        }
        Ok(paths)
    };
    let parsed: Result<_, CodecError> = manifest.get(TAG_VOLUMES).map_or(Ok(Vec::new()), parse);
    parsed.map_err(|_| RootError::Manifest {
        section: "its volumes",
    })
}

/// An extent that an appender has not filled, as a manifest remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenExtent {
    /// Whose.
    pub set: VolumeSetId,
    /// In which volume.
    pub volume: u32,
    /// Next page to be written.
    pub next: u32,
    /// First page behind.
    pub end: u32,
}

/// Syncs in flight.
#[derive(Debug)]
pub struct SyncBatch {
    tickets: Vec<Ticket>,
    /// Their files stay open until their syncs have ended.
    _volumes: Vec<Arc<Volume>>,
}

impl SyncBatch {
    /// `None` while any is in flight.
    pub fn result(&self) -> Option<Result<(), IoError>> {
        self.tickets
            .iter()
            .try_fold(Ok(()), |all, ticket| match (all, ticket.result()?) {
                (Err(first), _) => Some(Err(first)),
                (Ok(()), result) => Some(result.map(|_| ())),
            })
    }
}
