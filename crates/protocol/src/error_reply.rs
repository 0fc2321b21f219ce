//! Bodies of refusals: what write clients of InfluxDB 1, 2 and 3 look for, and the error of a query.
//!
//! Telegraf searches the text for known phrases, so the texts of the classic paths are InfluxDB's own; every path
//! also gets the refused lines by number.

use crate::line::LineError;
use crate::text::{one_line, write_integer, write_json_string};

/// Most refused lines that a reply lists; the others are only counted.
pub const LISTED_LINES_MAX: usize = 100;

/// Most refusals that the sentence of a reply repeats.
const SPOKEN_LINES_MAX: usize = 10;

struct Refused {
    line: usize,
    excerpt: Box<str>,
    reason: String,
    parsed: bool,
}

/// The refused lines of one write, and the bodies that report them.
///
/// ```
/// use alluvium_protocol::PartialWrite;
/// use alluvium_protocol::line::{LineError, LineErrorKind};
///
/// let mut refused = PartialWrite::new();
/// refused.push(LineError::new(3, b"bad", LineErrorKind::MissingFields));
/// assert_eq!(
///     refused.v1(),
///     r#"{"error":"partial write: unable to parse 'bad': missing fields dropped=0","lines":[{"line":3,"error":"missing fields"}],"refused":1}"#
/// );
/// ```
#[derive(Default)]
pub struct PartialWrite {
    listed: Vec<Refused>,
    total: usize,
    dropped: usize,
}

impl std::fmt::Debug for PartialWrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartialWrite")
            .field("total", &self.total)
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

impl PartialWrite {
    /// Nothing refused yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a line that could not be read, listing it if there is room.
    pub fn push(&mut self, error: LineError) {
        self.total += 1;
        if self.listed.len() < LISTED_LINES_MAX {
            self.listed.push(Refused {
                line: error.line,
                reason: error.kind.to_string(),
                excerpt: error.excerpt,
                parsed: false,
            });
        }
    }

    /// Counts a line that was read but whose points the database refused.
    pub fn push_dropped(&mut self, line: usize, raw: &[u8], reason: &str) {
        self.total += 1;
        self.dropped += 1;
        if self.listed.len() < LISTED_LINES_MAX {
            let text = raw.get(..128).unwrap_or(raw);
            self.listed.push(Refused {
                line,
                excerpt: String::from_utf8_lossy(text).into(),
                reason: reason.into(),
                parsed: true,
            });
        }
    }

    /// Counts lines that were read and refused together, and lists the first of them, `line`.
    pub fn push_left_out(&mut self, lines: usize, line: usize, raw: &[u8], reason: &str) {
        self.push_dropped(line, raw, reason);
        self.total += lines.saturating_sub(1);
        self.dropped += lines.saturating_sub(1);
    }

    /// Whether every line was taken.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Refused lines, listed or not.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The sentence: `partial write: ` and the first refusals, one a line as InfluxDB does it.
    pub fn message(&self) -> String {
        let mut text = String::from("partial write: ");
        for (i, refused) in self.listed.iter().take(SPOKEN_LINES_MAX).enumerate() {
            if i > 0 {
                text.push('\n');
            }
            if refused.parsed {
                text.push_str(&refused.reason);
            } else {
                text.push_str("unable to parse '");
                text.push_str(&refused.excerpt);
                text.push_str("': ");
                text.push_str(&refused.reason);
            }
        }
        if self.total > SPOKEN_LINES_MAX {
            text.push_str("\nand ");
            text.push_str(&(self.total - SPOKEN_LINES_MAX).to_string());
            text.push_str(" more");
        }
        text.push_str(" dropped=");
        text.push_str(&self.dropped.to_string());
        text
    }

    /// [`Self::message`] as a header value: one line of printable ASCII.
    pub fn header(&self) -> String {
        one_line(&self.message())
            .chars()
            .map(|c| if c.is_ascii() { c } else { '?' })
            .collect()
    }

    /// The body for `/write`, status 400.
    pub fn v1(&self) -> String {
        let mut out = Vec::from(b"{\"error\":");
        write_json_string(&mut out, &self.message());
        self.lines(&mut out);
        text(out)
    }

    /// The body for `/api/v2/write`, status 422.
    pub fn v2(&self) -> String {
        let mut out = Vec::from(b"{\"code\":\"unprocessable entity\",\"message\":");
        let message = format!("failure writing points to database: {}", self.message());
        write_json_string(&mut out, &message);
        self.lines(&mut out);
        text(out)
    }

