//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// How long a condition may take before a test gives up. Generous: nothing is measured by it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until `condition` gives a value.
///
/// # Errors
/// After [`PATIENCE`], naming what was waited for.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "waited {} s in vain: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}
