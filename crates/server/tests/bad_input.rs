//! What must not hurt the others: unfinished bodies, bombs, garbage, readers that go away.

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use alluvium_server::{Config, Limits, Storage};
use common::{Server, memory_config, read_answer};

#[test]
fn unfinished_bodies_do_not_slow_other_writers() {
    let server = Server::memory();
    let mut unfinished = Vec::new();
    for i in 0..200 {
        let mut stream = server.connect();
        let head = if i % 2 == 0 {
            "Content-Length: 1000000"
        } else {
            "Transfer-Encoding: chunked"
        };
        write!(
            stream,
            "POST /write?db=test HTTP/1.1\r\nHost: t\r\n{head}\r\n\r\n"
        )
        .unwrap();
        stream
            .write_all(if i % 2 == 0 {
                b"m,x=1 a="
            } else {
                b"8\r\nm,x=1 a=\r\n"
            })
            .unwrap();
        unfinished.push(stream);
    }
    let began = Instant::now();
    for i in 0..50 {
        assert_eq!(server.write(format!("m a={i} {i}")).status, 204);
    }
    // Fifty acknowledged writes on a device in memory; a lock held by a body would hold them for 30 s.
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let status = server.get("/status").json();
    let held = status["store"]["memory"]["by_owner"]["bodies"]
        .as_u64()
        .unwrap();
    assert!(
        held <= 200 * 16,
        "{held} bytes are held for 200 bodies of 8 bytes"
    );
    let rows = server.query(r#"{"aggregate": {"m_a": "count"}, "output": {"format": "csv"}}"#);
    assert_eq!(rows, "m_a,0,50\n");
    // One of them goes on and is taken.
    let mut last = unfinished.pop().unwrap();
    last.write_all(b"5\r\n1 99\n\r\n0\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    last.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 204");
    drop(unfinished);
    drop(last);
    server.stop();
}

#[test]
fn a_body_without_progress_is_given_up() {
    let mut config = memory_config();
    config.limits.body_idle = Duration::from_millis(200);
    let server = Server::start(config);
    let mut stream = server.connect();
    write!(
        stream,
        "POST /write?db=test HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nm a="
    )
    .unwrap();
    let answer = read_answer(&mut stream);
    assert_eq!(answer.status, 408);
    assert!(answer.text().contains("no progress"), "{}", answer.text());
    assert!(
        server
            .get("/metrics")
            .text()
            .contains("alluvium_server_bodies_idle_total 1\n")
    );
    server.stop();
}

/// The forms of `/query` are bodies like any other.
#[test]
fn forms_that_are_too_large_or_stop_are_refused_as_bodies_are() {
    let mut config = memory_config();
    config.limits.body_idle = Duration::from_millis(200);
    let server = Server::start(config);
    let large = format!("q={}", "SHOW+DATABASES;".repeat(100_000));
    let answer = server.post("/query", large);
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(
        answer.json()["error"].as_str().unwrap().contains("1048576"),
        "{}",
        answer.text()
    );
    let mut stream = server.connect();
    write!(
        stream,
        "POST /query HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nq="
    )
    .unwrap();
    let answer = read_answer(&mut stream);
    assert_eq!(answer.status, 408, "{}", answer.text());
    server.stop();
}

#[test]
fn bodies_have_a_size() {
    let mut config = memory_config();
    config.limits.body_bytes_max = 100_000;
    let server = Server::start(config);
    let large = vec![b'x'; 200_000];
    assert_eq!(server.write(&large).status, 413);
    // The same without saying so before.
    let mut stream = server.connect();
    write!(
        stream,
        "POST /write?db=test HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .unwrap();
    let _ = write!(stream, "{:x}\r\n", large.len()).and_then(|()| stream.write_all(&large));
    assert_eq!(read_answer(&mut stream).status, 413);
    // A bomb: 100 MB in about 100 KB.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..90 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let answer = server.send("POST", "/write?db=test", &["Content-Encoding: gzip"], &bomb);
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(answer.text().contains("after decompression"));
    assert_eq!(server.write("m a=1 1").status, 204);
    server.stop();
}

#[test]
fn garbage_and_endless_lines_are_refused_line_by_line() {
    let mut config = memory_config();
    config.limits = Limits {
        body_bytes_max: 128 << 20,
        ..Limits::default()
    };
    let server = Server::start(config);
    let mut state = 42_u64;
    let garbage: Vec<u8> = (0..1_000_000)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    let answer = server.write(&garbage);
    assert_eq!(answer.status, 400);
    assert!(answer.json()["lines"].as_array().unwrap().len() <= 100);
    // 64 MiB in one line, between good ones.
    let mut body = b"m a=1 1\nm a=".to_vec();
    body.resize(body.len() + (64 << 20), b'7');
    body.extend_from_slice(b"\nm a=3 3\n");
    let began = Instant::now();
    let answer = server.write(&body);
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json()["lines"][0]["line"], 2);
    assert!(
        answer.text().contains("line longer than 1048576 bytes"),
        "{}",
        answer.text()
    );
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        server.query(r#"{"select": "m_a", "output": {"format": "csv"}}"#),
        "m_a,1,1.0\nm_a,3,3.0\n"
    );
    server.stop();
}

#[test]
fn broken_requests_do_not_stop_the_server() {
    let server = Server::memory();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET\r\n\r\n",
        b"POST /write HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ] {
        let mut stream = server.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{answer:?}"
        );
    }
    let long = format!("/ping?{}", "x".repeat(100_000));
    let mut stream = server.connect();
    let _ = write!(stream, "GET {long} HTTP/1.1\r\nHost: t\r\n\r\n");
    let answer = read_answer(&mut stream);
    assert!(
        answer.status == 431 || answer.status == 414,
        "{}",
        answer.head
    );
    assert_eq!(server.get("/ping").status, 204);
    server.stop();
}

