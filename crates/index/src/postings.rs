//! Rows under each (tag key, value): ascending, in whatever form is smallest.

use roaring::RoaringBitmap;

use crate::paged::Paged;

/// Longest list kept in the arenas.
const FEW_MAX: u32 = 32;

/// Rows a bitmap container (65,536 rows) should hold before a bitmap is smaller than a plain list.
const DENSE: u64 = 16;

/// A list of rows: one word that says where they are.
///
/// High two bits 0: one row, in the low bits. 1: a few rows in an arena; arena (3 bits), count (6), slot (32).
/// 2: a list or bitmap of its own, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Postings(u64);

const ONE: u64 = 0;
const FEW: u64 = 1;
const MANY: u64 = 2;

/// Rows that wait beside a bitmap until they are added together: what makes its entry one cache line of 64 bytes.
const WAITING_MAX: usize = 8;

/// Rows below which no container of a bitmap is dense.
const SPARSE_MAX: u64 = 4096;

/// Rows that go to a bitmap at once from which on its highest one is looked for.
const BULK_MIN: usize = 64;

#[derive(Debug, Clone)]
enum Many {
    /// Too sparse for a bitmap.
    List(Vec<u32>),
    /// With rows above all in it, which are not in it yet.
    Bitmap {
        rows: RoaringBitmap,
        waiting: [u32; WAITING_MAX],
        count: u8,
    },
}

const _: () = assert!(size_of::<Many>() <= 64);

/// The memory behind all [`Postings`] of a partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct PostingsStore {
    /// Lists with room for 2, 4, 8, 16, 32 rows.
    arenas: [Paged<u32>; 5],
    free: [Paged<u32>; 5],
    many: Paged<Many>,
}

/// A borrowed view of one list.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RowsRef<'a> {
    One(u32),
    List(&'a [u32]),
    /// A bitmap, and rows above all in it.
    Bitmap(&'a RoaringBitmap, &'a [u32]),
}

impl RowsRef<'_> {
    pub(crate) fn len(self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::List(list) => list.len() as u64,
            Self::Bitmap(bitmap, more) => bitmap.len() + more.len() as u64,
        }
    }

    /// Whether one of these rows is in it.
    pub(crate) fn meets(self, rows: &RoaringBitmap) -> bool {
        match self {
            Self::One(row) => rows.contains(row),
            Self::List(list) => list.iter().any(|row| rows.contains(*row)),
            Self::Bitmap(bitmap, more) => {
                !bitmap.is_disjoint(rows) || more.iter().any(|row| rows.contains(*row))
            }
        }
    }

    /// The lowest row.
    pub(crate) fn first(self) -> Option<u32> {
        match self {
            Self::One(row) => Some(row),
            Self::List(list) => list.first().copied(),
            Self::Bitmap(bitmap, more) => bitmap.min().or(more.first().copied()),
        }
    }
}

impl Postings {
    pub(crate) fn one(row: u32) -> Self {
        Self(u64::from(row))
    }

    fn few(arena: usize, count: u32, slot: u32) -> Self {
        Self(FEW << 62 | (arena as u64) << 40 | u64::from(count) << 32 | u64::from(slot))
    }

    fn many(number: usize) -> Self {
        Self(MANY << 62 | number as u64)
    }

    fn split(self) -> (u64, usize, u32, u32) {
        (
            self.0 >> 62,
            (self.0 >> 40 & 7) as usize,
            (self.0 >> 32 & 0x3f) as u32,
            self.0 as u32,
        )
    }
}

