//! The tails files that the last superblock names, open for reading records alone.

use std::sync::Arc;

use alluvium_io::{AlignedBuf, Device, FileId, IoError, Lane, Op, Read};
use alluvium_types::PAGE_SIZE;
use parking_lot::RwLock;

use crate::ledger::NamedFile;

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
        OpenFiles(self.files.read().clone())
    }
}

/// The files that were open at one moment; they stay so while this lives. Taken while the places to be read are known to
/// be right: a number may be another file's later.
#[derive(Debug, Default, Clone)]
pub(crate) struct OpenFiles(Vec<Option<Arc<TailsFile>>>);

impl OpenFiles {
    fn get(&self, number: u8) -> Option<&Arc<TailsFile>> {
        self.0.get(usize::from(number))?.as_ref()
    }

    /// Numbers there may be files of.
    pub(crate) fn numbers(&self) -> usize {
        self.0.len()
    }

    /// The file of a number and its length.
    pub(crate) fn file(&self, number: usize) -> Option<(FileId, u64)> {
        let file = self.0.get(number)?.as_ref()?;
        Some((file.file, file.named.len))
    }

    /// Whether a number is of the same file here and there, or of none in both.
    pub(crate) fn is_alike(&self, other: &Self, number: usize) -> bool {
        let of = |files: &Self| {
            files
                .0
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

    /// Reads records, in the order of the places. Those that lie together are read together. Waits.
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
        Ok(records)
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
            device.read(&mut reads)?;
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
