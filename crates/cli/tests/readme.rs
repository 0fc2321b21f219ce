//! What README tells people to type answers what README says.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "it uses a part of the binary's modules; what is not so fails it"
)]

#[path = "../src/client.rs"]
mod client;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use client::Client;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The pairs of a command and its answer.
fn examples(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for part in text.split("```sh curl\n").skip(1) {
        let (command, rest) = part.split_once("```").unwrap();
        let answer = rest
            .trim_start()
            .strip_prefix("```text answer\n")
            .expect("an answer behind the command");
        found.push((
            command.to_owned(),
            answer.split("```").next().unwrap().to_owned(),
        ));
    }
    found
}

/// Words of a command as a shell splits them: single quotes only.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (i, part) in command.trim().split('\'').enumerate() {
        if i % 2 == 1 {
            words.last_mut().unwrap().push_str(part);
            continue;
        }
        let mut pieces = part.split(' ');
        words.last_mut().unwrap().push_str(pieces.next().unwrap());
        words.extend(pieces.map(str::to_owned));
    }
    words.retain(|w| !w.is_empty());
    words
}

#[test]
fn curl_lines_of_the_readme() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server(
        Command::new(env!("CARGO_BIN_EXE_alluvium"))
            .args(["serve", "--http", "127.0.0.1:0", "--memory", "256MiB"])
            .arg(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let listening = lines.next().unwrap().unwrap();
    let url = listening
        .split_whitespace()
        .find(|w| w.starts_with("http://"))
        .unwrap()
        .to_owned();
    // The curl line is printed last, once the server takes requests.
    let pasted = lines
        .map(Result::unwrap)
        .find(|l| l.starts_with("try: "))
        .unwrap();
    let mut client = Client::new(&url, None).unwrap();
    let mut run = |command: &str| {
        let words = words(command);
        assert_eq!(words[0], "curl", "{command}");
        let path = words
            .iter()
            .find_map(|w| w.strip_prefix("http://"))
            .unwrap();
        let path = &path[path.find('/').unwrap()..];
        let body = words
            .iter()
            .position(|w| w == "-d" || w == "--data-binary")
            .map(|at| words[at + 1].as_str());
        let method = if body.is_some() { "POST" } else { "GET" };
        let answer = client
            .request(method, path, &[], body.unwrap_or_default().as_bytes())
            .unwrap();
        assert!(answer.status < 300, "{command}: {}", answer.text());
        answer.text()
    };
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let examples = examples(&readme);
    assert!(examples.len() >= 5);
    for (command, answer) in examples {
        assert_eq!(run(&command).trim(), answer.trim(), "{command}");
    }
    run(pasted.strip_prefix("try: ").unwrap());
}

#[test]
fn what_is_wrong_is_said_in_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("novel.txt"), "Chapter 1").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let foreign = directory.path().to_str().unwrap();
    for (args, code, what) in [
        (
            vec!["serve", "--http", "127.0.0.1:0", foreign],
            1,
            "novel.txt",
        ),
        (
            vec!["serve", "--http", &port, foreign],
            1,
            "in use by another process",
        ),
        (
            vec!["serve", "--http", "0.0.0.0:0", foreign],
            1,
            "--token-file",
        ),
        (vec!["serve", "--http", "nowhere", foreign], 1, "HOST:PORT"),
        (
            vec!["serve", "--io", "punched-cards", foreign],
            1,
            "punched-cards",
        ),
        (
            vec!["query", "--url", "http://127.0.0.1:1", "count m"],
            1,
            "alluvium serve",
        ),
        (vec!["query", "count m sometimes 3"], 1, "not understood"),
        (vec!["inspect", "volume", foreign], 1, "no superblock"),
        (vec!["serve", "--shards", "many"], 2, "many"),
        (vec!["dance"], 2, "dance"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_alluvium"))
            .args(&args)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(what), "{args:?}: {text}");
        assert!(code == 2 || text.lines().count() == 1, "{args:?}: {text}");
    }
    assert_eq!(
        std::fs::read_to_string(directory.path().join("novel.txt")).unwrap(),
        "Chapter 1"
    );
}

#[test]
fn the_demo_fills_draws_stops_and_is_there_to_inspect() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("demo");
    let dir = dir.to_str().unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_alluvium"))
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    };
    let text = run(&[
        "demo",
        "--once",
        "--memory",
        "512MiB",
        "--volume-size",
        "16MiB",
        dir,
    ]);
    assert!(
        text.contains("cpu_usage_user of web-01") && text.contains("stopped cleanly"),
        "{text}"
    );
    let again = run(&[
        "demo",
        "--once",
        "--memory",
        "512MiB",
        "--volume-size",
        "16MiB",
        dir,
    ]);
    assert!(again.contains("closed cleanly before"), "{again}");
    // Only what passed since then is filled.
    assert!(!again.contains("1440 minutes"), "{again}");
    let volumes = run(&["inspect", "volume", dir]);
    assert!(
        volumes.contains(" leaf") && volumes.contains(", 0 damaged"),
        "{volumes}"
    );
    let tree = run(&["inspect", "tree", dir, "1"]);
    let first = tree.lines().nth(1).unwrap();
    let at = first
        .split(" at ")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    let (volume, page) = at.split_once(':').unwrap();
    let page = run(&["inspect", "page", dir, volume, page]);
    assert!(
        page.contains("generation") && !page.contains("damaged"),
        "{page}"
    );
}
