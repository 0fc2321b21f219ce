//! `alluvium demo`: a database with a day of believable hosts in it, from one command.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use alluvium_io::{Clock, SystemClock};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::DemoArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::hosts::{HOSTS, STEP_S, VALUES, write_lines};
use crate::plot::plot;
use crate::serve::{runtime, say, start, until_stopped};
use crate::settings;

const DATABASE: &str = "demo";
const HISTORY_S: i64 = 86_400;
/// Instants of one request: 5,000 lines.
const BATCH_STEPS: i64 = 100;

pub(crate) fn run(args: &DemoArgs) -> Result<(), CliError> {
    let mut config = settings::config(&args.dir, &args.flags)?;
    if args.once && args.flags.http.is_none() {
        config.http = "127.0.0.1:0".into();
    }
    let token = None;
    if config.token_file.is_some() {
        return Err(CliError::said(
            "the demo writes without a token; leave --token-file out",
        ));
    }
    let runtime = runtime()?;
    let running = runtime.block_on(start(config, &format!("data in {}", args.dir.display())))?;
    let url = format!("http://{}", running.address());
    let stop = Arc::new(AtomicBool::new(false));
    // The feeder is a client like any other.
    let feeder = {
        let (url, stop, once) = (url.clone(), Arc::clone(&stop), args.once);
        std::thread::spawn(move || -> Result<(), CliError> {
            let mut client =
                Client::new(&url, token).map_err(CliError::io("cannot ask the server"))?;
            let filled = fill(&mut client, &stop)?;
            show(&mut client, &url)?;
            if !once {
                feed(&mut client, filled, &stop)?;
            }
            Ok(())
        })
    };
    let fed = runtime.block_on(async {
        let feeding = tokio::task::spawn_blocking(move || {
            feeder
                .join()
                .unwrap_or_else(|_| Err(CliError::said("the demo's feeder met a bug")))
        });
        tokio::pin!(feeding);
        let fed = tokio::select! {
            fed = &mut feeding => fed,
            stopped = until_stopped() => {
                stop.store(true, Ordering::Release);
                let fed = feeding.await;
                stopped?;
                fed
            }
        };
        let fed = fed.unwrap_or_else(|_| Err(CliError::said("the demo's feeder met a bug")));
        running.stop().await?;
        fed
    });
    fed?;
    say("stopped cleanly");
    Ok(())
}

fn now_s() -> i64 {
    SystemClock.wall_ns() / 1_000_000_000
}

