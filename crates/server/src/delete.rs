//! `POST /api/delete`: points go, at once for every reader.

use std::sync::Arc;

use alluvium_protocol::error_body;
use alluvium_protocol::json::{DeleteRequest, Filter, Pattern, TagMatch};
use alluvium_query::{QueryError, delete as lowered};
use alluvium_store::{
    Affected, Database, DeleteError, Label, Matcher, NameKind, Selector, StoreError, Test,
};
use alluvium_types::{Position, TimeRange};
use axum::extract::{Request, State};
use axum::http::StatusCode;

use crate::app::App;
use crate::body;
use crate::confirm::{Unconfirmed, confirmed};
use crate::params::Params;
use crate::query::{body_reply, permit};
use crate::reply::{self, Reply};
use crate::tokens::Right;

/// Longest text of a delete.
const DELETE_BYTES_MAX: usize = alluvium_protocol::json::BODY_BYTES_MAX;

/// `POST /api/delete?db=`; `dry_run=true` only says what would go.
pub(crate) async fn delete(State(app): State<Arc<App>>, request: Request) -> Reply {
    answer(&app, request).await.unwrap_or_else(|reply| reply)
}

async fn answer(app: &Arc<App>, request: Request) -> Result<Reply, Reply> {
    let store = app.store_or_reply()?;
    let (head, body) = request.into_parts();
    let params = Params::parse(head.uri.query().unwrap_or_default().as_bytes());
    let name = params
        .get("db")
        .filter(|n| !n.is_empty())
        .unwrap_or("default");
    app.authorize_or_reply(&head.headers, &params, Some((Right::Admin, name)))?;
    let text = body::collect(body, store.budget(), DELETE_BYTES_MAX, app.limits.body_idle)
        .await
        .and_then(|c| c.unpack(body::Encoding::Identity, DELETE_BYTES_MAX))
        .map_err(|e| body_reply(&e))?;
    let mut request = DeleteRequest::parse(&text.bytes, app.clock.wall_ns()).map_err(|e| {
        let body = error_body(&e.to_string(), e.code(), &[]);
        reply::json(StatusCode::BAD_REQUEST, body)
    })?;
    match params.get("dry_run") {
        None | Some("false") => {}
        Some("true" | "") => request.dry_run = true,
        Some(_) => {
            let sentence = "parameter dry_run is true or false";
            return Err(reply::error(
                StatusCode::BAD_REQUEST,
                "bad_parameter",
                sentence,
            ));
        }
    }
    let Some(database) = store.database(name) else {
        let error = StoreError::NoDatabase { name: name.into() };
        return Err(refusal(&Refused::Delete(error.into())));
    };
    let dry_run = request.dry_run;
    let ended = run(app, database, request, Conditions::OnTags).await;
    let (affected, position) = ended.map_err(|e| refusal(&e))?;
    let answer = serde_json::json!({
        "series": affected.series, "points": affected.points, "dry_run": dry_run,
    });
    let mut reply = reply::json(StatusCode::OK, answer.to_string());
    if let Some(position) = position {
        reply::set(&mut reply, "x-alluvium-position", &position.to_string());
    }
    Ok(reply)
}

/// What the conditions of a delete name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conditions {
    /// Tags, whatever else has that name.
    OnTags,
    /// In InfluxQL, where `SELECT` compares fields by the same words, whoever names one means its values: no row has a tag of that
    /// name, so a negation would take all of them.
    NotOnFields,
}

/// A name in a negated condition that is a field's, and no tag's.
fn negated_field(
    database: &Database,
    request: &DeleteRequest,
) -> Result<Option<String>, DeleteError> {
    let Filter::Tags(tags) = &request.filter else {
        return Ok(None);
    };
    let measurements = (!request.measurements.is_empty())
        .then(|| Matcher::new(Label::Measurement, Test::In(request.measurements.clone())));
    let of = Selector {
        matchers: measurements.into_iter().collect(),
    };
    let snapshot = database.snapshot();
    let is_one = |kind, name: &str| -> Result<bool, DeleteError> {
        let first = snapshot.suggest(kind, &of, TimeRange::ALL, name, 1)?;
        Ok(first.first().is_some_and(|first| first == name))
    };
    for TagMatch { tag, pattern } in tags {
        let is_negated = matches!(pattern, Pattern::Not(_));
        if is_negated && is_one(NameKind::Field, tag)? && !is_one(NameKind::Tag, tag)? {
            return Ok(Some(tag.clone()));
        }
    }
    Ok(None)
}

