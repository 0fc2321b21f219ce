//! The real binary under load, killed with -9 at random moments, half of the time again while it recovers: no
//! acknowledged point may be lost, changed or doubled.
//!
//! `ALLUVIUM_KILL_CYCLES=20 cargo nextest run -p alluvium-cli --cargo-profile ci kill` runs more cycles than the
//! few of the ordinary tests; `ALLUVIUM_KILL_SEED` repeats a seed, which is printed.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "it uses a part of the binary's modules; what is not so fails it"
)]

#[path = "../src/client.rs"]
mod client;
#[path = "../src/rng.rs"]
mod rng;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use client::Client;
use rng::Rng;

const CONNECTIONS: usize = 2;
const SERIES: u64 = 20;

/// A server that dies with the test.
struct Server {
    child: Child,
    url: String,
    output: BufReader<std::process::ChildStdout>,
}

impl Server {
    /// Starts and reads the line that says where it listens; recovery may still be under way.
    fn start(dir: &Path, io: &str) -> Result<Self, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_alluvium"))
            .args([
                "serve",
                "--http",
                "127.0.0.1:0",
                "--io",
                io,
                "--volume-size",
                "4MiB",
                "--memory",
                "512MiB",
            ])
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
        if let Some(url) = url {
            Ok(Self { child, url, output })
        } else {
            let rest = child.wait_with_output().unwrap();
            Err(String::from_utf8_lossy(&rest.stderr).into_owned())
        }
    }

    /// Reads on until recovery is done, which the second line says.
    fn wait_ready(&mut self) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        if !line.starts_with("io: ") {
            let mut error = String::new();
            let stderr = self.child.stderr.take().unwrap();
            BufReader::new(stderr).read_line(&mut error).unwrap();
            panic!("the server did not come back: {line}{error}");
        }
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

/// What one point may hold: the acknowledged value, and values of requests whose answer never came.
#[derive(Debug, Default, Clone)]
struct Possible {
    /// `None` before any was acknowledged.
    acknowledged: Option<i64>,
    in_doubt: Vec<i64>,
}

type Oracle = HashMap<(String, i64), Possible>;

/// One connection: batches of new, late and overwriting points until the server is gone. Each batch that was
/// acknowledged is told to `acks`. Returns what it knows.
fn load(
    url: &str,
    connection: usize,
    mut rng: Rng,
    first_value: i64,
    mut oracle: Oracle,
    acks: &mpsc::Sender<()>,
) -> (Oracle, i64) {
    let mut client = Client::new(url, None).unwrap();
    let mut value = first_value;
    loop {
        let mut body = String::new();
        let mut batch = Vec::new();
        for _ in 0..=rng.below(60) {
            let series = format!("m connection={connection} series={}", rng.below(SERIES));
            // Values grow with every line, and times mostly with values; some are late or hit an older point.
            let time = match rng.below(10) {
                0 => rng.below(value.max(1) as u64) as i64,
                _ => value,
            } * 1000;
            let tags = series.replace(' ', ",");
            writeln!(body, "{tags} n={value}i,w={value}.5 {time}").unwrap();
            batch.push(((series, time), value));
            value += 1;
        }
        let answer = client.request("POST", "/write?db=kill", &[], body.as_bytes());
        if let Ok(answer) = answer {
            assert_eq!(answer.status, 204, "{}", answer.text());
            for (point, value) in batch {
                oracle.insert(
                    point,
                    Possible {
                        acknowledged: Some(value),
                        in_doubt: Vec::new(),
                    },
                );
            }
            if acks.send(()).is_err() {
                // Nobody counts any more: the server was killed between two requests.
                return (oracle, value);
            }
        } else {
            for (point, value) in batch {
                oracle.entry(point).or_default().in_doubt.push(value);
            }
            return (oracle, value);
        }
    }
}

