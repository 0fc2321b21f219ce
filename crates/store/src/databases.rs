//! The catalogue: which databases exist, under which ids, with which settings.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use alluvium_io::Lane;
use alluvium_types::{Budget, DatabaseId, Owner, PARTITION_COUNT, Partition};
use alluvium_wal::LogTicket;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::cut::DatabaseRetention;
use crate::database_settings::DatabaseSettings;
use crate::error::StoreError;
use crate::partition::PartitionState;
use crate::series_limits::SeriesCounts;
use crate::space::DatabaseSpace;

/// One database.
#[derive(Debug)]
pub(crate) struct DatabaseState {
    pub id: DatabaseId,
    pub name: String,
    /// Of the hash that names its rows.
    pub seed: u64,
    /// As it was created; for what may change since see [`Self::settings_now`].
    pub settings: DatabaseSettings,
    pub retention: DatabaseRetention,
    pub series_counts: SeriesCounts,
    pub space: DatabaseSpace,
    partitions: [OnceLock<Arc<PartitionState>>; PARTITION_COUNT],
    dropped: AtomicBool,
    /// Deletes that are being resolved: their series stay whole.
    deletes: Arc<AtomicU32>,
    /// The newest delete in the log of each lane: those before it end no later.
    last_deletes: Mutex<Vec<(Lane, LogTicket)>>,
    /// The flush of the log entry that created it; `None` once it is known to be durable.
    creation: Mutex<Option<LogTicket>>,
    budget: Arc<Budget>,
    /// What its series hold of the budget: given back when the last handle of a dropped database goes.
    charged: AtomicI64,
}

/// A delete that is being resolved, or is about to be applied.
#[derive(Debug)]
pub(crate) struct DeleteUnderWay(Arc<DatabaseState>);

impl Drop for DeleteUnderWay {
    fn drop(&mut self) {
        self.0.deletes.fetch_sub(1, Ordering::AcqRel);
    }
}

impl DatabaseState {
    /// Says that a delete is being resolved, while what is returned lives.
    pub(crate) fn begin_delete(self: &Arc<Self>) -> DeleteUnderWay {
        self.deletes.fetch_add(1, Ordering::AcqRel);
        DeleteUnderWay(Arc::clone(self))
    }

    /// Notes the log entry of a delete. Called in the order of the lane's log: under the shard's lock.
    pub(crate) fn note_delete(&self, lane: Lane, ticket: &LogTicket) {
        let mut last = self.last_deletes.lock();
        last.retain(|(of, _)| *of != lane);
        last.push((lane, ticket.clone()));
    }

    /// Log entries of deletes that are not known to be as durable as they are to be.
    pub(crate) fn unended_deletes(&self) -> Vec<LogTicket> {
        let mut last = self.last_deletes.lock();
        last.retain(|(_, ticket)| !matches!(ticket.result(), Some(Ok(()))));
        last.iter().map(|(_, ticket)| ticket.clone()).collect()
    }

    /// Whether a delete is being resolved.
    pub(crate) fn is_deleting(&self) -> bool {
        self.deletes.load(Ordering::Acquire) > 0
    }

