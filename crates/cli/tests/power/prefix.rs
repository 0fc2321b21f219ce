//! Where acknowledgements promise less than a flush: what is found must be a beginning of what was sent, and long enough.
//!
//! One shard writes one log, so there must be one request behind which nothing has arrived and before which everything
//! has; of that request itself each series has its first so many lines. With more shards that holds for each series alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use crate::oracle::{Change, Oracle, Point, Step, read_points};

/// The points of one connection as they were when they were last compared.
pub(crate) type Base = HashMap<Point, i64>;

impl Step {
    fn series(&self) -> &str {
        match &self.change {
            Change::Write((series, _), _) => series,
            Change::Delete(removal) => &removal.series,
        }
    }
}

/// A model of some series, compared with what was found as it goes.
struct Model<'a> {
    points: Base,
    found: &'a Base,
    /// Points of each series that are not as found; series without any are not in it.
    wrong: HashMap<String, u64>,
}

impl<'a> Model<'a> {
    fn new(base: &Base, found: &'a Base) -> Self {
        let mut model = Self {
            points: Base::new(),
            found,
            wrong: HashMap::new(),
        };
        for point in found.keys() {
            *model.wrong.entry(point.0.clone()).or_default() += 1;
        }
        for (point, value) in base {
            model.set(point, Some(*value));
        }
        model
    }

    fn is_right(&self, point: &Point) -> bool {
        self.points.get(point) == self.found.get(point)
    }

    fn set(&mut self, point: &Point, value: Option<i64>) {
        let was_right = self.is_right(point);
        match value {
            Some(value) => self.points.insert(point.clone(), value),
            None => self.points.remove(point),
        };
        match (was_right, self.is_right(point)) {
            (true, false) => *self.wrong.entry(point.0.clone()).or_default() += 1,
            (false, true) => {
                if let Some(count) = self.wrong.get_mut(&point.0) {
                    *count -= 1;
                    if *count == 0 {
                        self.wrong.remove(&point.0);
                    }
                }
            }
            _ => {}
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(point, value) => self.set(point, Some(*value)),
            Change::Delete(removal) => {
                let hit = self.points.iter().filter(|(p, v)| removal.hits(p, **v));
                let hit: Vec<Point> = hit.map(|(p, _)| p.clone()).collect();
                for point in &hit {
                    self.set(point, None);
                }
            }
        }
    }

    /// Applies one request; whether some state on the way is the one found.
    fn pass(&mut self, request: &[&Step]) -> bool {
        let mut unmatched: HashSet<&str> = request.iter().map(|s| s.series()).collect();
        unmatched.retain(|series| self.wrong.contains_key(*series));
        // A series can match before the request or behind any of its lines there.
        let touched: HashSet<&str> = request.iter().map(|s| s.series()).collect();
        let others_match = self.wrong.keys().all(|s| touched.contains(s.as_str()));
        for step in request {
            self.apply(&step.change);
            if !self.wrong.contains_key(step.series()) {
                unmatched.remove(step.series());
            }
        }
        others_match && unmatched.is_empty()
    }
}

/// How many acknowledged lines and deletes at most are not in what was found, which must be a beginning of `steps` with
/// everything acknowledged until `floor`.
///
/// # Errors
///
/// What is wrong where it fits best.
fn lost(base: &Base, steps: &[&Step], found: &Base, floor: Option<Instant>) -> Result<u64, String> {
    let must =
        |step: &&Step| floor.is_some_and(|floor| step.acknowledged.is_some_and(|at| at <= floor));
    let kept = steps.iter().rposition(must).map_or(0, |last| last + 1);
    let mut model = Model::new(base, found);
    for step in &steps[..kept] {
        model.apply(&step.change);
    }
    let mut best = model.wrong.clone();
    let mut passed = kept;
    // The latest place that fits.
    let mut fits = None;
    for request in steps[kept..].chunk_by(|a, b| a.request == b.request) {
        if model.pass(request) {
            fits = Some(passed);
        }
        passed += request.len();
        if model.wrong.len() < best.len() {
            best.clone_from(&model.wrong);
        }
    }
    if model.wrong.is_empty() {
        fits = Some(passed);
    }
    if let Some(fits) = fits {
        let rest = steps[fits..].iter();
        return Ok(rest.filter(|s| s.acknowledged.is_some()).count() as u64);
    }
    let total = steps.len();
    Err(format!(
        "no beginning of the {total} lines and deletes sent, of which {kept} had to survive, is what was found; at best \
         so many points of these series are wrong: {best:?}"
    ))
}

