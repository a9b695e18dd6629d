//! Opaque UDP sessions as the management core knows them: which there are, on which core, with
//! which ports, and which are being opened.
//!
//! Owned by the management core's runtime and used on its thread. It chooses cores and ports, and
//! makes commands of what is wanted; what became of them it hears in reports. It opens no socket:
//! the core does, and says if a port cannot be had. Nothing is written down, so a restart knows the
//! sessions of the configuration and no others.

mod ports;
#[cfg(test)]
mod tests;
mod token;

use crate::config::{UdpEnd, UdpProtocol, UdpSessionConfig};
use crate::limits::UDP_PORT_TRIES_MAX;
use ports::PortTable;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use token::Tokens;
use waystation_engine::control::{Command, OpaqueRequest};
use waystation_engine::core::OpaqueOpenError;
use waystation_relay::ids::{CoreId, UdpSessionTag};
use waystation_relay::limits::UDP_IDLE_MAX_NS;
use waystation_relay::udp::proof::Secret;
use waystation_relay::udp::wireguard::PublicKey;
use waystation_relay::udp::{
    Learning, LegSettings, LocalPort, Protocol, RateLimit, Settings, Side,
};

pub use token::Token;

/// A session that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// What the configuration calls it.
    pub name: Option<Box<str>>,
    /// Where its ends are, A and B.
    pub ends: [UdpEnd; 2],
    /// The ports that they send to; absent: free ones.
    pub ports: [Option<u16>; 2],
    pub protocol: UdpProtocol,
    pub public_keys: [Option<PublicKey>; 2],
    pub rate: RateLimit,
    pub idle_limit_ns: u64,
}

impl Wish {
    /// What a `[[udp.session]]` wants.
    pub fn of_config(session: &UdpSessionConfig) -> Self {
        Self {
            name: Some(session.name.as_str().into()),
            ends: session.ends(),
            ports: session.ports().map(Some),
            protocol: session.protocol,
            public_keys: [session.public_key_a, session.public_key_b],
            rate: session.rate_limit(),
            idle_limit_ns: UDP_IDLE_MAX_NS,
        }
    }

    /// How the end of a leg is known, in the word of listings.
    pub fn learning_name(&self, side: Side) -> &'static str {
        match (self.ends[side.index()], self.protocol) {
            (UdpEnd::Fixed(_), _) => "fixed",
            (UdpEnd::Learned { .. }, UdpProtocol::Opaque) => "token",
            (UdpEnd::Learned { .. }, UdpProtocol::Wireguard) => "handshake",
        }
    }

    /// Whether an end proves a token.
    fn has_token(&self, side: Side) -> bool {
        self.protocol == UdpProtocol::Opaque
            && matches!(self.ends[side.index()], UdpEnd::Learned { .. })
    }
}

/// A session that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub wish: Wish,
    /// Of leg A and leg B.
    pub ports: [u16; 2],
    /// Where the legs are, as far as the core has told.
    pub addresses: [Option<SocketAddr>; 2],
}

/// Why no core is asked to open a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenRefusal {
    /// A port that is none of the sessions'.
    #[error("port {port} is not between udp.port_min ({min}) and udp.port_max ({max})")]
    PortOutOfRange { port: u16, min: u16, max: u16 },
    /// Two ports that are on different cores.
    #[error("ports {0} and {1} are on different data cores; give at most one that is in use")]
    PortsApart(u16, u16),
    /// No port is free.
    #[error("all ports from udp.port_min to udp.port_max are in use")]
    NoFreePort,
    /// Every core is full.
    #[error("there are as many sessions as udp.sessions_max lets each data core have")]
    TooManySessions,
}

/// What came of a request to a core.
#[derive(Debug)]
pub enum Opening {
    /// There is a session, with tokens for the ends that prove one.
    Opened { session: UdpSessionTag, tokens: [Option<Token>; 2] },
    /// It is tried again with other ports.
    Again(CoreId, Command),
    /// There is none.
    Failed { wish: Wish, message: String },
}

/// A session that a core has been asked for.
#[derive(Debug)]
struct Pending {
    wish: Wish,
    core: CoreId,
    ports: [u16; 2],
    tokens: Tokens,
    tries: u32,
}

/// See the module.
#[derive(Debug)]
pub struct OpaqueTable {
    known: BTreeMap<UdpSessionTag, Known>,
    pending: BTreeMap<OpaqueRequest, Pending>,
    ports: PortTable,
    /// Sessions of each core, those that are being opened included.
    by_core: Vec<usize>,
    sessions_max: usize,
    requests: u64,
}

impl OpaqueTable {
    /// Without sessions, for so many cores with at most so many each.
    pub fn new(cores: usize, sessions_max: usize, ports: RangeInclusive<u16>) -> Self {
        Self {
            known: BTreeMap::new(),
            pending: BTreeMap::new(),
            ports: PortTable::new(ports),
            by_core: vec![0; cores],
            sessions_max,
            requests: 0,
        }
    }

    /// Keeps the ports of the configuration for its sessions.
    pub fn reserve(&mut self, ports: BTreeSet<u16>) {
        self.ports.reserve(ports);
    }

    /// A session that is open.
    pub fn get(&self, session: UdpSessionTag) -> Option<&Known> {
        self.known.get(&session)
    }

    /// The sessions of the configuration that are open.
    pub fn named(&self) -> impl Iterator<Item = (UdpSessionTag, &str, &Wish)> {
        self.known.iter().filter_map(|(session, known)| {
            Some((*session, known.wish.name.as_deref()?, &known.wish))
        })
    }

