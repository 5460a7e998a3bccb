//! The K3s process of a live machine.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rustix::fs::{Dir, OFlags};
use std::os::fd::AsFd;

use crate::root::{link_text, shown};
use crate::{Host, ReadError};

/// The most processes that are looked at.
const MOST_PROCESSES: usize = 65_536;
/// The most bytes of a command line or environment.
const MOST_BYTES: u64 = 256 * 1024;

/// What a K3s process runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessRole {
    /// `k3s server`
    Server,
    /// `k3s agent`
    Agent,
}

/// The running K3s daemon, without anything secret: of its environment only the names that hold no token or password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct K3sProcess {
    /// Process id.
    pub pid: u32,
    /// When it started, by the wall clock; good to some 10 ms.
    pub started: Timestamp,
    /// When it started, in clock ticks since boot: with the pid, an identity that survives clock changes.
    pub start_ticks: u64,
    /// What it runs as.
    pub role: ProcessRole,
    /// Its program file; ends in ` (deleted)` after an upgrade.
    pub exe: Option<String>,
    /// Its working folder: `<data-dir>/server` for a server.
    pub cwd: Option<String>,
    /// `K3S_…` variables without secrets.
    pub environment: BTreeMap<String, String>,
}

/// Variables whose value is a secret, or may be.
fn is_secret(name: &str) -> bool {
    ["TOKEN", "SECRET", "PASSWORD", "VPN_AUTH", "ENDPOINT", "KEY"].iter().any(|word| name.contains(word))
        && !name.ends_with("_FILE")
        && !name.ends_with("FILE")
}

impl Host {
    /// The running K3s daemon of a live machine, the one with the lowest pid if there are several.
    ///
    /// # Errors
    /// [`ReadError::NotHere`] for a rooted host; otherwise what kept `/proc` from being read.
    pub fn k3s_process(&self) -> Result<Option<K3sProcess>, ReadError> {
        let proc = self.live_proc()?;
        let folder = proc.at(Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut pids: Vec<u32> = Vec::new();
        for entry in Dir::read_from(&folder)?.take(MOST_PROCESSES) {
            if let Ok(pid) = entry?.file_name().to_str().unwrap_or("").parse() {
                pids.push(pid);
            }
        }
        pids.sort_unstable();
        for pid in pids {
            // A process may end between the listing and the look; that is not an error.
            if let Ok(Some(found)) = self.look_at(pid) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn look_at(&self, pid: u32) -> Result<Option<K3sProcess>, ReadError> {
        let folder = Path::new(&pid.to_string()).to_path_buf();
        let comm = self.proc_text(&folder.join("comm"), 4096)?;
        let comm = comm.trim();
        if !matches!(comm, "k3s-server" | "k3s-agent" | "k3s" | "exe") {
            return Ok(None);
        }
        let cmdline = self.proc_text(&folder.join("cmdline"), MOST_BYTES)?;
        let Some(role) = role_of(&cmdline) else { return Ok(None) };
        let stat = self.proc_text(&folder.join("stat"), 4096)?;
        // The name in parentheses may hold anything; the fields begin after the last one.
        let start_ticks: u64 = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19))
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| ReadError::Io("the process table has no start time".to_owned()))?;
        Ok(Some(K3sProcess {
            pid,
            started: self.wall_clock(start_ticks)?,
            start_ticks,
            role,
            exe: self.proc_link(&folder.join("exe")),
            cwd: self.proc_link(&folder.join("cwd")),
            environment: self.environment(&folder),
        }))
    }

    fn wall_clock(&self, ticks: u64) -> Result<Timestamp, ReadError> {
        let stat = self.proc_text(Path::new("stat"), 4 * 1024 * 1024)?;
        let boot: i64 = stat
            .lines()
            .find_map(|line| line.strip_prefix("btime "))
            .and_then(|value| value.trim().parse().ok())
            .ok_or_else(|| ReadError::Io("/proc/stat has no boot time".to_owned()))?;
        let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1);
        let millis = i64::try_from(ticks.saturating_mul(1000)).unwrap_or(i64::MAX) / hertz;
        Timestamp::from_second(boot)
            .ok()
            .and_then(|t| t.checked_add(SignedDuration::from_millis(millis)).ok())
            .ok_or_else(|| ReadError::Io("the start time of the process is out of range".to_owned()))
    }

    fn proc_link(&self, path: &Path) -> Option<String> {
        let fd = self.live_proc().ok()?.at(path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
        link_text(fd.as_fd()).ok().map(|path| shown(&path))
    }

    fn environment(&self, folder: &Path) -> BTreeMap<String, String> {
        let text = self.proc_text(&folder.join("environ"), MOST_BYTES).unwrap_or_default();
        text.split('\0')
            .filter_map(|pair| pair.split_once('='))
            .filter(|(name, _)| name.starts_with("K3S_") && !is_secret(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

/// What a command line says of a K3s daemon. K3s rewrites its own to `…/k3s server` in one string; for a moment at
/// start the words still stand apart.
fn role_of(cmdline: &str) -> Option<ProcessRole> {
    let mut words = cmdline.trim_end_matches('\0').split(['\0', ' ']);
    let program = words.next()?;
    if program.rsplit('/').next() != Some("k3s")
        && !program.ends_with("/k3s-server")
        && !program.ends_with("/k3s-agent")
    {
        return None;
    }
    // Options of the program itself may stand before the command: `k3s --debug server`.
    match words.find(|word| !word.starts_with('-'))? {
        "server" => Some(ProcessRole::Server),
        "agent" => Some(ProcessRole::Agent),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{ProcessRole, is_secret, role_of};

    #[test]
    fn the_daemon_is_told_from_its_tools() {
        assert_eq!(role_of("/usr/local/bin/k3s server\0\0\0\0"), Some(ProcessRole::Server));
        assert_eq!(role_of("/usr/local/bin/k3s\0agent\0--token\0x\0"), Some(ProcessRole::Agent));
        assert_eq!(role_of("k3s\0--debug\0server\0"), Some(ProcessRole::Server));
        assert_eq!(role_of("k3s server"), Some(ProcessRole::Server));
        assert_eq!(role_of("k3s secrets-encrypt\0"), None);
        assert_eq!(role_of("/usr/bin/k3sup\0server\0"), None);
        assert_eq!(role_of(""), None);
    }

    #[test]
    fn secrets_of_the_environment_are_left_out() {
        for name in ["K3S_TOKEN", "K3S_AGENT_TOKEN", "K3S_DATASTORE_ENDPOINT", "K3S_VPN_AUTH", "AWS_SECRET_ACCESS_KEY"]
        {
            assert!(is_secret(name), "{name}");
        }
        for name in ["K3S_TOKEN_FILE", "K3S_URL", "K3S_DATA_DIR", "K3S_DATASTORE_KEYFILE"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
