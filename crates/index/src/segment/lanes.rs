//! The values of a block side by side, each in a lane of sixteen bytes, to be searched for a text all at once.
//!
//! Values of a block are sorted, so they share their first bytes and differ in a few at their ends: how many one shares with
//! the one before is what a processor cannot foretell. So what differs is put together in one register, in the same few steps
//! whatever its length. A lane is the last bytes that all of a block share, then those that differ, then bytes that no text
//! has: nothing is found across two lanes.

use memchr::memmem::Finder;

use crate::segment::value_block::ValueSet;

/// Bytes of one half of a lane: what all share, or what differs.
const HALF: usize = 8;

/// Bytes in which a value may differ from others of its block: one that no text has ends the lane.
const DIFFERING: u8 = 7;

/// What no text has.
const NO_TEXT: u8 = 0xff;

/// The first so many bytes of a half.
const FIRST: [u64; HALF] = {
    let mut masks = [0; HALF];
    let mut i = 1;
    while i < HALF {
        masks[i] = masks[i - 1] << 8 | 0xff;
        i += 1;
    }
    masks
};

/// Spells the values of a block into `out`, a lane each: for every one how many bytes it shares with the one before and how
/// many are its own, and all that are. `None` if values differ in too many bytes or make no sense, or if a value that
/// contains `wanted` might have its beginning in front of its lane.
pub(crate) fn spell(
    shared: &[u8],
    suffixes: &[u8],
    text: &[u8],
    wanted: &[u8],
    out: &mut Vec<u8>,
) -> Option<()> {
    // All that could make no sense is looked at before anything is spelt, without a branch.
    let (first_shared, shared_by_others) = shared.split_first()?;
    let (first, suffixes_of_others) = suffixes.split_first()?;
    let common = shared_by_others
        .iter()
        .fold(*first, |least, shared| least.min(*shared));
    let lengths = || {
        shared
            .iter()
            .zip(suffixes)
            .map(|(a, b)| u16::from(*a) + u16::from(*b))
    };
    let longest = lengths().fold(0, u16::max);
    let follows = lengths().zip(shared_by_others);
    let follows = follows.fold(true, |all, (length, by_next)| {
        all & (u16::from(*by_next) <= length)
    });
    let bytes: u32 = suffixes.iter().map(|suffix| u32::from(*suffix)).sum();
    let makes_sense = follows && *first_shared == 0 && bytes as usize <= text.len();
    if !makes_sense || longest > u16::from(common) + u16::from(DIFFERING) {
        return None;
    }
    let (common, text) = text.split_at_checked(common.into())?;
    let (left_out, common_end) = common.split_at(common.len().saturating_sub(HALF));
    if may_begin(left_out, common_end, wanted) {
        return None;
    }
    let mut front = [NO_TEXT; HALF];
    front[HALF - common_end.len()..].copy_from_slice(common_end);
    let lanes = suffixes.len() * HALF * 2;
    out.clear();
    out.resize(lanes, 0);
    // Room for the bytes of a whole half behind the last one.
    out.extend_from_slice(text);
    out.resize(out.len() + HALF, 0);
    let (out, text) = out.split_at_mut_checked(lanes)?;
    let (mut value, mut at) = (0, 0);
    let mut spell = |lane: &mut [[u8; HALF]; 2], shared: usize, suffix: usize| {
        let (shared, suffix) = (shared % HALF, suffix % HALF);
        let bytes = text.get(at..).and_then(|rest| rest.first_chunk());
        let bytes = bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes)) & FIRST[suffix];
        value = value & FIRST[shared] | bytes << (shared * 8);
        let behind = u64::MAX << ((shared + suffix) % HALF * 8);
        *lane = [front, (value | behind).to_le_bytes()];
        at += suffix;
    };
    let (first_lane, out_lanes) = out.as_chunks_mut().0.as_chunks_mut().0.split_first_mut()?;
    spell(first_lane, 0, usize::from(*first) - common.len());
    let others = shared_by_others.iter().zip(suffixes_of_others);
    for (lane, (shared, suffix)) in out_lanes.iter_mut().zip(others) {
        spell(
            lane,
            usize::from(*shared) - common.len(),
            usize::from(*suffix),
        );
    }
    Some(())
}

