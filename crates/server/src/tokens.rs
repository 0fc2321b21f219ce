//! Tokens and what they allow.

use std::path::Path;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use crate::error::ServeError;

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Right {
    /// Queries.
    Read,
    /// Points.
    Write,
    /// Databases and the store.
    Admin,
}

/// Whether a request may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    /// No token, or none that is known: 401.
    Unknown,
    /// A known token without the right: 403.
    Forbidden,
}

#[derive(Debug)]
struct Grant {
    token: Box<[u8]>,
    right: Right,
    /// `None` is every database.
    database: Option<Box<str>>,
}

/// The lines of a token file. Debug output would print secrets, hence none is derived for lines in full.
pub(crate) struct Tokens(Vec<Grant>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({} grants)", self.0.len())
    }
}

impl Tokens {
    pub(crate) fn load(path: &Path) -> Result<Self, ServeError> {
        let text = std::fs::read_to_string(path).map_err(|source| ServeError::TokenFile {
            path: path.into(),
            source,
        })?;
        Self::parse(&text).map_err(|line| ServeError::TokenLine {
            path: path.into(),
            line,
        })
    }

    /// Reads `token read|write|admin database|*` a line; the error is the number of a line that is not so.
    fn parse(text: &str) -> Result<Self, usize> {
        let mut grants = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            let [token, right, database] = words.as_slice() else {
                if words.is_empty() {
                    continue;
                }
                return Err(i + 1);
            };
            let right = match *right {
                "read" => Right::Read,
                "write" => Right::Write,
                "admin" => Right::Admin,
                _ => return Err(i + 1),
            };
            let database = (*database != "*").then(|| (*database).into());
            grants.push(Grant {
                token: token.as_bytes().into(),
                right,
                database,
            });
        }
        Ok(Self(grants))
    }

    /// Whether the token that came along allows `right` on `database`; `None` asks for any token at all.
    pub(crate) fn check(
        &self,
        headers: &HeaderMap,
        password: Option<&str>,
        wanted: Option<(Right, &str)>,
    ) -> Verdict {
        let offered = offered(headers, password);
        let mut verdict = Verdict::Unknown;
        // Every grant is compared with every offer in full, so that time tells nothing of the tokens.
        for grant in &self.0 {
            for token in &offered {
                if !equal(&grant.token, token) {
                    continue;
                }
                let allowed = match wanted {
                    None => true,
                    Some((right, database)) => {
                        (grant.right == Right::Admin || grant.right == right)
                            && grant.database.as_deref().is_none_or(|d| d == database)
                    }
                };
                if allowed {
                    verdict = Verdict::Allowed;
                } else if verdict == Verdict::Unknown {
                    verdict = Verdict::Forbidden;
                }
            }
        }
        verdict
    }
}

/// The tokens a request carries: `Bearer T`, `Token T`, `Token user:T`, basic with the token as password, or
/// the classic parameter `p`.
fn offered(headers: &HeaderMap, password: Option<&str>) -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = password
        .map(|p| p.as_bytes().to_vec())
        .into_iter()
        .collect();
    let header = headers
        .get(AUTHORIZATION)
        .map(axum::http::HeaderValue::as_bytes)
        .unwrap_or_default();
    let (scheme, rest) = match header.iter().position(|b| *b == b' ') {
        Some(at) => (&header[..at], header[at + 1..].trim_ascii()),
        None => return tokens,
    };
    let after_colon = |bytes: &[u8]| {
        bytes
            .iter()
            .position(|b| *b == b':')
            .map(|at| bytes[at + 1..].to_vec())
    };
    if scheme.eq_ignore_ascii_case(b"bearer") || scheme.eq_ignore_ascii_case(b"token") {
        tokens.extend(after_colon(rest));
        tokens.push(rest.to_vec());
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        tokens.extend(decode_base64(rest).as_deref().and_then(after_colon));
    }
    tokens
}

/// Compares without leaving early.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut differing = a.len() ^ b.len();
    for (i, byte) in b.iter().enumerate() {
        let other = a.get(i).copied().unwrap_or(!byte);
        differing |= usize::from(byte ^ other);
    }
    std::hint::black_box(differing) == 0
}

/// Standard base64, with or without padding; `None` if it is not.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text
        .strip_suffix(b"==")
        .or_else(|| text.strip_suffix(b"="))
        .unwrap_or(text);
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.chunks(4) {
        let mut bits: u32 = 0;
        for byte in group {
            let six = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        bits <<= 6 * (4 - group.len());
        let bytes = bits.to_be_bytes();
        out.extend_from_slice(match group.len() {
            4 => &bytes[1..4],
            3 => &bytes[1..3],
            2 => &bytes[1..2],
            _ => return None,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization.parse().unwrap());
        headers
    }

    #[test]
    fn rights_are_per_database_and_token() {
        let tokens =
            Tokens::parse("# all\nr read home # reader\nw write *\nr write other\na admin *\n")
                .unwrap();
        let check = |token: &str, right, db| tokens.check(&headers(token), None, Some((right, db)));
        assert_eq!(check("Bearer r", Right::Read, "home"), Verdict::Allowed);
        assert_eq!(check("Bearer r", Right::Write, "home"), Verdict::Forbidden);
        assert_eq!(check("Token r", Right::Write, "other"), Verdict::Allowed);
        assert_eq!(check("token any:w", Right::Write, "x"), Verdict::Allowed);
        assert_eq!(check("Basic dXNlcjp3", Right::Write, "x"), Verdict::Allowed);
        assert_eq!(
            check("Basic dXNlcjp3", Right::Read, "x"),
            Verdict::Forbidden
        );
        assert_eq!(check("Bearer a", Right::Read, "x"), Verdict::Allowed);
        assert_eq!(check("Bearer rr", Right::Read, "home"), Verdict::Unknown);
        assert_eq!(check("Bearer ", Right::Read, "home"), Verdict::Unknown);
        assert_eq!(check("Basic ***", Right::Read, "home"), Verdict::Unknown);
        assert_eq!(
            tokens.check(&HeaderMap::new(), Some("w"), Some((Right::Write, "x"))),
            Verdict::Allowed
        );
        assert_eq!(
            tokens.check(&HeaderMap::new(), None, None),
            Verdict::Unknown
        );
        assert_eq!(
            tokens.check(&headers("Bearer r"), None, None),
            Verdict::Allowed
        );
    }

    #[test]
    fn lines_that_are_none_are_named() {
        assert_eq!(Tokens::parse("a read\n").unwrap_err(), 1);
        assert_eq!(Tokens::parse("\n\na owner *\n").unwrap_err(), 3);
    }

    #[test]
    fn base64() {
        assert_eq!(decode_base64(b"dXNlcjpw").unwrap(), b"user:p");
        assert_eq!(decode_base64(b"dXNlcjpwYQ==").unwrap(), b"user:pa");
        assert_eq!(decode_base64(b"dXNlcjpwYXM=").unwrap(), b"user:pas");
        assert_eq!(decode_base64(b"d"), None);
    }
}
