//! Points by line protocol, as clients of InfluxDB 1, 2 and 3 send them.

use std::sync::Arc;

use alluvium_protocol::line::Precision;
use alluvium_protocol::{error_body, v2_error_body};
use alluvium_store::{Database, Durability, Store, StoreError, WriteError};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{HeaderValue, StatusCode};

use crate::app::App;
use crate::body::{self, BodyError, Encoding};
use crate::confirm::{Unconfirmed, confirmed};
use crate::ingest::{Ingested, ReadLines, Settings, commit_lines, read_lines};
use crate::params::Params;
use crate::reply::{self, Reply};
use crate::tokens::Right;
use crate::writers::PooledWriter;

/// Bytes that one byte of gzip may become.
const DEFLATE_RATIO_MAX: usize = 1032;

/// Whose habits the answer follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flavour {
    V1,
    V2,
    V3,
}

/// A refusal on its way to its flavour's body.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    sentence: String,
}

fn refusal(status: StatusCode, code: &'static str, sentence: impl ToString) -> Refusal {
    Refusal {
        status,
        code,
        sentence: sentence.to_string(),
    }
}

fn bad_request(sentence: impl ToString) -> Refusal {
    refusal(StatusCode::BAD_REQUEST, "invalid", sentence)
}

/// `POST /write?db=&precision=&rp=`.
pub(crate) async fn v1(State(app): State<Arc<App>>, request: Request) -> Reply {
    answer(&app, Flavour::V1, request).await
}

/// `POST /api/v2/write?bucket=&precision=`.
pub(crate) async fn v2(State(app): State<Arc<App>>, request: Request) -> Reply {
    answer(&app, Flavour::V2, request).await
}

/// `POST /api/v3/write_lp?db=&precision=&accept_partial=`.
pub(crate) async fn v3(State(app): State<Arc<App>>, request: Request) -> Reply {
    answer(&app, Flavour::V3, request).await
}

async fn answer(app: &Arc<App>, flavour: Flavour, request: Request) -> Reply {
    match write(app, flavour, request).await {
        Ok(reply) => reply,
        Err(refusal) => {
            let body = match flavour {
                Flavour::V2 => v2_error_body(refusal.code, &refusal.sentence),
                Flavour::V1 | Flavour::V3 => {
                    error_body(&refusal.sentence, &refusal.code.replace(' ', "_"), &[])
                }
            };
            let mut reply = reply::retry_later(reply::json(refusal.status, body));
            if refusal.status == StatusCode::REQUEST_TIMEOUT
                || refusal.status == StatusCode::PAYLOAD_TOO_LARGE
            {
                // The rest of the body is not wanted.
                reply
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            reply
        }
    }
}

async fn write(app: &Arc<App>, flavour: Flavour, request: Request) -> Result<Reply, Refusal> {
    let received_ns = app.clock.wall_ns();
    let store = app.store().map_err(|(_, sentence)| {
        refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", sentence)
    })?;
    let (head, body) = request.into_parts();
    let params = Params::parse(head.uri.query().unwrap_or_default().as_bytes());
    let name = target(flavour, &params)?;
    app.authorize(&head.headers, &params, Some((Right::Write, name)))
        .map_err(|(status, sentence)| {
            let code = if status == StatusCode::FORBIDDEN {
                "forbidden"
            } else {
                "unauthorized"
            };
            refusal(status, code, sentence)
        })?;
    let precision: Precision = match params.get("precision") {
        None if flavour == Flavour::V3 => Precision::Auto,
        given => given.unwrap_or_default().parse().map_err(bad_request)?,
    };
    let durability: Option<Durability> = params
        .get("durability")
        .map(str::parse)
        .transpose()
        .map_err(bad_request)?;
    let encoding = Encoding::parse(
        head.headers
            .get(CONTENT_ENCODING)
            .map(HeaderValue::as_bytes),
    )
    .ok_or_else(|| {
        bad_request("the body's Content-Encoding is not supported; send it plain or with gzip")
    })?;

    let limit = app.limits.body_bytes_max;
    let announced = head
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limit as u64) {
        return Err(body_refusal(app, &BodyError::TooLarge { limit, after: "" }));
    }
    let collected = body::collect(body, store.budget(), limit, app.limits.body_idle)
        .await
        .map_err(|error| body_refusal(app, &error))?;

    let database = database(app, store, name).await?;
    let settings = Settings {
        precision,
        now_ns: received_ns,
        line_bytes_max: app.limits.line_bytes_max,
        durability: durability.filter(|d| is_raise(database.durability(), *d)),
        accept_partial: flavour != Flavour::V3 || params.get("accept_partial") != Some("false"),
    };
    app.metrics.write_requests.add(1);
    // Packed bodies are taken for what they may be.
    let weight = if encoding == Encoding::Gzip {
        DEFLATE_RATIO_MAX.saturating_mul(collected.len())
    } else {
        collected.len()
    };
    let parse = {
        let (app, database) = (Arc::clone(app), database.clone());
        move || Parsed::new(&app, &database, collected, encoding, settings)
    };
    let commit = {
        let (app, database) = (Arc::clone(app), database.clone());
        move |parsed: Parsed| parsed.commit(&app, &database, settings)
    };
    let ingested = if weight > app.limits.inline_bytes_max {
        in_turn(app, move || commit(parse()?)).await?
    } else {
        let parsed = parse()?;
        if parsed.writer.writer.may_wait() {
            in_turn(app, move || commit(parsed)).await?
        } else {
            commit(parsed)?
        }
    };
    finish(app, flavour, ingested).await
}

