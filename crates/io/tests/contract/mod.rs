//! What every device owes its callers; each backend's test runs all of it.

use std::sync::Arc;
use std::time::Duration;

use alluvium_io::{
    AlignedBuf, Completion, Device, FileId, IoErrorKind, IoResult, Lane, Op, OpenMode, PageBuf,
    Read, WriteData,
};

const PAGE: usize = 4096;

pub(crate) fn run(device: &dyn Device, lane: Lane, op: Op) -> IoResult {
    device.submit(lane, op).wait(device, lane)
}

pub(crate) fn open(device: &dyn Device, path: &str, allocate: u64) -> (FileId, u64) {
    let mode = OpenMode {
        create: true,
        allocate,
        direct: true,
    };
    match run(
        device,
        Lane(0),
        Op::Open {
            path: path.into(),
            mode,
        },
    )
    .expect("opens")
    {
        Completion::Opened { file, len } => (file, len),
        Completion::Done => panic!("opening gave no file"),
    }
}

/// A page whose every 8 bytes tell its number.
fn page(number: u64) -> Arc<PageBuf> {
    let mut page = PageBuf::zeroed();
    for (i, word) in page.bytes_mut().chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(number << 16 | i as u64).to_le_bytes());
    }
    Arc::new(page)
}

pub(crate) fn pages(numbers: std::ops::Range<u64>) -> WriteData {
    WriteData::Pages(numbers.map(page).collect())
}

fn read(device: &dyn Device, file: FileId, offset: u64, len: usize) -> Vec<u8> {
    let mut into = AlignedBuf::zeroed(len);
    into.bytes_mut().fill(0xEE);
    let mut reads = [Read { file, offset, into }];
    device.read(&mut reads).expect("reads");
    reads[0].into.bytes().to_vec()
}

pub(crate) fn assert_pages(
    device: &dyn Device,
    file: FileId,
    at_page: u64,
    numbers: std::ops::Range<u64>,
) {
    for (i, number) in numbers.enumerate() {
        let offset = (at_page + i as u64) * PAGE as u64;
        assert!(
            read(device, file, offset, PAGE) == page(number).bytes(),
            "page {number} at {offset}"
        );
    }
}

fn write(file: FileId, at_page: u64, data: WriteData, sync: bool) -> Op {
    Op::Write {
        file,
        offset: at_page * PAGE as u64,
        data,
        sync,
    }
}

/// Runs all of the contract on an empty device of at least two lanes.
pub(crate) fn check(device: &dyn Device) {
    assert!(device.lanes() >= 2);
    written_pages_read_back(device);
    long_vectored_writes(device);
    batches_of_reads(device);
    names(device);
    allocation(device);
    holes(device);
    errors(device);
    lanes_at_once(device);
    random_writes_equal_a_model(device);
}

fn written_pages_read_back(device: &dyn Device) {
    let (file, len) = open(device, "a/deep/written", 0);
    assert_eq!(len, 0);
    for (at, count, sync) in [(0, 1, false), (1, 3, true), (4, 64, true), (68, 65, false)] {
        let done = run(
            device,
            Lane(0),
            write(file, at, pages(at..at + count), sync),
        );
        assert!(matches!(done, Ok(Completion::Done)), "{done:?}");
    }
    let mut buffer = AlignedBuf::zeroed(3 * PAGE);
    buffer.bytes_mut().fill(7);
    run(
        device,
        Lane(0),
        write(file, 200, WriteData::Buffer(Arc::new(buffer)), true),
    )
    .expect("writes");
    assert_pages(device, file, 0, 0..133);
    assert_eq!(
        read(device, file, 199 * 4096, PAGE),
        vec![0; PAGE],
        "a hole reads as zero"
    );
    assert_eq!(read(device, file, 200 * 4096, 3 * PAGE), vec![7; 3 * PAGE]);
    let mut tail = vec![7; PAGE];
    tail.resize(3 * PAGE, 0);
    assert_eq!(
        read(device, file, 202 * 4096, 3 * PAGE),
        tail,
        "past the end reads as zero"
    );
    run(device, Lane(0), Op::Sync { file }).expect("syncs");
    run(
        device,
        Lane(0),
        Op::SyncDir {
            path: "a/deep".into(),
        },
    )
    .expect("syncs");
    run(
        device,
        Lane(0),
        Op::SyncDir {
            path: String::new(),
        },
    )
    .expect("syncs");
    run(device, Lane(0), write(file, 0, pages(0..0), true)).expect("a write of nothing is one");
    run(device, Lane(0), Op::Close { file }).expect("closes");
    assert!(run(device, Lane(0), Op::Sync { file }).is_err(), "closed");
    let (again, len) = open(device, "a/deep/written", 0);
    assert_eq!(len, 203 * 4096);
    assert_ne!(again, file, "numbers of files are not used again");
    assert_pages(device, again, 0, 0..133);
}

