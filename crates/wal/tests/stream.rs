//! What a stream gives back after cuts, rot, recycling, and a full disk.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use alluvium_io::{AlignedBuf, Completion, Device, Lane, Op, OpenMode, Read, WriteData};
use alluvium_sim::{FaultPlan, SimConfig, SimDevice};
use alluvium_wal::{LogError, list_streams, remove_stream, replay};
use common::{SALT, ended_well, numbers, put, section, settle, writer};
use proptest::prelude::*;

const FIRST: &str = "wal/00000001-0000.00000001";

fn tame(seed: u64) -> Arc<SimDevice> {
    let config = SimConfig {
        latency_drives_max: 1,
        ordered: true,
        ..SimConfig::default()
    };
    SimDevice::new(seed, config)
}

fn overwrite(device: &dyn Device, path: &str, offset: u64, bytes: &[u8]) {
    let run = |op| device.submit(Lane(0), op).wait(device, Lane(0)).unwrap();
    let mode = OpenMode {
        create: true,
        ..OpenMode::default()
    };
    let path = path.to_owned();
    let Completion::Opened { file, .. } = run(Op::Open { path, mode }) else {
        panic!("nothing was opened")
    };
    let mut buffer = AlignedBuf::zeroed(bytes.len());
    buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    let data = WriteData::Buffer(Arc::new(buffer));
    run(Op::Write {
        file,
        offset,
        data,
        sync: true,
    });
    run(Op::Close { file });
}

#[test]
fn a_last_frame_cut_at_any_sector_is_a_torn_end() {
    for cut in 0..24_u64 {
        let device = tame(1);
        let mut log = writer(&device, 1);
        put(&*device, &mut log, 1, 100, true);
        put(&*device, &mut log, 2, 11_000, true);
        drop(log);
        // Frame 1 takes one block, frame 2 three.
        overwrite(&*device, FIRST, 4096 + cut * 512, &vec![0; 16_384]);
        let (found, end) = numbers(&*device, 1, 0).unwrap();
        let written = (11_000 + 72_u64).div_ceil(512);
        if cut < written {
            assert_eq!(found, [1], "cut at sector {cut}");
            assert_eq!(end.torn_at, (cut > 0).then_some((1, 4096)), "cut {cut}");
            assert_eq!(end.next_seq, 2);
        } else {
            assert_eq!(found, [1, 2], "cut {cut} takes padding only");
            assert_eq!(end.torn_at, None);
        }
    }
}

#[test]
fn rot_in_a_declared_frame_is_damage_and_named_and_in_the_last_a_torn_end() {
    // One block each; frame 6 is the idle frame that declares frame 5.
    for (idle, frames) in [(false, 5_u64), (true, 6)] {
        for frame in 1..=frames {
            // Every byte of the header, and some behind it.
            for byte in (0..=72).chain([90]) {
                let device = tame(2);
                let mut log = writer(&device, 1);
                (1..=5).for_each(|n| put(&*device, &mut log, n, 200, true));
                if idle {
                    assert!(log.idle_frame_due());
                    log.write_idle_frame(9);
                    settle(&*device, &mut log, 100);
                    assert!(!log.idle_frame_due(), "an idle frame needs no other");
                }
                let offset = (frame - 1) * 4096;
                // The idle frame has no payload to rot.
                let byte = if frame == 6 { byte.min(71) } else { byte };
                assert!(device.flip_bit(FIRST, offset + byte, 5));
                let got = numbers(&*device, 1, 0);
                if frame == frames {
                    let sound: Vec<u64> = (1..frame).collect();
                    assert_eq!(got.unwrap().0, sound);
                } else {
                    let Err(LogError::Damaged {
                        seq,
                        segment,
                        offset: at,
                        ..
                    }) = got
                    else {
                        panic!("frame {frame} byte {byte}: {got:?}")
                    };
                    assert_eq!((seq, segment, at), (frame, 1, offset));
                }
            }
        }
    }
}

