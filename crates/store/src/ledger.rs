//! What a superblock names beside volumes: catalogue, positions, tails, definitions, where redo begins.

use alluvium_block::{Manifest, Sections};
use alluvium_types::{DatabaseId, Lsn, PARTITION_COUNT, Partition};

use crate::error::OpenError;
use crate::lineage::Lineage;
use crate::numbers::{Numbers, to_bytes};

const TAG_CATALOG: u64 = 16;
const TAG_LEDGER: u64 = 17;
const TAG_REMOVALS: u64 = 18;
const TAG_TOMBSTONES: u64 = 19;

/// A file that the manifest names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NamedFile {
    /// The commit that wrote it; part of its name.
    pub seq: u64,
    pub len: u64,
    pub crc: u32,
}

impl NamedFile {
    pub(crate) fn tails_path(self) -> String {
        format!("tails.{:016}", self.seq)
    }

    pub(crate) fn is_tails(self, path: &str) -> bool {
        path == self.tails_path()
    }

    /// Of the mending file beside a tails file.
    pub(crate) fn mending_path(self) -> String {
        format!("mend.{:016}", self.seq)
    }

    /// The mending file of a tails file. Its parts have checksums of their own: here is that of the tails file.
    pub(crate) fn mending(self) -> Self {
        Self {
            len: alluvium_block::parity_len(self.len),
            ..self
        }
    }

    pub(crate) fn is_mending(self, path: &str) -> bool {
        path == self.mending_path()
    }

    /// Of definitions, and of their copy.
    pub(crate) fn series_paths(self) -> [String; 2] {
        ["series.", "copy-series."].map(|prefix| format!("{prefix}{:016}", self.seq))
    }

    /// Of a segment of the index, and of its copy: its number stands for the commit.
    pub(crate) fn index_paths(self) -> [String; 2] {
        ["index.", "copy-index."].map(|prefix| format!("{prefix}{:016}", self.seq))
    }
}

/// A segment of a partition's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NamedSegment {
    pub database: DatabaseId,
    pub partition: Partition,
    /// Its blocks have checksums of their own: that of the file is zero.
    pub file: NamedFile,
}

/// The store's part of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// The process life that wrote it.
    pub incarnation: u32,
    /// By shard of that life: the first log frame not covered by the tails.
    pub redo_from: Vec<u64>,
    /// Last position given, by partition.
    pub last_lsn: [Lsn; PARTITION_COUNT],
    /// Tails files, oldest first: of a series the newest record counts.
    pub tails: Vec<NamedFile>,
    /// Files of definitions, oldest first: each continues the one before.
    pub series: Vec<NamedFile>,
    /// Segments of the index, those of a partition in the order of their rows.
    pub segments: Vec<NamedSegment>,
    /// Files of dropped databases to remove once no superblock names them.
    pub removals: Vec<String>,
    /// Databases, as a section of log entries.
    pub catalog: Vec<u8>,
    /// Deletes that still hide something, as sections of log entries.
    pub tombstones: Vec<Vec<u8>>,
    /// The restores it came through.
    pub lineage: Lineage,
}

impl Ledger {
    pub(crate) fn save(&self, manifest: &mut Manifest) {
        let mut numbers = vec![u64::from(self.incarnation), self.redo_from.len() as u64];
        numbers.extend(&self.redo_from);
        numbers.extend(self.last_lsn.iter().map(|l| l.0));
        for files in [&self.tails, &self.series] {
            numbers.push(files.len() as u64);
            for file in files {
                numbers.extend([file.seq, file.len, u64::from(file.crc)]);
            }
        }
        numbers.push(self.segments.len() as u64);
        for NamedSegment {
            database,
            partition,
            file,
        } in &self.segments
        {
            let place = u64::from(database.0) << 8 | u64::from(partition.0);
            numbers.extend([place, file.seq, file.len]);
        }
        manifest.set(TAG_LEDGER, to_bytes(numbers));
        manifest.set(TAG_CATALOG, self.catalog.clone());
        let mut removals = Sections::new();
        for (i, path) in self.removals.iter().enumerate() {
            removals.push(i as u64, path.clone().into_bytes());
        }
        manifest.set(TAG_REMOVALS, removals.encode());
        let mut tombstones = Sections::new();
        for (i, section) in (0..).zip(&self.tombstones) {
            tombstones.push(i, section.clone());
        }
        manifest.set(TAG_TOMBSTONES, tombstones.encode());
        self.lineage.save(manifest);
    }

