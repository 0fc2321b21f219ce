//! The statements with which clients of InfluxDB begin: creating, listing and dropping databases; and deletes.
//!
//! It is not the query language: every other statement is recognised as one and answered as not supported yet.

use crate::json::DeleteRequest;
use crate::text::{write_integer, write_json_string};
use crate::time::TimeError;

mod delete;

/// Longest query text in bytes.
const QUERY_BYTES_MAX: usize = 1 << 16;

/// Most statements of one query.
const STATEMENTS_MAX: usize = 1_024;

/// One statement.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Statement {
    /// `CREATE DATABASE name`; it is no error if the database is there.
    CreateDatabase {
        /// The name, not checked.
        name: String,
        /// Whether a `WITH` clause follows, which has no effect yet.
        has_options: bool,
    },
    /// `DROP DATABASE name`; it is no error if the database is not there.
    DropDatabase {
        /// The name, not checked.
        name: String,
    },
    /// `SHOW DATABASES`.
    ShowDatabases,
    /// `DELETE`, `DROP SERIES` or `DROP MEASUREMENT`, of the database of the request.
    Delete(Box<DeleteRequest>),
    /// Anything else.
    Unsupported {
        /// Its first words in capitals, such as `SHOW MEASUREMENTS`.
        what: String,
    },
}

/// Why a query text is no list of statements.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// No statement at all.
    #[error("missing required parameter \"q\"")]
    Empty,
    /// Too long.
    #[error("error parsing query: longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// Too many statements.
    #[error("error parsing query: more than {limit} statements")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// A quote does not end.
    #[error("error parsing query: unterminated quote")]
    Unterminated,
    /// A time does not parse.
    #[error("error parsing query: {0}")]
    Time(#[from] TimeError),
    /// Another word than the one found should stand there.
    #[error("error parsing query: found {found}, expected {expected}")]
    Expected {
        /// What stands there.
        found: String,
        /// What should.
        expected: &'static str,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// A quoted identifier.
    Name(String),
    /// A quoted text.
    Text(String),
    /// A regular expression between slashes.
    Regex(String),
    /// Digits, and what stands with them: `5`, `1.5`, `10m`.
    Number(String),
    /// A sign, such as `!=`.
    Other(String),
    End,
}

/// Reads the statements of `q`, separated by semicolons; `now_ns` is what `now()` means in them.
///
/// # Errors
/// If the text is empty or malformed; a statement that is only not supported is no error.
///
/// ```
/// use alluvium_protocol::influxql::{Statement, parse};
/// assert_eq!(
///     parse("create database \"my db\"; SHOW DATABASES", 0).unwrap(),
///     [Statement::CreateDatabase { name: "my db".into(), has_options: false }, Statement::ShowDatabases]
/// );
/// ```
pub fn parse(q: &str, now_ns: i64) -> Result<Vec<Statement>, StatementError> {
    if q.len() > QUERY_BYTES_MAX {
        return Err(StatementError::TooLong {
            limit: QUERY_BYTES_MAX,
        });
    }
    let tokens = tokens(q)?;
    let mut statements = Vec::new();
    for statement in tokens.split(|t| *t == Token::End) {
        if statement.is_empty() {
            continue;
        }
        if statements.len() == STATEMENTS_MAX {
            return Err(StatementError::TooMany {
                limit: STATEMENTS_MAX,
            });
        }
        statements.push(read(statement, now_ns)?);
    }
    if statements.is_empty() {
        return Err(StatementError::Empty);
    }
    Ok(statements)
}

fn read(tokens: &[Token], now_ns: i64) -> Result<Statement, StatementError> {
    if let Some(request) = delete::read(tokens, now_ns)? {
        return Ok(Statement::Delete(Box::new(request)));
    }
    if let Some(rest) = words(tokens, &["SHOW", "DATABASES"]) {
        return end(rest).map(|()| Statement::ShowDatabases);
    }
    if let Some(rest) = words(tokens, &["CREATE", "DATABASE"]) {
        let rest = words(rest, &["IF", "NOT", "EXISTS"]).unwrap_or(rest);
        let (name, rest) = identifier(rest)?;
        let has_options = words(rest, &["WITH"]).is_some();
        if !has_options {
            end(rest)?;
        }
        return Ok(Statement::CreateDatabase { name, has_options });
    }
    if let Some(rest) = words(tokens, &["DROP", "DATABASE"]) {
        let rest = words(rest, &["IF", "EXISTS"]).unwrap_or(rest);
        let (name, rest) = identifier(rest)?;
        return end(rest).map(|()| Statement::DropDatabase { name });
    }
    let what: Vec<String> = tokens
        .iter()
        .map_while(|t| match t {
            Token::Word(word) => Some(word.to_ascii_uppercase()),
            _ => None,
        })
        .take(match tokens.first() {
            Some(Token::Word(first)) if first.eq_ignore_ascii_case("select") => 1,
            _ => 3,
        })
        .collect();
    match what.first().map(String::as_str) {
        Some(
            "SELECT" | "SHOW" | "CREATE" | "DROP" | "DELETE" | "ALTER" | "GRANT" | "REVOKE" | "SET"
            | "KILL" | "EXPLAIN",
        ) => Ok(Statement::Unsupported {
            what: what.join(" "),
        }),
        _ => Err(StatementError::Expected {
            found: found(tokens),
            expected: "SELECT, SHOW, CREATE, DROP, DELETE, ALTER, GRANT, REVOKE, SET, KILL or EXPLAIN",
        }),
    }
}

/// What is left behind these words, if the tokens begin with them in any case.
fn words<'t>(tokens: &'t [Token], expected: &[&str]) -> Option<&'t [Token]> {
    let head = tokens.get(..expected.len())?;
    let equal = head
        .iter()
        .zip(expected)
        .all(|(t, e)| matches!(t, Token::Word(word) if word.eq_ignore_ascii_case(e)));
    if equal {
        tokens.get(expected.len()..)
    } else {
        None
    }
}

