//! The real binary under load, killed with -9 at random moments, half of the time again while it recovers: no
//! acknowledged point may be lost, changed or doubled, no acknowledged delete undone, nothing expired may come back.
//!
//! `cargo xtask crash --cycles 20` runs more cycles than the few of the ordinary tests; `ALLUVIUM_KILL_CYCLES` and
//! `ALLUVIUM_KILL_SEED` are what it sets, and `ALLUVIUM_KILL_REPORT` names a file that gets a line for each run. The
//! seed is printed; the moments themselves depend on the machine.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "it uses a part of the binary's modules; what is not so fails it"
)]

mod aged;
#[path = "../../src/client.rs"]
mod client;
mod oracle;
#[path = "../../src/rng.rs"]
mod rng;
mod server;

use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use aged::Aged;
use client::Client;
use oracle::Oracle;
use rng::Rng;
use server::Server;

/// Connections that write, and the one that writes what expires.
const CONNECTIONS: usize = 2;

/// What a whole run did.
#[derive(Debug, Default)]
struct Counts {
    kills: u64,
    kills_in_recovery: u64,
}

/// Starts it, now and then kills it while it recovers, and waits until it is ready.
fn come_back(directory: &std::path::Path, io: &str, rng: &mut Rng, counts: &mut Counts) -> Server {
    for _ in 0..rng.below(3) {
        let server = Server::start(directory, io).unwrap();
        // It listens and recovers: killed somewhere on the way, it must come back all the same.
        std::thread::sleep(Duration::from_micros(rng.below(15_000)));
        server.kill();
        counts.kills_in_recovery += 1;
    }
    let mut server = Server::start(directory, io).unwrap();
    server.wait_ready();
    server
}

/// Loads the server and kills it after so many answers, a checkpoint under way or not.
fn load_and_kill(server: Server, rng: &mut Rng, oracles: &mut [Oracle], aged: &mut Aged) {
    let (acks, acknowledged) = mpsc::channel();
    let url = server.url.clone();
    std::thread::scope(|scope| {
        for (connection, oracle) in oracles.iter_mut().enumerate() {
            let (url, acks, rng) = (&url, acks.clone(), Rng::new(rng.next()));
            // Nobody counts any more: the server was killed between two requests.
            scope.spawn(move || oracle.load(url, connection, rng, || acks.send(()).is_ok()));
        }
        drop(acks);
        scope.spawn(|| aged.load(&url));
        let answers = 20 + rng.below(120);
        let checkpoint_at = rng.below(2 * answers);
        for answer in 0..answers {
            acknowledged
                .recv()
                .expect("both connections failed before the kill");
            if answer == checkpoint_at {
                scope.spawn(|| {
                    let mut client = Client::new(&url, None).unwrap();
                    let _ = client.request("POST", "/api/checkpoint", &[], b"");
                });
            }
        }
        server.kill();
        drop(acknowledged);
    });
}

fn cycles(io: &str) {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(default)
    };
    let cycles = number("ALLUVIUM_KILL_CYCLES", 20);
    let seed = number("ALLUVIUM_KILL_SEED", 1);
    println!("{cycles} cycles on {io}, seed {seed}");
    let mut rng = Rng::new(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut oracles: Vec<Oracle> = (0..CONNECTIONS).map(|_| Oracle::of("kill")).collect();
    let mut aged = Aged::default();
    let mut counts = Counts::default();
    let mut server = match Server::start(directory.path(), io) {
        Ok(server) => server,
        Err(error) if io == "uring" => {
            println!("not shown: the system refuses io_uring: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    server.wait_ready();
    for _ in 0..cycles {
        aged::create(&server.url);
        load_and_kill(server, &mut rng, &mut oracles, &mut aged);
        counts.kills += 1;
        server = come_back(directory.path(), io, &mut rng, &mut counts);
        oracle::compare(&server.url, &mut oracles);
        aged.compare(&server.url);
    }
    let points: usize = oracles.iter().map(Oracle::len).sum();
    let acked: u64 = oracles.iter().map(|o| o.acked).sum::<u64>() + aged.acked;
    let deletes: u64 = oracles.iter().map(|o| o.deletes).sum();
    let Counts {
        kills,
        kills_in_recovery,
    } = counts;
    let line = format!(
        "kill io={io} seed={seed} cycles={kills} kills_in_recovery={kills_in_recovery} acked_points={acked} \
         acked_deletes={deletes} expired={} points_at_end={points} lost=0",
        aged.expired,
    );
    println!("{line}");
    if let Ok(path) = std::env::var("ALLUVIUM_KILL_REPORT") {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
    assert!(
        acked > 1000 && deletes > cycles,
        "the load was too small to show anything"
    );
}

#[test]
fn killed_on_pwritev() {
    cycles("pwritev");
}

#[test]
fn killed_on_uring() {
    cycles("uring");
}
