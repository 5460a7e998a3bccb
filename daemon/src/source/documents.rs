//! Files whose inside is judged: encryption, admission, authentication, audit policy, etcd, kubelet, registries.

use picket_checks::{
    AdmissionConfig, AuditPolicy, AuthenticationConfig, AuthorizationConfig, DocumentError, EncryptionConfig,
    EncryptionState, MAX_DOCUMENT, Needs, Registries, Snapshot, parse_yaml_map,
};
use picket_host::Host;
use picket_model::Observation;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::at_start::{self, Documents};
use super::memory::{Memory, write_key};
use super::{Configuration, kubelet, parsed};

pub(crate) const LARGEST: u64 = MAX_DOCUMENT as u64;

/// Reads every document the controls need.
pub fn observe(host: &Host, needs: &Needs, configuration: &Configuration, memory: &Memory, snapshot: &mut Snapshot) {
    let now = snapshot.at;
    snapshot.encryption_configs = each(&needs.encryption_configs, |path| {
        parsed(host, path, LARGEST, |bytes, mtime| {
            let mut config = EncryptionConfig::parse(bytes)?;
            config.sha256 = hex::encode(Sha256::digest(bytes));
            config.mtime = Some(mtime);
            let first = memory.first_seen(&format!("encryption-key:{path}"), &write_key(&config), now);
            config.write_key_first_seen = first.map(|f| f.at);
            Ok::<_, DocumentError>(config)
        })
    });
    snapshot.encryption_state = parsed(host, &needs.encryption_state, LARGEST, |bytes, mtime| {
        EncryptionState::parse(bytes).map(|state| EncryptionState { mtime: Some(mtime), ..state })
    });
    // What stands there and is no policy is seen all the same: with it the API server does not start.
    snapshot.audit_policies = each(&needs.audit_policies, |path| {
        parsed(host, path, LARGEST, |bytes, _| match AuditPolicy::parse(bytes) {
            Err(error) if !error.is_limit() => Ok(AuditPolicy::refused(error.to_string())),
            read => read,
        })
    });
    snapshot.admission_configs =
        each(&needs.admission_configs, |path| parsed(host, path, LARGEST, |bytes, _| AdmissionConfig::parse(bytes)));
    snapshot.authentication_configs = each(&needs.authentication_configs, |path| {
        parsed(host, path, LARGEST, |bytes, _| AuthenticationConfig::parse(bytes))
    });
    snapshot.authorization_configs = each(&needs.authorization_configs, |path| {
        parsed(host, path, LARGEST, |bytes, _| AuthorizationConfig::parse(bytes))
    });
    snapshot.etcd_config = parsed(host, &needs.etcd_config, LARGEST, |bytes, _| parse_yaml_map(bytes));
    snapshot.registries = parsed(host, &needs.registries, LARGEST, |bytes, _| Registries::parse(bytes));
    kubelet::observe(host, needs, configuration, snapshot);
    let of_this_start = snapshot.k3s_started_at.value().is_some_and(|started| memory.is_of(*started));
    let remembered = if of_this_start { memory.documents.as_ref() } else { &Documents::default() };
    snapshot.read_at_start =
        Arc::new(at_start::observe(host, snapshot, configuration.kubelet_folder(), remembered).as_read(snapshot));
}

fn each<T>(paths: &[String], look: impl Fn(&String) -> Observation<T>) -> BTreeMap<String, Observation<T>> {
    paths.iter().map(|path| (path.clone(), look(path))).collect()
}
