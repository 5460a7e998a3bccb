//! The node's identity on disk: `<state>/identity/` with key, certificate, authorities and the collector's address.
//!
//! Key and certificate change together, in two files. The next pair is written beside the old one; the moment the
//! next certificate is complete on disk is the moment of change, and whoever opens the folder finishes what a crash
//! left half done:
//!
//! ```text
//! node.key.next written → (asked for a certificate) → node.crt.next written → node.key replaced → node.crt replaced
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use picket_model::NodeId;
use picket_service::atomic::{self, AtomicError};
use picket_service::tls::connector::{Address, AddressError, Dialer};
use picket_service::tls::material::{self, Identity, MaterialError};
use picket_service::tls::peer::{Certificate, PeerError};
use picket_service::tls::{TlsError, client};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

/// Name of the folder below the state folder.
pub const FOLDER: &str = "identity";

/// Where the collector is, and who this node is to it. `collector.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collector {
    /// `HOST:PORT`.
    pub address: String,
    /// The name its certificate is checked for, where that is not the host of `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// This node.
    pub node_id: NodeId,
    /// Trust domain of SPIFFE ids.
    pub trust_domain: String,
    /// When to ask for the next certificate, as the collector said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_after: Option<Timestamp>,
}

/// An identity that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No identity yet.
    #[error("this node is not enrolled: {} is not there; run `picketd enroll --collector HOST:PORT --token TOKEN`", .0.display())]
    NotEnrolled(PathBuf),
    /// A file cannot be used.
    #[error("the node's identity cannot be used; mend the file or enrol again with --force")]
    Material(#[from] MaterialError),
    /// `collector.json` cannot be read.
    #[error("{} cannot be read; mend it or enrol again with --force", path.display())]
    Collector {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Key, certificate and authorities do not fit together.
    #[error("key, certificate and authorities in {} do not fit together; enrol again with --force", path.display())]
    Tls {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: TlsError,
    },
    /// The certificate cannot be parsed.
    #[error("{} holds a certificate that cannot be read; enrol again with --force", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: PeerError,
    },
    /// The address is none.
    #[error("{} names no address; enrol again with --force", path.display())]
    Address {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: AddressError,
    },
    /// A file cannot be written.
    #[error("the node's identity cannot be stored")]
    Write(#[from] AtomicError),
    /// A file cannot be moved or read.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
}

/// What a certificate answer brings.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, then intermediates, DER.
    pub chain: Vec<Vec<u8>>,
    /// The authorities to trust, DER.
    pub authorities: Vec<Vec<u8>>,
}

impl Issued {
    /// Can this be used with the key, before anything is replaced? `folder` is for the message.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] or [`IdentityError::Material`].
    pub fn check(&self, key_pem: &str, folder: &Path) -> Result<(), IdentityError> {
        let chain = material::certificates_to_pem(self.chain.iter().map(Vec::as_slice));
        let identity = Identity::from_pem(&chain, key_pem, "the collector's answer")?;
        let authorities: Vec<_> = self.authorities.iter().map(|der| der.as_slice().into()).collect();
        client::config(&authorities, Some(identity))
            .map(|_| ())
            .map_err(|source| IdentityError::Tls { path: folder.to_owned(), source })
    }
}

/// An identity in memory.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The collector and this node's name there.
    pub collector: Collector,
    /// The certificate's serial and times.
    pub certificate: Certificate,
    /// What to show and to trust.
    pub tls: Arc<ClientConfig>,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct IdentityFolder(PathBuf);

