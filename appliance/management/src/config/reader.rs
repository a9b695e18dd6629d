//! From the text of a file to a [`Config`], or to everything that is wrong with it.

use super::keys::{KEYS, Key, SECTIONS};
use super::problem::{Complaint, ConfigError, Problem};
use super::rule::nearest;
use super::{AccessMode, Config, PEER_KEYS, PeerConfig, UDP_SESSION_KEYS, UdpSessionConfig};
use crate::limits::{
    CONFIG_BYTES_MAX, CONFIG_PROBLEMS_MAX, PEERS_MAX, UDP_SESSIONS_CONFIGURED_MAX,
};
use crate::units::format_duration;
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use waystation_astral::endpoint::Endpoint;
use waystation_astral::identity::Identity;

/// The name of the tables that are not sections.
const PEER: &str = "peer";
/// The section of the tables that are in one, the name of these, and both.
const UDP: &str = "udp";
const SESSION: &str = "session";
const UDP_SESSION: &str = "udp.session";

/// Reads and checks a configuration. Keys that are absent keep their default.
///
/// `file_name` is used in messages only.
///
/// # Errors
/// What is wrong, each with line, key and remedy, in the order of the lines.
pub fn parse(text: &str, file_name: &str) -> Result<Config, ConfigError> {
    read(text, file_name, None)
}

/// As [`parse`], for the node of this identity: also refuses what makes it its own peer.
///
/// # Errors
/// See [`parse`].
pub fn parse_as(text: &str, file_name: &str, own: Identity) -> Result<Config, ConfigError> {
    read(text, file_name, Some(own))
}

fn read(text: &str, file_name: &str, own: Option<Identity>) -> Result<Config, ConfigError> {
    let mut reader = Reader {
        text,
        own,
        config: Config::default(),
        lines: BTreeMap::new(),
        peer_lines: vec![],
        session_lines: vec![],
        problems: vec![],
    };
    if text.len() > CONFIG_BYTES_MAX {
        reader.complain(0..0, String::new(), Complaint::FileTooLarge { bytes: text.len() });
    } else {
        reader.read_document();
    }
    if reader.problems.is_empty() {
        reader.check_combinations();
    }
    if reader.problems.is_empty() {
        return Ok(reader.config);
    }
    reader.problems.sort_by_key(|problem| problem.line);
    reader.problems.truncate(CONFIG_PROBLEMS_MAX);
    Err(ConfigError { file: file_name.to_owned(), problems: reader.problems })
}

