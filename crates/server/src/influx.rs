//! The paths clients of InfluxDB begin with: `/ping`, `/health`, `/ready`, `/query`.

use std::sync::Arc;

use alluvium_protocol::influxql::{Answer, Statement, answer_body, parse};
use alluvium_store::{Store, StoreError};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};

use crate::app::App;
use crate::beside::beside;
use crate::body;
use crate::confirm::{Unconfirmed, confirmed};
use crate::delete::{self, Conditions, Refused};
use crate::params::Params;
use crate::reply::{self, Reply};
use crate::tokens::{Right, Verdict};

/// Longest form body of `/query`.
const FORM_BYTES_MAX: usize = 1 << 20;

/// `GET,HEAD /ping`.
pub(crate) async fn ping() -> Reply {
    let mut reply = reply::empty(StatusCode::NO_CONTENT);
    reply::set(&mut reply, "x-influxdb-build", "Alluvium");
    reply
}

/// `GET /health`: the process answers.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Reply {
    let (status, state, message) = match app.store() {
        Ok(store) => {
            let status = store.status();
            let message = if status.full {
                "ready for queries; the disk is full, and writes wait for room"
            } else {
                "ready for queries and writes"
            };
            match status.failure {
                None => (StatusCode::OK, "pass", message.to_owned()),
                Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, "fail", reason),
            }
        }
        Err(("recovering", sentence)) => (StatusCode::OK, "pass", sentence),
        Err((_, sentence)) => (StatusCode::SERVICE_UNAVAILABLE, "fail", sentence),
    };
    let body = serde_json::json!({
        "name": "alluvium", "message": message, "status": state, "checks": [],
        "version": env!("CARGO_PKG_VERSION"),
    });
    reply::json(status, body.to_string())
}

/// `GET /ready`: 503 until recovery is done.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Reply {
    match app.store_or_reply() {
        Ok(_) => reply::json(StatusCode::OK, r#"{"status":"ready"}"#),
        Err(reply) => reply,
    }
}

/// `GET,POST /query`: parameters in the URL or in a form body.
pub(crate) async fn query(State(app): State<Arc<App>>, request: Request) -> Reply {
    answer(&app, request).await.unwrap_or_else(|reply| reply)
}

async fn answer(app: &Arc<App>, request: Request) -> Result<Reply, Reply> {
    let store = app.store_or_reply()?;
    let (head, body) = request.into_parts();
    let mut params = Params::parse(head.uri.query().unwrap_or_default().as_bytes());
    if head.method == Method::POST {
        let collected = body::collect(body, store.budget(), FORM_BYTES_MAX, app.limits.body_idle)
            .await
            .and_then(|c| c.unpack(body::Encoding::Identity, FORM_BYTES_MAX))
            .map_err(|e| body_error(&e))?;
        params.extend(&collected.bytes);
    }
    app.authorize(&head.headers, &params, None)
        .map_err(|(status, sentence)| error(status, sentence))?;
    let statements = parse(params.get("q").unwrap_or_default(), app.clock.wall_ns())
        .map_err(|e| error(StatusCode::BAD_REQUEST, &e.to_string()))?;
    let mut answers = Vec::with_capacity(statements.len());
    let mut status = StatusCode::OK;
    for statement in statements {
        let allowed = |right: Right, database: &str| {
            app.tokens.as_ref().is_none_or(|tokens| {
                tokens.check(&head.headers, params.get("p"), Some((right, database)))
                    == Verdict::Allowed
            })
        };
        let database = params.get("db").unwrap_or_default();
        let result = run(app, store, database, statement, &allowed).await;
        answers.push(result.unwrap_or_else(|error| {
            status = status.max(status_of(&error));
            Answer::Error(error.to_string())
        }));
    }
    let reply = reply::json(status, answer_body(&answers));
    Ok(reply::retry_later(reply))
}

/// Statements fail inside a 200, as clients expect; but not where a sound disk, room, a restart or a second time would have it
/// succeed.
fn status_of(error: &Refused) -> StatusCode {
    match error {
        Refused::Unconfirmed(
            Unconfirmed::Store(StoreError::Full | StoreError::NoRoom { .. })
            | Unconfirmed::Full { .. },
        ) => StatusCode::INSUFFICIENT_STORAGE,
        Refused::Unconfirmed(
            Unconfirmed::Late { .. }
            | Unconfirmed::Store(StoreError::Failed { .. } | StoreError::Closing),
        ) => StatusCode::SERVICE_UNAVAILABLE,
        Refused::Unconfirmed(Unconfirmed::Store(_)) => StatusCode::OK,
        refused => {
            let (status, _) = delete::status_and_code(refused);
            if status.is_server_error() {
                status
            } else {
                StatusCode::OK
            }
        }
    }
}

