//! Measures what docs/performance.md reports, each beside a yardstick taken in the same run.
//!
//! `cargo run -p picket-tests --bin measure [latency|scan|memory|sizes|backlog]…` (all without a word)

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use picket_tests::binaries::Binaries;
use picket_tests::collector::Collector;
use picket_tests::daemon::Daemon;
use picket_tests::live::Live;
use picket_tests::node::{DATA_DIR, Profile, SampleNode};
use picket_tests::{wait, yardstick};
use serde_json::Value;

/// Changes whose way to the collector is timed.
const CHANGES: usize = 200;
/// How much of the audit log is rotated away unread before picketd comes back.
const BACKLOG_BYTES: u64 = 1 << 30;
/// How long the audit log is written to, and how fast.
const BUSY: Duration = Duration::from_secs(40);
const EVENTS_A_SECOND: u128 = 500;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let asked = |word: &str| words.is_empty() || words.iter().any(|w| w == word);
    let binaries = Binaries::build(true)?;
    let dir = tempfile::tempdir()?;
    if asked("sizes") {
        sizes(&binaries)?;
    }
    let node = SampleNode::build_now(Profile::HardenedServer, &dir.path().join("node"))?;
    if asked("scan") {
        scan(&binaries, &node, dir.path())?;
    }
    if asked("latency") || asked("memory") || asked("backlog") {
        running(&binaries, &node, dir.path(), &asked)?;
    }
    Ok(())
}

fn sizes(binaries: &Binaries) -> anyhow::Result<()> {
    println!("stripped binaries");
    for path in [&binaries.picketd, &binaries.collector, &binaries.ctl] {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        println!("  {name:<18} {:.2} MiB", mib(fs::metadata(path)?.len()));
    }
    Ok(())
}

/// A whole `picketd scan`, against a shell pipeline for each of its verdicts.
fn scan(binaries: &Binaries, node: &SampleNode, dir: &Path) -> anyhow::Result<()> {
    let run = || -> anyhow::Result<(Duration, Vec<u8>)> {
        let begun = Instant::now();
        let output =
            Command::new(&binaries.picketd).args(["scan", "-o", "json", "--root"]).arg(node.root()).output()?;
        anyhow::ensure!(!output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok((begun.elapsed(), output.stdout))
    };
    let (_, json) = run()?;
    let mut took = (0..50).map(|_| run().map(|r| r.0)).collect::<Result<Vec<_>, _>>()?;
    let result: Value = serde_json::from_slice(&json)?;
    let verdicts = result["verdicts"].as_array().context("no verdicts")?;
    let pipelines: Vec<String> = verdicts.iter().filter_map(|v| yardstick::pipeline(node, v)).collect();
    let with_files = pipelines.iter().filter(|p| p.starts_with("stat ")).count();
    let with_openssl = pipelines.iter().filter(|p| p.contains("openssl")).count();
    let mut shell = (0..3).map(|_| yardstick::run(&pipelines)).collect::<Result<Vec<_>, _>>()?;
    shell.sort_unstable();
    let shell = percentile(&shell, 50);
    let peak_mib = peak(binaries, dir, &["scan", "-o", "json", "--root"], Some(node.root()))?;
    took.sort_unstable();
    let median = percentile(&took, 50);
    println!("picketd scan of the hardened sample server, whole process, warm, 50 runs");
    println!(
        "  {} verdicts; median {:.1} ms, p99 {:.1} ms; peak memory {:.1} MiB",
        verdicts.len(),
        ms(median),
        ms(percentile(&took, 99)),
        peak_mib
    );
    println!(
        "  yardstick: a `sh -c '… | grep'` for each of the {} decided ones ({with_files} stat, {with_openssl} openssl, the rest \
         flags, options and kernel parameters), median of 3: {:.0} ms, {:.0} times as long",
        pipelines.len(),
        ms(shell),
        shell.as_secs_f64() / median.as_secs_f64()
    );
    println!("  memory of `picketd --version` for comparison: {:.1} MiB", peak(binaries, dir, &["--version"], None)?);
    Ok(())
}

/// Peak resident memory of a run.
fn peak(binaries: &Binaries, dir: &Path, args: &[&str], root: Option<&Path>) -> anyhow::Result<f64> {
    let log = dir.join("time");
    Command::new("/usr/bin/time")
        .args(["-f", "%M", "-o"])
        .arg(&log)
        .arg(&binaries.picketd)
        .args(args)
        .args(root)
        .output()
        .context("/usr/bin/time")?;
    let kib: f64 = fs::read_to_string(&log)?.lines().last().unwrap_or_default().trim().parse()?;
    Ok(kib / 1024.0)
}

fn running(binaries: &Binaries, node: &SampleNode, dir: &Path, asked: &impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let collector = Collector::start(binaries, &dir.join("collector"))?;
    let operator = collector.operator("measure", "admin")?;
    let mut daemon = Daemon::new(binaries, &dir.join("picketd"), node.root())?;
    daemon.enroll(&collector, &collector.token(&[])?)?;
    daemon.start()?;
    wait::until("the first findings are at the collector", || {
        collector.get(&operator, &["findings"]).ok().filter(|f| !f.is_empty())
    })?;
    wait::until("the node has nothing left to send", || {
        (status(&daemon).ok()?["outbox"]["waiting"].as_u64() == Some(0)).then_some(())
    })?;
    if asked("memory") {
        println!("resident memory, idle after a full evaluation");
        println!("  picketd            {:.1} MiB", rss_mib(daemon.process()?.pid())?);
        println!("  picket-collector   {:.1} MiB", rss_mib(collector.process()?.pid())?);
        busy(&mut daemon, node)?;
    }
    let live = Live::watch(binaries, &operator)?;
    if asked("latency") {
        let took = (0..CHANGES).map(|n| change(&live, node, n)).collect::<Result<_, _>>()?;
        println!("change of a file → durable at the collector and shown to a watching operator, {CHANGES} changes");
        print_times(took);
        println!("  yardstick: one synced append of 1 KiB on the same disk:");
        print_times(sync_times(dir)?);
    }
    if asked("backlog") {
        backlog(&mut daemon, node, &live)?;
    }
    daemon.stop()
}

fn status(daemon: &Daemon) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&daemon.status_json()?.stdout)?)
}

