//! Hosts that do not exist: what they measured at any instant is a function of the instant alone, so that a
//! filling that was interrupted goes on where it stopped and nothing is kept.

use std::f64::consts::TAU;
use std::fmt::Write;

use crate::rng::{mix, unit};

/// Names, regions and roles.
pub(crate) const HOSTS: [(&str, &str, &str); 10] = [
    ("web-01", "eu", "web"),
    ("web-02", "eu", "web"),
    ("web-03", "us", "web"),
    ("web-04", "us", "web"),
    ("db-01", "eu", "db"),
    ("db-02", "us", "db"),
    ("cache-01", "eu", "cache"),
    ("cache-02", "us", "cache"),
    ("batch-01", "eu", "batch"),
    ("batch-02", "us", "batch"),
];

/// Seconds between points.
pub(crate) const STEP_S: i64 = 10;
/// Values of one host at one instant.
pub(crate) const VALUES: u64 = 21;
const DAY_S: f64 = 86_400.0;
/// When every counter was zero: 2026-01-01.
const BOOT_S: i64 = 1_767_225_600;

/// Smooth noise in [0, 1): random knots every `period` seconds, eased between.
fn noise(seed: u64, time_s: i64, period: i64) -> f64 {
    let knot = time_s.div_euclid(period);
    let at = |k: i64| unit(mix(seed ^ mix(k as u64)));
    let x = time_s.rem_euclid(period) as f64 / period as f64;
    let ease = x * x * (3.0 - 2.0 * x);
    at(knot) * (1.0 - ease) + at(knot + 1) * ease
}

/// What a counter counted since boot at `rate` a second with a daily swing.
fn counter(rate: f64, phase: f64, seed: u64, time_s: i64) -> i64 {
    let t = (time_s - BOOT_S) as f64;
    let turn = TAU * t / DAY_S + phase;
    let swing = 0.7 * DAY_S / TAU * (phase.cos() - turn.cos());
    // Noise of at most a tenth of a step's growth: a counter never falls.
    (rate * (t + swing + 0.2 * noise(seed, time_s, STEP_S))) as i64
}

/// The lines of one host at one instant, appended to `out`.
pub(crate) fn write_lines(out: &mut String, host: usize, time_s: i64) {
    let (name, region, role) = HOSTS[host % HOSTS.len()];
    let seed = mix(host as u64 + 1);
    // Europe is busy six hours before America, which is busy at 20:00 UTC.
    let phase = if region == "eu" {
        -TAU * 8.0 / 24.0
    } else {
        -TAU * 14.0 / 24.0
    };
    let day = 0.5 + 0.5 * (TAU * time_s.rem_euclid(86_400) as f64 / DAY_S + phase).sin();
    let (floor, swing) = match role {
        "web" => (8.0, 55.0),
        "db" => (15.0, 35.0),
        "cache" => (4.0, 18.0),
        _ => (3.0, 8.0),
    };
    // Batch hosts work for twenty minutes of every second hour.
    let burst = if role == "batch" && (time_s + host as i64 * 900).rem_euclid(7200) < 1200 {
        70.0
    } else {
        0.0
    };
    let n = |salt: u64, period: i64| noise(seed ^ salt, time_s, period);
    let user = (floor + swing * day + burst + 16.0 * (n(1, 900) - 0.5) + 6.0 * (n(2, 60) - 0.5))
        .clamp(0.3, 97.0);
    let system = user * (0.12 + 0.1 * n(3, 300));
    let iowait = 2.5 * n(4, 120) * n(5, 1200);
    let idle = (100.0 - user - system - iowait).max(0.0);
    let total: i64 = if role == "db" { 64 << 30 } else { 16 << 30 };
    let used = 30.0 + 25.0 * n(6, 21_600) + 12.0 * n(7, 3600) + 3.0 * n(8, 60) + 0.1 * user;
    let used_bytes = (total as f64 * used / 100.0) as i64;
    let load = 8.0 * user / 100.0 * (0.8 + 0.4 * n(9, 60));
    let load5 = 8.0 * (floor + swing * day + burst) / 100.0 * (0.9 + 0.2 * n(10, 300));
    let maintenance = host == 3 && time_s.rem_euclid(86_400) / 3600 == 3;
    let state = match user {
        _ if maintenance => "maintenance",
        u if u > 75.0 => "degraded",
        _ => "ok",
    };
    let write = |rate: f64, salt: u64| counter(rate, phase, seed ^ salt, time_s);
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "cpu,host={name},region={region},role={role} usage_user={user:.2},usage_system={system:.2},usage_iowait={iowait:.2},usage_idle={idle:.2} {time_s}\n\
         mem,host={name},region={region},role={role} total={total}i,used={used_bytes}i,available={}i,used_percent={used:.2} {time_s}\n\
         disk,host={name},region={region},role={role},device=nvme0 read_bytes={}i,write_bytes={}i,used_percent={:.3} {time_s}\n\
         net,host={name},region={region},role={role},interface=eth0 bytes_recv={}i,bytes_sent={}i,packets_recv={}i,drops={}i {time_s}\n\
         system,host={name},region={region},role={role} load1={load:.2},load5={load5:.2},uptime={}i,processes={}i,healthy={},state=\"{state}\" {time_s}\n",
        total - used_bytes,
        write(2e5 * (1.0 + floor), 20),
        write(9e5 * (1.0 + floor), 21),
        41.0 + 3.0 * n(11, 86_400) + 0.000_1 * (time_s - BOOT_S) as f64 / 100.0 % 40.0,
        write(4e6 * (1.0 + swing / 10.0), 22),
        write(7e6 * (1.0 + swing / 10.0), 23),
        write(5e3 * (1.0 + swing / 10.0), 24),
        write(0.02, 25),
        time_s - BOOT_S,
        180 + (40.0 * n(12, 600)) as i64,
        !maintenance,
    );
}

#[cfg(test)]
mod tests {
    use alluvium_protocol::line::{FieldValue, Limits, LineParser, Precision};

    use super::*;

    #[test]
    fn lines_are_line_protocol_and_counters_grow() {
        for host in 0..HOSTS.len() {
            let mut last = None;
            for step in 0..2000 {
                let mut text = String::new();
                let time = BOOT_S + 20_000_000 + step * STEP_S;
                write_lines(&mut text, host, time);
                let mut parser =
                    LineParser::new(text.as_bytes(), Precision::S, 0, Limits::default());
                let mut values = 0;
                while let Some(line) = parser.next_line() {
                    let line = line.unwrap();
                    assert_eq!(line.time_ns, time * 1_000_000_000);
                    values += line.fields.len() as u64;
                    if line.key.starts_with(b"net") {
                        let FieldValue::I64(now) = line.fields[0].value else {
                            panic!()
                        };
                        assert!(last.is_none_or(|last| now >= last), "{last:?} {now}");
                        last = Some(now);
                    }
                }
                assert_eq!(values, VALUES);
            }
        }
    }
}