/// More pages than one request can carry.
fn long_vectored_writes(device: &dyn Device) {
    let (file, _) = open(device, "long", 0);
    let tickets: Vec<_> = [(0, 1100, true), (1100, 1024, false), (2124, 2049, true)]
        .map(|(at, count, sync)| {
            device.submit(Lane(1), write(file, at, pages(at..at + count), sync))
        })
        .into();
    for ticket in tickets {
        ticket.wait(device, Lane(1)).expect("writes");
    }
    assert_pages(device, file, 0, 0..4173);
    run(
        device,
        Lane(0),
        Op::Remove {
            path: "long".into(),
        },
    )
    .expect("removes");
}

fn batches_of_reads(device: &dyn Device) {
    let (file, _) = open(device, "batch", 0);
    run(device, Lane(0), write(file, 0, pages(0..300), false)).expect("writes");
    let offset = |i: u64| (i * 7 % 301) * PAGE as u64;
    let mut reads: Vec<Read> = (0..301)
        .map(|i| Read {
            file,
            offset: offset(i),
            into: AlignedBuf::zeroed(PAGE),
        })
        .collect();
    reads
        .iter_mut()
        .for_each(|read| read.into.bytes_mut().fill(0xEE));
    device.read(&mut reads).expect("reads");
    for read in &reads {
        let number = read.offset / PAGE as u64;
        let wanted = if number == 300 {
            Arc::new(PageBuf::zeroed())
        } else {
            page(number)
        };
        assert!(read.into.bytes() == wanted.bytes(), "page {number}");
    }
    reads[5].file = FileId(u32::MAX);
    let error = device.read(&mut reads).expect_err("no such file");
    assert_eq!(error.kind, IoErrorKind::NotFound);
    assert!(
        reads.iter().all(|read| read.into.len() == PAGE),
        "buffers come back from a failed batch"
    );
}

fn names(device: &dyn Device) {
    let listed = |path: &str| {
        let mut names: Vec<_> = device
            .list(path)
            .expect("lists")
            .into_iter()
            .map(|l| (l.name, l.len))
            .collect();
        names.sort();
        names
    };
    assert!(listed("no such").is_empty());
    let (file, _) = open(device, "names/one", 0);
    run(device, Lane(0), write(file, 0, pages(1..2), false)).expect("writes");
    open(device, "names/two", 0);
    open(device, "names/below/three", 0);
    assert_eq!(listed("names"), [("one".into(), 4096), ("two".into(), 0)]);
    run(
        device,
        Lane(0),
        Op::Rename {
            from: "names/one".into(),
            to: "names/two".into(),
        },
    )
    .expect("replaces");
    assert_eq!(listed("names"), [("two".into(), 4096)]);
    assert_pages(device, file, 0, 1..2);
    run(
        device,
        Lane(0),
        Op::Remove {
            path: "names/two".into(),
        },
    )
    .expect("removes");
    run(
        device,
        Lane(0),
        Op::Remove {
            path: "names/two".into(),
        },
    )
    .expect("absence is no error");
    assert_pages(device, file, 0, 1..2);
    assert!(listed("names").is_empty());
    let error = run(
        device,
        Lane(0),
        Op::Rename {
            from: "names/no".into(),
            to: "names/x".into(),
        },
    );
    assert_eq!(error.expect_err("absent").kind, IoErrorKind::NotFound);
}

