//! Appending, reading back, committing a root and opening again, on an in-memory device.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use alluvium_block::{
    Appender, BAD_PAGES_MAX, BlockConfig, BlockStore, Damage, Expect, Manifest, PageDraft,
    PageKind, PageMeta, PageRef, ReadError, Role, Root, RootCommit, RootError, load_root,
};
use alluvium_io::{AlignedBuf, Completion, Device, Lane, MemoryDevice, Op, OpenMode, WriteData};
use alluvium_sim::{SimConfig, SimDevice};
use alluvium_types::{Budget, DatabaseId, Lsn, TimeRange};

const EXPECT: Expect = Expect {
    kind: PageKind::Leaf,
    series: 17,
};

fn config() -> BlockConfig {
    BlockConfig {
        volume_bytes: 64 << 10,
        extent_pages: 4,
        batch_pages: 3,
        cache_bytes: 0,
    }
}

fn meta(database: u32, ordinal: u32) -> PageMeta {
    PageMeta {
        kind: PageKind::Leaf,
        database: DatabaseId(database),
        series: 17,
        run_ordinal: 0,
        leaf_ordinal: ordinal,
        lsn: Lsn(1),
        items: 1,
        level: 0,
        flags: 0,
    }
}

fn append(appender: &mut Appender, database: u32, n: u32) -> PageRef {
    let mut draft = PageDraft::new();
    draft.body_mut()[..4].copy_from_slice(&n.to_le_bytes());
    draft.set_used(4);
    let times = TimeRange::inclusive(i64::from(n) * 10, i64::from(n) * 10 + 9);
    appender.append(Role::Leaves, meta(database, n), times, draft)
}

fn settle(device: &dyn Device, appender: &mut Appender) {
    appender.flush();
    let mark = appender.mark();
    while !appender.is_written(mark) {
        appender.drive();
        device.drive(Lane(0));
    }
}

fn create(device: &Arc<MemoryDevice>) -> Arc<BlockStore> {
    let budget = Arc::new(Budget::new(u64::MAX));
    BlockStore::create(
        Arc::<MemoryDevice>::clone(device),
        config(),
        [9; 16],
        1,
        budget,
    )
}

fn commit(device: &dyn Device, store: &BlockStore, appender: &Appender, seq: u64) -> Root {
    let mut manifest = Manifest::new();
    store.save(&mut manifest, &appender.open_extents());
    let sync = store.start_sync(Lane(0));
    while sync.result().is_none() {
        device.drive(Lane(0));
    }
    let root = Root {
        instance: [9; 16],
        seq,
        incarnation: 1,
        clean: false,
        wall_ns: 5,
    };
    let mut commit = RootCommit::start(device, Lane(0), root, &manifest);
    while commit.poll(device).is_pending() {
        device.drive(Lane(0));
    }
    root
}

fn reopen(device: &Arc<MemoryDevice>, incarnation: u32) -> Arc<BlockStore> {
    let (root, manifest) = load_root(device.as_ref()).unwrap().unwrap();
    let budget = Arc::new(Budget::new(u64::MAX));
    let device: Arc<dyn Device> = Arc::<MemoryDevice>::clone(device);
    BlockStore::open(
        device,
        config(),
        root.instance,
        incarnation,
        budget,
        &manifest,
    )
    .unwrap()
}

#[test]
fn pages_are_read_before_and_after_they_are_written() {
    let device = Arc::new(MemoryDevice::new(1));
    let store = create(&device);
    let mut appender = store.appender(Lane(0));
    let pages: Vec<PageRef> = (0..100)
        .map(|n| append(&mut appender, 1 + n % 3, n))
        .collect();
    let check = |cached: bool| {
        for (n, result) in store.read_many(&pages, EXPECT).into_iter().enumerate() {
            let page = result.unwrap();
            assert_eq!(page.body(), (n as u32).to_le_bytes());
            assert_eq!(page.meta().database, DatabaseId(1 + n as u32 % 3));
            assert!(page.was_cached() || !cached);
        }
    };
    check(true);
    assert!(!appender.is_written(1));
    settle(device.as_ref(), &mut appender);
    assert_eq!(appender.queued_pages(), 0);
    check(false);
    let unique: std::collections::HashSet<_> = pages.iter().map(|p| p.addr).collect();
    assert_eq!(unique.len(), pages.len(), "no address is given twice");
    assert!(
        pages.iter().all(|p| p.addr.page > 0),
        "page 0 is the volume's header"
    );
}

