//! Sample nodes: folder trees shaped like real K3s v1.36.2 nodes, made at run time.
//!
//! A profile under `fixtures/node/` holds what a running node showed: `meta.tsv` (modes, owners, links, times), `root/`
//! (the text files, with `{{…}}` where a secret stood), `certs.tsv` (names, SANs, usages and lifetimes of every
//! certificate). Keys, certificates, tokens and passwords are made anew for each tree: fixtures hold no private keys.
//!
//! | in a text file | becomes |
//! |---|---|
//! | `{{base64:PATH}}` | the content of a file made here, in base64 |
//! | `{{hex:N:NAME}}` | N random bytes in hex, the same for the same NAME |
//! | `{{base64-random:N:NAME}}` | likewise in base64 |
//! | `{{sha256:PATH}}` | SHA-256 of a file made here, in hex |
//! | `{{ca-hash}}` | SHA-256 of the server CA's file, as in K3s' tokens |

mod certificates;
mod template;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use certificates::{Authority, CertificateRow};

/// The moment for which all profiles are right, RFC 3339: certificates are valid and hours old.
pub const MOMENT: &str = "2026-11-22T01:30:00Z";

/// Where K3s keeps its data on all profiles.
pub const DATA_DIR: &str = "/var/lib/rancher/k3s";

/// The profiles there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// A server with agent, SQLite, no hardening at all.
    DefaultServer,
    /// A server without agent, SQLite, audit log, Pod Security, encryption at rest.
    HardenedServer,
    /// An agent of the hardened server.
    Agent,
    /// A server with embedded etcd and secretbox encryption.
    EtcdServer,
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 4] = [Self::DefaultServer, Self::HardenedServer, Self::Agent, Self::EtcdServer];

    /// Its folder under `fixtures/node/`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DefaultServer => "default-server",
            Self::HardenedServer => "hardened-server",
            Self::Agent => "agent",
            Self::EtcdServer => "etcd-server",
        }
    }

    fn dir(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/node").join(self.name())
    }
}

/// A sample node on disk.
#[derive(Debug)]
pub struct SampleNode {
    root: PathBuf,
    certificates: BTreeMap<String, CertificateRow>,
    authorities: BTreeMap<String, Authority>,
}

impl SampleNode {
    /// Builds the profile's tree in `root`, which is made if it is not there, as it was at [`MOMENT`]. Owners are set
    /// only when run as root.
    ///
    /// # Errors
    /// Whatever the file system says, and fixtures that are not as described above.
    pub fn build(profile: Profile, root: &Path) -> io::Result<Self> {
        Self::build_shifted(profile, root, 0)
    }

    /// Builds the profile's tree as if [`MOMENT`] were now: file times and lifetimes of certificates are moved, so that
    /// programs which look at the real clock find the node as it was found.
    ///
    /// # Errors
    /// As [`SampleNode::build`].
    pub fn build_now(profile: Profile, root: &Path) -> io::Result<Self> {
        let moment: jiff::Timestamp = MOMENT.parse().map_err(io::Error::other)?;
        Self::build_shifted(profile, root, jiff::Timestamp::now().as_second() - moment.as_second())
    }

    fn build_shifted(profile: Profile, root: &Path, shift_s: i64) -> io::Result<Self> {
        let dir = profile.dir();
        let meta = Meta::read(&dir.join("meta.tsv"))?;
        fs::create_dir_all(root)?;
        for entry in meta.iter().filter(|m| m.kind == 'd') {
            fs::create_dir_all(under(root, &entry.path))?;
        }
        let (certificates, authorities, made) = certificates::make(&dir.join("certs.tsv"), shift_s)?;
        let mut template = template::Template::new(made);
        copy(&dir.join("root"), Path::new("/"), root, &mut template)?;
        for (path, content) in template.files() {
            if !path.starts_with('@') {
                write_new(&under(root, path), content)?;
            }
        }
        for entry in &meta {
            entry.apply(root)?;
        }
        // Folder times last: making their entries moved them.
        for entry in meta.iter().rev() {
            entry.touch(root, shift_s)?;
        }
        Ok(Self { root: root.to_owned(), certificates, authorities })
    }

    /// The folder that stands for the node's `/`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path of the node on this machine.
    pub fn path(&self, node_path: &str) -> PathBuf {
        under(&self.root, node_path)
    }

    /// Writes a file in place, as K3s and editors without rename do; an existing mode stays.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(&self, node_path: &str, content: impl AsRef<[u8]>) -> io::Result<()> {
        let path = self.path(node_path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn read(&self, node_path: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(node_path))
    }

