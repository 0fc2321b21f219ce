//! Frees what has expired, a step at a time: by age behind the believed clock, by size the oldest volume first.
//!
//! A step of a database: the volumes that may go are closed and left by every shard, so that their times stand still;
//! the new cut is logged, with their numbers; when it is durable reads honour it, the volumes are forgotten and their
//! files handed to the checkpoints, which remove them once no superblock names them; then series are purged of what
//! is left of the expired points in memory. Nothing here waits.

use std::sync::Arc;

use alluvium_block::{Role, VolumeInfo};
use alluvium_types::{DatabaseId, PAGE_SIZE, Partition};
use alluvium_wal::LogTicket;

use crate::cut::Cut;
use crate::databases::DatabaseState;
use crate::error::RefusedLine;
use crate::merging::Merger;
use crate::open::StoreInner;
use crate::purge::{Purge, PurgeProgress};
use crate::retention_settings::{KeepAggregates, Retention};

/// A cut by age moves in steps of this share of the age, so that it costs a log entry each, at most one an hour's
/// worth.
const STEPS_PER_AGE: i64 = 256;
/// Longest step: one hour.
const STEP_MAX_NS: i64 = 3_600_000_000_000;
/// A volume takes points for at most this share of the age, so that expired points wait for its newest no longer.
const VOLUMES_PER_AGE: i64 = 8;
/// A volume takes at most this share of a database's bound.
const VOLUMES_PER_BOUND: u64 = 8;
/// Inner pages may take this share of a database's bound before their oldest volume goes first.
const INNERS_SHARE: u64 = 4;

/// What a step of one database does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Plan {
    cut: Cut,
    /// To be closed, before a plan counts on their times.
    close: Vec<u32>,
    /// To be freed.
    free: Vec<u32>,
    /// Pages of the volumes to be freed.
    pages: u64,
}

/// Plans a step. `volumes` are the database's, `now` is the believed clock.
fn plan(settings: &Retention, old: Cut, volumes: &[VolumeInfo], now: i64) -> Plan {
    let mut plan = Plan {
        cut: old,
        ..Plan::default()
    };
    if let Some(age) = settings.points {
        plan.cut.points = stepped(old.points, now, age.ns());
    }
    if let KeepAggregates::For(age) = settings.aggregates {
        plan.cut.aggregates = stepped(old.aggregates, now, age.ns());
    }
    let used: Vec<&VolumeInfo> = volumes.iter().filter(|v| v.pages > 0).collect();
    let victims = victims(settings, &used);
    for victim in &victims {
        let side = match victim.role {
            Role::Leaves => &mut plan.cut.points,
            Role::Inners => &mut plan.cut.aggregates,
        };
        *side = (*side).max(victim.settled);
    }
    match settings.aggregates {
        KeepAggregates::Same => plan.cut.aggregates = plan.cut.aggregates.max(plan.cut.points),
        KeepAggregates::For(_) if settings.points.is_some() => {
            // Steps of different ages may differ.
            plan.cut.aggregates = plan.cut.aggregates.min(plan.cut.points.max(old.aggregates));
        }
        _ => {}
    }
    // Points are found through inner pages only.
    plan.cut.points = plan.cut.points.max(plan.cut.aggregates);
    for volume in used {
        let limit = match volume.role {
            Role::Leaves => plan.cut.points,
            Role::Inners => plan.cut.aggregates,
        };
        let future_max = settings.future_max.ns();
        let end = match volume.closed {
            // Points from further ahead than is taken came before the setting. They go with their neighbours, which
            // came before the volume was closed.
            Some(closed) if volume.end > now.saturating_add(future_max) => {
                volume.end.min(closed.saturating_add(future_max))
            }
            _ => volume.end,
        };
        let goes = end <= limit || victims.iter().any(|v| v.id == volume.id);
        if goes {
            plan.free.push(volume.id);
            plan.pages += volume.pages;
            if volume.end > limit {
                plan.cut.gone_volume = plan.cut.gone_volume.max(volume.id);
                plan.cut.gone_end = plan.cut.gone_end.max(volume.end);
            }
        }
        if volume.closed.is_none() && (goes || is_long(settings, volume, now)) {
            plan.close.push(volume.id);
        }
    }
    plan
}

/// The cut of an age, unless it would move by less than a step.
fn stepped(old: i64, now: i64, age: i64) -> i64 {
    let step = (age / STEPS_PER_AGE).clamp(1, STEP_MAX_NS);
    let new = now.saturating_sub(age);
    if new >= old.saturating_add(step) {
        new
    } else {
        old
    }
}