#[test]
fn a_reader_that_goes_away_cancels_its_query() {
    let mut config = memory_config();
    config.limits.queries_max = 1;
    let server = Server::start(config);
    let mut lines = Vec::new();
    for i in 0..300_000 {
        writeln!(lines, "m,series=s{} a={i} {i}", i % 3).unwrap();
    }
    assert_eq!(server.write(&lines).status, 204);
    let query = r#"{"select": "m_a"}"#;
    for _ in 0..3 {
        let mut stream = server.connect();
        write!(
            stream,
            "POST /api/query?db=test HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{query}",
            query.len()
        )
        .unwrap();
        let mut some = [0; 1000];
        stream.read_exact(&mut some).unwrap();
        drop(stream);
    }
    // There is one permit for queries: the next one runs only if those before gave theirs back.
    let rows = server.query(
        r#"{"aggregate": {"m_a": "count"}, "group-by-tag": "series", "output": {"format": "csv"}}"#,
    );
    assert_eq!(rows, "m_a,0,300000\n");
    assert!(
        server
            .get("/metrics")
            .text()
            .contains("alluvium_server_queries_cancelled_total 3\n")
    );
    server.stop();
}

#[test]
fn limits_of_queries_are_named() {
    let mut config = memory_config();
    config.limits.query_memory_bytes = 10_000;
    let server = Server::start(config);
    let mut lines = Vec::new();
    for i in 0..1000 {
        writeln!(lines, "m,series=s{i} a={i} {i}").unwrap();
    }
    assert_eq!(server.write(lines).status, 204);
    let answer = server.post("/api/query?db=test", r#"{"select": "m_a"}"#);
    assert_eq!(answer.json()["code"], "query_memory", "{}", answer.text());
    assert_eq!(answer.status, 400);
    server.stop();

    let mut config = memory_config();
    config.limits.query_deadline = Duration::ZERO;
    let server = Server::start(config);
    assert_eq!(server.write("m a=1 1").status, 204);
    let answer = server.post("/api/query?db=test", r#"{"select": "m_a"}"#);
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (503, Some("deadline_exceeded"))
    );
    assert_eq!(answer.header("retry-after"), Some("1"));
    server.stop();
}

#[test]
fn a_budget_that_is_used_up_is_503() {
    let mut config = memory_config();
    config.store.memory_bytes = 8 << 20;
    let server = Server::start(config);
    let answer = server.write(vec![b'x'; 20_000_000]);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.text().contains("memory budget"), "{}", answer.text());
    assert_eq!(server.write("m a=1 1").status, 204);
    server.stop();
}

