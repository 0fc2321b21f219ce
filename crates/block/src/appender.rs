//! Appends pages for one shard: an address at once, the device in batches, readers served from memory in
//! between.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_io::{IoError, IoErrorKind, Lane, Op, PageBuf, Ticket, WriteData};
use alluvium_types::TimeRange;
use hashbrown::HashMap;

use crate::logic_addr::{LogicAddr, PageRef};
use crate::page::{PageDraft, PageKind, PageMeta};
use crate::store::{BlockStore, OpenExtent};
use crate::volume::{Role, Volume, VolumeSetId};
use crate::volume_set::Extent;

/// Consecutive pages of one volume on their way to the device.
#[derive(Debug)]
struct Run {
    volume: Arc<Volume>,
    first_page: u32,
    pages: Vec<Arc<PageBuf>>,
    /// Number of its first page in the order of appending.
    first_seq: u64,
}

#[derive(Debug)]
struct InFlight {
    run: Run,
    ticket: Ticket,
}

/// Appends pages for one shard, under that shard's lock. It never waits and never fails: pages queue in
/// memory until the device has them. The owner stops accepting points when [`Appender::is_full`] or
/// [`Appender::failure`] says so, or when [`Appender::queued_pages`] passes its bound.
#[derive(Debug)]
pub struct Appender {
    store: Arc<BlockStore>,
    lane: Lane,
    extents: HashMap<VolumeSetId, Extent, foldhash::fast::FixedState>,
    growing: Vec<Run>,
    queue: VecDeque<Run>,
    in_flight: Vec<InFlight>,
    appended: u64,
    full: bool,
    failure: Option<IoError>,
}

impl Appender {
    pub(crate) fn new(store: Arc<BlockStore>, lane: Lane) -> Self {
        Self {
            store,
            lane,
            extents: HashMap::default(),
            growing: Vec::new(),
            queue: VecDeque::new(),
            in_flight: Vec::new(),
            appended: 0,
            full: false,
            failure: None,
        }
    }

    /// The store it appends to.
    pub fn store(&self) -> &Arc<BlockStore> {
        &self.store
    }

    /// Gives the page its address, seals it and queues it. Readers find it from now on. `times` are those of the
    /// points in or below it: its volume outlives them.
    ///
    /// Cost: a checksum (about 0.2 us in cache), no system call.
    pub fn append(
        &mut self,
        role: Role,
        meta: PageMeta,
        times: TimeRange,
        draft: PageDraft,
    ) -> PageRef {
        let set = VolumeSetId {
            database: meta.database,
            role,
        };
        let store = Arc::clone(&self.store);
        let extent = self
            .extents
            .entry(set)
            .or_insert_with(|| store.take_extent(set));
        if extent.next == extent.end {
            *extent = store.take_extent(set);
        }
        let page = extent.next;
        extent.next += 1;
        let volume = Arc::clone(&extent.volume);
        let extent_done = extent.next == extent.end;
        let addr = LogicAddr {
            volume: volume.id,
            page,
        };
        let used = draft.used_bytes();
        let (buffer, page_ref) = draft.seal(addr, volume.generation, store.incarnation, &meta);
        store
            .cache
            .insert(addr, volume.generation, Arc::clone(&buffer), true);
        volume.appended.fetch_add(1, Ordering::Relaxed);
        volume.used.fetch_add(used, Ordering::Relaxed);
        if meta.kind == PageKind::Overflow {
            volume.has_overflow.store(true, Ordering::Relaxed);
        }
        volume.times.note(times, store.now.load(Ordering::Relaxed));
        if page == 1 {
            // Whoever holds the volume's first extent writes its header.
            let header = volume.header_page(store.instance, store.incarnation);
            let run = Run {
                volume: Arc::clone(&volume),
                first_page: 0,
                pages: vec![header],
                first_seq: self.appended,
            };
            self.queue.push_back(run);
        }
        let seq = self.appended;
        self.appended += 1;
        let batch_pages = store.config.batch_pages;
        let at = self
            .growing
            .iter()
            .position(|r| r.volume.id == volume.id && r.first_page + r.pages.len() as u32 == page);
        let at = at.unwrap_or_else(|| {
            self.growing.push(Run {
                volume,
                first_page: page,
                pages: Vec::new(),
                first_seq: seq,
            });
            self.growing.len() - 1
        });
        self.growing[at].pages.push(buffer);
        if extent_done || self.growing[at].pages.len() >= batch_pages {
            let run = self.growing.swap_remove(at);
            self.queue.push_back(run);
        }
        page_ref
    }

    /// Queues every batch that is not full yet.
    pub fn flush(&mut self) {
        self.queue.extend(self.growing.drain(..));
    }

