//! The real programs, built once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

/// Where the programs lie.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `picketd`.
    pub picketd: PathBuf,
    /// `picket-collector`.
    pub collector: PathBuf,
    /// `picketctl`.
    pub ctl: PathBuf,
}

impl Binaries {
    /// Builds the programs (`release`: as they are shipped) and says where they are. Cargo makes it quick when nothing
    /// changed. `PICKET_BIN_DIR` names a folder with programs built elsewhere.
    ///
    /// # Errors
    /// What cargo says.
    pub fn build(release: bool) -> anyhow::Result<Self> {
        if let Some(dir) = std::env::var_os("PICKET_BIN_DIR") {
            return Ok(Self::in_dir(Path::new(&dir)));
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // As they are shipped: the daemon by itself, without the features of shared crates that only the others need.
        let groups: &[&[&str]] = if release {
            &[&["picketd"], &["picket-collector", "picketctl"]]
        } else {
            &[&["picketd", "picket-collector", "picketctl"]]
        };
        let mut found = std::collections::BTreeMap::new();
        for group in groups {
            let mut command = Command::new(&cargo);
            command
                .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
                .args(["build", "--bins", "--message-format=json-render-diagnostics"])
                .args(group.iter().flat_map(|package| ["-p", *package]))
                .args(release.then_some("--release"))
                .stderr(Stdio::inherit());
            // What cargo says of the package that runs this, build scripts of others would take for a change of theirs.
            let of_this = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|head| name.starts_with(head));
            for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_this)) {
                command.env_remove(name);
            }
            let output = command.output().context("cannot run cargo")?;
            anyhow::ensure!(output.status.success(), "cargo build failed");
            for line in output.stdout.split(|b| *b == b'\n') {
                let Ok(message) = serde_json::from_slice::<serde_json::Value>(line) else { continue };
                if let (Some(name), Some(path)) = (message["target"]["name"].as_str(), message["executable"].as_str()) {
                    found.insert(name.to_owned(), PathBuf::from(path));
                }
            }
        }
        let mut take = |name: &str| found.remove(name).with_context(|| format!("cargo built no {name}"));
        Ok(Self { picketd: take("picketd")?, collector: take("picket-collector")?, ctl: take("picketctl")? })
    }

    fn in_dir(dir: &Path) -> Self {
        Self { picketd: dir.join("picketd"), collector: dir.join("picket-collector"), ctl: dir.join("picketctl") }
    }
}
