//! The binary as a child of the test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A server that dies with the test.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    output: BufReader<std::process::ChildStdout>,
}

impl Server {
    /// Starts and reads the line that says where it listens; recovery may still be under way.
    pub(crate) fn start(dir: &Path, io: &str) -> Result<Self, String> {
        Self::start_with(dir, io, &[])
    }

    /// The same with more flags.
    pub(crate) fn start_with(dir: &Path, io: &str, flags: &[&str]) -> Result<Self, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_alluvium"))
            .args([
                "serve",
                "--http",
                "127.0.0.1:0",
                "--io",
                io,
                "--volume-size",
                "4MiB",
                "--memory",
                "512MiB",
            ])
            .args(flags)
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let url = line
            .split_whitespace()
            .find(|w| w.starts_with("http://"))
            .map(str::to_owned);
        if let Some(url) = url {
            Ok(Self { child, url, output })
        } else {
            let rest = child.wait_with_output().unwrap();
            Err(String::from_utf8_lossy(&rest.stderr).into_owned())
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads on until recovery is done.
    pub(crate) fn wait_ready(&mut self) {
        if let Err(error) = self.try_ready() {
            panic!("the server did not come back: {error}");
        }
    }

    /// Reads on until recovery is done, which the second line says, or what the server says instead.
    pub(crate) fn try_ready(&mut self) -> Result<(), String> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        if line.starts_with("io: ") {
            return Ok(());
        }
        let mut error = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            BufReader::new(stderr).read_line(&mut error).unwrap();
        }
        Err(format!("{line}{error}"))
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
