//! A block of the index that has rotted in both of its files: answers go around it and say so, deletes do not guess, and what can be made
//! of other blocks is made anew by the next checkpoint.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt::Write as _;
use std::sync::Arc;

use alluvium_io::{
    AlignedBuf, Completion, Device, FileId, Lane, MemoryDevice, Op, OpenMode, Read, WriteData,
};
use alluvium_server::{Config, Storage};
use common::{Server, memory_config};
use serde_json::json;

const HOSTS: usize = 12_000;

fn config(device: &MemoryDevice) -> Config {
    let mut config = memory_config();
    config.storage = Storage::Device(Arc::new(device.duplicate(3)));
    config.store.index_segment_rows = 1;
    config.store.scrub_bytes_per_s = 0;
    // Only when asked.
    config.store.checkpoint_ms = 10_000_000_000_000;
    config
}

/// Gauges of many hosts, a third of them in each zone, whose index is in segments.
fn sealed() -> MemoryDevice {
    let device = Arc::new(MemoryDevice::new(3));
    let mut config = config(&device);
    config.storage = Storage::Device(Arc::<MemoryDevice>::clone(&device));
    let server = Server::start(config);
    let mut lines = String::new();
    for host in 0..HOSTS {
        let _ = writeln!(lines, "m,dc=d{},host=h{host} v={host}i", host % 3);
    }
    assert_eq!(server.write(lines).status, 204);
    for _ in 0..3 {
        assert_eq!(server.post("/api/checkpoint", "").status, 200);
    }
    let status = server.get("/status").json();
    assert_eq!(status["store"]["index"]["sealed_rows"], HOSTS, "{status}");
    server.stop();
    device.duplicate(1)
}

fn run(device: &MemoryDevice, op: Op) -> Completion {
    device.submit(Lane(0), op).wait(device, Lane(0)).unwrap()
}

fn open(device: &MemoryDevice, path: &str) -> (FileId, u64) {
    let mode = OpenMode::default();
    let path = path.to_owned();
    match run(device, Op::Open { path, mode }) {
        Completion::Opened { file, len } => (file, len),
        Completion::Done => unreachable!("an opening opens"),
    }
}

/// The page in which a byte is.
fn page_of(device: &MemoryDevice, path: &str, at: u64) -> Read {
    let (file, _) = open(device, path);
    let mut reads = [Read {
        file,
        offset: at & !4095,
        into: AlignedBuf::zeroed(4096),
    }];
    device.read(&mut reads).unwrap();
    let [read] = reads;
    read
}

/// Turns a bit around.
fn flip(device: &MemoryDevice, path: &str, at: u64) {
    let mut read = page_of(device, path, at);
    let (file, offset) = (read.file, read.offset);
    read.into.bytes_mut()[(at - offset) as usize] ^= 4;
    let data = WriteData::Buffer(Arc::new(read.into));
    let sync = false;
    run(
        device,
        Op::Write {
            file,
            offset,
            data,
            sync,
        },
    );
    run(device, Op::Close { file });
}

/// The largest segment.
fn largest(device: &MemoryDevice) -> (String, u64) {
    let files = device.list("").unwrap().into_iter();
    let segments = files.filter(|file| file.name.starts_with("index."));
    let largest = segments.max_by_key(|file| file.len).unwrap();
    let (_, len) = open(device, &largest.name);
    (largest.name, len)
}

