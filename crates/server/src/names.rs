//! `POST /api/search` and `POST /api/suggest`: names of series, and how names go on, one `+NAME` a line, as the classic's clients read
//! them.
#![expect(
    clippy::result_large_err,
    reason = "a refusal is the answer itself, moved once"
)]

use std::sync::Arc;

use alluvium_protocol::SeriesName;
use alluvium_protocol::json::{NamesOf, RequestError, SearchRequest, SuggestRequest};
use alluvium_query as query;
use alluvium_store::{Database, NameKind, StoreError};
use alluvium_types::metric_name;
use axum::extract::{Request, State};
use axum::http::StatusCode;

use crate::app::App;
use crate::asked::{Asked, failed};
use crate::body::{self, Unpacked};
use crate::query::{body_reply, query_reply};
use crate::reply::{self, Reply};
use crate::search::missing;

/// Longest text of a question.
const QUESTION_BYTES_MAX: usize = alluvium_protocol::json::BODY_BYTES_MAX;

/// `POST /api/search?db=`.
pub(crate) async fn search(State(app): State<Arc<App>>, request: Request) -> Reply {
    let inner = async {
        let (asked, text) = question(&app, request).await?;
        let search =
            SearchRequest::parse(&text.bytes, app.clock.wall_ns()).map_err(|e| refused(&e))?;
        let limit = limit_of(search.limit, app.limits.search_max)?;
        let selected = query::search(&search).map_err(|e| query_reply(&e))?;
        let work = move |database: &Database| {
            let snapshot = database.snapshot().tolerant();
            let mut lines = Lines::new(limit);
            for alternative in &selected {
                if lines.is_cut {
                    break;
                }
                let of = &alternative.selector;
                // What is found may have more tags than the complete tag sets that are meant.
                let found = match alternative.tag_sets {
                    Some(_) => snapshot
                        .search_among(of, search.range, limit, |key| alternative.admits(key))?,
                    None => snapshot.search(of, search.range, limit)?,
                };
                lines.is_cut |= found.matching > found.tag_sets.len() as u64;
                for set in &found.tag_sets {
                    for field in &set.fields {
                        let metric = metric_name(set.key.measurement(), field);
                        let tags = set.key.tags().iter().map(|(k, v)| (&**k, &**v));
                        lines.push(SeriesName::new(&metric, tags).as_str());
                    }
                }
            }
            lines.missing = missing(&snapshot);
            Ok(lines)
        };
        answer(asked, "series", work).await
    };
    inner.await.unwrap_or_else(|reply: Reply| reply)
}

/// `POST /api/suggest?db=`.
pub(crate) async fn suggest(State(app): State<Arc<App>>, request: Request) -> Reply {
    let inner = async {
        let (asked, text) = question(&app, request).await?;
        let suggest =
            SuggestRequest::parse(&text.bytes, app.clock.wall_ns()).map_err(|e| refused(&e))?;
        let limit = limit_of(suggest.limit, app.limits.suggest_max)?;
        let work = move |database: &Database| {
            let kind = match &suggest.of {
                NamesOf::Metrics => NameKind::Metric,
                NamesOf::Tags => NameKind::Tag,
                NamesOf::Values(tag) => NameKind::Value(tag),
            };
            let (of, prefix) = (query::suggest(&suggest), &suggest.starts_with);
            // One more tells whether that is all.
            let snapshot = database.snapshot().tolerant();
            let names = snapshot.suggest(kind, &of, suggest.range, prefix, limit + 1)?;
            let mut lines = Lines::new(limit);
            names.iter().for_each(|name| lines.push(name));
            lines.missing = missing(&snapshot);
            Ok(lines)
        };
        answer(asked, "names", work).await
    };
    inner.await.unwrap_or_else(|reply: Reply| reply)
}

/// Who asks, and the text of the question.
async fn question(app: &Arc<App>, request: Request) -> Result<(Asked, Unpacked), Reply> {
    let (head, body) = request.into_parts();
    let asked = Asked::new(app, &head)?;
    asked.only(&[])?;
    let budget = app.store_or_reply()?.budget();
    let text = body::collect(body, budget, QUESTION_BYTES_MAX, app.limits.body_idle)
        .await
        .and_then(|c| c.unpack(body::Encoding::Identity, QUESTION_BYTES_MAX))
        .map_err(|e| body_reply(&e))?;
    Ok((asked, text))
}

fn refused(error: &RequestError) -> Reply {
    reply::error(StatusCode::BAD_REQUEST, error.code(), &error.to_string())
}

/// As many as may be, unless fewer are wanted: the classic has no limit.
fn limit_of(wanted: Option<u64>, max: usize) -> Result<usize, Reply> {
    match wanted.map_or(Ok(max), usize::try_from) {
        Ok(limit) if limit <= max => Ok(limit),
        _ => {
            let sentence = format!("field \"limit\" must be an integer from 1 to {max}");
            Err(reply::error(
                StatusCode::BAD_REQUEST,
                "invalid_query",
                &sentence,
            ))
        }
    }
}

/// Lines of an answer.
struct Lines {
    text: String,
    left: usize,
    is_cut: bool,
    missing: Vec<String>,
}

impl Lines {
    fn new(limit: usize) -> Self {
        Self {
            text: String::new(),
            left: limit,
            is_cut: false,
            missing: Vec::new(),
        }
    }

    fn push(&mut self, name: &str) {
        let Some(left) = self.left.checked_sub(1) else {
            self.is_cut = true;
            return;
        };
        self.left = left;
        self.text.push('+');
        // What ends a line ends no name.
        let parts = name.split(['\r', '\n']);
        parts.for_each(|part| self.text.push_str(part));
        self.text.push_str("\r\n");
    }
}

async fn answer(
    asked: Asked,
    what: &'static str,
    work: impl FnOnce(&Database) -> Result<Lines, StoreError> + Send + 'static,
) -> Result<Reply, Reply> {
    let answered = asked.work(work).await?;
    let mut lines = answered.map_err(|error| match error {
        StoreError::Selector(error) => {
            let sentence = format!("field \"where\" is refused: {error}");
            reply::error(StatusCode::BAD_REQUEST, "bad_regex", &sentence)
        }
        error => failed(&error),
    })?;
    if lines.is_cut {
        let end = format!("-there are more {what}; ask for fewer or raise \"limit\"\r\n");
        lines.text.push_str(&end);
    }
    if !lines.missing.is_empty() {
        let end = format!("-{}\r\n", lines.missing.join("; "));
        lines.text.push_str(&end);
    }
    Ok(reply::plain("text/plain; charset=utf-8", lines.text))
}
