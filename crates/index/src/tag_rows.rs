//! The rows in memory that one matcher on a tag keeps or takes away.

use roaring::{MultiOps, RoaringBitmap};

use crate::PartitionIndex;
use crate::head::Head;
use crate::postings::RowsRef;
use crate::selector::{CompiledMatcher, CompiledTest};

/// Rough cost of reading one value of one row's tuple, in units of one row of a union.
const TUPLE_COST: u64 = 40;

/// Rough cost of touching one more value's list in a union, in the same units.
const LIST_COST: u64 = 20;

/// A matcher resolved to values of one key.
#[derive(Debug)]
pub(crate) struct TagRows {
    key: u32,
    /// Values, ascending.
    values: Vec<u32>,
    /// Rows that have the key with any *other* value, instead of with one of these.
    complement: bool,
    /// Whether these rows are taken away instead of kept: a matcher that holds for an absent tag.
    pub(crate) negative: bool,
    /// Rows meant, at most.
    pub(crate) estimate: u64,
}

/// What a matcher comes down to.
#[derive(Debug)]
pub(crate) enum Resolved {
    /// It holds for every row.
    Everything,
    /// It holds for no row.
    Nothing,
    Rows(TagRows),
}

impl PartitionIndex {
    /// Finds the values a matcher speaks of: by look-up for texts, by a scan of the dictionary for expressions.
    pub(crate) fn resolve(&self, head: &Head, key: &str, matcher: &CompiledMatcher) -> Resolved {
        let negative = matcher.matches("");
        let found = self.key_names.find(key);
        let found = found.and_then(|id| Some((id, &head.key(id)?.values)));
        let Some((id, dictionary)) = found else {
            return if negative {
                Resolved::Everything
            } else {
                Resolved::Nothing
            };
        };
        // The wanted values are those that differ from an absent tag in the matcher's eyes.
        let (values, complement) = match &matcher.test {
            CompiledTest::In(texts) => {
                let values = texts.iter().filter_map(|t| dictionary.find(t)).collect();
                (values, texts.iter().any(String::is_empty))
            }
            CompiledTest::Exists => (dictionary.find("").into_iter().collect(), true),
            _ => {
                let hits = dictionary.matching(matcher);
                // Those of which the test says what it says of an absent tag are not wanted.
                let hits_wanted = !matcher.test.matches("");
                if hits.len() * 2 <= dictionary.len() as usize {
                    (hits, !hits_wanted)
                } else {
                    let mut hits = hits.into_iter().peekable();
                    let all = 0..dictionary.len();
                    let misses = all.filter(|value| hits.next_if_eq(value).is_none());
                    (misses.collect(), hits_wanted)
                }
            }
        };
        let mut rows = TagRows {
            key: id,
            values,
            complement,
            negative,
            estimate: 0,
        };
        rows.values.sort_unstable();
        if rows.values.is_empty() && !complement {
            return if negative {
                Resolved::Everything
            } else {
                Resolved::Nothing
            };
        }
        rows.estimate = if complement {
            let schemas = self.tag_keys[id as usize].schemas.iter();
            let rows = schemas.filter_map(|&s| head.rows_of_shape(s));
            rows.map(RoaringBitmap::len).sum()
        } else {
            listed_rows(head, &rows)
        };
        Resolved::Rows(rows)
    }

    /// All the rows meant, whether to keep or to take away.
    pub(crate) fn rows_of(&self, head: &Head, rows: &TagRows) -> RoaringBitmap {
        let listed = union(head, rows);
        if !rows.complement {
            return listed;
        }
        head.rows_of_shapes(&self.tag_keys[rows.key as usize].schemas) - listed
    }

    /// Narrows `current` by a matcher: through the postings, or row by row when few rows are left.
    pub(crate) fn narrow(&self, head: &Head, current: &mut RoaringBitmap, rows: &TagRows) {
        if let ([value], false) = (rows.values.as_slice(), rows.complement)
            && let Some(RowsRef::Bitmap(bitmap, more)) = head.value_rows(rows.key, *value)
        {
            if rows.negative {
                *current -= bitmap;
                for row in more {
                    current.remove(*row);
                }
            } else {
                let kept = more.iter().copied().filter(|row| current.contains(*row));
                let kept: Vec<u32> = kept.collect();
                *current &= bitmap;
                current.extend(kept);
            }
            return;
        }
        let by_postings = rows.estimate + LIST_COST * rows.values.len() as u64;
        if current.len() * TUPLE_COST < by_postings {
            *current = current
                .iter()
                .filter(|&row| self.is_meant(row, rows) != rows.negative)
                .collect();
        } else if rows.negative {
            *current -= self.rows_of(head, rows);
        } else {
            *current &= self.rows_of(head, rows);
        }
    }

    fn is_meant(&self, row: u32, rows: &TagRows) -> bool {
        self.value_of(row, rows.key)
            .is_some_and(|value| rows.values.binary_search(&value).is_ok() != rows.complement)
    }
}

fn listed_rows(head: &Head, rows: &TagRows) -> u64 {
    let values = rows.values.iter();
    let lists = values.filter_map(|&v| head.value_rows(rows.key, v));
    lists.map(RowsRef::len).sum()
}

/// Rows with one of the listed values: bitmaps in one pass, short lists gathered and sorted.
fn union(head: &Head, rows: &TagRows) -> RoaringBitmap {
    let mut bitmaps = Vec::new();
    let mut few: Vec<u32> = Vec::new();
    for &value in &rows.values {
        match head.value_rows(rows.key, value) {
            Some(RowsRef::One(row)) => few.push(row),
            Some(RowsRef::List(list)) => few.extend_from_slice(list),
            Some(RowsRef::Bitmap(bitmap, more)) => {
                bitmaps.push(bitmap);
                few.extend_from_slice(more);
            }
            None => {}
        }
    }
    few.sort_unstable();
    few.dedup();
    let few = RoaringBitmap::from_sorted_iter(few).expect("sorted, no row twice");
    if bitmaps.is_empty() {
        return few;
    }
    bitmaps.push(&few);
    bitmaps.union()
}
