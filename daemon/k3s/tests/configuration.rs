//! What a person wrote, and what K3s makes of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use picket_k3s::{AcrossVersions, Ask, EffectiveConfig, K3sVersion, Layer, MemoryFiles, Trap, effective};
use picket_model::Role;

const MAIN: &str = "/etc/rancher/k3s/config.yaml";

fn server(text: &str) -> EffectiveConfig {
    effective(&MemoryFiles::new().file(MAIN, text), &Ask { role: Some(Role::Server), ..Ask::default() })
}

fn agent(text: &str) -> EffectiveConfig {
    effective(&MemoryFiles::new().file(MAIN, text), &Ask { role: Some(Role::Agent), ..Ask::default() })
}

fn unit(command: &str) -> String {
    format!("[Service]\nEnvironmentFile=-/etc/systemd/system/k3s.service.env\nExecStart=/usr/local/bin/k3s {command}\n")
}

fn with_unit(command: &str, text: &str) -> EffectiveConfig {
    let files = MemoryFiles::new().file(MAIN, text).file("/etc/systemd/system/k3s.service", unit(command));
    effective(&files, &Ask::default())
}

fn values(config: &EffectiveConfig, name: &str) -> Vec<String> {
    config.values(name).iter().map(|v| v.value.clone()).collect()
}

fn traps(config: &EffectiveConfig) -> Vec<(Trap, Option<u32>)> {
    config.warnings.iter().map(|w| (w.trap, w.line)).collect()
}

fn problems(config: &EffectiveConfig) -> Vec<(Option<u32>, &str)> {
    config.problems.iter().map(|p| (p.line, p.detail.as_str())).collect()
}

#[test]
fn layers_and_their_order() {
    let files = MemoryFiles::new()
        .file(MAIN, "token: a\ndata-dir: /data/\ntls-san: x\nwrite-kubeconfig-mode: \"0600\"\n")
        .file("/etc/rancher/k3s/config.yaml.d/10.yaml", "tls-san+: [w]\nnode-name: n1\n")
        .file("/etc/systemd/system/k3s.service", unit("server --tls-san z --node-name=n2 --debug"))
        .file(
            "/etc/systemd/system/k3s.service.env",
            "K3S_TOKEN='b'\nK3S_KUBECONFIG_OUTPUT='/k.yaml'\nK3S_NODE_NAME=n0\n",
        );
    let config = effective(&files, &Ask::default());
    assert_eq!(config.role, Some(Role::Server));
    assert_eq!(problems(&config), []);
    assert_eq!(values(&config, "tls-san"), ["x", "w", "z"], "the command line adds to lists");
    let layers: Vec<_> = config.values("tls-san").iter().map(|v| v.layer).collect();
    assert_eq!(layers, [Layer::ConfigFile, Layer::DropIn, Layer::CommandLine]);
    assert_eq!(config.option("node-name").unwrap().value, "n2");
    assert_eq!(values(&config, "token"), ["<redacted>"], "a variable counts only where nothing else is set");
    let output = config.option("write-kubeconfig").unwrap();
    assert_eq!((output.layer, output.line), (Layer::Environment, Some(2)));
    assert_eq!(config.data_dir(), "/data");
    assert_eq!(config.option_or_default("cluster-domain").as_deref(), Some("cluster.local"));
    assert!(config.bool_option("debug") && config.bool_option("tls-san-security"));
}

#[test]
fn no_secret_leaves() {
    let files = MemoryFiles::new()
        .file(
            MAIN,
            "token: s3cr3t-1\nagent-token: s3cr3t-2\ndatastore-endpoint: postgres://u:s3cr3t-3@h/db\ntokens: s3cr3t-4\n\
             vpn-auth: name=tailscale,joinKey=s3cr3t-5\netcd-s3-secret-key: s3cr3t-6\nbroken: [s3cr3t-7\n",
        )
        .file("/etc/systemd/system/k3s.service", unit("server --token s3cr3t-8 --etcd-s3-session-token=s3cr3t-9"))
        .file("/etc/systemd/system/k3s.service.env", "K3S_AGENT_TOKEN=s3cr3t-10\nnot a name=s3cr3t-11\n");
    for files in
        [files.clone(), files.file(MAIN, "token: s3cr3t-1\nagent-token: 123456s3cr3t\ntoken=s3cr3t-2: s3cr3t-3\n")]
    {
        let config = effective(&files, &Ask::default());
        let json = serde_json::to_string(&config).unwrap() + &format!("{config:?}");
        assert!(!json.contains("s3cr3t"), "{json}");
        assert!(json.contains("<redacted>"));
    }
}

