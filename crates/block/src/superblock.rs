//! The root of a data directory: two slots, each naming one immutable manifest.
//!
//! A commit writes the manifest under its own name, makes it and its name durable, then overwrites the older
//! slot. The other slot stays whole, so a crash at any step leaves one root that holds.

use std::task::Poll;

use alluvium_io::{
    AlignedBuf, Completion, Device, FileId, IoError, IoErrorKind, Lane, Op, OpenMode, Read, Ticket,
    WriteData,
};
use alluvium_types::{PAGE_SIZE, PARTITION_COUNT};
use std::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

use crate::error::RootError;
use crate::layout::{FORMAT, SLOT_STRIDE, SUPERBLOCK_MAGIC, SuperblockSlot};
use crate::manifest::Manifest;

const FILE: &str = "superblock";

/// Stands in a directory that is being filled by a backup until its superblock is durable, and by a restore until all of it
/// was checked.
pub const UNFINISHED_FILE: &str = "unfinished";
/// Room kept for a full disk. It may be made while the first superblock is on its way.
pub const RESERVE_FILE: &str = "reserve";

/// What a slot of the superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// Identity of the data directory; salts log frames and volume headers.
    pub instance: [u8; 16],
    /// Grows by one at every commit; names the manifest.
    pub seq: u64,
    /// Process lives so far.
    pub incarnation: u32,
    /// Whether the store was closed, so that the log holds nothing new.
    pub clean: bool,
    /// Wall clock at the commit, nanoseconds.
    pub wall_ns: i64,
}

/// No commit has this number or a higher one: 2^40, three thousand years of one in a tenth of a second. Numbers of files are made of it.
const SEQ_LIMIT: u64 = 1 << 40;

/// Name of the manifest with this number.
pub fn manifest_path(seq: u64) -> String {
    format!("manifest.{seq:016}")
}

fn slot_bytes(root: &Root, manifest: &[u8]) -> AlignedBuf {
    let mut slot = SuperblockSlot {
        magic: SUPERBLOCK_MAGIC,
        format: FORMAT.into(),
        clean: u8::from(root.clean),
        reserved: [0; 3],
        features: 0.into(),
        instance: root.instance,
        seq: root.seq.into(),
        manifest_seq: root.seq.into(),
        manifest_len: (manifest.len() as u64).into(),
        manifest_crc: crc32c::crc32c(manifest).into(),
        incarnation: root.incarnation.into(),
        wall_ns: root.wall_ns.into(),
        partitions: (PARTITION_COUNT as u32).into(),
        zero: [0; PAGE_SIZE - 88],
        crc: 0.into(),
    };
    slot.crc = crc32c::crc32c(&slot.as_bytes()[..PAGE_SIZE - 4]).into();
    let mut buffer = AlignedBuf::zeroed(PAGE_SIZE);
    buffer.bytes_mut().copy_from_slice(slot.as_bytes());
    buffer
}

enum SlotVerdict {
    /// Only zeros: never written.
    Blank,
    Whole(Root, Manifest),
    Bad(String),
}

impl SlotVerdict {
    fn reason(self) -> String {
        match self {
            Self::Blank => "never written".to_owned(),
            Self::Whole(..) => "whole".to_owned(),
            Self::Bad(reason) => reason,
        }
    }
}

/// Makes the root that was loaded durable, before anything is built on it. Waits.
///
/// After a kill in the middle of a commit the newest slot, or the superblock's name, may be in the kernel only:
/// what is acknowledged on top of it must not outlive it.
///
/// # Errors
/// If the device fails.
pub fn settle_root(device: &dyn Device) -> Result<(), IoError> {
    let lane = Lane(0);
    let file = open(device, lane, FILE, false)?.0;
    device.submit(lane, Op::Sync { file }).wait(device, lane)?;
    device.submit(lane, Op::Close { file }).wait(device, lane)?;
    device
        .submit(
            lane,
            Op::SyncDir {
                path: String::new(),
            },
        )
        .wait(device, lane)?;
    Ok(())
}

/// The number in a name made of `prefix` and sixteen digits, as this crate and the store above name their
/// files; `None` for any other name, however close.
pub fn numbered(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    let number = digits.parse().ok()?;
    (digits == format!("{number:016}")).then_some(number)
}

/// The slot of the superblock that is not the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherSlot {
    /// Never written: there was one commit only.
    Blank,
    /// The root before the newest, with its manifest.
    Whole(Root, Manifest),
    /// It, or the manifest it names, does not hold: what it named is not known.
    Damaged,
}

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// The newest root that holds.
    pub root: Root,
    /// Its manifest.
    pub manifest: Manifest,
    /// What else there is.
    pub other: OtherSlot,
}

