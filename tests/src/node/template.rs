//! Fills the places where a secret stood.

use std::collections::BTreeMap;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};

/// What was made so far, and the random values by name.
pub(super) struct Template {
    files: BTreeMap<String, Vec<u8>>,
    made_here: BTreeMap<String, Vec<u8>>,
    random: BTreeMap<String, Vec<u8>>,
}

impl Template {
    pub(super) fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self { files, made_here: BTreeMap::new(), random: BTreeMap::new() }
    }

    /// The generated files (keys and certificates).
    pub(super) fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// Remembers a file for `{{sha256:…}}`.
    pub(super) fn made(&mut self, path: String, content: Vec<u8>) {
        self.made_here.insert(path, content);
    }

    pub(super) fn fill(&mut self, content: Vec<u8>) -> io::Result<Vec<u8>> {
        let Ok(text) = String::from_utf8(content.clone()) else { return Ok(content) };
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            let (hole, behind) = after.split_once("}}").ok_or_else(|| bad(after))?;
            out.push_str(before);
            out.push_str(&self.value(hole)?);
            rest = behind;
        }
        out.push_str(rest);
        Ok(out.into_bytes())
    }

    fn value(&mut self, hole: &str) -> io::Result<String> {
        let parts: Vec<&str> = hole.splitn(3, ':').collect();
        Ok(match parts[..] {
            ["base64", path] => BASE64.encode(self.file(path)?),
            ["sha256", path] => hex::encode(Sha256::digest(self.file(path)?)),
            // K3s 3.2: with one certificate in the file, the hash of its raw bytes.
            ["ca-hash"] => {
                let ca = ["/var/lib/rancher/k3s/server/tls/server-ca.crt", "/var/lib/rancher/k3s/agent/server-ca.crt"];
                let path = ca.into_iter().find(|p| self.files.contains_key(*p)).ok_or_else(|| bad(hole))?;
                hex::encode(Sha256::digest(self.file(path)?))
            }
            ["hex", bytes, name] => hex::encode(self.random(bytes, name)?),
            ["base64-random", bytes, name] => BASE64.encode(self.random(bytes, name)?),
            _ => return Err(bad(hole)),
        })
    }

    fn file(&self, path: &str) -> io::Result<&Vec<u8>> {
        self.files.get(path).or_else(|| self.made_here.get(path)).ok_or_else(|| bad(path))
    }

    fn random(&mut self, bytes: &str, name: &str) -> io::Result<&Vec<u8>> {
        let len: usize = bytes.parse().map_err(|_| bad(bytes))?;
        Ok(self.random.entry(name.to_owned()).or_insert_with(|| {
            let mut value = vec![0; len];
            rand::rng().fill_bytes(&mut value);
            value
        }))
    }
}

pub(super) fn random_hex(bytes: usize) -> String {
    let mut value = vec![0; bytes];
    rand::rng().fill_bytes(&mut value);
    hex::encode(value)
}

fn bad(what: &str) -> io::Error {
    let shown: String = what.chars().take(80).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("cannot fill {{{{{shown}}}}}"))
}
