//! The contract on each device of this crate, and what only real directories have.

mod contract;

use std::path::Path;
use std::sync::Arc;

use alluvium_io::{
    Backend, Device, DeviceOptions, Geometry, IoErrorKind, Lane, MemoryDevice, Op, OpenMode,
    PageWriteMode, open,
};

fn options(backend: Backend, page_writes: PageWriteMode, direct: bool) -> DeviceOptions {
    DeviceOptions {
        backend,
        lanes: 2,
        page_writes,
        direct,
    }
}

/// Every real device that this machine grants, each in a directory of its own below a temporary one.
fn real(test: impl Fn(&Path, DeviceOptions)) {
    let kinds = [
        options(Backend::Pwritev, PageWriteMode::Vectored, true),
        options(Backend::Pwritev, PageWriteMode::Vectored, false),
        options(Backend::Uring, PageWriteMode::Vectored, true),
        options(Backend::Uring, PageWriteMode::Vectored, false),
        options(Backend::Uring, PageWriteMode::Gathered, true),
    ];
    for options in kinds {
        // Beside the build, which is on a disk; the system's temporary directory may be memory.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
        match open(dir.path(), &options) {
            Ok(device) => println!("{options:?}: {}, {:?}", device.backend(), device.geometry()),
            Err(e) if options.backend == Backend::Uring => {
                println!("SKIPPED {options:?}: {e}");
                continue;
            }
            Err(e) => panic!("{e}"),
        }
        test(dir.path(), options);
    }
}

#[test]
fn memory_keeps_the_contract() {
    contract::check(&MemoryDevice::new(2));
    let geometry = Geometry {
        offset_align: 4096,
        memory_align: 4096,
        max_vectors: 1024,
    };
    contract::check(&MemoryDevice::with_geometry(2, geometry));
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::new(2));
    contract::check_threads(&device);
}

#[test]
fn real_devices_keep_the_contract() {
    real(|dir, options| contract::check(&*open(dir, &options).expect("opens")));
}

#[test]
fn real_devices_serve_threads() {
    real(|dir, options| contract::check_threads(&open(dir, &options).expect("opens")));
}

#[test]
fn auto_finds_a_backend_and_says_which() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let device = open(&dir.path().join("new/deep"), &DeviceOptions::default()).expect("opens");
    let backend = device.backend();
    assert!(
        backend.starts_with("io_uring (") || backend.starts_with("pwritev ("),
        "{backend}"
    );
}

/// What was handed over before the drop is there after it, though nobody waited and the tickets are gone.
#[test]
fn drop_waits_for_what_is_in_flight() {
    real(|dir, options| {
        let device = open(dir, &options).expect("opens");
        let (file, _) = contract::open(&*device, "f", 0);
        for i in 0..200 {
            let data = contract::pages(i..i + 1);
            drop(device.submit(
                Lane(0),
                Op::Write {
                    file,
                    offset: i * 4096,
                    data,
                    sync: i % 10 == 9,
                },
            ));
        }
        device.drive(Lane(0));
        let never_driven = device.submit(Lane(1), Op::Sync { file });
        drop(device);
        assert!(never_driven.result().expect("ended").is_err());
        let device = open(dir, &options).expect("the lock is free again");
        let (file, len) = contract::open(&*device, "f", 0);
        assert_eq!(len, 200 * 4096);
        contract::assert_pages(&*device, file, 0, 0..200);
    });
}

#[test]
fn second_opener_is_told_who_holds_the_lock() {
    real(|dir, options| {
        let _device = open(dir, &options).expect("opens");
        let error = open(dir, &options).expect_err("locked");
        assert_eq!(error.kind, IoErrorKind::Locked);
        let text = error.to_string();
        assert!(
            text.contains(&format!("process {}", std::process::id())),
            "{text}"
        );
        assert!(
            text.contains("stop it, or choose another directory"),
            "{text}"
        );
    });
}

/// A wrong path must not leave even a lock file behind.
#[test]
fn a_foreign_directory_is_refused_and_left_as_it_was() {
    let names = |dir: &Path| {
        let entries = std::fs::read_dir(dir).expect("lists");
        let mut names: Vec<_> = entries.map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    real(|dir, options| {
        let open = |name: &str| open(&dir.join(name), &options);
        for (case, inside) in [("file", "notes.txt"), ("folder", "photos")] {
            let path = dir.join(case);
            std::fs::create_dir(&path).expect("makes");
            if case == "file" {
                std::fs::write(path.join(inside), "mine").expect("writes");
            } else {
                std::fs::create_dir(path.join(inside)).expect("makes");
            }
            let error = open(case).expect_err("foreign");
            assert_eq!(error.kind, IoErrorKind::Foreign);
            let text = error.to_string();
            for part in [inside, case, "choose an empty or a new one"] {
                assert!(text.contains(part), "{text}");
            }
            assert_eq!(names(&path), [inside]);
        }
        // A copy without its lock is ours, and so is what an opening that was cut left.
        for (case, inside) in [("copied", "superblock"), ("begun", "LOCK")] {
            std::fs::create_dir(dir.join(case)).expect("makes");
            for file in [inside, "vol-like"] {
                std::fs::write(dir.join(case).join(file), "").expect("writes");
            }
            drop(open(case).expect("ours"));
        }
        std::fs::create_dir(dir.join("empty")).expect("makes");
        drop(open("empty").expect("empty"));
        // The root of a file system of its own.
        std::fs::create_dir_all(dir.join("mounted/lost+found")).expect("makes");
        drop(open("mounted").expect("as good as empty"));
        drop(open("new").expect("new"));
        drop(open("new").expect("again"));
    });
}

#[test]
fn paths_cannot_leave_the_root() {
    real(|dir, options| {
        let device = open(&dir.join("root"), &options).expect("opens");
        let mode = OpenMode {
            create: true,
            ..OpenMode::default()
        };
        for path in [
            "../out",
            "/etc/out",
            "a/../../out",
            "",
            "a//b",
            ".",
            "nul\0",
        ] {
            let refused = contract::run(
                &*device,
                Lane(0),
                Op::Open {
                    path: path.into(),
                    mode,
                },
            );
            assert!(refused.is_err(), "{path:?}");
            if !path.is_empty() {
                assert!(device.list(path).is_err(), "{path:?}");
            }
        }
        assert!(!dir.join("out").exists());
    });
}

/// More than the disk has free is refused before anything is taken, with a kind that callers can tell.
#[test]
fn allocation_beyond_the_disk_is_no_space() {
    real(|dir, options| {
        let device = open(dir, &options).expect("opens");
        // Far past every file system's longest file, so that nothing can be taken even by a wrong device.
        let mode = OpenMode {
            create: true,
            allocate: 1 << 62,
            direct: true,
        };
        let path = String::from("huge");
        let error =
            contract::run(&*device, Lane(0), Op::Open { path, mode }).expect_err("too much");
        assert_eq!(error.kind, IoErrorKind::NoSpace, "{error}");
        let huge = device
            .list("")
            .expect("lists")
            .into_iter()
            .find(|l| l.name == "huge");
        assert!(
            huge.is_none_or(|huge| huge.allocated == 0),
            "nothing is taken"
        );
    });
}
