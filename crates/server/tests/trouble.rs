//! Trouble below: a device without room, pages that rot. The server says so, goes on, and recovers by itself.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium_io::{
    Completer, Device, IoError, Lane, Layer, MemoryDevice, Op, OpenMode, Read, Ticket,
};
use alluvium_server::{Config, Storage};
use common::{Answer, Server, memory_config};

/// A device in memory that has no room for another file while it is full, and whose pages are bad while they rot.
#[derive(Debug)]
struct Troubled {
    device: MemoryDevice,
    full: AtomicBool,
    rotten: AtomicBool,
    /// The page of each file that is bad; 0: none.
    rotten_page: AtomicUsize,
    /// Volumes and checkpoints have room all the same.
    only_the_log: AtomicBool,
    /// Writes neither end nor fail.
    hung: AtomicBool,
    /// Writes fail.
    failing: AtomicBool,
    held: Mutex<Vec<(Lane, Op, Completer)>>,
    released: Mutex<Vec<(Ticket, Completer)>>,
}

impl Troubled {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            device: MemoryDevice::new(3),
            full: AtomicBool::new(false),
            rotten: AtomicBool::new(false),
            rotten_page: AtomicUsize::new(0),
            only_the_log: AtomicBool::new(false),
            hung: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            held: Mutex::default(),
            released: Mutex::default(),
        })
    }

    fn config(self: &Arc<Self>) -> Config {
        let mut config = memory_config();
        config.storage = Storage::Device(Arc::<Self>::clone(self));
        config.store.segment_bytes = 256 << 10;
        config.store.checkpoint_log_bytes = 1 << 30;
        config.limits.commit_time = Duration::from_millis(200);
        config
    }
}

impl Layer for Troubled {
    fn behind(&self) -> &dyn Device {
        &self.device
    }

    fn submit(&self, lane: Lane, op: Op) -> Ticket {
        if let Op::Open { path, mode } = &op
            && matches!(mode, OpenMode { create: true, .. })
            && self.full.load(Ordering::Acquire)
            && (path.starts_with("wal/") || !self.only_the_log.load(Ordering::Acquire))
        {
            let cause = std::io::ErrorKind::StorageFull.into();
            return Ticket::ended(Err(IoError::new("open", path.clone(), cause)));
        }
        if matches!(op, Op::Write { .. }) && self.failing.load(Ordering::Acquire) {
            let cause = std::io::Error::other("the device fails");
            return Ticket::ended(Err(IoError::new("write", "a file", cause)));
        }
        if matches!(op, Op::Write { .. }) && self.hung.load(Ordering::Acquire) {
            let (ticket, completer) = Ticket::new();
            self.held.lock().unwrap().push((lane, op, completer));
            return ticket;
        }
        self.device.submit(lane, op)
    }

    fn drive(&self, lane: Lane) -> usize {
        let mut released = self.released.lock().unwrap();
        if !self.hung.load(Ordering::Acquire) {
            for (lane, op, completer) in self.held.lock().unwrap().drain(..) {
                released.push((self.device.submit(lane, op), completer));
            }
        }
        let mut ended = self.device.drive(lane);
        for (ticket, completer) in std::mem::take(&mut *released) {
            if let Some(result) = ticket.result() {
                completer.complete(result);
                ended += 1;
            } else {
                released.push((ticket, completer));
            }
        }
        ended
    }

    fn read(&self, reads: &mut [Read]) -> Result<(), IoError> {
        self.device.read(reads)?;
        if self.rotten.load(Ordering::Acquire) {
            for read in reads.iter_mut() {
                read.into.bytes_mut()[1000] ^= 0x40;
            }
        }
        let page = self.rotten_page.load(Ordering::Acquire) as u64;
        let of_page = |read: &&mut Read| page > 0 && read.offset == page * 4096;
        for read in reads.iter_mut().filter(of_page) {
            read.into.bytes_mut()[1000] ^= 0x40;
        }
        Ok(())
    }
}

/// Points of one series that do not pack well.
fn body(from: u64, lines: u64) -> String {
    let mut body = String::new();
    for time in from..from + lines {
        let noise = time.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
        writeln!(body, "m v={noise}.5 {time}").unwrap();
    }
    body
}

const COUNT: &str = r#"{"aggregate": {"m_v": ["count"]}, "output": {"format": "csv"}}"#;
const ALL: &str = r#"{"select": "m_v", "output": {"format": "csv"}}"#;

