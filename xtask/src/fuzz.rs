//! Every fuzz target, guided by coverage: the kept corpus replayed, a few seconds of search, and long runs in pieces.
//!
//! The coverage is the compiler's own (`sancov-module`), which the pinned toolchain has: neither nightly nor cargo-fuzz is
//! needed. Only the address sanitizer wants nightly.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::tool::{Outcome, command, files, host, root, run as run_command, target_dir, works};

pub(crate) mod report;

/// What cargo-fuzz asks of the compiler for libFuzzer.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// What a target may take of memory in all; single allocations are bounded by the targets' allocator.
const RSS_MIB_MAX: u32 = 1536;
/// What one input may take.
const INPUT_SECONDS_MAX: u32 = 10;
/// Longest input of targets whose work grows with it; others get libFuzzer's own choice.
const LEN_MAX: [(&str, u32); 8] = [
    ("codec_round_trip", 128),
    ("codec_tail", 512),
    ("log_replay", 320),
    ("query_text", 192),
    ("store_files", 96),
    ("store_manifest", 512),
    ("store_model", 64),
    ("tree_model", 25),
];
/// Targets of which an input reaches ten thousand places and more: to weigh the rare ones among them, and to look for a shorter
/// input that reaches the same, as libFuzzer does unless told otherwise, takes longer than the input itself.
const UNWEIGHED: [&str; 6] = [
    "codec_round_trip",
    "query_text",
    "store_files",
    "store_manifest",
    "store_model",
    "tree_model",
];
/// What an input needs is taken from the system once: 64 MiB and more are kept by the allocator.
const ALLOCATOR: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "67108864"),
    ("MALLOC_TRIM_THRESHOLD_", "67108864"),
    ("MALLOC_TOP_PAD_", "4194304"),
];
/// Targets searched at once where the time of all of them matters.
const SMOKES_AT_ONCE: usize = 2;

/// Built targets.
struct Targets {
    binaries: PathBuf,
    names: Vec<String>,
}

/// How targets are built.
#[derive(Clone, Copy)]
enum Build<'a> {
    /// All of them, quickly.
    Quick,
    /// All of them, with the address sanitizer.
    Address,
    /// These, or all if there are none, as one piece each: a minute longer, and an input takes a fifth less.
    Long(&'a [String]),
}

/// The names of all targets.
fn names() -> Vec<String> {
    let names = files("fuzz/fuzz_targets", ".rs");
    let names = names.iter().filter_map(|p| p.file_stem()?.to_str());
    names.map(str::to_owned).collect()
}

/// Builds targets. `None` if this machine cannot, which was said.
fn build(task: &str, how: Build<'_>) -> Result<Option<Targets>, String> {
    if !works(command("c++", &["--version"])) {
        println!("fuzz {task}: not shown (no C++ compiler for libFuzzer's driver)");
        return Ok(None);
    }
    let mut flags = COVERAGE.join(" ");
    // With a target named, build scripts and macros are built without the flags.
    let units = if matches!(how, Build::Long(_)) {
        "1"
    } else {
        "4"
    };
    flags.push_str(" --cfg fuzzing -Ccodegen-units=");
    flags.push_str(units);
    let mut build = if matches!(how, Build::Address) {
        if !works(command("rustup", &["run", "nightly", "cargo", "--version"])) {
            println!("fuzz {task}: not shown (no nightly toolchain)");
            return Ok(None);
        }
        flags.push_str(" -Zsanitizer=address");
        command("rustup", &["run", "nightly", "cargo"])
    } else {
        command("cargo", &[])
    };
    let host = host()?;
    let folder = target_dir().join(match how {
        Build::Quick => "fuzz",
        Build::Address => "fuzz-address",
        Build::Long(_) => "fuzz-long",
    });
    build.args(["build", "--quiet", "--release"]);
    match how {
        Build::Long(targets) if !targets.is_empty() => {
            build.args(targets.iter().flat_map(|name| ["--bin", name]));
        }
        _ => {
            build.arg("--bins");
        }
    }
    if matches!(how, Build::Long(_)) {
        build.env("CARGO_PROFILE_RELEASE_LTO", "fat");
    }
    build
        .arg("--manifest-path")
        .arg(root().join("fuzz/Cargo.toml"));
    build.args(["--target", &host]);
    build.arg("--target-dir").arg(&folder);
    build.env("RUSTFLAGS", flags);
    run_command(build)?;
    Ok(Some(Targets {
        binaries: folder.join(host).join("release"),
        names: names(),
    }))
}

