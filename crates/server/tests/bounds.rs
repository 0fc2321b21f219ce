//! Questions about what there is end by their deadline, by who asked going away, and by memory, as queries do.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use common::{Answer, Server, memory_config};

/// One question of each kind.
fn questions(server: &Server) -> Vec<(&'static str, Answer)> {
    let post = |path: &'static str, body: &str| (path, server.post(path, body));
    let get = |path: &'static str| (path, server.get(path));
    vec![
        get("/api/search?db=test&limit=10000"),
        post("/api/search?db=test", "{}"),
        post("/api/search?db=test", r#"{"where": [{"dc": "x"}]}"#),
        get("/api/cardinality?db=test"),
        get("/api/suggest?db=test&kind=value&tag=host"),
        post("/api/suggest?db=test", r#"{"select": "tag-names"}"#),
        get("/api/conflicts?db=test"),
    ]
}

fn fill(server: &Server, hosts: u32) {
    let mut lines = String::new();
    for host in 0..hosts {
        writeln!(lines, "m,dc=x,host=host-{host} a=1 1").unwrap();
    }
    assert_eq!(server.write(lines).status, 204);
}

#[test]
fn every_question_has_the_deadline_of_queries() {
    let mut config = memory_config();
    config.limits.query_deadline = Duration::ZERO;
    let server = Server::start(config);
    fill(&server, 100);
    for (path, answer) in questions(&server) {
        assert_eq!(answer.status, 503, "{path}: {}", answer.text());
        assert_eq!(answer.json()["code"], "deadline_exceeded", "{path}");
        assert_eq!(answer.header("retry-after"), Some("1"));
        let text = answer.text();
        assert!(
            text.contains("raise the setting query_deadline_ms"),
            "{text}"
        );
    }
    server.stop();
}

#[test]
fn answers_ask_for_memory_as_queries_do() {
    let mut config = memory_config();
    config.limits.query_memory_bytes = 50_000;
    let server = Server::start(config);
    fill(&server, 1000);
    for retention in ["", "?retention=ever&future_max=1d"] {
        if !retention.is_empty() {
            let path = format!("/api/databases/test{retention}");
            let answer = server.send("PUT", &path, &[], b"");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let questions = questions(&server).into_iter().enumerate();
        // Those whose answers, or counts, are long.
        for (_, (path, answer)) in questions.filter(|(number, _)| [0, 1, 3].contains(number)) {
            assert_eq!(answer.status, 400, "{path}: {}", answer.text());
            assert_eq!(answer.json()["code"], "query_memory", "{path}");
        }
    }
    let few = server.get("/api/search?db=test&limit=10");
    assert_eq!(few.json()["matching"], 1000, "{}", few.text());
    let used = &server.get("/status").json()["store"]["memory"]["by_owner"]["queries"];
    assert_eq!(*used, 0, "what was held is given back");
    server.stop();
}

#[test]
fn a_question_whose_asker_went_away_gives_its_turn_back() {
    let mut config = memory_config();
    config.limits.queries_max = 1;
    let server = Server::start(config);
    fill(&server, 200_000);
    // Nothing is that tag set and no more, so all that have the value are spelt.
    let body = r#"{"where": [{"dc": "x"}]}"#;
    let mut stream = server.connect();
    write!(
        stream,
        "POST /api/search?db=test HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let metrics = || server.get("/metrics").text().to_owned();
    std::thread::sleep(Duration::from_millis(20));
    drop(stream);
    let began = Instant::now();
    while !metrics().contains("alluvium_server_queries_cancelled_total 1\n") {
        assert!(began.elapsed() < Duration::from_secs(20), "it goes on");
    }
    let found = server.get("/api/search?db=test&limit=1").json();
    assert_eq!(found["matching"], 200_000);
    server.stop();
}
