//! The order in which rows got new series, so that the definitions since a mark can be found again.

/// Rows in the order they were touched, consecutive ones as one run: creating rows in order costs nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal {
    runs: Vec<Run>,
    next: u64,
    last: Option<u32>,
    /// Positions before this one were forgotten.
    forgotten: u64,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    /// Position of the first touch of the run.
    at: u64,
    row: u32,
}

impl Journal {
    /// Position of the next touch.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    pub(crate) fn touch(&mut self, row: u32) {
        if self.last == Some(row) {
            return;
        }
        if self.last.and_then(|last| last.checked_add(1)) != Some(row) {
            self.runs.push(Run { at: self.next, row });
        }
        self.next += 1;
        self.last = Some(row);
    }

    /// Rows touched at or after a position, ascending, once each; `None` if that was forgotten. The row touched
    /// just before is among them: it may have been touched again without a new position.
    pub(crate) fn rows_since(&self, position: u64) -> Option<Vec<u32>> {
        if position < self.forgotten {
            return None;
        }
        let begin = position.saturating_sub(1);
        let from = self.runs.partition_point(|run| run.at <= begin).max(1) - 1;
        let mut rows = Vec::new();
        for (i, run) in self.runs.iter().enumerate().skip(from) {
            let end = self.runs.get(i + 1).map_or(self.next, |next| next.at);
            let first = begin.max(run.at);
            if first < end {
                let row = u64::from(run.row) + (first - run.at);
                rows.extend((row..row + (end - first)).map(|r| r as u32));
            }
        }
        rows.sort_unstable();
        rows.dedup();
        Some(rows)
    }

    /// Drops what only positions before this one need.
    pub(crate) fn forget_before(&mut self, position: u64) {
        let begin = position.saturating_sub(1);
        let from = self.runs.partition_point(|run| run.at <= begin).max(1) - 1;
        self.runs.drain(..from);
        self.forgotten = self.forgotten.max(position);
        self.runs.shrink_to_fit();
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<Run>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_touches_since_any_position() {
        let touches = [0_u32, 0, 1, 2, 2, 9, 3, 4, 9, 10, 0, 11, 11];
        let mut journal = Journal::default();
        let mut positions = Vec::new();
        for row in touches {
            positions.push(journal.position());
            journal.touch(row);
        }
        assert_eq!(journal.runs.len(), 6);
        for forget in [false, true] {
            for (i, &position) in positions.iter().enumerate() {
                let mut expected: Vec<u32> = touches[i..].to_vec();
                expected.extend(i.checked_sub(1).map(|i| touches[i]));
                expected.sort_unstable();
                expected.dedup();
                if forget {
                    journal.forget_before(position);
                }
                assert_eq!(journal.rows_since(position), Some(expected), "touch {i}");
            }
        }
        assert_eq!(journal.rows_since(0), None);
    }
}
