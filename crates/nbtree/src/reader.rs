//! Fetches the pages of one tree and says what their failures mean.

use alluvium_block::{BlockStore, Expect, Page, PageKind, PageRef, ReadError};
use alluvium_types::{SeriesId, TimeRange};

use crate::error::{BadPageCause, BodyError, TreeError};
use crate::inner::InnerView;
use crate::stats::ReadStats;
use crate::subtree_ref::SubtreeRef;

/// Reads pages of one run.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) pages: &'a BlockStore,
    pub(crate) series: SeriesId,
    pub(crate) stats: &'a mut ReadStats,
}

impl Reader<'_> {
    /// The pages of `refs`, all of one level, in one batch of the device; `None` for each expired one.
    pub(crate) fn fetch(
        &mut self,
        refs: &[SubtreeRef],
        level: u8,
    ) -> Vec<Result<Option<Page>, TreeError>> {
        let expect = Expect {
            kind: if level == 0 {
                PageKind::Leaf
            } else {
                PageKind::Inner
            },
            series: self.series.packed(),
        };
        let wanted: Vec<PageRef> = refs.iter().map(|r| r.page).collect();
        let results = self.pages.read_many(&wanted, expect);
        let checked = refs
            .iter()
            .zip(results)
            .map(|(r, result)| self.check(r, level, result));
        checked.collect()
    }

    pub(crate) fn check(
        &mut self,
        child: &SubtreeRef,
        level: u8,
        result: Result<Page, ReadError>,
    ) -> Result<Option<Page>, TreeError> {
        match result {
            Ok(page) => {
                if level == 0 {
                    self.stats.leaf_pages += 1;
                } else {
                    self.stats.inner_pages += 1;
                }
                self.stats.cached_pages += u64::from(page.was_cached());
                // Which run wrote it does not matter: a merged run refers to pages of others. Address,
                // generation, series and checksum are the parent's.
                if page.meta().level != level {
                    let cause = BodyError("it is of another level than its parent says");
                    return Err(self.bad(child, BadPageCause::Body(cause)));
                }
                Ok(Some(page))
            }
            Err(ReadError::Expired { .. }) => {
                self.stats.expired_pages += 1;
                Ok(None)
            }
            Err(ReadError::Io(error)) => Err(error.into()),
            Err(cause @ ReadError::GivenBack { .. }) => Err(TreeError::GivenBack {
                series: self.series,
                cause,
            }),
            Err(error) => Err(self.bad(child, BadPageCause::Page(error))),
        }
    }

    /// The error that says a subtree is lost.
    pub(crate) fn bad(&mut self, child: &SubtreeRef, cause: BadPageCause) -> TreeError {
        self.stats.bad_pages += 1;
        TreeError::BadPage {
            addr: child.page.addr,
            series: self.series,
            first_time: child.first_time(),
            last_time: child.last_time(),
            points: child.aggregate.count,
            cause,
        }
    }

    /// Appends the children in `page` that overlap `range` to `out`.
    pub(crate) fn expand(
        &mut self,
        parent: &SubtreeRef,
        page: &Page,
        range: TimeRange,
        out: &mut Vec<SubtreeRef>,
    ) -> Result<(), TreeError> {
        InnerView::new(page.body(), page.meta().items.into())
            .and_then(|view| {
                if view.kind() == self.series.kind() {
                    view.expand(range, out)
                } else {
                    Err(BodyError("an inner page of another kind"))
                }
            })
            .map_err(|e| self.bad(parent, BadPageCause::Body(e)))
    }
}