/// The kept inputs of a target.
fn corpus(target: &str) -> PathBuf {
    root().join("fuzz/corpus").join(target)
}

/// Runs each target on its kept inputs: a regression test of every decoder.
pub(crate) fn replay() -> Outcome {
    let Some(targets) = build("replay", Build::Quick)? else {
        return Ok(());
    };
    let mut inputs = 0;
    for target in &targets.names {
        let kept: Vec<PathBuf> = files(&format!("fuzz/corpus/{target}"), "");
        if kept.is_empty() {
            return Err(format!(
                "fuzz/corpus/{target} is empty; keep an input or two"
            ));
        }
        let binary = targets.binaries.join(target);
        let mut replay = command(&binary.to_string_lossy(), &[]);
        let output = replay
            .args(&kept)
            .output()
            .map_err(|e| format!("cannot run {}: {e}", binary.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{target} fails on a kept input:\n{said}"));
        }
        inputs += kept.len();
    }
    println!(
        "fuzz replay: {inputs} kept inputs through {} targets",
        targets.names.len()
    );
    Ok(())
}

/// Searches a few seconds in every target, by one seed: a run finds what the last one found, as a check should. Chance is for
/// the long runs.
pub(crate) fn smoke(seconds: u32) -> Outcome {
    let Some(targets) = build("smoke", Build::Quick)? else {
        return Ok(());
    };
    let mut units = 0;
    let mut failed = Vec::new();
    for names in targets.names.chunks(SMOKES_AT_ONCE) {
        let begun: Vec<(&String, Child)> = names
            .iter()
            .map(|name| Ok((name, search(&targets, name, &Limit::Smoke(seconds))?)))
            .collect::<Result<_, String>>()?;
        for (name, child) in begun {
            let output = child.wait_with_output();
            let output = output.map_err(|e| format!("cannot wait for {name}: {e}"))?;
            let said = String::from_utf8_lossy(&output.stderr);
            if !output.status.success() {
                eprintln!("{said}");
                failed.push(name.as_str());
            }
            units += report::Found::read(&said).executions;
        }
    }
    if !failed.is_empty() {
        return Err(format!(
            "{} failed; the input is below {}",
            failed.join(", "),
            artifacts().display()
        ));
    }
    println!(
        "fuzz smoke: {} targets, {seconds} s each, {units} executions",
        targets.names.len()
    );
    Ok(())
}

/// Where inputs that fail go.
fn artifacts() -> PathBuf {
    root().join("fuzz/artifacts")
}

/// Where a search ends.
enum Limit {
    Seconds(u32),
    /// Seconds by a seed that is always the same.
    Smoke(u32),
    /// So many executions, or so many seconds.
    Runs(u64, u32),
}

/// Starts a search. What it finds goes to a folder of its own: the kept inputs stay as they are.
fn search(targets: &Targets, target: &str, limit: &Limit) -> Result<Child, String> {
    let found = target_dir().join("fuzz-corpus").join(target);
    let failing = artifacts().join(target);
    for folder in [&found, &failing] {
        std::fs::create_dir_all(folder)
            .map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    }
    let binary = targets.binaries.join(target);
    let mut search = Command::new(&binary);
    search.arg(&found);
    if corpus(target).is_dir() {
        search.arg(corpus(target));
    }
    search.arg(format!("-artifact_prefix={}/", failing.display()));
    search.arg(format!("-rss_limit_mb={RSS_MIB_MAX}"));
    search.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    search.args(["-print_final_stats=1", "-len_control=10"]);
    search.envs(ALLOCATOR);
    if UNWEIGHED.contains(&target) {
        search.args(["-entropic=0", "-reduce_inputs=0"]);
    }
    if let Some((_, len)) = LEN_MAX.iter().find(|(name, _)| *name == target) {
        search.arg(format!("-max_len={len}"));
    }
    match limit {
        Limit::Seconds(seconds) => search.arg(format!("-max_total_time={seconds}")),
        Limit::Smoke(seconds) => search
            .arg("-seed=1")
            .arg(format!("-max_total_time={seconds}")),
        Limit::Runs(runs, seconds) => search
            .arg(format!("-runs={runs}"))
            .arg(format!("-max_total_time={seconds}")),
    };
    search
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run {}: {e}", binary.display()))
}

/// What a long run was asked.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    runs: Option<u64>,
    seconds: Option<u32>,
    report: Option<PathBuf>,
    address: bool,
    targets: Vec<String>,
}

