//! `alluvium serve`.

use std::io::Write;

use alluvium_server::{Config, Running, serve};
use alluvium_types::ByteCount;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::ServeArgs;
use crate::error::CliError;
use crate::settings;

pub(crate) fn run(args: &ServeArgs) -> Result<(), CliError> {
    let config = settings::config(&args.dir, &args.flags)?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let running = start(config, &format!("data in {}", args.dir.display())).await?;
        let url = format!("http://{}", running.address());
        say(&format!(
            "try: curl -i '{url}/write?db=home' --data-binary 'room,name=attic celsius=21.5'"
        ));
        until_stopped().await?;
        say("stopping");
        running.stop().await?;
        Ok(())
    })
}

/// Threads that may wait, made when they are wanted: more than all queries and bodies that may be under way at once.
const WAITING_THREADS_MAX: usize = 4096;

/// The runtime of a server.
pub(crate) fn runtime() -> Result<Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("alluvium-http")
        .max_blocking_threads(WAITING_THREADS_MAX)
        .build()
        .map_err(CliError::io("cannot start threads"))
}

/// Starts a server and says what it found.
pub(crate) async fn start(config: Config, what: &str) -> Result<Running, CliError> {
    let memory = ByteCount(config.store.memory_bytes);
    let durability = config.store.durability;
    let mut running = serve(config).await?;
    say(&format!(
        "Alluvium {} listens on http://{} ({what})",
        env!("CARGO_PKG_VERSION"),
        running.address()
    ));
    running.ready().await?;
    if let Some(store) = running.store() {
        let status = store.status();
        say(&format!(
            "io: {}; memory budget {memory}; durability {durability}",
            status.backend
        ));
        let r = &status.recovery;
        let how = match (r.clean, status.incarnation) {
            (true, _) => "closed cleanly before",
            (false, 0 | 1) => "a new data directory",
            (false, _) => "recovered",
        };
        say(&format!(
            "{how}: {} databases, {} series from the checkpoint, {} points redone from {} of log, in {:.3} s",
            status.databases.len(),
            r.series_loaded,
            r.points,
            ByteCount(r.log_bytes),
            r.duration_ns as f64 / 1e9
        ));
    }
    Ok(running)
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn until_stopped() -> Result<(), CliError> {
    let cannot = "cannot wait for signals";
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::io(cannot))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::io(cannot))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// A line for people; a closed stdout is no reason to stop serving.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
