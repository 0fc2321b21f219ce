//! Selectors as text, in the notation of Prometheus: `cpu_idle{host="a",dc!~"eu.*"}`.
//!
//! A name in front, which may be absent, is the derived label `__name__`; `__measurement__` and `__field__` are the other
//! two labels that are no tags. Expressions must match a whole value.

use crate::{Label, Matcher, Selector, Test};

/// Most matchers of a selector as text.
pub const MATCHERS_MAX: usize = 64;

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorTextError {
    /// Something else was expected.
    #[error(
        "expected {expected} at byte {at}; a selector reads name{{tag=\"value\",other=~\"expression\"}}"
    )]
    Expected {
        /// What.
        expected: &'static str,
        /// Where, in bytes from the begin.
        at: usize,
    },
    /// Too many matchers.
    #[error("a selector has at most {MATCHERS_MAX} matchers; leave some out")]
    TooMany,
}

/// The label that a name means where labels are matched: a tag, but for the three that are none.
pub(crate) fn label_named(name: &str) -> Label {
    match name {
        "__name__" => Label::Name,
        "__measurement__" => Label::Measurement,
        "__field__" => Label::Field,
        tag => Label::Tag(tag.into()),
    }
}

/// Reads a selector. An empty text, and `{}`, is that of every series.
///
/// # Errors
/// If the text is none. Expressions are not compiled here.
///
/// ```
/// use alluvium_query::{Label, Test, parse_selector};
///
/// let selector = parse_selector(r#"cpu{host=~"web.*", "data center"!="x"}"#)?;
/// assert_eq!(selector.matchers[0].label, Label::Name);
/// assert_eq!(selector.matchers[1].test, Test::Regex("web.*".into()));
/// assert!(selector.matchers[2].negated);
/// # Ok::<(), alluvium_query::SelectorTextError>(())
/// ```
pub fn parse_selector(text: &str) -> Result<Selector, SelectorTextError> {
    let mut reader = Reader { text, at: 0 };
    let mut matchers = Vec::new();
    reader.skip_space();
    let name = match reader.peek() {
        None | Some('{') => String::new(),
        _ => reader.name("a name or {")?,
    };
    if !name.is_empty() {
        matchers.push(Matcher::new(Label::Name, Test::Equal(name)));
    }
    reader.skip_space();
    if reader.take("{") {
        reader.skip_space();
        while !reader.take("}") {
            if matchers.len() == MATCHERS_MAX {
                return Err(SelectorTextError::TooMany);
            }
            matchers.push(reader.matcher()?);
            reader.skip_space();
            if !reader.take(",") && reader.peek() != Some('}') {
                return Err(reader.expected("a comma or }"));
            }
            reader.skip_space();
        }
        reader.skip_space();
    }
    if reader.peek().is_some() {
        return Err(reader.expected("the end"));
    }
    Ok(Selector { matchers })
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, word: &str) -> bool {
        let is_there = self.rest().starts_with(word);
        if is_there {
            self.at += word.len();
        }
        is_there
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn expected(&self, expected: &'static str) -> SelectorTextError {
        SelectorTextError::Expected {
            expected,
            at: self.at,
        }
    }

    /// A name in quotes, or up to what may follow one.
    fn name(&mut self, expected: &'static str) -> Result<String, SelectorTextError> {
        if self.peek().is_some_and(|c| c == '"' || c == '\'') {
            return self.quoted(expected);
        }
        let rest = self.rest();
        let ends = |c: char| c.is_whitespace() || "{}=!~,\"'".contains(c);
        let end = rest.find(ends).unwrap_or(rest.len());
        if end == 0 {
            return Err(self.expected(expected));
        }
        let name = rest[..end].to_owned();
        self.at += end;
        Ok(name)
    }

    fn matcher(&mut self) -> Result<Matcher, SelectorTextError> {
        let name = self.name("the name of a tag")?;
        self.skip_space();
        let signs = [("=~", true, false), ("!~", true, true), ("!=", false, true)];
        let signs = signs.into_iter().chain([("=", false, false)]);
        let mut sign = None;
        for (text, is_regex, negated) in signs {
            if self.take(text) {
                sign = Some((is_regex, negated));
                break;
            }
        }
        let (is_regex, negated) = sign.ok_or(self.expected("=, !=, =~ or !~"))?;
        self.skip_space();
        let value = self.quoted("a value in quotes")?;
        let label = label_named(&name);
        let test = if is_regex {
            Test::Regex(value)
        } else {
            Test::Equal(value)
        };
        Ok(Matcher {
            label,
            test,
            negated,
        })
    }

    /// A text in double or single quotes. A backslash escapes quotes and itself, and stays before anything else,
    /// so that expressions need no second one.
    fn quoted(&mut self, expected: &'static str) -> Result<String, SelectorTextError> {
        let quote = self.peek().filter(|c| *c == '"' || *c == '\'');
        let quote = quote.ok_or(self.expected(expected))?;
        let begin = self.at;
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at = begin + at + c.len_utf8();
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, c)) if c == quote || c == '\\' => out.push(c),
                    Some((_, c)) => out.extend(['\\', c]),
                    None => break,
                },
                c => out.push(c),
            }
        }
        self.at = self.text.len();
        Err(self.expected("a closing quote"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, test: Test) -> Matcher {
        Matcher::new(Label::Tag(name.into()), test)
    }

    #[test]
    fn texts_become_matchers() {
        let name = |text: &str| Matcher::new(Label::Name, Test::Equal(text.into()));
        for (text, expected) in [
            ("", vec![]),
            (" { } ", vec![]),
            ("cpu", vec![name("cpu")]),
            (" cpu:load{}", vec![name("cpu:load")]),
            (r#""my cpu"{}"#, vec![name("my cpu")]),
            (
                r#"{a="b" , c!='d"',}"#,
                vec![
                    tag("a", Test::Equal("b".into())),
                    tag("c", Test::Equal("d\"".into())).negated(),
                ],
            ),
            (
                r#"{"a b"=~"x\d\"\\y",z!~""}"#,
                vec![
                    tag("a b", Test::Regex(r#"x\d"\y"#.into())),
                    tag("z", Test::Regex(String::new())).negated(),
                ],
            ),
            (
                r#"{__name__="n",__measurement__="m",__field__="f"}"#,
                vec![
                    name("n"),
                    Matcher::new(Label::Measurement, Test::Equal("m".into())),
                    Matcher::new(Label::Field, Test::Equal("f".into())),
                ],
            ),
        ] {
            let found = parse_selector(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(found.matchers, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_names_the_place() {
        for (text, at) in [
            ("cpu{", 4),
            ("cpu{host}", 8),
            ("cpu{host=}", 9),
            (r#"cpu{host="a"#, 11),
            (r#"cpu{host="a\"#, 12),
            (r#"cpu{host="a" dc="b"}"#, 13),
            (r#"cpu{host="a"} x"#, 14),
            ("=", 0),
            ("é}", 2),
        ] {
            match parse_selector(text) {
                Err(SelectorTextError::Expected { at: found, .. }) => {
                    assert_eq!(found, at, "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        let many = format!("{{{}}}", r#"a="b","#.repeat(MATCHERS_MAX + 1));
        assert_eq!(parse_selector(&many), Err(SelectorTextError::TooMany));
    }
}
