//! `alluvium inspect`: pages of a data directory, read without opening the store and without its lock.
//!
//! A running server may be writing meanwhile: pages that are not written yet show as empty or damaged.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use alluvium_block::{Page, PageKind};
use alluvium_io::PageBuf;
use alluvium_nbtree::{describe_inner, describe_leaf};
use alluvium_types::{PAGE_SIZE, SeriesId, ValueKind};

use crate::args::{Inspect, InspectArgs};
use crate::error::CliError;

/// Points of a leaf that are printed at each end.
const SHOWN_POINTS: usize = 5;
/// Series that `inspect volume` lists, largest first.
const SHOWN_SERIES: usize = 10;

pub(crate) fn run(args: &InspectArgs) -> Result<(), CliError> {
    let text = match &args.what {
        Inspect::Page { dir, volume, page } => one_page(dir, *volume, *page)?,
        Inspect::Tree {
            dir,
            database,
            series,
        } => tree(dir, *database, *series)?,
        Inspect::Volume { dir, volume } => volumes(dir, *volume)?,
    };
    crate::serve::say(text.trim_end());
    Ok(())
}

/// The files of volumes in a directory, by number.
fn files(dir: &Path) -> Result<BTreeMap<u32, PathBuf>, CliError> {
    let vol = dir.join("vol");
    if !dir.join("superblock").exists() {
        let sentence = format!(
            "{} holds no superblock, so it is no data directory of Alluvium; check the path",
            dir.display()
        );
        return Err(CliError::said(sentence));
    }
    let mut found = BTreeMap::new();
    let entries = match std::fs::read_dir(&vol) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => {
            return Err(CliError::io(format!("cannot list {}", vol.display()))(
                error,
            ));
        }
    };
    for entry in entries.flatten() {
        if let Some(number) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            found.insert(number, entry.path());
        }
    }
    Ok(found)
}

enum Found {
    Page(Page),
    Empty,
    Damaged(String),
}

fn read(file: &File, page: u32) -> Result<Option<Found>, std::io::Error> {
    let mut buffer = PageBuf::zeroed();
    let at = u64::from(page) * PAGE_SIZE as u64;
    match file.read_exact_at(buffer.bytes_mut(), at) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    if buffer.bytes().iter().all(|b| *b == 0) {
        return Ok(Some(Found::Empty));
    }
    Ok(Some(Page::from_buffer(buffer).map_or_else(
        |e| Found::Damaged(e.to_string()),
        Found::Page,
    )))
}

fn open(path: &Path) -> Result<File, CliError> {
    File::open(path).map_err(CliError::io(format!("cannot open {}", path.display())))
}

/// Calls `visit` for every page of every volume asked for.
fn each_page(
    dir: &Path,
    only: Option<u32>,
    visit: &mut dyn FnMut(u32, u32, Found),
) -> Result<(), CliError> {
    let files = files(dir)?;
    if let Some(only) = only
        && !files.contains_key(&only)
    {
        return Err(CliError::said(format!(
            "there is no volume {only}; those there are: {:?}",
            files.keys()
        )));
    }
    for (volume, path) in files.iter().filter(|(v, _)| only.is_none_or(|o| o == **v)) {
        let file = open(path)?;
        let mut page = 0;
        while let Some(found) =
            read(&file, page).map_err(CliError::io(format!("cannot read {}", path.display())))?
        {
            visit(*volume, page, found);
            page += 1;
        }
    }
    Ok(())
}

fn one_page(dir: &Path, volume: u32, page: u32) -> Result<String, CliError> {
    let files = files(dir)?;
    let path = files.get(&volume).ok_or_else(|| {
        CliError::said(format!(
            "there is no volume {volume}; those there are: {:?}",
            files.keys()
        ))
    })?;
    let found = read(&open(path)?, page)
        .map_err(CliError::io(format!("cannot read {}", path.display())))?;
    Ok(match found {
        None => {
            return Err(CliError::said(format!(
                "volume {volume} ends before page {page}"
            )));
        }
        Some(Found::Empty) => format!("page {volume}:{page} is not written\n"),
        Some(Found::Damaged(why)) => format!("page {volume}:{page} is damaged: {why}\n"),
        Some(Found::Page(page)) => describe(&page),
    })
}

/// Header and content of a page. Writing to a string cannot fail.
fn describe(page: &Page) -> String {
    let meta = page.meta();
    let mut out = String::new();
    let at = page.addr();
    let reference = page.page_ref();
    let _ = writeln!(
        out,
        "page {}:{} {:?}, generation {}, crc {:08x}, written by incarnation {}, {} bytes used behind the header",
        at.volume,
        at.page,
        meta.kind,
        reference.generation,
        reference.crc,
        page.incarnation(),
        page.body().len()
    );
    let id = SeriesId::from_packed(meta.series);
    let _ = writeln!(
        out,
        "database {}, series {} ({}), run {}, leaf {}, level {}, lsn {}, {} items, flags {:#04x}",
        meta.database.0,
        meta.series,
        id.map_or_else(|| "none".into(), name_of),
        meta.run_ordinal,
        meta.leaf_ordinal,
        meta.level,
        meta.lsn.0,
        meta.items,
        meta.flags
    );
    match meta.kind {
        PageKind::Leaf => match describe_leaf(
            id.map_or(ValueKind::F64, SeriesId::kind),
            page.body(),
            meta.items,
        ) {
            Ok(leaf) => {
                let points = &leaf.points;
                let _ = writeln!(
                    out,
                    "{} points, directory of {} bytes",
                    points.len(),
                    leaf.directory_bytes
                );
                for (i, block) in leaf.blocks.iter().enumerate() {
                    let _ = writeln!(
                        out,
                        "  block {i}: {} points from {} to {}, {} bytes",
                        block.points,
                        block.first_time,
                        block.last_time,
                        block.bytes.len()
                    );
                }
                for at in 0..points.len() {
                    if at == SHOWN_POINTS && points.len() > 2 * SHOWN_POINTS {
                        out.push_str("  ...\n");
                    }
                    if at >= SHOWN_POINTS && at + SHOWN_POINTS < points.len() {
                        continue;
                    }
                    let _ = writeln!(out, "  {} {:?}", points.times[at], points.value(at));
                }
            }
            Err(error) => {
                let _ = writeln!(out, "its content is damaged: {error}");
            }
        },
        PageKind::Inner => match describe_inner(page.body(), meta.items) {
            Ok(inner) => {
                for (i, entry) in inner.entries.iter().enumerate() {
                    let _ = writeln!(out, "  entry {i}: {entry:?}");
                }
            }
            Err(error) => {
                let _ = writeln!(out, "its content is damaged: {error}");
            }
        },
        _ => {}
    }
    out
}

