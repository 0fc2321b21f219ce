//! What series and databases were called, from every place where it stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_block::{Manifest, Sections, numbered};
use alluvium_index::{KeyHash, PartitionIndex, Segment, begins_anew};
use alluvium_io::{Device, IoError, Listed};
use alluvium_types::{DatabaseId, FieldId, Partition, Row, SeriesId, SeriesKey};
use alluvium_wal::{Entry, read_section};

use crate::copies::{read_definitions, read_whole, segment_of};
use crate::ledger::{Ledger, NamedFile};
use crate::part_tags::{LIVE_TAG, split_tag};

type Place = (DatabaseId, Partition);

/// Names of everything, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Names {
    databases: BTreeMap<DatabaseId, (String, u64)>,
    rows: BTreeMap<(Place, Row), SeriesKey>,
    fields: BTreeMap<(Place, String, FieldId), String>,
    /// Definitions as the newest files say; several where they do not continue each other.
    indexes: BTreeMap<Place, Vec<PartitionIndex>>,
    segments: BTreeMap<Place, Vec<Arc<Segment>>>,
}

impl Names {
    /// Takes what an entry of the log defines.
    pub(super) fn note(&mut self, database: DatabaseId, partition: Partition, entry: Entry) {
        let place = (database, partition);
        match entry {
            Entry::CreateDatabase { id, name, seed, .. } => {
                self.databases.insert(id, (name, seed));
            }
            Entry::Row { row, key } => drop(self.rows.insert((place, row), key)),
            Entry::Field {
                measurement,
                field,
                name,
            } => drop(self.fields.insert((place, measurement, field), name)),
            _ => {}
        }
    }

    /// Reads manifests, index segments and definitions, whatever no superblock names any more included.
    pub(super) fn load(
        &mut self,
        device: &Arc<dyn Device>,
        bad: &mut Vec<String>,
    ) -> Result<(), IoError> {
        let mut files = device.list("")?;
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let of = |prefix: &'static str| files.iter().filter(move |f| f.name.starts_with(prefix));
        let mut definitions: BTreeMap<u64, NamedFile> = BTreeMap::new();
        let mut named: BTreeMap<u64, (DatabaseId, Partition, NamedFile)> = BTreeMap::new();
        for file in of("manifest.") {
            let bytes = match read_whole(device.as_ref(), &file.name, file.len) {
                Ok(bytes) => bytes,
                Err(error) => {
                    bad.push(error.to_string());
                    continue;
                }
            };
            let ledger = Manifest::decode(&bytes)
                .ok()
                .and_then(|m| Ledger::load(&m).ok());
            let Some(ledger) = ledger else {
                bad.push(format!("{} does not parse", file.name));
                continue;
            };
            for entry in read_section(&ledger.catalog).map_or(Vec::new(), |s| s.entries) {
                self.note(DatabaseId(0), Partition(0), entry);
            }
            definitions.extend(ledger.series.iter().map(|file| (file.seq, *file)));
            for s in &ledger.segments {
                named.insert(s.file.seq, (s.database, s.partition, s.file));
            }
        }
        // Its length stands in the manifest: the file is padded. Without one the whole file is tried.
        for (seq, len) in numbered_of(&files, ["index.", "copy-index."]) {
            let (place, file) = named.get(&seq).map_or(
                (None, NamedFile { seq, len, crc: 0 }),
                |(database, partition, file)| (Some((*database, *partition)), *file),
            );
            match segment_of(device.as_ref(), file) {
                Ok(segment) => match place.or_else(|| self.owner_of(&segment)) {
                    Some(place) => self.segments.entry(place).or_default().push(segment),
                    None => bad.push(format!(
                        "{}: nobody knows whose rows it has",
                        file.index_paths()[0]
                    )),
                },
                Err(error) => bad.push(format!("{}: {error}", file.index_paths()[0])),
            }
        }
        for (seq, len) in numbered_of(&files, ["series.", "copy-series."]) {
            let file = NamedFile { seq, len, crc: 0 };
            let paths = file.series_paths();
            // One that a manifest names has a checksum; of others that which can be read.
            let named = definitions.get(&seq);
            let holds = named.and_then(|file| read_definitions(device.as_ref(), *file).ok());
            let any = || {
                let whole = |path: &String| read_whole(device.as_ref(), path, len).ok();
                let decoded = |bytes: Vec<u8>| Sections::decode(&bytes).ok();
                paths.iter().filter_map(whole).find_map(decoded)
            };
            let holds = holds.and_then(|bytes| Sections::decode(&bytes).ok());
            let sections = holds.or_else(any);
            let Some(sections) = sections else {
                bad.push(format!("{} does not parse, nor does its copy", paths[0]));
                continue;
            };
            for (tag, part) in sections.iter().filter(|(tag, _)| tag & LIVE_TAG == 0) {
                if let Err(error) = self.apply(split_tag(tag), part) {
                    bad.push(format!("{}: {error}", paths[0]));
                }
            }
        }
        Ok(())
    }

