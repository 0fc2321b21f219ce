//! Planted faults: each is applied to a copy of the tree, and the test named for it must fail there.
//!
//! The table is `xtask/mutants.txt`, see its head. A fault that no test notices is an error, and so is one that no
//! longer fits the source or does not compile.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::tool::{Outcome, root};

/// A test that takes longer hangs.
const TEST_LIMIT: Duration = Duration::from_mins(5);

/// One fault of the table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mutant {
    name: String,
    file: String,
    /// Package, test target and name of the test, as `cargo test` wants them.
    test: String,
    from: String,
    to: String,
}

/// Applies every fault whose name has one of `words`; all of them without words.
pub(crate) fn run(words: &[String]) -> Outcome {
    let table = root().join("xtask/mutants.txt");
    let text = std::fs::read_to_string(&table).map_err(|e| format!("{}: {e}", table.display()))?;
    let mut mutants = parse(&text)?;
    let is_meant = |m: &Mutant| words.iter().any(|word| m.name.contains(word.as_str()));
    mutants.retain(|m| words.is_empty() || is_meant(m));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    let scratch = target.join("mutants");
    let tree = Tree::copy(&scratch.join("tree"))?;
    for mutant in &mutants {
        check(mutant)?;
    }
    let begin = Instant::now();
    let tests: BTreeSet<&str> = mutants.iter().map(|m| m.test.as_str()).collect();
    for test in tests {
        match tree.test(test)? {
            Verdict::Passes => println!("passes unchanged: {test}"),
            verdict => return Err(format!("without a fault {test} {}", verdict.text())),
        }
    }
    let mut survivors = Vec::new();
    for mutant in &mutants {
        tree.apply(mutant)?;
        let verdict = tree.test(&mutant.test);
        tree.restore(mutant)?;
        let verdict = verdict?;
        println!("{}: {} {}", mutant.name, mutant.test, verdict.text());
        if matches!(verdict, Verdict::Passes | Verdict::DoesNotCompile) {
            survivors.push(mutant.name.as_str());
        }
    }
    let minutes = begin.elapsed().as_secs_f64() / 60.0;
    println!(
        "{} faults, {} noticed, {minutes:.1} minutes",
        mutants.len(),
        mutants.len() - survivors.len()
    );
    if survivors.is_empty() {
        Ok(())
    } else {
        Err(format!("not noticed: {}", survivors.join("; ")))
    }
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passes,
    Fails,
    Hangs,
    DoesNotCompile,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Self::Passes => "passes",
            Self::Fails => "fails",
            Self::Hangs => "hangs",
            Self::DoesNotCompile => "does not compile",
        }
    }
}

/// A copy of the workspace with a target folder beside it.
struct Tree {
    root: PathBuf,
    target: PathBuf,
}

impl Tree {
    /// Copies what version control knows, as it is on the disk now. A file that has not changed is not touched, so
    /// that nothing is built twice.
    fn copy(to: &Path) -> Result<Self, String> {
        let listed = Command::new("git")
            .args(["ls-files", "-z"])
            .current_dir(root())
            .output()
            .map_err(|e| format!("cannot start git: {e}"))?;
        for name in String::from_utf8_lossy(&listed.stdout).split('\0') {
            let from = root().join(name);
            if name.is_empty() || !from.is_file() {
                continue;
            }
            let bytes = std::fs::read(&from).map_err(|e| format!("{name}: {e}"))?;
            let path = to.join(name);
            if std::fs::read(&path).is_ok_and(|there| there == bytes) {
                continue;
            }
            write(&path, &bytes)?;
        }
        Ok(Self {
            root: to.to_owned(),
            target: to.with_file_name("target"),
        })
    }

    fn apply(&self, mutant: &Mutant) -> Outcome {
        let changed = original(mutant)?.replacen(&mutant.from, &mutant.to, 1);
        write(&self.root.join(&mutant.file), changed.as_bytes())
    }

    fn restore(&self, mutant: &Mutant) -> Outcome {
        write(&self.root.join(&mutant.file), original(mutant)?.as_bytes())
    }

