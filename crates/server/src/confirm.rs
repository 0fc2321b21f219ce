//! Waits for the device, but not for ever.

use alluvium_store::{Commit, StoreError};
use alluvium_types::Position;

use crate::app::App;

/// Why a commit was not confirmed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unconfirmed {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    match tokio::time::timeout(limit, commit).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Err(Unconfirmed::Late {
            what,
            seconds: limit.as_secs_f32(),
        }),
    }
}
