//! `POST /api/verify` and what `/status` says of the scrubber.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium_store::{Finding, ScrubStatus, Store};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::app::App;
use crate::params::Params;
use crate::reply::{self, Reply};
use crate::tokens::Right;

/// `POST /api/verify`: reads everything but the log at once, as fast as the device gives it, and lists what is damaged.
pub(crate) async fn verify(State(app): State<Arc<App>>, request: Request) -> Reply {
    answer(&app, request).await.unwrap_or_else(|reply| reply)
}

async fn answer(app: &Arc<App>, request: Request) -> Result<Reply, Reply> {
    let (head, _) = request.into_parts();
    let params = Params::parse(head.uri.query().unwrap_or_default().as_bytes());
    let store = app.store_or_reply()?.clone();
    app.authorize_or_reply(&head.headers, &params, Some((Right::Admin, "*")))?;
    let sentence = "the check met a bug; see the server's log";
    let bug = |_| reply::error(StatusCode::INTERNAL_SERVER_ERROR, "internal", sentence);
    let work = tokio::task::spawn_blocking(move || store.scrub_round());
    let round = work.await.map_err(bug)?;
    Ok(reply::json(StatusCode::OK, value(&round).to_string()))
}

/// The scrubber, as JSON.
pub(crate) fn value(s: &ScrubStatus) -> Value {
    let findings: Vec<Value> = s.findings.iter().map(finding).collect();
    json!({
        "rounds": s.rounds, "pages": s.pages, "runs": s.runs, "files": s.files,
        "volumes": s.volumes, "frames": s.frames, "bytes": s.bytes,
        "round_pages": s.round_pages, "findings": findings,
    })
}

fn finding(f: &Finding) -> Value {
    let lost = f.lost.map(|l| {
        json!({
            "database": l.database, "series": l.series.to_string(), "from_ns": l.first_time, "to_ns": l.last_time,
            "points": l.points,
        })
    });
    json!({ "place": f.place, "what": f.what, "lost": lost })
}

/// What the scrubber's thread does until `stop`; whoever stops it unparks it.
pub(crate) fn scrub(store: &Store, stop: &AtomicBool) {
    let mut known = 0;
    while !stop.load(Ordering::Acquire) {
        let pause = store.scrub_step();
        let findings = store.scrub_status().findings.len();
        if findings > known {
            tracing::error!("the scrubber has found damage in {findings} places; see /status");
        }
        known = findings;
        std::thread::park_timeout(pause);
    }
}
