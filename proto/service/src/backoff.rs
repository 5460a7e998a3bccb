//! Waiting longer after each failure, never in step with others.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Delays that double from `first` to `max`. Each is drawn from the upper half of its range, so that a fleet that
/// lost its collector in one moment does not come back in one moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    step: u32,
    rng: SmallRng,
}

impl Backoff {
    /// Delays seeded by the system.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, step: 0, rng: SmallRng::from_os_rng() }
    }

    /// The same delays each time: for tests and simulations.
    pub fn seeded(first: Duration, max: Duration, seed: u64) -> Self {
        Self { first, max, step: 0, rng: SmallRng::seed_from_u64(seed) }
    }

    /// How long to wait now. Each call counts as one more failure.
    pub fn delay(&mut self) -> Duration {
        let full = self.first.saturating_mul(1u32.checked_shl(self.step).unwrap_or(u32::MAX)).min(self.max);
        self.step = self.step.saturating_add(1).min(31);
        full.mul_f64(self.rng.random_range(0.5..=1.0))
    }

    /// How many failures since the last success.
    pub const fn failures(&self) -> u32 {
        self.step
    }

    /// It worked: the next delay is a first one.
    pub fn reset(&mut self) {
        self.step = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_limit_within_their_upper_half() {
        let mut backoff = Backoff::seeded(Duration::from_millis(100), Duration::from_secs(5), 7);
        for step in 0..80u32 {
            let full = Duration::from_millis(100 * 2u64.pow(step.min(10))).min(Duration::from_secs(5));
            let got = backoff.delay();
            assert!(got >= full / 2 && got <= full, "step {step}: {got:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.delay() <= Duration::from_millis(100));
    }

    #[test]
    fn two_nodes_do_not_wait_alike() {
        let mut a = Backoff::seeded(Duration::from_secs(1), Duration::from_secs(60), 1);
        let mut b = Backoff::seeded(Duration::from_secs(1), Duration::from_secs(60), 2);
        assert_ne!(a.delay(), b.delay());
    }
}
