//! Power cuts, failing and full disks under the real binary, on ext4 on a loop device, which for cuts and failures stands on
//! a disk of our own that forgets (`disk.rs`).
//!
//! `cargo xtask power` runs more cycles than the few of the ordinary tests. It sets `ALLUVIUM_POWER_CYCLES`, `_SEED`, `_MODE`,
//! `_DURABILITY`, `_REPORT` (a file that gets a line for each run) and `_REQUIRED`, with which a system that cannot
//! mount fails; otherwise it is passed over with the reason printed. The seed is printed; the moments themselves depend
//! on the machine.

#![cfg(target_os = "linux")]
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "it uses a part of the binary's modules; what is not so fails it"
)]

#[path = "../kill/aged.rs"]
mod aged;
#[path = "../../src/client.rs"]
mod client;
mod cuts;
mod disk;
mod failing;
mod full;
mod fuse;
mod machine;
#[path = "../kill/oracle.rs"]
mod oracle;
mod prefix;
#[path = "../../src/rng.rs"]
mod rng;
#[path = "../kill/server.rs"]
mod server;
mod watch;

use std::path::Path;

use cuts::{Durability, Plan};
use disk::{Failing, Mode};

fn setting(name: &str) -> Option<String> {
    std::env::var(format!("ALLUVIUM_POWER_{name}")).ok()
}

fn number(name: &str, default: u64) -> u64 {
    setting(name).map_or(default, |v| v.parse().unwrap())
}

/// Says what this system lacks; an error where it was asked for.
fn not_shown(reason: &str) {
    println!("not shown: {reason}");
    assert!(setting("REQUIRED").is_none(), "not shown: {reason}");
}

/// So many cuts on one backend, of every level that is asked for.
fn cut(io: &'static str) {
    let wanted = setting("DURABILITY").unwrap_or("all".into());
    let wanted_mode = setting("MODE").unwrap_or("all".into());
    let levels = Durability::ALL.map(|d| (d, d.name()));
    let levels: Vec<Durability> = levels
        .into_iter()
        .filter(|(_, name)| wanted == "all" || *name == wanted)
        .map(|(level, _)| level)
        .collect();
    let modes: Vec<Mode> = Mode::ALL
        .into_iter()
        .filter(|m| wanted_mode == "all" || m.name() == wanted_mode)
        .collect();
    assert!(!levels.is_empty(), "no level is called {wanted}");
    assert!(!modes.is_empty(), "no mode is called {wanted_mode}");
    let cycles = number("CYCLES", 5);
    let seed = number("SEED", 1);
    println!("{cycles} cuts on {io}, seed {seed}");
    for (turn, durability) in levels.iter().enumerate() {
        // The first level, which promises most, gets what is left over.
        let share = (cycles + levels.len() as u64 - 1 - turn as u64) / levels.len() as u64;
        if share == 0 {
            continue;
        }
        let plan = Plan {
            cycles: share,
            // Backends and levels meet different cuts.
            seed: 10 * seed + 2 * turn as u64 + u64::from(io == "uring"),
            io,
            modes: modes.clone(),
            durability: *durability,
            served: *durability,
        };
        match cuts::run(&plan) {
            Ok(line) => cuts::report(setting("REPORT").as_deref().map(Path::new), &line),
            Err(reason) => return not_shown(&reason),
        }
    }
}

#[test]
fn cut_on_pwritev() {
    cut("pwritev");
}

#[test]
fn cut_on_uring() {
    cut("uring");
}

/// Runs a server that promises less than is asked of it; the loss must be found.
fn finds_a_loss(durability: Durability, served: Durability) {
    let plan = Plan {
        cycles: 5,
        seed: number("SEED", 1),
        io: "pwritev",
        modes: vec![Mode::None],
        durability,
        served,
    };
    let outcome = std::panic::catch_unwind(|| cuts::run(&plan));
    let said = match outcome {
        Ok(Err(reason)) => return not_shown(&reason),
        Ok(Ok(line)) => panic!("nobody noticed: {line}"),
        Err(panic) => *panic.downcast::<String>().expect("a sentence"),
    };
    let losses = [
        "is lost",
        "but should be",
        "its delete was acknowledged",
        "had to survive",
    ];
    assert!(losses.iter().any(|l| said.contains(l)), "{said}");
}

#[test]
fn a_flush_that_is_left_out_is_found() {
    finds_a_loss(Durability::Sync, Durability::Os);
}

#[test]
fn a_flush_that_comes_too_late_is_found() {
    finds_a_loss(
        Durability::Interval { ms: 50 },
        Durability::Interval { ms: 30_000 },
    );
}

/// Passes over what this system lacks.
fn shown(outcome: Result<(), String>) {
    if let Err(reason) = outcome {
        not_shown(&reason);
    }
}

#[test]
fn failing_writes_on_pwritev() {
    shown(failing::run("pwritev", Failing::Writes));
}

#[test]
fn failing_flushes_on_pwritev() {
    shown(failing::run("pwritev", Failing::Syncs));
}

#[test]
fn failing_writes_on_uring() {
    shown(failing::run("uring", Failing::Writes));
}

#[test]
fn failing_flushes_on_uring() {
    shown(failing::run("uring", Failing::Syncs));
}

#[test]
fn failing_disk_of_backups() {
    shown(failing::backups());
}

#[test]
fn full_while_a_database_is_made() {
    shown(full::while_a_database_is_made());
}

#[test]
fn full_while_writing() {
    shown(full::while_writing());
}

#[test]
fn full_while_it_checkpoints() {
    shown(full::while_it_checkpoints());
}

#[test]
fn full_while_it_merges() {
    shown(full::while_it_merges());
}

#[test]
fn full_while_it_backs_up() {
    shown(full::while_it_backs_up());
}
