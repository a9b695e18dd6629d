//! A client of another language: it says a line of JSON at a time, and is told lines.

use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;

/// Bound of every single step of a client.
const STEP: Duration = Duration::from_secs(45);

/// See the module. Dropped, it is killed.
pub(crate) struct Talker {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    directory: TempDir,
}

impl Talker {
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Self {
        let directory = TempDir::new().unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        // Ends with the child, or with the value that reads.
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Self { name: name.to_owned(), child, stdin, lines, directory }
    }

    /// What it says next.
    pub(crate) fn hear(&self) -> Value {
        let line = self.lines.recv_timeout(STEP);
        let line = line.unwrap_or_else(|error| panic!("{}: {error}\n{}", self.name, self.log()));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{}: {error}: {line}", self.name))
    }

    /// Tells it a line.
    pub(crate) fn tell(&mut self, line: &Value) {
        let told = writeln!(self.stdin.as_mut().unwrap(), "{line}");
        told.unwrap_or_else(|error| panic!("{}: {error}\n{}", self.name, self.log()));
    }

    /// Lets it end, and waits for that.
    pub(crate) fn finish(mut self) {
        drop(self.stdin.take());
        let name = self.name.clone();
        let status = crate::support::eventually_within(&format!("{name} ends"), STEP, || {
            self.child.try_wait().unwrap()
        });
        assert!(status.success(), "{name}: {status}\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
