//! What selections cost in a store of this process: the match, and the listing of the series that it finds.

use std::time::{Duration, Instant};

use alluvium_io::thread_cpu_time;
use alluvium_store::{
    Clock, Database, Label, Matcher, Selector, Snapshot, StoreError, SystemClock, Test,
};
use alluvium_types::TimeRange;

use crate::bench_cardinality::failed;
use crate::error::CliError;
use crate::serve::say;

/// Tag sets up to which a selection is also listed: more take seconds.
const LISTED_MAX: u64 = 100_000;

/// Times that it is.
const LISTINGS: usize = 3;

/// Matches several selections `runs` times each among hosts numbered to `series`, and lists what few enough match.
pub(crate) fn ask(database: &Database, series: u64, runs: usize) -> Result<(), CliError> {
    say("selections: minimum/median ms of this thread's processor, and of wall time");
    let now = SystemClock.wall_ns();
    let today = TimeRange::new(now - 3_600_000_000_000, now)
        .map_err(|_| CliError::said("the clock is set before 1970"))?;
    for (what, matchers) in selections(series / 2) {
        let selector = Selector { matchers };
        let snapshot = database.snapshot();
        let (cold, found) = timed(|| matching(&snapshot, &selector, TimeRange::ALL))?;
        let repeated = |range| -> Result<Vec<Taken>, CliError> {
            let of_match = (0..runs).map(|_| timed(|| matching(&snapshot, &selector, range)));
            of_match.map(|run| Ok(run?.0)).collect()
        };
        let (of_match, of_day) = (repeated(TimeRange::ALL)?, repeated(today)?);
        let listed = if found > LISTED_MAX {
            "not listed".to_owned()
        } else {
            let list = || snapshot.select(&selector).map(|found| found.len() as u64);
            let lists = (0..LISTINGS).map(|_| timed(list));
            let lists: Vec<(Taken, u64)> = lists.collect::<Result<_, _>>()?;
            if lists.iter().any(|(_, count)| *count != found) {
                return Err(CliError::said("what matches and what is listed differ"));
            }
            // A listing matches first.
            let of_match = Taken::median(&of_match);
            let lists = lists.iter().map(|(taken, _)| taken.without(of_match));
            format!("listing {}", Taken::spread(&lists.collect::<Vec<_>>()))
        };
        say(&format!(
            "  {what}: {found} of {series}; match {} (the first time {}), of those with points of this day {}; {listed}",
            Taken::spread(&of_match),
            cold.text(),
            Taken::spread(&of_day),
        ));
    }
    Ok(())
}

/// Tag sets that match, as queries find them, none of them spelt.
fn matching(snapshot: &Snapshot, selector: &Selector, range: TimeRange) -> Result<u64, StoreError> {
    let found = snapshot.search(selector, range, 0)?;
    Ok(found.matching)
}

/// By what they are; `n` is a host that is there.
fn selections(n: u64) -> Vec<(&'static str, Vec<Matcher>)> {
    let tag = |key: &str, test: Test| Matcher::new(Label::Tag(key.into()), test);
    let equal = |key: &str, value: &str| tag(key, Test::Equal(value.into()));
    let regex = |pattern: &str| vec![tag("hostname", Test::Regex(pattern.into()))];
    vec![
        ("one host", vec![equal("hostname", &format!("host_{n}"))]),
        (
            "one datacenter of 27, one rack of 100",
            vec![equal("datacenter", "eu-west-1a"), equal("rack", "42")],
        ),
        (
            "one region of 9, one os of 3",
            vec![equal("region", "eu-west-1"), equal("os", "Ubuntu15.10")],
        ),
        ("prefix expression host_12.*", regex("host_12.*")),
        ("infix expression .*999.*", regex(".*999.*")),
        ("infix expression .*99.*", regex(".*99.*")),
    ]
}

/// What something took.
#[derive(Debug, Clone, Copy)]
struct Taken {
    cpu: Duration,
    wall: Duration,
}

fn timed(work: impl FnOnce() -> Result<u64, StoreError>) -> Result<(Taken, u64), CliError> {
    let (start, cpu) = (Instant::now(), thread_cpu_time());
    let found = work().map_err(|e| failed("no answer")(&e))?;
    let taken = Taken {
        cpu: thread_cpu_time().saturating_sub(cpu),
        wall: start.elapsed(),
    };
    Ok((taken, found))
}

impl Taken {
    fn without(self, part: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(part.cpu),
            wall: self.wall.saturating_sub(part.wall),
        }
    }

    fn median(all: &[Self]) -> Self {
        Self {
            cpu: ranked(all, |t| t.cpu).1,
            wall: ranked(all, |t| t.wall).1,
        }
    }

    fn spread(all: &[Self]) -> String {
        let text =
            |(least, median): (Duration, Duration)| format!("{:.3}/{:.3}", ms(least), ms(median));
        let (cpu, wall) = (ranked(all, |t| t.cpu), ranked(all, |t| t.wall));
        format!("{}, wall {}", text(cpu), text(wall))
    }

    fn text(self) -> String {
        format!("{:.3}, wall {:.3}", ms(self.cpu), ms(self.wall))
    }
}

/// The least and the median.
fn ranked(all: &[Taken], of: impl Fn(&Taken) -> Duration) -> (Duration, Duration) {
    let mut times: Vec<Duration> = all.iter().map(of).collect();
    times.sort_unstable();
    let least = times.first().copied().unwrap_or_default();
    (
        least,
        times.get(times.len() / 2).copied().unwrap_or_default(),
    )
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
