//! A flipped byte in every class of what is on disk: it is found offline and online, and named; what does not need it
//! goes on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_block::{Page, PageKind};
use alluvium_io::{AlignedBuf, Completion, Lane, Op, OpenMode, PageBuf, Read, WriteData};
use alluvium_sim::{SimClock, SimConfig, SimDevice};
use alluvium_store::{
    Database, Device, Direction, ReadStats, Selector, Store, StoreConfig, verify,
};
use alluvium_types::{Column, TimeRange, Value};
use model::{Dice, Line, write};

const LANES: usize = 2;

fn config() -> StoreConfig {
    StoreConfig {
        shards: 1,
        volume_bytes: 1 << 20,
        segment_bytes: 256 << 10,
        index_segment_rows: 2,
        merge_paused: true,
        cache_percent: 1,
        memory_bytes: 64 << 20,
        scrub_bytes_per_s: 1 << 20,
        instance: Some([5; 16]),
        ..StoreConfig::default()
    }
}

fn open(device: &Arc<SimDevice>) -> Result<(Store, Database), alluvium_store::OpenError> {
    let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
    let store = Store::open(
        Arc::<SimDevice>::clone(device) as Arc<dyn Device>,
        clock,
        config(),
    )?;
    let (database, created) = store.create_database("db").unwrap();
    created.wait().unwrap();
    Ok((store, database))
}

/// A directory with every class of page and file in it, and a log behind its last checkpoint.
fn world() -> Arc<SimDevice> {
    let sim = SimConfig {
        lanes: LANES,
        ..SimConfig::default()
    };
    let device = SimDevice::new(1, sim);
    let (store, database) = open(&device).unwrap();
    let mut dice = Dice(3);
    let mut time = 0;
    let mut more = |lines: i64| {
        let lines: Vec<Line> = (0..lines)
            .map(|i| {
                time += 10;
                let mut fields = vec![("f", Value::F64(dice.roll() as f64 / 3e15))];
                if i % 500 == 0 {
                    fields.push(("text", Value::Str(format!("{i} ").repeat(2000).into())));
                }
                // One series with many leaves, some with few.
                let host = if i % 50 == 0 { (i / 50 % 40) as u32 } else { 0 };
                Line { host, time, fields }
            })
            .collect();
        write(&database, &lines, None).unwrap().wait().unwrap();
    };
    for _ in 0..60 {
        more(1000);
    }
    store.checkpoint().wait().unwrap();
    more(1000);
    store.checkpoint().wait().unwrap();
    for _ in 0..5 {
        more(500);
    }
    drop((store, database));
    device.kill()
}

fn read(device: &SimDevice, path: &str) -> Vec<u8> {
    let open = Op::Open {
        path: path.into(),
        mode: OpenMode::default(),
    };
    let Completion::Opened { file, len } =
        device.submit(Lane(0), open).wait(device, Lane(0)).unwrap()
    else {
        panic!("not opened")
    };
    let mut reads = [Read {
        file,
        offset: 0,
        into: AlignedBuf::zeroed((len as usize).next_multiple_of(4096)),
    }];
    device.read(&mut reads).unwrap();
    device
        .submit(Lane(0), Op::Close { file })
        .wait(device, Lane(0))
        .unwrap();
    reads[0].into.bytes()[..len as usize].to_vec()
}

/// A page of each kind, by volume and number.
fn pages(device: &SimDevice) -> BTreeMap<&'static str, (String, u64)> {
    let mut found = BTreeMap::new();
    for file in device.list("vol").unwrap() {
        let path = format!("vol/{}", file.name);
        for (number, bytes) in read(device, &path).chunks_exact(4096).enumerate() {
            let mut buffer = AlignedBuf::zeroed(4096);
            buffer.bytes_mut().copy_from_slice(bytes);
            let Ok(page) = Page::from_buffer(PageBuf::from_buffer(buffer).unwrap()) else {
                continue;
            };
            let kind = match page.meta().kind {
                PageKind::Leaf => "leaf",
                PageKind::Inner => "inner",
                PageKind::Overflow => "overflow",
                PageKind::Volume => "volume",
            };
            found
                .entry(kind)
                .or_insert((path.clone(), number as u64 * 4096));
        }
    }
    found
}

fn newest(device: &SimDevice, prefix: &str) -> String {
    let files = device.list("").unwrap().into_iter().map(|f| f.name);
    files
        .filter(|f| f.starts_with(prefix))
        .max()
        .unwrap_or_else(|| panic!("no {prefix}"))
}

