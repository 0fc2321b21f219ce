//! Any log behind a checkpoint, and any damage of any file: a store opens or is refused by name, verifying and salvaging
//! end, and nothing panics.
//!
//! With an even first byte the rest is a list of log entries, a byte each and what they need, in sections of whole frames
//! that follow those of the directory: what checksums would keep from ever reaching recovery. With an odd one it says which
//! file is damaged, where and how.
#![no_main]

use std::sync::Arc;

use alluvium_codec::crc32c;
use alluvium_fuzz::{overwrite, read_file, store};
use alluvium_io::{Device, MemoryDevice};
use alluvium_store::{SystemClock, salvage, verify};
use alluvium_types::{
    DatabaseId, FieldId, Lsn, Partition, Row, RowSet, SeriesKey, TimeRange, ValueKind,
};
use alluvium_wal::{Among, PointGroup, SectionBuilder, Tombstone};
use libfuzzer_sys::fuzz_target;

const HEADER_BYTES: usize = 72;
const BLOCK: usize = 4096;
/// A bit of the first byte: everything is read again behind a checkpoint.
const READ_AGAIN: u8 = 0x08;

/// What follows the opening, of which one input in 32 has all, and most nothing: a salvage takes four times as long.
struct Behind {
    verify: bool,
    checkpoint: bool,
    salvage: bool,
}

impl Behind {
    fn of(data: &[u8]) -> Self {
        let share = alluvium_fuzz::share(data);
        Self {
            verify: share <= 4,
            checkpoint: share == 0 || (5..=8).contains(&share),
            salvage: share == 0 || share == 9,
        }
    }
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u64 {
        let len = usize::from(self.byte() % 9).min(self.0.len());
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        let mut word = [0; 8];
        word[..len].copy_from_slice(head);
        u64::from_le_bytes(word)
    }

    fn some(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte() % 24).min(self.0.len());
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        head
    }
}

fn group(bytes: &mut Bytes<'_>) -> PointGroup {
    let mut group = PointGroup::default();
    let how = bytes.byte();
    for field in 0..u32::from(how & 3) {
        let kind = ValueKind::ALL[usize::from(bytes.byte()) % ValueKind::ALL.len()];
        group.fields.push((FieldId(field), kind));
    }
    for line in 0..u64::from(how >> 4) {
        group.rows.push(Row(u32::from(bytes.byte() % 8)));
        group.times.push(bytes.word() as i64);
        for (_, kind) in group.fields.clone() {
            match kind {
                ValueKind::Str => {
                    group.bits.push(group.strings.len() as u64);
                    group
                        .strings
                        .push(["", "open", "closed"][line as usize % 3]);
                }
                ValueKind::Bool => group.bits.push(u64::from(bytes.byte() & 1)),
                _ => group.bits.push(bytes.word()),
            }
        }
    }
    group
}

fn tombstone(bytes: &mut Bytes<'_>) -> Option<Tombstone> {
    let first = u32::from(bytes.byte() % 8);
    let mut rows = RowSet::default();
    rows.push_run(Row(first), Row(first + u32::from(bytes.byte() % 4)));
    let (a, b) = (bytes.word() as i64, bytes.word() as i64);
    Some(Tombstone {
        rows,
        field: (bytes.byte() & 1 == 0).then_some(FieldId(0)),
        among: [Among::All, Among::Numbers, Among::Texts][usize::from(bytes.byte() % 3)],
        range: TimeRange::new(a.min(b), a.max(b)).ok()?,
    })
}

/// One section of entries, up to one that ends it.
fn section(bytes: &mut Bytes<'_>, out: &mut SectionBuilder) {
    let how = bytes.byte();
    let lsn = if how & 0x80 == 0 {
        u64::from(how >> 2 & 0xf)
    } else {
        bytes.word()
    };
    let database = DatabaseId(u32::from(how & 3));
    let partition = Partition(bytes.byte() % 64);
    out.begin(database, partition, Lsn(lsn));
    while !bytes.0.is_empty() {
        let id = DatabaseId(u32::from(bytes.byte() & 3));
        match bytes.byte() % 12 {
            0 => out.create_database(id, "another", 7, bytes.some()),
            1 => out.drop_database(id),
            2 => out.settings(id, bytes.some()),
            3 => out.cut(id, bytes.some()),
            4 => {
                let host = format!("h{}", bytes.byte() % 8);
                let key = SeriesKey::new("m", [("host", host)]).expect("one tag");
                out.row(Row(u32::from(bytes.byte() % 8)), &key);
            }
            5 => out.field("m", FieldId(u32::from(bytes.byte() % 4)), "value"),
            6..=8 => out.points(&group(bytes)),
            9 => out.delete(&tombstone(bytes).into_iter().collect::<Vec<_>>()),
            10 => out.mark(bytes.word()),
            _ => return,
        }
    }
}

