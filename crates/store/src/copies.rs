//! Two files that should be the same: what holds of either of them, and making both whole again.
//!
//! The blocks of a segment have checksums of their own, so a segment is whole as long as no block has rotted in both of its
//! files. Definitions have one checksum over all.

use std::sync::Arc;

use alluvium_index::{Segment, SegmentError, SegmentFile, merge_segments};
use alluvium_io::{AlignedBuf, Device, FileId, IoError, Lane, Op, Read};
use alluvium_types::PAGE_SIZE;
use parking_lot::Mutex;

use crate::copying::Side;
use crate::error::OpenError;
use crate::ledger::{Ledger, NamedFile};
use crate::named_file::read_named;

/// Bytes written at a time.
const PIECE_BYTES: usize = 1 << 20;

/// One of the two.
#[derive(Debug, Clone, Default)]
struct Image {
    bytes: Vec<u8>,
    /// What was found wrong first.
    what: Option<String>,
    /// It has to be made anew, with its name.
    is_missing: bool,
    /// Pages that differ from what is on the device.
    changed: Vec<usize>,
}

impl Image {
    /// As far as it can be read: what cannot is zero.
    fn read(device: &dyn Device, path: &str, len: usize) -> Self {
        let mut image = Self::default();
        let opened = open_to_read(device, path);
        let (file, there) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                image.what = Some(error.to_string());
                image.is_missing = true;
                return image;
            }
        };
        image.bytes = vec![0; len];
        if (there as usize) < len {
            image.what = Some("it is short".to_owned());
            image.is_missing = true;
        }
        for (i, piece) in image.bytes.chunks_mut(PIECE_BYTES).enumerate() {
            let at = i * PIECE_BYTES;
            if read_into(device, file, at as u64, piece).is_ok() {
                continue;
            }
            // A sector that cannot be read takes none of the others with it.
            for (j, page) in piece.chunks_mut(PAGE_SIZE).enumerate() {
                let at = at + j * PAGE_SIZE;
                if let Err(error) = read_into(device, file, at as u64, page) {
                    image.what.get_or_insert_with(|| error.to_string());
                    image.changed.push(at / PAGE_SIZE);
                }
            }
        }
        drop(device.submit(Lane(0), Op::Close { file }));
        image
    }

    /// Takes what could not be read from the other one.
    fn fill_from(&mut self, other: &Self) {
        if self.bytes.is_empty() {
            self.bytes.clone_from(&other.bytes);
        }
        for page in &self.changed {
            let end = self.bytes.len().min((page + 1) * PAGE_SIZE);
            let range = page * PAGE_SIZE..end;
            if let (Some(to), Some(from)) =
                (self.bytes.get_mut(range.clone()), other.bytes.get(range))
                && !other.changed.contains(page)
            {
                to.copy_from_slice(from);
            }
        }
    }

    /// Takes what holds in the other one.
    fn patch(&mut self, offset: usize, with: &[u8], what: impl FnOnce() -> String) {
        self.what.get_or_insert_with(what);
        if let Some(place) = self.bytes.get_mut(offset..offset + with.len()) {
            place.copy_from_slice(with);
            let pages = offset / PAGE_SIZE..=(offset + with.len() - 1) / PAGE_SIZE;
            self.changed.extend(pages);
        }
    }

    /// Writes what was patched, and makes it durable. Waits.
    fn write(&mut self, to: Side<'_>, path: &str) -> Result<(), IoError> {
        let (file, _) = to.open(path, true)?;
        let written = self.write_to(to, file);
        let closed = to.close(file);
        written.and(closed)?;
        if self.is_missing {
            to.sync_dir("")?;
        }
        Ok(())
    }

    fn write_to(&mut self, to: Side<'_>, file: FileId) -> Result<(), IoError> {
        if self.is_missing {
            for (i, piece) in self.bytes.chunks(PIECE_BYTES).enumerate() {
                to.write(file, (i * PIECE_BYTES) as u64, piece)?;
            }
        } else {
            self.changed.sort_unstable();
            self.changed.dedup();
            for page in &self.changed {
                let at = page * PAGE_SIZE;
                let end = self.bytes.len().min(at + PAGE_SIZE);
                to.write(file, at as u64, self.bytes.get(at..end).unwrap_or_default())?;
            }
        }
        to.run(Op::Sync { file }).map(drop)
    }
}

/// A file and its copy, as they were found.
#[derive(Debug)]
pub(crate) struct Copies {
    paths: [String; 2],
    images: [Image; 2],
    /// Why they are not whole even together.
    lost: Option<String>,
}

impl Copies {
    /// Reads both files of a segment and each of their blocks. Waits; takes the memory of both, and of a third.
    pub(crate) fn of_segment(device: &dyn Device, file: NamedFile) -> Self {
        let found = Segments::read(device, file);
        let found = Arc::new(found);
        let opened = Segment::open(Arc::<Segments>::clone(&found)).map(Arc::new);
        let checked = opened.and_then(|segment| {
            merge_segments(&[Arc::clone(&segment)])?;
            // It goes on without that; what it was is not known.
            segment.filter_lost().cloned().map_or(Ok(()), Err)
        });
        let lost = checked.err().map(|error| error.to_string());
        let images = std::mem::take(&mut *found.images.lock());
        let paths = file.index_paths();
        Self {
            paths,
            images,
            lost,
        }
    }