#[test]
fn what_came_after_the_commit_is_rolled_back_and_overwritten() {
    let device = Arc::new(MemoryDevice::new(1));
    let store = create(&device);
    let mut appender = store.appender(Lane(0));
    let kept: Vec<PageRef> = (0..10).map(|n| append(&mut appender, 1, n)).collect();
    settle(device.as_ref(), &mut appender);
    commit(device.as_ref(), &store, &appender, 1);
    let lost: Vec<PageRef> = (100..130).map(|n| append(&mut appender, 1, n)).collect();
    settle(device.as_ref(), &mut appender);
    drop((appender, store));

    let store = reopen(&device, 2);
    for (n, result) in store.read_many(&kept, EXPECT).into_iter().enumerate() {
        assert_eq!(result.unwrap().body(), (n as u32).to_le_bytes());
    }
    let mut appender = store.appender(Lane(0));
    let again: Vec<PageRef> = (200..240).map(|n| append(&mut appender, 1, n)).collect();
    settle(device.as_ref(), &mut appender);
    let kept_addrs: Vec<_> = kept.iter().map(|p| p.addr).collect();
    assert!(
        again.iter().all(|p| !kept_addrs.contains(&p.addr)),
        "durable pages are never overwritten"
    );
    assert!(
        again.iter().any(|p| lost.iter().any(|l| l.addr == p.addr)),
        "lost pages are"
    );
    for page in &lost {
        match store.read(*page, EXPECT) {
            Ok(read) => assert_eq!(
                read.page_ref(),
                *page,
                "only if it is still exactly that page"
            ),
            Err(ReadError::Corrupt { .. } | ReadError::Expired { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn damage_is_named() {
    let device = Arc::new(MemoryDevice::new(1));
    let store = create(&device);
    let mut appender = store.appender(Lane(0));
    let first = append(&mut appender, 1, 1);
    let second = append(&mut appender, 1, 2);
    settle(device.as_ref(), &mut appender);
    // Push both out of the cache, so that the device is read.
    for n in 0..400 {
        append(&mut appender, 2, n);
    }
    settle(device.as_ref(), &mut appender);
    let stale = PageRef {
        crc: first.crc ^ 1,
        ..first
    };
    let reason = |page, expect| match store.read(page, expect) {
        Err(ReadError::Corrupt { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(stale, EXPECT), Damage::NotTheChild);
    assert_eq!(
        reason(
            first,
            Expect {
                series: 18,
                ..EXPECT
            }
        ),
        Damage::Unexpected
    );
    let gone = PageRef {
        generation: 2,
        ..first
    };
    assert!(matches!(
        store.read(gone, EXPECT),
        Err(ReadError::Expired { .. })
    ));
    // Copy the second page over the first on the device: a misdirected write.
    let op = Op::Open {
        path: "vol/00000001".into(),
        mode: OpenMode::default(),
    };
    let Ok(Completion::Opened { file, .. }) =
        device.submit(Lane(0), op).wait(device.as_ref(), Lane(0))
    else {
        panic!("the volume opens")
    };
    let page = store.read(second, EXPECT).unwrap();
    let mut buffer = AlignedBuf::zeroed(4096);
    buffer.bytes_mut().copy_from_slice(page.bytes());
    let offset = u64::from(first.addr.page) * 4096;
    let data = WriteData::Buffer(Arc::new(buffer));
    device
        .submit(
            Lane(0),
            Op::Write {
                file,
                offset,
                data,
                sync: true,
            },
        )
        .wait(device.as_ref(), Lane(0))
        .unwrap();
    for n in 400..800 {
        append(&mut appender, 2, n);
    }
    settle(device.as_ref(), &mut appender);
    assert_eq!(reason(first, EXPECT), Damage::Misplaced);
    assert!(
        store
            .bad_pages()
            .iter()
            .any(|(addr, d)| *addr == first.addr && *d == Damage::Misplaced)
    );
}

/// A device that returns rubbish for everything must not fill the memory with addresses.
/// One sector that the device refuses takes no other page of its batch along.
#[test]
fn a_bad_sector_is_of_one_page() {
    let device = SimDevice::new(1, SimConfig::default());
    let budget = Arc::new(Budget::new(u64::MAX));
    let below: Arc<dyn Device> = Arc::<SimDevice>::clone(&device);
    let store = BlockStore::create(below, config(), [9; 16], 1, budget);
    let mut appender = store.appender(Lane(0));
    let pages: Vec<PageRef> = (0..10).map(|n| append(&mut appender, 1, n)).collect();
    settle(device.as_ref(), &mut appender);
    commit(device.as_ref(), &store, &appender, 1);
    // Another life, so that no page is in memory.
    let (root, manifest) = load_root(device.as_ref()).unwrap().unwrap();
    let below: Arc<dyn Device> = Arc::<SimDevice>::clone(&device);
    let budget = Arc::new(Budget::new(u64::MAX));
    let store = BlockStore::open(below, config(), root.instance, 2, budget, &manifest).unwrap();
    let bad = pages[6];
    let path = format!("vol/{:08}", bad.addr.volume);
    assert!(
        device.spoil(&path, u64::from(bad.addr.page) * 4096),
        "{path}"
    );
    for (n, result) in store.read_many(&pages, EXPECT).into_iter().enumerate() {
        match result {
            Ok(page) => assert!(n != 6 && page.body() == (n as u32).to_le_bytes()),
            Err(ReadError::Corrupt { addr, reason }) => {
                assert_eq!((n, addr, reason), (6, bad.addr, Damage::Unreadable));
            }
            Err(other) => panic!("page {n}: {other}"),
        }
    }
    let alone = store.read_many(&[bad], EXPECT).remove(0);
    assert!(matches!(alone, Err(ReadError::Corrupt { .. })));
}

#[test]
fn the_list_of_bad_pages_ends() {
    let device = Arc::new(MemoryDevice::new(1));
    let store = create(&device);
    let mut appender = store.appender(Lane(0));
    let pages: Vec<PageRef> = (0..BAD_PAGES_MAX as u32 + 200)
        .map(|n| append(&mut appender, 1, n))
        .collect();
    settle(device.as_ref(), &mut appender);
    let strangers = Expect {
        series: 18,
        ..EXPECT
    };
    for _ in 0..2 {
        let results = store.read_many(&pages, strangers);
        assert!(results.iter().all(Result::is_err), "each read is refused");
    }
    let bad = store.bad_pages();
    assert_eq!(bad.len(), BAD_PAGES_MAX);
    assert!(bad.iter().all(|(_, d)| *d == Damage::Unexpected));
    let met = store
        .metrics()
        .bad_pages
        .load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(met, 2 * pages.len() as u64, "each is counted");
}

#[test]
fn the_newest_whole_root_counts() {
    let device = Arc::new(MemoryDevice::new(1));
    assert!(load_root(device.as_ref()).unwrap().is_none());
    let store = create(&device);
    let mut appender = store.appender(Lane(0));
    for seq in 1..=3 {
        append(&mut appender, 1, seq as u32);
        settle(device.as_ref(), &mut appender);
        let root = commit(device.as_ref(), &store, &appender, seq);
        assert_eq!(load_root(device.as_ref()).unwrap().unwrap().0, root);
    }
    // Spoil the newest manifest: the slot before it holds.
    let spoil = |path: &str| {
        let op = Op::Open {
            path: path.into(),
            mode: OpenMode::default(),
        };
        let Ok(Completion::Opened { file, .. }) =
            device.submit(Lane(0), op).wait(device.as_ref(), Lane(0))
        else {
            panic!("{path} opens")
        };
        let data = WriteData::Buffer(Arc::new(AlignedBuf::zeroed(4096)));
        device
            .submit(
                Lane(0),
                Op::Write {
                    file,
                    offset: 0,
                    data,
                    sync: true,
                },
            )
            .wait(device.as_ref(), Lane(0))
            .unwrap();
    };
    spoil("manifest.0000000000000003");
    assert_eq!(load_root(device.as_ref()).unwrap().unwrap().0.seq, 2);
    spoil("manifest.0000000000000002");
    assert!(matches!(
        load_root(device.as_ref()),
        Err(RootError::NoSlot { .. })
    ));
}

/// The power went in the middle of the very first commit: a new directory, unless something else is there.
#[test]
fn a_torn_first_commit_is_no_root() {
    let device = Arc::new(MemoryDevice::new(1));
    let open = |path: &str| {
        let mode = OpenMode {
            create: true,
            ..OpenMode::default()
        };
        let path = path.into();
        let op = Op::Open { path, mode };
        match device.submit(Lane(0), op).wait(device.as_ref(), Lane(0)) {
            Ok(Completion::Opened { file, .. }) => file,
            other => panic!("{other:?}"),
        }
    };
    let file = open("superblock");
    let mut torn = AlignedBuf::zeroed(4096);
    torn.bytes_mut()[..8].copy_from_slice(b"anything");
    let op = Op::Write {
        file,
        offset: 1 << 20,
        data: WriteData::Buffer(Arc::new(torn)),
        sync: true,
    };
    device
        .submit(Lane(0), op)
        .wait(device.as_ref(), Lane(0))
        .unwrap();
    assert!(load_root(device.as_ref()).unwrap().is_none());
    open("wal/00000001-0000.00000001");
    let error = load_root(device.as_ref()).unwrap_err();
    assert!(matches!(error, RootError::NoSlot { .. }), "{error}");
}

#[test]
fn a_foreign_directory_is_refused() {
    let device = Arc::new(MemoryDevice::new(1));
    let op = Op::Open {
        path: "thesis.tex".into(),
        mode: OpenMode {
            create: true,
            ..OpenMode::default()
        },
    };
    device
        .submit(Lane(0), op)
        .wait(device.as_ref(), Lane(0))
        .unwrap();
    let error = load_root(device.as_ref()).unwrap_err();
    assert!(error.to_string().contains("thesis.tex"), "{error}");
}

#[test]
fn dropped_databases_expire() {
    let device = Arc::new(MemoryDevice::new(1));
    let store = create(&device);
    let mut appender = store.appender(Lane(0));
    let (one, two) = (append(&mut appender, 1, 1), append(&mut appender, 2, 2));
    settle(device.as_ref(), &mut appender);
    appender.forget_database(DatabaseId(1));
    let paths = store.drop_database(DatabaseId(1));
    assert_eq!(paths.len(), 1);
    assert!(matches!(
        store.read(one, EXPECT),
        Err(ReadError::Expired { .. })
    ));
    assert!(store.read(two, EXPECT).is_ok());
    assert_eq!(store.usage(DatabaseId(1), Role::Leaves).pages, 0);
    assert_eq!(store.usage(DatabaseId(2), Role::Leaves).pages, 1);
}

/// What closed appenders filled to the last page is not given out again.
#[test]
fn a_full_extent_is_not_given_out_again() {
    let device = Arc::new(MemoryDevice::new(1));
    let store = create(&device);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        let mut pair = [store.appender(Lane(0)), store.appender(Lane(0))];
        for appender in &mut pair {
            for n in 0..4 {
                let page = append(appender, 1, n);
                assert!(seen.insert(page.addr), "{} is given twice", page.addr);
            }
            settle(device.as_ref(), appender);
        }
    }
}

/// A volume that was only planned when a checkpoint synced the directory, and made after it.
#[test]
fn a_volume_made_behind_a_sync_keeps_its_name() {
    for seed in 0..16 {
        let sim = SimConfig {
            lanes: 1,
            ..SimConfig::default()
        };
        let device = SimDevice::new(seed, sim);
        let budget = || Arc::new(Budget::new(u64::MAX));
        let dynamic: Arc<dyn Device> = Arc::<SimDevice>::clone(&device);
        let store = BlockStore::create(dynamic, config(), [9; 16], 1, budget());
        let mut appender = store.appender(Lane(0));
        let page = append(&mut appender, 1, 7);
        commit(device.as_ref(), &store, &appender, 1);
        settle(device.as_ref(), &mut appender);
        commit(device.as_ref(), &store, &appender, 2);
        drop((appender, store));

        let device: Arc<dyn Device> = device.crash();
        let (root, manifest) = load_root(device.as_ref()).unwrap().unwrap();
        assert_eq!(root.seq, 2);
        let store = BlockStore::open(device, config(), [9; 16], 2, budget(), &manifest);
        let store = store.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let read = store.read_many(&[page], EXPECT).remove(0).unwrap();
        assert_eq!(read.body(), 7_u32.to_le_bytes());
    }
}

#[test]
fn freed_volumes_read_as_expired_and_stay_away() {
    let device = Arc::new(MemoryDevice::new(1));
    let store = create(&device);
    let mut appender = store.appender(Lane(0));
    let pages: Vec<PageRef> = (0..60).map(|n| append(&mut appender, 1, n)).collect();
    settle(device.as_ref(), &mut appender);
    let volumes = store.volumes();
    assert_eq!(volumes.len(), 4, "fifteen pages a volume: {volumes:?}");
    assert_eq!((volumes[1].oldest, volumes[1].end), (150, 300));
    assert_eq!(volumes.iter().map(|v| v.pages).sum::<u64>(), 60);
    // One in the middle, and the one being filled.
    let gone = [volumes[1].id, volumes[3].id];
    store.close_volumes(&gone);
    assert!(store.volumes()[3].closed.is_some());
    appender.leave_closed();
    let moved = append(&mut appender, 1, 60);
    assert!(
        !gone.contains(&moved.addr.volume),
        "no page joins a closed volume"
    );
    let long_reader = store.read(pages[20], EXPECT).unwrap();
    let paths = store.free_volumes(&gone);
    appender.forget_volumes(&gone);
    assert_eq!(paths.len(), 2);
    for (n, page) in pages.iter().enumerate() {
        let read = store.read(*page, EXPECT);
        if gone.contains(&page.addr.volume) {
            assert!(matches!(read, Err(ReadError::Expired { .. })), "page {n}");
        } else {
            assert_eq!(read.unwrap().meta().leaf_ordinal, n as u32);
        }
    }
    assert_eq!(long_reader.meta().leaf_ordinal, 20);
    settle(device.as_ref(), &mut appender);
    commit(device.as_ref(), &store, &appender, 1);
    drop(appender);
    let store = reopen(&device, 2);
    let left = store.volumes();
    assert!(left.iter().all(|v| !gone.contains(&v.id)), "{left:?}");
    assert_eq!((left[1].oldest, left[1].end), (300, 450));
    assert!(matches!(
        store.read(pages[20], EXPECT),
        Err(ReadError::Expired { .. })
    ));
    // Numbers are not given out again.
    let mut appender = store.appender(Lane(0));
    let next: Vec<u32> = (0..40)
        .map(|n| append(&mut appender, 1, n).addr.volume)
        .collect();
    assert!(next.iter().all(|v| !gone.contains(v)), "{next:?}");
}

#[test]
fn what_is_handed_out_behind_a_survey_is_not_judged_by_it() {
    let device = Arc::new(MemoryDevice::new(1));
    let store = create(&device);
    let mut appender = store.appender(Lane(0));
    for before in 0..24 {
        append(&mut appender, 1, before);
        settle(device.as_ref(), &mut appender);
        let mut survey = store.survey(DatabaseId(1));
        let behind = (0..9).map(|n| append(&mut appender, 1, 100 + n).addr);
        let behind: Vec<_> = behind.collect();
        settle(device.as_ref(), &mut appender);
        survey.note_open(&appender);
        let judged: u64 = survey
            .written()
            .iter()
            .map(alluvium_block::VolumeSpace::pages)
            .sum();
        let there = u64::from(before) * 10 + 1;
        // An extent is four pages: what was begun when it was looked at may be among them.
        assert!(
            (there..there + 4).contains(&judged),
            "{judged} of {there}: {behind:?}"
        );
    }
}

#[test]
fn what_was_given_back_is_told_from_what_has_expired() {
    let device = Arc::new(MemoryDevice::new(1));
    let store = create(&device);
    let mut appender = store.appender(Lane(0));
    let pages: Vec<PageRef> = (0..40).map(|n| append(&mut appender, 1, n)).collect();
    settle(device.as_ref(), &mut appender);
    let database = DatabaseId(1);
    let mut survey = store.survey(database);
    survey.note_open(&appender);
    let written = survey.written();
    assert_eq!(
        written
            .iter()
            .map(alluvium_block::VolumeSpace::pages)
            .sum::<u64>(),
        40
    );
    let filling = |v: &&alluvium_block::VolumeSpace| v.is_filling;
    assert_eq!(written.iter().filter(filling).count(), 1);
    let first = written[0].id;
    let mut batch = store.start_punch(Lane(0), &[(first, (3, 9)), (99, (1, 2))]);
    // On its way it is gone already.
    let gone = |store: &BlockStore, n: usize| {
        matches!(
            store.read(pages[n], EXPECT),
            Err(ReadError::GivenBack { .. })
        )
    };
    let holes = |store: &BlockStore| (0..40).filter(|n| gone(store, *n)).collect::<Vec<_>>();
    assert_eq!(holes(&store), (2..8).collect::<Vec<_>>());
    assert!(batch.result(&store).is_none());
    device.drive(Lane(0));
    assert!(matches!(batch.result(&store), Some((6, None))));
    assert_eq!(store.allocated_pages(database), 34);
    let second = written[1].id;
    store.close_volumes(&[second]);
    appender.leave_closed();
    assert_eq!(store.retire_volumes(&[second]).len(), 1);
    let of_second = |p: &&PageRef| p.addr.volume == second;
    assert_eq!(
        holes(&store).len(),
        6 + pages.iter().filter(of_second).count()
    );
    commit(device.as_ref(), &store, &appender, 1);
    drop(appender);
    let store = reopen(&device, 2);
    assert_eq!(holes(&store), (2..8).collect::<Vec<_>>());
    let after = store.survey(database).written();
    assert_eq!(after[0].written, [(1, 3), (9, 16)]);
    assert_eq!(store.bad_pages(), []);
}

#[test]
fn a_database_may_have_smaller_volumes() {
    let store = create(&Arc::new(MemoryDevice::new(1)));
    store.limit_volumes(DatabaseId(1), Some(16 << 10));
    let mut appender = store.appender(Lane(0));
    for n in 0..30 {
        append(&mut appender, 1, n);
        append(&mut appender, 2, n);
    }
    let volumes = |database| {
        let all = store.volumes().into_iter();
        all.filter(|v| v.database == DatabaseId(database)).count()
    };
    assert_eq!((volumes(1), volumes(2)), (10, 2));
}

/// A database takes little until it has much, in each of its two sets.
#[test]
fn volumes_of_each_set_grow() {
    let config = BlockConfig {
        volume_bytes: 24 << 20,
        extent_pages: 64,
        batch_pages: 64,
        cache_bytes: 0,
    };
    let device = Arc::new(MemoryDevice::new(1));
    let budget = Arc::new(Budget::new(u64::MAX));
    let below: Arc<dyn Device> = Arc::<MemoryDevice>::clone(&device);
    let store = BlockStore::create(below, config, [9; 16], 1, budget);
    let mut appender = store.appender(Lane(0));
    // Pages of 1, 16 and 24 MiB without their headers, and some more.
    for n in 0..255 + 4095 + 6143 + 10 {
        append(&mut appender, 1, n);
        if n < 300 {
            append(&mut appender, 2, n);
        }
        if n % 500 == 0 {
            settle(&*device, &mut appender);
        }
    }
    let pages = |database| {
        let mut all = store.volumes();
        all.retain(|v| v.database == DatabaseId(database));
        all.sort_by_key(|v| v.id);
        all.iter().map(|v| v.pages).collect::<Vec<_>>()
    };
    assert_eq!(pages(1), [255, 4095, 6143, 10]);
    assert_eq!(pages(2), [255, 45]);
}
