use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

fn pem(name: &str) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap().pem()
}

fn names(bytes: &[u8]) -> Vec<String> {
    from_pem(bytes, CertSource::File).unwrap().into_iter().flat_map(|c| c.facts.sans).collect()
}

#[test]
fn every_block_is_found_whatever_stands_around_it() {
    let (one, two) = (pem("one"), pem("two"));
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for text in [
        format!("{one}{two}"),
        format!("{key}{one}{key}{two}{key}"),
        format!("{one}{two}").replace('\n', "\r\n"),
        format!("# Zertifikat für den Süden\n{one}\n\n  text \n{two}").trim_end().to_owned(),
        format!("{}{two}", one.replace("\n-----END", "  \n\t\n-----END")),
        format!("{one}{}{two}", one.replace(" CERTIFICATE", " TRUSTED CERTIFICATE")),
    ] {
        assert_eq!(names(text.as_bytes()), ["one", "two"], "{text}");
    }
    let mut latin = b"# S\xfcden\n".to_vec();
    latin.extend_from_slice(one.as_bytes());
    assert_eq!(names(&latin), ["one"]);
    assert_eq!(names(format!("{one}{one}").as_bytes()), ["one", "one"]);
}

#[test]
fn what_k3s_would_not_see_is_no_certificate() {
    let one = pem("one");
    let der = STANDARD.decode(one.lines().filter(|l| !l.starts_with("---")).collect::<String>()).unwrap();
    let bad = |bytes: &[u8]| from_pem(bytes, CertSource::File).unwrap_err();
    assert_eq!(bad(b""), BadCertificate::None);
    assert_eq!(bad(&der), BadCertificate::Der);
    assert_eq!(bad(one.replace(" CERTIFICATE", " TRUSTED CERTIFICATE").as_bytes()), BadCertificate::None);
    // A byte order mark or a space hides the first block, and would make the CA behind it the leaf.
    for before in ["\u{feff}", " ", "x"] {
        assert_eq!(bad(format!("{before}{one}{}", pem("two")).as_bytes()), BadCertificate::Hidden { line: 1 });
    }
    assert_eq!(bad(&one.as_bytes()[..one.len() - 40]), BadCertificate::Truncated { line: 1 });
    let cut: Vec<&str> = one.lines().collect();
    let half = format!("{}\n{}\n{}\n", cut[0], cut[1], cut[cut.len() - 1]);
    assert_eq!(bad(half.as_bytes()), BadCertificate::NotX509 { index: 0, line: 1 });
    assert_eq!(bad(one.repeat(MOST_BLOCKS + 1).as_bytes()), BadCertificate::TooMany);
    let longer = format!("{}\n{}\n{}\n", cut[0], STANDARD.encode([&der[..], b"x"].concat()), cut[cut.len() - 1]);
    assert_eq!(bad(longer.as_bytes()), BadCertificate::NotX509 { index: 0, line: 1 });
}

#[test]
fn a_certificate_without_an_end_is_still_one() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["for.ever".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(9999, 12, 31) + std::time::Duration::from_secs(86_399);
    let text = params.self_signed(&key).unwrap().pem();
    let found = from_pem(text.as_bytes(), CertSource::File).unwrap();
    assert!(found[0].facts.not_after.to_string().starts_with("9999-12-30"), "{}", found[0].facts.not_after);
}

/// Made with `openssl req -x509 -newkey rsa:2048 -sigopt rsa_padding_mode:pss` and `-sha1`, then `-sha256`.
#[test]
fn the_hash_of_a_pss_signature_is_that_of_its_parameters() {
    let pem = include_bytes!("../../../tests/data/rsassa-pss.pem");
    let found = from_pem(pem, CertSource::File).unwrap();
    let hashes: Vec<&str> = found.iter().map(|c| c.facts.signature.as_str()).collect();
    assert_eq!(hashes, ["rsassa-pss with sha1", "rsassa-pss with sha256"]);
}