impl Asked {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut asked = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value"));
            match arg.as_str() {
                "--runs" => asked.runs = Some(number(value()?)?),
                "--seconds" => asked.seconds = Some(number(value()?)?),
                "--report" => asked.report = Some(value()?.into()),
                "--address" => asked.address = true,
                name if !name.starts_with('-') => asked.targets.push(name.to_owned()),
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(asked)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let digits = text.replace('_', "");
    let number = digits.parse();
    number.map_err(|_| format!("{text:?} is not a number"))
}

/// Seconds after which a long run turns to the next target.
const PIECE_SECONDS: u32 = 300;

/// Searches named targets, or all, for so many seconds or until so many executions stand in the report.
pub(crate) fn run(args: &[String]) -> Outcome {
    let asked = Asked::parse(args)?;
    let all = names();
    if let Some(unknown) = asked.targets.iter().find(|t| !all.contains(t)) {
        return Err(format!("no target {unknown}; there are {}", all.join(" ")));
    }
    let how = match (asked.address, asked.runs) {
        (true, _) => Build::Address,
        (false, Some(_)) => Build::Long(&asked.targets),
        (false, None) => Build::Quick,
    };
    let Some(mut targets) = build("run", how)? else {
        return Ok(());
    };
    if !asked.targets.is_empty() {
        targets.names.clone_from(&asked.targets);
    }
    let default = target_dir().join("fuzz-report.txt");
    let path = asked.report.clone().unwrap_or(default);
    let mut failed = Vec::new();
    let mut left = targets.names.clone();
    while !left.is_empty() {
        for target in std::mem::take(&mut left) {
            let limit = match asked.runs {
                None => Limit::Seconds(asked.seconds.unwrap_or(PIECE_SECONDS)),
                Some(runs) => {
                    let done = report::executions(&path, &target)?;
                    if done >= runs {
                        continue;
                    }
                    Limit::Runs(runs - done, asked.seconds.unwrap_or(PIECE_SECONDS))
                }
            };
            if piece(&targets, &target, &limit, &path)? {
                // Pieces go round until every target has its executions.
                left.extend(asked.runs.map(|_| target));
            } else {
                failed.push(target);
            }
        }
    }
    println!("report: {}", path.display());
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "{} failed; the inputs are below {}",
            failed.join(", "),
            artifacts().display()
        ))
    }
}

/// One piece of a long run, and its line. Returns whether nothing failed.
fn piece(targets: &Targets, target: &str, limit: &Limit, path: &Path) -> Result<bool, String> {
    let output = search(targets, target, limit)?.wait_with_output();
    let output = output.map_err(|e| format!("cannot wait for {target}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let passed = output.status.success();
    if !passed {
        eprintln!("{said}");
    }
    let found = report::Found::read(&said);
    let line = found.line(target, u32::from(!passed));
    println!("{line}");
    report::append(path, &line)?;
    Ok(passed)
}