/// What is asked, and how many of the hosts answer it.
const QUESTIONS: [(&str, usize); 3] = [
    (
        r#"{"aggregate": {"m_v": "count"}, "where": {"dc": "d1"}}"#,
        HOSTS / 3,
    ),
    (r#"{"aggregate": {"m_v": "count"}}"#, HOSTS),
    (
        r#"{"aggregate": {"m_v": "count"}, "where": {"host": {"regex": "7"}}}"#,
        3_981,
    ),
];

/// How many hosts are missing in the answers, and how many may be, as they say.
fn missing(server: &Server) -> Vec<(usize, u64)> {
    let missing = QUESTIONS.iter().map(|(query, whole)| {
        let json = server.post("/api/query?db=test", query).json();
        let rows = json["rows"].as_array().unwrap_or_else(|| panic!("{json}"));
        let told = json["warnings"].as_array().unwrap().iter().map(|warning| {
            let warning = warning.as_str().unwrap();
            let rest = warning.strip_prefix("partial: up to ").unwrap();
            let (number, rest) = rest.split_once(' ').unwrap();
            assert!(rest.contains("tag sets of partition") && rest.contains("damaged"));
            number.parse::<u64>().unwrap()
        });
        let told: u64 = told.sum();
        assert_eq!(json["partial"] == true, told > 0, "{query}");
        assert!(json["error"].is_null());
        (whole - rows.len(), told)
    });
    missing.collect()
}

#[test]
fn answers_go_around_blocks_that_are_gone_and_lists_of_rows_are_made_anew() {
    let base = sealed();
    let (path, len) = largest(&base);
    // In front of the trailer, whose version is not zero.
    let last = page_of(&base, &path, len - 1);
    let end = last.into.bytes().iter().rposition(|byte| *byte != 0);
    let directory = last.offset + end.unwrap() as u64 - 60;
    let (mut made_anew, mut gone, mut shut, mut uncounted) = (0, 0, 0, 0);
    for at in (20..len).step_by(len as usize / 23).chain([directory]) {
        let device = base.duplicate(1);
        flip(&device, &path, at);
        flip(&device, &format!("copy-{path}"), at);
        let Ok(server) = Server::try_start(config(&device)) else {
            // The steps may come by it, too.
            assert!(at + 1024 > directory, "{at}");
            shut += 1;
            continue;
        };
        let before = missing(&server);
        for (missing, told) in &before {
            assert!(*missing as u64 <= *told, "{at}: {before:?}");
        }
        let is_whole = before
            .iter()
            .all(|(missing, told)| (*missing, *told) == (0, 0));
        let delete = r#"{"where": {"host": {"regex": "7"}, "dc": "d1"}}"#;
        let sevens = (0..HOSTS).filter(|h| h % 3 == 1 && h.to_string().contains('7'));
        let deleted = server.post("/api/delete?db=test&dry_run=true", delete);
        match deleted.status {
            200 => assert_eq!(deleted.json()["series"], sevens.count(), "{at}"),
            _ => assert!(before[2].1 > 0, "{at}: {}", deleted.text()),
        }
        let search = server.get("/api/search?db=test&match=%7Bdc%3D%22d1%22%7D&limit=5000");
        let search = search.json();
        let listed = search["series"].as_array().unwrap().len();
        assert!(listed == HOSTS / 3 || search["partial"] == true, "{at}");
        let names = server.post(
            "/api/suggest?db=test",
            r#"{"select": "tag-values", "tag": "host"}"#,
        );
        let names = names
            .text()
            .lines()
            .filter(|line| line.starts_with('+'))
            .count();
        assert!(names <= 10_000);
        uncounted += usize::from(check_counts(&server));

        let found = server.post("/api/verify", "").json();
        let findings = found["findings"].as_array().unwrap();
        if findings.is_empty() {
            // Behind the end of the segment, up to a whole page.
            assert!(is_whole && at + 4096 >= len, "{at}: {found}");
            continue;
        }
        assert_eq!(server.post("/api/checkpoint", "").status, 200);
        let index = server.get("/status").json()["store"]["index"].clone();
        if index["mended"] == 1 {
            assert!(is_whole, "{at}: texts and tuples are nowhere else");
            let after = server.post("/api/verify", "").json();
            assert_eq!(
                after["findings"].as_array().unwrap().len(),
                0,
                "{at}: {after}"
            );
            assert_eq!(missing(&server), before);
            made_anew += 1;
        } else {
            assert!(!is_whole && index["failed_merges"] != 0, "{at}: {index}");
            assert_eq!(missing(&server), before);
            gone += 1;
        }
        server.stop();
    }
    assert!(
        made_anew >= 4 && gone >= 4 && shut >= 1 && uncounted >= 2,
        "{made_anew} {gone} {shut} {uncounted}"
    );
}

/// Counts go around what cannot be read, and say so; returns whether something was missing.
fn check_counts(server: &Server) -> bool {
    let answer = server.get("/api/cardinality?db=test");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    let warnings = json["warnings"].as_array();
    let told = warnings.into_iter().flatten().map(|warning| {
        let rest = warning.as_str().unwrap().strip_prefix("partial: up to ");
        rest.unwrap().split_once(' ').unwrap().0.parse::<u64>()
    });
    let told: u64 = told.map(Result::unwrap).sum();
    assert_eq!(json["partial"] == true, told > 0, "{json}");
    let all = json!({ "count": HOSTS, "exact": true });
    assert_eq!(json["series"], all);
    let tags = json["tags"].as_array().unwrap();
    let hosts = tags.iter().find(|tag| tag["tag"] == "host").unwrap();
    assert_eq!(hosts["tag_sets"], all);
    let (values, is_exact) = (&hosts["values"]["count"], &hosts["values"]["exact"]);
    let values = values.as_u64().unwrap();
    assert!(
        values <= HOSTS as u64 && values + told >= HOSTS as u64,
        "{json}"
    );
    assert!(*is_exact == false || values == HOSTS as u64, "{json}");
    assert!(told == 0 || tags.iter().any(|tag| tag["values"]["exact"] == false));
    told > 0
}

/// A store as it was when the process was killed.
fn killed(device: &MemoryDevice) -> Server {
    let server = Server::start(config(device));
    let recovery = server.get("/status").json()["store"]["recovery"].clone();
    assert!(recovery["newest_damaged"].is_null(), "{recovery}");
    server
}

#[test]
fn new_rows_are_sealed_before_anything_is_made_anew() {
    let base = sealed();
    let (path, _) = largest(&base);
    flip(&base, &path, 20);
    flip(&base, &format!("copy-{path}"), 20);
    let device = Arc::new(base.duplicate(3));
    let mut config = config(&device);
    config.storage = Storage::Device(Arc::<MemoryDevice>::clone(&device));
    let server = Server::start(config);
    // The definitions of these rows need their segments beside them.
    let lines = (HOSTS..HOSTS + 500).map(|host| format!("m,dc=d1,host=h{host} v=1i\n"));
    assert_eq!(server.write(lines.collect::<String>()).status, 204);
    let found = server.post("/api/verify", "").json();
    assert_eq!(found["findings"].as_array().unwrap().len(), 1, "{found}");
    for _ in 0..2 {
        assert_eq!(server.post("/api/checkpoint", "").status, 200);
        let again = killed(&device);
        let json = again.post("/api/query?db=test", QUESTIONS[1].0).json();
        assert_eq!(json["rows"].as_array().unwrap().len(), HOSTS + 500);
        again.stop();
    }
    // What had to wait was noted again.
    let index = server.get("/status").json()["store"]["index"].clone();
    assert_eq!(index["mended"], 1, "{index}");
    let again = killed(&device);
    let found = again.post("/api/verify", "").json();
    assert_eq!(found["findings"].as_array().unwrap().len(), 0, "{found}");
    again.stop();
    server.stop();
}
