//! Rows of values as they are read back from a part, gathered so that a list grows by many at once.

use crate::head::{Head, KeyHead};
use crate::postings::Postings;

/// Rows of one key that are gathered before they go to their lists.
const GATHERED_MAX: usize = 1 << 14;

/// What the lists of a head do not know yet.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    keys: Vec<OfKey>,
    /// A shape, and rows from the first to before the second that have it.
    shape: (u32, u32, u32),
    scratch: Scratch,
}

#[derive(Debug, Default)]
struct OfKey {
    /// Values and rows, these ascending.
    pairs: Vec<(u32, u32)>,
    /// The first name of a value that cannot be found yet.
    unlisted: Option<u32>,
}

#[derive(Debug, Default)]
struct Scratch {
    /// By value: where its rows begin.
    begins: Vec<u32>,
    rows: Vec<u32>,
}

impl Gathered {
    fn of_key(&mut self, key: u32) -> &mut OfKey {
        let needed = key as usize + 1;
        if self.keys.len() < needed {
            self.keys.resize_with(needed, OfKey::default);
        }
        &mut self.keys[key as usize]
    }

    /// Adds a value that no row had before the highest so far, and returns its number. Whether it is new is known when
    /// all are [settled](Self::settle).
    pub(crate) fn add_value(&mut self, head: &mut Head, key: u32, value: &str, row: u32) -> u32 {
        let of_head = head.key_mut(key);
        let id = of_head.values.push_unlisted(value);
        of_head.postings.push(Postings::one(row));
        self.of_key(key).unlisted.get_or_insert(id);
        id
    }

    /// Adds the highest row so far to the rows of a value.
    pub(crate) fn add_row_of_value(&mut self, head: &mut Head, key: u32, value: u32, row: u32) {
        let pairs = &mut self.of_key(key).pairs;
        pairs.push((value, row));
        if pairs.len() == GATHERED_MAX {
            self.hand_over(head, key);
        }
    }

    /// Adds the highest row so far to the rows of a shape.
    pub(crate) fn add_row_of_shape(&mut self, head: &mut Head, schema: u32, row: u32) {
        let (shape, begin, end) = self.shape;
        if (schema, row) == (shape, end) {
            self.shape.2 += 1;
        } else {
            head.add_rows_of_shape(shape, begin..end);
            self.shape = (schema, row, row + 1);
        }
    }

    /// Lets the lists and the values of a head know of everything; `false` if a value was not new.
    pub(crate) fn settle(mut self, head: &mut Head) -> bool {
        let (shape, begin, end) = self.shape;
        head.add_rows_of_shape(shape, begin..end);
        (0..self.keys.len()).all(|at| {
            let key = at as u32;
            self.hand_over(head, key);
            let from = self.keys[at].unlisted;
            from.is_none_or(|from| head.key_mut(key).values.list_from(from))
        })
    }

    /// Gives the rows of a key to their lists.
    fn hand_over(&mut self, head: &mut Head, key: u32) {
        let Some(OfKey { pairs, .. }) = self.keys.get_mut(key as usize) else {
            return;
        };
        let Scratch { begins, rows } = &mut self.scratch;
        rows.clear();
        let values = head.key_mut(key).values.len() as usize;
        if values > pairs.len() {
            pairs.sort_unstable();
            rows.extend(pairs.iter().map(|(_, row)| *row));
            let mut begin = 0;
            for of_value in pairs.chunk_by(|a, b| a.0 == b.0) {
                let end = begin + of_value.len();
                head.add_rows_of_value(key, of_value[0].0, &rows[begin..end]);
                begin = end;
            }
        } else {
            // Counted, then each put behind those of its value before.
            begins.clear();
            begins.resize(values + 1, 0);
            for (value, _) in pairs.iter() {
                begins[*value as usize + 1] += 1;
            }
            let mut sum = 0;
            for begin in begins.iter_mut() {
                sum += *begin;
                *begin = sum;
            }
            rows.resize(pairs.len(), 0);
            for (value, row) in pairs.iter() {
                let at = &mut begins[*value as usize];
                rows[*at as usize] = *row;
                *at += 1;
            }
            // Now each is where the next value's begin.
            let mut begin = 0;
            for (value, end) in begins[..values].iter().enumerate() {
                if begin < *end {
                    head.add_rows_of_value(key, value as u32, &rows[begin as usize..*end as usize]);
                }
                begin = *end;
            }
        }
        pairs.clear();
    }
}