fn allocation(device: &dyn Device) {
    let (file, len) = open(device, "allocated", 1 << 20);
    assert_eq!(len, 1 << 20);
    assert_eq!(read(device, file, 8192, PAGE), vec![0; PAGE]);
    let entry = device
        .list("")
        .expect("lists")
        .into_iter()
        .find(|l| l.name == "allocated");
    let entry = entry.expect("listed");
    assert_eq!(entry.len, 1 << 20);
    assert!(entry.allocated >= 1 << 20, "{entry:?}");
    run(device, Lane(0), write(file, 255, pages(9..10), true)).expect("writes");
    assert_eq!(
        open(device, "allocated", 4096).1,
        1 << 20,
        "allocation never shrinks"
    );
}

/// A range that is given back reads as zeros and takes no blocks; its neighbours stay, and it can be written again.
fn holes(device: &dyn Device) {
    let (file, _) = open(device, "holes", 0);
    run(device, Lane(0), write(file, 0, pages(0..64), true)).expect("writes");
    let allocated = || {
        let all = device.list("").expect("lists");
        let entry = all.into_iter().find(|l| l.name == "holes");
        let entry = entry.expect("listed");
        assert_eq!(entry.len, 64 * PAGE as u64, "the length stays");
        entry.allocated
    };
    let before = allocated();
    let punch = |from: u64, to: u64| Op::Punch {
        file,
        offset: from * PAGE as u64,
        len: (to - from) * PAGE as u64,
    };
    match run(device, Lane(0), punch(16, 48)) {
        Err(error) if error.kind == IoErrorKind::Unsupported => {
            println!("SKIPPED holes: {error}");
            return;
        }
        other => drop(other.expect("punches")),
    }
    run(device, Lane(0), Op::Sync { file }).expect("syncs");
    assert_eq!(
        read(device, file, 16 * PAGE as u64, 32 * PAGE),
        vec![0; 32 * PAGE]
    );
    assert_pages(device, file, 0, 0..16);
    assert_pages(device, file, 48, 48..64);
    assert!(allocated() <= before - 32 * PAGE as u64, "{before}");
    run(device, Lane(0), write(file, 20, pages(20..30), true)).expect("writes");
    assert_pages(device, file, 20, 20..30);
    run(device, Lane(0), punch(60, 80)).expect("past the end");
    assert_pages(device, file, 48, 48..60);
}

fn errors(device: &dyn Device) {
    let absent = Op::Open {
        path: "absent/file".into(),
        mode: OpenMode::default(),
    };
    let error = run(device, Lane(0), absent).expect_err("absent");
    assert_eq!(error.kind, IoErrorKind::NotFound);
    assert!(error.to_string().contains("absent/file"), "{error}");
    let (file, _) = open(device, "errors", 0);
    let crooked = Op::Write {
        file,
        offset: 100,
        data: pages(0..1),
        sync: true,
    };
    assert!(run(device, Lane(0), crooked).is_err(), "not aligned");
    let far = Op::Write {
        file,
        offset: u64::MAX - 4095,
        data: pages(0..2),
        sync: true,
    };
    assert!(
        run(device, Lane(0), far).is_err(),
        "past what a file can hold"
    );
    assert!(
        run(
            device,
            Lane(0),
            Op::Close {
                file: FileId(u32::MAX)
            }
        )
        .is_err()
    );
    run(device, Lane(0), write(file, 0, pages(0..1), true))
        .expect("errors of callers poison nothing");
}

