//! Every path, as its clients use it.

mod common;

use std::io::Write;

use common::{Server, memory_config};

const CSV: &str = r#""output": {"format": "csv"}"#;

#[test]
fn health_and_its_siblings() {
    let server = Server::memory();
    let ping = server.get("/ping");
    assert_eq!(
        (ping.status, ping.header("x-influxdb-version")),
        (204, Some("1.8.10"))
    );
    assert_eq!(server.send("HEAD", "/ping", &[], b"").status, 204);
    assert_eq!(server.get("/health").json()["status"], "pass");
    assert_eq!(server.get("/ready").status, 200);
    let status = server.get("/status").json();
    assert_eq!(status["state"], "ready");
    assert!(
        status["store"]["backend"]
            .as_str()
            .unwrap()
            .starts_with("memory")
    );
    let metrics = server.get("/metrics");
    assert!(metrics.text().ends_with("# EOF\n"));
    assert!(metrics.text().contains("alluvium_store_points_total 0\n"));
    let unknown = server.get("/nowhere");
    assert_eq!(unknown.status, 404);
    assert!(
        unknown.json()["error"]
            .as_str()
            .unwrap()
            .contains("/api/query")
    );
    assert_eq!(server.get("/write").status, 405);
    assert_eq!(
        server.send("DELETE", "/status", &[], b"").json()["code"],
        "wrong_method"
    );
    server.stop();
}

