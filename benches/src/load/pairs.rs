//! Makes the flows: peers, links, pipes, inner links. Everything here happens before measuring.

use crate::load::ends::{End, Sender, Source};
use crate::load::options::{Options, PathKind};
use anyhow::{Context, Result, anyhow};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;
use waystation_astral::frame::Profile;
use waystation_astral::gateway::Visibility;
use waystation_astral::identity::{Identity, SecretKey};
use waystation_peer::{
    Duplex, IdlePool, Link, LinkOptions, PeerError, RouteForm, Session, secret_key,
};

/// Time for one pair to find each other.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which a blocked read of a flow counts as loss.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of one set-up step that the gateway refuses.
const TRIES_MAX: u32 = 100;
/// Query of the sessions on inner links.
const INNER_QUERY: &str = "waystation.load";

/// The two ends of a pair.
#[derive(Debug)]
pub struct Pair {
    pub near: End,
    pub far: End,
}

/// Makes every pair through the gateway.
///
/// # Errors
///
/// Says which pair failed, and why.
pub fn through_gateway(
    options: &Options,
    gateway: SocketAddr,
    identity: &Identity,
) -> Result<Vec<Pair>> {
    (0..options.pairs)
        .map(|number| {
            one_pair(options, gateway, identity)
                .with_context(|| format!("setting up pair {number}"))
        })
        .collect()
}

fn one_pair(options: &Options, gateway: SocketAddr, identity: &Identity) -> Result<Pair> {
    let (near_key, far_key) = (secret_key()?, secret_key()?);
    let link_options = options.link_options();
    let dial = |key: &SecretKey| {
        Link::dial_with(gateway, key, identity, &link_options).context("linking to the gateway")
    };
    let (near, far) = (dial(&near_key)?, dial(&far_key)?);
    match options.path {
        PathKind::Route | PathKind::G1 => {
            let form = if options.path == PathKind::G1 { RouteForm::G1 } else { RouteForm::G2 };
            if form == RouteForm::G1 {
                far.subscribe().context("subscribing")?;
            }
            let (near_pipe, far_pipe) = route(options, &near, &far, form)?;
            let mut pair = match options.inner_options() {
                Some(inner) => inside((near_pipe, far_pipe), &near_key, &far_key, &inner)?,
                None => Pair { near: session_end(near_pipe), far: session_end(far_pipe) },
            };
            // Only here the links to the gateway carry the messages.
            (pair.near.carrier, pair.far.carrier) = (Some(near), Some(far));
            Ok(pair)
        }
        PathKind::Connect => {
            let pipes = connect(&near, &far)?;
            let mut pair = match options.inner_options() {
                Some(inner) => inside(pipes, &near_key, &far_key, &inner)?,
                None => Pair { near: stream_end(pipes.0)?, far: stream_end(pipes.1)? },
            };
            pair.near.kept.push(near);
            pair.far.kept.push(far);
            Ok(pair)
        }
    }
}

fn route(
    options: &Options,
    near: &Link,
    far: &Link,
    form: RouteForm,
) -> Result<(Session, Session)> {
    let accepting = {
        let (far, window_bytes) = (far.clone(), options.session_window);
        thread::spawn(move || far.accept_route(window_bytes, SETUP_TIMEOUT))
    };
    // The far link is up on our side; the gateway may be a moment behind.
    let rejected = |error: &PeerError| matches!(error, PeerError::Rejected { .. });
    let near = persist(|| near.route_as(form, &far.local()), rejected)
        .context("routing to the other peer")?;
    let far = joined(accepting)?.context("accepting the route")?;
    Ok((near, far))
}

/// A raw pipe between two fresh peers, and the links that have to live as long.
///
/// # Errors
///
/// When a peer cannot be linked, registered or connected.
pub fn raw_pipe(
    gateway: SocketAddr,
    identity: &Identity,
) -> Result<((TcpStream, TcpStream), [Link; 2])> {
    let dial = || -> Result<Link> {
        let options = LinkOptions::with_profile(Profile::P4);
        Ok(Link::dial_with(gateway, &secret_key()?, identity, &options)?)
    };
    let (near, far) = (dial()?, dial()?);
    let pipe = connect(&near, &far)?;
    Ok((pipe, [near, far]))
}

fn connect(near: &Link, far: &Link) -> Result<(TcpStream, TcpStream)> {
    let registration = far.register(Visibility::Private).context("registering")?;
    // As an object: every gateway understands that form (spec §11.2).
    let pool = IdlePool::start(registration, 1, false)?;
    pool.wait_idling(1, SETUP_TIMEOUT).context("dialing the gateway's socket")?;
    // The gateway may not have read the idle connection's nonce yet.
    let refused = |error: &PeerError| matches!(error, PeerError::Refused { .. });
    let near =
        persist(|| near.connect(&far.local()), refused).context("connecting to the other peer")?;
    let far = pool.accept(SETUP_TIMEOUT).context("waiting for the hand-off")?;
    Ok((near, far))
}

