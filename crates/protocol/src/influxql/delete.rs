//! `DELETE`, `DROP SERIES` and `DROP MEASUREMENT`: conditions on tags and on time, joined by AND.

use alluvium_types::TimeRange;

use super::{StatementError, Token, end, found, identifier, words};
use crate::json::{DeleteRequest, FILTER_TAGS_MAX, Filter, Pattern, TagMatch};
use crate::time::{parse_duration, parse_time};

/// Whether a slash begins a regular expression behind these tokens.
pub(super) fn expects_regex(tokens: &[Token]) -> bool {
    match tokens.last() {
        Some(Token::Other(sign)) => sign == "=~" || sign == "!~",
        _ => false,
    }
}

/// The delete that the tokens are; `None` if they begin with other words.
pub(super) fn read(tokens: &[Token], now_ns: i64) -> Result<Option<DeleteRequest>, StatementError> {
    let mut request = DeleteRequest::ALL;
    if let Some(rest) = words(tokens, &["DROP", "MEASUREMENT"]) {
        let (name, rest) = identifier(rest)?;
        request.measurements.push(name);
        end(rest)?;
        return Ok(Some(request));
    }
    let (rest, may_name_time) = match words(tokens, &["DELETE"]) {
        Some(rest) => (rest, true),
        None => match words(tokens, &["DROP", "SERIES"]) {
            Some(rest) => (rest, false),
            None => return Ok(None),
        },
    };
    let mut rest = rest;
    let mut is_restricted = false;
    if let Some(mut names) = words(rest, &["FROM"]) {
        is_restricted = true;
        loop {
            let (name, behind) = identifier(names)?;
            request.measurements.push(name);
            match behind.split_first() {
                Some((Token::Other(comma), more)) if comma == "," => names = more,
                _ => {
                    rest = behind;
                    break;
                }
            }
        }
    }
    if let Some(conditions) = words(rest, &["WHERE"]) {
        is_restricted = true;
        rest = where_clause(conditions, &mut request, may_name_time, now_ns)?;
    }
    if !is_restricted {
        return Err(StatementError::Expected {
            found: found(rest),
            expected: "FROM, WHERE",
        });
    }
    end(rest)?;
    Ok(Some(request))
}

fn where_clause<'t>(
    mut tokens: &'t [Token],
    request: &mut DeleteRequest,
    may_name_time: bool,
    now_ns: i64,
) -> Result<&'t [Token], StatementError> {
    let mut tags = Vec::new();
    let (mut begin, mut behind) = (i64::MIN, i64::MAX);
    loop {
        let (name, rest) = identifier(tokens)?;
        let Some((Token::Other(sign), rest)) = rest.split_first() else {
            return Err(expected(rest, "a comparison"));
        };
        let is_time = name.eq_ignore_ascii_case("time");
        if is_time && !may_name_time {
            return Err(expected(
                tokens,
                "a tag: DROP SERIES takes whole series, at whatever time",
            ));
        }
        if is_time {
            let (time, rest) = instant(rest, now_ns)?;
            let next = time.saturating_add(1);
            match sign.as_str() {
                "=" => (begin, behind) = (begin.max(time), behind.min(next)),
                ">=" => begin = begin.max(time),
                ">" => begin = begin.max(next),
                "<" => behind = behind.min(time),
                "<=" => behind = behind.min(next),
                _ => return Err(expected(rest, "=, <, <=, > or >= behind time")),
            }
            tokens = rest;
        } else {
            let Some((value, rest)) = rest.split_first() else {
                return Err(expected(rest, "a quoted text or a regular expression"));
            };
            let pattern = match (sign.as_str(), value) {
                ("=", Token::Text(text)) => Pattern::OneOf(vec![text.clone()]),
                ("!=" | "<>", Token::Text(text)) => {
                    Pattern::Not(Box::new(Pattern::OneOf(vec![text.clone()])))
                }
                ("=~", Token::Regex(text)) => Pattern::Regex(text.clone()),
                ("!~", Token::Regex(text)) => Pattern::Not(Box::new(Pattern::Regex(text.clone()))),
                _ => {
                    return Err(StatementError::Expected {
                        found: sign.clone(),
                        expected: "= or != and a text in single quotes, =~ or !~ and a regular expression",
                    });
                }
            };
            tags.push(TagMatch { tag: name, pattern });
            if tags.len() > FILTER_TAGS_MAX {
                return Err(expected(rest, "fewer conditions"));
            }
            tokens = rest;
        }
        match words(tokens, &["AND"]) {
            Some(rest) => tokens = rest,
            None => break,
        }
    }
    if !tags.is_empty() {
        request.filter = Filter::Tags(tags);
    }
    // Conditions that contradict each other hold for no instant.
    request.range = TimeRange::new(begin, behind.max(begin)).unwrap_or(TimeRange::ALL);
    Ok(tokens)
}

