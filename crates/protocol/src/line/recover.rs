//! Finding the end of a line that was refused.

/// Where the refused line at the start of `rest` ends: the offset of its line feed, or `None` if there is none
/// outside quotes.
///
/// Follows `scanLine` of InfluxDB 1.6.7, which keeps a line feed inside the quotes of a field value, so that
/// text somebody put into a string never becomes a point. If quotes stay open to the end, the caller has the
/// first line feed end the line after all: one forgotten quote must not swallow the rest of a body.
pub(super) fn end_of_bad_line(rest: &[u8]) -> Option<usize> {
    let (mut quoted, mut in_fields) = (false, false);
    let (mut equals, mut commas) = (0_usize, 0_usize);
    let mut at = 0;
    while let Some(byte) = rest.get(at) {
        match byte {
            // A line feed is never escaped outside quotes.
            b'\\' if quoted || rest.get(at + 1) != Some(&b'\n') => at += 1,
            b' ' => in_fields = true,
            b'=' if in_fields && !quoted => equals += 1,
            b',' if in_fields && !quoted => commas += 1,
            b'"' if in_fields && equals > commas => quoted = !quoted,
            b'\n' if !quoted => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hide_line_feeds_only_if_they_close() {
        assert_eq!(end_of_bad_line(b"m a=x,v=\"1\n2\" 3\nm v=1"), Some(15));
        assert_eq!(end_of_bad_line(b"m a=x,v=\"1\nm v=1\n"), None);
        assert_eq!(end_of_bad_line(b"m\"a b\nm v=1\n"), Some(5));
        assert_eq!(end_of_bad_line(b"m\\\nm v=1\n"), Some(2));
        assert_eq!(end_of_bad_line(b"m"), None);
    }
}
