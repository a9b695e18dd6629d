//! The client side of a gateway's operations (spec §11), on the calling thread: register, connect,
//! route, subscribe, and accepting what a gateway routes here.

use crate::clock::{self, Deadline};
use crate::error::{PeerError, Step};
use crate::limits::{
    CONNECT_TIMEOUT, IDLE_WRITE_TIMEOUT, OPERATION_TIMEOUT, SUBSCRIPTION_BYTES_MAX,
};
use crate::link::{InboundQuery, Link, LinkOptions, REJECTED};
use crate::objects::{self, ObjectStream};
use crate::session::Session;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use waystation_astral::endpoint::Endpoint;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::{
    self, GatewayOperation, Visibility, nonce_object, parse_socket_object,
};
use waystation_astral::identity::{Identity, SecretKey};
use waystation_astral::object::{Object, type_names};

/// A gateway's answer to `node_register` or `node_connect`: where to dial and what to say there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    pub socket: SocketAddr,
    pub nonce: u64,
}

/// How to ask a gateway for a pipe inside the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteForm {
    /// `.gateway.<target>` (spec §11.1).
    G1,
    /// `gateway.node_route?target=<target>` (spec §11.2).
    G2,
}

impl RouteForm {
    /// What nodes of this profile ask: P0 only knows G1; P4 only G2; P2 knew both in turn.
    pub fn of(profile: Profile) -> Self {
        match profile {
            Profile::P0 => Self::G1,
            Profile::P2 | Profile::P4 => Self::G2,
        }
    }

    /// The query string that asks for `target`.
    pub fn query(self, target: &Identity) -> String {
        match self {
            Self::G1 => format!(".gateway.{target}"),
            Self::G2 => format!("gateway.node_route?target={target}"),
        }
    }
}

/// Which of a gateway's pipes a link to a third node goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The gateway's socket: `node_connect` (spec §11.2).
    Socket,
    /// A session of the link to the gateway.
    Route(RouteForm),
}

impl Link {
    /// Dials `target` through the gateway at the other side: a link of its own, end to end, inside
    /// one of the gateway's pipes.
    ///
    /// # Errors
    ///
    /// As [`Link::connect`] or [`Link::route`], and as [`Link::dial_over`].
    pub fn dial_through(
        &self,
        way: Way,
        key: &SecretKey,
        target: &Identity,
        options: &LinkOptions,
    ) -> Result<Self, PeerError> {
        match way {
            Way::Socket => Self::dial_over(self.connect(target)?, key, target, options),
            Way::Route(form) => Self::dial_over(self.route_as(form, target)?, key, target, options),
        }
    }

    /// Registers with the gateway at the other side; idle connections go to the returned socket.
    ///
    /// # Errors
    ///
    /// [`PeerError::Refused`] with the gateway's words, or whatever stopped the query.
    pub fn register(&self, visibility: Visibility) -> Result<Registration, PeerError> {
        let visibility = match visibility {
            Visibility::Public => "public",
            Visibility::Private => "private",
        };
        self.socket_operation(&format!("gateway.node_register?visibility={visibility}"))
    }

    /// Withdraws the registration.
    ///
    /// # Errors
    ///
    /// As [`Link::register`].
    pub fn unregister(&self) -> Result<(), PeerError> {
        let object = self.ask_object("gateway.node_unregister")?;
        match object.type_name.as_str() {
            type_names::ACK => Ok(()),
            _ => Err(objects::unexpected(object)),
        }
    }

    /// Reserves one of `target`'s idle connections without dialing the socket yet.
    ///
    /// # Errors
    ///
    /// As [`Link::register`].
    pub fn reserve(&self, target: &Identity) -> Result<Registration, PeerError> {
        self.socket_operation(&format!("gateway.node_connect?target={target}"))
    }

    /// Gets a pipe to `target` over the gateway's socket; the first byte written to it goes to
    /// `target`.
    ///
    /// # Errors
    ///
    /// As [`Link::register`]; [`PeerError::Connect`] when the socket cannot be reached.
    pub fn connect(&self, target: &Identity) -> Result<TcpStream, PeerError> {
        let Registration { socket, nonce } = self.reserve(target)?;
        let mut pipe = TcpStream::connect_timeout(&socket, CONNECT_TIMEOUT)
            .map_err(|source| PeerError::Connect { address: socket, source })?;
        pipe.set_nodelay(true)
            .and_then(|()| pipe.set_write_timeout(Some(IDLE_WRITE_TIMEOUT)))
            // At once: a stock gateway dies of a connection that ends silent (spec §11.2, trap e).
            .and_then(|()| pipe.write_all(&nonce_object(nonce)))
            .and_then(|()| pipe.set_write_timeout(None))
            .map_err(|source| PeerError::Io { step: Step::Operation, source })?;
        Ok(pipe)
    }

