//! The text of `/status`.

use alluvium_store::{
    BAD_PAGES_MAX, ClockStatus, Retention, RetentionStatus, SeriesLimits, Status, Store,
};
use serde_json::{Value, json};

use crate::app::App;

/// The server and its store at this moment, as one JSON object.
pub(crate) fn text(app: &App) -> String {
    let m = &app.metrics;
    let (state, store) = match app.store() {
        Ok(store) => {
            let mut value = store_value(&store.status());
            value["scrub"] = crate::verify::value(&store.scrub_status());
            ("ready", Some(value))
        }
        Err((state, _)) => (state, None),
    };
    let value = json!({
        "name": "alluvium",
        "version": env!("CARGO_PKG_VERSION"),
        "state": state,
        "process": {
            "id": std::process::id(),
            "cpu_seconds": alluvium_io::process_cpu_time().as_secs_f64(),
            "resident_bytes": alluvium_io::resident_bytes(),
        },
        "server": {
            "connections_open": m.connections_open.load(std::sync::atomic::Ordering::Relaxed),
            "queries_running": m.queries_running.load(std::sync::atomic::Ordering::Relaxed),
            "writes": m.write_requests.get(),
            "lines": m.write_lines.get(),
            "values": m.write_values.get(),
            "queries": m.queries.get(),
            "drops": {
                "bad_line": m.write_refused_lines.get(),
                "disk_full": m.writes_full.get(),
                "busy": m.writes_busy.get(),
                "memory": m.writes_out_of_memory.get(),
                "new_series": m.writes_of_new_series.get(),
                "series_limit": m.write_lines_left_out.get(),
                "body_idle": m.bodies_idle.get(),
                "body_too_large": m.bodies_too_large.get(),
            },
        },
        "store": store,
    });
    let mut text = value.to_string();
    text.push('\n');
    text
}

/// One database with its settings, as the paths under `/api/databases` show it; only its name if it is gone.
pub(crate) fn database(store: &Store, name: &str) -> Value {
    let mut value = json!({ "database": name });
    let Some(database) = store.database(name) else {
        return value;
    };
    let settings = database.settings();
    let (points, aggregates) = database.live();
    value["durability"] = settings.durability.to_string().into();
    value["compression"] = settings.compression.to_string().into();
    put_retention(&mut value, &settings.retention);
    put_limits(&mut value, &settings.series_limits);
    let known = |time: i64| (time != i64::MIN).then_some(time);
    value["points_from_ns"] = known(points.begin()).into();
    value["aggregates_from_ns"] = known(aggregates.begin()).into();
    value
}

fn put_retention(value: &mut Value, retention: &Retention) {
    for name in Retention::NAMES {
        value[name] = match (name, retention.max_disk) {
            ("max_disk", Some(bytes)) => bytes.into(),
            _ => retention.get(name).into(),
        };
    }
}

fn put_limits(value: &mut Value, limits: &SeriesLimits) {
    let [of_database, of_measurement] = SeriesLimits::NAMES;
    value[of_database] = limits.database.into();
    value[of_measurement] = limits.measurement.into();
}

/// What retention makes of the clock.
pub(crate) fn clock(c: &ClockStatus) -> Value {
    let mut value =
        json!({ "believed_ns": c.believed_ns, "held_seconds": c.held_ns / 1_000_000_000 });
    if c.held_ns > 0 {
        value["hint"] = "the clock is ahead of what is known by more than a day; if it is right, POST /api/clock/confirm: \
                         until then retention goes by the believed time"
            .into();
    }
    value
}

fn retention_value(r: &RetentionStatus) -> Value {
    let mut value = json!({
        "points_from_ns": r.points_from, "aggregates_from_ns": r.aggregates_from,
        "volumes_freed": r.volumes_freed, "bytes_freed": r.bytes_freed.0,
    });
    put_retention(&mut value, &r.settings);
    value
}

