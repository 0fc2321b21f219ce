//! A new store from what is left of a damaged directory: leaves that say whose they are, tails, definitions, index
//! segments and the log's whole frames. Superblock, manifest and inner pages are not needed.
//!
//! Whatever is found is taken, in this order, the later winning at equal times: leaves by ordinal of their run and the
//! position of their newest point, tails, the log. So points come back that had been deleted or had expired, where
//! their pages or frames are still there. Memory: the points of the log and of one series at a time, and 64 bytes a leaf.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alluvium_block::{Expect, Page, PageKind, PageRef, ReadError, numbered, volume_path};
use alluvium_io::{AlignedBuf, Device, FileId, IoError, Lane, PageBuf, Read};
use alluvium_nbtree::{TailRecord, TreeError, salvaged_leaf, salvaged_text, tail_records};
use alluvium_types::{Column, DatabaseId, PAGE_SIZE, SeriesId, SeriesKey, Value, ValueRef};
use alluvium_wal::{Entry, list_streams, read_section, salvage_frames};

use crate::backup::{BackupError, refuse_filled};
use crate::config::StoreConfig;
use crate::copying::Side;
use crate::database::{Database, Store};
use crate::ledger::NamedFile;
use crate::mended_tails::MendedTails;
use crate::salvage::names::Names;

mod names;

/// Measurement of series whose tag set is lost.
pub const SALVAGED_MEASUREMENT: &str = "_salvaged";

/// Pages of one read of a volume.
const PAGES_AT_ONCE: u64 = 64;
/// Lines of one batch written.
const BATCH_LINES: usize = 5000;

/// What came back and what did not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SalvageReport {
    /// Whole leaves found.
    pub leaves: u64,
    /// Pages that were written and do not hold.
    pub damaged_pages: u64,
    /// Leaves whose ordinals are missing between those found: lost, or given back.
    pub missing_leaves: u64,
    /// Series written.
    pub series: u64,
    /// Points written.
    pub points: u64,
    /// Series without a tag set: they have measurement [`SALVAGED_MEASUREMENT`] and their number as tag `series`.
    pub unnamed_series: u64,
    /// Pages of tails files that did not hold, or could not be read, and were made again.
    pub pages_mended: u64,
    /// Long strings of which a page is lost; their points are left out.
    pub lost_texts: u64,
    /// Log frames that hold.
    pub frames: u64,
    /// Numbers missing between them.
    pub missing_frames: u64,
    /// Databases without a name: they are called `database-NUMBER`.
    pub unnamed_databases: u64,
    /// Files that could not be used, and why.
    pub bad_files: Vec<String>,
}

/// A leaf, in the order in which leaves are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FoundLeaf {
    database: u32,
    series: u64,
    run: u32,
    lsn: u64,
    incarnation: u32,
    ordinal: u32,
    volume: u32,
    page: u32,
}

/// Points of a series by time.
type Points = BTreeMap<i64, Value>;

/// Writes a new store in the empty directory `target`, opened with `config`, of what is left in `source`. Nothing is changed in `source`.
/// Waits.
///
/// # Errors
/// See [`BackupError`]: if the target is not empty, or a device fails as a whole.
pub fn salvage(
    source: &Arc<dyn Device>,
    target: &Arc<dyn Device>,
    clock: Arc<dyn crate::Clock>,
    config: StoreConfig,
) -> Result<SalvageReport, BackupError> {
    refuse_filled(target.as_ref())?;
    let mut report = SalvageReport::default();
    let mut work = Work {
        volumes: Volumes::open(source.as_ref(), &mut report.bad_files)?,
        names: Names::default(),
        tails: BTreeMap::new(),
        logged: BTreeMap::new(),
        report,
    };
    work.read_log(source.as_ref())?;
    work.names.load(source, &mut work.report.bad_files)?;
    work.read_tails(source.as_ref())?;
    let leaves = work.find_leaves();
    let store = Store::open(Arc::clone(target), clock, config)?;
    work.write(&store, &leaves)?;
    store.close()?;
    Ok(work.report)
}

/// The volumes of a directory, open.
struct Volumes<'a> {
    side: Side<'a>,
    files: BTreeMap<u32, (FileId, u64)>,
}

