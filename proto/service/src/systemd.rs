//! What a service tells systemd: readiness, reloads, its state in a sentence, and that it is alive.
//!
//! Units are `Type=notify` with `ExecReload=/bin/kill -HUP $MAINPID`, which works from systemd 247 on; the reload
//! protocol (RELOADING with the monotonic time, then READY) is also what `notify-reload` of newer ones wants.
//! Without systemd every call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The way to systemd. Messages that cannot be sent are logged at debug level: the service must not fail for them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Systemd(());

impl Systemd {
    /// A way to the manager that started this process, if one did.
    pub const fn new() -> Self {
        Self(())
    }

    /// Everything is in place; `status` is what `systemctl status` shows.
    pub fn ready(self, status: &str) {
        send(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// What `systemctl status` shows from now on.
    pub fn status(self, status: &str) {
        send(&[NotifyState::Status(status)]);
    }

    /// The settings are being read again; [`Self::ready`] must follow, whether it worked or not.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "monotonic time cannot be read"),
        }
    }

    /// The service is on its way down.
    pub fn stopping(self) {
        send(&[NotifyState::Stopping]);
    }

    /// How often the watchdog must be fed: half the interval systemd asked for. `None` without a watchdog.
    pub fn watchdog_interval(self) -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|interval| interval / 2)
    }

    /// Feeds the watchdog. Called only while all essential tasks make progress.
    pub fn feed_watchdog(self) {
        send(&[NotifyState::Watchdog]);
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}
