//! A server in this process and a plain client for it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::format_push_string,
    reason = "each test file uses a part; what is not so fails the test"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use alluvium_io::MemoryDevice;
use alluvium_server::{Config, Running, Storage, serve};
use tokio::runtime::Runtime;

pub(crate) struct Server {
    pub(crate) runtime: Runtime,
    pub(crate) address: SocketAddr,
    running: Option<Running>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

pub(crate) fn memory_config() -> Config {
    let mut config = Config::new(Storage::Device(Arc::new(MemoryDevice::new(3))));
    config.store.memory_bytes = 1 << 30;
    config.store.volume_bytes = 64 << 20;
    config.store.segment_bytes = 4 << 20;
    config
}

impl Server {
    pub(crate) fn start(config: Config) -> Self {
        Self::try_start(config).unwrap()
    }

    pub(crate) fn try_start(mut config: Config) -> Result<Self, alluvium_server::ServeError> {
        if config.http.ends_with(":8181") {
            config.http = "127.0.0.1:0".into();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut running = runtime.block_on(serve(config))?;
        runtime.block_on(running.ready())?;
        Ok(Self {
            address: running.address(),
            runtime,
            running: Some(running),
        })
    }

    pub(crate) fn memory() -> Self {
        Self::start(memory_config())
    }

    pub(crate) fn stop(mut self) {
        let running = self.running.take().unwrap();
        self.runtime.block_on(running.stop()).unwrap();
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        stream
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).unwrap();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(body);
        read_answer(&mut stream)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send("POST", path, &[], body.as_ref())
    }

    pub(crate) fn write(&self, lines: impl AsRef<[u8]>) -> Answer {
        self.post("/write?db=test", lines)
    }

    /// Rows as csv.
    pub(crate) fn query(&self, query: &str) -> String {
        let answer = self.post("/api/query?db=test", query);
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        answer.text().to_owned()
    }
}

/// Reads to the end of the connection and undoes chunks.
pub(crate) fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            // A reset after the answer: the server did not want the rest of the body.
            Err(_) if !bytes.is_empty() => break,
            Err(error) => panic!("no answer: {error}"),
        }
    }
    let end = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a whole head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut body = bytes[end + 4..].to_vec();
    if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        body = unchunk(&body);
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size =
            usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            return out;
        }
        out.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
    panic!("the last chunk is missing after {} bytes", out.len());
}
