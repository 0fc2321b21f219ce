//! Names and lists of fields that a writer has met, each with a number that is quicker to compare.

use std::sync::Arc;

use alluvium_types::ValueKind;
use hashbrown::HashMap;

/// Names of the fields of a line by number, and their kinds.
pub(super) type Shape = Arc<[(u32, ValueKind)]>;

/// Field names and lists of (name, kind), interned for the life of a writer.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    pub(super) names: Vec<Box<str>>,
    by_name: HashMap<Box<str>, u32, foldhash::fast::FixedState>,
    pub(super) lists: Vec<Shape>,
    /// By name: the line that last used it and the place in that line.
    pub(super) used: Vec<(u64, u32)>,
    by_shape: HashMap<Shape, u32, foldhash::fast::FixedState>,
    bytes: usize,
}

/// Bytes of a name or a list beside what is in it: one or two boxes, two places in a map.
const ENTRY_BYTES: usize = 96;

impl Shapes {
    /// `guess` is the name at the same place of the line before.
    pub(super) fn name(&mut self, name: &str, guess: Option<u32>) -> u32 {
        if let Some(guess) = guess
            && &*self.names[guess as usize] == name
        {
            return guess;
        }
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = self.names.len() as u32;
        self.names.push(name.into());
        self.used.push((0, 0));
        self.by_name.insert(name.into(), id);
        self.bytes += 2 * name.len() + ENTRY_BYTES;
        id
    }

    pub(super) fn shape(&mut self, fields: &[(u32, ValueKind)], guess: u32) -> u32 {
        if self
            .lists
            .get(guess as usize)
            .is_some_and(|s| **s == *fields)
        {
            return guess;
        }
        if let Some(id) = self.by_shape.get(fields) {
            return *id;
        }
        let id = self.lists.len() as u32;
        let shape = Shape::from(fields);
        self.lists.push(Arc::clone(&shape));
        self.by_shape.insert(shape, id);
        self.bytes += size_of_val(fields) + ENTRY_BYTES;
        id
    }

    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
