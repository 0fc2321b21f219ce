//! `POST /api/delete`: which points go.

use alluvium_types::{Number, TimeRange};

use super::node::Node;
use super::read::{boolean, document, expected, filter, forward_range, object, only, texts};
use super::{Filter, RequestError};

/// A delete as plain data: points of series that satisfy all of it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeleteRequest {
    /// Values of `__name__`, any of them; all if empty.
    pub metrics: Vec<String>,
    /// Measurements, any of them; all if empty.
    pub measurements: Vec<String>,
    /// Fields, any of them; all if empty.
    pub fields: Vec<String>,
    /// Conditions on tags.
    pub filter: Filter,
    /// Points inside it.
    pub range: TimeRange,
    /// Only numbers for which all of these hold.
    pub comparisons: Vec<(Comparison, Number)>,
    /// Whether only to say what would go.
    pub dry_run: bool,
}

/// A comparison of a value with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Comparison {
    /// Every comparison as it is written.
    pub const ALL: [(&'static str, Self); 6] = [
        ("=", Self::Equal),
        ("!=", Self::NotEqual),
        ("<", Self::Less),
        ("<=", Self::LessOrEqual),
        (">", Self::Greater),
        (">=", Self::GreaterOrEqual),
    ];

    /// The comparison written so.
    pub fn from_symbol(symbol: &str) -> Option<Self> {
        Self::ALL.iter().find(|(s, _)| *s == symbol).map(|c| c.1)
    }
}

impl DeleteRequest {
    /// A delete of everything.
    pub const ALL: Self = Self {
        metrics: Vec::new(),
        measurements: Vec::new(),
        fields: Vec::new(),
        filter: Filter::All,
        range: TimeRange::ALL,
        comparisons: Vec::new(),
        dry_run: false,
    };

    /// Reads a delete; `now_ns` is what `now` means in it. One that selects no series in particular must say
    /// `"all": true`.
    ///
    /// # Errors
    /// If the body is no delete: see [`RequestError`].
    ///
    /// ```
    /// use alluvium_protocol::json::DeleteRequest;
    ///
    /// let body = br#"{"measurement": "cpu", "where": {"host": "a"}, "range": {"from": 0, "to": 10},
    ///                 "value": {">": 100}, "dry-run": true}"#;
    /// let delete = DeleteRequest::parse(body, 0).unwrap();
    /// assert_eq!((delete.range.end(), delete.dry_run), (10, true));
    /// assert!(DeleteRequest::parse(b"{}", 0).is_err());
    /// ```
    pub fn parse(body: &[u8], now_ns: i64) -> Result<Self, RequestError> {
        let document = document(body)?;
        let fields = object("delete", &document)?;
        only(fields, "the delete", &[&FIELDS])?;
        let get = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v);
        let names = |field: &'static str| {
            let names = get(field).map_or(Ok(Vec::new()), |n| texts(field, n))?;
            if names.iter().any(String::is_empty) {
                return Err(expected(field, "names that are not empty"));
            }
            Ok(names)
        };
        let request = Self {
            metrics: names("metric")?,
            measurements: names("measurement")?,
            fields: names("field")?,
            filter: get("where").map_or(Ok(Filter::All), filter)?,
            range: forward_range(get("range"), now_ns)?,
            comparisons: get("value").map_or(Ok(Vec::new()), comparisons)?,
            dry_run: boolean("dry-run", get("dry-run"))?,
        };
        let selects_all = request.selects_all();
        match (boolean("all", get("all"))?, selects_all) {
            (true, false) => Err(RequestError::Conflict {
                field: "all",
                other: "metric, measurement, field or where",
            }),
            (false, true) => Err(expected(
                "all",
                "true where no metric, measurement, field or where says which series are meant",
            )),
            _ => Ok(request),
        }
    }

    fn selects_all(&self) -> bool {
        let names = [&self.metrics, &self.measurements, &self.fields];
        let tags = match &self.filter {
            Filter::All => true,
            Filter::Tags(tags) => tags.is_empty(),
            Filter::Sets(_) => false,
        };
        names.iter().all(|n| n.is_empty()) && tags
    }
}

const FIELDS: [&str; 8] = [
    "metric",
    "measurement",
    "field",
    "where",
    "range",
    "value",
    "all",
    "dry-run",
];

fn comparisons(node: &Node) -> Result<Vec<(Comparison, Number)>, RequestError> {
    const SHAPE: &str = "an object of comparisons (=, !=, <, <=, >, >=) and numbers";
    let fields = object("value", node)?;
    if fields.is_empty() {
        return Err(expected("value", SHAPE));
    }
    let read = |(symbol, node): &(String, Node)| {
        let number = match node {
            Node::Integer(v) => Some(Number::Integer(*v)),
            Node::Float(v) => Some(Number::Float(*v)),
            _ => None,
        };
        Comparison::from_symbol(symbol)
            .zip(number)
            .ok_or_else(|| expected("value", SHAPE))
    };
    fields.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Pattern, TagMatch};

    fn parse(text: &str) -> Result<DeleteRequest, String> {
        DeleteRequest::parse(text.as_bytes(), 1_000).map_err(|e| e.to_string())
    }

    #[test]
    fn every_field_is_read() {
        let delete = parse(
            r#"{"metric": ["cpu_idle", "cpu_user"], "measurement": "cpu", "field": "idle",
                "where": {"host": ["a"]}, "range": {"from": "now-1us", "to": "now"},
                "value": {"<": 3.5, "!=": 2}, "dry-run": false}"#,
        )
        .unwrap();
        let host = TagMatch {
            tag: "host".into(),
            pattern: Pattern::OneOf(vec!["a".into()]),
        };
        let expected = DeleteRequest {
            metrics: vec!["cpu_idle".into(), "cpu_user".into()],
            measurements: vec!["cpu".into()],
            fields: vec!["idle".into()],
            filter: Filter::Tags(vec![host]),
            range: TimeRange::new(0, 1_000).unwrap(),
            comparisons: vec![
                (Comparison::Less, Number::Float(3.5)),
                (Comparison::NotEqual, Number::Integer(2)),
            ],
            dry_run: false,
        };
        assert_eq!(delete, expected);
        assert_eq!(parse(r#"{"all": true}"#).unwrap(), DeleteRequest::ALL);
    }

    #[test]
    fn what_is_not_meant_is_refused() {
        for (text, why) in [
            ("{}", "\"all\" must be true"),
            (r#"{"where": {}}"#, "\"all\" must be true"),
            (r#"{"all": true, "field": "x"}"#, "cannot be used with"),
            (r#"{"field": ""}"#, "not empty"),
            (r#"{"field": []}"#, "at least one"),
            (r#"{"tag": "x"}"#, "unknown field \"tag\""),
            (
                r#"{"field": "x", "range": {"from": 5, "to": 4}}"#,
                "\"range\"",
            ),
            (r#"{"field": "x", "value": {}}"#, "comparisons"),
            (r#"{"field": "x", "value": {"~": 1}}"#, "comparisons"),
            (r#"{"field": "x", "value": {">": "1"}}"#, "comparisons"),
            ("[]", "an object"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
