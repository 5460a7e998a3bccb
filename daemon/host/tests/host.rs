//! What whoever looks through the door relies on: nothing leads out of the root, nothing blocks, every refusal says
//! why.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use picket_host::{Host, HostError, Kind, ReadError};
use picket_service::clock::FixedClock;
use tempfile::TempDir;

struct Tree {
    dir: TempDir,
}

impl Tree {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path.trim_start_matches('/'))
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let at = self.at(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Self {
        let at = self.at(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(target, at).unwrap();
        self
    }

    fn host(&self) -> Host {
        Host::rooted(&self.dir.path().join("root"), Arc::new(FixedClock(Timestamp::UNIX_EPOCH))).unwrap()
    }
}

fn text(host: &Host, path: &str) -> Result<String, ReadError> {
    let content = host.read(Path::new(path), 1000)?;
    content.text().map(str::to_owned)
}

#[test]
fn links_never_lead_out_of_the_root() {
    let tree = Tree::new();
    fs::create_dir_all(tree.at("/")).unwrap();
    fs::write(tree.dir.path().join("secret"), "outside").unwrap();
    tree.file("/data/token", "inside")
        .file("/etc/passwd", "of the node")
        .link("/absolute", "/data/token")
        .link("/up", "../secret")
        .link("/deep/a/up", "../../../../../../secret")
        .link("/deep/passwd", "../../../../../../../../etc/passwd")
        .link("/folder", "/data");
    for host in [tree.host(), tree.host().step_by_step()] {
        assert_eq!(text(&host, "/absolute").unwrap(), "inside");
        assert_eq!(text(&host, "/folder/token").unwrap(), "inside");
        assert_eq!(text(&host, "/deep/passwd").unwrap(), "of the node");
        assert_eq!(text(&host, "/up"), Err(ReadError::Absent));
        assert_eq!(text(&host, "/deep/a/up"), Err(ReadError::Absent));
        assert_eq!(text(&host, "/../../secret"), Err(ReadError::Absent));
        assert_eq!(host.trail(Path::new("/deep/passwd")).end, Path::new("/etc/passwd"));
        assert_eq!(host.glob("/d*/passwd").paths, ["/deep/passwd"]);
        let proc = host.with_proc(&tree.at("/data")).unwrap();
        assert_eq!(proc.sysctl("none"), Err(ReadError::Absent));
    }
}

#[test]
fn what_is_no_regular_file_is_refused_and_never_blocks() {
    let tree = Tree::new();
    tree.file("/etc/x", "x").link("/a", "b").link("/b", "a").link("/nowhere", "/none");
    nix::unistd::mkfifo(&tree.at("/pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let host = tree.host();
    assert_eq!(text(&host, "/pipe"), Err(ReadError::NotRegular(Kind::Pipe)));
    assert_eq!(text(&host, "/etc"), Err(ReadError::NotRegular(Kind::Folder)));
    assert_eq!(text(&host, "/a"), Err(ReadError::Loop));
    assert_eq!(text(&host, "/nowhere"), Err(ReadError::Absent));
    assert_eq!(text(&host, "/etc/x/y"), Err(ReadError::Absent));
    assert_eq!(host.list(Path::new("/etc/x"), 10), Err(ReadError::NotRegular(Kind::File)));
}

#[test]
fn reads_are_bounded() {
    let tree = Tree::new();
    tree.file("/small", [b'x'; 1000]).file("/large", [b'x'; 1001]).file("/binary", [b'a', 0xff]);
    let host = tree.host();
    assert_eq!(text(&host, "/small").unwrap().len(), 1000);
    assert_eq!(text(&host, "/large"), Err(ReadError::TooLarge { limit: 1000 }));
    assert_eq!(text(&host, "/binary"), Err(ReadError::NotText { offset: 1 }));
    for n in 0..20 {
        tree.file(&format!("/many/{n:02}"), "");
    }
    assert_eq!(host.list(Path::new("/many"), 19), Err(ReadError::TooMany { limit: 19 }));
    assert_eq!(host.list(Path::new("/many"), 20).unwrap().len(), 20);
}

#[test]
fn a_file_that_is_written_meanwhile_is_never_returned_torn() {
    let tree = Tree::new();
    let whole = |c: u8| vec![c; 64 * 1024];
    tree.file("/token", whole(b'a'));
    let host = tree.host();
    let path = tree.at("/token");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for c in [b'a', b'b'] {
                    // By rename: each state is whole, and so must be each read.
                    let next = path.with_extension("tmp");
                    fs::write(&next, vec![c; 64 * 1024]).unwrap();
                    fs::rename(&next, &path).unwrap();
                }
            }
        }
    });
    for _ in 0..200 {
        match host.read(Path::new("/token"), 1 << 20) {
            Ok(content) => {
                let first = content.bytes[0];
                assert!(content.bytes.len() == 64 * 1024 && content.bytes.iter().all(|b| *b == first));
            }
            Err(reason) => assert_eq!(reason, ReadError::ChangedWhileReading),
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
}

#[test]
fn a_rooted_host_knows_nothing_of_this_machine() {
    let tree = Tree::new();
    tree.file("/etc/hostname", "node-01\n");
    let host = tree.host();
    assert_eq!(host.hostname().as_deref(), Some("node-01"));
    assert_eq!(host.kernel(), None);
    assert_eq!(host.now(), Timestamp::UNIX_EPOCH);
    assert!(matches!(host.sysctl("kernel/ostype"), Err(ReadError::NotHere(_))));
    assert!(matches!(host.k3s_process(), Err(ReadError::NotHere(_))));

    tree.file("/proc/sys/vm/overcommit_memory", "1\n");
    let host = tree.host();
    assert_eq!(host.sysctl("vm/overcommit_memory").as_deref(), Ok("1"));
    assert_eq!(host.sysctl("kernel/ostype"), Err(ReadError::Absent));

    let with_live = tree.host().with_proc(Path::new("/proc")).unwrap();
    assert_eq!(with_live.sysctl("kernel/ostype").as_deref(), Ok("Linux"));
    assert!(matches!(with_live.k3s_process(), Err(ReadError::NotHere(_))));
}

#[test]
fn patterns_find_files_and_say_where_they_could_not_look() {
    let tree = Tree::new();
    tree.file("/tls/a.crt", "")
        .file("/tls/b.key", "")
        .file("/tls/etcd/c.crt", "")
        .file("/tls/etcd/.hidden.crt", "")
        .link("/tls/loop", "/tls")
        .link("/tls/dangling.crt", "nowhere");
    let host = tree.host();
    let found = |pattern: &str| host.glob(pattern).paths;
    assert_eq!(found("/tls/*.crt"), ["/tls/a.crt", "/tls/dangling.crt"]);
    assert_eq!(
        found("/tls/*/*.crt"),
        ["/tls/etcd/.hidden.crt", "/tls/etcd/c.crt", "/tls/loop/a.crt", "/tls/loop/dangling.crt"]
    );
    assert_eq!(found("/tls/**/*.crt"), ["/tls/a.crt", "/tls/dangling.crt", "/tls/etcd/.hidden.crt", "/tls/etcd/c.crt"]);
    assert_eq!(
        found("/tls/**"),
        [
            "/tls/a.crt",
            "/tls/b.key",
            "/tls/dangling.crt",
            "/tls/etcd",
            "/tls/etcd/.hidden.crt",
            "/tls/etcd/c.crt",
            "/tls/loop"
        ]
    );
    assert_eq!(found("/tls/dangling.crt"), ["/tls/dangling.crt"]);
    let none = host.glob("/none/*.crt");
    assert_eq!(none.problems.len(), 1);
    assert_eq!((none.problems[0].path.as_str(), &none.problems[0].reason), ("/none", &ReadError::Absent));
    assert_eq!(host.glob("/tls/**").folders, ["/tls", "/tls/etcd"]);
}

#[test]
fn names_that_are_no_text_are_seen_and_opened_like_any_other() {
    let tree = Tree::new();
    let name = |bytes: &[u8]| tree.at("/d").join(OsStr::from_bytes(bytes));
    tree.file("/d/z.yaml", "z").file("/d/\\xff.yaml", "looks like the other");
    fs::write(name(b"\xff.yaml"), "hidden").unwrap();
    symlink(OsStr::from_bytes(b"/d/\xff.yaml"), tree.at("/link")).unwrap();
    for host in [tree.host(), tree.host().step_by_step()] {
        let names: Vec<_> = host.list(Path::new("/d"), 10).unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["\\x5cxff.yaml", "z.yaml", "\\xff.yaml"], "in byte order of what the kernel has");
        assert_eq!(host.glob("/d/*.yaml").paths.last().unwrap(), "/d/\\xff.yaml");
        assert_eq!(host.glob("/d/?.yaml").paths, ["/d/z.yaml", "/d/\\xff.yaml"]);
        assert_eq!(text(&host, "/d/\\xff.yaml").unwrap(), "hidden");
        assert_eq!(text(&host, "/d/\\x5cxff.yaml").unwrap(), "looks like the other");
        assert_eq!(host.read_link(Path::new("/link")).unwrap(), Path::new("/d/\\xff.yaml"));
        let trail = host.trail(Path::new("/link"));
        assert_eq!((trail.end.as_path(), trail.outcome), (Path::new("/d/\\xff.yaml"), Ok(Kind::File)));
        let outside = fs::read(host.outside(&trail.end)).unwrap();
        assert_eq!(outside, b"hidden");
    }
}

