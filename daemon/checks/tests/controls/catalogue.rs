//! The catalogue itself.

use picket_checks::*;

use crate::good::policy;

const YAML: &str = include_str!("../../catalogue/controls.yaml");

#[test]
fn the_packed_catalogue_is_the_one_people_edit() {
    let packed = Catalogue::built_in().unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("catalogue");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_by_key(|path| (!path.ends_with("controls.yaml"), path.clone()));
    let read = |path: &std::path::PathBuf| Catalogue::from_yaml(&std::fs::read_to_string(path).unwrap()).unwrap();
    let written: Vec<_> = files.iter().map(read).collect();
    assert_eq!(written[0].controls().len(), 245);
    let written: Vec<_> = written.iter().flat_map(Catalogue::controls).collect();
    assert_eq!(format!("{:?}", packed.controls()), format!("{written:?}"));
}

#[test]
fn words_outside_the_vocabulary_are_refused() {
    for (old, new) in [
        ("op: mode_at_most", "op: mode_about"),
        ("if_absent: not_applicable", "if_absent: whatever"),
        ("  scope: server", "  scope: moon"),
        ("  source: file-mode", "  source: rumour"),
        ("applies_when: never-on-k3s", "applies_when: on-sundays"),
        ("  level: 1", "  levels: 1"),
        ("    op: mode_at_most", "    op: mode_at_most\n    perhaps: true"),
    ] {
        let broken = YAML.replacen(old, new, 1);
        assert_ne!(broken, YAML, "{old} is not in the catalogue");
        assert!(Catalogue::from_yaml(&broken).is_err(), "{new} was taken");
    }
}

#[test]
fn ids_are_unique_and_combinations_name_controls_that_exist() {
    let twice = format!("{YAML}\n{}", &YAML[YAML.find("- id:").unwrap()..]);
    assert!(matches!(Catalogue::from_yaml(&twice), Err(CatalogueError::Twice(_))));
    let catalogue = Catalogue::built_in().unwrap();
    for id in ["audit-policy-key-concerns", "pss-control-in-place"] {
        for part in catalogue.get(id).unwrap().expected.values() {
            assert!(catalogue.get(&part).is_some(), "{id} names {part}");
        }
    }
}

#[test]
fn old_controls_are_listed_only_with_their_benchmark() {
    let mut policy = policy();
    let legacy: Vec<String> =
        policy.catalogue.controls().iter().filter(|c| c.status == Standing::Legacy).map(|c| c.id.clone()).collect();
    assert!(!legacy.is_empty());
    let listed = |policy: &Policy, id: &str| policy.lists(policy.catalogue.get(id).unwrap());
    assert!(legacy.iter().all(|id| !listed(&policy, id)));
    policy.benchmark = Some("1.6".to_owned());
    assert!(listed(&policy, "legacy-insecure-port"));
    policy.benchmark = Some("2.1".to_owned());
    assert!(!listed(&policy, "legacy-insecure-port"));
    assert_eq!(policy.benchmarks().first().map(String::as_str), Some("1.6"));
    assert_eq!(policy.benchmarks().last().map(String::as_str), Some("2.1"));
}

#[test]
fn what_the_host_must_look_at_follows_the_data_dir() {
    let needs = Needs::of(&policy().catalogue, "/srv/k3s", &[], &Places::default());
    assert!(needs.files.iter().all(|p| !p.as_str().starts_with("/var/lib/rancher")));
    assert!(needs.files.contains(&FilePattern::new("/srv/k3s/server/tls/**")));
    assert!(needs.files.contains(&FilePattern::new("/srv/k3s/data/current/bin/*")));
    assert!(needs.sysctls.contains(&"vm.overcommit_memory".to_owned()));
    assert!(needs.files.iter().all(|p| !p.as_str().contains([' ', '<'])), "{:?}", needs.files);
}

#[test]
fn patterns_match_as_they_say() {
    let deep = FilePattern::new("/a/tls/**");
    assert!(
        deep.matches("/a/tls/x") && deep.matches("/a/tls/x/y") && !deep.matches("/a/tls") && !deep.matches("/a/tlsx/y")
    );
    let keys = FilePattern::new("/a/tls/**/*.key");
    assert!(keys.matches("/a/tls/x.key") && keys.matches("/a/tls/etcd/x.key") && !keys.matches("/a/tls/x.crt"));
    let units = FilePattern::new("/s/k3s*.service.d/*.conf");
    assert!(units.matches("/s/k3s-agent.service.d/a.conf") && !units.matches("/s/k3s.service.d/a/b.conf"));
    assert_eq!((units.base(), keys.base(), FilePattern::new("/x").base()), ("/s", "/a/tls", "/"));
    assert!(units.passes("/s") && units.passes("/s/k3s.service.d") && !units.passes("/s/other.d"));
    assert!(deep.passes("/a/tls/etcd") && !deep.passes("/a"));
}
