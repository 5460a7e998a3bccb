//! A real collector in a folder of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::Context as _;

use crate::binaries::Binaries;
use crate::process::Process;
use crate::wait;

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    binaries: Binaries,
    dir: PathBuf,
    address: SocketAddr,
    process: Option<Process>,
}

impl Collector {
    /// Starts a collector that keeps its state in `dir` and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(binaries: &Binaries, dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        // The port is free now; nothing else on this machine asks for it in the meantime.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut collector = Self { binaries: binaries.clone(), dir: dir.to_owned(), address, process: None };
        collector.restart()?;
        Ok(collector)
    }

    /// Starts it again after [`Collector::kill`] or [`Collector::stop`], on the same port and state.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.binaries.collector);
        command.args(["serve", "--state-dir"]).arg(self.dir.join("state")).args([
            "--listen",
            &self.address.to_string(),
            "--http-listen",
            "none",
        ]);
        let mut process = Process::start("picket-collector", &mut command, &self.log())?;
        wait::until("the collector listens", || {
            if let Err(error) = process.check_alive() {
                return Some(Err(error));
            }
            let admin = self.admin(&["token", "list"]).ok()?;
            admin.status.success().then_some(Ok(()))
        })??;
        self.process = Some(process);
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its state folder.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("collector.log")
    }

    /// The process.
    ///
    /// # Errors
    /// When it was stopped.
    pub fn process(&self) -> anyhow::Result<&Process> {
        self.process.as_ref().context("the collector is stopped")
    }

    /// Has it ended by itself?
    ///
    /// # Errors
    /// When it has, or was stopped.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        self.process.as_mut().context("the collector is stopped")?.check_alive()
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
            anyhow::ensure!(status.success(), "the collector ended with {status}");
        }
        Ok(())
    }

    /// Runs `picket-collector ARGS` against it.
    ///
    /// # Errors
    /// When the program cannot be run; not when it fails.
    pub fn admin(&self, args: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.binaries.collector);
        command.args(args).arg("--state-dir").arg(self.state_dir());
        Ok(command.output()?)
    }

    /// Makes an enrolment token.
    ///
    /// # Errors
    /// What the collector says.
    pub fn token(&self, labels: &[&str]) -> anyhow::Result<String> {
        let mut args = vec!["token", "create", "--ttl", "15m", "--uses", "1"];
        for label in labels {
            args.extend(["--label", label]);
        }
        let output = self.admin(&args)?;
        let text = String::from_utf8_lossy(&output.stdout);
        anyhow::ensure!(output.status.success(), "token create: {}", String::from_utf8_lossy(&output.stderr));
        text.split_whitespace()
            .find(|word| word.starts_with("pkt1."))
            .map(str::to_owned)
            .with_context(|| format!("no token in {text:?}"))
    }

    /// Makes an operator's file.
    ///
    /// # Errors
    /// What the collector says.
    pub fn operator(&self, name: &str, role: &str) -> anyhow::Result<PathBuf> {
        let file = self.dir.join(format!("{name}.operator"));
        let out = file.to_string_lossy().into_owned();
        let output = self.admin(&["operator", "create", name, "--role", role, "--out", &out])?;
        anyhow::ensure!(output.status.success(), "operator create: {}", String::from_utf8_lossy(&output.stderr));
        Ok(file)
    }

    /// Runs `picketctl ARGS` as an operator.
    ///
    /// # Errors
    /// When the program cannot be run; not when it fails.
    pub fn ctl(&self, operator: &Path, args: &[&str]) -> anyhow::Result<Output> {
        Ok(Command::new(&self.binaries.ctl).arg("--config").arg(operator).args(args).output()?)
    }

    /// `picketctl get WHAT ARGS -o json`, parsed.
    ///
    /// # Errors
    /// What picketctl says.
    pub fn get(&self, operator: &Path, args: &[&str]) -> anyhow::Result<Vec<serde_json::Value>> {
        let mut all = vec!["get"];
        all.extend(args);
        all.extend(["-o", "json"]);
        let output = self.ctl(operator, &all)?;
        anyhow::ensure!(output.status.success(), "picketctl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}
