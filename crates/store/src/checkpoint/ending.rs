//! How it ends: what the superblock before the last one needed goes, or what was captured is dirty again.

use std::sync::Arc;
use std::task::Waker;

use alluvium_io::{IoError, IoErrorKind, Lane, Op};
use alluvium_wal::StreamInfo;

use super::{Checkpointer, Running, Step};
use crate::error::StoreError;
use crate::ledger::{Ledger, NamedFile, NamedSegment};
use crate::open::StoreInner;
use crate::segments::NewSegment;

impl StoreInner {
    pub(super) fn finish(
        &self,
        checkpointer: &mut Checkpointer,
        mut running: Running,
        ledger: Ledger,
        now: u64,
    ) {
        let lane = self.checkpoint_lane();
        let tails = &mut running.tails.tails;
        self.note_records(tails, running.captured, running.moved, &ledger);
        for (part, mark) in running.sealed {
            *part.sealed.lock() = mark;
            part.index.write().forget_before(mark);
        }
        for (part, mark) in running.live_sealed {
            *part.live_sealed.lock() = mark;
        }
        let is_named = |n: &&NewSegment| ledger.segments.iter().any(|s| s.file == n.held.file);
        // Of a database that was dropped meanwhile.
        let unnamed = running.segments.iter().filter(|n| !is_named(n));
        for segment in unnamed {
            for path in segment.held.file.index_paths() {
                drop(self.device.submit(lane, Op::Remove { path }));
            }
        }
        let renewed: Vec<_> = running
            .segments
            .iter()
            .map(|n| Arc::clone(&n.part))
            .collect();
        self.place_segments(running.segments);
        self.silence_rows(&renewed);
        self.drop_spent_deletes(&running.lsn_from);
        self.block.close_dropped(lane);
        let remove = |path: String| drop(self.device.submit(lane, Op::Remove { path }));
        // What the superblock before the last one named and the last one does not is needed by nobody now.
        let old = std::mem::replace(
            &mut checkpointer.previous,
            std::mem::replace(&mut checkpointer.current, ledger),
        );
        let named = |files: fn(&Ledger) -> &Vec<NamedFile>, file: &NamedFile| {
            files(&checkpointer.previous).contains(file)
                || files(&checkpointer.current).contains(file)
        };
        for file in old.tails.iter().filter(|f| !named(|l| &l.tails, f)) {
            remove(file.tails_path());
            remove(file.mending_path());
        }
        for file in old.series.iter().filter(|f| !named(|l| &l.series, f)) {
            file.series_paths().into_iter().for_each(remove);
        }
        let kept = [&checkpointer.previous, &checkpointer.current];
        let is_kept = |s: &NamedSegment| kept.iter().any(|l| l.segments.contains(s));
        for segment in old.segments.iter().filter(|s| !is_kept(s)) {
            segment.file.index_paths().into_iter().for_each(remove);
        }
        if let Some(seq) = running.root.seq.checked_sub(2).filter(|seq| *seq > 0) {
            remove(alluvium_block::manifest_path(seq));
        }
        // Files of dropped databases go when both superblocks are past them, and are forgotten when the directory
        // was synced after that: until then a power cut may bring them back.
        let gone = std::mem::take(&mut checkpointer.removed);
        checkpointer.removals.retain(|path| !gone.contains(path));
        for path in &checkpointer.previous.removals {
            if !gone.contains(path) {
                remove(path.clone());
                checkpointer.removed.push(path.clone());
            }
        }
        if !checkpointer.removed.is_empty() {
            self.block.note_removal();
        }
        if checkpointer.previous.incarnation == self.incarnation {
            for (shard, from) in self.shards.iter().zip(&checkpointer.previous.redo_from) {
                shard.state.lock().log.trim(from.saturating_sub(1));
            }
            if !std::mem::replace(&mut checkpointer.old_streams_removed, true) {
                self.remove_old_streams(lane);
            }
        }
        checkpointer.root = running.root;
        checkpointer.lacks_room = false;
        checkpointer.completed_before =
            std::mem::replace(&mut checkpointer.completed, running.number);
        checkpointer.last_ended_ns = now;
        checkpointer.last_duration_ns = self.clock.monotonic_ns() - checkpointer.begun_ns;
        checkpointer.wakers.drain(..).for_each(Waker::wake);
    }

    /// Streams of earlier lives, which both superblocks are past.
    fn remove_old_streams(&self, lane: Lane) {
        let Ok(streams) = alluvium_wal::list_streams(self.device.as_ref()) else {
            return;
        };
        let old = |s: &&StreamInfo| s.incarnation < self.incarnation;
        for stream in streams.iter().filter(old) {
            alluvium_wal::remove_stream(self.device.as_ref(), lane, stream);
        }
    }

    /// A checkpoint failed: what it captured is dirty again. No room is tried again later; anything else is
    /// the end of acknowledging.
    pub(super) fn abandon(
        &self,
        checkpointer: &mut Checkpointer,
        running: Running,
        error: IoError,
        now: u64,
    ) {
        let reason = error.to_string();
        for broken in &running.broken {
            self.index_cache.note_broken(*broken);
        }
        // A failed sync is never tried again, whatever its reason: the next one would only seem to cover what
        // this one lost.
        let repeatable = match &running.step {
            Step::Capture { .. } | Step::Settle { .. } => true,
            Step::Sync { .. } => false,
            Step::Commit { commit, .. } => commit.may_be_repeated(),
        };
        let full = error.kind == IoErrorKind::NoSpace && repeatable;
        let left = match running.step {
            Step::Capture {
                list: Some(list), ..
            } => list,
            _ => Vec::new(),
        };
        // Before the others are marked: those that the walk has not come by are marked, but on no list.
        let unseen = running.aside.into_iter();
        let unseen: Vec<_> = unseen.filter(|(_, s)| s.lock().dirty).collect();
        let captured = running.captured.into_iter();
        let captured = captured.flat_map(|c| {
            let series = c.series.into_iter();
            series.map(move |captured| (Arc::clone(&c.database), captured.series))
        });
        for (database, series) in captured.chain(left).chain(unseen) {
            let shard = self.shard_of(series.place.partition);
            let mut shard = shard.state.lock();
            let mut state = series.lock();
            // Those still to be captured are marked, but no longer on the list.
            state.dirty = true;
            state.captured = false;
            shard.dirty_heap_bytes += state.heap_bytes() as u64;
            drop(state);
            shard.dirty.push((database, series));
        }
        let segments = running.segments.into_iter().map(|new| new.file);
        let twins = running.series.into_iter().chain(segments);
        let abandoned = twins.flat_map(|twin| twin.abandon(full));
        let abandoned = abandoned.chain(running.tails.abandon(full));
        checkpointer.abandoned.extend(abandoned);
        let error = if full {
            StoreError::NoRoom { reason }
        } else {
            let error = StoreError::Failed { reason };
            self.fail(error.clone());
            error
        };
        checkpointer.lacks_room = full;
        checkpointer.retry_at_ns = now + 1_000_000_000;
        checkpointer.last_error = Some((running.number, error));
        checkpointer.wakers.drain(..).for_each(Waker::wake);
    }
}
