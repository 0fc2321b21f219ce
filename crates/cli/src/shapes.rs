//! Loads that come out the same for the same seed.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::args::{LoadArgs, LoadOrder, Shape};
use crate::rng::{Rng, mix};

const TSBS_FIELDS: [&str; 10] = [
    "usage_user",
    "usage_system",
    "usage_idle",
    "usage_nice",
    "usage_iowait",
    "usage_irq",
    "usage_softirq",
    "usage_steal",
    "usage_guest",
    "usage_guest_nice",
];
pub(crate) const REGIONS: [&str; 9] = [
    "us-east-1",
    "us-west-1",
    "us-west-2",
    "eu-west-1",
    "eu-central-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-northeast-1",
    "sa-east-1",
];

/// Values of one line.
pub(crate) fn values_a_line(shape: Shape) -> u64 {
    match shape {
        Shape::Tsbs => 10,
        Shape::Gauge | Shape::Walk | Shape::Counter => 1,
        Shape::Mixed => 4,
    }
}

/// One host: its tag section and where its walks are.
#[derive(Debug)]
struct Host {
    key: String,
    rng: Rng,
    walks: [f64; 10],
    count: i64,
}

impl Host {
    fn new(
        LoadArgs {
            shape,
            seed,
            ten_tags,
            ..
        }: &LoadArgs,
        host: u32,
    ) -> Self {
        let mut rng = Rng::new(mix(*seed) ^ u64::from(host));
        let measurement = match shape {
            Shape::Tsbs => "cpu",
            Shape::Gauge => "gauge",
            Shape::Walk => "walk",
            Shape::Counter => "counter",
            Shape::Mixed => "mixed",
        };
        let key = match shape {
            _ if *ten_tags || *shape == Shape::Tsbs => {
                let region = REGIONS[rng.below(REGIONS.len() as u64) as usize];
                let zone = ['a', 'b', 'c'][rng.below(3) as usize];
                let os = ["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"][rng.below(3) as usize];
                let team = ["SF", "NYC", "LON", "CHI"][rng.below(4) as usize];
                let environment = ["production", "staging", "test"][rng.below(3) as usize];
                format!(
                    "{measurement},hostname=host_{host},region={region},datacenter={region}{zone},rack={},os={os},arch={},team={team},service={},service_version={},service_environment={environment} ",
                    rng.below(100),
                    ["x64", "x86"][rng.below(2) as usize],
                    rng.below(20),
                    rng.below(2),
                )
            }
            _ => format!("{measurement},hostname=host_{host} "),
        };
        let walks = std::array::from_fn(|_| rng.unit() * 100.0);
        let count = rng.below(1 << 20) as i64;
        Self {
            key,
            rng,
            walks,
            count,
        }
    }

    /// A step of about one standard deviation: three dice are near enough to a bell.
    fn step(rng: &mut Rng, walk: &mut f64) -> f64 {
        let bell = 2.0 * (rng.unit() + rng.unit() + rng.unit()) - 3.0;
        *walk = (*walk + bell).clamp(0.0, 100.0);
        *walk
    }

    fn write_line(&mut self, shape: Shape, out: &mut String, time_ns: i64) {
        out.push_str(&self.key);
        let Self {
            rng, walks, count, ..
        } = self;
        // Writing to a string cannot fail.
        let _ = match shape {
            Shape::Tsbs => {
                for (i, (name, walk)) in TSBS_FIELDS.iter().zip(walks).enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    let _ = write!(out, "{name}={}i", Self::step(rng, walk) as i64);
                }
                Ok(())
            }
            Shape::Gauge => write!(out, "value={:.2}", Self::step(rng, &mut walks[0])),
            Shape::Walk => write!(out, "value={}", Self::step(rng, &mut walks[0])),
            Shape::Counter => {
                *count += rng.below(1000) as i64;
                write!(out, "value={count}i")
            }
            Shape::Mixed => {
                *count += rng.below(10) as i64;
                let state = ["ok", "degraded", "down"]
                    [(rng.below(64) / 62) as usize + rng.below(128) as usize / 127];
                let load = Self::step(rng, &mut walks[0]);
                write!(
                    out,
                    "load={load:.2},requests={count}i,healthy={},state=\"{state}\"",
                    load < 95.0
                )
            }
        };
        let _ = writeln!(out, " {time_ns}");
    }
}

/// The bodies of one connection, in order.
#[derive(Debug)]
pub(crate) struct Bodies {
    shape: Shape,
    order: LoadOrder,
    hosts: Vec<Host>,
    points: u32,
    start_ns: i64,
    interval_ns: i64,
    batch_lines: usize,
    /// Line of the connection that comes next.
    next: u64,
    late: Late,
}

/// Lines that are held back to come late.
#[derive(Debug)]
struct Late {
    rng: Rng,
    percent: u64,
    most_ns: u64,
    /// By the time of the line that is next when they are due, and a number.
    held: BTreeMap<(i64, u64), String>,
    count: u64,
}

impl Late {
    /// Whether the line that is of this time is held back, and until when.
    fn until(&mut self, time: i64) -> Option<i64> {
        let is_late = self.percent > 0 && self.rng.below(100) < self.percent;
        is_late.then(|| time.saturating_add(self.rng.below(self.most_ns.max(1)) as i64))
    }

    /// Holds a line back.
    fn hold(&mut self, until: i64, line: String) {
        self.held.insert((until, self.count), line);
        self.count += 1;
    }

    /// One that is due at this time, at the end any.
    fn due(&mut self, now: Option<i64>) -> Option<String> {
        let first = self.held.first_entry()?;
        let is_due = now.is_none_or(|now| first.key().0 <= now);
        is_due.then(|| first.remove())
    }
}

