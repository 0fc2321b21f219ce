//! Shapes of tag sets: a measurement and the keys of its tags, shared by all rows of that shape.

use foldhash::fast::FixedState;
use std::hash::BuildHasher;

use crate::paged::Paged;
use crate::table::Table;

/// A measurement and a list of tag keys.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    pub(crate) measurement: u32,
    /// Ids of the keys, in the order of their names.
    pub(crate) keys: Box<[u32]>,
    pub(crate) first_row: u32,
}

/// All shapes, numbered in the order they came.
#[derive(Debug, Clone)]
pub(crate) struct Schemas {
    list: Paged<Schema>,
    by_content: Table<u64>,
}

impl Default for Schemas {
    fn default() -> Self {
        Self {
            list: Paged::default(),
            by_content: Table::new(),
        }
    }
}

impl Schemas {
    pub(crate) fn len(&self) -> u32 {
        self.list.len() as u32
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Schema> {
        self.list.get(id as usize)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Schema> {
        self.list.iter()
    }

    pub(crate) fn find(&self, measurement: u32, keys: &[u32]) -> Option<u32> {
        self.by_content.find(hash(measurement, keys), |id| {
            let schema = &self.list[id as usize];
            schema.measurement == measurement && *schema.keys == *keys
        })
    }

    /// Adds a shape that is not there yet, first used by `row`.
    pub(crate) fn add(&mut self, measurement: u32, keys: &[u32], first_row: u32) -> u32 {
        let id = self.len();
        self.list.push(Schema {
            measurement,
            keys: keys.into(),
            first_row,
        });
        self.by_content.insert(hash(measurement, keys), id);
        id
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let inner: usize = self.list.iter().map(|s| s.keys.len() * 4).sum();
        inner + self.list.heap_bytes() + self.by_content.heap_bytes()
    }
}

/// 32 bits: the table keeps no more, and who looks compares.
fn hash(measurement: u32, keys: &[u32]) -> u64 {
    FixedState::default().hash_one((measurement, keys)) >> 32
}
