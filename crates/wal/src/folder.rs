//! The folder of the log, which all streams of a process share: one sync of it at a time. A failed one may have lost the
//! names of any stream, and the next would seem to cover them; so the next begins when the outcome of the last is known, and
//! never after a failure.

use alluvium_io::{Device, IoError, Lane, Op, Ticket};
use parking_lot::Mutex;

use crate::stream::DIR;

/// Syncs the folder for streams that share it.
#[derive(Debug, Default)]
pub struct FolderSync(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Syncs that ended well.
    done: u64,
    running: Option<(Lane, Ticket)>,
    failure: Option<IoError>,
}

/// Names that were made or changed before this was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FolderMark(u64);

impl FolderSync {
    /// What has been done in the folder up to now.
    pub(crate) fn mark(&self) -> FolderMark {
        let state = self.0.lock();
        // One under way may have begun before.
        FolderMark(state.done + 1 + u64::from(state.running.is_some()))
    }

    /// Whether that is durable. Begins a sync if none is under way; never waits.
    pub(crate) fn poll(
        &self,
        device: &dyn Device,
        lane: Lane,
        mark: FolderMark,
    ) -> Option<Result<(), IoError>> {
        let mut state = self.0.lock();
        loop {
            if let Some(error) = &state.failure {
                return Some(Err(error.clone()));
            }
            if state.done >= mark.0 {
                return Some(Ok(()));
            }
            let Some((of, ticket)) = &state.running else {
                let ticket = device.submit(lane, Op::SyncDir { path: DIR.into() });
                state.running = Some((lane, ticket));
                device.drive(lane);
                continue;
            };
            let of = *of;
            match ticket.result() {
                None if of == lane => return None,
                None => {
                    // Whoever began it may have nothing to do any more.
                    device.drive(of);
                    return None;
                }
                Some(Ok(_)) => state.done += 1,
                Some(Err(error)) => state.failure = Some(error),
            }
            state.running = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alluvium_io::{Completion, OpenMode};
    use alluvium_sim::{Fault, FaultPlan, SimConfig, SimDevice};

    use super::*;

    #[test]
    fn nobody_goes_by_a_sync_behind_a_failed_one() {
        let device = SimDevice::new(
            7,
            SimConfig {
                faults: FaultPlan {
                    syncs: BTreeMap::from([(0, Fault::LosesContent)]),
                    ..FaultPlan::default()
                },
                ..SimConfig::default()
            },
        );
        let folder = FolderSync::default();
        let create = |path: &str| {
            let mode = OpenMode {
                create: true,
                ..OpenMode::default()
            };
            let path = format!("{DIR}/{path}");
            let opened = device.submit(Lane(0), Op::Open { path, mode });
            let opened = opened.wait(device.as_ref(), Lane(0)).unwrap();
            assert!(matches!(opened, Completion::Opened { .. }));
        };
        create("a");
        let first = folder.mark();
        let mut ended = folder.poll(device.as_ref(), Lane(0), first);
        create("b");
        let second = folder.mark();
        while ended.is_none() {
            device.drive(Lane(0));
            ended = folder.poll(device.as_ref(), Lane(0), first);
        }
        assert!(ended.unwrap().is_err());
        let second = folder.poll(device.as_ref(), Lane(0), second);
        assert!(second.unwrap().is_err());
    }

    #[test]
    fn a_sync_under_way_does_not_cover_what_comes_behind_it() {
        let device = SimDevice::new(7, SimConfig::default());
        let folder = FolderSync::default();
        let first = folder.mark();
        assert_eq!(first, folder.mark());
        let ended = folder.poll(device.as_ref(), Lane(0), first);
        if ended.is_none() {
            assert_eq!(folder.mark(), FolderMark(first.0 + 1));
        }
        while folder.poll(device.as_ref(), Lane(0), first).is_none() {
            device.drive(Lane(0));
        }
        assert_eq!(folder.mark(), FolderMark(2));
        let later = folder.mark();
        assert!(
            folder
                .poll(device.as_ref(), Lane(0), later)
                .is_none_or(|r| r.is_ok())
        );
    }
}
