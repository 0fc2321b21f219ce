//! What there is: `/api/search` and `/api/suggest`, both ways, by selector, prefix, limit and day; `/api/cardinality`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt::Write;

use common::{Server, memory_config};
use serde_json::{Value, json};

const DAY: u64 = 86_400_000_000_000;

/// On day 10 hosts a to e, on day 20 host f alone.
fn fill(server: &Server) {
    let mut lines = String::new();
    for host in ["a", "b", "c", "d", "e"] {
        let _ = write!(
            lines,
            "cpu,host={host},dc=x idle=1,user=2i {}\nmem,host={host} value=3 {}\n",
            10 * DAY,
            10 * DAY + 5
        );
    }
    let _ = write!(lines, "cpu,host=f,dc=y,rack=7 steal=1 {}", 20 * DAY);
    assert_eq!(server.write(lines).status, 204);
}

fn search(server: &Server, rest: &str) -> Value {
    let answer = server.get(&format!("/api/search?db=test{rest}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn hosts(found: &Value) -> Vec<&str> {
    let series = found["series"].as_array().unwrap().iter();
    series.filter_map(|s| s["tags"]["host"].as_str()).collect()
}

fn names(server: &Server, rest: &str) -> Vec<String> {
    let answer = server.get(&format!("/api/suggest?db=test{rest}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let names = answer.json()["names"].as_array().unwrap().clone();
    let names = names.iter().map(|n| n.as_str().unwrap().to_owned());
    names.collect()
}

/// One with everything in memory, one with everything that a checkpoint may seal in segments.
fn servers() -> [Server; 2] {
    let in_memory = Server::memory();
    fill(&in_memory);
    let mut config = memory_config();
    config.store.index_segment_rows = 1;
    let sealed = Server::start(config);
    fill(&sealed);
    for _ in 0..3 {
        assert_eq!(sealed.post("/api/checkpoint", "").status, 200);
    }
    let status = sealed.get("/status").json();
    assert_eq!(status["state"], "ready");
    let index = &status["store"]["index"];
    assert_eq!(index["sealed_rows"], 11, "{index}");
    [in_memory, sealed]
}

#[test]
fn series_are_found_by_selector_day_and_limit() {
    for server in servers() {
        let all = search(&server, "");
        assert_eq!(
            (&all["matching"], &all["is_complete"]),
            (&json!(11), &json!(true))
        );
        let cpu = search(&server, "&match=%7B__measurement__%3D%22cpu%22%7D");
        assert_eq!(hosts(&cpu), ["a", "b", "c", "d", "e", "f"]);
        assert_eq!(cpu["series"][0]["fields"], json!(["idle", "user"]));
        assert_eq!(cpu["series"][0]["measurement"], "cpu");
        assert_eq!(cpu["series"][5]["tags"]["rack"], "7");
        let by_field = search(&server, "&match=cpu_idle%7Bhost%3D~%22b|c%22%7D");
        assert_eq!(hosts(&by_field), ["b", "c"]);
        assert_eq!(by_field["series"][0]["fields"], json!(["idle"]));
        let late = search(&server, &format!("&from={}", 20 * DAY));
        assert_eq!(hosts(&late), ["f"]);
        let early = search(
            &server,
            &format!("&to={}&match=%7Bdc%3D%22y%22%7D", 20 * DAY),
        );
        assert_eq!((hosts(&early).len(), &early["matching"]), (0, &json!(0)));
        let few = search(&server, "&limit=2");
        assert_eq!(few["series"].as_array().unwrap().len(), 2);
        assert_eq!(
            (&few["matching"], &few["is_complete"]),
            (&json!(11), &json!(false))
        );
        server.stop();
    }
}

/// Every example of `match` in `docs/QUERY.md`, over the points of that page.
#[test]
fn the_page_finds_as_written() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/QUERY.md");
    let text = std::fs::read_to_string(path).unwrap();
    let server = Server::memory();
    let (mut selector, mut examples) = (None, 0);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(mark) = line.strip_prefix("```").filter(|m| !m.is_empty()) else {
            continue;
        };
        let body: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        let body = body.join("\n");
        match mark {
            "text load" => assert_eq!(server.write(body).status, 204),
            "text search" | "json search" | "json suggest" => selector = Some((mark, body)),
            "json found" => {
                let (_, selector): (&str, String) = selector.take().unwrap();
                let mut path = "/api/search?db=test&match=".to_owned();
                for byte in selector.bytes() {
                    let _ = write!(path, "%{byte:02X}");
                }
                let answer = server.get(&path);
                let expected: Value = serde_json::from_str(&body).unwrap();
                assert_eq!(answer.json(), expected, "{selector}: {}", answer.text());
                examples += 1;
            }
            "text names" => {
                let (mark, question): (&str, String) = selector.take().unwrap();
                let path = mark.strip_prefix("json ").unwrap();
                assert_eq!(
                    named(&server, path, &question).join("\n"),
                    body,
                    "{question}"
                );
                examples += 1;
            }
            _ => {}
        }
    }
    assert!(examples >= 6, "the page lost its examples");
    server.stop();
}

#[test]
fn names_are_suggested_by_prefix_limit_and_day() {
    for server in servers() {
        for (rest, expected) in [
            ("&kind=measurement", vec!["cpu", "mem"]),
            ("&kind=measurement&prefix=m", vec!["mem"]),
            (
                "&kind=metric",
                vec!["cpu_idle", "cpu_steal", "cpu_user", "mem"],
            ),
            (
                "&kind=metric&prefix=cpu_&limit=2",
                vec!["cpu_idle", "cpu_steal"],
            ),
            ("&kind=metric&match=%7Bhost%3D%22f%22%7D", vec!["cpu_steal"]),
            ("&kind=tag", vec!["dc", "host", "rack"]),
            ("&kind=tag&measurement=mem", vec!["host"]),
            ("&kind=tag&prefix=r&limit=1", vec!["rack"]),
            ("&kind=value&tag=host&limit=3", vec!["a", "b", "c"]),
            ("&kind=value&tag=host&prefix=e", vec!["e"]),
            ("&kind=value&tag=host&match=%7Brack%3D%227%22%7D", vec!["f"]),
            ("&kind=value&tag=none", vec![]),
            ("&kind=field", vec!["idle", "steal", "user", "value"]),
            ("&kind=field&measurement=cpu&prefix=u", vec!["user"]),
            ("&kind=field&limit=2", vec!["idle", "steal"]),
            ("&kind=field&match=%7Bhost%3D%22f%22%7D", vec!["steal"]),
        ] {
            assert_eq!(names(&server, rest), expected, "{rest}");
        }
        for (rest, expected) in [
            ("&kind=measurement", vec!["cpu"]),
            ("&kind=tag&prefix=d", vec!["dc"]),
            ("&kind=value&tag=host", vec!["f"]),
            ("&kind=field", vec!["steal"]),
        ] {
            let late = format!("{rest}&from=1970-01-21T00:00:00Z");
            assert_eq!(names(&server, &late), expected, "{late}");
        }
        let path = "/api/suggest?db=test&kind=value&tag=host&limit=5";
        assert_eq!(server.get(path).json()["is_complete"], false);
        server.stop();
    }
}

/// The lines of an answer in the classic's form.
fn named(server: &Server, path: &str, body: &str) -> Vec<String> {
    let answer = server.post(&format!("/api/{path}?db=test"), body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    let text = answer.text();
    let lines = text.split_terminator("\r\n");
    lines.map(str::to_owned).collect()
}

#[test]
fn the_classic_s_clients_find_series_and_names() {
    for server in servers() {
        for (body, expected) in [
            (
                r#"{"select": "cpu_idle", "where": {"host": ["a", "c"]}}"#,
                vec!["+cpu_idle dc=x host=a", "+cpu_idle dc=x host=c"],
            ),
            (
                r#"{"select": "", "where": {"host": "f"}}"#,
                vec!["+cpu_steal dc=y host=f rack=7"],
            ),
            // A complete tag set is that and nothing more.
            (
                r#"{"select": "", "where": [{"host": "b"}, {"dc": "x"}]}"#,
                vec!["+mem host=b"],
            ),
            (
                r#"{"where": {"host": {"regex": "^[ab]$"}, "dc": {"exists": true}}, "limit": 4}"#,
                vec![
                    "+cpu_idle dc=x host=a",
                    "+cpu_user dc=x host=a",
                    "+cpu_idle dc=x host=b",
                    "+cpu_user dc=x host=b",
                ],
            ),
            (
                r#"{"where": {"host": "a"}, "limit": 2}"#,
                vec![
                    "+cpu_idle dc=x host=a",
                    "+cpu_user dc=x host=a",
                    "-there are more series; ask for fewer or raise \"limit\"",
                ],
            ),
            (
                r#"{"select": "mem", "range": {"from": "1970-01-21T00:00:00Z"}}"#,
                vec![],
            ),
            (r#"{"select": "none"}"#, vec![]),
        ] {
            assert_eq!(named(&server, "search", body), expected, "{body}");
        }
        let all = named(&server, "search", "{}");
        assert_eq!(all.len(), 16, "{all:?}");
        for (body, expected) in [
            (
                r#"{"select": "metric-names", "starts-with": "cpu_"}"#,
                vec!["+cpu_idle", "+cpu_steal", "+cpu_user"],
            ),
            (
                r#"{"select": "metric-names", "metric": "", "tag": "", "starts-with": "m"}"#,
                vec!["+mem"],
            ),
            (
                r#"{"select": "tag-names", "metric": "cpu_steal", "starts-with": ""}"#,
                vec!["+dc", "+host", "+rack"],
            ),
            (
                r#"{"select": "tag-values", "metric": "cpu_idle", "tag": "host", "limit": 2}"#,
                vec![
                    "+a",
                    "+b",
                    "-there are more names; ask for fewer or raise \"limit\"",
                ],
            ),
            (
                r#"{"select": "tag-values", "tag": "host", "range": {"from": "1970-01-21T00:00:00Z"}}"#,
                vec!["+f"],
            ),
            (
                r#"{"select": "tag-values", "tag": "host", "starts-with": "e"}"#,
                vec!["+e"],
            ),
        ] {
            assert_eq!(named(&server, "suggest", body), expected, "{body}");
        }
        server.stop();
    }
}

#[test]
fn bad_input_is_refused_with_the_name_of_its_parameter() {
    let server = Server::memory();
    fill(&server);
    for (path, parameter) in [
        ("/api/search?db=test&match=cpu%7B", "match"),
        ("/api/search?db=test&match=%7Bhost%3D~%22%28%22%7D", "match"),
        ("/api/search?db=test&from=yesterday", "from"),
        ("/api/search?db=test&from=5&to=4", "to"),
        ("/api/search?db=test&limit=0", "limit"),
        ("/api/search?db=test&limit=10001", "limit"),
        ("/api/search?db=test&limit=x", "limit"),
        ("/api/search?db=test&lmit=1", "lmit"),
        ("/api/suggest?db=test", "kind"),
        ("/api/suggest?db=test&kind=tags", "kind"),
        ("/api/suggest?db=test&kind=value", "tag"),
        ("/api/suggest?db=test&kind=field&tag=host", "tag"),
        ("/api/suggest?db=test&kind=tag&limit=-1", "limit"),
        ("/api/cardinality?db=test&top=0", "top"),
        ("/api/cardinality?db=test&days=3661", "days"),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        let json = answer.json();
        assert_eq!(json["code"], "bad_parameter", "{path}");
        assert_eq!(json["detail"]["parameter"], parameter, "{path}");
        let sentence = json["error"].as_str().unwrap();
        assert!(
            sentence.contains(&format!("parameter {parameter}")),
            "{sentence}"
        );
    }
    assert_eq!(server.get("/api/search?db=none").status, 404);
    for (path, body, why) in [
        ("search", "", "not valid JSON"),
        (
            "search",
            r#"{"select": "cpu_idle", "limit": 10001}"#,
            "\"limit\" must be",
        ),
        ("search", r#"{"where": {"host": {"regex": "("}}}"#, "host"),
        (
            "search",
            r#"{"where": {"host": {"regex": "(a{99}){99}{99}"}}}"#,
            "host",
        ),
        ("suggest", r#"{"select": "tag-values"}"#, "\"tag\" must be"),
        (
            "suggest",
            r#"{"select": "tags"}"#,
            "allowed: metric-names, tag-names, tag-values",
        ),
    ] {
        let answer = server.post(&format!("/api/{path}?db=test"), body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        let json = answer.json();
        assert!(json["error"].as_str().unwrap().contains(why), "{json}");
    }
    assert_eq!(server.post("/api/search?db=none", "{}").status, 404);
    assert_eq!(server.post("/api/search?db=test&limit=1", "{}").status, 400);
    server.stop();
}

#[test]
fn cardinality_counts_measurements_tags_values_days_and_new_series() {
    for server in servers() {
        let answer = server.get("/api/cardinality?db=test&top=3&days=1");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let json = answer.json();
        let exact = |n: u64| json!({ "count": n, "exact": true });
        // Ten series of cpu by two fields of five hosts, one more of host f.
        assert_eq!(json["series"], exact(16));
        assert_eq!(json["tag_sets"], exact(11));
        assert_eq!(
            json["measurements"],
            json!([
                { "measurement": "cpu", "series": exact(11), "tag_sets": exact(6) },
                { "measurement": "mem", "series": exact(5), "tag_sets": exact(5) },
            ])
        );
        assert_eq!(json["tag_count"], exact(3));
        assert_eq!(
            json["tags"],
            json!([
                { "tag": "host", "values": exact(6), "tag_sets": exact(11) },
                { "tag": "dc", "values": exact(2), "tag_sets": exact(6) },
                { "tag": "rack", "values": exact(1), "tag_sets": exact(1) },
            ])
        );
        assert_eq!(
            json["values"],
            json!([
                { "tag": "dc", "value": "x", "tag_sets": exact(5) },
                { "tag": "host", "value": "a", "tag_sets": exact(2) },
                { "tag": "host", "value": "b", "tag_sets": exact(2) },
            ])
        );
        assert_eq!(
            json["days"],
            json!([{ "day": "1970-01-21", "tag_sets": exact(1), "new": exact(1) }])
        );
        let rate = &json["new_series"];
        let minutes = rate["last_minutes"].as_array().unwrap().iter();
        let minutes: u64 = minutes.filter_map(Value::as_u64).sum();
        assert_eq!(rate["this_minute"]["count"].as_u64().unwrap() + minutes, 16);
        // What was deleted is not counted as series; the rest says that it is an estimate.
        let body = r#"{"measurement": "mem"}"#;
        assert_eq!(server.post("/api/delete?db=test", body).status, 200);
        assert_eq!(server.post("/api/checkpoint", "").status, 200);
        let json = server.get("/api/cardinality?db=test").json();
        assert_eq!(json["series"], exact(11));
        assert_eq!(json["tags"][0]["values"]["exact"], false);
        assert_eq!(json["tags"][0]["tag_sets"], exact(6));
        assert_eq!(json["days_are_of"], "points");
        // A tag that no tag set with a series has is not there.
        let body = r#"{"where": {"rack": "7"}}"#;
        assert_eq!(server.post("/api/delete?db=test", body).status, 200);
        let json = server.get("/api/cardinality?db=test").json();
        assert_eq!(json["tag_count"], exact(2));
        let tags = json["tags"].as_array().unwrap().iter();
        let tags: Vec<_> = tags.map(|t| (&t["tag"], &t["tag_sets"])).collect();
        let (dc, host, five) = (json!("dc"), json!("host"), exact(5));
        assert_eq!(tags, [(&host, &five), (&dc, &five)]);
        server.stop();
    }
}
