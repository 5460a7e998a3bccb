//! Certificates on disk with real signatures: chains of custom CAs, and what a rotation leaves.

use base64::Engine as _;
use picket_model::Status;
use picket_tests::node::{DATA_DIR, Profile};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SignatureAlgorithm};

use crate::{Node, built_in, rows};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn params(name: &str, is_ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

fn key(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

fn root(name: &str, algorithm: &'static SignatureAlgorithm) -> Ca {
    CertifiedIssuer::self_signed(params(name, true), key(algorithm)).unwrap()
}

fn below(name: &str, algorithm: &'static SignatureAlgorithm, issuer: &Ca) -> Ca {
    CertifiedIssuer::signed_by(params(name, true), key(algorithm), issuer).unwrap()
}

/// A leaf with its key, both as PEM.
fn leaf(name: &str, algorithm: &'static SignatureAlgorithm, issuer: &Ca) -> (String, String) {
    let key = key(algorithm);
    (params(name, false).signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

fn tls(name: &str) -> String {
    format!("{DATA_DIR}/server/tls/{name}")
}

fn status(node: &Node, control: &str, file: &str) -> (Status, String) {
    let report = node.scan(&built_in());
    let row = rows(&report, control).into_iter().find(|v| v.subject.starts_with(file)).unwrap();
    (row.status, row.observed.clone())
}

#[test]
fn a_sample_node_is_signed_throughout() {
    for profile in Profile::ALL {
        let report = Node::new(profile).scan(&built_in());
        for control in ["cert-issuer-in-bundle", "cert-signed-by-ca", "cert-key-match"] {
            for row in rows(&report, control) {
                assert!(matches!(row.status, Status::Pass | Status::NotApplicable), "{profile:?} {row:?}");
            }
        }
    }
}

#[test]
fn every_kind_of_key_signs_a_chain() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let node = Node::new(Profile::DefaultServer);
        let root = root("my root", algorithm);
        let middle = below("my intermediate", algorithm, &root);
        let issuing = below("my server-ca", algorithm, &middle);
        let (certificate, private) = leaf("kube-apiserver", algorithm, &issuing);
        let cas = format!("{}{}{}", issuing.pem(), middle.pem(), root.pem());
        node.sample.write(&tls("server-ca.crt"), &cas).unwrap();
        let file = tls("serving-kube-apiserver.crt");
        node.sample.write(&file, format!("{certificate}{cas}")).unwrap();
        node.sample.write(&tls("serving-kube-apiserver.key"), private).unwrap();
        let (is, said) = status(&node, "cert-issuer-in-bundle", &file);
        assert_eq!(is, Status::Pass, "{said}");
        assert!(said.contains("CN=my server-ca, signed by CN=my intermediate, signed by CN=my root"), "{said}");
        assert_eq!(status(&node, "cert-issuer-in-bundle", &tls("server-ca.crt")).0, Status::Pass);
        assert_eq!(status(&node, "cert-signed-by-ca", &file).0, Status::Pass);
        assert_eq!(status(&node, "cert-key-match", &file).0, Status::Pass);

        // The intermediate is made anew under its old name: names fit, signatures do not.
        let other = below("my intermediate", algorithm, &root);
        let mixed = format!("{}{}{}", issuing.pem(), other.pem(), root.pem());
        node.sample.write(&file, format!("{certificate}{mixed}")).unwrap();
        let (is, said) = status(&node, "cert-issuer-in-bundle", &file);
        assert!(is == Status::Fail && said.contains("did not sign"), "{said}");
        // So is the CA that signs.
        let other = below("my server-ca", algorithm, &middle);
        node.sample.write(&tls("server-ca.crt"), format!("{}{}{}", other.pem(), middle.pem(), root.pem())).unwrap();
        let (is, said) = status(&node, "cert-signed-by-ca", &file);
        assert!(is == Status::Fail && said.contains("another key"), "{said}");
    }
}

#[test]
fn the_old_ca_of_a_rotation_is_trusted_while_it_stands_in_the_file() {
    let node = Node::new(Profile::DefaultServer);
    let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
    let (old, new) = (root("k3s-client-ca@1", algorithm), root("k3s-client-ca@2", algorithm));
    let crossed = params("k3s-client-ca@2", true).signed_by(new.key(), &old).unwrap();
    let (certificate, _) = leaf("system:admin", algorithm, &old);
    let file = tls("client-admin.crt");
    node.sample.write(&file, &certificate).unwrap();
    let ca = tls("client-ca.crt");
    node.sample.write(&ca, format!("{}{}{}", new.pem(), crossed.pem(), old.pem())).unwrap();
    assert_eq!(status(&node, "cert-issuer-in-bundle", &ca).0, Status::Pass);
    let (is, said) = status(&node, "cert-signed-by-ca", &file);
    assert!(is == Status::Pass && said.contains("no longer the one K3s signs with"), "{said}");
    node.sample.write(&ca, new.pem()).unwrap();
    let (is, said) = status(&node, "cert-signed-by-ca", &file);
    assert!(is == Status::Fail && said.contains("which is not in"), "{said}");
}

#[test]
fn a_damaged_signature_is_seen() {
    let node = Node::new(Profile::DefaultServer);
    let file = tls("client-admin.crt");
    let mut blocks = pem_blocks(&String::from_utf8(node.sample.read(&file).unwrap()).unwrap());
    // The last byte of DER is the signature's.
    *blocks[0].last_mut().unwrap() ^= 1;
    let text: String = blocks.iter().map(|der| encode(der)).collect();
    node.sample.write(&file, text).unwrap();
    assert_eq!(status(&node, "cert-issuer-in-bundle", &file).0, Status::Fail);
    assert_eq!(status(&node, "cert-signed-by-ca", &file).0, Status::Fail);
}

/// K3s never writes a CA first; what somebody put together by hand still ends when its leaf does.
#[test]
fn behind_a_ca_it_is_still_the_leaf_that_ends() {
    let node = Node::new(Profile::DefaultServer);
    let file = tls("client-admin.crt");
    let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
    let ca = root("k3s-client-ca", algorithm);
    let mut ended = params("system:admin", false);
    ended.not_after = rcgen::date_time_ymd(2026, 1, 1);
    ended.not_before = rcgen::date_time_ymd(2025, 1, 1);
    let ended = ended.signed_by(&key(algorithm), &ca).unwrap().pem();
    for text in [format!("{ended}{}", ca.pem()), format!("{}{ended}", ca.pem())] {
        node.sample.write(&file, text).unwrap();
        let (is, said) = status(&node, "cert-leaf-expiry-server", &file);
        assert_eq!(is, Status::Fail, "{said}");
    }
}

/// CA, certificate and key of the administrators' kubeconfig, as K3s writes it.
#[test]
fn the_kubeconfig_of_administrators_fits_the_cluster() {
    const FILE: &str = "/etc/rancher/k3s/k3s.yaml";
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    let node = Node::new(Profile::DefaultServer);
    assert_eq!(status(&node, "cert-signed-by-ca", FILE).0, Status::Pass);
    assert_eq!(status(&node, "cert-key-match", FILE).0, Status::Pass);
    let whole = String::from_utf8(node.sample.read(FILE).unwrap()).unwrap();
    let with = |name: &str, pem: &str| -> String {
        let line = |line: &str| match line.split_once(&format!("{name}: ")) {
            Some((before, _)) => format!("{before}{name}: {}\n", encode(pem)),
            None => format!("{line}\n"),
        };
        whole.lines().map(line).collect()
    };
    let algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
    let foreign = root("k3s-server-ca@1700000000", algorithm);

    node.sample.write(FILE, with("client-key-data", &key(algorithm).serialize_pem())).unwrap();
    let (is, said) = status(&node, "cert-key-match", FILE);
    assert!(is == Status::Fail && said.contains("another key"), "{said}");
    assert_eq!(status(&node, "cert-signed-by-ca", FILE).0, Status::Pass);

    node.sample.write(FILE, with("certificate-authority-data", &foreign.pem())).unwrap();
    let (is, said) = status(&node, "cert-signed-by-ca", FILE);
    assert!(is == Status::Fail && said.contains("which is not in"), "{said}");

    let (certificate, _) = leaf("system:admin", algorithm, &foreign);
    node.sample.write(FILE, with("client-certificate-data", &certificate)).unwrap();
    assert_eq!(status(&node, "cert-signed-by-ca", FILE).0, Status::Fail);
    assert_eq!(status(&node, "cert-key-match", FILE).0, Status::Fail);

    // A key that is not there proves nothing.
    node.sample.write(FILE, whole.replace("client-key-data", "client-key")).unwrap();
    assert_eq!(status(&node, "cert-key-match", FILE).0, Status::Unknown);
}

/// The environment decides the life of the next certificates; those on disk show it a year later.
#[test]
fn a_longer_life_for_new_certificates_is_seen_before_they_exist() {
    let control = "cert-validity-not-extended";
    let node = Node::new(Profile::DefaultServer);
    assert!(rows(&node.scan(&built_in()), control).iter().all(|v| v.status == Status::Pass));
    for (days, wanted) in [("3650", Status::Fail), ("90", Status::Pass)] {
        let variable = format!("CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS={days}\n");
        node.sample.write("/etc/systemd/system/k3s.service.env", variable).unwrap();
        let report = node.scan(&built_in());
        let row = rows(&report, control).into_iter().find(|v| v.subject.starts_with("CATTLE")).unwrap();
        assert_eq!(row.status, wanted, "{row:?}");
        let from = &row.evidence[0];
        let path = from.path.as_deref().unwrap();
        assert!(path.ends_with("k3s.service.env") && from.line == Some(1), "{from:?}");
    }
}

fn pem_blocks(text: &str) -> Vec<Vec<u8>> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;
    CertificateDer::pem_slice_iter(text.as_bytes()).map(|der| der.unwrap().to_vec()).collect()
}

fn encode(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
