//! The crash simulator as a program; `cargo xtask sim` builds and runs it.
//!
//! `simulate [--seed N | --seeds A..B] [--writes W] [--exhaustive] [--report FILE]` runs worlds (one seed, one disk,
//! several process lives, see `tests/sim`) or, with `--writes`, each until it has written so many pages. With
//! `--exhaustive` the seeds' short workloads are cut after every operation, and every recovery after every operation
//! of its own, and fail at every operation. A report gets a line for every chunk of seeds; a run that finds its
//! chunks there leaves them out, so that a long run goes on where it stopped.
#![expect(
    clippy::unwrap_used,
    reason = "an error of a tool of developers may end it"
)]

#[path = "../tests/model/mod.rs"]
mod model;
#[path = "../tests/sim/mod.rs"]
mod sim;

use std::io::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use alluvium_sim::Fault;
use sim::{Counts, Kind, damage, exhaustive, lives};

/// Seeds of one line of the report.
const CHUNK: u64 = 100;

#[derive(Debug, Default)]
struct Args {
    seeds: Range<u64>,
    writes: u64,
    exhaustive: bool,
    report: Option<String>,
}

fn parse() -> Result<Args, String> {
    let mut args = Args {
        seeds: 1..101,
        ..Args::default()
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let mut value = || given.next().ok_or(format!("{name} wants a value"));
        let number = |text: &str| {
            let number = text.parse::<u64>();
            number.map_err(|_| format!("{text:?} is not a number"))
        };
        match name.as_str() {
            "--seed" => {
                let seed = number(&value()?)?;
                args.seeds = seed..seed + 1;
            }
            "--seeds" => {
                let text = value()?;
                let (from, to) = text.split_once("..").ok_or("write --seeds as 1..100")?;
                args.seeds = number(from)?..number(to)?;
            }
            "--writes" => args.writes = number(&value()?)?,
            "--exhaustive" => args.exhaustive = true,
            "--report" => args.report = Some(value()?),
            _ => return Err(format!("{name:?} is not known")),
        }
    }
    Ok(args)
}

/// Everything that one seed is good for.
fn run(seed: u64, args: &Args) -> Counts {
    let kind = Kind::of(seed);
    if !args.exhaustive {
        let mut counts = lives::run(seed, kind, lives::LIVES, args.writes);
        if seed.is_multiple_of(4) {
            counts += damage::run(seed);
        }
        return counts;
    }
    let mut counts = exhaustive::every_operation_may_be_the_last(seed, kind, 1, true);
    for fault in [Fault::Eio, Fault::NoSpace, Fault::Torn, Fault::LosesContent] {
        counts += exhaustive::every_operation_may_fail(seed, kind, fault).0;
    }
    counts += exhaustive::every_read_of_a_recovery_may_fail(seed, kind).0;
    counts
}

/// Processor seconds of this process so far, as the kernel counts them; 0 where it does not tell.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name in brackets: user and system time are the twelfth and thirteenth, in hundredths.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// What a line of a report is about.
fn title(args: &Args, seeds: &Range<u64>) -> String {
    let what = if args.exhaustive {
        "exhaustive"
    } else {
        "lives"
    };
    let Range { start, end } = seeds;
    format!("{what} seeds={start}..{end} writes={}", args.writes)
}

fn main() -> ExitCode {
    let args = match parse() {
        Ok(args) => args,
        Err(sentence) => {
            eprintln!("simulate: {sentence}");
            return ExitCode::from(2);
        }
    };
    let before = args.report.as_ref().map(std::fs::read_to_string);
    let before = before.and_then(Result::ok).unwrap_or_default();
    let (mut total, mut failed) = (Counts::default(), Vec::new());
    let mut at = args.seeds.start;
    while at < args.seeds.end {
        let chunk = at..args.seeds.end.min((at / CHUNK + 1) * CHUNK);
        at = chunk.end;
        let title = title(&args, &chunk);
        if before
            .lines()
            .any(|line| line.starts_with(&format!("{title} ")))
        {
            continue;
        }
        let (mut counts, mut lost, cpu) = (Counts::default(), 0, cpu_seconds());
        for seed in chunk {
            if let Ok(more) = catch_unwind(AssertUnwindSafe(|| run(seed, &args))) {
                counts += more;
            } else {
                lost += 1;
                failed.push(seed);
                eprintln!("seed {seed} fails; replay it: {}", replay(&args, seed));
            }
        }
        total += counts;
        let line = format!(
            "{title} failed={lost} {counts} cpu_s={:.1}",
            cpu_seconds() - cpu
        );
        println!("{line}");
        if let Some(path) = &args.report {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.create(true).append(true).open(path).unwrap();
            writeln!(file, "{line}").unwrap();
        }
    }
    println!(
        "{} failed={} {total} cpu_s={:.1}",
        title(&args, &args.seeds),
        failed.len(),
        cpu_seconds()
    );
    let is_long = !args.exhaustive && total.worlds >= sim::counts::WORLDS_OF_ALL;
    let missing = if is_long { total.missing() } else { Vec::new() };
    if !missing.is_empty() {
        println!("never happened: {}", missing.join(", "));
    }
    if failed.is_empty() && missing.is_empty() {
        return ExitCode::SUCCESS;
    }
    for seed in failed {
        println!("replay: {}", replay(&args, seed));
    }
    ExitCode::FAILURE
}

fn replay(args: &Args, seed: u64) -> String {
    let writes = match args.writes {
        0 => String::new(),
        writes => format!(" --writes {writes}"),
    };
    let exhaustive = if args.exhaustive { " --exhaustive" } else { "" };
    format!("ALLUVIUM_TRACE=1 cargo xtask sim --seed {seed}{writes}{exhaustive}")
}
