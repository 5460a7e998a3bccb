//! Documents of strangers: no input makes a parser panic, and no secret gets out of one.

use picket_checks::*;
use proptest::prelude::*;

#[test]
fn keys_of_an_encryption_configuration_are_dropped() {
    let text = br#"{"kind":"EncryptionConfiguration","resources":[{"resources":["secrets"],"providers":[{"aescbc":{"keys":[{"name":"aescbckey-2025-12-10T22:54:38Z","secret":"cGlja2V0LXRlc3Qta2V5LTAwMDAwMDAwMDAwMDAwMDE="},{"name":"aescbckey","secret":"cGlja2V0LXRlc3Qta2V5LTAwMDAwMDAwMDAwMDAwMDI="}]}},{"identity":{}}]}]}"#;
    let config = EncryptionConfig::parse(text).unwrap();
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("cGlja2V0LXRlc3Qta2V5LTAwMDAwMDAwMDAwMDAwMDE=")
            && !shown.contains("cGlja2V0LXRlc3Qta2V5LTAwMDAwMDAwMDAwMDAwMDI=")
    );
    let group = config.group_for("secrets").unwrap();
    assert_eq!(group.providers[0].key_names, ["aescbckey-2025-12-10T22:54:38Z", "aescbckey"]);
    assert_eq!(group.providers[1].kind, "identity");
}

#[test]
fn a_key_the_api_server_cannot_use_makes_no_configuration() {
    let parse = |kind: &str, secret: &str| {
        EncryptionConfig::parse(
            format!(
                r#"{{"kind":"EncryptionConfiguration","resources":[{{"resources":["secrets"],"providers":[{{"{kind}":{{"keys":[{{"name":"k","secret":{secret}}}]}}}}]}}]}}"#
            )
            .as_bytes(),
        )
    };
    let (b16, b24) = ("cGlja2V0LXRlc3Qta2V5MQ==", "cGlja2V0LXRlc3Qta2V5LTAwMDAwMDAx");
    let b32 = "cGlja2V0LXRlc3Qta2V5LTAwMDAwMDAwMDAwMDAwMDE=";
    for (kind, secret, good) in [
        ("aescbc", b16, true),
        ("aescbc", b24, true),
        ("aesgcm", b32, true),
        ("secretbox", b32, true),
        ("secretbox", b24, false),
        ("aescbc", "YWJj", false),
        ("aescbc", "***", false),
        ("aescbc", "", false),
        ("aesgcm", &b32[..42], false),
    ] {
        let parsed = parse(kind, &format!("{secret:?}"));
        assert_eq!(parsed.is_ok(), good, "{kind} {secret}");
        if let Err(error) = parsed {
            assert!(secret.is_empty() || !error.to_string().contains(secret), "{error}");
        }
    }
    assert!(parse("aescbc", "null").is_err());
    assert!(parse("kms", "null").is_ok());
}

#[test]
fn errors_never_repeat_what_a_document_says() {
    let text = br#"{"kind":"EncryptionConfiguration","resources":[{"secret":"Z2VoZWlt" "#;
    let error = EncryptionConfig::parse(text).unwrap_err();
    assert!(!error.to_string().contains("Z2VoZWlt"), "{error}");
}

