//! A disk that answers EIO under load, and is well again at once: acknowledging stops all the same until a restart,
//! reads go on, and everybody is told why.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::client::{Answer, Client};
use crate::disk::{Failing, Mode};
use crate::machine::Machine;
use crate::oracle::{self, Oracle};
use crate::rng::Rng;
use crate::server::Server;

const DISK_BYTES: u64 = 1 << 30;

/// Answers before the disk fails.
const ANSWERS: u64 = 40;

/// A refusal comes within.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

fn post(url: &str, path: &str, body: &str) -> Answer {
    send(url, "POST", path, body)
}

fn send(url: &str, method: &str, path: &str, body: &str) -> Answer {
    let mut client = Client::new(url, None).unwrap();
    client.request(method, path, &[], body.as_bytes()).unwrap()
}

/// Two connections write until the server refuses.
fn load(server: &Server, oracles: &mut [Oracle], rng: &mut Rng, meanwhile: impl FnOnce()) {
    let (acks, acknowledged) = mpsc::channel();
    std::thread::scope(|scope| {
        for (connection, oracle) in oracles.iter_mut().enumerate() {
            let (acks, rng) = (acks.clone(), Rng::new(rng.next()));
            let url = &server.url;
            scope.spawn(move || oracle.load(url, connection, rng, || acks.send(()).is_ok()));
        }
        drop(acks);
        for _ in 0..ANSWERS {
            acknowledged.recv().expect("refused before the disk failed");
        }
        meanwhile();
        // Both end when they are refused.
        while acknowledged.recv().is_ok() {}
    });
}

/// # Errors
///
/// What this system lacks for it.
pub(crate) fn run(io: &str, failing: Failing) -> Result<(), String> {
    let mut machine = Machine::forgetful(DISK_BYTES)?;
    machine.up()?;
    let directory = machine.mount_point().join("data");
    let backups = machine.mount_point().join("backups");
    let flags = ["--backup-dir", backups.to_str().unwrap()];
    let mut server = match Server::start_with(&directory, io, &flags) {
        Ok(server) => server,
        Err(error) if io == "uring" => return Err(format!("io_uring: {error}")),
        Err(error) => panic!("{error}"),
    };
    server.wait_ready();
    let disk = machine.disk().clone();
    let mut rng = Rng::new(1);
    let mut oracles = [0, 1].map(|_| {
        let mut oracle = Oracle::of("kill");
        oracle.disk_may_fail = true;
        oracle
    });
    let created = post(&server.url, "/query?q=CREATE+DATABASE+kill", "");
    assert_eq!(created.status, 200, "{}", created.text());
    load(&server, &mut oracles, &mut rng, || disk.fail(failing));
    disk.fail(Failing::Nothing);

    // The disk is well, and is not trusted.
    let mut client = Client::new(&server.url, None).unwrap();
    let status = client.request("GET", "/status", &[], b"").unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    let reason = status["store"]["failure"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(!reason.is_empty(), "{status}");
    for (method, path, body) in [
        (
            "POST",
            "/write?db=kill",
            "m,connection=0,series=0 n=1i,w=1.5 1",
        ),
        ("POST", "/write?db=new", "m n=1i 1"),
        ("POST", "/api/delete?db=kill", r#"{"measurement": "m"}"#),
        ("POST", "/query?q=CREATE+DATABASE+another", ""),
        ("PUT", "/api/databases/another", ""),
        ("PUT", "/api/databases/kill?series_max=1000000", ""),
        ("POST", "/api/checkpoint", ""),
    ] {
        let begin = Instant::now();
        let refused = send(&server.url, method, path, body);
        let took = begin.elapsed();
        assert!(took < ANSWER_LIMIT, "{path}: the refusal took {took:?}");
        assert_eq!(refused.status, 503, "{path}: {}", refused.text());
        let text = refused.text();
        assert!(
            text.contains(&reason) && text.contains("restart"),
            "{path}: {text}, but not {reason}"
        );
    }
    // Of a flush that failed ext4 makes the whole file system read-only: then not even its directory can be made.
    let begin = Instant::now();
    let refused = post(&server.url, "/api/backup?to=monday", "");
    assert!(begin.elapsed() < ANSWER_LIMIT);
    let said = refused.text();
    let is_named = match refused.status {
        503 => said.contains(&reason),
        500 => said.contains("Read-only file system"),
        _ => false,
    };
    assert!(is_named, "{}: {said}", refused.status);
    oracle::check(&server.url, &oracles);

    // What was never flushed may be gone by then.
    disk.cut();
    server.kill();
    machine.down();
    machine.power_on(Mode::Subset, &mut rng);
    machine.up().unwrap();
    let mut server = Server::start_with(&directory, io, &flags).unwrap();
    server.wait_ready();
    oracle::compare(&server.url, &mut oracles);
    // What was refused was not done, and is done now.
    let made = send(&server.url, "PUT", "/api/databases/another", "");
    assert_eq!(made.status, 201, "{}", made.text());
    let copied = post(&server.url, "/api/backup?to=tuesday", "");
    assert_eq!(copied.status, 200, "{}", copied.text());
    load(&server, &mut oracles, &mut rng, || disk.cut());
    Ok(())
}

/// Backups go to a disk that answers EIO, the data is on another: the backup alone is refused, and by name.
///
/// # Errors
///
/// What this system lacks for it.
pub(crate) fn backups() -> Result<(), String> {
    let mut machine = Machine::forgetful(DISK_BYTES)?;
    machine.up()?;
    let data = tempfile::tempdir().map_err(|e| e.to_string())?;
    let root = machine.mount_point().join("backups");
    let flags = ["--backup-dir", root.to_str().unwrap()];
    let mut server = Server::start_with(&data.path().join("data"), "auto", &flags).unwrap();
    server.wait_ready();
    let write = |time: u64| post(&server.url, "/write?db=data", &format!("m v=1 {time}"));
    assert_eq!(write(1).status, 204);
    for (turn, failing) in [Failing::Writes, Failing::Syncs].into_iter().enumerate() {
        let turn = turn as u64;
        machine.disk().fail(failing);
        let begin = Instant::now();
        let refused = post(&server.url, &format!("/api/backup?to=bad{turn}"), "");
        let took = begin.elapsed();
        assert_eq!(refused.status, 500, "{failing:?}: {}", refused.text());
        assert!(
            took < ANSWER_LIMIT,
            "{failing:?}: the refusal took {took:?}"
        );
        // The server's own work is not touched.
        let answer = write(10 + turn);
        assert_eq!(answer.status, 204, "{failing:?}: {}", answer.text());
        let status = send(&server.url, "GET", "/status", "");
        let status = status.text();
        assert!(status.contains(r#""failure":null"#), "{status}");
        // The disk is well again, with what it has kept.
        machine.disk().cut();
        machine.down();
        machine.power_on(Mode::None, &mut Rng::new(turn + 1));
        machine.disk().fail(Failing::Nothing);
        machine.up()?;
        let copied = post(&server.url, &format!("/api/backup?to=good{turn}"), "");
        assert_eq!(copied.status, 200, "{failing:?}: {}", copied.text());
    }
    let query = r#"{"aggregate": {"m_v": "count"}, "output": {"format": "csv"}}"#;
    let answer = post(&server.url, "/api/query?db=data", query);
    assert!(
        answer.text().trim_end().ends_with(",3"),
        "{}",
        answer.text()
    );
    Ok(())
}
