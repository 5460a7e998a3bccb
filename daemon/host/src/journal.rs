//! What K3s wrote to the system's journal when it started. The journal has a reader of its own, which is asked for the
//! first minutes of one process: read-only, bounded in time and size, and only on a live machine.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::{Host, K3sProcess};

/// Where the reader of the journal lies. `PATH` is not asked.
const READERS: [&str; 2] = ["/usr/bin/journalctl", "/bin/journalctl"];
/// The longest the reader may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes taken of its output.
const MOST_BYTES: u64 = 2 * 1024 * 1024;
/// Seconds after the start of the process within which the lines of a start are written.
const MINUTES_OF_START: i64 = 15 * 60;

impl Host {
    /// The lines this process wrote to the journal in its first minutes; none where there is no journal, it was rotated
    /// away, or this is no live machine. Finding nothing means nothing.
    pub fn start_lines(&self, process: &K3sProcess) -> Option<String> {
        if !self.is_live() {
            return None;
        }
        let reader = READERS.into_iter().find(|path| Path::new(path).exists())?;
        let from = process.started.as_second().saturating_sub(2);
        let mut child = Command::new(reader)
            .args(["--quiet", "--no-pager", "--output=cat"])
            .arg(format!("--since=@{from}"))
            .arg(format!("--until=@{}", from.saturating_add(MINUTES_OF_START)))
            .arg(format!("_PID={}", process.pid))
            .env_clear()
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let output = child.stdout.take()?;
        let (done, result) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.take(MOST_BYTES).read_to_end(&mut bytes);
            // Nobody listens any more when the patience was over.
            let _ = done.send(read.map(|_| bytes));
        });
        let bytes = result.recv_timeout(PATIENCE);
        // It may have ended by itself, or be stuck, or have more to say than was taken.
        let _ = child.kill();
        let _ = child.wait();
        let text = String::from_utf8_lossy(&bytes.ok()?.ok()?).into_owned();
        (!text.trim().is_empty()).then_some(text)
    }
}
