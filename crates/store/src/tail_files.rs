//! The tails files that the last superblock names, open for reading records alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use alluvium_io::{AlignedBuf, Device, FileId, IoError, Lane, Op, Read};
use alluvium_nbtree::tail_record_head;
use alluvium_types::PAGE_SIZE;
use parking_lot::RwLock;

use crate::copying::Side;
use crate::ledger::NamedFile;
use crate::mended_tails::{MendedReads, MendedTails};

/// Files there are numbers for. A chain of checkpoints is never longer than half of it: its successor is written while
/// it is still open.
pub(crate) const TAIL_FILES_MAX: usize = 128;
/// The number of no file.
const NO_FILE: u8 = u8::MAX;
/// Stands where a series has no record because it has no points.
const POINTLESS: u8 = NO_FILE - 1;
/// Low bits of a place: the length of the record. The others are its offset.
const LEN_BITS: u32 = 24;
/// Records no further apart than this are read together.
const GAP_BYTES: u64 = 16 << 10;
/// Most bytes that one read joins, unless a record is longer.
const READ_BYTES: u64 = 256 << 10;
/// Reads of one batch.
const READS: usize = 16;

/// Where a record is: 40 bits of offset and 24 of length in a word, and the number of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    file: u8,
    at: u64,
}

impl RecordPlace {
    /// Of a series without points: there is nothing to be read.
    pub(crate) const POINTLESS: Self = Self {
        file: POINTLESS,
        at: 0,
    };

    pub(crate) fn is_pointless(self) -> bool {
        self.file == POINTLESS
    }

    /// `None` if the record is too long, or too far behind: such a series stays in memory.
    pub(crate) fn new(file: u8, offset: u64, len: u64) -> Option<Self> {
        let fits = offset < 1 << (64 - LEN_BITS) && len < 1 << LEN_BITS;
        fits.then_some(Self {
            file,
            at: offset << LEN_BITS | len,
        })
    }

    /// As a number and a word, for those who keep many.
    pub(crate) fn parts(place: Option<Self>) -> (u8, u64) {
        place.map_or((NO_FILE, 0), |p| (p.file, p.at))
    }

    /// What [`Self::parts`] were of. A place that was never set has no length.
    pub(crate) fn of_parts(file: u8, at: u64) -> Option<Self> {
        let place = Self { file, at };
        let is_record = file != NO_FILE && place.len() > 0;
        (is_record || place.is_pointless()).then_some(place)
    }

    /// The number of its file.
    pub(crate) fn file(self) -> u8 {
        self.file
    }

    /// What ascends with where the records are.
    pub(crate) fn order(self) -> (u8, u64) {
        (self.file, self.at)
    }

    pub(crate) fn offset(self) -> u64 {
        self.at >> LEN_BITS
    }

    pub(crate) fn len(self) -> u64 {
        self.at & ((1 << LEN_BITS) - 1)
    }
}

/// One open tails file. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct TailsFile {
    device: Arc<dyn Device>,
    lane: Lane,
    file: FileId,
    named: NamedFile,
}

impl TailsFile {
    pub(crate) fn new(device: Arc<dyn Device>, lane: Lane, file: FileId, named: NamedFile) -> Self {
        Self {
            device,
            lane,
            file,
            named,
        }
    }
}

impl Drop for TailsFile {
    fn drop(&mut self) {
        let file = self.file;
        drop(self.device.submit(self.lane, Op::Close { file }));
    }
}

/// Open files by number. A number is used again only when nobody has the file it was of.
#[derive(Debug, Default)]
pub(crate) struct TailFiles {
    files: RwLock<Vec<Option<Arc<TailsFile>>>>,
    pub mended: Arc<MendedReads>,
}

impl TailFiles {
    /// Gives a file a number; `None` if there is none left, or nobody opened it.
    pub(crate) fn add(&self, file: Option<TailsFile>) -> Option<u8> {
        let file = Arc::new(file?);
        let mut files = self.files.write();
        if let Some(free) = files.iter().position(Option::is_none) {
            files[free] = Some(file);
            return Some(free as u8);
        }
        if files.len() >= TAIL_FILES_MAX {
            return None;
        }
        files.push(Some(file));
        Some(files.len() as u8 - 1)
    }

