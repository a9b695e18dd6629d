//! `[udp]` and `[[udp.session]]`: what an operator says about opaque UDP sessions.
//!
//! Pure, like the rest of the configuration. The addresses of the machine are in no key: the
//! program reads them and puts them into [`UdpConfig::own_addresses`].

use super::keys::{Key, Reload};
use super::problem::Complaint;
use super::rule::Rule;
use super::{Config, Rate, TurnConfig};
use crate::limits::UDP_SESSION_NAME_BYTES_MAX;
use crate::units::{ByteSize, serialize_duration};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use waystation_engine::core::OpaqueSettings;
use waystation_engine::port::datagrams::UdpTier;
use waystation_relay::address_policy::{AddressPolicy, Block, PolicyError};
use waystation_relay::udp::RateLimit;
use waystation_relay::udp::wireguard::PublicKey;

/// The least and the most of `rate`, as `relay::limits` has them for a session.
const RATE_MIN: ByteSize = ByteSize::from_kib(1);
const RATE_MAX: ByteSize = ByteSize::from_gib(900);
/// The word for an end whose address is not known beforehand.
const LEARN: &str = "learn";

/// See the module. Without an address there are no opaque sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UdpConfig {
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
    pub port_min: usize,
    pub port_max: usize,
    /// On each core.
    pub sessions_max: usize,
    #[serde(serialize_with = "serialize_duration")]
    pub idle: Duration,
    #[serde(serialize_with = "serialize_blocks")]
    pub allow_peers: Vec<Block>,
    #[serde(serialize_with = "serialize_blocks")]
    pub deny_peers: Vec<Block>,
    #[serde(serialize_with = "serialize_tier")]
    pub tier: UdpTier,
    /// `[[udp.session]]`, in the order of the file.
    #[serde(rename = "session")]
    pub sessions: Vec<UdpSessionConfig>,
    /// Addresses of this machine, as the program has found them.
    #[serde(skip)]
    pub own_addresses: Vec<IpAddr>,
}

/// One `[[udp.session]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UdpSessionConfig {
    pub name: String,
    pub protocol: UdpProtocol,
    #[serde(serialize_with = "serialize_text")]
    pub end_a: UdpEnd,
    #[serde(serialize_with = "serialize_text")]
    pub end_b: UdpEnd,
    pub port_a: usize,
    pub port_b: usize,
    /// Absent: not checked.
    #[serde(serialize_with = "serialize_key")]
    pub public_key_a: Option<PublicKey>,
    #[serde(serialize_with = "serialize_key")]
    pub public_key_b: Option<PublicKey>,
    pub rate: Rate,
    /// Absent: unbounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets_per_s: Option<usize>,
}

/// What a session carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UdpProtocol {
    /// Anything.
    #[default]
    Opaque,
    /// WireGuard and nothing else.
    Wireguard,
}

impl UdpProtocol {
    /// The name in the configuration, commands and listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opaque => "opaque",
            Self::Wireguard => "wireguard",
        }
    }
}

/// Where an end of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpEnd {
    /// There, for good.
    Fixed(SocketAddr),
    /// Wherever it shows to be: by WireGuard's handshakes, or by proofs of a token.
    Learned {
        /// Where it is sent to until then.
        first: Option<SocketAddr>,
    },
}

impl UdpEnd {
    /// The address that is known beforehand.
    pub fn first(self) -> Option<SocketAddr> {
        match self {
            Self::Fixed(address) => Some(address),
            Self::Learned { first } => first,
        }
    }
}

/// A text that says of no end where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ADDRESS:PORT, learn, or learn:ADDRESS:PORT is wanted")]
pub struct UdpEndError;

impl FromStr for UdpEnd {
    type Err = UdpEndError;

    fn from_str(text: &str) -> Result<Self, UdpEndError> {
        let address = |text: &str| {
            let address: SocketAddr = text.parse().map_err(|_no_address| UdpEndError)?;
            let is_one = address.port() != 0 && !address.ip().is_unspecified();
            is_one.then_some(address).ok_or(UdpEndError)
        };
        match text.strip_prefix(LEARN) {
            Some("") => Ok(Self::Learned { first: None }),
            Some(first) => {
                let first = address(first.strip_prefix(':').ok_or(UdpEndError)?)?;
                Ok(Self::Learned { first: Some(first) })
            }
            None => address(text).map(Self::Fixed),
        }
    }
}