async fn run(
    app: &Arc<App>,
    store: &Store,
    database: &str,
    statement: Statement,
    allowed: &impl Fn(Right, &str) -> bool,
) -> Result<Answer, Refused> {
    let forbidden = || {
        Ok(Answer::Error(
            "the token does not allow this; ask for a line in the token file that does".into(),
        ))
    };
    match statement {
        Statement::ShowDatabases => {
            let names = store.databases().into_iter().map(|d| d.name);
            let visible = names.filter(|n| allowed(Right::Read, n) || allowed(Right::Write, n));
            Ok(Answer::Databases(visible.collect()))
        }
        Statement::CreateDatabase { name, .. } => {
            // Who may write may create: clients do so at their start.
            if !allowed(Right::Write, &name) {
                return forbidden();
            }
            let (_, commit) = store.create_database(&name)?;
            confirmed(app, "the new database", commit).await?;
            Ok(Answer::Done)
        }
        Statement::DropDatabase { name } => {
            if !allowed(Right::Admin, &name) {
                return forbidden();
            }
            let id = store.database(&name).map(|d| d.id());
            let dropping = store.clone();
            let commit = match beside(move || dropping.drop_database(&name)).await {
                // It may have gone a moment ago, and not for good yet.
                Err(StoreError::NoDatabase { .. }) => store.flush_catalog(),
                commit => commit?,
            };
            if let Some(id) = id {
                app.writers.forget(id);
            }
            confirmed(app, "the removal", commit).await?;
            Ok(Answer::Done)
        }
        Statement::Delete(request) => {
            if !allowed(Right::Admin, database) {
                return forbidden();
            }
            let Some(handle) = store.database(database) else {
                let name = database.to_owned();
                return Err(StoreError::NoDatabase { name }.into());
            };
            delete::run(app, handle, *request, Conditions::NotOnFields).await?;
            Ok(Answer::Done)
        }
        Statement::Unsupported { what } => Ok(Answer::unsupported(&what)),
        _ => Ok(Answer::unsupported("the statement")),
    }
}

fn body_error(refused: &body::BodyError) -> Reply {
    let sentence = match refused {
        body::BodyError::TooLarge { limit, .. } => {
            format!("the statements have more than {limit} bytes; send fewer at once")
        }
        _ => refused.to_string(),
    };
    error(refused.status(), &sentence)
}

fn error(status: StatusCode, sentence: &str) -> Reply {
    let body = serde_json::json!({ "error": sentence });
    reply::retry_later(reply::json(status, body.to_string()))
}

#[cfg(test)]
mod tests {
    use alluvium_store::{DeleteError, RecallError};

    use super::*;

    #[test]
    fn what_may_succeed_later_is_no_answer_of_200() {
        let failed = || StoreError::Failed {
            reason: String::new(),
        };
        let no_room = || StoreError::NoRoom {
            reason: String::new(),
        };
        let none = || StoreError::NoDatabase { name: "x".into() };
        let tombstones = DeleteError::TooManyTombstones {
            setting: "tombstone_bytes_max",
            limit: 1,
        };
        let large = StoreError::LargeSelection { asked: 2, limit: 1 };
        for (refused, status) in [
            (Refused::Delete(failed().into()), 503),
            (Refused::Delete(StoreError::Closing.into()), 503),
            (
                Refused::Delete(DeleteError::Backlog { pending_bytes: 1 }),
                503,
            ),
            (Refused::Delete(DeleteError::Disturbed), 503),
            (Refused::Delete(tombstones), 503),
            (
                Refused::Delete(StoreError::from(RecallError::Unsettled).into()),
                503,
            ),
            (Refused::Busy, 503),
            (Refused::Delete(DeleteError::Full), 507),
            (Refused::Delete(StoreError::Full.into()), 507),
            (Refused::Delete(no_room().into()), 507),
            (
                Refused::Delete(DeleteError::Read(RecallError::Foreign.into())),
                500,
            ),
            (Refused::Bug, 500),
            (failed().into(), 503),
            (StoreError::Full.into(), 507),
            (none().into(), 200),
            (Refused::Delete(none().into()), 200),
            (
                Refused::Delete(DeleteError::TooManyRanges { limit: 1 }),
                200,
            ),
            (Refused::Delete(large.into()), 200),
            (Refused::OfField { name: "v".into() }, 200),
        ] {
            assert_eq!(status_of(&refused), status, "{refused:?}");
        }
    }
}
