//! `alluvium verify`: damage in a directory that nobody has open, or in a running server.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use alluvium_store::{Finding, LostPoints, VerifyReport, verify};
use alluvium_types::{ByteCount, PAGE_SIZE, SeriesId};
use serde_json::Value;

use crate::args::VerifyArgs;
use crate::backup::existing;
use crate::client::Client;
use crate::error::CliError;
use crate::serve::say;

/// How long a server may take.
const VERIFY_TIME: Duration = Duration::from_hours(24);

pub(crate) fn run(args: &VerifyArgs) -> Result<(), CliError> {
    let report = if args.target.starts_with("http://") {
        of_server(args)?
    } else {
        let device = existing(Path::new(&args.target), 1)?;
        verify(&device).map_err(|error| CliError::said(error.to_string()))?
    };
    for finding in &report.findings {
        say(&line(finding));
    }
    say(&format!(
        "{} runs, {} pages ({}), {} files, {} log frames: {} findings",
        report.runs,
        report.pages,
        ByteCount(report.page_bytes),
        report.files,
        report.frames,
        report.findings_total
    ));
    if report.is_sound() {
        return Ok(());
    }
    let sentence = format!(
        "{} is damaged in {} places; restore a backup, or run `alluvium salvage`",
        args.target, report.findings_total
    );
    Err(CliError::said(sentence))
}

/// Has a server look through everything but its log.
fn of_server(args: &VerifyArgs) -> Result<VerifyReport, CliError> {
    let client = Client::new(&args.target, args.token.as_deref());
    let client = client.map_err(CliError::io("cannot ask the server"))?;
    let mut client = client.patient(VERIFY_TIME);
    let answer = client.request("POST", "/api/verify", &[], &[]);
    let text = answer.map_err(CliError::asking(&args.target))?.text();
    let answered: Value = serde_json::from_str(&text).map_err(|_| CliError::said(text.clone()))?;
    let Some(findings) = answered["findings"].as_array() else {
        return Err(CliError::said(answered["error"].as_str().unwrap_or(&text)));
    };
    let count = |name: &str| answered[name].as_u64().unwrap_or_default();
    let pages = count("pages");
    Ok(VerifyReport {
        runs: count("runs"),
        pages,
        page_bytes: pages * PAGE_SIZE as u64,
        files: count("files"),
        frames: 0,
        findings: findings.iter().map(finding).collect(),
        findings_total: findings.len() as u64,
    })
}

fn finding(value: &Value) -> Finding {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let lost = &value["lost"];
    let series = lost["series"].as_str().and_then(|s| s.parse().ok());
    let lost = series.map(|series| LostPoints {
        database: lost["database"].as_u64().unwrap_or_default() as u32,
        series,
        first_time: lost["from_ns"].as_i64().unwrap_or_default(),
        last_time: lost["to_ns"].as_i64().unwrap_or_default(),
        points: lost["points"].as_u64().unwrap_or_default(),
    });
    Finding {
        place: text("place"),
        what: text("what"),
        lost,
    }
}

/// A finding in a line.
fn line(finding: &Finding) -> String {
    let mut line = format!("{}: {}", finding.place, finding.what);
    if let Some(lost) = &finding.lost {
        let series = SeriesId::from_packed(lost.series);
        let series = series.map_or_else(|| lost.series.to_string(), |s| s.to_string());
        let _ = write!(
            line,
            "; lost: {} points of series {series} of database {}, {} to {} ns",
            lost.points, lost.database, lost.first_time, lost.last_time
        );
    }
    line
}
