//! Builds an index of TSBS-like tag sets and prints what a row costs.
//!
//! ```text
//! cargo run --release -p alluvium-index --example cardinality [ROWS [SHAPE [SEGMENT_ROWS [PASSES]]]]
//! ```
//!
//! `hosts` (the default): one measurement, every row a host of its own. `devops`: nine measurements for each
//! host. `random`: four tags, one of them 32 random hexadecimal digits on each row. `measurements`: 10,000 of them in turn, a
//! row for each host. `sparse`: as `hosts`, with about 25 of 50 fields on each row, hardly any two rows with the same.
//!
//! With SEGMENT_ROWS the rows are sealed in segments of so many, after each of which look-ups and selectors are
//! measured over those; their bytes are in memory, so a read costs a checksum and no device.
//!
//! With PASSES the index is built so often, and of each insert the fastest counts: what a row costs comes back each time, what
//! the machine does beside it falls on other rows.

#![expect(
    clippy::disallowed_methods,
    reason = "an example that measures wall time outside any store"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alluvium_index::{
    DefinitionMark, FlatKey, KeyHash, Label, Matcher, MergeJob, PartitionIndex, Segment, Selector,
    Test,
};
use alluvium_io::thread_cpu_time;
use alluvium_types::{FieldId, SeriesKey, ValueKind};
use roaring::RoaringBitmap;

const SEED: u64 = 42;

const MEASUREMENTS: [&str; 9] = [
    "cpu",
    "diskio",
    "disk",
    "kernel",
    "mem",
    "net",
    "nginx",
    "postgresl",
    "redis",
];

/// Texts hashed and looked up.
const HASHED: u32 = 1 << 20;

