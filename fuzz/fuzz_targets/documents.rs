//! Any bytes as audit policy, admission, authentication, authorisation or encryption configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_checks::{AdmissionConfig, AuditPolicy, EncryptionConfig, EncryptionState, Registries};

fuzz_target!(|data: &[u8]| {
    let _ = AuditPolicy::parse(data);
    let _ = AdmissionConfig::parse(data);
    let _ = EncryptionConfig::parse(data);
    let _ = EncryptionState::parse(data);
    let _ = Registries::parse(data);
});
