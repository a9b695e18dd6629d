//! What systemd, or whoever else reads `NOTIFY_SOCKET`, is told: that the program serves, reloads,
//! stops, and that all of it is alive.
//!
//! Called on the management thread. Nobody listens unless the variable is set; a datagram that is
//! not taken changes nothing here, because the program serves on without a manager.

use sd_notify::NotifyState;
use waystation_management::runtime::{LifeSign, OnLifeSign, ReloadStage};

/// Life signs, which come once a second, from one status line to the next.
const SIGNS_PER_STATUS: u32 = 10;

/// Every core serves.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload has begun or ended.
pub(crate) fn reloading(stage: ReloadStage) {
    match stage {
        // Without the time, a service manager takes it for a reload of its own asking.
        ReloadStage::Begun => match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "the service manager was not told"),
        },
        ReloadStage::Ended => tell(&[NotifyState::Ready]),
    }
}

/// Whether there is a watchdog that waits for this process.
pub(crate) fn is_watching() -> bool {
    sd_notify::watchdog_enabled().is_some()
}

/// Feeds the watchdog, if there is one, and says now and then what is carried. Once another process
/// has taken over, that one does.
pub(crate) fn life_signs(is_watched: bool) -> OnLifeSign {
    let mut signs = 0;
    let mut has_handed_over = false;
    let mut said = String::new();
    Box::new(move |sign| match sign {
        _ if has_handed_over => {}
        LifeSign::HandedOver { process } => {
            has_handed_over = true;
            if let Some(process) = process.and_then(|process| u32::try_from(process).ok()) {
                tell(&[NotifyState::MainPid(process)]);
            }
        }
        LifeSign::Alive { links, registrations, draining } => {
            if is_watched {
                tell(&[NotifyState::Watchdog]);
            }
            let state = if draining { "Draining" } else { "Serving" };
            let status = format!("{state}: links {links}, registered nodes {registrations}");
            if signs == 0 && status != said {
                tell(&[NotifyState::Status(&status)]);
                said = status;
            }
            signs = (signs + 1) % SIGNS_PER_STATUS;
        }
        LifeSign::Stopping => tell(&[NotifyState::Stopping, NotifyState::Status("Stopping")]),
    })
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
