//! Each op and each precondition, by what a user sees.

use Status::{Fail, NotApplicable, Pass, Unknown};
use picket_checks::*;
use picket_model::{Evidence, Observation, Role, State, Status};

use crate::good::*;

pub(crate) fn server() -> Snapshot {
    node(Role::Server)
}

pub(crate) fn with_flag(component: &str, name: &str, values: &[&str]) -> Snapshot {
    let mut snap = server();
    set_flag(&mut snap, component, name, values);
    snap
}

#[test]
fn flags_are_compared_by_their_op() {
    let api = "kube-apiserver";
    for (name, values, control, wanted) in [
        ("anonymous-auth", &["true"][..], "apiserver-anonymous-auth", Fail),
        ("anonymous-auth", &["true", "false"], "apiserver-anonymous-auth", Pass),
        ("anonymous-auth", &["F"], "apiserver-anonymous-auth", Pass),
        ("anonymous-auth", &[], "apiserver-anonymous-auth", Fail),
        ("token-auth-file", &["/x"], "apiserver-token-auth-file-unset", Fail),
        ("authorization-mode", &["AlwaysAllow"], "apiserver-authz-not-always-allow", Fail),
        ("authorization-mode", &["Node", "RBAC"], "apiserver-authz-rbac", Pass),
        ("authorization-mode", &["RBAC"], "apiserver-authz-node", Fail),
        ("authorization-mode", &[], "apiserver-authz-not-always-allow", Fail),
        ("authorization-mode", &[""], "apiserver-authz-not-always-allow", Fail),
        ("authorization-mode", &["", "Node,RBAC"], "apiserver-authz-not-always-allow", Pass),
        ("authorization-mode", &[""], "apiserver-authz-rbac", Fail),
        ("enable-admission-plugins", &["EventRateLimit"], "apiserver-node-restriction", Fail),
        ("enable-admission-plugins", &["NodeRestrictionX"], "apiserver-node-restriction", Fail),
        ("enable-admission-plugins", &["AlwaysAdmit"], "apiserver-no-always-admit", Fail),
        ("authorization-mode", &["Node, RBAC"], "apiserver-authz-rbac", Unknown),
        ("authorization-mode", &["Node, AlwaysAllow"], "apiserver-authz-not-always-allow", Unknown),
        ("authorization-mode", &["Node,\"AlwaysAllow\""], "apiserver-authz-not-always-allow", Unknown),
        ("enable-admission-plugins", &["NodeRestriction,"], "apiserver-node-restriction", Unknown),
        ("tls-cipher-suites", &[" TLS_AES_128_GCM_SHA256"], "apiserver-tls-ciphers", Unknown),
        ("anonymous-auth", &[" false"], "apiserver-anonymous-auth", Fail),
        ("audit-log-maxage", &[" 30"], "apiserver-audit-log-maxage", Unknown),
        ("audit-log-maxage", &["29"], "apiserver-audit-log-maxage", Fail),
        ("audit-log-maxage", &["many"], "apiserver-audit-log-maxage", Unknown),
        // Octal: 29. The API server reads its numbers as Go's parser does.
        ("audit-log-maxage", &["035"], "apiserver-audit-log-maxage", Fail),
        ("audit-log-maxage", &["0x1e"], "apiserver-audit-log-maxage", Pass),
        ("audit-log-maxage", &["08"], "apiserver-audit-log-maxage", Unknown),
        ("audit-log-maxbackup", &["10", "011"], "apiserver-audit-log-maxbackup", Fail),
        ("audit-log-maxage", &[], "apiserver-audit-log-maxage", Fail),
        ("request-timeout", &["5m"], "apiserver-request-timeout", Pass),
        ("request-timeout", &["301s"], "apiserver-request-timeout", Fail),
        ("request-timeout", &["0"], "apiserver-request-timeout", Fail),
        ("tls-cipher-suites", &["TLS_RSA_WITH_AES_128_CBC_SHA"], "apiserver-tls-ciphers", Fail),
        ("kubelet-client-key", &[], "apiserver-kubelet-client-cert", Fail),
        ("profiling", &[], "apiserver-profiling-off", Fail),
        ("service-account-lookup", &["false"], "apiserver-service-account-lookup", Fail),
    ] {
        assert_eq!(status(&with_flag(api, name, values), control), wanted, "{name} {values:?}");
    }
    let kcm = "kube-controller-manager";
    for (name, values, control, wanted) in [
        ("bind-address", &["::1"][..], "kcm-bind-loopback", Pass),
        ("bind-address", &["0.0.0.0"], "kcm-bind-loopback", Fail),
        ("feature-gates", &["A=true, RotateKubeletServerCertificate = False"], "kcm-rotate-kubelet-server-cert", Fail),
        (
            "feature-gates",
            &["RotateKubeletServerCertificate=false", "RotateKubeletServerCertificate=true"],
            "kcm-rotate-kubelet-server-cert",
            Pass,
        ),
        (
            "feature-gates",
            &["RotateKubeletServerCertificate=true,A=true", "RotateKubeletServerCertificate=false"],
            "kcm-rotate-kubelet-server-cert",
            Fail,
        ),
        ("terminated-pod-gc-threshold", &["0"], "kcm-terminated-pod-gc", Fail),
        ("terminated-pod-gc-threshold", &["12500"], "kcm-terminated-pod-gc", Pass),
        ("terminated-pod-gc-threshold", &["1_000"], "kcm-terminated-pod-gc", Pass),
    ] {
        assert_eq!(status(&with_flag(kcm, name, values), control), wanted, "{name} {values:?}");
    }
}

