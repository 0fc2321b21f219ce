//! The device: lanes of operations that take effect when the dice say so.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alluvium_io::{
    Completer, Completion, Device, FileId, Geometry, IoError, IoErrorKind, IoResult, Lane, Listed,
    Op, Read, Ticket, WriteData,
};
use alluvium_types::PAGE_SIZE;
use parking_lot::Mutex;

use crate::config::{Fault, SimConfig};
use crate::disk::{Disk, SECTOR, tear};
use crate::prng::Prng;

/// What systems say of a sector that they cannot read.
const EIO: i32 = 5;

#[derive(Debug)]
struct Pending {
    op: Op,
    completer: Completer,
    /// Drives until it takes effect.
    drives_left: u32,
    /// It has reached the device: a crash may find it done in part.
    driven: bool,
    /// The number of the first change that a sync of this operation need not cover.
    covers_before: u64,
}

#[derive(Debug)]
struct Open {
    inode: u64,
    path: String,
    /// Where the last of the writes asked for ends.
    end: u64,
}

#[derive(Debug)]
struct Inner {
    disk: Disk,
    open: BTreeMap<u32, Open>,
    next_file: u32,
    lanes: Vec<Vec<Pending>>,
    dice: Prng,
    ops: u64,
    syncs: u64,
    reads: u64,
    pages_written: u64,
    /// Operations that went wrong by plan.
    faults_met: u64,
    /// What the newest planned fault hit.
    last_fault: Option<(&'static str, String)>,
    /// Writes that the plan's `writes_below` is about, since it was set.
    writes_below: u64,
    syncs_by_path: HashMap<String, u64>,
    config: SimConfig,
    /// Replaced by [`SimDevice::crash`] or [`SimDevice::kill`].
    gone: bool,
}

/// A [`Device`] whose faults, order and crashes one seed decides. Meant for one thread; the lock inside only
/// makes it shareable.
#[derive(Debug)]
pub struct SimDevice {
    seed: u64,
    inner: Mutex<Inner>,
}

impl SimDevice {
    /// An empty disk.
    pub fn new(seed: u64, config: SimConfig) -> Arc<Self> {
        Self::with_disk(seed, config, Disk::default())
    }

    fn with_disk(seed: u64, config: SimConfig, disk: Disk) -> Arc<Self> {
        let inner = Inner {
            disk,
            open: BTreeMap::new(),
            next_file: 0,
            lanes: (0..config.lanes).map(|_| Vec::new()).collect(),
            dice: Prng::new(seed),
            ops: 0,
            syncs: 0,
            reads: 0,
            pages_written: 0,
            faults_met: 0,
            last_fault: None,
            writes_below: 0,
            syncs_by_path: HashMap::new(),
            config,
            gone: false,
        };
        Arc::new(Self {
            seed,
            inner: Mutex::new(inner),
        })
    }

    /// The seed, to print when a test fails.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Where the disk is in the file system that [`Device::link`] speaks of: names below it are its own. Another one
    /// after each end.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/sim-{:016x}", self.seed))
    }

    /// The device after a power cut: what was synced, and of every unsynced write, creation, rename and removal
    /// (those in flight included) all, nothing or, of writes, any set of 512-byte sectors, as the seed decides.
    /// Outstanding tickets fail, and so does everything on `self` from now on. No faults are planned for the
    /// new device.
    #[must_use]
    pub fn crash(&self) -> Arc<Self> {
        self.successor(true, None)
    }

    /// [`SimDevice::crash`] into a device with so many lanes, for a store that opens with another number of
    /// shards. What becomes of the unsynced is decided by `seed` alone.
    #[must_use]
    pub fn crash_into(&self, lanes: usize, seed: u64) -> Arc<Self> {
        self.successor(true, Some((lanes, seed)))
    }

    /// The device after `kill -9`: everything completed is there (though still volatile to a later power
    /// cut); each operation in flight took effect, did not, or was torn at page borders, as the seed decides.
    #[must_use]
    pub fn kill(&self) -> Arc<Self> {
        self.successor(false, None)
    }

