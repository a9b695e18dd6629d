//! What the tests of this room observe: two cores, some traffic, some drops.

use crate::clock::Moment;
use crate::documents::{CoreCapacity, CoreListing, Operations, Readiness, StatusExtra};
use crate::floor_file::{FloorKey, FloorSource, KnownFloor};
use crate::gateway::GatewayCounts;
use crate::hub::HubFigures;
use crate::node::{ObservedRow, QueryCounts};
use crate::observations::Observations;
use crate::same_core::SameCoreShares;
use std::sync::Arc;
use waystation_a2al::hub::{ConnectionId, Hub, HubLimits, HubMessage, SignalFrame};
use waystation_a2al::time::Millis;
use waystation_astral::aead::AeadBackend;
use waystation_astral::aead::choice::{AeadChoice, AeadCost, AeadUnusable};
use waystation_astral::frame::Profile;
use waystation_astral::identity::Identity;
use waystation_engine::control::{LinkRow, LinkTraffic, Listing, SessionKind, SessionRow};
use waystation_engine::cores::TurnListen;
use waystation_engine::floor::{ARRIVAL_BYTES, Floor};
use waystation_engine::statistics::{CoreStatistics, Stage, TrafficClass, WaitMode};
use waystation_relay::drop_reason::{DropCounters, DropReason};
use waystation_relay::ids::{CoreId, LegTag, LinkTag};
use waystation_relay::limiting::{Cause, HeldUp};

/// A peer's identity, the generator of the curve; nothing of it may show up in metrics.
pub(crate) const PEER: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

pub(crate) fn moment(seconds: u64) -> Moment {
    Moment {
        monotonic_ns: (1000 + seconds) * 1_000_000_000,
        unix_ns: (1_700_000_000 + seconds) * 1_000_000_000,
    }
}

pub(crate) fn peer() -> Identity {
    PEER.parse().unwrap()
}

/// Two closed intervals of a second each, different values in each, and a core 1 that is slower.
pub(crate) fn observed() -> Observations {
    let mut observations = Observations::new(2, moment(0));
    for second in 1..=2 {
        for core in 0..2 {
            observations.accept(block(core, second));
        }
        observations.close_interval(moment(second));
    }
    observations
}

fn block(core: u16, second: u64) -> Box<CoreStatistics> {
    let mut block = Box::new(CoreStatistics::new(CoreId(core), "io_uring"));
    block.cpu = Some(usize::from(core) + 2);
    block.counters.up_ns = second * 1_000_000_000;
    block.counters.busy_ns = second * 250_000_000 * (u64::from(core) + 1);
    block.counters.cpu_ns = second * 200_000_000 * (u64::from(core) + 1);
    block.counters.run_delay_ns = second * 60_000_000 * (u64::from(core) + 1);
    block.counters.empty_spins_ns = second * 10_000_000 * (u64::from(core) + 1);
    block.counters.receives = second * 500;
    block.counters.gathering_ns = second * 250_000_000 * u64::from(core);
    block.waiting = if core == 0 { WaitMode::Sleep } else { WaitMode::Gather };
    block.counters.frames_in = second * 1000;
    block.counters.payload_bytes_in = second * 1_024_000;
    block.counters.payload_bytes_out = second * 1_024_000;
    block.counters.wire_bytes_in = second * 1_024_000;
    block.counters.wire_bytes_out = second * 1_024_000;
    block.counters.records_opened = second * 500;
    block.counters.links_open = 3;
    block.counters.receive_buffers_total = 32;
    block.counters.receive_buffers_free = 31;
    let causes = [Cause::SenderIdle, Cause::SenderIdle, Cause::Credit];
    causes.into_iter().for_each(|cause| block.limited_links.count(Some(cause)));
    block.drops.count(DropReason::CreditOverflow, 700 + usize::from(core));
    let slower = 1 + u64::from(core);
    for step in 1..=1000_u64 {
        let duration_ns = step * step * slower * second;
        block.histograms.record(Stage::OpenToSeal, TrafficClass::Data, duration_ns, 1);
        block.histograms.record(Stage::Residence, TrafficClass::Data, duration_ns * 7, step);
    }
    block.histograms.record(Stage::Turn, TrafficClass::Control, 5_000, 10 * second);
    block
}

