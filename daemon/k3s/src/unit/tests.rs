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
    let start = find(&files, None, None).start.unwrap();
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
    let start = find(&files, Some(Role::Agent), None).start;
    let texts: Vec<_> = start.as_ref().unwrap().words.iter().map(|(w, _)| w.text.as_str()).collect();
    assert_eq!(texts, ["/opt/bin/k3s", "agent", "1", "2", "3", "$Z"]);
    assert_eq!(start.unwrap().path, "/usr/lib/systemd/system/k3s-edge.service");
    assert!(find(&files, Some(Role::Server), None).start.is_none());
}

#[test]
fn a_unit_that_cannot_be_read_is_said() {
    let files = MemoryFiles::new().unreadable("/etc/systemd/system/k3s.service", "permission denied");
    let found = find(&files, None, None);
    assert!(found.start.is_none());
    assert_eq!(found.blind.len(), 1);
    assert_eq!(found.blind[0].path.as_deref(), Some("/etc/systemd/system/k3s.service"));
}

#[test]
fn a_unit_with_a_root_of_its_own_shows_k3s_other_files() {
    let found = |lines: &str| {
        let unit = format!("[Service]\n{lines}ExecStart=/usr/local/bin/k3s server\n");
        find(&MemoryFiles::new().file("/etc/systemd/system/k3s.service", unit), None, None)
    };
    for lines in
        ["RootDirectory=/srv/k3s\n", "RootImage=/srv/k3s.raw\n", "RootDirectory=/\nRootImage=/a\nRootDirectory=\n"]
    {
        let found = found(lines);
        assert!(found.start.is_none(), "{lines}");
        assert!(found.blind[0].detail.contains("not known"), "{lines}");
    }
    for lines in [
        "BindPaths=/srv/other:/etc/rancher\n",
        "BindReadOnlyPaths=/run -/srv/x:/var/lib:rbind\n",
        "TemporaryFileSystem=/etc:ro\n",
    ] {
        assert!(found(lines).start.is_none(), "{lines}");
    }
    for lines in [
        "RootDirectory=/\n",
        "RootDirectory=/srv/k3s\nRootDirectory=\n",
        "BindPaths=/srv /data:/data /srv/x:/run/x\nTemporaryFileSystem=/tmp:size=1M\n",
        "BindPaths=/srv/other:/etc/rancher\nBindPaths=\n",
    ] {
        assert!(found(lines).start.is_some(), "{lines}");
    }
}

#[test]
fn an_openrc_script_that_starts_k3s_in_a_way_that_cannot_be_told_is_said() {
    let script = "#!/sbin/openrc-run\ncommand=/usr/sbin/chroot\ncommand_args=\"/srv /usr/local/bin/k3s server\"\n";
    let found = find(&MemoryFiles::new().file("/etc/init.d/k3s", script), None, None);
    assert!(found.start.is_none());
    assert_eq!(found.blind[0].path.as_deref(), Some("/etc/init.d/k3s"));
}

#[test]
fn openrc_scripts_are_read_too() {
    let script = "#!/sbin/openrc-run\nsupervisor=supervise-daemon\ncommand=\"/usr/local/bin/k3s\"\ncommand_args=\"server \\\n\
                  \t'--tls-san' \\\n\t'a\\$b' \\\n    >>/var/log/k3s.log 2>&1\"\n";
    let files =
        MemoryFiles::new().file("/etc/init.d/k3s", script).file("/etc/rancher/k3s/k3s.env", "export K3S_TOKEN='x'\n");
    let start = find(&files, None, None).start.unwrap();
    let texts: Vec<_> = start.words.iter().map(|(w, _)| w.text.as_str()).collect();
    assert_eq!(texts, ["/usr/local/bin/k3s", "server", "--tls-san", "a$b"]);
    assert!(start.environment.contains_key("K3S_TOKEN"));
}

/// A server's command line, and the environment it comes with.
fn started(command: &str) -> (Vec<String>, BTreeMap<String, String>) {
    let unit = format!("[Service]\nEnvironment=K3S_DEBUG=1 A=b\nExecStart={command}\n");
    let found = find(&MemoryFiles::new().file("/etc/systemd/system/k3s.service", unit), None, None);
    let Some(start) = found.start else {
        assert!(!found.blind.is_empty(), "{command}: not known, and nothing says so");
        return Default::default();
    };
    let words = start.words.iter().map(|(word, _)| word.text.clone()).collect();
    (words, start.environment.iter().map(|(name, (v, _))| (name.clone(), v.value.clone())).collect())
}