#[test]
fn unknown_keys_on_either_role() {
    let config = server("secret-encryption: true\nprotect_kernel_defaults: true\ndebug: true\n");
    assert_eq!(problems(&config), []);
    assert_eq!(traps(&config), [(Trap::UnknownKey, Some(1)), (Trap::UnknownKey, Some(2))]);
    assert!(!config.options["secret-encryption"][0].known && config.options["debug"][0].known);
    assert!(config.option("secret-encryption").is_none());

    let config = agent("write-kubeconfig-mode: 644\nserver: https://h:6443\n");
    assert_eq!(config.problems.len(), 1);
    assert_eq!(config.problems[0].line, Some(1));

    // The filter looks at the first word after the program only.
    let config = with_unit("--debug server", "typo: 1\n");
    assert_eq!(config.problems.len(), 1);
}

#[test]
fn what_k3s_refuses() {
    for (text, line) in [
        ("a: 1\n b: 2\n", 2),
        ("- a\n", 1),
        ("just text\n", 1),
        ("%YAML 1.2\n---\na: 1\n", 1),
        ("debug: maybe\n", 1),
        ("debug:\n", 1),
        ("a: 1\nhttps-listen-port: 1e6\n", 2),
        ("etcd-s3-timeout: 5\n", 1),
        ("token: x\nt: y\n", 2),
        ("--debug: true\n", 1),
        ("egress-selector-mode: off\n", 1),
        ("cluster-cidr: 10.42.0.0/16,10.0.0.0/40\n", 1),
        ("service-cidr: [10.43.0.0]\n", 1),
        ("debug: true\nnode-ip: eth0\n", 2),
        ("service-node-port-range: 30000..32767\n", 1),
        ("kube-apiserver-arg:\n- tls-cipher-suites\n", 2),
        ("kubelet-arg:\n- config=/nowhere\n", 2),
        ("a:\n-\tb\n", 2),
        ("a: *nothing\n", 1),
        ("a: &a [*a]\n", 1),
        ("<<: text\n", 1),
    ] {
        let config = server(text);
        assert!(!config.problems.is_empty(), "{text:?}");
        assert_eq!(config.problems[0].line, Some(line), "{text:?}: {:?}", config.problems);
        assert_eq!(config.problems[0].path.as_deref(), Some(MAIN));
    }
    let bad = effective(&MemoryFiles::new().file(MAIN, b"a: 1\n# \xff\n".to_vec()), &Ask::default());
    assert_eq!(problems(&bad)[0].0, Some(2));
    assert!(bad.options.is_empty() && bad.components.is_empty());
    let large = effective(&MemoryFiles::new().file(MAIN, vec![b'#'; 2 << 20]), &Ask::default());
    assert_eq!(large.problems.len(), 1);
}

#[test]
fn alias_bombs_and_depth_are_bounded() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..40 {
        let before = i - 1;
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{before}"); 10].join(", "));
    }
    assert!(problems(&server(&bomb))[0].1.contains("aliasing"));
    let text = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(400_000), vec!["*a"; 100_000].join(","));
    assert!(problems(&server(&text))[0].1.contains("aliasing"), "text counts too");
    let many: String = (0..60_000).map(|i| format!("k{i}: \"x\"\n")).collect();
    let config = server(&many);
    assert!(config.files_understood() && config.options.len() == 60_000);
    assert_eq!(config.warnings.len(), 501, "the last one says how many more");
    assert_eq!(config.warnings[500].trap, Trap::More);
}

/// What is beyond our limits is not known; K3s may well take it.
#[test]
fn limits_of_ours_are_no_refusals_of_k3s() {
    let deep = format!("a: {}", "[".repeat(100_000));
    let nested = format!("a:\n{}x\n", "- ".repeat(150));
    let maps: String = (0..150).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    let many = format!("node-label:\n{}", "- a\n".repeat(260_000));
    for text in [deep, nested, maps, many] {
        let config = server(&text);
        assert_eq!(config.problems.len(), 1);
        assert!(config.problems[0].is_blindness() && !config.files_understood(), "{:?}", config.problems);
    }
    let files = (0..9).fold(MemoryFiles::new().file(MAIN, "debug: true\n"), |files, i| {
        files.file(&format!("/etc/rancher/k3s/config.yaml.d/{i}.yaml"), format!("#{}\n", "x".repeat(500_000)))
    });
    let config = effective(&files, &Ask { role: Some(Role::Server), ..Ask::default() });
    assert_eq!(config.problems.len(), 1);
    assert!(config.problems[0].is_blindness() && config.options.is_empty());
}

