//! Bits a point of recorded series packed into pages of 4096 bytes, and how fast.
//!
//! `cargo run --release -p alluvium-codec --example pages -- [--small] [--against] DIR...`
//!
//! Pages are filled as a tree fills them, with header and directory; the last one is charged what it uses. Speeds
//! are of one thread, encoding blocks of 1,024 points that borrow nothing and decoding whole pages. `--against` adds
//! what other codecs take in pages of the same header, each page on its own.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

mod against;
#[path = "../../tests/series/mod.rs"]
mod series;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use alluvium_codec::{
    Compression, Encoder, Hint, MAX_BLOCK_POINTS, Models, decode_block, encoding_names, varint,
};
use alluvium_types::{Column, PAGE_HEADER_BYTES, PAGE_SIZE};

const MEASURED: Duration = Duration::from_millis(100);

/// A block and where it begins in its column.
struct Block {
    bytes: Vec<u8>,
    begin: usize,
    points: usize,
}

fn models(page: &[Block]) -> Models<'_> {
    page.iter().fold(Models::default(), |models, block| {
        models.after(&block.bytes).expect("a whole block")
    })
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Bytes that a page of these blocks uses, its directory as `docs/format/leaf.md` says.
fn page_bytes<'a>(column: &Column, page: impl Iterator<Item = &'a Block>) -> usize {
    let page: Vec<&Block> = page.collect();
    let times: Vec<i64> = page.iter().map(|b| column.times[b.begin]).collect();
    let steps = times.windows(2).map(|w| w[1].wrapping_sub(w[0]) as u64);
    let unit = steps.clone().fold(0, gcd).max(1);
    let mut directory = Vec::new();
    varint::put_u64(&mut directory, unit);
    varint::put_i64(&mut directory, times[0]);
    steps.for_each(|step| varint::put_u64(&mut directory, step / unit));
    for (i, block) in page.iter().enumerate() {
        varint::put_u64(&mut directory, (MAX_BLOCK_POINTS - block.points) as u64);
        if i + 1 < page.len() {
            varint::put_u64(&mut directory, block.bytes.len() as u64);
        }
    }
    let blocks: usize = page.iter().map(|b| b.bytes.len()).sum();
    PAGE_HEADER_BYTES + directory.len() + blocks
}

/// Pages as lists of blocks, each page filled as far as it goes.
fn pack(column: &Column, compression: Compression) -> Vec<Vec<Block>> {
    let (mut encoder, mut hint) = (Encoder::new(compression), Hint::default());
    let (mut pages, mut page) = (Vec::new(), Vec::<Block>::new());
    let mut begin = 0;
    while begin < column.len() {
        // A block of so many points, if the page takes it.
        let mut fitting = |points: usize| {
            let mut bytes = Vec::new();
            let range = begin..begin + points;
            encoder.encode(column, range, &mut hint, models(&page), &mut bytes);
            let block = Block {
                bytes,
                begin,
                points,
            };
            let blocks = page.iter().chain([&block]);
            (page_bytes(column, blocks) <= PAGE_SIZE).then_some(block)
        };
        let take = MAX_BLOCK_POINTS.min(column.len() - begin);
        let mut best = fitting(take);
        if best.is_none() {
            let (mut low, mut high) = (0, take);
            while high - low > 1 {
                let middle = usize::midpoint(low, high);
                match fitting(middle) {
                    Some(block) => {
                        best = Some(block);
                        low = middle;
                    }
                    None => high = middle,
                }
            }
        }
        let Some(block) = best else {
            assert!(!page.is_empty(), "a point is larger than a page");
            pages.push(std::mem::take(&mut page));
            continue;
        };
        begin += block.points;
        page.push(block);
    }
    pages.push(page);
    pages
}

/// Decodes a page.
fn open(column: &Column, page: &[Block], out: &mut Column) {
    let mut models = Models::default();
    for block in page {
        let first = column.times[block.begin];
        decode_block(&block.bytes, block.points, first, models, out).expect("a whole block");
        models = models.after(&block.bytes).expect("a whole block");
    }
}

/// Seconds a call takes.
fn seconds(mut call: impl FnMut()) -> f64 {
    call();
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < MEASURED {
        call();
        rounds += 1;
    }
    begun.elapsed().as_secs_f64() / f64::from(rounds)
}

