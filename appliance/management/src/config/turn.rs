//! `[turn]`: what an operator says about the TURN server, and what data cores take of it.
//!
//! Pure, like the rest of the configuration. Passwords, secrets and the addresses of the machine are
//! in no key: the program reads them and puts them into [`TurnConfig::found`], at start-up and
//! whenever the configuration is read again.

use super::Config;
use super::problem::Complaint;
use crate::units::serialize_duration;
use serde::{Serialize, Serializer};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use waystation_engine::core::StreamLimits;
use waystation_engine::cores::TurnSettings;
use waystation_engine::port::datagrams::UdpTier;
use waystation_engine::snapshot::TurnSnapshot;
use waystation_relay::address_policy::{AddressPolicy, Block, PolicyError};
use waystation_relay::peer_policy::PeerPolicy;
use waystation_turn::credentials::{Credentials, CredentialsError};
use waystation_turn::limits as turn_limits;
use waystation_turn::server::{RelayedRange, ServerConfig};

/// See the module. Without an address to listen on there is no TURN server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TurnConfig {
    pub listen: Vec<SocketAddr>,
    pub listen_tcp: Vec<SocketAddr>,
    pub streams_max: usize,
    pub streams_per_address_max: usize,
    pub realm: String,
    /// Absent: no static users.
    #[serde(serialize_with = "super::serialize_path")]
    pub users_file: Option<PathBuf>,
    /// Absent: no time-limited users.
    #[serde(serialize_with = "super::serialize_path")]
    pub secrets_file: Option<PathBuf>,
    /// At most one of each family; empty: those of `listen`.
    pub relay_addresses: Vec<IpAddr>,
    /// What others know them as; empty: the same.
    pub external_addresses: Vec<IpAddr>,
    pub port_min: usize,
    pub port_max: usize,
    pub allocations_max: usize,
    pub allocations_per_user_max: usize,
    pub permissions_max: usize,
    pub channels_max: usize,
    #[serde(serialize_with = "serialize_duration")]
    pub lifetime: Duration,
    #[serde(serialize_with = "serialize_duration")]
    pub lifetime_max: Duration,
    #[serde(serialize_with = "serialize_blocks")]
    pub allow_peers: Vec<Block>,
    #[serde(serialize_with = "serialize_blocks")]
    pub deny_peers: Vec<Block>,
    #[serde(serialize_with = "serialize_tier")]
    pub tier: UdpTier,
    #[serde(skip)]
    pub found: TurnFound,
}

/// What the program has found in files and in the system.
#[derive(Clone, Debug, Default)]
pub struct TurnFound {
    /// Whom the server serves; absent: nobody.
    pub credentials: Option<Arc<Credentials>>,
    /// Addresses of this machine.
    pub own_addresses: Vec<IpAddr>,
}

impl PartialEq for TurnFound {
    /// Keys are not compared; other ones are other credentials.
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.credentials, &other.credentials) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same && self.own_addresses == other.own_addresses
    }
}

impl Eq for TurnFound {}

impl Default for TurnConfig {
    fn default() -> Self {
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        Self {
            listen: Vec::new(),
            listen_tcp: Vec::new(),
            streams_max: 4096,
            streams_per_address_max: 256,
            realm: "waystation".to_owned(),
            users_file: None,
            secrets_file: None,
            relay_addresses: Vec::new(),
            external_addresses: Vec::new(),
            port_min: 49_152,
            port_max: 65_535,
            allocations_max: turn_limits::ALLOCATIONS_DEFAULT_MAX,
            allocations_per_user_max: turn_limits::ALLOCATIONS_PER_USER_DEFAULT_MAX as usize,
            permissions_max: turn_limits::PERMISSIONS_DEFAULT_MAX,
            channels_max: turn_limits::CHANNELS_DEFAULT_MAX,
            lifetime: seconds(turn_limits::ALLOCATION_LIFETIME_DEFAULT_S),
            lifetime_max: seconds(turn_limits::ALLOCATION_LIFETIME_MAX_S),
            allow_peers: Vec::new(),
            deny_peers: Vec::new(),
            tier: UdpTier::Gso,
            found: TurnFound::default(),
        }
    }
}

impl TurnConfig {
    /// Whether there is to be a server.
    pub fn is_enabled(&self) -> bool {
        !self.listen.is_empty() || !self.listen_tcp.is_empty()
    }

