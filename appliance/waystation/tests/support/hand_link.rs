//! The dialing end of a link by hand, for what no good peer does.

use super::STEP;
use super::appliance::Appliance;
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::ops::{Deref, DerefMut};
use waystation_astral::frame::{Frame, Profile};
use waystation_astral::identity::SecretKey;
pub use waystation_peer::Got;
use waystation_peer::{PeerError, secret_key};

/// A link to the appliance whose records and frames the test makes itself. Whatever fails fails
/// the test; what may fail is asked of the link inside.
#[derive(Debug)]
pub struct HandLink(waystation_peer::HandLink<TcpStream>);

impl Deref for HandLink {
    type Target = waystation_peer::HandLink<TcpStream>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for HandLink {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl HandLink {
    /// Dials the appliance and negotiates.
    pub fn dial(appliance: &Appliance, profile: Profile) -> Self {
        Self::dial_as(appliance, &secret_key().unwrap(), profile)
    }

    /// As [`HandLink::dial`], with a key of the test's choice.
    pub fn dial_as(appliance: &Appliance, key: &SecretKey, profile: Profile) -> Self {
        let stream = connect(appliance);
        let link = waystation_peer::HandLink::dial(stream, key, &appliance.identity, profile);
        let mut link = Self(link.unwrap());
        // Once it answers, the appliance has finished its side of the negotiation as well.
        link.wait_for_pong(1);
        link
    }

    /// Dials the appliance and leaves its greeting unread.
    pub fn shake(appliance: &Appliance, profile: Profile) -> Self {
        let (stream, key) = (connect(appliance), secret_key().unwrap());
        let link = waystation_peer::HandLink::shake(stream, &key, &appliance.identity, profile);
        Self(link.unwrap())
    }

    /// Pings and reads up to the answer, which comes behind everything sent before.
    pub fn wait_for_pong(&mut self, nonce: u64) {
        self.send(&Frame::Ping { nonce, pong: false });
        while self.0.receive().unwrap() != (Got::Ping { nonce, pong: true }) {}
    }

    /// Seals bytes into one record.
    pub fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        self.0.seal(plaintext).unwrap()
    }

    pub fn send_record(&mut self, plaintext: &[u8]) {
        self.0.send_record(plaintext).unwrap();
    }

    /// As [`HandLink::send_record`], where the appliance may have closed the link.
    pub fn try_send_record(&mut self, plaintext: &[u8]) -> Result<(), PeerError> {
        self.0.send_record(plaintext)
    }

    pub fn send(&mut self, frame: &Frame<'_>) {
        self.0.send(frame).unwrap();
    }

    /// The bytes of a frame in this link's profile.
    pub fn encoded(&self, frame: &Frame<'_>) -> Vec<u8> {
        self.0.encoded(frame).unwrap()
    }

    /// Waits for the next frame of interest: neither credit nor a ping.
    pub fn receive_next(&mut self) -> Got {
        loop {
            match self.0.receive().unwrap() {
                Got::Read { .. } | Got::Ping { .. } => {}
                got => return got,
            }
        }
    }

    /// Waits for the next frame but credit.
    pub fn receive_next_but_credit(&mut self) -> Got {
        loop {
            match self.0.receive().unwrap() {
                Got::Read { .. } => {}
                got => return got,
            }
        }
    }

    /// Ends the link as a good peer does.
    pub fn close(mut self) {
        self.0.stream.shutdown(Shutdown::Write).unwrap();
        wait_for_end(&mut self.0.stream);
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