#[test]
fn one_row_for_each_of_several_flags() {
    let verdicts = evaluate(&with_flag("kube-apiserver", "kubelet-client-key", &[]), &policy());
    let seen: Vec<(&str, Status)> =
        rows(&verdicts, "apiserver-kubelet-client-cert").iter().map(|v| (v.subject.as_str(), v.status)).collect();
    assert_eq!(seen, [("--kubelet-client-certificate", Pass), ("--kubelet-client-key", Fail)]);
}

#[test]
fn versions_that_differ_are_unknown_unless_all_give_the_same() {
    let mut snap = server();
    configure(&mut snap, |config| {
        let flags = config.components.get_mut("kubelet").unwrap();
        flags.insert("read-only-port".to_owned(), Flag { possible: vec![vec![setting("0")], vec![]] });
    });
    assert_eq!(status(&snap, "kubelet-read-only-port"), Unknown);
    configure(&mut snap, |config| {
        let flags = config.components.get_mut("kubelet").unwrap();
        flags.insert("read-only-port".to_owned(), Flag { possible: vec![vec![setting("10255")], vec![]] });
    });
    assert_eq!(status(&snap, "kubelet-read-only-port"), Fail);
    // K3s 1.32.0 to 1.32.3 pass no such flag, and a zero in a drop-in is lost.
    set_flag(&mut snap, "kubelet", "read-only-port", &[]);
    assert_eq!(status(&snap, "kubelet-read-only-port"), Fail);
    snap.kubelet_dropins.insert(
        format!("{DATA}/agent/etc/kubelet.conf.d/50-port.conf"),
        Observation::from(serde_json::json!({"readOnlyPort": 0})),
    );
    assert_eq!(status(&snap, "kubelet-read-only-port"), Fail);
    // A file the kubelet itself is given brings the defaults of such files, and there the port is closed.
    set_flag(&mut snap, "kubelet", "config", &["/etc/k.yaml"]);
    assert_eq!(status(&snap, "kubelet-read-only-port"), Unknown, "a file that was not looked at");
    for (file, wanted) in [
        (serde_json::json!({"maxPods": 50}), Pass),
        (serde_json::json!({"readOnlyPort": 0}), Pass),
        (serde_json::json!({"readOnlyPort": 10255}), Fail),
    ] {
        snap.kubelet_configs.insert("/etc/k.yaml".to_owned(), Observation::from(file.clone()));
        assert_eq!(status(&snap, "kubelet-read-only-port"), wanted, "{file}");
    }
    snap.kubelet_configs.insert("/etc/k.yaml".to_owned(), Observation::from(serde_json::json!({"maxPods": 50})));
    snap.kubelet_dropins.insert(
        format!("{DATA}/agent/etc/kubelet.conf.d/40-port.conf"),
        Observation::from(serde_json::json!({"readOnlyPort": 10255})),
    );
    assert_eq!(status(&snap, "kubelet-read-only-port"), Fail, "a later zero is lost");
}

#[test]
fn structured_configurations_stand_in_for_flags() {
    let mut snap = with_flag("kube-apiserver", "anonymous-auth", &[]);
    set_flag(&mut snap, "kube-apiserver", "authentication-config", &["/etc/authn.yaml"]);
    assert_eq!(status(&snap, "apiserver-anonymous-auth"), Unknown);
    for (text, wanted) in [
        ("kind: AuthenticationConfiguration", Fail),
        ("kind: AuthenticationConfiguration\nanonymous: {enabled: false}", Pass),
        ("kind: AuthenticationConfiguration\nanonymous: {enabled: true}", Fail),
        ("kind: AuthenticationConfiguration\nanonymous: {enabled: true, conditions: [{path: /livez}]}", Pass),
        ("kind: AuthenticationConfiguration\nanonymous: {enabled: true, conditions: [{path: /api}]}", Fail),
    ] {
        let config = AuthenticationConfig::parse(text.as_bytes()).unwrap();
        snap.authentication_configs.insert("/etc/authn.yaml".to_owned(), Observation::from(config));
        assert_eq!(status(&snap, "apiserver-anonymous-auth"), wanted, "{text}");
    }
    let mut snap = with_flag("kube-apiserver", "authorization-mode", &[]);
    set_flag(&mut snap, "kube-apiserver", "authorization-config", &["/etc/authz.yaml"]);
    let config = AuthorizationConfig::parse(
        b"kind: AuthorizationConfiguration\nauthorizers: [{type: Node}, {type: AlwaysAllow}]",
    )
    .unwrap();
    snap.authorization_configs.insert("/etc/authz.yaml".to_owned(), Observation::from(config));
    assert_eq!(status(&snap, "apiserver-authz-not-always-allow"), Fail);
    assert_eq!(status(&snap, "apiserver-authz-node"), Pass);
    assert_eq!(status(&snap, "apiserver-authz-rbac"), Fail);
}

#[test]
fn a_plugin_without_its_configuration_fails() {
    let mut snap = server();
    let config = AdmissionConfig::parse(b"kind: AdmissionConfiguration\nplugins: [{name: PodSecurity}]").unwrap();
    snap.admission_configs.values_mut().for_each(|c| *c = Observation::from(config.clone()));
    assert_eq!(status(&snap, "apiserver-event-rate-limit"), Fail);
    assert_eq!(status(&snap, "psa-defaults-enforced"), Fail);
    // The labels of namespaces, which a node cannot see, may still hold the control.
    assert_eq!(status(&snap, "pss-control-in-place"), Unknown);
    assert_eq!(status(&server(), "pss-control-in-place"), Pass);
}

