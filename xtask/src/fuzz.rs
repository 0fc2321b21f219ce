//! Every fuzz target: the kept corpus replayed on the stable toolchain, and a few seconds of search where the tools are.

use std::path::PathBuf;

use crate::tool::{Outcome, command, files, root, run as run_command, works};

/// Builds the targets without instrumentation and runs each on its kept inputs: a regression test of every decoder.
pub(crate) fn replay() -> Outcome {
    if !works(command("c++", &["--version"])) {
        println!("fuzz replay: not shown (no C++ compiler for libFuzzer's driver)");
        return Ok(());
    }
    let target_dir = root().join("fuzz/target/replay");
    let mut build = command("cargo", &["build", "--quiet", "--manifest-path"]);
    build.arg(root().join("fuzz/Cargo.toml"));
    build.arg("--target-dir").arg(&target_dir);
    run_command(build)?;
    let (mut inputs, mut targets) = (0, 0);
    for path in files("fuzz/fuzz_targets", ".rs") {
        let Some(target) = path.file_stem().and_then(|s| s.to_str()) else {
            continue;
        };
        let corpus: Vec<PathBuf> = files(&format!("fuzz/corpus/{target}"), "");
        if corpus.is_empty() {
            return Err(format!(
                "fuzz/corpus/{target} is empty; keep an input or two"
            ));
        }
        let binary = target_dir.join("debug").join(target);
        let mut replay = command(&binary.to_string_lossy(), &[]);
        let output = replay
            .args(&corpus)
            .output()
            .map_err(|e| format!("cannot run {}: {e}", binary.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{target} fails on a kept input:\n{said}"));
        }
        (inputs, targets) = (inputs + corpus.len(), targets + 1);
    }
    println!("fuzz replay: {inputs} kept inputs through {targets} targets");
    Ok(())
}

pub(crate) fn run(seconds: u32) -> Outcome {
    if !works(command("rustup", &["run", "nightly", "cargo", "--version"])) {
        println!("fuzz smoke: not shown (no nightly toolchain)");
        return Ok(());
    }
    if !works(command(
        "rustup",
        &["run", "nightly", "cargo", "fuzz", "--version"],
    )) {
        println!("fuzz smoke: not shown (no cargo-fuzz)");
        return Ok(());
    }
    if !root().join("fuzz/Cargo.toml").is_file() {
        println!("fuzz smoke: not shown (no fuzz/Cargo.toml)");
        return Ok(());
    }
    for path in files("fuzz/fuzz_targets", ".rs") {
        let Some(target) = path.file_stem().and_then(|s| s.to_str()) else {
            continue;
        };
        // New inputs go to the first folder; the kept corpus stays as it is.
        let scratch = root().join("fuzz/target/smoke").join(target);
        let corpus = root().join("fuzz/corpus").join(target);
        std::fs::create_dir_all(&scratch)
            .map_err(|e| format!("cannot create {}: {e}", scratch.display()))?;
        let mut fuzz = command(
            "rustup",
            &["run", "nightly", "cargo", "fuzz", "run", target],
        );
        fuzz.arg(&scratch);
        if corpus.is_dir() {
            fuzz.arg(&corpus);
        }
        // One allocation past the limit is a length that was believed.
        fuzz.args(["--", "-malloc_limit_mb=256", "-len_control=10"]);
        fuzz.arg(format!("-max_total_time={seconds}"));
        run_command(fuzz)?;
        println!("fuzz smoke: {target} ran {seconds} s");
    }
    Ok(())
}