    /// [`SimDevice::kill`] into a device with so many lanes; what was in flight is decided by `seed` alone.
    #[must_use]
    pub fn kill_into(&self, lanes: usize, seed: u64) -> Arc<Self> {
        self.successor(false, Some((lanes, seed)))
    }

    /// Another device with what this one holds, for a look at it: this one goes on as if nobody had looked.
    #[must_use]
    pub fn copy(&self) -> Arc<Self> {
        let inner = self.inner.lock();
        Self::with_disk(self.seed, inner.config.clone(), inner.disk.clone())
    }

    /// `into`: lanes and the seed that decides from now on, else those of this device.
    fn successor(&self, power_cut: bool, into: Option<(usize, u64)>) -> Arc<Self> {
        let (after, dead) = {
            let mut inner = self.inner.lock();
            if let Some((_, seed)) = into {
                inner.dice = Prng::new(seed);
            }
            let unit = if power_cut { SECTOR } else { PAGE_SIZE };
            let dead: Vec<Pending> = inner.lanes.iter_mut().flat_map(std::mem::take).collect();
            let powered = !inner.is_crashed();
            for pending in dead.iter().filter(|pending| pending.driven && powered) {
                inner.apply_in_flight(pending, unit);
            }
            inner.gone = true;
            let mut dice = inner.dice.fork();
            let mut disk = if power_cut {
                inner.disk.after_power_cut(&mut dice)
            } else {
                inner.disk.clone()
            };
            disk.forget_nameless();
            let mut config = inner.config.clone();
            config.lanes = into.map_or(config.lanes, |(lanes, _)| lanes);
            config.faults = crate::FaultPlan {
                capacity: config.faults.capacity,
                ..Default::default()
            };
            (Self::with_disk(dice.next_u64(), config, disk), dead)
        };
        // Failing the tickets may run wakers, which may call us.
        drop(dead);
        after
    }

    /// Operations that took effect or failed so far.
    pub fn ops(&self) -> u64 {
        self.inner.lock().ops
    }

    /// Pages written so far, torn ones included.
    pub fn pages_written(&self) -> u64 {
        self.inner.lock().pages_written
    }

    /// Operations that went wrong by plan so far, refusals for want of room included.
    pub fn faults_met(&self) -> u64 {
        self.inner.lock().faults_met
    }

    /// What the newest fault of [`FaultPlan::ops`](crate::FaultPlan::ops) hit: `write`, `sync`, `open` and so on, and the path.
    pub fn last_fault(&self) -> Option<(&'static str, String)> {
        self.inner.lock().last_fault.clone()
    }

    /// Reads so far; each of several asked for at once counts.
    pub fn reads(&self) -> u64 {
        self.inner.lock().reads
    }

    /// Bytes of blocks that all files take, open ones without a name included: what a plan's `capacity` bounds.
    pub fn footprint(&self) -> u64 {
        let inner = self.inner.lock();
        let open = inner.open.values().map(|open| open.inode);
        inner.disk.footprint(open)
    }

    /// Syncs so far, of files, directories and linked to writes.
    pub fn syncs(&self) -> u64 {
        self.inner.lock().syncs
    }

    /// Syncs of one path (a file as it was opened, or a directory) so far.
    pub fn syncs_of(&self, path: &str) -> u64 {
        self.inner
            .lock()
            .syncs_by_path
            .get(path)
            .copied()
            .unwrap_or(0)
    }

    /// Whether the power is off, by plan or because the device has a successor.
    pub fn is_crashed(&self) -> bool {
        self.inner.lock().is_crashed()
    }

    /// Turns over one bit of a file, in memory and on the disk. False if nothing was written there.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> bool {
        self.inner.lock().disk.flip(path, offset, bit)
    }

    /// Has reads of the 4 KiB block of a file in which `offset` is fail, through all crashes, until something is written there.
    /// False if there is no such file.
    pub fn spoil(&self, path: &str, offset: u64) -> bool {
        self.inner.lock().disk.spoil(path, offset)
    }

    /// Replaces the plan from now on. Operation numbers go on counting.
    pub fn set_faults(&self, faults: crate::FaultPlan) {
        let mut inner = self.inner.lock();
        inner.config.faults = faults;
        inner.writes_below = 0;
    }

    /// A hash of both images, of what lies between them, and of the dice: equal for equal histories. Not
    /// stable between versions of the compiler.
    pub fn state_hash(&self) -> u64 {
        let inner = self.inner.lock();
        let mut hasher = DefaultHasher::new();
        inner.disk.hash(&mut hasher);
        (
            inner.ops,
            inner.syncs,
            inner.pages_written,
            inner.dice.clone().next_u64(),
        )
            .hash(&mut hasher);
        hasher.finish()
    }
}

