//! Databases that refuse series: which lines are left out, and that nothing of them is there.

use std::collections::BTreeMap;

use alluvium_store::{Commit, Database, Durability, Selector, WriteError};
use alluvium_types::Value;

use super::oracle::{Key, same};
use super::world::{SERIES_MAX, World};
use crate::model::{self, Line, Model, read_all, write};

impl World {
    /// Writes a batch of which lines may be left out, and notes what was taken: whole lines, no line whose series are all there
    /// is refused, and none is where there is room for all of its series. `lines` are those that were taken then.
    pub fn write_limited(
        &mut self,
        database: &Database,
        lines: &mut Vec<Line>,
        level: Durability,
    ) -> Result<(usize, Commit), WriteError> {
        // One line for each time of a host: else the later one would hide what became of the other.
        let of_time = |line: Line| ((line.host, line.time), line);
        let all: BTreeMap<(u32, i64), Line> = lines.drain(..).map(of_time).collect();
        lines.extend(all.into_values());
        let before = read_all(database);
        let result = write(database, lines, Some(level));
        let after = read_all(database);
        let shows = |line: &Line, model: &Model| {
            let value = |(name, value): &(&str, Value)| {
                let series = model.series.get(&key_of(line.host, name, value));
                same(
                    series.and_then(|points| points.get(&line.time)),
                    Some(value),
                )
            };
            line.fields.iter().all(value)
        };
        let doubtful = lines.iter().filter(|line| shows(line, &before)).count() as u64;
        let sent = lines.len();
        let refused: Vec<Line> = lines.extract_if(.., |line| !shows(line, &after)).collect();
        let mut expected = before;
        expected.apply(lines);
        model::same(&expected, &after).unwrap();
        let series = Self::check_limit(database);
        let number = self.oracle.send_at(lines, level != Durability::None);
        let commit = result?;
        let told = commit
            .left_out()
            .map_or(0, alluvium_store::LeftOutLines::lines);
        let seen = refused.len() as u64;
        assert!(
            (seen..=seen + doubtful).contains(&told),
            "{told} of {sent} lines are said to be left out, {seen} are, of {doubtful} it cannot be told"
        );
        for line in &refused {
            let has_points = |(name, value): &(&'static str, Value)| {
                after.series.contains_key(&key_of(line.host, name, value))
            };
            assert!(
                !line.fields.iter().all(has_points),
                "refused for nothing: {line:?}"
            );
        }
        // A line takes all of its series or none.
        let most = refused.iter().chain(&*lines).map(|line| line.fields.len());
        let most = most.max().unwrap_or(0) as u64;
        assert!(
            told == 0 || series + most > SERIES_MAX,
            "refused at {series} series"
        );
        let fits = |line: &&Line| series + line.fields.len() as u64 <= SERIES_MAX;
        let fitting = refused.iter().find(fits);
        assert!(fitting.is_none(), "{fitting:?} at {series} series");
        self.counts.left_out += told;
        Ok((number, commit))
    }

    /// There are no more series than may be. Returns how many there are.
    pub fn check_limit(database: &Database) -> u64 {
        let all = database.snapshot().select(&Selector::default()).unwrap();
        let series = all.len() as u64;
        assert!(series <= SERIES_MAX, "{series} series");
        series
    }
}

fn key_of(host: u32, name: &str, value: &Value) -> Key {
    (host, name.to_owned(), matches!(value, Value::Str(_)))
}
