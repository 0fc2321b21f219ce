//! The answer of a search, as text.

use crate::text::{write_integer, write_json_string};

/// Writes tag sets and their fields as JSON, one after the other, without anything in between.
///
/// ```
/// let mut found = alluvium_protocol::FoundWriter::new();
/// found.tag_set("cpu", [("host", "a")], ["idle", "user"]);
/// assert_eq!(
///     found.finish(7, 1, &[]),
///     br#"{"series":[{"measurement":"cpu","tags":{"host":"a"},"fields":["idle","user"]}],"matching":7,"is_complete":false,"limit":1}"#
/// );
/// ```
#[derive(Debug)]
pub struct FoundWriter {
    out: Vec<u8>,
    tag_sets: u64,
}

impl Default for FoundWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl FoundWriter {
    /// Nothing found yet.
    pub fn new() -> Self {
        Self {
            out: Vec::from(b"{\"series\":["),
            tag_sets: 0,
        }
    }

    /// Adds a tag set: tags no key twice, fields in the order in which they are to stand.
    pub fn tag_set<'a>(
        &mut self,
        measurement: &str,
        tags: impl IntoIterator<Item = (&'a str, &'a str)>,
        fields: impl IntoIterator<Item = &'a str>,
    ) {
        let out = &mut self.out;
        if self.tag_sets > 0 {
            out.push(b',');
        }
        self.tag_sets += 1;
        out.extend_from_slice(b"{\"measurement\":");
        write_json_string(out, measurement);
        out.extend_from_slice(b",\"tags\":{");
        for (i, (key, value)) in tags.into_iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_json_string(out, key);
            out.push(b':');
            write_json_string(out, value);
        }
        out.extend_from_slice(b"},\"fields\":[");
        for (i, field) in fields.into_iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_json_string(out, field);
        }
        out.extend_from_slice(b"]}");
    }

    /// The whole answer. It is complete if as many were added as match and nothing is `missing`, of which a sentence each says what.
    pub fn finish(mut self, matching: u64, limit: usize, missing: &[String]) -> Vec<u8> {
        let out = &mut self.out;
        out.extend_from_slice(b"],\"matching\":");
        write_integer(out, matching);
        let complete: &[u8] = if matching == self.tag_sets && missing.is_empty() {
            b",\"is_complete\":true,\"limit\":"
        } else {
            b",\"is_complete\":false,\"limit\":"
        };
        out.extend_from_slice(complete);
        write_integer(out, limit);
        if !missing.is_empty() {
            out.extend_from_slice(b",\"partial\":true,\"warnings\":[");
            for (i, sentence) in missing.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_json_string(out, sentence);
            }
            out.push(b']');
        }
        out.push(b'}');
        self.out
    }
}
