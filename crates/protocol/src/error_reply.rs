//! Bodies of refusals: what write clients of InfluxDB 1, 2 and 3 look for, and the error of a query.
//!
//! Telegraf searches the text for known phrases, so the texts of the classic paths are InfluxDB's own; every path
//! also gets the refused lines by number.

use std::fmt::Write;

use crate::line::LineError;
use crate::text::{one_line, write_integer, write_json_string};

/// Most refused lines that a reply lists; the others are only counted.
pub const LISTED_LINES_MAX: usize = 100;

/// Most reasons of lines left out together that a reply lists, beside [`LISTED_LINES_MAX`] others.
pub const LEFT_OUT_MAX: usize = 8;

/// Longest [`PartialWrite::header`]: what clients read of a head in one piece is a few times this.
const HEADER_BYTES_MAX: usize = 4 << 10;

/// Most refusals that the sentence of a reply repeats.
const SPOKEN_LINES_MAX: usize = 10;

const _: () = assert!(LEFT_OUT_MAX < SPOKEN_LINES_MAX);

struct Refused {
    line: usize,
    excerpt: Box<str>,
    reason: String,
    parsed: bool,
    /// With this reason, this one the first.
    lines: usize,
}

impl Refused {
    fn read(line: usize, raw: &[u8], reason: &str, lines: usize) -> Self {
        let text = raw.get(..128).unwrap_or(raw);
        Self {
            line,
            excerpt: String::from_utf8_lossy(text).into(),
            reason: reason.into(),
            parsed: true,
            lines,
        }
    }