/// Found by the crash simulator of the store: an idle frame is never flushed, so a power cut may take it and leave a
/// later one that was in flight. A checkpoint taken in between had named the frame behind it, and replay took the
/// hole for damage.
#[test]
fn a_lost_idle_frame_is_a_torn_end_whatever_a_checkpoint_has_named() {
    let device = tame(2);
    let mut log = writer(&device, 1);
    put(&*device, &mut log, 1, 200, true);
    log.write_idle_frame(9);
    settle(&*device, &mut log, 100);
    assert_eq!(log.last_seq(), 2);
    let from = log.next_section_seq();
    assert!(log.flush(9).result().is_some(), "nothing is to be flushed");
    put(&*device, &mut log, 2, 200, false);
    drop(log);
    overwrite(&*device, FIRST, 4096, &[0; 4096]);
    let (found, end) = numbers(&*device, 1, from).unwrap();
    assert_eq!((found.len(), end.next_seq), (0, 2));
}

#[test]
fn a_stream_of_many_segments_replays_from_any_frame() {
    let device = SimDevice::new(3, SimConfig::default());
    let mut log = writer(&device, 1);
    (1..=60).for_each(|n| put(&*device, &mut log, n, 5_000, n % 3 == 0));
    assert_eq!(log.last_seq(), 60);
    let streams = list_streams(&*device).unwrap();
    assert!(streams[0].segments.len() >= 15, "{streams:?}");
    for from in 0..=61 {
        let (found, end) = numbers(&*device, 1, from).unwrap();
        assert_eq!(found, (from.max(1)..=60).collect::<Vec<_>>());
        assert_eq!(end.next_seq, 61);
        assert_eq!(end.torn_at, None);
    }
    let path = "wal/00000001-0000.00000003".to_owned();
    let remove = Op::Remove { path };
    device
        .submit(Lane(0), remove)
        .wait(&*device, Lane(0))
        .unwrap();
    let got = numbers(&*device, 1, 1);
    assert!(
        matches!(got, Err(LogError::MissingSegment { segment: 3, .. })),
        "{got:?}"
    );
    assert_eq!(numbers(&*device, 1, 40).unwrap().0.len(), 21);
    let path = FIRST.to_owned();
    let remove = Op::Remove { path };
    device
        .submit(Lane(0), remove)
        .wait(&*device, Lane(0))
        .unwrap();
    let got = numbers(&*device, 1, 1);
    assert!(
        matches!(got, Err(LogError::MissingSegment { segment: 1, .. })),
        "{got:?}"
    );
}

#[test]
fn trimmed_segments_are_recycled_and_their_old_frames_never_come_back() {
    let device = SimDevice::new(4, SimConfig::default());
    let mut log = writer(&device, 1);
    for n in 1..=200 {
        put(&*device, &mut log, n, 5_000, true);
        if n == 50 {
            log.pin(48);
        }
        if n == 100 {
            assert!(numbers(&*device, 1, 48).is_ok(), "pinned");
            assert!(log.live_bytes() > 50 * 8192);
            log.unpin(48);
        }
        log.trim(n.saturating_sub(5));
        settle(&*device, &mut log, 100);
        if n >= 100 {
            let (found, end) = numbers(&*device, 1, n.saturating_sub(4)).unwrap();
            assert_eq!(found, (n.saturating_sub(4)..=n).collect::<Vec<_>>());
            assert_eq!(end.torn_at, None, "stale frames are no torn frame");
        }
    }
    assert!(log.live_bytes() <= 4 * common::SEGMENT);
    let streams = list_streams(&*device).unwrap();
    assert!(streams[0].segments.len() <= 5, "{streams:?}");
    assert!(streams[0].free.len() <= 2);
    drop(log);
    remove_stream(&*device, Lane(0), &streams[0]);
    while device.drive(Lane(0)) > 0 || !device.list("wal").unwrap().is_empty() {}
    assert_eq!(list_streams(&*device).unwrap(), []);
}

#[test]
fn many_pushes_share_one_flush_while_one_is_in_flight() {
    let device = tame(5);
    let mut log = writer(&device, 1);
    put(&*device, &mut log, 1, 10, true);
    let before = device.syncs();
    let first = log.push(&section(2, 10), 1, true, 0);
    log.drive();
    let others: Vec<_> = (3..=40)
        .map(|n| log.push(&section(n, 10), 1, n == 20, 0))
        .collect();
    settle(&*device, &mut log, 100);
    assert!(ended_well(&first) && others.iter().all(ended_well));
    assert!(device.syncs() - before <= 2);
    assert_eq!(log.last_seq(), 3);
    assert_eq!(
        numbers(&*device.crash(), 1, 0).unwrap().0,
        (1..=40).collect::<Vec<_>>()
    );
}

