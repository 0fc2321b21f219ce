//! A set of rows, as a delete names them.

use crate::series_id::Row;

/// Rows as ascending runs of neighbours: the rows of a measurement that was created at once are one run, so a
/// million of them take a few bytes, and the worst set, every other row, takes 8 bytes a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowSet {
    /// First and last row of each run, both included; between two runs a row is missing at least.
    runs: Vec<(u32, u32)>,
}

impl RowSet {
    /// The set of one row.
    pub fn one(row: Row) -> Self {
        Self {
            runs: vec![(row.0, row.0)],
        }
    }

    /// Adds a run of rows, both ends included, that begins behind all rows so far; neighbours become one run.
    /// `false`, and nothing is changed, if it does not.
    pub fn push_run(&mut self, first: Row, last: Row) -> bool {
        if last < first {
            return false;
        }
        match self.runs.last_mut() {
            Some((_, end)) if first.0 <= *end => return false,
            Some((_, end)) if first.0 - 1 == *end => *end = last.0,
            _ => self.runs.push((first.0, last.0)),
        }
        true
    }

    /// Whether the row is in the set. Cost: a binary search over the runs.
    #[inline]
    pub fn contains(&self, row: Row) -> bool {
        let at = self.runs.partition_point(|(_, last)| *last < row.0);
        self.runs.get(at).is_some_and(|(first, _)| *first <= row.0)
    }

    /// The first row of the set at or behind this one. Cost: a binary search over the runs.
    pub fn next_at(&self, row: Row) -> Option<Row> {
        let at = self.runs.partition_point(|(_, last)| *last < row.0);
        self.runs.get(at).map(|(first, _)| Row(row.0.max(*first)))
    }

    /// Number of rows.
    pub fn len(&self) -> u64 {
        let rows = |(first, last): &(u32, u32)| u64::from(last - first) + 1;
        self.runs.iter().map(rows).sum()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// First and last row of each run, both included, ascending.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = (Row, Row)> + '_ {
        self.runs
            .iter()
            .map(|(first, last)| (Row(*first), Row(*last)))
    }

    /// The rows, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Row> + '_ {
        self.runs
            .iter()
            .flat_map(|(first, last)| (*first..=*last).map(Row))
    }
}

impl FromIterator<Row> for RowSet {
    /// Rows in any order; rows in ascending order cost nothing more than a pass.
    fn from_iter<I: IntoIterator<Item = Row>>(rows: I) -> Self {
        let mut set = Self::default();
        let mut strays: Vec<Row> = Vec::new();
        for row in rows {
            if !set.push_run(row, row) && !set.contains(row) {
                strays.push(row);
            }
        }
        if strays.is_empty() {
            set.runs.shrink_to_fit();
            return set;
        }
        strays.extend(set.iter());
        strays.sort_unstable();
        strays.dedup();
        strays.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_run_in_any_order() {
        let set: RowSet = [3, 1, 2, 9, 1, 10].into_iter().map(Row).collect();
        assert_eq!(
            set.runs().collect::<Vec<_>>(),
            [(Row(1), Row(3)), (Row(9), Row(10))]
        );
        assert_eq!(set.len(), 5);
        let next = |row| set.next_at(Row(row)).map(|r| r.0);
        assert_eq!(
            [next(0), next(2), next(4), next(11)],
            [Some(1), Some(2), Some(9), None]
        );
        let found: Vec<u32> = (0..12).filter(|r| set.contains(Row(*r))).collect();
        assert_eq!(found, [1, 2, 3, 9, 10]);
        assert_eq!(set.iter().map(|r| r.0).collect::<Vec<_>>(), found);
    }

    #[test]
    fn runs_must_ascend() {
        let mut set = RowSet::one(Row(5));
        assert!(!set.push_run(Row(5), Row(9)));
        assert!(!set.push_run(Row(9), Row(8)));
        assert!(set.push_run(Row(6), Row(u32::MAX)));
        assert!(!set.push_run(Row(u32::MAX), Row(u32::MAX)));
        assert_eq!(set.runs().len(), 1);
        assert!(RowSet::default().is_empty());
    }
}
