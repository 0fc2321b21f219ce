//! The server's own counters, and the text of `/metrics`.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium_store::{ScrubStatus, Status};

/// A counter that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of the server. Plain atomics; nothing per point but additions per batch.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub connections: Counter,
    pub connections_open: AtomicU64,
    pub requests_ok: Counter,
    pub requests_client_error: Counter,
    pub requests_server_error: Counter,
    pub request_panics: Counter,
    pub write_requests: Counter,
    pub write_bytes: Counter,
    pub write_lines: Counter,
    pub write_values: Counter,
    pub write_refused_lines: Counter,
    pub write_parse_ns: Counter,
    pub write_commit_wait_ns: Counter,
    pub writes_full: Counter,
    pub writes_busy: Counter,
    pub writes_out_of_memory: Counter,
    pub writes_of_new_series: Counter,
    pub write_lines_left_out: Counter,
    pub bodies_idle: Counter,
    pub bodies_too_large: Counter,
    pub queries: Counter,
    pub queries_running: AtomicU64,
    pub queries_failed: Counter,
    pub queries_cancelled: Counter,
    pub query_rows: Counter,
    pub query_ns: Counter,
    pub deletes: Counter,
    pub deleted_points: Counter,
}

impl Metrics {
    /// OpenMetrics text. Without a store only the server's own part.
    pub(crate) fn text(&self, store: Option<(&Status, &ScrubStatus)>) -> String {
        let mut out = String::with_capacity(8 << 10);
        let counters = [
            (
                "server_connections",
                "Connections accepted.",
                &self.connections,
            ),
            (
                "server_request_panics",
                "Requests that ended in a panic.",
                &self.request_panics,
            ),
            (
                "server_write_requests",
                "Write requests with a whole body.",
                &self.write_requests,
            ),
            (
                "server_write_bytes",
                "Bytes of line protocol parsed.",
                &self.write_bytes,
            ),
            ("server_write_lines", "Lines taken.", &self.write_lines),
            ("server_write_values", "Values taken.", &self.write_values),
            (
                "server_bodies_idle",
                "Bodies given up for making no progress.",
                &self.bodies_idle,
            ),
            (
                "server_bodies_too_large",
                "Bodies refused by their size.",
                &self.bodies_too_large,
            ),
            ("server_queries", "Queries started.", &self.queries),
            (
                "server_queries_failed",
                "Queries refused or ended by an error.",
                &self.queries_failed,
            ),
            (
                "server_queries_cancelled",
                "Queries whose asker went away.",
                &self.queries_cancelled,
            ),
            ("server_query_rows", "Rows answered.", &self.query_rows),
            ("server_deletes", "Deletes carried out.", &self.deletes),
            (
                "server_deleted_points",
                "Points they deleted.",
                &self.deleted_points,
            ),
        ];
        for (name, help, counter) in counters {
            family(&mut out, name, "counter", help);
            let _ = writeln!(out, "alluvium_{name}_total {}", counter.get());
        }
        family(
            &mut out,
            "server_requests",
            "counter",
            "Requests answered, by class of status.",
        );
        for (class, counter) in [
            ("ok", &self.requests_ok),
            ("client_error", &self.requests_client_error),
            ("server_error", &self.requests_server_error),
        ] {
            let _ = writeln!(
                out,
                "alluvium_server_requests_total{{status=\"{class}\"}} {}",
                counter.get()
            );
        }
        family(
            &mut out,
            "server_writes_refused",
            "counter",
            "Lines or batches refused, by reason.",
        );
        for (reason, counter) in [
            ("bad_line", &self.write_refused_lines),
            ("disk_full", &self.writes_full),
            ("busy", &self.writes_busy),
            ("memory", &self.writes_out_of_memory),
            ("new_series", &self.writes_of_new_series),
            ("series_limit", &self.write_lines_left_out),
        ] {
            let _ = writeln!(
                out,
                "alluvium_server_writes_refused_total{{reason=\"{reason}\"}} {}",
                counter.get()
            );
        }
        for (name, help, ns) in [
            (
                "server_write_parse_seconds",
                "Time spent parsing and applying lines.",
                self.write_parse_ns.get(),
            ),
            (
                "server_write_commit_wait_seconds",
                "Time writes waited for durability.",
                self.write_commit_wait_ns.get(),
            ),
            (
                "server_query_seconds",
                "Time spent in queries.",
                self.query_ns.get(),
            ),
            (
                "process_cpu_seconds",
                "CPU time of the process.",
                alluvium_io::process_cpu_time().as_nanos() as u64,
            ),
        ] {
            family(&mut out, name, "counter", help);
            let _ = writeln!(out, "alluvium_{name}_total {}", ns as f64 / 1e9);
        }
        gauge(
            &mut out,
            "server_connections_open",
            "Connections open.",
            self.connections_open.load(Ordering::Relaxed),
        );
        gauge(
            &mut out,
            "server_queries_running",
            "Queries running.",
            self.queries_running.load(Ordering::Relaxed),
        );
        gauge(
            &mut out,
            "process_resident_bytes",
            "Resident memory.",
            alluvium_io::resident_bytes(),
        );
        if let Some((status, scrub)) = store {
            store_text(&mut out, status);
            scrub_text(&mut out, scrub);
        }
        out.push_str("# EOF\n");
        out
    }
}