#[test]
fn points_come_back_through_every_write_path() {
    let server = Server::memory();
    let v1 = server.write("cpu,host=a idle=90,user=4i 1000\ncpu,host=b idle=-0.0 2000");
    assert_eq!(v1.status, 204, "{}", v1.text());
    assert!(v1.header("x-alluvium-position").unwrap().contains(':'));
    let v2 = server.post(
        "/api/v2/write?org=o&bucket=test/autogen&precision=ms",
        "cpu,host=a idle=80 3",
    );
    assert_eq!(v2.status, 204, "{}", v2.text());
    let v3 = server.post(
        "/api/v3/write_lp?db=test&precision=microsecond",
        "cpu,host=a idle=70 4000",
    );
    assert_eq!(v3.status, 204, "{}", v3.text());
    let rows = server.query(&format!(r#"{{"select": "cpu_idle", {CSV}}}"#));
    assert_eq!(
        rows,
        "cpu_idle host=a,1000,90.0\ncpu_idle host=b,2000,-0.0\ncpu_idle host=a,3000000,80.0\n\
         cpu_idle host=a,4000000,70.0\n"
    );
    let answer = server.post(
        "/api/query?db=test",
        r#"{"aggregate": {"cpu_idle": ["min", "count"]}, "stats": true}"#,
    );
    let json = answer.json();
    assert_eq!(json["columns"][2], "cpu_idle:min");
    assert_eq!(json["rows"][0][3], 3);
    assert_eq!(json["error"], serde_json::Value::Null);
    assert_eq!(json["stats"]["series"], 2);
    server.stop();
}

#[test]
fn lines_without_a_time_share_the_time_of_receipt() {
    let server = Server::memory();
    assert_eq!(server.write("m a=1\nm,x=y a=2\n").status, 204);
    let rows = server.query(&format!(r#"{{"select": "m_a", {CSV}}}"#));
    let times: Vec<&str> = rows.lines().map(|l| l.split(',').nth(1).unwrap()).collect();
    assert_eq!(times.len(), 2);
    assert_eq!(times[0], times[1]);
    assert!(times[0].parse::<i64>().unwrap() > 1_700_000_000_000_000_000);
    server.stop();
}

#[test]
fn good_lines_are_kept_beside_bad_ones() {
    let server = Server::memory();
    let body = b"m a=1 1\nbad\nm a=2 2\n\xff\xfe,t=1 a=1 3\nm a=3 3\nm a=1 9223372036854775807\n";
    let v1 = server.write(body);
    assert_eq!(v1.status, 400);
    let json = v1.json();
    assert!(
        json["error"]
            .as_str()
            .unwrap()
            .starts_with("partial write: unable to parse 'bad': missing fields")
    );
    let lines: Vec<u64> = json["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [2, 4, 6]);
    assert!(
        v1.header("x-influxdb-error")
            .unwrap()
            .starts_with("partial write: ")
    );
    let rows = server.query(&format!(r#"{{"select": "m_a", {CSV}}}"#));
    assert_eq!(rows, "m_a,1,1.0\nm_a,2,2.0\nm_a,3,3.0\n");

    let v2 = server.post("/api/v2/write?bucket=test", "n a=1 1\nbad\n");
    assert_eq!(v2.status, 422);
    assert_eq!(v2.json()["code"], "unprocessable entity");
    let v3 = server.post(
        "/api/v3/write_lp?db=test&accept_partial=false",
        "o a=1 1\nbad\n",
    );
    assert_eq!(v3.status, 400);
    assert_eq!(v3.json()["data"][0]["line_number"], 2);
    let none = server.post("/api/query?db=test", r#"{"select": "o_a"}"#);
    assert_eq!(
        (none.status, none.json()["code"].as_str()),
        (404, Some("unknown_metric"))
    );
    assert!(
        server
            .get("/metrics")
            .text()
            .contains("writes_refused_total{reason=\"bad_line\"} 5\n")
    );
    server.stop();
}

#[test]
fn a_kind_conflict_is_kept_and_counted() {
    let server = Server::memory();
    assert_eq!(server.write("m v=1i 1").status, 204);
    assert_eq!(server.write("m v=\"text\" 2").status, 204);
    assert_eq!(
        server.get("/status").json()["store"]["points"]["kind_conflicts"],
        1
    );
    server.stop();
}

#[test]
fn requests_that_name_nonsense_are_refused_by_name() {
    let server = Server::memory();
    for (path, body, status, what) in [
        (
            "/write?db=test&precision=fortnight",
            "m a=1",
            400,
            "fortnight",
        ),
        ("/write?db=no%20spaces", "m a=1", 400, "no spaces"),
        ("/write?db=test&rp=week", "m a=1", 400, "week"),
        ("/write?db=test&durability=maybe", "m a=1", 400, "maybe"),
        ("/api/query?db=test", "{", 400, "JSON"),
        ("/api/query?db=nobody", r#"{"select": "x"}"#, 404, "nobody"),
        ("/query", "", 400, "missing required parameter"),
    ] {
        let answer = server.post(path, body);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(answer.text().contains(what), "{path}: {}", answer.text());
    }
    let other = server.send(
        "POST",
        "/write?db=test",
        &["Content-Encoding: br"],
        b"m a=1",
    );
    assert_eq!(other.status, 400);
    assert_eq!(server.write("").status, 204);
    assert_eq!(server.write("# nothing\n\n").status, 204);
    server.stop();
}

#[test]
fn gzip_bodies() {
    let server = Server::memory();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for i in 0..50_000 {
        writeln!(encoder, "m,host=h{} a={i}i {i}", i % 7).unwrap();
    }
    let packed = encoder.finish().unwrap();
    let answer = server.send(
        "POST",
        "/write?db=test",
        &["Content-Encoding: gzip"],
        &packed,
    );
    assert_eq!(answer.status, 204, "{}", answer.text());
    let query =
        format!(r#"{{"aggregate": {{"m_a": ["count", "sum"]}}, "group-by-tag": "host", {CSV}}}"#);
    assert_eq!(server.query(&query), "m_a,0,50000,1249975000\n");
    let broken = server.send(
        "POST",
        "/write?db=test",
        &["Content-Encoding: gzip"],
        &packed[..1000],
    );
    assert_eq!(
        (broken.status, broken.json()["code"].as_str()),
        (400, Some("invalid"))
    );
    server.stop();
}

#[test]
fn telegraf_starts_by_creating_its_database() {
    let server = Server::memory();
    let form = ["Content-Type: application/x-www-form-urlencoded"];
    let created = server.send("POST", "/query", &form, b"q=CREATE+DATABASE+%22telegraf%22");
    assert_eq!(
        (created.status, created.text()),
        (200, "{\"results\":[{\"statement_id\":0}]}\n")
    );
    assert_eq!(
        server
            .post("/write?db=telegraf&consistency=any", "cpu usage=1")
            .status,
        204
    );
    let shown = server.get("/query?q=SHOW%20DATABASES").json();
    assert_eq!(shown["results"][0]["series"][0]["values"][0][0], "telegraf");
    let two = server
        .get("/query?q=DROP%20DATABASE%20telegraf;SHOW%20MEASUREMENTS;SHOW%20DATABASES")
        .json();
    assert!(
        two["results"][1]["error"]
            .as_str()
            .unwrap()
            .contains("SHOW MEASUREMENTS is not supported")
    );
    assert_eq!(two["results"][2]["series"][0].get("values"), None);
    // Written again it begins empty.
    assert_eq!(
        server.post("/write?db=telegraf", "cpu usage=2 5").status,
        204
    );
    let rows = server.post(
        "/api/query?db=telegraf",
        format!(r#"{{"select": "cpu_usage", {CSV}}}"#),
    );
    assert_eq!(rows.text(), "cpu_usage,5,2.0\n");
    server.stop();
}

#[test]
fn databases_and_checkpoints() {
    let server = Server::memory();
    assert_eq!(
        server.send("PUT", "/api/databases/made", &[], b"").status,
        201
    );
    assert_eq!(
        server.send("PUT", "/api/databases/made", &[], b"").status,
        200
    );
    assert_eq!(
        server
            .send("PUT", "/api/databases/not%20allowed", &[], b"")
            .json()["code"],
        "bad_name"
    );
    assert_eq!(server.write("m a=1 1").status, 204);
    let checkpoint = server.post("/api/checkpoint", "");
    assert_eq!(checkpoint.status, 200, "{}", checkpoint.text());
    assert!(checkpoint.json()["checkpoints"].as_u64().unwrap() >= 1);
    assert_eq!(server.post("/api/flush", "").status, 200);
    server.stop();
}

#[test]
fn tokens_open_what_their_lines_say() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "reader read test\nwriter write test # a line\nboss admin *\n",
    )
    .unwrap();
    let mut config = memory_config();
    config.token_file = Some(file.path().into());
    let server = Server::start(config);
    let send = |method: &str, path: &str, token: &str, body: &str| {
        server
            .send(
                method,
                path,
                &[&format!("Authorization: Token {token}")],
                body.as_bytes(),
            )
            .status
    };
    assert_eq!(server.write("m a=1 1").status, 401);
    assert_eq!(
        server.post("/api/v2/write?bucket=test", "m a=1 1").json()["code"],
        "unauthorized"
    );
    assert_eq!(send("POST", "/write?db=test", "reader", "m a=1 1"), 403);
    assert_eq!(send("POST", "/write?db=test", "writer", "m a=1 1"), 204);
    assert_eq!(send("POST", "/write?db=other", "writer", "m a=1 1"), 403);
    assert_eq!(
        server.post("/write?db=test&u=x&p=writer", "m a=1 1").status,
        204
    );
    let query = r#"{"select": "m_a"}"#;
    assert_eq!(send("POST", "/api/query?db=test", "reader", query), 200);
    assert_eq!(send("POST", "/api/query?db=test", "writer", query), 403);
    assert_eq!(send("POST", "/api/checkpoint", "writer", ""), 403);
    assert_eq!(send("POST", "/api/checkpoint", "boss", ""), 200);
    assert_eq!(send("GET", "/status", "reader", ""), 200);
    assert_eq!(server.get("/status").status, 401);
    assert_eq!(server.get("/ping").status, 204);
    server.stop();
}

#[test]
fn plans_are_explained() {
    let server = Server::memory();
    assert_eq!(server.write("m a=1 1").status, 204);
    let plan = server.query(r#"{"select": "m_a", "limit": 3, "explain": true}"#);
    assert!(plan.contains("at most 3 rows"), "{plan}");
    server.stop();
}

#[test]
fn databases_are_made_with_settings() {
    let server = Server::memory();
    let made = server.send(
        "PUT",
        "/api/databases/tiny?compression=small&durability=os",
        &[],
        b"",
    );
    assert_eq!(made.status, 201, "{}", made.text());
    let again = server.send("PUT", "/api/databases/tiny?compression=balanced", &[], b"");
    assert_eq!(again.status, 200);
    let status = server.get("/status").json();
    let databases = status["store"]["databases"].as_array().unwrap();
    let tiny = databases.iter().find(|d| d["name"] == "tiny").unwrap();
    assert_eq!(
        (&tiny["compression"], &tiny["durability"]),
        (&"small".into(), &"os".into())
    );
    let bounded = server.send(
        "PUT",
        "/api/databases/tiny?measurement_series_max=2",
        &[],
        b"",
    );
    assert_eq!(
        bounded.json()["measurement_series_max"],
        2,
        "{}",
        bounded.text()
    );
    // Of one body the partitions would say which has no room.
    let first = server.post("/write?db=tiny", "m,h=1 v=1\nm,h=2 v=1");
    assert_eq!(first.status, 204, "{}", first.text());
    let partial = server.post("/write?db=tiny", "m,h=3 v=1\nn,h=1 v=1");
    assert_eq!(partial.status, 400);
    let told = partial.text();
    assert!(
        told.contains(
            "measurement m has no room for new series: setting measurement_series_max allows 2"
        ) && told.contains("dropped=1"),
        "{told}"
    );
    let body = "# a comment\nm,h=1 v=2\nm,h=4 v=1";
    let partial = server.post("/api/v3/write_lp?db=tiny", body).json();
    let refused = &partial["data"][0];
    assert_eq!(
        (&refused["line_number"], &refused["original_line"]),
        (&3.into(), &"m,h=4 v=1".into()),
        "{partial}"
    );
    // Every reason, with its first line and how many there were; and none of the body where the client asked for all.
    let body = "m,h=1 v=3\nm,h=5 v=1\no,h=1 v=1\nm,h=6 v=1\no,h=2 v=1\no,h=3 v=1\nm,h=7 v=1";
    let whole = server.post("/api/v3/write_lp?db=tiny&accept_partial=false", body);
    assert_eq!(whole.status, 400);
    let drops = server.get("/status").json()["server"]["drops"].clone();
    assert_eq!(
        (&drops["series_limit"], &drops["bad_line"]),
        (&6.into(), &0.into()),
        "{drops}"
    );
    let whole = whole.json();
    assert!(
        whole["error"]
            .as_str()
            .unwrap()
            .starts_with("nothing was written"),
        "{whole}"
    );
    let reasons = |told: &serde_json::Value, line: &str, text: &str| {
        let of = told.as_array().unwrap().iter().map(|r| {
            let first = r[text].as_str().unwrap().split(" has ").next();
            let lines = r["count"].as_u64().unwrap_or(1);
            (first.unwrap().to_owned(), r[line].as_u64().unwrap(), lines)
        });
        let mut of: Vec<_> = of.collect();
        of.sort();
        of
    };
    let of_whole = reasons(&whole["data"], "line_number", "error_message");
    assert_eq!(of_whole[0], ("measurement m".to_owned(), 2, 3), "{whole}");
    // Which one of three it is, their partitions say.
    let (of, first, lines) = &of_whole[1];
    assert_eq!((of.as_str(), *lines), ("measurement o", 1), "{whole}");
    assert!([3, 5, 6].contains(first), "{whole}");
    let rows = |metric: &str| {
        let query = format!(r#"{{"select": "{metric}", {CSV}}}"#);
        server.post("/api/query?db=tiny", &query).text().to_owned()
    };
    assert!(rows("m_v").contains(",2.0\n") && !rows("m_v").contains(",3.0\n"));
    assert!(rows("o_v").contains("unknown_metric"), "{}", rows("o_v"));
    let partial = server.post("/write?db=tiny", body);
    assert_eq!(partial.status, 400);
    let partial = partial.json();
    let of_partial = reasons(&partial["lines"], "line", "error");
    assert_eq!((of_partial.len(), &of_partial[0]), (2, &of_whole[0]));
    let told = partial["error"].as_str().unwrap();
    assert!(
        told.contains("(3 lines, the first is 2)") && told.ends_with(" dropped=4"),
        "{told}"
    );
    assert!(rows("m_v").contains(",3.0\n"));
    let whole = server.post(
        "/api/v3/write_lp?db=tiny&accept_partial=false",
        "m,h=1 v=4\nn,h=1 v=2",
    );
    assert_eq!(whole.status, 204, "{}", whole.text());
    let status = server.get("/status").json();
    let databases = status["store"]["databases"].as_array().unwrap();
    assert_eq!(
        databases.iter().find(|d| d["name"] == "tiny").unwrap()["series"],
        5
    );
    for (setting, way_out) in [
        ("series_max=many", "a number of series, or `none`"),
        ("compression=zip", "balanced or small"),
        ("durability=never", "interval=100ms"),
    ] {
        let bad = server.send("PUT", &format!("/api/databases/bad?{setting}"), &[], b"");
        assert_eq!(bad.status, 400);
        assert!(bad.text().contains(way_out), "{}", bad.text());
    }
    server.stop();
}
