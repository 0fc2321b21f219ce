//! A small file system that fills up under the real binary, wherever it is at that moment: 507 within a second, reads
//! right, deletes taken, and everything by itself when there is room again.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use crate::client::{Answer, Client};
use crate::machine::Machine;
use crate::server::Server;
use crate::watch::Watch;

/// Room for two segments of the log, the room the server keeps, and some volumes.
const DISK_BYTES: u64 = 320 << 20;

/// A refusal, and an answer when the disk is full, come within.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Everything goes on within, when there is room again.
const RECOVERY_LIMIT: Duration = Duration::from_secs(20);

/// Lines of a batch.
const LINES: u64 = 2000;

/// What takes the room: a file beside the data.
struct Ballast(PathBuf);

impl Ballast {
    /// Takes all room there is but so much.
    fn fill_but(&self, bytes: u64) {
        self.fill();
        let file = File::options().write(true).open(&self.0).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length - bytes).unwrap();
    }

    /// Takes all room there is.
    fn fill(&self) {
        let file = File::options()
            .create(true)
            .append(true)
            .open(&self.0)
            .unwrap();
        let mut step = 64_u64 << 20;
        while step >= 4096 {
            let length = file.metadata().unwrap().len();
            if rustix::fs::fallocate(file.as_fd(), FallocateFlags::empty(), length, step).is_err() {
                step /= 2;
            }
        }
    }

    fn remove(&self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// Points of a delete.
const DELETED: u64 = 100;

/// A server on a small disk, and what was acknowledged: points `first..points` of one series, each with its own value.
struct Small {
    server: Server,
    client: Client,
    ballast: Ballast,
    /// Those before were deleted.
    first: u64,
    points: u64,
    /// Points that were sent and not acknowledged: there or not.
    in_doubt: u64,
    machine: Machine,
}

/// Does not pack well.
fn noise(time: u64) -> u64 {
    time.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 13
}

impl Small {
    /// # Errors
    ///
    /// What this system lacks for it.
    fn new() -> Result<Self, String> {
        Self::on(DISK_BYTES)
    }

    /// The same on a disk of so many bytes.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    fn on(bytes: u64) -> Result<Self, String> {
        let mut machine = Machine::plain(bytes)?;
        machine.up()?;
        let backups = machine.mount_point().join("backups");
        let flags = ["--backup-dir", backups.to_str().unwrap(), "--shards", "1"];
        let mut server =
            Server::start_with(&machine.mount_point().join("data"), "auto", &flags).unwrap();
        server.wait_ready();
        let client = Client::new(&server.url, None).unwrap();
        let mut small = Self {
            server,
            client,
            ballast: Ballast(machine.mount_point().join("ballast")),
            first: 0,
            points: 0,
            in_doubt: 0,
            machine,
        };
        for _ in 0..10 {
            assert_eq!(small.write().status, 204);
        }
        Ok(small)
    }

    fn post(&mut self, path: &str, body: &str) -> Answer {
        self.client
            .request("POST", path, &[], body.as_bytes())
            .unwrap()
    }

    /// The next batch, or the one that was refused again; half of it comes late.
    fn write(&mut self) -> Answer {
        use std::fmt::Write;
        let mut body = String::new();
        let times = self.points..self.points + LINES;
        let (late, early): (Vec<u64>, Vec<u64>) = times.partition(|t| t % 2 == 0);
        for time in early.into_iter().chain(late) {
            writeln!(body, "m,s=1 v={}.5 {time}", noise(time)).unwrap();
        }
        let answer = self.post("/write?db=small", &body);
        if answer.status == 204 {
            self.points += LINES;
            self.in_doubt = 0;
        } else {
            self.in_doubt = LINES;
        }
        answer
    }

    fn status(&mut self) -> serde_json::Value {
        let answer = self.client.request("GET", "/status", &[], b"").unwrap();
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Writes until it is told that the disk is full, which must not take longer than an answer may.
    fn write_until_full(&mut self) {
        for _ in 0..2000 {
            let watch = Watch::start(&self.server);
            let answer = self.write();
            let took = watch.took();
            match answer.status {
                204 => {}
                507 => {
                    assert!(took < ANSWER_LIMIT, "the refusal took {took:?}");
                    assert!(answer.text().contains("disk is full"), "{}", answer.text());
                    return;
                }
                other => panic!("{other} after {took:?}: {}", answer.text()),
            }
        }
        panic!("the disk never filled: {}", self.status());
    }

    /// Every acknowledged point has its value, and nothing else is there.
    fn read(&mut self) {
        let query = r#"{"select": "m_v", "output": {"format": "csv"}}"#;
        let answer = self.post("/api/query?db=small", query);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut time = self.first;
        for line in answer.text().lines() {
            let cells: Vec<&str> = line.split(',').collect();
            let found: u64 = cells[1].parse().unwrap_or_else(|_| panic!("{line}"));
            if time < self.points {
                assert_eq!(found, time, "a point is missing");
            }
            assert!(
                found < self.points + self.in_doubt,
                "{line} was never written"
            );
            assert_eq!(cells[2], format!("{}.5", noise(found)), "{line}");
            time = found + 1;
        }
        assert!(
            time >= self.points,
            "of {} points there are {time}",
            self.points
        );
    }

    /// Deletes the oldest points.
    fn delete(&mut self) {
        let end = self.first + DELETED;
        let range = format!(r#"{{"from": {}, "to": {end}}}"#, self.first);
        let body = format!(r#"{{"measurement": "m", "range": {range}}}"#);
        let answer = self.post("/api/delete?db=small", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.first = end;
    }

    /// What must hold while the disk is full.
    fn is_full_and_sound(&mut self) {
        for _ in 0..3 {
            let watch = Watch::start(&self.server);
            let answer = self.write();
            let took = watch.took();
            assert_eq!(answer.status, 507, "{}", answer.text());
            assert!(took < ANSWER_LIMIT, "the refusal took {took:?}");
        }
        assert_eq!(self.status()["store"]["full"], true);
        self.read();
        self.delete();
        self.read();
        let health = self.client.request("GET", "/health", &[], b"").unwrap();
        assert_eq!(health.status, 200);
        assert!(health.text().contains("disk is full"), "{}", health.text());
    }

    /// Gives the room back; writes and checkpoints go on by themselves.
    fn goes_on(&mut self) {
        self.ballast.remove();
        let begin = Instant::now();
        while self.write().status != 204 {
            assert!(begin.elapsed() < RECOVERY_LIMIT, "{}", self.status());
            std::thread::sleep(Duration::from_millis(20));
        }
        let answer = self.post("/api/checkpoint", "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        // What was under way when room came back may end without, and says so once more.
        while self.status()["store"]["full"] != false {
            assert!(begin.elapsed() < RECOVERY_LIMIT, "{}", self.status());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.read();
    }

    /// The same over a kill.
    fn ends(mut self) {
        self.read();
        self.server.kill();
        let directory = self.machine.mount_point().join("data");
        self.server = Server::start(&directory, "auto").unwrap();
        self.server.wait_ready();
        self.client = Client::new(&self.server.url, None).unwrap();
        self.read();
    }
}

/// # Errors
///
/// What this system lacks for it.
pub(crate) fn while_writing() -> Result<(), String> {
    let mut small = Small::new()?;
    small.ballast.fill();
    small.write_until_full();
    small.is_full_and_sound();
    small.goes_on();
    small.ends();
    Ok(())
}

/// # Errors
///
/// What this system lacks for it.
pub(crate) fn while_it_checkpoints() -> Result<(), String> {
    let mut small = Small::new()?;
    for round in 0..3 {
        for _ in 0..10 {
            assert_eq!(small.write().status, 204);
        }
        let (url, pid) = (small.server.url.clone(), small.server.pid());
        let answer = std::thread::scope(|scope| {
            // Before it, or at the same time.
            if round == 0 {
                small.ballast.fill();
            }
            let checkpoint = scope.spawn(move || {
                let watch = Watch::of(pid);
                let mut client = Client::new(&url, None).unwrap();
                let answer = client.request("POST", "/api/checkpoint", &[], b"").unwrap();
                (answer, watch.took())
            });
            if round > 0 {
                small.ballast.fill();
            }
            checkpoint.join().unwrap()
        });
        let (answer, took) = answer;
        println!(
            "round {round}: a checkpoint answers {} in {took:?}",
            answer.status
        );
        assert!([200, 507].contains(&answer.status), "{}", answer.text());
        assert!(
            round > 0 || answer.status == 507,
            "it needs room: {}",
            answer.text()
        );
        assert!(took < ANSWER_LIMIT, "the checkpoint took {took:?}");
        small.read();
        small.write_until_full();
        small.is_full_and_sound();
        small.goes_on();
    }
    small.ends();
    Ok(())
}

/// # Errors
///
/// What this system lacks for it.
pub(crate) fn while_it_merges() -> Result<(), String> {
    let mut small = Small::new()?;
    let merges = |small: &mut Small| {
        small.status()["store"]["merging"]["merges"]
            .as_u64()
            .unwrap()
    };
    // Until the merger is at work.
    let before = merges(&mut small);
    for _ in 0..500 {
        assert_eq!(small.write().status, 204);
        if merges(&mut small) > before {
            break;
        }
    }
    assert!(
        merges(&mut small) > before,
        "nothing is merged: {}",
        small.status()
    );
    small.ballast.fill();
    small.write_until_full();
    small.is_full_and_sound();
    let stuck = merges(&mut small);
    small.goes_on();
    let begin = Instant::now();
    while merges(&mut small) <= stuck {
        assert!(begin.elapsed() < RECOVERY_LIMIT, "{}", small.status());
        assert_eq!(small.write().status, 204);
    }
    small.ends();
    Ok(())
}

/// # Errors
///
/// What this system lacks for it.
pub(crate) fn while_it_backs_up() -> Result<(), String> {
    let mut small = Small::new()?;
    for _ in 0..40 {
        assert_eq!(small.write().status, 204);
    }
    // At first not even the directory of backups can be made.
    for round in 0..2 {
        small.ballast.fill();
        let watch = Watch::start(&small.server);
        let answer = small.post(&format!("/api/backup?to=full-{round}&link=false"), "");
        let took = watch.took();
        assert_eq!(answer.status, 507, "{}", answer.text());
        assert!(took < ANSWER_LIMIT, "the refusal took {took:?}");
        small.read();
        small.write_until_full();
        small.is_full_and_sound();
        small.goes_on();
        // The server's own work is not touched, and the next one succeeds.
        let answer = small.post(&format!("/api/backup?to={round}&link=false"), "");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // Room for a half of it: it meets the end on the way.
    small.ballast.fill_but(1 << 20);
    let answer = small.post("/api/backup?to=half&link=false", "");
    assert_eq!(answer.status, 507, "{}", answer.text());
    small.read();
    small.goes_on();
    small.ends();
    Ok(())
}

/// # Errors
///
/// What this system lacks for it.
pub(crate) fn while_a_database_is_made() -> Result<(), String> {
    // Room for the series that fill the log, twice, and the logs of two lives.
    let mut small = Small::on(4 * DISK_BYTES)?;
    let put = |small: &mut Small, name: &str| {
        let watch = Watch::start(&small.server);
        let path = format!("/api/databases/{name}");
        let answer = small.client.request("PUT", &path, &[], b"").unwrap();
        (answer, watch.took())
    };
    small.ballast.fill();
    // New series take room in the log alone: that is what must be full.
    let mut turns = 0..400;
    let full = turns.any(|turn| {
        let line = |i: u32| format!("n,s={turn}-{i}-{} v=1 1\n", "x".repeat(400));
        let answer = small.post("/write?db=small", &(0..500).map(line).collect::<String>());
        assert!([204, 507].contains(&answer.status), "{}", answer.text());
        answer.status == 507
    });
    assert!(full, "the log never filled: {}", small.status());
    let mut refused = Vec::new();
    let mut made = Vec::new();
    for n in 0..10 {
        let name = format!("put{n}");
        let (answer, took) = put(&mut small, &name);
        assert!(took < ANSWER_LIMIT, "{} took {took:?}", answer.status);
        match answer.status {
            // The log has kept some room.
            201 => made.push(name),
            507 => {
                assert!(answer.text().contains("disk is full"), "{}", answer.text());
                refused.push(name);
            }
            other => panic!("{other}: {}", answer.text()),
        }
        // A first write is refused as it would be of any other database.
        let watch = Watch::start(&small.server);
        let answer = small.post(&format!("/write?db=write{n}"), "m v=1 1");
        assert_eq!(answer.status, 507, "{}", answer.text());
        assert!(watch.took() < ANSWER_LIMIT);
    }
    println!("{} were made, {} refused", made.len(), refused.len());
    small.is_full_and_sound();
    small.goes_on();
    for name in &refused {
        // 200: it was in the log when it was refused, and went out with it.
        let (answer, _) = put(&mut small, name);
        assert!([200, 201].contains(&answer.status), "{}", answer.text());
        made.push(name.clone());
    }
    for round in 0..2 {
        for name in &made {
            let answer = small.post(&format!("/write?db={name}"), &format!("m v=1 {round}"));
            let said = answer.text();
            assert_eq!(
                answer.status,
                204,
                "{name}: {said} {}",
                small.status()["store"]
            );
        }
        if round == 0 {
            small.server.kill();
            let directory = small.machine.mount_point().join("data");
            small.server = Server::start(&directory, "auto").unwrap();
            small.server.wait_ready();
            small.client = Client::new(&small.server.url, None).unwrap();
        }
    }
    let query = r#"{"aggregate": {"m_v": "count"}, "output": {"format": "csv"}}"#;
    for name in &made {
        let answer = small.post(&format!("/api/query?db={name}"), query);
        assert!(
            answer.text().trim_end().ends_with(",2"),
            "{name}: {}",
            answer.text()
        );
    }
    small.ends();
    Ok(())
}
