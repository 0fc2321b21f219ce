//! One volume: a file of pages with a header in page 0.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use alluvium_codec::{CodecError, varint};
use alluvium_io::{
    Completion, Device, FileId, IoError, Lane, Op, OpenMode, PageBuf, Ticket, WriteData,
};
use alluvium_types::{DatabaseId, Lsn, PAGE_SIZE};
use parking_lot::Mutex;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use crate::error::RootError;
use crate::layout::{VOLUME_MAGIC, VolumeHeader};
use crate::logic_addr::LogicAddr;
use crate::page::{Page, PageDraft, PageKind, PageMeta};
use crate::retention::VolumeTimes;
use crate::space::Holes;

/// Which of a database's two volume sets: inner pages outlive leaves, so they are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// Leaves and overflow pages.
    Leaves = 1,
    /// Inner pages.
    Inners = 2,
}

impl Role {
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Leaves, Self::Inners]
            .into_iter()
            .find(|r| *r as u8 == number)
    }
}

/// The volumes of one database and role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeSetId {
    /// Owner.
    pub database: DatabaseId,
    /// Which of its two sets.
    pub role: Role,
}

impl VolumeSetId {
    pub(crate) fn get(r: &mut &[u8]) -> Result<Self, CodecError> {
        let database = DatabaseId(varint::get_u64(r)? as u32);
        let number = varint::get_u64(r)? as u8;
        // An unknown role reads as leaves: its pages are checked before anyone believes them.
        Ok(Self {
            database,
            role: Role::from_number(number).unwrap_or(Role::Leaves),
        })
    }
}

/// Where the volume of this number is.
pub fn volume_path(id: u32) -> String {
    format!("vol/{id:08}")
}

#[derive(Debug)]
enum FileState {
    /// Nothing has been written yet: the file does not exist.
    Absent,
    Opening(Ticket),
    Open(FileId),
    Failed(IoError),
}

/// A volume of a store.
#[derive(Debug)]
pub(crate) struct Volume {
    pub id: u32,
    pub generation: u32,
    pub set: VolumeSetId,
    /// Capacity, page 0 included.
    pub pages: u32,
    file: Mutex<FileState>,
    /// Written since the last sync of it was submitted.
    pub dirty: AtomicBool,
    /// Page 0 has reached the device: from then on a manifest may name the volume.
    pub header_written: AtomicBool,
    /// A sync of the directory was submitted after the header was written. Not earlier: the file may have been made
    /// behind a sync that an earlier checkpoint submitted, which then does not keep its name.
    pub name_synced: AtomicBool,
    /// Pages appended, for figures.
    pub appended: AtomicU64,
    /// Bytes of them that mean something, headers included.
    pub used: AtomicU64,
    /// First page that belongs to no extent yet.
    pub handed_out: AtomicU32,
    /// It holds pages of long strings.
    pub has_overflow: AtomicBool,
    pub holes: Mutex<Holes>,
    /// There may be some: whoever reads a volume without takes no lock to learn it.
    pub has_holes: AtomicBool,
    /// Of the points in or below its pages.
    pub times: VolumeTimes,
}

impl Volume {
    pub(crate) fn new(
        id: u32,
        generation: u32,
        set: VolumeSetId,
        pages: u32,
        (appended, used): (u64, u64),
        times: VolumeTimes,
    ) -> Self {
        Self {
            id,
            generation,
            set,
            pages,
            file: Mutex::new(FileState::Absent),
            dirty: AtomicBool::new(false),
            header_written: AtomicBool::new(false),
            name_synced: AtomicBool::new(false),
            appended: AtomicU64::new(appended),
            used: AtomicU64::new(used),
            handed_out: AtomicU32::new(1),
            has_overflow: AtomicBool::new(false),
            holes: Mutex::default(),
            has_holes: AtomicBool::new(false),
            times,
        }
    }