/// Tries again while the gateway says no, for a bounded time.
fn persist<T>(
    mut attempt: impl FnMut() -> Result<T, PeerError>,
    says_no: impl Fn(&PeerError) -> bool,
) -> Result<T, PeerError> {
    for _ in 1..TRIES_MAX {
        match attempt() {
            Err(error) if says_no(&error) => thread::park_timeout(SETUP_TIMEOUT / 2 / TRIES_MAX),
            outcome => return outcome,
        }
    }
    attempt()
}

/// Runs a link inside the pipe and opens one session on it.
fn inside<T: Duplex + Send + 'static>(
    (near_pipe, far_pipe): (T, T),
    near_key: &SecretKey,
    far_key: &SecretKey,
    options: &LinkOptions,
) -> Result<Pair> {
    let far_identity = far_key.identity();
    let accepting = {
        let (key, options) = (far_key.duplicate(), options.clone());
        thread::spawn(move || -> Result<(Link, Session), PeerError> {
            let link = Link::accept_over(far_pipe, &key, &options)?;
            let session = link.accept(SETUP_TIMEOUT)?.accept(options.window_bytes)?;
            Ok((link, session))
        })
    };
    let near_link = Link::dial_over(near_pipe, near_key, &far_identity, options)
        .context("dialing the inner link")?;
    let near_session = near_link.query(INNER_QUERY).context("opening the inner session")?;
    let (far_link, far_session) = joined(accepting)?.context("accepting the inner link")?;
    let mut pair = Pair { near: session_end(near_session), far: session_end(far_session) };
    pair.near.kept.push(near_link);
    pair.far.kept.push(far_link);
    Ok(pair)
}

fn joined<T>(thread: thread::JoinHandle<T>) -> Result<T> {
    thread.join().map_err(|_panic| anyhow!("a set-up thread panicked"))
}

fn session_end(mut session: Session) -> End {
    session.set_read_timeout(Some(STALL_TIMEOUT));
    session.set_write_timeout(Some(STALL_TIMEOUT));
    let (reader, writer) = session.split();
    End {
        sender: Sender::Session(writer),
        source: Source::Session(reader),
        carrier: None,
        kept: Vec::new(),
    }
}

fn stream_end(stream: TcpStream) -> Result<End> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL_TIMEOUT))?;
    stream.set_write_timeout(Some(STALL_TIMEOUT))?;
    let sender = Sender::stream(stream.try_clone()?);
    Ok(End { sender, source: Source::Stream(stream), carrier: None, kept: Vec::new() })
}

/// The relay's two connections of a plain pair.
pub type RelaySides = (TcpStream, TcpStream);

/// One pair of plain connections and the relay's sides of them.
#[derive(Debug)]
pub struct PlainConnections {
    pub near: TcpStream,
    pub far: TcpStream,
    pub near_relay: TcpStream,
    pub far_relay: TcpStream,
}

/// Makes plain connections for `pairs` pairs.
///
/// # Errors
///
/// When loopback connections cannot be made.
pub fn plain_connections(pairs: u32) -> Result<Vec<PlainConnections>> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("listening on loopback")?;
    let address = listener.local_addr()?;
    let connection = || -> Result<(TcpStream, TcpStream)> {
        let near = TcpStream::connect_timeout(&address, SETUP_TIMEOUT)?;
        let (far, _) = listener.accept()?;
        far.set_nodelay(true)?;
        Ok((near, far))
    };
    let mut made = Vec::new();
    for _ in 0..pairs {
        let (near, near_relay) = connection()?;
        let (far, far_relay) = connection()?;
        made.push(PlainConnections { near, far, near_relay, far_relay });
    }
    Ok(made)
}

/// Makes `pairs` pairs of plain connections; returns them and the relay's sides of each.
///
/// # Errors
///
/// When loopback connections cannot be made.
pub fn through_plain_forwarder(pairs: u32) -> Result<(Vec<Pair>, Vec<RelaySides>)> {
    let (mut ends, mut relayed) = (Vec::new(), Vec::new());
    for pair in plain_connections(pairs)? {
        ends.push(Pair { near: stream_end(pair.near)?, far: stream_end(pair.far)? });
        relayed.push((pair.near_relay, pair.far_relay));
    }
    Ok((ends, relayed))
}