fn identifier(tokens: &[Token]) -> Result<(String, &[Token]), StatementError> {
    match tokens.split_first() {
        Some((Token::Word(name) | Token::Name(name), rest)) if !name.is_empty() => {
            Ok((name.clone(), rest))
        }
        _ => Err(StatementError::Expected {
            found: found(tokens),
            expected: "identifier",
        }),
    }
}

fn end(tokens: &[Token]) -> Result<(), StatementError> {
    if tokens.is_empty() {
        Ok(())
    } else {
        Err(StatementError::Expected {
            found: found(tokens),
            expected: ";",
        })
    }
}

fn found(tokens: &[Token]) -> String {
    match tokens.first() {
        Some(
            Token::Word(text)
            | Token::Name(text)
            | Token::Text(text)
            | Token::Regex(text)
            | Token::Number(text)
            | Token::Other(text),
        ) => text.chars().take(64).collect(),
        Some(Token::End) | None => "EOF".into(),
    }
}

fn tokens(q: &str) -> Result<Vec<Token>, StatementError> {
    let mut tokens = Vec::new();
    let mut chars = q.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ';' => tokens.push(Token::End),
            '"' | '\'' => {
                let mut text = String::new();
                loop {
                    match chars.next().ok_or(StatementError::Unterminated)? {
                        '\\' => match chars.next().ok_or(StatementError::Unterminated)? {
                            'n' => text.push('\n'),
                            other => text.push(other),
                        },
                        end if end == c => break,
                        other => text.push(other),
                    }
                }
                tokens.push(if c == '"' {
                    Token::Name(text)
                } else {
                    Token::Text(text)
                });
            }
            '/' if delete::expects_regex(&tokens) => {
                let mut text = String::new();
                loop {
                    match chars.next().ok_or(StatementError::Unterminated)? {
                        '\\' if chars.next_if_eq(&'/').is_some() => text.push('/'),
                        '/' => break,
                        other => text.push(other),
                    }
                }
                tokens.push(Token::Regex(text));
            }
            c if c.is_ascii_digit() => {
                let mut number = String::from(c);
                while let Some(next) = chars.next_if(|n| n.is_alphanumeric() || *n == '.') {
                    number.push(next);
                }
                tokens.push(Token::Number(number));
            }
            '=' | '!' | '<' | '>' => {
                let mut sign = String::from(c);
                sign.extend(chars.next_if(|n| matches!(n, '=' | '~' | '>')));
                tokens.push(Token::Other(sign));
            }
            '-' if chars.peek() == Some(&'-') => while chars.next_if(|n| *n != '\n').is_some() {},
            c if c.is_whitespace() => {}
            c if c.is_alphabetic() || c == '_' => {
                let mut word = String::from(c);
                while let Some(next) = chars.next_if(|n| n.is_alphanumeric() || *n == '_') {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
            other => tokens.push(Token::Other(other.into())),
        }
    }
    Ok(tokens)
}

/// The answer to one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done; nothing to say.
    Done,
    /// Names of databases.
    Databases(Vec<String>),
    /// It failed, the others did not.
    Error(String),
}

impl Answer {
    /// The answer to [`Statement::Unsupported`].
    pub fn unsupported(what: &str) -> Self {
        Self::Error(format!("{what} is not supported yet"))
    }
}

