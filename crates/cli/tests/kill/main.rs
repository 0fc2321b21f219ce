//! The real binary under load, killed with -9 at random moments, half of the time again while it recovers: no
//! acknowledged point may be lost, changed or doubled, no acknowledged delete undone, nothing expired may come back.
//!
//! `cargo xtask crash --cycles 1000 --lines 2000 --fresh 10` runs more cycles than the few of the ordinary tests, with larger
//! requests and a new directory now and then; it sets `ALLUVIUM_KILL_CYCLES` and its like, and `ALLUVIUM_KILL_REPORT` names
//! a file that gets a line for each directory. The seed is printed; the moments themselves depend on the machine.

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

/// How long, from the environment.
struct Plan {
    cycles: u64,
    seed: u64,
    /// Lines of the largest request.
    lines: u64,
    /// Cycles after which an empty directory takes over, so that comparing does not take all the time.
    fresh: u64,
}

impl Plan {
    fn new() -> Self {
        let number = |name: &str, default: u64| {
            let given = std::env::var(name).ok();
            given.map_or(default, |v| v.parse().expect("a number"))
        };
        Self {
            cycles: number("ALLUVIUM_KILL_CYCLES", 20),
            seed: number("ALLUVIUM_KILL_SEED", 1),
            lines: number("ALLUVIUM_KILL_LINES", oracle::BATCH_LINES_MAX),
            fresh: number("ALLUVIUM_KILL_FRESH", u64::MAX).max(1),
        }
    }
}

fn cycles(io: &str) {
    let plan = Plan::new();
    println!("{} cycles on {io}, seed {}", plan.cycles, plan.seed);
    let mut rng = Rng::new(plan.seed);
    let (mut left, mut acked) = (plan.cycles, 0);
    while left > 0 {
        let cycles = left.min(plan.fresh);
        let Some(of_directory) = one_directory(io, &plan, cycles, &mut rng) else {
            return;
        };
        acked += of_directory;
        left -= cycles;
    }
    assert!(acked > 1000, "the load was too small to show anything");
}

/// Kills a server on a directory of its own so many times. Returns the points acknowledged; `None` if the system has no such
/// backend.
fn one_directory(io: &str, plan: &Plan, cycles: u64, rng: &mut Rng) -> Option<u64> {
    let directory = tempfile::tempdir().unwrap();
    let mut oracles: Vec<Oracle> = (0..CONNECTIONS).map(|_| Oracle::of("kill")).collect();
    for oracle in &mut oracles {
        oracle.batch_lines_max = plan.lines;
    }
    let mut aged = Aged::default();
    let mut counts = Counts::default();
    let mut server = match Server::start(directory.path(), io) {
        Ok(server) => server,
        Err(error) if io == "uring" => {
            println!("not shown: the system refuses io_uring: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    server.wait_ready();
    for _ in 0..cycles {
        aged::create(&server.url);
        load_and_kill(server, rng, &mut oracles, &mut aged);
        counts.kills += 1;
        server = come_back(directory.path(), io, rng, &mut counts);
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
        "kill io={io} seed={} cycles={kills} kills_in_recovery={kills_in_recovery} acked_points={acked} \
         acked_deletes={deletes} expired={} points_at_end={points} lost=0",
        plan.seed, aged.expired,
    );
    println!("{line}");
    if let Ok(path) = std::env::var("ALLUVIUM_KILL_REPORT") {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
    assert!(deletes > cycles, "too few deletes to show anything");
    Some(acked)
}

#[test]
fn killed_on_pwritev() {
    cycles("pwritev");
}

#[test]
fn killed_on_uring() {
    cycles("uring");
}
