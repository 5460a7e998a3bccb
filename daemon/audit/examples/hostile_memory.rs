//! What the detector's memory costs while a log holds nothing but news.
//!
//! `cargo run --release -p picket-audit --example hostile_memory [EVENTS]`

#[path = "../tests/hostile_log/mod.rs"]
mod hostile_log;

use std::time::Instant;

use picket_audit::{Detector, Event, Position, Settings, builtin};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let events: usize = std::env::args().nth(1).map_or(Ok(300_000), |number| number.parse())?;
    let mut detector = Detector::new(builtin()?, Settings::default());
    let mut out = Vec::new();
    let (mut raised, mut taken) = (0, 0.0);
    for (at, line) in hostile_log::lines().take(events).enumerate() {
        if at % (events / 10).max(1) == 0 {
            report(at, &detector);
        }
        let start = Instant::now();
        let Ok(event) = Event::parse(line.as_bytes()) else { continue };
        detector.observe(&event, Position { file: "audit.log", line: at as u64 + 1 }, &mut out);
        taken += start.elapsed().as_secs_f64();
        // As the daemon stores it from time to time.
        if at % 10_000 == 9999 {
            detector.state_within(1 << 20, &mut out)?;
        }
        raised += out.drain(..).count();
    }
    report(events, &detector);
    println!("{raised} reports, {:.0} events/s, {:?}", events as f64 / taken, detector.counters());
    Ok(())
}

fn report(at: usize, detector: &Detector) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("").trim();
    println!("{at:>8} events: {:>5} keys, {:>8} bytes, RSS {rss}", detector.remembered(), detector.remembered_bytes());
}
