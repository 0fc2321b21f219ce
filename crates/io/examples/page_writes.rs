//! Pages per second and processor time per page of each way to write pages.
//!
//! `cargo run --release -p alluvium-io --example page_writes -- DIR [PAGES] [ROUNDS]`
//!
//! Writes PAGES pages (default 65,536: 256 MiB) into one preallocated, prewritten file below DIR, 64 pages an
//! operation, four operations in flight; the ways take turns, ROUNDS times (default 5), and the median and the
//! spread of the rounds are printed. The last two lines compare the memory layouts of a page on the bare
//! system call: four pieces of 1 KiB against one of 4 KiB.

use std::error::Error;
use std::io::IoSlice;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alluvium_io::{
    AlignedBuf, Backend, Completion, DeviceOptions, Lane, Op, OpenMode, PageBuf, PageWriteMode,
    WriteData, process_cpu_time,
};

const LANE: Lane = Lane(0);
const BATCH_PAGES: u64 = 64;
const IN_FLIGHT: usize = 4;
const PAGE: u64 = 4096;

/// Wall and processor time of one round.
type Cost = (Duration, Duration);

fn measure(work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<Cost, Box<dyn Error>> {
    let (begin, cpu) = (Instant::now(), process_cpu_time());
    work()?;
    Ok((begin.elapsed(), process_cpu_time().saturating_sub(cpu)))
}

fn through_device(
    dir: &Path,
    options: &DeviceOptions,
    pages: u64,
) -> Result<(Cost, String), Box<dyn Error>> {
    let device = alluvium_io::open(dir, options)?;
    let mode = OpenMode {
        create: true,
        allocate: pages * PAGE,
        direct: true,
    };
    let opened = device
        .submit(
            LANE,
            Op::Open {
                path: "pages".into(),
                mode,
            },
        )
        .wait(&*device, LANE)?;
    let Completion::Opened { file, .. } = opened else {
        return Err("not opened".into());
    };
    let batch: Vec<Arc<PageBuf>> = (0..BATCH_PAGES)
        .map(|_| Arc::new(PageBuf::zeroed()))
        .collect();
    let cost = measure(|| {
        let mut flying = std::collections::VecDeque::new();
        for first in (0..pages).step_by(BATCH_PAGES as usize) {
            let data = WriteData::Pages(batch.clone());
            flying.push_back(device.submit(
                LANE,
                Op::Write {
                    file,
                    offset: first * PAGE,
                    data,
                    sync: false,
                },
            ));
            device.drive(LANE);
            while flying.len() >= IN_FLIGHT {
                if let Some(ticket) = flying.pop_front() {
                    ticket.wait(&*device, LANE)?;
                }
            }
        }
        for ticket in flying {
            ticket.wait(&*device, LANE)?;
        }
        Ok(())
    })?;
    Ok((cost, device.backend()))
}

/// One `pwritev` per batch on this thread, each page in so many pieces.
fn through_call(dir: &Path, pieces: usize, pages: u64) -> Result<Cost, Box<dyn Error>> {
    /// `O_DIRECT` of Linux on x86-64; elsewhere the comparison goes through the page cache.
    const DIRECT: i32 = if cfg!(target_arch = "x86_64") {
        0o40000
    } else {
        0
    };
    let path = dir.join("pages");
    let file = std::fs::File::options()
        .write(true)
        .custom_flags(DIRECT)
        .open(path)?;
    let memory = AlignedBuf::zeroed((BATCH_PAGES * PAGE) as usize);
    let slices: Vec<IoSlice<'_>> = memory
        .bytes()
        .chunks(PAGE as usize / pieces)
        .map(IoSlice::new)
        .collect();
    measure(|| {
        for first in (0..pages).step_by(BATCH_PAGES as usize) {
            let wrote = rustix::io::pwritev(&file, &slices, first * PAGE)?;
            if wrote as u64 != BATCH_PAGES * PAGE {
                return Err("a short write".into());
            }
        }
        Ok(())
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments
        .next()
        .ok_or("usage: page_writes DIR [PAGES] [ROUNDS]")?;
    let pages = arguments
        .next()
        .map_or(Ok(65_536), |n| n.parse::<u64>())?
        .next_multiple_of(BATCH_PAGES);
    let rounds = arguments
        .next()
        .map_or(Ok(5), |n| n.parse::<usize>())?
        .max(1);
    let dir = tempfile::tempdir_in(dir)?;
    let device = |backend, page_writes| DeviceOptions {
        backend,
        lanes: 1,
        page_writes,
        direct: true,
    };
    let devices = [
        device(Backend::Pwritev, PageWriteMode::Vectored),
        device(Backend::Uring, PageWriteMode::Vectored),
        device(Backend::Uring, PageWriteMode::Gathered),
    ];
    let mut names = vec![String::new(); devices.len()];
    names.push("system call, 4 pieces of 1 KiB a page".into());
    names.push("system call, 1 piece of 4 KiB a page".into());
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); names.len()];
    // Blocks are written once before anything is measured.
    through_device(dir.path(), &devices[0], pages)?;
    for round in 0..rounds {
        // Each round begins with another way, so that none is always first.
        for turn in 0..names.len() {
            let way = (turn + round) % names.len();
            let cost = match devices.get(way) {
                Some(options) => {
                    let (cost, name) = through_device(dir.path(), options, pages)?;
                    names[way] = name;
                    cost
                }
                None => through_call(dir.path(), if way == devices.len() { 4 } else { 1 }, pages)?,
            };
            costs[way].push(cost);
        }
    }
    println!(
        "{pages} pages, {BATCH_PAGES} an operation, {IN_FLIGHT} in flight, {rounds} rounds; median (least to most)"
    );
    for (name, costs) in names.iter().zip(&mut costs) {
        let spread = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            (
                values[values.len() / 2],
                values[0],
                values[values.len() - 1],
            )
        };
        let rate = spread(
            costs
                .iter()
                .map(|(wall, _)| pages as f64 / wall.as_secs_f64())
                .collect(),
        );
        let cpu = spread(
            costs
                .iter()
                .map(|(_, cpu)| cpu.as_secs_f64() * 1e6 / pages as f64)
                .collect(),
        );
        println!(
            "{:>9.0} pages/s ({:.0} to {:.0})  {:.2} us CPU/page ({:.2} to {:.2})  {name}",
            rate.0, rate.1, rate.2, cpu.0, cpu.1, cpu.2
        );
    }
    Ok(())
}
