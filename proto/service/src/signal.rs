//! What the system tells a service to do.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// A wish of whoever runs the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: stop in order.
    Stop,
    /// SIGHUP: read the settings again.
    Reload,
}

/// The signals a service listens to. Made once, before the service says that it is ready.
#[derive(Debug)]
pub struct Signals {
    term: Stream,
    int: Stream,
    hup: Stream,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    /// When the kernel refuses a handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// The next wish. Safe to drop and call again: no signal is lost.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.term.recv() => Signal::Stop,
            _ = self.int.recv() => Signal::Stop,
            _ = self.hup.recv() => Signal::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hup_asks_for_a_reload() {
        let mut signals = Signals::listen().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGHUP).unwrap();
        assert_eq!(signals.next().await, Signal::Reload);
    }
}