fn oldest(device: &SimDevice, prefix: &str) -> String {
    let mut files = device.list("").unwrap();
    files.retain(|f| f.len > 300);
    let files = files.into_iter().map(|f| f.name);
    let oldest = files.filter(|f| f.starts_with(prefix)).min();
    oldest.unwrap_or_else(|| panic!("no {prefix}"))
}

/// Points that a scan of everything gives, and how many errors it met.
fn scan(database: &Database) -> (usize, usize) {
    let snapshot = database.snapshot();
    let (mut points, mut errors) = (0, 0);
    for info in snapshot.select(&Selector::default()).unwrap() {
        let series = snapshot.series(&info);
        let mut cursor = series.scan(TimeRange::ALL, Direction::Forward);
        let mut column = Column::new(series.kind());
        loop {
            match cursor.next_batch(&mut ReadStats::default(), &mut column) {
                Ok(true) => points += column.len(),
                Ok(false) => break,
                Err(_) => errors += 1,
            }
        }
    }
    (points, errors)
}

fn sound(device: &Arc<SimDevice>) -> bool {
    let device = Arc::<SimDevice>::clone(device) as Arc<dyn Device>;
    verify(&device).unwrap().is_sound()
}

#[test]
fn a_flipped_byte_of_a_page_is_found_and_the_rest_answers() {
    let base = world();
    assert!(sound(&base));
    let pages = pages(&base);
    let whole = scan(&open(&base).unwrap().1);
    assert_eq!(whole.1, 0);
    for kind in ["leaf", "inner", "overflow"] {
        let (path, at) = &pages[kind];
        let device = world();
        assert!(device.flip_bit(path, at + 200, 1), "{kind}");
        let shared = Arc::<SimDevice>::clone(&device) as Arc<dyn Device>;
        let report = verify(&shared).unwrap();
        let number = at / 4096;
        let volume: u32 = path[4..].parse().unwrap();
        let place = format!("page {volume}:{number}");
        let text = format!("{:?}", report.findings);
        assert!(text.contains(&place[5..]), "{kind} {place}: {text}");
        let lost = report.findings[0].lost.unwrap();
        assert!(lost.points > 0 && lost.first_time <= lost.last_time);
        // Online: the same, by a round at once and by steps, and everything else answers.
        let (store, database) = open(&device).unwrap();
        assert_eq!(store.scrub_round().findings, report.findings, "{kind}");
        let (points, errors) = scan(&database);
        assert!(errors > 0, "{kind}");
        assert!(
            points < whole.0 && points as u64 + lost.points >= whole.0 as u64,
            "{kind}: {points} and {lost:?} of {whole:?}"
        );
        while store.scrub_status().rounds < 2 {
            store.scrub_step();
        }
        assert_eq!(store.scrub_status().findings, report.findings, "{kind}");
    }
}

#[test]
fn a_flipped_byte_of_a_file_is_found_and_mended_or_refused_by_name() {
    let base = world();
    let whole = scan(&open(&world()).unwrap().1);
    let (header, _) = &pages(&base)["volume"];
    let log = base.list("wal").unwrap().into_iter().map(|f| f.name);
    let mut log: Vec<_> = log.filter(|f| !f.starts_with("free")).collect();
    log.sort_unstable();
    let frames = |path: &str| (path.to_owned(), frames(&base, path));
    let mut log = log.into_iter().map(|f| frames(&format!("wal/{f}")));
    // Frames behind it say that it was flushed.
    let (log, places) = log.rfind(|(_, places)| places.len() > 3).unwrap();
    let first = places[places.len() - 3];
    for (class, path, at, place, opens) in [
        ("volume header", header.clone(), 100, header.clone(), ""),
        (
            "tails",
            newest(&base, "tails."),
            300,
            newest(&base, "tails."),
            "",
        ),
        (
            "tails of both superblocks",
            oldest(&base, "tails."),
            300,
            oldest(&base, "tails."),
            "",
        ),
        (
            "tails and what mends them",
            newest(&base, "tails."),
            300,
            newest(&base, "tails."),
            "",
        ),
        (
            "tails of both superblocks and what mends them",
            oldest(&base, "tails."),
            300,
            oldest(&base, "tails."),
            "checksum differs",
        ),
        (
            "definitions",
            newest(&base, "series."),
            40,
            newest(&base, "series."),
            "",
        ),
        (
            "index segment",
            newest(&base, "index."),
            30,
            newest(&base, "index."),
            "",
        ),
        ("log", log.clone(), first + 100, "wal/".into(), "durable"),
        (
            "manifest",
            newest(&base, "manifest."),
            30,
            "superblock".into(),
            "",
        ),
    ] {
        let device = world();
        assert!(device.flip_bit(&path, at, 4), "{class}");
        if class.contains("and what mends them") {
            assert!(device.flip_bit(&path.replace("tails.", "mend."), 40, 4));
        }
        let shared = Arc::<SimDevice>::clone(&device) as Arc<dyn Device>;
        let report = verify(&shared).unwrap();
        let found = report.findings.iter().any(|f| f.place.starts_with(&place));
        assert!(found, "{class}: {:?}", report.findings);
        match open(&device) {
            Err(error) => {
                let said = error.to_string();
                assert!(!opens.is_empty() && said.contains(opens), "{class}: {said}");
            }
            // An older superblock holds, the copy of the file, or all that the header of a volume says is known.
            Ok((store, database)) => {
                assert!(opens.is_empty(), "{class} was opened");
                assert_eq!(scan(&database), whole, "{class}");
                let is_older = store.recovery().newest_damaged.is_some();
                assert_eq!(is_older, class == "tails and what mends them");
                store.checkpoint().wait().unwrap();
                store.checkpoint().wait().unwrap();
                store.scrub_round();
                drop((store, database));
                let device = device.kill();
                assert!(sound(&device), "{class}");
                assert_eq!(scan(&open(&device).unwrap().1), whole, "{class}");
            }
        }
    }
    // Both slots.
    let device = base;
    for at in [0, 1 << 20] {
        assert!(device.flip_bit("superblock", at + 30, 4));
        assert!(!sound(&device));
    }
    assert!(
        open(&device)
            .unwrap_err()
            .to_string()
            .contains("both superblock slots are damaged")
    );
}