    /// Where it is, how much it holds and since when: its row of a manifest.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        for number in [
            u64::from(self.id),
            u64::from(self.generation),
            u64::from(self.set.database.0),
            self.set.role as u64,
            u64::from(self.pages),
            self.appended.load(Ordering::Relaxed),
            self.used.load(Ordering::Relaxed),
        ] {
            varint::put_u64(out, number);
        }
        self.times.put(out);
        varint::put_u64(out, self.handed_out.load(Ordering::Acquire).into());
        varint::put_u64(out, self.has_overflow.load(Ordering::Relaxed).into());
        self.holes.lock().put(out);
    }

    /// Reads what [`Self::put`] wrote.
    pub(crate) fn get(r: &mut &[u8]) -> Result<Self, CodecError> {
        let u32_of = |r: &mut &[u8]| varint::get_u64(r).map(|v| v as u32);
        let (id, generation) = (u32_of(r)?, u32_of(r)?);
        let set = VolumeSetId::get(r)?;
        let (pages, filled) = (u32_of(r)?, (varint::get_u64(r)?, varint::get_u64(r)?));
        let times = VolumeTimes::get(r)?;
        let mut volume = Self::new(id, generation, set, pages, filled, times);
        let handed_out = u32_of(r)?;
        if !(1..=pages).contains(&handed_out) {
            return Err(CodecError::Invalid {
                field: "end of a volume",
                value: handed_out.into(),
            });
        }
        *volume.handed_out.get_mut() = handed_out;
        *volume.has_overflow.get_mut() = varint::get_u64(r)? != 0;
        let holes = Holes::get(r)?;
        *volume.has_holes.get_mut() = holes != Holes::default();
        *volume.holes.get_mut() = holes;
        Ok(volume)
    }

    pub(crate) fn path(&self) -> String {
        volume_path(self.id)
    }

    fn open_op(&self, create: bool) -> Op {
        Op::Open {
            path: self.path(),
            mode: OpenMode {
                create,
                allocate: 0,
                direct: true,
            },
        }
    }

    /// The open file; starts creating it if need be. `None` while it opens.
    pub(crate) fn file_for_writing(
        &self,
        device: &dyn Device,
        lane: Lane,
    ) -> Result<Option<FileId>, IoError> {
        let mut state = self.file.lock();
        if let FileState::Opening(ticket) = &*state {
            match ticket.result() {
                None => return Ok(None),
                Some(Ok(Completion::Opened { file, .. })) => *state = FileState::Open(file),
                Some(Ok(Completion::Done)) => *state = FileState::Absent,
                Some(Err(error)) => *state = FileState::Failed(error),
            }
        }
        match &*state {
            FileState::Open(file) => Ok(Some(*file)),
            FileState::Failed(error) => {
                let error = error.clone();
                // The next attempt starts afresh: the disk may have room then.
                *state = FileState::Absent;
                Err(error)
            }
            FileState::Absent => {
                *state = FileState::Opening(device.submit(lane, self.open_op(true)));
                Ok(None)
            }
            FileState::Opening(_) => Ok(None),
        }
    }

    /// The open file, if there is one.
    pub(crate) fn file(&self) -> Option<FileId> {
        match &*self.file.lock() {
            FileState::Open(file) => Some(*file),
            FileState::Opening(ticket) => match ticket.result() {
                Some(Ok(Completion::Opened { file, .. })) => Some(file),
                _ => None,
            },
            _ => None,
        }
    }

    /// Takes the open file out, to close it; an error while it is being opened.
    pub(crate) fn take_file(&mut self) -> Result<Option<FileId>, ()> {
        let file = self.file();
        let state = self.file.get_mut();
        if let FileState::Opening(ticket) = &*state
            && !ticket.is_ended()
        {
            return Err(());
        }
        *state = FileState::Absent;
        Ok(file)
    }

    /// Opens an existing file and checks its header. One that has rotted is written anew, if it is to be `mended` in this life:
    /// all of it is known, and pages prove themselves. Waits.
    pub(crate) fn open_existing(
        &self,
        device: &dyn Device,
        lane: Lane,
        instance: [u8; 16],
        mended: Option<u32>,
    ) -> Result<(), RootError> {
        let file = self.open_file(device, lane)?;
        let mended = mended.map(|incarnation| (lane, incarnation));
        let checked = self.check_header(device, file, instance, mended);
        if checked.is_err() {
            drop(device.submit(lane, Op::Close { file }));
            return checked;
        }
        *self.file.lock() = FileState::Open(file);
        self.header_written.store(true, Ordering::Release);
        // The manifest names it: it was synced before that.
        self.name_synced.store(true, Ordering::Release);
        Ok(())
    }

    fn open_file(&self, device: &dyn Device, lane: Lane) -> Result<FileId, RootError> {
        let bad = |problem| RootError::Volume {
            volume: self.id,
            problem,
        };
        match device.submit(lane, self.open_op(false)).wait(device, lane) {
            Ok(Completion::Opened { file, .. }) => Ok(file),
            Ok(Completion::Done) => Err(bad("not openable")),
            Err(error) if error.kind == alluvium_io::IoErrorKind::NotFound => Err(bad("missing")),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads page 0 from the device and checks that it is this volume's; `mended`: on which lane and in which life one that has
    /// rotted is written anew. Waits.
    pub(crate) fn check_header(
        &self,
        device: &dyn Device,
        file: FileId,
        instance: [u8; 16],
        mended: Option<(Lane, u32)>,
    ) -> Result<(), RootError> {
        let bad = |problem| RootError::Volume {
            volume: self.id,
            problem,
        };
        let mut reads = [alluvium_io::Read {
            file,
            offset: 0,
            into: alluvium_io::AlignedBuf::zeroed(PAGE_SIZE),
        }];
        let read = device.read(&mut reads);
        let [first] = reads;
        let header = read.as_ref().ok().and_then(|()| {
            let page = Page::from_buffer(PageBuf::from_buffer(first.into)?).ok()?;
            Some(VolumeHeader::read_from_prefix(page.body()).ok()?.0)
        });
        let Some(header) = header else {
            let Some((lane, incarnation)) = mended else {
                read?;
                return Err(bad("damaged in its header"));
            };
            let write = Op::Write {
                file,
                offset: 0,
                data: WriteData::Pages(vec![self.header_page(instance, incarnation)]),
                sync: true,
            };
            device.submit(lane, write).wait(device, lane)?;
            return Ok(());
        };
        if header.magic != VOLUME_MAGIC || header.instance != instance {
            return Err(bad("of another data directory"));
        }
        if header.volume.get() != self.id || header.generation.get() != self.generation {
            return Err(bad("of another life than the manifest says"));
        }
        if header.pages.get() != self.pages {
            return Err(bad("of another size than the manifest says"));
        }
        Ok(())
    }

    /// Page 0.
    pub(crate) fn header_page(&self, instance: [u8; 16], incarnation: u32) -> Arc<PageBuf> {
        let header = VolumeHeader {
            magic: VOLUME_MAGIC,
            instance,
            volume: self.id.into(),
            generation: self.generation.into(),
            database: self.set.database.0.into(),
            role: self.set.role as u8,
            reserved: [0; 3],
            pages: self.pages.into(),
            page_bytes: U32::new(PAGE_SIZE as u32),
        };
        let mut draft = PageDraft::new();
        draft.body_mut()[..size_of::<VolumeHeader>()].copy_from_slice(header.as_bytes());
        draft.set_used(size_of::<VolumeHeader>());
        let meta = PageMeta {
            kind: PageKind::Volume,
            database: self.set.database,
            series: 0,
            run_ordinal: 0,
            leaf_ordinal: 0,
            lsn: Lsn(0),
            items: 0,
            level: 0,
            flags: 0,
        };
        draft
            .seal(
                LogicAddr {
                    volume: self.id,
                    page: 0,
                },
                self.generation,
                incarnation,
                &meta,
            )
            .0
    }

    /// Notes that pages from `first_page` on have reached the device.
    pub(crate) fn mark_written(&self, first_page: u32) {
        self.dirty.store(true, Ordering::Release);
        if first_page == 0 {
            self.header_written.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_outside_of_the_volume_is_refused() {
        let set = VolumeSetId {
            database: DatabaseId(1),
            role: Role::Leaves,
        };
        let volume = Volume::new(3, 1, set, 64, (0, 0), VolumeTimes::new(0));
        for (end, holds) in [
            (0, false),
            (1, true),
            (64, true),
            (65, false),
            (u32::MAX, false),
        ] {
            volume.handed_out.store(end, Ordering::Release);
            let mut bytes = Vec::new();
            volume.put(&mut bytes);
            assert_eq!(Volume::get(&mut bytes.as_slice()).is_ok(), holds, "{end}");
        }
    }
}
