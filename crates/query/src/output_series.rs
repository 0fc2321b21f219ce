//! What a row is named by.

use std::fmt::Write;

/// A series of the answer: one series or several that became one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSeries {
    metric: String,
    tags: Vec<(String, String)>,
    name: String,
}

impl OutputSeries {
    /// The series of a metric with these tags, sorted by key.
    pub fn new(metric: String, tags: Vec<(String, String)>) -> Self {
        let mut name = String::new();
        push_escaped(&mut name, &metric);
        for (key, value) in &tags {
            name.push(' ');
            push_escaped(&mut name, key);
            name.push('=');
            push_escaped(&mut name, value);
        }
        Self { metric, tags, name }
    }

    /// `metric tag=value tag2=value2`, with space, `=` and backslash behind a backslash.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The metric.
    pub fn metric(&self) -> &str {
        &self.metric
    }

    /// The tags, sorted by key.
    pub fn tags(&self) -> &[(String, String)] {
        &self.tags
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(k, v)| k.len() + v.len() + 48).sum();
        size_of::<Self>() + self.metric.len() + self.name.len() + tags
    }
}

fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        if matches!(c, ' ' | '=' | '\\') {
            out.push('\\');
        }
        // Writing to a string cannot fail.
        let _ = out.write_char(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_survives_in_a_name() {
        let tags = vec![("host".into(), "o'brien =\\,\n".into())];
        let series = OutputSeries::new("cpu load".into(), tags);
        assert_eq!(series.name(), "cpu\\ load host=o'brien\\ \\=\\\\,\n");
    }
}