#[test]
fn rot_of_files_is_found_while_the_store_is_open() {
    let device = world();
    let (store, _database) = open(&device).unwrap();
    assert!(store.scrub_round().findings.is_empty());
    for prefix in ["tails.", "mend.", "series.", "index."] {
        let path = newest(&device, prefix);
        assert!(device.flip_bit(&path, 50, 2), "{path}");
        let found = store.scrub_round().findings;
        assert!(found.iter().any(|f| f.place == path), "{path}: {found:?}");
    }
    let (header, _) = &pages(&device)["volume"];
    assert!(device.flip_bit(header, 100, 2));
    let found = store.scrub_round().findings;
    assert!(found.iter().any(|f| f.place == *header), "{found:?}");
    // Found with the slot that names it.
    let manifest = newest(&device, "manifest.");
    assert!(device.flip_bit(&manifest, 50, 2));
    let found = store.scrub_round().findings;
    assert!(
        found
            .iter()
            .any(|f| f.place == "superblock" && f.what.contains("manifest")),
        "{found:?}"
    );
    assert!(device.flip_bit(&manifest, 50, 2));
    let found = store.scrub_round().findings;
    assert!(found.iter().all(|f| f.place != "superblock"), "{found:?}");
    let seq = store.status().superblock_seq;
    assert!(device.flip_bit("superblock", (seq + 1) % 2 * (1 << 20) + 100, 2));
    let found = store.scrub_round().findings;
    assert!(found.iter().any(|f| f.place == "superblock"), "{found:?}");
}

/// The names that a selector of everything gives, with how many points each series has.
fn names(database: &Database) -> Vec<(String, usize)> {
    let snapshot = database.snapshot();
    let infos = snapshot.select(&Selector::default()).unwrap();
    let names = infos.iter().map(|info| {
        let series = snapshot.series(info);
        let mut cursor = series.scan(TimeRange::ALL, Direction::Forward);
        let (mut column, mut points) = (Column::new(series.kind()), 0);
        while cursor
            .next_batch(&mut ReadStats::default(), &mut column)
            .unwrap()
        {
            points += column.len();
        }
        (format!("{} {}", info.key, info.field), points)
    });
    names.collect()
}

fn remove(device: &SimDevice, path: &str) {
    let remove = Op::Remove { path: path.into() };
    device
        .submit(Lane(0), remove)
        .wait(device, Lane(0))
        .unwrap();
}

/// Takes away what is in a file from a place on.
fn cut(device: &SimDevice, path: &str, at: u64) {
    let bytes = read(device, path);
    remove(device, path);
    let open = Op::Open {
        path: path.into(),
        mode: OpenMode {
            create: true,
            ..OpenMode::default()
        },
    };
    let run = |op| device.submit(Lane(0), op).wait(device, Lane(0)).unwrap();
    let Completion::Opened { file, .. } = run(open) else {
        panic!("not opened")
    };
    let mut buffer = AlignedBuf::zeroed(at as usize);
    buffer.bytes_mut().copy_from_slice(&bytes[..at as usize]);
    if at > 0 {
        run(Op::Write {
            file,
            offset: 0,
            data: WriteData::Buffer(Arc::new(buffer)),
            sync: true,
        });
    }
    run(Op::Close { file });
}