    pub(crate) fn new(
        id: DatabaseId,
        name: String,
        seed: u64,
        settings: DatabaseSettings,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            budget,
            charged: AtomicI64::new(0),
            id,
            name,
            seed,
            retention: DatabaseRetention::new(settings.retention),
            series_counts: SeriesCounts::new(settings.series_limits),
            space: DatabaseSpace::default(),
            settings,
            partitions: std::array::from_fn(|_| OnceLock::new()),
            dropped: AtomicBool::new(false),
            deletes: Arc::default(),
            last_deletes: Mutex::default(),
            creation: Mutex::new(None),
        }
    }

    /// Its settings at this moment.
    pub(crate) fn settings_now(&self) -> DatabaseSettings {
        DatabaseSettings {
            retention: self.retention.settings(),
            series_limits: self.series_counts.limits(),
            ..self.settings
        }
    }

    /// Tells the budget how many bytes of series there are more, or less.
    pub(crate) fn charge(&self, delta: i64) {
        self.charged.fetch_add(delta, Ordering::Relaxed);
        if delta >= 0 {
            self.budget.force(Owner::OpenTails, delta.unsigned_abs());
        } else {
            self.budget.release(Owner::OpenTails, delta.unsigned_abs());
        }
    }

    /// A partition, made when it is first touched: an empty database costs no partitions.
    pub(crate) fn partition(&self, partition: Partition) -> &Arc<PartitionState> {
        self.partitions[usize::from(partition.0)].get_or_init(|| {
            let deletes = Arc::clone(&self.deletes);
            Arc::new(PartitionState::new(self.id, partition, deletes))
        })
    }

    /// The partitions touched so far.
    pub(crate) fn touched(&self) -> impl Iterator<Item = &Arc<PartitionState>> {
        self.partitions.iter().filter_map(OnceLock::get)
    }

    /// A partition if it was touched.
    pub(crate) fn touched_partition(&self, partition: Partition) -> Option<&Arc<PartitionState>> {
        self.partitions[usize::from(partition.0)].get()
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    pub(crate) fn mark_dropped(&self) {
        self.dropped.store(true, Ordering::Release);
    }

    pub(crate) fn set_creation(&self, ticket: LogTicket) {
        *self.creation.lock() = Some(ticket);
    }

    /// The creation still under way, if it is.
    pub(crate) fn creation(&self) -> Option<LogTicket> {
        let mut creation = self.creation.lock();
        if creation
            .as_ref()
            .is_some_and(|t| matches!(t.result(), Some(Ok(()))))
        {
            *creation = None;
        }
        creation.clone()
    }

    pub(crate) fn series_count(&self) -> u64 {
        self.touched().map(|p| p.index.read().series_count()).sum()
    }
}

impl Drop for DatabaseState {
    fn drop(&mut self) {
        let held = *self.charged.get_mut();
        self.budget.release(Owner::OpenTails, held.max(0) as u64);
    }
}

/// All databases by name and by id.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    by_name: HashMap<String, Arc<DatabaseState>, foldhash::fast::RandomState>,
    // Its order reaches the log: the same history gives the same bytes.
    by_id: HashMap<DatabaseId, Arc<DatabaseState>, foldhash::fast::FixedState>,
    last_id: u32,
}

impl Catalog {
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<DatabaseState>> {
        self.by_name.get(name)
    }

    pub(crate) fn by_id(&self, id: DatabaseId) -> Option<&Arc<DatabaseState>> {
        self.by_id.get(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// All databases in the order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<DatabaseState>> {
        let mut all: Vec<_> = self.by_id.values().map(Arc::clone).collect();
        all.sort_unstable_by_key(|d| d.id);
        all
    }

    /// The databases that `wanted` accepts.
    pub(crate) fn all_that(
        &self,
        wanted: impl Fn(&Arc<DatabaseState>) -> bool,
    ) -> Vec<Arc<DatabaseState>> {
        let found = self.by_id.values().filter(|d| wanted(d));
        found.map(Arc::clone).collect()
    }

    /// The id the next database gets; ids are never reused. `None` if all have been given.
    pub(crate) fn next_id(&self) -> Option<DatabaseId> {
        self.last_id.checked_add(1).map(DatabaseId)
    }

    /// The highest id ever given.
    pub(crate) fn last_id(&self) -> u32 {
        self.last_id
    }

    pub(crate) fn note_id(&mut self, id: u32) {
        self.last_id = self.last_id.max(id);
    }

    pub(crate) fn add(&mut self, database: Arc<DatabaseState>) {
        self.note_id(database.id.0);
        self.by_name
            .insert(database.name.clone(), Arc::clone(&database));
        self.by_id.insert(database.id, database);
    }

    pub(crate) fn remove(&mut self, id: DatabaseId) -> Option<Arc<DatabaseState>> {
        self.note_id(id.0);
        let gone = self.by_id.remove(&id)?;
        // A database of the same name may have been created since.
        if self.by_name.get(&gone.name).is_some_and(|d| d.id == id) {
            self.by_name.remove(&gone.name);
        }
        gone.mark_dropped();
        Some(gone)
    }
}

/// Checks a name against `[A-Za-z0-9_.-]{1,64}`.
pub(crate) fn check_name(name: &str) -> Result<(), StoreError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
        return Err(StoreError::BadName {
            name: name.chars().take(80).collect(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_end_and_do_not_begin_again() {
        let mut catalog = Catalog::default();
        assert_eq!(catalog.next_id(), Some(DatabaseId(1)));
        catalog.note_id(u32::MAX - 1);
        assert_eq!(catalog.next_id(), Some(DatabaseId(u32::MAX)));
        catalog.note_id(u32::MAX);
        assert_eq!(catalog.next_id(), None);
    }
}