impl<'a> Volumes<'a> {
    fn open(device: &'a dyn Device, bad: &mut Vec<String>) -> Result<Self, IoError> {
        let lane = Lane(0);
        let side = Side { device, lane };
        let mut files = BTreeMap::new();
        for file in device.list("vol")? {
            let id = file.name.parse().ok();
            let id = id.filter(|id| volume_path(*id).ends_with(&file.name));
            if let Some(id) = id {
                match side.open(&volume_path(id), false) {
                    Ok(opened) => drop(files.insert(id, opened)),
                    Err(error) => bad.push(error.to_string()),
                }
            }
        }
        Ok(Self { side, files })
    }

    /// `count` pages of a volume; those past its end are zeros, and so are those that cannot be read.
    fn read(&self, volume: u32, page: u64, count: u64) -> Vec<u8> {
        let bytes = count as usize * PAGE_SIZE;
        let Some((file, _)) = self.files.get(&volume) else {
            return vec![0; bytes];
        };
        let mut reads = [Read {
            file: *file,
            offset: page * PAGE_SIZE as u64,
            into: AlignedBuf::zeroed(bytes),
        }];
        if self.side.device.read(&mut reads).is_ok() {
            return reads[0].into.bytes().to_vec();
        }
        if count == 1 {
            return vec![0xff; bytes];
        }
        // One that the device refuses must not hide those around it.
        (0..count)
            .flat_map(|i| self.read(volume, page + i, 1))
            .collect()
    }

    fn page(&self, volume: u32, page: u32) -> Option<Page> {
        whole(&self.read(volume, page.into(), 1))
    }

    fn fetch(&self, refs: &[PageRef], expect: Expect) -> Vec<Result<Page, ReadError>> {
        let read = |want: &PageRef| {
            let page = self.page(want.addr.volume, want.addr.page);
            let is_it = |p: &Page| p.page_ref() == *want && p.meta().kind == expect.kind;
            page.filter(is_it)
                .ok_or(ReadError::Expired { addr: want.addr })
        };
        refs.iter().map(read).collect()
    }
}

fn whole(bytes: &[u8]) -> Option<Page> {
    let mut buffer = AlignedBuf::zeroed(PAGE_SIZE);
    buffer.bytes_mut().copy_from_slice(bytes);
    Page::from_buffer(PageBuf::from_buffer(buffer)?).ok()
}

struct Work<'a> {
    volumes: Volumes<'a>,
    names: Names,
    /// By database and series, as the newest file that holds says.
    tails: BTreeMap<(u32, u64), Vec<Column>>,
    logged: BTreeMap<(u32, u64), Points>,
    report: SalvageReport,
}

