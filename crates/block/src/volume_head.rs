//! What a manifest says of a volume: how far it is written, and where it is not.

use std::collections::BTreeMap;

use alluvium_codec::{CodecError, varint};

use crate::error::RootError;
use crate::manifest::{Manifest, TAG_VOLUMES};
use crate::space::PageRange;
use crate::volume::{Role, Volume, VolumeSetId, volume_path};

/// A volume as one manifest knows it. Two manifests that give the same head speak of the same pages: a page is written
/// once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeHead {
    /// Its number.
    pub id: u32,
    /// Its life.
    pub generation: u32,
    /// Owner and role.
    pub set: VolumeSetId,
    /// First page that belonged to no extent.
    pub end: u32,
    /// Whether more pages may be written to it: in front of `end` those in [`Self::unfilled`].
    pub is_filling: bool,
    /// Pages in front of `end` that were still to be written, as ranges.
    pub unfilled: Vec<PageRange>,
    /// Pages that were given back.
    pub holes: Vec<PageRange>,
    /// Pages that were written to it, and bytes of them that hold something.
    pub written: (u64, u64),
}

impl VolumeHead {
    /// Where it is.
    pub fn path(&self) -> String {
        volume_path(self.id)
    }

    /// Whether it holds leaves.
    pub fn has_leaves(&self) -> bool {
        self.set.role == Role::Leaves
    }

    /// Whether a page was written and not given back when the manifest was. Page 0 is the volume's header.
    pub fn holds(&self, page: u32) -> bool {
        let within = |ranges: &[PageRange]| ranges.iter().any(|(b, e)| (*b..*e).contains(&page));
        page < self.end && !within(&self.unfilled) && !within(&self.holes)
    }

    /// Whether a volume with this head has every page that `other` speaks of, if both are of one line of a store's history.
    pub fn has_all_of(&self, other: &Self) -> bool {
        let place = |h: &Self| (h.id, h.generation, h.end, h.written);
        let kept = |hole: &PageRange| {
            let inside = |outer: &&PageRange| outer.0 <= hole.0 && hole.1 <= outer.1;
            other.holes.iter().any(|outer| inside(&outer))
        };
        place(self) == place(other)
            && self.unfilled == other.unfilled
            && self.holes.iter().all(kept)
    }
}

/// The volumes that a manifest names, by number.
///
/// # Errors
/// If the manifest is damaged.
pub fn volume_heads(manifest: &Manifest) -> Result<Vec<VolumeHead>, RootError> {
    let parsed = manifest.get(TAG_VOLUMES).map_or(Ok(Vec::new()), parse);
    parsed.map_err(|_| RootError::Manifest {
        section: "its volumes",
    })
}

fn parse(mut rest: &[u8]) -> Result<Vec<VolumeHead>, CodecError> {
    let r = &mut rest;
    let u32_of = |r: &mut &[u8]| varint::get_u64(r).map(|v| v as u32);
    varint::get_u64(r)?;
    let mut heads = BTreeMap::new();
    for _ in 0..varint::get_u64(r)? {
        let volume = Volume::get(r)?;
        let head = VolumeHead {
            id: volume.id,
            generation: volume.generation,
            set: volume.set,
            end: volume.handed_out.into_inner(),
            written: (volume.appended.into_inner(), volume.used.into_inner()),
            is_filling: false,
            unfilled: Vec::new(),
            holes: volume.holes.into_inner().ranges,
        };
        heads.insert(head.id, head);
    }
    for _ in 0..varint::get_u64(r)? {
        VolumeSetId::get(r)?;
        let (_, active, next_page) = (u32_of(r)?, u32_of(r)?, u32_of(r)?);
        if let Some(head) = heads.get_mut(&active) {
            head.end = next_page;
            head.is_filling = true;
        }
        for _ in 0..varint::get_u64(r)? {
            let (volume, next, end) = (u32_of(r)?, u32_of(r)?, u32_of(r)?);
            if let Some(head) = heads.get_mut(&volume) {
                head.unfilled.push((next, end));
                head.is_filling = true;
            }
        }
    }
    let mut heads: Vec<_> = heads.into_values().collect();
    heads.iter_mut().for_each(|h| h.unfilled.sort_unstable());
    Ok(heads)
}
