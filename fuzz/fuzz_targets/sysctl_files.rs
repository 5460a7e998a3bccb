//! Any bytes as files of sysctl.d.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_checks::PersistedSysctls;

fuzz_target!(|data: &[u8]| {
    let half = data.len() / 2;
    let (first, second) = data.split_at(half);
    let _ = PersistedSysctls::from_files([("/etc/sysctl.d/10-a.conf", first), ("/usr/lib/sysctl.d/90-b.conf", second)]);
});