/// Writes what is missing of the last day. Returns the last instant written.
fn fill(client: &mut Client, stop: &AtomicBool) -> Result<i64, CliError> {
    let end = now_s() / STEP_S * STEP_S;
    let day_ago = end - HISTORY_S;
    let begin = newest(client)?.map_or(day_ago, |newest| {
        (newest + STEP_S).clamp(day_ago, end + STEP_S)
    });
    let steps = (end - begin) / STEP_S + 1;
    if steps <= 0 {
        return Ok(end);
    }
    let values = steps as u64 * HOSTS.len() as u64 * VALUES;
    say(&format!(
        "filling database {DATABASE}: {} hosts, {} minutes, {values} values",
        HOSTS.len(),
        steps * STEP_S / 60
    ));
    let terminal = std::io::stderr().is_terminal();
    let bar = if terminal {
        ProgressBar::new(values)
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template(
        "{bar:40} {human_pos} of {human_len} values, {per_sec}, {eta} left",
    ) {
        bar.set_style(style);
    }
    let began = Instant::now();
    let mut time = begin;
    let mut body = String::new();
    let mut tenth = 1;
    while time <= end && !stop.load(Ordering::Acquire) {
        body.clear();
        let last = (time + (BATCH_STEPS - 1) * STEP_S).min(end);
        for host in 0..HOSTS.len() {
            for at in (time..=last).step_by(STEP_S as usize) {
                write_lines(&mut body, host, at);
            }
        }
        write(client, body.as_bytes())?;
        bar.inc(((last - time) / STEP_S + 1) as u64 * HOSTS.len() as u64 * VALUES);
        time = last + STEP_S;
        let done = (time - begin) / STEP_S * 10 / steps;
        if !terminal && done >= tenth {
            say(&format!("  {} %", done * 10));
            tenth = done + 1;
        }
    }
    bar.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64();
    say(&format!(
        "filled in {seconds:.1} s, {:.0} values/s, each batch flushed before the next",
        values as f64 / seconds
    ));
    Ok(end)
}

/// The newest second that the first host has, if there is one.
fn newest(client: &mut Client) -> Result<Option<i64>, CliError> {
    let host = HOSTS[0].0;
    let query = format!(
        r#"{{"aggregate": {{"system_load1": "last_timestamp"}}, "where": {{"host": "{host}"}}, "output": {{"format": "csv"}}}}"#
    );
    let answer = ask(client, &query)?;
    if answer.0 == 404 {
        return Ok(None);
    }
    let ns = answer
        .1
        .trim()
        .rsplit(',')
        .next()
        .and_then(|t| t.parse::<i64>().ok());
    Ok(ns.map(|ns| ns / 1_000_000_000))
}

fn write(client: &mut Client, body: &[u8]) -> Result<(), CliError> {
    loop {
        let path = format!("/write?db={DATABASE}&precision=s");
        let answer = client
            .request("POST", &path, &[], body)
            .map_err(CliError::io("cannot write to the server"))?;
        match answer.status {
            204 => return Ok(()),
            503 => std::thread::sleep(Duration::from_secs(1)),
            _ => {
                return Err(CliError::said(format!(
                    "the server refused the demo's points: {}",
                    answer.text()
                )));
            }
        }
    }
}

fn ask(client: &mut Client, query: &str) -> Result<(u16, String), CliError> {
    let path = format!("/api/query?db={DATABASE}");
    let answer = client
        .request("POST", &path, &[], query.as_bytes())
        .map_err(CliError::io("cannot ask the server"))?;
    Ok((answer.status, answer.text()))
}

/// Prints a plot of a real query, and queries to paste.
fn show(client: &mut Client, url: &str) -> Result<(), CliError> {
    let query = r#"{"group-aggregate": {"metric": "cpu_usage_user", "step": "10m", "func": "mean"}, "where": {"host": "web-01"}, "range": {"from": "now-1d", "to": "now"}, "output": {"format": "csv"}}"#;
    let (status, text) = ask(client, query)?;
    if status != 200 {
        return Err(CliError::said(format!("the demo's query failed: {text}")));
    }
    let points: Vec<(i64, f64)> = text
        .lines()
        .filter_map(|line| {
            let mut columns = line.rsplit(',');
            let value = columns.next()?.parse().ok()?;
            Some((columns.next()?.parse::<i64>().ok()? / 1_000_000_000, value))
        })
        .collect();
    say("");
    say(plot(
        "cpu_usage_user of web-01, mean of 10 minutes, last 24 hours",
        &points,
        72,
        10,
    )
    .trim_end());
    say("\nqueries to paste:");
    for body in [
        query.replace(r#", "output": {"format": "csv"}"#, ""),
        r#"{"aggregate": {"mem_used_percent": ["min", "max", "mean"]}, "pivot-by-tag": "host", "output": {"format": "csv"}}"#.into(),
        r#"{"group-aggregate": {"metric": "net_bytes_recv", "step": "1h", "func": "rate"}, "group-by-tag": ["host", "interface"], "range": {"from": "now-6h", "to": "now"}, "output": {"format": "csv"}}"#.into(),
        r#"{"select": "system_state", "where": {"role": "web"}, "range": {"from": "now", "to": "now-1m"}, "output": {"format": "csv", "timestamp": "iso"}}"#.into(),
    ] {
        say(&format!("  curl '{url}/api/query?db={DATABASE}' -d '{body}'"));
    }
    say(&format!(
        "  alluvium query --url {url} --db {DATABASE} max cpu_usage_user by role every 3h since 1d"
    ));
    Ok(())
}

/// Writes each instant as it comes, until told to stop.
fn feed(client: &mut Client, mut filled: i64, stop: &AtomicBool) -> Result<(), CliError> {
    say(&format!(
        "\nfeeding live every {STEP_S} s; Ctrl-C stops cleanly"
    ));
    let mut body = String::new();
    while !stop.load(Ordering::Acquire) {
        let now = now_s();
        if now < filled + STEP_S {
            std::thread::sleep(Duration::from_millis(200));
            continue;
        }
        body.clear();
        // After a long sleep of the machine the gap is filled in pieces.
        let last = (now / STEP_S * STEP_S).min(filled + BATCH_STEPS * STEP_S);
        for time in (filled + STEP_S..=last).step_by(STEP_S as usize) {
            for host in 0..HOSTS.len() {
                write_lines(&mut body, host, time);
            }
        }
        write(client, body.as_bytes())?;
        filled = last;
    }
    Ok(())
}
