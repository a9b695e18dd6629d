//! What data cores take of the configuration, at start-up and with every reload.

use super::Config;
use super::turn::turn_snapshot;
use super::udp::udp_peers;
use waystation_engine::snapshot::{CoreSnapshot, ReloadableLimits};

/// What a configuration says to data cores while they run. `epoch` counts up within one run.
pub fn core_snapshot(config: &Config, epoch: u64) -> CoreSnapshot {
    let (engine, relay, gateway) = (&config.engine, &config.relay, &config.gateway);
    let limits = ReloadableLimits {
        sessions_per_link: relay.sessions_per_link_max,
        sessions: relay.sessions_max,
        query_timeout: relay.query_timeout,
        links: engine.links_max,
        half_open: engine.half_open_max,
        sockets: engine.sockets_max,
        handshake_timeout: relay.handshake_timeout,
        ping_interval: relay.ping_interval,
        ping_timeout: relay.ping_timeout,
        send_stall_timeout: relay.send_stall_timeout,
        idle_ping_interval: gateway.idle_ping_interval,
        idle_dead_after: gateway.idle_dead_after,
        pipe_idle_timeout: gateway.pipe_idle_timeout,
        link_idle_timeout: config.limits.link_idle_timeout,
    };
    CoreSnapshot {
        epoch,
        access: config.access(),
        limits,
        turn: turn_snapshot(config),
        udp_peers: udp_peers(config),
    }
}
