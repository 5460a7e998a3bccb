//! The start of the running K3s process: its version, and whether what is on disk is what it read.
//!
//! K3s reads its configuration only at start. Files that are older than the process are what it read; a newer one may
//! hold anything the process does not know of. The lines of the start in K3s' log cross-check that, where they exist.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use picket_host::{Host, K3sProcess, Kind, Meta, ReadError};
use picket_k3s::{K3sVersion, REDACTED, running_flags, started_version};

use super::Memory;
use super::config::Configuration;

/// Where K3s' log lies on nodes without systemd.
const LOG_WITHOUT_JOURNAL: &str = "/var/log/k3s.log";
/// How much of the end of a log file is read.
const TAIL: u64 = 4 * 1024 * 1024;
/// Seconds between the start of a process and its first line, at most, clocks included.
const FIRST_LINE: i64 = 120;

/// How long after the start of a process its lines are waited for.
const LINES_COME: SignedDuration = SignedDuration::from_mins(20);

/// Flags that depend on the running host, or that K3s finds out by itself.
const OF_THE_HOST: [&str; 8] = [
    "advertise-address",
    "cgroup-driver",
    "hostname-override",
    "kubelet-cgroups",
    "node-ip",
    "node-labels",
    "resolv-conf",
    "runtime-cgroups",
];

/// Flags that K3s passes or not by what a server told an agent, or by files outside of the configuration.
const OF_THE_SERVER: [&str; 3] =
    ["cloud-provider", "image-credential-provider-bin-dir", "image-credential-provider-config"];

/// What the log says of a start.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// The version that started.
    pub version: Option<K3sVersion>,
    /// The lines, for the cross-check.
    pub lines: Option<String>,
}

/// What is known of the start of the running process: from the journal, or from what was remembered of this start.
pub fn observe(host: &Host, process: Option<&K3sProcess>, memory: &Memory) -> Start {
    let Some(process) = process else { return Start::default() };
    if memory.is_of(process.started) {
        if let Some(version) = memory.version.as_deref().and_then(|v| v.parse().ok()) {
            return Start { version: Some(version), lines: None };
        }
        // Lines of a start are written in its first minutes: what was not there by then is not asked for at every look.
        if host.now().duration_since(process.started) > LINES_COME {
            return Start::default();
        }
    }
    let lines = host.start_lines(process);
    Start { version: lines.as_deref().and_then(started_version), lines }
}

/// The same from a log file: the one option `log` names, or that of a node without systemd. `started`: lines of an
/// older process do not count; none for a folder that stands for a node, where the last start counts.
pub fn from_file(host: &Host, configuration: &Configuration, started: Option<Timestamp>) -> Start {
    let path = configuration.option("log").map_or(LOG_WITHOUT_JOURNAL, |v| v.value.as_str());
    if !path.starts_with('/') {
        return Start::default();
    }
    let Some(lines) = last_start(host, path.as_ref(), started) else { return Start::default() };
    Start { version: started_version(&lines), lines: Some(lines) }
}

