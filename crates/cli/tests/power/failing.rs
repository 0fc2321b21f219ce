//! A disk that answers EIO under load, and is well again at once: acknowledging stops all the same until a restart,
//! reads go on, and everybody is told why.

use std::sync::mpsc;

use crate::client::{Answer, Client};
use crate::disk::{Failing, Mode};
use crate::machine::Machine;
use crate::oracle::{self, Oracle};
use crate::rng::Rng;
use crate::server::Server;

const DISK_BYTES: u64 = 1 << 30;

/// Answers before the disk fails.
const ANSWERS: u64 = 40;

fn post(url: &str, path: &str, body: &str) -> Answer {
    let mut client = Client::new(url, None).unwrap();
    client.request("POST", path, &[], body.as_bytes()).unwrap()
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
    let mut server = match Server::start(&directory, io) {
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
    for (path, body) in [
        ("/write?db=kill", "m,connection=0,series=0 n=1i,w=1.5 1"),
        ("/write?db=new", "m n=1i 1"),
        ("/api/delete?db=kill", r#"{"measurement": "m"}"#),
        ("/query?q=CREATE+DATABASE+another", ""),
        ("/api/checkpoint", ""),
    ] {
        let refused = post(&server.url, path, body);
        assert_eq!(refused.status, 503, "{path}: {}", refused.text());
        let text = refused.text();
        assert!(
            text.contains(&reason) && text.contains("restart"),
            "{path}: {text}, but not {reason}"
        );
    }
    oracle::check(&server.url, &oracles);

    // What was never flushed may be gone by then.
    disk.cut();
    server.kill();
    machine.down();
    machine.power_on(Mode::Subset, &mut rng);
    machine.up().unwrap();
    let mut server = Server::start(&directory, io).unwrap();
    server.wait_ready();
    oracle::compare(&server.url, &mut oracles);
    load(&server, &mut oracles, &mut rng, || disk.cut());
    Ok(())
}
