//! The handles users hold: a store, and one database of it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alluvium_index::Selector;
use alluvium_io::{Clock, Device};
use alluvium_types::{Budget, DatabaseId, Partition, Position, SeriesKey, TimeRange, ValueKind};
use smallvec::{SmallVec, smallvec};

use crate::believed_clock::ClockStatus;
use crate::bounds::Bounds;
use crate::commit::Commit;
use crate::config::StoreConfig;
use crate::database_settings::DatabaseSettings;
use crate::databases::{DatabaseState, check_name};
use crate::delete::{Delete, DeletePlan, Deleted};
use crate::error::{DeleteError, OpenError, StoreError};
use crate::losses::OnLoss;
use crate::open::StoreInner;
use crate::partition::PartitionState;
use crate::recovery::RecoveryReport;
use crate::retention_settings::Retention;
use crate::series_limits::SeriesLimits;
use crate::snapshot::Snapshot;
use crate::status::Status;
use crate::write::Writer;

/// Rows looked at together for fields with values of several kinds.
const CONFLICT_ROWS: usize = 1 << 16;

/// An open data directory. Clones share it.
#[derive(Debug, Clone)]
pub struct Store(pub(crate) Arc<StoreInner>);

/// One database of an open store. Clones share it.
#[derive(Debug, Clone)]
pub struct Database {
    pub(crate) store: Arc<StoreInner>,
    pub(crate) state: Arc<DatabaseState>,
    pub(crate) bounds: Bounds,
}

/// A database that was asked for by its name, and made if need be.
#[derive(Debug)]
pub struct MadeDatabase {
    /// It takes writes once the commit has ended.
    pub database: Database,
    /// Ends when its creation is durable.
    pub commit: Commit,
    /// Whether it was made just now, with the settings given; otherwise it has its own.
    pub is_new: bool,
}

/// A database in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseInfo {
    /// Its number, never reused.
    pub id: DatabaseId,
    /// Its name.
    pub name: String,
}

/// A field of a tag set that has values of several kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindConflict {
    /// Measurement and tags.
    pub key: SeriesKey,
    /// The field.
    pub field: String,
    /// The kinds, the one that came first in front.
    pub kinds: Vec<ValueKind>,
}

impl Store {
    /// Opens the data directory on `device`, creating it if it is empty, and recovers what was acknowledged.
    /// Waits. Nothing else runs until [`Store::drive`] or [`Store::pump`] is called.
    ///
    /// # Errors
    /// If the directory is foreign or damaged; nothing was changed then.
    pub fn open(
        device: Arc<dyn Device>,
        clock: Arc<dyn Clock>,
        config: StoreConfig,
    ) -> Result<Self, OpenError> {
        StoreInner::open(&device, &clock, &config).map(Self)
    }