impl fmt::Display for UdpEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) => address.fmt(f),
            Self::Learned { first: None } => f.write_str(LEARN),
            Self::Learned { first: Some(address) } => write!(f, "{LEARN}:{address}"),
        }
    }
}

/// Reads a public key as `wg pubkey` prints it.
pub fn parse_public_key(text: &str) -> Option<PublicKey> {
    STANDARD.decode(text).ok()?.try_into().ok().map(PublicKey)
}

/// How a public key is written; an absent one is the empty text.
pub(super) struct PublicKeyText(pub(super) Option<PublicKey>);

impl fmt::Display for PublicKeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(key) => f.write_str(&STANDARD.encode(key.0)),
            None => Ok(()),
        }
    }
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self {
            addresses: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            port_min: 20_000,
            port_max: 29_999,
            sessions_max: 1024,
            idle: Duration::from_secs(10 * 60),
            allow_peers: Vec::new(),
            deny_peers: Vec::new(),
            tier: UdpTier::Gso,
            sessions: Vec::new(),
            own_addresses: Vec::new(),
        }
    }
}

impl Default for UdpSessionConfig {
    /// One about which nothing is said.
    fn default() -> Self {
        Self {
            name: String::new(),
            protocol: UdpProtocol::Opaque,
            end_a: UdpEnd::Learned { first: None },
            end_b: UdpEnd::Learned { first: None },
            port_a: 0,
            port_b: 0,
            public_key_a: None,
            public_key_b: None,
            rate: Rate::Unbounded,
            packets_per_s: None,
        }
    }
}

impl UdpSessionConfig {
    /// Its ends, A and B.
    pub fn ends(&self) -> [UdpEnd; 2] {
        [self.end_a, self.end_b]
    }

    /// Its ports.
    pub fn ports(&self) -> [u16; 2] {
        [port(self.port_a), port(self.port_b)]
    }

    /// What may pass.
    pub fn rate_limit(&self) -> RateLimit {
        let packets = self.packets_per_s.and_then(|packets| u32::try_from(packets).ok());
        rate_limit(self.rate, packets)
    }
}

/// What may pass in each direction, as the data cores take it.
pub fn rate_limit(rate: Rate, packets_per_s: Option<u32>) -> RateLimit {
    RateLimit {
        packets_per_s: packets_per_s.and_then(NonZeroU32::new),
        bytes_per_s: rate.bytes_per_s().and_then(NonZeroU64::new),
    }
}

