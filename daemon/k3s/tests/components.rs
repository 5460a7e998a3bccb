//! What K3s passes to its components for one setting after another, in the versions that differ.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use picket_k3s::{AcrossVersions, Ask, EffectiveConfig, K3sVersion, MemoryFiles, effective};
use picket_model::Role;

const MAIN: &str = "/etc/rancher/k3s/config.yaml";
const OLD: K3sVersion = K3sVersion::new(1, 31, 4);
const NEW: K3sVersion = K3sVersion::new(1, 36, 2);

fn node(role: Role, version: K3sVersion, text: &str) -> EffectiveConfig {
    let ask = Ask { role: Some(role), version: Some(version), ..Ask::default() };
    effective(&MemoryFiles::new().file(MAIN, text), &ask)
}

fn values(config: &EffectiveConfig, component: &str, flag: &str) -> Vec<String> {
    config.flag(component, flag).into_iter().map(|v| v.value).collect()
}

/// Component, flag, and the values it is passed with; none if it is not passed.
type Expected<'a> = (&'a str, &'a str, &'a [&'a str]);

fn check(role: Role, version: K3sVersion, text: &str, expected: &[Expected<'_>]) {
    let config = node(role, version, text);
    assert_eq!(config.problems, [], "{text:?}");
    for (component, flag, wanted) in expected {
        assert_eq!(values(&config, component, flag), *wanted, "{version} {text:?}: {component} --{flag}");
    }
}

#[test]
fn networks_decide_addresses() {
    let table: [(&str, &[Expected<'_>]); 6] = [
        (
            "service-cidr: fd00:43::/112,10.43.0.0/16\ncluster-cidr: fd00:42::/56,10.42.0.0/16\n",
            &[
                ("kube-apiserver", "bind-address", &["::1"]),
                ("kube-scheduler", "bind-address", &["::1"]),
                ("kube-apiserver", "service-cluster-ip-range", &["fd00:43::/112,10.43.0.0/16"]),
                ("kube-proxy", "healthz-bind-address", &["::1"]),
            ],
        ),
        (
            "service-cidr: 10.43.0.0/16,fd00:43::/112\ncluster-cidr: [10.42.0.0/16, \"fd00:42::/56\"]\n",
            &[
                ("kube-apiserver", "bind-address", &["127.0.0.1"]),
                ("kube-controller-manager", "cluster-cidr", &["10.42.0.0/16,fd00:42::/56"]),
                ("kube-proxy", "cluster-cidr", &["10.42.0.0/16,fd00:42::/56"]),
                ("kube-proxy", "healthz-bind-address", &["127.0.0.1"]),
            ],
        ),
        (
            "node-ip: fd00::5,10.0.0.5\n",
            &[
                ("kube-apiserver", "service-cluster-ip-range", &["fd00:43::/112"]),
                ("kube-controller-manager", "cluster-cidr", &["fd00:42::/56"]),
                ("kube-apiserver", "bind-address", &["::1"]),
                ("kube-proxy", "healthz-bind-address", &["::1"]),
            ],
        ),
        (
            "node-ip: 10.0.0.5,fd00::5\n",
            &[
                ("kube-apiserver", "service-cluster-ip-range", &["10.43.0.0/16"]),
                ("kube-proxy", "healthz-bind-address", &["127.0.0.1"]),
            ],
        ),
        (
            "node-ip: fd00::5\nservice-cidr: 10.43.7.9/16\n",
            &[
                ("kube-apiserver", "service-cluster-ip-range", &["10.43.0.0/16"]),
                ("kube-apiserver", "bind-address", &["127.0.0.1"]),
                ("kube-proxy", "healthz-bind-address", &["::1"]),
            ],
        ),
        ("apiserver-bind-address: 10.0.0.9\n", &[("kube-apiserver", "bind-address", &["10.0.0.9"])]),
    ];
    for (text, expected) in table {
        for version in [OLD, NEW] {
            check(Role::Server, version, text, expected);
        }
    }
    check(Role::Agent, NEW, "node-ip: fd00::5\n", &[("kube-proxy", "healthz-bind-address", &["::1"])]);
}

#[test]
fn ports() {
    for (text, range) in [
        ("", "30000-32767"),
        ("service-node-port-range: 30000+100\n", "30000-30100"),
        ("service-node-port-range: \" 30000 \"\n", "30000-30000"),
        ("service-node-port-range: \"\"\n", ""),
    ] {
        check(Role::Server, NEW, text, &[("kube-apiserver", "service-node-port-range", &[range])]);
    }
    check(
        Role::Server,
        NEW,
        "https-listen-port: 8443\n",
        &[("kube-apiserver", "secure-port", &["8444"]), ("kube-apiserver", "advertise-port", &["8443"])],
    );
}

/// CVE-2025-46599: those versions leave the kubelet's port without authentication open.
#[test]
fn the_read_only_port_is_closed_except_by_1_32_0_to_1_32_3() {
    for role in [Role::Server, Role::Agent] {
        for (version, wanted) in
            [((31, 14), &["0"][..]), ((32, 0), &[]), ((32, 3), &[]), ((32, 4), &["0"]), ((33, 0), &["0"])]
        {
            let version = K3sVersion::new(1, version.0, version.1);
            check(role, version, "{}\n", &[("kubelet", "read-only-port", wanted)]);
            let argument = "kubelet-arg: [read-only-port=0]\n";
            check(role, version, argument, &[("kubelet", "read-only-port", &["0"])]);
        }
    }
    // Nothing on an agent tells those versions from others.
    let files = MemoryFiles::new().file(MAIN, "{}\n").dir("/var/lib/rancher/k3s/agent/etc/kubelet.conf.d");
    let config = effective(&files, &Ask { role: Some(Role::Agent), ..Ask::default() });
    let across = config.flag_across("kubelet", "read-only-port");
    let AcrossVersions::Differs(runs) = across else { panic!("{across:?}") };
    let firsts: Vec<String> = runs.iter().map(|(version, values)| format!("{version}: {}", values.len())).collect();
    assert_eq!(firsts, ["v1.32.0: 0", "v1.32.4: 1"]);
}

#[test]
fn the_container_runtime() {
    const DOCKER: &str = "unix:///run/k3s/cri-dockerd/cri-dockerd.sock";
    for (text, containerd, endpoint) in [
        ("", Some("/run/k3s/containerd/containerd.sock"), "unix:///run/k3s/containerd/containerd.sock"),
        (
            "container-runtime-endpoint: unix:///run/x/containerd.sock\n",
            Some("unix:///run/x/containerd.sock"),
            "unix:///run/x/containerd.sock",
        ),
        ("container-runtime-endpoint: /run/crio.sock\n", None, "unix:///run/crio.sock"),
        ("docker: true\n", None, DOCKER),
        ("docker: true\ncontainer-runtime-endpoint: /run/x/containerd.sock\n", None, DOCKER),
    ] {
        let containerd: Vec<&str> = containerd.into_iter().collect();
        let both: Expected<'_> = ("kubelet", "containerd", &containerd);
        check(Role::Agent, NEW, text, &[both, ("kubelet", "container-runtime-endpoint", &[])]);
        check(Role::Agent, OLD, text, &[both, ("kubelet", "container-runtime-endpoint", &[endpoint])]);
    }
}

#[test]
fn what_the_kubelet_of_1_31_takes_as_flags() {
    check(
        Role::Server,
        OLD,
        "v: 4\nvmodule: a=1\nimage-service-endpoint: /run/i.sock\nbind-address: 10.0.0.7\nnode-taint: [a=b:NoSchedule, c]\n",
        &[
            ("kubelet", "v", &["4"]),
            ("kubelet", "vmodule", &["a=1"]),
            ("kubelet", "image-service-endpoint", &["unix:///run/i.sock"]),
            ("kubelet", "address", &["10.0.0.7"]),
            ("kubelet", "register-with-taints", &["a=b:NoSchedule,c"]),
            ("kubelet", "feature-gates", &["CloudDualStackNodeIPs=true"]),
            ("kubelet", "cloud-provider", &["external"]),
            ("kubelet", "config-dir", &[]),
            ("cloud-controller-manager", "feature-gates", &["CloudDualStackNodeIPs=true"]),
        ],
    );
    check(
        Role::Server,
        OLD,
        "disable-cloud-controller: true\ndisable: servicelb\n",
        &[
            ("kubelet", "feature-gates", &[]),
            ("kubelet", "cloud-provider", &[]),
            ("kubelet", "allowed-unsafe-sysctls", &[]),
        ],
    );
    check(
        Role::Server,
        NEW,
        "v: 4\nvmodule: a=1\nimage-service-endpoint: /run/i.sock\nbind-address: 10.0.0.7\n",
        &[
            ("kubelet", "v", &[]),
            ("kubelet", "vmodule", &[]),
            ("kubelet", "image-service-endpoint", &[]),
            ("kubelet", "address", &[]),
            ("kubelet", "feature-gates", &[]),
            ("kube-proxy", "v", &["4"]),
            ("kube-apiserver", "v", &["4"]),
        ],
    );
}

#[test]
fn rootless() {
    for version in [OLD, NEW] {
        check(
            Role::Agent,
            version,
            "rootless: true\ndata-dir: /home/u/.rancher/k3s\nkubelet-arg: [feature-gates=A=true]\n",
            &[
                ("kubelet", "root-dir", &["/home/u/.rancher/k3s/agent/kubelet"]),
                ("kubelet", "cert-dir", &["/home/u/.rancher/k3s/agent/kubelet/pki"]),
                ("kubelet", "feature-gates=KubeletInUserNamespace", &["true"]),
                ("kubelet", "feature-gates", &["A=true"]),
            ],
        );
    }
}

#[test]
fn datastores() {
    let tls = "/var/lib/rancher/k3s/server/tls/etcd";
    let ca = format!("{tls}/server-ca.crt");
    let client = format!("{tls}/client.crt");
    for (text, servers, cafile, certfile, elects) in [
        ("", "unix://kine.sock", None, None, false),
        ("kine-tls: true\n", "unixs://kine.sock", Some(ca.as_str()), None, false),
        ("cluster-init: true\n", "https://127.0.0.1:2379", Some(ca.as_str()), Some(client.as_str()), true),
        (
            "server: https://h:6443\ntoken: x\n",
            "https://127.0.0.1:2379",
            Some(ca.as_str()),
            Some(client.as_str()),
            true,
        ),
        ("datastore-endpoint: postgres://h/db\ndatastore-cafile: /x.crt\n", "unix://kine.sock", None, None, true),
        (
            "datastore-endpoint: https://a:2379,https://b:2379\ndatastore-cafile: /ca\ndatastore-certfile: /c\n",
            "https://a:2379,https://b:2379",
            Some("/ca"),
            Some("/c"),
            true,
        ),
        ("cluster-init: true\ndatastore-endpoint: sqlite:///db\n", "unix://kine.sock", None, None, false),
    ] {
        let cafile: Vec<&str> = cafile.into_iter().collect();
        let certfile: Vec<&str> = certfile.into_iter().collect();
        let elects: &[&str] = if elects { &[] } else { &["false"] };
        check(
            Role::Server,
            NEW,
            text,
            &[
                ("kube-apiserver", "etcd-servers", &[servers]),
                ("kube-apiserver", "etcd-cafile", &cafile),
                ("kube-apiserver", "etcd-certfile", &certfile),
                ("kube-scheduler", "leader-elect", elects),
                ("kube-controller-manager", "leader-elect", elects),
                ("cloud-controller-manager", "leader-elect", elects),
            ],
        );
    }
}

#[test]
fn components_that_do_not_run() {
    let running = |text: &str| -> Vec<String> { node(Role::Server, NEW, text).components.into_keys().collect() };
    let all = [
        "cloud-controller-manager",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kube-scheduler",
        "kubelet",
    ];
    let without = |gone: &[&str]| all.into_iter().filter(|c| !gone.contains(c)).collect::<Vec<_>>();
    for (text, gone) in [
        ("", &[][..]),
        ("disable-agent: true\n", &["kubelet", "kube-proxy"]),
        ("disable-kube-proxy: true\n", &["kube-proxy"]),
        ("disable-apiserver: true\n", &["kube-apiserver"]),
        ("disable-scheduler: true\ndisable-controller-manager: true\n", &["kube-scheduler", "kube-controller-manager"]),
        ("disable-cloud-controller: true\n", &[]),
        ("disable: [servicelb]\n", &[]),
        ("disable-cloud-controller: true\ndisable: [\"traefik, servicelb\"]\n", &["cloud-controller-manager"]),
        ("cluster-reset: true\n", &all),
    ] {
        assert_eq!(running(text), without(gone), "{text:?}");
    }
    check(
        Role::Server,
        NEW,
        "disable-cloud-controller: true\n",
        &[
            ("cloud-controller-manager", "secure-port", &["0"]),
            ("cloud-controller-manager", "controllers", &["*,-route,-cloud-node,-cloud-node-lifecycle"]),
            ("kube-controller-manager", "controllers", &["*,tokencleaner"]),
            ("kube-controller-manager", "configure-cloud-routes", &[]),
        ],
    );
    check(
        Role::Server,
        NEW,
        "disable: servicelb\negress-selector-mode: disabled\nflannel-external-ip: true\ncluster-domain: d.local\n",
        &[
            ("cloud-controller-manager", "controllers", &["*,-route,-service"]),
            ("kube-apiserver", "enable-aggregator-routing", &[]),
            ("kube-apiserver", "egress-selector-config-file", &[]),
            ("kube-apiserver", "kubelet-preferred-address-types", &["ExternalIP,InternalIP,Hostname"]),
            ("kube-apiserver", "api-audiences", &["https://kubernetes.default.svc.d.local,k3s"]),
        ],
    );
}

/// Defaults that came with a patch of each minor release.
#[test]
fn patches_that_changed_defaults() {
    let text = "kube-apiserver-arg: [authentication-config=/a, authorization-config=/b]\n";
    for (version, authorization, anonymous, pair) in [
        ((31, 7), true, true, false),
        ((31, 8), false, true, false),
        ((31, 9), false, false, true),
        ((32, 3), true, true, false),
        ((32, 4), false, true, false),
        ((32, 5), false, false, true),
        ((33, 0), false, true, false),
        ((33, 1), false, false, true),
        ((34, 0), false, false, true),
        ((36, 2), false, false, true),
    ] {
        let config = node(Role::Server, K3sVersion::new(1, version.0, version.1), text);
        let passed = |component: &str, flag: &str| !config.flag(component, flag).is_empty();
        assert_eq!(passed("kube-apiserver", "authorization-mode"), authorization, "{version:?}");
        assert_eq!(passed("kube-apiserver", "anonymous-auth"), anonymous, "{version:?}");
        assert_eq!(passed("kube-scheduler", "tls-cert-file"), pair, "{version:?}");
        assert_eq!(passed("kube-controller-manager", "tls-private-key-file"), pair, "{version:?}");
    }
}