/// All points of one metric as the server tells them, none twice.
fn read(url: &str, metric: &str) -> BTreeMap<(String, i64), String> {
    let mut client = Client::new(url, None).unwrap();
    let query = format!(r#"{{"select": "{metric}", "output": {{"format": "csv"}}}}"#);
    let answer = client
        .request("POST", "/api/query?db=kill", &[], query.as_bytes())
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut points = BTreeMap::new();
    for line in answer.text().lines() {
        let cells: Vec<&str> = line.split(',').collect();
        let series = cells[0].replacen(metric, "m", 1);
        let before = points.insert((series, cells[1].parse().unwrap()), cells[2].to_owned());
        assert!(before.is_none(), "a point came twice: {line}");
    }
    points
}

/// Compares, then settles what was in doubt by what is there.
fn compare(url: &str, oracle: &mut Oracle) {
    let integers = read(url, "m_n");
    let floats = read(url, "m_w");
    for (point, value) in &integers {
        let possible = oracle
            .get(point)
            .unwrap_or_else(|| panic!("{point:?} = {value} was never written"));
        let found: i64 = value.parse().unwrap();
        assert!(
            possible.acknowledged == Some(found) || possible.in_doubt.contains(&found),
            "{point:?} is {found}, but should be {possible:?}"
        );
        let float = floats
            .get(point)
            .unwrap_or_else(|| panic!("{point:?} has lost its other field"));
        assert_eq!(*float, format!("{found}.5"), "{point:?}");
    }
    assert_eq!(integers.len(), floats.len());
    oracle.retain(|point, possible| {
        if let Some(value) = integers.get(point) {
            *possible = Possible {
                acknowledged: value.parse().ok(),
                in_doubt: Vec::new(),
            };
            true
        } else {
            assert_eq!(
                possible.acknowledged, None,
                "{point:?} was acknowledged and is lost"
            );
            false
        }
    });
}

fn cycles(io: &str) {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(default)
    };
    let cycles = number("ALLUVIUM_KILL_CYCLES", 4);
    let seed = number("ALLUVIUM_KILL_SEED", 1);
    println!("{cycles} cycles on {io}, seed {seed}");
    let mut rng = Rng::new(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut oracles: Vec<Oracle> = vec![Oracle::new(); CONNECTIONS];
    let mut values = [1_i64; CONNECTIONS];
    let mut killed_in_recovery = 0;
    for cycle in 0..=cycles {
        let mut server = match Server::start(directory.path(), io) {
            Ok(server) => server,
            Err(error) if cycle == 0 && io == "uring" => {
                println!("not shown: the system refuses io_uring: {error}");
                return;
            }
            Err(error) => panic!("cycle {cycle}: {error}"),
        };
        if cycle > 0 && cycle % 2 == 0 {
            // It listens and recovers: killed somewhere on the way, it must come back all the same.
            std::thread::sleep(std::time::Duration::from_micros(rng.below(15_000)));
            server.kill();
            killed_in_recovery += 1;
            server = Server::start(directory.path(), io).unwrap();
        }
        server.wait_ready();
        if cycle > 0 {
            let mut whole: Oracle = oracles.iter().flat_map(std::clone::Clone::clone).collect();
            compare(&server.url, &mut whole);
            for (connection, oracle) in oracles.iter_mut().enumerate() {
                let own = format!("m connection={connection} ");
                *oracle = whole
                    .iter()
                    .filter(|((s, _), _)| s.starts_with(&own))
                    .map(|(p, v)| (p.clone(), v.clone()))
                    .collect();
            }
        }
        if cycle == cycles {
            let points: usize = oracles.iter().map(Oracle::len).sum();
            println!(
                "{points} points compared after {cycles} kills, {killed_in_recovery} more during recovery"
            );
            assert!(points > 1000, "the load was too small to show anything");
            return;
        }
        let (acks, acknowledged) = mpsc::channel();
        let url = server.url.clone();
        let loads: Vec<_> = (0..CONNECTIONS)
            .map(|connection| {
                let (url, acks) = (url.clone(), acks.clone());
                let (rng, oracle, value) = (
                    Rng::new(rng.next()),
                    std::mem::take(&mut oracles[connection]),
                    values[connection],
                );
                std::thread::spawn(move || load(&url, connection, rng, value, oracle, &acks))
            })
            .collect();
        drop(acks);
        // The moment is so many acknowledged batches away; a checkpoint may be under way then.
        let batches = 20 + rng.below(120);
        let checkpoint_at = rng.below(2 * batches);
        for batch in 0..batches {
            acknowledged
                .recv()
                .expect("both connections failed before the kill");
            if batch == checkpoint_at {
                let url = url.clone();
                std::thread::spawn(move || {
                    let mut client = Client::new(&url, None).unwrap();
                    let _ = client.request("POST", "/api/checkpoint", &[], b"");
                });
            }
        }
        server.kill();
        drop(acknowledged);
        for (connection, load) in loads.into_iter().enumerate() {
            (oracles[connection], values[connection]) = load.join().unwrap();
        }
    }
}

#[test]
fn killed_on_pwritev() {
    cycles("pwritev");
}

#[test]
fn killed_on_uring() {
    cycles("uring");
}
