//! From a backup to a data directory: copied, then checked as a whole. Until that has ended the file `unfinished` says why the
//! directory does not open.

use std::sync::Arc;

use alluvium_block::{load_roots, volume_heads};
use alluvium_io::{Device, IoErrorKind, Lane, Op};
use alluvium_types::PAGE_SIZE;
use alluvium_wal::{StreamInfo, list_streams};

use crate::backup::{BackupError, absent, commit_root, plain_files, refuse_filled};
use crate::copies::copies_of;
use crate::copying::{Side, copy_file, copy_readable};
use crate::ledger::Ledger;
use crate::tails_check::tails_of;
use crate::verify::{VerifyReport, verify_unfinished};

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreReport {
    /// The commit it begins with; the log goes on from there.
    pub superblock_seq: u64,
    /// Files copied.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
    /// What was checked in the copy.
    pub verified: VerifyReport,
}

/// Copies a backup, or a data directory that nobody has open, to an empty directory and checks every page, file and
/// log frame that its superblock leads to. Nothing of the copy is shared with the backup. Waits.
///
/// # Errors
/// See [`BackupError`]; [`BackupError::Damaged`] if something does not hold. A target of which not all was checked and found
/// to hold is refused by name, also after a cut at any moment: remove it and restore again.
pub fn restore(
    backup: &Arc<dyn Device>,
    target: &Arc<dyn Device>,
) -> Result<RestoreReport, BackupError> {
    let side = |device| Side {
        device,
        lane: Lane(0),
    };
    let (from, to) = (side(backup.as_ref()), side(target.as_ref()));
    refuse_filled(to.device)?;
    let Some(roots) = load_roots(from.device)? else {
        return Err(BackupError::Empty);
    };
    to.begin()?;
    let mut manifest = roots.manifest;
    let mut ledger = Ledger::load(&manifest)?;
    let mut report = RestoreReport {
        superblock_seq: roots.root.seq,
        ..RestoreReport::default()
    };
    let volumes = volume_heads(&manifest)?.into_iter();
    let volumes = volumes.map(|h| (h.path(), u64::from(h.end) * PAGE_SIZE as u64, false));
    let files = plain_files(&ledger).into_iter();
    let files = files.map(|(path, file)| {
        let is_mended = file.is_tails(&path) || file.is_mending(&path);
        (path, file.len, is_mended)
    });
    for (path, len, is_mended) in volumes.chain(files) {
        let opened = from.open(&path, false);
        let (file, _) = match opened {
            // Named below by what misses it.
            Err(error) if error.kind == IoErrorKind::NotFound => continue,
            opened => opened?,
        };
        report.bytes += if is_mended {
            // What cannot be read is made again below, or named.
            copy_readable((from, file), to, &path, len)?.0
        } else {
            copy_file((from, file), to, &path, len)?
        };
        report.files += 1;
        from.close(file)?;
    }
    // The log of the life of the superblock, and of those since: each stream as far as it holds.
    for stream in list_streams(from.device)? {
        if stream.incarnation < ledger.incarnation {
            continue;
        }
        report.bytes += copy_log(from, to, &stream)?;
        report.files += stream.segments.len() as u64;
    }
    to.sync_dir("vol").or_else(absent)?;
    to.sync_dir("wal").or_else(absent)?;
    ledger.lineage.fork(roots.root.seq);
    ledger.lineage.save(&mut manifest);
    commit_root(to, roots.root, &manifest)?;
    for mut copies in copies_of(target.as_ref(), &ledger) {
        copies.repair(target.as_ref())?;
    }
    for tails in tails_of(target.as_ref(), &ledger) {
        tails.repair(target.as_ref())?;
    }
    // Checked as whoever opens it will read it. Until then `unfinished` keeps everybody else from it, through any cut; the
    // superblock goes again if it does not hold.
    report.verified = verify_unfinished(target)?;
    if let Some(first) = report.verified.findings.first() {
        let error = BackupError::Damaged {
            findings: report.verified.findings_total,
            place: first.place.clone(),
            what: first.what.clone(),
        };
        to.run(Op::Remove {
            path: "superblock".into(),
        })?;
        to.sync_dir("")?;
        return Err(error);
    }
    to.end()?;
    Ok(report)
}

/// Copies the segments of a stream whole: whether they hold is for the check to say, which must see proof of damage
/// behind it.
fn copy_log(from: Side<'_>, to: Side<'_>, stream: &StreamInfo) -> Result<u64, BackupError> {
    let mut bytes = 0;
    for (segment, len) in &stream.segments {
        let path = format!("wal/{}.{segment:08}", stream.name());
        let (file, _) = from.open(&path, false)?;
        bytes += copy_file((from, file), to, &path, *len)?;
        from.close(file)?;
    }
    Ok(bytes)
}
