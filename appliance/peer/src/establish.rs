//! From a transport to a link: handshake, then negotiation, on the calling thread and within one
//! deadline. From the first byte to the end of negotiation the transport is set to reset when it
//! is dropped: a clean end in between kills a stock P4 daemon (spec §4.3).

use crate::clock::Deadline;
use crate::error::{PeerError, Step};
use crate::link::{LinkOptions, Style};
use crate::outbox::write_stock;
use crate::random;
use crate::records::{Batch, RecordReader, push_negotiation};
use crate::transport::{Close, Duplex, Halves, ReadHalf};
use std::io::{self, Write};
use std::sync::Arc;
use waystation_astral::brontide::{
    ACT_ONE_BYTES, ACT_THREE_BYTES, ACT_TWO_BYTES, Initiator, Responder, Sealer, Transport,
};
use waystation_astral::frame::Profile;
use waystation_astral::identity::{Identity, SecretKey};
use waystation_astral::negotiation::{self, Acceptor, Dialer, NegotiationError, Progress};

/// A link whose frames can flow.
pub(crate) struct Established {
    pub(crate) profile: Profile,
    pub(crate) link_id: Option<u64>,
    pub(crate) remote: Identity,
    pub(crate) records: RecordReader,
    pub(crate) sealer: Sealer,
    pub(crate) writer: Box<dyn Write + Send>,
    pub(crate) closer: Arc<dyn Close>,
    /// Frame bytes that came with the end of negotiation.
    pub(crate) leftover: Vec<u8>,
}

/// Dials: initiator of the handshake and of the negotiation.
pub(crate) fn dial(
    transport: impl Duplex,
    key: &SecretKey,
    remote: &Identity,
    options: &LinkOptions,
) -> Result<Established, PeerError> {
    let ephemeral = random::secret_key()?;
    let mut initiator = Initiator::new(key, remote, &ephemeral)?.with_aead(options.aead);
    let mut wire = Wire::new(transport, options)?;
    wire.write(&initiator.act_one()?)?;
    let act_two = wire.read_act::<ACT_TWO_BYTES>()?;
    let (act_three, transport) = initiator.act_two(&act_two)?;
    wire.write(&act_three)?;
    let dialer = match options.profile {
        Some(profile) => Dialer::fixed(profile),
        None => Dialer::new(random::nonce()?),
    };
    wire.negotiate(transport, *remote, &[], dialer)
}

/// Accepts: responder of the handshake and of the negotiation.
pub(crate) fn accept(
    transport: impl Duplex,
    key: &SecretKey,
    options: &LinkOptions,
) -> Result<Established, PeerError> {
    let ephemeral = random::secret_key()?;
    let mut responder = Responder::new(key, &ephemeral)?.with_aead(options.aead);
    let mut wire = Wire::new(transport, options)?;
    let act_one = wire.read_act::<ACT_ONE_BYTES>()?;
    wire.write(&responder.act_one(&act_one)?)?;
    let act_three = wire.read_act::<ACT_THREE_BYTES>()?;
    let (remote, transport) = responder.act_three(&act_three)?;
    let link_id = random::nonce()?;
    let acceptor = match options.profile {
        Some(profile) => Acceptor::fixed(profile, link_id),
        None => Acceptor::new(link_id, random::bytes()?),
    };
    let greeting = acceptor.greeting().to_vec();
    wire.negotiate(transport, remote, &greeting, acceptor)
}

