//! One disk from its first opening on, with what was sent to it and what has been seen.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Poll, Waker};

use alluvium_sim::{FaultPlan, SimClock, SimConfig, SimDevice};
use alluvium_store::{
    Age, Clock, Commit, Database, Device, Durability, KeepAggregates, OpenError, Retention,
    Selector, SeriesLimits, Status, Store, StoreConfig,
};
use alluvium_types::{SeriesKey, Value};

use super::backups::{Base, Taken};
use super::beside::Beside;
use super::counts::Counts;
use super::days;
use super::oracle::Oracle;
use super::selections;
use crate::model::{self, Dice, Line, Model, late_batch, read_all};

/// Lanes of the device: the most shards that an opening draws, and one for checkpoints.
pub const LANES: usize = 9;

/// Shards that an opening draws where the world is not wide; there so many more.
pub const SHARDS: u64 = 4;

/// Series of a database that is limited.
pub const SERIES_MAX: u64 = 40;

/// Simulated time of one drive: a device with `sync_drives_max` 4 flushes in 0 to 9 ms.
pub const DRIVE_NS: u64 = 3_000_000;

/// What a world is like, beside what its seed decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kind {
    /// What the database keeps.
    pub retention: Retention,
    /// Texts that fill pages: many page writes for few points.
    pub heavy: bool,
    /// New hosts in every life, which is a day.
    pub churn: bool,
    /// Much is written and deleted, and time passes in between: pages die and are given back within a life.
    pub busy: bool,
    /// Memory is always short: series leave it as soon as a checkpoint has them, and stay away when the store is opened.
    pub tight: bool,
    /// Hot backups are taken now and then, and restored after the end of the life.
    pub backups: bool,
    /// Level of the databases, where it is not the strongest. A quarter of the batches ask for that all the same.
    pub durability: Option<Durability>,
    /// Five to eight shards.
    pub wide: bool,
    /// Thousands of tag sets, most of them in segments of the index.
    pub many: bool,
    /// Databases take [`SERIES_MAX`] series.
    pub limited: bool,
}

impl Kind {
    /// The kind a seed has where nobody says another.
    pub fn of(seed: u64) -> Self {
        let aggregates = match seed % 5 {
            0 => KeepAggregates::Ever,
            _ => KeepAggregates::Same,
        };
        let retention = match seed % 4 {
            1 => Retention {
                points: Some(Age::from_ns(400_000_000)),
                aggregates,
                ..Retention::default()
            },
            3 => Retention {
                max_disk: Some(if seed % 8 == 3 { 64 << 10 } else { 2 << 20 }),
                aggregates,
                ..Retention::default()
            },
            _ => Retention::default(),
        };
        let kind = Self {
            retention,
            heavy: !seed.is_multiple_of(3),
            churn: seed % 7 < 2,
            busy: seed % 6 == 5,
            tight: seed % 5 < 2,
            backups: seed % 3 == 1,
            ..Self::default()
        };
        // The seeds that once failed are none of these, and stay as they were.
        match seed % 13 {
            1 | 8 => kind.at_interval(seed),
            2 => kind.unlogged(seed),
            6 | 9 => Self { wide: true, ..kind },
            11 => kind.with_many_series(seed),
            12 => kind.with_limits(seed),
            _ => kind,
        }
    }

    /// The same, flushed at intervals.
    #[must_use]
    pub fn at_interval(self, seed: u64) -> Self {
        let ms = 1 + (seed % 40) as u32;
        Self {
            many: false,
            limited: false,
            durability: Some(Durability::Interval { ms }),
            wide: seed % 2 == 1,
            ..self
        }
    }

    /// The same, where points are not logged unless somebody asks for it. A backup would have to say what it must have.
    #[must_use]
    pub fn unlogged(self, seed: u64) -> Self {
        Self {
            retention: Retention::default(),
            heavy: false,
            busy: false,
            backups: false,
            many: false,
            limited: false,
            durability: Some(Durability::None),
            wide: seed % 2 == 1,
            ..self
        }
    }

