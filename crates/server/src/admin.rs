//! Administration: databases, checkpoints, what the server says of itself.
#![expect(
    clippy::result_large_err,
    reason = "a refusal is the answer itself, moved once"
)]

use std::sync::Arc;

use alluvium_store::{
    Commit, Database, DatabaseSettings, Retention, SeriesLimits, Store, StoreError,
};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;

use crate::app::App;
use crate::asked::Asked;
use crate::beside::beside;
use crate::confirm::{Unconfirmed, confirmed};
use crate::params::Params;
use crate::reply::{self, Reply};
use crate::status;
use crate::tokens::Right;

/// Most conflicts that are listed.
const CONFLICTS_MAX: usize = 1_000;

/// The head and the parameters of a request without a body.
fn head_of(request: Request) -> (Parts, Params) {
    let (head, _) = request.into_parts();
    let params = Params::parse(head.uri.query().unwrap_or_default().as_bytes());
    (head, params)
}

fn store_error(error: &StoreError) -> Reply {
    let (status, code) = match error {
        StoreError::Retention(_) => (StatusCode::BAD_REQUEST, "bad_setting"),
        StoreError::BadName { .. } => (StatusCode::BAD_REQUEST, "bad_name"),
        StoreError::TooManyDatabases { .. } | StoreError::NoDatabaseIds => {
            (StatusCode::BAD_REQUEST, "too_many_databases")
        }
        StoreError::NoDatabase { .. } => (StatusCode::NOT_FOUND, "unknown_database"),
        StoreError::Full | StoreError::NoRoom { .. } => {
            (StatusCode::INSUFFICIENT_STORAGE, "disk_full")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    reply::error(status, code, &error.to_string())
}

/// `PUT /api/databases/NAME`, with settings if they are to differ from the server's: 201 if it was made, 200 if it was
/// there. Of one that is there only what is said of retention and of limits changes, and only for who may administer it: a
/// shorter retention is a removal.
pub(crate) async fn put_database(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    request: Request,
) -> Reply {
    let (head, params) = head_of(request);
    let inner = async {
        let store = app.store_or_reply()?;
        app.authorize_or_reply(&head.headers, &params, Some((Right::Write, &name)))?;
        let settings = settings_of(store, &params)?;
        let is_given = |names: &[&str]| names.iter().any(|n| params.get(n).is_some());
        let made = store.make_database(&name, settings);
        let made = made.map_err(|e| store_error(&e))?;
        let changes = is_given(&Retention::NAMES) || is_given(&SeriesLimits::NAMES);
        if !made.is_new && changes {
            app.authorize_or_reply(&head.headers, &params, Some((Right::Admin, &name)))?;
            let mut refused = None;
            let commit = store.change_settings(&name, |settings| {
                let changed = retention_of(settings.retention, &params)
                    .and_then(|r| Ok((r, limits_of(settings.series_limits, &params)?)));
                match changed {
                    Ok(both) => (settings.retention, settings.series_limits) = both,
                    Err(reply) => refused = Some(reply),
                }
                Ok(())
            });
            if let Some(reply) = refused {
                return Err(reply);
            }
            let commit = commit.map_err(|e| store_error(&e))?;
            ended(&app, "the new settings", commit).await?;
        } else {
            ended(&app, "the new database", made.commit).await?;
        }
        let status = if made.is_new {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        Ok(reply::json(
            status,
            status::database(store, &name).to_string(),
        ))
    };
    inner.await.unwrap_or_else(|reply: Reply| reply)
}

/// Waits for an entry of the catalogue.
async fn ended(app: &App, what: &'static str, commit: Commit) -> Result<(), Reply> {
    match confirmed(app, what, commit).await {
        Ok(_) => Ok(()),
        Err(Unconfirmed::Store(error)) => Err(store_error(&error)),
        Err(full @ Unconfirmed::Full { .. }) => {
            let status = StatusCode::INSUFFICIENT_STORAGE;
            Err(reply::error(status, "disk_full", &full.to_string()))
        }
        Err(late @ Unconfirmed::Late { .. }) => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Err(reply::error(status, "unavailable", &late.to_string()))
        }
    }
}

/// What a request changes of what a database keeps.
fn retention_of(mut retention: Retention, params: &Params) -> Result<Retention, Reply> {
    let bad = |e: alluvium_store::RetentionError| {
        reply::error(StatusCode::BAD_REQUEST, "bad_setting", &e.to_string())
    };
    for name in Retention::NAMES {
        if let Some(text) = params.get(name) {
            retention.set(name, text).map_err(bad)?;
        }
    }
    retention.check().map_err(bad)?;
    Ok(retention)
}

/// What a request changes of how many series a database may have.
fn limits_of(mut limits: SeriesLimits, params: &Params) -> Result<SeriesLimits, Reply> {
    for name in SeriesLimits::NAMES {
        if let Some(text) = params.get(name) {
            limits.set(name, text).map_err(|e| {
                reply::error(StatusCode::BAD_REQUEST, "bad_setting", &e.to_string())
            })?;
        }
    }
    Ok(limits)
}

/// `GET /api/databases`: those the token may read or write, with their settings.
pub(crate) async fn databases(State(app): State<Arc<App>>, request: Request) -> Reply {
    let (head, params) = head_of(request);
    let inner = || {
        let store = app.store_or_reply()?;
        app.authorize_or_reply(&head.headers, &params, None)?;
        let may = |right, name: &str| {
            let wanted = Some((right, name));
            app.authorize(&head.headers, &params, wanted).is_ok()
        };
        let names = store.databases().into_iter().map(|d| d.name);
        let visible = names.filter(|n| may(Right::Read, n) || may(Right::Write, n));
        let all: Vec<_> = visible.map(|n| status::database(store, &n)).collect();
        let body = serde_json::json!({ "databases": all });
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    inner().unwrap_or_else(|reply: Reply| reply)
}

/// `POST /api/clock/confirm`: says that the clock is right although it jumped.
pub(crate) async fn confirm_clock(State(app): State<Arc<App>>, request: Request) -> Reply {
    let (head, params) = head_of(request);
    let inner = async {
        let store = app.store_or_reply()?;
        app.authorize_or_reply(&head.headers, &params, Some((Right::Admin, "*")))?;
        let asked = store.clone();
        let confirming = beside(move || {
            let commit = asked.confirm_clock();
            asked.wake();
            commit
        });
        ended(&app, "the clock", confirming.await).await?;
        let body = status::clock(&store.clock_status());
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    inner.await.unwrap_or_else(|reply: Reply| reply)
}

/// The server's settings of a database and what a request changes of them.
fn settings_of(store: &Store, params: &Params) -> Result<DatabaseSettings, Reply> {
    let bad = |e: &dyn std::fmt::Display| {
        reply::error(StatusCode::BAD_REQUEST, "bad_setting", &e.to_string())
    };
    let mut settings = store.default_settings();
    if let Some(level) = params.get("durability") {
        settings.durability = level.parse().map_err(|e| bad(&e))?;
    }
    if let Some(name) = params.get("compression") {
        settings.compression = name.parse().map_err(|e| bad(&e))?;
    }
    settings.retention = retention_of(settings.retention, params)?;
    settings.series_limits = limits_of(settings.series_limits, params)?;
    Ok(settings)
}

/// `DELETE /api/databases/NAME`: 200 if it was there, 404 if not.
pub(crate) async fn drop_database(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    request: Request,
) -> Reply {
    let (head, params) = head_of(request);
    let inner = async {
        let store = app.store_or_reply()?;
        app.authorize_or_reply(&head.headers, &params, Some((Right::Admin, &name)))?;
        let id = store.database(&name).map(|d| d.id());
        let (dropping, of) = (store.clone(), name.clone());
        let commit = match beside(move || dropping.drop_database(&of)).await {
            Err(error @ StoreError::NoDatabase { .. }) => {
                // It may have gone a moment ago, and not for good yet.
                ended(&app, "the removal", store.flush_catalog()).await?;
                return Err(store_error(&error));
            }
            commit => commit.map_err(|e| store_error(&e))?,
        };
        if let Some(id) = id {
            app.writers.forget(id);
        }
        let ended = confirmed(&app, "the removal", commit).await;
        let position = ended.map_err(|error| match error {
            Unconfirmed::Store(error) => store_error(&error),
            Unconfirmed::Full { .. } => {
                let status = StatusCode::INSUFFICIENT_STORAGE;
                reply::error(status, "disk_full", &error.to_string())
            }
            Unconfirmed::Late { .. } => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                reply::error(status, "unavailable", &error.to_string())
            }
        })?;
        let body = serde_json::json!({ "database": name }).to_string();
        let mut reply = reply::json(StatusCode::OK, body);
        reply::set(&mut reply, "x-alluvium-position", &position.to_string());
        Ok(reply)
    };
    inner.await.unwrap_or_else(|reply: Reply| reply)
}

/// `GET /api/conflicts?db=`: fields of tag sets that have had values of several kinds.
pub(crate) async fn conflicts(State(app): State<Arc<App>>, request: Request) -> Reply {
    let (head, _) = request.into_parts();
    let inner = async {
        let asked = Asked::new(&app, &head)?;
        asked.answer(list_conflicts).await
    };
    inner.await.unwrap_or_else(|reply: Reply| reply)
}

/// Looks at the fields of every row; may wait for blocks of the index.
fn list_conflicts(database: &Database) -> Result<Vec<u8>, StoreError> {
    let conflicts = database.conflicts(CONFLICTS_MAX)?;
    let list: Vec<serde_json::Value> = conflicts
        .iter()
        .map(|c| {
            let kinds: Vec<String> = c.kinds.iter().map(ToString::to_string).collect();
            let tags: serde_json::Map<String, serde_json::Value> = c
                .key
                .tags()
                .iter()
                .map(|(k, v)| (k.clone(), v.clone().into()))
                .collect();
            serde_json::json!({
                "measurement": c.key.measurement(), "tags": tags, "field": c.field, "kinds": kinds,
            })
        })
        .collect();
    let body = serde_json::json!({ "conflicts": list, "limit": CONFLICTS_MAX });
    Ok(body.to_string().into_bytes())
}

/// `POST /api/checkpoint` and `/api/flush`: answers when everything applied before is in the trees' files.
pub(crate) async fn checkpoint(State(app): State<Arc<App>>, request: Request) -> Reply {
    let (head, params) = head_of(request);
    let inner = async {
        let store = app.store_or_reply()?;
        app.authorize_or_reply(&head.headers, &params, Some((Right::Admin, "*")))?;
        let asked = store.clone();
        let asking = beside(move || {
            let commit = asked.checkpoint();
            asked.wake();
            commit
        });
        let commit = asking.await;
        commit.await.map_err(|e| store_error(&e))?;
        let asked = store.clone();
        let status = beside(move || asked.status()).await;
        let body = serde_json::json!({ "checkpoints": status.checkpoints, "superblock": status.superblock_seq });
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    inner.await.unwrap_or_else(|reply: Reply| reply)
}

/// `GET /status`. Takes locks that a step of a checkpoint may hold, but no turn: it answers when queries are busy.
pub(crate) async fn status(State(app): State<Arc<App>>, request: Request) -> Reply {
    let (head, params) = head_of(request);
    if let Err(refused) = app.authorize_or_reply(&head.headers, &params, None) {
        return refused;
    }
    let text = beside(move || status::text(&app)).await;
    reply::json(StatusCode::OK, text)
}

/// `GET /metrics`. Takes what [`status()`] does.
pub(crate) async fn metrics(State(app): State<Arc<App>>, request: Request) -> Reply {
    let (head, params) = head_of(request);
    if let Err(refused) = app.authorize_or_reply(&head.headers, &params, None) {
        return refused;
    }
    let text = beside(move || {
        let store = app.store().ok().map(|s| (s.status(), s.scrub_status()));
        app.metrics
            .text(store.as_ref().map(|(s, scrub)| (s, scrub)))
    });
    reply::plain(
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        text.await,
    )
}