#[test]
fn defaults_of_a_plugin_that_is_off_enforce_nothing() {
    let snap = with_flag("kube-apiserver", "disable-admission-plugins", &["Priority,PodSecurity"]);
    assert_eq!(status(&snap, "psa-defaults-enforced"), Fail);
    assert_eq!(status(&snap, "pss-control-in-place"), Unknown, "labels need the plugin too, but another may stand in");
    let snap = with_flag("kube-apiserver", "disable-admission-plugins", &["Priority, PodSecurity"]);
    assert_eq!(status(&snap, "psa-defaults-enforced"), Unknown, "a plug-in of that name there is not");
    let snap = with_flag("kube-apiserver", "disable-admission-plugins", &["Priority"]);
    assert_eq!(status(&snap, "psa-defaults-enforced"), Pass);
}

#[test]
fn a_configuration_file_of_kube_proxy_stands_in_for_its_flags() {
    let mut snap = with_flag("kube-proxy", "config", &["/kp.yaml"]);
    assert_eq!(status(&snap, "kubeproxy-metrics-loopback"), Unknown);
    set_flag(&mut snap, "kube-proxy", "metrics-bind-address", &["127.0.0.1:10249"]);
    let verdicts = evaluate(&snap, &policy());
    let row = rows(&verdicts, "kubeproxy-metrics-loopback")[0];
    assert!(row.status == Unknown && row.observed.contains("/kp.yaml"), "{row:?}");
    set_flag(&mut snap, "kube-proxy", "config", &[]);
    assert_eq!(status(&snap, "kubeproxy-metrics-loopback"), Pass);
}

#[test]
fn a_configuration_file_of_the_scheduler_stands_in_for_its_profiling_alone() {
    let mut snap = with_flag("kube-scheduler", "config", &["/etc/sched.yaml"]);
    let verdicts = evaluate(&snap, &policy());
    let row = rows(&verdicts, "scheduler-profiling-off")[0];
    assert!(row.status == Unknown && row.observed.contains("/etc/sched.yaml"), "{row:?}");
    assert_eq!(status(&snap, "scheduler-bind-loopback"), Pass);
    set_flag(&mut snap, "kube-scheduler", "config", &[""]);
    assert_eq!(status(&snap, "scheduler-profiling-off"), Pass);
}

#[test]
fn drop_ins_of_the_kubelet_may_repeat_what_k3s_sets_and_nothing_weaker() {
    use serde_json::json;
    let agent = format!("{DATA}/agent");
    for (text, wanted) in [
        (json!({"authentication": {"x509": {"clientCAFile": "/tmp/x.crt"}}}), Fail),
        (json!({"authentication": {"x509": {"clientCAFile": ""}}}), Fail),
        (json!({"authentication": {"x509": {"clientCAFile": format!("{agent}/client-ca.crt")}}}), Pass),
        (json!({"tlsPrivateKeyFile": "/tmp/x.key"}), Fail),
        (json!({"tlsCertFile": "/tmp/x.crt"}), Fail),
        (json!({"tlsCertFile": format!("{agent}/serving-kubelet.crt")}), Pass),
        (json!({"tlsPrivateKeyFile": format!("{agent}/serving-kubelet.key")}), Pass),
        (json!({"staticPodPath": "/tmp/pods"}), Fail),
    ] {
        let mut snap = server();
        let path = format!("{agent}/etc/kubelet.conf.d/50-a.conf");
        snap.kubelet_dropins.insert(path, Observation::from(text.clone()));
        assert_eq!(status(&snap, "kubelet-dropin-no-security-override"), wanted, "{text}");
    }
}

#[test]
fn modes_and_owners_of_files() {
    let path = format!("{DATA}/server/cred/admin.kubeconfig");
    let mut snap = server();
    for (mode, uid, mode_wanted, owner_wanted) in [
        (0o600, 0, Pass, Pass),
        (0o400, 0, Pass, Pass),
        (0o640, 0, Fail, Pass),
        (0o4600, 0, Fail, Pass),
        (0o600, 1000, Pass, Fail),
    ] {
        snap.files.insert(path.clone(), Observation::from(FileMeta { uid, ..meta(FileKind::File, mode) }));
        assert_eq!(status(&snap, "admin-kubeconfig-mode"), mode_wanted, "{mode:o}");
        assert_eq!(status(&snap, "admin-kubeconfig-owner"), owner_wanted, "{uid}");
    }
    snap.files.insert(path.clone(), Observation::Absent);
    assert_eq!(status(&snap, "admin-kubeconfig-mode"), NotApplicable, "missing in a readable folder");
    snap.folders.insert(format!("{DATA}/server/cred"), Observation::Absent);
    assert_eq!(status(&snap, "admin-kubeconfig-mode"), Unknown, "no folder");
    snap.folders.insert(format!("{DATA}/server/cred"), Observation::unreadable("permission denied"));
    assert_eq!(status(&snap, "admin-kubeconfig-mode"), Unknown, "unreadable folder");
}

#[test]
fn files_that_must_be_there_fail_when_missing() {
    let mut snap = server();
    snap.files.retain(|path, _| !path.ends_with(".key"));
    assert_eq!(status(&snap, "pki-key-mode"), Fail);
    // One of several folders that is missing is no source of its own.
    let mut snap = server();
    let folder = format!("{DATA}/server/tls/kube-scheduler");
    snap.files.retain(|path, _| !path.starts_with(&folder));
    snap.folders.insert(folder, Observation::Absent);
    assert_eq!(status(&snap, "pki-cert-mode"), Pass);
}

#[test]
fn an_unreadable_folder_below_a_pattern_is_not_overlooked() {
    let mut snap = server();
    snap.folders.insert(format!("{DATA}/server/tls/etcd"), Observation::unreadable("permission denied"));
    snap.files.retain(|path, _| !path.starts_with(&format!("{DATA}/server/tls/etcd/")));
    assert_eq!(status(&snap, "pki-key-mode"), Unknown);
    let mut snap = server();
    snap.folders.insert(format!("{DATA}/server/tls"), Observation::from(Folder { complete: false }));
    assert_eq!(status(&snap, "pki-owner"), Unknown);
}

