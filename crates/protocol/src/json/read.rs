//! From a document to a request.

use alluvium_types::{Number, TimeRange};

use super::node::Node;
use super::{
    Align, Direction, Fill, Filter, Format, Function, Grouping, OrderBy, Output, Pattern, Query,
    Request, RequestError, Shape, Span, TagMatch, TimeFormat,
};
use crate::time::{parse_duration, parse_time};

/// Longest query in bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Deepest nesting of a query.
pub const DEPTH_MAX: usize = 32;

/// Most items of one list in a query.
pub const LIST_ITEMS_MAX: usize = 65_536;

/// Most tags of a filter.
pub const FILTER_TAGS_MAX: usize = 64;

/// Longest regular expression in bytes.
const REGEX_BYTES_MAX: usize = 4_096;

const QUERY_TYPES: [&str; 3] = ["select", "aggregate", "group-aggregate"];
const LATER_TYPES: [&str; 3] = ["select-events", "join", "group-aggregate-join"];
const OTHER_FIELDS: [&str; 13] = [
    "range",
    "where",
    "group-by-tag",
    "pivot-by-tag",
    "group-by",
    "order-by",
    "limit",
    "offset",
    "fill",
    "align",
    "output",
    "explain",
    "stats",
];
const LATER_FIELDS: [&str; 4] = ["apply", "filter", "eval", "lookback"];

pub(super) type Fields = Vec<(String, Node)>;

/// The body as a document.
pub(super) fn document(body: &[u8]) -> Result<Node, RequestError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(RequestError::TooLong {
            bytes: body.len(),
            limit: BODY_BYTES_MAX,
        });
    }
    Node::parse(body, DEPTH_MAX).map_err(|error| RequestError::Json {
        reason: error.to_string(),
    })
}

pub(super) fn read(body: &[u8], now_ns: i64) -> Result<Request, RequestError> {
    let Node::Object(fields) = document(body)? else {
        return Err(expected("query", "an object"));
    };
    for (field, _) in &fields {
        let field = field.as_str();
        if LATER_TYPES.contains(&field) || LATER_FIELDS.contains(&field) {
            return Err(RequestError::NotSupported {
                what: format!("field {field:?}"),
            });
        }
    }
    only(&fields, "the query", &[&QUERY_TYPES, &OTHER_FIELDS])?;
    let types: Vec<&(String, Node)> = fields
        .iter()
        .filter(|(name, _)| QUERY_TYPES.contains(&name.as_str()))
        .collect();
    let [(name, body)] = types.as_slice() else {
        let found: Vec<&str> = types.iter().map(|t| t.0.as_str()).collect();
        return Err(RequestError::QueryType {
            allowed: QUERY_TYPES.join(", "),
            found: if found.is_empty() {
                "none".into()
            } else {
                found.join(", ")
            },
        });
    };
    let query = match name.as_str() {
        "select" => select(body)?,
        "aggregate" => aggregate(body)?,
        _ => group_aggregate(body)?,
    };
    let get = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v);
    let bucketed = matches!(query, Query::GroupAggregate { .. });
    if matches!(query, Query::Aggregate { .. }) && get("order-by").is_some() {
        return Err(RequestError::Conflict {
            field: "order-by",
            other: "aggregate",
        });
    }
    for field in ["fill", "align"] {
        if get(field).is_some() && !bucketed {
            return Err(RequestError::Conflict {
                field,
                other: if matches!(query, Query::Select { .. }) {
                    "select"
                } else {
                    "aggregate"
                },
            });
        }
    }
    let request = Request {
        query,
        range: get("range").map_or(Ok(Span::ALL), |n| span(n, now_ns))?,
        filter: get("where").map_or(Ok(Filter::All), filter)?,
        grouping: grouping(get("group-by-tag"), get("pivot-by-tag"), get("group-by"))?,
        order_by: choose(
            "order-by",
            get("order-by"),
            &[("time", OrderBy::Time), ("series", OrderBy::Series)],
        )?,
        limit: get("limit").map(|n| unsigned("limit", n)).transpose()?,
        offset: get("offset").map_or(Ok(0), |n| unsigned("offset", n))?,
        fill: fill(get("fill"))?,
        align: choose(
            "align",
            get("align"),
            &[("epoch", Align::Epoch), ("from", Align::From)],
        )?,
        output: get("output").map_or(Ok(Output::default()), output)?,
        explain: boolean("explain", get("explain"))?,
        stats: boolean("stats", get("stats"))?,
    };
    if request.align == Align::From && request.range.from == i64::MIN {
        return Err(expected("align", "\"epoch\" unless range has a \"from\""));
    }
    Ok(request)
}

