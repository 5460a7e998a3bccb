//! Nodes without a fault, from which tests take one thing away.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use picket_checks::*;
use picket_model::{DetectionNeed, Evidence, Observation, Role, Status, Verdict};

pub(crate) const DATA: &str = DEFAULT_DATA_DIR;

pub(crate) fn now() -> Timestamp {
    "2026-11-22T01:30:00Z".parse().unwrap()
}

pub(crate) fn ago(days: i64) -> Timestamp {
    now() - SignedDuration::from_hours(24 * days)
}

pub(crate) fn policy() -> Policy {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
    let exec = DetectionNeed {
        rule: "exec".to_owned(),
        stages: list(&["ResponseStarted", "ResponseComplete"]),
        resources: list(&["pods"]),
        subresources: list(&["exec"]),
        verbs: list(&["get", "create"]),
        ..DetectionNeed::default()
    };
    let login =
        DetectionNeed { rule: "login".to_owned(), stages: list(&["ResponseStarted"]), ..DetectionNeed::default() };
    let binding = DetectionNeed {
        rule: "binding".to_owned(),
        bodies: true,
        stages: list(&["ResponseComplete"]),
        groups: list(&["rbac.authorization.k8s.io"]),
        resources: list(&["clusterrolebindings"]),
        verbs: list(&["create", "update", "patch"]),
        ..DetectionNeed::default()
    };
    let privileged =
        DetectionNeed { rule: "privileged".to_owned(), bodies: true, pods: true, ..DetectionNeed::default() };
    let token = DetectionNeed {
        rule: "token".to_owned(),
        bodies: true,
        resources: list(&["serviceaccounts"]),
        subresources: list(&["token"]),
        verbs: list(&["create"]),
        ..DetectionNeed::default()
    };
    Policy { detections: [exec, login, binding, privileged, token].into(), ..Policy::built_in().unwrap() }
}

pub(crate) fn setting(value: &str) -> Setting {
    Setting::new(value, Evidence::at("/etc/rancher/k3s/config.yaml", "").line(1).layer("config-file"))
}

pub(crate) fn flag(values: &[&str]) -> Flag {
    Flag { possible: vec![values.iter().map(|v| setting(v)).collect()] }
}

pub(crate) fn meta(kind: FileKind, mode: u32) -> FileMeta {
    FileMeta { kind, mode, uid: 0, gid: 0, size: 1, mtime: ago(10), link: None }
}

pub(crate) fn certificate(path: &str, index: u32) -> CertFacts {
    CertFacts {
        index,
        source: CertSource::File,
        subject: format!("CN={path}"),
        issuer: "CN=k3s-ca".to_owned(),
        serial: "00".to_owned(),
        not_before: ago(10),
        not_after: now() + SignedDuration::from_hours(24 * 355),
        is_ca: false,
        key: PublicKeyKind::Ec { bits: 256 },
        signature: "ecdsa-with-SHA256".to_owned(),
        key_sha256: format!("{path}#{index}"),
        sha256: format!("{path}#{index}"),
        sans: Vec::new(),
        signers: Vec::new(),
    }
}

/// Says of each certificate that the CA of its issuer's name signed it.
pub(crate) fn sign(snap: &mut Snapshot) {
    let lists = || snap.certificates.values().filter_map(Observation::value).flatten();
    let cas: Vec<CertFacts> = lists().filter(|c| c.is_ca).cloned().collect();
    for list in snap.certificates.values_mut() {
        let Observation::Value { value } = list else { continue };
        for certificate in value {
            let named = cas.iter().filter(|ca| ca.subject == certificate.issuer);
            let signer = |ca: &CertFacts| Signer { key_sha256: ca.key_sha256.clone(), made_it: Some(true) };
            certificate.signers = named.map(signer).collect();
        }
    }
}