    /// Gets a pipe to `target` inside this link, asked for as nodes of the link's profile do.
    ///
    /// # Errors
    ///
    /// As [`Link::query`].
    pub fn route(&self, target: &Identity) -> Result<Session, PeerError> {
        self.route_as(RouteForm::of(self.profile()), target)
    }

    /// As [`Link::route`], in a chosen form.
    ///
    /// # Errors
    ///
    /// As [`Link::query`].
    pub fn route_as(&self, form: RouteForm, target: &Identity) -> Result<Session, PeerError> {
        self.query(&form.query(target))
    }

    /// Accepts the next pipe that a gateway routes to this side, in either form; everything else
    /// that arrives meanwhile is rejected.
    ///
    /// # Errors
    ///
    /// As [`Link::accept`].
    pub fn accept_route(&self, window_bytes: u32, timeout: Duration) -> Result<Session, PeerError> {
        let deadline = Deadline::after(timeout);
        loop {
            let remaining = deadline.remaining().unwrap_or_default();
            let inbound = self.accept(remaining)?;
            if routed_target(&inbound) == Some(self.local()) {
                return inbound.accept(window_bytes);
            }
            inbound.reject(REJECTED);
        }
    }

    /// Subscribes with a G1 gateway; returns its JSON answer (spec §11.1).
    ///
    /// # Errors
    ///
    /// [`PeerError::Subscription`] when the status is not ok, or whatever stopped the query.
    pub fn subscribe(&self) -> Result<String, PeerError> {
        let session = self.query(".gateway.subscribe")?;
        let answer = read_to_end(session, SUBSCRIPTION_BYTES_MAX)?;
        let Ok(answer) = String::from_utf8(answer) else { return Err(PeerError::Subscription) };
        let compact: String = answer.split_whitespace().collect();
        if compact.contains(r#""Status":"ok""#) { Ok(answer) } else { Err(PeerError::Subscription) }
    }

    /// Asks a gateway for the identities that registered publicly.
    ///
    /// # Errors
    ///
    /// As [`Link::register`].
    pub fn list_registered(&self) -> Result<Vec<Identity>, PeerError> {
        let mut listed = Vec::new();
        let mut objects = ObjectStream::open(self.query("gateway.node_list")?);
        loop {
            let Some(object) = objects.next()? else { return Ok(listed) };
            let identity = match object.type_name.as_str() {
                type_names::EOS => return Ok(listed),
                type_names::IDENTITY | type_names::IDENTITY_OLD => {
                    object.payload.first_chunk().map(Identity::from_bytes)
                }
                _ => return Err(objects::unexpected(object)),
            };
            match identity {
                Some(Ok(identity)) => listed.push(identity),
                _ => return Err(objects::unexpected(object)),
            }
        }
    }

    fn socket_operation(&self, query: &str) -> Result<Registration, PeerError> {
        let object = self.ask_object(query)?;
        if object.type_name != type_names::GATEWAY_SOCKET {
            return Err(objects::unexpected(object));
        }
        match parse_socket_object(&object)? {
            (Endpoint::Tcp(socket), nonce) => Ok(Registration { socket, nonce }),
            _ => Err(PeerError::SocketNetwork),
        }
    }

    fn ask_object(&self, query: &str) -> Result<Object, PeerError> {
        ObjectStream::open(self.query(query)?)
            .next()?
            .ok_or(PeerError::Ended { step: Step::Operation })
    }
}

/// The target a gateway routes here, if the query is such a route.
fn routed_target(inbound: &InboundQuery) -> Option<Identity> {
    match gateway::parse(inbound.query())? {
        Ok(GatewayOperation::Route { target } | GatewayOperation::Forward { target }) => {
            Some(target)
        }
        _ => None,
    }
}

fn read_to_end(mut session: Session, bytes_max: usize) -> Result<Vec<u8>, PeerError> {
    let deadline = clock::now() + OPERATION_TIMEOUT;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        session.set_read_timeout(Some(deadline.saturating_duration_since(clock::now())));
        let bytes = session
            .read(&mut buffer)
            .map_err(|source| PeerError::from_read(Step::Operation, source))?;
        if bytes == 0 {
            return Ok(answer);
        }
        answer.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
        if answer.len() > bytes_max {
            return Err(PeerError::Subscription);
        }
    }
}