#[test]
fn the_value_of_an_unknown_key_is_no_trap_of_its_own() {
    let config = server("x: &x {debug: true}\ny: [[a, b]]\ny: 1\ntls-san: [[a, b]]\n");
    let unknown = [1, 2].map(|line| (Trap::UnknownKey, Some(line)));
    let seen = traps(&config);
    assert_eq!(
        seen.iter().filter(|(trap, _)| *trap != Trap::UnknownKey).collect::<Vec<_>>(),
        [&(Trap::NestedList, Some(4))]
    );
    assert!(seen.contains(&unknown[0]), "{seen:?}");
}

#[test]
fn links_among_drop_ins() {
    let base = MemoryFiles::new().file(MAIN, "secrets-encryption: true\n").dir("/somewhere");
    let ask = Ask { role: Some(Role::Server), ..Ask::default() };
    let dangling = effective(&base.clone().link("/etc/rancher/k3s/config.yaml.d/x.yaml", "/gone"), &ask);
    assert!(dangling.options.is_empty() && dangling.problems.len() == 1);
    assert_eq!(traps(&dangling), [(Trap::DanglingDropIn, None)]);
    let folder = effective(&base.clone().link("/etc/rancher/k3s/config.yaml.d/x.yml", "/somewhere"), &ask);
    assert_eq!(folder.problems.len(), 1);
    let good = effective(
        &base.link("/etc/rancher/k3s/config.yaml.d/x.yaml", "/opt/real").file("/opt/real", "debug: true"),
        &ask,
    );
    assert!(good.problems.is_empty() && good.bool_option("debug"));
    assert_eq!(good.option("debug").unwrap().path.as_deref(), Some("/etc/rancher/k3s/config.yaml.d/x.yaml"));
}

#[test]
fn traps_of_the_files() {
    for (text, trap, line) in [
        ("<<: {debug: true}\ntoken: x\n", Trap::MergeKeyLost, 1),
        ("tls-san:\n- - a\n  - b\n", Trap::NestedList, 2),
        ("kubelet-arg:\n- event-qps: 0\n", Trap::MapValue, 2),
        ("token: 12345678901234567890123\n", Trap::NumericToken, 1),
        ("write-kubeconfig-mode: 0644\n", Trap::OctalMode, 1),
        ("node-name: n\n", Trap::ScalarReread, 1),
        ("kube-controller-arg: [a=1]\nkube-controller-manager-arg: [a=2]\n", Trap::OldAndNewName, 1),
        ("kubelet-arg: [protect-kernel-defaults, read-only-port=10255]\n", Trap::KubeletArgSwallowed, 1),
        ("kube-apiserver-arg:\n- enable-admission-plugins=EventRateLimit\n", Trap::DefaultDropped, 2),
        ("kube-apiserver-arg:\n- tls-cipher-suites+=X\n", Trap::TlsArgForm, 2),
        ("kube-apiserver-arg:\n- authentication-config=/a.yaml\n", Trap::AnonymousDefault, 2),
        ("token: abc\n", Trap::PlaintextSecret, 1),
        ("debug: true\n---\ndebug: false\n", Trap::SecondDocument, 2),
        ("debug: true\ndebug: false\n", Trap::DuplicateKey, 2),
    ] {
        let config = server(text);
        assert_eq!(config.problems, [], "{text:?}");
        assert!(traps(&config).contains(&(trap, Some(line))), "{text:?}: {:?}", config.warnings);
    }
    let quiet = server(
        "kube-apiserver-arg:\n- enable-admission-plugins=NodeRestriction,EventRateLimit\n- profiling=false\nwrite-kubeconfig-mode: \"0600\"\n",
    );
    assert_eq!(traps(&quiet), []);
}

#[test]
fn a_drop_in_without_plus() {
    let files = MemoryFiles::new()
        .file(MAIN, "kube-apiserver-arg:\n- audit-log-path=/a\n- audit-policy-file=/p\n")
        .file("/etc/rancher/k3s/config.yaml.d/50.yaml", "# later\nkube-apiserver-arg:\n- oidc-issuer-url=https://i\n");
    let config = effective(&files, &Ask { role: Some(Role::Server), ..Ask::default() });
    let warning = &config.warnings[0];
    assert_eq!((warning.trap, warning.line), (Trap::ListReplaced, Some(2)));
    assert_eq!(warning.path.as_deref(), Some("/etc/rancher/k3s/config.yaml.d/50.yaml"));
    assert!(config.flag("kube-apiserver", "audit-log-path").is_empty());
}

