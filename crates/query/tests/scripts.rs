//! Scripts of loads and queries, those of `docs/QUERY.md` included.
//!
//! A script is blocks apart by empty lines. `load` is followed by line protocol, `query` by a query and, behind
//! `----`, by what it answers: its rows as csv, with a header; then its warnings behind `! `; or its refusal,
//! `error code: sentence`. In a page of docs the blocks are fenced and marked `load`, `query` and `answer`.
//!
//! With `BLESS=1` in the environment the scripts are rewritten to what came out.

mod common;

use std::sync::Arc;

use alluvium_protocol::json::{Format, Output, Request};
use alluvium_protocol::{RowWriter, SeriesName};
use alluvium_query::{Execution, QueryError, RowBatch, Source, explain, plan};
use common::{Memory, Real, limits};

/// What `now` means in scripts: 1970-01-02T00:00:00Z.
const NOW_NS: i64 = 86_400_000_000_000;

/// The same points in a source of the tests' own and in a real store.
struct Both {
    memory: Memory,
    real: Real,
}

impl Both {
    fn new() -> Self {
        Self {
            memory: Memory::new(),
            real: Real::new(),
        }
    }

    fn load(&mut self, lines: &str) {
        self.memory.load(lines);
        self.real.load(lines);
    }

    /// What both sources answer.
    fn answer(&self, query: &str) -> String {
        let text = answer(&self.memory, query);
        assert_eq!(
            answer(&self.real.database.snapshot(), query),
            text,
            "the store answers {query}"
        );
        text
    }
}

fn answer(source: &(impl Source + Clone + 'static), query: &str) -> String {
    let request = match Request::parse(query.as_bytes(), NOW_NS) {
        Ok(request) => request,
        Err(error) => return format!("error {}: {error}\n", error.code()),
    };
    match rows(source, &request) {
        Ok(text) => text,
        Err(error) => format!("error {}: {error}\n", error.code()),
    }
}

fn rows(source: &(impl Source + Clone + 'static), request: &Request) -> Result<String, QueryError> {
    let plan = plan(request)?;
    if request.explain {
        return Ok(explain(&plan));
    }
    let mut execution = Execution::start(Box::new(source.clone()), plan, limits(), Arc::default())?;
    // Csv unless the query asks for something of json.
    let json = request.output.format == Format::Json && request.output != Output::default();
    let output = if json || request.stats {
        request.output
    } else {
        Output {
            format: Format::Csv,
            header: true,
            ..request.output
        }
    };
    let mut writer = RowWriter::new(output);
    let columns: Vec<&str> = execution
        .columns()
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    writer.begin(&columns);
    let mut batch = RowBatch::new();
    while execution.next_batch(&mut batch)? {
        for row in batch.rows() {
            let series = row.series();
            let tags = series.tags().iter().map(|(k, v)| (k.as_str(), v.as_str()));
            let name = SeriesName::new(series.metric(), tags);
            assert_eq!(name.as_str(), series.name(), "one way to write names");
            let values: Vec<_> = row.values().collect();
            writer.row(&name, row.time(), &values);
        }
    }
    let is_json = output.format == Format::Json;
    let warnings: &[String] = if is_json { execution.warnings() } else { &[] };
    writer.finish(warnings, None, None);
    let mut text = String::from_utf8(writer.take())
        .expect("answers are UTF-8")
        .replace("\r\n", "\n");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    if !is_json {
        for warning in execution.warnings() {
            text.push_str("! ");
            text.push_str(warning);
            text.push('\n');
        }
    }
    Ok(text)
}

/// Runs one script; gives it back as it should be.
fn run_script(text: &str) -> (String, Vec<String>) {
    let mut both = Both::new();
    let (mut out, mut wrong) = (Vec::new(), Vec::new());
    for block in text.trim_end().split("\n\n") {
        let first = block
            .lines()
            .find(|l| !l.starts_with('#'))
            .unwrap_or_default();
        if first == "load" {
            let at = block.find("load\n").expect("found above") + 5;
            both.load(&block[at..]);
            out.push(block.to_owned());
        } else if first == "reset" {
            both = Both::new();
            out.push(block.to_owned());
        } else if first == "query" {
            let (head, expected) = block.split_once("\n----").unwrap_or((block, ""));
            let query = &head[head.find("query\n").expect("found above") + 6..];
            let got = both.answer(query);
            if got.trim_end() != expected.trim() {
                wrong.push(format!(
                    "{query}\nanswers\n{got}\ninstead of\n{}",
                    expected.trim()
                ));
            }
            out.push(format!("{head}\n----\n{}", got.trim_end()));
        } else {
            assert_eq!(first, "", "a block of no known kind: {first:?}");
            out.push(block.to_owned());
        }
    }
    (out.join("\n\n") + "\n", wrong)
}

fn check(path: &str, blessed: &str, wrong: &[String]) {
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, blessed).expect("the script can be rewritten");
    } else {
        assert!(wrong.is_empty(), "{path}:\n{}", wrong.join("\n\n"));
    }
}

#[test]
fn scripts_answer_as_written() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the scripts are beside this test") {
        let path = entry.expect("a readable folder").path();
        let text = std::fs::read_to_string(&path).expect("a readable script");
        let (blessed, wrong) = run_script(&text);
        check(&path.display().to_string(), &blessed, &wrong);
        count += 1;
    }
    assert!(count > 0, "no script was found");
}

#[test]
fn the_page_answers_as_written() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/QUERY.md");
    let text = std::fs::read_to_string(path).expect("the page is there");
    let mut both = Both::new();
    let mut query: Option<String> = None;
    let (mut out, mut wrong, mut answers) = (String::new(), Vec::new(), 0);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let Some(mark) = line.strip_prefix("```").filter(|m| !m.is_empty()) else {
            continue;
        };
        let body: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        let mut body = body.join("\n") + "\n";
        match mark {
            "text load" => both.load(&body),
            "json query" => query = Some(body.clone()),
            "text answer" => {
                let query = query.take().expect("an answer comes behind its query");
                let got = both.answer(&query);
                if got.trim_end() != body.trim_end() {
                    wrong.push(format!("{query}\nanswers\n{got}\ninstead of\n{body}"));
                }
                body = got;
                answers += 1;
            }
            _ => {}
        }
        out.push_str(&body);
        out.push_str("```\n");
    }
    assert!(answers >= 8, "the page lost its examples");
    check(path, &out, &wrong);
}
