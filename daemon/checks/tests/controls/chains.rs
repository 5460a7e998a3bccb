//! Who signed a certificate, judged: in its bundle, and by the CA on disk.

use picket_checks::*;
use picket_model::{Observation, Role, Status, Verdict};

use crate::good::{DATA, certificate, node, policy, rows, sign};

const BUNDLE: &str = "cert-issuer-in-bundle";
const BY_CA: &str = "cert-signed-by-ca";

fn tls(name: &str) -> String {
    format!("{DATA}/server/tls/{name}")
}

fn cert(name: &str, issuer: &str, is_ca: bool) -> CertFacts {
    let facts = certificate(name, 0);
    CertFacts { subject: name.to_owned(), issuer: issuer.to_owned(), is_ca, ..facts }
}

/// The row about a file, after the certificates of a bundle took its place and everybody was signed.
fn judged(control: &str, path: &str, list: Vec<CertFacts>, change: impl FnOnce(&mut Snapshot)) -> Verdict {
    let mut snap = node(Role::Server);
    let list = list.into_iter().zip(0..).map(|(c, index)| CertFacts { index, ..c }).collect::<Vec<_>>();
    snap.certificates.insert(path.to_owned(), Observation::from(list));
    sign(&mut snap);
    change(&mut snap);
    let verdicts = evaluate(&snap, &policy());
    let all = rows(&verdicts, control);
    (*all.iter().find(|v| v.subject == path).unwrap_or_else(|| panic!("{control}: {all:#?}"))).clone()
}

fn forge(snap: &mut Snapshot, path: &str, index: usize, made_it: Option<bool>) {
    let Some(Observation::Value { value }) = snap.certificates.get_mut(path) else { panic!("{path}") };
    value[index].signers.iter_mut().for_each(|signer| signer.made_it = made_it);
}

#[test]
fn a_chain_of_custom_cas_is_followed_by_signature() {
    let path = tls("serving-kube-apiserver.crt");
    let chain = || {
        vec![
            cert("CN=kube-apiserver", "CN=issuing", false),
            cert("CN=issuing", "CN=intermediate", true),
            cert("CN=intermediate", "CN=root", true),
            cert("CN=root", "CN=root", true),
        ]
    };
    let row = judged(BUNDLE, &path, chain(), |_| {});
    assert_eq!(row.status, Status::Pass, "{row:?}");
    assert!(row.observed.contains("signed by CN=issuing, signed by CN=intermediate, signed by CN=root"), "{row:?}");
    // A signature of another key breaks it at any step, whatever the names say.
    for index in 0..4 {
        let row = judged(BUNDLE, &path, chain(), |snap| forge(snap, &path, index, Some(false)));
        assert!(row.status == Status::Fail && row.observed.contains("did not sign it"), "{index} {row:?}");
        let row = judged(BUNDLE, &path, chain(), |snap| forge(snap, &path, index, None));
        assert!(row.status == Status::Unknown && row.observed.contains("cannot be checked"), "{index} {row:?}");
    }
    // The chain may end at a CA whose issuer is elsewhere; not at the leaf.
    let mut short = chain();
    short.truncate(3);
    assert_eq!(judged(BUNDLE, &path, short, |_| {}).status, Status::Pass);
    let mut torn = chain();
    torn.remove(1);
    assert_eq!(judged(BUNDLE, &path, torn, |_| {}).status, Status::Fail);
    // The order of the CAs is not what counts, and neither is a CA that stands twice.
    let mut mixed = chain();
    mixed.swap(1, 3);
    mixed.push(mixed[1].clone());
    assert_eq!(judged(BUNDLE, &path, mixed, |_| {}).status, Status::Pass);
}

#[test]
fn cross_signed_cas_of_a_rotation_are_a_chain() {
    // What rotating the default CAs makes: the new CA, the same key signed by the old one, and the old one.
    let path = tls("client-ca.crt");
    let new = cert("CN=ca@2", "CN=ca@2", true);
    let crossed = CertFacts { issuer: "CN=ca@1".to_owned(), ..new.clone() };
    let old = cert("CN=ca@1", "CN=ca@1", true);
    let row = judged(BUNDLE, &path, vec![new.clone(), crossed.clone(), old.clone()], |_| {});
    assert_eq!(row.status, Status::Pass, "{row:?}");
    // Two CAs that signed each other end somewhere too.
    let first = CertFacts { issuer: "CN=ca@2".to_owned(), ..old };
    let row = judged(BUNDLE, &path, vec![crossed, first], |_| {});
    assert_eq!(row.status, Status::Pass, "{row:?}");
}

#[test]
fn a_leaf_is_signed_by_the_ca_on_disk() {
    let path = tls("client-x.crt");
    let leaf = || vec![cert("CN=system:admin", "CN=k3s-ca", false)];
    assert_eq!(judged(BY_CA, &path, leaf(), |_| {}).status, Status::Pass);
    // The CA was made anew under the old name.
    let row = judged(BY_CA, &path, leaf(), |snap| forge(snap, &path, 0, Some(false)));
    assert!(row.status == Status::Fail && row.observed.contains("another key"), "{row:?}");
    assert!(row.evidence.iter().any(|e| e.path.as_deref() == Some(&tls("client-ca.crt"))));
    assert_eq!(judged(BY_CA, &path, leaf(), |snap| forge(snap, &path, 0, None)).status, Status::Unknown);
    // Under another name.
    let row = judged(BY_CA, &path, vec![cert("CN=system:admin", "CN=ca@1", false)], |_| {});
    assert!(row.status == Status::Fail && row.observed.contains("not in"), "{row:?}");
    // A CA that cannot be read, or is gone, is no evidence.
    for gone in [Observation::unreadable("EACCES"), Observation::Absent] {
        let row = judged(BY_CA, &path, leaf(), |snap| {
            snap.certificates.insert(tls("client-ca.crt"), gone);
        });
        assert_eq!(row.status, Status::Unknown, "{row:?}");
    }
    // An older CA that is still in the file is trusted, and said to be old.
    let row = judged(BY_CA, &path, vec![cert("CN=system:admin", "CN=ca@1", false)], |snap| {
        let cas = vec![cert("CN=ca@2", "CN=ca@2", true), cert("CN=ca@1", "CN=ca@1", true)];
        snap.certificates.insert(tls("client-ca.crt"), Observation::from(cas));
        sign(snap);
    });
    assert!(row.status == Status::Pass && row.observed.contains("no longer"), "{row:?}");
}