/// A prime, so that texts follow no order of rows.
const SCATTER: u64 = 2_654_435_761;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rows: u32 = arguments
        .next()
        .map_or(1_000_000, |text| text.parse().expect("ROWS is a number"));
    let shape = arguments.next().unwrap_or_else(|| "hosts".into());
    let key = |i: u32| match shape.as_str() {
        "hosts" | "sparse" => host("cpu", i),
        "devops" => host(MEASUREMENTS[i as usize % 9], i / 9),
        "random" => container(i),
        "measurements" => metric(i),
        other => panic!("no shape '{other}': hosts, devops, random, measurements or sparse"),
    };
    let fields = |i: u32| match shape.as_str() {
        "measurements" => 1,
        "sparse" => xxh(!i) >> 14,
        _ => (1 << 10) - 1,
    };

    let segment_rows: u32 = arguments.next().map_or(u32::MAX, |text| {
        text.parse().expect("SEGMENT_ROWS is a number")
    });

    let passes: u32 = arguments
        .next()
        .map_or(1, |text| text.parse().expect("PASSES is a number"));
    let mut best_times = vec![u32::MAX; rows as usize];
    for _ in 1..passes {
        let mut index = PartitionIndex::new();
        let mut scratch = Vec::new();
        for begin in (0..rows).step_by(4096) {
            if index.head_rows() >= segment_rows {
                let mut unmeasured = Duration::ZERO;
                seal(&mut index, &mut unmeasured);
            }
            let keys: Vec<SeriesKey> = (begin..rows.min(begin + 4096)).map(key).collect();
            for ((row, key), best) in (begin..).zip(&keys).zip(&mut best_times[begin as usize..]) {
                let (_, taken, _) = insert(&mut index, key, fields(row), &mut scratch);
                *best = (*best).min(taken.as_nanos() as u32);
            }
        }
    }

    // Keys are made in groups beforehand, so that only the index is on the clock.
    let mut index = PartitionIndex::new();
    let mut hashes = Vec::with_capacity(rows as usize);
    let mut scratch = Vec::new();
    let mut times: Vec<u32> = Vec::with_capacity(rows as usize);
    let before = resident_bytes();
    let mut whole_times: Vec<u32> = Vec::with_capacity(rows as usize);
    let (mut inserting, mut adding) = (Duration::ZERO, Duration::ZERO);
    let (mut sealing, mut segment_bytes) = (Duration::ZERO, 0);
    let mut longest_step = Duration::ZERO;
    for begin in (0..rows).step_by(4096) {
        if index.head_rows() >= segment_rows {
            let start = Instant::now();
            segment_bytes += seal(&mut index, &mut longest_step);
            sealing += start.elapsed();
        }
        let keys: Vec<SeriesKey> = (begin..rows.min(begin + 4096)).map(key).collect();
        for (row, key) in (begin..).zip(&keys) {
            let (hash, taken, whole) = insert(&mut index, key, fields(row), &mut scratch);
            hashes.push(hash);
            inserting += taken;
            let before = best_times[times.len()];
            times.push(before.min(taken.as_nanos() as u32));
            whole_times.push(whole.as_nanos() as u32);
            adding += whole.saturating_sub(taken);
        }
    }
    if segment_rows < u32::MAX {
        let start = Instant::now();
        segment_bytes += seal(&mut index, &mut longest_step);
        sealing += start.elapsed();
    }
    let resident = resident_bytes() - before;
    let n = f64::from(rows);
    if segment_bytes > 0 {
        println!(
            "{} segments of {:.1} B/row, made in {:.0} ns/row, the longest step {:.2} ms of processor",
            index.segments().len(),
            segment_bytes as f64 / n,
            sealing.as_nanos() as f64 / n,
            longest_step.as_secs_f64() * 1e3
        );
        merge(&index.segments()[..index.segments().len().min(4)]);
    }
    println!(
        "{rows} rows, {} series, shape {shape}",
        index.series_count()
    );
    println!(
        "heap {:.1} B/row by capacities:",
        index.heap_bytes() as f64 / n
    );
    for (what, bytes) in index.heap_breakdown() {
        println!("  {what:16} {:6.2}", bytes as f64 / n);
    }
    println!(
        "resident set {:.1} B/row (includes 24 B/row of this program's own lists)",
        resident as f64 / n
    );
    for (what, times) in [("inserts", &times), ("with their series", &whole_times)] {
        let mut slowest: Vec<(u32, usize)> = times.iter().copied().zip(0..).collect();
        slowest.sort_unstable_by(|a, b| b.cmp(a));
        slowest.truncate(8);
        println!("slowest {what}, nanoseconds and row: {slowest:?}");
    }
    times.sort_unstable();
    let at = |share: f64| times[((n - 1.0) * share) as usize];
    println!(
        "insert_row {:.0} ns mean, p50 {} p99 {} p99.9 {} max {} ns of processor, its clock's own included; \
         its add_series {:.0} ns",
        inserting.as_nanos() as f64 / n,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        adding.as_nanos() as f64 / n
    );

    let count = index.measurements().count();
    let of_measurements = best(|| index.measurement_sizes().len());
    let of_tags = best(|| index.tag_sizes().len());
    println!(
        "sizes of {count} measurements {:.2} ms, of tags {:.2} ms",
        of_measurements / 1e6,
        of_tags / 1e6
    );

    // A fixed permutation, so that look-ups do not follow the order of insertion.
    let mut order: Vec<KeyHash> = hashes;
    order.sort_unstable_by_key(|hash| hash.bits() as u64);
    let absent: Vec<KeyHash> = order
        .iter()
        .map(|hash| KeyHash::from_bits(hash.bits() ^ (1 << 60)))
        .collect();
    for (what, hashes) in [("hit", &order), ("miss", &absent)] {
        let single = best(|| {
            hashes
                .iter()
                .filter(|&&hash| index.lookup(hash).is_some())
                .count()
        });
        let mut out = Vec::with_capacity(hashes.len());
        let batched = best(|| {
            out.clear();
            index.lookup_batch(hashes, &mut out);
        });
        println!(
            "lookup {what}: {:.0} ns, in batches {:.0} ns",
            single / n,
            batched / n
        );
    }

    // The texts of some, as a body brings them, in no order of rows.
    let mut texts = Vec::new();
    let mut ends = Vec::new();
    for i in 0..rows.min(HASHED) {
        let i = (u64::from(i) * SCATTER % u64::from(rows)) as u32;
        FlatKey::new(&key(i), &mut scratch);
        texts.extend_from_slice(&scratch);
        ends.push(texts.len());
    }
    let begins = || std::iter::once(0).chain(ends.iter().copied());
    let hashes = || {
        begins()
            .zip(&ends)
            .map(|(begin, end)| KeyHash::of_input(SEED, &texts[begin..*end]))
    };
    let hashing = best(|| hashes().fold(0, |sum, hash| sum ^ hash.bits()));
    let single = best(|| {
        hashes()
            .filter(|hash| index.lookup(*hash).is_some())
            .count()
    });
    let mut out = Vec::with_capacity(ends.len());
    let batched = best(|| {
        out.clear();
        let mut hashes = hashes().fuse();
        while out.len() < ends.len() {
            let batch: [_; 64] = std::array::from_fn(|_| hashes.next().unwrap_or(absent[0]));
            index.lookup_batch(&batch, &mut out);
        }
    });
    let count = ends.len() as f64;
    println!(
        "lookup of a text, its hash ({:.0} ns) included: {:.0} ns, in batches {:.0} ns",
        hashing / count,
        single / count,
        batched / count
    );

    for (what, selector) in [
        (
            "two equalities",
            vec![
                tag("region", equal("eu-west-1")),
                tag("os", equal("Ubuntu15.10")),
            ],
        ),
        ("one host", vec![tag("hostname", equal("host_77"))]),
        (
            "negation alone",
            vec![tag("os", equal("Ubuntu15.10")).negated()],
        ),
        (
            "prefix expression",
            vec![tag("hostname", Test::Regex("host_12.*".into()))],
        ),
        (
            "infix expression",
            vec![tag("hostname", Test::Regex(".*99.*".into()))],
        ),
        (
            "name and equality",
            vec![
                Matcher::new(Label::Name, equal("cpu_field_3")),
                tag("team", equal("NYC")),
            ],
        ),
    ] {
        let selector = Selector { matchers: selector };
        let compiled = selector.compile().expect("valid");
        let found = index.count(&compiled).expect("in memory");
        let rows = best(|| index.plan(&compiled).rows(None).is_ok());
        let count = best(|| index.count(&compiled).is_ok());
        println!(
            "match {what}: {:.2} ms; counted, {found} series: {:.2} ms",
            rows / 1e6,
            count / 1e6
        );
    }

    silent_rows(&mut index, rows, &order);

    let start = Instant::now();
    let part = index.encode_part(DefinitionMark::default()).expect("rows");
    let encoding = start.elapsed();
    let segments = index.segments().to_vec();
    let start = Instant::now();
    let copy = PartitionIndex::open(SEED, &part, segments, None).expect("own bytes");
    println!(
        "part {:.1} B/row; encoding {:.0} ns/row, opening {:.0} ns/row",
        part.len() as f64 / n,
        encoding.as_nanos() as f64 / n,
        start.elapsed().as_nanos() as f64 / n
    );
    assert_eq!(copy.series_count(), index.series_count());
}

