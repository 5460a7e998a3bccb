//! A real node daemon over a sample node.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::Context as _;

use crate::binaries::Binaries;
use crate::collector::Collector;
use crate::process::Process;

/// A node daemon: its folders and, while it runs, its process.
#[derive(Debug)]
pub struct Daemon {
    binaries: Binaries,
    dir: PathBuf,
    root: PathBuf,
    process: Option<Process>,
}

impl Daemon {
    /// A daemon for the node below `root`, keeping its state in `dir`. It does not run yet.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new(binaries: &Binaries, dir: &Path, root: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self { binaries: binaries.clone(), dir: dir.to_owned(), root: root.to_owned(), process: None })
    }

    /// Its state folder.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("picketd.log")
    }

    /// `picketd enroll`.
    ///
    /// # Errors
    /// What picketd says.
    pub fn enroll(&self, collector: &Collector, token: &str) -> anyhow::Result<()> {
        let output = self.try_enroll(&collector.address().to_string(), token)?;
        anyhow::ensure!(output.status.success(), "enroll: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// `picketd enroll`, whatever comes of it.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn try_enroll(&self, collector: &str, token: &str) -> anyhow::Result<Output> {
        Ok(Command::new(&self.binaries.picketd)
            .args(["enroll", "--collector", collector, "--state-dir"])
            .arg(self.state_dir())
            .env("PICKET_TOKEN", token)
            .output()?)
    }

    /// Starts it; kernel parameters are this machine's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.binaries.picketd);
        command.arg("run").arg("--root").arg(&self.root).args(["--proc", "/proc", "--state-dir"]);
        command.arg(self.state_dir()).arg("--runtime-dir").arg(self.dir.join("run"));
        self.process = Some(Process::start("picketd", &mut command, &self.log())?);
        Ok(())
    }

    /// The process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&mut self) -> anyhow::Result<&mut Process> {
        self.process.as_mut().context("picketd does not run")
    }

    /// `picketd status`.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn status(&self) -> anyhow::Result<Output> {
        Ok(Command::new(&self.binaries.picketd)
            .arg("status")
            .arg("--runtime-dir")
            .arg(self.dir.join("run"))
            .output()?)
    }

    /// `picketd status -o json`.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn status_json(&self) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.binaries.picketd);
        command.args(["status", "-o", "json"]).arg("--runtime-dir").arg(self.dir.join("run"));
        Ok(command.output()?)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it in good order.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(process) = self.process.take() {
            let status = process.stop()?;
            anyhow::ensure!(status.success(), "picketd ended with {status}");
        }
        Ok(())
    }
}
