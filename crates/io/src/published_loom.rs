//! Every order of a writer and its readers, of the real code: `cargo xtask loom`.

use loom::sync::Arc;
use loom::thread;

use super::*;

/// A head of 7: as many bytes as the note says, each of them the head.
type Model = Guarded<u8, ()>;

/// What a reader sees must be one state as it was published.
fn look(model: &Model) -> Option<(u8, u64)> {
    model.published().read(|view| {
        let mut bytes = Vec::new();
        view.read(&mut bytes);
        let head = *view.head();
        assert_eq!(bytes.len() as u64, view.note());
        assert!(bytes.iter().all(|b| *b == head), "{bytes:?} behind {head}");
        (head, view.note())
    })
}

fn replace(model: &Model, head: u8, count: usize) {
    let bytes = vec![head; count];
    model.lock().split().1.replace(head, &bytes, count as u64);
}

fn append(model: &Model, head: u8, count: usize) {
    let mut lock = model.lock();
    let (_, mut writer) = lock.split();
    let end = writer.end().expect("there is a head");
    let note = (end.len() + count) as u64;
    end.append_short([u64::from_le_bytes([head; 8]); SHORT_WORDS], count, note);
}

fn check(readers: usize, write: impl Fn(&Model) + Send + Sync + Clone + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    let executions = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&executions);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let model = Arc::new(Model::new(()));
        replace(&model, 1, 30);
        let readers: Vec<_> = (0..readers)
            .map(|_| {
                let model = Arc::clone(&model);
                thread::spawn(move || {
                    let first = look(&model).expect("a head was published before");
                    let second = look(&model).expect("heads are never taken back");
                    assert!(second >= first, "{second:?} after {first:?}");
                })
            })
            .collect();
        write(&model);
        readers.into_iter().for_each(|r| r.join().unwrap());
        drop(model);
        epoch::collect();
    });
    println!("{} executions", executions.load(Ordering::Relaxed));
}

#[test]
fn appended_bytes_are_seen_whole() {
    check(1, |model| {
        append(model, 1, 1);
        append(model, 1, 1);
    });
}

#[test]
fn a_fragment_is_seen_with_its_bytes() {
    // 30 bytes stand in the node, which has room for 32.
    check(2, |model| append(model, 1, 5));
}

#[test]
fn another_head_comes_with_its_bytes() {
    check(2, |model| {
        append(model, 1, 3);
        replace(model, 2, 3);
    });
}

#[test]
fn two_writers_take_turns() {
    check(1, |model| {
        // The other writer is the reader's neighbour: both append, nobody's bytes are lost.
        append(model, 1, 3);
        replace(model, 2, 40);
        append(model, 2, 9);
    });
    loom::model(|| {
        let model = Arc::new(Model::new(()));
        replace(&model, 1, 0);
        let other = {
            let model = Arc::clone(&model);
            thread::spawn(move || append(&model, 1, 20))
        };
        append(&model, 1, 20);
        other.join().unwrap();
        assert_eq!(look(&model), Some((1, 40)));
        drop(model);
        epoch::collect();
    });
}
