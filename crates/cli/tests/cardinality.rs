//! The real binary: `alluvium cardinality` asks a running server, in a table and in JSON, and says what is wrong.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "it uses a part of the binary's modules; what is not so fails it"
)]

mod common;

use std::fmt::Write as _;

use common::{Server, alluvium, said};

#[test]
fn a_running_server_is_counted() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = Server::start(root.path(), &[]);
    let mut body = String::new();
    for host in 0..30 {
        let zone = host % 3;
        writeln!(body, "cpu,host=h{host},zone=z{zone} user=1,idle=2").unwrap();
    }
    body.push_str("mem,host=h1 free=3\n");
    let (status, text) = server.ask("POST", "/write?db=db", &body);
    assert_eq!(status, 204, "{text}");

    let url = ["--url", &server.url];
    let table = alluvium(&[&["cardinality", "--db", "db"], &url[..]].concat());
    let text = said(&table);
    assert!(table.status.success(), "{text}");
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines[0],
        "61 series, 31 tag sets, 2 measurements, 2 tags; ~ marks estimates"
    );
    for row in [
        "60 30 cpu",
        "1 1 mem",
        "30 31 host",
        "3 30 zone",
        "10 zone z1",
    ] {
        assert!(lines.iter().any(|line| line == row), "{row}: {text}");
    }
    let last = lines.last().unwrap();
    assert!(last.starts_with("new series: "), "{text}");

    let top = ["cardinality", "--db", "db", "--top", "1", "--json"];
    let json = alluvium(&[&top, &url[..]].concat());
    let json: serde_json::Value = serde_json::from_str(&said(&json)).unwrap();
    assert_eq!(json["series"]["count"], 61);
    assert_eq!(json["measurements"].as_array().unwrap().len(), 1);

    let none = alluvium(&[&["cardinality", "--db", "none"], &url[..]].concat());
    assert!(!none.status.success() && said(&none).contains("none"));
    let nobody = ["cardinality", "--db", "db", "--url", "http://127.0.0.1:9"];
    let nobody = alluvium(&nobody);
    assert!(!nobody.status.success());
    assert!(
        said(&nobody).contains("alluvium serve"),
        "{}",
        said(&nobody)
    );
}
