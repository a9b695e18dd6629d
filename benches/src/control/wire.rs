//! The two halves of a link's connection: frames out of records, records out of frames.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use waystation_astral::aead::AeadSuite;
use waystation_astral::brontide::{
    ACT_ONE_BYTES, ACT_THREE_BYTES, Opener, RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES,
    RECORD_PLAINTEXT_MAX_BYTES, Responder, Sealer, TAG_BYTES,
};
use waystation_astral::frame::{Decoded, Frame, FrameDecoder, Profile};
use waystation_astral::identity::{Identity, SecretKey};
use waystation_astral::negotiation::{Acceptor, Progress};
use waystation_peer::secret_key;

/// What the reader of a connection is given room for.
const READ_BYTES: usize = 64 * 1024;
/// The link's name for its peer; nobody here ever asks for it.
const LINK_ID: u64 = 1;

/// A frame on its way between two tasks.
#[derive(Debug)]
pub(crate) enum Passing {
    Query { nonce: u64, window: u32, query: Vec<u8> },
    Response { nonce: u64, code: u8, window: u32 },
    Data { nonce: u64, payload: Vec<u8> },
    Read { nonce: u64, bytes: u32 },
    Reset { nonce: u64 },
    Pong { nonce: u64 },
}

impl Passing {
    fn frame(&self) -> Frame<'_> {
        match self {
            Self::Query { nonce, window, query } => {
                Frame::Query { nonce: *nonce, window: *window, query }
            }
            Self::Response { nonce, code, window } => {
                Frame::Response { nonce: *nonce, code: *code, window: *window }
            }
            Self::Data { nonce, payload } => Frame::Data { nonce: *nonce, payload },
            Self::Read { nonce, bytes } => Frame::Read { nonce: *nonce, bytes: *bytes },
            Self::Reset { nonce } => Frame::Reset { nonce: *nonce },
            Self::Pong { nonce } => Frame::Ping { nonce: *nonce, pong: true },
        }
    }
}

/// The receiving half.
pub(crate) struct Incoming {
    stream: BufReader<OwnedReadHalf>,
    opener: Opener,
    decoder: FrameDecoder,
    /// The part of a data frame that earlier records held.
    payload: Vec<u8>,
}

/// The sending half.
pub(crate) struct Outgoing {
    stream: OwnedWriteHalf,
    sealer: Sealer,
}

/// Shakes hands and negotiates P4 as the side that was dialed.
pub(crate) async fn accept(
    stream: TcpStream,
    key: &SecretKey,
    suite: AeadSuite,
) -> Result<(Identity, Incoming, Outgoing)> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::with_capacity(READ_BYTES, read);
    let ephemeral = secret_key()?;
    let mut responder = Responder::new(key, &ephemeral)?.with_aead(suite);
    let mut act_one = [0; ACT_ONE_BYTES];
    read.read_exact(&mut act_one).await?;
    write.write_all(&responder.act_one(&act_one)?).await?;
    let mut act_three = [0; ACT_THREE_BYTES];
    read.read_exact(&mut act_three).await?;
    let (remote, transport) = responder.act_three(&act_three)?;
    let mut incoming = Incoming {
        stream: read,
        opener: transport.opener,
        decoder: FrameDecoder::new(Profile::P4),
        payload: Vec::new(),
    };
    let mut outgoing = Outgoing { stream: write, sealer: transport.sealer };
    let mut acceptor = Acceptor::fixed(Profile::P4, LINK_ID);
    outgoing.write_records(&[acceptor.greeting()]).await?;
    loop {
        let plaintext = incoming.next_record().await?.context("ended while negotiating")?;
        let mut reply = Vec::new();
        let progress = acceptor.receive(&plaintext, &mut reply)?;
        if !reply.is_empty() {
            outgoing.write_records(&[&reply]).await?;
        }
        if let Progress::Done(established) = progress {
            if !established.leftover.is_empty() {
                bail!("frames before the end of the negotiation");
            }
            return Ok((remote, incoming, outgoing));
        }
    }
}

impl Incoming {
    /// The next record's plaintext; `None` at the end of the connection.
    pub(crate) async fn next_record(&mut self) -> Result<Option<Vec<u8>>> {
        let mut header = [0; RECORD_HEADER_BYTES];
        match self.stream.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let bytes = self.opener.open_header(&header)?;
        let mut body = vec![0; bytes + TAG_BYTES];
        self.stream.read_exact(&mut body).await?;
        self.opener.open_body(&mut body)?;
        body.truncate(bytes);
        Ok(Some(body))
    }

    /// The frames that a record ends; the payload of a data frame is put together first.
    pub(crate) fn frames(&mut self, plaintext: &[u8]) -> Result<Vec<Passing>> {
        let mut frames = Vec::new();
        let mut cursor = 0;
        while let Some(decoded) = self.decoder.next(plaintext, &mut cursor)? {
            match decoded {
                Decoded::Data { nonce, offset, bytes, remaining, .. } => {
                    let piece = plaintext.get(offset..offset + bytes).unwrap_or_default();
                    self.payload.extend_from_slice(piece);
                    if remaining == 0 {
                        let payload = std::mem::take(&mut self.payload);
                        frames.push(Passing::Data { nonce, payload });
                    }
                }
                Decoded::Frame(frame) => frames.extend(owned(&frame)),
            }
        }
        Ok(frames)
    }
}

/// A frame that this relay understands; the rest it ignores.
fn owned(frame: &Frame<'_>) -> Option<Passing> {
    match *frame {
        Frame::Query { nonce, window, query } => {
            Some(Passing::Query { nonce, window, query: query.to_vec() })
        }
        Frame::Response { nonce, code, window } => Some(Passing::Response { nonce, code, window }),
        Frame::Read { nonce, bytes } => Some(Passing::Read { nonce, bytes }),
        Frame::Reset { nonce } => Some(Passing::Reset { nonce }),
        Frame::Ping { nonce, pong: false } => Some(Passing::Pong { nonce }),
        Frame::Ping { .. }
        | Frame::RelayQuery { .. }
        | Frame::Data { .. }
        | Frame::Migrate { .. } => None,
    }
}

impl Outgoing {
    /// Writes one frame: a record for each field, all of them in one write.
    pub(crate) async fn write(&mut self, passing: &Passing) -> Result<()> {
        let mut encoded = Vec::new();
        passing.frame().encode_to_vec(Profile::P4, &mut encoded)?;
        let name_bytes = encoded.first().copied().map_or(0, usize::from);
        let (tag, object) = encoded.split_at(encoded.len().min(1 + name_bytes + 4));
        let (name_length, rest) = tag.split_at(tag.len().min(1));
        let (name, object_length) = rest.split_at(rest.len().min(name_bytes));
        self.write_records(&[name_length, name, object_length, object]).await
    }

    async fn write_records(&mut self, fields: &[&[u8]]) -> Result<()> {
        let mut records = Vec::new();
        for piece in fields.iter().flat_map(|field| field.chunks(RECORD_PLAINTEXT_MAX_BYTES)) {
            let start = records.len();
            records.resize(start + RECORD_OVERHEAD_BYTES + piece.len(), 0);
            let record = records.get_mut(start..).unwrap_or_default();
            let text = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + piece.len();
            record.get_mut(text).context("no room in a record")?.copy_from_slice(piece);
            self.sealer.seal_in_place(record)?;
        }
        self.stream.write_all(&records).await?;
        Ok(())
    }
}
