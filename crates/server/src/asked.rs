//! Parameters of questions about what there is: a database, a selector, a range, a limit.
#![expect(
    clippy::result_large_err,
    reason = "a refusal is the answer itself, moved once"
)]

use std::sync::Arc;

use alluvium_protocol::error_body;
use alluvium_protocol::time::parse_time;
use alluvium_query::{Selector, parse_selector};
use alluvium_store::{Bounds, BoundsError, Database, StoreError, TimeRange};
use axum::http::StatusCode;
use axum::http::request::Parts;

use crate::app::App;
use crate::params::Params;
use crate::query::{CancelOnDrop, permit};
use crate::reply::{self, Reply};
use crate::tokens::Right;

/// A question whose asker may read the database.
#[derive(Debug)]
pub(crate) struct Asked {
    pub app: Arc<App>,
    pub params: Params,
    pub database: Database,
}

/// How many answers are given at most if nothing is said, and whatever is said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LimitRange {
    pub default: usize,
    pub max: usize,
}

impl Asked {
    pub(crate) fn new(app: &Arc<App>, head: &Parts) -> Result<Self, Reply> {
        let params = Params::parse(head.uri.query().unwrap_or_default().as_bytes());
        let store = app.store_or_reply()?;
        let name = params.get("db").filter(|n| !n.is_empty());
        let name = name.unwrap_or("default").to_owned();
        app.authorize_or_reply(&head.headers, &params, Some((Right::Read, &name)))?;
        let Some(database) = store.database(&name) else {
            let sentence =
                format!("database not found: {name:?}; GET /api/databases lists those there are");
            let body = error_body(&sentence, "unknown_database", &[("database", &name)]);
            return Err(reply::json(StatusCode::NOT_FOUND, body));
        };
        Ok(Self {
            app: Arc::clone(app),
            params,
            database,
        })
    }

    /// A parameter that is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.params.get(name).filter(|value| !value.is_empty())
    }

    /// Refuses parameters that are none of these, so that a slip of the pen is not taken for nothing.
    pub(crate) fn only(&self, allowed: &[&str]) -> Result<(), Reply> {
        let mut names = self.params.names();
        // The last three say who asks.
        let known = |n: &&str| allowed.contains(n) || ["db", "u", "p"].contains(n);
        match names.find(|n| !known(n)) {
            None => Ok(()),
            Some(name) => {
                let name: String = name.chars().take(64).collect();
                let list = allowed.join(", ");
                Err(bad(&name, &format!("is not known; there are db, {list}")))
            }
        }
    }

    /// `match`: which series.
    pub(crate) fn selector(&self) -> Result<Selector, Reply> {
        let text = self.params.get("match").unwrap_or_default();
        parse_selector(text).map_err(|e| bad("match", &format!("is no selector: {e}")))
    }

    /// `from` and `to`: the first excluded end is `to`.
    pub(crate) fn range(&self) -> Result<TimeRange, Reply> {
        let now = self.app.clock.wall_ns();
        let end = |name: &str, absent: i64| match self.get(name) {
            None => Ok(absent),
            Some(text) => parse_time(text, now).map_err(|e| bad(name, &format!("is no time: {e}"))),
        };
        let (from, to) = (end("from", i64::MIN)?, end("to", i64::MAX)?);
        TimeRange::new(from, to).map_err(|_| bad("to", "lies before from; exchange them"))
    }

    /// A number of answers, from 1 on.
    pub(crate) fn limit(&self, name: &str, range: LimitRange) -> Result<usize, Reply> {
        let Some(text) = self.get(name) else {
            return Ok(range.default.min(range.max));
        };
        let fits = |n: &usize| (1..=range.max).contains(n);
        text.parse().ok().filter(fits).ok_or_else(|| {
            bad(
                name,
                &format!("must be a whole number from 1 to {}", range.max),
            )
        })
    }

    /// Answers with JSON, from a thread that may wait for blocks of the index, in its turn among the queries and within their
    /// bounds.
    pub(crate) async fn answer(
        self,
        work: impl FnOnce(&Database) -> Result<Vec<u8>, StoreError> + Send + 'static,
    ) -> Result<Reply, Reply> {
        let answered = self.work(work).await?;
        let text = answered.map_err(|error| match error {
            StoreError::Selector(error) => bad("match", &format!("is refused: {error}")),
            error => failed(&error),
        })?;
        Ok(reply::json(StatusCode::OK, text))
    }

    /// The same, for whoever writes answers of another kind.
    pub(crate) async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Result<T, StoreError>, Reply> {
        let turn = permit(&self.app).await?;
        let budget = Arc::clone(self.app.store_or_reply()?.budget());
        let mut guard = CancelOnDrop::new(&self.app);
        let limits = &self.app.limits;
        let bounds = Bounds::new(
            Arc::clone(&guard.cancel),
            Arc::clone(&self.app.clock),
            limits.query_deadline.as_millis() as u64,
            budget,
            limits.query_memory_bytes,
        );
        let database = self.database.bounded(bounds);
        let answered = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&database)
        });
        let answered = answered.await;
        guard.ended = true;
        answered.map_err(|_| {
            reply::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the question met a bug; see the server's log",
            )
        })
    }
}

/// A 400 that names the parameter.
pub(crate) fn bad(name: &str, what: &str) -> Reply {
    let sentence = format!("parameter {name} {what}");
    let body = error_body(&sentence, "bad_parameter", &[("parameter", name)]);
    reply::json(StatusCode::BAD_REQUEST, body)
}

/// A question that met its bounds is answered as a query that did; anything else is a 500 that says what the store met.
pub(crate) fn failed(error: &StoreError) -> Reply {
    let (status, code) = match error {
        StoreError::Bounds(BoundsError::Deadline { .. }) => {
            (StatusCode::SERVICE_UNAVAILABLE, "deadline_exceeded")
        }
        StoreError::Bounds(BoundsError::Budget(_)) => {
            (StatusCode::SERVICE_UNAVAILABLE, "memory_budget")
        }
        StoreError::Bounds(BoundsError::Memory { .. }) => (StatusCode::BAD_REQUEST, "query_memory"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "storage"),
    };
    reply::error(status, code, &error.to_string())
}