struct Reader<'t> {
    text: &'t str,
    /// Whose configuration it is, if that is known.
    own: Option<Identity>,
    config: Config,
    /// Lines of the keys that are there, by path.
    lines: BTreeMap<String, usize>,
    /// Lines of the keys of each peer, in the order of the peers.
    peer_lines: Vec<BTreeMap<&'static str, usize>>,
    /// The same of each UDP session.
    session_lines: Vec<BTreeMap<&'static str, usize>>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn read_document(&mut self) {
        match DeTable::parse(self.text) {
            Ok(document) => {
                for (name, value) in document.get_ref() {
                    self.read_section(name, value);
                }
            }
            Err(error) => {
                let span = error.span().unwrap_or(0..0);
                let message = error.message().replace('\n', " ");
                self.complain(span, String::new(), Complaint::Syntax { message });
            }
        }
    }

    fn read_section(
        &mut self,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let section = name.get_ref().as_ref();
        if section == PEER {
            return self.read_peers(name.span(), value.get_ref());
        }
        let known = SECTIONS.iter().any(|known| known.name == section);
        match value.get_ref() {
            DeValue::Table(table) if known => {
                for (key, value) in table {
                    self.read_key(section, key, value);
                }
            }
            _ if known => {
                let complaint = Complaint::NotASection { section: section.to_owned() };
                self.complain(name.span(), section.to_owned(), complaint);
            }
            DeValue::Table(_) => {
                let complaint = unknown_section(section);
                self.complain(name.span(), section.to_owned(), complaint);
            }
            _ => {
                let complaint = unknown_key(section, None);
                self.complain(name.span(), section.to_owned(), complaint);
            }
        }
    }

    fn read_key(
        &mut self,
        section: &str,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        if section == UDP && name.get_ref() == SESSION {
            return self.read_sessions(name.span(), value.get_ref());
        }
        let path = format!("{section}.{}", name.get_ref());
        let Some(key) = find(section, name.get_ref()) else {
            let complaint = unknown_key(name.get_ref(), Some(section));
            return self.complain(name.span(), path, complaint);
        };
        self.lines.insert(path.clone(), self.line(&name.span()));
        if let Err(complaint) = key.rule.read(value.get_ref(), &mut self.config) {
            self.complain(name.span(), path, complaint);
        }
    }

    fn read_peers(&mut self, span: Range<usize>, value: &DeValue<'_>) {
        let Some(peers) = value.as_array() else {
            return self.complain(span, PEER.to_owned(), Complaint::NotAPeerList);
        };
        if peers.len() > PEERS_MAX {
            let complaint = Complaint::TooManyPeers { peers: peers.len() };
            return self.complain(span, PEER.to_owned(), complaint);
        }
        for peer in peers.iter() {
            match peer.get_ref() {
                DeValue::Table(table) => self.read_peer(peer.span(), table),
                _ => self.complain(peer.span(), PEER.to_owned(), Complaint::NotAPeerList),
            }
        }
    }

    fn read_sessions(&mut self, span: Range<usize>, value: &DeValue<'_>) {
        let Some(sessions) = value.as_array() else {
            return self.complain(span, UDP_SESSION.to_owned(), Complaint::NotASessionList);
        };
        if sessions.len() > UDP_SESSIONS_CONFIGURED_MAX {
            let (sessions, max) = (sessions.len(), UDP_SESSIONS_CONFIGURED_MAX);
            let complaint = Complaint::TooManyUdpSessions { sessions, max };
            return self.complain(span, UDP_SESSION.to_owned(), complaint);
        }
        for session in sessions.iter() {
            match session.get_ref() {
                DeValue::Table(table) => self.read_session(session.span(), table),
                _ => {
                    let complaint = Complaint::NotASessionList;
                    self.complain(session.span(), UDP_SESSION.to_owned(), complaint);
                }
            }
        }
    }

    fn read_session(&mut self, span: Range<usize>, table: &DeTable<'_>) {
        let mut session = UdpSessionConfig::default();
        let mut lines = BTreeMap::from([(SESSION, self.line(&span))]);
        let before = self.problems.len();
        for (name, value) in table {
            let Some(key) = UDP_SESSION_KEYS.iter().find(|key| key.name == name.get_ref()) else {
                let near = nearest(name.get_ref(), UDP_SESSION_KEYS.iter().map(|key| key.name));
                let nearest = near.map(|near| format!("{UDP_SESSION}.{near}"));
                let path = format!("{UDP_SESSION}.{}", name.get_ref());
                self.complain(name.span(), path, Complaint::UnknownKey { nearest });
                continue;
            };
            lines.insert(key.name, self.line(&name.span()));
            if let Err(complaint) = key.rule.read(value.get_ref(), &mut session) {
                self.complain(name.span(), key.path(), complaint);
            }
        }
        if self.problems.len() == before {
            self.config.udp.sessions.push(session);
            self.session_lines.push(lines);
        }
    }

    /// What is wrong with sessions that each by itself reads well.
    fn check_sessions(&mut self, config: &Config) {
        let lines = std::mem::take(&mut self.session_lines);
        let line_of = |index: usize, key: &str| {
            let lines = lines.get(index)?;
            lines.get(key).or_else(|| lines.get(SESSION)).copied()
        };
        let named = |index: usize| line_of(index, "name").unwrap_or(1);
        for (index, key, complaint) in config.udp.wrong_sessions(&named) {
            let line = line_of(index, key).unwrap_or(1);
            self.problems.push(Problem { line, key: format!("{UDP_SESSION}.{key}"), complaint });
        }
    }

    fn read_peer(&mut self, span: Range<usize>, table: &DeTable<'_>) {
        let mut peer = PeerConfig::new(Identity::ANYONE);
        let mut lines = BTreeMap::from([(PEER, self.line(&span))]);
        let before = self.problems.len();
        for (name, value) in table {
            let Some(key) = PEER_KEYS.iter().find(|key| key.name == name.get_ref()) else {
                let near = nearest(name.get_ref(), PEER_KEYS.iter().map(|key| key.name));
                let nearest = near.map(|near| format!("{PEER}.{near}"));
                let path = format!("{PEER}.{}", name.get_ref());
                self.complain(name.span(), path, Complaint::UnknownKey { nearest });
                continue;
            };
            lines.insert(key.name, self.line(&name.span()));
            if let Err(complaint) = key.rule.read(value.get_ref(), &mut peer) {
                self.complain(name.span(), key.path(), complaint);
            }
        }
        if !lines.contains_key("identity") {
            self.complain(span, format!("{PEER}.identity"), Complaint::PeerWithoutIdentity);
        }
        if self.problems.len() == before {
            self.config.peers.push(peer);
            self.peer_lines.push(lines);
        }
    }

    /// What no key can see alone. The complaint goes to the key that is more likely the slip.
    fn check_combinations(&mut self) {
        let config = self.config.clone();
        let (engine, gateway, management) = (&config.engine, &config.gateway, &config.management);
        if engine.cores != 0 && !engine.cpus.is_empty() && engine.cores != engine.cpus.len() {
            let (cores, cpus) = (engine.cores, engine.cpus.len());
            self.refuse(&["engine.cores"], Complaint::CoresContradictCpus { cores, cpus });
        }
        if let Some(cpu) = management.cpu.filter(|cpu| engine.cpus.contains(cpu)) {
            self.refuse(&["management.cpu"], Complaint::CpuTaken { cpu });
        }
        if let Some(address) = management.metrics_listen
            && !address.ip().to_canonical().is_loopback()
            && !management.metrics_anywhere
        {
            self.refuse(&["management.metrics_listen"], Complaint::MetricsExposed { address });
        }
        if gateway.idle_dead_after <= gateway.idle_ping_interval {
            let keys = ["gateway.idle_dead_after", "gateway.idle_ping_interval"];
            self.refuse(
                &keys,
                Complaint::DeadBeforePing {
                    dead_after: format_duration(gateway.idle_dead_after),
                    ping_interval: format_duration(gateway.idle_ping_interval),
                },
            );
        }
        if config.dial.backoff_min > config.dial.backoff_max {
            let min = format_duration(config.dial.backoff_min);
            let max = format_duration(config.dial.backoff_max);
            let keys = ["dial.backoff_min", "dial.backoff_max"];
            self.refuse(&keys, Complaint::BackoffReversed { min, max });
        }
        if let Some((key, complaint)) = config.turn.contradiction() {
            self.refuse(&[key, "turn.listen"], complaint);
        }
        if let Some((key, complaint)) = config.udp.contradiction(&config.turn) {
            self.refuse(&[key, "udp.port_min", "udp.port_max", "udp.addresses"], complaint);
        }
        if let Some((key, complaint)) = super::dht::contradiction(&config) {
            self.refuse(&[key, "dht.enabled"], complaint);
        }
        self.check_access(&config);
        self.check_peers(&config);
        self.check_sessions(&config);
        if config.relay.session_window > engine.queue_memory {
            let keys = ["relay.session_window", "engine.queue_memory"];
            self.refuse(
                &keys,
                Complaint::WindowBeyondQueue {
                    window: config.relay.session_window.to_string(),
                    queue_memory: engine.queue_memory.to_string(),
                },
            );
        }
    }

    fn check_access(&mut self, config: &Config) {
        let keys = ["access.identities", "access.mode"];
        match (config.access.mode, config.access.identities.is_empty()) {
            (AccessMode::Allowlist, true) => self.refuse(&keys, Complaint::NobodyAdmitted),
            (AccessMode::Everyone, false) => self.refuse(&keys, Complaint::ListWithoutMode),
            _ => {}
        }
    }

    fn check_peers(&mut self, config: &Config) {
        let access = config.access();
        let mut seen: BTreeMap<Identity, usize> = BTreeMap::new();
        for (peer, lines) in config.peers.iter().zip(std::mem::take(&mut self.peer_lines)) {
            let identity = peer.identity.to_string();
            let line = lines.get("identity").copied().unwrap_or(1);
            let mut refuse = |key: &str, complaint| {
                let line = lines.get(key).copied().unwrap_or(line);
                self.problems.push(Problem { line, key: format!("{PEER}.{key}"), complaint });
            };
            if let Some(line) = seen.insert(peer.identity, line) {
                refuse("identity", Complaint::DuplicatePeer { identity, line });
            } else if self.own == Some(peer.identity) {
                refuse("identity", Complaint::PeerIsSelf);
            } else if !access.admits(&peer.identity) {
                refuse("identity", Complaint::PeerKeptOut { identity });
            }
            for endpoint in &peer.endpoints {
                if let Some(complaint) = unusable(endpoint, peer.identity, self.own, config) {
                    refuse("endpoints", complaint);
                }
            }
        }
    }

    /// Complains about the first of the keys, at the line of the first that is in the file.
    fn refuse(&mut self, keys: &[&str], complaint: Complaint) {
        let line = keys.iter().find_map(|key| self.lines.get(*key)).copied().unwrap_or(1);
        let key = keys.first().copied().unwrap_or_default().to_owned();
        self.problems.push(Problem { line, key, complaint });
    }

    fn complain(&mut self, span: Range<usize>, key: String, complaint: Complaint) {
        let line = self.line(&span);
        self.problems.push(Problem { line, key, complaint });
    }

    fn line(&self, span: &Range<usize>) -> usize {
        1 + self.text.bytes().take(span.start).filter(|byte| *byte == b'\n').count()
    }
}