impl Work<'_> {
    /// Names and points of the log.
    fn read_log(&mut self, device: &dyn Device) -> Result<(), BackupError> {
        for stream in list_streams(device)? {
            let (names, logged) = (&mut self.names, &mut self.logged);
            let saved = salvage_frames(device, &stream, &mut |_, bytes| {
                // A section of a frame that holds parses, or is of a later version.
                let Ok(section) = read_section(bytes) else {
                    return Ok(());
                };
                for entry in section.entries {
                    let Entry::Points(group) = entry else {
                        names.note(section.database, section.partition, entry);
                        continue;
                    };
                    let width = group.fields.len().max(1);
                    let lines = group.rows.iter().zip(&group.times);
                    for ((row, time), values) in lines.zip(group.bits.chunks_exact(width)) {
                        for ((field, kind), bits) in group.fields.iter().zip(values) {
                            let series = SeriesId::new(section.partition, *row, *field, *kind);
                            let value = if kind.is_numeric() {
                                ValueRef::from_bits(*kind, *bits).to_owned()
                            } else {
                                let text = group.strings.get(*bits as usize);
                                ValueRef::Str(text.unwrap_or_default()).to_owned()
                            };
                            let place = (section.database.0, series.packed());
                            logged.entry(place).or_default().insert(*time, value);
                        }
                    }
                }
                Ok(())
            });
            let saved = match saved {
                Ok(saved) => saved,
                Err(error) => {
                    self.report.bad_files.push(error.to_string());
                    continue;
                }
            };
            self.report.frames += saved.frames;
            self.report.missing_frames += saved.missing;
        }
        Ok(())
    }

    /// What of series was in memory at the checkpoints whose files are there, the newest last.
    fn read_tails(&mut self, device: &dyn Device) -> Result<(), BackupError> {
        let files = device.list("")?.into_iter();
        let files = files.filter_map(|f| Some((numbered(&f.name, "tails.")?, f)));
        let mut files: Vec<_> = files.collect();
        files.sort_unstable_by_key(|(seq, _)| *seq);
        for (seq, file) in files {
            let named = NamedFile {
                seq,
                len: file.len,
                crc: 0,
            };
            let bytes = match self.read_tails_file(device, named) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.report.bad_files.push(error.to_string());
                    continue;
                }
            };
            for record in tail_records(&bytes) {
                if let Err(error) = record.and_then(|record| self.take_record(record)) {
                    self.report
                        .bad_files
                        .push(format!("{}: {error}", file.name));
                }
            }
        }
        Ok(())
    }

    /// One file, as its mending file gives it back; zeros where nothing can be read.
    fn read_tails_file(
        &mut self,
        device: &dyn Device,
        named: NamedFile,
    ) -> Result<Vec<u8>, IoError> {
        let lane = Lane(0);
        let side = Side { device, lane };
        let tails = match side.open(&named.tails_path(), false) {
            Ok((tails, _)) => tails,
            Err(error) => {
                self.report.bad_files.push(error.to_string());
                return Ok(Vec::new());
            }
        };
        let mut mended = MendedTails::new(side, tails, named);
        let mut bytes = Vec::new();
        for number in 0..mended.stripes() {
            let stripe = mended.stripe(number);
            let error = stripe.error().map(ToString::to_string);
            self.report.bad_files.extend(error);
            bytes.extend_from_slice(&stripe.bytes);
        }
        self.report.pages_mended += mended.mended.len() as u64;
        drop(mended);
        side.close(tails)?;
        Ok(bytes)
    }

    fn take_record(&mut self, record: TailRecord) -> Result<(), TreeError> {
        let key = record.key;
        let mut by_series: BTreeMap<u64, Vec<Column>> = BTreeMap::new();
        for run in &record.runs {
            let snapshot = run.snapshot();
            let points = snapshot.salvaged_points()?;
            let of_series = by_series.entry(snapshot.series().packed()).or_default();
            of_series.push(points);
        }
        for late in record.late {
            let id = SeriesId::new(key.partition, key.row, key.field, late.kind());
            by_series.entry(id.packed()).or_default().push(late);
        }
        for (series, columns) in by_series {
            self.tails.insert((key.database.0, series), columns);
        }
        Ok(())
    }

    /// Every leaf of every volume, in the order in which they are applied.
    fn find_leaves(&mut self) -> Vec<FoundLeaf> {
        let mut leaves = Vec::new();
        let volumes: Vec<_> = self
            .volumes
            .files
            .iter()
            .map(|(id, (_, len))| (*id, *len))
            .collect();
        for (volume, len) in volumes {
            let pages = len.div_ceil(PAGE_SIZE as u64);
            for begin in (0..pages).step_by(PAGES_AT_ONCE as usize) {
                let count = PAGES_AT_ONCE.min(pages - begin);
                let bytes = self.volumes.read(volume, begin, count);
                for (page, bytes) in (begin..).zip(bytes.chunks_exact(PAGE_SIZE)) {
                    if bytes.iter().all(|b| *b == 0) {
                        continue;
                    }
                    let Some(found) = whole(bytes) else {
                        self.report.damaged_pages += 1;
                        continue;
                    };
                    let meta = found.meta();
                    let place = (found.addr().volume, u64::from(found.addr().page));
                    if meta.kind == PageKind::Leaf && place == (volume, page) {
                        leaves.push(FoundLeaf {
                            database: meta.database.0,
                            series: meta.series,
                            run: meta.run_ordinal,
                            lsn: meta.lsn.0,
                            incarnation: found.incarnation(),
                            ordinal: meta.leaf_ordinal,
                            volume,
                            page: page as u32,
                        });
                    }
                }
            }
        }
        leaves.sort_unstable();
        self.report.leaves = leaves.len() as u64;
        self.report.missing_leaves = missing(&leaves);
        leaves
    }

    /// Writes all series, one after the other.
    fn write(&mut self, store: &Store, leaves: &[FoundLeaf]) -> Result<(), BackupError> {
        let places = leaves.iter().map(|l| (l.database, l.series));
        let places: BTreeSet<(u32, u64)> = places
            .chain(self.tails.keys().copied())
            .chain(self.logged.keys().copied())
            .collect();
        let mut databases: BTreeMap<u32, Database> = BTreeMap::new();
        for (database, series) in places {
            let Some(id) = SeriesId::from_packed(series) else {
                continue;
            };
            let begin = leaves.partition_point(|l| (l.database, l.series) < (database, series));
            let end = leaves.partition_point(|l| (l.database, l.series) <= (database, series));
            let points = self.points_of(database, id, leaves.get(begin..end).unwrap_or_default());
            if points.is_empty() {
                continue;
            }
            let to = if let Some(to) = databases.get(&database) {
                to
            } else {
                let made = self.create(store, database)?;
                databases.entry(database).or_insert(made)
            };
            let (key, field) = self.names.of(DatabaseId(database), id).unwrap_or_else(|| {
                self.report.unnamed_series += 1;
                unnamed(series)
            });
            self.report.series += 1;
            self.report.points += points.len() as u64;
            write_series(to, &key, &field, &points)?;
        }
        Ok(())
    }

    fn create(&mut self, store: &Store, database: u32) -> Result<Database, BackupError> {
        let name = self
            .names
            .database(DatabaseId(database))
            .unwrap_or_else(|| {
                self.report.unnamed_databases += 1;
                format!("database-{database}")
            });
        let (made, created) = store.create_database(&name)?;
        created.wait()?;
        Ok(made)
    }

    /// Everything that is known of a series.
    fn points_of(&mut self, database: u32, series: SeriesId, leaves: &[FoundLeaf]) -> Points {
        let mut points = Points::new();
        for leaf in leaves {
            let page = self.volumes.page(leaf.volume, leaf.page);
            if let Some(Ok(column)) = page.map(|page| salvaged_leaf(series, &page)) {
                self.take(series, &column, &mut points);
            }
        }
        for column in self
            .tails
            .remove(&(database, series.packed()))
            .unwrap_or_default()
        {
            self.take(series, &column, &mut points);
        }
        points.extend(
            self.logged
                .remove(&(database, series.packed()))
                .unwrap_or_default(),
        );
        points
    }

    fn take(&mut self, series: SeriesId, column: &Column, points: &mut Points) {
        for (i, time) in column.times.iter().enumerate() {
            let Some(value) = column.value(i) else {
                continue;
            };
            let ValueRef::Str(stored) = value else {
                points.insert(*time, value.to_owned());
                continue;
            };
            let fetch = |refs: &[PageRef], expect| self.volumes.fetch(refs, expect);
            match salvaged_text(stored, series.packed(), &fetch) {
                Some(text) => drop(points.insert(*time, Value::Str(text.into()))),
                None => self.report.lost_texts += 1,
            }
        }
    }
}

