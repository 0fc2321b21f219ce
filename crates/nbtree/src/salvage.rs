//! What a page or a saved state holds by itself, without the tree around it.

use alluvium_block::{Expect, Page, PageRef, ReadError};
use alluvium_types::{Column, SeriesId};

use crate::describe::describe_leaf;
use crate::error::{BadPageCause, TreeError};
use crate::long_text::{self, Stored};
use crate::snapshot::TreeSnapshot;
use crate::stats::ReadStats;

/// The points of a leaf that was found by itself. Long strings stand as references, see [`salvaged_text`].
///
/// # Errors
/// If its body does not decode.
pub fn salvaged_leaf(series: SeriesId, page: &Page) -> Result<Column, BadPageCause> {
    let described = describe_leaf(series.kind(), page.body(), page.meta().items)?;
    Ok(described.points)
}

/// The text that a stored one stands for; `None` if pages of it are lost. `fetch` reads pages.
pub fn salvaged_text(
    stored: &str,
    series: u64,
    fetch: &dyn Fn(&[PageRef], Expect) -> Vec<Result<Page, ReadError>>,
) -> Option<String> {
    match long_text::unquote(stored).ok()? {
        Stored::Text(text) => Some(text.to_owned()),
        Stored::Long(long) => {
            long_text::read_by(fetch, series, long, &mut ReadStats::default()).ok()
        }
    }
}

impl TreeSnapshot {
    /// The points that no page holds yet, long strings as references.
    ///
    /// # Errors
    /// If they do not decode.
    pub fn salvaged_points(&self) -> Result<Column, TreeError> {
        let mut column = Column::new(self.kind());
        self.unsealed(&mut column)?;
        Ok(column)
    }
}