    /// Whose rows a segment has: it knows the hashes of its tag sets, which a database's seed makes.
    fn owner_of(&self, segment: &Segment) -> Option<Place> {
        let row = Row(segment.rows().start);
        let key = segment.key(row).ok()??;
        let mut scratch = Vec::new();
        self.databases.iter().find_map(|(id, (_, seed))| {
            let hash = KeyHash::of(*seed, &key, &mut scratch);
            let is_it = segment.find(hash).ok()? == Some(row);
            is_it.then(|| (*id, hash.partition()))
        })
    }

    /// Applies a part of definitions to what is known of its partition.
    fn apply(&mut self, place: Place, part: &[u8]) -> Result<(), String> {
        let seed = self.databases.get(&place.0).map_or(0, |(_, seed)| *seed);
        let known = self.indexes.entry(place).or_default();
        if begins_anew(part) {
            let segments = self
                .segments
                .get(&place)
                .map_or(Vec::new(), |all| chain(all));
            let opened = (0..=segments.len()).rev().find_map(|count| {
                let first = segments.get(..count)?.to_vec();
                PartitionIndex::open(seed, part, first, None).ok()
            });
            known.push(opened.ok_or("its index segments are missing or damaged")?);
            return Ok(());
        }
        if let Some(last) = known.last_mut()
            && last.apply_part(seed, part).is_ok()
        {
            return Ok(());
        }
        let mut fresh = PartitionIndex::new();
        fresh
            .apply_part(seed, part)
            .map_err(|error| error.to_string())?;
        known.push(fresh);
        Ok(())
    }

    /// The name of a database.
    pub(super) fn database(&self, id: DatabaseId) -> Option<String> {
        self.databases.get(&id).map(|(name, _)| name.clone())
    }

    /// Tag set and field of a series.
    pub(super) fn of(&self, database: DatabaseId, series: SeriesId) -> Option<(SeriesKey, String)> {
        let place = (database, series.partition());
        let (row, field) = (series.row(), series.field());
        let indexes = || self.indexes.get(&place).into_iter().flatten().rev();
        let mut segments = self.segments.get(&place).into_iter().flatten();
        let key = self.rows.get(&(place, row)).cloned();
        let key = key.or_else(|| indexes().find_map(|index| index.key(row)));
        let key = key.or_else(|| segments.find_map(|s| s.key(row).ok()?))?;
        let measurement = key.measurement().to_owned();
        let name = indexes().find_map(|index| {
            let id = index.measurement(&measurement)?;
            index.field_name(id, field).map(str::to_owned)
        });
        let name = name.or_else(|| self.fields.get(&(place, measurement, field)).cloned());
        Some((key, name.unwrap_or_else(|| format!("field_{}", field.0))))
    }
}

/// The numbers of files with one of two names, and the longer length; the oldest first.
fn numbered_of(files: &[Listed], prefixes: [&str; 2]) -> BTreeMap<u64, u64> {
    let mut found = BTreeMap::new();
    for file in files {
        let seq = prefixes.iter().find_map(|p| numbered(&file.name, p));
        if let Some(seq) = seq {
            let len: &mut u64 = found.entry(seq).or_default();
            *len = file.len.max(*len);
        }
    }
    found
}

/// Segments that follow each other from the first row on, the longest where several begin at the same.
fn chain(all: &[Arc<Segment>]) -> Vec<Arc<Segment>> {
    let mut found: Vec<Arc<Segment>> = Vec::new();
    loop {
        let next = found.last().map_or(0, |s| s.rows().end);
        let fitting = all
            .iter()
            .filter(|s| s.rows().start == next && s.rows().end > next);
        let Some(longest) = fitting.max_by_key(|s| s.rows().end) else {
            return found;
        };
        found.push(Arc::clone(longest));
    }
}