#[test]
fn a_full_disk_answers_507_reads_go_on_and_writes_too_when_there_is_room() {
    let device = Troubled::new();
    let mut config = device.config();
    // So that what meets the full log is also where databases are recorded.
    config.store.shards = 1;
    let server = Server::start(config);
    assert_eq!(server.write(body(0, 1000)).status, 204);
    let before = server.query(COUNT);
    device.full.store(true, Ordering::Release);
    let mut refused = None;
    for round in 1..200 {
        let answer = server.write(body(round * 1000, 1000));
        match answer.status {
            // 503: it was taken and waits for room.
            204 | 503 => {}
            507 => {
                refused = Some(answer);
                break;
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    let refused = refused.expect("the disk never filled");
    assert!(
        refused.text().contains("disk is full"),
        "{}",
        refused.text()
    );
    assert!(refused.text().contains("reads go on"), "{}", refused.text());
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/status").json()["store"]["full"], true);
    assert!(server.query(COUNT) >= before);
    assert!(server.query(ALL).lines().count() >= 1000);
    // A database that cannot be recorded is refused, too, and nobody waits. Where the pages met the full disk first
    // the log may still have room for one.
    let created = server.send("PUT", "/api/databases/another", &[], b"");
    if created.status != 201 {
        assert!([503, 507].contains(&created.status), "{}", created.text());
        assert!(
            created.text().contains("disk is full") || created.status == 503,
            "{}",
            created.text()
        );
    }

    device.full.store(false, Ordering::Release);
    // It is tried again once a second; asking takes some of that time.
    let recovered = (0..200_000).any(|_| server.get("/status").json()["store"]["full"] == false);
    assert!(recovered);
    assert_eq!(server.write(body(1_000_000, 10)).status, 204);
    let rows = server.query(ALL);
    assert!(rows.lines().last().unwrap().contains(",1000009,"), "{rows}");
    let created = server.send("PUT", "/api/databases/another", &[], b"");
    assert!([200, 201].contains(&created.status), "{}", created.text());
    server.stop();
}

#[test]
fn a_database_that_the_full_log_cannot_record_answers_507() {
    let device = Troubled::new();
    let mut config = device.config();
    config.store.shards = 1;
    let server = Server::start(config);
    assert_eq!(server.write(body(0, 1000)).status, 204);
    device.only_the_log.store(true, Ordering::Release);
    device.full.store(true, Ordering::Release);
    let full = (1..200).any(|round| server.write(body(round * 1000, 1000)).status == 507);
    assert!(full, "the log never filled");
    let create = |n: u32| -> [Answer; 3] {
        [
            server.send("PUT", &format!("/api/databases/put{n}"), &[], b""),
            server.post(&format!("/write?db=write{n}"), "m v=1 1"),
            server.post(&format!("/query?q=CREATE+DATABASE+query{n}"), b""),
        ]
    };
    let mut met = [false; 3];
    // Room is looked for once a second: who comes just then waits for it, and is told so.
    for n in 0..10 {
        for (met, answer) in met.iter_mut().zip(create(n)) {
            assert!([503, 507].contains(&answer.status), "{}", answer.text());
            if answer.status == 507 {
                assert!(answer.text().contains("disk is full"), "{}", answer.text());
                *met = true;
            }
        }
        if met == [true; 3] {
            break;
        }
    }
    assert_eq!(met, [true; 3]);
    device.full.store(false, Ordering::Release);
    server.stop();
}

/// A device that neither ends nor fails must not hold requests for ever.
#[test]
fn a_database_that_a_hung_device_does_not_confirm_answers_503() {
    let device = Troubled::new();
    let server = Server::start(device.config());
    assert_eq!(server.write(body(0, 10)).status, 204);
    device.hung.store(true, Ordering::Release);
    for answer in [
        server.send("PUT", "/api/databases/put", &[], b""),
        server.post("/write?db=write", "m v=1 1"),
        server.post("/query?q=CREATE+DATABASE+query", b""),
        server.post("/query?q=DROP+DATABASE+test", b""),
    ] {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(
            answer.text().contains("within 0.2 s; send it again"),
            "{}",
            answer.text()
        );
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    device.hung.store(false, Ordering::Release);
    // What was taken is there as soon as the device goes on.
    let answer = server.post("/write?db=write", "m v=1 1");
    assert_eq!(answer.status, 204, "{}", answer.text());
    server.stop();
}

/// What was asked for and not confirmed is not confirmed either when it is asked for again and there is nothing left to do.
#[test]
fn what_is_asked_for_again_is_confirmed_when_it_is_durable() {
    let device = Troubled::new();
    let server = Server::start(device.config());
    assert_eq!(server.write(body(0, 10)).status, 204);
    let created = server.send("PUT", "/api/databases/other", &[], b"");
    assert_eq!(created.status, 201);
    let delete = || server.post("/api/delete?db=test", r#"{"metric": "m_v"}"#);
    let limit = || server.send("PUT", "/api/databases/test?retention=30d", &[], b"");
    let drop = || server.post("/query?q=DROP+DATABASE+other", b"");
    let forget = || server.send("DELETE", "/api/databases/other", &[], b"");
    device.hung.store(true, Ordering::Release);
    for answer in [
        delete(),
        limit(),
        drop(),
        delete(),
        limit(),
        drop(),
        forget(),
    ] {
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    device.hung.store(false, Ordering::Release);
    for (answer, status) in [
        (delete(), 200),
        (limit(), 200),
        (drop(), 200),
        (forget(), 404),
    ] {
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    server.stop();
}

/// A database that somebody else is making at that moment: a `PUT` may not take it for its own and lose what it says.
#[test]
fn settings_hold_for_a_database_that_another_is_making() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "writer write *\nboss admin *\n").unwrap();
    let device = Troubled::new();
    let mut config = device.config();
    config.token_file = Some(file.path().into());
    let server = Server::start(config);
    let send = |method: &str, path: &str, token: &str| {
        let token = format!("Authorization: Token {token}");
        server.send(method, path, &[&token], b"m v=1 1")
    };
    device.hung.store(true, Ordering::Release);
    assert_eq!(send("POST", "/write?db=made", "writer").status, 503);
    let put = "/api/databases/made?retention=7d&series_max=9";
    assert_eq!(send("PUT", put, "writer").status, 403);
    assert_eq!(send("PUT", put, "boss").status, 503);
    device.hung.store(false, Ordering::Release);
    assert_eq!(send("PUT", "/api/databases/after", "writer").status, 201);
    let made = send("PUT", "/api/databases/made", "writer");
    assert_eq!(made.status, 200);
    let made = made.json();
    assert_eq!(
        (&made["retention"], &made["series_max"]),
        (&"7d".into(), &9.into()),
        "{made}"
    );
    server.stop();
}

/// The creation was answered 503 and is still under way: what is dropped behind it is not there later.
#[test]
fn a_database_that_is_dropped_while_it_is_being_made_is_gone() {
    let device = Troubled::new();
    let server = Server::start(device.config());
    let run = |statement: &str| server.post(&format!("/query?q={statement}"), b"");
    device.hung.store(true, Ordering::Release);
    assert_eq!(run("CREATE+DATABASE+brief").status, 503);
    assert_eq!(run("DROP+DATABASE+brief").status, 503);
    device.hung.store(false, Ordering::Release);
    assert_eq!(run("CREATE+DATABASE+after").status, 200);
    let shown = run("SHOW+DATABASES").json();
    let names = &shown["results"][0]["series"][0]["values"];
    assert_eq!(*names, serde_json::json!([["after"]]), "{shown}");
    server.stop();
}

/// A 200 with an error in it is what clients take for a statement that will never do.
#[test]
fn deletes_on_a_failed_store_answer_503() {
    let device = Troubled::new();
    let server = Server::start(device.config());
    assert_eq!(server.write(body(0, 10)).status, 204);
    device.failing.store(true, Ordering::Release);
    assert_eq!(server.write(body(10, 10)).status, 503);
    for statement in [
        "DELETE+FROM+m",
        "DROP+SERIES+FROM+m",
        "DROP+MEASUREMENT+m",
        "DROP+DATABASE+test",
        "CREATE+DATABASE+other",
    ] {
        let answer = server.post(&format!("/query?db=test&q={statement}"), b"");
        assert_eq!(answer.status, 503, "{statement}: {}", answer.text());
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(
            answer.text().contains("writing stopped"),
            "{}",
            answer.text()
        );
    }
}

/// Where late points are merged in, the points in front of a rotten page are there, too.
#[test]
fn nothing_but_what_a_rotten_page_held_is_missing() {
    let device = Troubled::new();
    let server = Server::start(device.config());
    assert_eq!(server.write(body(0, 20_000)).status, 204);
    // Behind pages: it stays by itself.
    let late = "m v=1 5\nm v=2 10005\n".to_owned();
    assert_eq!(server.write(late).status, 204);
    server.stop();
    let server = Server::start(device.config());
    device.rotten_page.store(12, Ordering::Release);
    let query = r#"{"select": "m_v", "limit": 30000}"#;
    let json = server.post("/api/query?db=test", query).json();
    assert_eq!(json["partial"], true, "{json}");
    let found = json["rows"].as_array().unwrap().len() as u64;
    let lost = json["warnings"].as_array().unwrap().iter().map(|w| {
        let words = w.as_str().unwrap().split(' ').nth(1).unwrap();
        words.parse::<u64>().unwrap()
    });
    let lost: u64 = lost.sum();
    // A late point that was written over one of the page is there.
    let all = 20_000..20_003;
    assert!(
        lost > 0 && all.contains(&(found + lost)),
        "{found} and {lost}"
    );
    server.stop();
}

#[test]
fn rotten_pages_are_named_and_the_server_lives_on() {
    let device = Troubled::new();
    let server = Server::start(device.config());
    assert_eq!(server.write(body(0, 20_000)).status, 204);
    let whole = server.query(ALL);
    assert_eq!(whole.lines().count(), 20_000);
    server.stop();

    // Another life, so that no page is in memory.
    let server = Server::start(device.config());
    device.rotten.store(true, Ordering::Release);
    let answer = server.post("/api/query?db=test", ALL);
    assert!(answer.text().contains("damaged"), "{}", answer.text());
    assert!(
        answer
            .text()
            .lines()
            .filter(|l| l.starts_with("m_v"))
            .count()
            < 20_000,
        "nothing is made up"
    );
    // Json says it, and which points are missing; aggregates go around the page.
    for query in [
        r#"{"aggregate": {"m_v": "count"}, "range": {"from": 100, "to": 19900}}"#,
        r#"{"group-aggregate": {"metric": "m_v", "step": "1000ns", "func": "count"}, "range": {"from": 100, "to": 19900}}"#,
        r#"{"select": "m_v", "range": {"from": 100, "to": 19900}, "limit": 30000}"#,
    ] {
        let json = server.post("/api/query?db=test", query).json();
        assert_eq!(json["partial"], true, "{query}: {json}");
        let rows = json["rows"].as_array().unwrap().iter();
        let found: u64 = if query.contains("select") {
            rows.count() as u64
        } else {
            rows.map(|r| r.as_array().unwrap().last().unwrap().as_u64().unwrap())
                .sum()
        };
        let lost = json["warnings"].as_array().unwrap().iter().map(|w| {
            let words = w.as_str().unwrap().split(' ').nth(1).unwrap();
            words.parse::<u64>().unwrap()
        });
        let lost: u64 = lost.sum();
        // Lost pages are counted whole, also where the range cuts them.
        assert!(
            found < 19_800 && found + lost >= 19_800 && found + lost < 19_800 + 1500,
            "{query}: {found} and {lost}"
        );
    }
    let answer = server.post("/api/query?db=test", r#"{"select": "m_v"}"#);
    let json = answer.json();
    assert_eq!(answer.status, 200);
    assert_eq!(json["partial"], true);
    let warning = json["warnings"][0].as_str().unwrap();
    assert!(
        warning.starts_with("partial: ") && warning.contains("points of m_v"),
        "{warning}"
    );
    assert!(json["error"].is_null() && !json["rows"].as_array().unwrap().is_empty());
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.write(body(30_000, 10)).status, 204);
    assert!(
        server
            .post("/api/query?db=test", ALL)
            .text()
            .contains("damaged")
    );
    let status = server.get("/status").text().to_owned();
    assert!(status.contains("checksum"), "{status}");
    let pages = &server.get("/status").json()["store"]["pages"];
    let listed = pages["bad"].as_array().unwrap().len() as u64;
    assert!((1..=1000).contains(&listed), "{status}");
    assert_eq!(pages["bad_listed_max"], 1000);
    assert!(
        pages["bad_reads"].as_u64().unwrap() >= 2 * listed,
        "{status}"
    );

    // What was bad is not remembered as an answer.
    device.rotten.store(false, Ordering::Release);
    assert_eq!(server.query(ALL).lines().count(), 20_010);
    server.stop();
}
