//! Keys and certificates made at run time.

use picket_model::NodeId;
use picket_service::tls::material::{Identity, certificates_to_pem};
use picket_service::tls::peer::{TrustDomain, node_uri};
use picket_service::tls::pin::SpkiPin;
use picketd::identity::Issued;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::CertificateDer;

pub struct Pki {
    pub domain: TrustDomain,
    pub ca: CertificateDer<'static>,
    params: CertificateParams,
    key: KeyPair,
}

impl Pki {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "a test authority");
        let ca = params.self_signed(&key).unwrap().der().clone();
        Self { domain: "picket.test".parse().unwrap(), ca, params, key }
    }

    pub fn pin(&self) -> SpkiPin {
        SpkiPin::of(&self.ca).unwrap()
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// The collector's identity for a name, with the authority at the end of its chain.
    pub fn server(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer()).unwrap();
        let chain = certificates_to_pem([leaf.der().as_ref(), self.ca.as_ref()]);
        Identity::from_pem(&chain, &key.serialize_pem(), "test").unwrap()
    }

    fn node_params(&self, node: NodeId, years: i64) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(node_uri(&self.domain, node).try_into().unwrap())];
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2025 + i32::try_from(years).unwrap(), 1, 1);
        params
    }

    /// A node's certificate for its request.
    pub fn sign(&self, csr_der: &[u8], node: NodeId, years: i64) -> Issued {
        let mut csr = CertificateSigningRequestParams::from_der(&csr_der.into()).unwrap();
        csr.params = self.node_params(node, years);
        let leaf = csr.signed_by(&self.issuer()).unwrap();
        Issued { chain: vec![leaf.der().to_vec()], authorities: vec![self.ca.to_vec()] }
    }
}