/// The two files of definitions and of a segment of the index.
const TWINS: [[&str; 2]; 2] = [["series.", "copy-series."], ["index.", "copy-index."]];

#[test]
fn any_page_of_the_index_may_rot_and_is_written_anew() {
    let base = world();
    let expected = names(&open(&base).unwrap().1);
    let mut copies_read = 0;
    for prefix in TWINS.concat() {
        let path = newest(&base, prefix);
        let mut bytes = read(&base, &path);
        // Behind the end are zeros, up to a whole page.
        bytes.truncate(bytes.iter().rposition(|b| *b != 0).unwrap() + 1);
        for page in (0..bytes.len()).step_by(512) {
            let device = world();
            for at in page..bytes.len().min(page + 512) {
                assert!(device.flip_bit(&path, at as u64, at as u8 % 8));
            }
            let (store, database) = open(&device).unwrap();
            assert_eq!(names(&database), expected, "{path} {page}");
            copies_read += store.status().index.copies_read;
            let found = store.scrub_round().findings;
            assert!(found.iter().any(|f| f.place == path), "{path} {page}");
            assert_eq!(store.scrub_round().findings, [], "written anew: {path}");
            assert_eq!(read(&device, &path)[8..bytes.len()], bytes[8..]);
            drop((store, database));
            // Also through a cut.
            assert!(sound(&device.kill()), "{path} {page}");
        }
    }
    assert!(copies_read > 0);
}

#[test]
fn sectors_that_cannot_be_read_cost_no_names() {
    // A bit of one file and a piece of the other, in different places.
    for (first, other) in [(0, 1), (1, 0)] {
        let device = world();
        let expected = names(&open(&device).unwrap().1);
        let paths = TWINS[1].map(|prefix| newest(&device, prefix));
        let whole = read(&device, &paths[0]);
        let end = whole.iter().rposition(|b| *b != 0).unwrap();
        assert!(device.flip_bit(&paths[first], 20, 1));
        cut(&device, &paths[other], end as u64 & !4095);
        let (store, database) = open(&device).unwrap();
        assert_eq!(names(&database), expected);
        assert_eq!(store.scrub_round().findings.len(), 2);
        assert_eq!(store.scrub_round().findings, []);
        assert_eq!(names(&database), expected);
    }
}

#[test]
fn a_lost_file_of_the_index_is_made_anew_of_its_copy() {
    for prefix in TWINS.concat() {
        let device = world();
        let expected = names(&open(&device).unwrap().1);
        let path = newest(&device, prefix);
        let bytes = read(&device, &path);
        remove(&device, &path);
        assert!(!sound(&device));
        let (store, database) = open(&device).unwrap();
        assert_eq!(names(&database), expected, "{path}");
        let found = store.scrub_round().findings;
        assert!(found.iter().any(|f| f.place == path), "{found:?}");
        assert_eq!(read(&device, &path), bytes);
        assert_eq!(names(&database), expected, "{path}");
        drop((store, database));
        let device = device.kill();
        assert!(sound(&device));
        assert_eq!(names(&open(&device).unwrap().1), expected, "{path}");
    }
}

#[test]
fn what_rots_in_both_files_is_lost_and_named() {
    for [first, copy] in TWINS {
        let device = world();
        let (first, copy) = (newest(&device, first), newest(&device, copy));
        assert!(device.flip_bit(&first, 20, 1) && device.flip_bit(&copy, 20, 1));
        let shared = Arc::<SimDevice>::clone(&device) as Arc<dyn Device>;
        let report = verify(&shared).unwrap();
        assert_eq!(report.findings[0].place, first);
        assert!(!report.findings[0].what.contains("the other copy holds"));
        match open(&device) {
            Err(error) => assert!(error.to_string().contains("checksum differs")),
            Ok((store, database)) => {
                let snapshot = database.snapshot();
                let error = snapshot.select(&Selector::default()).unwrap_err();
                assert!(error.to_string().contains("damaged"), "{error}");
                // Nothing is written over what may be of use.
                let before = [&first, &copy].map(|path| read(&device, path));
                assert!(!store.scrub_round().findings.is_empty());
                assert_eq!([&first, &copy].map(|path| read(&device, path)), before);
            }
        }
    }
}

