//! A data core with an opaque session between two ends, driven on the test's own thread.

use super::{core_for_datagrams, snapshot};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use waystation_engine::control::{Command, OpaqueRequest, Report};
use waystation_engine::core::{DataCore, OpaqueSettings};
use waystation_engine::management_end::ManagementEnd;
use waystation_engine::port::datagrams::UdpTier;
use waystation_engine::port::waker::Waker;
use waystation_engine::port::{Port, PortLimits};
use waystation_relay::address_policy::AddressPolicy;
use waystation_relay::ids::CoreId;
use waystation_relay::udp::{Learning, LegSettings, LocalPort, Protocol, RateLimit, Settings};

/// Turns in which something has to come.
const TURNS_MAX: usize = 20;

/// See the module. The ports are the kernel's choice a moment before.
pub(crate) struct OpaqueBench<P> {
    pub(crate) core: DataCore<P>,
    pub(crate) ends: [UdpSocket; 2],
    /// Where the ends send to.
    pub(crate) to: [SocketAddr; 2],
    _management: ManagementEnd,
}

impl<P: Port> OpaqueBench<P> {
    pub(crate) fn new(port: impl FnOnce(Waker, PortLimits) -> P, tier: UdpTier) -> Self {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let mut snapshot = snapshot(0);
        let open = "127.0.0.0/8".parse().unwrap();
        snapshot.udp_peers = Arc::new(AddressPolicy::new(vec![open], []).unwrap());
        let opaque = OpaqueSettings { addresses: vec![loopback], sessions_max: 4, tier };
        let (mut core, management) = core_for_datagrams(port, snapshot, None, Some(opaque));
        let end = || UdpSocket::bind((loopback, 0)).unwrap();
        let ends = [end(), end()];
        // Both held until both are known, so that they are two.
        let held = [end(), end()];
        let to = held.each_ref().map(|socket| socket.local_addr().unwrap());
        drop(held);
        let leg = |at: usize| LegSettings {
            port: LocalPort(to[at].port()),
            learning: Learning::Fixed(ends[at].local_addr().unwrap()),
        };
        let settings = Settings {
            legs: [leg(0), leg(1)],
            protocol: Protocol::Opaque,
            rate: RateLimit::default(),
            idle_limit_ns: 600_000_000_000,
        };
        let open = Command::OpenUdp { request: OpaqueRequest(1), settings: Box::new(settings) };
        management.send(CoreId(0), open).unwrap();
        for _ in 0..TURNS_MAX {
            core.turn().unwrap();
            while let Some(report) = management.next_report(CoreId(0)) {
                if let Report::UdpOpened { result, .. } = report {
                    result.unwrap();
                    return Self { core, ends, to, _management: management };
                }
            }
        }
        panic!("no session within {TURNS_MAX} turns");
    }

    /// Turns until an end has received something.
    pub(crate) fn turn_until_received(&mut self, end: usize, buffer: &mut [u8]) -> usize {
        self.ends[end].set_nonblocking(true).unwrap();
        for _ in 0..TURNS_MAX {
            // A turn with nothing to do sleeps, so what is there already comes first.
            if let Ok(bytes) = self.ends[end].recv(buffer) {
                return bytes;
            }
            self.core.turn().unwrap();
        }
        panic!("nothing came within {TURNS_MAX} turns");
    }
}