    /// The same with thousands of tag sets.
    #[must_use]
    pub fn with_many_series(self, seed: u64) -> Self {
        Self {
            heavy: false,
            churn: false,
            busy: false,
            backups: false,
            many: true,
            limited: false,
            wide: seed % 2 == 1,
            ..self
        }
    }

    /// The same, in databases that refuse series.
    #[must_use]
    pub fn with_limits(self, seed: u64) -> Self {
        Self {
            retention: Retention::default(),
            heavy: false,
            backups: false,
            limited: true,
            many: false,
            wide: seed % 2 == 1,
            ..self
        }
    }

    /// The same at the strongest level, with series as many as come.
    #[must_use]
    pub fn strongest(self) -> Self {
        Self {
            durability: None,
            many: false,
            limited: false,
            ..self
        }
    }

    /// What an acknowledged delete survives: it is as durable as the database says, but always in the log.
    pub fn delete_level(self) -> Durability {
        match self.durability {
            Some(Durability::None) => Durability::Os,
            level => level.unwrap_or(Durability::Sync),
        }
    }

    /// Whether lines may be in no log.
    pub fn is_unlogged(self) -> bool {
        self.durability == Some(Durability::None)
    }

    /// Hosts that a batch is about.
    pub fn hosts(self) -> u64 {
        match self {
            Self { many: true, .. } => 2500,
            Self { limited: true, .. } => 14,
            _ => 6,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct World {
    pub seed: u64,
    pub kind: Kind,
    pub dice: Dice,
    pub clock: Arc<SimClock>,
    pub device: Arc<SimDevice>,
    pub oracle: Oracle,
    /// Newest time of a line.
    pub now: i64,
    /// How the last life ended: after a kill, what was acknowledged as written may still be volatile.
    pub power_cut: bool,
    /// The power went once, or a write of the superblock ended half way: a slot of it may be torn until the next commits.
    pub slot_torn: bool,
    /// The furthest cut that was seen: no restart goes behind it.
    pub cut: i64,
    /// A database beside the one that is compared, and whether it must be there.
    pub beside: Option<bool>,
    /// Hosts of the lives so far, where lives have their own.
    pub first_host: u32,
    pub counts: Counts,
    /// The backup of this life, and the disk of the one before it.
    pub taken: Option<Taken>,
    /// See [`Beside`].
    pub ticks: Arc<AtomicBool>,
    pub base: Option<Base>,
    /// The last backup of links that was whole.
    pub linked: Option<Taken>,
    /// Backups begun in this world.
    pub backups: u64,
    /// Files were damaged: only then may an opening need the checkpoint before the newest.
    pub rotten: bool,
    /// What was acknowledged with a flush to come, and by when it must be there, monotonic nanoseconds.
    pub aging: Vec<(usize, u64)>,
    /// Checkpoints that were asked for, with how much had been sent.
    pub checkpoints: Vec<(usize, Commit)>,
    /// What the device had written and refused when it was last counted.
    counted: (u64, u64),
}

impl World {
    /// A disk that nobody has opened.
    pub fn new(seed: u64, kind: Kind) -> Self {
        let sim = SimConfig {
            lanes: LANES,
            offset_align: if seed.is_multiple_of(3) { 4096 } else { 512 },
            latency_drives_max: 1 + (seed % 4) as u32,
            sync_drives_max: (seed / 4 % 4) as u32,
            ordered: seed.is_multiple_of(11),
            // Then only whole volumes are given back.
            no_holes: seed % 4 == 1,
            append_only: Some("wal/"),
            ..SimConfig::default()
        };
        Self {
            seed,
            kind,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            clock: Arc::new(SimClock::new(1_700_000_000_000_000_000)),
            device: SimDevice::new(seed, sim),
            oracle: if kind.is_unlogged() {
                Oracle::of_unlogged()
            } else {
                Oracle::default()
            },
            now: 1_000_000,
            power_cut: true,
            slot_torn: false,
            cut: i64::MIN,
            beside: Some(false),
            first_host: 0,
            counts: Counts {
                worlds: 1,
                ..Counts::default()
            },
            taken: None,
            ticks: Arc::default(),
            base: None,
            linked: None,
            backups: 0,
            rotten: false,
            aging: Vec::new(),
            checkpoints: Vec::new(),
            counted: (0, 0),
        }
    }

    fn config(&self, shards: usize) -> StoreConfig {
        StoreConfig {
            shards,
            volume_bytes: 256 << 10,
            extent_pages: 2,
            batch_pages: 3,
            segment_bytes: 256 << 10,
            group_bytes_max: 8 << 10,
            checkpoint_log_bytes: if self.kind.heavy {
                512 << 10
            } else {
                128 << 10
            },
            // Buffers that are full soon, and some that the merger empties.
            late_points_max: if shards.is_multiple_of(2) { 8 } else { 60 },
            merge_runs_max: 2,
            merge_late_points: 20,
            merge_quiet_ms: 20,
            merge_slice_pages: 2,
            tail_chain_max: 3,
            memory_bytes: 64 << 20,
            cache_percent: 1,
            memory_soft_percent: if self.kind.tight { 0 } else { 75 },
            // Half of the openings leave series where they are; of these some never bring them back unasked.
            open_load_bytes_max: if shards.is_multiple_of(2) { 0 } else { 4 << 20 },
            recall_percent: if shards.is_multiple_of(4) { 0 } else { 25 },
            govern_ms: 1,
            spill_round_ms: 0,
            part_bytes_min: if shards.is_multiple_of(2) { 128 } else { 0 },
            retention_check_ms: 5,
            // Every dead page is looked for, and given back as soon as it may be.
            space_check_ms: 1,
            space_dead_percent: 1,
            space_live_percent: 60,
            space_hole_pages_min: 1,
            space_readers_ms: 0,
            retention: self.kind.retention,
            durability: self.kind.durability.unwrap_or(Durability::Sync),
            series_limits: SeriesLimits {
                database: self.kind.limited.then_some(SERIES_MAX),
                measurement: None,
            },
            // Segments of single rows, merged in twos.
            index_segment_rows: if self.kind.many { 24 } else { 1 },
            index_merge_segments: 2,
            index_merge_rows_max: if self.kind.many { 100 } else { 64 },
            index_cache_bytes: 16 << 10,
            // One after the other: a seed decides everything.
            redo_threads_max: 1,
            instance: Some([5; 16]),
            ..StoreConfig::default()
        }
    }

    /// Opens with a number of shards that the dice choose.
    pub fn open(&mut self) -> Result<Store, OpenError> {
        let shards = self.shards();
        self.open_with(shards)
    }

    /// A number of shards.
    pub fn shards(&mut self) -> usize {
        let least = if self.kind.wide { SHARDS } else { 0 };
        (least + 1 + self.dice.below(SHARDS)) as usize
    }

    pub fn open_with(&mut self, shards: usize) -> Result<Store, OpenError> {
        self.open_on(Arc::clone(&self.device), shards)
    }

    /// Opens what is on any disk.
    pub fn open_on(&self, disk: Arc<SimDevice>, shards: usize) -> Result<Store, OpenError> {
        let clock: Arc<dyn Clock> = Arc::<SimClock>::clone(&self.clock);
        let device: Arc<dyn Device> = if self.kind.backups {
            let clock = Arc::clone(&self.clock);
            Arc::new(Beside {
                disk,
                clock,
                ticks: Arc::clone(&self.ticks),
                others: None,
            })
        } else {
            disk
        };
        let store = Store::open(device, clock, self.config(shards))?;
        let damaged = &store.recovery().newest_damaged;
        assert!(self.rotten || damaged.is_none(), "{damaged:?}");
        Ok(store)
    }

    /// The power goes or the process is killed, and what is left is the disk from now on.
    pub fn end(&mut self, power_cut: bool) {
        self.count_device();
        let fault = self.device.last_fault();
        let of_superblock = fault.is_some_and(|fault| fault == ("write", "superblock".into()));
        self.slot_torn |= power_cut || of_superblock;
        self.device = if power_cut {
            self.device.crash()
        } else {
            self.device.kill()
        };
        self.counted = (0, 0);
        self.counts.crashes += 1;
    }

    /// Another world with what is on the disk now, and the same past; counts begin anew. Nothing may be open.
    pub fn branch(&mut self) -> Self {
        let device = self.device.kill();
        self.device = self.device.kill();
        Self {
            dice: self.dice.clone(),
            clock: Arc::clone(&self.clock),
            device,
            oracle: self.oracle.clone(),
            counts: Counts::default(),
            taken: None,
            ticks: Arc::default(),
            base: None,
            linked: None,
            aging: Vec::new(),
            checkpoints: Vec::new(),
            counted: (0, 0),
            ..*self
        }
    }

    /// Adds what the device has done since the last time.
    pub fn count_device(&mut self) {
        let now = (self.device.pages_written(), self.device.faults_met());
        self.counts.page_writes += now.0 - self.counted.0;
        self.counts.faults += now.1 - self.counted.1;
        self.counted = now;
    }

    /// Opens after an end; some openings are cut themselves, by power cuts only if the life ended in one.
    pub fn recover(&mut self) -> Store {
        self.device.set_faults(FaultPlan::default());
        for _ in 0..self.dice.below(3) {
            let cut = self.device.ops() + self.dice.below(40);
            self.device.set_faults(FaultPlan {
                crash_after_ops: Some(cut),
                ..FaultPlan::default()
            });
            // Whether it opened or not, the power goes.
            let opened = self.open();
            trace(|| {
                format!(
                    "  opening cut after {cut} operations: {:?}",
                    opened.as_ref().map(Store::recovery)
                )
            });
            drop(opened.map(|store| drive_some(&store, &self.clock, 5)));
            let power_cut = self.dice.below(2) == 0 && self.power_cut;
            self.end(power_cut);
        }
        let store = self.open().unwrap();
        trace(|| {
            format!(
                "  {:?} {:?}",
                store.recovery(),
                store.status().superblock_seq
            )
        });
        store
    }

    /// Compares what the store holds with what was sent; from then on that is what must be there.
    pub fn check(&mut self, store: &Store) {
        let database = store.database("db");
        let (before, found) = (
            store.status(),
            database.as_ref().map_or(Model::default(), read_all),
        );
        self.count_found(&before, &store.status());
        let cut = database.as_ref().map_or(i64::MIN, |db| db.live().0.begin());
        assert!(
            cut >= self.cut,
            "the cut went back from {} to {cut}",
            self.cut
        );
        if let Some(age) = self.kind.retention.points
            && self.kind.retention.max_disk.is_none()
        {
            assert!(
                cut <= self.clock.wall_ns() - age.ns(),
                "the cut is ahead of its age"
            );
        }
        self.cut = cut;
        self.counts.compared += found.series.values().map(|s| s.len() as u64).sum::<u64>();
        self.oracle.check(&found, cut).unwrap();
        if let Some(database) = &database
            && self.kind.limited
        {
            Self::check_limit(database);
        }
        if let Some(database) = &database {
            days::check(database, &found);
            selections::check(database, self.counts.compared);
        }
        let aggregates_go = self.kind.retention.aggregates == KeepAggregates::Same;
        if let Some(database) = &database
            && aggregates_go
            && self.dice.below(4) == 0
        {
            model::check_reads(database, &found, &mut self.dice);
        }
        self.oracle.restart(found);
        let there = store.database("beside").is_some();
        assert!(
            self.beside.is_none_or(|must| must == there),
            "the database beside: found {there}, acknowledged {:?}",
            self.beside
        );
        self.beside = Some(there);
    }

    /// Counts what a comparison met that was not at hand. Nobody wrote meanwhile.
    fn count_found(&mut self, before: &Status, after: &Status) {
        let silent = before.index.silent_rows;
        assert_eq!(after.index.silent_rows, silent, "a read brought a row back");
        // Rows of the database beside are counted with the others, and not read.
        if before.databases.len() == 1 {
            self.counts.silent_read += silent;
        }
        self.counts.recalled_read += after.governor.recalled - before.governor.recalled;
    }

    /// Learns the partitions of hosts it has not met.
    pub fn place_hosts(&mut self, database: &Database, lines: &[Line]) {
        if lines.iter().all(|line| self.oracle.knows(line.host)) {
            return;
        }
        match database.snapshot().select(&Selector::default()) {
            Ok(all) => {
                for info in all {
                    self.oracle.place(host_of(&info.key), info.id.partition().0);
                }
            }
            // Behind the end of a life that a backup met: then each is compared on its own.
            Err(error) => assert!(self.device.is_crashed(), "{error}"),
        }
    }

    /// A batch of this world's kind.
    pub fn batch(&mut self, hosts: u64, lines: u64) -> Vec<Line> {
        batch_of(
            (&mut self.dice, &mut self.now, &self.clock),
            (self.kind, self.first_host),
            (hosts, lines),
        )
    }
}

/// A batch of a kind of world, about `now`, which goes on.
pub fn batch_of(
    (dice, now, clock): (&mut Dice, &mut i64, &SimClock),
    (kind, first_host): (Kind, u32),
    (hosts, lines): (u64, u64),
) -> Vec<Line> {
    if kind.retention.is_on() {
        // Never ahead of what the volumes know of the clock.
        *now = (*now).max(clock.wall_ns() - 10_000_000);
    }
    let mut lines = late_batch(dice, now, hosts, lines);
    for line in &mut lines {
        line.host += first_host;
        if kind.heavy {
            line.fields.retain(|(name, _)| *name != "s");
            let text = long_text(dice);
            line.fields.push(("s", Value::Str(text.into())));
        }
    }
    lines
}

pub fn host_of(key: &SeriesKey) -> u32 {
    let host = key.tag("host").and_then(|h| h[1..].parse().ok());
    host.expect("hosts are hN")
}

/// A text that does not compress, seldom one that goes to overflow pages.
fn long_text(dice: &mut Dice) -> String {
    let chars = match dice.below(40) {
        0 => 1025 + dice.below(6000),
        _ => 100 + dice.below(700),
    };
    let mut text = String::with_capacity(chars as usize + 8);
    while text.len() < chars as usize {
        let mut bits = dice.roll();
        for _ in 0..8 {
            text.push(char::from(b'0' + (bits & 63) as u8));
            bits >>= 6;
        }
    }
    text
}

/// Says more where `ALLUVIUM_TRACE` is set.
pub fn trace(text: impl FnOnce() -> String) {
    if std::env::var_os("ALLUVIUM_TRACE").is_some() {
        println!("{}", text());
    }
}

pub fn drive_some(store: &Store, clock: &SimClock, turns: u64) {
    for _ in 0..turns {
        store.drive();
        clock.advance_ns(DRIVE_NS);
    }
}

/// Drives until a commit has ended; `None` if it failed, or waits for room on a device that has none.
pub fn wait(store: &Store, mut commit: Commit, clock: &SimClock) -> Option<()> {
    for turn in 0..10_000 {
        if turn % 1000 == 999 && store.status().full {
            return None;
        }
        if let Poll::Ready(result) = commit.poll(Waker::noop()) {
            return result.ok().map(|_| ());
        }
        drive_some(store, clock, 1);
    }
    panic!("a commit neither ended nor failed");
}
