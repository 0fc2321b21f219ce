//! The real binary in a control group with a quarter of the memory that its series would like to have: new series are
//! refused with a reason, everything acknowledged stays readable, the kernel kills nothing, and a restart fits, too.
//!
//! Needs a control group of its own (root, memory controller of version 1 or 2); says so and passes over it otherwise.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "it uses a part of the binary's modules; what is not so fails it"
)]

#[path = "../src/client.rs"]
mod client;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use client::Client;

/// What the group may have, bytes. The server takes half of it for its budget.
const GROUP_BYTES: u64 = 96 << 20;
/// Lines of a request.
const LINES: u64 = 2000;
/// Values of the tag by which they are read back.
const RACKS: u64 = 50;
/// Tag sets that are tried: some 450 bytes each, four times what the group may have.
const SERIES: u64 = 800_000;

/// A control group; it is removed when nothing runs in it any more.
struct Group {
    path: PathBuf,
    kills: PathBuf,
}

impl Group {
    /// `None` where there can be none.
    fn new() -> Option<Self> {
        let name = format!("alluvium-test-{}", std::process::id());
        for (root, limit, kills) in [
            (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.oom_control",
            ),
            ("/sys/fs/cgroup", "memory.max", "memory.events"),
        ] {
            let path = Path::new(root).join(&name);
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Self {
                kills: path.join(kills),
                path,
            };
            if fs::write(group.path.join(limit), GROUP_BYTES.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }

    /// Processes that the kernel has killed in it.
    fn kills(&self) -> u64 {
        let text = fs::read_to_string(&self.kills).unwrap();
        let line = text.lines().find(|l| l.starts_with("oom_kill ")).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

struct Server {
    child: Child,
    client: Client,
}

impl Server {
    fn start(dir: &Path, group: &Group) -> Self {
        // The shell enters the group, then becomes the server.
        let enter = format!(
            "echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"",
            group.path.display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &enter, env!("CARGO_BIN_EXE_alluvium")])
            .args(["serve", "--http", "127.0.0.1:0", "--volume-size", "64MiB"])
            .args(["--durability", "interval=50ms"])
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = lines.next().unwrap().unwrap();
        let url = listening
            .split_whitespace()
            .find(|w| w.starts_with("http://"));
        let client = Client::new(url.unwrap(), None).unwrap();
        assert!(lines.map(Result::unwrap).any(|l| l.starts_with("try: ")));
        Self { child, client }
    }

    /// One point for each of some tag sets; `Err` is the reason of a refusal.
    fn write(&mut self, series: std::ops::Range<u64>, time: u64) -> Result<(), String> {
        let mut body = String::new();
        for host in series {
            writeln!(
                body,
                "m,host=h{host},rack=r{},room=x v={host}i {time}",
                host % 50
            )
            .unwrap();
        }
        let answer = self
            .client
            .request("POST", "/write?db=db", &[], body.as_bytes());
        let answer = answer.unwrap();
        match answer.status {
            204 => Ok(()),
            503 => Err(answer.text()),
            other => panic!("{other}: {}", answer.text()),
        }
    }

    /// Tries again while the server says that it should be.
    fn write_patiently(&mut self, series: std::ops::Range<u64>, time: u64) {
        for _ in 0..600 {
            match self.write(series.clone(), time) {
                Ok(()) => return,
                Err(reason) => {
                    assert!(!reason.contains("new series"), "of known ones: {reason}");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
        panic!("points of known series are refused for half a minute");
    }

    /// Points of all series, by rack. A reader may be refused memory, too, for a while.
    fn count(&mut self) -> u64 {
        (0..RACKS).map(|rack| self.count_rack(rack)).sum()
    }

    fn count_rack(&mut self, rack: u64) -> u64 {
        let query = format!(
            r#"{{"aggregate": {{"m_v": "count"}}, "where": {{"rack": "r{rack}"}}, "output": {{"format": "csv"}}}}"#
        );
        let mut last = String::new();
        for _ in 0..600 {
            let answer = self
                .client
                .request("POST", "/api/query?db=db", &[], query.as_bytes());
            let answer = answer.unwrap();
            if answer.status == 200 {
                let counts = answer.text();
                let counts = counts
                    .lines()
                    .filter_map(|l| l.rsplit(',').next()?.parse::<u64>().ok());
                return counts.sum();
            }
            last = answer.text();
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{last}");
    }

    fn memory(&mut self) -> serde_json::Value {
        self.status()["store"]["memory"].clone()
    }

    fn status(&mut self) -> serde_json::Value {
        let answer = self.client.request("GET", "/status", &[], b"").unwrap();
        serde_json::from_str(&answer.text()).unwrap()
    }

    fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_quarter_of_the_memory_refuses_new_series_and_loses_nothing() {
    let Some(group) = Group::new() else {
        println!("skipped: no control group for memory can be made here");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &group);
    let (mut known, mut refusals, mut reason) = (0, 0, String::new());
    while known < SERIES && refusals < 40 {
        match server.write(known..known + LINES, 1_700_000_000_000_000_000) {
            Ok(()) => (known, refusals) = (known + LINES, 0),
            Err(why) => {
                refusals += 1;
                reason = why;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    println!("{known} series, then: {reason}");
    println!("{}", server.memory());
    assert!(known > 50_000, "{known}");
    assert!(reason.contains("new series are refused"), "{reason}");
    let drops = server.status()["server"]["drops"].clone();
    assert!(drops["new_series"].as_u64() >= Some(40), "{drops}");
    // Points of the series that are there are taken, the oldest first: those have left memory.
    for begin in (0..known).step_by(LINES as usize).take(20) {
        server.write_patiently(begin..begin + LINES, 1_700_000_010_000_000_000);
    }
    let points = known + 20 * LINES;
    assert_eq!(server.count(), points);
    server.stop();
    let mut server = Server::start(dir.path(), &group);
    assert_eq!(server.count(), points);
    println!("after a restart: {}", server.memory());
    for begin in (0..known).step_by(LINES as usize).take(5) {
        server.write_patiently(begin..begin + LINES, 1_700_000_020_000_000_000);
    }
    assert_eq!(server.count(), points + 5 * LINES);
    server.stop();
    assert_eq!(group.kills(), 0, "the kernel killed something");
}
