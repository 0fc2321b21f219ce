//! Retention as clients set it and meet it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt::Write as _;

use alluvium_store::{Clock, SystemClock};
use common::{Server, memory_config};

const HOUR: i64 = 3_600_000_000_000;

/// Asks until the database has a cut.
fn wait_for_cut(server: &Server, name: &str) -> i64 {
    for _ in 0..100_000 {
        let all = server.get("/api/databases").json();
        let all = all["databases"].as_array().unwrap().clone();
        let one = all.iter().find(|d| d["database"] == name).unwrap();
        if let Some(cut) = one["points_from_ns"].as_i64() {
            return cut;
        }
    }
    panic!("the cut never came");
}

#[test]
fn retention_is_set_shown_changed_and_kept_to() {
    let mut config = memory_config();
    config.store.retention_check_ms = 5;
    config.store.retention.set("max_disk", "1GiB").unwrap();
    let server = Server::start(config);
    let put = |query: &str| server.send("PUT", &format!("/api/databases/{query}"), &[], b"");
    let made = put("short?retention=2h&retention_aggregates=same");
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    assert_eq!(made["retention"], "2h");
    assert_eq!(
        (&made["max_disk"], &made["future_max"]),
        (&(1 << 30).into(), &"1d".into())
    );
    wait_for_cut(&server, "short");

    let now = SystemClock.wall_ns();
    let lines = format!(
        "m a=1 {}\nm a=2 {}\nm a=3 {}\nm a=4 {}",
        now - HOUR,
        now - 3 * HOUR,
        now + HOUR,
        now + 30 * HOUR
    );
    let answer = server.send("POST", "/write?db=short", &[], lines.as_bytes());
    assert_eq!(answer.status, 400);
    let text = answer.text();
    assert!(
        text.contains("\"line\":2") && text.contains("retention"),
        "{text}"
    );
    assert!(
        text.contains("\"line\":4") && text.contains("future_max"),
        "{text}"
    );
    let rows = |db: &str| {
        let query = r#"{"select": "m_a", "output": {"format": "csv"}}"#;
        let answer = server.send(
            "POST",
            &format!("/api/query?db={db}"),
            &[],
            query.as_bytes(),
        );
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
            .text()
            .lines()
            .filter(|l| l.contains("m_a") || l.contains("m,"))
            .count()
    };
    let before = rows("short");

    // Of a database that is there, retention changes and nothing else.
    let changed = put("short?retention=30m&durability=os");
    assert_eq!(changed.status, 200, "{}", changed.text());
    let changed = changed.json();
    assert_eq!(
        (
            &changed["retention"],
            &changed["retention_aggregates"],
            &changed["durability"]
        ),
        (&"30m".into(), &"same".into(), &"sync".into())
    );
    for _ in 0..100_000 {
        if rows("short") < before {
            break;
        }
    }
    assert_eq!(rows("short"), before - 1, "an hour is more than 30 minutes");
    assert_eq!(put("short").json()["retention"], "30m");
    let status = server.get("/status").json();
    let databases = status["store"]["databases"].as_array().unwrap();
    let short = databases.iter().find(|d| d["name"] == "short").unwrap();
    assert_eq!(short["retention"]["retention"], "30m");
    assert!(short["retention"]["points_from_ns"].as_i64().unwrap() > now - HOUR);
    assert_eq!(status["store"]["clock"]["held_seconds"], 0);
    let clock = server.send("POST", "/api/clock/confirm", &[], b"");
    assert_eq!(clock.status, 200, "{}", clock.text());
    assert_eq!(clock.json()["held_seconds"], 0);

    for (setting, way_out) in [
        ("retention=much", "30d"),
        ("retention_aggregates=1m", "same"),
        ("max_disk=1", "65536"),
        ("max_disk=big", "10GiB"),
        ("future_max=0s", "12h"),
    ] {
        for name in ["short", "new"] {
            let bad = put(&format!("{name}?{setting}&retention=2h"));
            assert_eq!(bad.status, 400, "{setting}");
            assert_eq!(bad.json()["code"], "bad_setting");
            assert!(bad.text().contains(way_out), "{}", bad.text());
        }
    }
    assert_eq!(
        put("short").json()["retention"],
        "30m",
        "refused settings change nothing"
    );
    server.stop();
}

