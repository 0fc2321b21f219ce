//! A directory whose manifest says anything at all opens or is refused: nothing panics.
//!
//! The first byte says which section of a whole manifest is written over, the second from where; the rest are the
//! bytes. The superblock names what comes out, with the right checksum. This is the way to the decoders of the
//! catalogue and the ledger, which are private to the store.
#![no_main]

use std::sync::{Arc, OnceLock};
use std::task::Poll;

use alluvium_block::{Manifest, Root, RootCommit, load_root};
use alluvium_io::{
    AlignedBuf, Completion, Device, FileId, Lane, MemoryDevice, Op, OpenMode, Read, WriteData,
};
use alluvium_store::{
    Direction, ReadStats, Selector, Store, StoreConfig, SystemClock, TimeRange, ValueRef,
};
use alluvium_types::{Column, SeriesKey};
use libfuzzer_sys::fuzz_target;

fn open(device: &Arc<MemoryDevice>) -> Option<Store> {
    let config = StoreConfig {
        shards: 1,
        volume_bytes: 1 << 18,
        extent_pages: 4,
        segment_bytes: 256 << 10,
        memory_bytes: 64 << 20,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    };
    let device = Arc::<MemoryDevice>::clone(device);
    Store::open(device, Arc::new(SystemClock), config).ok()
}

/// A closed directory with a few series, one of which has pages.
fn build() -> Arc<MemoryDevice> {
    let device = Arc::new(MemoryDevice::new(2));
    let store = open(&device).expect("an empty directory opens");
    let (database, created) = store.create_database("db").expect("a good name");
    created.wait().expect("memory does not fail");
    let mut writer = database.writer();
    for host in 0..3 {
        let raw = format!("m,host=h{host}");
        let key = SeriesKey::new("m", [("host", format!("h{host}"))]).expect("one tag");
        let row = writer.resolve(raw.as_bytes(), key);
        for i in 0..if host == 0 { 3_000_i64 } else { 5 } {
            writer
                .begin_line(row, i * 1_000 + i % 7)
                .expect("times are allowed");
            let value = ValueRef::F64((i * 7_919 % 10_007) as f64 / 3.0);
            writer.field("value", value).expect("short");
            writer.end_line().expect("it has a field");
        }
    }
    writer
        .commit(None)
        .expect("the store takes writes")
        .wait()
        .expect("memory does not fail");
    store.close().expect("memory does not fail");
    device
}

fn opened(device: &MemoryDevice, path: &str) -> (FileId, u64) {
    let path = path.to_owned();
    let mode = OpenMode {
        create: true,
        ..OpenMode::default()
    };
    let ticket = device.submit(Lane(0), Op::Open { path, mode });
    match ticket.wait(device, Lane(0)) {
        Ok(Completion::Opened { file, len }) => (file, len),
        other => unreachable!("an opening opens: {other:?}"),
    }
}

/// A fresh copy of the directory that is built once: that takes longer than everything else here.
fn directory() -> Arc<MemoryDevice> {
    static FILES: OnceLock<Vec<(String, AlignedBuf)>> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let device = build();
        let mut files = Vec::new();
        for dir in ["", "vol/", "wal/"] {
            let listed = device.list(dir.trim_end_matches('/'));
            for found in listed.expect("memory does not fail") {
                let path = format!("{dir}{}", found.name);
                let (file, len) = opened(&device, &path);
                let mut reads = [Read {
                    file,
                    offset: 0,
                    into: AlignedBuf::zeroed(len as usize),
                }];
                device.read(&mut reads).expect("memory does not fail");
                let [read] = reads;
                files.push((path, read.into));
            }
        }
        files
    });
    let device = Arc::new(MemoryDevice::new(2));
    for (path, bytes) in files {
        let (file, _) = opened(&device, path);
        if !bytes.is_empty() {
            let write = Op::Write {
                file,
                offset: 0,
                data: WriteData::Buffer(Arc::new(bytes.clone())),
                sync: false,
            };
            let ticket = device.submit(Lane(0), write);
            ticket
                .wait(&*device, Lane(0))
                .expect("memory does not fail");
        }
    }
    device
}

fn read_all(store: &Store) {
    let mut stats = ReadStats::default();
    for info in store.databases() {
        let Some(database) = store.database(&info.name) else {
            continue;
        };
        let snapshot = database.snapshot();
        for info in snapshot.select(&Selector::default()).expect("it compiles") {
            let series = snapshot.series(&info);
            let _ = series.aggregate(TimeRange::ALL, &mut stats);
            let mut cursor = series.scan(TimeRange::ALL, Direction::Forward);
            let mut batch = Column::new(series.kind());
            while let Ok(true) = cursor.next_batch(&mut stats, &mut batch) {}
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [which, at, bytes @ ..] = data else {
        return;
    };
    let device = directory();
    let (root, manifest) = load_root(&*device)
        .expect("it is whole")
        .expect("it is not new");
    let sections = manifest.iter().count().max(1);
    let mut forged = Manifest::new();
    for (i, (tag, section)) in manifest.iter().enumerate() {
        let mut section = section.to_vec();
        if i == usize::from(*which) % sections {
            let at = usize::from(*at).min(section.len());
            if which & 0x80 == 0 {
                section.truncate(at);
                section.extend_from_slice(bytes);
            } else {
                section
                    .iter_mut()
                    .skip(at)
                    .zip(bytes)
                    .for_each(|(s, b)| *s ^= b);
            }
        }
        forged.set(tag, section);
    }
    let root = Root {
        seq: root.seq + 1,
        clean: which & 0x40 == 0,
        ..root
    };
    let mut commit = RootCommit::start(&*device, Lane(0), root, &forged);
    while let Poll::Pending = commit.poll(&*device) {
        device.drive(Lane(0));
    }
    if let Some(store) = open(&device) {
        read_all(&store);
        let _ = store
            .create_database("another")
            .map(|(_, created)| created.wait());
        let _ = store.close();
    }
});