pub(super) fn expected(field: &str, expected: &'static str) -> RequestError {
    RequestError::Expected {
        field: field.chars().take(64).collect(),
        expected,
    }
}

/// Refuses fields that are in none of the lists.
pub(super) fn only(
    fields: &Fields,
    place: &'static str,
    allowed: &[&[&str]],
) -> Result<(), RequestError> {
    for (field, _) in fields {
        if !allowed.iter().any(|list| list.contains(&field.as_str())) {
            return Err(RequestError::UnknownField {
                field: field.chars().take(64).collect(),
                place,
                allowed: allowed.concat().join(", "),
            });
        }
    }
    Ok(())
}

pub(super) fn object<'n>(field: &str, node: &'n Node) -> Result<&'n Fields, RequestError> {
    match node {
        Node::Object(fields) => Ok(fields),
        _ => Err(expected(field, "an object")),
    }
}

pub(super) fn unsigned(field: &str, node: &Node) -> Result<u64, RequestError> {
    match node {
        Node::Integer(v) => u64::try_from(*v).ok(),
        _ => None,
    }
    .ok_or_else(|| expected(field, "an integer of at least 0"))
}

pub(super) fn boolean(field: &str, node: Option<&Node>) -> Result<bool, RequestError> {
    match node {
        None => Ok(false),
        Some(Node::Bool(v)) => Ok(*v),
        Some(_) => Err(expected(field, "true or false")),
    }
}

/// One of a few words; the first is the default.
pub(super) fn choose<T: Copy>(
    field: &'static str,
    node: Option<&Node>,
    words: &[(&str, T)],
) -> Result<T, RequestError> {
    let word = match node {
        None => words.first(),
        Some(Node::Text(text)) => words.iter().find(|w| w.0 == text),
        Some(_) => return Err(expected(field, "a text")),
    };
    word.map(|w| w.1).ok_or_else(|| RequestError::UnknownWord {
        what: field,
        word: match node {
            Some(Node::Text(text)) => text.chars().take(64).collect(),
            _ => String::new(),
        },
        allowed: words.iter().map(|w| w.0).collect::<Vec<&str>>().join(", "),
    })
}

/// One text or a list of at least one.
pub(super) fn texts(field: &str, node: &Node) -> Result<Vec<String>, RequestError> {
    let text = |node: &Node| match node {
        Node::Text(text) => Ok(text.clone()),
        _ => Err(expected(field, "a text or a list of texts")),
    };
    match node {
        Node::List(items) if items.len() > LIST_ITEMS_MAX => Err(RequestError::TooMany {
            field: field.chars().take(64).collect(),
            limit: LIST_ITEMS_MAX,
        }),
        Node::List(items) if items.is_empty() => {
            Err(expected(field, "a list of at least one item"))
        }
        Node::List(items) => items.iter().map(text).collect(),
        other => Ok(vec![text(other)?]),
    }
}

/// Refuses a word that is listed twice.
fn distinct(what: &'static str, words: &[String]) -> Result<(), RequestError> {
    let mut sorted: Vec<&String> = words.iter().collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|w| w[0] == w[1]) {
        Some(pair) => Err(RequestError::Repeated {
            what,
            word: pair[0].chars().take(64).collect(),
        }),
        None => Ok(()),
    }
}

fn metrics(field: &str, node: &Node) -> Result<Vec<String>, RequestError> {
    let names = texts(field, node)?;
    for name in &names {
        if name.is_empty() {
            return Err(expected(field, "the name of a metric"));
        }
        if name.starts_with("meta:") {
            return Err(RequestError::NotSupported {
                what: format!("{:?}", name.chars().take(64).collect::<String>()),
            });
        }
    }
    distinct("metric", &names)?;
    Ok(names)
}

