//! `POST /api/query`: rows on their way out as they are found.
//!
//! A query runs on a thread that may wait for pages. It hands chunks through a short channel, so that it is
//! never far ahead of whoever reads; when the reader goes away the query is cancelled.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use alluvium_protocol::json::Request as Query;
use alluvium_protocol::{RowWriter, SeriesName, error_body};
use alluvium_query::{Execution, Losses, QueryError, RowBatch, Tolerant, explain, plan};
use alluvium_store::Snapshot;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use bytes::Bytes;
use http_body::Frame;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::app::App;
use crate::body;
use crate::params::Params;
use crate::reply::{self, Reply};
use crate::tokens::Right;

/// Longest text of a query.
const QUERY_BYTES_MAX: usize = alluvium_protocol::json::BODY_BYTES_MAX;
/// Bytes at which a chunk goes out.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks in flight between a query and its reader.
const CHUNKS: usize = 4;
/// Names of series kept as text while rows are written.
const NAMES_MAX: usize = 10_000;

/// `POST /api/query?db=`.
pub(crate) async fn query(State(app): State<Arc<App>>, request: Request) -> Reply {
    match start(&app, request).await {
        Ok(reply) => reply,
        Err(reply) => {
            app.metrics.queries_failed.add(1);
            reply
        }
    }
}

async fn start(app: &Arc<App>, request: Request) -> Result<Reply, Reply> {
    let store = app.store_or_reply()?;
    let (head, body) = request.into_parts();
    let params = Params::parse(head.uri.query().unwrap_or_default().as_bytes());
    let name = params
        .get("db")
        .filter(|n| !n.is_empty())
        .unwrap_or("default");
    app.authorize_or_reply(&head.headers, &params, Some((Right::Read, name)))?;
    let collected = body::collect(body, store.budget(), QUERY_BYTES_MAX, app.limits.body_idle)
        .await
        .map_err(|e| body_reply(&e))?;
    let text = collected
        .unpack(body::Encoding::Identity, QUERY_BYTES_MAX)
        .map_err(|e| body_reply(&e))?;
    let query = Query::parse(&text.bytes, app.clock.wall_ns())
        .map_err(|e| reply::error(StatusCode::BAD_REQUEST, e.code(), &e.to_string()))?;
    let Some(database) = store.database(name) else {
        let sentence = format!(
            "database not found: {name:?}; GET /query?q=SHOW%20DATABASES lists those there are"
        );
        let body = error_body(&sentence, "unknown_database", &[("database", name)]);
        return Err(reply::json(StatusCode::NOT_FOUND, body));
    };
    if query.explain {
        let plan = plan(&query).map_err(|e| query_reply(&e))?;
        return Ok(reply::plain("text/plain; charset=utf-8", explain(&plan)));
    }
    let permit = permit(app).await?;

    let guard = CancelOnDrop::new(app);
    let cancel = Arc::clone(&guard.cancel);
    let (begun_sender, begun) = oneshot::channel();
    let (chunk_sender, chunks) = mpsc::channel(CHUNKS);
    let run = Run {
        app: Arc::clone(app),
        query,
        snapshot: database.snapshot(),
        losses: Losses::default(),
        cancel,
        chunks: chunk_sender,
        runtime: Handle::current(),
        deadline: Instant::now() + app.limits.query_deadline,
        _permit: permit,
    };
    app.metrics.queries.add(1);
    tokio::task::spawn_blocking(move || run.run(begun_sender));
    let mut stream = Chunks { chunks, guard };
    match begun.await {
        Ok(Ok(content_type)) => Ok(reply::plain(content_type, Body::new(stream))),
        Ok(Err(error)) => {
            stream.guard.ended = true;
            Err(query_reply(&error))
        }
        Err(_) => {
            stream.guard.ended = true;
            Err(reply::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the query met a bug; see the server's log",
            ))
        }
    }
}