/// What lines take between parsing and commit is several times their text: it is asked for, refused, and given back, while
/// queries, deletes and small writes go on.
#[test]
fn batches_that_do_not_fit_are_503_and_keep_nothing() {
    let mut config = memory_config();
    config.store.memory_bytes = 64 << 20;
    let server = Server::start(config);
    assert_eq!(server.write("m a=1 0").status, 204);
    let query = r#"{"aggregate": {"m_a": "count"}, "output": {"format": "csv"}}"#;
    let body = "m a=1,b=1,c=1,d=1,e=1 1\n".repeat(500_000);
    for round in 0..3 {
        let refused = std::thread::scope(|scope| {
            let posts: Vec<_> = (0..4)
                .map(|number| {
                    let (server, body) = (&server, &body);
                    scope.spawn(move || server.post(&format!("/write?db=large-{number}"), body))
                })
                .collect();
            assert_eq!(server.query(query), "m_a,0,1\n");
            let answers = posts.into_iter().map(|post| post.join().unwrap());
            let refused = answers.filter(|answer| {
                let is_refused = answer.status == 503;
                assert!(is_refused || answer.status == 204, "{}", answer.text());
                assert!(
                    !is_refused
                        || answer.text().contains("memory budget")
                            && answer.header("retry-after").is_some(),
                    "{}: {}",
                    answer.head,
                    answer.text()
                );
                is_refused
            });
            refused.count()
        });
        assert!(refused > 0, "round {round}: everything fits");
        assert_eq!(server.query(query), "m_a,0,1\n");
        assert_eq!(server.write("m a=1 0").status, 204);
        let status = server.get("/status").json();
        let staged = status["store"]["memory"]["by_owner"]["staging"].as_u64();
        assert!(staged.is_some_and(|bytes| bytes < 1 << 20), "{staged:?}");
    }
    let delete = server.post("/api/delete?db=test", r#"{"measurement": "m"}"#);
    assert_eq!(delete.status, 200, "{}", delete.text());
    server.stop();
}

#[test]
fn what_keeps_a_server_from_starting_is_one_sentence() {
    let server = Server::memory();
    let error = |config: Config| match Server::try_start(config) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    };
    let mut taken = memory_config();
    taken.http = server.address.to_string();
    assert!(error(taken).contains("is in use by another process"));
    let mut open = memory_config();
    open.http = "0.0.0.0:0".into();
    assert!(error(open).contains("--token-file"));
    let mut tokens = memory_config();
    tokens.token_file = Some("/nonexistent/tokens".into());
    assert!(error(tokens).contains("/nonexistent/tokens"));

    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("precious.txt"), "mine").unwrap();
    let storage = |path: &std::path::Path| {
        let mut config = memory_config();
        config.storage = Storage::Directory {
            path: path.into(),
            options: alluvium_io::DeviceOptions::default(),
        };
        config
    };
    let foreign = error(storage(directory.path()));
    let shown = directory.path().display();
    let sentence = format!(
        "cannot use the directory {shown}: it holds \"precious.txt\" but no superblock, so it is not an \
         Alluvium directory; choose an empty or a new one"
    );
    assert_eq!(foreign, sentence);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!(
        std::fs::read_to_string(directory.path().join("precious.txt")).unwrap(),
        "mine"
    );
    server.stop();
}

#[test]
fn a_directory_keeps_its_points_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let config = || {
        let mut config = memory_config();
        config.storage = Storage::Directory {
            path: directory.path().into(),
            options: alluvium_io::DeviceOptions::default(),
        };
        config
    };
    let server = Server::start(config());
    assert_eq!(server.write("m a=1 1\nm a=2 2").status, 204);
    let locked = match Server::try_start(config()) {
        Ok(_) => panic!("two servers have one directory open"),
        Err(error) => error.to_string(),
    };
    assert!(locked.contains("another process"), "{locked}");
    server.stop();
    let server = Server::start(config());
    assert_eq!(
        server.query(r#"{"select": "m_a", "output": {"format": "csv"}}"#),
        "m_a,1,1.0\nm_a,2,2.0\n"
    );
    assert_eq!(
        server.get("/status").json()["store"]["recovery"]["clean"],
        true
    );
    server.stop();
}
