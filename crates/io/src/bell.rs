//! What threads wait on: a count of events, and descriptors that the kernel signals.

use std::cell::RefCell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

static BELLS: AtomicU64 = AtomicU64::new(1);

/// Most bells whose last event one thread remembers; a forgotten bell costs one wait that ends at once.
const REMEMBERED_MAX: usize = 8;

thread_local! {
    /// The last event that this thread knows of, by bell. It is what makes an event between two waits of one
    /// thread end the second, though other threads saw it too.
    static SEEN: RefCell<Vec<(u64, u64)>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, Default)]
struct State {
    event: u64,
    followers: usize,
    /// A thread sits in `poll` for all others.
    leader: bool,
}

/// Ends the waits of all threads at each event, and loses none that came between two waits of a thread.
///
/// One waiter (the leader) polls the descriptors; the others wait on a condition, so that none steals what
/// another polls for.
#[derive(Debug)]
pub(crate) struct Bell {
    id: u64,
    state: Mutex<State>,
    condition: Condvar,
    alarm: OwnedFd,
}

/// An eventfd that never blocks.
pub(crate) fn eventfd() -> std::io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(
        0,
        EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
    )?)
}

/// Takes what an eventfd counted.
pub(crate) fn drain(fd: BorrowedFd<'_>) {
    // An error means that another thread took it first.
    let _ = rustix::io::read(fd, &mut [0; 8]);
}

impl Bell {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            id: BELLS.fetch_add(1, Ordering::Relaxed),
            state: Mutex::default(),
            condition: Condvar::new(),
            alarm: eventfd()?,
        })
    }

    /// An event for all threads, the caller included.
    pub(crate) fn ring(&self) {
        self.count_event();
    }

    /// An event that the caller knows of already.
    pub(crate) fn ring_others(&self) {
        let event = self.count_event();
        if self.seen() == Some(event - 1) {
            self.remember(event);
        }
    }

    fn count_event(&self) -> u64 {
        let mut state = self.state.lock();
        state.event += 1;
        if state.followers > 0 {
            self.condition.notify_all();
        }
        if state.leader {
            // Fails only if the counter is full, and then the leader wakes anyway.
            let _ = rustix::io::write(&self.alarm, &1_u64.to_ne_bytes());
        }
        state.event
    }

    /// Waits for an event that this thread has not seen, for a readable descriptor, or for the end of the
    /// time. `reap` is called by the leader with the readable descriptors' indices, with no lock held.
    pub(crate) fn wait(
        &self,
        timeout: Duration,
        fds: &[BorrowedFd<'_>],
        mut reap: impl FnMut(usize),
    ) {
        let deadline = Instant::now() + timeout.min(Duration::from_hours(1));
        let seen = self.seen();
        let mut state = self.state.lock();
        loop {
            if seen != Some(state.event) {
                break self.remember(state.event);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.pass_on(&state);
                break;
            }
            if state.leader || fds.is_empty() {
                state.followers += 1;
                self.condition.wait_for(&mut state, left);
                state.followers -= 1;
                continue;
            }
            state.leader = true;
            drop(state);
            let found = self.poll(left, fds, &mut reap);
            state = self.state.lock();
            state.leader = false;
            if found {
                state.event += 1;
                self.condition.notify_all();
            } else if state.followers > 0 {
                self.condition.notify_one();
            }
        }
    }

    /// Whoever was asked to poll and leaves instead asks another.
    fn pass_on(&self, state: &State) {
        if !state.leader && state.followers > 0 {
            self.condition.notify_one();
        }
    }

    fn poll(&self, left: Duration, fds: &[BorrowedFd<'_>], reap: &mut impl FnMut(usize)) -> bool {
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(fds.len() + 1);
        polled.push(PollFd::new(&self.alarm, PollFlags::IN));
        polled.extend(
            fds.iter()
                .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
        );
        let time = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        // EINTR ends the wait early, which the caller's loop bears.
        if rustix::event::poll(&mut polled, Some(&time)).is_err() {
            return false;
        }
        if !polled[0].revents().is_empty() {
            rustix::io::read(&self.alarm, &mut [0; 8]).ok();
        }
        let mut found = false;
        for (index, fd) in polled.iter().skip(1).enumerate() {
            if !fd.revents().is_empty() {
                found = true;
                reap(index);
            }
        }
        found
    }

    fn seen(&self) -> Option<u64> {
        SEEN.with_borrow(|seen| {
            seen.iter()
                .find(|(id, _)| *id == self.id)
                .map(|(_, event)| *event)
        })
    }

    fn remember(&self, event: u64) {
        SEEN.with_borrow_mut(|seen| {
            if let Some(entry) = seen.iter_mut().find(|(id, _)| *id == self.id) {
                entry.1 = event;
                return;
            }
            if seen.len() == REMEMBERED_MAX {
                seen.remove(0);
            }
            seen.push((self.id, event));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    const LONG: Duration = Duration::from_hours(1);

    /// Leads this thread past the wait that a bell new to it ends at once.
    fn met(bell: &Bell) {
        bell.wait(Duration::ZERO, &[], |_| {});
    }

    #[test]
    fn one_event_ends_the_waits_of_all_threads() {
        let bell = Bell::new().expect("a bell");
        let fd = eventfd().expect("an eventfd");
        let waiting = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    met(&bell);
                    waiting.wait();
                    // One of them leads and polls; whether they wait already or not, the event reaches all.
                    bell.wait(LONG, &[fd.as_fd()], |_| {});
                });
            }
            waiting.wait();
            bell.ring();
        });
    }

    #[test]
    fn descriptor_ends_the_waits_of_all_threads_and_is_reaped() {
        let bell = Bell::new().expect("a bell");
        let fd = eventfd().expect("an eventfd");
        let reaped = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    met(&bell);
                    bell.wait(LONG, &[fd.as_fd()], |index| {
                        assert_eq!(index, 0);
                        drain(fd.as_fd());
                        reaped.fetch_add(1, Ordering::Relaxed);
                        // A thread that comes later has something to wait for too.
                        rustix::io::write(&fd, &1_u64.to_ne_bytes()).ok();
                    });
                });
            }
            rustix::io::write(&fd, &1_u64.to_ne_bytes()).expect("signals");
        });
        assert!(reaped.load(Ordering::Relaxed) >= 1);
    }

    #[test]
    fn own_events_end_no_wait_of_ones_own() {
        let bell = Bell::new().expect("a bell");
        met(&bell);
        bell.ring_others();
        let begin = Instant::now();
        bell.wait(Duration::from_millis(20), &[], |_| {});
        assert!(begin.elapsed() >= Duration::from_millis(20));
        bell.ring();
        bell.wait(LONG, &[], |_| {});
    }
}