    /// Sets a mode.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn chmod(&self, node_path: &str, mode: u32) -> io::Result<()> {
        fs::set_permissions(self.path(node_path), fs::Permissions::from_mode(mode))
    }

    /// Appends to a file.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn append(&self, node_path: &str, content: impl AsRef<[u8]>) -> io::Result<()> {
        use io::Write as _;
        fs::OpenOptions::new().append(true).create(true).open(self.path(node_path))?.write_all(content.as_ref())
    }

    /// What `k3s token rotate` does: a new server password in `cred/passwd` (renamed into place) and in
    /// `server/token` (rewritten in place).
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn rotate_token(&self) -> io::Result<()> {
        let password = template::random_hex(16);
        let passwd = self.path(&format!("{DATA_DIR}/server/cred/passwd"));
        let tmp = passwd.with_extension("tmp");
        fs::write(&tmp, format!("{password},node,node,k3s:agent\n{password},server,server,k3s:server\n"))?;
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o600))?;
        fs::rename(&tmp, &passwd)?;
        let token = format!("{DATA_DIR}/server/token");
        let old = String::from_utf8_lossy(&self.read(&token)?).into_owned();
        let prefix = old.rsplit_once(':').map_or("K10::server", |(head, _)| head);
        self.write(&token, format!("{prefix}:{password}\n"))
    }

    /// Issues a certificate anew, with the same names and another lifetime, and writes it in place.
    ///
    /// # Errors
    /// `NotFound` for a path that is no leaf certificate of the profile.
    pub fn reissue(&self, node_path: &str, not_before_unix_s: i64, not_after_unix_s: i64) -> io::Result<()> {
        let missing =
            || io::Error::new(io::ErrorKind::NotFound, format!("{node_path}: no leaf certificate of this profile"));
        let row = self.certificates.get(node_path).ok_or_else(missing)?;
        let issuer = self.authorities.get(&row.issuer).ok_or_else(missing)?;
        let (certificate, key) = issuer.issue(row, not_before_unix_s, not_after_unix_s)?;
        self.write(node_path, certificate)?;
        if row.key != "-" {
            self.write(&row.key, key)?;
        }
        Ok(())
    }
}

fn under(root: &Path, node_path: &str) -> PathBuf {
    root.join(node_path.trim_start_matches('/'))
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content)
}

fn copy(from: &Path, node: &Path, root: &Path, template: &mut template::Template) -> io::Result<()> {
    let mut entries = fs::read_dir(from)?.collect::<Result<Vec<_>, _>>()?;
    // encryption-config before encryption-state, which holds its hash.
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let node = node.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &node, root, template)?;
        } else {
            let content = template.fill(fs::read(entry.path())?)?;
            let path = node.to_string_lossy().into_owned();
            write_new(&under(root, &path), &content)?;
            template.made(path, content);
        }
    }
    Ok(())
}

struct Meta {
    path: String,
    mode: u32,
    uid: u32,
    gid: u32,
    kind: char,
    target: String,
    mtime_unix_s: u64,
}

impl Meta {
    fn read(path: &Path) -> io::Result<Vec<Self>> {
        let bad = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {line}", path.display()));
        fs::read_to_string(path)?
            .lines()
            .filter(|l| !l.starts_with('#'))
            .map(|line| {
                let fields: Vec<&str> = line.split('\t').collect();
                let [path, mode, uid, gid, kind, target, mtime] = fields[..] else { return Err(bad(line)) };
                Ok(Self {
                    path: path.to_owned(),
                    mode: u32::from_str_radix(mode, 8).map_err(|_| bad(line))?,
                    uid: uid.parse().map_err(|_| bad(line))?,
                    gid: gid.parse().map_err(|_| bad(line))?,
                    kind: kind.chars().next().ok_or_else(|| bad(line))?,
                    target: target.to_owned(),
                    mtime_unix_s: mtime.parse().map_err(|_| bad(line))?,
                })
            })
            .collect()
    }

    fn apply(&self, root: &Path) -> io::Result<()> {
        let path = under(root, &self.path);
        if self.kind == 'l' {
            match symlink(&self.target, &path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        if fs::symlink_metadata(&path).is_err() {
            return Ok(());
        }
        if nix::unistd::geteuid().is_root() {
            lchown(&path, Some(self.uid), Some(self.gid))?;
        }
        if self.kind != 'l' {
            fs::set_permissions(&path, fs::Permissions::from_mode(self.mode))?;
        }
        Ok(())
    }

    fn touch(&self, root: &Path, shift_s: i64) -> io::Result<()> {
        if self.kind == 'l' {
            return Ok(());
        }
        let Ok(file) = fs::File::open(under(root, &self.path)) else { return Ok(()) };
        file.set_modified(
            SystemTime::UNIX_EPOCH + Duration::from_secs(self.mtime_unix_s.saturating_add_signed(shift_s)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_builds_with_its_modes_links_and_keys() {
        for profile in Profile::ALL {
            let dir = tempfile::tempdir().unwrap();
            let node = SampleNode::build(profile, dir.path()).unwrap();
            let mode = |p: &str| fs::metadata(node.path(p)).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode("/etc/rancher/node/password"), 0o600, "{profile:?}");
            let kubelet = fs::read_to_string(node.path("/var/lib/rancher/k3s/agent/client-kubelet.crt")).unwrap();
            assert_eq!(kubelet.matches("BEGIN CERTIFICATE").count(), 2, "{profile:?}");
            for file in walk(dir.path()) {
                let content = fs::read(&file).unwrap();
                assert!(!content.windows(2).any(|w| w == b"{{"), "{}: a placeholder is left", file.display());
            }
        }
    }

    #[test]
    fn rotating_the_token_keeps_the_hash_and_changes_the_password() {
        let dir = tempfile::tempdir().unwrap();
        let node = SampleNode::build(Profile::HardenedServer, dir.path()).unwrap();
        let token = || String::from_utf8(node.read("/var/lib/rancher/k3s/server/token").unwrap()).unwrap();
        let before = token();
        node.rotate_token().unwrap();
        let after = token();
        assert_eq!(before.split("::").next(), after.split("::").next());
        assert_ne!(before, after);
    }

    fn walk(dir: &Path) -> Vec<PathBuf> {
        fs::read_dir(dir)
            .unwrap()
            .flat_map(|e| {
                let e = e.unwrap();
                match e.file_type().unwrap() {
                    t if t.is_dir() => walk(&e.path()),
                    t if t.is_file() && e.path().extension().is_none_or(|x| x != "db") => vec![e.path()],
                    _ => vec![],
                }
            })
            .collect()
    }
}
