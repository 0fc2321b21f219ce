//! `POST /api/search` and `POST /api/suggest`: which series, and which names. The classic's bodies, with a limit and a range besides.

use alluvium_types::TimeRange;

use super::node::Node;
use super::read::{
    Fields, choose, document, expected, filter, forward_range, object, only, unsigned,
};
use super::{Filter, RequestError};

/// Which series a search lists.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchRequest {
    /// The metric; every one if none is given.
    pub metric: Option<String>,
    /// Conditions on tags.
    pub filter: Filter,
    /// Only series with a point on a day that it touches.
    pub range: TimeRange,
    /// Most series, if given.
    pub limit: Option<u64>,
}

/// Which names a suggestion lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuggestRequest {
    /// What is named.
    pub of: NamesOf,
    /// Only of this metric's series.
    pub metric: Option<String>,
    /// What the names begin with.
    pub starts_with: String,
    /// Only of series with a point on a day that it touches.
    pub range: TimeRange,
    /// Most names, if given.
    pub limit: Option<u64>,
}

/// What is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamesOf {
    /// Metrics.
    Metrics,
    /// Keys of tags.
    Tags,
    /// Values of the tag with this key.
    Values(String),
}

/// The fields of an object.
struct Given<'n>(&'n Fields);

impl Given<'_> {
    fn get(&self, name: &str) -> Option<&Node> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// A text; `None` if it is absent or empty, as the classic's clients send what has no meaning.
    fn text(&self, name: &'static str) -> Result<Option<String>, RequestError> {
        match self.get(name) {
            None => Ok(None),
            Some(Node::Text(text)) => Ok((!text.is_empty()).then(|| text.clone())),
            Some(_) => Err(expected(name, "a text")),
        }
    }

    fn limit(&self) -> Result<Option<u64>, RequestError> {
        match self
            .get("limit")
            .map(|n| unsigned("limit", n))
            .transpose()?
        {
            Some(0) => Err(expected("limit", "an integer of at least 1")),
            limit => Ok(limit),
        }
    }
}

impl SearchRequest {
    /// Reads a search; `now_ns` is what `now` means in it.
    ///
    /// # Errors
    /// If the body is no search: see [`RequestError`].
    ///
    /// ```
    /// use alluvium_protocol::json::SearchRequest;
    ///
    /// let search = SearchRequest::parse(br#"{"select": "cpu_idle", "where": {"host": ["a", "b"]}}"#, 0).unwrap();
    /// assert_eq!(search.metric.as_deref(), Some("cpu_idle"));
    /// ```
    pub fn parse(body: &[u8], now_ns: i64) -> Result<Self, RequestError> {
        let document = document(body)?;
        let given = Given(object("search", &document)?);
        let known = ["select", "where", "range", "limit"];
        only(given.0, "the search", &[&known])?;
        Ok(Self {
            metric: given.text("select")?,
            filter: given.get("where").map_or(Ok(Filter::All), filter)?,
            range: forward_range(given.get("range"), now_ns)?,
            limit: given.limit()?,
        })
    }
}

impl SuggestRequest {
    /// Reads a suggestion; `now_ns` is what `now` means in it.
    ///
    /// # Errors
    /// If the body is no suggestion: see [`RequestError`].
    ///
    /// ```
    /// use alluvium_protocol::json::{NamesOf, SuggestRequest};
    ///
    /// let body = br#"{"select": "tag-values", "metric": "cpu_idle", "tag": "host", "starts-with": "web"}"#;
    /// let suggest = SuggestRequest::parse(body, 0).unwrap();
    /// assert_eq!(suggest.of, NamesOf::Values("host".into()));
    /// ```
    pub fn parse(body: &[u8], now_ns: i64) -> Result<Self, RequestError> {
        let document = document(body)?;
        let given = Given(object("suggest", &document)?);
        let known = ["select", "metric", "tag", "starts-with", "range", "limit"];
        only(given.0, "the suggestion", &[&known])?;
        if given.get("select").is_none() {
            return Err(expected("select", "metric-names, tag-names or tag-values"));
        }
        let words = [("metric-names", 0), ("tag-names", 1), ("tag-values", 2)];
        let of = match (
            choose("select", given.get("select"), &words)?,
            given.text("tag")?,
        ) {
            (2, Some(tag)) => NamesOf::Values(tag),
            (2, None) => return Err(expected("tag", "the tag whose values are meant")),
            (_, Some(_)) => {
                return Err(RequestError::Conflict {
                    field: "tag",
                    other: "metric-names or tag-names",
                });
            }
            (0, None) => NamesOf::Metrics,
            (_, None) => NamesOf::Tags,
        };
        Ok(Self {
            of,
            metric: given.text("metric")?,
            starts_with: given.text("starts-with")?.unwrap_or_default(),
            range: forward_range(given.get("range"), now_ns)?,
            limit: given.limit()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_read() {
        let body = br#"{"select": "", "where": [{"host": "a"}], "range": {"from": 5, "to": "now"}, "limit": 7}"#;
        let search = SearchRequest::parse(body, 9).unwrap();
        let expected = SearchRequest {
            metric: None,
            filter: Filter::Sets(vec![vec![("host".into(), "a".into())]]),
            range: TimeRange::new(5, 9).unwrap(),
            limit: Some(7),
        };
        assert_eq!(search, expected);
        let body = br#"{"select": "tag-names", "metric": "mem", "tag": "", "starts-with": "ho", "limit": 1}"#;
        let expected = SuggestRequest {
            of: NamesOf::Tags,
            metric: Some("mem".into()),
            starts_with: "ho".into(),
            range: TimeRange::ALL,
            limit: Some(1),
        };
        assert_eq!(SuggestRequest::parse(body, 0).unwrap(), expected);
    }

    #[test]
    fn what_is_not_meant_is_refused() {
        for (text, why) in [
            (r#"{"select": 1}"#, "\"select\" must be"),
            (r#"{"select": "cpu", "where": 1}"#, "\"where\" must be"),
            (r#"{"select": "cpu", "limit": 0}"#, "\"limit\" must be"),
            (r#"{"metric": "cpu"}"#, "unknown field \"metric\""),
            (r#"{"range": {"from": 5, "to": 4}}"#, "\"range\" must be"),
            ("[]", "an object"),
        ] {
            let error = SearchRequest::parse(text.as_bytes(), 0).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
        for (text, why) in [
            ("{}", "\"select\" must be"),
            (r#"{"select": "names"}"#, "unknown select \"names\""),
            (r#"{"select": "tag-values"}"#, "\"tag\" must be"),
            (
                r#"{"select": "tag-names", "tag": "x"}"#,
                "cannot be used with",
            ),
            (
                r#"{"select": "tag-names", "where": {}}"#,
                "unknown field \"where\"",
            ),
        ] {
            let error = SuggestRequest::parse(text.as_bytes(), 0).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }
}