/// A turn to run, after waiting for one if need be.
pub(crate) async fn permit(app: &Arc<App>) -> Result<OwnedSemaphorePermit, Reply> {
    let queries = Arc::clone(&app.queries);
    if let Ok(permit) = Arc::clone(&queries).try_acquire_owned() {
        return Ok(permit);
    }
    /// Leaves the queue however the wait ends.
    struct Waiting<'a>(&'a App);
    impl Drop for Waiting<'_> {
        fn drop(&mut self) {
            self.0.queries_waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let before = app.queries_waiting.fetch_add(1, Ordering::Relaxed);
    let _waiting = Waiting(app);
    let busy = |sentence: &str| reply::error(StatusCode::SERVICE_UNAVAILABLE, "busy", sentence);
    if before >= app.limits.queries_waiting_max {
        return Err(busy(
            "too many queries wait for their turn; try again later or raise the setting queries_max",
        ));
    }
    match tokio::time::timeout(app.limits.query_deadline, queries.acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(busy(
            "the query did not get its turn within its deadline; try again later",
        )),
    }
}

/// What a query needs on its thread.
struct Run {
    app: Arc<App>,
    query: Query,
    snapshot: Snapshot,
    /// What the answer lacks.
    losses: Losses,
    cancel: Arc<AtomicBool>,
    chunks: mpsc::Sender<Chunk>,
    runtime: Handle,
    deadline: Instant,
    _permit: OwnedSemaphorePermit,
}

enum Chunk {
    Bytes(Bytes),
    /// The answer is whole. A channel that closes without it is an answer cut short.
    End,
}

/// The reader is gone or did not read until the deadline.
struct Gone;

impl Run {
    fn run(self, begun: oneshot::Sender<Result<&'static str, QueryError>>) {
        let metrics = &self.app.metrics;
        let began = Instant::now();
        metrics.queries_running.fetch_add(1, Ordering::Relaxed);
        let rows = self.answer(begun);
        metrics.query_rows.add(rows);
        metrics.queries_running.fetch_sub(1, Ordering::Relaxed);
        metrics.query_ns.add(began.elapsed().as_nanos() as u64);
    }

    /// Returns how many rows were written.
    fn answer(&self, begun: oneshot::Sender<Result<&'static str, QueryError>>) -> u64 {
        let mut batch = RowBatch::new();
        let first = self.begin().and_then(|mut execution| {
            let more = execution.next_batch(&mut batch)?;
            Ok((execution, more))
        });
        let (mut execution, mut more) = match first {
            Ok(first) => first,
            Err(error) => {
                let _ = begun.send(Err(error));
                return 0;
            }
        };
        let mut writer = RowWriter::new(self.query.output);
        let columns: Vec<&str> = execution
            .columns()
            .iter()
            .map(|c| c.name.as_str())
            .collect();
        writer.begin(&columns);
        if begun.send(Ok(writer.content_type())).is_err() {
            return 0;
        }
        let mut names: HashMap<usize, SeriesName> = HashMap::new();
        let mut error = None;
        while more {
            if self.write(&mut writer, &batch, &mut names).is_err() {
                return writer.row_count();
            }
            more = execution.next_batch(&mut batch).unwrap_or_else(|e| {
                error = Some(e);
                false
            });
        }
        let mut warnings = execution.warnings().to_vec();
        if !self.losses.is_empty() {
            self.app.metrics.queries_failed.add(1);
            let missing = self.losses.sentences();
            writer.set_partial(missing.join("; "));
            warnings.extend(missing);
        }
        let stats = self.query.stats.then(|| execution.stats().json());
        let sentence = error.map(|e| {
            self.app.metrics.queries_failed.add(1);
            e.to_string()
        });
        writer.finish(&warnings, stats.as_deref(), sentence.as_deref());
        let rows = writer.row_count();
        if self.send(Chunk::Bytes(writer.take().into())).is_ok() {
            let _ = self.send(Chunk::End);
        }
        rows
    }

    fn begin(&self) -> Result<Execution, QueryError> {
        let plan = plan(&self.query)?;
        let mut limits = alluvium_query::Limits::new(Arc::clone(&self.app.clock));
        limits.memory_bytes = self.app.limits.query_memory_bytes;
        limits.deadline_ms = self.app.limits.query_deadline.as_millis() as u64;
        limits.budget = self.app.store().ok().map(|s| Arc::clone(s.budget()));
        Execution::start(
            Box::new(Tolerant::new(self.snapshot.clone(), self.losses.clone())),
            plan,
            limits,
            Arc::clone(&self.cancel),
        )
    }

