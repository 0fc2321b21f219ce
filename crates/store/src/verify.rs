//! Damage looked for in a directory that nobody has open: superblock, manifest, tails, definitions, index segments, log
//! frames, and every page that a series leads to, with the checksum that its parent remembers.
//!
//! Nothing is written. Pages that nothing leads to are not looked at: what is in them matters to nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_block::{
    BlockConfig, BlockStore, OtherSlot, RootError, Roots, Sections, load_roots,
    load_unfinished_roots,
};
use alluvium_io::{Device, IoError};
use alluvium_nbtree::{PageCheck, ReadStats, Tree, TreeError, tail_records};
use alluvium_types::{Budget, PAGE_SIZE};
use alluvium_wal::{Entry, LogError, PointGroup, SectionReader, list_streams, replay};

use crate::copies::{Copies, read_definitions};
use crate::error::{OpenError, SeriesReadError};
use crate::ledger::Ledger;
use crate::open::salt;
use crate::tails_check::TailsCheck;

/// Findings that are listed; more are counted.
pub const FINDINGS_MAX: usize = 1000;

/// Pages checked of one run between looks at the budget.
const STEP_PAGES: usize = 4096;

/// Points that are lost with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostPoints {
    /// Number of the database.
    pub database: u32,
    /// `SeriesId::packed`.
    pub series: u64,
    /// Time of the oldest, nanoseconds.
    pub first_time: i64,
    /// Time of the newest, nanoseconds.
    pub last_time: i64,
    /// How many.
    pub points: u64,
}

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, or `page VOLUME:PAGE`.
    pub place: String,
    /// What did not hold.
    pub what: String,
    /// The points that are lost with it, where they are known.
    pub lost: Option<LostPoints>,
}

impl Finding {
    /// What a check of a run found.
    pub(crate) fn of_page(database: u32, error: &TreeError) -> Self {
        match error {
            TreeError::BadPage {
                addr,
                series,
                first_time,
                last_time,
                points,
                cause,
            } => Self {
                place: format!("page {addr}"),
                what: cause.to_string(),
                lost: Some(LostPoints {
                    database,
                    series: series.packed(),
                    first_time: *first_time,
                    last_time: *last_time,
                    points: *points,
                }),
            },
            error => Self {
                place: "a run of a series".into(),
                what: error.to_string(),
                lost: None,
            },
        }
    }
}

impl SeriesReadError {
    /// The points that are lost with a damaged page, where that is what went wrong: everything around them is still
    /// readable, and a cursor has moved behind them. The database is not known here: 0.
    pub fn lost(&self) -> Option<LostPoints> {
        match self {
            Self::Tree(error @ TreeError::BadPage { .. }) => Finding::of_page(0, error).lost,
            _ => None,
        }
    }
}

/// What was looked at, and what does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Runs of series.
    pub runs: u64,
    /// Pages read.
    pub pages: u64,
    /// Bytes of them.
    pub page_bytes: u64,
    /// Files beside volumes.
    pub files: u64,
    /// Log frames.
    pub frames: u64,
    /// The first [`FINDINGS_MAX`] findings.
    pub findings: Vec<Finding>,
    /// All of them.
    pub findings_total: u64,
}

impl VerifyReport {
    /// Whether everything holds.
    pub fn is_sound(&self) -> bool {
        self.findings_total == 0
    }

