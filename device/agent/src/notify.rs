//! Word to systemd, where it runs us; nothing otherwise.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

/// The service is up.
fn ready() {
    send(&[NotifyState::Ready]);
}

/// The service ends.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Feeds systemd's watchdog, and says once that the service is ready.
pub(super) struct Watchdog {
    period: Option<Duration>,
    fed: Option<Instant>,
    ready: bool,
}

impl Watchdog {
    pub(super) fn new() -> Self {
        Self { period: sd_notify::watchdog_enabled(), fed: None, ready: false }
    }

    /// Called regularly by the loop that must not hang.
    pub(super) fn alive(&mut self) {
        if !self.ready {
            // Ready means running: a device that starts while its server is away holds its records, as it should.
            self.ready = true;
            ready();
        }
        let Some(period) = self.period else { return };
        if self.fed.is_none_or(|fed| fed.elapsed() >= period / 3) {
            self.fed = Some(Instant::now());
            send(&[NotifyState::Watchdog]);
        }
    }
}