fn name_of(id: SeriesId) -> String {
    format!(
        "partition {}, row {}, field {}, {}",
        id.partition().0,
        id.row().0,
        id.field().0,
        id.kind().name()
    )
}

/// What one volume holds.
#[derive(Default)]
struct Usage {
    pages: u64,
    kinds: BTreeMap<String, u64>,
    used: u64,
    empty: u64,
    database: Option<u32>,
    damaged: Vec<String>,
}

fn volumes(dir: &Path, only: Option<u32>) -> Result<String, CliError> {
    let mut usage: BTreeMap<u32, Usage> = BTreeMap::new();
    let mut series: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    each_page(dir, only, &mut |volume, number, found| {
        let usage = usage.entry(volume).or_default();
        match found {
            Found::Empty => usage.empty += 1,
            Found::Damaged(why) => usage
                .damaged
                .push(format!("  page {volume}:{number} is damaged: {why}\n")),
            Found::Page(page) => {
                let meta = page.meta();
                usage.pages += 1;
                usage.used += page.body().len() as u64;
                *usage
                    .kinds
                    .entry(format!("{:?}", meta.kind).to_lowercase())
                    .or_default() += 1;
                usage.database = Some(meta.database.0);
                if meta.series != 0 {
                    *series.entry((meta.database.0, meta.series)).or_default() += 1;
                }
            }
        }
    })?;
    let mut out = String::new();
    for (volume, usage) in &usage {
        let kinds: Vec<String> = usage
            .kinds
            .iter()
            .map(|(kind, pages)| format!("{pages} {kind}"))
            .collect();
        let fill = 100.0 * usage.used as f64 / (usage.pages.max(1) * PAGE_SIZE as u64) as f64;
        let _ = writeln!(
            out,
            "volume {volume}: database {}, {} pages ({}), {fill:.1} % used, {} not written, {} damaged",
            usage.database.unwrap_or_default(),
            usage.pages,
            kinds.join(", "),
            usage.empty,
            usage.damaged.len()
        );
        usage.damaged.iter().for_each(|line| out.push_str(line));
    }
    if usage.is_empty() {
        out.push_str("no volumes yet: everything is in the log and the tails\n");
    }
    let mut largest: Vec<_> = series.into_iter().collect();
    largest.sort_unstable_by_key(|(_, pages)| std::cmp::Reverse(*pages));
    for ((database, packed), pages) in largest.iter().take(SHOWN_SERIES) {
        let name = SeriesId::from_packed(*packed).map_or_else(|| "unknown".into(), name_of);
        let _ = writeln!(
            out,
            "series {packed} of database {database} ({name}): {pages} pages"
        );
    }
    Ok(out)
}

fn tree(dir: &Path, database: u32, series: Option<u64>) -> Result<String, CliError> {
    let series = if let Some(series) = series {
        series
    } else {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        each_page(dir, None, &mut |_, _, found| {
            if let Found::Page(page) = found
                && page.meta().database.0 == database
                && page.meta().series != 0
            {
                *counts.entry(page.meta().series).or_default() += 1;
            }
        })?;
        let largest = counts.into_iter().max_by_key(|(_, pages)| *pages);
        largest
            .ok_or_else(|| {
                CliError::said(format!(
                    "database {database} has no pages yet: its points are in the log and the tails"
                ))
            })?
            .0
    };
    let mut pages = Vec::new();
    each_page(dir, None, &mut |_, _, found| {
        if let Found::Page(page) = found
            && page.meta().database.0 == database
            && page.meta().series == series
        {
            pages.push((page.meta(), page.addr(), page.body().len()));
        }
    })?;
    pages.sort_by_key(|(meta, ..)| {
        (
            meta.run_ordinal,
            std::cmp::Reverse(meta.level),
            meta.leaf_ordinal,
        )
    });
    let name = SeriesId::from_packed(series).map_or_else(|| "unknown".into(), name_of);
    let mut out = format!(
        "series {series} of database {database} ({name}): {} pages written\n",
        pages.len()
    );
    for (meta, at, used) in pages {
        let _ = writeln!(
            out,
            "  run {} level {} {:?} from leaf {} at {}:{}, {} items, {used} bytes, lsn {}",
            meta.run_ordinal,
            meta.level,
            meta.kind,
            meta.leaf_ordinal,
            at.volume,
            at.page,
            meta.items,
            meta.lsn.0
        );
    }
    Ok(out)
}