impl Inner {
    fn is_crashed(&self) -> bool {
        self.gone
            || self
                .config
                .faults
                .crash_after_ops
                .is_some_and(|n| self.ops >= n)
    }

    fn opened(&self, attempt: &'static str, file: FileId) -> Result<&Open, IoError> {
        let text = || Error::new(ErrorKind::NotFound, "no such open file");
        self.open
            .get(&file.0)
            .ok_or_else(|| IoError::new(attempt, format!("file {}", file.0), text()))
    }

    /// Does, or does not, an operation whose time has come.
    fn perform(&mut self, op: &Op, covers_before: u64) -> IoResult {
        let (attempt, path) = self.describe(op);
        let failed = |kind| Err(IoError::new(attempt, path.clone(), Error::from(kind)));
        if self.is_crashed() {
            return Err(IoError::new(
                attempt,
                path,
                Error::other("the power is off"),
            ));
        }
        let number = self.ops;
        self.ops += 1;
        let fault = self.planned(op, number);
        if fault.is_some() {
            self.faults_met += 1;
            self.last_fault = Some((attempt, path.clone()));
        }
        match fault {
            None => {}
            Some(Fault::NoSpace) => return failed(ErrorKind::StorageFull),
            // An opening has to give a file, so it is never lost.
            Some(Fault::Lost) if matches!(op, Op::Open { .. }) => {}
            Some(Fault::Lost) => return Ok(Completion::Done),
            Some(Fault::Misdirected { by }) => {
                let mut op = op.clone();
                if let Op::Write { offset, .. } = &mut op {
                    *offset = offset.saturating_add(by);
                }
                return self.obey(&op, number, covers_before);
            }
            Some(Fault::Torn) => {
                if let Op::Write {
                    file, offset, data, ..
                } = op
                {
                    let inode = self.opened(attempt, *file)?.inode;
                    let bytes = flat(data);
                    let sectors = self.dice.below((bytes.len() / SECTOR) as u64 + 1) as usize;
                    self.pages_written += (sectors * SECTOR).div_ceil(PAGE_SIZE) as u64;
                    self.disk
                        .write(inode, *offset, bytes[..sectors * SECTOR].to_vec());
                }
                return Err(IoError::new(
                    attempt,
                    path,
                    Error::other("input/output error (planned)"),
                ));
            }
            Some(Fault::LosesContent) => {
                self.lose(op);
                return Err(IoError::new(
                    attempt,
                    path,
                    Error::other("input/output error (planned)"),
                ));
            }
            Some(Fault::Eio) => {
                return Err(IoError::new(
                    attempt,
                    path,
                    Error::other("input/output error (planned)"),
                ));
            }
        }
        self.obey(op, number, covers_before)
    }

    /// Sees to it that files that are only appended to are; see [`SimConfig::append_only`].
    fn note_end(&mut self, op: &Op) {
        let (
            Op::Write {
                file, offset, data, ..
            },
            Some(below),
        ) = (op, self.config.append_only)
        else {
            return;
        };
        if let Some(open) = self.open.get_mut(&file.0)
            && open.path.starts_with(below)
        {
            let (path, end) = (&open.path, open.end);
            assert!(
                *offset >= end,
                "a write at {offset} of {path}, whose writes reach to {end}"
            );
            open.end = offset + data.len() as u64;
        }
    }

