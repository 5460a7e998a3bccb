//! Files that K3s and its components read at their start only: the audit policy, the admission configuration, the
//! kubelet's drop-ins and `registries.yaml`, as the running process read them.
//!
//! A file that was neither written nor put there since the start is what was read. That is remembered with the start,
//! and stays what is in force whatever becomes of the file.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use picket_checks::{AdmissionConfig, AuditPolicy, ReadAtStart, Registries, Snapshot};
use picket_host::{Host, Kind, Meta, ReadError};
use picket_k3s::KubeletFolder;
use picket_model::Observation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

/// The most bytes of one document that are remembered; of a larger one its hash is.
const LARGEST_KEPT: usize = 64 * 1024;
/// The most bytes of all documents together.
const MOST_KEPT: usize = 512 * 1024;
/// How long after the start of K3s its kubelet is waited for: an agent needs its server for that.
const KUBELET_COMES: SignedDuration = SignedDuration::from_mins(20);
/// K3s writes its own drop-in last, right before it starts the kubelet; clocks of file systems are coarse.
const AT_ONCE: SignedDuration = SignedDuration::from_secs(1);
/// A file written so short a time ago may be in the middle of it.
const FRESH: SignedDuration = SignedDuration::from_secs(3);

/// A document as it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept<T> {
    /// What was seen.
    Whole(Observation<T>),
    /// A hash of what was seen, which is too large to be kept.
    Hash(String),
}

/// What a process and its components read at their start, in the form that is remembered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Documents {
    audit_policies: BTreeMap<String, Kept<AuditPolicy>>,
    admission_configs: BTreeMap<String, Kept<AdmissionConfig>>,
    kubelet_dropins: Option<BTreeMap<String, Kept<serde_json::Value>>>,
    kubelet_configs: BTreeMap<String, Kept<serde_json::Value>>,
    /// K3s has written its own drop-ins since it started, so that all of them are what the kubelet read.
    kubelet_started: bool,
    registries: Option<Kept<Registries>>,
}

impl Documents {
    /// For serde: what another version of picket remembered in a form of its own counts as nothing.
    ///
    /// # Errors
    /// When the text around it cannot be read.
    pub fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(from: D) -> Result<T, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        Ok(serde_json::from_value(value).unwrap_or_default())
    }

    /// The form that is judged. `snapshot` gives back what only the hash is known of, if it is still the same.
    pub fn as_read(&self, snapshot: &Snapshot) -> ReadAtStart {
        ReadAtStart {
            audit_policies: whole(&self.audit_policies, &snapshot.audit_policies),
            admission_configs: whole(&self.admission_configs, &snapshot.admission_configs),
            kubelet_dropins: self.kubelet_dropins.as_ref().map(|kept| whole(kept, &snapshot.kubelet_dropins)),
            kubelet_configs: whole(&self.kubelet_configs, &snapshot.kubelet_configs),
            registries: self.registries.as_ref().map(|kept| one(kept, Some(&snapshot.registries))),
        }
    }
}

/// What the running process read of the files in a snapshot: what was `remembered` of this start, and what nobody has
/// changed since it. `folder`: how K3s writes the kubelet's drop-ins.
pub fn observe(host: &Host, snapshot: &Snapshot, folder: Option<&KubeletFolder>, remembered: &Documents) -> Documents {
    let Some(started) = snapshot.k3s_started_at.value().copied() else { return Documents::default() };
    let mut room = MOST_KEPT;
    let (kubelet_dropins, kubelet_started) = kubelet(host, snapshot, folder, started, remembered, &mut room);
    let registries = remembered.registries.clone().or_else(|| {
        let file = snapshot.registries_file();
        let same = match snapshot.registries {
            Observation::Absent => is_absent_since(host, &file, started),
            _ => is_unchanged_since(host, &file, started),
        };
        same.then(|| keep(&snapshot.registries, &mut room))
    });
    Documents {
        audit_policies: each(host, &snapshot.audit_policies, started, &remembered.audit_policies, &mut room),
        admission_configs: each(host, &snapshot.admission_configs, started, &remembered.admission_configs, &mut room),
        kubelet_dropins,
        kubelet_configs: each(host, &snapshot.kubelet_configs, started, &remembered.kubelet_configs, &mut room),
        kubelet_started,
        registries,
    }
}

