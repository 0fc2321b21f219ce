//! What a row is named by.

use std::sync::{Arc, OnceLock};

use alluvium_types::SeriesKey;

use crate::plan::TagSet;

/// A series of the answer: one series or several that became one.
#[derive(Debug)]
pub struct OutputSeries {
    metric: Arc<str>,
    tags: Tags,
    /// Written when first asked for: many queries aggregate a hundred thousand series and answer ten.
    name: OnceLock<String>,
}

/// Tags, shared with the series where none was dropped.
#[derive(Debug, Clone)]
pub(crate) enum Tags {
    Whole(Arc<SeriesKey>),
    Part(TagSet),
}

impl Tags {
    pub(crate) fn as_slice(&self) -> &[(String, String)] {
        match self {
            Self::Whole(key) => key.tags(),
            Self::Part(tags) => tags,
        }
    }
}

impl OutputSeries {
    pub(crate) fn new(metric: Arc<str>, tags: Tags) -> Self {
        Self {
            metric,
            tags,
            name: OnceLock::new(),
        }
    }

    /// `metric tag=value tag2=value2`, with space, `=` and backslash behind a backslash.
    pub fn name(&self) -> &str {
        self.name
            .get_or_init(|| write_name(&self.metric, self.tags()))
    }

    /// The metric.
    pub fn metric(&self) -> &str {
        &self.metric
    }

    /// The tags, sorted by key.
    pub fn tags(&self) -> &[(String, String)] {
        self.tags.as_slice()
    }

    /// Bytes it holds beside the keys of its series, its name included.
    pub(crate) fn heap_bytes(&self) -> usize {
        let text: usize = self.tags().iter().map(|(k, v)| k.len() + v.len() + 2).sum();
        let own = match &self.tags {
            Tags::Whole(_) => 0,
            Tags::Part(tags) => text + tags.len() * size_of::<(String, String)>(),
        };
        size_of::<Self>() + self.metric.len() + text + own
    }
}

/// The name of a series in answers and messages.
pub(crate) fn write_name(metric: &str, tags: &[(String, String)]) -> String {
    let mut name = String::new();
    push_escaped(&mut name, metric);
    for (key, value) in tags {
        name.push(' ');
        push_escaped(&mut name, key);
        name.push('=');
        push_escaped(&mut name, value);
    }
    name
}

fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        if matches!(c, ' ' | '=' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_survives_in_a_name() {
        let tags = vec![("host".into(), "o'brien =\\,\n".into())];
        let series = OutputSeries::new("cpu load".into(), Tags::Part(tags));
        assert_eq!(series.name(), "cpu\\ load host=o'brien\\ \\=\\\\,\n");
    }
}
