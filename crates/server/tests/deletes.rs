//! Deletes over HTTP, and the rules for values of another kind than their series.

mod common;

use common::{Server, memory_config};

/// One number, or text, a line: times and values of a metric.
fn rows(server: &Server, metric: &str) -> String {
    let query = format!(r#"{{"select": "{metric}", "output": {{"format": "csv"}}}}"#);
    let answer = server.post("/api/query?db=test", &query);
    assert!(matches!(answer.status, 200 | 404), "{}", answer.text());
    if answer.status == 404 {
        return "none".into();
    }
    let lines = answer.text().lines().map(|line| {
        let cells: Vec<&str> = line.rsplitn(3, ',').collect();
        format!("{}={}", cells[1], cells[0].trim_end_matches(".0"))
    });
    lines.collect::<Vec<_>>().join(" ")
}

fn fill(server: &Server) {
    let lines: Vec<String> = (0..10)
        .flat_map(|t| {
            ["a", "b"]
                .map(|h| format!("cpu,host={h} idle={t},user={t}i {t}\nmem,host={h} value={t} {t}"))
        })
        .collect();
    assert_eq!(server.write(lines.join("\n")).status, 204);
}

fn delete(server: &Server, body: &str) -> (u64, u64) {
    let answer = server.post("/api/delete?db=test", body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    let count = |name: &str| json[name].as_u64().expect("a count");
    assert_eq!(
        json["dry_run"] == true,
        answer.header("x-alluvium-position").is_none(),
    );
    (count("series"), count("points"))
}

#[test]
fn points_go_by_tag_field_time_and_value() {
    let server = Server::memory();
    fill(&server);
    let dry = r#"{"measurement": "cpu", "where": {"host": "a"}, "range": {"from": 2, "to": 8}, "dry-run": true}"#;
    assert_eq!(delete(&server, dry), (2, 12));
    assert_eq!(rows(&server, "cpu_idle").matches('=').count(), 20);
    assert_eq!(
        delete(&server, &dry.replace(", \"dry-run\": true", "")),
        (2, 12)
    );
    assert_eq!(
        delete(&server, &dry.replace(", \"dry-run\": true", "")),
        (0, 0)
    );
    let b = "0=0 0=0 1=1 1=1 2=2 3=3 4=4 5=5 6=6 7=7 8=8 8=8 9=9 9=9";
    assert_eq!(rows(&server, "cpu_idle"), b);
    // Of a field, by value.
    assert_eq!(
        delete(&server, r#"{"field": "idle", "value": {">": 2, "<=": 8}}"#),
        (2, 7)
    );
    assert_eq!(rows(&server, "cpu_idle"), "0=0 0=0 1=1 1=1 2=2 9=9 9=9");
    assert_eq!(rows(&server, "cpu_user").matches('=').count(), 14);
    // A measurement; then its points may come back.
    assert_eq!(delete(&server, r#"{"measurement": "mem"}"#), (2, 20));
    assert_eq!(rows(&server, "mem"), "none");
    assert_eq!(server.write("mem,host=a value=7 3").status, 204);
    assert_eq!(rows(&server, "mem"), "3=7");
    let status = server.get("/status").json();
    assert!(
        status["store"]["databases"][0]["tombstones"]
            .as_u64()
            .unwrap()
            > 0
    );
    assert!(
        server
            .get("/metrics")
            .text()
            .contains("alluvium_server_deletes_total 4\n")
    );
    // Everything.
    assert_eq!(delete(&server, r#"{"all": true}"#).0, 5);
    assert_eq!(rows(&server, "cpu_idle"), "none");
    server.stop();
}

#[test]
fn what_is_not_meant_is_refused_by_name() {
    let server = Server::memory();
    fill(&server);
    for (path, body, status, why) in [
        ("/api/delete?db=test", "{}", 400, "\"all\" must be true"),
        ("/api/delete?db=test", "{", 400, "not valid JSON"),
        (
            "/api/delete?db=test",
            r#"{"tag": "x"}"#,
            400,
            "unknown field \"tag\"",
        ),
        (
            "/api/delete?db=none",
            r#"{"all": true}"#,
            404,
            "database not found",
        ),
        (
            "/api/delete?db=test&dry_run=maybe",
            r#"{"all": true}"#,
            400,
            "true or false",
        ),
        (
            "/api/delete?db=test",
            r#"{"where": {"host": {"regex": "("}}}"#,
            400,
            "host",
        ),
    ] {
        let answer = server.post(path, body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        let sentence = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(sentence.contains(why), "{body}: {sentence}");
    }
    assert_eq!(server.get("/api/delete").status, 405);
    let dry = server.post("/api/delete?db=test&dry_run=true", r#"{"all": true}"#);
    assert_eq!(dry.json()["points"], 60);
    assert_eq!(rows(&server, "mem").matches('=').count(), 20);
    server.stop();
}

#[test]
fn statements_of_influxdb_delete() {
    let server = Server::memory();
    fill(&server);
    let run = |q: &str| {
        let q = q.replace(' ', "+");
        let answer = server.post("/query?db=test", format!("q={q}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["results"][0]["error"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(run("DELETE FROM cpu WHERE host = 'a' AND time >= 5"), None);
    assert_eq!(rows(&server, "cpu_idle").matches('=').count(), 15);
    // No row has a tag of that name: the negation would take all of them.
    for of_field in ["idle != 'x'", "host = 'a' AND idle !~ /x/"] {
        let refused = run(&format!("DELETE FROM cpu WHERE {of_field}")).unwrap();
        assert!(refused.contains("idle is a field"), "{refused}");
    }
    assert_eq!(rows(&server, "cpu_idle").matches('=').count(), 15);
    assert_eq!(
        run("DELETE FROM cpu WHERE nothing = 'x' AND other != 'x'"),
        None
    );
    assert_eq!(rows(&server, "cpu_idle").matches('=').count(), 15);
    assert_eq!(run("DROP SERIES FROM cpu WHERE host =~ /^b$/"), None);
    assert_eq!(rows(&server, "cpu_idle"), "0=0 1=1 2=2 3=3 4=4");
    assert_eq!(run("DROP MEASUREMENT mem"), None);
    assert_eq!(rows(&server, "mem"), "none");
    let missing = server
        .post("/query?db=none&q=DROP+MEASUREMENT+mem", "")
        .json();
    assert!(
        missing["results"][0]["error"]
            .as_str()
            .unwrap()
            .contains("database not found")
    );
    assert_eq!(
        server
            .send("DELETE", "/api/databases/test", &[], b"")
            .status,
        200
    );
    assert_eq!(
        server
            .send("DELETE", "/api/databases/test", &[], b"")
            .status,
        404
    );
    server.stop();
}

#[test]
fn who_may_only_write_may_not_delete() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "w write test\na admin test\n").unwrap();
    let mut config = memory_config();
    config.token_file = Some(file.path().to_owned());
    let server = Server::start(config);
    let send = |token: &str, path: &str, body: &str| {
        let token = format!("Authorization: Bearer {token}");
        server.send("POST", path, &[&token], body.as_bytes()).status
    };
    assert_eq!(send("w", "/write?db=test", "m v=1 1"), 204);
    assert_eq!(send("w", "/api/delete?db=test", r#"{"all": true}"#), 403);
    assert_eq!(send("a", "/api/delete?db=test", r#"{"all": true}"#), 200);
    server.stop();
}

#[test]
fn a_delete_by_value_tells_neighbours_apart_that_are_one_float() {
    let server = Server::memory();
    let lines = "m v=9007199254740992i 1\nm v=9007199254740993i 2\nm v=9007199254740994i 3\n\
                 m u=18446744073709551614u 1\nm u=18446744073709551615u 2\nm f=9007199254740992 1";
    assert_eq!(server.write(lines).status, 204);
    let delete = |metric: &str, value: &str| {
        let body = format!(r#"{{"metric": "{metric}", "value": {value}}}"#);
        let answer = server.post("/api/delete?db=test", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["points"].as_u64().unwrap()
    };
    assert_eq!(delete("m_v", r#"{"=": 9007199254740993}"#), 1);
    assert_eq!(delete("m_v", r#"{">": 9007199254740993}"#), 1);
    assert_eq!(delete("m_f", r#"{"=": 9007199254740993}"#), 0);
    assert_eq!(delete("m_u", r#"{"<": 18446744073709551615}"#), 1);
    let left = server.post("/api/query?db=test", r#"{"select": ["m_v", "m_u", "m_f"]}"#);
    let left = left.json();
    let rows = left["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{left}");
    server.stop();
}

/// Values of every kind into series of every kind: what is stored, whether it is a conflict, and what is read.
#[test]
fn kinds_that_meet() {
    let server = Server::memory();
    // Name, as sent, as read beside values of its own kind, as a number where kinds are mixed.
    let kinds = [
        ("float", "1.5", "1.5", Some("1.5")),
        ("integer", "7i", "7", Some("7")),
        (
            "large",
            "9007199254740993i",
            "9007199254740993",
            Some("9007199254740992"),
        ),
        ("unsigned", "8u", "8", Some("8")),
        (
            "vast",
            "18446744073709551615u",
            "18446744073709551615",
            Some("18446744073709552000"),
        ),
        ("bool", "true", "true", Some("1")),
        ("text", "\"x\"", "x", None),
    ];
    let base = |name: &str| {
        match name {
            "large" => "integer",
            "vast" => "unsigned",
            name => name,
        }
        .to_owned()
    };
    for (first, sent, read, number) in kinds {
        for (second, sent_too, read_too, number_too) in kinds {
            let m = format!("{first}_{second}");
            let conflicts = |server: &Server| {
                server.get("/status").json()["store"]["points"]["kind_conflicts"]
                    .as_u64()
                    .unwrap()
            };
            let before = conflicts(&server);
            assert_eq!(server.write(format!("{m} v={sent} 1")).status, 204);
            let answer = server.write(format!("{m} v={sent_too} 2"));
            assert_eq!(answer.status, 204, "{m}: {}", answer.text());
            let widens = first == "float" && matches!(second, "integer" | "unsigned");
            let same = base(first) == base(second);
            let sibling = !same && !widens;
            assert_eq!(conflicts(&server) - before, u64::from(sibling), "{m}");
            let listed = server.get("/api/conflicts?db=test").json();
            let listed = listed["conflicts"].as_array().unwrap().iter();
            let listed: Vec<_> = listed.filter(|c| c["measurement"] == m.as_str()).collect();
            assert_eq!(listed.len(), usize::from(sibling), "{m}");
            if let Some(conflict) = listed.first() {
                assert_eq!(conflict["field"], "v");
                assert_eq!(conflict["kinds"].as_array().unwrap().len(), 2);
            }
            // Numbers of several kinds read as one series of floats; texts beside numbers are left out.
            let wanted = match (number, number_too) {
                _ if same || widens => format!("1={read} 2={read_too}"),
                (Some(one), Some(other)) => format!("1={one} 2={other}"),
                (Some(_), None) => format!("1={read}"),
                (None, Some(_)) => format!("2={read_too}"),
                (None, None) => unreachable!("texts are of one kind"),
            };
            let found = rows(&server, &format!("{m}_v"));
            assert_eq!(normal(&found), normal(&wanted), "{m}");
            // What is left when one kind is deleted is read as what it is, and takes values as if it were alone.
            if sibling {
                delete(
                    &server,
                    &format!(r#"{{"measurement": "{m}", "range": {{"to": 2}}}}"#),
                );
                let found = rows(&server, &format!("{m}_v"));
                assert_eq!(normal(&found), normal(&format!("2={read_too}")), "{m}");
                let listed = server.get("/api/conflicts?db=test").json();
                let mut listed = listed["conflicts"].as_array().unwrap().iter();
                assert!(listed.all(|c| c["measurement"] != m.as_str()), "{m}");
            }
        }
    }
    server.stop();
}

/// Numbers in one spelling.
fn normal(rows: &str) -> Vec<String> {
    let cell = |row: &str| {
        let (time, value) = row.split_once('=').unwrap_or(("", row));
        match value.parse::<u64>() {
            Ok(exact) => format!("{time}={exact}"),
            Err(_) => value
                .parse::<f64>()
                .map_or(format!("{time}={value}"), |v| format!("{time}={v}")),
        }
    };
    rows.split(' ').map(cell).collect()
}
