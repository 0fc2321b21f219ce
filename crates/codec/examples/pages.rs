//! Bits a point of recorded series packed into pages of 4096 bytes, and how fast.
//!
//! `cargo run --release -p alluvium-codec --example pages -- DIR...`
//!
//! Each page is charged its header and 12 bytes of directory a block; the last one what it uses. Speeds are of
//! one thread, encoding blocks of 1,024 points and decoding whole pages.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

#[path = "../tests/series/mod.rs"]
mod series;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use alluvium_codec::{
    Compression, Encoder, Hint, MAX_BLOCK_POINTS, Models, decode_block, encoding_names,
};
use alluvium_types::{Column, PAGE_HEADER_BYTES, PAGE_SIZE};

const DIRECTORY_BYTES: usize = 6;
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

/// Pages as lists of blocks, each page filled as far as it goes.
fn pack(column: &Column, compression: Compression) -> Vec<Vec<Block>> {
    let (mut encoder, mut hint) = (Encoder::new(compression), Hint::default());
    let (mut pages, mut page) = (Vec::new(), Vec::<Block>::new());
    let mut room = PAGE_SIZE - PAGE_HEADER_BYTES;
    let mut begin = 0;
    while begin < column.len() {
        let mut fits = |points: usize, room: usize| {
            let mut bytes = Vec::new();
            encoder.encode(
                column,
                begin..begin + points,
                &mut hint,
                models(&page),
                &mut bytes,
            );
            (bytes.len() + DIRECTORY_BYTES <= room).then_some(bytes)
        };
        let take = MAX_BLOCK_POINTS.min(column.len() - begin);
        let mut best = fits(take, room).map(|bytes| (take, bytes));
        if best.is_none() {
            let (mut low, mut high) = (0, take);
            while high - low > 1 {
                let middle = usize::midpoint(low, high);
                match fits(middle, room) {
                    Some(bytes) => {
                        best = Some((middle, bytes));
                        low = middle;
                    }
                    None => high = middle,
                }
            }
        }
        let Some((points, bytes)) = best else {
            assert!(!page.is_empty(), "a point is larger than a page");
            pages.push(std::mem::take(&mut page));
            room = PAGE_SIZE - PAGE_HEADER_BYTES;
            continue;
        };
        room -= bytes.len() + DIRECTORY_BYTES;
        page.push(Block {
            bytes,
            begin,
            points,
        });
        begin += points;
    }
    pages.push(page);
    pages
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

fn main() {
    let mut dirs: Vec<String> = std::env::args().skip(1).collect();
    let small = dirs.iter().any(|dir| dir == "--small");
    dirs.retain(|dir| dir != "--small");
    let compression = if small {
        Compression::Small
    } else {
        Compression::Balanced
    };
    if dirs.is_empty() {
        eprintln!("name directories with .csv.zst series");
        std::process::exit(2);
    }
    let (mut log_sum, mut count) = (0.0, 0);
    println!(
        "{:24} {:>5} {:>8} {:>6} {:>8} {:>8}  encodings (blocks)",
        "series", "kind", "points", "bits/p", "enc M/s", "dec M/s"
    );
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
            let mut bytes = (pages.len() - 1) * PAGE_SIZE + PAGE_HEADER_BYTES;
            bytes += pages.last().map_or(0, |page| {
                page.iter().map(|b| b.bytes.len() + DIRECTORY_BYTES).sum()
            });
            let bits = bytes as f64 * 8.0 / column.len() as f64;
            log_sum += bits.ln();
            count += 1;

            let mut names = BTreeMap::new();
            for block in pages.iter().flatten() {
                let (times, values) = encoding_names(&block.bytes).expect("a whole block");
                *names.entry(format!("{times}/{values}")).or_insert(0) += 1;
            }
            let mut names: Vec<(String, u32)> = names.into_iter().collect();
            names.sort_by_key(|(_, blocks)| std::cmp::Reverse(*blocks));
            let names: Vec<String> = names
                .iter()
                .take(3)
                .map(|(name, blocks)| format!("{name} {blocks}"))
                .collect();

            let (mut encoder, mut hint) = (Encoder::new(compression), Hint::default());
            let mut out = Vec::new();
            let encode = seconds(|| {
                for begin in (0..column.len()).step_by(MAX_BLOCK_POINTS) {
                    let end = column.len().min(begin + MAX_BLOCK_POINTS);
                    out.clear();
                    black_box(encoder.encode(
                        column,
                        begin..end,
                        &mut hint,
                        Models::default(),
                        &mut out,
                    ));
                }
            });
            let mut back = Column::new(column.kind());
            let mut decoded = 0;
            let decode = seconds(|| {
                decoded = 0;
                for page in &pages {
                    back.clear();
                    let mut models = Models::default();
                    for block in page {
                        let first = column.times[block.begin];
                        decode_block(&block.bytes, block.points, first, models, &mut back)
                            .expect("a whole block");
                        models = models.after(&block.bytes).expect("a whole block");
                    }
                    decoded += black_box(&back).len();
                }
            });
            assert_eq!(decoded, column.len());
            back.clear();
            for page in &pages {
                let mut models = Models::default();
                for block in page {
                    let first = column.times[block.begin];
                    decode_block(&block.bytes, block.points, first, models, &mut back)
                        .expect("a whole block");
                    models = models.after(&block.bytes).expect("a whole block");
                }
            }
            assert!(back == *column, "{} comes back", one.name);
            let speed = |seconds: f64| column.len() as f64 / seconds / 1e6;
            println!(
                "{:24} {:>5} {:>8} {bits:>6.2} {:>8.1} {:>8.1}  {}",
                one.name,
                format!("{:?}", column.kind()).to_lowercase(),
                column.len(),
                speed(encode),
                speed(decode),
                names.join(", ")
            );
        }
    }
    println!(
        "geometric mean of {count} series: {:.3} bits/point",
        (log_sum / f64::from(count)).exp()
    );
}