#[test]
fn flush_covers_unsynced_frames_and_costs_nothing_twice() {
    let device = tame(6);
    let mut log = writer(&device, 1);
    put(&*device, &mut log, 1, 10, true);
    // Declares frame 1, is not flushed itself, and is data.
    put(&*device, &mut log, 2, 10, false);
    let flush = log.flush(0);
    settle(&*device, &mut log, 100);
    assert!(ended_well(&flush));
    let (frames, syncs) = (log.last_seq(), device.syncs());
    log.write_idle_frame(0);
    settle(&*device, &mut log, 100);
    assert!(ended_well(&log.flush(0)));
    assert_eq!(device.syncs(), syncs);
    assert_eq!(log.last_seq(), frames + 1, "the idle frame");
    assert_eq!(numbers(&*device.crash(), 1, 0).unwrap().0, [1, 2]);
}

#[test]
fn a_full_disk_stops_and_goes_on_without_loss() {
    let device = tame(7);
    let mut log = writer(&device, 1);
    put(&*device, &mut log, 1, 10, true);
    device.set_faults(FaultPlan {
        capacity: Some(common::SEGMENT),
        ..FaultPlan::default()
    });
    let tickets: Vec<_> = (2..=30)
        .map(|n| {
            let ticket = log.push(&section(n, 3_000), 1, true, 0);
            settle(&*device, &mut log, 100);
            ticket
        })
        .collect();
    assert!(log.is_full() && log.failure().is_none());
    assert!(log.pending_bytes() > 0);
    assert!(tickets.last().unwrap().result().is_none());
    device.set_faults(FaultPlan::default());
    log.retry();
    settle(&*device, &mut log, 1_000);
    assert!(tickets.iter().all(ended_well));
    assert_eq!(log.pending_bytes(), 0);
    assert_eq!(
        numbers(&*device, 1, 0).unwrap().0,
        (1..=30).collect::<Vec<_>>()
    );
}

/// What waits and finds no room for a whole segment gets one of its own size, so that nobody waits for it for ever.
#[test]
fn on_a_full_disk_what_waits_gets_a_segment_of_its_size() {
    let device = tame(7);
    let mut log = writer(&device, 1);
    put(&*device, &mut log, 1, 10, true);
    device.set_faults(FaultPlan {
        capacity: Some(common::SEGMENT + (24 << 10)),
        ..FaultPlan::default()
    });
    let big = |n| section(n, 13_000);
    let tickets: Vec<_> = (2..=3).map(|n| log.push(&big(n), 1, true, 0)).collect();
    settle(&*device, &mut log, 1_000);
    assert!(tickets.iter().all(ended_well));
    assert!(log.is_full() && log.pending_bytes() == 0);
    assert!(device.footprint() > common::SEGMENT);
    // Another one does not fit any more, however small its segment; nor does it ever end wrongly.
    let waiting = log.push(&big(4), 1, true, 0);
    settle(&*device, &mut log, 1_000);
    log.retry();
    settle(&*device, &mut log, 1_000);
    assert!(waiting.result().is_none() && log.is_full());
    assert_eq!(numbers(&*device.copy().crash(), 1, 0).unwrap().0, [1, 2, 3]);
    device.set_faults(FaultPlan::default());
    log.retry();
    settle(&*device, &mut log, 1_000);
    assert!(ended_well(&waiting) && !log.is_full());
    put(&*device, &mut log, 5, 13_000, true);
    assert_eq!(numbers(&*device, 1, 0).unwrap().0, [1, 2, 3, 4, 5]);
    // Small ones are not kept for reuse.
    log.trim(log.last_seq());
    settle(&*device, &mut log, 1_000);
    assert_eq!(device.footprint() % common::SEGMENT, 0);
}

