//! From the JSON query language to a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alluvium_index::{Label, Matcher, Selector, Test};
use alluvium_protocol::json;

use crate::Direction;
use crate::error::QueryError;
use crate::function::Function;
use crate::plan::{
    Alternative, EVERY_METRIC, Fill, Grouping, Order, Plan, Selection, TagSet, Window,
};
use crate::selector_text::label_named;

/// The plan of a request. How its answer is written is not part of it, except that an answer in the shape of
/// series needs its rows in their order.
///
/// # Errors
/// If the request asks for something this engine does not do, or holds an invalid regular expression.
///
/// ```
/// use alluvium_protocol::json::Request;
///
/// let body = br#"{"aggregate": {"cpu_idle": ["min", "mean"]}, "where": {"host": {"regex": "^web"}}}"#;
/// let plan = alluvium_query::plan(&Request::parse(body, 0)?)?;
/// assert_eq!(plan.columns()[1].name, "cpu_idle:mean");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn plan(request: &json::Request) -> Result<Plan, QueryError> {
    let direction = match request.range.direction {
        json::Direction::Forward => Direction::Forward,
        json::Direction::Backward => Direction::Backward,
    };
    let wheres = alternatives(&request.filter)?;
    let metrics = metrics(&request.query)?;
    check_looks(metrics.len(), &wheres)?;
    let selections = metrics
        .into_iter()
        .map(|(metric, functions)| Selection {
            alternatives: wheres.iter().map(|a| with_metric(a, &metric)).collect(),
            metric,
            is_of_every: false,
            functions,
        })
        .collect();
    let plan = Plan {
        selections,
        range: request.range.range,
        direction,
        window: window(request, direction)?,
        grouping: match &request.grouping {
            json::Grouping::None => Grouping::None,
            json::Grouping::Drop(tags) => Grouping::Without(tags.clone()),
            json::Grouping::Keep(tags) => Grouping::Only(tags.clone()),
        },
        order: match (request.order_by, request.output.shape) {
            (json::OrderBy::Time, json::Shape::Rows) => Order::Time,
            _ => Order::Series,
        },
        fill: match request.fill {
            json::Fill::None => Fill::None,
            json::Fill::Null => Fill::Null,
            json::Fill::Previous => Fill::Previous,
            json::Fill::Linear => Fill::Linear,
            json::Fill::Value(v) => Fill::Value(v),
        },
        offset: request.offset,
        limit: request.limit,
    };
    plan.check()?;
    Ok(plan)
}

fn metrics(query: &json::Query) -> Result<Vec<(String, Vec<Function>)>, QueryError> {
    let lowered = |functions: &[json::Function]| -> Result<Vec<Function>, QueryError> {
        functions
            .iter()
            .map(|f| {
                Function::from_name(f.name()).ok_or_else(|| QueryError::UnknownFunction {
                    function: f.name().into(),
                })
            })
            .collect()
    };
    Ok(match query {
        json::Query::Select { metrics } => {
            metrics.iter().map(|m| (m.clone(), Vec::new())).collect()
        }
        json::Query::Aggregate { metrics } => metrics
            .iter()
            .map(|(m, functions)| Ok((m.clone(), lowered(functions)?)))
            .collect::<Result<_, QueryError>>()?,
        json::Query::GroupAggregate {
            metrics, functions, ..
        } => {
            let functions = lowered(functions)?;
            metrics
                .iter()
                .map(|m| (m.clone(), functions.clone()))
                .collect()
        }
        _ => {
            return Err(QueryError::Unsupported {
                what: "this query type",
            });
        }
    })
}