/// Ordinals missing in front of the highest of each run.
fn missing(leaves: &[FoundLeaf]) -> u64 {
    let mut runs: BTreeMap<(u32, u64, u32), BTreeSet<u32>> = BTreeMap::new();
    for leaf in leaves {
        let run = (leaf.database, leaf.series, leaf.run);
        runs.entry(run).or_default().insert(leaf.ordinal);
    }
    let of_run = |found: &BTreeSet<u32>| {
        let wanted = found.last().map_or(0, |last| u64::from(*last) + 1);
        wanted - found.len() as u64
    };
    runs.values().map(of_run).sum()
}

/// What a series without names is called.
fn unnamed(series: u64) -> (SeriesKey, String) {
    let number = series.to_string();
    let key = SeriesKey::new(SALVAGED_MEASUREMENT, [("series", number.as_str())]);
    (
        key.expect("a plain name and one tag are allowed"),
        "value".into(),
    )
}

fn write_series(
    database: &Database,
    key: &SeriesKey,
    field: &str,
    points: &Points,
) -> Result<(), BackupError> {
    let mut writer = database.writer();
    let row = writer.resolve(b"series", key.clone());
    for (i, (time, value)) in points.iter().enumerate() {
        // What the new store refuses was refused by the old one.
        if writer.begin_line(row, *time).is_ok() && writer.field(field, value.as_ref()).is_ok() {
            let _ = writer.end_line();
        }
        if (i + 1) % BATCH_LINES == 0 {
            commit(&mut writer)?;
        }
    }
    commit(&mut writer)
}

fn commit(writer: &mut crate::Writer) -> Result<(), BackupError> {
    let written = writer.commit(None).map_err(BackupError::Write)?;
    written.wait()?;
    Ok(())
}