#[test]
fn traps_of_the_command_line() {
    let config = with_unit("server --debug false --token x", "");
    assert!(config.bool_option("debug") && config.option("token").is_none());
    assert_eq!(traps(&config), [(Trap::OptionsIgnored, Some(3))]);

    let config = with_unit("server -config /other.yaml", "debug: true\n");
    assert!(config.bool_option("debug"));
    assert_eq!(traps(&config)[0].0, Trap::ConfigNotRead);

    let config = with_unit("server -t x", "token: y\n");
    assert_eq!(config.problems.len(), 1);
    let config = with_unit("server --no-such-thing", "");
    assert_eq!(config.problems.len(), 1);
}

#[test]
fn another_configuration_file() {
    let files = MemoryFiles::new()
        .file(MAIN, "debug: true\n")
        .file("/x.yaml", "node-name: named\n")
        .file("/x.yaml.d/a.yaml", "cluster-domain: d\n")
        .file("/env.yaml", "node-name: from-env\n")
        .file("/etc/systemd/system/k3s.service", unit("server --config=/x.yaml"));
    let config = effective(&files, &Ask::default());
    assert!(!config.bool_option("debug"));
    assert_eq!(config.option("node-name").unwrap().value, "named");
    assert_eq!(config.option("cluster-domain").unwrap().value, "d");
    let files = files.file("/etc/systemd/system/k3s.service.env", "K3S_CONFIG_FILE=/env.yaml\n");
    assert_eq!(effective(&files, &Ask::default()).option("node-name").unwrap().value, "from-env");
}

#[test]
fn the_role_without_a_unit() {
    let role = |files: MemoryFiles| effective(&files, &Ask::default()).role;
    assert_eq!(role(MemoryFiles::new()), None);
    assert_eq!(role(MemoryFiles::new().dir("/var/lib/rancher/k3s/agent")), Some(Role::Agent));
    assert_eq!(
        role(MemoryFiles::new().dir("/var/lib/rancher/k3s/agent").dir("/var/lib/rancher/k3s/server")),
        Some(Role::Server)
    );
    assert_eq!(role(MemoryFiles::new().file(MAIN, "data-dir: /d").dir("/d/agent")), Some(Role::Agent));
    assert_eq!(role(MemoryFiles::new().file(MAIN, "debug: true")), Some(Role::Server));
    assert_eq!(role(MemoryFiles::new().file(MAIN, "server: https://h:6443")), None);
}

#[test]
fn versions_that_differ_say_so() {
    let config = server("kube-apiserver-arg: [authentication-config=/a]\n");
    assert!(
        matches!(config.flag_across("kube-apiserver", "anonymous-auth"), AcrossVersions::Differs(runs) if runs.len() > 1)
    );
    assert!(config.flag("kube-apiserver", "anonymous-auth").is_empty());
    assert!(
        matches!(config.flag_across("kube-apiserver", "profiling"), AcrossVersions::Same(v) if v[0].value == "false")
    );
    let ask = Ask { role: Some(Role::Agent), version: Some(K3sVersion::new(1, 31, 4)), ..Ask::default() };
    let old = effective(&MemoryFiles::new().file(MAIN, "protect-kernel-defaults: true\n"), &ask);
    let flag = |n: &str| old.flag("kubelet", n).first().map(|f| f.value.clone());
    assert_eq!(flag("anonymous-auth").as_deref(), Some("false"));
    assert_eq!(flag("protect-kernel-defaults").as_deref(), Some("true"));
    assert_eq!(flag("config-dir"), None);
}

#[test]
fn the_kubelets_folder_is_merged_in_walk_order() {
    let folder = "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d";
    let files = MemoryFiles::new()
        .file(&format!("{folder}/00-k3s-defaults.conf"), "authentication:\n  anonymous:\n    enabled: false\n  webhook: {enabled: true}\nclusterDNS: [a, b]\nprotectKernelDefaults: true\n")
        .file(&format!("{folder}/50-weaken.conf"), "authentication: {anonymous: {enabled: true}}\nclusterDNS: [c]\nprotectKernelDefaults: null\n")
        .file(&format!("{folder}/60.conf.bak"), "readOnlyPort: 10255\n")
        .file(&format!("{folder}/20-cli-config-dir/x.conf"), "podPidsLimit: 100\n");
    let config = effective(&files, &Ask { role: Some(Role::Agent), ..Ask::default() });
    let kubelet = config.kubelet_config.clone().unwrap();
    assert_eq!(
        kubelet,
        serde_json::json!({"authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": true}}, "clusterDNS": ["c"], "podPidsLimit": 100})
    );
    assert_eq!(traps(&config), [(Trap::StaleKubeletCopy, None)]);
}

