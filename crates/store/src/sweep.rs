//! Files that neither root names, found at opening: a removal whose effect a power cut took back, a checkpoint
//! that never ended, volumes that a lost life had begun.

use alluvium_block::{
    Manifest, OtherSlot, Root, RootError, Roots, manifest_path, named_volumes, numbered,
    volume_path,
};
use alluvium_io::{Device, Lane, Op};
use hashbrown::HashSet;

use crate::error::OpenError;
use crate::ledger::{Ledger, NamedFile};

/// What the root before the newest names, if that is known.
pub(crate) fn ledger_before(roots: &Roots) -> Option<Ledger> {
    match &roots.other {
        OtherSlot::Whole(_, manifest) => Ledger::load(manifest).ok(),
        _ => None,
    }
}

/// Removes files with names of ours that no root names. Does nothing unless both slots can be read, so that
/// whatever a salvage could use stays. The newest root must be durable, and nothing may have been written yet:
/// redo gives numbers of lost volumes out again. Waits.
pub(crate) fn sweep(device: &dyn Device, roots: &Roots) -> Result<u64, OpenError> {
    let mut named = HashSet::new();
    note(&mut named, &roots.root, &roots.manifest)?;
    match &roots.other {
        OtherSlot::Blank => {}
        OtherSlot::Whole(root, manifest) => {
            if note(&mut named, root, manifest).is_err() {
                return Ok(0);
            }
        }
        _ => return Ok(0),
    }
    let mut needless = Vec::new();
    for file in device.list("")? {
        let numbered = |prefix| numbered(&file.name, prefix).is_some();
        let ours = [
            "manifest.",
            "tails.",
            "mend.",
            "series.",
            "copy-series.",
            "index.",
            "copy-index.",
        ];
        if ours.into_iter().any(numbered) {
            needless.push(file.name);
        }
    }
    for file in device.list("vol")? {
        let path = format!("vol/{}", file.name);
        let id: Option<u32> = file.name.parse().ok();
        if id.is_some_and(|id| volume_path(id) == path) {
            needless.push(path);
        }
    }
    needless.retain(|path| !named.contains(path));
    let lane = Lane(0);
    let removals: Vec<_> = needless
        .into_iter()
        .map(|path| device.submit(lane, Op::Remove { path }))
        .collect();
    let mut removed = 0;
    for removal in removals {
        // One that stays only takes room; the next opening finds it again.
        removed += u64::from(removal.wait(device, lane).is_ok());
    }
    Ok(removed)
}

fn note(named: &mut HashSet<String>, root: &Root, manifest: &Manifest) -> Result<(), OpenError> {
    let ledger = Ledger::load(manifest)?;
    named.insert(manifest_path(root.seq));
    named.extend(ledger.tails.iter().copied().map(NamedFile::tails_path));
    named.extend(ledger.tails.iter().copied().map(NamedFile::mending_path));
    named.extend(ledger.series.iter().flat_map(|f| f.series_paths()));
    named.extend(ledger.segments.iter().flat_map(|s| s.file.index_paths()));
    named.extend(ledger.removals);
    let volumes: Result<Vec<String>, RootError> = named_volumes(manifest);
    named.extend(volumes?);
    Ok(())
}
