//! The engine judges only what depends on a change: after any changes of the node's files its open findings are those of
//! an engine that looks at the node for the first time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use picket_ledger::{Ledger, LedgerHandle, Limits};
use picket_model::FindingState;
use picket_tests::node::Profile;
use picketd::engine::{Engine, Outlets, Parts, Why};
use picketd::local::Places;
use picketd::remembered::Remembered;
use picketd::settings::Watch;
use picketd::source::Source;
use picketd::status::Board;
use picketd::uplink::Vitals;
use picketd::watch::Hints;
use proptest::prelude::*;
use tokio::sync::watch;

use crate::{Node, built_in, moment};

/// An engine over a node, with a ledger of its own.
struct Watched {
    engine: Engine,
    ledger: LedgerHandle,
    board: Board,
    hints: Hints,
}

impl Watched {
    fn new(node: &Node, state: &Path) -> Self {
        fs::create_dir_all(state).unwrap();
        let (ledger, _) = Ledger::open(&state.join("ledger"), Limits::default(), moment()).unwrap();
        let (ledger, board, hints) = (LedgerHandle::new(ledger), Board::default(), Hints::default());
        let none = Duration::ZERO;
        let mut remembered = Remembered::open(state).unwrap();
        // Memories of two engines must not differ by when they were made.
        remembered.memory.seen = None;
        let engine = Engine::new(Parts {
            host: node.host(),
            role: None,
            proc: None,
            policy: built_in(),
            places: Places::default(),
            rules: state.join("rules"),
            remembered,
            ledger: ledger.clone(),
            hints: hints.clone(),
            watch: Watch { quiet: none, longest: none, settle: none },
            outlets: Outlets {
                vitals: watch::Sender::new(Vitals::default()),
                board: board.clone(),
                audit_logs: watch::Sender::new(Vec::new()),
            },
        });
        Self { engine, ledger, board, hints }
    }

    /// Looks, and looks again at what seemed unfinished.
    fn look(&mut self, why: Why, sources: &BTreeSet<Source>) {
        self.engine.look(why, sources).unwrap();
        for _ in 0..4 {
            self.engine.look_again().unwrap();
        }
        assert!(!self.engine.waits());
    }

    /// What is open. A finding that became blind says so, and keeps what it said before; a new one knows only that it is
    /// blind.
    fn open(&self) -> BTreeMap<(String, String), String> {
        self.ledger.with(|ledger| {
            ledger
                .findings()
                .map(|f| {
                    let blind = f.state == FindingState::Blind || f.stale;
                    let says = if blind { "cannot be judged".to_owned() } else { f.observed.clone() };
                    ((f.control.clone(), f.subject.clone()), says)
                })
                .collect()
        })
    }
}

/// What happens to a file: how, and to which of those that are there.
type Change = (u8, prop::sample::Index);

fn files(node: &Node) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
        let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.symlink_metadata().unwrap().is_dir() {
                walk(root, &path, found);
            } else {
                found.push(format!("/{}", path.strip_prefix(root).unwrap().display()));
            }
        }
    }
    let mut found = Vec::new();
    walk(node.sample.root(), node.sample.root(), &mut found);
    found
}

fn change(node: &Node, (how, at): Change) {
    let sample = &node.sample;
    let all = files(node);
    if all.is_empty() {
        return;
    }
    let path = at.get(&all).as_str();
    let data = "/var/lib/rancher/k3s";
    match how {
        0..=2 => drop(sample.chmod(path, [0o600, 0o644, 0o666][usize::from(how)])),
        3 => fs::remove_file(sample.path(path)).unwrap(),
        4 => drop(sample.write(path, "")),
        5 => drop(sample.write(path, "{ not what it was")),
        6 => drop(sample.append("/etc/rancher/k3s/config.yaml", "kube-apiserver-arg+:\n- profiling=true\n")),
        7 => drop(sample.write("/etc/rancher/k3s/config.yaml.d/70-x.yaml", "disable-agent: true\n")),
        8 => drop(sample.write("/etc/sysctl.d/90-x.conf", "kernel.panic = 10\nvm.overcommit_memory=1\n")),
        9 => drop(sample.write(&format!("{data}/server/manifests/x.yaml"), "a: b\n")),
        10 => drop(
            sample.write("/etc/rancher/k3s/registries.yaml", "configs: {a: {tls: {insecure_skip_verify: true}}}\n"),
        ),
        11 => drop(sample.write(
            &format!("{data}/agent/etc/kubelet.conf.d/60-x.conf"),
            "authentication: {anonymous: {enabled: true}}\n",
        )),
        _ => drop(fs::remove_dir_all(sample.path(path).parent().unwrap())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn an_engine_that_judges_what_changed_knows_what_a_new_one_finds(
        profile in 0_usize..4,
        rounds in prop::collection::vec(prop::collection::vec((0_u8..13, any::<prop::sample::Index>()), 1..4), 1..4),
    ) {
        let node = Node::new(Profile::ALL[profile]);
        let folder = tempfile::tempdir().unwrap();
        let mut watched = Watched::new(&node, &folder.path().join("watched"));
        watched.look(Why::Whole, &Source::ALL.into());
        for (number, round) in rounds.into_iter().enumerate() {
            round.into_iter().for_each(|what| change(&node, what));
            watched.look(Why::Hint, &Source::ALL.into());
            let mut fresh = Watched::new(&node, &folder.path().join(format!("fresh-{number}")));
            fresh.look(Why::Whole, &Source::ALL.into());
            prop_assert_eq!(watched.open(), fresh.open());
            prop_assert_eq!(watched.board.read().verdicts, fresh.board.read().verdicts);
        }
    }
}

/// Found by the property, which seldom hits this one file.
#[test]
fn a_database_that_is_overwritten_is_judged_anew() {
    let node = Node::new(Profile::DefaultServer);
    let folder = tempfile::tempdir().unwrap();
    let mut watched = Watched::new(&node, &folder.path().join("watched"));
    watched.look(Why::Whole, &Source::ALL.into());
    node.sample.write("/var/lib/rancher/k3s/server/db/state.db", "{ not what it was").unwrap();
    watched.look(Why::Hint, &Source::ALL.into());
    let mut fresh = Watched::new(&node, &folder.path().join("fresh"));
    fresh.look(Why::Whole, &Source::ALL.into());
    assert_eq!(watched.open(), fresh.open());
}

#[test]
fn one_file_leads_to_the_findings_that_depend_on_it_and_no_others() {
    let node = Node::new(Profile::HardenedServer);
    let folder = tempfile::tempdir().unwrap();
    let mut watched = Watched::new(&node, folder.path());
    watched.look(Why::Whole, &Source::ALL.into());
    let (before, told) = (watched.open(), watched.board.read().verdicts);
    node.sample.chmod("/etc/rancher/k3s/k3s.yaml", 0o644).unwrap();
    // The kernel's own hint, with nothing else said.
    while watched.engine.follow_hints().unwrap().opened.is_empty() {
        std::thread::yield_now();
    }
    let new: Vec<_> = watched.open().into_iter().filter(|(key, _)| !before.contains_key(key)).collect();
    assert!(new.iter().any(|((control, _), _)| control == "k3s-kubeconfig-mode"), "{new:?}");
    assert!(new.iter().all(|((_, subject), _)| subject == "/etc/rancher/k3s/k3s.yaml"), "{new:?}");
    let now = watched.board.read().verdicts;
    assert_eq!(now.values().sum::<u64>(), told.values().sum::<u64>());
    assert_eq!(now["fail"], told["fail"] + new.len() as u64);
    drop(watched.hints);
}