#[test]
fn the_limit_of_a_mode_follows_the_benchmark() {
    let mut snap = server();
    snap.files.insert(format!("{DATA}/server/tls/client-ca.crt"), Observation::from(meta(FileKind::File, 0o644)));
    let mut policy = policy();
    for (benchmark, wanted) in [(None, Pass), (Some("2.1"), Pass), (Some("1.9"), Fail)] {
        policy.benchmark = benchmark.map(str::to_owned);
        let verdicts = evaluate(&snap, &policy);
        assert_eq!(worst_status(rows(&verdicts, "pki-cert-mode")), Some(wanted), "{benchmark:?}");
    }
}

#[test]
fn a_lock_among_leases_is_left_out_and_folders_are_not_files() {
    let mut snap = server();
    let cni = "/var/lib/cni/networks";
    folder(&mut snap, &format!("{cni}/cbr0"));
    snap.files.insert(format!("{cni}/cbr0"), Observation::from(meta(FileKind::Folder, 0o755)));
    snap.files.insert(format!("{cni}/cbr0/lock"), Observation::from(meta(FileKind::File, 0o750)));
    assert_eq!(status(&snap, "cni-lease-file-mode"), Pass);
    snap.files.insert(format!("{cni}/cbr0/10.42.0.2"), Observation::from(meta(FileKind::File, 0o644)));
    assert_eq!(status(&snap, "cni-lease-file-mode"), Fail);
    snap.files.insert(cni.to_owned(), Observation::Absent);
    assert_eq!(status(&snap, "cni-lease-file-mode"), NotApplicable);
}

#[test]
fn tokens() {
    let link = |text: &str, mode: u32| {
        let link = LinkTarget {
            text: text.to_owned(),
            path: Some(text.to_owned()),
            meta: Observation::from(Box::new(meta(FileKind::File, mode))),
        };
        Observation::from(FileMeta { link: Some(link), ..meta(FileKind::Link, 0o777) })
    };
    let token = format!("{DATA}/server/token");
    let node_token = format!("{DATA}/server/node-token");
    let agent_token = format!("{DATA}/server/agent-token");
    let mut snap = server();
    assert_eq!(status(&snap, "token-files-owner"), Pass);
    snap.files.insert(node_token.clone(), link(&token, 0o644));
    assert_eq!(status(&snap, "token-node-token-link"), Fail, "the target is readable by others");
    snap.files.insert(node_token.clone(), link("/tmp/token", 0o600));
    assert_eq!(status(&snap, "token-node-token-link"), Fail);
    snap.files.insert(node_token.clone(), Observation::from(meta(FileKind::File, 0o600)));
    assert_eq!(status(&snap, "token-node-token-link"), Fail);
    snap.files.insert(node_token, Observation::Absent);
    assert_eq!(status(&snap, "token-node-token-link"), Fail);

    snap.files.insert(agent_token.clone(), link(&token, 0o600));
    assert_eq!(status(&snap, "token-separate-agent-token"), Fail);
    assert_eq!(status(&snap, "token-agent-token-file-mode"), Pass, "the mode of a link is its target's");

    let mut snap = server();
    let facts = |fingerprint: &str, seen| {
        Observation::from(TokenFacts {
            form: TokenForm::Full { user: "server".to_owned() },
            fingerprint: fingerprint.to_owned(),
            first_seen: seen,
            change_witnessed: true,
        })
    };
    snap.tokens.insert(agent_token, facts("token", Some(ago(1))));
    assert_eq!(status(&snap, "token-separate-agent-token"), Fail, "the same password in another file");
    for (seen, wanted) in [(None, Unknown), (Some(ago(90)), Pass), (Some(ago(91)), Fail)] {
        snap.tokens.insert(token.clone(), facts("token", seen));
        assert_eq!(status(&snap, "token-rotation-age"), wanted, "{seen:?}");
    }

    for (form, wanted) in [(TokenForm::PinnedBootstrap, Pass), (TokenForm::Bootstrap, Fail), (TokenForm::Short, Fail)] {
        snap.join_token = Observation::from(JoinToken { form, evidence: Evidence::default() });
        assert_eq!(status(&snap, "token-secure-format"), wanted);
    }
    set_option(&mut snap, "server", &[]);
    assert_eq!(status(&snap, "token-secure-format"), NotApplicable, "the first server can only use the short form");

    let unit = "/etc/systemd/system/k3s.service".to_owned();
    snap.units.insert(unit, Observation::from(UnitFacts { token_options: vec![("--token".to_owned(), 12)] }));
    let verdicts = evaluate(&snap, &policy());
    let failed: Vec<_> = rows(&verdicts, "token-not-in-unit-file").into_iter().filter(|v| v.status == Fail).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].evidence[0].line, Some(12));
}

