//! `alluvium delete`: an HTTP client of `/api/delete`.

use serde_json::{Map, Value, json};

use crate::args::DeleteArgs;
use crate::client::Client;
use crate::error::CliError;

/// Comparisons as they are written, the longer ones before those they begin with.
const SIGNS: [&str; 6] = ["<=", ">=", "!=", "<", ">", "="];

pub(crate) fn run(args: &DeleteArgs) -> Result<(), CliError> {
    let body = to_json(args).map_err(CliError::Said)?;
    let mut client = Client::new(&args.server.url, args.server.token.as_deref())
        .map_err(CliError::io("cannot ask the server"))?;
    let path = format!("/api/delete?db={}", args.db);
    let answer = client
        .request("POST", &path, &[], body.to_string().as_bytes())
        .map_err(CliError::asking(&args.server.url))?;
    let text = answer.text();
    let answered: Option<Value> = serde_json::from_str(&text).ok();
    let get = |name: &str| answered.as_ref().and_then(|v| v.get(name));
    if answer.status != 200 {
        let sentence = get("error").and_then(Value::as_str);
        return Err(CliError::Said(sentence.unwrap_or(&text).to_owned()));
    }
    let count = |name: &str| get(name).and_then(Value::as_u64).unwrap_or_default();
    let would = if args.dry_run {
        "would delete"
    } else {
        "deleted"
    };
    println!(
        "{would} {} points of {} series",
        count("points"),
        count("series")
    );
    Ok(())
}

fn to_json(args: &DeleteArgs) -> Result<Value, String> {
    let mut body = Map::new();
    let lists = [
        ("metric", &args.metric),
        ("measurement", &args.measurement),
        ("field", &args.field),
    ];
    for (name, list) in lists {
        if !list.is_empty() {
            body.insert(name.into(), json!(list));
        }
    }
    let mut tags: Map<String, Value> = Map::new();
    for pair in &args.tags {
        let (tag, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("{pair:?} is not TAG=VALUE"))?;
        // The same tag again is another value it may have.
        match tags.entry(tag).or_insert_with(|| json!([])) {
            Value::Array(values) => values.push(value.into()),
            other => *other = json!([value]),
        }
    }
    if !tags.is_empty() {
        body.insert("where".into(), tags.into());
    }
    let ends = [("from", &args.from), ("to", &args.to)];
    let range: Map<String, Value> = ends
        .into_iter()
        .filter_map(|(name, end)| Some((name.to_owned(), end.as_deref()?.into())))
        .collect();
    if !range.is_empty() {
        body.insert("range".into(), range.into());
    }
    let mut comparisons = Map::new();
    for text in &args.value {
        let bad = || format!("{text:?} is no comparison with a number, such as \">100\"");
        let sign = SIGNS.iter().find(|s| text.starts_with(**s));
        let sign = *sign.ok_or_else(bad)?;
        let number = number(text[sign.len()..].trim()).ok_or_else(bad)?;
        if comparisons.insert(sign.into(), number).is_some() {
            return Err(format!("the comparison {sign:?} is given twice"));
        }
    }
    if !comparisons.is_empty() {
        body.insert("value".into(), comparisons.into());
    }
    for (name, flag) in [("all", args.all), ("dry-run", args.dry_run)] {
        if flag {
            body.insert(name.into(), true.into());
        }
    }
    Ok(body.into())
}

/// A number as JSON has it; one past the floats' 53 bits is not rounded.
fn number(text: &str) -> Option<Value> {
    let integer = text.parse::<i64>().map(Value::from).ok();
    let integer = integer.or_else(|| text.parse::<u64>().map(Value::from).ok());
    integer.or_else(|| Some(json!(text.parse::<f64>().ok().filter(|v| v.is_finite())?)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn body(flags: &[&str]) -> Result<Value, String> {
        let words = ["alluvium", "delete"].iter().chain(flags);
        let Command::Delete(args) = Cli::try_parse_from(words)
            .map_err(|e| e.to_string())?
            .command
        else {
            panic!("another command");
        };
        to_json(&args)
    }

    #[test]
    fn flags_become_a_request() {
        let flags = [
            "--measurement",
            "cpu",
            "--where",
            "host=a",
            "--where",
            "host=b",
            "--where",
            "dc=x=y",
            "--from",
            "now-1h",
            "--value",
            ">=1.5",
            "--value",
            "< 9",
            "--dry-run",
        ];
        let expected = json!({
            "measurement": ["cpu"], "where": {"host": ["a", "b"], "dc": ["x=y"]},
            "range": {"from": "now-1h"}, "value": {">=": 1.5, "<": 9}, "dry-run": true,
        });
        assert_eq!(body(&flags), Ok(expected));
        assert_eq!(body(&["--all"]), Ok(json!({ "all": true })));
        for bad in [&["--where", "host"], &["--value", "5"], &["--value", ">x"]] {
            assert!(body(bad).is_err(), "{bad:?}");
        }
    }
}
