//! `alluvium query`: an HTTP client of `/api/query`.

use std::io::Write;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::args::{Format, QueryArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::short_query::to_json;

/// Rows whose widths a table is measured by; longer cells of later rows stick out.
const MEASURED_ROWS: usize = 1000;

pub(crate) fn run(args: &QueryArgs) -> Result<(), CliError> {
    let mut query = to_json(&args.query).map_err(CliError::Said)?;
    let Some(fields) = query.as_object_mut() else {
        return Err(CliError::said("a query is a JSON object"));
    };
    if !fields.contains_key("output") {
        let output = match args.format {
            Format::Json => json!({ "format": "json" }),
            Format::Csv => json!({ "format": "csv", "header": true }),
            Format::Table => json!({ "format": "csv", "header": true, "timestamp": "iso" }),
        };
        fields.insert("output".into(), output);
    }
    let is_table = args.format == Format::Table && fields["output"]["format"] == "csv";
    let mut client = Client::new(&args.server.url, args.server.token.as_deref())
        .map_err(CliError::io("cannot ask the server"))?;
    let answer = client
        .request(
            "POST",
            &format!("/api/query?db={}", args.db),
            &[],
            query.to_string().as_bytes(),
        )
        .map_err(CliError::asking(&args.server.url))?;
    let text = answer.text();
    if answer.status != 200 {
        let sentence = serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|v| Some(v.get("error")?.as_str()?.to_owned()))
            .unwrap_or(text);
        return Err(CliError::Said(sentence));
    }
    let (rows, ending) = if query["explain"] == true {
        (&*text, Ok(()))
    } else if query["output"]["format"] == "csv" {
        ending_of_csv(&text)
    } else {
        (&*text, ending_of_json(&text))
    };
    let aligned;
    let printed = if is_table && query["explain"] != true {
        aligned = table(rows);
        &aligned
    } else {
        &text
    };
    let mut out = std::io::stdout().lock();
    out.write_all(printed.as_bytes())
        .and_then(|()| out.flush())
        .map_err(CliError::io("cannot print"))?;
    ending
}

/// The rows, and whether they are all: the last line of others begins with a hyphen, as no row does.
fn ending_of_csv(text: &str) -> (&str, Result<(), CliError>) {
    let lines = text.strip_suffix('\n').unwrap_or(text);
    let (rows, last) = text.split_at(lines.rfind('\n').map_or(0, |at| at + 1));
    match last.strip_prefix('-') {
        // Behind an odd number of quotes it is a line of a text.
        Some(why) if rows.matches('"').count() % 2 == 0 => {
            (rows, Err(CliError::said(why.trim_end())))
        }
        _ => (text, Ok(())),
    }
}

/// What stands behind the rows.
#[derive(Debug, Deserialize)]
struct Ending {
    error: Option<String>,
    #[serde(default)]
    partial: bool,
    #[serde(default)]
    warnings: Vec<String>,
}

fn ending_of_json(text: &str) -> Result<(), CliError> {
    let ending: Ending = serde_json::from_str(text)
        .map_err(|e| CliError::Said(format!("the answer is not valid JSON: {e}")))?;
    match ending.error {
        Some(error) => Err(CliError::Said(error)),
        None if ending.partial => Err(CliError::Partial(ending.warnings.join("; "))),
        None => Ok(()),
    }
}

/// Csv with aligned columns.
fn table(csv: &str) -> String {
    let rows: Vec<Vec<String>> = csv.lines().map(split_csv).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in rows.iter().take(MEASURED_ROWS) {
        for (i, cell) in row.iter().enumerate() {
            if widths.len() <= i {
                widths.push(0);
            }
            widths[i] = widths[i].max(cell.chars().count());
        }
    }
    let mut out = String::with_capacity(csv.len() * 2);
    for row in &rows {
        for (i, cell) in row.iter().enumerate() {
            let width = widths.get(i).copied().unwrap_or_default();
            let pad = width.saturating_sub(cell.chars().count());
            let is_number = cell.parse::<f64>().is_ok() || cell.is_empty();
            if i > 0 {
                out.push_str("  ");
            }
            if is_number && i > 0 {
                out.extend(std::iter::repeat_n(' ', pad));
                out.push_str(cell);
            } else {
                out.push_str(cell);
                if i + 1 < row.len() {
                    out.extend(std::iter::repeat_n(' ', pad));
                }
            }
        }
        out.push('\n');
    }
    out
}

/// The cells of one line of RFC 4180; a line feed inside quotes ends the cell.
fn split_csv(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let at = cells.len() - 1;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cells[at].push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells[at].push(c),
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let text = table("series,time,v\nm host=a,5,1.5\n\"m \"\"x\"\", y\",17,\n");
        assert_eq!(
            text,
            "series    time  v\nm host=a     5  1.5\nm \"x\", y    17     \n"
        );
    }
}
