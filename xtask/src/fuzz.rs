//! A few seconds of every fuzz target, where the tools are there.

use crate::tool::{Outcome, command, files, root, run as run_command, works};

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