    /// What goes wrong with the operation, of its sync apart.
    fn planned(&mut self, op: &Op, number: u64) -> Option<Fault> {
        let of_number = self.config.faults.ops.get(&number).copied();
        let (Op::Write { file, .. }, Some((path, faults))) =
            (op, self.config.faults.writes_below.as_ref())
        else {
            return of_number;
        };
        let open = self.open.get(&file.0)?;
        if !open.path.starts_with(path.as_str()) {
            return of_number;
        }
        let of_write = faults.get(&self.writes_below).copied();
        self.writes_below += 1;
        of_number.or(of_write)
    }

    /// Does an operation that no fault is planned for, except of its sync.
    fn obey(&mut self, op: &Op, number: u64, covers_before: u64) -> IoResult {
        let (attempt, path) = self.describe(op);
        let failed = |kind| Err(IoError::new(attempt, path.clone(), Error::from(kind)));
        match op {
            Op::Open { path, mode } => {
                let inode = match self.disk.inode_of(path) {
                    Some(inode) => inode,
                    None if mode.create => self.disk.create(path),
                    None => return failed(ErrorKind::NotFound),
                };
                if mode.allocate > 0 {
                    let mut after = self.disk.live(inode).cloned().unwrap_or_default();
                    let before = after.footprint();
                    after.allocate(mode.allocate);
                    if !self.fits(after.footprint() - before) {
                        self.faults_met += 1;
                        return failed(ErrorKind::StorageFull);
                    }
                    self.disk.allocate(inode, mode.allocate);
                }
                let file = self.next_file;
                self.next_file += 1;
                self.open.insert(
                    file,
                    Open {
                        inode,
                        path: path.clone(),
                        end: 0,
                    },
                );
                let len = self
                    .disk
                    .live(inode)
                    .map_or(0, crate::content::Content::len);
                Ok(Completion::Opened {
                    file: FileId(file),
                    len,
                })
            }
            Op::Close { file } => {
                self.opened(attempt, *file)?;
                self.open.remove(&file.0);
                Ok(Completion::Done)
            }
            Op::Write {
                file,
                offset,
                data,
                sync,
            } => {
                let inode = self.opened(attempt, *file)?.inode;
                let geometry = self.geometry();
                geometry.check(attempt, &path, *offset, data.len())?;
                let bytes = flat(data);
                if self.config.faults.capacity.is_some() {
                    let mut after = self.disk.live(inode).cloned().unwrap_or_default();
                    let before = after.footprint();
                    after.write(*offset, &bytes);
                    if !self.fits(after.footprint() - before) {
                        self.faults_met += 1;
                        return failed(ErrorKind::StorageFull);
                    }
                }
                self.pages_written += bytes.len().div_ceil(PAGE_SIZE) as u64;
                self.disk.write(inode, *offset, bytes);
                if *sync {
                    let covers_before = self.disk.next_change;
                    self.sync(op, number, covers_before)?;
                }
                Ok(Completion::Done)
            }
            Op::Sync { .. } | Op::SyncDir { .. } => self.sync(op, number, covers_before),
            Op::Rename { from, to } => {
                if !self.disk.rename(from, to) {
                    return failed(ErrorKind::NotFound);
                }
                Ok(Completion::Done)
            }
            Op::Punch { file, offset, len } => {
                let inode = self.opened(attempt, *file)?.inode;
                let geometry = self.geometry();
                geometry.check(attempt, &path, *offset, *len as usize)?;
                if self.config.no_holes {
                    return failed(ErrorKind::Unsupported);
                }
                if self.disk.has_names(inode) {
                    let cause = Error::other("the file has another name");
                    let mut error = IoError::new(attempt, path, cause);
                    error.kind = IoErrorKind::Linked;
                    return Err(error);
                }
                self.disk.punch(inode, *offset, *len);
                Ok(Completion::Done)
            }
            Op::Remove { path } => {
                self.disk.remove(path);
                Ok(Completion::Done)
            }
        }
    }