    /// Closes the files that are not among these. Whoever reads one keeps it open until then, and its number with it.
    pub(crate) fn keep(&self, named: &[NamedFile]) {
        for slot in self.files.write().iter_mut() {
            if slot.as_ref().is_some_and(|f| !named.contains(&f.named)) {
                *slot = None;
            }
        }
    }

    /// The files open now, by number.
    pub(crate) fn open(&self) -> OpenFiles {
        OpenFiles {
            files: self.files.read().clone(),
            mended: Arc::clone(&self.mended),
        }
    }

    /// Notes a file that does not hold.
    pub(crate) fn suspect(&self, file: NamedFile) {
        self.mended.suspects.lock().insert(file.seq);
    }
}

/// The files that were open at one moment; they stay so while this lives. Taken while the places to be read are known to
/// be right: a number may be another file's later.
#[derive(Debug, Default, Clone)]
pub(crate) struct OpenFiles {
    files: Vec<Option<Arc<TailsFile>>>,
    mended: Arc<MendedReads>,
}

impl OpenFiles {
    fn get(&self, number: u8) -> Option<&Arc<TailsFile>> {
        self.files.get(usize::from(number))?.as_ref()
    }

    /// Numbers there may be files of.
    pub(crate) fn numbers(&self) -> usize {
        self.files.len()
    }

    /// The file of a number and its length.
    pub(crate) fn file(&self, number: usize) -> Option<(FileId, u64)> {
        let file = self.files.get(number)?.as_ref()?;
        Some((file.file, file.named.len))
    }

    /// Whether a number is of the same file here and there, or of none in both.
    pub(crate) fn is_alike(&self, other: &Self, number: usize) -> bool {
        let of = |files: &Self| {
            files
                .files
                .get(number)
                .and_then(Option::as_ref)
                .map(Arc::as_ptr)
        };
        of(self) == of(other)
    }

    /// Whether a number is of the same file here and there.
    pub(crate) fn agree_on(&self, other: &Self, number: u8) -> bool {
        let (here, there) = (self.get(number), other.get(number));
        here.zip(there).is_some_and(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// Reads records, in the order of the places. Those that lie together are read together; one that does not hold is read
    /// once more as its mending file gives it back. Waits.
    pub(crate) fn read(
        &self,
        device: &dyn Device,
        places: &[RecordPlace],
    ) -> Result<Vec<Vec<u8>>, IoError> {
        let mut records = vec![Vec::new(); places.len()];
        self.read_joined(device, places, |(_, from), of, bytes| {
            for i in of {
                let begin = (places[*i].offset() - from) as usize;
                let bytes = bytes.get(begin..).unwrap_or_default();
                let bytes = bytes.get(..places[*i].len() as usize);
                records[*i] = bytes.unwrap_or_default().to_vec();
            }
        })?;
        self.mend_records(places, &mut records);
        Ok(records)
    }

    /// Reads those that do not hold once more, as their mending files give them back. What then does not hold stays as it is. Waits.
    fn mend_records(&self, places: &[RecordPlace], records: &mut [Vec<u8>]) {
        let bad = (0..).zip(&*records);
        let bad = bad.filter(|(_, record)| tail_record_head(record).is_err());
        let mut bad: Vec<usize> = bad.map(|(i, _)| i).collect();
        bad.sort_unstable_by_key(|i| places[*i].order());
        for of_file in bad.chunk_by(|a, b| places[*a].file == places[*b].file) {
            let Some(file) = of_file.first().and_then(|i| self.get(places[*i].file)) else {
                continue;
            };
            let mut mended = self.mended(file);
            for i in of_file {
                let place = places[*i];
                if let Ok(again) = mended.read(place.offset(), place.len() as usize) {
                    let again = again.bytes().iter();
                    records[*i]
                        .iter_mut()
                        .zip(again)
                        .for_each(|(to, from)| *to = *from);
                }
            }
            self.note_mended(&mended);
        }
    }

    /// A file as its mending file gives it back, because it does not hold. Waits.
    fn mended<'a>(&self, file: &'a TailsFile) -> MendedTails<'a> {
        let side = Side {
            device: file.device.as_ref(),
            lane: file.lane,
        };
        self.mended.suspects.lock().insert(file.named.seq);
        MendedTails::new(side, file.file, file.named)
    }

    fn note_mended(&self, read: &MendedTails<'_>) {
        let pages = read.mended.len() as u64;
        self.mended.pages.fetch_add(pages, Ordering::Relaxed);
    }