impl Bodies {
    /// The share of connection `number` of `connections`: every so many-th host.
    pub(crate) fn new(args: &LoadArgs, number: usize, connections: usize) -> Self {
        let hosts = (0..args.hosts).skip(number).step_by(connections.max(1));
        Self {
            shape: args.shape,
            order: args.order,
            hosts: hosts.map(|h| Host::new(args, h)).collect(),
            points: args.points,
            start_ns: args.start_s.saturating_mul(1_000_000_000),
            interval_ns: i64::from(args.interval_s) * 1_000_000_000,
            batch_lines: args.batch_lines.max(1),
            next: 0,
            late: Late {
                rng: Rng::new(mix(args.seed ^ 0x1a7e) ^ number as u64),
                percent: args.late.into(),
                most_ns: u64::from(args.late_s) * 1_000_000_000,
                held: BTreeMap::new(),
                count: 0,
            },
        }
    }

    /// Writes the next body; returns how many lines it has, 0 at the end.
    pub(crate) fn next_body(&mut self, out: &mut String) -> usize {
        out.clear();
        let hosts = self.hosts.len() as u64;
        let total = hosts * u64::from(self.points);
        let mut lines = 0;
        while lines < self.batch_lines {
            if self.next >= total {
                let Some(line) = self.late.due(None) else {
                    break;
                };
                out.push_str(&line);
                lines += 1;
                continue;
            }
            let half = u64::from(self.points) / 2;
            let (host, point) = match self.order {
                LoadOrder::Time => (self.next % hosts, self.next / hosts),
                LoadOrder::Halves => (
                    self.next % hosts,
                    (self.next / hosts + half) % u64::from(self.points),
                ),
                LoadOrder::Series => (
                    self.next / u64::from(self.points),
                    self.next % u64::from(self.points),
                ),
            };
            let time = self
                .start_ns
                .saturating_add(point as i64 * self.interval_ns);
            if let Some(line) = self.late.due(Some(time)) {
                out.push_str(&line);
                lines += 1;
                continue;
            }
            self.next += 1;
            if let Some(until) = self.late.until(time) {
                let mut line = String::new();
                self.hosts[host as usize].write_line(self.shape, &mut line, time);
                self.late.hold(until, line);
                continue;
            }
            self.hosts[host as usize].write_line(self.shape, out, time);
            lines += 1;
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use alluvium_protocol::line::{Limits, LineParser, Precision};
    use clap::{Parser, ValueEnum};

    use super::*;
    use crate::args::{Bench, Cli, Command};

    fn args(extra: &[&str]) -> LoadArgs {
        let words = [
            "alluvium",
            "bench",
            "load",
            "--hosts",
            "7",
            "--points",
            "20",
            "--batch-lines",
            "30",
        ];
        let cli = Cli::parse_from(words.iter().chain(extra));
        match cli.command {
            Command::Bench(crate::args::BenchArgs {
                what: Bench::Load(args),
            }) => args,
            _ => panic!("another command"),
        }
    }

    fn all(args: &LoadArgs, connections: usize) -> Vec<String> {
        let mut bodies = Vec::new();
        for number in 0..connections {
            let mut source = Bodies::new(args, number, connections);
            let mut body = String::new();
            while source.next_body(&mut body) > 0 {
                bodies.push(body.clone());
            }
        }
        bodies
    }

    #[test]
    fn every_shape_is_line_protocol_and_the_same_again() {
        for shape in Shape::value_variants() {
            let name = shape.to_possible_value().unwrap().get_name().to_owned();
            let args = args(&["--shape", &name]);
            let bodies = all(&args, 2);
            assert_eq!(bodies, all(&args, 2));
            let mut values = 0;
            for body in &bodies {
                let mut parser =
                    LineParser::new(body.as_bytes(), Precision::Ns, 0, Limits::default());
                while let Some(line) = parser.next_line() {
                    values += line.unwrap().fields.len() as u64;
                }
            }
            assert_eq!(values, 7 * 20 * values_a_line(*shape), "{name}");
        }
    }

    #[test]
    fn ten_tags_are_the_same_beside_any_field() {
        let first_key = |extra: &[&str]| {
            let bodies = all(&args(extra), 1);
            let key = bodies[0].split(' ').next().unwrap_or_default();
            let (measurement, tags) = key.split_once(',').unwrap();
            (measurement.to_owned(), tags.to_owned())
        };
        let (_, of_tsbs) = first_key(&[]);
        let (measurement, tags) = first_key(&["--shape", "gauge", "--ten-tags"]);
        assert_eq!((measurement.as_str(), &tags), ("gauge", &of_tsbs));
        assert_eq!(tags.split(',').count(), 10);
    }

    #[test]
    fn order_and_connections_change_no_point() {
        let sorted = |bodies: Vec<String>| {
            let mut lines: Vec<String> = bodies
                .iter()
                .flat_map(|b| b.lines().map(str::to_owned))
                .collect();
            lines.sort_unstable();
            lines
        };
        let one = sorted(all(&args(&[]), 1));
        assert_eq!(one, sorted(all(&args(&[]), 3)));
        assert_eq!(one, sorted(all(&args(&["--order", "series"]), 2)));
        assert_ne!(one, sorted(all(&args(&["--seed", "2"]), 1)));
        let late = all(&args(&["--late", "10", "--late-s", "50"]), 2);
        assert_eq!(one, sorted(late.clone()));
        assert_ne!(all(&args(&[]), 2), late);
    }
}
