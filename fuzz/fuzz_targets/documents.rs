//! Any bytes as admission, authentication, authorisation or encryption configuration, registries, or a line of an audit log.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_checks::{
    AdmissionConfig, AuditEntries, AuthenticationConfig, AuthorizationConfig, EncryptionConfig, EncryptionState, Registries,
};

fuzz_target!(|data: &[u8]| {
    let _ = AdmissionConfig::parse(data);
    let _ = EncryptionConfig::parse(data);
    let _ = EncryptionState::parse(data);
    let _ = AuthenticationConfig::parse(data);
    let _ = AuthorizationConfig::parse(data);
    let _ = Registries::parse(data);
    AuditEntries::default().add(data, "/audit.log", 1);
});