    fn sync(&mut self, op: &Op, number: u64, covers_before: u64) -> IoResult {
        let (_, path) = self.describe(op);
        let sync = self.syncs;
        self.syncs += 1;
        *self.syncs_by_path.entry(path.clone()).or_default() += 1;
        let failed = |kind: ErrorKind| Err(IoError::new("sync", path.clone(), Error::from(kind)));
        if self
            .config
            .faults
            .fail_syncs_from_op
            .is_some_and(|from| number >= from)
        {
            self.faults_met += 1;
            return failed(ErrorKind::Other);
        }
        let fault = self.config.faults.syncs.get(&sync).copied();
        self.faults_met += u64::from(fault.is_some());
        match fault {
            None => {}
            Some(Fault::Lost) => return Ok(Completion::Done),
            Some(Fault::NoSpace) => return failed(ErrorKind::StorageFull),
            Some(Fault::LosesContent) => {
                self.lose(op);
                return failed(ErrorKind::Other);
            }
            Some(_) => return failed(ErrorKind::Other),
        }
        match op {
            Op::Write { file, .. } | Op::Sync { file } => {
                let inode = self.opened("sync", *file)?.inode;
                self.disk.sync(inode, covers_before);
            }
            Op::SyncDir { path } => self.disk.sync_dir(path, covers_before),
            _ => {}
        }
        Ok(Completion::Done)
    }

    fn lose(&mut self, op: &Op) {
        let all = self.disk.next_change;
        match op {
            Op::Write { file, .. } | Op::Sync { file } => {
                if let Some(inode) = self.open.get(&file.0).map(|open| open.inode) {
                    self.disk.lose(inode, all);
                }
            }
            Op::SyncDir { path } => self.disk.lose_dir(path, all),
            _ => {}
        }
    }

    /// What becomes of an operation that reached the device but did not complete before the end.
    fn apply_in_flight(&mut self, pending: &Pending, unit: usize) {
        let fate = self.dice.below(3);
        match (&pending.op, fate) {
            (_, 0) | (Op::Open { .. } | Op::Close { .. }, _) => {}
            (
                Op::Write {
                    file, offset, data, ..
                },
                1,
            ) => {
                let Some(inode) = self.open.get(&file.0).map(|open| open.inode) else {
                    return;
                };
                let Self { disk, dice, .. } = self;
                let bytes = flat(data);
                tear(&bytes, unit, dice, |skip, part| {
                    disk.write(inode, offset + skip as u64, part.to_vec());
                });
            }
            (op, _) => {
                let number = self.ops;
                // Nobody hears of the result.
                let _ = self.obey(op, number, pending.covers_before);
            }
        }
    }

    fn fits(&self, more: u64) -> bool {
        let open = self.open.values().map(|open| open.inode);
        let fits = |capacity| more == 0 || self.disk.footprint(open) + more <= capacity;
        self.config.faults.capacity.is_none_or(fits)
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            offset_align: self.config.offset_align,
            memory_align: self.config.offset_align,
            max_vectors: 1024,
        }
    }

    fn describe(&self, op: &Op) -> (&'static str, String) {
        let name = |file: &FileId| {
            let open = self.open.get(&file.0);
            open.map_or_else(|| format!("file {}", file.0), |open| open.path.clone())
        };
        match op {
            Op::Open { path, .. } => ("open", path.clone()),
            Op::Close { file } => ("close", name(file)),
            Op::Write { file, .. } => ("write", name(file)),
            Op::Sync { file } => ("sync", name(file)),
            Op::Punch { file, .. } => ("punch", name(file)),
            Op::SyncDir { path } => ("sync", path.clone()),
            Op::Rename { from, .. } => ("rename", from.clone()),
            Op::Remove { path } => ("remove", path.clone()),
        }
    }
}

fn flat(data: &WriteData) -> Vec<u8> {
    match data {
        WriteData::Buffer(buffer) => buffer.bytes().to_vec(),
        WriteData::Pages(pages) => pages
            .iter()
            .flat_map(|page| page.bytes())
            .copied()
            .collect(),
    }
}

impl Device for SimDevice {
    fn geometry(&self) -> Geometry {
        self.inner.lock().geometry()
    }

    fn backend(&self) -> String {
        format!("simulated (seed {})", self.seed)
    }

    fn lanes(&self) -> usize {
        self.inner.lock().lanes.len()
    }

