//! The kubelet's own configuration: the file its flag `--config` names, its drop-ins, and what the next start of K3s
//! makes of those.

use std::collections::BTreeMap;

use picket_checks::{Needs, Snapshot, parse_yaml_map};
use picket_host::{Host, Kind};
use picket_k3s::{KubeletFolder, without_secrets};
use picket_model::Observation;
use serde_json::Value;

use super::documents::LARGEST;
use super::{Configuration, observation, parsed};

/// The most drop-ins of a kubelet.
const MOST_DROPINS: usize = 256;

type Dropins = BTreeMap<String, Observation<Value>>;

/// Reads all of it.
pub fn observe(host: &Host, needs: &Needs, configuration: &Configuration, snapshot: &mut Snapshot) {
    snapshot.kubelet_configs = needs.kubelet_configs.iter().map(|path| (path.clone(), read(host, path))).collect();
    snapshot.kubelet_dropins = dropins(host, &needs.kubelet_dropins);
    snapshot.kubelet_next.clear();
    snapshot.kubelet_copied_from.clear();
    // The data dir of a running server may be another than that of its next start.
    if let Some(folder) = configuration.kubelet_folder().filter(|folder| folder.path == needs.kubelet_dropins) {
        next_start(host, folder, snapshot);
    }
}

fn read(host: &Host, path: &str) -> Observation<Value> {
    parsed(host, path, LARGEST, |bytes, _| parse_yaml_map(bytes).map(without_secrets))
}

/// The drop-ins in the order the kubelet walks them, byte-wise by path. A folder that cannot be listed is itself an
/// entry that cannot be read.
fn dropins(host: &Host, folder: &str) -> Dropins {
    let matches = host.glob(&format!("{folder}/**"));
    let mut found = BTreeMap::new();
    for problem in matches.problems.into_iter().filter(|p| !p.reason.is_absent()) {
        found.insert(problem.path, observation(Err(problem.reason)));
    }
    let paths: Vec<_> = matches.paths.into_iter().filter(|p| p.ends_with(".conf")).collect();
    if paths.len() > MOST_DROPINS {
        // The last one wins, so what is not looked at may decide.
        let reason = format!("{} drop-ins, of which {MOST_DROPINS} are looked at", paths.len());
        found.insert(folder.to_owned(), Observation::unreadable(reason));
    }
    for path in paths.into_iter().take(MOST_DROPINS) {
        if host.stat(path.as_ref()).is_ok_and(|meta| meta.kind == Kind::Folder) {
            continue;
        }
        let seen = read(host, &path);
        found.insert(path, seen);
    }
    found
}

/// What the next start writes into the folder.
fn next_start(host: &Host, folder: &KubeletFolder, snapshot: &mut Snapshot) {
    // K3s writes its own file whatever became of it since. A folder that stands for a node starts nothing: there, the
    // file is what its kubelet read last.
    let own = folder.own_file();
    if !matches!(snapshot.k3s_started_at, Observation::Unreadable { .. })
        && let Some(now) = snapshot.kubelet_dropins.get(&own).and_then(Observation::value)
    {
        let anew = folder.own_file_anew(now);
        if anew != *now {
            snapshot.kubelet_next.insert(own, Observation::from(anew));
        }
    }
    let unnamed = |path: &str| Observation::unreadable(format!("{path} is relative; to what, is not known"));
    if let Some(source) = &folder.copied_file {
        let seen = if source.starts_with('/') { read(host, source) } else { unnamed(source) };
        copy(snapshot, folder.copy_of_file(), source, seen);
    }
    if let Some(source) = &folder.copied_folder {
        let to = folder.copy_of_folder();
        if !source.starts_with('/') {
            return copy(snapshot, to, source, unnamed(source));
        }
        for (path, seen) in dropins(host, source) {
            let below = path.strip_prefix(source.as_str()).unwrap_or_default();
            copy(snapshot, format!("{to}{below}"), &path, seen);
        }
        // Also without a file in it: one that comes is copied.
        snapshot.kubelet_copied_from.insert(to, source.clone());
    }
}

/// K3s does not start where there is nothing to copy; what lies there stays.
fn copy(snapshot: &mut Snapshot, to: String, source: &str, seen: Observation<Value>) {
    if !matches!(seen, Observation::Absent) {
        snapshot.kubelet_next.insert(to.clone(), seen);
    }
    snapshot.kubelet_copied_from.insert(to, source.to_owned());
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use picket_service::clock::SystemClock;
    use serde_json::json;

    use super::*;
    use crate::source::config::effective;

    #[test]
    fn k3s_own_file_is_declared_as_the_next_start_writes_it() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let folder = "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d";
        let own = format!("{folder}/00-k3s-defaults.conf");
        put("etc/systemd/system/k3s-agent.service", "[Service]\nExecStart=/k3s agent --protect-kernel-defaults\n");
        put(&own[1..], "authentication: {anonymous: {enabled: true}}\npodPidsLimit: 5\nmaxPods: 7\n");
        let host = Host::rooted(root.path(), Arc::new(SystemClock)).unwrap();
        let configuration = effective(&host, None);
        let needs = Needs { kubelet_dropins: folder.to_owned(), ..Needs::default() };
        let mut snap = Snapshot::blank(host.now());
        snap.k3s_started_at = Observation::Absent;
        observe(&host, &needs, &configuration, &mut snap);
        let next = snap.kubelet_next[&own].value().unwrap();
        assert_eq!(next["authentication"]["anonymous"]["enabled"], json!(false));
        assert_eq!(next["protectKernelDefaults"], json!(true));
        assert_eq!((next.get("podPidsLimit"), &next["maxPods"]), (None, &json!(7)), "what K3s may write is kept");
        // A folder that stands for a node starts nothing.
        snap.k3s_started_at = Observation::unreadable("no processes");
        observe(&host, &needs, &configuration, &mut snap);
        assert!(snap.kubelet_next.is_empty());
    }
}