#[test]
fn more_paths_than_are_looked_at_are_one_problem() {
    let tree = Tree::new();
    for n in 0..4200 {
        tree.file(&format!("/many/{}/{n}", n % 3), "");
    }
    let host = tree.host();
    let matches = host.glob("/many/**");
    assert_eq!(matches.paths.len(), 4096);
    let problems: Vec<_> = matches.problems.iter().map(|p| (p.path.as_str(), &p.reason)).collect();
    assert_eq!(problems, [("/many", &ReadError::TooMany { limit: 4096 })]);
    assert_eq!(host.glob("/many/0/*").problems, []);
}

#[test]
fn a_trail_names_every_folder_a_change_could_show_in() {
    let tree = Tree::new();
    tree.file("/data/v1/token", "x")
        .link("/data/current", "v1")
        .link("/etc/token", "/data/current/token")
        .link("/etc/up", "../../../../data/v1/token")
        .link("/etc/gone", "/data/v2/token");
    let host = tree.host();
    let trail = host.trail(Path::new("/etc/token"));
    let shown = |paths: &[PathBuf]| paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
    assert_eq!(shown(&trail.folders), ["/", "/etc", "/data", "/data/v1"]);
    assert_eq!(shown(&trail.links), ["/etc/token", "/data/current"]);
    assert_eq!((trail.end.as_path(), trail.outcome), (Path::new("/data/v1/token"), Ok(Kind::File)));
    assert_eq!(host.trail(Path::new("/etc/up")).end, Path::new("/data/v1/token"));
    let gone = host.trail(Path::new("/etc/gone"));
    assert_eq!(
        (shown(&gone.folders), gone.outcome),
        (vec!["/".into(), "/etc".into(), "/data".into()], Err(ReadError::Absent))
    );
    tree.link("/x", "y").link("/y", "x");
    assert_eq!(host.trail(Path::new("/x")).outcome, Err(ReadError::Loop));
    assert_eq!(host.outside(Path::new("/etc/token")), tree.dir.path().canonicalize().unwrap().join("root/etc/token"));
}

