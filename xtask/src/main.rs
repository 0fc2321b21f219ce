//! Checks and builds of the workspace: `cargo xtask` lists them. Continuous integration runs `cargo xtask ci`.

mod checkers;
mod deps;
mod formats;
mod fuzz;
mod layers;
mod mutants;
mod prove;
mod sizes;
mod steps;
mod tool;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  ci                 everything below in this order, the tests last
  lint               formatting and clippy, warnings are errors
  layers             dependencies against the layer table of the root manifest
  deps               licences, sources and bans of all dependencies against deny.toml
  formats [--bless]  format pages against their layout.rs; --bless takes the layouts as they are
  sizes              files past 800 lines (a report, never an error)
  doc                documentation, warnings are errors
  replay             the kept inputs of every fuzz target, on the toolchain at hand
  fuzz [SECONDS]     every fuzz target for a few seconds
  fuzz ARGS          --runs N or --seconds S, [--report FILE] [--address] [TARGET...]: long runs, that go on from their report
  test [ARGS]        doc tests, then all tests; with ARGS only those of `cargo nextest run ARGS`
  sim [ARGS]         the crash simulator: --seed N or --seeds A..B, --writes W, --exhaustive, --report FILE
  crash [ARGS]       the real binary under kill -9: --cycles N, --seed N, --lines N, --fresh N,
                     --backend pwritev|uring, --report FILE
  power [ARGS]       the real binary on a disk that forgets: --cycles N, --seed N, --mode none|prefix|subset|torn,
                     --durability sync|interval=50ms|os, --backend pwritev|uring, --report FILE; wants root and FUSE
  loom               every order of threads of the models of publishing and of group commit
  miri               the unsafe code outside the ring under Miri, where a nightly toolchain has it
  sanitize address|thread [ARGS]   tests under a sanitizer, where a nightly toolchain is
  mutants [WORDS]    planted faults, each of which a named test must notice; takes minutes";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((task, rest)) = args.split_first() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let result = match (task.as_str(), rest) {
        ("ci", []) => steps::ci(),
        ("lint", []) => steps::lint(),
        ("layers", []) => layers::run(),
        ("deps", []) => deps::run(),
        ("formats", []) => formats::run(false),
        ("formats", [flag]) if flag == "--bless" => formats::run(true),
        ("sizes", []) => sizes::run(),
        ("doc", []) => steps::doc(),
        ("replay", []) => fuzz::replay(),
        ("fuzz", []) => fuzz::smoke(5),
        ("fuzz", [seconds]) if seconds.parse::<u32>().is_ok() => {
            fuzz::smoke(seconds.parse().unwrap_or(5))
        }
        ("fuzz", args) => fuzz::run(args),
        ("loom", []) => checkers::loom(),
        ("miri", []) => checkers::miri(),
        ("sanitize", [sanitizer, args @ ..]) => checkers::sanitize(sanitizer, args),
        ("test", args) => steps::test(args),
        ("sim", args) => prove::sim(args),
        ("crash", args) => prove::crash(args),
        ("power", args) => prove::power(args),
        ("mutants", words) => mutants::run(words),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) if sentence.is_empty() => ExitCode::FAILURE,
        Err(sentence) => {
            eprintln!("xtask {task}: {sentence}");
            ExitCode::FAILURE
        }
    }
}
