//! Tests of data cores from the inside, on simulated ports and in simulated time.

mod accounting;
mod bench;
mod handshakes;
mod moves;
mod pipes;
mod sockets;
mod turn_streams;

use super::{CoreLimits, CoreParts, DataCore};
use crate::block::BLOCK_BYTES;
use crate::management_end::ManagementEnd;
use crate::mesh;
use crate::port::PortLimits;
use crate::port::simulated::{Network, SimulatedPort};
use crate::port::waker::Waker;
use crate::snapshot::{CoreSnapshot, ReloadableLimits};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use waystation_astral::aead::AeadSuite;
use waystation_astral::identity::SecretKey;
use waystation_relay::access::Access;

const SECOND_NS: u64 = 1_000_000_000;
/// When simulated time begins: not at 0, which stands for no time at all.
const START_NS: u64 = 1_000 * SECOND_NS;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);
const IDLE_PING_INTERVAL: Duration = Duration::from_secs(30);
const IDLE_DEAD_AFTER: Duration = Duration::from_secs(60);
const PIPE_IDLE_TIMEOUT: Duration = Duration::from_secs(200);
const SEND_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// First byte of every nonce: neither a handshake nor an object starts with it (spec §11.2).
const NONCE_FIRST_BYTE: u64 = 0x11 << 56;

/// The key of every node of these tests.
const SECRET: [u8; 32] = [7; 32];

/// So many cores on the ports of a network, each with so many blocks.
fn data_cores(
    count: usize,
    network: &Rc<RefCell<Network>>,
    limits: PortLimits,
    blocks: usize,
    snapshot: &Arc<CoreSnapshot>,
) -> (Vec<DataCore<SimulatedPort>>, ManagementEnd) {
    let core_limits = CoreLimits {
        window_bytes: 1 << 20,
        queue_bytes: 1 << 20,
        block_bytes: blocks * BLOCK_BYTES,
    };
    data_cores_with(count, network, limits, core_limits, snapshot)
}

fn data_cores_with(
    count: usize,
    network: &Rc<RefCell<Network>>,
    limits: PortLimits,
    core_limits: CoreLimits,
    snapshot: &Arc<CoreSnapshot>,
) -> (Vec<DataCore<SimulatedPort>>, ManagementEnd) {
    let wakers: Vec<_> = (0..count).map(|_| Waker::new().unwrap()).collect();
    let meshes = mesh::connect(&wakers);
    let (management, ends) = ManagementEnd::new(wakers.clone()).unwrap();
    let parts = meshes.into_iter().zip(ends).zip(wakers).enumerate();
    let cores = parts.map(|(number, ((mesh, management), waker))| {
        let port = SimulatedPort::new(number, Rc::clone(network), waker, limits).unwrap();
        let parts = CoreParts {
            secret: SecretKey::from_bytes(&SECRET).unwrap(),
            aead: AeadSuite::default(),
            limits: core_limits,
            snapshot: Arc::clone(snapshot),
            mesh,
            management,
            cpu: None,
            turn: None,
            opaque: None,
            frames: Vec::new(),
        };
        DataCore::new(port, Vec::new(), parts).unwrap()
    });
    (cores.collect(), management)
}

/// Limits that nobody runs into by number, and deadlines that come before long.
fn snapshot(epoch: u64) -> CoreSnapshot {
    let long = Duration::from_secs(3600);
    let limits = ReloadableLimits {
        sessions_per_link: 10,
        sessions: 10,
        query_timeout: long,
        links: 10,
        half_open: 50,
        sockets: 50,
        handshake_timeout: HANDSHAKE_TIMEOUT,
        ping_interval: long,
        ping_timeout: long,
        send_stall_timeout: SEND_STALL_TIMEOUT,
        idle_ping_interval: IDLE_PING_INTERVAL,
        idle_dead_after: IDLE_DEAD_AFTER,
        pipe_idle_timeout: PIPE_IDLE_TIMEOUT,
        link_idle_timeout: None,
    };
    CoreSnapshot { epoch, access: Access::Everyone, limits, turn: None, udp_peers: Arc::default() }
}