#[test]
fn k3s_writes_its_own_file_of_the_kubelet_anew_at_each_start() {
    let folder = "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d";
    let written =
        include_str!("data/nodes/agent/root/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf");
    let config = effective(
        &MemoryFiles::new()
            .file(MAIN, "protect-kernel-defaults: true\n")
            .file(&format!("{folder}/00-k3s-defaults.conf"), written),
        &Ask { role: Some(Role::Agent), ..Ask::default() },
    );
    let folder = config.kubelet_folder().unwrap();
    let own = config.kubelet_config.clone().unwrap();
    assert_eq!(folder.own_file_anew(&own), own, "K3s wrote this");
    assert!(!folder.own_file_is_changed(&own, true));
    let mut edited = own.clone();
    edited["authentication"]["anonymous"]["enabled"] = true.into();
    edited["podPidsLimit"] = 5.into();
    assert!(folder.own_file_is_changed(&edited, false));
    assert_eq!(folder.own_file_anew(&edited), own);
    // Written from other options than those of now.
    let mut before = own;
    before.as_object_mut().unwrap().remove("protectKernelDefaults");
    assert!(!folder.own_file_is_changed(&before, false));
    assert!(folder.own_file_is_changed(&before, true));
}

#[test]
fn the_json_contract() {
    let files = MemoryFiles::new()
        .file(MAIN, "debug: true\ntypo: 1\nkube-scheduler-arg: [v=3]\n")
        .dir("/var/lib/rancher/k3s/server");
    let json = serde_json::to_value(effective(&files, &Ask::default())).unwrap();
    assert_eq!(json["role"], "server");
    assert_eq!(json["version"], serde_json::Value::Null);
    assert_eq!(
        json["options"]["debug"],
        serde_json::json!([{"value": "true", "path": MAIN, "line": 1, "layer": "config-file", "known": true}])
    );
    assert_eq!(json["options"]["typo"][0]["known"], false);
    assert_eq!(
        json["components"]["kube-scheduler"]["v"],
        serde_json::json!([{"value": "3", "path": MAIN, "line": 3, "layer": "config-file"}])
    );
    assert_eq!(json["components"]["kube-scheduler"]["profiling"][0]["layer"], "k3s-default");
    assert_eq!(json["problems"], serde_json::json!([]));
}

#[test]
fn a_named_file_does_not_keep_the_wrapper_from_the_default_one() {
    let files = |main: &str| {
        MemoryFiles::new()
            .file(MAIN, main)
            .file("/x.yaml", "node-name: named\n")
            .file("/etc/systemd/system/k3s.service", unit("server --config=/x.yaml"))
    };
    let broken = effective(&files("debug: [\n"), &Ask::default());
    assert_eq!(broken.problems.len(), 1);
    assert_eq!(broken.problems[0].path.as_deref(), Some(MAIN));
    assert_eq!(broken.option("node-name").unwrap().value, "named", "its values are known all the same");
    let good = effective(&files("debug: true\n"), &Ask::default());
    assert_eq!(good.problems, []);
    assert!(good.option("debug").is_none());
    // A word of its own that asks for help or a version: the wrapper reads nothing.
    let past = files("debug: [\n").file("/etc/systemd/system/k3s.service", unit("server -v 4 --config=/x.yaml"));
    assert_eq!(effective(&past, &Ask::default()).problems, []);
}

#[test]
fn past_the_wrapper_a_dangling_drop_in_switches_all_files_off() {
    let node = |command: &str| {
        MemoryFiles::new()
            .file(MAIN, "secrets-encryption: true\n")
            .link("/etc/rancher/k3s/config.yaml.d/50-x.yaml", "/gone")
            .file("/etc/systemd/system/k3s.service", unit(command))
    };
    let config = effective(&node("server -v 4"), &Ask::default());
    assert_eq!(config.problems, []);
    assert_eq!(traps(&config), [(Trap::DanglingDropIn, None)]);
    assert_eq!(values(&config, "v"), ["4"]);
    assert!(config.option("secrets-encryption").is_none());
    assert!(config.runs("kube-apiserver") && config.flag("kube-apiserver", "encryption-provider-config").is_empty());
    assert_eq!(effective(&node("server -v=4"), &Ask::default()).problems.len(), 1);
    // What comes before the link is read, and may be refused.
    let broken = node("server -v 4").file("/etc/rancher/k3s/config.yaml.d/10-b.yaml", "a: [\n");
    assert_eq!(effective(&broken, &Ask::default()).problems.len(), 1);
    let after = node("server -v 4").file("/etc/rancher/k3s/config.yaml.d/90-b.yaml", "a: [\n");
    assert_eq!(effective(&after, &Ask::default()).problems, []);
}

