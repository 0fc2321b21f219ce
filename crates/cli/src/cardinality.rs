//! `alluvium cardinality`: an HTTP client of `/api/cardinality`.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::Value;

use crate::args::CardinalityArgs;
use crate::client::Client;
use crate::error::CliError;

pub(crate) fn run(args: &CardinalityArgs) -> Result<(), CliError> {
    let mut client = Client::new(&args.server.url, args.server.token.as_deref())
        .map_err(CliError::io("cannot ask the server"))?;
    let path = format!(
        "/api/cardinality?db={}&top={}&days={}",
        args.db, args.top, args.days
    );
    let answer = client
        .request("GET", &path, &[], b"")
        .map_err(CliError::asking(&args.server.url))?;
    let text = answer.text();
    let answered: Option<Value> = serde_json::from_str(&text).ok();
    let Some(value) = answered.filter(|_| answer.status == 200) else {
        let value: Option<Value> = serde_json::from_str(&text).ok();
        let sentence = value.and_then(|v| Some(v.get("error")?.as_str()?.to_owned()));
        return Err(CliError::Said(sentence.unwrap_or(text)));
    };
    let printed = if args.json {
        format!("{value:#}\n")
    } else {
        report(&value)
    };
    let mut out = std::io::stdout().lock();
    out.write_all(printed.as_bytes())
        .and_then(|()| out.flush())
        .map_err(CliError::io("cannot print"))
}

/// A number, with a tilde before an estimate.
fn number(value: &Value) -> String {
    let count = value["count"].as_u64().unwrap_or_default();
    if value["exact"] == true {
        count.to_string()
    } else {
        format!("~{count}")
    }
}

fn report(value: &Value) -> String {
    let mut out = format!(
        "{} series, {} tag sets, {} measurements, {} tags; ~ marks estimates\n",
        number(&value["series"]),
        number(&value["tag_sets"]),
        number(&value["measurement_count"]),
        number(&value["tag_count"]),
    );
    list(
        &mut out,
        value,
        "measurements",
        &["series", "tag_sets", "measurement"],
    );
    list(&mut out, value, "tags", &["values", "tag_sets", "tag"]);
    list(&mut out, value, "values", &["tag_sets", "tag", "value"]);
    list(
        &mut out,
        value,
        "days",
        &["tag_sets", "new", "day of points"],
    );
    for warning in value["warnings"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "\n{}", warning.as_str().unwrap_or_default());
    }
    let rate = &value["new_series"];
    let minutes = rate["last_minutes"].as_array().map_or(0, Vec::len);
    let _ = writeln!(
        out,
        "\nnew series: {} in this minute, {:.1} a minute in the {minutes} before it",
        number(&rate["this_minute"]),
        rate["per_minute"].as_f64().unwrap_or_default(),
    );
    out
}

/// A table of one list, numbers in front.
fn list(out: &mut String, value: &Value, name: &str, columns: &[&str]) {
    let Some(entries) = value[name].as_array().filter(|e| !e.is_empty()) else {
        return;
    };
    out.push('\n');
    for column in columns {
        let _ = write!(out, "{column:>12} ");
    }
    out.push('\n');
    for entry in entries {
        for column in columns {
            // A column's first word names what is in it.
            let cell = &entry[column.split(' ').next().unwrap_or_default()];
            let cell = cell.as_str().map_or_else(|| number(cell), str::to_owned);
            let _ = write!(out, "{cell:>12} ");
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_marked() {
        let exact = |n: u64| serde_json::json!({ "count": n, "exact": true });
        let about = |n: u64| serde_json::json!({ "count": n, "exact": false });
        let text = report(&serde_json::json!({
            "series": exact(7), "tag_sets": exact(5), "measurement_count": exact(1), "tag_count": exact(2),
            "measurements": [{ "measurement": "cpu", "series": exact(7), "tag_sets": exact(5) }],
            "tags": [{ "tag": "host", "values": about(99), "tag_sets": exact(5) }],
            "values": [], "days": [{ "day": "1970-01-21", "tag_sets": exact(1), "new": about(1) }],
            "partial": true, "warnings": ["partial: up to 3 tag sets of partition 1 may be missing"],
            "new_series": { "this_minute": exact(3), "last_minutes": [4, 8], "per_minute": 6.0 },
        }));
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(
            lines[0],
            "7 series, 5 tag sets, 1 measurements, 2 tags; ~ marks estimates"
        );
        assert!(lines.contains(&"7            5          cpu"), "{text}");
        assert!(lines.contains(&"~99            5         host"), "{text}");
        let days = lines
            .iter()
            .position(|line| line.ends_with("day of points"));
        assert!(
            lines[days.map_or(0, |at| at + 1)].ends_with("~1   1970-01-21"),
            "{text}"
        );
        let warning = "partial: up to 3 tag sets of partition 1 may be missing";
        assert!(lines.contains(&warning), "{text}");
        assert_eq!(
            lines.last(),
            Some(&"new series: 3 in this minute, 6.0 a minute in the 2 before it")
        );
    }
}