fn last_start(host: &Host, path: &Path, started: Option<Timestamp>) -> Option<String> {
    let mut file = host.open_file(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mark = text.rfind("msg=\"Starting k3s ")?;
    let begin = text.get(..mark)?.rfind('\n').map_or(0, |at| at + 1);
    let lines = text.get(begin..)?;
    if let Some(started) = started {
        let at: Timestamp = lines.split_once("time=\"")?.1.split('"').next()?.parse().ok()?;
        if at.duration_since(started).as_secs().abs() > FIRST_LINE {
            return None;
        }
    }
    Some(lines.to_owned())
}

/// Whether the configuration on disk is what the process that started then has read: no file of it was written, put
/// there or taken away since, and the lines of the start, where they exist, do not say otherwise.
pub fn is_in_force(host: &Host, started: Timestamp, configuration: &Configuration, lines: Option<&str>) -> bool {
    configuration.files_understood()
        && configuration.sources().iter().all(|path| untouched(host, path, started))
        && lines.is_none_or(|lines| contradiction(configuration, lines).is_none())
}

fn untouched(host: &Host, path: &str, started: Timestamp) -> bool {
    let old = |meta: &Meta| meta.mtime <= started;
    let folder = || Path::new(path).parent().unwrap_or(Path::new("/"));
    // Another file put in its place by name keeps its own time of writing; its folder shows it, unless it is one of
    // units. A mode that was changed meanwhile shows in no folder.
    let of_units = folder().ends_with("systemd/system");
    let same = |meta: &Meta| {
        old(meta) && (meta.ctime <= started || of_units || host.stat(folder()).is_ok_and(|folder| old(&folder)))
    };
    match (host.lstat(path.as_ref()), host.stat(path.as_ref())) {
        // A drop-in that was added or taken away changes its folder. The kubelet's own folder is written by K3s at
        // each start and judged by itself; folders of units change with every other unit.
        (Ok(link), Ok(meta)) if meta.kind == Kind::Folder => {
            !path.ends_with(".d") || path.ends_with("/kubelet.conf.d") || (old(&link) && old(&meta))
        }
        (Ok(link), Ok(meta)) => same(&link) && old(&meta),
        // It was not there at the start if its folder has not changed since.
        (_, Err(ReadError::Absent))
            if path.ends_with(".yaml") || path.ends_with(".yml") || of_the_distribution(path) =>
        {
            host.stat(folder()).map_or_else(|reason| reason.is_absent(), |meta| old(&meta))
        }
        (_, Err(ReadError::Absent)) => true,
        _ => false,
    }
}

/// An environment file where distributions keep those of services: other than `/etc` and the folders of units, few write
/// there.
fn of_the_distribution(path: &str) -> bool {
    path.starts_with("/etc/default/") || path.starts_with("/etc/sysconfig/")
}

/// The first flag that was passed otherwise than the files on disk say, as `component --flag`. Values are not named:
/// they may be secrets.
pub fn contradiction(configuration: &Configuration, lines: &str) -> Option<String> {
    let possible = configuration.flags_across();
    configuration.components.iter().find_map(|(component, flags)| {
        let passed = running_flags(lines, component)?;
        // Nothing on disk leads to it, in any version: what did is gone.
        let stray = passed.keys().find(|name| {
            let name = name.as_str();
            !OF_THE_HOST.contains(&name)
                && !OF_THE_SERVER.contains(&name)
                && !possible.get(component).is_some_and(|flags| flags.contains_key(name))
        });
        if let Some(name) = stray {
            return Some(format!("{component} --{name}"));
        }
        flags.iter().find_map(|(name, values)| {
            let ours: Vec<&str> = values.iter().map(|v| v.value.as_str()).collect();
            if OF_THE_HOST.contains(&name.as_str()) || ours.iter().any(|v| v.contains(REDACTED)) {
                return None;
            }
            let theirs: Vec<&str> = passed.get(name).into_iter().flatten().map(String::as_str).collect();
            (ours != theirs).then(|| format!("{component} --{name}"))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use picket_service::clock::SystemClock;

    use super::*;
    use crate::source::config::effective;

    struct Node(tempfile::TempDir);

    impl Node {
        fn new() -> Self {
            let node = Self(tempfile::tempdir().unwrap());
            let unit = "[Service]\nEnvironmentFile=-/etc/default/%N\nExecStart=/usr/local/bin/k3s server\n";
            node.put("etc/systemd/system/k3s.service", unit);
            node.put("etc/systemd/system/k3s.service.d/10.conf", "[Service]\nEnvironment=K3S_NODE_NAME=a\n");
            node.put("etc/default/k3s", "K3S_SELINUX=true\n");
            node.put("etc/rancher/k3s/config.yaml", "secrets-encryption: true\n");
            node.put("etc/rancher/k3s/config.yaml.d/10-a.yaml", "kube-apiserver-arg+: [v=2]\n");
            fs::create_dir_all(node.0.path().join("var/lib/rancher/k3s/server")).unwrap();
            node.age();
            node
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Everything is as old as an hour.
        fn age(&self) {
            fn walk(path: &Path, at: SystemTime) {
                if path.is_dir() {
                    for entry in fs::read_dir(path).unwrap() {
                        walk(&entry.unwrap().path(), at);
                    }
                }
                fs::File::open(path).unwrap().set_modified(at).unwrap();
            }
            walk(self.0.path(), SystemTime::now() - Duration::from_secs(3600));
        }

        fn host(&self) -> Host {
            Host::rooted(self.0.path(), Arc::new(SystemClock)).unwrap()
        }

        fn in_force(&self, lines: Option<&str>) -> bool {
            let host = self.host();
            let started = Timestamp::now() - SignedDuration::from_mins(30);
            is_in_force(&host, started, &effective(&host, None), lines)
        }
    }

    #[test]
    fn files_older_than_the_process_are_what_it_read() {
        assert!(Node::new().in_force(None));
    }

    #[test]
    fn whatever_changed_since_is_no_proof() {
        type Change = fn(&Node);
        let changes: [(&str, Change); 9] = [
            ("config.yaml written", |n| n.put("etc/rancher/k3s/config.yaml", "debug: true\n")),
            ("drop-in added", |n| n.put("etc/rancher/k3s/config.yaml.d/20-b.yaml", "debug: true\n")),
            ("drop-in removed", |n| {
                fs::remove_file(n.0.path().join("etc/rancher/k3s/config.yaml.d/10-a.yaml")).unwrap()
            }),
            ("config.yaml removed", |n| fs::remove_file(n.0.path().join("etc/rancher/k3s/config.yaml")).unwrap()),
            ("an old file put in place of config.yaml", |n| {
                n.put("root/old.yaml", "debug: true\n");
                let old = n.0.path().join("root/old.yaml");
                fs::File::open(&old).unwrap().set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
                fs::rename(old, n.0.path().join("etc/rancher/k3s/config.yaml")).unwrap();
            }),
            ("environment file removed", |n| fs::remove_file(n.0.path().join("etc/default/k3s")).unwrap()),
            ("drop-in of the unit added", |n| {
                n.put("etc/systemd/system/k3s.service.d/20.conf", "[Service]\nEnvironment=K3S_DEBUG=true\n")
            }),
            ("drop-in of the unit removed", |n| {
                fs::remove_file(n.0.path().join("etc/systemd/system/k3s.service.d/10.conf")).unwrap()
            }),
            ("unit written", |n| n.put("etc/systemd/system/k3s.service", "[Service]\nExecStart=/k3s server --debug\n")),
        ];
        for (what, change) in changes {
            let node = Node::new();
            change(&node);
            assert!(!node.in_force(None), "{what}");
        }
    }

    #[test]
    fn other_units_and_the_kubelets_own_folder_prove_nothing_against_it() {
        let node = Node::new();
        node.put("etc/systemd/system/other.service", "[Service]\n");
        node.put("var/lib/rancher/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf", "kind: KubeletConfiguration\n");
        assert!(node.in_force(None));
    }

    #[test]
    fn a_mode_changed_since_is_no_other_content() {
        use std::os::unix::fs::PermissionsExt;
        let node = Node::new();
        let path = node.0.path().join("etc/rancher/k3s/config.yaml");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(node.in_force(None));
    }

    #[test]
    fn the_log_is_a_cross_check_and_no_more() {
        let node = Node::new();
        let line =
            |flags: &str| format!("time=\"2026-01-01T00:00:00Z\" level=info msg=\"Running kube-scheduler {flags}\"\n");
        let host = node.host();
        let computed = effective(&host, None).components["kube-scheduler"].clone();
        let flags: Vec<String> =
            computed.iter().flat_map(|(k, vs)| vs.iter().map(move |v| format!("--{k}={}", v.value))).collect();
        let same = line(&flags.join(" "));
        assert!(node.in_force(Some(&same)));
        assert!(!node.in_force(Some(&same.replace("--profiling=false", "--profiling=true"))));
        assert!(node.in_force(Some("nothing about components\n")));
    }

    #[test]
    fn a_flag_that_was_passed_and_is_nowhere_on_disk_is_a_contradiction() {
        let node = Node::new();
        let host = node.host();
        let configuration = effective(&host, None);
        let passed = |component: &str, more: &str| {
            let flags = &configuration.components[component];
            let flags: Vec<String> =
                flags.iter().flat_map(|(k, vs)| vs.iter().map(move |v| format!("--{k}={}", v.value))).collect();
            format!("time=\"2026-01-01T00:00:00Z\" level=info msg=\"Running {component} {} {more}\"\n", flags.join(" "))
        };
        let says = |component: &str, more: &str| contradiction(&configuration, &passed(component, more));
        let gone = says("kube-apiserver", "--token-auth-file=/etc/tokens.csv");
        assert_eq!(gone.as_deref(), Some("kube-apiserver --token-auth-file"));
        assert!(!node.in_force(Some(&passed("kube-apiserver", "--token-auth-file=/etc/tokens.csv"))));
        assert_eq!(says("kube-apiserver", "--advertise-address=192.0.2.1"), None, "the host decides");
        assert_eq!(says("kubelet", "--node-ip=192.0.2.1"), None, "the host decides");
        // Before 1.32 everything was a flag of the kubelet, and the version is not known.
        assert_eq!(configuration.version, None);
        assert_eq!(says("kubelet", "--authorization-mode=Webhook"), None, "versions differ");
    }

    #[test]
    fn a_log_file_tells_the_version_of_its_last_start() {
        let node = Node::new();
        let start = |at: &str, v: &str| format!("time=\"{at}\" level=info msg=\"Starting k3s {v} (abc)\"\n");
        let text =
            start("2026-01-01T00:00:00Z", "v1.31.4+k3s1") + &start("2026-01-02T00:00:00Z", "v1.36.2+k3s1") + "more\n";
        node.put("var/log/k3s.log", &text);
        let host = node.host();
        let version = |started: Option<&str>| {
            from_file(&host, &effective(&host, None), started.map(|s| s.parse().unwrap()))
                .version
                .map(|v| v.to_string())
        };
        assert_eq!(version(None).as_deref(), Some("v1.36.2+k3s1"));
        assert_eq!(version(Some("2026-01-01T23:59:58Z")).as_deref(), Some("v1.36.2+k3s1"));
        assert_eq!(version(Some("2026-02-01T00:00:00Z")), None, "an older process wrote that");
    }
}
