//! What each point may hold: what was acknowledged last, or what a request without an answer would have made of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::io::Error;
use std::time::Instant;

use crate::client::{Answer, Client};
use crate::rng::Rng;

/// Series of one connection.
const SERIES: u64 = 20;

/// Lines of the largest batch, unless it is said otherwise.
pub(crate) const BATCH_LINES_MAX: u64 = 60;

/// A series, as answers write it, and a time.
pub(crate) type Point = (String, i64);

/// What one point may hold. One connection alone writes it, so at most the last request is in doubt.
#[derive(Debug, Default, Clone)]
struct Possible {
    /// `None`: nothing was acknowledged, or that it is deleted.
    acknowledged: Option<i64>,
    /// What requests whose answer never came would have left, `None` for deletes.
    in_doubt: Vec<Option<i64>>,
}

/// What one connection knows of its points; a point that is not in it must not be found.
#[derive(Debug)]
pub(crate) struct Oracle {
    database: &'static str,
    points: HashMap<Point, Possible>,
    /// What was sent since the last comparison, in order.
    pub(crate) steps: Vec<Step>,
    /// The next value.
    value: i64,
    /// Acknowledged points and deletes so far.
    pub(crate) acked: u64,
    pub(crate) deletes: u64,
    /// Whether the disk may fail under the server: a 503 ends the load like a server that is gone.
    pub(crate) disk_may_fail: bool,
    /// Lines of the largest request.
    pub(crate) batch_lines_max: u64,
}

/// A line or a delete.
#[derive(Debug)]
pub(crate) struct Step {
    /// Number of the request, which may have several lines.
    pub(crate) request: u64,
    pub(crate) change: Change,
    /// When its acknowledgement came.
    pub(crate) acknowledged: Option<Instant>,
}

/// What a step does.
#[derive(Debug)]
pub(crate) enum Change {
    Write(Point, i64),
    Delete(Removal),
}

/// A delete of one series' points.
#[derive(Debug, Clone)]
pub(crate) struct Removal {
    pub(crate) series: String,
    from: i64,
    to: i64,
    /// Values at least this.
    at_least: Option<i64>,
}

impl Removal {
    /// Of a whole series.
    pub(crate) fn of_all(series: &str) -> Self {
        Self {
            series: series.to_owned(),
            from: i64::MIN,
            to: i64::MAX,
            at_least: None,
        }
    }

    pub(crate) fn hits(&self, (series, time): &Point, value: i64) -> bool {
        *series == self.series
            && (self.from..self.to).contains(time)
            && self.at_least.is_none_or(|limit| value >= limit)
    }
}

impl Oracle {
    /// Of a database in which nothing was written.
    pub(crate) fn of(database: &'static str) -> Self {
        Self {
            database,
            points: HashMap::new(),
            steps: Vec::new(),
            value: 0,
            acked: 0,
            deletes: 0,
            disk_may_fail: false,
            batch_lines_max: BATCH_LINES_MAX,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.points.len()
    }

    pub(crate) fn database(&self) -> &'static str {
        self.database
    }

    /// Takes these points as the only ones, acknowledged.
    pub(crate) fn settle(&mut self, found: impl IntoIterator<Item = (Point, i64)>) {
        let settled = found.into_iter().map(|(point, value)| {
            let acknowledged = Possible {
                acknowledged: Some(value),
                in_doubt: Vec::new(),
            };
            (point, acknowledged)
        });
        self.points = settled.collect();
        self.steps.clear();
    }

    /// Batches of new, late and overwriting points, and deletes, until the server is gone. `told` hears of every
    /// answer and says whether to go on.
    pub(crate) fn load(
        &mut self,
        url: &str,
        connection: usize,
        mut rng: Rng,
        told: impl Fn() -> bool,
    ) {
        let mut client = Client::new(url, None).unwrap();
        let mut going = true;
        while going {
            going = if rng.below(10) == 0 {
                self.delete(&mut client, connection, &mut rng)
            } else {
                self.write(&mut client, connection, &mut rng)
            } && told();
        }
    }

    /// Takes down what is about to be sent.
    fn sends(&mut self, changes: impl IntoIterator<Item = Change>) {
        let request = self.steps.last().map_or(0, |s| s.request) + 1;
        self.steps.extend(changes.into_iter().map(|change| Step {
            request,
            change,
            acknowledged: None,
        }));
    }

    /// Whether the last request was acknowledged with `status`; if not, it is in doubt.
    fn is_acknowledged(&mut self, answer: Result<Answer, Error>, status: u16) -> bool {
        match answer {
            Ok(answer) if answer.status == status => {
                let now = Instant::now();
                let request = self.steps.last().map(|s| s.request);
                let last = self.steps.iter_mut().rev();
                last.take_while(|s| Some(s.request) == request)
                    .for_each(|s| s.acknowledged = Some(now));
                true
            }
            Ok(answer) if answer.status == 503 && self.disk_may_fail => false,
            Ok(answer) => panic!("{}: {}", answer.status, answer.text()),
            Err(_) => false,
        }
    }