    fn cargo(&self) -> Command {
        let mut cargo = Command::new("cargo");
        cargo
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .args(["test", "--quiet", "--profile", "ci"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        cargo
    }

    /// Builds and runs one test.
    fn test(&self, test: &str) -> Result<Verdict, String> {
        let words: Vec<&str> = test.split_whitespace().collect();
        let Some((name, target)) = words.split_last() else {
            return Err("a fault without a test".into());
        };
        let cannot = |e| format!("cannot start cargo: {e}");
        let mut build = self.cargo();
        let built = build
            .arg("--no-run")
            .args(target)
            .status()
            .map_err(cannot)?;
        if !built.success() {
            return Ok(Verdict::DoesNotCompile);
        }
        let mut test = self.cargo();
        test.args(target).args(["--", "--exact", name]);
        let mut child = test.spawn().map_err(cannot)?;
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait().map_err(cannot)? {
                return Ok(if status.success() {
                    Verdict::Passes
                } else {
                    Verdict::Fails
                });
            }
            if begin.elapsed() > TEST_LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                return Ok(Verdict::Hangs);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The file of a fault as it is in the workspace.
fn original(mutant: &Mutant) -> Result<String, String> {
    let path = root().join(&mutant.file);
    std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", mutant.file))
}

/// Whether a fault fits the source, in one place.
fn check(mutant: &Mutant) -> Outcome {
    let count = original(mutant)?.matches(&mutant.from).count();
    let Mutant { name, file, .. } = mutant;
    if count != 1 {
        return Err(format!(
            "{name}: what it replaces is {count} times in {file}; mend it in xtask/mutants.txt"
        ));
    }
    test_file(&mutant.test).map(drop).ok_or_else(|| {
        format!(
            "{name}: there is no test {:?}; write it as -p PACKAGE --test TARGET NAME",
            mutant.test
        )
    })
}

/// Where the test that a fault names is.
fn test_file(test: &str) -> Option<PathBuf> {
    let words: Vec<&str> = test.split_whitespace().collect();
    let ["-p", package, "--test", target, name] = words[..] else {
        return None;
    };
    let tests = root()
        .join("crates")
        .join(package.strip_prefix("alluvium-")?)
        .join("tests");
    let files = [
        tests.join(target).with_extension("rs"),
        tests.join(target).join("main.rs"),
    ];
    let begin = format!("fn {name}(");
    files
        .into_iter()
        .find(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains(&begin)))
}

fn write(path: &Path, bytes: &[u8]) -> Outcome {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent)
        .and_then(|()| std::fs::write(path, bytes))
        .map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Mutant>, String> {
    let mut mutants: Vec<Mutant> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let until = |end: &str, lines: &mut std::str::Lines<'_>| -> Result<String, String> {
            let mut block = Vec::new();
            for line in lines.by_ref() {
                if line == end {
                    return Ok(block.join("\n"));
                }
                if line.starts_with("fault: ") {
                    break;
                }
                block.push(line);
            }
            Err(format!(
                "a block of xtask/mutants.txt does not end with {end}"
            ))
        };
        match line.split_once(": ") {
            Some(("fault", name)) => mutants.push(Mutant {
                name: name.to_owned(),
                ..Mutant::default()
            }),
            Some((key @ ("file" | "test"), value)) => {
                let last = mutants
                    .last_mut()
                    .ok_or("xtask/mutants.txt begins without a fault")?;
                let slot = if key == "file" {
                    &mut last.file
                } else {
                    &mut last.test
                };
                value.clone_into(slot);
            }
            _ if line == "<<<" => {
                let last = mutants
                    .last_mut()
                    .ok_or("xtask/mutants.txt begins without a fault")?;
                last.from = until("===", &mut lines)?;
                last.to = until(">>>", &mut lines)?;
            }
            _ if line.is_empty() || line.starts_with('#') => {}
            _ => {
                return Err(format!(
                    "xtask/mutants.txt has a line of no known kind: {line}"
                ));
            }
        }
    }
    Ok(mutants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let text = "# head\n\nfault: a: b\nfile: x.rs\ntest: -p y z\n<<<\nold\n  line\n===\n>>>\n";
        let expected = Mutant {
            name: "a: b".into(),
            file: "x.rs".into(),
            test: "-p y z".into(),
            from: "old\n  line".into(),
            to: String::new(),
        };
        assert_eq!(parse(text).unwrap(), [expected]);
        assert_eq!(test_file("-p alluvium-store --test spill"), None);
        assert_eq!(
            test_file("-p alluvium-store --test spill none_of_this_name"),
            None
        );
        assert!(parse("<<<\n===\n>>>").is_err());
        assert!(parse("fault: a\n<<<\nold").is_err());
        let swallowed = "fault: a\n<<<\nold\n===\nnew\nfault: b\n<<<\nold\n===\n>>>\n";
        assert!(parse(swallowed).is_err());
    }

    #[test]
    fn every_fault_fits_the_source() {
        let text = std::fs::read_to_string(root().join("xtask/mutants.txt")).unwrap();
        let mutants = parse(&text).unwrap();
        assert!(mutants.len() >= 10);
        for mutant in &mutants {
            check(mutant).unwrap();
            assert!(!mutant.test.is_empty(), "{}", mutant.name);
        }
    }
}
