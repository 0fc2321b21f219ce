//! Queries in a few words, for typing: `mean cpu_usage_user where host=a by host every 1h since 1d`.

use serde_json::{Map, Value, json};

/// The JSON query of a text: itself if it is JSON, otherwise what its words say.
///
/// ```text
/// select METRIC[,METRIC] [where TAG=VALUE,...]... [by TAG,...] [since AGO|from T] [to T] [last|limit N]
/// FUNC[,FUNC] METRIC[,METRIC] ... [every STEP]
/// ```
pub(crate) fn to_json(words: &[String]) -> Result<Value, String> {
    let text = words.join(" ");
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(&text)
            .map_err(|e| format!("the query is not valid JSON: {e}"));
    }
    let mut words = text.split_whitespace();
    let usage = "write a query like `mean cpu_usage_user by host every 1h since 1d` or `select cpu_usage_user limit 10`";
    let (Some(functions), Some(metrics)) = (words.next(), words.next()) else {
        return Err(usage.into());
    };
    let list = |text: &str| -> Value {
        let mut parts: Vec<Value> = text.split(',').map(Value::from).collect();
        if parts.len() == 1 {
            parts.remove(0)
        } else {
            parts.into()
        }
    };
    let mut query = Map::new();
    let mut range = Map::new();
    let mut tags = Map::new();
    let mut step = None;
    let mut said = Vec::new();
    while let Some(word) = words.next() {
        let Some(value) = words.next() else {
            return Err(format!("{word:?} needs something behind it; {usage}"));
        };
        let part = if word == "since" { "from" } else { word };
        if part != "where" && said.contains(&part) {
            return Err(format!(
                "{word:?} says another time what was said before it; {usage}"
            ));
        }
        said.push(part);
        match word {
            "where" => {
                for pair in value.split(',') {
                    let (tag, value) = pair
                        .split_once('=')
                        .ok_or_else(|| format!("{pair:?} is not TAG=VALUE; {usage}"))?;
                    // The same tag again is another value it may have.
                    match tags.get_mut(tag) {
                        None => {
                            tags.insert(tag.into(), value.into());
                        }
                        Some(Value::Array(values)) => values.push(value.into()),
                        Some(one) => *one = json!([one.take(), value]),
                    }
                }
            }
            "by" => {
                query.insert("pivot-by-tag".into(), list(value));
            }
            "every" => step = Some(value),
            "since" => {
                range.insert("from".into(), format!("now-{value}").into());
            }
            "from" | "to" => {
                let time = value
                    .parse::<i64>()
                    .map_or_else(|_| value.into(), Value::from);
                range.insert(word.into(), time);
            }
            "limit" => {
                let rows: u64 = value
                    .parse()
                    .map_err(|_| format!("{value:?} is no number of rows; {usage}"))?;
                query.insert("limit".into(), rows.into());
            }
            other => return Err(format!("{other:?} is not understood; {usage}")),
        }
    }
    if !tags.is_empty() {
        query.insert("where".into(), tags.into());
    }
    match (functions, step) {
        ("select", None) => query.insert("select".into(), list(metrics)),
        ("select", Some(_)) => return Err(format!("select has no bins; {usage}")),
        (functions, Some(step)) => query.insert(
            "group-aggregate".into(),
            json!({ "metric": list(metrics), "step": step, "func": list(functions) }),
        ),
        (functions, None) => {
            let each = metrics.split(',').map(|m| (m.to_owned(), list(functions)));
            query.insert("aggregate".into(), Value::Object(each.collect()))
        }
    };
    if !range.is_empty() {
        query.insert("range".into(), range.into());
    }
    Ok(query.into())
}

#[cfg(test)]
mod tests {
    use alluvium_protocol::json::Request;

    use super::*;

    fn json(text: &str) -> Value {
        let query = to_json(&[text.to_owned()]).unwrap();
        Request::parse(query.to_string().as_bytes(), 1_700_000_000_000_000_000).unwrap();
        query
    }

    #[test]
    fn words_become_queries() {
        assert_eq!(
            json("mean,max cpu by host,dc every 1h since 1d where host=a,host=b,dc=x"),
            json!({
                "group-aggregate": {"metric": "cpu", "step": "1h", "func": ["mean", "max"]},
                "pivot-by-tag": ["host", "dc"], "range": {"from": "now-1d"},
                "where": {"host": ["a", "b"], "dc": "x"},
            })
        );
        assert_eq!(
            json("select a,b from 5 to now limit 3"),
            json!({"select": ["a", "b"], "range": {"from": 5, "to": "now"}, "limit": 3})
        );
        assert_eq!(
            json("count m where host=a where dc=x where host=b"),
            json!({"aggregate": {"m": "count"}, "where": {"host": ["a", "b"], "dc": "x"}})
        );
        assert_eq!(json("count m"), json!({"aggregate": {"m": "count"}}));
        assert_eq!(json(r#"{"select": "m"}"#), json!({"select": "m"}));
    }

    #[test]
    fn words_that_are_none_are_refused() {
        for bad in [
            "",
            "mean",
            "mean m every",
            "mean m sometimes 3",
            "select m every 1h",
            "mean m where x",
            "select m limit x",
            "{x",
            "count m by host by dc",
            "mean m every 1h every 2h",
            "select m limit 1 limit 2",
            "select m since 1d since 2d",
            "select m since 1d from 5",
            "select m to 5 to 6",
        ] {
            assert!(to_json(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