/// Changes the mode of a key and waits until an operator sees it.
fn change(live: &Live, node: &SampleNode, n: usize) -> anyhow::Result<Duration> {
    let key = format!("{DATA_DIR}/server/tls/client-admin.key");
    let (mode, kind) = if n.is_multiple_of(2) { (0o644, "finding_opened") } else { (0o600, "finding_resolved") };
    let begun = Instant::now();
    node.chmod(&key, mode)?;
    loop {
        let event = live.next(wait::PATIENCE).context("nothing arrived")?;
        if event["kind"] == kind && event["finding"]["subject"] == key.as_str() {
            return Ok(begun.elapsed());
        }
    }
}

fn print_times(mut took: Vec<Duration>) {
    took.sort_unstable();
    println!(
        "  {} times: p50 {:.1} ms, p99 {:.1} ms",
        took.len(),
        ms(percentile(&took, 50)),
        ms(percentile(&took, 99))
    );
}

/// picketd comes back to a backlog of rotated logs; meanwhile files change.
fn backlog(daemon: &mut Daemon, node: &SampleNode, live: &Live) -> anyhow::Result<()> {
    daemon.stop()?;
    let text = real_log()?;
    let logs = node.path(&format!("{DATA_DIR}/server/logs"));
    fs::rename(logs.join("audit.log"), logs.join("audit-2026-11-28T00-00-00.000.log"))?;
    let files = BACKLOG_BYTES.div_ceil(text.len() as u64);
    for n in 1..=files {
        fs::write(logs.join(format!("audit-2026-11-28T{:02}-{:02}-00.000.log", n / 60, n % 60)), &text)?;
    }
    fs::write(logs.join("audit.log"), "")?;
    let events_written = files * text.lines().count() as u64;
    daemon.start()?;
    let (begun, mut took, mut most) = (Instant::now(), Vec::new(), 0.0f64);
    let caught_up = loop {
        took.push(change(live, node, took.len())?);
        most = most.max(rss_mib(daemon.process()?.pid())?);
        if status(daemon)?["audit"]["events"].as_u64().is_some_and(|events| events >= events_written) {
            break begun.elapsed();
        }
    };
    println!("back after {files} rotated logs, {:.0} MiB", mib(files * text.len() as u64));
    println!(
        "  read in {:.1} s; resident memory at most {most:.1} MiB; changes of a file meanwhile:",
        caught_up.as_secs_f64()
    );
    print_times(took);
    Ok(())
}

/// The log of a real K3s.
fn real_log() -> anyhow::Result<String> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/audit/k3s-real/audit.log.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(fs::File::open(fixture)?).read_to_string(&mut text)?;
    Ok(text)
}

/// The log of a real K3s, written anew at a steady rate.
fn busy(daemon: &mut Daemon, node: &SampleNode) -> anyhow::Result<()> {
    let text = real_log()?;
    let mut lines = text.split_inclusive('\n').cycle();
    let log = format!("{DATA_DIR}/server/logs/audit.log");
    let pid = daemon.process()?.pid();
    let (begun, mut written, mut seen) = (Instant::now(), 0, Vec::new());
    while begun.elapsed() < BUSY {
        let due = begun.elapsed().as_millis() * EVENTS_A_SECOND / 1000;
        let mut piece = String::new();
        while written < due {
            piece.push_str(lines.next().context("the fixture is empty")?);
            written += 1;
        }
        node.append(&log, &piece)?;
        seen.push(rss_mib(pid)?);
        std::thread::sleep(Duration::from_millis(50));
    }
    seen.sort_by(f64::total_cmp);
    let at = |percent: usize| seen.get(seen.len() * percent / 100).or(seen.last()).copied().unwrap_or_default();
    println!("resident memory at {EVENTS_A_SECOND} audit events/s, {} s", BUSY.as_secs());
    println!("  picketd            median {:.1} MiB, most {:.1} MiB", at(50), at(100));
    Ok(())
}

fn sync_times(dir: &Path) -> anyhow::Result<Vec<Duration>> {
    let mut file = fs::File::create(dir.join("yardstick"))?;
    (0..CHANGES)
        .map(|_| {
            let begun = Instant::now();
            file.write_all(&[7; 1024])?;
            file.sync_data()?;
            Ok(begun.elapsed())
        })
        .collect()
}

fn rss_mib(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib / 1024.0)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[allow(clippy::cast_precision_loss, reason = "sizes of programs are far below 2^52")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
