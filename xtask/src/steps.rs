//! The tasks that are other programs, and their order.

use std::time::Instant;

use crate::tool::{Outcome, command, run, works};
use crate::{deps, formats, fuzz, layers, sizes};

type Step = fn() -> Outcome;

/// What property tests draw their cases from.
const PROPERTY_SEED: &str = "PROPTEST_RNG_SEED";

/// Everything, the tests last so that their summary is the last line.
pub(crate) fn ci() -> Outcome {
    let steps: [(&str, Step); 8] = [
        ("lint", lint),
        ("layers", layers::run),
        ("deps", deps::run),
        ("formats", || formats::run(false)),
        ("sizes", sizes::run),
        ("doc", doc),
        ("replay", fuzz::replay),
        ("fuzz", || fuzz::smoke(5)),
    ];
    for (name, step) in steps {
        println!("==> {name}");
        let begin = Instant::now();
        step().map_err(|sentence| format!("{name}: {sentence}"))?;
        println!("    {name} took {:.0} s", begin.elapsed().as_secs_f64());
    }
    println!("==> test");
    test(&[])
}

/// Formatting and clippy.
pub(crate) fn lint() -> Outcome {
    run(command("cargo", &["fmt", "--all", "--check"]))?;
    run(command(
        "cargo",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
    ))
}

/// Documentation of every crate.
pub(crate) fn doc() -> Outcome {
    let mut command = command("cargo", &["doc", "--workspace", "--no-deps", "--quiet"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    run(command)
}

/// Doc tests, then the test runner, whose own summary is the last output.
pub(crate) fn test(args: &[String]) -> Outcome {
    if !works(command("cargo", &["nextest", "--version"])) {
        if std::env::var_os("CI").is_none() {
            return Err(
                "cargo-nextest is not installed (run `cargo install cargo-nextest --locked`)"
                    .into(),
            );
        }
        run(command(
            "cargo",
            &["install", "cargo-nextest", "--locked", "--quiet"],
        ))?;
    }
    // Arguments choose among the runner's tests, and doc tests are none of them.
    let docs = if args.is_empty() {
        run(command(
            "cargo",
            &[
                "test",
                "--doc",
                "--workspace",
                "--profile",
                "ci",
                "--quiet",
                "--no-fail-fast",
            ],
        ))
    } else {
        Ok(())
    };
    if let Err(sentence) = &docs {
        eprintln!("xtask test: {sentence}");
    }
    let mut runner = command(
        "cargo",
        &["nextest", "run", "--cargo-profile", "ci", "--profile", "ci"],
    );
    if !names_packages(args) {
        runner.arg("--workspace");
    }
    runner.args(args);
    if std::env::var_os("CI").is_some()
        && std::env::var_os(PROPERTY_SEED).is_none()
        && let Some(seed) = seed_of_commit()
    {
        println!("{PROPERTY_SEED}={seed}, of this commit");
        runner.env(PROPERTY_SEED, seed.to_string());
    }
    match run(runner) {
        Ok(()) => docs.map_err(|_| String::new()),
        Err(_) => Err(String::new()),
    }
}

/// A number that is the commit's own: one commit is judged by the same cases each time, the next one by others.
fn seed_of_commit() -> Option<u64> {
    let output = command("git", &["rev-parse", "HEAD"]).output().ok()?;
    seed_of(std::str::from_utf8(&output.stdout).ok()?)
}

fn seed_of(commit: &str) -> Option<u64> {
    u64::from_str_radix(commit.get(..16)?, 16).ok()
}

fn names_packages(args: &[String]) -> bool {
    args.iter()
        .any(|a| a.starts_with("-p") || a == "--package" || a.starts_with("--package="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_its_own_seed() {
        let commit = "33d850dfe0a1b2c3d4e5f60718293a4b5c6d7e8f";
        assert_eq!(seed_of(commit), Some(0x33d8_50df_e0a1_b2c3));
        assert_eq!(seed_of(""), None);
        assert_eq!(seed_of("not a commit at all"), None);
    }

    #[test]
    fn packages_among_the_arguments_are_seen() {
        let names = |args: &[&str]| {
            names_packages(&args.iter().map(|a| (*a).into()).collect::<Vec<String>>())
        };
        assert!(names(&["-p", "alluvium-types"]));
        assert!(names(&["-palluvium-types"]));
        assert!(names(&["--package=x"]));
        assert!(!names(&["some_test"]));
        assert!(!names(&["--no-capture"]));
    }
}