#[test]
fn certificates_expire() {
    let path = format!("{DATA}/server/tls/serving-kube-apiserver.crt");
    let mut snap = server();
    let days = |d: i64| now() + jiff::SignedDuration::from_hours(24 * d);
    let set = |snap: &mut Snapshot, not_after| {
        let cert = CertFacts { not_after, not_before: ago(10), ..certificate(&path, 0) };
        snap.certificates.insert(path.clone(), Observation::from(vec![cert, certificate("ca", 1)]));
    };
    for (left, leaf, window) in
        [(121, Pass, Pass), (120, Pass, Pass), (119, Pass, Fail), (30, Pass, Fail), (29, Fail, Fail), (-1, Fail, Fail)]
    {
        set(&mut snap, days(left));
        assert_eq!(status(&snap, "cert-leaf-expiry-server"), leaf, "{left}");
        assert_eq!(status(&snap, "cert-renewal-window"), window, "{left}");
    }
    snap.k3s_started_at = Observation::unreadable("no process");
    set(&mut snap, days(100));
    assert_eq!(status(&snap, "cert-renewal-window"), Unknown, "inside the window the start time matters");
    set(&mut snap, days(200));
    assert_eq!(status(&snap, "cert-renewal-window"), Pass, "outside it does not");
    snap.k3s_version = Some("v1.32.4+k3s1".to_owned());
    set(&mut snap, days(100));
    assert_eq!(status(&snap, "cert-renewal-window"), Pass, "the window was 90 days");
    snap.k3s_version = None;
    assert_eq!(status(&snap, "cert-renewal-window"), Unknown, "either window");
}

#[test]
fn certificates_have_sound_keys_and_dates() {
    let path = format!("{DATA}/server/tls/serving-kube-apiserver.crt");
    let check = |control: &str, change: fn(&mut CertFacts)| {
        let mut snap = server();
        let mut cert = certificate(&path, 0);
        change(&mut cert);
        snap.certificates.insert(path.clone(), Observation::from(vec![cert]));
        status(&snap, control)
    };
    assert_eq!(check("cert-key-strength", |c| c.key = PublicKeyKind::Rsa { bits: 1024 }), Fail);
    assert_eq!(check("cert-key-strength", |c| c.key = PublicKeyKind::Rsa { bits: 2048 }), Pass);
    assert_eq!(check("cert-key-strength", |c| c.key = PublicKeyKind::Ec { bits: 224 }), Fail);
    assert_eq!(check("cert-key-strength", |c| c.signature = "sha1WithRSAEncryption".to_owned()), Fail);
    assert_eq!(check("cert-key-strength", |c| c.key = PublicKeyKind::Other("1.2".to_owned())), Unknown);
    assert_eq!(check("cert-not-yet-valid", |c| c.not_before = now() + jiff::SignedDuration::from_mins(4)), Pass);
    assert_eq!(check("cert-not-yet-valid", |c| c.not_before = now() + jiff::SignedDuration::from_mins(6)), Fail);
    assert_eq!(check("cert-validity-not-extended", |c| c.not_before = ago(20)), Fail);
    let mut snap = server();
    let twin = format!("{DATA}/server/tls/client-ca.crt");
    let cert = CertFacts { key_sha256: format!("{DATA}/server/tls/request-header-ca.crt#0"), ..certificate(&twin, 0) };
    snap.certificates.insert(twin, Observation::from(vec![cert]));
    assert_eq!(status(&snap, "cert-ca-distinct"), Fail);
}

#[test]
fn an_encryption_configuration_without_keys_is_none() {
    for kind in ["aescbc", "aesgcm", "secretbox"] {
        let text = format!(
            r#"{{"kind":"EncryptionConfiguration","resources":[{{"resources":["secrets"],"providers":[{{"{kind}":{{"keys":[]}}}}]}}]}}"#
        );
        let error = EncryptionConfig::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(&format!("{kind} needs keys")), "{error}");
    }
}

#[test]
fn encryption() {
    let path = format!("{DATA}/server/cred/encryption-config.json");
    let parse = |providers: &str| {
        let text = format!(
            r#"{{"kind":"EncryptionConfiguration","resources":[{{"resources":["secrets"],"providers":[{providers}]}}]}}"#
        );
        EncryptionConfig {
            sha256: "ab".repeat(32),
            mtime: Some(ago(10)),
            ..EncryptionConfig::parse(text.as_bytes()).unwrap()
        }
    };
    let aescbc = |name: &str| {
        format!(
            r#"{{"aescbc":{{"keys":[{{"name":"{name}","secret":"cGlja2V0LXRlc3Qta2V5LTAwMDAwMDAwMDAwMDAwMDE="}}]}}}}"#
        )
    };
    let mut snap = server();
    for (providers, wanted) in [
        (format!("{},{{\"identity\":{{}}}}", aescbc("k")), Pass),
        (format!("{{\"identity\":{{}}}},{}", aescbc("k")), Fail),
        (aescbc("k").replace("aescbc", "secretbox"), Pass),
        (aescbc("k").replace("aescbc", "aesgcm"), Fail),
    ] {
        snap.encryption_configs.insert(path.clone(), Observation::from(parse(&providers)));
        assert_eq!(status(&snap, "apiserver-encryption-provider-strong"), wanted, "{providers}");
    }
    assert_eq!(status(&snap, "secrets-encryption-covers-configmaps"), Fail);
    for (name, wanted) in
        [("aescbckey-2026-01-01T00:00:00Z", Pass), ("aescbckey-2024-01-01T00:00:00+01:00", Fail), ("aescbckey", Pass)]
    {
        snap.encryption_configs.insert(path.clone(), Observation::from(parse(&aescbc(name))));
        assert_eq!(status(&snap, "secrets-encryption-key-age"), wanted, "{name}");
    }
    let state = |stage: &str, sha: &str, days| {
        Observation::from(EncryptionState { stage: stage.to_owned(), sha256: sha.repeat(32), mtime: Some(ago(days)) })
    };
    snap.encryption_state = state("start", "cd", 1);
    assert_eq!(status(&snap, "secrets-encryption-hash-matches"), Fail);
    snap.encryption_state = state("rotate", "cd", 0);
    assert_eq!(status(&snap, "secrets-encryption-hash-matches"), NotApplicable);
    assert_eq!(status(&snap, "secrets-encryption-stage-stable"), Pass, "within the grace");
    snap.encryption_state = state("rotate", "cd", 2);
    assert_eq!(status(&snap, "secrets-encryption-stage-stable"), Fail);

    set_option(&mut snap, "kube-apiserver-arg", &["encryption-provider-config=/x.json"]);
    assert_eq!(status(&snap, "k3s-encryption-config-not-overridden"), Fail);

    let strong = "apiserver-encryption-provider-strong";
    snap.encryption_configs.insert(path.clone(), Observation::from(parse(&aescbc("k"))));
    let mut off = snap.clone();
    set_flag(&mut off, "kube-apiserver", "encryption-provider-config", &[]);
    assert_eq!(status(&off, strong), Fail, "a file nobody reads encrypts nothing");
    set_flag(&mut off, "kube-apiserver", "encryption-provider-config", &["/etc/enc.yaml"]);
    folder(&mut off, "/etc");
    off.files.insert("/etc/enc.yaml".to_owned(), Observation::Absent);
    assert_eq!(status(&off, strong), Unknown, "a file that is named and missing");
    snap.files.insert(path, Observation::Absent);
    assert_eq!(status(&snap, strong), Fail, "no file");
    assert_eq!(status(&snap, "secrets-encryption-key-age"), NotApplicable);
}

