//! How fast the detector is, beside serde_json's typed parse of the same bytes in the same run.
//!
//! `cargo run --release -p picket-audit --example throughput [FILE…]`; without a file the labelled K3s log is used.

use std::hint::black_box;
use std::io::Read;
use std::time::Instant;

use picket_audit::{Detector, Event, Position, Settings, builtin};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/audit/k3s-real/");
        files = ["audit.log.gz", "first-start-default.log.gz"].map(|name| format!("{fixtures}{name}")).to_vec();
    }
    for file in files {
        let bytes = std::fs::read(&file)?;
        let mut text = Vec::new();
        if file.ends_with(".gz") {
            flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut text)?;
        } else {
            text = bytes;
        }
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        let rounds = 10;
        let (mut parse, mut whole, mut found) = (f64::MAX, f64::MAX, 0);
        let mut counters = None;
        // The two take turns, and each counts with its best round, so that a busy machine harms both alike.
        for _ in 0..rounds {
            let start = Instant::now();
            for line in &lines {
                black_box(serde_json::from_slice::<Event<'_>>(black_box(line)).ok());
            }
            parse = parse.min(start.elapsed().as_secs_f64());

            let mut detector = Detector::new(builtin()?, Settings::default());
            let mut out = Vec::new();
            let start = Instant::now();
            for (at, line) in lines.iter().enumerate() {
                if let Ok(event) = Event::parse(black_box(line)) {
                    detector.observe(&event, Position { file: "audit.log", line: at as u64 }, &mut out);
                }
            }
            whole = whole.min(start.elapsed().as_secs_f64());
            found = black_box(out.len());
            counters = Some(detector.counters());
        }
        let (count, megabytes) = (lines.len() as f64, text.len() as f64 / 1e6);
        println!("{file}: {count} events, {megabytes:.1} MB, {found} reports, {counters:?}");
        println!("  typed parse alone  {:>9.0} events/s  {:>6.1} MB/s", count / parse, megabytes / parse);
        println!("  parse and rules    {:>9.0} events/s  {:>6.1} MB/s", count / whole, megabytes / whole);
        println!("  ratio              {:.2}", parse / whole);
    }
    Ok(())
}