fn window(request: &json::Request, direction: Direction) -> Result<Window, QueryError> {
    let from = request.range.from;
    Ok(match request.query {
        json::Query::Aggregate { .. } => Window::Whole {
            row_time: (from != i64::MIN).then_some(from),
        },
        json::Query::GroupAggregate { step_ns, .. } => match (request.align, direction) {
            (json::Align::Epoch, _) => Window::Buckets {
                step_ns,
                origin: 0,
                time_at_end: false,
            },
            (json::Align::From, _) if from == i64::MIN => return Err(QueryError::NoAlignment),
            (json::Align::From, Direction::Forward) => Window::Buckets {
                step_ns,
                origin: from,
                time_at_end: false,
            },
            // As the classic does: bins `(from - step, from]` count down and are named by their upper edge.
            (json::Align::From, Direction::Backward) => Window::Buckets {
                step_ns,
                origin: from.saturating_add(1),
                time_at_end: true,
            },
        },
        _ => Window::Raw,
    })
}

/// Most values of a filter times metrics that are looked for with them.
pub const LOOKS_MAX: usize = 1 << 20;

/// Whether so many metrics may be looked for with these filters.
pub(crate) fn check_looks(metrics: usize, filters: &[Alternative]) -> Result<(), QueryError> {
    let values = filters.iter().flat_map(|a| &a.selector.matchers);
    let values = values.map(|m| match &m.test {
        Test::In(texts) => texts.len(),
        _ => 1,
    });
    let values: usize = values.sum();
    if metrics.saturating_mul(values) > LOOKS_MAX {
        return Err(QueryError::TooManyLooks {
            metrics,
            values,
            limit: LOOKS_MAX,
        });
    }
    Ok(())
}

pub(crate) fn with_metric(alternative: &Alternative, metric: &str) -> Alternative {
    let mut matchers = Vec::new();
    if metric != EVERY_METRIC {
        matchers.push(Matcher::new(Label::Name, Test::Equal(metric.into())));
    }
    matchers.extend(alternative.selector.matchers.iter().cloned());
    Alternative {
        selector: Selector { matchers },
        tag_sets: alternative.tag_sets.clone(),
    }
}

pub(crate) fn alternatives(filter: &json::Filter) -> Result<Vec<Alternative>, QueryError> {
    match filter {
        json::Filter::All => Ok(vec![Alternative {
            selector: Selector::default(),
            tag_sets: None,
        }]),
        json::Filter::Tags(tags) => {
            let is_regex = |t: &&json::TagMatch| t.pattern.is_regex();
            if tags.iter().filter(is_regex).count() > alluvium_index::MAX_REGEXES {
                // Before any is read.
                let error = alluvium_index::SelectorError::TooManyRegexes;
                return Err(QueryError::Selector(Box::new(error)));
            }
            let matchers = tags
                .iter()
                .map(|t| matcher(&t.tag, &t.pattern))
                .collect::<Result<_, QueryError>>()?;
            Ok(vec![Alternative {
                selector: Selector { matchers },
                tag_sets: None,
            }])
        }
        json::Filter::Sets(sets) => Ok(by_keys(sets)),
    }
}

/// One alternative for each list of keys, not for each set: a thousand sets of the same keys are one look into
/// the index, which may find more than the sets allow; the sets then decide.
fn by_keys(sets: &[TagSet]) -> Vec<Alternative> {
    let mut lists: BTreeMap<Vec<&str>, Vec<&TagSet>> = BTreeMap::new();
    for set in sets {
        lists
            .entry(set.iter().map(|(k, _)| k.as_str()).collect())
            .or_default()
            .push(set);
    }
    let alternative = |(keys, sets): (Vec<&str>, Vec<&TagSet>)| {
        let matchers = keys.iter().enumerate().map(|(i, key)| {
            let values: BTreeSet<&str> = sets.iter().map(|set| set[i].1.as_str()).collect();
            let values = values.into_iter().map(str::to_owned).collect();
            Matcher::new(Label::Tag((*key).to_owned()), Test::In(values))
        });
        Alternative {
            selector: Selector {
                matchers: matchers.collect(),
            },
            tag_sets: Some(Arc::new(sets.into_iter().cloned().collect())),
        }
    };
    lists.into_iter().map(alternative).collect()
}

