//! Files that grew past the size at which a second concept is likely.

use crate::tool::{Outcome, files, relative};

const LINES_MAX: usize = 800;

pub(crate) fn run() -> Outcome {
    let mut long = Vec::new();
    for folder in ["crates", "xtask", "benches", "fuzz"] {
        for path in files(folder, ".rs") {
            let lines = std::fs::read_to_string(&path)
                .map_err(|e| format!("cannot read {}: {e}", relative(&path)))?
                .lines()
                .count();
            if lines > LINES_MAX {
                long.push((lines, relative(&path)));
            }
        }
    }
    long.sort_by(|a, b| b.cmp(a));
    for (lines, path) in &long {
        println!("sizes: {path} has {lines} lines; look for the second concept");
    }
    if long.is_empty() {
        println!("sizes: no file past {LINES_MAX} lines");
    }
    Ok(())
}
