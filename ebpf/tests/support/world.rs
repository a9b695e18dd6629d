//! One small world, in the program's maps and in the classifier's collections.
//!
//! ```text
//!   wan    198.51.100.1/24  2001:db8:1::1/64   frames come in here
//!   lan    203.0.113.1/24   2001:db8:2::1/64   may be used to leave by
//!   off    192.0.2.1/24                        may not; no TURN server is on it
//!   tagged 10.7.0.1/24     2001:db8:7::1/64   stands for VLAN 7 of wan
//! ```

use super::namespace::{Namespace, index_of, ip};
use std::net::{IpAddr, SocketAddr};
use waystation_ebpf::{
    abi::{Port, Session, SessionKey, Settings, Verdict, Vlan},
    classifier::{Decision, Hop, Known, World, decide},
    forwarding::LOOPBACK_INTERFACE,
    programs::{Capture, Programs, Ran},
};
use waystation_proving::frame::udp;

pub const TURN: u16 = 3478;
/// Ports of sessions.
pub const FIRST: u16 = 49_152;
pub const LAST: u16 = 49_407;
/// The VLAN the program is told of.
pub const VLAN: u16 = 7;
/// A processor that is neither here nor in the map: steered packets are passed.
pub const OWNER: u32 = 200;

const OWN_STATIONS: [(&str, [u8; 6]); 4] = [
    ("wan", [2, 0, 0, 0, 0, 1]),
    ("lan", [2, 0, 0, 0, 1, 1]),
    ("off", [2, 0, 0, 0, 2, 1]),
    ("tagged", [2, 0, 0, 0, 3, 1]),
];

/// Everything a test asks.
pub struct Stage {
    pub programs: Programs,
    pub world: World,
    pub settings: Settings,
    _namespace: Namespace,
}

impl Stage {
    /// A namespace for the calling thread, with interfaces, neighbours, and the program.
    pub fn new() -> Self {
        Self::with_object(None)
    }

    fn with_object(object: Option<&[u8]>) -> Self {
        let namespace = Namespace::enter_new();
        for (interface, station) in OWN_STATIONS {
            let station = text_of(station);
            let peer = format!("{interface}-peer");
            ip(&format!("link add {interface} address {station} type veth peer name {peer}"));
            ip(&format!("link set {interface} mtu 1400 up"));
            ip(&format!("link set {peer} mtu 1400 up"));
        }
        let built =
            std::env::var_os("WAYSTATION_BPF_OBJECT").map(|path| std::fs::read(path).unwrap());
        let programs = match object.or(built.as_deref()) {
            Some(object) => Programs::load_object(object, None, Capture::Never).unwrap(),
            None => Programs::load(None).unwrap(),
        };
        let mut stage = Self {
            programs,
            world: World::default(),
            settings: Settings::default(),
            _namespace: namespace,
        };
        stage.build();
        stage
    }

    fn build(&mut self) {
        let addresses = [
            ("wan", "198.51.100.1/24"),
            ("wan", "2001:db8:1::1/64"),
            ("lan", "203.0.113.1/24"),
            ("lan", "2001:db8:2::1/64"),
            ("off", "192.0.2.1/24"),
            ("tagged", "10.7.0.1/24"),
            ("tagged", "2001:db8:7::1/64"),
        ];
        for (interface, address) in addresses {
            ip(&format!("addr add {address} dev {interface} nodad"));
            let address: IpAddr = address.split('/').next().unwrap().parse().unwrap();
            let kinds: &[Port] = if interface == "off" {
                &[Port::Session]
            } else {
                self.world.turn_local.insert(address);
                &[Port::Turn, Port::Session, Port::Opaque]
            };
            self.programs.tables.local_addresses.insert(address, kinds).unwrap();
            self.world.session_local.insert(address);
        }
        let (wan, lan, vlan) = (index_of("wan"), index_of("lan"), index_of("tagged"));
        self.programs.tables.egress.insert(lan).unwrap();
        self.world.egress.insert(lan);
        self.world.ingress = wan;
        self.world.vlans = vec![(VLAN, vlan)];
        self.settings.vlans[0] = Vlan { id: VLAN.into(), interface: vlan };
        self.settings.routing_interface = LOOPBACK_INTERFACE;
        self.programs.tables.settings.set(self.settings).unwrap();
        self.programs.tables.ports.set(TURN..=TURN, Port::Turn).unwrap();
        self.programs.tables.ports.set(FIRST..=LAST, Port::Session).unwrap();
        self.world.turn_ports.insert(TURN);
        self.world.session_ports.extend(FIRST..=LAST);
        for (interface, address) in [
            ("wan", "198.51.100.7"),
            ("wan", "198.51.100.9"),
            ("wan", "2001:db8:1::7"),
            ("lan", "203.0.113.7"),
            ("lan", "2001:db8:2::7"),
            ("off", "192.0.2.7"),
            ("tagged", "10.7.0.7"),
            ("tagged", "2001:db8:7::7"),
        ] {
            self.neighbour(interface, address);
        }
        self.world
            .hops
            .insert("198.51.100.66".parse().unwrap(), Hop::Unresolved { mtu_bytes: 1400 });
        self.world
            .hops
            .insert("2001:db8:1::66".parse().unwrap(), Hop::Unresolved { mtu_bytes: 1400 });
    }

