//! Directories written by earlier builds open and hold what was written.
//!
//! `fixtures/format-N.zst` is a data directory: for each file a line `path length kept`, then its bytes but for
//! zeros at the end. `ALLUVIUM_WRITE_FIXTURE=1` makes the one of the current format anew; never of a released one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::path::Path;
use std::sync::Arc;

use alluvium_store::{Compression, DatabaseSettings, Durability, Store, StoreConfig, SystemClock};
use alluvium_types::Value;
use model::{Dice, Line, Model, batch, read_all, same, write};

/// What format 3 is a fixture of.
const CURRENT: u32 = 3;

fn open(dir: &Path) -> Store {
    let options = alluvium_io::DeviceOptions {
        lanes: 3,
        ..alluvium_io::DeviceOptions::default()
    };
    let config = StoreConfig {
        shards: 2,
        volume_bytes: 1 << 20,
        extent_pages: 4,
        segment_bytes: 1 << 20,
        instance: Some([5; 16]),
        index_segment_rows: 1,
        ..StoreConfig::default()
    };
    let device = alluvium_io::open(dir, &options).unwrap();
    Store::open(device, Arc::new(SystemClock), config).unwrap()
}

/// Lines of every kind and order; texts that fill enough leaves for an inner page.
fn batches() -> Vec<Vec<Line>> {
    let (mut dice, mut now) = (Dice(11), 1_000_000);
    let mut batches: Vec<Vec<Line>> = (0..6).map(|_| batch(&mut dice, &mut now, 3, 500)).collect();
    batches.push(
        (0..400)
            .map(|i| Line {
                host: 9,
                time: i * 1_000_000_000,
                fields: vec![("s", Value::Str(format!("{i:01000}").into()))],
            })
            .collect(),
    );
    batches.push(
        (0..3000)
            .map(|i| Line {
                host: 8,
                time: i * 10_000_000_000 + dice.below(20) as i64 * 1_000_000,
                fields: vec![
                    ("f", Value::F64(20.0 + dice.below(300) as f64 / 100.0)),
                    ("i", Value::I64(i * 7 + dice.below(3) as i64)),
                    ("b", Value::Bool(i % 97 == 0)),
                ],
            })
            .collect(),
    );
    batches
}

/// Writes what a fixture holds: both settings; one half in a checkpoint, the rest in the log.
fn fill(dir: &Path) {
    let store = open(dir);
    let small = DatabaseSettings {
        durability: Durability::Sync,
        compression: Compression::Small,
        ..store.default_settings()
    };
    store.create_database("balanced").unwrap().1.wait().unwrap();
    store
        .create_database_with("small", small)
        .unwrap()
        .1
        .wait()
        .unwrap();
    let batches = batches();
    for (i, lines) in batches.iter().enumerate() {
        for name in ["balanced", "small"] {
            let database = store.database(name).unwrap();
            write(&database, lines, None).unwrap().wait().unwrap();
        }
        if i + 2 == batches.len() {
            store.checkpoint().wait().unwrap();
        }
    }
    assert!(
        store.status().databases[0].inners.pages > 0,
        "no inner page"
    );
    // No close: the log is part of the fixture. What is acknowledged is in the files.
    std::mem::forget(store);
}

fn pack(dir: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap();
            if name == "LOCK" {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let kept = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
            out.extend_from_slice(format!("{name} {} {kept}\n", bytes.len()).as_bytes());
            out.extend_from_slice(&bytes[..kept]);
        }
    }
    zstd::encode_all(out.as_slice(), 19).unwrap()
}

fn unpack(packed: &[u8], dir: &Path) {
    let all = zstd::decode_all(packed).unwrap();
    let mut rest = all.as_slice();
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n').unwrap();
        let head = std::str::from_utf8(&rest[..end]).unwrap();
        let [name, len, kept] = head.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{head}");
        };
        let (len, kept): (u64, usize) = (len.parse().unwrap(), kept.parse().unwrap());
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &rest[end + 1..end + 1 + kept]).unwrap();
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(len)
            .unwrap();
        rest = &rest[end + 1 + kept..];
    }
}

#[test]
fn directories_of_every_format_open() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    if std::env::var_os("ALLUVIUM_WRITE_FIXTURE").is_some() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        std::fs::create_dir_all(&fixtures).unwrap();
        let file = fixtures.join(format!("format-{CURRENT}.zst"));
        std::fs::write(file, pack(dir.path())).unwrap();
    }
    let mut model = Model::default();
    batches().iter().for_each(|lines| model.apply(lines));
    let mut found = 0;
    for entry in std::fs::read_dir(&fixtures).unwrap() {
        let path = entry.unwrap().path();
        let dir = tempfile::tempdir().unwrap();
        unpack(&std::fs::read(&path).unwrap(), dir.path());
        let store = open(dir.path());
        assert!(store.recovery().points > 0, "the log was part of it");
        for name in ["balanced", "small"] {
            let database = store.database(name).unwrap();
            same(&read_all(&database), &model)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        found += 1;
    }
    assert!(found > 0, "no fixture");
}