    fn submit(&self, lane: Lane, op: Op) -> Ticket {
        let (ticket, completer) = Ticket::new();
        let mut inner = self.inner.lock();
        inner.note_end(&op);
        let latency = u64::from(inner.config.latency_drives_max.max(1));
        let mut drives_left = 1 + inner.dice.below(latency) as u32;
        let syncs = matches!(
            op,
            Op::Sync { .. } | Op::SyncDir { .. } | Op::Write { sync: true, .. }
        );
        if syncs && inner.config.sync_drives_max > 0 {
            let more = u64::from(inner.config.sync_drives_max) + 1;
            drives_left += inner.dice.below(more) as u32;
        }
        let covers_before = inner.disk.next_change;
        inner.lanes[lane.0].push(Pending {
            op,
            completer,
            drives_left,
            driven: false,
            covers_before,
        });
        ticket
    }

    fn drive(&self, lane: Lane) -> usize {
        let mut ended = Vec::new();
        {
            let mut inner = self.inner.lock();
            let mut due = Vec::new();
            let mut later = Vec::new();
            for mut pending in std::mem::take(&mut inner.lanes[lane.0]) {
                pending.driven = true;
                pending.drives_left -= 1;
                let list = if pending.drives_left == 0 {
                    &mut due
                } else {
                    &mut later
                };
                list.push(pending);
            }
            inner.lanes[lane.0] = later;
            if !inner.config.ordered {
                inner.dice.shuffle(&mut due);
            }
            for pending in due {
                let result = inner.perform(&pending.op, pending.covers_before);
                ended.push((pending.completer, result));
            }
        }
        let count = ended.len();
        for (completer, result) in ended {
            completer.complete(result);
        }
        count
    }

    /// Returns at once: only driving moves this device.
    fn wait(&self, _timeout: Duration) {}

    fn wake(&self) {}

    fn read(&self, reads: &mut [Read]) -> Result<(), IoError> {
        let mut inner = self.inner.lock();
        for read in reads {
            let number = inner.reads;
            inner.reads += 1;
            let open = inner.opened("read", read.file)?;
            let (inode, path) = (open.inode, open.path.clone());
            let is_readable = (inner.disk).is_readable(inode, read.offset, read.into.len());
            if inner.config.faults.reads.contains(&number) || !is_readable {
                inner.faults_met += 1;
                let cause = if is_readable {
                    Error::other("input/output error (planned)")
                } else {
                    Error::from_raw_os_error(EIO)
                };
                return Err(IoError::new("read", path, cause));
            }
            if inner.is_crashed() {
                let cause = Error::other("the power is off");
                return Err(IoError::new("read", path, cause));
            }
            let geometry = inner.geometry();
            geometry.check("read", &path, read.offset, read.into.len())?;
            if let Some(content) = inner.disk.live(inode) {
                content.read(read.offset, read.into.bytes_mut());
            }
        }
        Ok(())
    }

    fn list(&self, path: &str) -> Result<Vec<Listed>, IoError> {
        let inner = self.inner.lock();
        if inner.is_crashed() {
            return Err(IoError::new("list", path, Error::other("the power is off")));
        }
        let listed = inner.disk.list(path).map(|(name, content)| Listed {
            name: name.to_owned(),
            len: content.len(),
            allocated: content.footprint(),
        });
        Ok(listed.collect())
    }

    /// One operation of its own, which may be planned to fail in any way: then there is no name.
    fn link(&self, path: &str, to: &Path) -> Result<(), IoError> {
        let failed = |cause: Error| Err(IoError::new("link", path, cause));
        let Some(to) = to.strip_prefix(self.path()).ok().and_then(Path::to_str) else {
            return failed(ErrorKind::Unsupported.into());
        };
        let mut inner = self.inner.lock();
        if inner.is_crashed() {
            return failed(Error::other("the power is off"));
        }
        let number = inner.ops;
        inner.ops += 1;
        if inner.config.faults.ops.contains_key(&number) {
            inner.faults_met += 1;
            return failed(Error::other("input/output error (planned)"));
        }
        if inner.disk.inode_of(to).is_some() {
            return failed(ErrorKind::AlreadyExists.into());
        }
        if !inner.disk.link(path, to) {
            return failed(ErrorKind::NotFound.into());
        }
        Ok(())
    }
}
