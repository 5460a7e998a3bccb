//! What a process gives back. Alone in its process: other tests take memory too.
#![cfg(target_env = "gnu")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use picket_service::resident::{keep_no_large_buffers, let_go};

/// KiB.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn large_buffers_and_many_small_things_are_no_memory_of_the_process_once_they_are_freed() {
    keep_no_large_buffers();
    let before = anonymous();
    for _ in 0..2 {
        let mut line = Vec::new();
        // It grows as a line does that is read piece by piece.
        (0..20 << 3).for_each(|_| line.extend_from_slice(&[1; 128 << 10]));
        let kept = vec![7; 1000];
        assert!(anonymous() > before + (16 << 10));
        drop(line);
        assert!(anonymous() < before + (8 << 10), "{before} {}", anonymous());
        drop(kept);
    }
    let mut names: Vec<_> = (0..200_000).map(|number| format!("{number:0100}")).collect();
    // Some that stay lie between them.
    let kept: Vec<_> = names.iter_mut().step_by(1000).map(std::mem::take).collect();
    drop(names);
    assert!(anonymous() > before + (16 << 10), "{before} {}", anonymous());
    let_go().unwrap();
    assert!(anonymous() < before + (8 << 10), "{before} {}", anonymous());
    drop(kept);
}