/// Runs what takes long, or may wait, beside the threads that serve connections, when it is its turn.
async fn in_turn(
    app: &App,
    work: impl FnOnce() -> Result<Ingested, Refusal> + Send + 'static,
) -> Result<Ingested, Refusal> {
    let turn = Arc::clone(&app.parses).acquire_owned().await;
    let work = move || {
        // Though whoever sent it has gone.
        let _turn = turn;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error",
            "the request met a bug",
        )
    })?
}

/// A body whose lines were read: with its writer, until they are committed.
struct Parsed {
    writer: PooledWriter,
    unpacked: body::Unpacked,
    read: ReadLines,
    took_ns: u64,
}

impl Parsed {
    /// Unpacks and parses.
    fn new(
        app: &App,
        database: &Database,
        collected: body::Collected,
        encoding: Encoding,
        settings: Settings,
    ) -> Result<Self, Refusal> {
        let began = app.clock.monotonic_ns();
        let unpacked = collected
            .unpack(encoding, app.limits.body_bytes_max)
            .map_err(|error| body_refusal(app, &error))?;
        let mut writer = app.writers.take(database);
        match read_lines(&mut writer, &unpacked.bytes, settings) {
            Ok(read) => Ok(Self {
                writer,
                unpacked,
                read,
                took_ns: app.clock.monotonic_ns().saturating_sub(began),
            }),
            Err(error) => {
                app.writers.give_back(database, writer);
                Self::count(app, &unpacked, began, 0);
                Err(write_refusal(app, &error))
            }
        }
    }

    /// Commits, which may wait where the writer says so.
    fn commit(
        mut self,
        app: &App,
        database: &Database,
        settings: Settings,
    ) -> Result<Ingested, Refusal> {
        let began = app.clock.monotonic_ns();
        let body = &self.unpacked.bytes;
        let result = commit_lines(&mut self.writer, body, settings, self.read);
        app.writers.give_back(database, self.writer);
        Self::count(app, &self.unpacked, began, self.took_ns);
        let ingested = result.map_err(|error| write_refusal(app, &error))?;
        let m = &app.metrics;
        m.write_lines.add(ingested.lines);
        m.write_values.add(ingested.values);
        let refused = ingested.refused.total() as u64;
        m.write_refused_lines.add(refused - ingested.left_out);
        m.write_lines_left_out.add(ingested.left_out);
        Ok(ingested)
    }

    fn count(app: &App, unpacked: &body::Unpacked, began: u64, before_ns: u64) {
        let m = &app.metrics;
        m.write_bytes.add(unpacked.bytes.len() as u64);
        let took_ns = app.clock.monotonic_ns().saturating_sub(began);
        m.write_parse_ns.add(before_ns + took_ns);
    }
}

/// Waits until the good lines are as durable as asked, then answers for them and for the bad ones.
async fn finish(app: &App, flavour: Flavour, ingested: Ingested) -> Result<Reply, Refusal> {
    let mut position = String::new();
    if let Some(commit) = ingested.commit {
        let began = app.clock.monotonic_ns();
        let ended = confirmed(app, "the write", commit).await;
        app.metrics
            .write_commit_wait_ns
            .add(app.clock.monotonic_ns().saturating_sub(began));
        let position_reached = ended.map_err(|error| unconfirmed(app, &error))?;
        position = position_reached.to_string();
    }
    let mut reply = if ingested.refused.is_empty() {
        reply::empty(StatusCode::NO_CONTENT)
    } else {
        let refused = &ingested.refused;
        let (status, body) = match flavour {
            Flavour::V1 => (StatusCode::BAD_REQUEST, refused.v1()),
            Flavour::V2 => (StatusCode::UNPROCESSABLE_ENTITY, refused.v2()),
            Flavour::V3 => (StatusCode::BAD_REQUEST, refused.v3()),
        };
        let mut reply = reply::json(status, body);
        reply::set(&mut reply, "x-influxdb-error", &refused.header());
        reply
    };
    reply::set(&mut reply, "x-alluvium-position", &position);
    Ok(reply)
}