#[test]
fn kernel_parameters() {
    let mut snap = server();
    for (value, wanted) in [("10", Pass), (" 10\n", Pass), ("20", Fail)] {
        snap.sysctls.insert("kernel.panic".to_owned(), Observation::from(value.to_owned()));
        assert_eq!(status(&snap, "sysctl-kernel-panic"), wanted, "{value:?}");
    }
    snap.sysctls.insert("kernel.panic".to_owned(), Observation::Absent);
    assert_eq!(status(&snap, "sysctl-kernel-panic"), Fail);
    snap.sysctls.insert("net.bridge.bridge-nf-call-iptables".to_owned(), Observation::Absent);
    assert_eq!(status(&snap, "sysctl-bridge-nf-call-iptables"), NotApplicable);
    let mut persisted = PersistedSysctls::from_files([("/etc/sysctl.d/a.conf", &b"kernel.panic=10\n"[..])]);
    snap.persisted_sysctls = Observation::from(persisted.clone());
    let verdicts = evaluate(&snap, &policy());
    let seen: Vec<(&str, Status)> =
        rows(&verdicts, "sysctl-persisted").iter().map(|v| (v.subject.as_str(), v.status)).collect();
    assert_eq!(
        seen,
        [
            ("kernel.panic", Pass),
            ("kernel.panic_on_oops", Fail),
            ("vm.overcommit_memory", Fail),
            ("vm.panic_on_oom", Fail)
        ]
    );
    persisted.unreadable.push(("/etc/sysctl.d/z.conf".to_owned(), "permission denied".to_owned()));
    snap.persisted_sysctls = Observation::from(persisted);
    assert_eq!(status(&snap, "sysctl-persisted"), Unknown);
    set_option(&mut snap, "disable-agent", &["true"]);
    assert_eq!(status(&snap, "sysctl-kernel-panic"), NotApplicable, "no kubelet");
}

#[test]
fn what_keeps_k3s_down_after_a_reboot_is_high() {
    let mut snap = server();
    snap.persisted_sysctls = Observation::from(PersistedSysctls::default());
    let severity = |snap: &Snapshot| rows(&evaluate(snap, &policy()), "sysctl-persisted")[0].severity;
    assert_eq!(severity(&snap), picket_model::Severity::High);
    set_option(&mut snap, "protect-kernel-defaults", &[]);
    assert_eq!(severity(&snap), picket_model::Severity::Medium);
}

#[test]
fn the_kubelet_takes_flags_before_drop_ins() {
    let dropin = |text: serde_json::Value| Observation::from(text);
    let weak = format!("{DATA}/agent/etc/kubelet.conf.d/50-weaken.conf");
    let mut snap = server();
    snap.kubelet_dropins
        .insert(weak.clone(), dropin(serde_json::json!({"authentication": {"anonymous": {"enabled": true}}})));
    assert_eq!(status(&snap, "kubelet-anonymous-auth"), Fail);
    assert_eq!(status(&snap, "kubelet-authn-webhook"), Pass, "maps merge key by key");
    assert_eq!(status(&snap, "kubelet-dropin-no-security-override"), Fail);
    set_flag(&mut snap, "kubelet", "anonymous-auth", &["false"]);
    assert_eq!(status(&snap, "kubelet-anonymous-auth"), Pass);
    snap.kubelet_dropins.insert(weak.clone(), dropin(serde_json::json!({"authorization": null})));
    assert_eq!(status(&snap, "kubelet-authz-webhook"), Fail, "a null removes the key");
    snap.kubelet_dropins.insert(
        weak.clone(),
        dropin(serde_json::json!({"maxPods": 50, "featureGates": {"RotateKubeletServerCertificate": false}})),
    );
    assert_eq!(status(&snap, "kubelet-rotate-server-cert-gate"), Fail);
    snap.kubelet_dropins.insert(weak, dropin(serde_json::json!({"maxPods": 50})));
    assert_eq!(status(&snap, "kubelet-dropin-no-security-override"), Pass);
    set_flag(&mut snap, "kubelet", "streaming-connection-idle-timeout", &["0s"]);
    assert_eq!(status(&snap, "kubelet-streaming-timeout"), Fail);
    set_flag(&mut snap, "kubelet", "feature-gates", &["X=true,RotateKubeletServerCertificate=true"]);
    assert_eq!(status(&snap, "kubelet-rotate-server-cert-gate"), Pass);
    set_flag(&mut snap, "kubelet", "pod-max-pids", &["-1"]);
    assert_eq!(status(&snap, "kubelet-pod-pids-limit"), Fail);
    snap.kubelet_dropins.clear();
    assert_eq!(status(&snap, "kubelet-authz-webhook"), Unknown, "the kubelet has not written its defaults");
    set_option(&mut snap, "disable-agent", &["true"]);
    assert_eq!(status(&snap, "kubelet-authz-webhook"), NotApplicable);
}

