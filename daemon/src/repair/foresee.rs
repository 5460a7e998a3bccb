//! What a plan would lead to, without carrying it out: for `--dry-run`.

use std::collections::BTreeMap;
use std::sync::Arc;

use picket_checks::{FileMeta, Snapshot, Traps};
use picket_host::Host;
use picket_model::Observation;

use super::{SYSCTLS, Step};
use crate::source::{Seen, config, traps};

/// The node as it would be seen after these steps. What `sysctl.d` would set at the next boot stays as it is.
pub fn foresee(host: &Host, seen: &Seen, steps: &[Step]) -> Snapshot {
    let mut snapshot = seen.snapshot.clone();
    let mut written: BTreeMap<String, String> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Write { path, .. } if path == SYSCTLS => {}
            Step::Write { path, new, .. } => {
                written.insert(path.clone(), new.clone());
            }
            Step::Mode { path, new, .. } => each(&mut snapshot, path, |meta| meta.mode = *new),
            Step::Owner { path, .. } => each(&mut snapshot, path, |meta| (meta.uid, meta.gid) = (0, 0)),
            Step::Live { key, new, .. } => {
                snapshot.sysctls.insert(key.clone(), Observation::from(new.clone()));
            }
        }
    }
    if !written.is_empty() {
        config::foresee(host, &seen.configuration, &written, &mut snapshot);
    }
    let hidden: Vec<&String> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Mode { path, new, .. } if new & traps::OTHERS_READ == 0 => Some(path),
            _ => None,
        })
        .collect();
    if let Observation::Value { value } = &mut snapshot.traps {
        let reached = |path: &str| host.trail(path.as_ref()).end;
        Arc::make_mut(value).seen.retain(|trap| {
            let place = trap.evidence.path.as_deref().filter(|_| trap.kind == "readable-secret");
            !place.is_some_and(|place| hidden.iter().any(|path| reached(path) == reached(place)))
        });
        share(&mut snapshot);
    }
    snapshot
}

/// The configuration holds its traps too.
fn share(snapshot: &mut Snapshot) {
    let Some(traps): Option<Arc<Traps>> = snapshot.traps.value().cloned() else { return };
    if let Observation::Value { value } = &mut snapshot.declared {
        Arc::make_mut(value).traps = traps;
    }
}

/// Changes what is known of a file, also as the end of links to it.
fn each(snapshot: &mut Snapshot, path: &str, change: impl Fn(&mut FileMeta)) {
    for (name, seen) in &mut snapshot.files {
        let Observation::Value { value } = seen else { continue };
        if let Some(link) = &mut value.link {
            if link.path.as_deref() == Some(path)
                && let Observation::Value { value } = &mut link.meta
            {
                change(value);
            }
        } else if name == path {
            change(value);
        }
    }
}
