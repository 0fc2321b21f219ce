//! What may be found where points are not logged: each series as some moment had it that a finished checkpoint is not ahead of, with
//! what the log has of later, which ends at one place for all series of a partition.

use std::collections::{BTreeMap, BTreeSet};

use alluvium_types::Value;

use super::oracle::{Key, Sent, What, same};
use crate::model::Model;

type Points = BTreeMap<i64, Value>;

/// What was there when the life began, and what was sent since.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    pub base: &'a Model,
    pub sent: &'a [Sent],
    /// So many of those sent are in a checkpoint that has ended.
    pub captured: usize,
}

impl Sequence<'_> {
    /// Looks for an end of each partition's log with which all its series are explained.
    pub fn check(
        &self,
        found: &Model,
        cut: i64,
        part_of: impl Fn(u32) -> u32,
    ) -> Result<(), String> {
        let mut parts: BTreeMap<u32, BTreeSet<Key>> = BTreeMap::new();
        let sent = self.sent.iter().flat_map(|sent| sent.what.keys());
        let there = self.base.series.keys().chain(found.series.keys());
        for key in there.cloned().chain(sent) {
            parts.entry(part_of(key.0)).or_default().insert(key);
        }
        for (part, keys) in parts {
            let of_part = |sent: &&Sent| sent.what.keys().iter().any(|key| keys.contains(key));
            let must = |sent: &Sent| sent.must && sent.logged && of_part(&sent);
            let least = self.sent.iter().rposition(must).map_or(0, |at| at + 1);
            let series: Vec<Series<'_>> = keys
                .iter()
                .map(|key| self.series(key, found, cut))
                .collect();
            // A later end of the log differs only where something logged lies in between.
            let differs = |end: &usize| {
                let before = end.checked_sub(1).and_then(|at| self.sent.get(at));
                *end == least || before.is_some_and(|sent| sent.logged && of_part(&sent))
            };
            let mut ends = (least..=self.sent.len()).rev().filter(differs);
            if !ends.any(|end| series.iter().all(|series| series.is_explained(end))) {
                let last = self.sent.len();
                let strange = series.iter().find(|series| !series.is_explained(last));
                return Err(format!(
                    "partition {part}: no end of its log behind {least} of {last} explains what was found, {} of them \
                     captured; with all of it not {:?}",
                    self.captured,
                    strange.map(|series| (series.key, &series.found)),
                ));
            }
        }
        Ok(())
    }

    fn series<'a>(&'a self, key: &'a Key, found: &Model, cut: i64) -> Series<'a> {
        let live = |points: Option<&Points>| {
            let mut points = points.cloned().unwrap_or_default();
            points.split_off(&cut)
        };
        let mut state = live(self.base.series.get(key));
        let mut states = vec![(0, state.clone())];
        let mut steps = Vec::new();
        for (at, sent) in self.sent.iter().enumerate() {
            let Some(step) = sent.what.step(key) else {
                continue;
            };
            step.apply(&mut state, cut);
            states.push((at + 1, state.clone()));
            if sent.logged {
                steps.push((at + 1, step));
            }
        }
        // The last state at the checkpoint may be the one that it has.
        let first = states.iter().rposition(|(at, _)| *at <= self.captured);
        states.drain(..first.unwrap_or(0));
        Series {
            key,
            cut,
            states,
            steps,
            found: live(found.series.get(key)),
        }
    }
}

/// One series of a sequence.
#[derive(Debug)]
struct Series<'a> {
    key: &'a Key,
    cut: i64,
    /// As it was when so many had been sent, for each that changed it.
    states: Vec<(usize, Points)>,
    /// What is logged, with its place.
    steps: Vec<(usize, Step<'a>)>,
    found: Points,
}

impl Series<'_> {
    /// Whether some state and what is logged behind it up to `end` make what was found.
    fn is_explained(&self, end: usize) -> bool {
        self.states.iter().rev().any(|(at, state)| {
            let mut steps = self
                .steps
                .iter()
                .filter(|(place, _)| place > at && *place <= end)
                .peekable();
            if steps.peek().is_none() {
                return is_same(state, &self.found);
            }
            let mut state = state.clone();
            steps.for_each(|(_, step)| step.apply(&mut state, self.cut));
            is_same(&state, &self.found)
        })
    }
}

/// What something that was sent does to one series.
#[derive(Debug)]
enum Step<'a> {
    Put(Vec<(i64, &'a Value)>),
    Take(&'a BTreeSet<i64>),
}

impl Step<'_> {
    fn apply(&self, points: &mut Points, cut: i64) {
        match self {
            Self::Put(new) => {
                let new = new.iter().filter(|(time, _)| *time >= cut);
                points.extend(new.map(|(time, value)| (*time, (*value).clone())));
            }
            Self::Take(times) => points.retain(|time, _| !times.contains(time)),
        }
    }
}

impl What {
    fn keys(&self) -> BTreeSet<Key> {
        match self {
            Self::Lines(lines) => {
                let of_line = |line: &crate::model::Line| {
                    let host = line.host;
                    let fields = line.fields.iter();
                    let keys = fields.map(|(name, value)| key_of(host, name, value));
                    keys.collect::<Vec<_>>()
                };
                lines.iter().flat_map(of_line).collect()
            }
            Self::Points(hit) => hit.keys().cloned().collect(),
            Self::Removal(_) => BTreeSet::new(),
        }
    }

    fn step(&self, key: &Key) -> Option<Step<'_>> {
        match self {
            Self::Lines(lines) => {
                let mut new = Vec::new();
                for line in lines.iter().filter(|line| line.host == key.0) {
                    let of_key = line.fields.iter().filter(|(name, _)| *name == key.1);
                    let of_key = of_key.filter(|(_, v)| matches!(v, Value::Str(_)) == key.2);
                    new.extend(of_key.map(|(_, value)| (line.time, value)));
                }
                (!new.is_empty()).then_some(Step::Put(new))
            }
            Self::Points(hit) => hit.get(key).map(Step::Take),
            Self::Removal(_) => None,
        }
    }
}

fn key_of(host: u32, name: &str, value: &Value) -> Key {
    (host, name.to_owned(), matches!(value, Value::Str(_)))
}

fn is_same(a: &Points, b: &Points) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|((t, v), (u, w))| t == u && same(Some(v), Some(w)))
}