    /// What opening found and did.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.0.recovery
    }

    /// Moves logs, pages, flushes and checkpoints on, without waiting. Returns whether to call again at once.
    pub fn drive(&self) -> bool {
        self.0.drive()
    }

    /// Drives until `stop`: what one thread of the embedder does.
    pub fn pump(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            if !self.0.drive() {
                let now = self.0.clock.monotonic_ns();
                let wait = self.0.next_deadline_ns().saturating_sub(now);
                self.0.device.wait(Duration::from_nanos(wait));
            }
        }
    }

    /// Ends the wait of [`Store::pump`].
    pub fn wake(&self) {
        self.0.device.wake();
    }

    /// The memory budget, for owners outside the store.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.0.budget
    }

    /// The database of this name, if it exists and its creation is durable.
    pub fn database(&self, name: &str) -> Option<Database> {
        let state = Arc::clone(self.0.catalog.read().get(name)?);
        state.creation().is_none().then(|| Database {
            store: Arc::clone(&self.0),
            state,
            bounds: Bounds::default(),
        })
    }

    /// The database of this name, created if need be. It takes writes once the commit has ended.
    ///
    /// # Errors
    /// If the name is not allowed, there are too many, or the store takes no writes.
    pub fn create_database(&self, name: &str) -> Result<(Database, Commit), StoreError> {
        self.create_database_with(name, self.default_settings())
    }

    /// Settings of databases that say nothing else.
    pub fn default_settings(&self) -> DatabaseSettings {
        DatabaseSettings::of(&self.0.config)
    }

    /// The database of this name, created with these settings if need be; one that is there keeps its own.
    ///
    /// # Errors
    /// As [`Self::create_database`].
    pub fn create_database_with(
        &self,
        name: &str,
        settings: DatabaseSettings,
    ) -> Result<(Database, Commit), StoreError> {
        let made = self.make_database(name, settings)?;
        Ok((made.database, made.commit))
    }

    /// As [`Self::create_database_with`], and says which of both it was: whoever finds one that another is making at that moment
    /// has not given it its settings.
    ///
    /// # Errors
    /// As [`Self::create_database`].
    pub fn make_database(
        &self,
        name: &str,
        settings: DatabaseSettings,
    ) -> Result<MadeDatabase, StoreError> {
        check_name(name)?;
        settings.retention.check()?;
        let inner = &self.0;
        if let Err(crate::error::WriteError::Store(error)) = inner.admit_writes() {
            return Err(error);
        }
        let mut catalog = inner.catalog.write();
        let (state, tickets, position, is_new) = if let Some(state) = catalog.get(name) {
            let tickets = state.creation().into_iter().collect();
            (Arc::clone(state), tickets, Position::default(), false)
        } else {
            let limit = inner.config.databases_max;
            if catalog.len() >= limit {
                return Err(StoreError::TooManyDatabases { limit });
            }
            if inner.shard_of(Partition(0)).state.lock().log.is_full() {
                // Its record would wait for room, and whoever asked with it.
                return Err(StoreError::Full);
            }
            let id = catalog.next_id().ok_or(StoreError::NoDatabaseIds)?;
            // Any seed will do that replay brings back: it is in the log.
            let seed = u64::from(id.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ^ crate::open::salt(inner.instance);
            let budget = Arc::clone(&inner.budget);
            let state = DatabaseState::new(id, name.to_owned(), seed, settings, budget);
            let state = Arc::new(state);
            inner.apply_retention(&state);
            let settings = settings.to_string().into_bytes();
            let (lsn, ticket) = inner.log_catalog(|section| {
                section.create_database(id, name, seed, &settings);
            });
            state.set_creation(ticket.clone());
            catalog.add(Arc::clone(&state));
            let position = Position(vec![(Partition(0), lsn)]);
            (state, smallvec![ticket], position, true)
        };
        drop(catalog);
        let commit = Commit::new(Arc::clone(inner), tickets, position);
        let store = Arc::clone(inner);
        let bounds = Bounds::default();
        Ok(MadeDatabase {
            database: Database {
                store,
                state,
                bounds,
            },
            commit,
            is_new,
        })
    }

    /// Changes what a database keeps. Reads go by it once a cut that follows from it is durable; what has expired by
    /// then does not come back. Its other settings stay.
    ///
    /// # Errors
    /// If there is none of this name, the settings do not fit together, or the store takes no writes.
    pub fn set_retention(&self, name: &str, retention: Retention) -> Result<Commit, StoreError> {
        self.change_settings(name, |settings| {
            settings.retention = retention;
            Ok(())
        })
    }

    /// Changes how many series a database may have. More than that stay; new ones are refused. Its other settings
    /// stay.
    ///
    /// # Errors
    /// If there is none of this name, or the store takes no writes.
    pub fn set_series_limits(
        &self,
        name: &str,
        limits: SeriesLimits,
    ) -> Result<Commit, StoreError> {
        self.change_settings(name, |settings| {
            settings.series_limits = limits;
            Ok(())
        })
    }

    /// Changes what a database keeps and how many series it may have, from what holds at that moment: no other change comes
    /// between. Where nothing changes the commit ends when what it holds is durable.
    ///
    /// # Errors
    /// If there is none of this name, the settings do not fit together, or the store takes no writes; or what `change` returns.
    pub fn change_settings(
        &self,
        name: &str,
        change: impl FnOnce(&mut DatabaseSettings) -> Result<(), StoreError>,
    ) -> Result<Commit, StoreError> {
        let inner = &self.0;
        if let Err(crate::error::WriteError::Store(error)) = inner.admit_writes() {
            return Err(error);
        }
        // Held, so that the order of two changes is that of their log entries.
        let catalog = inner.catalog.write();
        let Some(state) = catalog.get(name) else {
            return Err(StoreError::NoDatabase {
                name: name.to_owned(),
            });
        };
        let before = state.settings_now();
        let mut settings = before;
        change(&mut settings)?;
        let DatabaseSettings {
            retention,
            series_limits,
            ..
        } = settings;
        retention.check()?;
        if (retention, series_limits) == (before.retention, before.series_limits) {
            drop(catalog);
            return Ok(self.flush_catalog());
        }
        if inner.shard_of(Partition(0)).state.lock().log.is_full() {
            return Err(StoreError::Full);
        }
        if series_limits != before.series_limits {
            state.series_counts.set_limits(series_limits);
        }
        if retention != before.retention {
            state.retention.set_settings(retention);
            inner.apply_retention(state);
        }
        let settings = state.settings_now().to_string().into_bytes();
        let id = state.id;
        let (lsn, ticket) = inner.log_catalog(|section| section.settings(id, &settings));
        drop(catalog);
        let tickets: SmallVec<[_; 2]> = smallvec![ticket];
        let position = Position(vec![(Partition(0), lsn)]);
        Ok(Commit::new(Arc::clone(inner), tickets, position))
    }

    /// What retention makes of the clock.
    pub fn clock_status(&self) -> ClockStatus {
        self.0.believed.status(self.0.clock.as_ref())
    }

    /// Says that the wall clock is right although it jumped: from now on retention goes by it. Ends when a superblock
    /// remembers it.
    pub fn confirm_clock(&self) -> Commit {
        self.0.believed.confirm(self.0.clock.as_ref());
        self.checkpoint()
    }

    /// Drops a database: its series are gone at once, its files after two checkpoints.
    ///
    /// # Errors
    /// If there is none of this name, or the store takes no writes.
    pub fn drop_database(&self, name: &str) -> Result<Commit, StoreError> {
        let inner = &self.0;
        if let Err(crate::error::WriteError::Store(error)) = inner.admit_writes() {
            return Err(error);
        }
        let mut catalog = inner.catalog.write();
        let id = catalog.get(name).map(|d| d.id);
        let Some(id) = id else {
            return Err(StoreError::NoDatabase {
                name: name.to_owned(),
            });
        };
        catalog.remove(id);
        let (lsn, ticket) = inner.log_catalog(|section| section.drop_database(id));
        drop(catalog);
        let paths = inner.forget_volumes(id);
        inner.checkpointer.lock().add_removals(paths);
        let tickets: SmallVec<[_; 2]> = smallvec![ticket];
        Ok(Commit::new(
            Arc::clone(inner),
            tickets,
            Position(vec![(Partition(0), lsn)]),
        ))
    }

    /// All databases by name.
    pub fn databases(&self) -> Vec<DatabaseInfo> {
        let mut all: Vec<DatabaseInfo> = self
            .0
            .catalog
            .read()
            .all()
            .iter()
            .map(|d| DatabaseInfo {
                id: d.id,
                name: d.name.clone(),
            })
            .collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Ends when every database that was made, dropped or changed so far is so for good.
    pub fn flush_catalog(&self) -> Commit {
        let tickets = smallvec![self.0.flush_catalog()];
        Commit::new(Arc::clone(&self.0), tickets, Position::default())
    }

    /// Asks for a checkpoint that includes everything applied so far; it ends when the superblock is durable.
    pub fn checkpoint(&self) -> Commit {
        let number = self.0.request_checkpoint(false);
        Commit::of_checkpoint(Arc::clone(&self.0), number)
    }

    /// Refuses writes, checkpoints, and marks the directory as cleanly closed. Waits.
    ///
    /// # Errors
    /// If a write failed: the next open will recover from the log.
    pub fn close(&self) -> Result<(), StoreError> {
        self.0.close()
    }

    /// Stops merging runs where it is, or lets it go on. Not remembered over a restart.
    pub fn pause_merging(&self, paused: bool) {
        self.0.merging_paused.store(paused, Ordering::Relaxed);
        self.0.device.wake();
    }

    /// The store at this moment. Costs a look at every shard and database.
    pub fn status(&self) -> Status {
        self.0.status()
    }
}

impl Database {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Its number.
    pub fn id(&self) -> DatabaseId {
        self.state.id
    }

    /// Whether it was dropped since this handle was taken.
    pub fn is_dropped(&self) -> bool {
        self.state.is_dropped()
    }

    /// Whether so much memory is in use that batches may not grow any more (`memory_staging_percent`): what is kept for later should go.
    pub fn is_memory_short(&self) -> bool {
        self.store.budget.used() > self.store.staging_limit()
    }

    /// The level at which its writes are acknowledged.
    pub fn durability(&self) -> crate::config::Durability {
        self.state.settings.durability
    }

    /// Its settings at this moment.
    pub fn settings(&self) -> DatabaseSettings {
        self.state.settings_now()
    }

    /// When its points and its aggregates are readable.
    pub fn live(&self) -> (TimeRange, TimeRange) {
        let cut = self.state.retention.cut();
        (cut.live_points(), cut.live_aggregates())
    }

    /// A new writer.
    pub fn writer(&self) -> Writer {
        Writer::new(Arc::clone(&self.store), Arc::clone(&self.state))
    }

    /// The same, of which questions about the index keep to `bounds`: those of its snapshots, [`Self::conflicts`] and
    /// [`Self::cardinality`].
    #[must_use]
    pub fn bounded(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// The database as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let snapshot = Snapshot::new(Arc::clone(&self.store), Arc::clone(&self.state));
        snapshot.bounded(self.bounds.clone())
    }

    /// Deletes points. Reads pages to find out which and how many, so it waits; nothing deleted is read any more
    /// when it returns. Points that are written to meanwhile are deleted only if they were when their partition's
    /// turn came; what is written afterwards stays.
    ///
    /// # Errors
    /// See [`DeleteError`]; nothing is deleted then, but for [`DeleteError::Disturbed`]: some of it may be.
    pub fn delete(&self, delete: &Delete) -> Result<Deleted, DeleteError> {
        crate::delete::delete(&self.store, &self.state, delete)
    }

    /// What a delete would affect; it waits for pages. The plan may be applied.
    ///
    /// # Errors
    /// If the selector does not compile, a page cannot be read or the test of values holds for too many ranges.
    pub fn plan_delete(&self, delete: &Delete) -> Result<DeletePlan, DeleteError> {
        DeletePlan::new(&self.store, &self.state, delete)
    }

    /// Fields of tag sets that have values of several kinds, by key and field, at most `limit`. Costs a look at
    /// every tag set where there are any.
    ///
    /// # Errors
    /// If a segment of the index cannot be read, or its bounds are met.
    pub fn conflicts(&self, limit: usize) -> Result<Vec<KindConflict>, StoreError> {
        let mut found = Vec::new();
        for part in self.state.touched() {
            let end = part.index.read().row_count();
            for from in (0..end).step_by(CONFLICT_ROWS) {
                if found.len() == limit {
                    break;
                }
                self.bounds.check()?;
                let rows = from..end.min(from + CONFLICT_ROWS as u32);
                conflicts_among(part, rows, limit, &mut found)?;
            }
        }
        found.sort_unstable_by(|a, b| (&a.key, &a.field).cmp(&(&b.key, &b.field)));
        Ok(found)
    }

    /// Names of the measurements with series that match.
    ///
    /// # Errors
    /// If the selector does not compile.
    pub fn measurements(&self, selector: &Selector) -> Result<Vec<String>, StoreError> {
        let compiled = selector.compile()?;
        let mut names: Vec<String> = Vec::new();
        for part in self.state.touched() {
            let found = part.select(
                &compiled,
                TimeRange::ALL,
                &OnLoss::default(),
                |index, selected| {
                    let rows = selected.iter().map(|s| s.row.0).collect();
                    let found = index.measurements_of(&rows).into_iter();
                    found.map(str::to_owned).collect::<Vec<_>>()
                },
            );
            names.extend(found?);
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }
}

/// Adds the fields of some rows that have values of several kinds, up to `limit` in all.
fn conflicts_among(
    part: &PartitionState,
    rows: Range<u32>,
    limit: usize,
    found: &mut Vec<KindConflict>,
) -> Result<(), StoreError> {
    let index = part.index.read();
    let mixed = index
        .mixed_kinds(rows, limit - found.len())
        .into_iter()
        .filter_map(|(row, field, kinds)| {
            let name = index.field_name(index.measurement_of(row)?, field)?;
            Some((row, name.to_owned(), kinds))
        });
    let mixed: Vec<_> = mixed.collect();
    drop(index);
    let rows: Vec<_> = mixed.iter().map(|(row, ..)| *row).collect();
    let keys = part.keys(&rows, &OnLoss::default())?;
    for ((_, field, kinds), key) in mixed.into_iter().zip(keys) {
        let Some(key) = key else { continue };
        let first = kinds.first();
        let others = kinds.iter().filter(|k| Some(*k) != first);
        found.push(KindConflict {
            key: key.as_ref().clone(),
            field,
            kinds: first.into_iter().chain(others).collect(),
        });
    }
    Ok(())
}

/// Keeps the log from here on, until it is dropped: for whoever tails it.
#[derive(Debug)]
pub struct LogPin {
    store: Arc<StoreInner>,
    /// First frame kept, by shard.
    from: Vec<u64>,
}

impl LogPin {
    /// The first log frame kept, by shard of this process life; its stream is
    /// `wal/<incarnation>-<shard>.<segment>`.
    pub fn from(&self) -> &[u64] {
        &self.from
    }
}

impl LogPin {
    /// Keeps the log from a frame of each shard on, which must not have been trimmed.
    pub(crate) fn new(store: &Arc<StoreInner>, from: Vec<u64>) -> Self {
        for (shard, from) in store.shards.iter().zip(&from) {
            shard.state.lock().log.pin(*from);
        }
        let store = Arc::clone(store);
        Self { store, from }
    }
}

impl Drop for LogPin {
    fn drop(&mut self) {
        for (shard, from) in self.store.shards.iter().zip(&self.from) {
            shard.state.lock().log.unpin(*from);
        }
    }
}

impl Store {
    /// Pins the log of every shard from its next frame on: no checkpoint recycles those segments while the pin
    /// lives. A pin that is never dropped lets the log grow; it ends with the process.
    pub fn pin_log(&self) -> LogPin {
        let pin = |shard: &crate::shard::Shard| {
            let mut state = shard.state.lock();
            let from = state.log.next_section_seq();
            state.log.pin(from);
            from
        };
        let from = self.0.shards.iter().map(pin).collect();
        LogPin {
            store: Arc::clone(&self.0),
            from,
        }
    }
}
