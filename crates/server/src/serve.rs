//! From bind to clean stop.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use alluvium_store::{Clock, Store, SystemClock};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::app::App;
use crate::attended::Attended;
use crate::config::{Config, Storage};
use crate::error::ServeError;
use crate::routes::router;
use crate::tokens::Tokens;
use crate::verify;

/// A server that listens. Dropping it closes the listener; only [`Running::stop`] closes the store.
#[derive(Debug)]
pub struct Running {
    app: Arc<App>,
    address: SocketAddr,
    opened: Option<oneshot::Receiver<Result<(), ServeError>>>,
    stopping: watch::Sender<bool>,
    connections: Arc<Semaphore>,
    connections_max: u32,
    pump: Option<JoinHandle<()>>,
    pump_stop: Arc<AtomicBool>,
    stop_time: Duration,
}

/// Binds and starts to answer; the store is opened on a thread meanwhile, which afterwards drives it. Returns
/// at once: [`Running::ready`] waits for the store.
///
/// Binding comes first, so that a port in use touches no data.
///
/// # Errors
/// If the address cannot be listened on, would let everybody in, or the token file cannot be read.
pub async fn serve(config: Config) -> Result<Running, ServeError> {
    let address = resolve(&config.http)?;
    if !address.ip().is_loopback() && config.token_file.is_none() && !config.insecure {
        return Err(ServeError::Insecure {
            address: config.http,
        });
    }
    let tokens = config.token_file.as_deref().map(Tokens::load).transpose()?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => ServeError::AddressInUse {
                address: config.http.clone(),
            },
            _ => ServeError::Listen {
                address: config.http.clone(),
                source,
            },
        })?;
    let address = listener.local_addr().map_err(|source| ServeError::Listen {
        address: config.http.clone(),
        source,
    })?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let limits = config.limits.clone();
    let (stop_time, connections_max) = (limits.stop_time, limits.connections_max.clamp(1, 1 << 20));
    let mut app = App::new(limits, tokens, Arc::clone(&clock));
    app.backup_dir.clone_from(&config.backup_dir);
    let app = Arc::new(app);
    let pump_stop = Arc::new(AtomicBool::new(false));
    let (opened_sender, opened) = oneshot::channel();
    let pump = {
        let (app, stop) = (Arc::clone(&app), Arc::clone(&pump_stop));
        std::thread::Builder::new()
            .name("alluvium-pump".into())
            .spawn(move || open_and_pump(&app, config, clock, &stop, opened_sender))
            .map_err(|e| ServeError::Start(e.to_string()))?
    };
    let (stopping, stop) = watch::channel(false);
    let connections = Arc::new(Semaphore::new(connections_max));
    tokio::spawn(accept(
        listener,
        Arc::clone(&app),
        Arc::clone(&connections),
        stop,
    ));
    Ok(Running {
        app,
        address,
        opened: Some(opened),
        stopping,
        connections,
        connections_max: connections_max as u32,
        pump: Some(pump),
        pump_stop,
        stop_time,
    })
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until recovery is done.
    ///
    /// # Errors
    /// If the data cannot be opened. The server goes on answering `/health` until it is stopped.
    pub async fn ready(&mut self) -> Result<(), ServeError> {
        match self.opened.take() {
            None => Ok(()),
            Some(opened) => opened.await.unwrap_or_else(|_| {
                Err(ServeError::Start(
                    "opening the data met a bug; see the log".into(),
                ))
            }),
        }
    }

    /// The store, once [`Self::ready`].
    pub fn store(&self) -> Option<&Store> {
        self.app.store().ok()
    }

    /// Closes the listener, lets requests under way finish within the setting `stop_time`, checkpoints and
    /// closes the store.
    ///
    /// # Errors
    /// If the store does not close cleanly; the next start recovers from the log.
    pub async fn stop(mut self) -> Result<(), ServeError> {
        let _ = self.stopping.send(true);
        // All permits are back when all connections are closed.
        let all = self.connections.acquire_many(self.connections_max);
        if tokio::time::timeout(self.stop_time, all).await.is_err() {
            tracing::warn!(
                "requests were still running after {:?}; stopping without them",
                self.stop_time
            );
        }
        let _ = self.ready().await;
        let store = self.app.store().ok().cloned();
        let pump = self.pump.take();
        let stop = Arc::clone(&self.pump_stop);
        let closing = tokio::task::spawn_blocking(move || {
            let closed = store.as_ref().map_or(Ok(()), Store::close);
            stop.store(true, Ordering::Release);
            if let Some(store) = &store {
                store.wake();
            }
            if let Some(pump) = pump {
                let _ = pump.join();
            }
            closed
        });
        let closed = closing
            .await
            .map_err(|_| ServeError::Start("closing the store met a bug".into()))?;
        Ok(closed?)
    }
}

