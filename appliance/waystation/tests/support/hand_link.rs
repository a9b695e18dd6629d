//! The dialing end of a link by hand, for what no good peer does.

use super::STEP;
use super::appliance::Appliance;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use waystation_astral::brontide::{
    Initiator, Opener, RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES, Sealer, TAG_BYTES,
};
use waystation_astral::frame::{Decoded, Frame, FrameDecoder, Profile};
use waystation_astral::identity::Identity;
use waystation_astral::negotiation::{Dialer, Progress};
use waystation_peer::secret_key;

/// An owned frame, as far as the tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    Response { nonce: u64, code: u8, window: u32 },
    Data { nonce: u64, payload: Vec<u8> },
    Reset { nonce: u64 },
    Ping { nonce: u64 },
    Pong,
    Other,
}

/// A link whose records and frames the test makes itself.
#[derive(Debug)]
pub struct HandLink {
    pub stream: TcpStream,
    pub identity: Identity,
    sealer: Sealer,
    opener: Opener,
    decoder: FrameDecoder,
    profile: Profile,
    got: VecDeque<Got>,
}

impl HandLink {
    /// Dials the appliance and negotiates.
    pub fn dial(appliance: &Appliance, profile: Profile) -> Self {
        let mut link = Self::shake(appliance, profile);
        let mut dialer = Dialer::fixed(profile);
        loop {
            let plaintext = link.receive_record();
            let mut reply = Vec::new();
            let progress = dialer.receive(&plaintext, &mut reply).unwrap();
            if !reply.is_empty() {
                link.send_record(&reply);
            }
            if let Progress::Done(established) = progress {
                link.decode(&established.leftover);
                break;
            }
        }
        // Once it answers, the appliance has finished its side of the negotiation as well.
        link.send(&Frame::Ping { nonce: 1, pong: false });
        while link.receive() != Got::Pong {}
        link
    }

    /// Dials the appliance and leaves its greeting unread.
    pub fn shake(appliance: &Appliance, profile: Profile) -> Self {
        let key = secret_key().unwrap();
        let mut stream = connect(appliance);
        let ephemeral = secret_key().unwrap();
        let mut initiator = Initiator::new(&key, &appliance.identity, &ephemeral).unwrap();
        stream.write_all(&initiator.act_one().unwrap()).unwrap();
        let mut act_two = [0; 50];
        stream.read_exact(&mut act_two).unwrap();
        let (act_three, transport) = initiator.act_two(&act_two).unwrap();
        stream.write_all(&act_three).unwrap();
        Self {
            stream,
            identity: key.identity(),
            sealer: transport.sealer,
            opener: transport.opener,
            decoder: FrameDecoder::new(profile),
            profile,
            got: VecDeque::new(),
        }
    }

    /// Seals bytes into one record.
    pub fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut record = vec![0; RECORD_OVERHEAD_BYTES + plaintext.len()];
        let body = &mut record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + plaintext.len()];
        body.copy_from_slice(plaintext);
        self.sealer.seal_in_place(&mut record).unwrap();
        record
    }

    pub fn send_record(&mut self, plaintext: &[u8]) {
        let record = self.seal(plaintext);
        self.stream.write_all(&record).unwrap();
    }

    pub fn send(&mut self, frame: &Frame<'_>) {
        let bytes = self.encoded(frame);
        self.send_record(&bytes);
    }

    /// The bytes of a frame in this link's profile.
    pub fn encoded(&self, frame: &Frame<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode_to_vec(self.profile, &mut bytes).unwrap();
        bytes
    }

    /// The next frame. Pings are answered, as everybody must.
    pub fn receive(&mut self) -> Got {
        loop {
            match self.got.pop_front() {
                Some(Got::Ping { nonce }) => self.send(&Frame::Ping { nonce, pong: true }),
                Some(got) => return got,
                None => {
                    let plaintext = self.receive_record();
                    self.decode(&plaintext);
                }
            }
        }
    }

    /// Waits for the next frame of interest: neither credit nor a ping.
    pub fn receive_next(&mut self) -> Got {
        loop {
            match self.receive() {
                Got::Other => {}
                got => return got,
            }
        }
    }

    /// Ends the link as a good peer does.
    pub fn close(mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
        wait_for_end(&mut self.stream);
    }

    fn receive_record(&mut self) -> Vec<u8> {
        let mut header = [0; RECORD_HEADER_BYTES];
        self.stream.read_exact(&mut header).unwrap();
        let body_bytes = self.opener.open_header(&header).unwrap();
        let mut body = vec![0; body_bytes + TAG_BYTES];
        self.stream.read_exact(&mut body).unwrap();
        self.opener.open_body(&mut body).unwrap();
        body.truncate(body_bytes);
        body
    }

    fn decode(&mut self, plaintext: &[u8]) {
        let mut cursor = 0;
        while let Some(decoded) = self.decoder.next(plaintext, &mut cursor).unwrap() {
            match decoded {
                Decoded::Data { nonce, offset, bytes, first, .. } => {
                    let piece = &plaintext[offset..offset + bytes];
                    match self.got.back_mut() {
                        Some(Got::Data { payload, .. }) if !first => {
                            payload.extend_from_slice(piece);
                        }
                        _ => self.got.push_back(Got::Data { nonce, payload: piece.to_vec() }),
                    }
                }
                Decoded::Frame(Frame::Response { nonce, code, window }) => {
                    self.got.push_back(Got::Response { nonce, code, window });
                }
                Decoded::Frame(Frame::Reset { nonce }) => self.got.push_back(Got::Reset { nonce }),
                Decoded::Frame(Frame::Ping { pong: true, .. }) => self.got.push_back(Got::Pong),
                Decoded::Frame(Frame::Ping { nonce, .. }) => {
                    self.got.push_back(Got::Ping { nonce });
                }
                Decoded::Frame(_) => self.got.push_back(Got::Other),
            }
        }
    }
}

/// A plain connection to the appliance.
pub fn connect(appliance: &Appliance) -> TcpStream {
    let stream = TcpStream::connect_timeout(&appliance.address, STEP).unwrap();
    stream.set_read_timeout(Some(STEP)).unwrap();
    stream.set_write_timeout(Some(STEP)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads what comes until the other side ends or resets the connection.
pub fn wait_for_end(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(error) => panic!("neither bytes nor an end: {error}"),
        }
    }
}