fn each<T: Clone + Serialize>(
    host: &Host,
    seen: &BTreeMap<String, Observation<T>>,
    started: Timestamp,
    remembered: &BTreeMap<String, Kept<T>>,
    room: &mut usize,
) -> BTreeMap<String, Kept<T>> {
    let known = |path: &String, now: &Observation<T>, room: &mut usize| match remembered.get(path) {
        Some(kept) => Some(kept.clone()),
        None => is_unchanged_since(host, path, started).then(|| keep(now, room)),
    };
    seen.iter().filter_map(|(path, now)| Some((path.clone(), known(path, now, room)?))).collect()
}

type Dropins = BTreeMap<String, Kept<serde_json::Value>>;

/// The drop-ins the kubelet read, and whether it has been started by now.
fn kubelet(
    host: &Host,
    snapshot: &Snapshot,
    next: Option<&KubeletFolder>,
    started: Timestamp,
    remembered: &Documents,
    room: &mut usize,
) -> (Option<Dropins>, bool) {
    if remembered.kubelet_started && remembered.kubelet_dropins.is_some() {
        return (remembered.kubelet_dropins.clone(), true);
    }
    let folder = format!("{}/agent/etc/kubelet.conf.d", snapshot.data_dir);
    let own = format!("{folder}/00-k3s-defaults.conf");
    let written = host.lstat(own.as_ref()).ok().map(|meta| meta.mtime).filter(|at| *at >= started);
    let latest = started.checked_add(KUBELET_COMES).unwrap_or(started);
    let read = written.map_or(started, |at| at.min(latest).checked_add(AT_ONCE).unwrap_or(at));
    let on_disk = &snapshot.kubelet_dropins;
    let own_now = on_disk.get(&own).and_then(Observation::value);
    let same_options = snapshot.running == snapshot.declared;
    if written.is_some()
        && let (Some(next), Some(now)) = (next, own_now)
        && next.own_file_is_changed(now, same_options)
    {
        // Somebody wrote into it after K3s had: before the kubelet read it, or afterwards.
        return (None, false);
    }
    if is_folder_unchanged_since(host, &folder, &own, read) {
        let all = on_disk.iter().map(|(path, seen)| (path.clone(), keep(seen, room))).collect();
        let complete = own_now.and_then(|v| v.as_object()).is_some_and(|map| !map.is_empty())
            && written.is_some_and(|at| host.now().duration_since(at) >= FRESH);
        return (Some(all), complete);
    }
    // K3s may be about to write its own.
    let dropins = remembered.kubelet_dropins.clone().map(|mut dropins| {
        if let Some(seen) = on_disk.get(&own) {
            dropins.insert(own.clone(), keep(seen, room));
        }
        dropins
    });
    (dropins, false)
}

/// Whether neither a drop-in nor a folder of them was changed after that; K3s's own file is written at every start.
fn is_folder_unchanged_since(host: &Host, folder: &str, own: &str, since: Timestamp) -> bool {
    let old_folder = |path: &Path| {
        let both = (host.lstat(path), host.stat(path));
        matches!(both, (Ok(link), Ok(meta)) if link.mtime <= since && meta.mtime <= since)
    };
    match host.lstat(folder.as_ref()) {
        Err(ReadError::Absent) => return true,
        Ok(_) if old_folder(folder.as_ref()) => {}
        _ => return false,
    }
    let matches = host.glob(&format!("{folder}/**"));
    matches.problems.iter().all(|problem| problem.reason.is_absent())
        && matches.paths.iter().filter(|path| *path != own).all(|path| match host.stat(path.as_ref()) {
            Ok(meta) if meta.kind == Kind::Folder => old_folder(path.as_ref()),
            _ => !path.ends_with(".conf") || is_unchanged_since(host, path, since),
        })
}

