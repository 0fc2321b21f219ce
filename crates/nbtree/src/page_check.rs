//! Every page of a run read from the device and compared with what its parent says of it.

use alluvium_block::{BlockStore, Expect, Page, PageKind, PageRef};
use alluvium_types::{Column, TimeRange, ValueKind};

use crate::descent::Descent;
use crate::error::{BadPageCause, BodyError, TreeError};
use crate::long_text::{self, LongTextError};
use crate::page_walk::{decode, lost};
use crate::reader::Reader;
use crate::snapshot::TreeSnapshot;
use crate::stats::ReadStats;
use crate::subtree_ref::SubtreeRef;

/// A check of the pages of one run as it was when its snapshot was taken: leaves, inner pages and long strings. Memory
/// is not asked: what is there was sound when it was read.
#[derive(Debug)]
pub struct PageCheck {
    snapshot: TreeSnapshot,
    descent: Descent,
    unsealed_done: bool,
}

impl PageCheck {
    /// A check of `snapshot`.
    pub fn new(snapshot: TreeSnapshot) -> Self {
        Self {
            descent: Descent::new(&snapshot),
            unsealed_done: snapshot.kind() != ValueKind::Str,
            snapshot,
        }
    }

    /// Goes on until about `budget_pages` were read. `found` gets what does not hold: [`TreeError::BadPage`] with the
    /// points that are lost with the page, or the device's refusal to read it. What is below a bad inner page cannot be
    /// checked. Returns whether there is more.
    ///
    /// # Errors
    /// [`TreeError::GivenBack`] if the run was written anew meanwhile: it is not the one that counts any more.
    pub fn step(
        &mut self,
        pages: &BlockStore,
        stats: &mut ReadStats,
        budget_pages: usize,
        found: &mut dyn FnMut(TreeError),
    ) -> Result<bool, TreeError> {
        let series = self.snapshot.series();
        let mut reader = Reader {
            pages,
            series,
            stats,
        };
        let mut read = 0;
        while read < budget_pages {
            let Some((level, wanted)) = self.descent.next_batch(|_, _| true) else {
                if !std::mem::replace(&mut self.unsealed_done, true) {
                    let mut column = Column::new(self.snapshot.kind());
                    match self.snapshot.unsealed(&mut column) {
                        Ok(()) => check_texts(&mut reader, &column, found)?,
                        Err(error) => found(error),
                    }
                }
                return Ok(false);
            };
            read += wanted.len();
            let expect = Expect {
                kind: if level == 0 {
                    PageKind::Leaf
                } else {
                    PageKind::Inner
                },
                series: series.packed(),
            };
            let refs: Vec<PageRef> = wanted.iter().map(|e| e.page).collect();
            for (entry, page) in wanted.iter().zip(pages.reread(&refs, expect)) {
                let page = match reader.check(entry, level, page) {
                    Ok(Some(page)) => page,
                    // Expired: so is what only it leads to.
                    Ok(None) => continue,
                    Err(error @ TreeError::GivenBack { .. }) => return Err(error),
                    Err(error) => {
                        found(error);
                        continue;
                    }
                };
                if level == 0 {
                    match check_leaf(&mut reader, entry, &page) {
                        Ok(column) => check_texts(&mut reader, &column, found)?,
                        Err(error) => found(error),
                    }
                    continue;
                }
                let mut children = Vec::new();
                match reader.expand(entry, &page, TimeRange::ALL, &mut children) {
                    Ok(()) => self.descent.push(level, children),
                    Err(error) => found(error),
                }
            }
        }
        Ok(true)
    }
}

/// The points of a leaf, if they are those that its parent counted.
fn check_leaf(
    reader: &mut Reader<'_>,
    entry: &SubtreeRef,
    page: &Page,
) -> Result<Column, TreeError> {
    let column = decode(reader, entry, page)?;
    let ends = (column.times.first(), column.times.last());
    let is_it = column.len() as u64 == entry.aggregate.count
        && ends == (Some(&entry.first_time()), Some(&entry.last_time()));
    if is_it {
        return Ok(column);
    }
    let cause = BodyError("its points are not those that its parent counted");
    Err(reader.bad(entry, BadPageCause::Body(cause)))
}

/// Reads the long strings among these.
fn check_texts(
    reader: &mut Reader<'_>,
    column: &Column,
    found: &mut dyn FnMut(TreeError),
) -> Result<(), TreeError> {
    for (time, long) in long_text::long_ones(column) {
        let fetch = |refs: &[PageRef], expect| reader.pages.reread(refs, expect);
        let text = long_text::read_by(&fetch, reader.series.packed(), long, reader.stats);
        match text {
            Ok(_) | Err(LongTextError::Expired) => {}
            Err(error @ LongTextError::GivenBack(_)) => {
                return Err(lost(reader.series, time, error));
            }
            Err(error) => found(lost(reader.series, time, error)),
        }
    }
    Ok(())
}
