//! Whatever stands in a node's files: nothing panics, no secret and no escape sequence comes out.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::process::Command;

use picket_checks::CertSource;
use picketd::source::{certificates, tokens};
use proptest::prelude::*;

const HOSTILE: &str = r#"token: TOPSECRET-1
agent-token: TOPSECRET-2
datastore-endpoint: "mysql://user:TOPSECRET-3@tcp(h:3306)/db"
etcd-s3-secret-key: TOPSECRET-4
etcd-s3-session-token: TOPSECRET-5
etcd-s3-access-key: TOPSECRET-6
vpn-auth: "name=tailscale,joinKey=TOPSECRET-7"
node-name: "x\u001b]0;title\u0007"
"evil\u001b[31m": "y\u001b[2J"
"#;

#[test]
fn neither_secrets_nor_escape_sequences_come_out_of_any_command() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("etc/rancher/k3s");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("config.yaml"), HOSTILE).unwrap();
    let root = dir.path().to_str().unwrap();
    let forms = ["table", "json", "csv", "sarif", "ocsf", "junit"];
    for (command, forms) in [("scan", &forms[..]), ("config", &forms[..2]), ("certs", &forms[..2])] {
        for form in forms {
            let out = Command::new(env!("CARGO_BIN_EXE_picketd")).args([command, "--root", root, "-o", form]).output();
            let out = out.unwrap();
            assert!(out.status.success(), "{command} -o {form}");
            let text = String::from_utf8(out.stdout).unwrap();
            assert!(!text.contains("TOPSECRET"), "{command} -o {form} shows a secret");
            assert!(!text.contains('\u{1b}'), "{command} -o {form} lets an escape sequence through");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn readers_of_certificates_and_tokens_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = certificates::from_pem(&bytes, CertSource::File);
        let _ = certificates::from_kubeconfig(&bytes);
        let _ = certificates::from_dynamic_cert(&bytes);
        let _ = tokens::split(&bytes);
    }

    #[test]
    fn a_block_that_is_no_certificate_is_never_one(body in prop::collection::vec(any::<u8>(), 0..300)) {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(&body);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        prop_assert!(certificates::from_pem(pem.as_bytes(), CertSource::File).is_err());
        let cut = &pem[..pem.len() - 3];
        let truncated = matches!(
            certificates::from_pem(cut.as_bytes(), CertSource::File),
            Err(certificates::BadCertificate::Truncated { line: 1 })
        );
        prop_assert!(truncated);
    }
}