#[test]
fn the_state_file_is_one_line() {
    let hash = "be0b0e182cb247321936187396ddd8035187f650225599b6aed28bd513a4c117";
    let state = EncryptionState::parse(format!("reencrypt_finished-{hash}").as_bytes()).unwrap();
    assert_eq!((state.stage.as_str(), state.sha256.as_str()), ("reencrypt_finished", hash));
    for bad in ["", "start", "start-", "start-abc", "{}", "-be0b"] {
        assert!(EncryptionState::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn an_audit_policy_must_be_one() {
    for bad in
        ["", "- a", "kind: Policy", "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Loud}]", "{", "\u{0}"]
    {
        assert!(AuditPolicy::parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
    let policy = AuditPolicy::parse(b"apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Request, verbs: [get]}]").unwrap();
    assert_eq!((policy.rules[0].level, policy.rules[0].omit_stages.len()), (Level::Request, 1));
}

#[test]
fn the_first_of_several_documents_counts() {
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n";
    let alone = AuditPolicy::parse(policy.as_bytes()).unwrap();
    for (before, after) in [
        ("", "---\n"),
        ("", "...\n"),
        ("", "---\nkind: Other\n"),
        ("", "--- {kind: Other}\n"),
        ("", "...\n{ what [ever\n"),
        ("", "---\r\na: [\n"),
        ("---\n", "---\n"),
        ("\u{feff}---\n", "---\n"),
        ("# a comment\n\n--- # another\n", "---\nrules: []\n"),
        ("%YAML 1.1\n---\n", "...\n"),
    ] {
        let text = format!("{before}{policy}{after}");
        assert_eq!(AuditPolicy::parse(text.as_bytes()), Ok(alone.clone()), "{text:?}");
    }
    // The first one is empty.
    for before in ["---\n---\n", "--- # nothing\n---\n", "---\n...\n", "null\n---\n"] {
        assert!(AuditPolicy::parse(format!("{before}{policy}").as_bytes()).is_err(), "{before:?}");
    }
    // No marker: text that goes on.
    for after in ["----\n", " ---\n", "---a\n"] {
        assert_ne!(AuditPolicy::parse(format!("{policy}{after}").as_bytes()), Ok(alone.clone()), "{after:?}");
    }
}

#[test]
fn a_section_on_pods_has_to_say_what_it_is() {
    let parse = |head: &str| {
        let text = format!(
            "kind: AdmissionConfiguration\nplugins:\n- name: PodSecurity\n  configuration:\n    {head}defaults: {{enforce: baseline}}\n"
        );
        AdmissionConfig::parse(text.as_bytes()).map(|config| config.pod_security.unwrap().defaults["enforce"].clone())
    };
    let version = "apiVersion: pod-security.admission.config.k8s.io/v1\n    ";
    assert_eq!(parse(&format!("{version}kind: PodSecurityConfiguration\n    ")), Ok("baseline".to_owned()));
    let wrong = format!("{version}kind: PodSecurityPolicy\n    ");
    let other = "apiVersion: policy/v1\n    kind: PodSecurityConfiguration\n    ";
    for head in ["", version, "kind: PodSecurityConfiguration\n    ", &wrong, other] {
        assert!(parse(head).is_err(), "{head:?}");
    }
}

#[test]
fn an_authentication_file_with_a_key_that_is_not_known_is_refused() {
    let parse =
        |rest: &str| AuthenticationConfig::parse(format!("kind: AuthenticationConfiguration\n{rest}\n").as_bytes());
    for good in
        ["", "jwt: []", "anonymous: {enabled: false}", "anonymous: {enabled: true, conditions: [{path: /livez}]}"]
    {
        assert!(parse(good).is_ok(), "{good}");
    }
    for bad in
        ["anonymous: {enable: false}", "anonymous: {conditions: [{path: /a, x: y}]}", "anonimous: {}", "anonymous: x"]
    {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn documents_have_a_largest_size() {
    let huge = vec![b' '; MAX_DOCUMENT + 1];
    assert!(matches!(parse_yaml_map(&huge), Err(DocumentError::TooLarge { .. })));
}

#[test]
fn depth_and_aliases_do_not_hang_a_parser() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse_yaml_map(deep.as_bytes()).is_err());
    let deep_json = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse_yaml_map(deep_json.as_bytes()).is_err());
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let alias = format!("*a{}", i - 1);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![alias; 10].join(",")));
    }
    assert!(parse_yaml_map(bomb.as_bytes()).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = AuditPolicy::parse(&bytes);
        let _ = EncryptionConfig::parse(&bytes);
        let _ = EncryptionState::parse(&bytes);
        AuditEntries::default().add(&bytes, "/audit.log", 1);
        let _ = AdmissionConfig::parse(&bytes);
        let _ = AuthenticationConfig::parse(&bytes);
        let _ = AuthorizationConfig::parse(&bytes);
        let _ = Registries::parse(&bytes);
        let sysctls = PersistedSysctls::from_files([("/etc/sysctl.d/a.conf", bytes.as_slice())]);
        let _ = sysctls.get("kernel.panic");
    }

    #[test]
    fn arbitrary_text_in_a_document_never_panics(text in "(kind|rules|level|resources|providers|- |: |\\{|\\}|\\[|\\]|\n|  |a|\\*|&|'|\"){0,80}") {
        let _ = AuditPolicy::parse(format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{text}").as_bytes());
        let _ = EncryptionConfig::parse(format!("kind: EncryptionConfiguration\n{text}").as_bytes());
        let _ = AdmissionConfig::parse(format!("kind: AdmissionConfiguration\n{text}").as_bytes());
    }

    #[test]
    fn sysctl_lines_never_panic_and_the_last_plain_one_wins(
        lines in proptest::collection::vec("[-#;]?[a-z./*\\[\\]?]{0,12} ?=? ?[0-9a-z\t ]{0,6}", 0..30),
        value in 0..100u32,
    ) {
        let text = format!("{}\nkernel.panic = {value}\n", lines.join("\n"));
        let sysctls = PersistedSysctls::from_files([("/etc/sysctl.d/a.conf", text.as_bytes())]);
        prop_assert_eq!(sysctls.get("kernel.panic").map(|v| v.value.clone()), Some(value.to_string()));
    }
}

#[test]
fn an_entry_behind_a_cut_one_or_other_bytes_is_counted() {
    let whole = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"1","objectRef":{"resource":"secrets"},"requestObject":{"data":{}}}"#;
    let cut = &whole[..100];
    for (before, malformed) in [(cut, 1), ("\u{feff}", 1), ("junk ", 1), ("\0\0", 0), (r#"{"auditID":"0"}"#, 0)] {
        let mut entries = AuditEntries::default();
        entries.add(format!("{before}{whole}\0\0{whole}").as_bytes(), "/audit.log", 1);
        assert_eq!((entries.secret_bodies.count, entries.malformed), (2, malformed), "{before:?}");
    }
}

#[test]
fn entries_of_an_audit_log_are_counted_without_their_bodies() {
    let mut entries = AuditEntries::default();
    for (n, line) in [
        r#"{"auditID":"1","user":{"username":"a"},"objectRef":{"resource":"secrets"},"requestObject":{"data":{"k":"Z2VoZWlt"}}}"#,
        r#"{"auditID":"2","user":{"username":"a"},"objectRef":{"resource":"secrets"}}"#,
        r#"{"auditID":"3","user":{"username":"a"},"objectRef":{"resource":"serviceaccounts","subresource":"token"},"responseObject":{}}"#,
        r#"{"auditID":"4","user":{"username":"system:admin","groups":["system:masters"]},"sourceIPs":["127.0.0.1","192.0.2.7"]}"#,
        r#"{"auditID":"5","user":{"username":"system:admin","groups":["system:masters"]},"sourceIPs":["192.0.2.7","10.0.0.1"]}"#,
        r#"{"auditID":"6","user":{"username":"system:anonymous"},"requestURI":"/api?x=1","responseStatus":{"code":200}}"#,
        r#"{"auditID":"7","user":{"username":"system:anonymous"},"requestURI":"/apis","responseStatus":{"code":403}}"#,
        r#"{"auditID":"8","user":{"username":"system:apiserver","groups":["system:masters"]},"sourceIPs":["192.0.2.9"]}"#,
        r#"{"auditID":"9","user":{"username":"system:admin","groups":["system:masters"]},"sourceIPs":["::1"]}{"auditID":"10"}"#,
        "\0\0{\"auditID\":\"11\"}",
        "half a li",
        "{\"objectRef\":{\"resource\":\"secrets\"}}",
    ]
    .iter()
    .enumerate()
    {
        entries.add(line.as_bytes(), "/audit.log", u32::try_from(n).unwrap() + 1);
    }
    assert_eq!((entries.total, entries.malformed), (11, 2));
    assert_eq!(entries.secret_bodies.count, 2);
    let from: Vec<_> =
        entries.masters.iter().map(|(ip, c)| (ip.to_string(), c.count, c.first.as_ref().unwrap().line)).collect();
    assert_eq!(from, [("10.0.0.1".to_owned(), 1, Some(5)), ("192.0.2.7".to_owned(), 1, Some(4))]);
    assert_eq!(entries.anonymous_allowed, ["/api"]);
    assert!(!format!("{entries:?}").contains("Z2VoZWlt"));
    let mut more = AuditEntries::default();
    for n in 0..200 {
        let line = format!(
            r#"{{"auditID":"a","user":{{"groups":["system:masters"],"username":"system:anonymous"}},"sourceIPs":["10.0.1.{n}"],"requestURI":"/healthz/{n}","responseStatus":{{"code":200}}}}"#
        );
        more.add(line.as_bytes(), "/audit.log", n + 1);
    }
    assert_eq!((more.masters.len(), more.masters_elsewhere, more.anonymous_allowed.len()), (100, 100, 100));
    assert!(more.unread.is_some(), "what did not fit is not forgotten");
    entries.merge(&more);
    assert_eq!((entries.total, entries.masters.len(), entries.masters_elsewhere), (211, 100, 102));
}