/// Whether a volume has taken points for so long that it would keep them past their age.
fn is_long(settings: &Retention, volume: &VolumeInfo, now: i64) -> bool {
    let age = match (volume.role, settings.aggregates) {
        (Role::Leaves, _) | (Role::Inners, KeepAggregates::Same) => settings.points,
        (Role::Inners, KeepAggregates::For(age)) => Some(age),
        (Role::Inners, KeepAggregates::Ever) => None,
    };
    age.is_some_and(|age| now.saturating_sub(volume.begun) > age.ns() / VOLUMES_PER_AGE)
}

/// The volumes that go because there is too much: those whose points are oldest, never the last one with points.
fn victims<'a>(settings: &Retention, volumes: &[&'a VolumeInfo]) -> Vec<&'a VolumeInfo> {
    let Some(bound) = settings.max_disk else {
        return Vec::new();
    };
    // Its header is a page, too.
    let bytes = |v: &VolumeInfo| v.bytes().0 + PAGE_SIZE as u64;
    let of = |role: Role| {
        let mut all: Vec<&VolumeInfo> =
            volumes.iter().copied().filter(|v| v.role == role).collect();
        all.sort_unstable_by_key(|v| std::cmp::Reverse((v.settled, v.id)));
        all
    };
    let (mut leaves, mut inners) = (of(Role::Leaves), of(Role::Inners));
    let sum = |list: &[&VolumeInfo]| list.iter().map(|v| bytes(v)).sum::<u64>();
    let (mut in_leaves, mut in_inners) = (sum(&leaves), sum(&inners));
    let mut victims = Vec::new();
    while in_leaves + in_inners > bound {
        let from_inners = in_inners > bound / INNERS_SHARE && inners.len() > 1;
        let (list, total) = if from_inners {
            (&mut inners, &mut in_inners)
        } else {
            (&mut leaves, &mut in_leaves)
        };
        if list.len() <= 1 {
            break;
        }
        let Some(oldest) = list.pop() else { break };
        *total -= bytes(oldest);
        victims.push(oldest);
    }
    victims
}

/// A cut on its way to the device.
#[derive(Debug)]
struct Step {
    database: Arc<DatabaseState>,
    plan: Plan,
    ticket: LogTicket,
}

/// Runs retention, all databases together.
#[derive(Debug, Default)]
pub(crate) struct RetentionDriver {
    steps: Vec<Step>,
    purges: Vec<Purge>,
    next_ns: u64,
}

impl StoreInner {
    /// Plans, honours and purges what is due. Never waits. Returns whether to call again at once.
    pub(crate) fn drive_retention(self: &Arc<Self>, now: u64) -> bool {
        // Another thread drives it already.
        let Some(mut driver) = self.retention.try_lock() else {
            return false;
        };
        let driver = &mut *driver;
        let believed = self.believed.status(self.clock.as_ref()).believed_ns;
        self.block.set_now(believed);
        if self.failure().is_some() {
            driver.steps.clear();
            driver.purges.clear();
            return false;
        }
        let mut i = 0;
        while let Some(step) = driver.steps.get(i) {
            match step.ticket.result() {
                None => i += 1,
                Some(Err(_)) => drop(driver.steps.swap_remove(i)),
                Some(Ok(())) => {
                    // Whoever merges now is done by the next time.
                    let Some(mut merger) = self.merger.try_lock() else {
                        return false;
                    };
                    let step = driver.steps.swap_remove(i);
                    self.honour(&step, &mut merger);
                    drop(merger);
                    driver.purges.retain(|p| !p.is_of(&step.database));
                    driver.purges.push(Purge::new(step.database));
                }
            }
        }
        if now >= driver.next_ns {
            let Some(mut merger) = self.merger.try_lock() else {
                return false;
            };
            driver.next_ns = now + self.config.retention_check_ms * 1_000_000;
            self.plan_steps(driver, &mut merger, believed);
        }
        match driver.purges.last_mut().map(|purge| purge.step(self)) {
            Some(PurgeProgress::Done) => drop(driver.purges.pop()),
            Some(PurgeProgress::Again) => return true,
            Some(PurgeProgress::Waiting) | None => {}
        }
        false
    }