#[test]
fn a_file_in_the_place_of_the_drop_ins() {
    let files = MemoryFiles::new().file(MAIN, "debug: true\n").file("/etc/rancher/k3s/config.yaml.d", "x");
    let config = effective(&files, &Ask { role: Some(Role::Server), ..Ask::default() });
    assert_eq!(config.problems.len(), 1);
    assert!(!config.problems[0].is_blindness());
}

#[test]
fn units_systemd_would_not_start() {
    let vendor = "/usr/lib/systemd/system/k3s.service";
    let etc = "/etc/systemd/system/k3s.service";
    let masked = [
        MemoryFiles::new().file(vendor, unit("server")).link(etc, "/dev/null"),
        MemoryFiles::new().file(vendor, unit("server")).file(etc, ""),
    ];
    for files in masked {
        let config = effective(&files, &Ask::default());
        assert_eq!((config.role, config.unit), (None, None));
    }
    // A link whose target cannot be looked at is no mask: the command line may stand there.
    let unreadable =
        MemoryFiles::new().file(vendor, unit("server")).link(etc, "/x").unreadable("/x", "permission denied");
    let config = effective(&unreadable, &Ask::default());
    assert_eq!((config.unit.clone(), traps(&config)), (None, vec![(Trap::UnitNotUnderstood, None)]));
    let drop_in = "/etc/systemd/system/k3s.service.d/10.conf";
    let second =
        MemoryFiles::new().file(etc, unit("server")).file(drop_in, "[Service]\nExecStart=/k3s server --debug\n");
    let config = effective(&second, &Ask::default());
    assert_eq!(config.problems.len(), 1);
    assert_eq!((config.problems[0].path.as_deref(), config.problems[0].line), (Some(drop_in), Some(2)));
    let reset = second.file(drop_in, "[Service]\nExecStart=\nExecStart=/k3s server --debug\n");
    let config = effective(&reset, &Ask::default());
    assert_eq!(config.problems, []);
    assert!(config.bool_option("debug"));
}

/// The command line may stand where nobody may look.
#[test]
fn a_script_of_openrc_that_cannot_be_read_leaves_the_command_line_open() {
    for path in ["/etc/init.d/k3s", "/etc/init.d"] {
        let files = MemoryFiles::new().file("/etc/init.d/k3s", "command_args=\"server\"\n");
        let config = effective(&files.unreadable(path, "permission denied"), &Ask::default());
        assert_eq!((config.unit.clone(), traps(&config)), (None, vec![(Trap::UnitNotUnderstood, None)]), "{path}");
    }
}

