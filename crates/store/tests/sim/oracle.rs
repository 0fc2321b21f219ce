//! What may be found after an end: of every partition's log a prefix, and all of it that was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use alluvium_types::Value;

use super::unlogged;
use crate::model::{Line, Model, Removal};

/// Series of the model: host, field, whether text.
pub type Key = (u32, String, bool);

/// What was sent.
#[derive(Debug, Clone)]
pub enum What {
    Lines(Vec<Line>),
    Removal(Removal),
    /// A delete by value that takes no more than it found.
    Points(BTreeMap<Key, BTreeSet<i64>>),
}

#[derive(Debug, Clone)]
pub struct Sent {
    pub what: What,
    /// It was acknowledged and must survive.
    pub must: bool,
    /// It is in the log.
    pub logged: bool,
}

/// What was there when the life began, and what was sent since, in order.
///
/// Of a partition, an end may take what came last, but nothing from the middle: after recovery there is a place in
/// the sequence of its lines and deletes, behind the last acknowledged one, at which the naive store holds exactly
/// what is found.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    base: Model,
    sent: Vec<Sent>,
    /// Partition of each host that was met.
    partitions: BTreeMap<u32, u8>,
    /// Where lines may be unlogged: how many of those sent a finished checkpoint has, and what there is now.
    unlogged: Option<(usize, Model)>,
}

/// One partition while its sequence is gone through.
#[derive(Debug)]
struct Progress {
    /// Points in which the naive store differs from what was found.
    mismatches: usize,
    /// A place was found at which nothing differs, and nothing acknowledged came behind it so far.
    met: bool,
}

impl Default for Progress {
    /// Nothing was there, nothing was found.
    fn default() -> Self {
        Self {
            mismatches: 0,
            met: true,
        }
    }
}

impl Oracle {
    /// An oracle of a world where lines may be unlogged.
    pub fn of_unlogged() -> Self {
        Self {
            unlogged: Some((0, Model::default())),
            ..Self::default()
        }
    }

    /// What was found is what must be found again.
    pub fn restart(&mut self, found: Model) {
        if let Some(unlogged) = &mut self.unlogged {
            *unlogged = (0, found.clone());
        }
        self.base = found;
        self.sent.clear();
    }

    /// A checkpoint that was asked for when so much had been sent has ended.
    pub fn captured(&mut self, sent: usize) {
        if let Some((captured, _)) = &mut self.unlogged {
            *captured = sent.max(*captured);
        }
    }

    /// Notes that a host is in a partition. A host that was never met is compared on its own.
    pub fn place(&mut self, host: u32, partition: u8) {
        self.partitions.insert(host, partition);
    }

    /// Whether the partition of a host is known.
    pub fn knows(&self, host: u32) -> bool {
        self.partitions.contains_key(&host)
    }

    /// How many batches and deletes were noted since the last end.
    pub fn sent(&self) -> usize {
        self.sent.len()
    }

    /// Notes a batch before it is sent; returns its number.
    pub fn send(&mut self, lines: &[Line]) -> usize {
        self.send_at(lines, true)
    }

    /// As [`Self::send`], of a batch that may not be logged.
    pub fn send_at(&mut self, lines: &[Line], logged: bool) -> usize {
        if let Some((_, now)) = &mut self.unlogged {
            now.apply(lines);
        }
        self.push(What::Lines(lines.to_vec()), logged)
    }

    /// Notes a delete before it is sent; returns its number.
    pub fn send_removal(&mut self, removal: &Removal) -> usize {
        let Some((_, now)) = &mut self.unlogged else {
            return self.push(What::Removal(removal.clone()), true);
        };
        // It is resolved by what is there now, which may not be there when it is redone.
        let mut hit = BTreeMap::new();
        for (key, points) in &mut now.series {
            let hits = |(time, value): &(&i64, &Value)| removal.hits(key.0, &key.1, **time, value);
            let times: BTreeSet<i64> = points.iter().filter(hits).map(|(time, _)| *time).collect();
            if !times.is_empty() {
                points.retain(|time, _| !times.contains(time));
                hit.insert(key.clone(), times);
            }
        }
        self.push(What::Points(hit), true)
    }

    fn push(&mut self, what: What, logged: bool) -> usize {
        let must = false;
        self.sent.push(Sent { what, must, logged });
        self.sent.len() - 1
    }

    /// It was acknowledged, and so it must survive. Returns how many values it had.
    pub fn acknowledge(&mut self, number: usize) -> u64 {
        let sent = &mut self.sent[number];
        sent.must = true;
        match &sent.what {
            What::Lines(lines) => lines.iter().map(|line| line.fields.len() as u64).sum(),
            What::Removal(_) | What::Points(_) => 0,
        }
    }

    /// What a store that lost nothing holds now.
    pub fn live(&self) -> Model {
        let mut model = self.base.clone();
        for sent in &self.sent {
            match &sent.what {
                What::Lines(lines) => model.apply(lines),
                What::Removal(removal) => {
                    model.remove(removal);
                }
                What::Points(hit) => {
                    for (key, times) in hit {
                        if let Some(points) = model.series.get_mut(key) {
                            points.retain(|time, _| !times.contains(time));
                        }
                    }
                    model.series.retain(|_, points| !points.is_empty());
                }
            }
        }
        model
    }

    /// Host numbers from here on stand for partitions that are not known.
    fn part_of(&self, host: u32) -> u32 {
        self.partitions
            .get(&host)
            .map_or(host.wrapping_add(1 << 16), |p| u32::from(*p))
    }

