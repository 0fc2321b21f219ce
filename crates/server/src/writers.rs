//! Writers kept between requests, because each remembers the tag sections it has met.

use std::collections::HashMap;

use alluvium_store::{Database, Writer};
use alluvium_types::DatabaseId;
use parking_lot::Mutex;

/// Databases that keep idle writers; beyond them writers are made for each request.
const DATABASES_MAX: usize = 64;

/// Idle writers of all databases together: so many times those that one may have.
const POOLS_MAX: usize = 4;

/// A writer and the field names it met last, by their place in a line.
#[derive(Debug)]
pub(crate) struct PooledWriter {
    pub writer: Writer,
    pub names: Vec<(Box<[u8]>, Box<str>)>,
}

/// Idle writers by database. Held by a request only from the first byte parsed to the commit.
#[derive(Debug)]
pub(crate) struct Writers {
    idle: Mutex<HashMap<DatabaseId, Vec<PooledWriter>>>,
    per_database_max: usize,
}

impl Writers {
    pub(crate) fn new(per_database_max: usize) -> Self {
        Self {
            idle: Mutex::default(),
            per_database_max,
        }
    }

    pub(crate) fn take(&self, database: &Database) -> PooledWriter {
        let pooled = self.idle.lock().get_mut(&database.id()).and_then(Vec::pop);
        pooled.unwrap_or_else(|| PooledWriter {
            writer: database.writer(),
            names: Vec::new(),
        })
    }

    /// Keeps a writer for the next request, if there is room. Where memory is all but used up the idle ones go.
    pub(crate) fn give_back(&self, database: &Database, writer: PooledWriter) {
        let mut idle = self.idle.lock();
        if database.is_memory_short() {
            idle.clear();
        }
        if database.is_dropped() {
            idle.remove(&database.id());
            return;
        }
        if idle.len() >= DATABASES_MAX && !idle.contains_key(&database.id()) {
            // Any other one: there are more databases in use than pools.
            let other = idle.keys().next().copied();
            other.map(|id| idle.remove(&id));
        }
        let all: usize = idle.values().map(Vec::len).sum();
        if all >= POOLS_MAX * self.per_database_max {
            let others = idle.iter_mut().filter(|(id, _)| **id != database.id());
            if let Some(most) = others.map(|(_, writers)| writers).max_by_key(|w| w.len()) {
                most.pop();
            }
        }
        let writers = idle.entry(database.id()).or_default();
        if writers.len() < self.per_database_max {
            writers.push(writer);
        }
    }

    /// Forgets the idle writers of a dropped database.
    pub(crate) fn forget(&self, id: DatabaseId) {
        self.idle.lock().remove(&id);
    }
}
