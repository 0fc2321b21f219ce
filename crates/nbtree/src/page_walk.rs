//! Every page a run leads to, for whoever must know which pages are alive, or where some of them are.
//!
//! Leaves are known from their parents and not read, unless long strings are looked for: these are known from
//! leaves alone.

use alluvium_block::{BlockStore, LogicAddr, Page};
use alluvium_types::{Column, SeriesId, TimeRange, ValueKind};

use crate::descent::Descent;
use crate::error::TreeError;
use crate::leaf::LeafView;
use crate::long_text::{self, LongTextError};
use crate::reader::Reader;
use crate::snapshot::TreeSnapshot;
use crate::stats::ReadStats;
use crate::subtree_ref::SubtreeRef;

/// What to look for.
#[derive(Debug, Clone, Copy)]
pub struct WalkScope {
    /// Volumes behind this one are not looked for: subtrees that only have such pages are passed over.
    pub newest_volume: u32,
    /// Pages of long strings are looked for, too.
    pub texts: bool,
}

/// A walk through the pages of one run as it was when its snapshot was taken. Every page that is still reachable
/// then is shown once.
#[derive(Debug)]
pub struct PageWalk {
    snapshot: TreeSnapshot,
    scope: WalkScope,
    descent: Descent,
    unsealed_done: bool,
}

impl PageWalk {
    /// A walk through `snapshot`.
    pub fn new(snapshot: TreeSnapshot, scope: WalkScope) -> Self {
        let is_text = snapshot.kind() == ValueKind::Str;
        Self {
            descent: Descent::new(&snapshot),
            scope: WalkScope {
                texts: scope.texts && is_text,
                ..scope
            },
            unsealed_done: false,
            snapshot,
        }
    }

    /// Goes on until about `budget_pages` were read. `seen` gets the address of every page.
    /// Returns whether there is more.
    ///
    /// # Errors
    /// If a page is damaged or given back, or the device fails: then nobody knows which pages are below.
    pub fn step(
        &mut self,
        pages: &BlockStore,
        stats: &mut ReadStats,
        budget_pages: usize,
        seen: &mut dyn FnMut(LogicAddr),
    ) -> Result<bool, TreeError> {
        let series = self.snapshot.series;
        let mut reader = Reader {
            pages,
            series,
            stats,
        };
        let mut read = 0;
        while read < budget_pages {
            let next = self.descent.next_batch(|entry, level| {
                if entry.oldest_volume > self.scope.newest_volume {
                    return false;
                }
                seen(entry.page.addr);
                level > 0 || self.scope.texts
            });
            let Some((level, wanted)) = next else {
                if self.scope.texts && !self.unsealed_done {
                    self.unsealed_done = true;
                    let mut column = Column::new(self.snapshot.kind());
                    self.snapshot.unsealed(&mut column)?;
                    show_texts(&mut reader, &column, seen)?;
                }
                return Ok(false);
            };
            read += wanted.len();
            if wanted.is_empty() {
                continue;
            }
            let found = reader.fetch(&wanted, level);
            for (entry, page) in wanted.iter().zip(found) {
                // Expired: so is what only it leads to.
                let Some(page) = page? else { continue };
                if level == 0 {
                    let column = decode(&mut reader, entry, &page)?;
                    show_texts(&mut reader, &column, seen)?;
                    continue;
                }
                let mut children = Vec::new();
                reader.expand(entry, &page, TimeRange::ALL, &mut children)?;
                self.descent.push(level, children);
            }
        }
        Ok(true)
    }
}

/// The points of a leaf.
pub(crate) fn decode(
    reader: &mut Reader<'_>,
    entry: &SubtreeRef,
    page: &Page,
) -> Result<Column, TreeError> {
    let mut column = Column::new(reader.series.kind());
    let decoded = LeafView::new(page.body(), page.meta().items.into())
        .map_err(Into::into)
        .and_then(|view| (0..view.len()).try_for_each(|b| view.decode(b, &mut column)));
    decoded.map_err(|cause| reader.bad(entry, cause))?;
    Ok(column)
}

/// Shows the pages of the long strings among these.
fn show_texts(
    reader: &mut Reader<'_>,
    column: &Column,
    seen: &mut dyn FnMut(LogicAddr),
) -> Result<(), TreeError> {
    for (time, long) in long_text::long_ones(column) {
        let shown = long_text::show_pages(reader.pages, reader.series.packed(), long, seen);
        match shown {
            Ok(()) | Err(LongTextError::Expired) => {}
            Err(error) => return Err(lost(reader.series, time, error)),
        }
    }
    Ok(())
}

/// The error that says a long string is lost.
pub(crate) fn lost(series: SeriesId, time: i64, error: LongTextError) -> TreeError {
    match error {
        LongTextError::Bad(addr, cause) => TreeError::BadPage {
            addr,
            series,
            first_time: time,
            last_time: time,
            points: 1,
            cause,
        },
        LongTextError::GivenBack(cause) => TreeError::GivenBack { series, cause },
        LongTextError::Io(error) => error.into(),
        LongTextError::Expired => TreeError::State("an expired string was asked for"),
    }
}