#[test]
fn options_of_k3s() {
    for (name, values, control, wanted) in [
        ("secrets-encryption", &["false"][..], "k3s-secrets-encryption-flag", Fail),
        ("secrets-encryption", &[], "k3s-secrets-encryption-flag", Fail),
        ("disable-network-policy", &["true"], "k3s-network-policy-controller", Fail),
        ("disable-network-policy", &["perhaps"], "k3s-network-policy-controller", Unknown),
        ("disable", &["traefik"], "k3s-disable-servicelb", Fail),
        ("tls-san-security", &["false"], "k3s-tls-san-security", Fail),
        ("config", &["HTTP://example.com/config"], "k3s-config-not-plain-http", Fail),
        ("write-kubeconfig-mode", &["644"], "k3s-write-kubeconfig-mode", Fail),
        ("write-kubeconfig-mode", &["0600"], "k3s-write-kubeconfig-mode", Pass),
        ("write-kubeconfig-mode", &["420"], "k3s-write-kubeconfig-mode", Fail),
        // K3s logs an error, and the file keeps 0600.
        ("write-kubeconfig-mode", &["384"], "k3s-write-kubeconfig-mode", Pass),
        ("write-kubeconfig-mode", &["0o644"], "k3s-write-kubeconfig-mode", Pass),
        ("write-kubeconfig-mode", &["rw"], "k3s-write-kubeconfig-mode", Pass),
        ("write-kubeconfig-mode", &[""], "k3s-write-kubeconfig-mode", Pass),
        ("etcd-s3-secret-key", &[Setting::HIDDEN], "k3s-etcd-s3-credentials", Fail),
        ("etcd-s3-insecure", &["true"], "k3s-etcd-s3-tls", Fail),
        ("protect-kernel-defaults", &[], "kubelet-protect-kernel-defaults", Fail),
        ("selinux", &[], "k3s-selinux", Fail),
    ] {
        let mut snap = server();
        set_option(&mut snap, name, values);
        assert_eq!(status(&snap, control), wanted, "{name} {values:?}");
    }
    let mut snap = server();
    set_flag(&mut snap, "kube-proxy", "metrics-bind-address", &["0.0.0.0:10249"]);
    assert_eq!(status(&snap, "kubeproxy-metrics-loopback"), Fail);
    set_option(&mut snap, "disable-kube-proxy", &["true"]);
    assert_eq!(status(&snap, "kubeproxy-metrics-loopback"), NotApplicable);
}

#[test]
fn what_k3s_would_refuse_is_no_pass() {
    let mut snap = server();
    configure(&mut snap, |c| c.problems.push(Evidence::at("/etc/rancher/k3s/config.yaml", "a list at the top")));
    assert_eq!(status(&snap, "apiserver-profiling-off"), Unknown);
    set_flag(&mut snap, "kube-apiserver", "profiling", &["true"]);
    assert_eq!(status(&snap, "apiserver-profiling-off"), Fail);
}

#[test]
fn declared_and_running_are_two_things() {
    let mut snap = server();
    let good = snap.declared.clone();
    let verdict = |snap: &Snapshot| {
        let verdicts = evaluate(snap, &policy());
        let row = rows(&verdicts, "apiserver-profiling-off")[0];
        (row.status, row.state, row.observed.clone())
    };
    assert_eq!(verdict(&snap).1, Some(State::Declared), "nothing is known of the running process");
    // A pass by what a running K3s may not have read says so; without a process there is nothing to say it of.
    for (started, says) in [(Observation::from(snap.at), true), (Observation::Absent, false)] {
        snap.k3s_started_at = started;
        let (status, _, observed) = verdict(&snap);
        assert_eq!((status, observed.contains("the K3s that runs was started with it is not known")), (Pass, says));
    }
    snap.k3s_started_at = server().k3s_started_at;
    snap.running = good.clone();
    assert_eq!((verdict(&snap).0, verdict(&snap).1), (Pass, Some(State::Both)));
    set_flag(&mut snap, "kube-apiserver", "profiling", &["true"]);
    let (status, state, observed) = verdict(&snap);
    assert_eq!((status, state), (Fail, Some(State::Declared)));
    assert!(observed.contains("in force until the next start: false"), "{observed}");
    std::mem::swap(&mut snap.declared, &mut snap.running);
    let (status, state, observed) = verdict(&snap);
    assert_eq!((status, state), (Fail, Some(State::Running)));
    assert!(observed.contains("waits for a restart"), "{observed}");
}