/// Bundles with their CA, keys that fit, ports that serve what is on disk, and nothing left behind by a rotation.
fn seen_certificates(snap: &mut Snapshot, role: Role) {
    snap.files.retain(|path, _| !path.contains("/tls-x/"));
    for (path, entry) in &mut snap.files {
        if ["/root-ca.key", "/intermediate-ca.key"].iter().any(|name| path.ends_with(name)) {
            *entry = Observation::Absent;
        }
    }
    for name in ["client-ca.crt", "server-ca.crt"] {
        let path = format!("{DATA}/agent/{name}");
        snap.files.insert(path.clone(), Observation::from(meta(FileKind::File, 0o600)));
        snap.certificates.insert(path.clone(), Observation::from(vec![certificate(&path, 0)]));
    }
    for (path, list) in &mut snap.certificates {
        let Observation::Value { value } = list else { continue };
        if path.contains("-ca.") {
            value[0] = CertFacts { is_ca: true, subject: value[0].issuer.clone(), ..value[0].clone() };
        }
        let key = KeyFacts { key_sha256: value[0].key_sha256.clone() };
        let place = path.strip_suffix(".crt").map_or_else(|| path.clone(), |stem| format!("{stem}.key"));
        snap.keys.insert(place, Observation::from(key));
        if path.contains("/serving-") {
            value.push(CertFacts { is_ca: true, subject: value[0].issuer.clone(), ..certificate(path, 1) });
        }
    }
    sign(snap);
    for (port, path) in serving_ports(role, DATA, None) {
        let file = snap.certificates.get(&path).and_then(Observation::value).map(|list| &list[0]);
        let served = file.map_or(Observation::Absent, |file| {
            Observation::from(ServedFacts {
                sha256: file.sha256.clone(),
                subject: file.subject.clone(),
                not_before: file.not_before,
                not_after: file.not_after,
            })
        });
        snap.served.insert(port, served);
    }
}

/// Ten Secrets, all encrypted with the key of the encryption configuration.
pub(crate) fn stored() -> StoredSecrets {
    let encrypted = BTreeMap::from([(("aescbc".to_owned(), "aescbckey".to_owned()), 10)]);
    StoredSecrets { live: Tally { encrypted, ..Tally::default() }, complete: true, ..StoredSecrets::default() }
}

fn clean() -> Arc<Traps> {
    Arc::new(Traps { read: vec!["/etc/rancher/k3s/config.yaml".to_owned()], ..Traps::default() })
}