#[test]
fn who_writes_may_create_but_not_shorten() {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "writer write mine\nboss admin *\n").unwrap();
    let mut config = memory_config();
    config.token_file = Some(tokens.path().into());
    let server = Server::start(config);
    let send = |method: &str, path: &str, token: &str| {
        server.send(
            method,
            path,
            &[&format!("Authorization: Token {token}")],
            b"",
        )
    };
    assert_eq!(
        send("PUT", "/api/databases/mine?retention=9d", "writer").status,
        201
    );
    assert_eq!(send("PUT", "/api/databases/mine", "writer").status, 200);
    assert_eq!(
        send("PUT", "/api/databases/mine?retention=1d", "writer").status,
        403
    );
    assert_eq!(
        send("PUT", "/api/databases/mine?retention=1d", "boss").status,
        200
    );
    assert_eq!(send("PUT", "/api/databases/other", "boss").status, 201);
    assert_eq!(send("POST", "/api/clock/confirm", "writer").status, 403);
    let listed = |token| {
        let all = send("GET", "/api/databases", token).json();
        all["databases"].as_array().unwrap().len()
    };
    assert_eq!((listed("writer"), listed("boss")), (1, 2));
    assert_eq!(server.get("/api/databases").status, 401);
    server.stop();
}

/// What is left of a leaf that has expired lies where its oldest point was, and the next leaf may begin in the bin in which it ended. Among
/// many series bins are read in short pieces, each of which ends behind such a leaf.
#[test]
fn bins_count_every_point_of_aggregates_that_outlive_them() {
    const POINTS: i64 = 27_000;
    const OTHERS: i64 = 2_000;
    let mut config = memory_config();
    config.store.retention_check_ms = 5;
    let server = Server::start(config);
    let put = |query: &str| server.send("PUT", &format!("/api/databases/{query}"), &[], b"");
    assert_eq!(put("long").status, 201);
    let end = SystemClock.wall_ns() - 48 * HOUR;
    let mut lines = String::new();
    for i in 0..POINTS {
        // Of full precision: some four hundred fill a leaf.
        let value = (i * 7_919 % 10_007) as f64 / 3.0;
        let time = end - (POINTS - i) * HOUR / 60;
        writeln!(lines, "m,host=a v={value} {time}").unwrap();
    }
    for i in 0..OTHERS {
        writeln!(lines, "m,host=b{i} v=1 {}", end - i * HOUR / 60).unwrap();
    }
    let written = server.send("POST", "/write?db=long", &[], lines.as_bytes());
    assert_eq!(written.status, 204, "{}", written.text());
    let counted = |rest: &str| -> i64 {
        let query = format!(
            r#"{{"group-aggregate": {{"metric": "m_v", "step": "1h", "func": "count"}}{rest}}}"#
        );
        let answer = server.send("POST", "/api/query?db=long", &[], query.as_bytes());
        let json = answer.json();
        assert!(json["error"].is_null(), "{json}");
        let rows = json["rows"].as_array().unwrap().iter();
        assert!(rows.len() > 0, "{query}: {json}");
        rows.map(|row| row[2].as_i64().unwrap()).sum()
    };
    assert_eq!(counted(""), POINTS + OTHERS);
    let kept = put("long?retention=1d&retention_aggregates=ever");
    assert_eq!(kept.status, 200, "{}", kept.text());
    wait_for_cut(&server, "long");
    assert_eq!(counted(""), POINTS + OTHERS);
    let backward = r#", "range": {"from": "2100-01-01T00:00:00Z", "to": 0}"#;
    assert_eq!(counted(backward), POINTS + OTHERS);
    server.stop();
}