/// Compares one database and takes what is found as the new base. `bases` and `oracles` are by connection.
pub(crate) fn compare(
    url: &str,
    oracles: &mut [Oracle],
    bases: &mut [Base],
    floor: Option<Instant>,
    is_one_log: bool,
) -> u64 {
    let database = oracles[0].database();
    let mut found: Vec<Base> = vec![Base::new(); oracles.len()];
    for (point, value) in read_points(url, database) {
        let connection: usize = point.0[13..14].parse().unwrap();
        found[connection].insert(point, value);
    }
    let mut sum = 0;
    for ((oracle, base), found) in oracles.iter_mut().zip(bases).zip(found) {
        let of = |points: &Base, series: &str| -> Base {
            let of = points.iter().filter(|(p, _)| p.0 == series);
            of.map(|(p, v)| (p.clone(), *v)).collect()
        };
        let outcome = if is_one_log {
            lost(
                base,
                &oracle.steps.iter().collect::<Vec<_>>(),
                &found,
                floor,
            )
        } else {
            let mut series: BTreeMap<&str, Vec<&Step>> = BTreeMap::new();
            for point in base.keys().chain(found.keys()) {
                series.entry(&point.0).or_default();
            }
            for step in &oracle.steps {
                series.entry(step.series()).or_default().push(step);
            }
            let each = series
                .iter()
                .map(|(name, steps)| lost(&of(base, name), steps, &of(&found, name), floor));
            each.sum()
        };
        sum += outcome.unwrap_or_else(|sentence| panic!("{database}: {sentence}"));
        oracle.settle(found.iter().map(|(p, v)| (p.clone(), *v)));
        *base = found;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Removal;

    const A: &str = "m connection=0 series=0";
    const B: &str = "m connection=0 series=1";

    fn steps(requests: &[&[(&str, i64)]], acknowledged: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        for (number, request) in requests.iter().enumerate() {
            for (series, value) in *request {
                let change = if *value == 0 {
                    Change::Delete(Removal::of_all(series))
                } else {
                    Change::Write(((*series).to_owned(), *value), *value)
                };
                steps.push(Step {
                    request: number as u64,
                    change,
                    acknowledged: Some(acknowledged),
                });
            }
        }
        steps
    }

    fn check(requests: &[&[(&str, i64)]], found: &[(&str, i64)], expected: Option<u64>) {
        let now = Instant::now();
        let steps = steps(requests, now);
        let steps: Vec<&Step> = steps.iter().collect();
        let found = found.iter().map(|(s, v)| (((*s).to_owned(), *v), *v));
        let found: Base = found.collect();
        let lost_steps = lost(&Base::new(), &steps, &found, None);
        assert_eq!(
            lost_steps.as_ref().ok(),
            expected.as_ref(),
            "{lost_steps:?}"
        );
        // Where everything had to survive only the last state will do.
        let all = lost(&Base::new(), &steps, &found, Some(now));
        assert_eq!(all.is_ok(), expected == Some(0), "{all:?}");
    }

    #[test]
    fn beginnings_are_told_from_holes() {
        let requests: &[&[(&str, i64)]] =
            &[&[(A, 1), (B, 1)], &[(A, 2), (B, 2), (A, 3)], &[(B, 4)]];
        check(requests, &[], Some(6));
        check(requests, &[(A, 1), (B, 1)], Some(4));
        // Series arrive apart within a request.
        check(requests, &[(A, 1), (B, 1), (A, 2), (A, 3)], Some(4));
        check(requests, &[(A, 1), (B, 1), (B, 2)], Some(4));
        let all = [(A, 1), (B, 1), (A, 2), (B, 2), (A, 3), (B, 4)];
        check(requests, &all, Some(0));
        check(requests, &all[..5], Some(1));
        // The second request lacks a line, though the third is there.
        check(requests, &[(A, 1), (B, 1), (A, 2), (B, 2), (B, 4)], None);
        check(requests, &[(A, 2)], None);
        check(requests, &[(A, 9)], None);
    }

    #[test]
    fn deletes_are_steps() {
        let requests: &[&[(&str, i64)]] = &[&[(A, 1), (B, 1)], &[(A, 0)], &[(A, 2)]];
        check(requests, &[(B, 1)], Some(1));
        check(requests, &[(B, 1), (A, 2)], Some(0));
        // Written behind the delete, which is undone.
        check(requests, &[(B, 1), (A, 1), (A, 2)], None);
    }
}