fn server_config() -> NodeConfig {
    let tls = format!("{DATA}/server/tls");
    let option = |values: &[&str]| values.iter().map(|v| setting(v)).collect::<Vec<_>>();
    let options = BTreeMap::from([
        ("secrets-encryption".to_owned(), option(&["true"])),
        ("protect-kernel-defaults".to_owned(), option(&["true"])),
        ("cluster-init".to_owned(), option(&["true"])),
        ("selinux".to_owned(), option(&["true"])),
        ("server".to_owned(), option(&["https://10.0.0.1:6443"])),
        ("disable".to_owned(), option(&["traefik", "servicelb,local-storage"])),
    ]);
    let api = [
        ("anonymous-auth", vec!["false"]),
        ("authorization-mode", vec!["Node,RBAC"]),
        ("profiling", vec!["false"]),
        ("enable-admission-plugins", vec!["NodeRestriction,EventRateLimit", "AlwaysPullImages,DenyServiceExternalIPs"]),
        ("admission-control-config-file", vec!["/etc/rancher/psa.yaml"]),
        ("audit-log-path", vec!["/var/log/k3s/audit.log"]),
        ("audit-policy-file", vec!["/etc/rancher/audit.yaml"]),
        ("audit-log-maxage", vec!["30"]),
        ("audit-log-maxbackup", vec!["10"]),
        ("audit-log-maxsize", vec!["100"]),
        ("service-account-extend-token-expiration", vec!["false"]),
        ("tls-cipher-suites", vec!["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]),
    ];
    let mut api: BTreeMap<String, Flag> = api.into_iter().map(|(k, v)| (k.to_owned(), flag(&v))).collect();
    for (name, value) in [
        ("kubelet-client-certificate", format!("{tls}/client-kube-apiserver.crt")),
        ("kubelet-client-key", format!("{tls}/client-kube-apiserver.key")),
        ("kubelet-certificate-authority", format!("{tls}/server-ca.crt")),
        ("service-account-key-file", format!("{tls}/service.key")),
        ("etcd-certfile", format!("{tls}/etcd/client.crt")),
        ("etcd-keyfile", format!("{tls}/etcd/client.key")),
        ("etcd-cafile", format!("{tls}/etcd/server-ca.crt")),
        ("tls-cert-file", format!("{tls}/serving-kube-apiserver.crt")),
        ("tls-private-key-file", format!("{tls}/serving-kube-apiserver.key")),
        ("client-ca-file", format!("{tls}/client-ca.crt")),
        ("encryption-provider-config", format!("{DATA}/server/cred/encryption-config.json")),
    ] {
        api.insert(name.to_owned(), flag(&[&value]));
    }
    let loopback = || {
        BTreeMap::from([("bind-address".to_owned(), flag(&["127.0.0.1"])), ("profiling".to_owned(), flag(&["false"]))])
    };
    let mut controller = loopback();
    controller.insert("terminated-pod-gc-threshold".to_owned(), flag(&["100"]));
    controller.insert("use-service-account-credentials".to_owned(), flag(&["true"]));
    controller.insert("service-account-private-key-file".to_owned(), flag(&[&format!("{tls}/service.current.key")]));
    controller.insert("root-ca-file".to_owned(), flag(&[&format!("{tls}/server-ca.crt")]));
    NodeConfig {
        options,
        components: BTreeMap::from([
            ("kube-apiserver".to_owned(), api),
            ("kube-controller-manager".to_owned(), controller),
            ("kube-scheduler".to_owned(), loopback()),
            ("cloud-controller-manager".to_owned(), loopback()),
            ("kubelet".to_owned(), kubelet_flags()),
            ("kube-proxy".to_owned(), BTreeMap::new()),
        ]),
        certificate_days: None,
        problems: Vec::new(),
        traps: clean(),
    }
}

fn kubelet_flags() -> BTreeMap<String, Flag> {
    BTreeMap::from([
        ("read-only-port".to_owned(), flag(&["0"])),
        ("pod-max-pids".to_owned(), flag(&["4096"])),
        ("seccomp-default".to_owned(), flag(&["true"])),
        ("tls-cipher-suites".to_owned(), flag(&["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"])),
    ])
}

fn agent_config() -> NodeConfig {
    NodeConfig {
        options: BTreeMap::from([
            ("server".to_owned(), vec![setting("https://10.0.0.1:6443")]),
            ("protect-kernel-defaults".to_owned(), vec![setting("true")]),
            ("selinux".to_owned(), vec![setting("true")]),
        ]),
        components: BTreeMap::from([
            ("kubelet".to_owned(), kubelet_flags()),
            ("kube-proxy".to_owned(), BTreeMap::new()),
        ]),
        certificate_days: None,
        problems: Vec::new(),
        traps: clean(),
    }
}

pub(crate) const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: RequestResponse
  verbs: [create, update, patch]
  resources:
  - group: rbac.authorization.k8s.io
    resources: [clusterroles, clusterrolebindings]
  - group: apps
- level: Metadata
";

/// Every file any control asks for is there, root's and private; every document is as it should be.
pub(crate) fn node(role: Role) -> Snapshot {
    let config = match role {
        Role::Server => server_config(),
        Role::Agent => agent_config(),
    };
    let policy = policy();
    let mut snap = Snapshot::blank(now());
    snap.role = Some(role);
    snap.k3s_version = Some("v1.36.2+k3s1".to_owned());
    snap.places = Arc::default();
    snap.k3s_started_at = Observation::from(ago(5));
    let needs = Needs::of(&policy.catalogue, DATA, &[&config], &Places::default());
    for pattern in &needs.files {
        let mut path = pattern.as_str().replace("/**/", "/").replace("**", "x.conf").replace('*', "x");
        if !pattern.is_plain() && pattern.base().ends_with("tls") {
            path = path.replace("/x.crt", "/client-x.crt");
        }
        folder(&mut snap, pattern.base());
        if let Some((parent, _)) = path.rsplit_once('/') {
            folder(&mut snap, parent);
        }
        let is_folder = !path.rsplit('/').next().unwrap().contains('.') && !is_file(&path);
        let entry = if is_folder { meta(FileKind::Folder, 0o700) } else { meta(FileKind::File, 0o600) };
        snap.files.insert(path, Observation::from(entry));
    }
    for (path, entry) in &mut snap.files {
        if path.ends_with("/audit.log") || path.contains("audit-x") {
            *entry = Observation::from(FileMeta { mtime: now(), ..meta(FileKind::File, 0o600) });
        }
    }
    if role == Role::Server {
        let target = format!("{DATA}/server/token");
        let link = LinkTarget {
            text: target.clone(),
            path: Some(target),
            meta: Observation::from(Box::new(meta(FileKind::File, 0o600))),
        };
        let entry = FileMeta { link: Some(link), ..meta(FileKind::Link, 0o777) };
        snap.files.insert(format!("{DATA}/server/node-token"), Observation::from(entry));
    }
    snap.sysctls =
        needs.sysctls.iter().map(|key| (key.clone(), Observation::from(right_value(key).to_owned()))).collect();
    snap.persisted_sysctls = Observation::from(PersistedSysctls::from_files([(
        "/etc/sysctl.d/90-kubelet.conf",
        &b"vm.panic_on_oom=0\nvm.overcommit_memory=1\nkernel.panic=10\nkernel.panic_on_oops=1\n"[..],
    )]));
    snap.certificates = snap
        .files
        .keys()
        .filter(|path| needs.certificates.iter().any(|p| p.matches(path)))
        .map(|path| (path.clone(), Observation::from(vec![certificate(path, 0)])))
        .collect();
    seen_certificates(&mut snap, role);
    for (name, form) in [("token", "server"), ("agent-token", "node")] {
        snap.tokens.insert(
            format!("{DATA}/server/{name}"),
            Observation::from(TokenFacts {
                form: TokenForm::Full { user: form.to_owned() },
                fingerprint: name.to_owned(),
                first_seen: Some(ago(3)),
                change_witnessed: true,
            }),
        );
    }
    snap.join_token = Observation::from(JoinToken {
        form: TokenForm::Full { user: "node".to_owned() },
        evidence: Evidence::at("/etc/systemd/system/k3s.service.env", "K3S_TOKEN"),
    });
    snap.units = needs.units.iter().map(|unit| (unit.clone(), Observation::from(UnitFacts::default()))).collect();
    let encryption = EncryptionConfig {
        sha256: "ab".repeat(32),
        mtime: Some(ago(10)),
        ..EncryptionConfig::parse(
            br#"{"kind":"EncryptionConfiguration","resources":[{"resources":["secrets","configmaps"],"providers":[{"aescbc":{"keys":[{"name":"aescbckey","secret":"cGlja2V0LXRlc3Qta2V5LTAwMDAwMDAwMDAwMDAwMDE="}]}},{"identity":{}}]}]}"#,
        )
        .unwrap()
    };
    snap.encryption_configs =
        needs.encryption_configs.iter().map(|p| (p.clone(), Observation::from(encryption.clone()))).collect();
    snap.encryption_state =
        Observation::from(EncryptionState { stage: "start".to_owned(), sha256: "ab".repeat(32), mtime: Some(ago(10)) });
    snap.audit_policies = needs
        .audit_policies
        .iter()
        .map(|p| (p.clone(), Observation::from(AuditPolicy::parse(POLICY.as_bytes()).unwrap())))
        .collect();
    snap.audit_logs = needs
        .audit_logs
        .iter()
        .map(|p| {
            let facts = AuditLogFacts {
                mtime: now(),
                rotated: Vec::new(),
                oldest_entry: Some(ago(40)),
                first_seen: Some(ago(40)),
                entries: Some(AuditEntries { total: 10, ..AuditEntries::default() }),
            };
            (p.clone(), Observation::from(facts))
        })
        .collect();
    let admission = AdmissionConfig::parse(
        b"kind: AdmissionConfiguration\nplugins:\n- name: PodSecurity\n  configuration:\n    apiVersion: pod-security.admission.config.k8s.io/v1\n    kind: PodSecurityConfiguration\n    defaults: {enforce: restricted}\n    exemptions: {namespaces: [kube-system]}\n- name: EventRateLimit\n  path: ev.yaml\n",
    )
    .unwrap();
    snap.admission_configs =
        needs.admission_configs.iter().map(|p| (p.clone(), Observation::from(admission.clone()))).collect();
    let pair = |name: &str| {
        serde_json::json!({
            "cert-file": format!("{DATA}/server/tls/etcd/{name}.crt"),
            "key-file": format!("{DATA}/server/tls/etcd/{name}.key"),
            "client-cert-auth": true,
            "trusted-ca-file": format!("{DATA}/server/tls/etcd/peer-ca.crt"),
        })
    };
    snap.etcd_config = Observation::from(serde_json::json!({
        "client-transport-security": pair("server-client"),
        "peer-transport-security": pair("peer-server-client"),
        "listen-metrics-urls": "http://127.0.0.1:2381",
    }));
    snap.kubelet_dropins = BTreeMap::from([(
        format!("{DATA}/agent/etc/kubelet.conf.d/00-k3s-defaults.conf"),
        Observation::from(serde_json::json!({
            "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": "/ca.crt"}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": "/a.crt", "tlsPrivateKeyFile": "/a.key",
            "allowedUnsafeSysctls": ["net.ipv4.ip_forward"],
            "streamingConnectionIdleTimeout": "4h0m0s",
            "protectKernelDefaults": true,
        })),
    )]);
    snap.datastores = needs.datastores.iter().map(|p| (p.clone(), Observation::from(stored()))).collect();
    snap.registries = Observation::from(Registries { entries: 1, ..Registries::default() });
    snap.selinux_enforcing = Observation::from(true);
    snap.traps = Observation::from(clean());
    snap.declared = Observation::from(Arc::new(config));
    snap
}

fn is_file(path: &str) -> bool {
    ["/token", "/node-token", "/agent-token", "/passwd", "/password", "/config", "/k3s", "/k3s-agent"]
        .iter()
        .any(|name| path.ends_with(name))
        && !path.ends_with("/etc/rancher/k3s")
}

pub(crate) fn folder(snap: &mut Snapshot, path: &str) {
    snap.folders.insert(path.to_owned(), Observation::from(Folder { complete: true }));
}

fn right_value(key: &str) -> &'static str {
    match key {
        "vm.panic_on_oom" => "0",
        "kernel.panic" => "10",
        "kernel.keys.root_maxkeys" => "1000000",
        "kernel.keys.root_maxbytes" => "25000000",
        _ => "1",
    }
}