    fn write(&mut self, client: &mut Client, connection: usize, rng: &mut Rng) -> bool {
        let mut body = String::new();
        let mut batch = Vec::new();
        for _ in 0..=rng.below(self.batch_lines_max) {
            let series = format!("m connection={connection} series={}", rng.below(SERIES));
            self.value += 1;
            let value = self.value;
            // Values grow with every line, and times mostly with values; some are late or hit an older point.
            let time = match rng.below(10) {
                0 => rng.below(value as u64) as i64,
                _ => value,
            } * 1000;
            let tags = series.replace(' ', ",");
            writeln!(body, "{tags} n={value}i,w={value}.5 {time}").unwrap();
            batch.push(((series, time), value));
        }
        let lines = batch.iter().cloned();
        self.sends(lines.map(|(point, value)| Change::Write(point, value)));
        let path = format!("/write?db={}", self.database);
        let answer = client.request("POST", &path, &[], body.as_bytes());
        if !self.is_acknowledged(answer, 204) {
            for (point, value) in batch {
                let possible = self.points.entry(point).or_default();
                possible.in_doubt.push(Some(value));
            }
            return false;
        }
        self.acked += 2 * batch.len() as u64;
        for (point, value) in batch {
            let acknowledged = Possible {
                acknowledged: Some(value),
                in_doubt: Vec::new(),
            };
            self.points.insert(point, acknowledged);
        }
        true
    }

    fn delete(&mut self, client: &mut Client, connection: usize, rng: &mut Rng) -> bool {
        let number = rng.below(SERIES);
        let newest = self.value * 1000;
        let span = 1 + rng.below(newest as u64 + 1) as i64 / 8;
        let from = rng.below(newest as u64 + 1) as i64;
        // A stretch, a stretch of large values, everything of the series.
        let (from, to, at_least) = match rng.below(8) {
            0 => (i64::MIN, i64::MAX, None),
            1 | 2 => (from, from + span, Some(self.value / 2)),
            _ => (from, from + span, None),
        };
        let removal = Removal {
            series: format!("m connection={connection} series={number}"),
            from,
            to,
            at_least,
        };
        let mut body = format!(
            r#"{{"measurement": "m", "where": {{"connection": "{connection}", "series": "{number}"}}"#
        );
        if from > i64::MIN {
            write!(body, r#", "range": {{"from": {from}, "to": {to}}}"#).unwrap();
        }
        if let Some(limit) = at_least {
            write!(body, r#", "value": {{">=": {limit}}}"#).unwrap();
        }
        body.push('}');
        self.sends([Change::Delete(removal.clone())]);
        let path = format!("/api/delete?db={}", self.database);
        let answer = client.request("POST", &path, &[], body.as_bytes());
        if !self.is_acknowledged(answer, 200) {
            for (point, possible) in &mut self.points {
                if possible
                    .acknowledged
                    .is_some_and(|v| removal.hits(point, v))
                {
                    possible.in_doubt.push(None);
                }
            }
            return false;
        }
        self.deletes += 1;
        self.points.retain(|point, possible| {
            !possible
                .acknowledged
                .is_some_and(|v| removal.hits(point, v))
        });
        true
    }
}

/// All points of one metric as the server tells them, none twice.
fn read(url: &str, database: &str, metric: &str) -> BTreeMap<Point, String> {
    let mut client = Client::new(url, None).unwrap();
    let query = format!(r#"{{"select": "{metric}", "output": {{"format": "csv"}}}}"#);
    let path = format!("/api/query?db={database}");
    let answer = client
        .request("POST", &path, &[], query.as_bytes())
        .unwrap();
    if answer.text().contains("unknown_metric") {
        return BTreeMap::new();
    }
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

/// All points of a database, whose two fields must agree.
pub(crate) fn read_points(url: &str, database: &str) -> BTreeMap<Point, i64> {
    let integers = read(url, database, "m_n");
    let floats = read(url, database, "m_w");
    for (point, value) in &integers {
        let float = floats
            .get(point)
            .unwrap_or_else(|| panic!("{point:?} has lost its other field"));
        assert_eq!(*float, format!("{value}.5"), "{point:?}");
    }
    assert_eq!(integers.len(), floats.len());
    let parsed = integers.into_iter().map(|(p, v)| (p, v.parse().unwrap()));
    parsed.collect()
}

/// Compares; what is in doubt stays so. `oracles` are those of one database by connection. All points found.
pub(crate) fn check(url: &str, oracles: &[Oracle]) -> BTreeMap<Point, i64> {
    let found = read_points(url, oracles[0].database);
    for (point, value) in &found {
        let connection: usize = point.0[13..14].parse().unwrap();
        let possible = oracles[connection].points.get(point).unwrap_or_else(|| {
            panic!("{point:?} = {value} was never written, or its delete was acknowledged")
        });
        assert!(
            possible.acknowledged == Some(*value) || possible.in_doubt.contains(&Some(*value)),
            "{point:?} is {value}, but should be {possible:?}"
        );
    }
    for (point, possible) in oracles.iter().flat_map(|o| &o.points) {
        let may_be_gone = possible.acknowledged.is_none() || possible.in_doubt.contains(&None);
        assert!(
            found.contains_key(point) || may_be_gone,
            "{point:?} was acknowledged and is lost: {possible:?}"
        );
    }
    found
}

/// Compares, then settles what was in doubt by what is there.
pub(crate) fn compare(url: &str, oracles: &mut [Oracle]) {
    let found = check(url, oracles);
    for oracle in oracles {
        oracle.points.retain(|point, possible| {
            let found = found.get(point).copied();
            *possible = Possible {
                acknowledged: found,
                in_doubt: Vec::new(),
            };
            found.is_some()
        });
        oracle.steps.clear();
    }
}