    /// The body for `/api/v3/write_lp`, status 400.
    pub fn v3(&self) -> String {
        let mut out =
            Vec::from(b"{\"error\":\"partial write of line protocol occurred\",\"data\":[");
        for (i, refused) in self.listed.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"original_line\":");
            write_json_string(&mut out, &refused.excerpt);
            out.extend_from_slice(b",\"line_number\":");
            write_integer(&mut out, refused.line);
            out.extend_from_slice(b",\"error_message\":");
            write_json_string(&mut out, &refused.reason);
            out.push(b'}');
        }
        out.extend_from_slice(b"],\"refused\":");
        write_integer(&mut out, self.total);
        out.push(b'}');
        text(out)
    }

    fn lines(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"lines\":[");
        for (i, refused) in self.listed.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"line\":");
            write_integer(out, refused.line);
            out.extend_from_slice(b",\"error\":");
            write_json_string(out, &refused.reason);
            out.push(b'}');
        }
        out.extend_from_slice(b"],\"refused\":");
        write_integer(out, self.total);
        out.push(b'}');
    }
}

/// The body of an error before the first row: one sentence, a stable code, and details as pairs.
///
/// ```
/// assert_eq!(
///     alluvium_protocol::error_body("unknown metric \"cpu\"", "unknown_metric", &[("metric", "cpu")]),
///     r#"{"error":"unknown metric \"cpu\"","code":"unknown_metric","detail":{"metric":"cpu"}}"#
/// );
/// ```
pub fn error_body(sentence: &str, code: &str, detail: &[(&str, &str)]) -> String {
    let mut out = Vec::from(b"{\"error\":");
    write_json_string(&mut out, sentence);
    out.extend_from_slice(b",\"code\":");
    write_json_string(&mut out, code);
    out.extend_from_slice(b",\"detail\":{");
    for (i, (name, value)) in detail.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_json_string(&mut out, name);
        out.push(b':');
        write_json_string(&mut out, value);
    }
    out.extend_from_slice(b"}}");
    text(out)
}

/// The body of an error on the v2 paths; codes are those of InfluxDB 2 (`invalid`, `unavailable`, ...).
pub fn v2_error_body(code: &str, sentence: &str) -> String {
    let mut out = Vec::from(b"{\"code\":");
    write_json_string(&mut out, code);
    out.extend_from_slice(b",\"message\":");
    write_json_string(&mut out, sentence);
    out.push(b'}');
    text(out)
}

/// Everything above is written from `str`.
fn text(out: Vec<u8>) -> String {
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::LineErrorKind;

    fn some() -> PartialWrite {
        let mut refused = PartialWrite::new();
        assert!(refused.is_empty());
        refused.push(LineError::new(3, b"b\"ad", LineErrorKind::MissingFields));
        refused.push_dropped(5, b"m v=1", "field type conflict");
        refused
    }

    #[test]
    fn bodies_are_those_clients_know() {
        let sentence = "partial write: unable to parse 'b\\\"ad': missing fields\\nfield type conflict dropped=1";
        let lines = "[{\"line\":3,\"error\":\"missing fields\"},{\"line\":5,\"error\":\"field type conflict\"}]";
        assert_eq!(
            some().v1(),
            format!("{{\"error\":\"{sentence}\",\"lines\":{lines},\"refused\":2}}")
        );
        assert_eq!(
            some().v2(),
            format!(
                "{{\"code\":\"unprocessable entity\",\"message\":\"failure writing points to database: {sentence}\",\
                 \"lines\":{lines},\"refused\":2}}"
            )
        );
        let v3: serde_json::Value = serde_json::from_str(&some().v3()).unwrap();
        assert_eq!(v3["data"][0]["original_line"], "b\"ad");
        assert_eq!(v3["data"][1]["line_number"], 5);
        assert!(!some().header().contains('\n'));
    }

    #[test]
    fn a_body_of_garbage_is_listed_in_part_and_counted_whole() {
        let mut refused = PartialWrite::new();
        for line in 1..=100_000 {
            refused.push(LineError::new(
                line,
                &[0xff; 500],
                LineErrorKind::MissingFields,
            ));
        }
        let body: serde_json::Value = serde_json::from_str(&refused.v1()).unwrap();
        assert_eq!(body["lines"].as_array().unwrap().len(), LISTED_LINES_MAX);
        assert_eq!(body["refused"], 100_000);
        assert!(refused.v1().len() < 20_000);
        assert!(refused.message().ends_with("and 99990 more dropped=0"));
        assert!(refused.header().is_ascii());
    }
}