/// What the pump's thread does.
fn open_and_pump(
    app: &App,
    config: Config,
    clock: Arc<dyn Clock>,
    stop: &AtomicBool,
    opened: oneshot::Sender<Result<(), ServeError>>,
) {
    let store = match open(config, clock) {
        Ok(store) => store,
        Err(error) => {
            app.failed(error.to_string());
            let _ = opened.send(Err(error));
            return;
        }
    };
    app.opened(store.clone());
    let _ = opened.send(Ok(()));
    let pumped = std::thread::scope(|scope| {
        let ended = Arc::new(AtomicBool::new(false));
        let (scrubbed, stopped) = (store.clone(), Arc::clone(&ended));
        let scrubber = std::thread::Builder::new()
            .name("alluvium-scrub".into())
            .spawn_scoped(scope, move || verify::scrub(&scrubbed, &stopped));
        let pump = std::panic::AssertUnwindSafe(|| store.pump(stop));
        let pumped = std::panic::catch_unwind(pump);
        ended.store(true, Ordering::Release);
        match scrubber {
            Ok(scrubber) => scrubber.thread().unpark(),
            Err(error) => tracing::warn!("there is no thread for the scrubber: {error}"),
        }
        pumped
    });
    if pumped.is_err() {
        // Nothing is acknowledged any more: writes wait and then fail, which is what clients must see.
        tracing::error!(
            "the pump met a bug: nothing is acknowledged until the server is restarted"
        );
        app.failed("writing stopped after a bug; restart the server".into());
    }
}

fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Store, ServeError> {
    let device = match config.storage {
        Storage::Device(device) => device,
        Storage::Directory { path, mut options } => {
            // One lane for each shard and one for checkpoints.
            options.lanes = config.store.shards + 1;
            alluvium_io::open(&path, &options).map_err(|e| ServeError::directory(path, e))?
        }
    };
    let store = Store::open(device, clock, config.store)?;
    if let Some(damage) = &store.recovery().newest_damaged {
        tracing::warn!(
            "the newest checkpoint is damaged ({damage}): opened from the one before it and the log since, without a loss; look at the disk"
        );
    }
    let mended = store.recovery().tails_pages_mended;
    if mended > 0 {
        tracing::warn!(
            "{mended} pages of checkpointed tails did not hold and were made again, without a loss; look at the disk"
        );
    }
    Ok(store)
}

fn resolve(address: &str) -> Result<SocketAddr, ServeError> {
    let refused = |source| ServeError::Address {
        address: address.to_owned(),
        source,
    };
    let mut found = address.to_socket_addrs().map_err(refused)?;
    found
        .next()
        .ok_or_else(|| refused(std::io::ErrorKind::NotFound.into()))
}

/// Takes connections while there are permits for them.
async fn accept(
    listener: TcpListener,
    app: Arc<App>,
    connections: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
) {
    let routes = router(Arc::clone(&app));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly: others must close first.
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = stopped(&mut stop) => return,
        };
        let (app, routes, stop) = (Arc::clone(&app), routes.clone(), stop.clone());
        tokio::spawn(async move {
            app.metrics.connections.add(1);
            app.metrics.connections_open.fetch_add(1, Ordering::Relaxed);
            connection(stream, &app, routes, stop).await;
            app.metrics.connections_open.fetch_sub(1, Ordering::Relaxed);
            drop(permit);
        });
    }
}

/// Ends when the server stops, or its handle is dropped.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves one connection to its end; at a stop, to the end of the request under way.
async fn connection(stream: TcpStream, app: &App, routes: Router, mut stop: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(routes);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.limits.header_time)
        .max_buf_size(app.limits.header_bytes_max.max(8192))
        .serve_connection(
            TokioIo::new(Attended::new(stream, app.limits.answer_idle)),
            service,
        );
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {error}");
    }
}
