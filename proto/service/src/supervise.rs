//! Every task has an owner, a kind and an end.
//!
//! An *essential* task that fails or panics is started again with growing delays; when it fails too often in a row
//! the process ends, so that systemd starts it afresh. An *auxiliary* task is started again for ever. Essential tasks
//! show progress through a [`Pulse`]; the watchdog is fed from that, not from a timer. Stopping cancels a token that
//! all tasks hold, waits until a deadline and aborts what is left.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::chain::Chain;

/// What it means when a task ends with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// The service is nothing without it.
    Essential,
    /// The service is poorer without it.
    Auxiliary,
}

/// How a task is started again.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The first delay.
    pub first: Duration,
    /// The longest delay.
    pub max: Duration,
    /// How often in a row an essential task may fail before the process ends.
    pub attempts: u32,
    /// A task that ran this long had been started well: failures before it no longer count.
    pub healthy: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            max: Duration::from_secs(30),
            attempts: 8,
            healthy: Duration::from_secs(60),
        }
    }
}

/// An essential task failed too often, or ended although nothing asked it to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{task} failed {attempts} times in a row, last with: {reason}")]
pub struct TaskFailed {
    /// Which one.
    pub task: &'static str,
    /// How often.
    pub attempts: u32,
    /// The last error, with its sources.
    pub reason: String,
}

/// Tasks that did not stop in time and were aborted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stopped {
    /// Their names.
    pub aborted: Vec<&'static str>,
}