/// Why an endpoint of this peer cannot be dialed as things are configured.
fn unusable(
    endpoint: &Endpoint,
    peer: Identity,
    own: Option<Identity>,
    config: &Config,
) -> Option<Complaint> {
    match endpoint {
        Endpoint::Tor { .. } => {
            config.dial.tor_proxy.is_none().then_some(Complaint::TorWithoutProxy)
        }
        Endpoint::Gateway { target, .. } if *target != peer => {
            Some(Complaint::EndpointOfAnother { endpoint: endpoint.to_string() })
        }
        Endpoint::Gateway { gateway, .. } => {
            let complaint = || Complaint::GatewayIsSelf { endpoint: endpoint.to_string() };
            (Some(*gateway) == own).then(complaint)
        }
        Endpoint::Tcp(_) | Endpoint::Utp(_) | Endpoint::Kcp(_) => None,
    }
}

fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

fn unknown_section(section: &str) -> Complaint {
    let names = SECTIONS.iter().map(|known| format!("[{}]", known.name));
    let names: Vec<_> = names.chain([format!("[[{PEER}]]")]).collect();
    Complaint::UnknownSection {
        nearest: nearest(section, SECTIONS.iter().map(|known| known.name))
            .map(|name| format!("[{name}]")),
        sections: names.join(", "),
    }
}

/// Looks for a similar name in the same section first, then for the same name in any.
fn unknown_key(name: &str, section: Option<&str>) -> Complaint {
    let in_section = KEYS.iter().filter(|key| Some(key.section) == section).map(|key| key.name);
    let similar = nearest(name, in_section).and_then(|near| find(section?, near));
    let elsewhere = || KEYS.iter().find(|key| key.name == name);
    let anywhere = || {
        let near = nearest(name, KEYS.iter().map(|key| key.name))?;
        KEYS.iter().find(|key| key.name == near)
    };
    let found = similar.or_else(elsewhere).or_else(anywhere);
    Complaint::UnknownKey { nearest: found.map(Key::path) }
}