    /// Writes the reason, the number of lines if there are several, and the end of the object.
    fn reason_and_count(&self, out: &mut Vec<u8>) {
        write_json_string(out, &self.reason);
        if self.lines > 1 {
            out.extend_from_slice(b",\"count\":");
            write_integer(out, self.lines);
        }
        out.push(b'}');
    }
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
    left_out: Vec<Refused>,
    total: usize,
    dropped: usize,
    whole: bool,
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
                lines: 1,
            });
        }
    }

    /// Counts a line that was read but whose points the database refused.
    pub fn push_dropped(&mut self, line: usize, raw: &[u8], reason: &str) {
        self.total += 1;
        self.dropped += 1;
        if self.listed.len() < LISTED_LINES_MAX {
            self.listed.push(Refused::read(line, raw, reason, 1));
        }
    }

    /// Counts lines that were read and refused for one reason, `line` the first of them. They are listed as one, however many
    /// others there are; beyond [`LEFT_OUT_MAX`] reasons they are only counted.
    pub fn push_left_out(&mut self, lines: usize, line: usize, raw: &[u8], reason: &str) {
        self.total += lines;
        self.dropped += lines;
        if self.left_out.len() < LEFT_OUT_MAX {
            self.left_out.push(Refused::read(line, raw, reason, lines));
        }
    }

    /// Counts lines that were read and refused for reasons that are not told.
    pub fn count_left_out(&mut self, lines: usize) {
        self.total += lines;
        self.dropped += lines;
    }

    /// Says that nothing was written because of these lines: the client asked for all or nothing.
    pub fn set_whole(&mut self) {
        self.whole = true;
    }

    /// Whether every line was taken.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Refused lines, listed or not.
    pub fn total(&self) -> usize {
        self.total
    }

    /// All that are listed.
    fn told(&self) -> impl Iterator<Item = &Refused> {
        self.listed.iter().chain(&self.left_out)
    }

    /// The sentence: `partial write: ` and the first refusals, one a line as InfluxDB does it.
    pub fn message(&self) -> String {
        let mut text = String::from(if self.whole {
            "nothing was written: "
        } else {
            "partial write: "
        });
        let spoken = self
            .listed
            .len()
            .min(SPOKEN_LINES_MAX - self.left_out.len());
        let spoken = self.listed.iter().take(spoken).chain(&self.left_out);
        let mut rest = self.total;
        for (i, refused) in spoken.enumerate() {
            rest -= refused.lines;
            if i > 0 {
                text.push('\n');
            }
            if refused.parsed {
                text.push_str(&refused.reason);
                if refused.lines > 1 {
                    let (lines, first) = (refused.lines, refused.line);
                    // Writing to a string cannot fail.
                    let _ = write!(text, " ({lines} lines, the first is {first})");
                }
            } else {
                text.push_str("unable to parse '");
                text.push_str(&refused.excerpt);
                text.push_str("': ");
                text.push_str(&refused.reason);
            }
        }
        if rest > 0 {
            text.push_str("\nand ");
            text.push_str(&rest.to_string());
            text.push_str(" more");
        }
        text.push_str(" dropped=");
        text.push_str(&self.dropped.to_string());
        text
    }

    /// [`Self::message`] as a header value: one line of printable ASCII, at most 4 KiB.
    pub fn header(&self) -> String {
        let mut header: String = one_line(&self.message())
            .chars()
            .map(|c| if c.is_ascii() { c } else { '?' })
            .collect();
        if header.len() > HEADER_BYTES_MAX {
            let end = format!("... dropped={}", self.dropped);
            header.truncate(HEADER_BYTES_MAX - end.len());
            header.push_str(&end);
        }
        header
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
        let mut out = Vec::from(b"{\"error\":");
        let sentence = if self.whole {
            "nothing was written: lines were refused and accept_partial is false"
        } else {
            "partial write of line protocol occurred"
        };
        write_json_string(&mut out, sentence);
        out.extend_from_slice(b",\"data\":[");
        for (i, refused) in self.told().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"original_line\":");
            write_json_string(&mut out, &refused.excerpt);
            out.extend_from_slice(b",\"line_number\":");
            write_integer(&mut out, refused.line);
            out.extend_from_slice(b",\"error_message\":");
            refused.reason_and_count(&mut out);
        }
        out.extend_from_slice(b"],\"refused\":");
        write_integer(&mut out, self.total);
        out.push(b'}');
        text(out)
    }

    fn lines(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"lines\":[");
        for (i, refused) in self.told().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"line\":");
            write_integer(out, refused.line);
            out.extend_from_slice(b",\"error\":");
            refused.reason_and_count(out);
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
    fn lines_left_out_are_told_by_reason_behind_however_many_others() {
        let mut refused = PartialWrite::new();
        for line in 1..=200 {
            refused.push(LineError::new(line, b"bad", LineErrorKind::MissingFields));
        }
        refused.push_left_out(17, 203, b"cpu,h=a v=1", "no room in cpu");
        refused.push_left_out(1, 207, b"mem,h=a v=1", "no room in mem");
        refused.count_left_out(5);
        let message = refused.message();
        assert!(
            message.ends_with(
                "\nno room in cpu (17 lines, the first is 203)\nno room in mem\nand 197 more dropped=23"
            ),
            "{message}"
        );
        let json = |body: String| serde_json::from_str::<serde_json::Value>(&body).unwrap();
        let v1 = json(refused.v1());
        let of_v1 = v1["lines"].as_array().unwrap();
        assert_eq!(of_v1.len(), LISTED_LINES_MAX + 2);
        let told = serde_json::json!({"line": 203, "error": "no room in cpu", "count": 17});
        assert_eq!(of_v1[LISTED_LINES_MAX], told);
        assert_eq!(v1["refused"], 223);
        refused.set_whole();
        let v3 = json(refused.v3());
        let told = &v3["data"][LISTED_LINES_MAX];
        assert_eq!(
            (&told["line_number"], &told["count"]),
            (&203.into(), &17.into())
        );
        assert!(
            v3["error"]
                .as_str()
                .unwrap()
                .starts_with("nothing was written")
        );
        for reason in 0..100 {
            refused.push_left_out(1, reason, b"", "another");
        }
        assert_eq!(refused.total(), 323);
        assert!(refused.message().ends_with("dropped=123"));
    }

    #[test]
    fn a_header_is_one_that_clients_take() {
        let mut refused = PartialWrite::new();
        let key = "k".repeat(32_000);
        for line in 1..=300 {
            let raw = format!("m,{key}=1,{key}=2 v=1");
            let kind = crate::line::decode_key(raw.split(' ').next().unwrap().as_bytes());
            refused.push(LineError::new(line, raw.as_bytes(), kind.unwrap_err()));
        }
        assert!(refused.message().len() < 4_000, "{}", refused.message());
        assert!(refused.header().ends_with(" dropped=0"));
        // The excerpts of bytes that are no text are longer than they were.
        for reason in 0..8 {
            refused.push_left_out(1, reason, &[0xff; 500], &"é".repeat(1_000));
        }
        let header = refused.header();
        assert!(header.len() <= HEADER_BYTES_MAX && header.is_ascii());
        assert!(header.ends_with("... dropped=8"), "{header}");
        assert!(header.starts_with("partial write: "));
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