/// The database a request names. The only retention policy there is has InfluxDB's default name.
fn target(flavour: Flavour, params: &Params) -> Result<&str, Refusal> {
    let (name, policy) = match flavour {
        Flavour::V1 => (params.get("db"), params.get("rp")),
        Flavour::V3 => (params.get("db"), None),
        Flavour::V2 => {
            let bucket = params.get("bucket").unwrap_or_default();
            match bucket.split_once('/') {
                Some((name, policy)) => (Some(name), Some(policy)),
                None => (Some(bucket), None),
            }
        }
    };
    match policy.unwrap_or_default() {
        "" | "autogen" => Ok(name.filter(|n| !n.is_empty()).unwrap_or("default")),
        other => {
            let other: String = other.chars().take(64).collect();
            Err(bad_request(format!(
                "retention policy not found: {other:?}; leave it out or use autogen"
            )))
        }
    }
}

/// The database, created if this is its first write.
async fn database(app: &App, store: &Store, name: &str) -> Result<Database, Refusal> {
    if let Some(database) = store.database(name) {
        return Ok(database);
    }
    let created = store.create_database(name);
    let (database, commit) = created.map_err(|e| store_refusal(app, &e))?;
    let ended = confirmed(app, "the new database", commit).await;
    ended.map_err(|e| unconfirmed(app, &e))?;
    tracing::info!(database = name, "created by its first write");
    Ok(database)
}

/// Whether `asked` promises more than `level`; less is ignored.
fn is_raise(level: Durability, asked: Durability) -> bool {
    match (level, asked) {
        (Durability::Interval { ms: level }, Durability::Interval { ms: asked }) => asked < level,
        _ => asked.strength() > level.strength(),
    }
}

fn body_refusal(app: &App, error: &BodyError) -> Refusal {
    let (status, code) = match error {
        BodyError::TooLarge { .. } => {
            app.metrics.bodies_too_large.add(1);
            (StatusCode::PAYLOAD_TOO_LARGE, "request too large")
        }
        BodyError::Idle(_) => {
            app.metrics.bodies_idle.add(1);
            (StatusCode::REQUEST_TIMEOUT, "invalid")
        }
        BodyError::Broken(_) | BodyError::Gzip(_) => (StatusCode::BAD_REQUEST, "invalid"),
        BodyError::Memory(_) => {
            app.metrics.writes_out_of_memory.add(1);
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
        }
    };
    refusal(status, code, error)
}

fn write_refusal(app: &App, error: &WriteError) -> Refusal {
    match error {
        WriteError::Full => disk_full(app, error),
        WriteError::Store(error) => store_refusal(app, error),
        _ => {
            let counter = match error {
                WriteError::Memory(_) => &app.metrics.writes_out_of_memory,
                WriteError::NewSeries(_) => &app.metrics.writes_of_new_series,
                _ => &app.metrics.writes_busy,
            };
            counter.add(1);
            refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error)
        }
    }
}

fn disk_full(app: &App, error: impl ToString) -> Refusal {
    app.metrics.writes_full.add(1);
    refusal(StatusCode::INSUFFICIENT_STORAGE, "disk full", error)
}

fn unconfirmed(app: &App, error: &Unconfirmed) -> Refusal {
    match error {
        Unconfirmed::Store(error) => store_refusal(app, error),
        Unconfirmed::Full { .. } => disk_full(app, error),
        Unconfirmed::Late { .. } => refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error),
    }
}

fn store_refusal(app: &App, error: &StoreError) -> Refusal {
    match error {
        StoreError::Full => disk_full(app, error),
        StoreError::BadName { .. } | StoreError::NoDatabaseIds => bad_request(error),
        _ => refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error),
    }
}

/// `GET /write`: says what is wanted instead.
pub(crate) async fn wrong_method() -> axum::http::Response<Body> {
    reply::error(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "points are written by POST",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_is_raised_and_never_lowered() {
        let interval = |ms| Durability::Interval { ms };
        assert!(is_raise(Durability::None, Durability::Os));
        assert!(is_raise(interval(100), Durability::Sync));
        assert!(is_raise(interval(100), interval(10)));
        assert!(!is_raise(interval(10), interval(100)));
        assert!(!is_raise(Durability::Sync, Durability::None));
        assert!(!is_raise(Durability::Sync, Durability::Sync));
    }

    #[test]
    fn targets() {
        let target = |flavour, text: &str| {
            let params = Params::parse(text.as_bytes());
            target(flavour, &params)
                .map(str::to_owned)
                .map_err(|r| r.sentence)
        };
        assert_eq!(target(Flavour::V1, "db=a&rp=").unwrap(), "a");
        assert_eq!(target(Flavour::V1, "").unwrap(), "default");
        assert_eq!(
            target(Flavour::V2, "org=o&bucket=b%2Fautogen").unwrap(),
            "b"
        );
        assert_eq!(target(Flavour::V2, "bucket=b").unwrap(), "b");
        assert!(
            target(Flavour::V2, "bucket=b/week")
                .unwrap_err()
                .contains("week")
        );
        assert!(target(Flavour::V1, "db=b&rp=x").is_err());
    }
}