/// While a small segment stands ready, room for a whole one is still noticed.
#[test]
fn a_small_segment_does_not_keep_the_log_full() {
    let device = tame(7);
    let mut log = writer(&device, 1);
    put(&*device, &mut log, 1, 10, true);
    device.set_faults(FaultPlan {
        capacity: Some(common::SEGMENT + (8 << 10)),
        ..FaultPlan::default()
    });
    (2..=3).for_each(|n| put(&*device, &mut log, n, 12_000, true));
    settle(&*device, &mut log, 1_000);
    assert!(log.is_full());
    let left = common::SEGMENT - log.live_bytes();
    assert!(
        log.room() + 4096 >= left.min(4096),
        "{} of {left}",
        log.room()
    );
    for _ in 0..3 {
        log.retry();
        settle(&*device, &mut log, 1_000);
        assert!(log.is_full());
    }
    device.set_faults(FaultPlan::default());
    log.retry();
    settle(&*device, &mut log, 1_000);
    assert!(!log.is_full());
    (4..=9).for_each(|n| put(&*device, &mut log, n, 12_000, true));
    let all: Vec<u64> = (1..=9).collect();
    assert_eq!(numbers(&*device.crash(), 1, 0).unwrap().0, all);
}

/// A flush that is due reaches what is written, though what waits behind it finds no room.
#[test]
fn a_full_disk_does_not_keep_what_is_written_from_being_flushed() {
    let device = tame(7);
    let mut log = writer(&device, 1);
    put(&*device, &mut log, 1, 10, true);
    device.set_faults(FaultPlan {
        capacity: Some(common::SEGMENT),
        ..FaultPlan::default()
    });
    let mut written = 1;
    loop {
        let ticket = log.push(&section(written + 1, 3_000), 1, false, 0);
        settle(&*device, &mut log, 100);
        if ticket.result().is_none() {
            break;
        }
        assert!(ended_well(&ticket));
        written += 1;
    }
    assert!(written > 3 && log.is_full());
    assert!(log.durable_seq() < log.written_seq());
    let waiting = log.flush(0);
    settle(&*device, &mut log, 100);
    assert!(waiting.result().is_none(), "what waits is not there");
    assert_eq!(log.durable_seq(), written);
    let syncs = device.syncs();
    settle(&*device, &mut log, 100);
    assert_eq!(device.syncs(), syncs, "once is enough");
    let all: Vec<u64> = (1..=written).collect();
    assert_eq!(numbers(&*device.copy().crash(), 1, 0).unwrap().0, all);
    device.set_faults(FaultPlan::default());
    log.retry();
    settle(&*device, &mut log, 1_000);
    assert!(ended_well(&waiting));
    let all: Vec<u64> = (1..=written + 1).collect();
    assert_eq!(numbers(&*device.crash(), 1, 0).unwrap().0, all);
}

/// Who asks from frame 4 on says that what is before was flushed, though no frame that is left says so.
#[test]
fn rot_before_the_first_frame_that_is_needed_is_damage_if_one_that_is_needed_is_there() {
    for bad in 1..=3_u64 {
        for byte in [8, 90] {
            let device = tame(13);
            let mut log = writer(&device, 1);
            put(&*device, &mut log, 1, 200, true);
            (2..=6).for_each(|n| put(&*device, &mut log, n, 200, false));
            assert_eq!(numbers(&*device, 1, 4).unwrap().0, [4, 5, 6]);
            assert!(device.flip_bit(FIRST, (bad - 1) * 4096 + byte, 0));
            let got = numbers(&*device, 1, 4);
            assert!(
                matches!(got, Err(LogError::Damaged { .. })),
                "frame {bad} byte {byte}: {got:?}"
            );
            // Nobody needs what is there, and nobody says that more was.
            assert_eq!(numbers(&*device, 1, 7).unwrap().0, [] as [u64; 0]);
        }
    }
    let device = tame(13);
    let mut log = writer(&device, 1);
    put(&*device, &mut log, 1, 200, true);
    (2..=6).for_each(|n| put(&*device, &mut log, n, 200, false));
    assert!(device.flip_bit(FIRST, 3 * 4096 + 90, 0));
    let (found, end) = numbers(&*device, 1, 4).unwrap();
    assert_eq!(
        (found, end.next_seq),
        (vec![], 4),
        "never flushed: a torn end"
    );
}

#[test]
fn files_with_other_names_are_left_alone() {
    let device = tame(14);
    let mut log = writer(&device, 1);
    put(&*device, &mut log, 1, 10, true);
    for name in [
        "1-0.1",
        "+0000001-0000.00000002",
        "notes",
        "00000001-0000.2",
        "free.1-0.3",
    ] {
        overwrite(&*device, &format!("wal/{name}"), 0, &[7; 4096]);
    }
    let streams = list_streams(&*device).unwrap();
    assert_eq!(streams.len(), 1);
    assert_eq!((streams[0].segments.len(), streams[0].free.len()), (1, 0));
    assert_eq!(numbers(&*device, 1, 0).unwrap().0, [1]);
}