    fn find(&mut self, finding: Finding) {
        self.findings_total += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    fn note(&mut self, place: &str, what: impl ToString) {
        self.find(Finding {
            place: place.to_owned(),
            what: what.to_string(),
            lost: None,
        });
    }

    fn note_copies(&mut self, copies: &Copies) {
        self.files += 2;
        for (path, what) in copies.findings() {
            self.note(&path, what);
        }
    }

    fn add_pages(&mut self, stats: &ReadStats) {
        self.pages = stats.leaf_pages + stats.inner_pages + stats.overflow_pages;
        self.page_bytes = self.pages * PAGE_SIZE as u64;
    }
}

/// Looks through a directory. Waits; reads all of it once, pages in the order of series.
///
/// # Errors
/// If the device fails as a whole. What cannot be read in one place is a finding.
pub fn verify(device: &Arc<dyn Device>) -> Result<VerifyReport, IoError> {
    verify_roots(device, load_roots(device.as_ref()))
}

/// [`verify`] of a directory that says that it is unfinished.
pub(crate) fn verify_unfinished(device: &Arc<dyn Device>) -> Result<VerifyReport, IoError> {
    verify_roots(device, load_unfinished_roots(device.as_ref()))
}

fn verify_roots(
    device: &Arc<dyn Device>,
    roots: Result<Option<Roots>, RootError>,
) -> Result<VerifyReport, IoError> {
    let mut report = VerifyReport::default();
    let roots = match roots {
        Ok(Some(roots)) => roots,
        Ok(None) => {
            report.note("superblock", "there is none: the directory is empty");
            return Ok(report);
        }
        Err(RootError::Io(error)) => return Err(error),
        Err(error) => {
            report.note("superblock", error);
            return Ok(report);
        }
    };
    report.files += 2;
    if roots.other == OtherSlot::Damaged {
        let what = "the slot that is not the newest, or its manifest, is damaged: the newest one holds alone";
        report.note("superblock", what);
    }
    let ledger = match Ledger::load(&roots.manifest) {
        Ok(ledger) => ledger,
        Err(error) => {
            report.note(&alluvium_block::manifest_path(roots.root.seq), error);
            return Ok(report);
        }
    };
    let budget = Arc::new(Budget::new(u64::MAX));
    let opened = BlockStore::open_what_holds(
        Arc::clone(device),
        BlockConfig::default(),
        (roots.root.instance, u32::MAX),
        budget,
        &roots.manifest,
    );
    let sections = [
        ("its catalogue", vec![&ledger.catalog]),
        ("its deletes", ledger.tombstones.iter().collect()),
    ];
    for (section, all) in sections {
        for bytes in all {
            if let Err(error) = check_section(bytes) {
                let what = format!("{section}: {error}");
                report.note(&alluvium_block::manifest_path(roots.root.seq), what);
            }
        }
    }
    check_definitions(device.as_ref(), &ledger, &mut report);
    for segment in &ledger.segments {
        report.note_copies(&Copies::of_segment(device.as_ref(), segment.file));
    }
    match opened {
        Ok((blocks, missing)) => {
            for (id, error) in missing {
                report.note(&alluvium_block::volume_path(id), error);
            }
            check_series(device.as_ref(), &ledger, &blocks, &mut report);
        }
        Err(error) => report.note(&alluvium_block::manifest_path(roots.root.seq), error),
    }
    check_log(
        device.as_ref(),
        &ledger,
        salt(roots.root.instance),
        &mut report,
    );
    Ok(report)
}

fn check_definitions(device: &dyn Device, ledger: &Ledger, report: &mut VerifyReport) {
    for file in &ledger.series {
        report.note_copies(&Copies::of_definitions(device, *file));
        let sections = read_definitions(device, *file).map(|b| Sections::decode(&b));
        if let Ok(Err(error)) = sections {
            report.note(&file.series_paths()[0], error);
        }
    }
}

/// Reads the newest record of every series, and the pages that its runs lead to.
fn check_series(
    device: &dyn Device,
    ledger: &Ledger,
    blocks: &BlockStore,
    report: &mut VerifyReport,
) {
    let mut series: BTreeMap<(u32, u8, u32, u32), Vec<Tree>> = BTreeMap::new();
    for file in &ledger.tails {
        let path = file.tails_path();
        let mut bytes = Vec::new();
        let check = TailsCheck::of(device, *file, |stripe| bytes.extend_from_slice(stripe));
        report.files += 2;
        for (path, what) in check.findings() {
            report.note(&path, what);
        }
        if !check.is_sound() {
            continue;
        }
        for record in tail_records(&bytes) {
            match record {
                Ok(record) => {
                    let key = record.key;
                    let place = (key.database.0, key.partition.0, key.row.0, key.field.0);
                    series.insert(place, record.runs);
                }
                Err(error) => report.note(&path, error),
            }
        }
    }
    let mut stats = ReadStats::default();
    for ((database, ..), runs) in series {
        for run in runs {
            report.runs += 1;
            let mut check = PageCheck::new(run.snapshot());
            let mut found = |error: TreeError| report.find(Finding::of_page(database, &error));
            loop {
                match check.step(blocks, &mut stats, STEP_PAGES, &mut found) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        found(error);
                        break;
                    }
                }
            }
        }
    }
    report.add_pages(&stats);
}

/// Reads a section, one group of points at a time.
fn check_section(bytes: &[u8]) -> Result<(), LogError> {
    let mut section = SectionReader::new(bytes)?;
    let mut scratch = PointGroup::default();
    while let Some(entry) = section.next_entry(&mut scratch)? {
        if let Entry::Points(group) = entry {
            scratch = group;
        }
    }
    Ok(())
}

/// Reads the log as an opening would, without doing anything.
fn check_log(device: &dyn Device, ledger: &Ledger, salt: u64, report: &mut VerifyReport) {
    let streams = match list_streams(device) {
        Ok(streams) => streams,
        Err(error) => return report.note("wal", error),
    };
    if let Err(error) = crate::recovery::check_streams(ledger, &streams) {
        report.note("wal", error);
    }
    for stream in streams {
        let from = match stream.incarnation.cmp(&ledger.incarnation) {
            std::cmp::Ordering::Less => continue,
            std::cmp::Ordering::Equal => ledger.redo_from.get(usize::from(stream.shard)).copied(),
            std::cmp::Ordering::Greater => Some(0),
        };
        let Some(from) = from else { continue };
        let mut last = None;
        let read = replay(device, &stream, salt, from, &mut |seq, bytes| {
            report.frames += u64::from(last.replace(seq) != Some(seq));
            check_section(bytes)
        });
        if let Err(error) = read {
            report.note(&format!("wal/{}", stream.name()), OpenError::Log(error));
        }
    }
}
