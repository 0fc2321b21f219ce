//! What a plan will do, as text.

use std::fmt::Write;

use alluvium_types::Number;

use crate::Direction;
use crate::plan::{Fill, Grouping, Order, Plan, Window};
use crate::{Label, Matcher, Test};

/// Longest list that is written out.
const LISTED_MAX: usize = 5;

/// The steps of a plan, one a line, in the order the rows pass them. The text is stable within a version.
///
/// ```
/// use alluvium_protocol::json::Request;
///
/// let request = Request::parse(br#"{"select": "cpu", "limit": 10}"#, 0)?;
/// let text = alluvium_query::explain(&alluvium_query::plan(&request)?);
/// assert_eq!(text, "select cpu where everything\n\
///                   range everything, oldest first\n\
///                   scan points\n\
///                   order by time\n\
///                   emit at most 10 rows: value\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn explain(plan: &Plan) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_steps(plan, &mut text);
    text
}

fn write_steps(plan: &Plan, out: &mut String) -> std::fmt::Result {
    for selection in &plan.selections {
        for (i, alternative) in selection.alternatives.iter().enumerate() {
            let verb = if i == 0 { "select" } else { "   and" };
            write!(out, "{verb} {} where ", selection.metric)?;
            // The first matcher is the metric itself.
            let conditions: Vec<String> = alternative
                .selector
                .matchers
                .iter()
                .filter(|m| {
                    !(m.label == Label::Name && m.test == Test::Equal(selection.metric.clone()))
                })
                .map(condition)
                .collect();
            let conditions = if conditions.is_empty() {
                "everything".into()
            } else {
                conditions.join(" and ")
            };
            out.push_str(&conditions);
            if let Some(sets) = &alternative.tag_sets {
                write!(out, ", of which {} exact tag sets", sets.len())?;
            }
            out.push('\n');
        }
    }
    let range = plan.range;
    let ends = match (range.begin(), range.end()) {
        (i64::MIN, i64::MAX) => "everything".into(),
        (i64::MIN, end) => format!("up to {end} ns"),
        (begin, i64::MAX) => format!("from {begin} ns"),
        (begin, end) => format!("{begin} ns up to {end} ns"),
    };
    let direction = match plan.direction {
        Direction::Forward => "oldest first",
        Direction::Backward => "newest first",
    };
    writeln!(out, "range {ends}, {direction}")?;
    match plan.window {
        Window::Raw => writeln!(out, "scan points")?,
        Window::Whole { .. } => writeln!(out, "aggregate the whole range from inner nodes")?,
        Window::Buckets {
            step_ns,
            origin,
            time_at_end,
        } => {
            let named = if time_at_end {
                ", named by their last instant"
            } else {
                ""
            };
            writeln!(
                out,
                "aggregate bins of {step_ns} ns counted from {origin} ns from inner nodes{named}"
            )?;
        }
    }
    match &plan.grouping {
        Grouping::None => {}
        Grouping::Without(tags) => {
            writeln!(out, "combine series equal without tags {}", list(tags))?;
        }
        Grouping::Only(tags) => writeln!(out, "combine series equal in tags {}", list(tags))?,
    }
    match plan.fill {
        Fill::None => {}
        Fill::Null => writeln!(out, "fill bins without points with nothing")?,
        Fill::Previous => writeln!(out, "fill bins without points with the bin before")?,
        Fill::Linear => writeln!(
            out,
            "fill bins without points along the line between neighbours"
        )?,
        Fill::Value(Number::Integer(v)) => writeln!(out, "fill bins without points with {v}")?,
        Fill::Value(Number::Float(v)) => writeln!(out, "fill bins without points with {v}")?,
    }
    match (plan.window, plan.order) {
        (Window::Whole { .. }, _) | (_, Order::Series) => {
            writeln!(out, "order by series, one open at a time")?;
        }
        (_, Order::Time) => writeln!(out, "order by time")?,
    }
    out.push_str("emit ");
    match plan.limit {
        Some(limit) => write!(out, "at most {limit} rows")?,
        None => out.push_str("every row"),
    }
    if plan.offset > 0 {
        write!(out, " behind the first {}", plan.offset)?;
    }
    let names: Vec<String> = plan.columns().into_iter().map(|c| c.name).collect();
    writeln!(out, ": {}", names.join(", "))
}

fn condition(m: &Matcher) -> String {
    let label = m.label.name();
    match (&m.test, m.negated) {
        (Test::Equal(v), false) => format!("{label} = {v:?}"),
        (Test::Equal(v), true) => format!("{label} != {v:?}"),
        (Test::In(v), false) => format!("{label} in {}", list(v)),
        (Test::In(v), true) => format!("{label} not in {}", list(v)),
        (Test::Regex(v), false) => format!("{label} =~ {v:?}"),
        (Test::Regex(v), true) => format!("{label} !~ {v:?}"),
        (Test::Exists, false) => format!("{label} exists"),
        (Test::Exists, true) => format!("{label} is absent"),
    }
}

fn list(texts: &[String]) -> String {
    let mut shown: Vec<String> = texts
        .iter()
        .take(LISTED_MAX)
        .map(|t| format!("{t:?}"))
        .collect();
    if texts.len() > LISTED_MAX {
        shown.push(format!("{} more", texts.len() - LISTED_MAX));
    }
    format!("[{}]", shown.join(", "))
}
