//! What to look for: matchers over labels, and their compiled form.

use std::sync::{Arc, OnceLock};

use regex::{Regex, RegexBuilder};

use crate::SelectorError;
use crate::automaton::Automaton;

/// Memory a compiled expression may take.
pub const MAX_REGEX_BYTES: usize = 10 << 20;

/// Regular expressions of a selector, at most: one may take [`MAX_REGEX_BYTES`].
pub const MAX_REGEXES: usize = 16;

/// Series for which all matchers hold; without matchers, every series.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// The conditions, all of which must hold.
    pub matchers: Vec<Matcher>,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    /// The label looked at.
    pub label: Label,
    /// What its value must be.
    pub test: Test,
    /// Whether the value must not be that.
    pub negated: bool,
}

impl Matcher {
    /// A condition that must hold.
    pub fn new(label: Label, test: Test) -> Self {
        Self {
            label,
            test,
            negated: false,
        }
    }

    /// The opposite condition.
    #[must_use]
    pub fn negated(self) -> Self {
        Self {
            negated: !self.negated,
            ..self
        }
    }
}

/// Something that a series is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Label {
    /// The derived `__name__`: the measurement if the field is `value`, else measurement, underscore, field.
    Name,
    /// The measurement.
    Measurement,
    /// The field.
    Field,
    /// A tag. A series without it is treated as if its value were the empty string.
    Tag(String),
}

impl Label {
    /// The name used in messages.
    pub fn name(&self) -> &str {
        match self {
            Self::Name => "__name__",
            Self::Measurement => "measurement",
            Self::Field => "field",
            Self::Tag(key) => key,
        }
    }
}

/// What a value is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// This text.
    Equal(String),
    /// One of these texts.
    In(Vec<String>),
    /// A regular expression in the syntax of the `regex` crate (RE2-like, linear time) that must match the
    /// whole value; the dot matches newlines too.
    Regex(String),
    /// Any text but the empty one.
    Exists,
}

/// A [`Selector`] with its expressions compiled, for use on any number of partitions.
#[derive(Debug, Clone)]
pub struct CompiledSelector {
    pub(crate) matchers: Vec<CompiledMatcher>,
}

#[derive(Debug, Clone)]
pub(crate) struct CompiledMatcher {
    pub(crate) label: Label,
    pub(crate) test: CompiledTest,
    pub(crate) negated: bool,
    /// Of an expression, for many values; made when it is first needed.
    table: Option<Arc<Table>>,
}

#[derive(Debug)]
struct Table {
    pattern: String,
    automaton: OnceLock<Option<Automaton>>,
}

#[derive(Debug, Clone)]
pub(crate) enum CompiledTest {
    /// One of these texts, sorted.
    In(Vec<String>),
    Exists,
    /// Expressions that are plain text but for a dot-star at one end or both.
    Begins(String),
    Ends(String),
    Contains(String),
    Regex {
        regex: Regex,
        /// What every match begins with.
        prefix: String,
    },
}

impl Selector {
    /// Compiles the expressions.
    ///
    /// # Errors
    /// Names the label whose expression is invalid or compiles to more than [`MAX_REGEX_BYTES`]; or there are more than [`MAX_REGEXES`].
    pub fn compile(&self) -> Result<CompiledSelector, SelectorError> {
        let is_regex = |m: &&Matcher| matches!(m.test, Test::Regex(_));
        if self.matchers.iter().filter(is_regex).count() > MAX_REGEXES {
            return Err(SelectorError::TooManyRegexes);
        }
        let matchers = self.matchers.iter().map(compile_matcher);
        Ok(CompiledSelector {
            matchers: matchers.collect::<Result<_, _>>()?,
        })
    }
}

impl CompiledSelector {
    /// The matchers on a tag.
    pub(crate) fn tag_matchers(&self) -> impl Iterator<Item = (&str, &CompiledMatcher)> {
        self.matchers.iter().filter_map(|m| match &m.label {
            Label::Tag(key) => Some((key.as_str(), m)),
            _ => None,
        })
    }

    /// Whether it has no matcher: every series passes.
    pub fn is_everything(&self) -> bool {
        self.matchers.is_empty()
    }

    /// Whether any matcher looks at measurement, field or name.
    pub(crate) fn names_matter(&self) -> bool {
        self.matchers
            .iter()
            .any(|m| !matches!(m.label, Label::Tag(_)))
    }
}

