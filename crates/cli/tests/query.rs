//! `alluvium query` of answers that end badly: programs see it by the exit code, people on stderr.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;

/// Exit code, stdout and stderr of a query that is answered with these bytes, after which the connection ends.
fn ask(format: &str, answer: &str) -> (i32, String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut length = 0;
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap() > 2 {
                if let Some(value) = line.strip_prefix("Content-Length: ") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            stream.read_exact(&mut vec![0; length]).unwrap();
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
        });
        run(&url, format)
    })
}

fn run(url: &str, format: &str) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_alluvium"))
        .args(["query", "--url", url, "--format", format, "select m"])
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

fn whole(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
}

const LATE: &str = "the query ran longer than 5 ms; ask for \"less\" or raise the deadline";

#[test]
fn an_error_behind_rows_is_one() {
    let csv = format!("series,time,value\nm,1,2\n-{LATE}\n");
    let (code, out, error) = ask("table", &whole(&csv));
    assert_eq!(
        (code, &*out),
        (1, "series  time  value\nm          1      2\n")
    );
    assert_eq!(error, format!("error: {LATE}\n"));
    let (code, out, error) = ask("csv", &whole(&csv));
    assert_eq!((code, out), (1, csv));
    assert_eq!(error, format!("error: {LATE}\n"));
    let json = format!(
        r#"{{"columns":[],"rows":[["m",1,2]],"warnings":[],"stats":{{}},"error":{LATE:?}}}"#
    );
    let (code, out, error) = ask("json", &whole(&json));
    assert_eq!((code, out), (1, json));
    assert_eq!(error, format!("error: {LATE}\n"));
}

#[test]
fn what_is_missing_is_warned_of() {
    let json = r#"{"columns":[],"rows":[],"warnings":["3 points of m are lost"],"stats":{},"partial":true,"error":null}"#;
    let (code, out, error) = ask("json", &whole(json));
    assert_eq!((code, &*out), (1, json));
    assert_eq!(
        error,
        "warning: points are missing from the answer: 3 points of m are lost\n"
    );
}

#[test]
fn whole_answers_are_no_errors() {
    for (format, body) in [
        ("csv", "m,1,\"a\n-b\"\n"),
        ("csv", "\"-m\",1,2\n"),
        ("csv", "m,1,-2\n"),
        ("csv", ""),
        ("table", "m,1,\"a\n-b\"\n"),
        (
            "json",
            r#"{"columns":[],"rows":[],"warnings":["unknown"],"stats":{},"error":null}"#,
        ),
    ] {
        let (code, out, error) = ask(format, &whole(body));
        assert_eq!((code, &*error), (0, ""), "{body}");
        assert!(format == "table" || out == body, "{out}");
    }
}

#[test]
fn an_answer_that_is_cut_short_is_told_from_a_server_that_is_not_there() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\nContent-",
        &format!("{head}5\r\nm,1,2\r\n"),
        head,
    ] {
        let (code, out, error) = ask("csv", answer);
        assert_eq!((code, &*out), (1, ""), "{answer}");
        assert!(
            error.contains("ended before the answer was whole") && !error.contains("start one"),
            "{answer}: {error}"
        );
    }
    let (_, out, error) = ask("csv", &whole("m,1,2\n").replace("200 OK", "503 Busy"));
    assert_eq!((&*out, &*error), ("", "error: m,1,2\n\n"));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let (code, _, error) = run(&url, "csv");
    assert_eq!(code, 1);
    assert!(
        error.contains("cannot reach a server at http://127"),
        "{error}"
    );
    assert!(error.contains("start one with `alluvium serve`"), "{error}");
}