#[test]
fn programs_before_k3s_are_no_part_of_its_command_line() {
    let own = ["/usr/local/bin/k3s", "server", "-c", "/x.yaml"];
    for command in [
        "/usr/bin/nice -n 5 /usr/local/bin/k3s server -c /x.yaml",
        "/usr/bin/taskset -c 0-3 /usr/local/bin/k3s server -c /x.yaml",
        "/sbin/ip netns exec server /usr/local/bin/k3s server -c /x.yaml",
        "/bin/sh -c 'exec /usr/local/bin/k3s server -c /x.yaml'",
        "/usr/bin/nice -n 5 /bin/sh -c '/usr/local/bin/k3s  server \"-c\" /x.yaml'",
    ] {
        assert_eq!(started(command).0, own, "{command}");
    }
    let (words, environment) = started("/usr/bin/env -u A K3S_NODE_NAME=n K3S_DEBUG=0 nice /opt/k3s server");
    assert_eq!(words, ["/opt/k3s", "server"]);
    assert_eq!(environment, [("K3S_DEBUG", "0"), ("K3S_NODE_NAME", "n")].map(|(k, v)| (k.into(), v.into())).into());
    let (_, environment) = started("/usr/bin/env -i X=1 /opt/k3s server");
    assert_eq!(environment, BTreeMap::from([("X".to_owned(), "1".to_owned())]));
    let (_, environment) = started("/bin/sh -c 'X=1 exec /opt/k3s agent'");
    assert_eq!(environment["X"], "1");
    // What only a shell can tell is not known.
    for command in ["/bin/sh -c 'k3s server $$ARGS'", "/bin/sh -c 'sleep 5; k3s server'", "/bin/bash -lc 'k3s agent'"] {
        assert_eq!(started(command).0, [""; 0], "{command}");
    }
    // Nor what K3s sees behind programs that show it other files or variables.
    for command in [
        "/usr/sbin/chroot /srv/root /usr/local/bin/k3s server",
        "/usr/bin/nice /usr/sbin/chroot /srv/root /bin/sh -c 'exec /usr/local/bin/k3s server'",
        "/usr/bin/nsenter -t 1 -m /usr/local/bin/k3s server",
        "/usr/bin/env -S 'K3S_CONFIG_FILE=/x.yaml /usr/local/bin/k3s' server",
        "/usr/bin/env -iS 'A=b' /usr/local/bin/k3s server",
        "/usr/bin/env --split-string=K3S_DEBUG=1 /usr/local/bin/k3s server",
        "/usr/bin/docker run rancher/k3s:v1.36.2-k3s1 server",
    ] {
        assert_eq!(started(command).0, [""; 0], "{command}");
    }
    // An argument that is called like K3s, or like one of those programs, is none.
    let named = "/usr/local/bin/k3s server --node-name chroot --node-label su";
    assert_eq!(started(named).0.len(), 6);
    let named = "/usr/local/bin/k3s server --node-name k3s --node-label k3s=server";
    assert_eq!(started(named).0.first().map(String::as_str), Some("/usr/local/bin/k3s"));
}

#[test]
fn the_hosts_name_and_variables_that_are_unset() {
    let unit = "[Service]\nEnvironment=K3S_NODE_NAME=%H-x K3S_DEBUG=1 A=b\nUnsetEnvironment=A=c\nUnsetEnvironment=K3S_DEBUG\n\
                ExecStart=/k3s server --node-name=%l --token-file=%E/t\n";
    let files = MemoryFiles::new().file("/etc/systemd/system/k3s.service", unit);
    let with = |files: &MemoryFiles, host: Option<&HostFacts>| {
        let start = find(files, None, host).start.unwrap();
        let environment: Vec<_> = start.environment.values().map(|(v, _)| format!("{}={}", v.name, v.value)).collect();
        (environment, start.words[2].0.text.clone(), start.words[3].0.text.clone())
    };
    let named = |name: &str| vec!["A=b".to_owned(), format!("K3S_NODE_NAME={name}")];
    let host = HostFacts { hostname: Some("n1.example".to_owned()), ..HostFacts::default() };
    let t = "--token-file=/etc/t".to_owned();
    assert_eq!(with(&files, Some(&host)), (named("n1.example-x"), "--node-name=n1".to_owned(), t.clone()));
    assert_eq!(
        with(&files.clone().file("/etc/hostname", "# a\nn2\n"), None),
        (named("n2-x"), "--node-name=n2".to_owned(), t.clone())
    );
    assert_eq!(with(&files, None), (named("%H-x"), "--node-name=%l".to_owned(), t));
}
