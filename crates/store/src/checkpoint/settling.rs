//! Its second step: all that was captured is written, and what the next superblock names is put together.

use alluvium_block::Manifest;
use alluvium_io::{IoError, Lane};
use alluvium_types::{DatabaseId, Lsn, Partition};
use alluvium_wal::SectionBuilder;

use super::{Checkpointer, Progress, Running, Step};
use crate::ledger::{Ledger, NamedFile};
use crate::open::StoreInner;
use crate::segments::Built;
use crate::twin_file::TwinFile;

impl StoreInner {
    /// Goes on with the next segment of the index; `false` if all are made.
    fn build_slice(&self, running: &mut Running) -> Result<bool, IoError> {
        let Some(build) = running.building.front_mut() else {
            return Ok(false);
        };
        let built = self.build_segment(build).map_err(|error| {
            IoError::new("write", "an index segment", std::io::Error::other(error))
        })?;
        if !matches!(built, Built::More) {
            running.building.pop_front();
        }
        if let Built::Segment(new) = built {
            running.segments.push(*new);
        }
        Ok(true)
    }

    /// Makes segments, then waits for everything to be written, then starts making it durable.
    pub(super) fn settle_all(
        &self,
        checkpointer: &mut Checkpointer,
        running: &mut Running,
        lane: Lane,
    ) -> Result<Progress, IoError> {
        if self.build_slice(running)? {
            return Ok(Progress::Again);
        }
        let Step::Settle {
            flushes,
            marks,
            merged,
        } = &mut running.step
        else {
            return Ok(Progress::Again);
        };
        // Runs that were captured may have been merged: their pages are below this mark.
        let merged = match merged {
            Some(mark) => *mark,
            None => match self.merger.try_lock() {
                None => return Ok(Progress::Waiting),
                Some(mut merger) => {
                    merger.appender.flush();
                    merger.appender.drive();
                    *merged.insert(merger.appender.mark())
                }
            },
        };
        running.tails.drive(self.device.as_ref(), lane, true)?;
        if let Some(series) = &mut running.series {
            series.drive(self.device.as_ref(), lane)?;
        }
        for new in &mut running.segments {
            new.file.drive(self.device.as_ref(), lane)?;
        }
        let files_written = running.tails.is_written()
            && running.series.as_ref().is_none_or(TwinFile::is_written)
            && running.segments.iter().all(|new| new.file.is_written());
        let flushed = flushes.iter().all(|t| matches!(t.result(), Some(Ok(()))));
        for (shard, flush) in self.shards.iter().zip(&*flushes) {
            if flush.result().is_none() {
                let log = &mut shard.state.lock().log;
                // A full log may still have room in the segment it is in.
                if !log.drive() && log.is_full() && flush.result().is_none() {
                    return Err(no_space("log"));
                }
            }
        }
        if !files_written || !flushed {
            return Ok(Progress::Waiting);
        }
        let mut extents = Vec::new();
        for (shard, mark) in self.shards.iter().zip(&*marks) {
            let mut state = shard.state.lock();
            if !state.appender.is_written(*mark) {
                if state.appender.is_full() {
                    return Err(no_space("volume"));
                }
                state.appender.drive();
                return Ok(Progress::Waiting);
            }
            extents.extend(state.appender.open_extents());
        }
        let Some(mut merger) = self.merger.try_lock() else {
            return Ok(Progress::Waiting);
        };
        if !merger.appender.is_written(merged) {
            if merger.appender.is_full() {
                return Err(no_space("volume"));
            }
            merger.appender.drive();
            return Ok(Progress::Waiting);
        }
        extents.extend(merger.appender.open_extents());
        drop(merger);
        let ledger = self.next_ledger(checkpointer, running);
        let mut manifest = Manifest::new();
        self.block.save(&mut manifest, &extents);
        ledger.save(&mut manifest);
        let volumes = self.block.start_sync(lane);
        let device = self.device.as_ref();
        let segments = running.segments.iter().map(|new| &new.file);
        let twins = running.series.iter().chain(segments);
        let synced = twins.flat_map(|twin| twin.sync(device, lane));
        let files = synced.chain(running.tails.sync(device, lane)).collect();
        running.step = Step::Sync {
            volumes,
            files,
            manifest,
            ledger,
        };
        Ok(Progress::Again)
    }

    fn next_ledger(&self, checkpointer: &Checkpointer, running: &Running) -> Ledger {
        let chain = |old: &[NamedFile], new: Option<NamedFile>| {
            let kept = if running.full { &[] } else { old };
            kept.iter().copied().chain(new).collect()
        };
        let catalog = self.catalog.read();
        let mut section = SectionBuilder::default();
        section.begin(DatabaseId(0), Partition(0), Lsn(0));
        for database in catalog.all() {
            let settings = database.settings_now().to_string().into_bytes();
            section.create_database(database.id, &database.name, database.seed, &settings);
            let (cut, going) = database.retention.logged();
            if !cut.is_none() {
                section.cut(database.id, &cut.encode(&going));
            }
        }
        section.mark(u64::from(catalog.last_id()));
        Ledger {
            incarnation: self.incarnation,
            redo_from: running.redo_from.clone(),
            last_lsn: self.positions(),
            tails: chain(&checkpointer.current.tails, Some(running.tails.named())),
            series: chain(
                &checkpointer.current.series,
                running.series.as_ref().map(TwinFile::named),
            ),
            segments: self.named_segments(&running.segments),
            removals: checkpointer.removals.clone(),
            catalog: section.finish().to_vec(),
            tombstones: running.tombstones.clone(),
            lineage: checkpointer.current.lineage.clone(),
        }
    }
}

fn no_space(what: &str) -> IoError {
    IoError::new(
        "write",
        what,
        std::io::Error::from(std::io::ErrorKind::StorageFull),
    )
}