fn functions(field: &str, node: &Node) -> Result<Vec<Function>, RequestError> {
    let names = texts(field, node)?;
    distinct("function", &names)?;
    names
        .iter()
        .map(|name| {
            Function::from_name(name).ok_or_else(|| RequestError::UnknownWord {
                what: "function",
                word: name.chars().take(64).collect(),
                allowed: Function::ALL.map(Function::name).join(", "),
            })
        })
        .collect()
}

fn select(node: &Node) -> Result<Query, RequestError> {
    Ok(Query::Select {
        metrics: metrics("select", node)?,
    })
}

fn aggregate(node: &Node) -> Result<Query, RequestError> {
    let fields = object("aggregate", node)?;
    if fields.is_empty() {
        return Err(expected("aggregate", "an object of metrics and functions"));
    }
    let metrics = fields
        .iter()
        .map(|(metric, node)| Ok((metric.clone(), functions(metric, node)?)))
        .collect::<Result<_, RequestError>>()?;
    Ok(Query::Aggregate { metrics })
}

fn group_aggregate(node: &Node) -> Result<Query, RequestError> {
    let fields = object("group-aggregate", node)?;
    only(
        fields,
        "\"group-aggregate\"",
        &[&["metric", "step", "func"]],
    )?;
    let get = |name: &str| {
        fields
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v)
            .ok_or_else(|| expected(name, "given in \"group-aggregate\""))
    };
    let step_ns = match get("step")? {
        Node::Text(text) => parse_duration(text).map_err(|source| RequestError::Time {
            field: "step",
            source,
        })?,
        Node::Integer(v) => i64::try_from(*v).unwrap_or(0),
        _ => 0,
    };
    if step_ns <= 0 {
        return Err(expected("step", "a duration above 0"));
    }
    Ok(Query::GroupAggregate {
        metrics: metrics("metric", get("metric")?)?,
        step_ns,
        functions: functions("func", get("func")?)?,
    })
}

fn span(node: &Node, now_ns: i64) -> Result<Span, RequestError> {
    let fields = object("range", node)?;
    only(fields, "\"range\"", &[&["from", "to"]])?;
    let end = |name: &'static str, absent: i64| match fields
        .iter()
        .find(|(n, _)| n == name)
        .map(|(_, v)| v)
    {
        None => Ok(absent),
        Some(Node::Text(text)) => parse_time(text, now_ns).map_err(|source| RequestError::Time {
            field: name,
            source,
        }),
        Some(Node::Integer(v)) => {
            i64::try_from(*v).map_err(|_| expected(name, "64-bit nanoseconds"))
        }
        Some(_) => Err(expected(name, "a time: integer nanoseconds or a text")),
    };
    Ok(Span::new(end("from", i64::MIN)?, end("to", i64::MAX)?))
}

/// A range that runs forward.
pub(super) fn forward_range(node: Option<&Node>, now_ns: i64) -> Result<TimeRange, RequestError> {
    let span = node.map_or(Ok(Span::ALL), |n| span(n, now_ns))?;
    if span.direction == Direction::Backward {
        return Err(expected(
            "range",
            "a range whose \"to\" is not before its \"from\"",
        ));
    }
    Ok(span.range)
}

pub(super) fn filter(node: &Node) -> Result<Filter, RequestError> {
    match node {
        Node::Object(fields) if fields.len() > FILTER_TAGS_MAX => Err(RequestError::TooMany {
            field: "where".into(),
            limit: FILTER_TAGS_MAX,
        }),
        Node::Object(fields) => fields
            .iter()
            .map(|(tag, node)| {
                Ok(TagMatch {
                    tag: tag.clone(),
                    pattern: pattern(tag, node)?,
                })
            })
            .collect::<Result<_, RequestError>>()
            .map(Filter::Tags),
        Node::List(sets) => {
            if sets.len() > LIST_ITEMS_MAX {
                return Err(RequestError::TooMany {
                    field: "where".into(),
                    limit: LIST_ITEMS_MAX,
                });
            }
            sets.iter()
                .map(tag_set)
                .collect::<Result<_, RequestError>>()
                .map(Filter::Sets)
        }
        _ => Err(expected("where", "an object of tags or a list of tag sets")),
    }
}