#[test]
fn metadata_is_that_of_the_file_or_of_the_link() {
    let tree = Tree::new();
    tree.file("/secret", "abc").link("/link", "secret");
    fs::set_permissions(tree.at("/secret"), fs::Permissions::from_mode(0o640)).unwrap();
    let host = tree.host();
    let meta = host.stat(Path::new("/link")).unwrap();
    assert_eq!((meta.kind, meta.mode, meta.size), (Kind::File, 0o640, 3));
    assert_eq!(host.lstat(Path::new("/link")).unwrap().kind, Kind::Link);
    assert_eq!(host.read_link(Path::new("/link")).unwrap(), Path::new("secret"));
    assert_eq!(host.read_link(Path::new("/secret")), Err(ReadError::NotRegular(Kind::File)));
}

#[test]
fn a_root_that_is_none_is_named() {
    let error = Host::rooted(Path::new("/no/such/folder"), Arc::new(FixedClock(Timestamp::UNIX_EPOCH))).unwrap_err();
    assert!(
        matches!(&error, HostError::Root { path, reason: ReadError::Absent } if path == Path::new("/no/such/folder"))
    );
    assert!(error.to_string().contains("/no/such/folder"));
}

#[test]
fn this_machine_can_be_looked_at() {
    let host = Host::live(Arc::new(FixedClock(Timestamp::UNIX_EPOCH))).unwrap();
    assert!(host.is_live());
    assert_eq!(host.sysctl("kernel/ostype").as_deref(), Ok("Linux"));
    assert_eq!(host.sysctl("no/such/key"), Err(ReadError::Absent));
    // Whatever runs here, the process table can be read.
    assert!(host.k3s_process().is_ok());
    assert!(host.kernel().is_some_and(|k| !k.is_empty()));
}
