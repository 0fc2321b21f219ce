//! Rows of answers as text, streamed: json and csv.

use alluvium_types::ValueRef;

use crate::json::{Format, Output, Shape, TimeFormat};
use crate::text::{one_line, write_integer, write_json_string};
use crate::time::write_rfc3339;

/// The name of one series in answers, written once in every form that rows need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesName {
    name: String,
    json: Vec<u8>,
    csv: Vec<u8>,
    labels: Vec<u8>,
}

impl SeriesName {
    /// The name `metric tag=value tag2=value2`; space, `=` and backslash behind a backslash. Tags are taken in
    /// the order given, which should be by key.
    pub fn new<'t>(metric: &str, tags: impl IntoIterator<Item = (&'t str, &'t str)>) -> Self {
        let mut name = String::new();
        let mut labels = Vec::from(b"{\"__name__\":");
        write_escaped(&mut name, metric);
        write_json_string(&mut labels, metric);
        for (key, value) in tags {
            name.push(' ');
            write_escaped(&mut name, key);
            name.push('=');
            write_escaped(&mut name, value);
            labels.push(b',');
            write_json_string(&mut labels, key);
            labels.push(b':');
            write_json_string(&mut labels, value);
        }
        labels.push(b'}');
        let (mut json, mut csv) = (Vec::new(), Vec::new());
        write_json_string(&mut json, &name);
        write_csv_field(&mut csv, &name);
        Self {
            name,
            json,
            csv,
            labels,
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

fn write_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        if matches!(c, ' ' | '=' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
}

/// Quotes as RFC 4180 asks, and also a text that begins with a hyphen, because such a line is an error.
fn write_csv_field(out: &mut Vec<u8>, text: &str) {
    let plain = !text.is_empty()
        && !text.starts_with('-')
        && !text
            .bytes()
            .any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r'));
    if plain {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// Writes an answer into a buffer that the caller drains as it grows.
///
/// Call [`Self::begin`], then [`Self::row`] for each row, then [`Self::finish`]; take bytes with [`Self::take`]
/// at any time. With [`Shape::Series`] all rows of a series must follow each other; a series that comes again is
/// a second entry of the list.
///
/// ```
/// use alluvium_protocol::{RowWriter, SeriesName, json::Output};
/// use alluvium_types::ValueRef;
///
/// let mut writer = RowWriter::new(Output::default());
/// let series = SeriesName::new("cpu_idle", [("host", "a")]);
/// writer.begin(&["value"]);
/// writer.row(&series, 7, &[Some(ValueRef::F64(0.5))]);
/// writer.finish(&[], None, None);
/// assert_eq!(
///     writer.take(),
///     br#"{"columns":["series","time","value"],"rows":[["cpu_idle host=a",7,0.5]],"warnings":[],"stats":{},"error":null}"#
/// );
/// ```
#[derive(Debug)]
pub struct RowWriter {
    output: Output,
    out: Vec<u8>,
    rows: u64,
    /// With series shape: the open series, encoded.
    open: Option<Vec<u8>>,
    /// Why points are missing.
    partial: Option<String>,
}

impl RowWriter {
    /// A writer of this format.
    pub fn new(output: Output) -> Self {
        Self {
            output,
            out: Vec::new(),
            rows: 0,
            open: None,
            partial: None,
        }
    }

    /// The value of the `Content-Type` header.
    pub fn content_type(&self) -> &'static str {
        match self.output.format {
            Format::Json => "application/json",
            Format::Csv => "text/csv; charset=utf-8",
        }
    }

    /// Bytes waiting to be taken.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing waits to be taken.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Rows written so far, taken or not.
    pub fn row_count(&self) -> u64 {
        self.rows
    }

    /// Hands over what was written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        let capacity = self.out.len();
        std::mem::replace(&mut self.out, Vec::with_capacity(capacity))
    }

    /// Writes what comes before the first row. `values` names the columns behind `series` and `time`.
    pub fn begin<S: AsRef<str>>(&mut self, values: &[S]) {
        let names: &[&str] = if self.is_series() {
            &["time"]
        } else {
            &["series", "time"]
        };
        let names = names
            .iter()
            .copied()
            .chain(values.iter().map(AsRef::as_ref));
        match self.output.format {
            Format::Json => {
                self.out.extend_from_slice(b"{\"columns\":[");
                for (i, name) in names.enumerate() {
                    if i > 0 {
                        self.out.push(b',');
                    }
                    write_json_string(&mut self.out, name);
                }
                self.out.extend_from_slice(if self.is_series() {
                    b"],\"series\":["
                } else {
                    b"],\"rows\":["
                });
            }
            Format::Csv if self.output.header => {
                for (i, name) in names.enumerate() {
                    if i > 0 {
                        self.out.push(b',');
                    }
                    write_csv_field(&mut self.out, name);
                }
                self.out.push(b'\n');
            }
            Format::Csv => {}
        }
    }

    fn is_series(&self) -> bool {
        self.output.format == Format::Json && self.output.shape == Shape::Series
    }

    /// Writes one row; `None` is a missing value.
    pub fn row(&mut self, series: &SeriesName, time_ns: i64, values: &[Option<ValueRef<'_>>]) {
        match self.output.format {
            Format::Json => self.json_row(series, time_ns, values),
            Format::Csv => self.csv_row(series, time_ns, values),
        }
        self.rows += 1;
    }

    fn json_row(&mut self, series: &SeriesName, time_ns: i64, values: &[Option<ValueRef<'_>>]) {
        if self.is_series() {
            if self.open.as_ref() == Some(&series.json) {
                self.out.extend_from_slice(b",[");
            } else {
                if self.open.is_some() {
                    self.out.extend_from_slice(b"]},");
                }
                self.out.extend_from_slice(b"{\"name\":");
                self.out.extend_from_slice(&series.json);
                self.out.extend_from_slice(b",\"labels\":");
                self.out.extend_from_slice(&series.labels);
                self.out.extend_from_slice(b",\"rows\":[[");
                self.open = Some(series.json.clone());
            }
        } else {
            if self.rows > 0 {
                self.out.push(b',');
            }
            self.out.push(b'[');
            self.out.extend_from_slice(&series.json);
            self.out.push(b',');
        }
        match self.output.timestamp {
            TimeFormat::Raw => write_integer(&mut self.out, time_ns),
            TimeFormat::Iso => {
                self.out.push(b'"');
                write_rfc3339(&mut self.out, time_ns);
                self.out.push(b'"');
            }
        }
        for value in values {
            self.out.push(b',');
            match value {
                None => self.out.extend_from_slice(b"null"),
                Some(ValueRef::F64(v)) if !v.is_finite() => {
                    self.out.push(b'"');
                    write_float(&mut self.out, *v);
                    self.out.push(b'"');
                }
                Some(ValueRef::Str(text)) => write_json_string(&mut self.out, text),
                Some(value) => write_plain(&mut self.out, *value),
            }
        }
        self.out.push(b']');
    }

    fn csv_row(&mut self, series: &SeriesName, time_ns: i64, values: &[Option<ValueRef<'_>>]) {
        self.out.extend_from_slice(&series.csv);
        self.out.push(b',');
        match self.output.timestamp {
            TimeFormat::Raw => write_integer(&mut self.out, time_ns),
            TimeFormat::Iso => write_rfc3339(&mut self.out, time_ns),
        }
        for value in values {
            self.out.push(b',');
            match value {
                None => {}
                Some(ValueRef::Str(text)) => write_csv_field(&mut self.out, text),
                Some(value) => write_plain(&mut self.out, *value),
            }
        }
        self.out.push(b'\n');
    }

    /// Says that points are missing from the rows, and why: json ends with `"partial":true`, csv with a line that begins
    /// with a hyphen, unless an error follows.
    pub fn set_partial(&mut self, why: String) {
        self.partial = Some(why);
    }

    /// Writes what comes behind the last row. `stats` is the text of a JSON object; `error` says why the rows
    /// end early. Csv carries neither warnings nor stats; its error is a last line that begins with a hyphen.
    pub fn finish(&mut self, warnings: &[String], stats: Option<&str>, error: Option<&str>) {
        if self.output.format == Format::Csv {
            if let Some(error) = error.or(self.partial.as_deref()) {
                self.out.push(b'-');
                self.out.extend_from_slice(one_line(error).as_bytes());
                self.out.push(b'\n');
            }
            return;
        }
        if self.open.take().is_some() {
            self.out.extend_from_slice(b"]}");
        }
        self.out.extend_from_slice(b"],\"warnings\":[");
        for (i, warning) in warnings.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            write_json_string(&mut self.out, warning);
        }
        self.out.extend_from_slice(b"],\"stats\":");
        self.out.extend_from_slice(stats.unwrap_or("{}").as_bytes());
        if self.partial.is_some() {
            self.out.extend_from_slice(b",\"partial\":true");
        }
        self.out.extend_from_slice(b",\"error\":");
        match error {
            Some(error) => write_json_string(&mut self.out, error),
            None => self.out.extend_from_slice(b"null"),
        }
        self.out.push(b'}');
    }
}

/// A value whose text needs no quotes in either format.
fn write_plain(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::F64(v) => write_float(out, v),
        ValueRef::I64(v) => write_integer(out, v),
        ValueRef::U64(v) => write_integer(out, v),
        ValueRef::Bool(v) => out.extend_from_slice(if v { b"true" } else { b"false" }),
        ValueRef::Str(v) => out.extend_from_slice(v.as_bytes()),
    }
}

/// The shortest text that reads back to the same bits (Adams 2018, *Ryū*); -0.0 keeps its sign.
fn write_float(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else {
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(output: Output, error: Option<&str>) -> String {
        let mut writer = RowWriter::new(output);
        let a = SeriesName::new("m x", [("host", "o'b=\"1\"")]);
        let b = SeriesName::new("-n", [("h", "a,b")]);
        writer.begin(&["m:min", "m:max"]);
        let mut text = writer.take();
        writer.row(&a, 1, &[Some(ValueRef::F64(-0.0)), None]);
        writer.row(
            &a,
            -1,
            &[
                Some(ValueRef::F64(f64::NAN)),
                Some(ValueRef::F64(f64::NEG_INFINITY)),
            ],
        );
        text.extend(writer.take());
        writer.row(
            &b,
            2,
            &[Some(ValueRef::I64(i64::MIN)), Some(ValueRef::U64(u64::MAX))],
        );
        writer.row(
            &b,
            3,
            &[
                Some(ValueRef::Str("a\n\"b\"\u{1}")),
                Some(ValueRef::Str("")),
            ],
        );
        writer.row(
            &b,
            4,
            &[Some(ValueRef::Bool(true)), Some(ValueRef::F64(1e300))],
        );
        writer.finish(&["w".into()], Some("{\"pages\":1}"), error);
        assert_eq!(writer.row_count(), 5);
        text.extend(writer.take());
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn json_rows() {
        let text = write(Output::default(), None);
        assert_eq!(
            text,
            concat!(
                r#"{"columns":["series","time","m:min","m:max"],"rows":["#,
                r#"["m\\ x host=o'b\\=\"1\"",1,-0.0,null],["m\\ x host=o'b\\=\"1\"",-1,"NaN","-Inf"],"#,
                r#"["-n h=a,b",2,-9223372036854775808,18446744073709551615],"#,
                r#"["-n h=a,b",3,"a\n\"b\"\u0001",""],["-n h=a,b",4,true,1e300]],"#,
                r#""warnings":["w"],"stats":{"pages":1},"error":null}"#
            )
        );
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }

    #[test]
    fn json_series_and_iso_times() {
        let output = Output {
            shape: Shape::Series,
            timestamp: TimeFormat::Iso,
            ..Output::default()
        };
        let text = write(output, Some("it \"broke\""));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            json["columns"],
            serde_json::json!(["time", "m:min", "m:max"])
        );
        assert_eq!(json["series"].as_array().unwrap().len(), 2);
        assert_eq!(json["series"][0]["labels"]["host"], "o'b=\"1\"");
        assert_eq!(json["series"][0]["labels"]["__name__"], "m x");
        assert_eq!(json["series"][1]["rows"].as_array().unwrap().len(), 3);
        assert_eq!(
            json["series"][1]["rows"][0][0],
            "1970-01-01T00:00:00.000000002Z"
        );
        assert_eq!(
            json["series"][0]["rows"][1][0],
            "1969-12-31T23:59:59.999999999Z"
        );
        assert_eq!(json["error"], "it \"broke\"");
    }

    #[test]
    fn csv_rows() {
        let output = Output {
            format: Format::Csv,
            header: true,
            ..Output::default()
        };
        assert_eq!(
            write(output, Some("it\nbroke")),
            "series,time,m:min,m:max\n\
             \"m\\ x host=o'b\\=\"\"1\"\"\",1,-0.0,\n\
             \"m\\ x host=o'b\\=\"\"1\"\"\",-1,NaN,-Inf\n\
             \"-n h=a,b\",2,-9223372036854775808,18446744073709551615\n\
             \"-n h=a,b\",3,\"a\n\"\"b\"\"\u{1}\",\"\"\n\
             \"-n h=a,b\",4,true,1e300\n\
             -it broke\n"
        );
    }

    #[test]
    fn an_answer_without_rows_is_whole() {
        for shape in [Shape::Rows, Shape::Series] {
            let mut writer = RowWriter::new(Output {
                shape,
                ..Output::default()
            });
            writer.begin::<&str>(&[]);
            writer.finish(&[], None, None);
            let text = writer.take();
            assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok());
        }
    }

    proptest! {
        #[test]
        fn any_text_and_float_reads_back(name in "(?s).{0,10}", text in "(?s).{0,10}", v in any::<f64>()) {
            let mut writer = RowWriter::new(Output::default());
            writer.begin(&["a", "b"]);
            writer.row(&SeriesName::new(&name, []), 0, &[Some(ValueRef::Str(&text)), Some(ValueRef::F64(v))]);
            writer.finish(&[], None, None);
            let json: serde_json::Value = serde_json::from_slice(&writer.take()).unwrap();
            prop_assert_eq!(json["rows"][0][2].as_str(), Some(text.as_str()));
            if v.is_finite() {
                prop_assert_eq!(json["rows"][0][3].as_f64().map(f64::to_bits), Some(v.to_bits()));
            }
        }
    }
}