    /// Reads a stretch of one file, and what of it cannot be read as its mending file gives it back. Waits.
    pub(crate) fn read_stretch(
        &self,
        device: &dyn Device,
        number: u8,
        read: Read,
    ) -> Result<Read, IoError> {
        let mut reads = [read];
        let result = device.read(&mut reads);
        let [mut read] = reads;
        if let Err(error) = result {
            let file = self.get(number).ok_or_else(closed)?;
            let mut mended = self.mended(file);
            let again = mended.read(read.offset, read.into.len());
            read.into = again.map_err(|_| error)?;
            self.note_mended(&mended);
        }
        Ok(read)
    }

    /// Reads records and what lies between those that lie together: `visit` gets file, offset and bytes of each stretch, from
    /// the begin of a record to the end of one. Waits.
    pub(crate) fn read_spans(
        &self,
        device: &dyn Device,
        places: &[RecordPlace],
        mut visit: impl FnMut((u8, u64), &[u8]),
    ) -> Result<(), IoError> {
        self.read_joined(device, places, |(file, from), of, bytes| {
            let (Some(first), Some(last)) = (of.first(), of.last()) else {
                return;
            };
            let (begin, last) = (places[*first].offset(), places[*last]);
            let inside = (begin - from) as usize..(last.offset() + last.len() - from) as usize;
            visit((file, begin), bytes.get(inside).unwrap_or_default());
        })
    }

    /// Reads records, those together that lie together: `visit` gets file and offset of each read, which places lie there,
    /// in their order, and its bytes.
    fn read_joined(
        &self,
        device: &dyn Device,
        places: &[RecordPlace],
        mut visit: impl FnMut((u8, u64), &[usize], &[u8]),
    ) -> Result<(), IoError> {
        let page = PAGE_SIZE as u64;
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_unstable_by_key(|i| places[*i].order());
        // Begin, end, and which of `order` lie there.
        let mut spans: Vec<(u8, u64, u64, std::ops::Range<usize>)> = Vec::new();
        for (n, i) in order.iter().enumerate() {
            let place = places[*i];
            let begin = place.offset() - place.offset() % page;
            let end = (place.offset() + place.len()).next_multiple_of(page);
            match spans.last_mut() {
                Some((file, from, to, of))
                    if *file == place.file
                        && begin <= *to + GAP_BYTES
                        && end.max(*to) - *from <= READ_BYTES =>
                {
                    *to = end.max(*to);
                    of.end = n + 1;
                }
                _ => spans.push((place.file, begin, end, n..n + 1)),
            }
        }
        for spans in spans.chunks(READS) {
            let mut reads = Vec::with_capacity(spans.len());
            for (file, from, to, _) in spans {
                let file = self.get(*file).ok_or_else(closed)?;
                reads.push(Read {
                    file: file.file,
                    offset: *from,
                    into: AlignedBuf::zeroed((to - from) as usize),
                });
            }
            if device.read(&mut reads).is_err() {
                let of = spans.iter().map(|(file, ..)| *file);
                let alone = of.zip(reads);
                let alone = alone.map(|(file, read)| self.read_stretch(device, file, read));
                reads = alone.collect::<Result<_, _>>()?;
            }
            for ((file, from, _, of), read) in spans.iter().zip(&reads) {
                visit((*file, *from), &order[of.clone()], read.into.bytes());
            }
        }
        Ok(())
    }
}

fn closed() -> IoError {
    let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
    IoError::new("read", "a tails file that is no longer open", cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_back_and_too_large_ones_refused() {
        let place = RecordPlace::new(3, (1 << 40) - 1, (1 << 24) - 1).unwrap();
        assert_eq!(place.offset(), (1 << 40) - 1);
        assert_eq!(place.len(), (1 << 24) - 1);
        let (file, at) = RecordPlace::parts(Some(place));
        assert_eq!(RecordPlace::of_parts(file, at), Some(place));
        assert_eq!(RecordPlace::new(3, 1 << 40, 1), None);
        assert_eq!(RecordPlace::new(3, 0, 1 << 24), None);
        let (file, at) = RecordPlace::parts(None);
        assert_eq!(RecordPlace::of_parts(file, at), None);
        assert_eq!(RecordPlace::of_parts(0, 0), None);
    }
}