impl Head {
    /// Adds rows above all so far, ascending, to the rows of a value.
    fn add_rows_of_value(&mut self, key: u32, value: u32, rows: &[u32]) {
        let Some(KeyHead { postings, .. }) = self.keys.get_mut(key) else {
            return;
        };
        if let Some(postings) = postings.get_mut(value as usize) {
            *postings = self.postings.push_all(*postings, rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use roaring::RoaringBitmap;

    use super::*;
    use crate::postings::RowsRef;

    fn rows(head: &Head, key: u32, value: u32) -> Vec<u32> {
        match head.value_rows(key, value) {
            None => Vec::new(),
            Some(RowsRef::One(row)) => vec![row],
            Some(RowsRef::List(list)) => list.to_vec(),
            Some(RowsRef::Bitmap(bitmap, more)) => {
                bitmap.iter().chain(more.iter().copied()).collect()
            }
        }
    }

    #[test]
    fn many_at_once_are_as_one_by_one() {
        // A key of few values, one of as many as rows, and one between, over several parts.
        let values = [3_u32, 1 << 20, 5000];
        let (mut one_by_one, mut at_once) = (Head::default(), Head::default());
        let mut row = 0_u32;
        for part in [40_u32, 30_000, 5, 1, 40_000] {
            let mut gathered = Gathered::default();
            for _ in 0..part {
                for (key, count) in (0..).zip(values) {
                    let name = (row.wrapping_mul(2_654_435_761) >> 7) % count;
                    let name = name.to_string();
                    let known = one_by_one.key_mut(key).values.find(&name);
                    let mut ids = Vec::new();
                    one_by_one.add_values(key, &[name.as_bytes()], row, &mut ids);
                    let id = ids[0];
                    if known.is_some() {
                        gathered.add_row_of_value(&mut at_once, key, id, row);
                    } else {
                        assert_eq!(gathered.add_value(&mut at_once, key, &name, row), id);
                    }
                }
                gathered.add_row_of_shape(&mut at_once, row / 100 % 2, row);
                row += 1;
            }
            assert!(gathered.settle(&mut at_once));
            for key in 0..3 {
                let of_key = &one_by_one.key(key).unwrap().values;
                for value in 0..of_key.len() {
                    assert_eq!(rows(&at_once, key, value), rows(&one_by_one, key, value));
                    let name = of_key.name(value).unwrap();
                    assert_eq!(at_once.key(key).unwrap().values.find(name), Some(value));
                }
            }
            let of_shape = at_once.rows_of_shape(0).unwrap();
            assert!(of_shape.iter().all(|row| row / 100 % 2 == 0));
            assert_eq!(
                of_shape.len() + at_once.rows_of_shape(1).map_or(0, RoaringBitmap::len),
                row.into()
            );
        }
    }

    #[test]
    fn a_value_that_is_not_new_is_refused() {
        for (parts, new) in [
            (vec!["a b", "c d"], true),
            (vec!["a b a"], false),
            (vec!["a b", "b"], false),
        ] {
            let mut head = Head::default();
            let mut row = 0;
            let all = parts.iter().all(|part| {
                let mut gathered = Gathered::default();
                for name in part.split(' ') {
                    gathered.add_value(&mut head, 0, name, row);
                    row += 1;
                }
                gathered.settle(&mut head)
            });
            assert_eq!(all, new, "{parts:?}");
        }
    }
}
