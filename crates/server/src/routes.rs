//! Which path leads where, and the boundary that keeps a bug in one request away from the others.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::{get, post, put};

use crate::app::App;
use crate::reply::{self, Reply};
use crate::{admin, backup, cardinality, delete, influx, names, query, search, verify, write};

const PATHS: &str = "/write, /api/v2/write, /api/v3/write_lp, /api/query, /query, /ping, /health, /ready, /status, \
                     /metrics, /api/search, /api/suggest, /api/cardinality, /api/delete, /api/databases, \
                     /api/databases/NAME, /api/conflicts, /api/clock/confirm, /api/checkpoint, /api/flush, \
                     /api/backup, /api/verify";

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/write", post(write::v1).fallback(write::wrong_method))
        .route(
            "/api/v2/write",
            post(write::v2).fallback(write::wrong_method),
        )
        .route(
            "/api/v3/write_lp",
            post(write::v3).fallback(write::wrong_method),
        )
        .route("/ping", get(influx::ping))
        .route("/health", get(influx::health))
        .route("/ready", get(influx::ready))
        .route("/query", get(influx::query).post(influx::query))
        .route("/api/query", post(query::query))
        .route("/api/search", get(search::search).post(names::search))
        .route("/api/suggest", get(search::suggest).post(names::suggest))
        .route("/api/cardinality", get(cardinality::cardinality))
        .route("/api/delete", post(delete::delete))
        .route("/api/databases", get(admin::databases))
        .route(
            "/api/databases/{name}",
            put(admin::put_database).delete(admin::drop_database),
        )
        .route("/api/clock/confirm", post(admin::confirm_clock))
        .route("/api/conflicts", get(admin::conflicts))
        .route("/api/checkpoint", post(admin::checkpoint))
        .route("/api/flush", post(admin::checkpoint))
        .route("/api/backup", post(backup::backup))
        .route("/api/verify", post(verify::verify))
        .route("/status", get(admin::status))
        .route("/metrics", get(admin::metrics))
        .route("/", get(root))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&app), boundary))
        .with_state(app)
}

async fn root() -> Reply {
    let text = format!(
        "Alluvium {}, a time-series database. Paths: {PATHS}\n",
        env!("CARGO_PKG_VERSION")
    );
    reply::plain("text/plain; charset=utf-8", text)
}

async fn unknown_path(request: Request) -> Reply {
    let path: String = request.uri().path().chars().take(100).collect();
    let sentence = format!("there is nothing at {path:?}; the paths are {PATHS}");
    reply::error(StatusCode::NOT_FOUND, "unknown_path", &sentence)
}

async fn wrong_method(request: Request) -> Reply {
    let sentence = format!(
        "{} does not take {}; see the documentation of the path",
        request.uri().path(),
        request.method()
    );
    reply::error(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", &sentence)
}

/// Turns a panic into a 500 and counts how requests end.
async fn boundary(State(app): State<Arc<App>>, request: Request, next: Next) -> Reply {
    let mut inner = std::pin::pin!(next.run(request));
    let caught = std::future::poll_fn(|context| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => std::task::Poll::Ready(Err(())),
        }
    })
    .await;
    let reply = caught.unwrap_or_else(|()| {
        app.metrics.request_panics.add(1);
        tracing::error!("a request met a bug; the server goes on");
        reply::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the request met a bug; the server goes on, see its log",
        )
    });
    let m = &app.metrics;
    match reply.status() {
        s if s.is_server_error() => m.requests_server_error.add(1),
        s if s.is_client_error() => m.requests_client_error.add(1),
        _ => m.requests_ok.add(1),
    }
    reply
}
