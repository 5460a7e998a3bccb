//! Certificates and keys from PEM files.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Largest PEM file that is read, bytes.
const FILE_BYTES: u64 = 1024 * 1024;

/// A certificate or key that cannot be used. Never shows what was in the file.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is larger than any key or chain.
    #[error("{} holds {bytes} bytes, at most {FILE_BYTES} are read: this is no certificate or key file", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Others can read or write the key.
    #[error(
        "{} has mode {mode:04o}, so others than its owner can use the key; run: chmod 600 {}",
        path.display(),
        path.display()
    )]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No certificate in it.
    #[error("{place} holds no certificate: a block that begins with -----BEGIN CERTIFICATE----- is expected")]
    NoCertificate {
        /// Which file or text.
        place: String,
    },
    /// No private key in it.
    #[error("{place} holds no private key: a block that begins with -----BEGIN PRIVATE KEY----- is expected")]
    NoKey {
        /// Which file or text.
        place: String,
    },
    /// Broken PEM.
    #[error("{place} is not PEM that can be read: {problem}")]
    Pem {
        /// Which file or text.
        place: String,
        /// What is wrong.
        problem: String,
    },
}

/// A certificate chain and its key: what one side shows.
pub struct Identity {
    /// The certificate, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first certificate.
    pub key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// Reads a chain and its key from files. The key's file must be readable by its owner only.
    ///
    /// # Errors
    /// [`MaterialError`], with the file and what to do.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, MaterialError> {
        Ok(Self { chain: certificates(chain)?, key: private_key(key)? })
    }

    /// Reads a chain and its key from text, such as parts of an operator's file. `place` names it in errors.
    ///
    /// # Errors
    /// [`MaterialError`].
    pub fn from_pem(chain: &str, key: &str, place: &str) -> Result<Self, MaterialError> {
        Ok(Self { chain: certificates_in(chain.as_bytes(), place)?, key: key_in(key.as_bytes(), place)? })
    }
}

/// All certificates of a PEM file, in order.
///
/// # Errors
/// [`MaterialError`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let bytes = read(path, false)?;
    certificates_in(&bytes, &path.display().to_string())
}

/// All certificates of a PEM text, in order. `place` names it in errors.
///
/// # Errors
/// [`MaterialError`].
pub fn certificates_in(pem: &[u8], place: &str) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| MaterialError::Pem { place: place.to_owned(), problem: e.to_string() })?;
    if found.is_empty() {
        return Err(MaterialError::NoCertificate { place: place.to_owned() });
    }
    Ok(found)
}

/// The first private key of a PEM file that only its owner can read.
///
/// # Errors
/// [`MaterialError`].
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let bytes = read(path, true)?;
    key_in(&bytes, &path.display().to_string())
}

/// A secret text file that only its owner can read, such as a key in PEM.
///
/// # Errors
/// [`MaterialError`].
pub fn secret_text(path: &Path) -> Result<Zeroizing<String>, MaterialError> {
    let bytes = read(path, true)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|e| MaterialError::Pem { place: path.display().to_string(), problem: e.to_string() })?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn key_in(pem: &[u8], place: &str) -> Result<PrivateKeyDer<'static>, MaterialError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| match e {
        rustls_pki_types::pem::Error::NoItemsFound => MaterialError::NoKey { place: place.to_owned() },
        // The error's text names the kind of damage only, never the content.
        other => MaterialError::Pem { place: place.to_owned(), problem: other.to_string() },
    })
}

/// Reads a file with a limit; a secret one only if its mode gives nothing to group and others. The mode is asked of
/// the opened file, not of the path, so that nobody can change one for the other in between.
fn read(path: &Path, secret: bool) -> Result<Zeroizing<Vec<u8>>, MaterialError> {
    let fail = |source| MaterialError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if secret && meta.permissions().mode() & 0o077 != 0 {
        return Err(MaterialError::Mode { path: path.to_owned(), mode: meta.permissions().mode() & 0o7777 });
    }
    if meta.size() > FILE_BYTES {
        return Err(MaterialError::TooLarge { path: path.to_owned(), bytes: meta.size() });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(meta.size()).unwrap_or(0).saturating_add(1)));
    file.take(FILE_BYTES).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// Certificates as PEM text.
pub fn certificates_to_pem<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for der in chain {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        // RFC 7468: lines of 64 characters.
        let text = base64(der);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(64));
            // Writing to a String cannot fail.
            writeln!(out, "{line}").ok();
            rest = tail;
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
