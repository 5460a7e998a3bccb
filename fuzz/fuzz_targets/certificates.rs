//! Any bytes as certificate file, kubeconfig or dynamic-cert.json.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_checks::CertSource;
use picketd::source::certificates;

fuzz_target!(|data: &[u8]| {
    let _ = certificates::from_pem(data, CertSource::File);
    let _ = certificates::from_kubeconfig(data);
    let _ = certificates::from_dynamic_cert(data);
});
