//! Its first step: tails of dirty series and new definitions, shard by shard.

use std::sync::Arc;

use alluvium_index::{DefinitionMark, LivenessMark};
use alluvium_io::{IoError, Lane};
use alluvium_types::Partition;

use super::{Progress, Running, Step};
use crate::capture::{PREFETCH_AHEAD, Slice, TableWalk};
use crate::databases::DatabaseState;
use crate::ledger::NamedFile;
use crate::open::StoreInner;
use crate::part_tags::{live_tag, part_tag};
use crate::partition::PartitionState;
use crate::segments::SEGMENTS_PER_CHECKPOINT;
use crate::shard::shard_of;
use crate::twin_file::TwinFile;

impl StoreInner {
    /// Writes the tails of one slice of one shard's dirty series.
    pub(super) fn capture(&self, running: &mut Running, lane: Lane) -> Result<Progress, IoError> {
        if !running.tails.drive(self.device.as_ref(), lane, false)? {
            return Ok(Progress::Waiting);
        }
        let Step::Capture { shard, list } = &mut running.step else {
            return Ok(Progress::Again);
        };
        // Taken before the shard's lock: creating a database holds the catalogue while it logs.
        let databases = if running.full && list.is_none() {
            self.catalog.read().all()
        } else {
            Vec::new()
        };
        let mut state = self.shards[*shard].state.lock();
        let list = list.get_or_insert_with(|| {
            running.redo_from.push(state.log.next_section_seq());
            for (p, lsn) in running.lsn_from.iter_mut().enumerate() {
                if shard_of(Partition(p as u8), self.shards.len()) == *shard {
                    *lsn = state.last_lsn[p];
                }
            }
            let mut dirty = std::mem::take(&mut state.dirty);
            state.dirty_heap_bytes = 0;
            if running.full {
                // A database that came in between has all its series on the list of dirty ones.
                let is_new = |d: &DatabaseState| databases.iter().all(|known| known.id != d.id);
                let known = dirty.extract_if(.., |(d, _)| !is_new(d));
                running.aside.extend(known);
                running.walk = Some(TableWalk::new(databases));
            }
            dirty
        });
        let done = *shard;
        let mut slice = Slice::new(&mut running.tails.tails, &mut running.encoder, running.full);
        if let Some(walk) = &mut running.walk {
            let is_mine = |p: Partition| shard_of(p, self.shards.len()) == done;
            let away = walk.capture(&mut slice, &self.tail_files, is_mine);
            running.captured.append(&mut slice.captured);
            let newer = slice.newer;
            // While the shard is held: the older parts are in these files.
            let files = self.tail_files.open();
            drop(state);
            self.complete(running, newer, &files)?;
            match away {
                Some(away) => {
                    self.copy_records(&mut running.tails.tails, &mut running.moved, away)?;
                }
                None => running.walk = None,
            }
            return Ok(Progress::Again);
        }
        while !slice.is_full()
            && let Some((database, series)) = list.pop()
        {
            // A walk of the checkpoint before may have come by behind the mark that put it here. It may have left the
            // table since, and its record would take the place of its successor's. Or it was put here again behind the
            // walk, and this checkpoint has met it: of two records in one file the first counts.
            let next = |ahead: u32| list.get(list.len().checked_sub(ahead as usize)?);
            if let Some((_, series)) = next(PREFETCH_AHEAD) {
                series.prefetch();
            }
            if let Some((_, series)) = next(PREFETCH_AHEAD / 2) {
                series.prefetch_tail();
            }
            let (is_dirty, is_captured) = series.lock().marks();
            if is_dirty && !is_captured {
                slice.capture(&database, &series);
            }
        }
        running.captured.append(&mut slice.captured);
        let newer = slice.newer;
        let is_last = list.is_empty();
        let files = self.tail_files.open();
        drop(state);
        self.complete(running, newer, &files)?;
        if !is_last {
            return Ok(Progress::Again);
        }
        self.capture_definitions(running, done);
        if done + 1 < self.shards.len() {
            running.step = Step::Capture {
                shard: done + 1,
                list: None,
            };
            return Ok(Progress::Again);
        }
        self.end_capture(running, lane);
        Ok(Progress::Again)
    }

    /// Definitions and deletes come after the series that they are of.
    fn capture_definitions(&self, running: &mut Running, shard: usize) {
        for database in self.catalog.read().all() {
            for part in database
                .touched()
                .filter(|p| shard_of(p.partition, self.shards.len()) == shard)
            {
                let deletes = part.tombstones().encode(database.id, part.partition);
                running.tombstones.extend(deletes);
                let since = if running.full {
                    DefinitionMark::default()
                } else {
                    *part.sealed.lock()
                };
                // Before the definitions, which then have every row of them.
                Self::capture_days(running, &database, part);
                // Those frozen by a checkpoint that failed take the other half of the numbers.
                let has_room = (running.building.len() as u64) < SEGMENTS_PER_CHECKPOINT / 2;
                let rows_max = self.config.index_segment_rows.max(1);
                if has_room && part.index.read().head_rows() >= rows_max {
                    part.index.write().freeze();
                }
                let index = part.index.read();
                if let Some(bytes) = index.encode_part(since) {
                    running
                        .definitions
                        .push(part_tag(database.id, part.partition), bytes);
                    running.sealed.push((Arc::clone(part), index.mark()));
                }
                drop(index);
                let number = running.building.len() as u64;
                let number = running.root.seq * SEGMENTS_PER_CHECKPOINT + number;
                let named = (database.seed, number);
                let planned = self.plan_segment(part, named, has_room, &running.broken);
                running.building.extend(planned);
            }
        }
    }

    /// The days on which rows were written to since they were last captured.
    fn capture_days(running: &mut Running, database: &DatabaseState, part: &Arc<PartitionState>) {
        let since = if running.full {
            LivenessMark::default()
        } else {
            *part.live_sealed.lock()
        };
        let cut = database.retention.cut();
        let changed = {
            let mut live = part.live.write();
            live.forget_before(cut.points.min(cut.aggregates));
            live.changed_since(since)
        };
        if let Some(changed) = changed {
            let tag = live_tag(database.id, part.partition);
            running.definitions.push(tag, changed.encode());
            running.live_sealed.push((Arc::clone(part), changed.mark()));
        }
    }

    fn end_capture(&self, running: &mut Running, lane: Lane) {
        if !running.definitions.is_empty() {
            let name = NamedFile {
                seq: running.root.seq,
                len: 0,
                crc: 0,
            };
            let bytes = Arc::new(running.definitions.encode());
            running.series = Some(TwinFile::create(
                self.device.as_ref(),
                lane,
                name.series_paths(),
                (running.root.seq, &bytes),
            ));
        }
        let (mut flushes, mut marks) = (Vec::new(), Vec::new());
        for shard in &self.shards {
            let mut state = shard.state.lock();
            state.appender.flush();
            marks.push(state.appender.mark());
            flushes.push(state.log.flush(self.clock.wall_ns()));
            state.flush_due_ns = None;
            state.log.drive();
            state.appender.drive();
        }
        running.step = Step::Settle {
            flushes,
            marks,
            merged: None,
        };
    }
}