impl PostingsStore {
    pub(crate) fn rows(&self, postings: Postings) -> RowsRef<'_> {
        let (tag, arena, count, low) = postings.split();
        match tag {
            ONE => RowsRef::One(low),
            FEW => {
                let begin = (low as usize) << (arena + 1);
                let list = self.arenas[arena].slice(begin, count as usize);
                RowsRef::List(list.unwrap_or_default())
            }
            _ => match &self.many[low as usize] {
                Many::List(list) => RowsRef::List(list),
                Many::Bitmap {
                    rows,
                    waiting,
                    count,
                } => RowsRef::Bitmap(rows, waiting.get(..usize::from(*count)).unwrap_or_default()),
            },
        }
    }

    /// The list with one more row, higher than all in it.
    pub(crate) fn push(&mut self, postings: Postings, row: u32) -> Postings {
        let (tag, arena, count, low) = postings.split();
        match tag {
            ONE => {
                let slot = self.allocate(0);
                self.fill(0, slot, &[low, row]);
                Postings::few(0, 2, slot)
            }
            FEW if count < 2 << arena => {
                let at = ((low as usize) << (arena + 1)) + count as usize;
                if let Some(place) = self.arenas[arena].get_mut(at) {
                    *place = row;
                }
                Postings::few(arena, count + 1, low)
            }
            FEW => {
                let mut rows = [0; FEW_MAX as usize];
                let RowsRef::List(old) = self.rows(postings) else {
                    return postings;
                };
                rows[..old.len()].copy_from_slice(old);
                let rows = &rows[..count as usize];
                self.free[arena].push(low);
                if count < FEW_MAX {
                    let slot = self.allocate(arena + 1);
                    self.fill(arena + 1, slot, rows);
                    self.push(Postings::few(arena + 1, count, slot), row)
                } else {
                    let mut list = Vec::with_capacity(2 * FEW_MAX as usize);
                    list.extend_from_slice(rows);
                    self.many.push(Many::List(list));
                    self.push(Postings::many(self.many.len() - 1), row)
                }
            }
            _ => {
                match &mut self.many[low as usize] {
                    Many::Bitmap {
                        rows,
                        waiting,
                        count,
                    } => {
                        if usize::from(*count) == WAITING_MAX {
                            add_few(rows, *waiting);
                            *count = 0;
                        }
                        waiting[usize::from(*count)] = row;
                        *count += 1;
                    }
                    Many::List(list) => {
                        list.push(row);
                        self.settle_list(low as usize);
                    }
                }
                postings
            }
        }
    }

    /// The list with more rows, ascending and higher than all in it. Costs less than one by one where they are many.
    pub(crate) fn push_all(&mut self, postings: Postings, rows: &[u32]) -> Postings {
        let one_by_one = |store: &mut Self, postings| {
            let push = |postings, row: &u32| store.push(postings, *row);
            rows.iter().fold(postings, push)
        };
        let (tag, arena, count, low) = postings.split();
        if tag == MANY {
            match &mut self.many[low as usize] {
                Many::List(list) => {
                    list.extend_from_slice(rows);
                    self.settle_list(low as usize);
                }
                Many::Bitmap {
                    rows: bitmap,
                    waiting,
                    count,
                } if rows.len() >= BULK_MIN => {
                    let before = waiting.get(..usize::from(*count)).unwrap_or_default();
                    let all = before.iter().chain(rows).copied();
                    let added = bitmap.append(all);
                    debug_assert!(added.is_ok(), "rows ascend");
                    *count = 0;
                }
                Many::Bitmap { .. } => return one_by_one(self, postings),
            }
            return postings;
        }
        let before = if tag == ONE { 1 } else { count as usize };
        if before + rows.len() <= FEW_MAX as usize {
            return one_by_one(self, postings);
        }
        let mut list = Vec::with_capacity(before + rows.len());
        match self.rows(postings) {
            RowsRef::List(old) => list.extend_from_slice(old),
            _ => list.push(low),
        }
        list.extend_from_slice(rows);
        if tag == FEW {
            self.free[arena].push(low);
        }
        self.many.push(Many::List(list));
        self.settle_list(self.many.len() - 1);
        Postings::many(self.many.len() - 1)
    }

    /// Makes a list a bitmap if that is smaller.
    fn settle_list(&mut self, at: usize) {
        if let Many::List(list) = &self.many[at]
            && let Some(last) = list.last()
            && list.len() as u64 >= DENSE * (u64::from(last >> 16) + 1)
        {
            self.many[at] = Many::Bitmap {
                rows: list.iter().copied().collect(),
                waiting: [0; WAITING_MAX],
                count: 0,
            };
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let arenas: usize = self.arenas.iter().map(Paged::heap_bytes).sum();
        let free: usize = self.free.iter().map(Paged::heap_bytes).sum();
        let many: usize = self
            .many
            .iter()
            .map(|m| match m {
                Many::List(list) => list.capacity() * 4,
                Many::Bitmap { rows, .. } => bitmap_bytes(rows),
            })
            .sum();
        arenas + free + many + self.many.heap_bytes()
    }

    fn allocate(&mut self, arena: usize) -> u32 {
        if let Some(slot) = self.free[arena].pop() {
            return slot;
        }
        let slot = self.arenas[arena].len() >> (arena + 1);
        for _ in 0..2 << arena {
            self.arenas[arena].push(0);
        }
        slot as u32
    }

    fn fill(&mut self, arena: usize, slot: u32, rows: &[u32]) {
        let begin = (slot as usize) << (arena + 1);
        for (i, &row) in rows.iter().enumerate() {
            if let Some(place) = self.arenas[arena].get_mut(begin + i) {
                *place = row;
            }
        }
    }
}