fn store_text(out: &mut String, s: &Status) {
    for (name, help, value) in [
        ("store_points", "Points taken.", s.points),
        (
            "store_late_points",
            "Points that came after a newer one.",
            s.late_points,
        ),
        (
            "store_repeated_points",
            "Points that repeated the newest one.",
            s.repeated_points,
        ),
        (
            "store_kind_conflicts",
            "Values that opened a sibling of another kind.",
            s.kind_conflicts,
        ),
        (
            "store_widened_values",
            "Integers stored as floats.",
            s.widened_values,
        ),
        ("store_checkpoints", "Checkpoints completed.", s.checkpoints),
        (
            "store_merges",
            "Merges of runs completed.",
            s.merging.merges,
        ),
        (
            "store_merge_pages_written",
            "Pages that merges wrote.",
            s.merging.pages_written,
        ),
        (
            "store_merge_pages_dead",
            "Pages that merges left behind.",
            s.merging.pages_dead,
        ),
        (
            "block_pages_read",
            "Pages read from the device.",
            s.pages_read,
        ),
        (
            "block_page_cache_hits",
            "Pages served from memory.",
            s.page_cache_hits,
        ),
        ("block_pages_written", "Pages written.", s.pages_written),
        (
            "block_page_write_batches",
            "Vectored writes of pages.",
            s.page_write_batches,
        ),
    ] {
        family(out, name, "counter", help);
        let _ = writeln!(out, "alluvium_{name}_total {value}");
    }
    for (name, help, value) in [
        ("wal_live_bytes", "Live bytes of the log.", s.log.0),
        (
            "wal_pending_bytes",
            "Log bytes waiting for the device.",
            s.log_pending.0,
        ),
        (
            "block_pages_pending",
            "Pages waiting for the device.",
            s.pages_pending,
        ),
        (
            "block_bad_pages",
            "Damaged pages listed by /status, at most its bad_listed_max.",
            s.bad_pages.len() as u64,
        ),
        (
            "store_tail_bytes",
            "Bytes of the checkpointed tails.",
            s.tails.0,
        ),
        (
            "store_mending_file_bytes",
            "Bytes of the mending files beside them.",
            s.mending_files.0,
        ),
        ("store_full", "1 while the disk is full.", u64::from(s.full)),
        (
            "store_failed",
            "1 once a write failed and nothing is acknowledged any more.",
            u64::from(s.failure.is_some()),
        ),
        (
            "store_memory_limit_bytes",
            "The memory budget.",
            s.memory_limit.0,
        ),
    ] {
        gauge(out, name, help, value);
    }
    family(
        out,
        "store_checkpoint_duration_seconds",
        "gauge",
        "How long the last checkpoint took.",
    );
    let _ = writeln!(
        out,
        "alluvium_store_checkpoint_duration_seconds {}",
        s.checkpoint_duration_ns as f64 / 1e9
    );
    family(
        out,
        "store_recovery_seconds",
        "gauge",
        "How long opening took.",
    );
    let _ = writeln!(
        out,
        "alluvium_store_recovery_seconds {}",
        s.recovery.duration_ns as f64 / 1e9
    );
    family(
        out,
        "store_memory_bytes",
        "gauge",
        "Memory in use, by owner.",
    );
    for (owner, bytes) in &s.memory {
        let _ = writeln!(
            out,
            "alluvium_store_memory_bytes{{owner=\"{owner}\"}} {}",
            bytes.0
        );
    }
    family(out, "store_series", "gauge", "Series, by database.");
    for database in &s.databases {
        let _ = writeln!(
            out,
            "alluvium_store_series{{database=\"{}\"}} {}",
            database.name, database.series
        );
    }
}

fn scrub_text(out: &mut String, s: &ScrubStatus) {
    for (name, help, value) in [
        (
            "store_scrub_rounds",
            "Rounds of the scrubber through everything.",
            s.rounds,
        ),
        (
            "store_scrub_bytes",
            "Bytes that the scrubber has read.",
            s.bytes,
        ),
    ] {
        family(out, name, "counter", help);
        let _ = writeln!(out, "alluvium_{name}_total {value}");
    }
    gauge(
        out,
        "store_scrub_findings",
        "Damaged places that the scrubber's last round found; /status lists them.",
        s.findings.len() as u64,
    );
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(
        out,
        "# TYPE alluvium_{name} {kind}\n# HELP alluvium_{name} {help}"
    );
}

fn gauge(out: &mut String, name: &str, help: &str, value: u64) {
    family(out, name, "gauge", help);
    let _ = writeln!(out, "alluvium_{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_open_metrics() {
        let metrics = Metrics::default();
        metrics.write_values.add(7);
        let text = metrics.text(None);
        assert!(text.contains("\nalluvium_server_write_values_total 7\n"));
        assert!(text.ends_with("# EOF\n"));
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (name, value) = line.split_once(' ').unwrap();
            assert!(name.starts_with("alluvium_"), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