impl UdpConfig {
    /// Whether there may be sessions.
    pub fn is_enabled(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// UDP sockets that a core may have for sessions: of each leg one on each address.
    pub fn sockets_max(&self) -> usize {
        self.sessions_max.saturating_mul(2 * self.addresses.len())
    }

    /// The ports of sessions.
    pub fn ports(&self) -> std::ops::RangeInclusive<u16> {
        port(self.port_min)..=port(self.port_max)
    }

    /// Whom ends may be.
    ///
    /// # Errors
    /// If there are more blocks or addresses than a policy holds.
    pub fn peers(&self) -> Result<AddressPolicy, PolicyError> {
        // A loopback address is denied unless its block is opened, and then all of it is.
        let own = self.own_addresses.iter().chain(&self.addresses).copied();
        let own = own.filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
        AddressPolicy::new(self.allow_peers.clone(), own)?.without(self.deny_peers.clone())
    }

    /// What no key can see alone: the key that is more likely the slip, and what is wrong.
    pub(super) fn contradiction(&self, turn: &TurnConfig) -> Option<(&'static str, Complaint)> {
        if self.port_min > self.port_max {
            let (min, max) = (self.port_min, self.port_max);
            return Some(("udp.port_min", Complaint::UdpPortsReversed { min, max }));
        }
        let of_family =
            |is_ipv4: bool| self.addresses.iter().filter(|ip| ip.is_ipv4() == is_ipv4).count();
        if of_family(true) > 1 || of_family(false) > 1 {
            return Some(("udp.addresses", Complaint::UdpAddresses));
        }
        if self.is_enabled() && self.meets(turn) {
            return Some(("udp.port_min", Complaint::UdpPortsAreTurns));
        }
        None
    }

    /// Whether a port may be wanted by a session and by the TURN server.
    fn meets(&self, turn: &TurnConfig) -> bool {
        let meets = |other: &IpAddr| {
            self.addresses.iter().any(|own| {
                own.is_ipv4() == other.is_ipv4()
                    && (own == other || own.is_unspecified() || other.is_unspecified())
            })
        };
        let ports = self.port_min..=self.port_max;
        let listens = |listen: &SocketAddr| {
            ports.contains(&usize::from(listen.port())) && meets(&listen.ip())
        };
        let crosses = self.port_min <= turn.port_max && turn.port_min <= self.port_max;
        let relays = crosses && turn.relayed_from().iter().any(meets);
        turn.is_enabled() && (relays || turn.listen.iter().any(listens))
    }

    /// What is wrong with sessions: which of them, the key, and what. `line_of` tells where the
    /// name of one is.
    pub(super) fn wrong_sessions(
        &self,
        line_of: &impl Fn(usize) -> usize,
    ) -> Vec<(usize, &'static str, Complaint)> {
        let mut wrong = Vec::new();
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        let mut ports = BTreeSet::new();
        for (index, session) in self.sessions.iter().enumerate() {
            let mut refuse = |key, complaint| wrong.push((index, key, complaint));
            if !self.is_enabled() {
                refuse("name", Complaint::UdpSessionNowhere);
                continue;
            }
            if session.name.is_empty() {
                refuse("name", Complaint::UdpSessionWithoutName);
            } else if let Some(first) = names.insert(&session.name, index) {
                let (name, line) = (session.name.clone(), line_of(first));
                refuse("name", Complaint::DuplicateUdpSession { name, line });
            }
            for (key, port) in [("port_a", session.port_a), ("port_b", session.port_b)] {
                let (min, max) = (self.port_min, self.port_max);
                if !(min..=max).contains(&port) {
                    refuse(key, Complaint::UdpPortOutOfRange { port, min, max });
                } else if !ports.insert(port) {
                    refuse(key, Complaint::UdpPortTaken { port });
                }
            }
            for (key, end) in [("end_a", session.end_a), ("end_b", session.end_b)] {
                if let Some(complaint) = self.wrong_end(session, end) {
                    refuse(key, complaint);
                }
            }
            let is_unknown = |end: UdpEnd| end.first().is_none();
            let knows_keys = session.public_key_a.is_some() && session.public_key_b.is_some();
            if session.protocol == UdpProtocol::Wireguard
                && session.ends().into_iter().all(is_unknown)
                && !knows_keys
            {
                refuse("end_a", Complaint::UdpEndsProveNothing);
            }
        }
        wrong
    }

    fn wrong_end(&self, session: &UdpSessionConfig, end: UdpEnd) -> Option<Complaint> {
        if session.protocol == UdpProtocol::Opaque && matches!(end, UdpEnd::Learned { .. }) {
            return Some(Complaint::UdpEndUnknown);
        }
        let address = end.first()?;
        if !self.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4()) {
            return Some(Complaint::UdpEndOfNoFamily { address });
        }
        let denied = self.peers().ok()?.check(address.ip()).err()?;
        Some(Complaint::UdpEndDenied { address, why: denied.to_string() })
    }
}

/// Every key of a `[[udp.session]]`, in the order of printing.
pub const UDP_SESSION_KEYS: &[Key<UdpSessionConfig>] = &[
    key(
        "name",
        "text",
        Rule::Text {
            min_bytes: 1,
            max_bytes: UDP_SESSION_NAME_BYTES_MAX,
            at: |session| &mut session.name,
        },
        "What listings and events call it. A session of the same name is the same one after a \
        reload.",
    ),
    key(
        "protocol",
        "name",
        Rule::UdpProtocol { at: |session| &mut session.protocol },
        "What it carries. With wireguard, nothing else passes, and ends may be learned.",
    ),
    key(
        "end_a",
        "ADDRESS:PORT",
        Rule::UdpEnd { at: |session| &mut session.end_a },
        "Where end A is; what comes from elsewhere is dropped. learn: wherever its handshakes come \
        from that end B answers; with an address, that is sent to until then.",
    ),
    key(
        "end_b",
        "ADDRESS:PORT",
        Rule::UdpEnd { at: |session| &mut session.end_b },
        "The same of end B.",
    ),
    key(
        "port_a",
        "port",
        Rule::Count { min: 1, max: 65_535, at: |session| &mut session.port_a },
        "The port of this machine that end A sends to, within udp.port_min and udp.port_max.",
    ),
    key(
        "port_b",
        "port",
        Rule::Count { min: 1, max: 65_535, at: |session| &mut session.port_b },
        "The port that end B sends to.",
    ),
    key(
        "public_key_a",
        "key",
        Rule::PublicKey { at: |session| &mut session.public_key_a },
        "The public key of WireGuard's end A. Handshakes for anybody else are dropped then. Empty: \
        not checked.",
    ),
    key(
        "public_key_b",
        "key",
        Rule::PublicKey { at: |session| &mut session.public_key_b },
        "The same of end B.",
    ),
    key(
        "rate",
        "bytes per second",
        Rule::Rate { min: RATE_MIN, max: RATE_MAX, at: |session| &mut session.rate },
        "What may pass in each direction; more is dropped.",
    ),
    key(
        "packets_per_s",
        "datagrams per second",
        Rule::OptionalCount { max: 1_000_000_000, at: |session| &mut session.packets_per_s },
        "The same in datagrams. Absent or 0: unbounded.",
    ),
];