    /// Compares what was found with the sequence; what is before `cut` has expired and must be gone. The oracle is
    /// used up: [`Self::restart`] it with what was found.
    pub fn check(&mut self, found: &Model, cut: i64) -> Result<(), String> {
        for (key, points) in &found.series {
            if let Some((time, _)) = points.first_key_value()
                && *time < cut
            {
                return Err(format!("{key:?} at {time} has expired, {cut} is the cut"));
            }
        }
        if let Some((captured, _)) = self.unlogged {
            let sent = unlogged::Sequence {
                base: &self.base,
                sent: &self.sent,
                captured,
            };
            return sent.check(found, cut, |host| self.part_of(host));
        }
        let mut state = std::mem::take(&mut self.base).series;
        let mut parts: BTreeMap<u32, Progress> = BTreeMap::new();
        let empty = BTreeMap::new();
        for (key, points) in &state {
            let there = found.series.get(key).unwrap_or(&empty);
            parts.entry(self.part_of(key.0)).or_default().mismatches +=
                differences(points, there, cut);
        }
        for (key, there) in &found.series {
            if !state.contains_key(key) {
                parts.entry(self.part_of(key.0)).or_default().mismatches += there.len();
            }
        }
        for progress in parts.values_mut() {
            progress.met = progress.mismatches == 0;
        }
        for sent in std::mem::take(&mut self.sent) {
            match sent.what {
                What::Lines(lines) => {
                    for line in lines {
                        let progress = parts.entry(self.part_of(line.host)).or_default();
                        put(&mut state, line, found, cut, progress);
                        progress.met = progress.mismatches == 0 || progress.met && !sent.must;
                    }
                }
                // Of other worlds.
                What::Points(_) => {}
                What::Removal(removal) => {
                    let mut touched = BTreeSet::new();
                    for (key, points) in &mut state {
                        let part = self.part_of(key.0);
                        let progress = parts.entry(part).or_default();
                        if remove(key, points, &removal, found, cut, progress) {
                            touched.insert(part);
                        }
                    }
                    for part in touched {
                        let progress = parts.entry(part).or_default();
                        progress.met = progress.mismatches == 0 || progress.met && !sent.must;
                    }
                }
            }
        }
        let broken = parts.iter().find(|(_, progress)| !progress.met);
        let Some((part, progress)) = broken else {
            return Ok(());
        };
        let mut text = format!(
            "partition {part} is no prefix of its log with all that was acknowledged; of all that was sent {} points \
             differ:",
            progress.mismatches
        );
        let keys = state.keys().chain(found.series.keys());
        let keys: BTreeSet<&Key> = keys.filter(|key| self.part_of(key.0) == *part).collect();
        for key in keys {
            let sent = state.get(key).unwrap_or(&empty);
            let there = found.series.get(key).unwrap_or(&empty);
            let times: BTreeSet<_> = sent.keys().chain(there.keys()).collect();
            for time in times.into_iter().filter(|time| **time >= cut) {
                let (sent, there) = (sent.get(time), there.get(time));
                if !same(sent, there) && text.len() < 2000 {
                    let (sent, there) = (show(sent), show(there));
                    let _ = write!(text, "\n  {key:?} at {time}: sent {sent}, found {there}");
                }
            }
        }
        Err(text)
    }
}

pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.as_ref().same(b.as_ref()),
        (None, None) => true,
        _ => false,
    }
}

fn show(value: Option<&Value>) -> String {
    let mut text = format!("{value:?}");
    text.truncate(40);
    text
}

/// Times at which two series differ, those before the cut left out. Cost: one walk along both.
fn differences(a: &BTreeMap<i64, Value>, b: &BTreeMap<i64, Value>, cut: i64) -> usize {
    let (mut left, mut right) = (a.range(cut..).peekable(), b.range(cut..).peekable());
    let mut count = 0;
    loop {
        let step = match (left.peek(), right.peek()) {
            (None, None) => return count,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((t, _)), Some((u, _))) => t.cmp(u),
        };
        let of_left = if step.is_le() { left.next() } else { None };
        let of_right = if step.is_ge() { right.next() } else { None };
        count += usize::from(!same(of_left.map(|(_, v)| v), of_right.map(|(_, v)| v)));
    }
}

fn put(
    state: &mut BTreeMap<Key, BTreeMap<i64, Value>>,
    line: Line,
    found: &Model,
    cut: i64,
    progress: &mut Progress,
) {
    for (field, value) in line.fields {
        let text = matches!(value, Value::Str(_));
        let key = (line.host, field.to_owned(), text);
        let want = found.series.get(&key).and_then(|s| s.get(&line.time));
        let is_right = same(Some(&value), want);
        let before = state.entry(key).or_default().insert(line.time, value);
        if line.time >= cut {
            progress.mismatches += usize::from(!is_right);
            progress.mismatches -= usize::from(!same(before.as_ref(), want));
        }
    }
}

/// Returns whether anything that has not expired was removed.
fn remove(
    key: &Key,
    points: &mut BTreeMap<i64, Value>,
    removal: &Removal,
    found: &Model,
    cut: i64,
    progress: &mut Progress,
) -> bool {
    let there = found.series.get(key);
    let mut any = false;
    points.retain(|time, value| {
        if !removal.hits(key.0, &key.1, *time, value) {
            return true;
        }
        if *time >= cut {
            any = true;
            let want = there.and_then(|s| s.get(time));
            progress.mismatches += usize::from(want.is_some());
            progress.mismatches -= usize::from(!same(Some(value), want));
        }
        false
    });
    any
}
