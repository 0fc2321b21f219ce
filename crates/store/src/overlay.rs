//! Where one run alone has points, and where several must be merged.

use alluvium_types::TimeRange;

/// A stretch of time and the sources that may have points in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub range: TimeRange,
    /// Indexes of the sources, in their order.
    pub sources: Vec<usize>,
}

/// Cuts `range` at the ends of the sources' spans (first and last time, both included) into stretches in
/// order of time, leaving out those where no source has points.
///
/// Cost: the square of the number of sources, which merging keeps small.
pub(crate) fn stretches(range: TimeRange, spans: &[(i64, i64)]) -> Vec<Stretch> {
    let mut cuts: Vec<i64> = vec![range.begin(), range.end()];
    for (first, last) in spans {
        cuts.extend(
            [*first, last.saturating_add(1)]
                .iter()
                .filter(|t| range.contains(**t)),
        );
    }
    cuts.sort_unstable();
    cuts.dedup();
    let mut out: Vec<Stretch> = Vec::new();
    for pair in cuts.windows(2) {
        let Ok(part) = TimeRange::new(pair[0], pair[1]) else {
            continue;
        };
        let inside =
            |(i, (first, last)): (usize, &(i64, i64))| part.overlaps(*first, *last).then_some(i);
        let sources: Vec<usize> = spans.iter().enumerate().filter_map(inside).collect();
        if sources.is_empty() {
            continue;
        }
        // A cut that changed nothing would only cost edges.
        match out.last_mut() {
            Some(before) if before.sources == sources && before.range.end() == part.begin() => {
                before.range = TimeRange::new(before.range.begin(), part.end()).unwrap_or(part);
            }
            _ => out.push(Stretch {
                range: part,
                sources,
            }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(begin: i64, end: i64) -> TimeRange {
        TimeRange::new(begin, end).unwrap()
    }

    #[test]
    fn overlaps_are_cut_out() {
        let got = stretches(r(0, 100), &[(10, 90), (40, 49), (95, 200)]);
        let want = [
            (r(10, 40), vec![0]),
            (r(40, 50), vec![0, 1]),
            (r(50, 91), vec![0]),
            (r(95, 100), vec![2]),
        ];
        let got: Vec<_> = got.into_iter().map(|s| (s.range, s.sources)).collect();
        assert_eq!(got, want);
        assert!(stretches(r(0, 10), &[(10, 20)]).is_empty());
        let all = stretches(TimeRange::ALL, &[(i64::MIN, i64::MAX - 1)]);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].range, TimeRange::ALL);
    }
}