    fn write(
        &self,
        writer: &mut RowWriter,
        batch: &RowBatch,
        names: &mut HashMap<usize, SeriesName>,
    ) -> Result<(), Gone> {
        let mut values = Vec::with_capacity(batch.width());
        for row in batch.rows() {
            let number = row.series_number();
            if names.len() >= NAMES_MAX && !names.contains_key(&number) {
                names.clear();
            }
            let name = names.entry(number).or_insert_with(|| {
                let series = row.series();
                SeriesName::new(
                    series.metric(),
                    series.tags().iter().map(|(k, v)| (k.as_str(), v.as_str())),
                )
            });
            values.clear();
            values.extend(row.values());
            writer.row(name, row.time(), &values);
            if writer.len() >= CHUNK_BYTES {
                self.send(Chunk::Bytes(writer.take().into()))?;
            }
        }
        Ok(())
    }

    /// Hands over a chunk, waiting for the reader no longer than the query may take, nor than `answer_idle`: it keeps its turn meanwhile.
    fn send(&self, chunk: Chunk) -> Result<(), Gone> {
        let chunk = match self.chunks.try_send(chunk) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(Gone),
            Err(mpsc::error::TrySendError::Full(chunk)) => chunk,
        };
        let left = self
            .deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        let left = left.min(self.app.limits.answer_idle);
        match self
            .runtime
            .block_on(async { tokio::time::timeout(left, self.chunks.send(chunk)).await })
        {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}

/// Cancels the query, or question, unless it has ended by itself.
pub(crate) struct CancelOnDrop {
    pub cancel: Arc<AtomicBool>,
    app: Arc<App>,
    pub ended: bool,
}

impl CancelOnDrop {
    pub(crate) fn new(app: &Arc<App>) -> Self {
        Self {
            cancel: Arc::default(),
            app: Arc::clone(app),
            ended: false,
        }
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if !self.ended {
            self.cancel.store(true, Ordering::Relaxed);
            self.app.metrics.queries_cancelled.add(1);
        }
    }
}

/// The body of an answer.
struct Chunks {
    chunks: mpsc::Receiver<Chunk>,
    guard: CancelOnDrop,
}

/// The query ended without ending its answer.
#[derive(Debug, thiserror::Error)]
#[error(
    "the answer was cut short: the reader was too slow for the query's deadline, or the query met a bug"
)]
struct CutShort;

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        if self.guard.ended {
            return Poll::Ready(None);
        }
        self.chunks.poll_recv(context).map(|chunk| match chunk {
            Some(Chunk::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Chunk::End) => {
                self.guard.ended = true;
                None
            }
            None => Some(Err(CutShort)),
        })
    }
}

pub(crate) fn body_reply(error: &body::BodyError) -> Reply {
    let code = match error {
        body::BodyError::TooLarge { .. } => "query_too_long",
        body::BodyError::Idle(_) => "idle",
        body::BodyError::Memory(_) => "memory_budget",
        _ => "broken_body",
    };
    let sentence = match error {
        body::BodyError::TooLarge { .. } => {
            format!("the query has more than {QUERY_BYTES_MAX} bytes; ask for less at once")
        }
        _ => error.to_string(),
    };
    reply::error(error.status(), code, &sentence)
}

pub(crate) fn query_reply(error: &QueryError) -> Reply {
    let status = match error {
        QueryError::UnknownMetric { .. } | QueryError::Dropped => StatusCode::NOT_FOUND,
        QueryError::Budget(_) | QueryError::Deadline { .. } => StatusCode::SERVICE_UNAVAILABLE,
        e if e.is_request_error() => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let detail: &[(&str, &str)] = match error {
        QueryError::UnknownMetric { metric } => &[("metric", metric.as_str())],
        _ => &[],
    };
    reply::retry_later(reply::json(
        status,
        error_body(&error.to_string(), error.code(), detail),
    ))
}
