//! The enrolment token as text: `pkt1.<id>.<secret>.<fingerprint>`.
//!
//! `id` (16 hexadecimal digits) names the token in lists, `secret` (64) proves it, `fingerprint` (64) is the
//! [`SpkiPin`] of the CA that the node is to trust. Digits only, so that one double click selects it and no shell
//! touches it.

use std::fmt;
use std::str::FromStr;

use ring::rand::SecureRandom as _;
use zeroize::Zeroizing;

use super::pin::SpkiPin;

/// First part of every token; another format gets another number.
const PREFIX: &str = "pkt1";

/// The name of a token, without its secret: 8 bytes as hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(String);

impl TokenId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.to_owned()))
        } else {
            Err(TokenError::Id)
        }
    }
}

/// A text that is no token. Never shows the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Other parts than four, or another first part.
    #[error(
        "not an enrolment token: pkt1.<id>.<secret>.<fingerprint> is expected, as `picket-collector token create` prints it"
    )]
    Shape,
    /// The id.
    #[error("not an enrolment token's id: 16 hexadecimal digits are expected")]
    Id,
    /// The secret.
    #[error("the enrolment token is damaged: its third part must have 64 hexadecimal digits; copy it again")]
    Secret,
    /// The fingerprint.
    #[error("the enrolment token is damaged: its last part must have 64 hexadecimal digits; copy it again")]
    Pin,
    /// No random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// An enrolment token with its secret. `Debug` does not show the secret; [`EnrollToken::reveal`] does.
#[derive(Clone)]
pub struct EnrollToken {
    /// The name.
    pub id: TokenId,
    secret: Zeroizing<[u8; 32]>,
    /// The CA to trust.
    pub pin: SpkiPin,
}

impl EnrollToken {
    /// A new random token: 64 bits of name, 256 bits of secret.
    ///
    /// # Errors
    /// [`TokenError::Random`] when the system has no random bytes.
    pub fn generate(pin: SpkiPin) -> Result<Self, TokenError> {
        let random = ring::rand::SystemRandom::new();
        let mut id = [0; 8];
        let mut secret = Zeroizing::new([0; 32]);
        random.fill(&mut id).map_err(|_| TokenError::Random)?;
        random.fill(&mut *secret).map_err(|_| TokenError::Random)?;
        Ok(Self { id: TokenId(hex::encode(id)), secret, pin })
    }

    /// SHA-256 of the secret: what the collector keeps. A secret of 256 random bits needs no slow hash.
    pub fn secret_hash(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, &*self.secret).as_ref());
        out
    }

    /// The whole token as text, with its secret: for the one who may use it.
    pub fn reveal(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(hex::encode(self.secret.as_slice()));
        Zeroizing::new(format!("{PREFIX}.{}.{}.{}", self.id, *secret, self.pin))
    }
}

impl fmt::Debug for EnrollToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollToken").field("id", &self.id).field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl FromStr for EnrollToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        let (Some(PREFIX), Some(id), Some(secret), Some(pin), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Shape);
        };
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(secret, &mut *bytes).map_err(|_| TokenError::Secret)?;
        Ok(Self { id: id.parse()?, secret: bytes, pin: pin.parse().map_err(|_| TokenError::Pin)? })
    }
}