/// Nanoseconds, a text, or `now()` with durations added and subtracted.
fn instant(tokens: &[Token], now_ns: i64) -> Result<(i64, &[Token]), StatementError> {
    const SHAPE: &str = "a time: nanoseconds, a quoted time, or now() and durations";
    let (mut time, mut rest) = match tokens {
        [
            Token::Word(now),
            Token::Other(open),
            Token::Other(close),
            rest @ ..,
        ] if now.eq_ignore_ascii_case("now") && open == "(" && close == ")" => (now_ns, rest),
        [Token::Text(text), rest @ ..] => (parse_time(text, now_ns)?, rest),
        [Token::Other(minus), Token::Number(number), rest @ ..] if minus == "-" => {
            let time = nanoseconds(number).and_then(i64::checked_neg);
            (time.ok_or_else(|| expected(tokens, SHAPE))?, rest)
        }
        [Token::Number(number), rest @ ..] => {
            let time = nanoseconds(number);
            (time.ok_or_else(|| expected(tokens, SHAPE))?, rest)
        }
        _ => return Err(expected(tokens, SHAPE)),
    };
    while let [Token::Other(sign), Token::Number(number), behind @ ..] = rest {
        let span = parse_duration(number)?;
        time = match sign.as_str() {
            "+" => time.saturating_add(span),
            "-" => time.saturating_sub(span),
            _ => return Err(expected(rest, "+, - or AND")),
        };
        rest = behind;
    }
    Ok((time, rest))
}

/// Plain nanoseconds, or a duration since 1970 as InfluxQL allows it.
fn nanoseconds(number: &str) -> Option<i64> {
    number.parse().ok().or_else(|| parse_duration(number).ok())
}

fn expected(tokens: &[Token], expected: &'static str) -> StatementError {
    StatementError::Expected {
        found: found(tokens),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Statement, parse};
    use super::*;

    fn delete(q: &str) -> DeleteRequest {
        match parse(q, 10_000_000_000).unwrap().remove(0) {
            Statement::Delete(request) => *request,
            other => panic!("{q}: {other:?}"),
        }
    }

    fn tag(tag: &str, pattern: Pattern) -> TagMatch {
        TagMatch {
            tag: tag.into(),
            pattern,
        }
    }

    #[test]
    fn deletes_are_read() {
        let one = |text: &str| Pattern::OneOf(vec![text.into()]);
        let cpu = DeleteRequest {
            measurements: vec!["cpu".into()],
            ..DeleteRequest::ALL
        };
        assert_eq!(delete("drop measurement \"cpu\""), cpu);
        assert_eq!(delete("DELETE FROM cpu"), cpu);
        assert_eq!(
            delete("DROP SERIES FROM cpu, \"my disk\" WHERE host = 'a b' AND dc !~ /^x\\/y/"),
            DeleteRequest {
                measurements: vec!["cpu".into(), "my disk".into()],
                filter: Filter::Tags(vec![
                    tag("host", one("a b")),
                    tag("dc", Pattern::Not(Box::new(Pattern::Regex("^x/y".into())))),
                ]),
                ..DeleteRequest::ALL
            }
        );
        let range = |q: &str| delete(&format!("DELETE FROM cpu WHERE {q}")).range;
        let r = |begin, end| TimeRange::new(begin, end).unwrap();
        assert_eq!(range("time >= 5 AND time<=7"), r(5, 8));
        assert_eq!(range("time > -5 and time < 7"), r(-4, 7));
        assert_eq!(range("time = 1s"), r(1_000_000_000, 1_000_000_001));
        assert_eq!(range("time < now() - 4s"), r(i64::MIN, 6_000_000_000));
        assert_eq!(
            range("time < '1970-01-01 00:00:02'"),
            r(i64::MIN, 2_000_000_000)
        );
        assert!(range("time > 9 AND time < 3").is_empty());
        let no_name = delete("DELETE WHERE time < 3 AND host <> 'a'");
        assert!(no_name.measurements.is_empty() && no_name.range == r(i64::MIN, 3));
    }

    #[test]
    fn what_is_not_understood_deletes_nothing() {
        for (q, why) in [
            ("DELETE", "expected FROM, WHERE"),
            ("DROP SERIES", "expected FROM, WHERE"),
            ("DELETE FROM cpu WHERE", "expected identifier"),
            ("DELETE FROM cpu WHERE host = 'a' OR host = 'b'", "found OR"),
            ("DELETE FROM cpu WHERE host = \"a\"", "single quotes"),
            ("DELETE FROM cpu WHERE host =~ 'a'", "single quotes"),
            ("DELETE FROM cpu WHERE host =~ /a", "unterminated"),
            ("DELETE FROM cpu WHERE time != 5", "behind time"),
            ("DELETE FROM cpu WHERE time < 'yesterday'", "yesterday"),
            ("DELETE FROM cpu WHERE time < 5 x", "found x"),
            ("DROP SERIES FROM cpu WHERE time < 5", "whole series"),
            (
                "DROP SERIES FROM cpu WHERE time <> '2020-01-01'",
                "whole series",
            ),
            ("DROP MEASUREMENT cpu, mem", "found ,"),
            ("DELETE FROM /cpu.*/", "expected identifier"),
        ] {
            let error = parse(q, 0).unwrap_err().to_string();
            assert!(error.contains(why), "{q}: {error}");
        }
    }
}