    fn plan_steps(&self, driver: &mut RetentionDriver, merger: &mut Merger, believed: i64) {
        let due = |d: &Arc<DatabaseState>| {
            d.retention.settings().is_on()
                && !d.is_dropped()
                && d.creation().is_none()
                && driver.steps.iter().all(|s| s.database.id != d.id)
        };
        let databases = self.catalog.read().all_that(due);
        if databases.is_empty() {
            return;
        }
        let plan_all = || {
            let volumes = self.block.volumes();
            let plan_one = |database: &Arc<DatabaseState>| {
                let (settings, old) =
                    (database.retention.settings(), database.retention.logged().0);
                let plan = plan(&settings, old, of_database(&volumes, database.id), believed);
                (Arc::clone(database), old, plan)
            };
            databases.iter().map(plan_one).collect::<Vec<_>>()
        };
        let mut plans = plan_all();
        let close: Vec<u32> = plans.iter().flat_map(|(_, _, p)| p.close.clone()).collect();
        if !close.is_empty() {
            self.block.close_volumes(&close);
            for shard in &self.shards {
                shard.state.lock().appender.leave_closed();
            }
            merger.appender.leave_closed();
            // Their times stand still from here on.
            plans = plan_all();
        }
        for (database, old, plan) in plans {
            let settled = plan.free.iter().all(|id| !plan.close.contains(id));
            if settled && (plan.cut != old || !plan.free.is_empty()) {
                database.retention.log(plan.cut, &plan.free);
                let bytes = database.retention.logged().0.encode(&plan.free);
                let (_, ticket) = self.log_catalog(|section| section.cut(database.id, &bytes));
                driver.steps.push(Step {
                    database,
                    plan,
                    ticket,
                });
            }
        }
    }

    /// The cut is durable.
    fn honour(&self, step: &Step, merger: &mut Merger) {
        let Step { database, plan, .. } = step;
        database.retention.honour(plan.cut);
        let paths = self.free_volumes(&plan.free, merger);
        database
            .retention
            .freed(plan.free.len() as u64, plan.pages * PAGE_SIZE as u64);
        if !paths.is_empty() {
            self.checkpointer.lock().add_removals(paths);
            // Files go two superblocks later.
            self.request_checkpoint(false);
        }
    }

    /// Forgets volumes of which nothing is to be read any more. Returns their paths.
    fn free_volumes(&self, ids: &[u32], merger: &mut Merger) -> Vec<String> {
        if ids.is_empty() {
            return Vec::new();
        }
        let paths = self.block.free_volumes(ids);
        for shard in &self.shards {
            shard.state.lock().appender.forget_volumes(ids);
        }
        merger.appender.forget_volumes(ids);
        paths
    }

    /// Settings of retention that other parts must know.
    pub(crate) fn apply_retention(&self, database: &DatabaseState) {
        let bound = database.retention.settings().max_disk;
        let bytes = bound.map(|bytes| bytes / VOLUMES_PER_BOUND);
        self.block.limit_volumes(database.id, bytes);
    }

    /// First and last time that points of a database may have now.
    ///
    /// # Errors
    /// Why `time` is not among them.
    pub(crate) fn allowed_times(
        &self,
        database: &DatabaseState,
        time: i64,
    ) -> Result<(i64, i64), RefusedLine> {
        if time == i64::MAX {
            return Err(RefusedLine::ReservedTime);
        }
        let cut = database.retention.cut().points;
        if time < cut {
            return Err(RefusedLine::ExpiredTime { time, cut });
        }
        let settings = database.retention.settings();
        let limit = settings.future_max;
        let latest = if settings.points.is_some() {
            let now = self.believed.latest(self.clock.as_ref());
            now.saturating_add(limit.ns()).min(i64::MAX - 1)
        } else {
            i64::MAX - 1
        };
        if time > latest {
            return Err(RefusedLine::FutureTime { time, limit });
        }
        Ok((cut, latest))
    }

    /// What a log entry or a catalogue says of a cut, when the store is opened.
    pub(crate) fn restore_cut(
        &self,
        database: &DatabaseState,
        bytes: &[u8],
    ) -> Result<(), alluvium_wal::LogError> {
        let (cut, volumes) = Cut::decode(bytes)?;
        database.retention.restore(cut);
        let paths = self.free_volumes(&volumes, &mut self.merger.lock());
        if !paths.is_empty() {
            self.checkpointer.lock().add_removals(paths);
        }
        Ok(())
    }

    /// Logs an entry of the catalogue, flushed whatever the level.
    pub(crate) fn log_catalog(
        &self,
        entry: impl FnOnce(&mut alluvium_wal::SectionBuilder),
    ) -> (alluvium_types::Lsn, LogTicket) {
        let shard = self.shard_of(Partition(0));
        let mut state = shard.state.lock();
        let lsn = state.next_lsn(Partition(0));
        state.section.begin(DatabaseId(0), Partition(0), lsn);
        entry(&mut state.section);
        let ticket = self.push_section(&mut state, 0, true);
        state.log.drive();
        self.device.drive(shard.lane);
        (lsn, ticket)
    }
}

/// The part of the volumes, which are sorted by database, that is one database's.
fn of_database(volumes: &[VolumeInfo], database: DatabaseId) -> &[VolumeInfo] {
    let begin = volumes.partition_point(|v| v.database < database);
    let end = volumes.partition_point(|v| v.database <= database);
    &volumes[begin..end]
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
