//! Versions of K3s.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A K3s version such as `v1.36.2+k3s1`. Ordered as releases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct K3sVersion {
    /// Kubernetes major version, 1.
    pub major: u32,
    /// Kubernetes minor version.
    pub minor: u32,
    /// Kubernetes patch version.
    pub patch: u32,
    /// K3s' own revision of that patch, the number after `+k3s`; 0 where it is not given.
    pub revision: u32,
}

/// Text that is no K3s version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a K3s version (expected a form such as v1.36.2+k3s1)")]
pub struct NotAVersion;

impl K3sVersion {
    /// A version without a K3s revision.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch, revision: 0 }
    }

    /// Whether this is minor release `1.minor` at `patch` or later, or a newer minor release.
    pub const fn at_least(self, minor: u32, patch: u32) -> bool {
        self.major > 1 || (self.major == 1 && (self.minor > minor || (self.minor == minor && self.patch >= patch)))
    }
}

impl FromStr for K3sVersion {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        let (numbers, build) = text.split_once('+').unwrap_or((text, ""));
        let numbers = numbers.split_once('-').map_or(numbers, |(n, _)| n);
        let mut parts = numbers.split('.').map(|p| p.parse::<u32>().map_err(|_| NotAVersion));
        let mut next = || parts.next().unwrap_or(Err(NotAVersion));
        let (major, minor, patch) = (next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(NotAVersion);
        }
        let digits: String = build.strip_prefix("k3s").unwrap_or("").chars().take_while(char::is_ascii_digit).collect();
        Ok(Self { major, minor, patch, revision: digits.parse().unwrap_or(0) })
    }
}

impl fmt::Display for K3sVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)?;
        if self.revision > 0 {
            write!(f, "+k3s{}", self.revision)?;
        }
        Ok(())
    }
}

impl Serialize for K3sVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for K3sVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_version() {
        let v: K3sVersion = "v1.36.2+k3s1".parse().unwrap();
        assert_eq!((v.minor, v.patch, v.revision), (36, 2, 1));
        assert_eq!(v.to_string(), "v1.36.2+k3s1");
        assert_eq!("1.31.9-rc1+k3s2".parse::<K3sVersion>().unwrap().to_string(), "v1.31.9+k3s2");
        for bad in ["", "v1", "1.2", "1.2.3.4", "vx.y.z", "99999999999.1.1"] {
            assert!(bad.parse::<K3sVersion>().is_err(), "{bad}");
        }
        assert!(v.at_least(32, 5) && v.at_least(36, 2) && !v.at_least(36, 3));
    }
}
