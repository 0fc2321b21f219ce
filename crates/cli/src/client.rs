//! A small HTTP/1.1 client over one connection that is kept alive.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Largest answer that is taken: the raw select of a benchmark's check.
const ANSWER_BYTES_MAX: u64 = 4 << 30;

/// A connection to one server.
#[derive(Debug)]
pub(crate) struct Client {
    host: String,
    token: Option<String>,
    stream: Option<BufReader<TcpStream>>,
    timeout: Duration,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    /// A client of `http://HOST:PORT`; it connects with the first request.
    pub(crate) fn new(url: &str, token: Option<&str>) -> Result<Self, Error> {
        let rest = url
            .strip_prefix("http://")
            .unwrap_or(url)
            .trim_end_matches('/');
        if rest.is_empty() || rest.contains('/') {
            let reason =
                format!("{url:?} is no address of a server; write it like http://127.0.0.1:8181");
            return Err(Error::new(ErrorKind::InvalidInput, reason));
        }
        let host = if rest.contains(':') {
            rest.to_owned()
        } else {
            format!("{rest}:8181")
        };
        Ok(Self {
            host,
            token: token.map(str::to_owned),
            stream: None,
            timeout: Duration::from_mins(2),
        })
    }

    /// Waits so long for an answer.
    pub(crate) fn patient(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends a request and reads the whole answer. A connection that was closed meanwhile is opened again.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, Error> {
        let reused = self.stream.is_some();
        match self.attempt(method, path, headers, body) {
            Err(error) if reused && is_closed(&error) => {
                self.stream = None;
                self.attempt(method, path, headers, body)
            }
            result => result,
        }
        .inspect_err(|_| self.stream = None)
    }

    fn attempt(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, Error> {
        if self.stream.is_none() {
            self.stream = Some(BufReader::with_capacity(64 << 10, self.connect()?));
        }
        let Some(stream) = &mut self.stream else {
            return Err(ErrorKind::NotConnected.into());
        };
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n",
            self.host,
            body.len()
        );
        if let Some(token) = &self.token {
            head.push_str("Authorization: Bearer ");
            head.push_str(token);
            head.push_str("\r\n");
        }
        for (name, value) in headers {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        let sent = {
            let socket = stream.get_mut();
            socket
                .write_all(head.as_bytes())
                .and_then(|()| socket.write_all(body))
        };
        // A server that refuses a body early has an answer all the same.
        let (answer, close) = match (read_answer(stream), sent) {
            (Ok(answer), _) => answer,
            (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(error),
        };
        if close {
            self.stream = None;
        }
        Ok(answer)
    }

    fn connect(&self) -> Result<TcpStream, Error> {
        let mut last = Error::new(ErrorKind::NotFound, "the host has no address");
        for address in self.host.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(self.timeout))?;
                    stream.set_write_timeout(Some(self.timeout))?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn is_closed(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::UnexpectedEof
    )
}

fn malformed(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("the answer is not HTTP: {what}"),
    )
}

/// The answer, and whether the connection ends with it.
fn read_answer(stream: &mut impl BufRead) -> Result<(Answer, bool), Error> {
    let status_line = read_line(stream)?;
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
        .ok_or_else(|| malformed("no status"))?;
    let (mut length, mut chunked, mut close) = (None, false, false);
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err(malformed("a header without a colon"));
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                length = Some(value.parse::<u64>().map_err(|_| malformed("its length"))?);
            }
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => close = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let line = read_line(stream)?;
            let size = u64::from_str_radix(line.trim(), 16)
                .map_err(|_| malformed("the size of a chunk"))?;
            read_exactly(stream, size, &mut body)?;
            let end = read_line(stream)?;
            if !end.is_empty() {
                return Err(malformed("the end of a chunk"));
            }
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = length {
        read_exactly(stream, length, &mut body)?;
    } else if status != 204 && status != 304 {
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut body)?;
        close = true;
    }
    Ok((Answer { status, body }, close))
}

fn read_exactly(stream: &mut impl BufRead, bytes: u64, into: &mut Vec<u8>) -> Result<(), Error> {
    if into.len() as u64 + bytes > ANSWER_BYTES_MAX {
        return Err(malformed("it is larger than 4 GiB"));
    }
    let read = stream.take(bytes).read_to_end(into)?;
    if (read as u64) < bytes {
        Err(ErrorKind::UnexpectedEof.into())
    } else {
        Ok(())
    }
}

fn read_line(stream: &mut impl BufRead) -> Result<String, Error> {
    let mut line = Vec::new();
    stream.take(64 << 10).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| malformed("its head"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Answer, bool), Error> {
        read_answer(&mut text.as_bytes())
    }

    #[test]
    fn answers_of_every_kind() {
        let (answer, close) =
            read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more").unwrap();
        assert_eq!(
            (answer.status, answer.text().as_str(), close),
            (200, "hi", false)
        );
        let chunked =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n";
        assert_eq!(read(chunked).unwrap().0.text(), "hi!");
        let (answer, close) = read("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
        assert_eq!((answer.status, close), (204, true));
        for cut in 0..chunked.len() {
            assert!(read(&chunked[..cut]).is_err(), "{cut}");
        }
    }
}