/// Whether a file is there and is what it was: not written since, not put in its place by name, reached by the same
/// links. A mode that was changed since is no other content; a folder of its own shows the difference.
fn is_unchanged_since(host: &Host, path: &str, since: Timestamp) -> bool {
    let same = |meta: &Meta, at: &Path| {
        meta.mtime <= since
            && (meta.ctime <= since
                || host.stat(at.parent().unwrap_or(Path::new("/"))).is_ok_and(|folder| folder.mtime <= since))
    };
    let trail = host.trail(path.as_ref());
    trail.outcome.is_ok()
        && trail.links.iter().all(|link| host.lstat(link).is_ok_and(|meta| same(&meta, link)))
        && host.stat(path.as_ref()).is_ok_and(|meta| same(&meta, &trail.end))
}

/// Whether a file was not there then either: its folder has not changed.
fn is_absent_since(host: &Host, path: &str, since: Timestamp) -> bool {
    let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
    host.stat(folder).map_or_else(|reason| reason.is_absent(), |folder| folder.mtime <= since)
}

fn keep<T: Clone + Serialize>(seen: &Observation<T>, room: &mut usize) -> Kept<T> {
    let bytes = serde_json::to_vec(seen).unwrap_or_default();
    if bytes.len() > LARGEST_KEPT || bytes.len() > *room {
        return Kept::Hash(hex::encode(Sha256::digest(&bytes)));
    }
    *room -= bytes.len();
    Kept::Whole(seen.clone())
}

fn whole<T: Clone + Serialize>(
    kept: &BTreeMap<String, Kept<T>>,
    now: &BTreeMap<String, Observation<T>>,
) -> BTreeMap<String, Observation<T>> {
    kept.iter().map(|(path, kept)| (path.clone(), one(kept, now.get(path)))).collect()
}

