//! Work that may wait, for a lock that a checkpoint holds or for the device: not on the threads that serve connections.

/// Runs it on a thread that may wait, whatever queries are running. A panic goes on in who asked.
pub(crate) async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("the runtime is gone: {error}"),
        },
    }
}
