//! The collector's stream of committed events, as an operator sees it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::binaries::Binaries;
use crate::wait;

/// `picketctl get history --watch`, line by line.
#[derive(Debug)]
pub struct Live {
    events: Receiver<Value>,
    child: Child,
}

impl Live {
    /// Starts watching; there must be an event already, which shows that the watch stands.
    ///
    /// # Errors
    /// When it does not begin.
    pub fn watch(binaries: &Binaries, operator: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(&binaries.ctl)
            .arg("--config")
            .arg(operator)
            .args(["get", "history", "--watch", "--limit", "1", "-o", "json"])
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line)
                    && sender.send(event).is_err()
                {
                    break;
                }
            }
        });
        // The first line is an event of before: the watch stands.
        events.recv_timeout(wait::PATIENCE).context("the watch did not begin")?;
        Ok(Self { events, child })
    }

    /// The next event, if one comes in time.
    pub fn next(&self, within: Duration) -> Option<Value> {
        self.events.recv_timeout(within).ok()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