impl IdentityFolder {
    /// The identity of a state folder.
    pub fn of(state: &Path) -> Self {
        Self(state.join(FOLDER))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Is there an identity?
    pub fn exists(&self) -> bool {
        self.file("collector.json").exists()
    }

    /// Reads the identity, after finishing a change that was cut off.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load(&self) -> Result<Loaded, IdentityError> {
        let path = self.file("collector.json");
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(IdentityError::NotEnrolled(path)),
            Err(source) => return Err(IdentityError::Io { path, source }),
        };
        self.finish()?;
        let collector: Collector =
            serde_json::from_slice(&json).map_err(|source| IdentityError::Collector { path, source })?;
        let identity = Identity::from_files(&self.file("node.crt"), &self.file("node.key"))?;
        let certificate = match identity.chain.first() {
            Some(first) => Certificate::parse(first),
            None => Err(PeerError::Certificate),
        }
        .map_err(|source| IdentityError::Certificate { path: self.file("node.crt"), source })?;
        let authorities = material::certificates(&self.file("ca.crt"))?;
        let tls = client::config(&authorities, Some(identity))
            .map_err(|source| IdentityError::Tls { path: self.0.clone(), source })?;
        Ok(Loaded { collector, certificate, tls })
    }

    /// The dialler for an identity.
    ///
    /// # Errors
    /// [`IdentityError::Address`].
    pub fn dialer(&self, loaded: &Loaded) -> Result<Dialer, IdentityError> {
        let fail = |source| IdentityError::Address { path: self.file("collector.json"), source };
        let address: Address = loaded.collector.address.parse().map_err(fail)?;
        let name = loaded.collector.server_name.clone().unwrap_or_else(|| address.host.clone());
        Dialer::with_server_name(address, &name, loaded.tls.clone()).map_err(fail)
    }

    /// Writes the key of a certificate to come. It is used when [`IdentityFolder::install`] follows.
    ///
    /// # Errors
    /// [`IdentityError::Write`].
    pub fn prepare(&self, key_pem: &str) -> Result<(), IdentityError> {
        atomic::folder(&self.0, 0o700)?;
        // A certificate left over from a cut-off change must not meet the new key.
        self.finish()?;
        atomic::write(&self.file("node.key.next"), key_pem.as_bytes(), 0o600)?;
        Ok(())
    }

    /// Puts a certificate, the key prepared for it and the authorities in place.
    ///
    /// # Errors
    /// [`IdentityError`]; the old identity is then still in place.
    pub fn install(&self, issued: &Issued, collector: &Collector) -> Result<(), IdentityError> {
        let chain = material::certificates_to_pem(issued.chain.iter().map(Vec::as_slice));
        let authorities = material::certificates_to_pem(issued.authorities.iter().map(Vec::as_slice));
        // Authorities first: during a rollover both roots are in them, so the old certificate works with them too.
        atomic::write(&self.file("ca.crt"), authorities.as_bytes(), 0o600)?;
        atomic::write(&self.file("node.crt.next"), chain.as_bytes(), 0o600)?;
        self.finish()?;
        let json = serde_json::to_vec_pretty(collector)
            .map_err(|source| IdentityError::Collector { path: self.file("collector.json"), source })?;
        atomic::write(&self.file("collector.json"), &json, 0o600)?;
        Ok(())
    }

    /// Finishes a change of key and certificate: needed only while `node.crt.next` is there.
    fn finish(&self) -> Result<(), IdentityError> {
        if !self.file("node.crt.next").exists() {
            return Ok(());
        }
        for name in ["node.key", "node.crt"] {
            let next = self.file(&format!("{name}.next"));
            match fs::rename(&next, self.file(name)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(IdentityError::Io { path: next, source }),
                Ok(()) => atomic::sync_folder(&self.0)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    struct Signed {
        key: String,
        issued: Issued,
    }

    fn sign() -> Signed {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let leaf = rcgen::CertificateParams::new(vec!["node".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        Signed {
            key: key.serialize_pem(),
            issued: Issued { chain: vec![leaf.der().to_vec()], authorities: vec![ca.der().to_vec()] },
        }
    }

    fn collector() -> Collector {
        Collector {
            address: "collector.example:7443".into(),
            server_name: None,
            node_id: NodeId::from_bytes([7; 16]),
            trust_domain: "picket.example".into(),
            renew_after: None,
        }
    }

    fn installed(folder: &IdentityFolder) -> Certificate {
        let signed = sign();
        folder.prepare(&signed.key).unwrap();
        folder.install(&signed.issued, &collector()).unwrap();
        folder.load().unwrap().certificate
    }

    #[test]
    fn an_identity_is_private_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::of(dir.path());
        assert!(matches!(folder.load(), Err(IdentityError::NotEnrolled(_))));
        installed(&folder);
        assert_eq!(folder.load().unwrap().collector, collector());
        assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o700);
        for entry in fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        }
    }

    #[test]
    fn a_change_cut_off_at_any_step_leaves_the_old_or_the_new_identity() {
        let dir = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::of(dir.path());
        let old = installed(&folder);
        let next = sign();
        // Asked, but no answer: the old one stays.
        folder.prepare(&next.key).unwrap();
        assert_eq!(folder.load().unwrap().certificate, old);
        // The answer is on disk, nothing was moved yet: the new one holds.
        let authorities = material::certificates_to_pem(next.issued.authorities.iter().map(Vec::as_slice));
        fs::write(folder.file("ca.crt"), authorities).unwrap();
        let chain = material::certificates_to_pem(next.issued.chain.iter().map(Vec::as_slice));
        fs::write(folder.file("node.crt.next"), chain).unwrap();
        // Only the key was moved.
        fs::rename(folder.file("node.key.next"), folder.file("node.key")).unwrap();
        let new = folder.load().unwrap().certificate;
        assert_ne!(new, old);
        assert!(!folder.file("node.crt.next").exists());
    }
}
