//! What a page of a tree holds, for people and for salvage.

use alluvium_types::{Column, ValueKind};

use crate::error::{BadPageCause, BodyError};
use crate::inner::InnerView;
use crate::leaf::LeafView;
use crate::subtree_ref::SubtreeRef;

/// One block of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDescription {
    /// Time of its first point, in nanoseconds.
    pub first_time: i64,
    /// Time of its last point, in nanoseconds.
    pub last_time: i64,
    /// How many points.
    pub points: usize,
    /// Its bytes as they stand in the page.
    pub bytes: Vec<u8>,
}

/// What a leaf holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafDescription {
    /// Its blocks, oldest first.
    pub blocks: Vec<BlockDescription>,
    /// Bytes of the directory.
    pub directory_bytes: usize,
    /// Every point. Long strings stand as references.
    pub points: Column,
}

/// What an inner page holds.
#[derive(Debug, Clone, PartialEq)]
pub struct InnerDescription {
    /// The kind of the values below.
    pub kind: ValueKind,
    /// Its entries, oldest first.
    pub entries: Vec<SubtreeRef>,
    /// Bytes each column takes in an entry, in their order on disk.
    pub widths: [u8; 20],
}

/// Decodes the body of a leaf of `items` blocks (both as the page says) of values of `kind`.
///
/// # Errors
/// If the body is malformed or a block does not decode.
pub fn describe_leaf(
    kind: ValueKind,
    body: &[u8],
    items: u16,
) -> Result<LeafDescription, BadPageCause> {
    let view = LeafView::new(body, items.into())?;
    let mut points = Column::new(kind);
    let mut blocks = Vec::with_capacity(view.len());
    for index in 0..view.len() {
        let bytes = view.bytes(index).unwrap_or_default();
        let before = points.len();
        view.decode(index, &mut points)?;
        blocks.push(BlockDescription {
            first_time: view.first_time(index).unwrap_or_default(),
            last_time: points.times.last().copied().unwrap_or_default(),
            points: points.len() - before,
            bytes: bytes.to_vec(),
        });
    }
    Ok(LeafDescription {
        directory_bytes: view.directory_bytes(),
        blocks,
        points,
    })
}

/// Decodes the body of an inner page of `items` entries, as the page says.
///
/// # Errors
/// If the body is malformed.
pub fn describe_inner(body: &[u8], items: u16) -> Result<InnerDescription, BodyError> {
    let view = InnerView::new(body, items.into())?;
    let mut entries = Vec::with_capacity(view.len());
    view.expand_all(&mut entries)?;
    Ok(InnerDescription {
        kind: view.kind(),
        entries,
        widths: view.widths(),
    })
}
