//! The checkers of memory and threads: loom, Miri and the sanitizers. None of them is a part of `ci`; `docs/TESTING.md`
//! says what each shows.

use crate::tool::{Outcome, command, host, root, run, target_dir, works};

/// Crates whose protocols between threads have models.
const MODELS: [&str; 2] = ["alluvium-io", "alluvium-wal"];

/// Every order of the threads of small models of the real code.
pub(crate) fn loom() -> Outcome {
    let mut loom = command("cargo", &["nextest", "run", "--release", "--lib"]);
    for name in MODELS {
        loom.args(["-p", name]);
    }
    loom.arg("loom_tests");
    loom.env("RUSTFLAGS", "--cfg loom");
    loom.env("CARGO_TARGET_DIR", target_dir().join("loom"));
    run(loom)
}

/// Tests of a crate that reach the unsafe code outside the ring, or the views of bytes from disk.
struct UnderMiri {
    name: &'static str,
    targets: &'static [&'static str],
    /// Words of which a test's name has one; none for all tests.
    filters: &'static [&'static str],
}

const UNDER_MIRI: [UnderMiri; 6] = [
    UnderMiri {
        name: "alluvium-io",
        targets: &["--lib"],
        filters: &["published", "ticket", "buffer"],
    },
    UnderMiri {
        name: "alluvium-codec",
        targets: &["--lib"],
        filters: &["simd", "bits", "packing", "varint"],
    },
    UnderMiri {
        name: "alluvium-block",
        targets: &["--lib"],
        filters: &[],
    },
    UnderMiri {
        name: "alluvium-wal",
        targets: &["--lib", "--test", "golden", "--test", "records"],
        filters: &[],
    },
    UnderMiri {
        name: "alluvium-nbtree",
        targets: &["--lib"],
        // Decoding blocks takes more than ten minutes, and the codec has no views.
        filters: &[
            "inner::",
            "leaf::",
            "long_text",
            "--skip",
            "no_blocks_panic",
        ],
    },
    UnderMiri {
        name: "alluvium-index",
        targets: &["--lib"],
        // Bitmaps of every row have no views and take as long.
        filters: &["segment::", "--skip", "dense_rows"],
    },
];

/// Miri, by tree borrows, over [`UNDER_MIRI`]; the wide loops of the codec too.
pub(crate) fn miri() -> Outcome {
    if !works(command(
        "rustup",
        &["run", "nightly", "cargo", "miri", "--version"],
    )) {
        println!("miri: not shown (no nightly toolchain with miri)");
        return Ok(());
    }
    for UnderMiri {
        name,
        targets,
        filters,
    } in UNDER_MIRI
    {
        let mut miri = command("rustup", &["run", "nightly", "cargo", "miri", "test"]);
        miri.args(["-p", name]).args(targets);
        miri.arg("--").args(filters);
        miri.env("CARGO_TARGET_DIR", target_dir().join("miri"));
        // The collector of epochs lives as long as the process, with what it has not freed by then.
        miri.env(
            "MIRIFLAGS",
            "-Zmiri-tree-borrows -Zmiri-disable-isolation -Zmiri-ignore-leaks",
        );
        miri.env("PROPTEST_CASES", "2");
        if name == "alluvium-codec" {
            // Miri says that the processor has what the build was told it has.
            miri.env(
                "RUSTFLAGS",
                "-Ctarget-feature=+avx2,+fma,+bmi1,+bmi2,+lzcnt",
            );
        }
        run(miri)?;
    }
    Ok(())
}

/// What the sanitizers run: everything with threads or pages.
const SANITIZED: [&str; 6] = [
    "alluvium-io",
    "alluvium-block",
    "alluvium-wal",
    "alluvium-index",
    "alluvium-store",
    "alluvium-server",
];

/// The tests under the address or the thread sanitizer, the standard library built with it, too. `args` choose among them.
pub(crate) fn sanitize(sanitizer: &str, args: &[String]) -> Outcome {
    if !["address", "thread"].contains(&sanitizer) {
        return Err(format!("{sanitizer:?} is neither address nor thread"));
    }
    if !works(command(
        "rustup",
        &["run", "nightly", "cargo", "nextest", "--version"],
    )) {
        println!("sanitize: not shown (no nightly toolchain)");
        return Ok(());
    }
    let mut tests = command("rustup", &["run", "nightly", "cargo", "nextest", "run"]);
    tests.args(["--cargo-profile", "ci", "-Zbuild-std", "--no-fail-fast"]);
    tests.args(["--target", &host()?]);
    if !args.iter().any(|a| a == "-p") {
        for name in SANITIZED {
            tests.args(["-p", name]);
        }
    }
    tests.args(args);
    tests.env("RUSTFLAGS", format!("-Zsanitizer={sanitizer}"));
    tests.env(
        "CARGO_TARGET_DIR",
        target_dir().join(format!("sanitize-{sanitizer}")),
    );
    let known = root().join("xtask/thread-sanitizer.txt");
    let known = known.display();
    tests.env(
        "TSAN_OPTIONS",
        format!("halt_on_error=1 second_deadlock_stack=1 suppressions={known}"),
    );
    // What lives as long as the process is no leak.
    tests.env("ASAN_OPTIONS", "detect_leaks=0");
    run(tests)
}