/// Either side of a negotiation.
trait Negotiator {
    fn receive(
        &mut self,
        plaintext: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Progress, NegotiationError>;
}

impl Negotiator for Dialer {
    fn receive(
        &mut self,
        plaintext: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Progress, NegotiationError> {
        self.receive(plaintext, reply)
    }
}

impl Negotiator for Acceptor {
    fn receive(
        &mut self,
        plaintext: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Progress, NegotiationError> {
        self.receive(plaintext, reply)
    }
}

/// The transport while the link comes about.
struct Wire {
    reader: Box<dyn ReadHalf>,
    writer: Box<dyn Write + Send>,
    closer: Arc<dyn Close>,
    deadline: Deadline,
    style: Style,
}

impl Wire {
    fn new(transport: impl Duplex, options: &LinkOptions) -> Result<Self, PeerError> {
        let transport_error = |source| PeerError::Io { step: Step::Transport, source };
        let Halves { reader, writer, closer } = transport.into_halves().map_err(transport_error)?;
        closer.reset_on_close(true).map_err(transport_error)?;
        let deadline = Deadline::after(options.establish_timeout);
        Ok(Self { reader, writer, closer, deadline, style: options.style })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PeerError> {
        self.writer
            .write_all(bytes)
            .and_then(|()| self.writer.flush())
            .map_err(|source| PeerError::from_read(Step::Handshake, source))
    }

    fn read_act<const N: usize>(&mut self) -> Result<[u8; N], PeerError> {
        let mut act = [0; N];
        let mut rest = act.as_mut_slice();
        while !rest.is_empty() {
            limit_read(&*self.reader, self.deadline, Step::Handshake)?;
            match self.reader.read(rest) {
                Ok(0) => return Err(PeerError::Ended { step: Step::Handshake }),
                Ok(bytes) => rest = rest.get_mut(bytes..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PeerError::from_read(Step::Handshake, error)),
            }
        }
        Ok(act)
    }

    fn negotiate(
        self,
        transport: Transport,
        remote: Identity,
        greeting: &[u8],
        mut negotiator: impl Negotiator,
    ) -> Result<Established, PeerError> {
        let Self { reader, writer, closer, deadline, style } = self;
        let mut sending = Sending { sealer: transport.sealer, writer, style };
        let mut records = RecordReader::new(reader, transport.opener);
        sending.send(greeting)?;
        let established = loop {
            let Some(range) = records.next_record()? else {
                limit_read(&*records.source, deadline, Step::Negotiation)?;
                match records.fill() {
                    Ok(0) => return Err(PeerError::Ended { step: Step::Negotiation }),
                    Ok(_) => continue,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(PeerError::from_read(Step::Negotiation, error)),
                }
            };
            let mut reply = Vec::new();
            match negotiator.receive(records.plaintext(range), &mut reply) {
                Ok(progress) => {
                    sending.send(&reply)?;
                    if let Progress::Done(established) = progress {
                        break established;
                    }
                }
                Err(error) => {
                    farewell(&mut sending, &*closer, &reply, &error);
                    return Err(error.into());
                }
            }
        };
        closer
            .reset_on_close(false)
            .map_err(|source| PeerError::Io { step: Step::Transport, source })?;
        let negotiation::Established { profile, link_id, leftover } = established;
        let Sending { sealer, writer, .. } = sending;
        Ok(Established { profile, link_id, remote, records, sealer, writer, closer, leftover })
    }
}

/// Tells the other side why, as far as its profile has words for it, and chooses an end that does
/// it no harm. Failures here change nothing: the link does not come about anyway.
fn farewell(sending: &mut Sending, closer: &dyn Close, reply: &[u8], error: &NegotiationError) {
    let farewell = error.farewell();
    let said = sending.send(reply).and_then(|()| sending.send(&farewell.bytes));
    if said.is_ok() && !farewell.reset {
        let _ = closer.reset_on_close(false);
    }
}

fn limit_read(reader: &dyn ReadHalf, deadline: Deadline, step: Step) -> Result<(), PeerError> {
    let remaining = deadline.remaining().ok_or(PeerError::Timeout { step })?;
    reader.set_read_timeout(Some(remaining)).map_err(|source| PeerError::Io { step, source })
}

/// The sealed side of a negotiation.
struct Sending {
    sealer: Sealer,
    writer: Box<dyn Write + Send>,
    style: Style,
}

impl Sending {
    fn send(&mut self, bytes: &[u8]) -> Result<(), PeerError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        push_negotiation(&mut batch, bytes, self.style);
        batch.seal(&mut self.sealer)?;
        match self.style {
            Style::Coalesced => {
                self.writer.write_all(batch.wire_bytes()).and_then(|()| self.writer.flush())
            }
            Style::Stock => write_stock(&mut *self.writer, [&batch, &Batch::default()]),
        }
        .map_err(|source| PeerError::from_read(Step::Negotiation, source))
    }
}