/// Inserts a row with a series of each field whose bit is set; returns its hash, and the processor time of the row alone and
/// of all: what another process takes meanwhile is not the insert's.
fn insert(
    index: &mut PartitionIndex,
    key: &SeriesKey,
    fields: u64,
    scratch: &mut Vec<u8>,
) -> (KeyHash, Duration, Duration) {
    let key = FlatKey::new(key, scratch);
    let hash = KeyHash::of_input(SEED, key.bytes());
    let start = thread_cpu_time();
    let row = index.insert_flat(hash, key).expect("a new tag set");
    let taken = thread_cpu_time().saturating_sub(start);
    let measurement = index.measurement_of(row).expect("just inserted");
    let last = u64::BITS - fields.leading_zeros();
    for field in index.field_count(measurement)..last {
        let name = format!("field_{field}");
        index.insert_field(measurement, &name).expect("few fields");
    }
    for field in (0..last).filter(|field| fields >> field & 1 == 1) {
        let field = FieldId(field);
        index.add_series(row, field, ValueKind::F64).expect("known");
    }
    (hash, taken, thread_cpu_time().saturating_sub(start))
}

/// What is left in memory when only the newest rows are active, and what the others cost a question about these.
fn silent_rows(index: &mut PartitionIndex, rows: u32, hashes: &[KeyHash]) {
    if index.segments().is_empty() || rows < ACTIVE_ROWS {
        return;
    }
    let mut active = RoaringBitmap::new();
    active.insert_range(rows - ACTIVE_ROWS..rows);
    let start = Instant::now();
    let silent = index.silence(&active);
    println!(
        "{silent} rows fall silent in {:.1} ms; heap {:.1} MB, of it:",
        start.elapsed().as_secs_f64() * 1e3,
        index.heap_bytes() as f64 / 1e6
    );
    for (what, bytes) in index.heap_breakdown() {
        println!("  {what:16} {:8.2} MB", bytes as f64 / 1e6);
    }
    let some = &hashes[..hashes.len().min(100_000)];
    let found = best(|| some.iter().filter(|h| index.find(**h).is_ok()).count());
    println!(
        "find, active or silent: {:.0} ns",
        found / some.len() as f64
    );
    let among = (0..rows).step_by((rows / ACTIVE_ROWS) as usize);
    let among: RoaringBitmap = among.take(ACTIVE_ROWS as usize).collect();
    for (place, active) in [
        ("the newest, active", &active),
        ("as many, active among all the others", &among),
    ] {
        for (what, matchers) in [
            ("equality", vec![tag("region", equal("eu-west-1"))]),
            (
                "two equalities",
                vec![
                    tag("region", equal("eu-west-1")),
                    tag("os", equal("Ubuntu15.10")),
                ],
            ),
            (
                "prefix",
                vec![tag("hostname", Test::Regex("host_12.*".into()))],
            ),
        ] {
            let compiled = Selector { matchers }.compile().expect("valid");
            let count = || {
                let plan = index.plan(&compiled);
                let sealed = plan.rows(Some(active)).expect("in memory");
                index.count_with(&compiled, &sealed, Some(active))
            };
            let time = best(count);
            println!("match {what} in {place}: {}, {:.2} ms", count(), time / 1e6);
            // What no index spares: the answer is a set of these rows, and of those that match only the active ones count.
            let whole = index.plan(&compiled).rows(None).expect("in memory");
            let whole = index.rows_with(&compiled, &whole, None);
            let answer = &whole & active;
            let and = best(|| (&whole & active).len() as usize);
            let copy = best(|| answer.clone().len() as usize);
            println!(
                "  of it: matching rows and the active ones {:.2} ms, a copy of the answer {:.2} ms",
                and / 1e6,
                copy / 1e6
            );
        }
    }
}

