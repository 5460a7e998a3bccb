//! Any bytes as config.yaml, drop-in, unit, environment file and kubelet configuration: an answer, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_k3s::{Ask, MemoryFiles, effective};

fuzz_target!(|data: &[u8]| {
    // Parts are separated by a line with a single NUL.
    let mut parts = data.split(|b| *b == 0);
    let mut part = || parts.next().unwrap_or_default().to_vec();
    let files = MemoryFiles::new()
        .file("/etc/rancher/k3s/config.yaml", part())
        .file("/etc/rancher/k3s/config.yaml.d/10-a.yaml", part())
        .file("/etc/systemd/system/k3s.service", part())
        .file("/etc/systemd/system/k3s.service.env", part())
        .file("/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/50-x.conf", part())
        .file("/var/lib/rancher/k3s/server/db/etcd/config", part());
    let ask = Ask { role: None, version: None, host: None, journal: None };
    let config = effective(&files, &ask);
    assert!(config.problems.iter().all(|p| !p.detail.is_empty()), "a problem without words");
});