fn store_value(s: &Status) -> Value {
    let memory: serde_json::Map<String, Value> = s
        .memory
        .iter()
        .map(|(owner, bytes)| ((*owner).to_owned(), bytes.0.into()))
        .collect();
    let databases: Vec<Value> = s
        .databases
        .iter()
        .map(|d| {
            json!({
                "id": d.id, "name": d.name, "durability": d.durability, "compression": d.compression, "series": d.series,
                "retention": retention_value(&d.retention),
                "tombstones": d.tombstones,
                "leaves": { "volumes": d.leaves.volumes, "pages": d.leaves.pages, "bytes": d.leaves.bytes.0, "used_bytes": d.leaves.used.0 },
                "inners": { "volumes": d.inners.volumes, "pages": d.inners.pages, "bytes": d.inners.bytes.0, "used_bytes": d.inners.used.0 },
                "allocated_bytes": d.allocated.0,
                "live_bytes": d.live.0,
            })
        })
        .collect();
    let bad_pages: Vec<Value> = s
        .bad_pages
        .iter()
        .map(|(address, damage)| json!({ "address": address, "damage": damage }))
        .collect();
    let (r, m, space) = (&s.recovery, &s.merging, &s.space);
    json!({
        "backend": s.backend,
        "incarnation": s.incarnation,
        "superblock": s.superblock_seq,
        "memory": {
            "limit_bytes": s.memory_limit.0,
            "soft_limit_bytes": s.governor.soft_limit.0,
            "new_series_limit_bytes": s.governor.series_limit.0,
            "under_pressure": s.governor.under_pressure,
            "series_away": s.governor.series_away,
            "series_spilled": s.governor.spilled,
            "series_recalled": s.governor.recalled,
            "series_parted": s.governor.series_parted,
            "series_parted_times": s.governor.parted,
            "series_joined": s.governor.joined,
            "batches_refused_for_new_series": s.governor.refused,
            "checkpoints_for_memory": s.governor.checkpoints,
            "by_owner": memory,
        },
        "databases": databases,
        "clock": clock(&s.clock),
        "log": { "live_bytes": s.log.0, "pending_bytes": s.log_pending.0 },
        "pages": {
            "pending": s.pages_pending, "read": s.pages_read, "cache_hits": s.page_cache_hits,
            "written": s.pages_written, "write_batches": s.page_write_batches, "bad": bad_pages,
            "bad_listed_max": BAD_PAGES_MAX, "bad_reads": s.bad_page_reads,
        },
        "tails_bytes": s.tails.0, "mending_files_bytes": s.mending_files.0, "tails_pages_mended": s.tails_pages_mended,
        "definitions_bytes": s.definitions.0,
        "checkpoints": { "count": s.checkpoints, "last_seconds": s.checkpoint_duration_ns as f64 / 1e9 },
        "recovery": {
            "clean": r.clean, "series_loaded": r.series_loaded, "frames": r.frames, "sections": r.sections,
            "points": r.points, "log_bytes": r.log_bytes, "torn_streams": r.torn_streams,
            "newest_damaged": r.newest_damaged, "tails_pages_mended": r.tails_pages_mended,
            "seconds": r.duration_ns as f64 / 1e9,
        },
        "points": {
            "accepted": s.points, "late": s.late_points, "repeated": s.repeated_points,
            "kind_conflicts": s.kind_conflicts, "widened": s.widened_values,
        },
        "index": {
            "rows": s.index.rows, "sealed_rows": s.index.sealed_rows, "silent_rows": s.index.silent_rows,
            "silenced": s.index.silenced, "returned": s.index.returned,
            "segments": s.index.segments, "seals": s.index.seals, "merges": s.index.merges,
            "failed_merges": s.index.failed_merges, "blocks_cached": s.index.cache_hits, "blocks_read": s.index.cache_misses,
            "copies_read": s.index.copies_read, "mended": s.index.mended,
        },
        "merging": {
            "paused": m.paused, "series_waiting": m.series_waiting, "runs_waiting": m.runs_waiting,
            "points_waiting": m.points_waiting, "merges": m.merges, "failed": m.failed, "last_error": m.last_error,
            "pages_read": m.pages_read, "pages_written": m.pages_written, "pages_dead": m.pages_dead,
            "leaves_adopted": m.leaves_adopted, "points_moved": m.points_moved,
        },
        "space": {
            "dead_pages": space.pages_dead, "settling_pages": space.pages_settling, "working": space.is_working,
            "walks": space.walks, "volumes_left": space.volumes_left, "volumes_freed": space.volumes_freed,
            "pages_given_back": space.pages_given_back, "failed": space.failed, "last_error": space.last_error,
            "no_holes": space.no_holes,
        },
        "failure": s.failure,
        "full": s.full,
    })
}
