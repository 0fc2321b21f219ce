//! Where one run alone has points, and where several must be merged; what deletes leave of a run.

use alluvium_types::TimeRange;

/// A stretch of time and the sources that may have points in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub range: TimeRange,
    /// Numbers of the sources, ascending.
    pub sources: Vec<usize>,
}

/// Cuts `range` at the ends of the spans into stretches in order of time, leaving out those where no source has
/// points. A span is the number of its source and its first and last time, both included; spans of one source
/// do not overlap.
///
/// Cost: sorting the ends of the spans, and for each stretch a copy of the sources in it.
pub(crate) fn stretches(range: TimeRange, spans: &[(usize, i64, i64)]) -> Vec<Stretch> {
    // Time, whether the source begins there, source.
    let mut ends: Vec<(i64, bool, usize)> = Vec::with_capacity(2 * spans.len());
    for (source, first, last) in spans {
        if range.overlaps(*first, *last) && !range.is_empty() {
            ends.push((range.begin().max(*first), true, *source));
            ends.push((range.end().min(last.saturating_add(1)), false, *source));
        }
    }
    ends.sort_unstable();
    let mut out: Vec<Stretch> = Vec::new();
    let mut active: Vec<usize> = Vec::new();
    let mut begin = range.begin();
    for (time, begins, source) in ends {
        if begin < time && !active.is_empty() {
            add(&mut out, begin, time, &active);
        }
        begin = time;
        match (active.binary_search(&source), begins) {
            (Err(at), true) => active.insert(at, source),
            (Ok(at), false) => drop(active.remove(at)),
            _ => debug_assert!(false, "spans of one source overlap"),
        }
    }
    out
}

fn add(out: &mut Vec<Stretch>, begin: i64, end: i64, sources: &[usize]) {
    let Ok(range) = TimeRange::new(begin, end) else {
        return;
    };
    // A cut that changed nothing would only cost edges.
    match out.last_mut() {
        Some(before) if before.sources == sources && before.range.end() == begin => {
            before.range = TimeRange::new(before.range.begin(), end).unwrap_or(range);
        }
        _ => out.push(Stretch {
            range,
            sources: sources.to_vec(),
        }),
    }
}

/// What is left of `first` to `last`, both included, when `holes` (ascending, none touching the next) are cut
/// out: spans with both ends included.
pub(crate) fn pieces(
    first: i64,
    last: i64,
    holes: &[TimeRange],
) -> impl Iterator<Item = (i64, i64)> + '_ {
    let from = holes.partition_point(|hole| hole.end() <= first);
    let inside = holes[from..]
        .iter()
        .take_while(move |hole| hole.begin() <= last);
    let begins = std::iter::once(first).chain(inside.clone().map(|hole| hole.end()));
    // A hole's begin is above the smallest time where anything is left before it.
    let ends = inside
        .map(|hole| hole.begin().checked_sub(1))
        .chain(std::iter::once(Some(last)));
    begins
        .zip(ends)
        .filter_map(|(begin, end)| end.filter(|end| begin <= *end).map(|end| (begin, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(begin: i64, end: i64) -> TimeRange {
        TimeRange::new(begin, end).unwrap()
    }

    #[test]
    fn overlaps_are_cut_out() {
        let got = stretches(r(0, 100), &[(0, 10, 90), (1, 40, 49), (2, 95, 200)]);
        let want = [
            (r(10, 40), vec![0]),
            (r(40, 50), vec![0, 1]),
            (r(50, 91), vec![0]),
            (r(95, 100), vec![2]),
        ];
        let got: Vec<_> = got.into_iter().map(|s| (s.range, s.sources)).collect();
        assert_eq!(got, want);
        assert!(stretches(r(0, 10), &[(0, 10, 20)]).is_empty());
        assert!(stretches(r(15, 15), &[(0, 10, 20)]).is_empty());
        let all = stretches(TimeRange::ALL, &[(0, i64::MIN, i64::MAX - 1)]);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].range, TimeRange::ALL);
    }

    #[test]
    fn a_source_may_come_and_go() {
        let got = stretches(
            r(0, 100),
            &[(0, 10, 19), (1, 15, 60), (0, 20, 29), (0, 50, 55)],
        );
        let want = [
            (r(10, 15), vec![0]),
            (r(15, 30), vec![0, 1]),
            (r(30, 50), vec![1]),
            (r(50, 56), vec![0, 1]),
            (r(56, 61), vec![1]),
        ];
        let got: Vec<_> = got.into_iter().map(|s| (s.range, s.sources)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn holes_leave_pieces() {
        let cut = |first, last, holes: &[TimeRange]| pieces(first, last, holes).collect::<Vec<_>>();
        assert_eq!(cut(10, 20, &[]), [(10, 20)]);
        assert_eq!(cut(10, 20, &[r(0, 10), r(21, 30)]), [(10, 20)]);
        assert_eq!(cut(10, 20, &[r(0, 11), r(20, 30)]), [(11, 19)]);
        assert_eq!(
            cut(10, 20, &[r(12, 13), r(15, 18)]),
            [(10, 11), (13, 14), (18, 20)]
        );
        assert!(cut(10, 20, &[r(10, 21)]).is_empty());
        assert!(cut(i64::MIN, i64::MAX - 1, &[TimeRange::ALL]).is_empty());
        assert_eq!(cut(i64::MIN, 5, &[r(i64::MIN, 0)]), [(0, 5)]);
    }
}