const fn key(
    name: &'static str,
    unit: &'static str,
    rule: Rule<UdpSessionConfig>,
    meaning: &'static str,
) -> Key<UdpSessionConfig> {
    Key { section: "udp.session", name, meaning, unit, reload: Reload::Live, rule }
}

/// What the engine starts with, if there may be opaque sessions.
pub fn opaque_settings(config: &Config) -> Option<OpaqueSettings> {
    let udp = &config.udp;
    let (addresses, sessions_max) = (udp.addresses.clone(), udp.sessions_max);
    udp.is_enabled().then_some(OpaqueSettings { addresses, sessions_max, tier: udp.tier })
}

/// What data cores take of it, anew with every reload. What a policy cannot hold admits nobody; the
/// program has refused it before.
pub(super) fn udp_peers(config: &Config) -> Arc<AddressPolicy> {
    Arc::new(config.udp.peers().unwrap_or_else(|_too_many| AddressPolicy::nothing()))
}

fn port(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn serialize_blocks<S: Serializer>(blocks: &[Block], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(blocks.iter().map(Block::to_string))
}

fn serialize_tier<S: Serializer>(tier: &UdpTier, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(tier.name())
}

fn serialize_text<S: Serializer>(end: &UdpEnd, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(end)
}

fn serialize_key<S: Serializer>(key: &Option<PublicKey>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&PublicKeyText(*key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const KEY: &str = "SDdkFb3uPmmW/pw5nhPNwcwcNZPRoMUGWJAaZDL2/A0=";

    fn wrong(text: &str) -> String {
        parse(text, "x").unwrap_err().to_string()
    }

    fn session(lines: &str) -> String {
        format!("[[udp.session]]\nname = \"hub\"\nport_a = 20001\nport_b = 20002\n{lines}")
    }

    #[test]
    fn wireguard_session_reads_back_what_was_written() {
        let text = session(&format!(
            "protocol = \"wireguard\"\nend_a = \"learn\"\nend_b = \"9.9.9.9:51820\"\n\
             public_key_b = \"{KEY}\"\nrate = \"10MiB\"\npackets_per_s = 5000\n"
        ));
        let config = parse(&text, "x").unwrap();
        let [session] = &config.udp.sessions[..] else { panic!("{config:?}") };
        assert_eq!(session.ports(), [20_001, 20_002]);
        assert_eq!(session.end_a, UdpEnd::Learned { first: None });
        assert_eq!(session.end_b, UdpEnd::Fixed("9.9.9.9:51820".parse().unwrap()));
        assert_eq!(PublicKeyText(session.public_key_b).to_string(), KEY);
        let rate = session.rate_limit();
        assert_eq!(rate.packets_per_s, NonZeroU32::new(5000));
        assert_eq!(rate.bytes_per_s, NonZeroU64::new(10 << 20));
    }

    #[test]
    fn ends_are_written_in_three_ways_and_read_back() {
        for text in ["9.9.9.9:1", "[2001:db8::1]:51820", "learn", "learn:9.9.9.9:1"] {
            assert_eq!(text.parse::<UdpEnd>().unwrap().to_string(), text);
        }
        for text in ["", "9.9.9.9", "9.9.9.9:0", "0.0.0.0:5", "learn:", "learn9.9.9.9:1", "learnt"]
        {
            assert_eq!(text.parse::<UdpEnd>(), Err(UdpEndError), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_said_with_line_and_key() {
        let fixed = "end_a = \"9.9.9.9:1\"\nend_b = \"9.9.9.8:1\"\n";
        let cases = [
            ("end_b = \"9.9.9.9:1\"\n", "x:1: udp.session.end_a"),
            ("end_a = \"10.0.0.1:1\"\nend_b = \"9.9.9.9:1\"\n", "x:5: udp.session.end_a"),
            ("protocol = \"wireguard\"\n", "public_key_a"),
            ("protocol = \"wire\"\n", "x:5: udp.session.protocol"),
            ("public_key_a = \"abc\"\n", "x:5: udp.session.public_key_a"),
            ("end_c = \"learn\"\n", "udp.session.end_a"),
            ("end_a = \"here\"\n", "x:5: udp.session.end_a"),
            ("rate = \"1B\"\n", "x:5: udp.session.rate"),
        ];
        for (lines, expected) in cases {
            let said = wrong(&session(lines));
            assert!(said.contains(expected), "{lines}: {said}");
        }
        let twice = [session(fixed), session(fixed)].concat();
        let said = wrong(&twice);
        for part in ["x:8: udp.session.name", "line 2", "20001 is the port of another leg"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let said = wrong(&format!("[udp]\nport_max = 20001\n{}", session(fixed)));
        assert!(said.contains("udp.session.port_b: is 20002"), "{said}");
        let said = wrong(&format!("[udp]\naddresses = []\n{}", session(fixed)));
        assert!(said.contains("udp.addresses is empty"), "{said}");
        let said = wrong(&format!("[udp]\naddresses = [\"::\"]\n{}", session(fixed)));
        assert!(said.contains("of a family"), "{said}");
    }

    #[test]
    fn ports_of_turn_are_not_those_of_sessions_on_the_same_address() {
        let turn = "[turn]\nlisten = [\"9.9.9.9:3478\"]\nusers_file = \"/users\"\n";
        let said = wrong(&format!("{turn}[udp]\nport_max = 50000"));
        assert!(said.contains("udp.port_min") && said.contains("TURN"), "{said}");
        let said = wrong(&format!("{turn}[udp]\nport_min = 3000\nport_max = 4000"));
        assert!(said.contains("TURN"), "{said}");
        for elsewhere in ["", "addresses = [\"9.9.9.8\"]\nport_max = 50000"] {
            assert!(parse(&format!("{turn}[udp]\n{elsewhere}"), "x").is_ok(), "{elsewhere}");
        }
        assert!(wrong("[udp]\nport_min = 30000").contains("udp.port_max"));
        let said = wrong("[udp]\naddresses = [\"9.9.9.9\", \"9.9.9.8\"]");
        assert!(said.contains("udp.addresses"), "{said}");
    }

    #[test]
    fn denied_blocks_are_no_ends() {
        let config = parse("[udp]\ndeny_peers = [\"9.9.9.0/24\"]", "x").unwrap();
        let peers = udp_peers(&config);
        for (ip, is_admitted) in [
            ("9.9.9.9", false),
            ("::ffff:9.9.9.9", false),
            ("64:ff9b::9.9.9.9", false),
            ("9.9.8.9", true),
        ] {
            assert_eq!(peers.check(ip.parse().unwrap()).is_ok(), is_admitted, "{ip}");
        }
        let fixed = "end_a = \"9.9.9.9:1\"\nend_b = \"9.9.8.8:1\"\n";
        let said = wrong(&format!("[udp]\ndeny_peers = [\"9.9.9.0/24\"]\n{}", session(fixed)));
        assert!(said.contains("udp.session.end_a") && said.contains("a denied address"), "{said}");
    }

    #[test]
    fn addresses_of_the_machine_are_no_ends() {
        let mut config = parse("[udp]\nallow_peers = [\"127.0.0.0/8\"]", "x").unwrap();
        config.udp.own_addresses = vec![[9, 9, 9, 9].into(), [127, 0, 0, 1].into()];
        let peers = udp_peers(&config);
        assert!(peers.check([9, 9, 9, 9].into()).is_err());
        assert!(peers.check([127, 0, 0, 1].into()).is_ok());
        assert!(peers.check([9, 9, 9, 8].into()).is_ok());
    }
}
