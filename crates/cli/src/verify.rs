//! `alluvium verify`: damage in a directory that nobody has open.

use alluvium_store::{Finding, verify};
use alluvium_types::{ByteCount, SeriesId};

use crate::args::VerifyArgs;
use crate::backup::existing;
use crate::error::CliError;
use crate::serve::say;

pub(crate) fn run(args: &VerifyArgs) -> Result<(), CliError> {
    let device = existing(&args.dir, 1)?;
    let report = verify(&device).map_err(|error| CliError::said(error.to_string()))?;
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
        args.dir.display(),
        report.findings_total
    );
    Err(CliError::said(sentence))
}

/// A finding in a line.
pub(crate) fn line(finding: &Finding) -> String {
    let mut line = format!("{}: {}", finding.place, finding.what);
    if let Some(lost) = &finding.lost {
        let series = SeriesId::from_packed(lost.series);
        let series = series.map_or_else(|| lost.series.to_string(), |s| s.to_string());
        line.push_str(&format!(
            "; lost: {} points of series {series} of database {}, {} to {} ns",
            lost.points, lost.database, lost.first_time, lost.last_time
        ));
    }
    line
}
