//! Every real series of the shared data set over HTTP into the real binary, killed with -9 right after the last
//! answer, read back bit for bit; once for each backend.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "it uses a part of the binary's modules; what is not so fails it"
)]

#[path = "../src/client.rs"]
mod client;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::Client;

const BATCH_LINES: usize = 3000;
/// Far more than a recovery takes; a server that is not ready then hangs.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// One file: its name without endings, what its values are, times and the text of values.
struct Series {
    name: String,
    kind: String,
    points: Vec<(i64, String)>,
}

fn real_series() -> Option<Vec<Series>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    let Ok(files) = std::fs::read_dir(folder) else {
        println!(
            "not shown: the shared data set is absent ({})",
            folder.display()
        );
        return None;
    };
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut all = Vec::new();
    for file in files {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        let Some(series) = name.strip_suffix(".csv.zst") else {
            continue;
        };
        let row = format!("| {name} |");
        let row = readme.lines().find(|l| l.starts_with(&row)).unwrap();
        let packed = std::fs::read(file.path()).unwrap();
        let text = String::from_utf8(zstd::decode_all(&packed[..]).unwrap()).unwrap();
        let points = text.lines().skip(1).map(|line| {
            let (time, value) = line.split_once(',').unwrap();
            (time.parse().unwrap(), value.to_owned())
        });
        all.push(Series {
            name: series.to_owned(),
            kind: row.split('|').nth(2).unwrap().trim().to_owned(),
            points: points.collect(),
        });
    }
    assert!(!all.is_empty(), "the data set is empty");
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Some(all)
}

/// A server that dies with the test.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts and waits until it is ready; an error is what the server said.
    fn start(dir: &Path, io: &str) -> Result<Self, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_alluvium"))
            .args(["serve", "--http", "127.0.0.1:0", "--io", io])
            .args(["--volume-size", "4MiB", "--memory", "512MiB"])
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let url = line
            .split_whitespace()
            .find(|w| w.starts_with("http://"))
            .map(str::to_owned);
        let Some(url) = url else {
            let said = child.wait_with_output().unwrap();
            return Err(String::from_utf8_lossy(&said.stderr).into_owned());
        };
        // What it prints later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        let mut server = Self { child, url };
        let begin = Instant::now();
        while !server.is_ready() {
            if server.child.try_wait().unwrap().is_some() {
                let mut said = String::new();
                let mut errors = server.child.stderr.take().unwrap();
                errors.read_to_string(&mut said).unwrap();
                return Err(said);
            }
            assert!(begin.elapsed() < READY_WITHIN, "not ready in time");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    fn is_ready(&self) -> bool {
        let answer =
            Client::new(&self.url, None).and_then(|mut c| c.request("GET", "/ready", &[], b""));
        answer.is_ok_and(|a| a.status == 200)
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(body: &mut String, series: &Series, time: i64, value: &str) {
    let name = &series.name;
    match series.kind.as_str() {
        "f64" => writeln!(body, "{name},origin=real v={value} {time}"),
        "i64" => writeln!(body, "{name},origin=real v={value}i {time}"),
        "bool" => writeln!(
            body,
            "{name},origin=real v={} {time}",
            ["f", "t"][usize::from(value == "1")]
        ),
        "str" => writeln!(body, "{name},origin=real v=\"{value}\" {time}"),
        other => panic!("{name} is of kind {other}"),
    }
    .unwrap();
}

/// Sends these series, a slice of each in turn, so that each batch holds lines of several.
fn send(url: &str, series: &[&Series]) -> usize {
    let mut client = Client::new(url, None).unwrap();
    let (mut body, mut lines, mut sent) = (String::new(), 0, 0);
    let mut post = |body: &mut String| {
        let answer = client.request("POST", "/write?db=real", &[], body.as_bytes());
        let answer = answer.unwrap();
        assert_eq!(answer.status, 204, "{}", answer.text());
        body.clear();
    };
    let longest = series.iter().map(|s| s.points.len()).max().unwrap_or(0);
    for from in (0..longest).step_by(BATCH_LINES / 5) {
        for series in series {
            for (time, value) in series.points.iter().skip(from).take(BATCH_LINES / 5) {
                line(&mut body, series, *time, value);
                lines += 1;
                sent += 1;
                if lines == BATCH_LINES {
                    post(&mut body);
                    lines = 0;
                }
            }
        }
    }
    post(&mut body);
    sent
}

/// The 64 bits of a number, or the text.
fn bits(kind: &str, text: &str) -> Result<u64, String> {
    match kind {
        "f64" => text.parse::<f64>().map(f64::to_bits).ok(),
        "i64" => text.parse::<i64>().map(i64::cast_unsigned).ok(),
        "bool" if text == "true" || text == "1" => Some(1),
        "bool" if text == "false" || text == "0" => Some(0),
        _ => None,
    }
    .ok_or_else(|| text.to_owned())
}

/// Reads one series and compares it with the last value of each time.
fn compare(client: &mut Client, series: &Series) -> usize {
    let name = &series.name;
    let query = format!(r#"{{"select": "{name}_v", "output": {{"format": "csv"}}}}"#);
    let answer = client
        .request("POST", "/api/query?db=real", &[], query.as_bytes())
        .unwrap();
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    let want: BTreeMap<i64, &str> = series.points.iter().map(|(t, v)| (*t, &**v)).collect();
    let text = answer.text();
    let mut found = text
        .lines()
        .filter_map(|l| l.split_once(','))
        .filter_map(|(_, row)| row.split_once(','))
        .filter(|(time, _)| time.parse::<i64>().is_ok());
    for (time, value) in &want {
        let (found_time, found) = found
            .next()
            .unwrap_or_else(|| panic!("{name}: {time} = {value} is lost"));
        assert_eq!(found_time.parse(), Ok(*time), "{name}: {value} was sent");
        assert_eq!(
            bits(&series.kind, found),
            bits(&series.kind, value),
            "{name} at {time}: {found}, but {value} was sent"
        );
    }
    assert_eq!(found.next(), None, "{name} has more than was sent");
    want.len()
}

fn round_trip(io: &str) {
    let Some(all) = real_series() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let server = match Server::start(dir.path(), io) {
        Ok(server) => server,
        Err(said) if io == "uring" => {
            println!("not shown: the system refuses io_uring: {said}");
            return;
        }
        Err(said) => panic!("{said}"),
    };
    let url = server.url.as_str();
    let sent: usize = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..2)
            .map(|connection| {
                let own: Vec<&Series> = all.iter().skip(connection).step_by(2).collect();
                scope.spawn(move || send(url, &own))
            })
            .collect();
        senders.into_iter().map(|s| s.join().unwrap()).sum()
    });
    server.kill();
    let server = Server::start(dir.path(), io).unwrap();
    let mut client = Client::new(&server.url, None).unwrap();
    let kept: usize = all.iter().map(|s| compare(&mut client, s)).sum();
    println!(
        "{io}: {sent} points of {} series sent, {kept} distinct ones there after kill -9",
        all.len()
    );
}

#[test]
fn real_series_on_pwritev() {
    round_trip("pwritev");
}

#[test]
fn real_series_on_uring() {
    round_trip("uring");
}
