//! The tasks that are other programs, and their order.

use std::time::Instant;

use crate::tool::{Outcome, command, run, works};
use crate::{deps, formats, fuzz, layers, sizes};

type Step = fn() -> Outcome;

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
    match run(runner) {
        Ok(()) => docs.map_err(|_| String::new()),
        Err(_) => Err(String::new()),
    }
}

fn names_packages(args: &[String]) -> bool {
    args.iter()
        .any(|a| a.starts_with("-p") || a == "--package" || a.starts_with("--package="))
}

#[cfg(test)]
mod tests {
    use super::*;

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