/// Reads the newest root that holds, with its manifest; `None` if the directory is new. Waits.
///
/// # Errors
/// If the directory is foreign, damaged, or of a format this build does not know.
pub fn load_root(device: &dyn Device) -> Result<Option<(Root, Manifest)>, RootError> {
    Ok(load_roots(device)?.map(|roots| (roots.root, roots.manifest)))
}

/// Refuses a directory that a backup or a restore has not ended with.
fn refuse_unfinished(files: &[alluvium_io::Listed]) -> Result<(), RootError> {
    if files.iter().any(|f| f.name == UNFINISHED_FILE) {
        return Err(RootError::Unfinished {
            example: UNFINISHED_FILE,
        });
    }
    Ok(())
}

/// Refuses a directory with anything but what an opening that never ended its first commit leaves.
fn refuse_foreign(device: &dyn Device, files: &[alluvium_io::Listed]) -> Result<(), RootError> {
    refuse_unfinished(files)?;
    // Log or pages without a superblock: something removed it. To begin anew would bury them.
    for dir in ["wal", "vol"] {
        if let Some(file) = device.list(dir)?.first() {
            return Err(RootError::Foreign {
                example: format!("{dir}/{}", file.name),
            });
        }
    }
    let ours = |name: &str| {
        let numbered = |prefix| numbered(name, prefix).is_some();
        let known = ["LOCK", FILE, RESERVE_FILE].contains(&name);
        known || ["manifest.", "tails.", "mend."].into_iter().any(numbered)
    };
    match files.iter().find(|f| !ours(&f.name)) {
        Some(foreign) => Err(RootError::Foreign {
            example: foreign.name.clone(),
        }),
        None => Ok(()),
    }
}

/// Reads both slots of the superblock with their manifests; `None` if the directory is new. Waits.
///
/// # Errors
/// If the directory is foreign, damaged, of a format this build does not know, or a backup or restore that did not end.
pub fn load_roots(device: &dyn Device) -> Result<Option<Roots>, RootError> {
    let files = device.list("")?;
    refuse_unfinished(&files)?;
    read_roots(device, &files)
}

/// [`load_roots`] for a restore that has yet to check what it copied: the superblock is there, and [`UNFINISHED_FILE`], too.
///
/// # Errors
/// As those of [`load_roots`]; a directory without a superblock did not end.
pub fn load_unfinished_roots(device: &dyn Device) -> Result<Option<Roots>, RootError> {
    read_roots(device, &device.list("")?)
}

fn read_roots(
    device: &dyn Device,
    files: &[alluvium_io::Listed],
) -> Result<Option<Roots>, RootError> {
    let lane = Lane(0);
    if !files.iter().any(|f| f.name == FILE) {
        refuse_foreign(device, files)?;
        return Ok(None);
    }
    let file = open(device, lane, FILE, false)?.0;
    let mut reads = [0, SLOT_STRIDE].map(|offset| Read {
        file,
        offset,
        into: AlignedBuf::zeroed(PAGE_SIZE),
    });
    let read = device.read(&mut reads);
    let close = device.submit(lane, Op::Close { file });
    close.wait(device, lane)?;
    read?;
    let [first, second] = &reads;
    let first = check_slot(device, lane, first.into.bytes())?;
    let second = check_slot(device, lane, second.into.bytes())?;
    let other = |verdict| match verdict {
        SlotVerdict::Blank => OtherSlot::Blank,
        SlotVerdict::Whole(root, manifest) => OtherSlot::Whole(root, manifest),
        SlotVerdict::Bad(_) => OtherSlot::Damaged,
    };
    let roots = |root, manifest, rest| {
        Ok(Some(Roots {
            root,
            manifest,
            other: other(rest),
        }))
    };
    match (first, second) {
        (SlotVerdict::Whole(a, of_a), SlotVerdict::Whole(b, of_b)) if a.seq < b.seq => {
            roots(b, of_b, SlotVerdict::Whole(a, of_a))
        }
        (SlotVerdict::Whole(root, manifest), rest) | (rest, SlotVerdict::Whole(root, manifest)) => {
            roots(root, manifest, rest)
        }
        (SlotVerdict::Blank, SlotVerdict::Blank) => {
            refuse_foreign(device, files)?;
            Ok(None)
        }
        // The very first commit was torn: nothing was built on it, if nothing is there.
        (SlotVerdict::Bad(_), SlotVerdict::Blank) | (SlotVerdict::Blank, SlotVerdict::Bad(_))
            if refuse_foreign(device, files).is_ok() =>
        {
            Ok(None)
        }
        (first, second) => Err(RootError::NoSlot {
            first: first.reason(),
            second: second.reason(),
        }),
    }
}

