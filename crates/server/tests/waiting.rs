//! What waits for the device, or for who holds a lock, leaves the threads that serve connections to the others.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use alluvium_io::{Device, IoError, Layer, MemoryDevice, Read};
use alluvium_server::{Config, Storage};
use common::{Server, memory_config, read_answer};
use parking_lot::{Condvar, Mutex};

const TEN_S: Duration = Duration::from_secs(10);

/// A device that can be stopped: reads wait, and so does who asks for its name, which `/status` tells.
#[derive(Debug)]
struct Gate {
    disk: MemoryDevice,
    /// Whether it is shut, and how many wait.
    shut: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            disk: MemoryDevice::new(3),
            shut: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn pass(&self) {
        let mut shut = self.shut.lock();
        shut.1 += 1;
        self.changed.notify_all();
        while shut.0 {
            self.changed.wait(&mut shut);
        }
        shut.1 -= 1;
    }

    fn shut(&self, is_shut: bool) {
        self.shut.lock().0 = is_shut;
        self.changed.notify_all();
    }

    /// Whether so many wait, within ten seconds.
    fn stops(&self, count: usize) -> bool {
        let mut shut = self.shut.lock();
        while shut.1 < count {
            if self.changed.wait_for(&mut shut, TEN_S).timed_out() {
                return false;
            }
        }
        true
    }
}

impl Layer for Gate {
    fn behind(&self) -> &dyn Device {
        &self.disk
    }

    fn backend(&self) -> String {
        self.pass();
        self.disk.backend()
    }

    fn read(&self, reads: &mut [Read]) -> Result<(), IoError> {
        self.pass();
        self.disk.read(reads)
    }
}

fn config(gate: &Arc<Gate>) -> Config {
    let mut config = memory_config();
    config.storage = Storage::Device(Arc::<Gate>::clone(gate));
    config
}

fn begin(server: &Server, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = server.connect();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    stream
}

/// Whether another request is answered: `None` after ten seconds.
fn ping(server: &Server) -> Option<u16> {
    let mut stream = begin(server, "GET", "/ping", "");
    stream.set_read_timeout(Some(TEN_S)).unwrap();
    let answered = std::panic::catch_unwind(move || read_answer(&mut stream).status);
    answered.ok()
}

// The server has two threads that serve connections: of three requests that wait, the third shows that they wait elsewhere.

#[test]
fn status_waits_for_locks_beside_the_connections() {
    let gate = Gate::new();
    let server = Server::start(config(&gate));
    assert_eq!(server.write("m a=1 1").status, 204);
    gate.shut(true);
    let paths = ["/status", "/metrics", "/status"];
    let stopped = paths.map(|path| begin(&server, "GET", path, ""));
    let (all, answered) = (gate.stops(3), ping(&server));
    gate.shut(false);
    assert!(all, "two stopped requests keep the third from beginning");
    assert_eq!(answered, Some(204));
    for mut stream in stopped {
        assert_eq!(read_answer(&mut stream).status, 200);
    }
    server.stop();
}

#[test]
fn writes_to_what_has_left_memory_wait_beside_the_connections() {
    let gate = Gate::new();
    let server = Server::start(config(&gate));
    let line = |host| format!("m,host=h{host} a=1 1");
    let lines: Vec<String> = (0..8).map(line).collect();
    assert_eq!(server.write(lines.join("\n")).status, 204);
    assert_eq!(server.post("/api/checkpoint", "").status, 200);
    server.stop();
    // After this opening series stay in their files until they are used.
    let mut config = config(&gate);
    config.store.open_load_bytes_max = 0;
    config.store.recall_percent = 0;
    config.store.scrub_bytes_per_s = 0;
    let server = Server::start(config);
    let memory = &server.get("/status").json()["store"]["memory"];
    assert_eq!(memory["series_away"], 8, "{memory}");
    gate.shut(true);
    let write = |host| {
        let line = format!("m,host=h{host} a=2 2");
        begin(&server, "POST", "/write?db=test", &line)
    };
    let stopped = [1, 2, 3].map(write);
    let (all, answered) = (gate.stops(3), ping(&server));
    gate.shut(false);
    assert!(all, "two stopped requests keep the third from beginning");
    assert_eq!(answered, Some(204));
    for mut stream in stopped {
        assert_eq!(read_answer(&mut stream).status, 204);
    }
    let query = r#"{"aggregate": {"m_a": "count"}, "where": {"host": ["h0", "h1"]}, "output": {"format": "csv"}}"#;
    assert_eq!(server.query(query), "m_a host=h0,1,1\nm_a host=h1,1,2\n");
    server.stop();
}