/// Operations of two lanes in flight at once; each is driven alone.
fn lanes_at_once(device: &dyn Device) {
    let (one, _) = open(device, "lane0", 0);
    let (two, _) = open(device, "lane1", 0);
    let submit = |lane, file, i: u64| {
        device.submit(
            Lane(lane),
            write(file, i, pages(i..i + 1), i.is_multiple_of(8)),
        )
    };
    let first: Vec<_> = (0..500).map(|i| submit(0, one, i)).collect();
    let second: Vec<_> = (0..500).map(|i| submit(1, two, i)).collect();
    second.iter().for_each(|ticket| {
        ticket.wait(device, Lane(1)).expect("writes");
    });
    assert_pages(device, two, 0, 0..500);
    first.iter().for_each(|ticket| {
        ticket.wait(device, Lane(0)).expect("writes");
    });
    assert_pages(device, one, 0, 0..500);
}

/// Many writes of random place and length, one round after the other, against a vector of bytes.
fn random_writes_equal_a_model(device: &dyn Device) {
    let (file, _) = open(device, "model", 0);
    let mut seed = 0x1234_5678_u64;
    let mut next = |bound: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    let mut model: Vec<Option<u64>> = vec![None; 256];
    for round in 0..30 {
        let mut tickets = Vec::new();
        let mut at = next(8);
        while at < 220 {
            let count = 1 + next(20);
            let first = round * 1000 + at;
            tickets.push(device.submit(
                Lane(round as usize % 2),
                write(file, at, pages(first..first + count), next(4) == 0),
            ));
            for i in 0..count {
                model[(at + i) as usize] = Some(first + i);
            }
            at += count + next(10);
        }
        for ticket in tickets {
            ticket
                .wait(device, Lane(round as usize % 2))
                .expect("writes");
        }
    }
    for (at, number) in model.iter().enumerate() {
        match number {
            Some(number) => assert_pages(device, file, at as u64, *number..number + 1),
            None => assert_eq!(
                read(device, file, at as u64 * 4096, PAGE),
                vec![0; PAGE],
                "page {at}"
            ),
        }
    }
}

/// Threads on their own lanes, and one that only waits until it is woken. For devices of several threads.
pub(crate) fn check_threads(device: &Arc<dyn Device>) {
    let files: Vec<_> = (0..2)
        .map(|i| open(&**device, &format!("thread{i}"), 0).0)
        .collect();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            // If nothing ended it, the test runner's own limit would come first.
            device.wait(Duration::from_hours(1));
        });
        for (lane, file) in files.iter().enumerate() {
            scope.spawn(move || {
                for i in 0..300 {
                    let op = write(*file, i, pages(i..i + 1), i % 16 == 0);
                    device
                        .submit(Lane(lane), op)
                        .wait(&**device, Lane(lane))
                        .expect("writes");
                }
            });
        }
        while !sleeper.is_finished() {
            device.wake();
            std::thread::yield_now();
        }
    });
    files
        .iter()
        .for_each(|file| assert_pages(&**device, *file, 0, 0..300));
    submitter_exits(&**device);
    // A wake before the wait ends it.
    device.wake();
    device.wait(Duration::from_hours(1));
}

/// A thread that ends with operations in flight takes none of them along.
fn submitter_exits(device: &dyn Device) {
    let (file, _) = open(device, "orphans", 0);
    for round in 0..20 {
        let submit = |i: u64| {
            device.submit(
                Lane(0),
                write(file, i, pages(i..i + 1), i.is_multiple_of(4)),
            )
        };
        let tickets = std::thread::scope(|scope| {
            let submitter = scope.spawn(|| {
                let tickets: Vec<_> = (round * 40..round * 40 + 40).map(submit).collect();
                device.drive(Lane(0));
                tickets
            });
            submitter.join().expect("submits")
        });
        for ticket in tickets {
            ticket
                .wait(device, Lane(0))
                .expect("outlives its submitter");
        }
    }
    assert_pages(device, file, 0, 0..800);
}