/// The owner of all tasks of a service.
#[derive(Debug)]
pub struct Supervisor {
    cancel: CancellationToken,
    failed: CancellationToken,
    tracker: TaskTracker,
    policy: Policy,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    failure: Mutex<Option<TaskFailed>>,
    running: Mutex<Vec<(&'static str, AbortHandle)>>,
    pulses: Mutex<Vec<Pulse>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What the locks protect is replaced whole: a panic elsewhere leaves it good.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sign of life of a task.
#[derive(Debug, Clone)]
pub struct Pulse {
    task: &'static str,
    limit: Duration,
    last: Arc<Mutex<Instant>>,
}

impl Pulse {
    /// Work got done, or there was none to do.
    pub fn beat(&self) {
        *lock(&self.last) = Instant::now();
    }

    /// A pulse nobody looks at.
    pub fn unwatched() -> Self {
        Self { task: "", limit: Duration::MAX, last: Arc::new(Mutex::new(Instant::now())) }
    }
}

impl Supervisor {
    /// A supervisor whose tasks stop when `cancel` is cancelled.
    pub fn new(cancel: CancellationToken, policy: Policy) -> Self {
        Self { cancel, failed: CancellationToken::new(), tracker: TaskTracker::new(), policy, shared: Arc::default() }
    }

    /// The token all tasks watch.
    pub const fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// A pulse for an essential task, which must beat at least this often.
    pub fn pulse(&self, task: &'static str, limit: Duration) -> Pulse {
        let pulse = Pulse { task, limit, last: Arc::new(Mutex::new(Instant::now())) };
        lock(&self.shared.pulses).push(pulse.clone());
        pulse
    }

    /// Essential tasks that did not beat in time. Empty: feed the watchdog.
    pub fn late(&self) -> Vec<&'static str> {
        let now = Instant::now();
        lock(&self.shared.pulses)
            .iter()
            .filter(|p| now.saturating_duration_since(*lock(&p.last)) > p.limit)
            .map(|p| p.task)
            .collect()
    }

    /// Starts a task. `make` builds it anew for each start; its future watches the token and ends with `Ok` only
    /// when it was cancelled (an essential one) or has nothing more to do (an auxiliary one).
    pub fn spawn<M, F, E>(&self, name: &'static str, kind: TaskKind, mut make: M)
    where
        M: FnMut(CancellationToken) -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        let (cancel, failed, shared, policy) =
            (self.cancel.clone(), self.failed.clone(), Arc::clone(&self.shared), self.policy);
        let handle = self.tracker.spawn(async move {
            let mut backoff = Backoff::new(policy.first, policy.max);
            let mut attempts = 0u32;
            loop {
                let started = Instant::now();
                // An own task, so that a panic ends in a JoinError here.
                let task = tokio::spawn(make(cancel.clone()));
                let guard = AbortOnDrop(task.abort_handle());
                let reason = match task.await {
                    Ok(Ok(())) if cancel.is_cancelled() || kind == TaskKind::Auxiliary => break,
                    Ok(Ok(())) => "it ended without being asked to".to_owned(),
                    Ok(Err(error)) => Chain(&error).to_string(),
                    Err(error) if error.is_panic() => "it panicked".to_owned(),
                    Err(_) => break,
                };
                drop(guard);
                if started.elapsed() >= policy.healthy {
                    attempts = 0;
                    backoff.reset();
                }
                attempts = attempts.saturating_add(1);
                if kind == TaskKind::Essential && attempts >= policy.attempts {
                    tracing::error!(
                        task = name,
                        attempts,
                        reason,
                        "an essential task failed too often; the service ends"
                    );
                    lock(&shared.failure).get_or_insert(TaskFailed { task: name, attempts, reason });
                    failed.cancel();
                    break;
                }
                let delay = backoff.delay();
                tracing::warn!(
                    task = name,
                    attempts,
                    reason,
                    delay_ms = delay.as_millis(),
                    "a task failed and is started again"
                );
                tokio::select! {
                    () = cancel.cancelled() => break,
                    () = tokio::time::sleep(delay) => {}
                }
            }
            lock(&shared.running).retain(|(n, _)| *n != name);
        });
        lock(&self.shared.running).push((name, handle.abort_handle()));
    }

    /// Ends when an essential task has given up.
    pub async fn failed(&self) -> TaskFailed {
        self.failed.cancelled().await;
        lock(&self.shared.failure).clone().unwrap_or(TaskFailed {
            task: "a task",
            attempts: 0,
            reason: "unknown".to_owned(),
        })
    }

    /// Asks all tasks to stop, waits for them until the deadline and aborts the rest.
    pub async fn stop(self, within: Duration) -> Stopped {
        self.cancel.cancel();
        self.tracker.close();
        if tokio::time::timeout(within, self.tracker.wait()).await.is_ok() {
            return Stopped::default();
        }
        let left: Vec<_> = lock(&self.shared.running).drain(..).collect();
        for (_, handle) in &left {
            handle.abort();
        }
        Stopped { aborted: left.into_iter().map(|(name, _)| name).collect() }
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn supervisor() -> Supervisor {
        Supervisor::new(CancellationToken::new(), Policy { attempts: 3, ..Policy::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn an_essential_task_is_started_again_and_then_ends_the_service() {
        let supervisor = supervisor();
        let starts = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&starts);
        supervisor.spawn("engine", TaskKind::Essential, move |_| {
            let round = count.fetch_add(1, Ordering::SeqCst);
            async move {
                assert!(round != 1, "the second round panics");
                Err(std::io::Error::other("no disk"))
            }
        });
        let failed = supervisor.failed().await;
        assert_eq!(starts.load(Ordering::SeqCst), 3);
        assert_eq!((failed.task, failed.attempts, failed.reason.as_str()), ("engine", 3, "no disk"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_auxiliary_task_never_ends_the_service() {
        let supervisor = supervisor();
        let starts = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&starts);
        supervisor.spawn("uplink", TaskKind::Auxiliary, move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Err(std::io::Error::other("no route")) }
        });
        assert!(tokio::time::timeout(Duration::from_secs(600), supervisor.failed()).await.is_err());
        assert!(starts.load(Ordering::SeqCst) > 10);
        assert_eq!(supervisor.stop(Duration::from_secs(5)).await, Stopped::default());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_stop_is_aborted_and_named() {
        let supervisor = supervisor();
        supervisor.spawn("good", TaskKind::Essential, |cancel| async move {
            cancel.cancelled().await;
            Ok::<(), std::io::Error>(())
        });
        supervisor.spawn("deaf", TaskKind::Auxiliary, |_| async {
            std::future::pending::<()>().await;
            Ok::<(), std::io::Error>(())
        });
        tokio::task::yield_now().await;
        assert_eq!(supervisor.stop(Duration::from_secs(5)).await.aborted, ["deaf"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_without_pulse_is_late() {
        let supervisor = supervisor();
        let engine = supervisor.pulse("engine", Duration::from_secs(10));
        let audit = supervisor.pulse("audit", Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(supervisor.late(), ["engine"]);
        engine.beat();
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(supervisor.late(), ["engine", "audit"]);
        audit.beat();
        engine.beat();
        assert!(supervisor.late().is_empty());
    }
}