impl CompiledMatcher {
    /// Whether the condition holds for a value; the empty string stands for none.
    pub(crate) fn matches(&self, value: &str) -> bool {
        self.test.matches(value) != self.negated
    }

    /// Decides for a value whether the test, not yet negated, holds; `None` if the test is no expression or one that
    /// is run value by value.
    pub(crate) fn automaton(&self) -> Option<&Automaton> {
        let table = self.table.as_ref()?;
        let made = table
            .automaton
            .get_or_init(|| Automaton::new(&table.pattern));
        made.as_ref()
    }

    /// The texts of which the value must be one, if that is the condition.
    pub(crate) fn required(&self) -> Option<&[String]> {
        match &self.test {
            CompiledTest::In(texts) if !self.negated => Some(texts),
            _ => None,
        }
    }
}

impl CompiledTest {
    /// What every value that passes begins with; empty where the empty string may pass.
    pub(crate) fn prefix(&self) -> &str {
        match self {
            Self::Begins(prefix) | Self::Regex { prefix, .. } => prefix,
            Self::In(_) | Self::Exists | Self::Ends(_) | Self::Contains(_) => "",
        }
    }

    pub(crate) fn matches(&self, value: &str) -> bool {
        match self {
            Self::In(texts) => texts.binary_search_by(|t| t.as_str().cmp(value)).is_ok(),
            Self::Exists => !value.is_empty(),
            Self::Begins(text) => value.as_bytes().starts_with(text.as_bytes()),
            Self::Ends(text) => value.as_bytes().ends_with(text.as_bytes()),
            Self::Contains(text) => value.contains(text.as_str()),
            Self::Regex { regex, prefix } => {
                value.as_bytes().starts_with(prefix.as_bytes()) && regex.is_match(value)
            }
        }
    }
}

fn compile_matcher(matcher: &Matcher) -> Result<CompiledMatcher, SelectorError> {
    let test = match &matcher.test {
        Test::Equal(text) => CompiledTest::In(vec![text.clone()]),
        Test::In(texts) => CompiledTest::In(sorted(texts.clone())),
        Test::Exists => CompiledTest::Exists,
        Test::Regex(pattern) => compile_regex(pattern).map_err(|source| SelectorError::Regex {
            label: matcher.label.name().to_owned(),
            source: Box::new(source),
        })?,
    };
    let table = match (&matcher.test, &test) {
        (_, CompiledTest::In(_) | CompiledTest::Exists) => None,
        (Test::Regex(pattern), _) => Some(Arc::new(Table {
            pattern: pattern.clone(),
            automaton: OnceLock::new(),
        })),
        _ => None,
    };
    Ok(CompiledMatcher {
        label: matcher.label.clone(),
        test,
        negated: matcher.negated,
        table,
    })
}

fn compile_regex(pattern: &str) -> Result<CompiledTest, regex::Error> {
    if !pattern.contains(is_meta_but_bar) {
        return Ok(CompiledTest::In(sorted(
            pattern.split('|').map(str::to_owned).collect(),
        )));
    }
    // By itself first: `a)(b` must not become valid by what is put around it.
    let build = |pattern: &str| {
        RegexBuilder::new(pattern)
            .dot_matches_new_line(true)
            .size_limit(MAX_REGEX_BYTES)
            .build()
    };
    build(pattern)?;
    if pattern == ".+" {
        return Ok(CompiledTest::Exists);
    }
    let (begin, inner, end) = trimmed(pattern);
    if !inner.contains(is_meta_but_bar) {
        match (begin, end) {
            ("^", "") => return Ok(CompiledTest::Begins(inner.to_owned())),
            ("", "$") => return Ok(CompiledTest::Ends(inner.to_owned())),
            ("", "") => return Ok(CompiledTest::Contains(inner.to_owned())),
            _ => {}
        }
    }
    Ok(CompiledTest::Regex {
        regex: build(&format!("{begin}(?:{inner}){end}"))?,
        prefix: literal_prefix(pattern).to_owned(),
    })
}

/// The anchors that an expression needs, and what is between them. A dot-star at either end is the same as no
/// anchor there, which lets the engine search for literals instead of running its automaton over all of the
/// value. Anything that might give the dot-star another meaning leaves the expression as it is.
fn trimmed(pattern: &str) -> (&str, &str, &str) {
    let (mut begin, mut inner, mut end) = ("^", pattern, "$");
    if !pattern.contains(['|', '\\']) && !pattern.contains("(?") {
        if let Some(rest) = inner.strip_prefix(".*")
            && !rest.starts_with(['?', '+', '*', '{'])
        {
            (begin, inner) = ("", rest);
        }
        if let Some(rest) = inner.strip_suffix(".*") {
            (inner, end) = (rest, "");
        }
    }
    (begin, inner, end)
}