/// Adds rows above all in a bitmap.
fn add_few(bitmap: &mut RoaringBitmap, rows: [u32; WAITING_MAX]) {
    if bitmap.len() < SPARSE_MAX {
        let added = bitmap.append(rows);
        debug_assert!(added.is_ok(), "rows ascend");
    } else {
        // What only appends looks for the highest row before, which takes a scan of a dense container.
        bitmap.extend(rows);
    }
}

/// Heap of a bitmap, nearly. Its statistics count four bytes for each value of an array, which takes two, and
/// bits instead of bytes for bitmaps.
pub(crate) fn bitmap_bytes(bitmap: &RoaringBitmap) -> usize {
    let s = bitmap.statistics();
    let arrays = s.n_bytes_array_containers / 2;
    let bitsets = s.n_bytes_bitset_containers / 8;
    // A container is a key and a vector or box, in a vector grown by doubling.
    let containers = (s.n_containers as usize).next_power_of_two().max(4) * 40;
    (arrays + bitsets + s.n_bytes_run_containers) as usize + containers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(store: &PostingsStore, postings: Postings) -> Vec<u32> {
        match store.rows(postings) {
            RowsRef::One(row) => vec![row],
            RowsRef::List(list) => list.to_vec(),
            RowsRef::Bitmap(bitmap, more) => bitmap.iter().chain(more.iter().copied()).collect(),
        }
    }

    #[test]
    fn lists_grow_through_every_form() {
        let mut store = PostingsStore::default();
        // Several lists at once, dense and sparse, so that arena slots are freed and reused.
        let steps = [1_u32, 3, 1000, 200_000];
        let mut lists: Vec<_> = steps.iter().map(|_| (Postings::one(0), vec![0])).collect();
        for i in 1..2000 {
            for (step, (postings, expected)) in steps.iter().zip(&mut lists) {
                *postings = store.push(*postings, i * step);
                expected.push(i * step);
                if i < 70 || i % 97 == 0 {
                    assert_eq!(rows(&store, *postings), *expected);
                    assert_eq!(store.rows(*postings).len(), u64::from(i) + 1);
                    assert_eq!(store.rows(*postings).first(), Some(0));
                }
            }
        }
        assert!(matches!(store.rows(lists[0].0), RowsRef::Bitmap(..)));
        assert!(matches!(store.rows(lists[3].0), RowsRef::List(_)));
    }
}