    /// UDP sockets that a core may have: listening ones, and for each allocation one of each family
    /// that is relayed from.
    pub fn sockets_max(&self) -> usize {
        if !self.is_enabled() {
            return 0;
        }
        let from = self.relayed_from();
        let has = |is_ipv4: bool| usize::from(from.iter().any(|ip| ip.is_ipv4() == is_ipv4));
        let relayed = self.allocations_max.saturating_mul(has(true) + has(false));
        relayed.saturating_add(self.listen.len())
    }

    /// TCP connections of clients that a core may have.
    pub fn streams_room(&self) -> usize {
        if self.listen_tcp.is_empty() { 0 } else { self.streams_max }
    }

    /// The addresses of this machine that are relayed from.
    pub(crate) fn relayed_from(&self) -> Vec<IpAddr> {
        if !self.relay_addresses.is_empty() {
            return self.relay_addresses.clone();
        }
        let listen = self.listen.iter().chain(&self.listen_tcp);
        let mut bound: Vec<IpAddr> = listen.map(SocketAddr::ip).collect();
        bound.sort_unstable();
        bound.dedup();
        bound
    }

    /// The same as others know them.
    fn known(&self) -> Vec<IpAddr> {
        match self.external_addresses.is_empty() {
            true => self.relayed_from(),
            false => self.external_addresses.clone(),
        }
    }

    /// What no key can see alone: the key that is more likely the slip, and what is wrong.
    pub(super) fn contradiction(&self) -> Option<(&'static str, Complaint)> {
        if self.port_min > self.port_max {
            let (min, max) = (self.port_min, self.port_max);
            return Some(("turn.port_min", Complaint::PortsReversed { min, max }));
        }
        if self.lifetime > self.lifetime_max {
            return Some(("turn.lifetime", Complaint::LifetimeReversed));
        }
        if !self.is_enabled() {
            return None;
        }
        if self.users_file.is_none() && self.secrets_file.is_none() {
            return Some(("turn.users_file", Complaint::TurnForNobody));
        }
        let bound = self.relayed_from();
        let of_family = |is_ipv4: bool| bound.iter().filter(|ip| ip.is_ipv4() == is_ipv4).count();
        if bound.iter().any(IpAddr::is_unspecified) || of_family(true) > 1 || of_family(false) > 1 {
            return Some(("turn.relay_addresses", Complaint::RelayAddresses));
        }
        let families = |list: &[IpAddr]| list.iter().map(IpAddr::is_ipv4).collect::<Vec<_>>();
        if families(&self.known()) != families(&bound) {
            return Some(("turn.external_addresses", Complaint::ExternalAddresses));
        }
        let ports = self.port_min..=self.port_max;
        let meets = |listen: &SocketAddr| {
            let is_relayed = bound.contains(&listen.ip());
            let is_all = listen.ip().is_unspecified() && of_family(listen.is_ipv4()) > 0;
            (is_relayed || is_all) && ports.contains(&usize::from(listen.port()))
        };
        if let Some(&listen) = self.listen.iter().find(|listen| meets(listen)) {
            return Some(("turn.listen", Complaint::ListensAmongRelayed { listen }));
        }
        None
    }

    /// Makes the credentials of these users and secrets.
    ///
    /// # Errors
    /// What one of them breaks.
    pub fn credentials(
        &self,
        users: &[(String, zeroize::Zeroizing<String>)],
        secrets: &[zeroize::Zeroizing<String>],
    ) -> Result<Credentials, CredentialsError> {
        let mut credentials = Credentials::new(&self.realm)?;
        for (name, password) in users {
            credentials.add_user(name, password.as_bytes())?;
        }
        for secret in secrets {
            credentials.add_shared_secret(secret.as_bytes())?;
        }
        Ok(credentials)
    }

    /// Whom clients may exchange packets with.
    ///
    /// # Errors
    /// If there are more blocks or addresses than a policy holds.
    pub fn peers(&self) -> Result<PeerPolicy, PolicyError> {
        let known = self.known();
        // A loopback address is denied unless its block is opened, and then all of it is.
        let machine = self.found.own_addresses.iter().copied();
        let own = machine.chain(self.relayed_from()).chain(known.iter().copied());
        let own = own.filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
        let addresses = AddressPolicy::new(self.allow_peers.clone(), own)?;
        let addresses = addresses.without(self.deny_peers.clone())?;
        let ports = port(self.port_min)..=port(self.port_max);
        Ok(PeerPolicy::new(addresses, known, ports))
    }
}