/// Rows that stay active.
const ACTIVE_ROWS: u32 = 1_000_000;

/// Makes a segment of the rows in memory; returns its bytes.
fn seal(index: &mut PartitionIndex, longest_step: &mut Duration) -> usize {
    let start = thread_cpu_time();
    index.freeze();
    *longest_step = (*longest_step).max(thread_cpu_time().saturating_sub(start));
    let Some(mut job) = index.seal_job() else {
        return 0;
    };
    let bytes = in_steps(longest_step, || job.step(|| &*index));
    let len = bytes.len();
    let segment = Segment::open(Arc::new(bytes)).expect("own bytes");
    index.seal(Arc::new(segment)).expect("the frozen rows");
    len
}

/// Makes one segment of some, and forgets it.
fn merge(segments: &[Arc<Segment>]) {
    let mut job = MergeJob::new(segments.to_vec()).expect("neighbours");
    let mut longest_step = Duration::ZERO;
    let start = thread_cpu_time();
    let bytes = in_steps(&mut longest_step, || job.step().expect("in memory"));
    let rows: usize = segments.iter().map(|s| s.rows().len()).sum();
    println!(
        "merging {} of them: {:.0} ns/row, {} bytes, the longest step {:.2} ms of processor",
        segments.len(),
        thread_cpu_time().saturating_sub(start).as_nanos() as f64 / rows as f64,
        bytes.len(),
        longest_step.as_secs_f64() * 1e3
    );
}