fn matcher(tag: &str, pattern: &json::Pattern) -> Result<Matcher, QueryError> {
    let label = label_named(tag);
    Ok(match pattern {
        json::Pattern::OneOf(values) => {
            let test = match values.as_slice() {
                [one] => Test::Equal(one.clone()),
                many => Test::In(many.to_vec()),
            };
            Matcher::new(label, test)
        }
        json::Pattern::Exists => Matcher::new(label, Test::Exists),
        json::Pattern::Not(inner) => matcher(tag, inner)?.negated(),
        json::Pattern::Regex(text) => {
            // By itself first: `a)(b` must not become valid by what is put around it.
            regex_syntax::parse(text).map_err(|e| QueryError::Regex {
                tag: tag.into(),
                source: Box::new(regex::Error::Syntax(e.to_string())),
            })?;
            Matcher::new(label, Test::Regex(anchored(text)))
        }
    })
}

/// The expression that must match a whole value where `text` must match some part of it. An anchor that `text`
/// brings itself is used instead of `.*`, which keeps a literal prefix visible to the index.
fn anchored(text: &str) -> String {
    // Flags and alternatives change what the anchors at the ends belong to; a repeated anchor is odd but legal.
    let repeated = |c: &char| "*+?{".contains(*c);
    if text.contains('|')
        || text.contains("(?")
        || text.chars().nth(1).is_some_and(|c| repeated(&c))
    {
        return format!(".*(?:{text}).*");
    }
    let (begin, rest) = match text.strip_prefix('^') {
        Some(rest) => ("", rest),
        None => (".*", text),
    };
    let unescaped_end = |s: &str| {
        let slashes = s.bytes().rev().take_while(|b| *b == b'\\').count();
        slashes % 2 == 0
    };
    let (inner, end) = match rest.strip_suffix('$') {
        Some(inner) if unescaped_end(inner) => (inner, ""),
        _ => (rest, ".*"),
    };
    format!("{begin}{inner}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regex_searches_and_keeps_its_own_anchors() {
        for (text, expected) in [
            ("web", ".*web.*"),
            ("^web", "web.*"),
            ("web$", ".*web"),
            ("^web$", "web"),
            (r"price\$", r".*price\$.*"),
            (r"back\\$", r".*back\\"),
            ("^*web", ".*(?:^*web).*"),
            ("^a|b$", ".*(?:^a|b$).*"),
            ("(?i)^web", ".*(?:(?i)^web).*"),
        ] {
            assert_eq!(anchored(text), expected);
            let whole = regex::Regex::new(&format!("^(?s:{expected})$")).unwrap();
            let part = regex::Regex::new(text).unwrap();
            for value in [
                "web", "web1", "a web", "WEB", "price$", "price", "back\\", "abc", "b", "",
            ] {
                assert_eq!(
                    whole.is_match(value),
                    part.is_match(value),
                    "{text} on {value:?}"
                );
            }
        }
    }

    #[test]
    fn an_invalid_regex_names_its_tag() {
        let pattern = json::Pattern::Regex("a)(b".into());
        let error = matcher("host", &pattern).unwrap_err();
        assert_eq!(error.code(), "bad_regex");
        assert!(error.to_string().contains("host"), "{error}");
    }

    #[test]
    fn tag_sets_of_equal_keys_are_one_look() {
        let set = |host: &str, dc: &str| {
            vec![
                ("dc".to_owned(), dc.to_owned()),
                ("host".to_owned(), host.to_owned()),
            ]
        };
        let found = by_keys(&[
            set("a", "1"),
            set("b", "2"),
            vec![("host".into(), "c".into())],
        ]);
        assert_eq!(found.len(), 2);
        let key =
            |host: &str, dc: &str| alluvium_types::SeriesKey::new("m", set(host, dc)).unwrap();
        assert!(found[0].admits(&key("a", "1")) && !found[0].admits(&key("a", "2")));
    }
}