/// Why a delete was not done, or not confirmed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Delete(#[from] DeleteError),
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
    #[error(
        "{name} is a field; DELETE and DROP SERIES take conditions on tags. Delete by the values of a field with POST /api/delete"
    )]
    OfField { name: String },
    #[error("too many queries and deletes wait for their turn; try again later")]
    Busy,
    #[error("the delete met a bug; see the server's log")]
    Bug,
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Unconfirmed(error.into())
    }
}

/// Resolves, and unless it is a dry run applies a delete, on a thread that may wait for pages; then waits until it
/// holds.
pub(crate) async fn run(
    app: &Arc<App>,
    database: Database,
    request: DeleteRequest,
    conditions: Conditions,
) -> Result<(Affected, Option<Position>), Refused> {
    let delete = lowered(&request)?;
    let permit = permit(app).await.map_err(|_| Refused::Busy)?;
    let work = move || {
        let _turn = permit;
        if conditions == Conditions::NotOnFields
            && let Some(name) = negated_field(&database, &request)?
        {
            return Err(Refused::OfField { name });
        }
        if request.dry_run {
            let plan = database.plan_delete(&delete)?;
            return Ok((plan.affected(), None));
        }
        let deleted = database.delete(&delete)?;
        Ok((deleted.affected, Some(deleted.commit)))
    };
    let ended: Result<_, Refused> = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Refused::Bug)?;
    let (affected, commit) = ended?;
    let Some(commit) = commit else {
        return Ok((affected, None));
    };
    app.metrics.deletes.add(1);
    app.metrics.deleted_points.add(affected.points);
    let position = confirmed(app, "the delete", commit).await?;
    Ok((affected, Some(position)))
}

fn refusal(refused: &Refused) -> Reply {
    let (status, code) = status_and_code(refused);
    reply::error(status, code, &refused.to_string())
}

/// How a refusal is answered: 503, 507 and 500 where the request itself is not at fault.
pub(crate) fn status_and_code(refused: &Refused) -> (StatusCode, &'static str) {
    match refused {
        Refused::Query(error) => (StatusCode::BAD_REQUEST, error.code()),
        Refused::Delete(error) => match error {
            DeleteError::Full
            | DeleteError::Store(StoreError::Full | StoreError::NoRoom { .. }) => {
                (StatusCode::INSUFFICIENT_STORAGE, "disk_full")
            }
            DeleteError::TooManyRanges { .. } => (StatusCode::BAD_REQUEST, "too_many_ranges"),
            DeleteError::TooManyTombstones { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "too_many_deletes")
            }
            DeleteError::Disturbed => (StatusCode::SERVICE_UNAVAILABLE, "disturbed"),
            DeleteError::Read(_) => (StatusCode::INTERNAL_SERVER_ERROR, "storage"),
            DeleteError::Store(StoreError::NoDatabase { .. }) => {
                (StatusCode::NOT_FOUND, "unknown_database")
            }
            DeleteError::Store(StoreError::Selector(_)) => (StatusCode::BAD_REQUEST, "bad_regex"),
            DeleteError::Store(StoreError::LargeSelection { .. }) => {
                (StatusCode::BAD_REQUEST, "query_memory")
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        },
        Refused::Unconfirmed(Unconfirmed::Full { .. }) => {
            (StatusCode::INSUFFICIENT_STORAGE, "disk_full")
        }
        Refused::Unconfirmed(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Refused::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        Refused::OfField { .. } => (StatusCode::BAD_REQUEST, "bad_condition"),
        Refused::Bug => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}