/// The rows of one control.
pub(crate) fn rows<'a>(verdicts: &'a [Verdict], control: &str) -> Vec<&'a Verdict> {
    verdicts.iter().filter(|v| v.control == control).collect()
}

/// The status a control counts as on a snapshot.
pub(crate) fn status(snap: &Snapshot, control: &str) -> Status {
    let verdicts = evaluate(snap, &policy());
    worst_status(rows(&verdicts, control)).unwrap_or_else(|| panic!("no row for {control}"))
}

/// Changes the declared configuration.
pub(crate) fn configure(snap: &mut Snapshot, change: impl FnOnce(&mut NodeConfig)) {
    let mut config = NodeConfig::clone(snap.declared.value().unwrap());
    change(&mut config);
    snap.declared = Observation::from(Arc::new(config));
}

/// Sets a flag of a component; no values: it is not passed.
pub(crate) fn set_flag(snap: &mut Snapshot, component: &str, name: &str, values: &[&str]) {
    configure(snap, |config| {
        let flags = config.components.entry(component.to_owned()).or_default();
        if values.is_empty() {
            flags.remove(name);
        } else {
            flags.insert(name.to_owned(), flag(values));
        }
    });
}

/// Sets an option of K3s; no values: it is not set.
pub(crate) fn set_option(snap: &mut Snapshot, name: &str, values: &[&str]) {
    configure(snap, |config| {
        if values.is_empty() {
            config.options.remove(name);
        } else {
            config.options.insert(name.to_owned(), values.iter().map(|v| setting(v)).collect());
        }
    });
}