    fn neighbour(&mut self, interface: &str, address: &str) {
        let last = address.bytes().last().unwrap();
        let station = [2, 0, 0, 9, 9, last];
        let own = OWN_STATIONS.iter().find(|(name, _)| *name == interface).unwrap().1;
        ip(&format!(
            "neigh add {address} lladdr {} dev {interface} nud permanent",
            text_of(station)
        ));
        let hop = Hop::Known {
            interface: index_of(interface),
            station,
            own_station: own,
            mtu_bytes: 1400,
        };
        self.world.hops.insert(address.parse().unwrap(), hop);
    }

    /// Makes a session known to both.
    pub fn know(&mut self, source: &str, local: &str, channel: Option<u16>, known: Known) {
        let (source, local) = (socket(source), socket(local));
        let session = match known {
            Known::Steered => Session::steered(OWNER),
            Known::Relayed { from, to, channel, is_over_rate, transport_for } => {
                let mut session = Session::relayed(from, to, channel, OWNER);
                if let Some(indices) = transport_for {
                    session = session.for_transport(indices);
                }
                if is_over_rate {
                    session = session.limited(1, 1024);
                    session.limiter_ns = u64::MAX;
                }
                session
            }
        };
        let key = SessionKey::new(source, local, channel);
        self.programs.tables.sessions.insert(key, session).unwrap();
        self.world.sessions.insert((source, local, channel), known);
    }

    /// Denies a prefix to both.
    pub fn deny(&mut self, prefix: &str, bits: u8) {
        let prefix = prefix.parse().unwrap();
        self.programs.tables.settings.deny(prefix, bits).unwrap();
        self.world.denied.push((prefix, bits));
    }

    /// The session the program has for a key.
    pub fn session(&self, source: &str, local: &str, channel: Option<u16>) -> Session {
        let key = SessionKey::new(socket(source), socket(local), channel);
        self.programs.tables.sessions.find(&key).unwrap().unwrap()
    }

    /// What the program does with a frame: its verdict, and the frame afterwards.
    pub fn run(&mut self, frame: &[u8]) -> (Verdict, Ran) {
        let before = self.counts();
        let ran = self.programs.run(frame, self.world.ingress, 1).unwrap();
        let after = self.counts();
        let mut counted = Verdict::ALL.iter().zip(before.iter().zip(&after));
        let verdict = counted.find(|(_, (before, after))| before != after).unwrap().0;
        assert_eq!(after.iter().sum::<u64>(), before.iter().sum::<u64>() + 1, "counted once");
        (*verdict, ran)
    }

    /// What the classifier decides about a frame.
    pub fn classify(&self, frame: &[u8]) -> Decision {
        decide(&self.world, frame)
    }

    /// How often each verdict was given so far.
    pub fn counts(&self) -> Vec<u64> {
        let counters = &self.programs.tables.counters;
        Verdict::ALL.iter().map(|verdict| counters.of(*verdict).unwrap().packets).collect()
    }
}

/// A relayed session, within its rate.
pub fn relayed(from: &str, to: &str, channel: Option<u16>) -> Known {
    let (from, to) = (socket(from), socket(to));
    Known::Relayed { from, to, channel, is_over_rate: false, transport_for: None }
}

/// A WireGuard session whose end is called by these numbers, as they lie in packets.
pub fn tunnel(from: &str, to: &str, indices: [[u8; 4]; 4]) -> Known {
    let (from, to) = (socket(from), socket(to));
    let transport_for = Some(indices.map(u32::from_ne_bytes));
    Known::Relayed { from, to, channel: None, is_over_rate: false, transport_for }
}

pub fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What the kernel is told for a verdict.
pub fn action_of(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::RelayedBack => 3,
        Verdict::RelayedOn => 4,
        verdict if verdict.is_drop() => 1,
        _ => 2,
    }
}

/// A datagram from a stranger to the TURN port.
pub fn stranger() -> Vec<u8> {
    udp("198.51.100.50:4000", "198.51.100.1:3478", [0, 1, 0, 0]).frame()
}

fn text_of(station: [u8; 6]) -> String {
    station.map(|byte| format!("{byte:02x}")).join(":")
}
