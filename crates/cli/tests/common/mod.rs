//! The real binary: a server of it on a port of its own, and its other commands.

#[path = "../../src/client.rs"]
mod client;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use client::Client;

/// A server of a directory, killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
}

impl Server {
    /// Starts one, with more arguments, and waits until it answers.
    pub(crate) fn start(dir: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_alluvium"))
            .args(["serve", "--http", "127.0.0.1:0", "--memory", "256MiB"])
            .args(more)
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = lines.next().unwrap().unwrap();
        let url = listening
            .split_whitespace()
            .find(|w| w.starts_with("http://"));
        let url = url.unwrap().to_owned();
        assert!(lines.map(Result::unwrap).any(|l| l.starts_with("try: ")));
        Self { child, url }
    }

    /// Status and body of an answer.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut client = Client::new(&self.url, None).unwrap();
        let answer = client.request(method, path, &[], body.as_bytes()).unwrap();
        (answer.status, answer.text())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
pub(crate) fn alluvium(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_alluvium"))
        .args(args)
        .output()
        .unwrap()
}

/// Everything that it printed.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