fn open(
    device: &dyn Device,
    lane: Lane,
    path: &str,
    create: bool,
) -> Result<(FileId, u64), IoError> {
    let allocate = if create {
        SLOT_STRIDE + PAGE_SIZE as u64
    } else {
        0
    };
    let mode = OpenMode {
        create,
        allocate,
        direct: false,
    };
    match device
        .submit(
            lane,
            Op::Open {
                path: path.to_owned(),
                mode,
            },
        )
        .wait(device, lane)?
    {
        Completion::Opened { file, len } => Ok((file, len)),
        Completion::Done => Err(IoError::new(
            "open",
            path,
            std::io::Error::other("the device opened nothing"),
        )),
    }
}

fn check_slot(device: &dyn Device, lane: Lane, bytes: &[u8]) -> Result<SlotVerdict, RootError> {
    let Ok(slot) = SuperblockSlot::read_from_bytes(bytes) else {
        return Ok(SlotVerdict::Bad("of the wrong length".into()));
    };
    if bytes.iter().all(|b| *b == 0) {
        return Ok(SlotVerdict::Blank);
    }
    if slot.magic != SUPERBLOCK_MAGIC {
        return Ok(SlotVerdict::Bad("wrong magic".into()));
    }
    if crc32c::crc32c(&bytes[..PAGE_SIZE - 4]) != slot.crc.get() {
        return Ok(SlotVerdict::Bad("wrong checksum".into()));
    }
    if slot.format.get() != FORMAT
        || slot.features.get() != 0
        || slot.partitions.get() != PARTITION_COUNT as u32
    {
        return Err(RootError::Format {
            found: slot.format.get(),
            known: FORMAT,
        });
    }
    if slot.manifest_seq.get() >= SEQ_LIMIT {
        return Ok(SlotVerdict::Bad("a number that no commit has".into()));
    }
    let path = manifest_path(slot.manifest_seq.get());
    let (file, len) = match open(device, lane, &path, false) {
        Ok(opened) => opened,
        Err(error) if error.kind == IoErrorKind::NotFound => {
            return Ok(SlotVerdict::Bad(format!("{path} is missing")));
        }
        Err(error) => return Err(error.into()),
    };
    let wanted = slot.manifest_len.get();
    let close = || device.submit(lane, Op::Close { file }).wait(device, lane);
    if wanted > len {
        close()?;
        return Ok(SlotVerdict::Bad(format!("{path} is too short")));
    }
    let mut reads = [Read {
        file,
        offset: 0,
        into: AlignedBuf::zeroed(wanted as usize),
    }];
    let read = device.read(&mut reads);
    close()?;
    read?;
    let manifest = &reads[0].into.bytes()[..wanted as usize];
    if crc32c::crc32c(manifest) != slot.manifest_crc.get() {
        return Ok(SlotVerdict::Bad(format!(
            "{path} does not match its checksum"
        )));
    }
    let root = Root {
        instance: slot.instance,
        seq: slot.seq.get(),
        incarnation: slot.incarnation.get(),
        clean: slot.clean != 0,
        wall_ns: slot.wall_ns.get(),
    };
    Ok(match Manifest::decode(manifest) {
        Ok(manifest) => SlotVerdict::Whole(root, manifest),
        Err(error) => SlotVerdict::Bad(error.to_string()),
    })
}

#[derive(Debug)]
enum Step {
    OpenManifest(Ticket),
    WriteManifest(FileId, Ticket),
    CloseManifest(Ticket),
    SyncDir(Ticket),
    OpenSlots(Ticket),
    WriteSlot(FileId, Ticket),
    CloseSlots(Ticket),
    /// The very first commit must make the superblock's own name durable.
    SyncRoot(Ticket),
    Ended,
}

/// A commit of a new root in flight; [`RootCommit::poll`] moves it on.
#[derive(Debug)]
pub struct RootCommit {
    lane: Lane,
    root: Root,
    manifest: Vec<u8>,
    step: Step,
}