/// The most frequent encodings of blocks.
fn names(pages: &[Vec<Block>]) -> String {
    let mut counts = BTreeMap::new();
    for block in pages.iter().flatten() {
        let (times, values) = encoding_names(&block.bytes).expect("a whole block");
        *counts.entry(format!("{times} / {values}")).or_insert(0) += 1;
    }
    let mut counts: Vec<(String, u32)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, blocks)| std::cmp::Reverse(*blocks));
    let named = counts.iter().take(2);
    let named: Vec<String> = named.map(|(name, n)| format!("{n} {name}")).collect();
    named.join(", ")
}

/// Encode and decode speeds in millions of points a second.
fn speeds(column: &Column, pages: &[Vec<Block>], compression: Compression) -> (f64, f64) {
    let (mut encoder, mut hint) = (Encoder::new(compression), Hint::default());
    let mut out = Vec::new();
    let encode = seconds(|| {
        for begin in (0..column.len()).step_by(MAX_BLOCK_POINTS) {
            let end = column.len().min(begin + MAX_BLOCK_POINTS);
            out.clear();
            let models = Models::default();
            black_box(encoder.encode(column, begin..end, &mut hint, models, &mut out));
        }
    });
    let mut back = Column::new(column.kind());
    let decode = seconds(|| {
        for page in pages {
            back.clear();
            open(column, page, &mut back);
            black_box(&back);
        }
    });
    let points = column.len() as f64;
    (points / encode / 1e6, points / decode / 1e6)
}

fn main() {
    let mut dirs: Vec<String> = std::env::args().skip(1).collect();
    let mut option = |name: &str| {
        let before = dirs.len();
        dirs.retain(|dir| dir != name);
        dirs.len() < before
    };
    let compression = if option("--small") {
        Compression::Small
    } else {
        Compression::Balanced
    };
    let others = if option("--against") {
        against::CODECS
    } else {
        &[]
    };
    if dirs.is_empty() {
        eprintln!("name directories with .csv.zst series");
        std::process::exit(2);
    }
    // Sums of logarithms: ours, then the others'.
    let mut sums = vec![0.0; 1 + others.len()];
    let mut count = 0;
    print!(
        "{:22} {:>4} {:>7} {:>7} {:>8} {:>8}",
        "series", "kind", "points", "bits/p", "enc M/s", "dec M/s"
    );
    others.iter().for_each(|(name, _)| print!(" {name:>8}"));
    println!("  blocks");
    for dir in &dirs {
        let Some(all) = series::read_all(Path::new(dir)) else {
            eprintln!("{dir} cannot be read");
            std::process::exit(1);
        };
        for one in all {
            let column = &one.column;
            if column.is_empty() {
                continue;
            }
            let pages = pack(column, compression);
            let mut back = Column::new(column.kind());
            pages.iter().for_each(|page| open(column, page, &mut back));
            assert!(back == *column, "{} comes back", one.name);
            let last = pages
                .last()
                .map_or(0, |page| page_bytes(column, page.iter()));
            let mut sizes = vec![(pages.len() - 1) * PAGE_SIZE + last];
            sizes.extend(others.iter().map(|(_, size)| size(column)));
            let bits = |bytes: usize| bytes as f64 * 8.0 / column.len() as f64;
            for (sum, bytes) in sums.iter_mut().zip(&sizes) {
                *sum += bits(*bytes).ln();
            }
            count += 1;
            let (encode, decode) = speeds(column, &pages, compression);
            print!(
                "{:22} {:>4} {:>7} {:>7.2} {encode:>8.1} {decode:>8.1}",
                one.name,
                format!("{:?}", column.kind()).to_lowercase(),
                column.len(),
                bits(sizes[0]),
            );
            sizes[1..]
                .iter()
                .for_each(|bytes| print!(" {:>8.2}", bits(*bytes)));
            println!("  {}", names(&pages));
        }
    }
    let mean = |sum: &f64| (sum / f64::from(count)).exp();
    print!(
        "geometric mean of {count} series: {:.3} bits/point",
        mean(&sums[0])
    );
    for ((name, _), sum) in others.iter().zip(&sums[1..]) {
        print!(", {name} {:.3}", mean(sum));
    }
    println!();
}
