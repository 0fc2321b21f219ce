//! Names and values of a query string or a form body.

/// Most pairs that are read; what follows is ignored.
const PAIRS_MAX: usize = 256;

/// Decoded pairs in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads `name=value&name=value`. A `;` stays part of its value, as clients send statements unescaped.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut params = Self::default();
        params.extend(text);
        params
    }

    /// Adds the pairs of another text behind those at hand.
    pub(crate) fn extend(&mut self, text: &[u8]) {
        for pair in text.split(|b| *b == b'&').filter(|p| !p.is_empty()) {
            if self.0.len() == PAIRS_MAX {
                return;
            }
            let at = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
            let value = pair.get(at + 1..).unwrap_or_default();
            self.0.push((decode(&pair[..at]), decode(value)));
        }
    }

    /// The first value of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// All names, in the order they came.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(n, _)| n.as_str())
    }
}

fn decode(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let hex = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'+', ..) => bytes.push(b' '),
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let params = Params::parse(
            b"db=my+db&q=SHOW%20DATABASES;SHOW DATABASES&flag&p=%zz%4&db=second&u=%C3%A9%FF",
        );
        assert_eq!(params.get("db"), Some("my db"));
        assert_eq!(params.get("q"), Some("SHOW DATABASES;SHOW DATABASES"));
        assert_eq!(params.get("flag"), Some(""));
        assert_eq!(params.get("p"), Some("%zz%4"));
        assert_eq!(params.get("u"), Some("\u{e9}\u{fffd}"));
        assert_eq!(params.get("absent"), None);
    }
}