fn one<T: Clone + Serialize>(kept: &Kept<T>, now: Option<&Observation<T>>) -> Observation<T> {
    match kept {
        Kept::Whole(seen) => seen.clone(),
        Kept::Hash(hash) => {
            let same = |now: &&Observation<T>| {
                hex::encode(Sha256::digest(serde_json::to_vec(now).unwrap_or_default())) == *hash
            };
            now.filter(same).cloned().unwrap_or_else(|| {
                Observation::unreadable("it was changed after K3s started, and was too large to be remembered")
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use picket_checks::REGISTRIES_FILE;
    use picket_service::clock::SystemClock;

    use super::*;

    const POLICY: &str = "/etc/rancher/audit.yaml";
    const FOLDER: &str = "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d";

    struct Node(tempfile::TempDir);

    impl Node {
        fn new() -> Self {
            let node = Self(tempfile::tempdir().unwrap());
            node.put(POLICY, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n", 3600);
            node.put("/etc/rancher/k3s/registries.yaml", "mirrors: {}\n", 3600);
            node.put(&format!("{FOLDER}/00-k3s-defaults.conf"), &own("failSwapOn: false"), 3600);
            node.put(&format!("{FOLDER}/50-site.conf"), "maxPods: 50\n", 3600);
            for folder in [FOLDER, "/etc/rancher", "/etc/rancher/k3s"] {
                node.age(folder, 3600);
            }
            node
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path.trim_start_matches('/'))
        }

        /// Writes a file as if so many seconds ago.
        fn put(&self, path: &str, text: &str, ago: u64) {
            fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
            fs::write(self.path(path), text).unwrap();
            self.age(path, ago);
        }

        fn age(&self, path: &str, ago: u64) {
            let at = SystemTime::now() - Duration::from_secs(ago);
            fs::File::open(self.path(path)).unwrap().set_modified(at).unwrap();
        }

        /// A look at the documents of a process that started half an hour ago.
        fn look(&self, remembered: &Documents) -> (Documents, ReadAtStart) {
            let host = Host::rooted(self.0.path(), Arc::new(SystemClock)).unwrap();
            let mut snap = Snapshot::blank(host.now());
            snap.k3s_started_at = Observation::from(host.now() - SignedDuration::from_mins(30));
            let yaml = |path: &Path| {
                fs::read(path).map_or(Observation::Absent, |b| {
                    picket_checks::parse_yaml_map(&b)
                        .map_or_else(|e| Observation::unreadable(e.to_string()), Into::into)
                })
            };
            let folder = fs::read_dir(self.path(FOLDER));
            for entry in folder.into_iter().flatten() {
                let path = entry.unwrap().path();
                let inside = format!("/{}", path.strip_prefix(self.0.path()).unwrap().display());
                snap.kubelet_dropins.insert(inside, yaml(&path));
            }
            let policy = fs::read(self.path(POLICY)).unwrap();
            snap.audit_policies.insert(POLICY.to_owned(), Observation::from(AuditPolicy::parse(&policy).unwrap()));
            snap.registries = fs::read(self.path(REGISTRIES_FILE))
                .map_or(Observation::Absent, |bytes| Observation::from(Registries::parse(&bytes).unwrap()));
            let configuration = crate::source::config::effective(&host, None);
            let documents = observe(&host, &snap, configuration.kubelet_folder(), remembered);
            let read = documents.as_read(&snap);
            (documents, read)
        }

        fn first_look(&self) -> (Documents, ReadAtStart) {
            self.look(&Documents::default())
        }
    }

    /// K3s' own file as K3s writes it, with something more.
    fn own(more: &str) -> String {
        let agent = "/var/lib/rancher/k3s/agent";
        format!(
            "authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {agent}/client-ca.crt}}}}\n\
             authorization: {{mode: Webhook}}\ntlsCertFile: {agent}/serving-kubelet.crt\ntlsPrivateKeyFile: {agent}/serving-kubelet.key\n\
             staticPodPath: {agent}/pod-manifests\nstreamingConnectionIdleTimeout: 4h0m0s\n\
             allowedUnsafeSysctls: [net.ipv4.ip_forward, net.ipv6.conf.all.forwarding]\n{more}\n"
        )
    }

    fn site(name: &str) -> String {
        format!("{FOLDER}/{name}")
    }

    #[test]
    fn files_older_than_the_start_are_what_was_read() {
        let (_, read) = Node::new().first_look();
        assert!(read.audit_policies[POLICY].value().is_some());
        assert_eq!(read.kubelet_dropins.unwrap().len(), 2);
        assert!(read.registries.unwrap().value().is_some());
    }

    #[test]
    fn whatever_was_changed_since_is_not_known_to_be() {
        let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: RequestResponse\n";
        let node = Node::new();
        node.put(POLICY, policy, 60);
        assert!(node.first_look().1.audit_policies.is_empty(), "written");
        let node = Node::new();
        node.put("/root/old.yaml", policy, 7200);
        fs::rename(node.path("/root/old.yaml"), node.path(POLICY)).unwrap();
        assert!(node.first_look().1.audit_policies.is_empty(), "an old file in its place");
        type Change = fn(&Node);
        let changes: [(&str, Change); 5] = [
            ("written", |n| n.put(&site("50-site.conf"), "maxPods: 60\n", 60)),
            ("added", |n| n.put(&site("60-x.conf"), "maxPods: 60\n", 7200)),
            ("removed", |n| fs::remove_file(n.path(&site("50-site.conf"))).unwrap()),
            ("in a folder below", |n| n.put(&site("70/x.conf"), "maxPods: 60\n", 60)),
            ("a link", |n| {
                n.put("/root/x.conf", "maxPods: 60\n", 60);
                std::os::unix::fs::symlink("/root/x.conf", n.path(&site("80-x.conf"))).unwrap();
                n.age(FOLDER, 3600);
            }),
        ];
        for (what, change) in changes {
            let node = Node::new();
            change(&node);
            assert_eq!(node.first_look().1.kubelet_dropins, None, "{what}");
        }
        let node = Node::new();
        fs::remove_file(node.path(REGISTRIES_FILE)).unwrap();
        assert_eq!(node.first_look().1.registries, None);
    }

    #[test]
    fn what_was_read_is_remembered_whatever_becomes_of_the_files() {
        let node = Node::new();
        let (documents, before) = node.first_look();
        let documents: Documents = serde_json::from_slice(&serde_json::to_vec(&documents).unwrap()).unwrap();
        node.put(POLICY, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: None\n", 60);
        fs::remove_file(node.path(&site("50-site.conf"))).unwrap();
        node.put(&site("60-x.conf"), "maxPods: 60\n", 60);
        fs::remove_file(node.path(REGISTRIES_FILE)).unwrap();
        let (after, read) = node.look(&documents);
        assert_eq!(read, before);
        assert_eq!(after, documents);
    }

    #[test]
    fn what_k3s_writes_at_its_start_is_what_the_kubelet_reads() {
        let node = Node::new();
        let (early, _) = node.first_look();
        // An agent waits for its server before it starts the kubelet: what was changed until then counts.
        node.put(&site("60-x.conf"), "maxPods: 60\n", 1700);
        node.put(&site("00-k3s-defaults.conf"), &own("failSwapOn: true"), 1690);
        node.age(FOLDER, 1690);
        let (late, read) = node.look(&early);
        assert_eq!(read.kubelet_dropins.as_ref().unwrap().len(), 3);
        assert!(late.kubelet_started);
        // Its own file is no other because somebody wrote into it afterwards.
        node.put(&site("00-k3s-defaults.conf"), &own("failSwapOn: false"), 60);
        assert_eq!(node.look(&late).1, read);
    }

    #[test]
    fn a_file_of_k3s_that_was_changed_after_k3s_wrote_it_is_not_taken_for_what_was_read() {
        let node = Node::new();
        node.put("/etc/rancher/k3s/config.yaml", "debug: true\n", 3600);
        node.put("/etc/systemd/system/k3s-agent.service", "[Service]\nExecStart=/k3s agent\n", 3600);
        node.put(&site("00-k3s-defaults.conf"), &own(""), 1690);
        node.age(FOLDER, 1690);
        assert_eq!(node.first_look().1.kubelet_dropins.unwrap().len(), 2, "K3s wrote it");
        node.put(
            &site("00-k3s-defaults.conf"),
            &own("").replace("anonymous: {enabled: false", "anonymous: {enabled: true"),
            1600,
        );
        assert_eq!(node.first_look().1.kubelet_dropins, None, "the kubelet may have read it, or not");
    }

    #[test]
    fn of_a_large_document_only_a_hash_is_remembered() {
        let node = Node::new();
        let large = |word: &str| format!("a: {}\n", word.repeat(LARGEST_KEPT));
        node.put(&site("50-site.conf"), &large("x"), 3600);
        let (documents, read) = node.first_look();
        let kept = read.kubelet_dropins.unwrap();
        assert!(kept[&site("50-site.conf")].value().is_some());
        assert!(serde_json::to_vec(&documents).unwrap().len() < 4096);
        node.put(&site("50-site.conf"), &large("y"), 60);
        let kept = node.look(&documents).1.kubelet_dropins.unwrap();
        assert!(matches!(kept[&site("50-site.conf")], Observation::Unreadable { .. }));
    }

    #[test]
    fn what_is_remembered_stays_small_however_many_documents_there_are() {
        let node = Node::new();
        for number in 0..40 {
            node.put(&site(&format!("{number}-x.conf")), &format!("a: {}\n", "x".repeat(LARGEST_KEPT / 2)), 3600);
        }
        node.age(FOLDER, 3600);
        let documents = node.first_look().0;
        assert!(serde_json::to_vec(&documents).unwrap().len() < MOST_KEPT + 64 * 1024);
    }
}