#[test]
fn preconditions() {
    let mut snap = server();
    assert_eq!(status(&snap, "k3s-flannel-encrypted"), Unknown);
    for path in ["/server/db/etcd", "/server/db/etcd/member"] {
        snap.files.insert(format!("{DATA}{path}"), Observation::Absent);
    }
    set_option(&mut snap, "cluster-init", &[]);
    assert_eq!(status(&snap, "etcd-client-cert-auth"), Pass, "a joined server without an endpoint runs etcd");
    set_option(&mut snap, "server", &[]);
    assert_eq!(status(&snap, "etcd-client-cert-auth"), NotApplicable);
    assert_eq!(status(&snap, "k3s-sqlite-files"), Pass);
    snap.files.insert(format!("{DATA}/server/db/state.db"), Observation::unreadable("permission denied"));
    assert_eq!(status(&snap, "k3s-sqlite-files"), Unknown);
    snap.files.insert(format!("{DATA}/server/db/state.db"), Observation::Absent);
    assert_eq!(status(&snap, "k3s-datastore-tls"), NotApplicable);
    set_option(&mut snap, "datastore-endpoint", &["postgres://u:p@db/k3s?sslmode=disable"]);
    let verdicts = evaluate(&snap, &policy());
    let row = rows(&verdicts, "k3s-datastore-tls")[0];
    assert_eq!(row.status, Fail);
    assert!(!format!("{row:?}").contains("u:p"), "the password of the endpoint is never repeated");
    // A file of former days says nothing against an endpoint.
    let db = format!("{DATA}/server/db/state.db");
    snap.files.insert(db.clone(), server().files.remove(&db).unwrap());
    for (endpoint, tls, files, words) in [
        ("mysql://u:p@tcp(h:3306)/k", Fail, NotApplicable, "an external datastore"),
        ("sqlite:///x", NotApplicable, Pass, "SQLite"),
        ("", NotApplicable, Pass, "SQLite"),
    ] {
        set_option(&mut snap, "datastore-endpoint", &[endpoint]);
        assert_eq!(status(&snap, "k3s-datastore-tls"), tls, "{endpoint}");
        assert_eq!(status(&snap, "k3s-sqlite-files"), files, "{endpoint}");
        assert_eq!(rows(&evaluate(&snap, &policy()), "k3s-datastore-known")[0].observed, words, "{endpoint}");
    }

    let mut snap = server();
    set_option(&mut snap, "disable-cloud-controller", &["true"]);
    assert_eq!(status(&snap, "ccm-profiling-off"), NotApplicable, "servicelb is off too");
    set_option(&mut snap, "disable", &["traefik"]);
    assert_eq!(status(&snap, "ccm-profiling-off"), Pass);
    snap.selinux_enforcing = Observation::Absent;
    assert_eq!(status(&snap, "k3s-selinux"), NotApplicable);
    snap.selinux_enforcing = Observation::unreadable("no /sys");
    assert_eq!(status(&snap, "k3s-selinux"), Unknown);
    snap.k3s_version = None;
    assert_eq!(status(&snap, "kubelet-config-mode"), Pass, "the folder is proof enough");
    let folder = format!("{DATA}/agent/etc/kubelet.conf.d");
    snap.files.insert(folder, Observation::Absent);
    assert_eq!(status(&snap, "kubelet-config-mode"), Unknown);
    snap.k3s_version = Some("v1.31.4+k3s1".to_owned());
    assert_eq!(status(&snap, "kubelet-config-mode"), NotApplicable);
}

#[test]
fn an_agent_gives_no_row_for_the_cluster_and_none_of_a_servers() {
    let verdicts = evaluate(&node(Role::Agent), &policy());
    assert!(rows(&verdicts, "pss-privileged").is_empty());
    assert_eq!(rows(&verdicts, "apiserver-profiling-off")[0].status, NotApplicable);
    assert_eq!(rows(&verdicts, "podspec-etcd-mode").len(), 1);
    let server = evaluate(&server(), &policy());
    assert_eq!(rows(&server, "pss-privileged")[0].status, Unknown);
    assert_eq!(rows(&server, "rbac-create-pv")[0].status, Status::Manual);
    assert_eq!(rows(&server, "k3s-rootless")[0].status, Status::Manual);
}

#[test]
fn another_data_dir_is_followed_everywhere() {
    let mut snap = server();
    snap.data_dir = "/srv/k3s".to_owned();
    let verdicts = evaluate(&snap, &policy());
    assert!(
        verdicts.iter().all(|v| !v.subject.contains("/var/lib/rancher/k3s/server/tls")),
        "a subject kept the default"
    );
    assert!(verdicts.iter().all(|v| !v.remedy.contains("/var/lib/rancher/k3s")));
}

#[test]
fn registries() {
    let mut snap = server();
    let parsed = Registries::parse(
        b"mirrors:\n  docker.io:\n    endpoint: ['http://u:p@mirror:5000/x']\nconfigs:\n  mirror:5000:\n    auth: {password: geheim}\n    tls: {insecure_skip_verify: true}\n",
    )
    .unwrap();
    assert!(!format!("{parsed:?}").contains("geheim") && !format!("{parsed:?}").contains("u:p"));
    snap.registries = Observation::from(parsed);
    let verdicts = evaluate(&snap, &policy());
    assert_eq!(rows(&verdicts, "registries-tls-verified").iter().filter(|v| v.status == Fail).count(), 2);
    snap.registries = Observation::Absent;
    assert_eq!(status(&snap, "registries-tls-verified"), NotApplicable);
}

#[test]
fn etcd_reads_both_places() {
    let mut snap = server();
    let Observation::Value { value } = &mut snap.etcd_config else { panic!() };
    value["auto-tls"] = true.into();
    assert_eq!(status(&snap, "etcd-no-auto-tls"), Fail);
    assert_eq!(status(&snap, "etcd-no-peer-auto-tls"), Pass);
    let Observation::Value { value } = &mut snap.etcd_config else { panic!() };
    value["peer-transport-security"]["client-cert-auth"] = false.into();
    assert_eq!(status(&snap, "etcd-peer-client-cert-auth"), Fail);
    value_of(&mut snap)["peer-transport-security"]["cert-file"] = "/elsewhere.crt".into();
    assert_eq!(status(&snap, "etcd-peer-tls-pair"), Fail);
}

fn value_of(snap: &mut Snapshot) -> &mut serde_json::Value {
    match &mut snap.etcd_config {
        Observation::Value { value } => value,
        _ => panic!("no configuration"),
    }
}
