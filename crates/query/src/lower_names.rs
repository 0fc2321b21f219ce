//! From a search's and a suggestion's words to selectors.

use alluvium_index::{Label, Matcher, Selector, Test};
use alluvium_protocol::json::{SearchRequest, SuggestRequest};

use crate::error::QueryError;
use crate::lower::{alternatives, with_metric};
use crate::plan::{Alternative, EVERY_METRIC};

/// What a search lists: series of each of these, none of which are of two. They are selected as by a query with the same words.
///
/// # Errors
/// If a regular expression is invalid.
///
/// ```
/// use alluvium_protocol::json::SearchRequest;
///
/// let request = SearchRequest::parse(br#"{"select": "cpu_idle", "where": {"host": {"regex": "^web"}}}"#, 0)?;
/// let selected = alluvium_query::search(&request)?;
/// assert_eq!(selected[0].selector.matchers.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn search(request: &SearchRequest) -> Result<Vec<Alternative>, QueryError> {
    let metric = request.metric.as_deref().unwrap_or(EVERY_METRIC);
    let alternatives = alternatives(&request.filter)?;
    Ok(alternatives
        .iter()
        .map(|a| with_metric(a, metric))
        .collect())
}

/// The series whose names a suggestion lists.
pub fn suggest(request: &SuggestRequest) -> Selector {
    let metric = request.metric.iter().filter(|m| *m != EVERY_METRIC);
    let is_it = |metric: &String| Matcher::new(Label::Name, Test::Equal(metric.clone()));
    Selector {
        matchers: metric.map(is_it).collect(),
    }
}