fn tag_set(node: &Node) -> Result<Vec<(String, String)>, RequestError> {
    let mut tags = object("where", node)?
        .iter()
        .map(|(tag, node)| match node {
            Node::Text(value) => Ok((tag.clone(), value.clone())),
            _ => Err(expected(tag, "a text in a complete tag set")),
        })
        .collect::<Result<Vec<_>, RequestError>>()?;
    tags.sort_unstable();
    Ok(tags)
}

fn pattern(tag: &str, node: &Node) -> Result<Pattern, RequestError> {
    const SHAPE: &str =
        "a text, a list of texts, or one of {\"regex\": ...}, {\"not\": ...}, {\"exists\": true}";
    let fields = match node {
        Node::Text(_) | Node::List(_) => return texts(tag, node).map(Pattern::OneOf),
        Node::Object(fields) => fields,
        _ => return Err(expected(tag, SHAPE)),
    };
    only(
        fields,
        "a condition on a tag",
        &[&["regex", "not", "exists"]],
    )?;
    match fields.as_slice() {
        [(word, Node::Text(regex))] if word == "regex" => {
            if regex.len() > REGEX_BYTES_MAX {
                return Err(expected(tag, "a regular expression of at most 4096 bytes"));
            }
            Ok(Pattern::Regex(regex.clone()))
        }
        [(word, Node::Bool(yes))] if word == "exists" => Ok(if *yes {
            Pattern::Exists
        } else {
            Pattern::Not(Box::new(Pattern::Exists))
        }),
        [(word, inner)] if word == "not" => Ok(Pattern::Not(Box::new(pattern(tag, inner)?))),
        _ => Err(expected(tag, SHAPE)),
    }
}

fn grouping(
    drop: Option<&Node>,
    keep: Option<&Node>,
    classic: Option<&Node>,
) -> Result<Grouping, RequestError> {
    let tags = |field: &'static str, node: &Node| {
        let tags = texts(field, node)?;
        distinct("tag", &tags)?;
        Ok(tags)
    };
    match (drop, keep, classic) {
        (None, None, None) => Ok(Grouping::None),
        (Some(node), None, None) => Ok(Grouping::Drop(tags("group-by-tag", node)?)),
        (None, Some(node), None) => Ok(Grouping::Keep(tags("pivot-by-tag", node)?)),
        // The classic's old name of pivot-by-tag.
        (None, None, Some(node)) => Ok(Grouping::Keep(tags("group-by", node)?)),
        (Some(_), Some(_), _) => Err(RequestError::Conflict {
            field: "group-by-tag",
            other: "pivot-by-tag",
        }),
        (_, _, Some(_)) => Err(RequestError::Conflict {
            field: "group-by",
            other: "group-by-tag or pivot-by-tag",
        }),
    }
}

fn fill(node: Option<&Node>) -> Result<Fill, RequestError> {
    match node {
        Some(Node::Null) => Ok(Fill::Null),
        Some(Node::Integer(v)) => Ok(Fill::Value(Number::Integer(*v))),
        Some(Node::Float(v)) => Ok(Fill::Value(Number::Float(*v))),
        other => choose(
            "fill",
            other,
            &[
                ("none", Fill::None),
                ("null", Fill::Null),
                ("previous", Fill::Previous),
                ("linear", Fill::Linear),
            ],
        ),
    }
}

fn output(node: &Node) -> Result<Output, RequestError> {
    let fields = object("output", node)?;
    only(
        fields,
        "\"output\"",
        &[&["format", "timestamp", "header", "shape"]],
    )?;
    let get = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v);
    if get("format") == Some(&Node::Text("resp".into())) {
        return Err(RequestError::NotSupported {
            what: "output format \"resp\"".into(),
        });
    }
    Ok(Output {
        format: choose(
            "format",
            get("format"),
            &[("json", Format::Json), ("csv", Format::Csv)],
        )?,
        timestamp: choose(
            "timestamp",
            get("timestamp"),
            &[("raw", TimeFormat::Raw), ("iso", TimeFormat::Iso)],
        )?,
        header: boolean("header", get("header"))?,
        shape: choose(
            "shape",
            get("shape"),
            &[("rows", Shape::Rows), ("series", Shape::Series)],
        )?,
    })
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