/// Puts a frame with these sections behind those of the stream's segment.
fn append_frame(segment: &mut Vec<u8>, payload: &[u8]) {
    let mut end = 0;
    while segment[end..].starts_with(b"ALVF") {
        let len = u32::from_le_bytes(segment[end + 8..end + 12].try_into().unwrap());
        end += (HEADER_BYTES + len as usize).next_multiple_of(BLOCK);
    }
    let Some(before) = end.checked_sub(BLOCK) else {
        return;
    };
    // All frames of the directory's log but those of its points are of one block.
    let before = (0..=before)
        .rev()
        .step_by(BLOCK)
        .find(|at| segment[*at..].starts_with(b"ALVF"))
        .expect("there are frames");
    let mut header: [u8; HEADER_BYTES] = segment[before..][..HEADER_BYTES].try_into().unwrap();
    let previous: [u8; 4] = header[4..8].try_into().unwrap();
    let seq = u64::from_le_bytes(header[40..48].try_into().unwrap()) + 1;
    header[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[12..16].copy_from_slice(&crc32c(payload).to_le_bytes());
    header[30..32].copy_from_slice(&[0, 0]);
    header[36..40].copy_from_slice(&previous);
    header[40..48].copy_from_slice(&seq.to_le_bytes());
    let crc = crc32c(&header[8..]);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    let frame = [&header[..], payload].concat();
    let len = frame.len().next_multiple_of(BLOCK);
    if segment.len() < end + len {
        segment.resize(end + len, 0);
    }
    segment[end..end + frame.len()].copy_from_slice(&frame);
}

fn log(device: &MemoryDevice, data: &[u8]) {
    let mut streams = device.list("wal").expect("memory does not fail");
    streams.retain(|f| !f.name.starts_with("free."));
    let Some(last) = streams.last() else { return };
    let path = format!("wal/{}", last.name);
    let mut segment = read_file(device, &path);
    let mut bytes = Bytes(data);
    let mut builder = SectionBuilder::default();
    for _ in 0..4 {
        let mut payload = Vec::new();
        while !bytes.0.is_empty() {
            section(&mut bytes, &mut builder);
            payload.extend((builder.len() as u32).to_le_bytes());
            payload.extend(builder.finish());
            if bytes.byte() & 3 == 0 {
                break;
            }
        }
        append_frame(&mut segment, &payload);
    }
    overwrite(device, &path, 0, &segment);
}

fn damage(device: &MemoryDevice, data: &[u8]) {
    let [file, at, how, bytes @ ..] = data else {
        return;
    };
    let files = &store::directory().files;
    let (path, content) = &files[usize::from(*file) % files.len()];
    // Everything is near the beginning or at some block.
    let at = usize::from(*at) * if how & 1 == 0 { 8 } else { 1024 };
    let end = content.len().min(at + bytes.len());
    if at >= end {
        return;
    }
    let begin = at / BLOCK * BLOCK;
    let end = end.next_multiple_of(BLOCK).min(content.len());
    let mut damaged = content[begin..end].to_vec();
    for (place, byte) in damaged[at - begin..].iter_mut().zip(bytes) {
        *place = if how & 2 == 0 { *byte } else { *place ^ byte };
    }
    overwrite(device, path, begin as u64, &damaged);
}

fuzz_target!(|data: &[u8]| {
    alluvium_fuzz::compares::link();
    let behind = Behind::of(data);
    let [how, data @ ..] = data else { return };
    let device = store::directory().copy(2);
    if how & 1 == 0 {
        log(&device, data);
    } else {
        damage(&device, data);
    }
    let shared: Arc<dyn Device> = device.clone();
    let verified = behind.verify.then(|| verify(&shared));
    let opened = store::open(&device);
    if let Some(store) = &opened {
        store::read_all(store);
        if behind.checkpoint {
            let _ = store.checkpoint().wait();
            if how & READ_AGAIN != 0 {
                store::read_all(store);
            }
        }
    }
    drop((opened, verified));
    if behind.salvage {
        let target: Arc<dyn Device> = Arc::new(MemoryDevice::new(2));
        let _ = salvage(&shared, &target, Arc::new(SystemClock), store::config(1));
    }
});