#[test]
fn values_k3s_looks_at_itself() {
    for (text, line) in [
        ("cluster-cidr: 10.42.0.0/16, fd00:42::/56\n", 1),
        ("cluster-cidr:\n", 1),
        ("service-cidr: \"10.43.0.0/16,\"\n", 1),
        ("cluster-dns: 10.43.0.10,x\n", 1),
        ("node-ip: \"10.0.0.1, 10.0.0.2\"\n", 1),
        ("service-node-port-range: 30000+40000\n", 1),
        ("kube-apiserver-arg:\n- v=1\n- tls-min-version=VersionTLS99\n", 3),
        ("kube-apiserver-arg: [tls-cipher-suites=TLS_RSA_WITH_NOTHING]\n", 1),
        ("kube-apiserver-arg: [authentication-config]\n", 1),
        ("kube-apiserver-arg: [--authorization-config]\n", 1),
        ("kube-apiserver-arg:\n- v=1\n- authorization-mode=Node, RBAC\n", 3),
        ("kube-apiserver-arg:\n- enable-admission-plugins=NodeRestriction,\n", 2),
        ("kube-apiserver-arg: [\"tls-cipher-suites=TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384\"]\n", 1),
        ("kube-apiserver-arg:\n- v=1\n- disable-admission-plugins=Priority,NodeRestriction\n", 3),
        ("kube-apiserver-arg:\n- enable-admission-plugins+=A,B\n- --disable-admission-plugins=B\n", 3),
        ("kubelet-arg:\n- config=\n", 2),
        ("kubelet-arg:\n- config-dir=/nowhere\n", 2),
        ("kubelet-arg:\n- config\n- /nowhere\n", 2),
        ("debug: true\ncluster-reset-restore-path: /x\n", 2),
        ("disable-etcd: true\n", 1),
        ("datastore-endpoint: postgres://h/d\ndisable-apiserver: true\n", 2),
        ("secrets-encryption: true\nsecrets-encryption-provider: aesgcm\n", 2),
    ] {
        let config = server(text);
        assert_eq!(
            problems(&config).iter().map(|p| p.0).collect::<Vec<_>>(),
            [Some(line)],
            "{text:?}: {:?}",
            config.problems
        );
    }
    for text in [
        "cluster-cidr: 10.42.0.0/16,fd00:42::/56\nservice-cidr: [10.43.0.0/16, \"fd00:43::/112\"]\n",
        "service-node-port-range: \"\"\n",
        "kube-apiserver-arg: [tls-min-version=VersionTLS13, tls-min-version=x, tls-cipher-suites=TLS_AES_128_GCM_SHA256]\n",
        // K3s looks at the first of a name only.
        "kube-apiserver-arg: [authentication-config=/a, authentication-config]\n",
        "kube-apiserver-arg: [\"tls-cipher-suites=\"]\n",
        "secrets-encryption-provider: aesgcm\n",
        "kube-apiserver-arg: [enable-admission-plugins=A, disable-admission-plugins=NodeRestriction]\n",
        "kube-apiserver-arg: [disable-admission-plugins=Priority]\n",
        "kube-apiserver-arg: [\"feature-gates=A=true, B=true\", disable-admission-plugins=]\n",
        "disable-agent: true\nkubelet-arg: [config=/nowhere]\n",
    ] {
        assert_eq!(problems(&server(text)), [], "{text:?}");
    }
    let old = Ask { role: Some(Role::Server), version: Some(K3sVersion::new(1, 31, 4)), ..Ask::default() };
    for text in ["kube-apiserver-arg: [authentication-config]\n", "kubelet-arg: [config=/nowhere]\n"] {
        let config = effective(&MemoryFiles::new().file(MAIN, text), &old);
        assert_eq!(problems(&config), [], "not looked at in 1.31.4: {text:?}");
    }
}

#[test]
fn copies_the_kubelets_folder_will_hold() {
    let folder = "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d";
    let kind = "kind: KubeletConfiguration\n";
    let base = MemoryFiles::new().file("/k.yaml", kind).file("/k.d/a.conf", kind).dir(folder);
    let next = |files: &MemoryFiles, args: &str| {
        let files = files.clone().file(MAIN, format!("kubelet-arg: {args}\n"));
        let config = effective(&files, &Ask { role: Some(Role::Agent), ..Ask::default() });
        let next = config.kubelet_folder().unwrap();
        ([next.copied_file.clone(), next.copied_folder.clone()], traps(&config))
    };
    let names = |names: [&str; 2]| names.map(|name| Some(name.to_owned()).filter(|name| !name.is_empty()));
    assert_eq!(next(&base, "[config, /k.yaml]").0, names(["/k.yaml", ""]));
    assert_eq!(next(&base, "[config=/k.yaml, config-dir=/k.d/]").0, names(["/k.yaml", "/k.d"]));
    // Copies outlive their argument; what lies in the folder already is not copied.
    let copied = base.file(&format!("{folder}/10-cli-config.conf"), "podPidsLimit: 9\n");
    assert_eq!(next(&copied, "[]"), (names(["", ""]), vec![(Trap::StaleKubeletCopy, None)]));
    assert_eq!(next(&copied, "[config=/k.yaml]"), (names(["/k.yaml", ""]), vec![]));
    let own = format!("[config={folder}/00-k3s-defaults.conf]");
    assert_eq!(next(&copied, &own), (names(["", ""]), vec![(Trap::StaleKubeletCopy, None)]));
    let old = Ask { role: Some(Role::Agent), version: Some(K3sVersion::new(1, 31, 9)), ..Ask::default() };
    assert_eq!(effective(&copied, &old).kubelet_folder(), None, "1.31 has no such folder");
}

