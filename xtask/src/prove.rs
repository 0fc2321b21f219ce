//! The crash simulator, the kill harness and power cuts, for as long as one likes.

use std::path::Path;

use crate::tool::{Outcome, command, run};

/// Builds and runs the simulator with the arguments as they are: `--seed N`, `--seeds A..B`, `--writes W`,
/// `--exhaustive`, `--report FILE`.
pub(crate) fn sim(args: &[String]) -> Outcome {
    let mut simulate = command("cargo", &["run", "--quiet", "--profile", "ci"]);
    simulate.args(["--package", "alluvium-store", "--example", "simulate", "--"]);
    simulate.args(absolute_report(args)?);
    run(simulate).map_err(|_| String::new())
}

/// The kill harness on both backends: `--cycles N`, `--seed N`, `--lines N` of the largest request, `--fresh N` cycles until a
/// new directory, `--backend pwritev|uring`, `--report FILE`.
pub(crate) fn crash(args: &[String]) -> Outcome {
    let mut test = command("cargo", &["test", "--quiet", "--profile", "ci"]);
    test.args(["--package", "alluvium-cli", "--test", "kill", "--"]);
    test.args(["--nocapture", "--test-threads", "1"]);
    let args = absolute_report(args)?;
    for pair in args.chunks(2) {
        let [name, value] = pair else {
            return Err(format!("{} wants a value", pair.join(" ")));
        };
        match name.as_str() {
            "--cycles" => test.env("ALLUVIUM_KILL_CYCLES", value),
            "--seed" => test.env("ALLUVIUM_KILL_SEED", value),
            "--lines" => test.env("ALLUVIUM_KILL_LINES", value),
            "--fresh" => test.env("ALLUVIUM_KILL_FRESH", value),
            "--report" => test.env("ALLUVIUM_KILL_REPORT", value),
            "--backend" => test.arg(format!("killed_on_{value}")),
            _ => return Err(format!("{name:?} is not known")),
        };
    }
    run(test).map_err(|_| String::new())
}

/// Power cuts on a disk that forgets: `--cycles N` on each backend, `--seed N`, `--mode none|prefix|subset|torn`,
/// `--durability sync|interval=50ms|os`, `--backend pwritev|uring`, `--report FILE`. A machine that cannot mount is an error.
pub(crate) fn power(args: &[String]) -> Outcome {
    let mut test = command("cargo", &["test", "--quiet", "--profile", "ci"]);
    test.args(["--package", "alluvium-cli", "--test", "power", "--"]);
    test.args(["--nocapture", "--test-threads", "1"]);
    test.env("ALLUVIUM_POWER_REQUIRED", "1");
    let args = absolute_report(args)?;
    let mut backend = "cut_on_".to_owned();
    for pair in args.chunks(2) {
        let [name, value] = pair else {
            return Err(format!("{} wants a value", pair.join(" ")));
        };
        match name.as_str() {
            "--cycles" => test.env("ALLUVIUM_POWER_CYCLES", value),
            "--seed" => test.env("ALLUVIUM_POWER_SEED", value),
            "--mode" => test.env("ALLUVIUM_POWER_MODE", value),
            "--durability" => test.env("ALLUVIUM_POWER_DURABILITY", value),
            "--report" => test.env("ALLUVIUM_POWER_REPORT", value),
            "--backend" => {
                backend.push_str(value);
                &mut test
            }
            _ => return Err(format!("{name:?} is not known")),
        };
    }
    test.arg(backend);
    run(test).map_err(|_| String::new())
}

/// Paths of reports are meant from where the caller is, not from the workspace's root.
fn absolute_report(args: &[String]) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut is_path = false;
    for arg in args {
        if std::mem::replace(&mut is_path, arg == "--report") {
            let path = std::path::absolute(Path::new(arg));
            let path = path.map_err(|e| format!("{arg:?} is no path: {e}"))?;
            out.push(path.to_string_lossy().into_owned());
        } else {
            out.push(arg.clone());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reports_path_is_changed() {
        let args = ["--seeds", "1..5", "--report", "a/b"].map(str::to_owned);
        let out = absolute_report(&args).unwrap();
        assert_eq!(out[..3], args[..3]);
        assert!(Path::new(&out[3]).is_absolute() && out[3].ends_with("a/b"));
    }
}
