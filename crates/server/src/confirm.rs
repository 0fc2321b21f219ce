//! Waits for the device, but not for ever.

use std::pin::pin;
use std::time::Duration;

use alluvium_store::{Commit, Store, StoreError};
use alluvium_types::Position;

use crate::app::App;

/// After so long it is asked whether the disk is full.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// Why a commit was not confirmed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unconfirmed {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was to be recorded waits for room; it may still come.
    #[error(
        "the disk is full: {what} waits for room and may still come; send it again when there is some"
    )]
    Full { what: &'static str },
    /// The device takes longer than `Limits::commit_time`; it may still come.
    #[error("the device has not confirmed {what} within {seconds} s; send it again")]
    Late { what: &'static str, seconds: f32 },
}

/// Waits until `commit` of `what` holds, as long as a write may wait.
pub(crate) async fn confirmed(
    app: &App,
    what: &'static str,
    commit: Commit,
) -> Result<Position, Unconfirmed> {
    let limit = app.limits.commit_time;
    let mut commit = pin!(commit);
    let mut waited = Duration::ZERO;
    while waited < limit {
        let slice = LOOK_AFTER.min(limit.saturating_sub(waited));
        if let Ok(ended) = tokio::time::timeout(slice, commit.as_mut()).await {
            return Ok(ended?);
        }
        waited += slice;
        if waited < limit && app.store().is_ok_and(Store::is_log_full) {
            return Err(Unconfirmed::Full { what });
        }
    }
    Err(Unconfirmed::Late {
        what,
        seconds: limit.as_secs_f32(),
    })
}