#[test]
fn a_checkpoint_that_was_passed_over_may_hold_again() {
    let base = world();
    let newest_tails = newest(&base, "tails.");
    let newest_mending = newest(&base, "mend.");
    let flip = |device: &SimDevice| {
        assert!(device.flip_bit(&newest_tails, 300, 4));
        assert!(device.flip_bit(&newest_mending, 40, 4));
    };
    let (_, before) = open(&world()).map(|(s, d)| (s, scan(&d))).unwrap();
    for drives in 0..40 {
        let device = world();
        flip(&device);
        let (store, database) = open(&device).unwrap();
        assert!(store.recovery().newest_damaged.is_some());
        // Pages, too, not only what is in tails.
        let lines: Vec<Line> = (0..3000)
            .map(|i| Line {
                host: i % 3,
                time: 10_000_000 + i64::from(i),
                fields: vec![("f", Value::F64(f64::from(i).sin()))],
            })
            .collect();
        write(&database, &lines, None).unwrap().wait().unwrap();
        for _ in 0..drives {
            store.drive();
        }
        drop((store, database));
        let device = device.kill();
        assert!(read(&device, &newest_tails).len() > 300);
        flip(&device);
        let (store, database) = open(&device).unwrap();
        let (points, errors) = scan(&database);
        assert_eq!((points, errors), (before.0 + 3000, 0), "{drives}");
        assert_eq!(store.scrub_round().findings, []);
    }
}

#[test]
fn rot_of_the_log_is_found_while_it_is_written_and_not_where_it_is_trimmed() {
    let device = world();
    let (store, database) = open(&device).unwrap();
    let mut time = 1_000_000_000;
    let mut more = |batches: u32| {
        for _ in 0..batches {
            let line = |i| Line {
                host: i,
                time: time + i64::from(i),
                fields: vec![("f", Value::F64(f64::from(i) / 3.0))],
            };
            let lines: Vec<Line> = (0..500).map(line).collect();
            time += 1000;
            write(&database, &lines, None).unwrap().wait().unwrap();
        }
    };
    // What a checkpoint has made needless, then several segments.
    more(10);
    for _ in 0..2 {
        store.checkpoint().wait().unwrap();
    }
    more(100);
    let round = store.scrub_round();
    assert!(round.findings.is_empty(), "{:?}", round.findings);
    assert!(round.frames >= 100 && round.volumes > 0, "{round:?}");
    let life = store.status().incarnation;
    let segments = device.list("wal").unwrap().into_iter().map(|f| f.name);
    let mut segments: Vec<_> = segments
        .filter(|f| f.starts_with(&format!("{life}-")) || f.starts_with(&format!("{life:08}-")))
        .collect();
    segments.sort_unstable();
    assert!(segments.len() > 2, "{segments:?}");
    let in_the_middle = format!("wal/{}", segments[segments.len() / 2]);
    let places = frames(&device, &in_the_middle);
    let newest = format!("wal/{}", segments.last().unwrap());
    let last = *frames(&device, &newest).last().unwrap();
    // A payload, the header of a segment's first frame, and the newest frame that was flushed.
    for (path, at) in [
        (&in_the_middle, places[places.len() / 2] + 100),
        (&in_the_middle, 16),
        (&newest, last + 100),
    ] {
        assert!(device.flip_bit(path, at, 3), "{path}");
        let found = store.scrub_round().findings;
        let of_log = found.iter().filter(|f| f.place.starts_with("wal/"));
        let said: Vec<_> = of_log.map(|f| &f.what).collect();
        assert!(
            said.len() == 1 && said[0].contains("damaged"),
            "{path}: {found:?}"
        );
        // By steps, too, and it is read on while there are writes.
        let rounds = store.scrub_status().rounds;
        while store.scrub_status().rounds < rounds + 2 {
            store.scrub_step();
            more(1);
        }
        assert!(!store.scrub_status().findings.is_empty(), "{path}");
        assert!(device.flip_bit(path, at, 3), "{path}");
        assert!(store.scrub_round().findings.is_empty(), "{path}");
    }
    // Nobody needs it any more.
    assert!(device.flip_bit(&in_the_middle, 16, 3));
    for _ in 0..2 {
        store.checkpoint().wait().unwrap();
    }
    assert!(store.scrub_round().findings.is_empty());
}

/// Where the frames of a segment are.
fn frames(device: &SimDevice, path: &str) -> Vec<u64> {
    let bytes = read(device, path);
    let pages = bytes.chunks_exact(4096).enumerate();
    let frames = pages.filter(|(_, b)| b.starts_with(b"ALVF"));
    frames.map(|(i, _)| i as u64 * 4096).collect()
}
