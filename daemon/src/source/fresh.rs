//! A look at files somebody may be in the middle of writing: the daemon waits for a second look, a command that looks
//! once waits for as long as a file is fresh.

use std::time::{Duration, Instant, SystemTime};

use picket_host::{Host, Kind};

use super::{Ask, Seen, observe};

/// A file written so short a time ago may be half of what it will be.
const FRESH: Duration = Duration::from_millis(500);
/// The longest wait for files that are written all the time.
const LONGEST: Duration = Duration::from_secs(2);

/// Looks at everything, and once more where a file it rests on was being written.
pub fn observe_settled(host: &Host, ask: &Ask<'_>) -> Seen {
    let until = Instant::now() + LONGEST;
    settled(
        || observe(host, ask),
        |seen| youngest(host, seen, SystemTime::now()),
        |wait| {
            let left = until.saturating_duration_since(Instant::now());
            std::thread::sleep(wait.min(left));
            !left.is_zero()
        },
    )
}

/// `wait` says whether there is time for another look.
fn settled<T>(
    mut look: impl FnMut() -> T,
    age: impl Fn(&T) -> Option<Duration>,
    mut wait: impl FnMut(Duration) -> bool,
) -> T {
    loop {
        let seen = look();
        match age(&seen).filter(|age| *age < FRESH) {
            Some(age) if wait(FRESH.saturating_sub(age)) => {}
            _ => return seen,
        }
    }
}

/// The age of the youngest of the files whose text is judged. Logs and databases are written all the time.
fn youngest(host: &Host, seen: &Seen, now: SystemTime) -> Option<Duration> {
    let snapshot = &seen.snapshot;
    let registries = snapshot.registries_file();
    let paths = seen
        .configuration
        .sources()
        .iter()
        .chain(snapshot.encryption_configs.keys())
        .chain(snapshot.audit_policies.keys())
        .chain(snapshot.admission_configs.keys())
        .chain(snapshot.authentication_configs.keys())
        .chain(snapshot.authorization_configs.keys())
        .chain(snapshot.kubelet_dropins.keys())
        .chain(snapshot.kubelet_configs.keys())
        .chain(snapshot.kubelet_copied_from.values())
        .chain(std::iter::once(&registries));
    let age = |path: &String| {
        let meta = host.stat(path.as_ref()).ok().filter(|meta| meta.kind == Kind::File)?;
        // A file of the future is none that is being written.
        now.duration_since(SystemTime::from(meta.mtime)).ok()
    };
    paths.filter_map(age).min()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use picket_checks::Catalogue;
    use picket_service::clock::SystemClock;

    use super::*;
    use crate::source::Memory;

    #[test]
    fn what_is_fresh_is_looked_at_again_within_bounds() {
        let looks = |ages: &[Option<u64>], most: usize| {
            let (mut looked, mut waits) = (0, 0);
            settled(
                || {
                    looked += 1;
                    looked - 1
                },
                |at| ages.get(*at).copied().flatten().map(Duration::from_millis),
                |wait| {
                    assert!(wait <= FRESH);
                    waits += 1;
                    waits <= most
                },
            ) + 1
        };
        assert_eq!(looks(&[None], 9), 1);
        assert_eq!(looks(&[Some(500)], 9), 1, "an ordinary look is no longer than it was");
        assert_eq!(looks(&[Some(10), Some(499), Some(600)], 9), 3);
        assert_eq!(looks(&[Some(0); 99], 4), 5, "a file that is always fresh ends it too");
    }

    #[test]
    fn the_youngest_file_of_the_configuration_counts_and_no_log_does() {
        let root = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let put = |path: &str, text: &str, ago: u64| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::File::open(&path).unwrap().set_modified(now - Duration::from_secs(ago)).unwrap();
        };
        put("etc/systemd/system/k3s.service", "[Service]\nExecStart=/usr/local/bin/k3s server\n", 60);
        let log = "kube-apiserver-arg: [audit-log-path=/var/log/a.log, audit-policy-file=/etc/p.yaml]\n";
        put("etc/rancher/k3s/config.yaml", log, 50);
        put("var/log/a.log", "{}\n", 0);
        put("etc/p.yaml", "kind: Policy\n", 40);
        let host = Host::rooted(root.path(), Arc::new(SystemClock)).unwrap();
        let (memory, catalogue) = (Memory::none(), Catalogue::built_in().unwrap());
        let seen = observe(&host, &Ask { role: None, memory: &memory, catalogue: &catalogue });
        assert_eq!(youngest(&host, &seen, now).unwrap().as_secs(), 40);
        put("etc/rancher/k3s/config.yaml", log, 5);
        assert_eq!(youngest(&host, &seen, now).unwrap().as_secs(), 5);
    }
}