/// Whether a text that a value contains may begin in `left_out`, which is in front of all that is in its lane.
fn may_begin(left_out: &[u8], common_end: &[u8], text: &[u8]) -> bool {
    (0..left_out.len()).any(|at| {
        let common = left_out[at..].iter().chain(common_end);
        common.zip(text).all(|(a, b)| a == b)
    })
}

/// The lanes that contain a text, of so many in front of what else was put behind them.
pub(crate) fn containing(lanes: &[u8], count: u32, text: &Finder<'_>) -> ValueSet {
    let mut found = ValueSet::default();
    let lanes = lanes.get(..count as usize * HALF * 2).unwrap_or_default();
    let mut begin = 0;
    while let Some(at) = lanes.get(begin..).and_then(|rest| text.find(rest)) {
        let lane = (begin + at) / (HALF * 2);
        found.add(lane, true);
        begin = (lane + 1) * HALF * 2;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::value_block::{ValueBlock, ValueBlockBuilder};

    fn block(values: &[String]) -> Vec<u8> {
        let mut builder = ValueBlockBuilder::default();
        for value in values {
            builder.push_inline(value, std::iter::once(1));
        }
        builder.finish()
    }

    fn values(prefix: &str) -> Vec<String> {
        let mut values: Vec<String> = (0..120_000_u32)
            .step_by(257)
            .map(|n| format!("{prefix}{n}"))
            .collect();
        values.sort_unstable();
        values
    }

    /// The values that contain `wanted` by their lanes; `None` where they have none.
    fn found(values: &[String], wanted: &str) -> Option<Vec<String>> {
        let bytes = block(values);
        let block = ValueBlock::read(&bytes).unwrap();
        let mut lanes = vec![7; 5];
        block.spell(wanted.as_bytes(), &mut lanes)?;
        let found = containing(&lanes, block.count, &Finder::new(wanted));
        Some(found.iter().map(|i| values[i as usize].clone()).collect())
    }

    #[test]
    fn lanes_find_what_a_search_of_each_value_does() {
        for prefix in ["", "host_", "a-name-longer-than-a-lane-", "ünï-"] {
            let values = values(prefix);
            for wanted in [
                "9",
                "99",
                "999",
                "119",
                "host_1",
                "_9",
                "x",
                "0123456789abcdef",
            ] {
                let want = values.iter().filter(|v| v.contains(wanted)).cloned();
                let found =
                    found(&values, wanted).expect("few bytes differ, and none begins before");
                assert!(
                    found.iter().eq(&want.collect::<Vec<_>>()),
                    "{prefix} {wanted}"
                );
            }
        }
    }

    #[test]
    fn what_does_not_fit_has_no_lanes() {
        let long = values("a-name-longer-than-a-lane-");
        assert!(found(&long, "name").is_none(), "it is in what is left out");
        assert!(
            found(&long, "longer-than-a-lane-9").is_none(),
            "it begins there"
        );
        assert!(found(&long, "lane-9").is_some());
        let mut one_long = values("host_");
        one_long.push("host_a-name-longer-than-a-lane".into());
        assert!(
            found(&one_long, "9").is_none(),
            "the others are not as long"
        );
        let seven = ["ab".into(), "aba".into(), "ac234567".into()];
        assert_eq!(found(&seven, "67"), Some(vec![seven[2].clone()]));
        assert_eq!(found(&seven, "ac"), Some(vec![seven[2].clone()]));
        let eight = ["ab".into(), "aba".into(), "ac2345678".into()];
        assert!(found(&eight, "67").is_none());
        assert_eq!(found(&[String::new()], "a"), Some(vec![]));
    }

    #[test]
    fn lengths_that_make_no_sense_have_no_lanes() {
        let spell = |shared: &[u8], suffixes: &[u8], text: &[u8]| {
            super::spell(shared, suffixes, text, b"a", &mut Vec::new())
        };
        assert_eq!(spell(&[0, 1], &[2, 1], b"abc"), Some(()));
        assert_eq!(spell(&[0, 3], &[2, 1], b"abc"), None, "more than there is");
        assert_eq!(spell(&[0, 1], &[2, 2], b"abc"), None, "the text is short");
        assert_eq!(spell(&[0, 1], &[5, 1], b"abc"), None, "the text is short");
        assert_eq!(spell(&[1, 1], &[2, 1], b"abc"), None, "shared with nothing");
        assert_eq!(spell(&[0, 255, 250], &[255, 255, 10], &[b'x'; 600]), None);
        assert_eq!(spell(&[], &[], b""), None);
    }
}