pub(crate) fn extra() -> StatusExtra {
    let mut refusals = DropCounters::default();
    refusals.count(DropReason::UnknownQuery, 0);
    StatusExtra {
        xdp: crate::xdp::XdpStatus::default(),
        version: "0.1.0",
        identity: peer(),
        node_info: "node1example".to_owned(),
        listen: vec!["0.0.0.0:1791".parse().unwrap()],
        turn_listen: TurnListen {
            udp: vec!["0.0.0.0:3478".parse().unwrap()],
            tcp: vec!["0.0.0.0:3479".parse().unwrap()],
        },
        readiness: Readiness::Ready,
        queries: QueryCounts {
            prepared: 1,
            preparations_expired_total: 2,
            relayed_total: 3,
            forwarded_total: 4,
            migrated_total: 5,
            listings_waiting: 6,
            deliveries: 7,
            reflections: 8,
        },
        observed: vec![ObservedRow {
            address: "203.0.113.7".parse().unwrap(),
            peers: 3,
            last_ns: moment(1).monotonic_ns,
        }],
        gateway: GatewayCounts { registrations: 3, joins_total: 4, refusals, ..Default::default() },
        capacity: CoreCapacity {
            links_max: 100,
            half_open_max: 50,
            sockets_max: 20,
            queue_bytes_max: 4096,
        },
        operations: Operations { reloads_applied: 2, reloads_refused: 1, ..Operations::default() },
        aead: AeadChoice {
            costs: vec![
                AeadCost { backend: AeadBackend::Ring, ns: Ok([1, 2, 3, 4, 5, 6, 7]) },
                AeadCost { backend: AeadBackend::Openssl, ns: Err(AeadUnusable::Refused) },
            ],
            ..AeadChoice::default()
        },
        floor: Some(known_floor()),
        confinement: None,
        dht: None,
        hub: Some(Arc::new(hub_figures())),
    }
}

/// 1000 ns for each arrival and 1 ns for each byte; with opening and sealing twice that.
pub(crate) fn known_floor() -> KnownFloor {
    let forward_ns = ARRIVAL_BYTES.map(|bytes| 1000.0 + bytes as f64);
    KnownFloor {
        floor: Floor { forward_ns, sealed_ns: forward_ns.map(|ns| 2.0 * ns) },
        key: FloorKey {
            kernel: "6.1".to_owned(),
            processor: "some".to_owned(),
            suite: "ring".to_owned(),
            version: "0.1.0".to_owned(),
        },
        source: FloorSource::Cached,
        measured_unix_ms: 1_700_000_000_000,
    }
}

pub(crate) fn listings() -> Vec<CoreListing> {
    let listing = Listing {
        links: vec![link_row(1), link_row(2)],
        sessions: vec![session_row(SessionKind::Caller), session_row(SessionKind::Socket)],
        links_total: 9,
        sessions_total: 2,
        ..Listing::default()
    };
    vec![
        CoreListing { core: CoreId(0), listing: Some(Box::new(listing)) },
        CoreListing { core: CoreId(1), listing: None },
    ]
}

/// Of the links in [`listings`], the second has had traffic.
pub(crate) fn shares() -> SameCoreShares {
    let mut shares = SameCoreShares::default();
    let (link, bytes_by_core) = (link_row(2).link, [300, 100].into());
    shares.tell(moment(2), [LinkTraffic { link, bytes_by_core }].iter());
    shares
}

fn link_row(slot: u32) -> LinkRow {
    LinkRow {
        link: LinkTag { core: CoreId(0), slot, generation: 7 },
        identity: peer(),
        profile: Profile::P4,
        link_id: 0xabc,
        remote: "192.0.2.7:4242".parse().unwrap(),
        local: "192.0.2.1:1791".parse().unwrap(),
        network: waystation_engine::control::Network::Tcp,
        outbound: false,
        inner: false,
        age_ns: 5,
        idle_ns: 6,
        sessions: 2,
        bytes_in: 10,
        bytes_out: 11,
        frames_in: 12,
        frames_out: 13,
        queued_bytes: 14,
        ping_ns: 0,
        held_up: HeldUp::default(),
    }
}

fn session_row(kind: SessionKind) -> SessionRow {
    SessionRow {
        leg: LegTag { core: CoreId(0), slot: 3, generation: 1 },
        link: LinkTag { core: CoreId(0), slot: 1, generation: 7 },
        nonce: 0x0011_2233_4455_66ff,
        kind,
        outbound: false,
        query: b"gateway.node_list".as_slice().into(),
        identity: peer(),
        age_ns: 1,
        bytes_in: 2,
        bytes_out: 3,
        queued_bytes: 4,
        send_credit_bytes: 5,
        held_up: HeldUp::default(),
    }
}

/// A hub with something of everything.
pub(crate) fn hub_figures() -> HubFigures {
    let mut hub = Hub::new(HubLimits::default());
    let peer = "192.0.2.9:4242".parse().unwrap();
    let id = hub.connect(peer, Millis(0)).unwrap();
    hub.request(id, "/signal", "", Millis(0)).unwrap();
    let agent = "agent".to_owned();
    let register = SignalFrame::Register { agent }.encode();
    hub.receive(id, HubMessage::Binary(register), Millis(0));
    hub.refuse(ConnectionId(77));
    HubFigures {
        listen: vec!["192.0.2.1:4121".parse().unwrap()],
        limits: HubLimits::default(),
        gauges: hub.gauges(),
        statistics: hub.statistics().clone(),
        outgoing_bytes: 11,
    }
}