/// The JSON body of InfluxDB 1 for the answers to the statements of one query, in order.
///
/// ```
/// use alluvium_protocol::influxql::{Answer, answer_body};
/// assert_eq!(answer_body(&[Answer::Done]), "{\"results\":[{\"statement_id\":0}]}\n");
/// ```
pub fn answer_body(answers: &[Answer]) -> String {
    let mut out = Vec::from(b"{\"results\":[");
    for (id, answer) in answers.iter().enumerate() {
        if id > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"statement_id\":");
        write_integer(&mut out, id);
        match answer {
            Answer::Done => {}
            Answer::Databases(names) => {
                out.extend_from_slice(
                    b",\"series\":[{\"name\":\"databases\",\"columns\":[\"name\"]",
                );
                if !names.is_empty() {
                    out.extend_from_slice(b",\"values\":[");
                    for (i, name) in names.iter().enumerate() {
                        out.extend_from_slice(if i > 0 { b",[" } else { b"[" });
                        write_json_string(&mut out, name);
                        out.push(b']');
                    }
                    out.push(b']');
                }
                out.extend_from_slice(b"}]");
            }
            Answer::Error(sentence) => {
                out.extend_from_slice(b",\"error\":");
                write_json_string(&mut out, sentence);
            }
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}\n");
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(q: &str) -> Statement {
        let mut statements = parse(q, 0).unwrap();
        assert_eq!(statements.len(), 1, "{q}");
        statements.remove(0)
    }

    #[test]
    fn statements_of_databases() {
        let create = |name: &str, has_options| Statement::CreateDatabase {
            name: name.into(),
            has_options,
        };
        assert_eq!(
            one("CREATE DATABASE \"telegraf\""),
            create("telegraf", false)
        );
        assert_eq!(one(" create  database t;"), create("t", false));
        assert_eq!(one("CREATE DATABASE \"a;b\\\"c\""), create("a;b\"c", false));
        assert_eq!(one("CREATE DATABASE IF NOT EXISTS x"), create("x", false));
        assert_eq!(
            one("CREATE DATABASE x WITH DURATION 3d REPLICATION 1 NAME \"y\""),
            create("x", true)
        );
        assert_eq!(
            one("drop database x -- no more"),
            Statement::DropDatabase { name: "x".into() }
        );
        assert_eq!(one("show databases"), Statement::ShowDatabases);
    }

    #[test]
    fn other_statements_are_named() {
        let what = |q: &str| match one(q) {
            Statement::Unsupported { what } => what,
            other => panic!("{q}: {other:?}"),
        };
        assert_eq!(what("SELECT mean(v) FROM cpu WHERE x = ';'"), "SELECT");
        assert_eq!(what("show measurements"), "SHOW MEASUREMENTS");
        assert_eq!(what("SHOW TAG KEYS FROM \"cpu\""), "SHOW TAG KEYS");
        assert_eq!(
            what("CREATE RETENTION POLICY \"a\" ON x"),
            "CREATE RETENTION POLICY"
        );
    }

    #[test]
    fn broken_statements_are_refused() {
        let error = |q: &str| parse(q, 0).unwrap_err().to_string();
        assert_eq!(error(" ; "), "missing required parameter \"q\"");
        assert_eq!(
            error("CREATE DATABASE"),
            "error parsing query: found EOF, expected identifier"
        );
        assert_eq!(
            error("CREATE DATABASE \"x"),
            "error parsing query: unterminated quote"
        );
        assert_eq!(
            error("SHOW DATABASES x"),
            "error parsing query: found x, expected ;"
        );
        assert!(
            error("frobnicate")
                .starts_with("error parsing query: found frobnicate, expected SELECT")
        );
        assert!(error(&"x".repeat(100_000)).contains("longer than"));
    }

    #[test]
    fn answers_have_the_shapes_of_influxdb() {
        assert_eq!(
            answer_body(&[
                Answer::Databases(vec!["a".into(), "b\"".into()]),
                Answer::Databases(vec![]),
                Answer::unsupported("SELECT"),
            ]),
            concat!(
                r#"{"results":[{"statement_id":0,"series":[{"name":"databases","columns":["name"],"values":[["a"],["b\""]]}]},"#,
                r#"{"statement_id":1,"series":[{"name":"databases","columns":["name"]}]},"#,
                r#"{"statement_id":2,"error":"SELECT is not supported yet"}]}"#,
                "\n"
            )
        );
    }

    proptest! {
        #[test]
        fn any_text_is_answered(q in "(?s)(.|;|\"|'|--|create database |show databases|\\\\){0,30}") {
            let _ = parse(&q, 0);
        }
    }
}
