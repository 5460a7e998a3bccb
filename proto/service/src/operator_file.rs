//! The one file an operator needs, like a kubeconfig: where the collector is, whom to trust, who I am.
//!
//! `picket-collector operator create` writes it, `picketctl` reads it. YAML:
//!
//! ```yaml
//! schema: picket.operator/v1
//! collector: collector.example:7443
//! server_name: collector.example
//! operator: ada
//! certificate_authority: |
//!   -----BEGIN CERTIFICATE-----
//! client_certificate: |
//!   -----BEGIN CERTIFICATE-----
//! client_key: |
//!   -----BEGIN PRIVATE KEY-----
//! ```

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::atomic::{self, AtomicError};
use crate::tls::connector::{Address, AddressError, Dialer};
use crate::tls::material::{self, Identity, MaterialError};
use crate::tls::{TlsError, client};

/// The value of `schema`; another format gets another number.
const SCHEMA: &str = "picket.operator/v1";

/// An operator's file that cannot be used. Never shows the key.
#[derive(Debug, thiserror::Error)]
pub enum OperatorFileError {
    /// It cannot be read, or others can read it.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// Not YAML of this shape.
    #[error("{} is not an operator's file: {problem}; make one with `picket-collector operator create NAME --role viewer --out FILE`", path.display())]
    Shape {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The address or name in it.
    #[error("in {}", path.display())]
    Address {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: AddressError,
    },
    /// Certificates and key do not fit.
    #[error("in {}", path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: TlsError,
    },
}

/// What is in the file. Serialised by [`OperatorFile::to_yaml`].
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorFile {
    schema: String,
    /// The collector, `HOST:PORT`.
    pub collector: String,
    /// The name the collector's certificate is checked for.
    pub server_name: String,
    /// The operator's name.
    pub operator: String,
    /// CA certificates, PEM.
    pub certificate_authority: String,
    /// The operator's certificate and intermediates, PEM.
    pub client_certificate: String,
    client_key: Zeroizing<String>,
}

impl std::fmt::Debug for OperatorFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorFile")
            .field("collector", &self.collector)
            .field("server_name", &self.server_name)
            .field("operator", &self.operator)
            .finish_non_exhaustive()
    }
}

impl OperatorFile {
    /// A file from its parts; PEM texts as [`material::certificates_to_pem`] makes them.
    pub fn new(
        collector: &Address,
        server_name: &str,
        operator: &str,
        certificate_authority: String,
        client_certificate: String,
        client_key: Zeroizing<String>,
    ) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            collector: collector.to_string(),
            server_name: server_name.to_owned(),
            operator: operator.to_owned(),
            certificate_authority,
            client_certificate,
            client_key,
        }
    }

    /// Reads a file that only its owner can read.
    ///
    /// # Errors
    /// [`OperatorFileError`], with what to do.
    pub fn read(path: &Path) -> Result<Self, OperatorFileError> {
        let text = material::secret_text(path)?;
        let shape = |problem: String| OperatorFileError::Shape { path: path.to_owned(), problem };
        // The error's first line has the position; what follows could quote the file.
        let file: Self = serde_saphyr::from_str(&text)
            .map_err(|e| shape(e.to_string().lines().next().unwrap_or_default().chars().take(200).collect()))?;
        if file.schema != SCHEMA {
            return Err(shape(format!("schema is {:?}, {SCHEMA:?} is expected", file.schema)));
        }
        Ok(file)
    }

    /// Writes the file with mode 0600.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), AtomicError> {
        atomic::write(path, self.to_yaml().as_bytes(), 0o600)
    }

    /// The file's text, with the key in it.
    pub fn to_yaml(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::with_capacity(4096));
        out.push_str(
            "# For picketctl. Whoever has this file acts as this operator: keep it to yourself (mode 0600).\n",
        );
        for (name, value) in [
            ("schema", &self.schema),
            ("collector", &self.collector),
            ("server_name", &self.server_name),
            ("operator", &self.operator),
        ] {
            // None of these holds a quote or backslash: schema is ours, the rest were parsed as address or name.
            // Writing to a String cannot fail.
            writeln!(out, "{name}: \"{value}\"").ok();
        }
        for (name, pem) in [
            ("certificate_authority", self.certificate_authority.as_str()),
            ("client_certificate", self.client_certificate.as_str()),
            ("client_key", self.client_key.as_str()),
        ] {
            writeln!(out, "{name}: |").ok();
            for line in pem.lines().filter(|l| !l.is_empty()) {
                writeln!(out, "  {line}").ok();
            }
        }
        out
    }

    /// Connections to the collector as this operator. `path` names the file in errors.
    ///
    /// # Errors
    /// [`OperatorFileError`] when address, certificates or key cannot be used.
    pub fn dialer(&self, path: &Path) -> Result<Dialer, OperatorFileError> {
        let address_error = |source| OperatorFileError::Address { path: path.to_owned(), source };
        let tls_error = |source| OperatorFileError::Tls { path: path.to_owned(), source };
        let place = path.display().to_string();
        let address: Address = self.collector.parse().map_err(address_error)?;
        let authorities = material::certificates_in(self.certificate_authority.as_bytes(), &place)?;
        let identity = Identity::from_pem(&self.client_certificate, &self.client_key, &place)?;
        let config = client::config(&authorities, Some(identity)).map_err(tls_error)?;
        Dialer::with_server_name(address, &self.server_name, config).map_err(address_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::request::KeyAndRequest;

    fn sample() -> OperatorFile {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let pem = material::certificates_to_pem([cert.der().as_ref()]);
        OperatorFile::new(
            &"[::1]:7443".parse().unwrap(),
            "collector.example",
            "ada",
            pem.clone(),
            pem,
            Zeroizing::new(key.serialize_pem()),
        )
    }

    #[test]
    fn a_written_file_reads_back_and_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ada.conf");
        let file = sample();
        file.write(&path).unwrap();
        let back = OperatorFile::read(&path).unwrap();
        assert_eq!(back.to_yaml(), file.to_yaml());
        assert_eq!(back.collector, "[::1]:7443");
        back.dialer(&path).unwrap();
        assert!(!format!("{back:?}").contains("PRIVATE KEY"));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ada.conf");
        sample().write(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = OperatorFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("mode 0640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn errors_name_the_file_and_never_show_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ada.conf");
        let key = KeyAndRequest::generate().unwrap().key_pem;
        let secret = key.lines().nth(1).unwrap();
        for text in [
            format!("client_key: |\n  {secret}\n"),
            format!("schema: picket.operator/v1\nclient_kye: |\n  {secret}\n"),
            format!("[{secret}"),
            sample().to_yaml().replace("operator/v1", "operator/v9"),
        ] {
            atomic::write(&path, text.as_bytes(), 0o600).unwrap();
            let error = OperatorFile::read(&path).unwrap_err().to_string();
            assert!(error.contains("ada.conf") && !error.contains(secret), "{error}");
        }
    }
}
