//! Links and sessions of the generator, made one after the other before anything is measured.

use crate::load::clock::Clock;
use crate::swarm::connection::{Connection, Layer};
use crate::swarm::limits::{READ_BYTES, ROUTE_PAUSE, ROUTE_TRIES_MAX, SETUP, WINDOW_BYTES};
use crate::swarm::link::{Heard, LinkLayer};
use crate::swarm::shape::Layout;
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use waystation_astral::aead::AeadSuite;
use waystation_astral::brontide::{
    ACT_TWO_BYTES, Initiator, RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES, Responder, TAG_BYTES,
    Transport,
};
use waystation_astral::frame::{Frame, Profile};
use waystation_astral::identity::{Identity, SecretKey};
use waystation_astral::negotiation::{Dialer, Established, Progress};
use waystation_peer::{RouteForm, secret_key};

/// Where a relay is and who it is.
#[derive(Clone, Copy, Debug)]
pub struct RelayAddress {
    pub address: SocketAddr,
    pub identity: Identity,
    /// What the ends of its links seal and open with: the same as the relay.
    pub suite: AeadSuite,
}

/// A link with an identity of its own.
#[derive(Debug)]
pub struct Dialed {
    pub connection: Connection,
    pub identity: Identity,
}

/// A session as one of its ends sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    pub nonce: u64,
    /// Bytes the other side may be sent.
    pub credit_bytes: u64,
}

/// Connects, shakes hands as initiator and stops there; the relay may go on with its greeting.
///
/// # Errors
///
/// Says which step failed.
pub fn shake_hands(relay: &RelayAddress, key: &SecretKey) -> Result<(TcpStream, Transport)> {
    let mut stream = TcpStream::connect_timeout(&relay.address, SETUP).context("connecting")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SETUP))?;
    stream.set_write_timeout(Some(SETUP))?;
    let ephemeral = secret_key()?;
    let initiator = Initiator::new(key, &relay.identity, &ephemeral)?;
    let mut initiator = initiator.with_aead(relay.suite);
    stream.write_all(&initiator.act_one()?)?;
    let mut act_two = [0; ACT_TWO_BYTES];
    stream.read_exact(&mut act_two).context("reading the second act")?;
    let (act_three, transport) = initiator.act_two(&act_two)?;
    stream.write_all(&act_three)?;
    Ok((stream, transport))
}

/// Dials a P4 link under a fresh identity.
///
/// # Errors
///
/// Says which step failed.
pub fn dial(relay: &RelayAddress, layout: Layout) -> Result<Dialed> {
    let key = secret_key()?;
    let identity = key.identity();
    let (mut stream, mut transport) = shake_hands(relay, &key)?;
    let mut dialer = Dialer::fixed(Profile::P4);
    let established = loop {
        let plaintext = read_record(&mut stream, &mut transport)?;
        let mut reply = Vec::new();
        let progress = dialer.receive(&plaintext, &mut reply)?;
        if !reply.is_empty() {
            write_record(&mut stream, &mut transport, &reply)?;
        }
        if let Progress::Done(established) = progress {
            break established;
        }
    };
    let Established { leftover, .. } = established;
    let link = LinkLayer::new(transport, layout, &leftover)?;
    let connection = Connection::new(stream, Layer::Link(Box::new(link)))?;
    Ok(Dialed { connection, identity })
}

/// The keys of two ends that have shaken hands with each other, without anything in between.
///
/// # Errors
///
/// When there is no randomness.
pub fn agree(suite: AeadSuite) -> Result<(Transport, Transport)> {
    let (near, far) = (secret_key()?, secret_key()?);
    let initiator = Initiator::new(&near, &far.identity(), &secret_key()?)?;
    let mut initiator = initiator.with_aead(suite);
    let mut responder = Responder::new(&far, &secret_key()?)?.with_aead(suite);
    let act_two = responder.act_one(&initiator.act_one()?)?;
    let (act_three, near) = initiator.act_two(&act_two)?;
    let (_, far) = responder.act_three(&act_three)?;
    Ok((near, far))
}

fn read_record(stream: &mut TcpStream, transport: &mut Transport) -> Result<Vec<u8>> {
    let mut header = [0; RECORD_HEADER_BYTES];
    stream.read_exact(&mut header).context("reading the negotiation")?;
    let bytes = transport.opener.open_header(&header)?;
    let mut body = vec![0; bytes + TAG_BYTES];
    stream.read_exact(&mut body).context("reading the negotiation")?;
    transport.opener.open_body(&mut body)?;
    body.truncate(bytes);
    Ok(body)
}

fn write_record(stream: &mut TcpStream, transport: &mut Transport, text: &[u8]) -> Result<()> {
    let mut record = vec![0; RECORD_OVERHEAD_BYTES + text.len()];
    let place = record.get_mut(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + text.len());
    place.context("no room in a record")?.copy_from_slice(text);
    transport.sealer.seal_in_place(&mut record)?;
    stream.write_all(&record).context("writing the negotiation")
}

/// Opens a session from `near` through the relay to `far` (`gateway.node_route`).
///
/// # Errors
///
/// When the relay refuses for longer than a link takes to be known, or does not answer.
pub fn route(
    near: &mut Connection,
    far: &mut Connection,
    target: &Identity,
    first_nonce: u64,
    clock: Clock,
) -> Result<(SessionEnd, SessionEnd)> {
    let query = RouteForm::G2.query(target);
    for attempt in 0..ROUTE_TRIES_MAX {
        let nonce = first_nonce + u64::from(attempt);
        near.put_control(&Frame::Query { nonce, window: WINDOW_BYTES, query: query.as_bytes() })?;
        near.write()?;
        if let Some(ends) = answered(near, far, nonce, clock)? {
            return Ok(ends);
        }
        // The relay has not heard the whole of the far link's negotiation yet.
        thread::park_timeout(ROUTE_PAUSE);
    }
    bail!("the relay does not know the target")
}

/// Waits for what comes of a query: nothing, when it is rejected.
fn answered(
    near: &mut Connection,
    far: &mut Connection,
    nonce: u64,
    clock: Clock,
) -> Result<Option<(SessionEnd, SessionEnd)>> {
    let deadline_ns = clock.now_ns() + SETUP.as_nanos() as u64;
    let mut scratch = vec![0; READ_BYTES];
    let mut asked = None;
    let mut response = None;
    while clock.now_ns() < deadline_ns {
        let mut fds =
            [PollFd::new(&near.stream, PollFlags::IN), PollFd::new(&far.stream, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }))?;
        let mut new = None;
        far.read(&mut scratch, &mut |heard| {
            if let Heard::Frame(Frame::Query { nonce, window, .. }) = heard {
                new = Some(SessionEnd { nonce, credit_bytes: u64::from(window) });
            }
            Ok(())
        })?;
        if let Some(SessionEnd { nonce, .. }) = new {
            far.put_control(&Frame::Response { nonce, code: 0, window: WINDOW_BYTES })?;
            asked = new;
        }
        near.read(&mut scratch, &mut |heard| {
            match heard {
                Heard::Frame(Frame::Response { nonce: answered, code, window })
                    if answered == nonce =>
                {
                    response = Some((code, u64::from(window)));
                }
                _ => {}
            }
            Ok(())
        })?;
        far.write()?;
        near.write()?;
        match (response, asked) {
            (Some((0, credit_bytes)), Some(far)) => {
                return Ok(Some((SessionEnd { nonce, credit_bytes }, far)));
            }
            (Some((code, _)), _) if code != 0 => return Ok(None),
            _ => {}
        }
    }
    bail!("no answer to a query")
}
