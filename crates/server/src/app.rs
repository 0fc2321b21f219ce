//! What all requests share.
#![expect(
    clippy::result_large_err,
    reason = "a refusal is the answer itself, moved once"
)]

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use alluvium_store::{Clock, Store};
use axum::http::{HeaderMap, StatusCode};
use tokio::sync::Semaphore;

use crate::config::Limits;
use crate::metrics::Metrics;
use crate::params::Params;
use crate::reply::{self, Reply};
use crate::tokens::{Right, Tokens, Verdict};
use crate::writers::Writers;

/// State of the server. The store comes in once recovery is done.
#[derive(Debug)]
pub(crate) struct App {
    pub limits: Limits,
    pub tokens: Option<Tokens>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
    pub writers: Writers,
    /// One permit for each large body being parsed.
    pub parses: Arc<Semaphore>,
    /// One permit for each query running.
    pub queries: Arc<Semaphore>,
    pub queries_waiting: AtomicUsize,
    /// Where backups may be made.
    pub backup_dir: Option<PathBuf>,
    store: OnceLock<Store>,
    /// Why there is none and will be none.
    failure: OnceLock<String>,
}

impl App {
    pub(crate) fn new(limits: Limits, tokens: Option<Tokens>, clock: Arc<dyn Clock>) -> Self {
        Self {
            writers: Writers::new(limits.parallel_writes_max),
            parses: Arc::new(Semaphore::new(limits.parallel_writes_max)),
            queries: Arc::new(Semaphore::new(limits.queries_max)),
            queries_waiting: AtomicUsize::new(0),
            backup_dir: None,
            limits,
            tokens,
            clock,
            metrics: Metrics::default(),
            store: OnceLock::new(),
            failure: OnceLock::new(),
        }
    }

    pub(crate) fn opened(&self, store: Store) {
        let _ = self.store.set(store);
    }

    pub(crate) fn failed(&self, reason: String) {
        let _ = self.failure.set(reason);
    }

    /// The store, or why there is none yet.
    pub(crate) fn store(&self) -> Result<&Store, (&'static str, String)> {
        if let Some(reason) = self.failure.get() {
            return Err(("failed", reason.clone()));
        }
        self.store.get().ok_or_else(|| {
            (
                "recovering",
                "the server is still recovering; try again in a second".into(),
            )
        })
    }

    /// The store, or the 503 that says why there is none.
    pub(crate) fn store_or_reply(&self) -> Result<&Store, Reply> {
        self.store().map_err(|(code, sentence)| {
            reply::error(StatusCode::SERVICE_UNAVAILABLE, code, &sentence)
        })
    }

    /// Whether the request may do this; `None` asks for any known token.
    pub(crate) fn authorize(
        &self,
        headers: &HeaderMap,
        params: &Params,
        wanted: Option<(Right, &str)>,
    ) -> Result<(), (StatusCode, &'static str)> {
        let Some(tokens) = &self.tokens else {
            return Ok(());
        };
        match tokens.check(headers, params.get("p"), wanted) {
            Verdict::Allowed => Ok(()),
            Verdict::Unknown => Err((
                StatusCode::UNAUTHORIZED,
                "a token of the token file is needed; send it as \"Authorization: Bearer TOKEN\"",
            )),
            Verdict::Forbidden => Err((
                StatusCode::FORBIDDEN,
                "the token does not allow this; ask for a line in the token file that does",
            )),
        }
    }

    pub(crate) fn authorize_or_reply(
        &self,
        headers: &HeaderMap,
        params: &Params,
        wanted: Option<(Right, &str)>,
    ) -> Result<(), Reply> {
        self.authorize(headers, params, wanted)
            .map_err(|(status, sentence)| {
                let code = if status == StatusCode::UNAUTHORIZED {
                    "unauthorized"
                } else {
                    "forbidden"
                };
                reply::error(status, code, sentence)
            })
    }
}
