//! Kernel parameters: live ones from `/proc/sys`, and those that will be set at the next boot.

use picket_checks::{Needs, PersistedSysctls, SYSCTL_FOLDERS, Snapshot};
use picket_host::{Host, Kind, ReadError};
use picket_model::Observation;

use super::observation;

/// The largest sysctl file that is read.
const LARGEST: u64 = 256 * 1024;
/// The most files in one sysctl folder.
const MOST_FILES: usize = 1024;

/// Reads every live parameter the controls need.
pub fn observe_live(host: &Host, needs: &Needs, snapshot: &mut Snapshot) {
    snapshot.sysctls = needs.sysctls.iter().map(|key| (key.clone(), observation(host.sysctl(&as_path(key))))).collect();
}

/// A key with dots as a path; dots and slashes change places, as in `net.ipv4.conf.eth0/100.forwarding`.
pub fn as_path(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect()
}

/// Reads all files of the sysctl folders.
pub fn observe_persisted(host: &Host, snapshot: &mut Snapshot) {
    snapshot.persisted_sysctls = persisted(host);
}

fn persisted(host: &Host) -> Observation<PersistedSysctls> {
    let mut contents: Vec<(String, Vec<u8>)> = Vec::new();
    let mut unreadable = Vec::new();
    let mut any = false;
    for folder in SYSCTL_FOLDERS {
        let entries = match host.list(folder.as_ref(), MOST_FILES) {
            Ok(entries) => entries,
            Err(ReadError::Absent) => continue,
            Err(reason) => {
                any = true;
                unreadable.push((folder.to_owned(), reason.to_string()));
                continue;
            }
        };
        any = true;
        for entry in entries {
            if !entry.name.ends_with(".conf") {
                continue;
            }
            let path = format!("{folder}/{}", entry.name);
            match host.read(path.as_ref(), LARGEST) {
                Ok(content) => contents.push((path, content.bytes)),
                // A link to /dev/null switches a vendor's file off; under a root there may be no /dev at all.
                Err(ReadError::NotRegular(Kind::Device) | ReadError::Absent) if entry.kind == Kind::Link => {
                    if host.read_link(path.as_ref()).is_ok_and(|to| to.as_os_str() == "/dev/null") {
                        contents.push((path, Vec::new()));
                    }
                }
                Err(ReadError::Absent) => {}
                Err(reason) => unreadable.push((path, reason.to_string())),
            }
        }
    }
    if !any {
        return Observation::Absent;
    }
    let mut sysctls =
        PersistedSysctls::from_files(contents.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())));
    sysctls.unreadable.extend(unreadable);
    Observation::from(sysctls)
}
