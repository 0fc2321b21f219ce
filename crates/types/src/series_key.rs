//! The canonical name of a tag set.

use std::borrow::Cow;
use std::fmt;

/// Measurement and tags, tags sorted by the bytes of their key, no key twice: the identity of a tag set.
///
/// Everything is UTF-8; nothing is escaped here, escaping belongs to each protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SeriesKey {
    measurement: String,
    tags: Vec<(String, String)>,
}

impl SeriesKey {
    /// Builds the canonical form from tags in any order.
    ///
    /// # Errors
    /// Gives back the tag key that occurs twice.
    pub fn new<M, K, V>(
        measurement: M,
        tags: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, String>
    where
        M: Into<String>,
        K: Into<String>,
        V: Into<String>,
    {
        let mut tags: Vec<(String, String)> = tags
            .into_iter()
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        tags.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = tags.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(pair[0].0.clone());
        }
        Ok(Self {
            measurement: measurement.into(),
            tags,
        })
    }

    /// The measurement.
    pub fn measurement(&self) -> &str {
        &self.measurement
    }

    /// The tags, sorted by key.
    pub fn tags(&self) -> &[(String, String)] {
        &self.tags
    }

    /// The value of one tag.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags
            .binary_search_by(|(k, _)| k.as_str().cmp(key))
            .ok()
            .map(|i| self.tags[i].1.as_str())
    }

    /// The unambiguous bytes that hashing uses: every part behind its length as four little-endian bytes.
    pub fn write_hash_input(&self, out: &mut Vec<u8>) {
        out.clear();
        for part in
            std::iter::once(&self.measurement).chain(self.tags.iter().flat_map(|(k, v)| [k, v]))
        {
            out.extend_from_slice(&(part.len() as u32).to_le_bytes());
            out.extend_from_slice(part.as_bytes());
        }
    }

    /// The derived label `__name__` of one of its fields: the measurement when the field is `value`,
    /// otherwise measurement, underscore, field.
    pub fn metric_name(&self, field: &str) -> String {
        metric_name(&self.measurement, field)
    }
}

/// A [`SeriesKey`] whose texts are somebody else's: what a sender wrote, where nothing was to be unescaped. A tag set that is
/// only to be found or kept in another form costs one allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BorrowedKey<'a> {
    measurement: Cow<'a, str>,
    tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> BorrowedKey<'a> {
    /// Builds the canonical form from tags in any order.
    ///
    /// # Errors
    /// Gives back the tag key that occurs twice.
    pub fn new(
        measurement: Cow<'a, str>,
        mut tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    ) -> Result<Self, String> {
        tags.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        match tags.windows(2).find(|w| w[0].0 == w[1].0) {
            Some(pair) => Err(pair[0].0.clone().into_owned()),
            None => Ok(Self { measurement, tags }),
        }
    }

    /// The measurement.
    pub fn measurement(&self) -> &str {
        &self.measurement
    }

    /// Key and value of each tag, sorted by key.
    pub fn tags(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.tags.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl From<BorrowedKey<'_>> for SeriesKey {
    fn from(key: BorrowedKey<'_>) -> Self {
        let tags = key.tags.into_iter();
        Self {
            measurement: key.measurement.into_owned(),
            tags: tags
                .map(|(k, v)| (k.into_owned(), v.into_owned()))
                .collect(),
        }
    }
}

/// As [`SeriesKey::metric_name`], of a measurement and a field.
pub fn metric_name(measurement: &str, field: &str) -> String {
    if field == "value" {
        measurement.to_owned()
    } else {
        format!("{measurement}_{field}")
    }
}

impl fmt::Display for SeriesKey {
    /// `measurement tag=value tag2=value2`; space, `=` and backslash behind a backslash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
            for c in text.chars() {
                if matches!(c, ' ' | '=' | '\\') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
            Ok(())
        }
        escaped(f, &self.measurement)?;
        for (k, v) in &self.tags {
            f.write_str(" ")?;
            escaped(f, k)?;
            f.write_str("=")?;
            escaped(f, v)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_sorted_and_unique() {
        let key = SeriesKey::new("cpu", [("host", "a b"), ("dc", "x=1")]).unwrap();
        assert_eq!(key.to_string(), "cpu dc=x\\=1 host=a\\ b");
        assert_eq!(key.tag("host"), Some("a b"));
        assert_eq!(
            SeriesKey::new("cpu", [("a", "1"), ("a", "2")]),
            Err("a".into())
        );
        assert_eq!(key.metric_name("value"), "cpu");
        assert_eq!(key.metric_name("idle"), "cpu_idle");
    }

    #[test]
    fn hash_input_tells_borders_apart() {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        SeriesKey::new("ab", [("c", "d")])
            .unwrap()
            .write_hash_input(&mut a);
        SeriesKey::new("a", [("bc", "d")])
            .unwrap()
            .write_hash_input(&mut b);
        assert_ne!(a, b);
    }
}
