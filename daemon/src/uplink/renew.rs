//! The next certificate: asked for at half the lifetime, with a new key, over the link that stands.

use jiff::{SignedDuration, Timestamp};
use picket_proto::v1;
use picket_proto::v1::enrollment_client::EnrollmentClient;
use picket_service::tls::peer::Certificate;
use picket_service::tls::request::{KeyAndRequest, RequestError};
use tonic::transport::Channel;

use crate::identity::{Collector, IdentityError, IdentityFolder, Issued, Loaded};

/// A certificate that could not be renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No key could be made.
    #[error("the certificate could not be renewed")]
    Request(#[from] RequestError),
    /// The collector refused.
    #[error("the collector refused to renew the certificate")]
    Refused(#[source] Box<tonic::Status>),
    /// The answer could not be stored or used.
    #[error("the renewed certificate could not be stored")]
    Store(#[from] IdentityError),
}

/// When to ask for the next certificate: at the collector's word, if it lies within the certificate's life, otherwise
/// at half the life, earlier or later by up to a tenth of it. The share is taken from the serial, so that a node keeps
/// its moment and a fleet enrolled in one minute does not renew in one minute.
pub fn due_at(certificate: &Certificate, wish: Option<Timestamp>) -> Timestamp {
    if let Some(wish) = wish
        && wish > certificate.not_before
        && wish < certificate.not_after
    {
        return wish;
    }
    let life = certificate.not_after.duration_since(certificate.not_before).as_secs().max(0);
    let spread =
        certificate.serial.as_bytes().iter().fold(0u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(*b)));
    // 450 to 550 thousandths of the life.
    let share = 450 + i64::from(spread % 101);
    let after = SignedDuration::from_secs(life / 1000 * share + life % 1000 * share / 1000);
    certificate.not_before.checked_add(after).unwrap_or(certificate.not_after)
}

/// Is it time?
pub fn due(loaded: &Loaded, now: Timestamp) -> bool {
    now >= due_at(&loaded.certificate, loaded.collector.renew_after)
}

/// Asks for the next certificate and puts it in place.
///
/// # Errors
/// [`RenewError`]; the certificate before stays in place.
pub async fn renew(channel: Channel, folder: &IdentityFolder, loaded: &Loaded) -> Result<Certificate, RenewError> {
    let request = KeyAndRequest::generate()?;
    folder.prepare(&request.key_pem)?;
    let answer = EnrollmentClient::new(channel)
        .renew(v1::RenewRequest { csr_der: request.csr_der.clone() })
        .await
        .map_err(|status| RenewError::Refused(Box::new(status)))?
        .into_inner();
    let issued = Issued { chain: answer.certificate_chain_der, authorities: answer.ca_der };
    issued.check(&request.key_pem, folder.path())?;
    let renew_after = Timestamp::from_millisecond(answer.renew_after_unix_ms).ok().filter(|t| t.as_millisecond() > 0);
    folder.install(&issued, &Collector { renew_after, ..loaded.collector.clone() })?;
    Ok(folder.load()?.certificate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use picket_service::tls::peer::Serial;
    use proptest::prelude::*;

    fn certificate(serial: &[u8], life_s: i64) -> Certificate {
        let not_before = Timestamp::from_second(1_000_000).unwrap();
        let not_after = Timestamp::from_second(1_000_000 + life_s).unwrap();
        Certificate { serial: Serial::from_der_content(serial), not_before, not_after }
    }

    #[test]
    fn the_collectors_wish_counts_when_it_makes_sense() {
        let c = certificate(&[1], 1000);
        let wish = Timestamp::from_second(1_000_400).unwrap();
        assert_eq!(due_at(&c, Some(wish)), wish);
        let senseless = Timestamp::from_second(9_000_000).unwrap();
        assert_ne!(due_at(&c, Some(senseless)), senseless);
    }

    proptest! {
        #[test]
        fn renewal_is_at_half_the_life_within_a_tenth(serial in prop::collection::vec(any::<u8>(), 1..20), life in 100i64..400_000_000) {
            let c = certificate(&serial, life);
            let after = due_at(&c, None).duration_since(c.not_before).as_secs();
            prop_assert!(after >= life * 44 / 100 && after <= life * 56 / 100 + 1, "{after} of {life}");
        }
    }
}