    pub(crate) fn load(manifest: &Manifest) -> Result<Self, OpenError> {
        let bad = |section| OpenError::Manifest { section };
        let Some(bytes) = manifest.get(TAG_LEDGER) else {
            return Err(bad("its ledger"));
        };
        let mut ledger = Self::numbers(Numbers(bytes)).ok_or(bad("its ledger"))?;
        ledger.catalog = manifest
            .get(TAG_CATALOG)
            .ok_or(bad("its catalogue"))?
            .to_vec();
        let removals = manifest.get(TAG_REMOVALS).ok_or(bad("its removals"))?;
        for (_, path) in Sections::decode(removals)?.iter() {
            let path = String::from_utf8(path.to_vec()).map_err(|_| bad("its removals"))?;
            ledger.removals.push(path);
        }
        let tombstones = manifest.get(TAG_TOMBSTONES).ok_or(bad("its deletes"))?;
        let sections = Sections::decode(tombstones)?;
        ledger.tombstones = sections.iter().map(|(_, bytes)| bytes.to_vec()).collect();
        ledger.lineage = Lineage::load(manifest)?;
        Ok(ledger)
    }

    fn numbers(mut numbers: Numbers<'_>) -> Option<Self> {
        let mut ledger = Self {
            incarnation: numbers.next()? as u32,
            redo_from: numbers.list(Numbers::next)?,
            ..Self::default()
        };
        for lsn in &mut ledger.last_lsn {
            *lsn = Lsn::checked(numbers.next()?)?;
        }
        let mut files = || {
            numbers.list(|n| {
                Some(NamedFile {
                    seq: n.next()?,
                    len: n.next()?,
                    crc: n.next()? as u32,
                })
            })
        };
        ledger.tails = files()?;
        ledger.series = files()?;
        ledger.segments = numbers.list(|n| {
            let place = n.next()?;
            Some(NamedSegment {
                database: DatabaseId(u32::try_from(place >> 8).ok()?),
                partition: Partition(place as u8 & 15),
                file: NamedFile {
                    seq: n.next()?,
                    len: n.next()?,
                    crc: 0,
                },
            })
        })?;
        Some(ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_that_nobody_reaches_is_refused() {
        let ledger = |lsn| Ledger {
            last_lsn: [Lsn(lsn); PARTITION_COUNT],
            ..Ledger::default()
        };
        let load = |lsn| {
            let mut manifest = Manifest::new();
            ledger(lsn).save(&mut manifest);
            Ledger::load(&manifest)
        };
        assert!(load(Lsn::LIMIT - 1).is_ok());
        assert!(load(Lsn::LIMIT).is_err() && load(u64::MAX).is_err());
    }

    #[test]
    fn a_ledger_comes_back_and_a_cut_one_is_refused() {
        let mut ledger = Ledger {
            incarnation: 3,
            redo_from: vec![5, 9],
            tails: vec![
                NamedFile {
                    seq: 1,
                    len: 2,
                    crc: 3,
                },
                NamedFile {
                    seq: 4,
                    len: 5,
                    crc: 6,
                },
            ],
            segments: vec![NamedSegment {
                database: DatabaseId(7),
                partition: Partition(15),
                file: NamedFile {
                    seq: 9 << 16,
                    len: 4096,
                    crc: 0,
                },
            }],
            removals: vec!["vol/00000001".into()],
            catalog: vec![1, 2],
            tombstones: vec![vec![3], vec![4, 5]],
            ..Ledger::default()
        };
        ledger.last_lsn[15] = Lsn(77);
        let mut manifest = Manifest::new();
        ledger.save(&mut manifest);
        assert_eq!(Ledger::load(&manifest).unwrap(), ledger);
        let whole = manifest.get(TAG_LEDGER).unwrap().to_vec();
        for cut in 0..whole.len() {
            manifest.set(TAG_LEDGER, whole[..cut].to_vec());
            assert!(Ledger::load(&manifest).is_err(), "cut at {cut}");
        }
    }
}
