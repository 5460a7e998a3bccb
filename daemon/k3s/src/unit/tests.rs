use super::*;
use crate::files::MemoryFiles;

const UNIT: &str = "[Unit]\nDescription=x\n[Service]\nEnvironmentFile=-/etc/default/%N\nEnvironment=\"A=b c\" K3S_DEBUG=1\n\
                    EnvironmentFile=-/etc/systemd/system/k3s.service.env\nExecStart=/usr/local/bin/k3s \\\n    server \\\n# no\n\
                    \t'--disable' \\\n\t'traefik' \\\n\t'--node-label=it'\\''s=a b' \\\n\n[Install]\nWantedBy=multi-user.target\n";

fn words(start: &Start) -> Vec<(&str, u32)> {
    start.words.iter().map(|(w, _)| (w.text.as_str(), w.line)).collect()
}

#[test]
fn a_unit_as_the_install_script_writes_it() {
    let files = MemoryFiles::new()
        .file("/etc/systemd/system/k3s.service", UNIT)
        .file("/etc/default/k3s", "K3S_DEBUG=0\nK3S_URL=x\n")
        .file("/etc/systemd/system/k3s.service.env", "K3S_URL='https://h:6443'\n");
    let start = find(&files, None).start.unwrap();
    assert_eq!(
        words(&start),
        [("/usr/local/bin/k3s", 7), ("server", 8), ("--disable", 10), ("traefik", 11), ("--node-label=it's=a b", 12),]
    );
    let value = |n: &str| start.environment.get(n).map(|(v, p)| (v.value.as_str(), p.as_str()));
    assert_eq!(value("A"), Some(("b c", "/etc/systemd/system/k3s.service")));
    assert_eq!(value("K3S_DEBUG"), Some(("0", "/etc/default/k3s")));
    assert_eq!(value("K3S_URL"), Some(("https://h:6443", "/etc/systemd/system/k3s.service.env")));
}

#[test]
fn drop_ins_replace_the_command_and_mask_each_other() {
    let files = MemoryFiles::new()
        .file("/usr/lib/systemd/system/k3s-edge.service", UNIT)
        .file(
            "/etc/systemd/system/k3s-edge.service.d/20.conf",
            "[Service]\nExecStart=\nExecStart=-/opt/bin/k3s agent ${X} $Y $$Z",
        )
        .file(
            "/usr/lib/systemd/system/k3s-edge.service.d/20.conf",
            "[Service]\nExecStart=\nExecStart=/bin/false server",
        )
        .file("/run/systemd/system/k3s-.service.d/10.conf", "[Service]\nEnvironment=X=1 'Y=2 3'\n");
    let start = find(&files, Some(Role::Agent)).start;
    let texts: Vec<_> = start.as_ref().unwrap().words.iter().map(|(w, _)| w.text.as_str()).collect();
    assert_eq!(texts, ["/opt/bin/k3s", "agent", "1", "2", "3", "$Z"]);
    assert_eq!(start.unwrap().path, "/usr/lib/systemd/system/k3s-edge.service");
    assert!(find(&files, Some(Role::Server)).start.is_none());
}

#[test]
fn a_unit_that_cannot_be_read_is_said() {
    let files = MemoryFiles::new().unreadable("/etc/systemd/system/k3s.service", "permission denied");
    let found = find(&files, None);
    assert!(found.start.is_none());
    assert_eq!(found.blind.len(), 1);
    assert_eq!(found.blind[0].path.as_deref(), Some("/etc/systemd/system/k3s.service"));
}

#[test]
fn openrc_scripts_are_read_too() {
    let script = "#!/sbin/openrc-run\nsupervisor=supervise-daemon\ncommand=\"/usr/local/bin/k3s\"\ncommand_args=\"server \\\n\
                  \t'--tls-san' \\\n\t'a\\$b' \\\n    >>/var/log/k3s.log 2>&1\"\n";
    let files =
        MemoryFiles::new().file("/etc/init.d/k3s", script).file("/etc/rancher/k3s/k3s.env", "export K3S_TOKEN='x'\n");
    let start = find(&files, None).start.unwrap();
    let texts: Vec<_> = start.words.iter().map(|(w, _)| w.text.as_str()).collect();
    assert_eq!(texts, ["/usr/local/bin/k3s", "server", "--tls-san", "a$b"]);
    assert!(start.environment.contains_key("K3S_TOKEN"));
}