fn in_steps(longest: &mut Duration, mut step: impl FnMut() -> Option<Vec<u8>>) -> Vec<u8> {
    loop {
        let start = thread_cpu_time();
        let done = step();
        *longest = (*longest).max(thread_cpu_time().saturating_sub(start));
        if let Some(bytes) = done {
            return bytes;
        }
    }
}

/// The ten tags of a TSBS host.
fn host(measurement: &str, i: u32) -> SeriesKey {
    const REGIONS: [&str; 9] = [
        "us-east-1",
        "us-west-1",
        "us-west-2",
        "eu-west-1",
        "eu-central-1",
        "ap-southeast-1",
        "ap-southeast-2",
        "ap-northeast-1",
        "sa-east-1",
    ];
    let random = xxh(i);
    let pick = |shift: u32, n: u64| (random >> shift) % n;
    let region = REGIONS[pick(0, 9) as usize];
    let tags = [
        ("hostname", format!("host_{i}")),
        ("region", region.to_owned()),
        (
            "datacenter",
            format!("{region}{}", ["a", "b", "c"][pick(8, 3) as usize]),
        ),
        ("rack", pick(16, 100).to_string()),
        (
            "os",
            ["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"][pick(24, 3) as usize].to_owned(),
        ),
        ("arch", ["x64", "x86"][pick(32, 2) as usize].to_owned()),
        (
            "team",
            ["SF", "NYC", "LON", "CHI"][pick(36, 4) as usize].to_owned(),
        ),
        ("service", pick(40, 20).to_string()),
        ("service_version", pick(48, 2).to_string()),
        (
            "service_environment",
            ["production", "staging", "test"][pick(56, 3) as usize].to_owned(),
        ),
    ];
    SeriesKey::new(measurement, tags).expect("keys differ")
}

/// Four tags, one with a value of its own on every row.
fn container(i: u32) -> SeriesKey {
    let random = xxh(i);
    let tags = [
        ("container_id", format!("{random:016x}{:016x}", xxh(!i))),
        ("image", format!("registry/app-{}", random % 200)),
        ("namespace", format!("ns-{}", random >> 8 & 31)),
        ("node", format!("node-{}", (random >> 16) % 1000)),
    ];
    SeriesKey::new("container", tags).expect("keys differ")
}

/// One of 10,000 measurements of a host.
fn metric(i: u32) -> SeriesKey {
    let host = i / 10_000;
    let tags = [
        ("host", format!("host_{host}")),
        ("job", format!("job_{}", host % 7)),
    ];
    SeriesKey::new(format!("metric_{}", i % 10_000), tags).expect("keys differ")
}

fn xxh(i: u32) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(&i.to_le_bytes(), SEED)
}

fn tag(key: &str, test: Test) -> Matcher {
    Matcher::new(Label::Tag(key.into()), test)
}

fn equal(text: &str) -> Test {
    Test::Equal(text.into())
}

/// Nanoseconds of processor of the best of five runs.
fn best<T>(mut run: impl FnMut() -> T) -> f64 {
    let times = (0..5).map(|_| {
        let start = thread_cpu_time();
        black_box(run());
        thread_cpu_time().saturating_sub(start).as_nanos()
    });
    times.min().unwrap_or_default() as f64
}

/// Resident memory of this process, on Linux; 0 elsewhere.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok());
    pages.unwrap_or_default() * 4096
}
