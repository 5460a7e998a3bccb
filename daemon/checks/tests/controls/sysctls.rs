//! Persisted kernel parameters, against what systemd-sysctl was seen to do.

use picket_checks::PersistedSysctls;
use serde_json::Value;

#[test]
fn files_give_what_systemd_sysctl_sets() {
    let vectors: Value = serde_json::from_str(include_str!("../data/sysctl-precedence-vectors.json")).unwrap();
    let files = vectors["files"].as_object().unwrap();
    let sysctls = PersistedSysctls::from_files(
        files.iter().map(|(path, text)| (path.as_str(), text.as_str().unwrap().as_bytes())),
    );
    for (key, wanted) in vectors["systemd_sysctl"]["effective"].as_object().unwrap() {
        let found = sysctls.get(key).map_or("not set", |v| v.value.as_str());
        assert_eq!(found, wanted.as_str().unwrap(), "{key}");
    }
    assert_eq!(sysctls.get("net.nonexistent.key").map(|v| v.value.as_str()), Some("5"));
}

#[test]
fn an_assignment_knows_its_file_and_line() {
    let sysctls = PersistedSysctls::from_files([
        ("/usr/lib/sysctl.d/50-a.conf", &b"vm.panic_on_oom = 1\n"[..]),
        ("/etc/sysctl.d/50-a.conf", b"# ours\n; theirs\n\n  vm.panic_on_oom =  0  \n"),
    ]);
    let found = sysctls.get("vm.panic_on_oom").unwrap();
    assert_eq!((found.value.as_str(), found.path.as_str(), found.line), ("0", "/etc/sysctl.d/50-a.conf", 4));
    assert_eq!(sysctls.get("vm/panic_on_oom").unwrap(), found);
}

#[test]
fn an_empty_file_switches_a_vendor_file_off() {
    let sysctls = PersistedSysctls::from_files([
        ("/usr/lib/sysctl.d/50-a.conf", &b"kernel.panic = 10\n"[..]),
        ("/etc/sysctl.d/50-a.conf", b""),
    ]);
    assert_eq!(sysctls.get("kernel.panic"), None);
}

#[test]
fn a_line_that_is_no_assignment_is_counted() {
    let sysctls =
        PersistedSysctls::from_files([("/etc/sysctl.d/a.conf", &b"kernel.panic\n= 3\nkernel.panic = 10\n"[..])]);
    assert_eq!(sysctls.malformed, [("/etc/sysctl.d/a.conf".to_owned(), 1), ("/etc/sysctl.d/a.conf".to_owned(), 2)]);
    assert_eq!(sysctls.get("kernel.panic").map(|v| v.value.as_str()), Some("10"));
}