#[test]
fn which_datastore_is_not_known_where_its_folder_cannot_be_listed() {
    let etcd = "/var/lib/rancher/k3s/server/db/etcd";
    let unread = |text: &str, blind: bool| {
        let files = MemoryFiles::new().file(MAIN, text);
        let member = format!("{etcd}/member");
        let files = if blind { files.unreadable(&member, "permission denied") } else { files.dir(&member) };
        let ask = Ask { role: Some(Role::Server), ..Ask::default() };
        effective(&files, &ask).unread.into_iter().filter_map(|p| p.path).collect::<Vec<_>>()
    };
    assert_eq!(unread("debug: true\n", true), [format!("{etcd}/member")]);
    assert_eq!(unread("debug: true\n", false), [""; 0]);
    assert_eq!(unread("cluster-init: true\n", true), [""; 0], "the option decides");
}

#[test]
fn a_default_is_dropped_only_where_its_value_is_lost() {
    let dropped = |option: &str, items: &str| {
        let config = server(&format!("{option}: [{items}]\n"));
        traps(&config).iter().any(|(trap, _)| *trap == Trap::DefaultDropped)
    };
    let (api, kcm) = ("kube-apiserver-arg", "kube-controller-manager-arg");
    for value in ["f", "F", "0", "false", "False"] {
        assert!(!dropped(api, &format!("anonymous-auth={value}")), "{value}");
        assert!(dropped(kcm, &format!("use-service-account-credentials={value}")), "{value}");
    }
    assert!(dropped(api, "anonymous-auth") && dropped(api, "anonymous-auth=t"));
    assert!(!dropped(kcm, "use-service-account-credentials") && !dropped(kcm, "use-service-account-credentials=1"));
    assert!(dropped(kcm, "controllers=*") && dropped("kube-controller-arg", "controllers=*"));
    assert!(!dropped(kcm, "\"controllers=*,tokencleaner,-x\"") && !dropped(kcm, "controllers+=-x"));
    assert!(dropped(api, "requestheader-allowed-names="));
    assert!(!dropped(api, "requestheader-allowed-names=system:auth-proxy"));
    assert!(
        dropped(api, "authorization-mode=RBAC") && !dropped(api, "authorization-mode=Node, authorization-mode=RBAC")
    );
}

#[test]
fn a_kubelet_drop_in_that_is_no_map_leaves_the_rest_an_object_and_says_so() {
    let folder = "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d";
    for text in ["hello\n", "- a\n", "5\n", "x: &x {a: b}\n<<: *x\n"] {
        let files = MemoryFiles::new()
            .file("/etc/rancher/k3s/config.yaml", "debug: true\n")
            .file(&format!("{folder}/00-k3s-defaults.conf"), "podPidsLimit: 5\n")
            .file(&format!("{folder}/50.conf"), text);
        let config = effective(&files, &Ask { role: Some(Role::Server), ..Ask::default() });
        assert_eq!(config.kubelet_config, Some(serde_json::json!({ "podPidsLimit": 5 })), "{text:?}");
        let problem = config.problems.first().unwrap();
        assert_eq!(problem.path.as_deref(), Some("/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/50.conf"));
        assert!(problem.is_blindness(), "{}", problem.detail);
    }
}

#[test]
fn anonymous_requests_are_a_trap_only_where_k3s_drops_its_own_flag() {
    let text = "kube-apiserver-arg: [authentication-config=/a.yaml]\n";
    for (version, trapped) in [((31, 4), false), ((31, 9), true), ((32, 4), false), ((33, 1), true), ((36, 2), true)] {
        let version = Some(K3sVersion::new(1, version.0, version.1));
        let ask = Ask { role: Some(Role::Server), version, ..Ask::default() };
        let config = effective(&MemoryFiles::new().file(MAIN, text), &ask);
        let found = config.warnings.iter().any(|w| w.trap == Trap::AnonymousDefault);
        assert_eq!(found, trapped, "{version:?}");
    }
}

#[test]
fn more_values_than_are_kept_are_named_and_leave_the_settings_unknown() {
    let list = |count: usize| format!("debug: true\nkube-apiserver-arg:\n{}", " - a=b\n".repeat(count));
    assert_eq!(server(&list(9_000)).problems, []);
    let config = server(&list(110_000));
    let problem = config.problems.first().unwrap();
    assert!(problem.is_blindness() && problem.detail.contains("`kube-apiserver-arg`"), "{}", problem.detail);
    assert_eq!((problem.path.as_deref(), problem.line), (Some(MAIN), Some(2)));
    assert!(!config.files_understood() && config.options.is_empty());
}