fn port(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// What the engine starts with, if there is to be a TURN server.
pub fn turn_settings(config: &Config) -> Option<TurnSettings> {
    let turn = &config.turn;
    if !turn.is_enabled() {
        return None;
    }
    let (known, bound) = (turn.known(), turn.relayed_from());
    let ports = port(turn.port_min)..=port(turn.port_max);
    let relayed = known.iter().map(|ip| RelayedRange { ip: *ip, ports: ports.clone() }).collect();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let server = ServerConfig {
        software: Some(format!("waystation {}", env!("CARGO_PKG_VERSION"))),
        allocations_max: turn.allocations_max,
        allocations_per_user_max: count(turn.allocations_per_user_max),
        permissions_max: turn.permissions_max,
        channels_max: turn.channels_max,
        lifetime_default_s: seconds(turn.lifetime),
        lifetime_max_s: seconds(turn.lifetime_max),
        ..ServerConfig::new(relayed)
    };
    let behind = known.into_iter().zip(bound).filter(|(known, bound)| known != bound).collect();
    Some(TurnSettings {
        listen: turn.listen.clone(),
        listen_tcp: turn.listen_tcp.clone(),
        stream_limits: StreamLimits {
            streams_max: turn.streams_max,
            streams_per_source_max: turn.streams_per_address_max,
        },
        server,
        behind,
        tier: turn.tier,
    })
}

/// What data cores take of it, anew with every reload.
pub(super) fn turn_snapshot(config: &Config) -> Option<TurnSnapshot> {
    let turn = &config.turn;
    let credentials = match &turn.found.credentials {
        Some(credentials) => Arc::clone(credentials),
        // A realm is checked when it is read.
        None => Arc::new(Credentials::new(&turn.realm).ok()?),
    };
    // What a policy cannot hold admits nobody; the program has refused it before.
    let peers = Arc::new(turn.peers().unwrap_or_else(|_too_many| PeerPolicy::nobody()));
    turn.is_enabled().then_some(TurnSnapshot { credentials, peers })
}

fn serialize_blocks<S: Serializer>(blocks: &[Block], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(blocks.iter().map(Block::to_string))
}

fn serialize_tier<S: Serializer>(tier: &UdpTier, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(tier.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn wrong(text: &str) -> String {
        parse(text, "x").unwrap_err().to_string()
    }

    const USERS: &str = "users_file = \"/etc/waystation/turn-users\"\n";

    #[test]
    fn without_an_address_there_is_no_server() {
        let config = Config::default();
        assert!(turn_settings(&config).is_none());
        assert!(turn_snapshot(&config).is_none());
        assert_eq!(config.turn.sockets_max(), 0);
    }

    #[test]
    fn sockets_are_of_listeners_and_of_allocations_in_each_family() {
        let of = |listen: &str| {
            let text = format!("[turn]\nlisten = [{listen}]\n{USERS}allocations_max = 5000");
            parse(&text, "x").unwrap().turn.sockets_max()
        };
        assert_eq!(of("\"9.9.9.9:3478\""), 1 + 5000);
        assert_eq!(of("\"9.9.9.9:3478\", \"[2001:db8::1]:3478\""), 2 + 10_000);
    }

    #[test]
    fn a_server_may_listen_for_tcp_alone() {
        let text = format!("[turn]\nlisten_tcp = [\"9.9.9.9:3478\"]\n{USERS}streams_max = 50");
        let config = parse(&text, "x").unwrap();
        assert_eq!(config.turn.streams_room(), 50);
        let settings = turn_settings(&config).unwrap();
        assert_eq!(settings.server.relayed[0].ip, IpAddr::from([9, 9, 9, 9]));
        assert_eq!(settings.listen_tcp, ["9.9.9.9:3478".parse().unwrap()]);
        // Relayed ports are UDP's, so the same one of TCP disturbs nobody.
        let text = format!("[turn]\nlisten_tcp = [\"9.9.9.9:50000\"]\n{USERS}");
        assert!(parse(&text, "x").is_ok());
        let udp_alone = format!("[turn]\nlisten = [\"9.9.9.9:3478\"]\n{USERS}");
        assert_eq!(parse(&udp_alone, "x").unwrap().turn.streams_room(), 0);
    }

    #[test]
    fn a_server_on_all_addresses_has_to_be_told_which_to_relay_from() {
        let said = wrong(&format!("[turn]\nlisten = [\"0.0.0.0:3478\"]\n{USERS}"));
        assert!(said.contains("turn.relay_addresses"), "{said}");
        let twice = "relay_addresses = [\"192.0.2.1\", \"192.0.2.2\"]";
        let said = wrong(&format!("[turn]\nlisten = [\"0.0.0.0:3478\"]\n{USERS}{twice}"));
        assert!(said.contains("x:4: turn.relay_addresses") || said.contains("relay_addresses"));
    }

    #[test]
    fn a_port_to_listen_on_is_none_that_clients_are_given() {
        let relay = "relay_addresses = [\"192.0.2.1\"]\n";
        for listen in ["192.0.2.1:50000", "0.0.0.0:50000"] {
            let said = wrong(&format!("[turn]\nlisten = [\"{listen}\"]\n{USERS}{relay}"));
            assert!(said.contains("turn.listen") && said.contains("turn.port_min"), "{said}");
        }
        for listen in ["192.0.2.2:50000", "[::]:50000", "192.0.2.1:3478"] {
            let text = format!("[turn]\nlisten = [\"{listen}\"]\n{USERS}{relay}");
            assert!(parse(&text, "x").is_ok(), "{listen}");
        }
    }

    #[test]
    fn more_than_a_policy_holds_admits_nobody() {
        let text = format!("[turn]\nlisten = [\"9.9.9.9:3478\"]\n{USERS}");
        let mut config = parse(&text, "x").unwrap();
        config.turn.found.own_addresses =
            (0..100_000).map(|bits| IpAddr::V4(std::net::Ipv4Addr::from_bits(bits + 1))).collect();
        assert!(config.turn.peers().is_err());
        assert!(!turn_snapshot(&config).unwrap().peers.admits([8, 8, 8, 8].into()));
    }

    #[test]
    fn a_server_for_nobody_is_refused() {
        let said = wrong("[turn]\nlisten = [\"192.0.2.1:3478\"]");
        assert!(said.contains("turn.users_file") && said.contains("secrets_file"), "{said}");
    }

    #[test]
    fn external_addresses_go_with_relay_addresses_one_by_one() {
        let text = format!("[turn]\nlisten = [\"10.0.0.5:3478\"]\n{USERS}");
        let said = wrong(&format!("{text}external_addresses = [\"2001:db8::1\"]"));
        assert!(said.contains("turn.external_addresses"), "{said}");
        let config = parse(&format!("{text}external_addresses = [\"9.9.9.9\"]"), "x").unwrap();
        let settings = turn_settings(&config).unwrap();
        let (known, bound) = (IpAddr::from([9, 9, 9, 9]), IpAddr::from([10, 0, 0, 5]));
        assert_eq!(settings.behind, [(known, bound)]);
        assert_eq!(settings.server.relayed[0].ip, known);
    }

    #[test]
    fn addresses_of_the_machine_are_no_peers_but_relayed_ports_are() {
        let text = format!(
            "[turn]\nlisten = [\"9.9.9.9:3478\"]\n{USERS}port_min = 50000\n\
             allow_peers = [\"10.1.0.0/16\"]\ndeny_peers = [\"8.8.8.0/24\"]"
        );
        let mut config = parse(&text, "x").unwrap();
        config.turn.found.own_addresses = vec![IpAddr::from([9, 9, 9, 8])];
        let peers = turn_snapshot(&config).unwrap().peers;
        let admits = |ip: [u8; 4], port: u16| peers.admits_destination((ip, port).into());
        assert!(admits([9, 9, 9, 9], 50_000) && !admits([9, 9, 9, 9], 3478));
        assert!(!admits([9, 9, 9, 8], 50_000));
        assert!(admits([10, 1, 2, 3], 9) && !admits([10, 2, 2, 3], 9));
        assert!(admits([8, 8, 4, 4], 9) && !admits([8, 8, 8, 8], 9));
    }

    #[test]
    fn reversed_ports_and_lifetimes_are_refused() {
        assert!(wrong("[turn]\nport_min = 60000\nport_max = 50000").contains("turn.port_min"));
        assert!(wrong("[turn]\nlifetime = \"2h\"").contains("turn.lifetime"));
    }

    #[test]
    fn blocks_that_are_none_are_named() {
        for block in ["10.0.0.1/8", "10.0.0.0/33", "10.0.0.0", "x/8", "::/129"] {
            let said = wrong(&format!("[turn]\nallow_peers = [\"{block}\"]"));
            assert!(said.contains(block), "{said}");
        }
    }
}