impl RootCommit {
    /// Starts committing. Everything that `manifest` names must be durable already.
    pub fn start(device: &dyn Device, lane: Lane, root: Root, manifest: &Manifest) -> Self {
        let mode = OpenMode {
            create: true,
            allocate: 0,
            direct: false,
        };
        let ticket = device.submit(
            lane,
            Op::Open {
                path: manifest_path(root.seq),
                mode,
            },
        );
        Self {
            lane,
            root,
            manifest: manifest.encode(),
            step: Step::OpenManifest(ticket),
        }
    }

    /// Whether the step that failed may be done again by another commit of the same number: it wrote nothing a
    /// slot speaks of, and it was no sync whose failure leaves open what is durable. (The manifest is written
    /// whole again, so its own sync counts anew.)
    pub fn may_be_repeated(&self) -> bool {
        matches!(
            self.step,
            Step::OpenManifest(_) | Step::WriteManifest(..) | Step::OpenSlots(_)
        )
    }

    /// Moves on as far as the device allows, without waiting.
    ///
    /// # Errors
    /// The first failure; the old root holds then. What was open is closed.
    pub fn poll(&mut self, device: &dyn Device) -> Poll<Result<(), IoError>> {
        loop {
            let ticket = match &self.step {
                Step::OpenManifest(t)
                | Step::WriteManifest(_, t)
                | Step::CloseManifest(t)
                | Step::SyncDir(t)
                | Step::OpenSlots(t)
                | Step::WriteSlot(_, t)
                | Step::CloseSlots(t)
                | Step::SyncRoot(t) => t,
                Step::Ended => return Poll::Ready(Ok(())),
            };
            let completion = match ticket.result() {
                None => return Poll::Pending,
                Some(Err(error)) => {
                    if let Step::WriteManifest(file, _) | Step::WriteSlot(file, _) = &self.step {
                        drop(device.submit(self.lane, Op::Close { file: *file }));
                    }
                    return Poll::Ready(Err(error));
                }
                Some(Ok(completion)) => completion,
            };
            let opened = match completion {
                Completion::Opened { file, .. } => Some(file),
                Completion::Done => None,
            };
            let submit = |op| device.submit(self.lane, op);
            let write = |file, offset, buffer| Op::Write {
                file,
                offset,
                data: WriteData::Buffer(Arc::new(buffer)),
                sync: true,
            };
            self.step = match (&self.step, opened) {
                (Step::OpenManifest(_), Some(file)) => {
                    let mut buffer = AlignedBuf::zeroed(self.manifest.len());
                    buffer.bytes_mut()[..self.manifest.len()].copy_from_slice(&self.manifest);
                    Step::WriteManifest(file, submit(write(file, 0, buffer)))
                }
                (Step::WriteManifest(file, _), _) => {
                    Step::CloseManifest(submit(Op::Close { file: *file }))
                }
                (Step::CloseManifest(_), _) => Step::SyncDir(submit(Op::SyncDir {
                    path: String::new(),
                })),
                (Step::SyncDir(_), _) => {
                    let mode = OpenMode {
                        create: true,
                        allocate: SLOT_STRIDE + PAGE_SIZE as u64,
                        direct: false,
                    };
                    Step::OpenSlots(submit(Op::Open {
                        path: FILE.into(),
                        mode,
                    }))
                }
                (Step::OpenSlots(_), Some(file)) => {
                    let offset = self.root.seq % 2 * SLOT_STRIDE;
                    Step::WriteSlot(
                        file,
                        submit(write(file, offset, slot_bytes(&self.root, &self.manifest))),
                    )
                }
                (Step::WriteSlot(file, _), _) => {
                    Step::CloseSlots(submit(Op::Close { file: *file }))
                }
                (Step::CloseSlots(_), _) if self.root.seq <= 1 => {
                    Step::SyncRoot(submit(Op::SyncDir {
                        path: String::new(),
                    }))
                }
                _ => Step::Ended,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use alluvium_io::MemoryDevice;

    use super::*;

    #[test]
    fn a_number_that_no_commit_has_is_not_believed() {
        let device = MemoryDevice::new(1);
        for seq in [SEQ_LIMIT - 1, SEQ_LIMIT] {
            let root = Root {
                instance: [7; 16],
                seq,
                incarnation: 3,
                clean: true,
                wall_ns: 5,
            };
            let mut commit = RootCommit::start(&device, Lane(0), root, &Manifest::new());
            while commit.poll(&device).is_pending() {
                device.drive(Lane(0));
            }
            let (root, _) = load_root(&device).unwrap().unwrap();
            assert_eq!(root.seq, SEQ_LIMIT - 1);
        }
    }
}