fn is_meta_but_bar(c: char) -> bool {
    matches!(
        c,
        '\\' | '.'
            | '+'
            | '*'
            | '?'
            | '('
            | ')'
            | '['
            | ']'
            | '{'
            | '}'
            | '^'
            | '$'
            | '#'
            | '&'
            | '~'
    )
}

/// The text every match must begin with, as far as it is plain to see.
fn literal_prefix(pattern: &str) -> &str {
    if pattern.contains('|') {
        return "";
    }
    let end = pattern.find(is_meta_but_bar).unwrap_or(pattern.len());
    let literal = &pattern[..end];
    if pattern[end..].starts_with(['*', '?', '{']) {
        // What is repeated may be absent.
        let last = literal.char_indices().next_back().map_or(0, |(i, _)| i);
        return &literal[..last];
    }
    literal
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort_unstable();
    texts.dedup();
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(test: Test) -> CompiledMatcher {
        compile_matcher(&Matcher::new(Label::Tag("t".into()), test)).unwrap()
    }

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let matcher = compiled(Test::Regex(pattern.into()));
        for value in yes {
            assert!(matcher.matches(value), "{pattern} matches {value:?}");
        }
        for value in no {
            assert!(!matcher.matches(value), "{pattern} refuses {value:?}");
        }
    }

    #[test]
    fn expressions_match_whole_values() {
        check("a|bc", &["a", "bc"], &["", "ab", "abc", "b"]);
        check("a|", &["a", ""], &["b"]);
        check("", &[""], &["a"]);
        check("host_1.*", &["host_1", "host_12"], &["host_", "xhost_1"]);
        check("ab?c", &["ac", "abc"], &["ab", "bc"]);
        check("ab*", &["a", "abb"], &["b", ""]);
        check("ab{0,1}", &["a", "ab"], &["abb"]);
        check("ab+", &["ab", "abb"], &["a"]);
        check("é?x", &["x", "éx"], &["é"]);
        check("(?i)ABC", &["abc", "AbC"], &["abcd"]);
        check("a.c", &["a\nc", "abc"], &["ac"]);
        check(".+", &["a", "\n"], &[""]);
        check(".*", &["a", ""], &[]);
        check(".*b", &["b", "abb", "\nb"], &["ba", ""]);
        check("b.*", &["b", "bab", "b\n"], &["ab", ""]);
        check(".*b.*", &["b", "abc"], &["a", ""]);
        check(".*.*", &["", "a"], &[]);
        check(".*?b", &["b", "ab"], &["ba"]);
        check(".*{2}b", &["b", "ab"], &["ba"]);
        check(r"a\.*", &["a", "a.."], &["ab"]);
        check(".*a|b", &["xa", "b"], &["xb", "ax"]);
        check(".*^a", &["a"], &["xa"]);
        check("^a$", &["a"], &["ab"]);
        check("x(a|b)", &["xa", "xb"], &["b", "x"]);
        check("xa|xb.", &["xa", "xbc"], &["xac", "xb"]);
    }

    #[test]
    fn bad_expressions_name_their_label() {
        for pattern in ["a)(b", "(", "a{1000}{1000}{1000}", "[z-a]", "(?<a"] {
            let selector = Selector {
                matchers: vec![Matcher::new(
                    Label::Tag("rack".into()),
                    Test::Regex(pattern.into()),
                )],
            };
            let error = selector.compile().unwrap_err();
            assert!(error.to_string().contains("label 'rack'"), "{error}");
        }
    }

    #[test]
    fn only_plain_alternatives_become_lists() {
        assert!(matches!(
            compiled(Test::Regex("a|b".into())).test,
            CompiledTest::In(_)
        ));
        assert_eq!(literal_prefix("abc.*"), "abc");
        assert_eq!(literal_prefix("abc?"), "ab");
        assert_eq!(literal_prefix("(a)"), "");
        assert_eq!(literal_prefix("a|b.*"), "");
        assert!(compiled(Test::Exists).negated == Matcher::new(Label::Name, Test::Exists).negated);
    }
}