#[test]
fn frames_of_another_instance_or_life_are_not_read() {
    let device = tame(8);
    let mut log = writer(&device, 1);
    put(&*device, &mut log, 1, 10, true);
    let stream = &list_streams(&*device).unwrap()[0];
    let end = replay(&*device, stream, SALT + 1, 0, &mut |_, _| {
        panic!("a frame of another instance")
    });
    assert_eq!(end.unwrap().next_seq, 1);
    // The same file under the names of another shard, a later life, a later segment, and its own.
    let mut from = FIRST.to_owned();
    for (life, to, found) in [
        (1, "wal/00000001-0001.00000001", 0),
        (2, "wal/00000002-0000.00000001", 0),
        (1, "wal/00000001-0000.00000002", 0),
        (1, FIRST, 1),
    ] {
        let to = to.to_owned();
        let rename = Op::Rename {
            from: std::mem::replace(&mut from, to.clone()),
            to,
        };
        let ticket = device.submit(Lane(0), rename);
        ticket.wait(&*device, Lane(0)).unwrap();
        assert_eq!(numbers(&*device, life, 0).unwrap().0.len(), found, "{from}");
    }
}

#[test]
fn every_segment_begins_flushed_and_declares_the_one_before() {
    let device = tame(11);
    let mut log = writer(&device, 1);
    // One block each, eight a segment, nobody asks for a flush.
    for n in 1..=9 {
        put(&*device, &mut log, n, 200, false);
        assert_eq!(log.durable_seq(), if n == 9 { 9 } else { 1 });
    }
    assert!(device.flip_bit(FIRST, 7 * 4096 + 90, 0));
    let got = numbers(&*device, 1, 0);
    let Err(LogError::Damaged { seq, segment, .. }) = got else {
        panic!("{got:?}")
    };
    assert_eq!((seq, segment), (8, 1));
}

#[test]
fn a_frame_that_follows_another_one_breaks_the_chain() {
    let frames = |second: usize| {
        let device = tame(12);
        let mut log = writer(&device, 1);
        put(&*device, &mut log, 1, 100, false);
        put(&*device, &mut log, 2, second, false);
        put(&*device, &mut log, 3, 100, false);
        device
    };
    let (ours, other) = (frames(100), frames(101));
    let read = |device: &SimDevice| {
        let open = Op::Open {
            path: FIRST.into(),
            mode: OpenMode::default(),
        };
        let opened = device.submit(Lane(0), open).wait(device, Lane(0)).unwrap();
        let Completion::Opened { file, .. } = opened else {
            panic!("nothing was opened")
        };
        let into = AlignedBuf::zeroed(4096);
        let mut reads = [Read {
            file,
            offset: 8192,
            into,
        }];
        device.read(&mut reads).unwrap();
        reads[0].into.bytes().to_vec()
    };
    overwrite(&*ours, FIRST, 8192, &read(&ours));
    assert_eq!(numbers(&*ours, 1, 0).unwrap().0, [1, 2, 3]);
    overwrite(&*ours, FIRST, 8192, &read(&other));
    let (found, end) = numbers(&*ours, 1, 0).unwrap();
    assert_eq!((found, end.torn_at), (vec![1, 2], Some((1, 8192))));
}

proptest! {
    #[test]
    fn any_bytes_replay_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 1..200),
        at in 0_u64..20_000,
        from in 0_u64..4,
    ) {
        let device = tame(9);
        let mut log = writer(&device, 1);
        (1..=4).for_each(|n| put(&*device, &mut log, n, 3_000, true));
        for (i, byte) in bytes.iter().enumerate() {
            for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                device.flip_bit(FIRST, at + i as u64, bit);
            }
        }
        if let Ok((found, _)) = numbers(&*device, 1, from) {
            // Only the last frame may be lost unnoticed.
            prop_assert!(found.contains(&3));
        }
    }

    #[test]
    fn files_of_noise_replay_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 1..9000)) {
        let device = tame(10);
        overwrite(&*device, FIRST, 0, &bytes);
        let (found, end) = numbers(&*device, 1, 0).unwrap();
        prop_assert_eq!(found.len(), 0);
        prop_assert_eq!(end.next_seq, 1);
    }
}