    /// Reads both files of definitions. Waits; takes the memory of both.
    pub(crate) fn of_definitions(device: &dyn Device, file: NamedFile) -> Self {
        let paths = file.series_paths();
        let mut images = [Image::default(), Image::default()];
        let read = [0, 1].map(|i| read_named(device, &paths[i], file));
        for (image, read) in images.iter_mut().zip(&read) {
            image.what = read.as_ref().err().map(ToString::to_string);
            image.is_missing = read.is_err();
        }
        let whole = read.into_iter().find_map(Result::ok);
        let lost = whole.is_none().then(|| "neither file holds".to_owned());
        for image in images.iter_mut().filter(|image| image.is_missing) {
            image.bytes = whole.clone().unwrap_or_default();
        }
        Self {
            paths,
            images,
            lost,
        }
    }

    /// Whether something holds in neither.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// What is wrong: the file, and what did not hold.
    pub(crate) fn findings(&self) -> Vec<(String, String)> {
        let rotten = self.images.iter().enumerate();
        let rotten = rotten.filter_map(|(i, image)| Some((i, image.what.clone()?)));
        // One finding a file.
        let mut found: Vec<(usize, String)> = rotten.collect();
        match &self.lost {
            None => {
                let says = "; the other copy holds there";
                found.iter_mut().for_each(|(_, what)| what.push_str(says));
            }
            Some(what) => match found.first_mut() {
                Some((_, first)) => *first = format!("{first}; in neither: {what}"),
                None => found.push((0, what.clone())),
            },
        }
        let found = found.into_iter();
        found
            .map(|(i, what)| (self.paths[i].clone(), what))
            .collect()
    }

    /// Writes anew what does not hold in one of the two and does in the other. Where something holds in neither both stay as they
    /// are: a part that cannot be read just now may be its only whole copy. Waits.
    ///
    /// # Errors
    /// If it cannot be written: nothing is worse than before.
    pub(crate) fn repair(&mut self, device: &dyn Device) -> Result<(), IoError> {
        if self.lost.is_some() {
            return Ok(());
        }
        let to = Side {
            device,
            lane: Lane(0),
        };
        for (image, path) in self.images.iter_mut().zip(&self.paths) {
            if image.what.is_some() {
                image.write(to, path)?;
            }
        }
        Ok(())
    }
}

/// Everything that a ledger names twice, one after the other.
pub(crate) fn copies_of(device: &dyn Device, ledger: &Ledger) -> impl Iterator<Item = Copies> {
    let definitions = ledger.series.iter();
    let definitions = definitions.map(move |file| Copies::of_definitions(device, *file));
    let segments = ledger.segments.iter();
    definitions.chain(segments.map(move |s| Copies::of_segment(device, s.file)))
}

/// Both files of a segment, in memory.
#[derive(Debug)]
struct Segments {
    len: usize,
    images: Mutex<[Image; 2]>,
}

impl Segments {
    fn read(device: &dyn Device, file: NamedFile) -> Self {
        let len = file.len as usize;
        let paths = file.index_paths();
        let mut images = paths.map(|path| Image::read(device, &path, len));
        // What is between blocks is the same in both, too.
        let [first, copy] = &mut images;
        first.fill_from(copy);
        copy.fill_from(first);
        Self {
            len,
            images: Mutex::new(images),
        }
    }
}

impl SegmentFile for Segments {
    fn len(&self) -> u64 {
        self.len as u64
    }

    fn read(
        &self,
        offset: u64,
        bytes: usize,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), SegmentError> {
        let mut images = self.images.lock();
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = at.saturating_add(bytes);
        let part = |image: &Image| image.bytes.get(at..end).map(<[u8]>::to_vec);
        let parts = [part(&images[0]), part(&images[1])];
        let hold = parts
            .each_ref()
            .map(|p| p.as_deref().is_some_and(&mut *visit));
        let what = || format!("the block at {offset} does not hold");
        match (&parts, hold) {
            ([Some(good), _], [true, false]) => images[1].patch(at, good, what),
            ([_, Some(good)], [false, true]) => images[0].patch(at, good, what),
            _ => {}
        }
        Ok(())
    }
}

/// A segment of a directory that is not open, for whoever saves what is left. Reads all of it into memory.
pub(crate) fn segment_of(
    device: &dyn Device,
    file: NamedFile,
) -> Result<Arc<Segment>, SegmentError> {
    Segment::open(Arc::new(Segments::read(device, file))).map(Arc::new)
}

/// Definitions that the manifest names, from the file or from its copy. Waits.
pub(crate) fn read_definitions(device: &dyn Device, file: NamedFile) -> Result<Vec<u8>, OpenError> {
    let [first, copy] = file.series_paths();
    let read = read_named(device, &first, file);
    read.or_else(|error| read_named(device, &copy, file).map_err(|_| error))
}

/// The first `len` bytes of a file, or as many as there are. Waits.
pub(crate) fn read_whole(device: &dyn Device, path: &str, len: u64) -> Result<Vec<u8>, IoError> {
    let (file, there) = open_to_read(device, path)?;
    let mut bytes = vec![0; len.min(there) as usize];
    let read = read_into(device, file, 0, &mut bytes);
    drop(device.submit(Lane(0), Op::Close { file }));
    read.map(|()| bytes)
}

/// Opens a file past the page cache of the system, which would hide what has become of it. Waits.
fn open_to_read(device: &dyn Device, path: &str) -> Result<(FileId, u64), IoError> {
    let side = Side {
        device,
        lane: Lane(0),
    };
    side.open(path, false)
}

/// Reads from a place that is whole pages into the file.
fn read_into(
    device: &dyn Device,
    file: FileId,
    offset: u64,
    bytes: &mut [u8],
) -> Result<(), IoError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut reads = [Read {
        file,
        offset,
        into: AlignedBuf::zeroed(bytes.len().next_multiple_of(PAGE_SIZE)),
    }];
    device.read(&mut reads)?;
    bytes.copy_from_slice(&reads[0].into.bytes()[..bytes.len()]);
    Ok(())
}
