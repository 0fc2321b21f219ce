//! Format pages against the code they describe.
//!
//! A page of `docs/format/` carries one line `<!-- layout: crates/x/src/layout.rs fnv1a64:0123456789abcdef -->`
//! for each file it describes. If the file changes, the check fails until somebody has read the page again and
//! run `cargo xtask formats --bless`. A `layout.rs` that no page describes fails too.

use crate::tool::{Outcome, files, relative, root};

const OPEN: &str = "<!-- layout: ";
const CLOSE: &str = " -->";

pub(crate) fn run(bless: bool) -> Outcome {
    let mut problems = Vec::new();
    let mut described = Vec::new();
    for path in files("docs/format", ".md") {
        let name = relative(&path);
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("cannot read {name}: {e}"))?;
        let page = check(&name, &text, |layout| {
            std::fs::read_to_string(root().join(layout)).ok()
        });
        described.extend(page.layouts);
        if bless && page.blessed != text {
            std::fs::write(&path, page.blessed).map_err(|e| format!("cannot write {name}: {e}"))?;
            println!("formats: blessed {name}");
        }
        problems.extend(page.missing);
        if !bless {
            problems.extend(page.moved);
        }
    }
    for path in files("crates", "/layout.rs") {
        let name = relative(&path);
        if !described.contains(&name) {
            problems.push(format!("{name} is described by no page of docs/format"));
        }
    }
    for problem in &problems {
        eprintln!("formats: {problem}");
    }
    if problems.is_empty() {
        println!("formats: {} layouts are as described", described.len());
        Ok(())
    } else {
        Err("read the page again, mend it, then run `cargo xtask formats --bless`".into())
    }
}

#[derive(Debug, Default)]
struct Page {
    /// Files it describes.
    layouts: Vec<String>,
    /// Files that are not there, as sentences.
    missing: Vec<String>,
    /// Files that changed, as sentences.
    moved: Vec<String>,
    /// The page with today's hashes.
    blessed: String,
}

fn check(name: &str, text: &str, read: impl Fn(&str) -> Option<String>) -> Page {
    let mut page = Page::default();
    for line in text.split_inclusive('\n') {
        let mark = line
            .trim()
            .strip_prefix(OPEN)
            .and_then(|rest| rest.strip_suffix(CLOSE));
        let Some(mark) = mark else {
            page.blessed.push_str(line);
            continue;
        };
        let (layout, hash) = mark.split_once(' ').unwrap_or((mark, ""));
        page.layouts.push(layout.into());
        let Some(code) = read(layout) else {
            page.missing
                .push(format!("{name} describes {layout}, which is not there"));
            page.blessed.push_str(line);
            continue;
        };
        let today = format!("fnv1a64:{:016x}", fnv1a(&code));
        if hash.trim() != today {
            page.moved
                .push(format!("{layout} changed since {name} was blessed"));
        }
        page.blessed.push_str(OPEN);
        page.blessed.push_str(layout);
        page.blessed.push(' ');
        page.blessed.push_str(&today);
        page.blessed.push_str(CLOSE);
        page.blessed.push('\n');
    }
    page
}

/// FNV-1a of 64 bits over the text with line ends made equal: enough to notice an edit, and stable for ever.
fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .filter(|b| *b != b'\r')
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(fnv1a("a\r\n"), fnv1a("a\n"));
    }

    #[test]
    fn a_changed_layout_fails_until_blessed() {
        let read = |path: &str| (path == "crates/x/src/layout.rs").then(|| "struct A;".into());
        let page = check(
            "p.md",
            "# P\n<!-- layout: crates/x/src/layout.rs sha256:00 -->\ntext\n",
            read,
        );
        assert_eq!(page.layouts, ["crates/x/src/layout.rs"]);
        assert_eq!(page.moved.len(), 1);
        let again = check("p.md", &page.blessed, read);
        assert!(again.moved.is_empty() && again.missing.is_empty());
        assert_eq!(again.blessed, page.blessed);
        let edited = check("p.md", &page.blessed, |_| Some("struct B;".into()));
        assert_eq!(edited.moved.len(), 1);
    }

    #[test]
    fn a_lost_layout_fails_even_when_blessed() {
        let page = check("p.md", "<!-- layout: gone.rs fnv1a64:0 -->\n", |_| None);
        assert_eq!(page.missing, ["p.md describes gone.rs, which is not there"]);
    }
}
