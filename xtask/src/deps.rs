//! Licences, sources and bans of every dependency against `deny.toml`, without an advisory database.
//!
//! Reads the part of cargo-deny's configuration that this workspace uses, so that both tools agree.

use serde_json::Value;

use crate::tool::{Outcome, metadata, root};

pub(crate) fn run() -> Outcome {
    let config = std::fs::read_to_string(root().join("deny.toml"))
        .map_err(|e| format!("cannot read deny.toml: {e}"))?;
    let metadata = metadata(&["--all-features"])?;
    let (count, problems) = check(
        &metadata,
        &list(&config, "licenses", "allow"),
        &list(&config, "bans", "deny"),
    );
    for problem in &problems {
        eprintln!("deps: {problem}");
    }
    if problems.is_empty() {
        println!("deps: {count} outside crates, licences and sources allowed");
        Ok(())
    } else {
        Err(format!("{} dependencies break deny.toml", problems.len()))
    }
}

/// The texts of the list `key` in the table `[table]`, each on a line of its own.
fn list(config: &str, table: &str, key: &str) -> Vec<String> {
    let mut inside = false;
    let mut open = false;
    let mut out = Vec::new();
    for line in config.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = name == table;
        } else if inside && line.starts_with(key) && line.ends_with('[') {
            open = true;
        } else if line == "]" {
            open = false;
        } else if inside && open && !line.starts_with('#') {
            out.extend(line.split('"').skip(1).step_by(2).map(String::from));
        }
    }
    out
}

fn check(metadata: &Value, allowed: &[String], banned: &[String]) -> (usize, Vec<String>) {
    let mut problems = Vec::new();
    let mut count = 0;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(source) = package["source"].as_str() else {
            continue;
        };
        count += 1;
        if !source.starts_with("registry+https://github.com/rust-lang/crates.io-index") {
            problems.push(format!("{name} comes from {source}"));
        }
        match package["license"].as_str() {
            Some(license) if satisfied(license, allowed) => {}
            Some(license) => problems.push(format!("{name} is under {license}")),
            None => problems.push(format!("{name} names no licence")),
        }
        if banned.iter().any(|b| b == name) {
            problems.push(format!("{name} is banned"));
        }
    }
    (count, problems)
}

/// Whether the allowed licences satisfy an SPDX expression; the old `/` means OR.
fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    either(&mut words, allowed) && words.next().is_none()
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

fn either(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut good = both(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        good |= both(words, allowed);
    }
    good
}

fn both(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut good = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        good &= one(words, allowed);
    }
    good
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    match words.next() {
        Some("(") => either(words, allowed) && words.next() == Some(")"),
        Some(id) => {
            let mut id = String::from(id);
            if words.next_if_eq(&"WITH").is_some() {
                id.push_str(" WITH ");
                id.push_str(words.next().unwrap_or_default());
            }
            allowed.contains(&id)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_says() {
        let allowed = ["MIT".to_owned(), "Apache-2.0".into(), "Unicode-3.0".into()];
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0/MIT",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MIT",
            "GPL-2.0 AND GPL-3.0 OR MIT",
        ] {
            assert!(satisfied(good, &allowed), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR Apache-2.0) AND GPL-3.0",
            "Apache-2.0 WITH LLVM-exception",
            "",
            "MIT MIT",
            "(MIT",
        ] {
            assert!(!satisfied(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn licences_sources_and_bans_are_checked() {
        let registry = "registry+https://github.com/rust-lang/crates.io-index";
        let (count, problems) = check(
            &json!({"packages": [
                {"name": "own", "source": null, "license": null},
                {"name": "good", "source": registry, "license": "MIT"},
                {"name": "viral", "source": registry, "license": "GPL-3.0"},
                {"name": "bare", "source": registry, "license": null},
                {"name": "forked", "source": "git+https://example.invalid/x", "license": "MIT"},
                {"name": "openssl", "source": registry, "license": "MIT"},
            ]}),
            &["MIT".into()],
            &["openssl".into()],
        );
        assert_eq!(count, 5);
        assert_eq!(
            problems,
            [
                "viral is under GPL-3.0",
                "bare names no licence",
                "forked comes from git+https://example.invalid/x",
                "openssl is banned"
            ]
        );
    }

    #[test]
    fn lists_of_the_configuration_are_found() {
        let config = "[licenses]\n# c\nallow = [\n  \"MIT\", # why\n  \"ISC\",\n]\n[bans]\ndeny = [\n  { crate = \"x\" },\n]\n";
        assert_eq!(list(config, "licenses", "allow"), ["MIT", "ISC"]);
        assert_eq!(list(config, "bans", "deny"), ["x"]);
    }
}