    /// Whether a session of the configuration is open or about to be.
    pub fn has_name(&self, name: &str) -> bool {
        let is_pending =
            self.pending.values().any(|pending| pending.wish.name.as_deref() == Some(name));
        is_pending || self.named().any(|(_, known, _)| known == name)
    }

    /// Chooses core and ports for a session. `draw` gives random bytes.
    ///
    /// # Errors
    /// Why no core is to be asked.
    pub fn open(
        &mut self,
        wish: Wish,
        draw: &mut dyn FnMut() -> [u8; 32],
    ) -> Result<(OpaqueRequest, CoreId, Command), OpenRefusal> {
        let tokens = Side::BOTH.map(|side| wish.has_token(side).then(|| Secret::new(draw())));
        self.requests += 1;
        let request = OpaqueRequest(self.requests);
        let (core, command) = self.ask(request, wish, Tokens(tokens), 0)?;
        Ok((request, core, command))
    }

    fn ask(
        &mut self,
        request: OpaqueRequest,
        wish: Wish,
        tokens: Tokens,
        tries: u32,
    ) -> Result<(CoreId, Command), OpenRefusal> {
        let core = match self.ports.core_of(wish.ports)? {
            Some(core) => core,
            None => self.emptiest_core().ok_or(OpenRefusal::TooManySessions)?,
        };
        let sessions = self.by_core.get(core.index()).copied().unwrap_or(usize::MAX);
        if sessions >= self.sessions_max {
            return Err(OpenRefusal::TooManySessions);
        }
        let ports = self.ports.take(wish.ports, core)?;
        self.by_core[core.index()] += 1;
        let settings = Box::new(settings(&wish, ports, &tokens));
        let tries = tries + 1;
        self.pending.insert(request, Pending { wish, core, ports, tokens, tries });
        Ok((core, Command::OpenUdp { request, settings }))
    }

    fn emptiest_core(&self) -> Option<CoreId> {
        let emptiest = self.by_core.iter().enumerate().min_by_key(|(_, sessions)| **sessions)?;
        u16::try_from(emptiest.0).ok().map(CoreId)
    }

    /// A core has answered. `None`: it was not asked.
    pub fn opened(
        &mut self,
        request: OpaqueRequest,
        result: Result<UdpSessionTag, OpaqueOpenError>,
    ) -> Option<Opening> {
        let Pending { wish, core, ports, tokens, tries } = self.pending.remove(&request)?;
        let error = match result {
            Ok(session) => {
                let tokens = tokens.of(session);
                let addresses = wish.ends.map(UdpEnd::first);
                self.known.insert(session, Known { wish, ports, addresses });
                return Some(Opening::Opened { session, tokens });
            }
            Err(error) => error,
        };
        self.give_back(core, ports);
        let is_free_to_choose = wish.ports.contains(&None);
        if let OpaqueOpenError::Port(port) = &error
            && is_free_to_choose
            && !wish.ports.contains(&Some(port.port.0))
            && tries < UDP_PORT_TRIES_MAX
            && let Ok((core, command)) = self.ask(request, wish.clone(), tokens, tries)
        {
            return Some(Opening::Again(core, command));
        }
        Some(Opening::Failed { wish, message: error.to_string() })
    }

    /// The legs of a session are elsewhere.
    pub fn moved(&mut self, session: UdpSessionTag, addresses: [Option<SocketAddr>; 2]) {
        if let Some(known) = self.known.get_mut(&session) {
            known.addresses = addresses;
        }
    }

    /// A session has ended.
    pub fn ended(&mut self, session: UdpSessionTag) -> Option<Known> {
        let known = self.known.remove(&session)?;
        self.give_back(session.core, known.ports);
        Some(known)
    }

    /// A session of another process that a core goes on with.
    pub(crate) fn take_over(&mut self, session: UdpSessionTag, known: Known) {
        // Its ports are named, so nothing is searched for that might not be there.
        if self.ports.take(known.ports.map(Some), session.core).is_ok() {
            if let Some(sessions) = self.by_core.get_mut(session.core.index()) {
                *sessions += 1;
            }
            self.known.insert(session, known);
        }
    }

    fn give_back(&mut self, core: CoreId, ports: [u16; 2]) {
        ports.into_iter().for_each(|port| self.ports.give_back(port));
        if let Some(sessions) = self.by_core.get_mut(core.index()) {
            *sessions = sessions.saturating_sub(1);
        }
    }
}

/// What a session of another process was opened with.
pub(crate) fn settings_again(
    wish: &Wish,
    ports: [u16; 2],
    secrets: [Option<Secret>; 2],
) -> Settings {
    settings(wish, ports, &Tokens(secrets))
}

/// What a core is told.
fn settings(wish: &Wish, ports: [u16; 2], tokens: &Tokens) -> Settings {
    let leg = |side: Side| LegSettings {
        port: LocalPort(ports[side.index()]),
        learning: match (wish.ends[side.index()], tokens.secret(side)) {
            (UdpEnd::Fixed(address), _) => Learning::Fixed(address),
            (UdpEnd::Learned { first }, Some(secret)) => Learning::Proof { secret, first },
            (UdpEnd::Learned { first }, None) => Learning::Handshake { first },
        },
    };
    Settings {
        legs: Side::BOTH.map(leg),
        protocol: match wish.protocol {
            UdpProtocol::Opaque => Protocol::Opaque,
            UdpProtocol::Wireguard => Protocol::Wireguard { public_keys: wish.public_keys },
        },
        rate: wish.rate,
        idle_limit_ns: wish.idle_limit_ns,
    }
}
