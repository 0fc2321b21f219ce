//! The real binary: a backup of a running server, restored, verified and served; a damaged one is not.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "it uses a part of the binary's modules; what is not so fails it"
)]

mod common;

use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Server, alluvium, said};

fn write(server: &Server, from: u64, lines: u64) {
    let mut body = String::new();
    for i in from..from + lines {
        // Noise fills pages.
        let value = (i * 2_654_435_761 % 999_999_937) as f64 / 7.0;
        let time = 1_700_000_000_000_000_000 + i;
        writeln!(body, "m,host=h{} v={value},n={i}i {time}", i % 7).unwrap();
    }
    let (status, text) = server.ask("POST", "/write?db=db", &body);
    assert_eq!(status, 204, "{text}");
}

/// Everything before the point of this number, in several shapes.
fn answers(server: &Server, before: u64) -> Vec<String> {
    let range = format!(
        r#""range":{{"from":1700000000000000000,"to":{}}}"#,
        1_700_000_000_000_000_000 + before
    );
    let queries = [
        format!(r#"{{"select":"m_v",{range},"limit":100000}}"#),
        format!(r#"{{"select":["m_v","m_n"],"where":{{"host":"h3"}},{range},"limit":100000}}"#),
        format!(
            r#"{{"aggregate":{{"m_v":["count","min","max","mean","last"]}},"group-by-tag":"host",{range}}}"#
        ),
    ];
    let ask = |query: &String| {
        let (status, text) = server.ask("POST", "/api/query?db=db", query);
        assert_eq!(status, 200, "{query}: {text}");
        text
    };
    queries.iter().map(ask).collect()
}

/// Damage is named by a running server and without one, and what is left of a directory that does not open is brought to
/// another, which answers.
#[test]
fn what_is_damaged_is_named_and_what_is_left_is_salvaged() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let points = 40_000;
    let server = Server::start(Path::new(&path("data")), &[]);
    for from in (0..points).step_by(4000) {
        write(&server, from, 4000);
    }
    let (status, text) = server.ask("POST", "/api/checkpoint", "");
    assert_eq!(status, 200, "{text}");
    let volume = std::fs::read_dir(path("data/vol")).unwrap().next();
    let volume = volume.unwrap().unwrap().path();
    flip(volume.to_str().unwrap(), 2 * 4096 + 500);
    let number = volume.file_name().unwrap().to_str().unwrap();
    let name = format!("page {}:2", number.parse::<u32>().unwrap());
    let online = alluvium(&["verify", &server.url]);
    assert!(
        !online.status.success() && said(&online).contains(&name),
        "{}",
        said(&online)
    );
    drop(server);
    let offline = alluvium(&["verify", &path("data")]);
    assert!(
        !offline.status.success() && said(&offline).contains(&name),
        "{}",
        said(&offline)
    );
    for slot in [0, 1 << 20] {
        flip(&path("data/superblock"), slot + 30);
    }
    let salvaged = alluvium(&["salvage", &path("data"), &path("saved")]);
    assert!(salvaged.status.success(), "{}", said(&salvaged));
    let counts = said(&salvaged);
    assert!(
        counts.contains(&format!("salvaged {} points of 14 series", 2 * points)),
        "{counts}"
    );
    assert!(counts.contains("not there: 1 damaged pages"), "{counts}");
    let server = Server::start(Path::new(&path("saved")), &[]);
    let query = r#"{"aggregate":{"m_v":"count","m_n":"count"},"output":{"format":"csv"}}"#;
    let (status, text) = server.ask("POST", "/api/query?db=db", query);
    assert_eq!(status, 200, "{text}");
    let counts = text.lines().flat_map(|line| line.split(',').skip(2));
    let found = counts.filter_map(|count| count.parse::<u64>().ok());
    assert_eq!(found.sum::<u64>(), 2 * points, "{text}");
}

#[test]
fn a_backup_of_a_busy_server_is_restored_and_answers_alike() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let server = Server::start(
        Path::new(&path("data")),
        &["--backup-dir", &path("backups")],
    );
    let (status, text) = server.ask("POST", "/api/backup?to=../outside", "");
    assert_eq!(status, 403, "{text}");
    let before = 40_000;
    for from in (0..before).step_by(4000) {
        write(&server, from, 4000);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for from in (before..)
                .step_by(500)
                .take_while(|_| !done.load(Ordering::Acquire))
            {
                write(&server, from, 500);
            }
        });
        let made = alluvium(&["backup", &server.url, &path("backups/first")]);
        assert!(made.status.success(), "{}", said(&made));
        let base = path("backups/first");
        let made = alluvium(&["backup", &server.url, "second", "--base", &base]);
        assert!(made.status.success(), "{}", said(&made));
        done.store(true, Ordering::Release);
    });
    let expected = answers(&server, before);
    assert!(expected.iter().all(|a| a.len() > 100), "{expected:?}");
    let again = alluvium(&["backup", &server.url, &path("backups/second")]);
    assert!(
        said(&again).contains("choose an empty or a new directory"),
        "{}",
        said(&again)
    );
    // A directory that is served cannot be verified from outside.
    let locked = alluvium(&["verify", &path("data")]);
    assert!(
        !locked.status.success() && said(&locked).contains("open"),
        "{}",
        said(&locked)
    );
    let online = alluvium(&["verify", &server.url]);
    assert!(
        online.status.success() && said(&online).contains("0 findings"),
        "{}",
        said(&online)
    );
    drop(server);
    for backup in ["backups/first", "backups/second"] {
        let target = path(&format!("restored-{}", &backup[8..]));
        let restored = alluvium(&["restore", &path(backup), &target]);
        assert!(restored.status.success(), "{}", said(&restored));
        let sound = alluvium(&["verify", &target]);
        assert!(
            sound.status.success() && said(&sound).contains("0 findings"),
            "{}",
            said(&sound)
        );
        assert_eq!(
            answers(&Server::start(Path::new(&target), &[]), before),
            expected
        );
    }
    // Without a server.
    let copied = alluvium(&[
        "backup",
        &path("restored-first"),
        &path("offline"),
        "--copy",
    ]);
    assert!(copied.status.success(), "{}", said(&copied));
    flip(&path("offline/vol/00000001"), 4096 + 700);
    let damaged = alluvium(&["verify", &path("offline")]);
    assert_eq!(damaged.status.code(), Some(1), "{}", said(&damaged));
    assert!(
        said(&damaged).contains("page 1:1") && said(&damaged).contains("lost"),
        "{}",
        said(&damaged)
    );
    let refused = alluvium(&["restore", &path("offline"), &path("never")]);
    assert!(
        said(&refused).contains("does not hold"),
        "{}",
        said(&refused)
    );
    let refused = alluvium(&["verify", &path("never")]);
    assert!(said(&refused).contains("did not end"), "{}", said(&refused));
}

fn flip(path: &str, at: u64) {
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
}