    /// How many pages have been appended: a mark for [`Self::is_written`].
    pub fn mark(&self) -> u64 {
        self.appended
    }

    /// Whether the first `mark` pages appended have reached the device (not: are durable).
    pub fn is_written(&self, mark: u64) -> bool {
        let runs = self
            .growing
            .iter()
            .chain(&self.queue)
            .chain(self.in_flight.iter().map(|f| &f.run));
        runs.map(|r| r.first_seq)
            .min()
            .is_none_or(|oldest| oldest >= mark)
    }

    /// Pages in memory that the device does not have.
    pub fn queued_pages(&self) -> usize {
        let runs = self
            .growing
            .iter()
            .chain(&self.queue)
            .chain(self.in_flight.iter().map(|f| &f.run));
        runs.map(|r| r.pages.len()).sum()
    }

    /// Whether the device had no room. Pages stay in memory; [`Self::retry`] tries again.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The first write that failed for another reason than room. Nothing is written after it.
    pub fn failure(&self) -> Option<&IoError> {
        self.failure.as_ref()
    }

    /// Tries again after the device was full.
    pub fn retry(&mut self) {
        self.full = false;
    }

    /// Hands queued batches to the device and collects those that ended. Never waits. Returns whether
    /// anything is on its way.
    pub fn drive(&mut self) -> bool {
        self.collect();
        if self.failure.is_none() && !self.full {
            self.submit();
        }
        !self.in_flight.is_empty()
            || (!self.queue.is_empty() && !self.full && self.failure.is_none())
    }

    fn collect(&mut self) {
        let mut i = 0;
        while i < self.in_flight.len() {
            let Some(result) = self.in_flight[i].ticket.result() else {
                i += 1;
                continue;
            };
            let InFlight { run, .. } = self.in_flight.swap_remove(i);
            match result {
                Ok(_) => {
                    run.volume.mark_written(run.first_page);
                    for n in 0..run.pages.len() as u32 {
                        self.store.cache.unpin(LogicAddr {
                            volume: run.volume.id,
                            page: run.first_page + n,
                        });
                    }
                    self.store.count_write(run.pages.len());
                }
                Err(error) => {
                    self.note(error);
                    self.queue.push_front(run);
                }
            }
        }
    }

    fn submit(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(run) = self.queue.pop_front() else {
                return;
            };
            match run
                .volume
                .file_for_writing(self.store.device.as_ref(), self.lane)
            {
                Ok(Some(file)) => {
                    let op = Op::Write {
                        file,
                        offset: u64::from(run.first_page) * alluvium_types::PAGE_SIZE as u64,
                        data: WriteData::Pages(run.pages.clone()),
                        sync: false,
                    };
                    let ticket = self.store.device.submit(self.lane, op);
                    self.in_flight.push(InFlight { run, ticket });
                }
                Ok(None) => self.queue.push_back(run),
                Err(error) => {
                    self.queue.push_back(run);
                    self.note(error);
                    return;
                }
            }
        }
    }

    fn note(&mut self, error: IoError) {
        if error.kind == IoErrorKind::NoSpace {
            self.full = true;
        } else if self.failure.is_none() {
            self.failure = Some(error);
        }
    }

    /// The extents it has not filled, for the manifest.
    pub fn open_extents(&self) -> Vec<OpenExtent> {
        let open = |(set, e): (&VolumeSetId, &Extent)| OpenExtent {
            set: *set,
            volume: e.volume.id,
            next: e.next,
            end: e.end,
        };
        let filling = |(_, e): &(&VolumeSetId, &Extent)| !e.volume.times.is_closed();
        self.extents.iter().filter(filling).map(open).collect()
    }

    /// Leaves the extents in volumes that were closed; what it has queued of them is still written.
    pub fn leave_closed(&mut self) {
        self.extents.retain(|_, e| {
            let is_open = !e.volume.times.is_closed();
            if !is_open {
                e.volume.leave_unwritten((e.next, e.end));
            }
            is_open
        });
    }

    /// Drops what it has queued of volumes that are gone. It must have left them.
    pub fn forget_volumes(&mut self, ids: &[u32]) {
        self.growing.retain(|r| !ids.contains(&r.volume.id));
        self.queue.retain(|r| !ids.contains(&r.volume.id));
    }

    /// Drops what it holds of a database whose volumes are gone.
    pub fn forget_database(&mut self, database: alluvium_types::DatabaseId) {
        self.extents.retain(|set, _| set.database != database);
        self.growing.retain(|r| r.volume.set.database != database);
        self.queue.retain(|r| r.volume.set.database != database);
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        for (set, extent) in self.extents.drain() {
            self.store.return_extent(set, extent);
        }
    }
}
