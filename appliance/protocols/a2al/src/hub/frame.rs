//! What is said on a hub's WebSockets (specification §19.4): one CBOR map with keys of text in any
//! order.
//!
//! A hub reads only what agents say to it; what two parties say in a room it copies without a look.
//! The other frames are here because one reader that knows all of them is what a party needs, and
//! what tells a frame that is not known from one that is broken.

use crate::cbor::{CborError, Key, Reader, Writer};
use crate::limits::{HUB_ADDRESSES_MAX, HUB_MESSAGE_BYTES_MAX};

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SignalFrame {
    /// `reg`: this connection takes calls for an agent.
    Register {
        /// The agent's address, as text.
        agent: String,
    },
    /// `ack`: the hub has taken a `reg`.
    Acknowledged,
    /// `noagent`: nobody takes calls for the one that was called.
    NoAgent,
    /// `incoming`: somebody calls.
    Incoming {
        /// Where the caller waits.
        room: String,
        /// Who it says it is.
        caller: String,
        /// Which agent is called.
        target: String,
    },
    /// `cred`: credentials of ICE.
    Credentials {
        /// The user's fragment.
        fragment: String,
        /// The password.
        password: String,
    },
    /// `cand`: one candidate of ICE.
    Candidate {
        /// Its line, without `candidate:`.
        line: String,
    },
    /// `eoc`: there are no more candidates.
    EndOfCandidates,
    /// `punch-init`: addresses of the caller.
    PunchBegin(PunchAddresses),
    /// `punch-ack`: addresses of the called one.
    PunchAnswer(PunchAddresses),
    /// `punch-go`: both dial at once.
    PunchGo,
    /// `dht`: a signed message of the DHT, or the answer to one.
    Dht {
        /// The message.
        message: Vec<u8>,
    },
}

/// Where one party may be reached.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PunchAddresses {
    /// `ip:port` each.
    pub addresses: Vec<String>,
    /// The caller's clock in milliseconds, which comes back as it was.
    pub sent_at_ms: u64,
    /// The party's address translation (§15.3).
    pub nat: u8,
}

/// Why a message is no frame; its sender is to blame, and nobody is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// Not the form of a frame.
    #[error("not a frame: {0}")]
    Malformed(#[from] CborError),
    /// More bytes than a message may have.
    #[error("more than {HUB_MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    /// A type of later versions.
    #[error("the type is unknown")]
    UnknownType,
}

impl SignalFrame {
    /// Reads a message. Of a key that comes twice the first counts, as it does upstream (§2.2).
    ///
    /// # Errors
    /// Why it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() > HUB_MESSAGE_BYTES_MAX {
            return Err(FrameError::TooLong);
        }
        Fields::read(bytes)?.into_frame()
    }

    /// Writes the message, in the order upstream writes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let texts = |writer: &mut Writer, kind: &str, texts: &[(&str, &str)]| {
            writer.map(1 + texts.len()).text("t").text(kind);
            for (key, text) in texts {
                writer.text(key).text(text);
            }
        };
        match self {
            Self::Register { agent } => texts(&mut writer, "reg", &[("a", agent)]),
            Self::Acknowledged => texts(&mut writer, "ack", &[]),
            Self::NoAgent => texts(&mut writer, "noagent", &[]),
            Self::Incoming { room, caller, target } => {
                texts(&mut writer, "incoming", &[("r", room), ("f", caller), ("g", target)]);
            }
            Self::Credentials { fragment, password } => {
                texts(&mut writer, "cred", &[("u", fragment), ("p", password)]);
            }
            Self::Candidate { line } => texts(&mut writer, "cand", &[("c", line)]),
            Self::EndOfCandidates => texts(&mut writer, "eoc", &[]),
            Self::PunchBegin(addresses) => addresses.write(&mut writer, "punch-init"),
            Self::PunchAnswer(addresses) => addresses.write(&mut writer, "punch-ack"),
            Self::PunchGo => texts(&mut writer, "punch-go", &[]),
            Self::Dht { message } => {
                writer.map(2).text("t").text("dht").text("d").bytes(message);
            }
        }
        writer.into_bytes()
    }
}

impl PunchAddresses {
    fn write(&self, writer: &mut Writer, kind: &str) {
        writer.map(4).text("t").text(kind).text("addrs").array(self.addresses.len());
        for address in &self.addresses {
            writer.text(address);
        }
        writer.text("ts").unsigned(self.sent_at_ms);
        writer.text("nt").unsigned(self.nat);
    }
}

/// Every key that means something.
const KEYS: [&str; 12] = ["t", "a", "u", "p", "c", "r", "f", "g", "addrs", "ts", "nt", "d"];

/// The keys of a frame as they come. Texts that are absent are empty: all but `t` are optional.
#[derive(Debug, Default)]
struct Fields<'a> {
    kind: Option<&'a str>,
    agent: &'a str,
    fragment: &'a str,
    password: &'a str,
    candidate: &'a str,
    room: &'a str,
    caller: &'a str,
    target: &'a str,
    punch: PunchAddresses,
    message: &'a [u8],
}

impl<'a> Fields<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, CborError> {
        let mut read = Self::default();
        let mut reader = Reader::in_any_order(bytes);
        let mut seen = [false; KEYS.len()];
        let mut fields = reader.map()?;
        while let Some(key) = reader.field(&mut fields)? {
            if let Key::Text(name) = key
                && let Some(place) = KEYS.iter().position(|known| *known == name)
                && std::mem::replace(&mut seen[place], true)
            {
                reader.skip()?;
                continue;
            }
            match key {
                Key::Text("t") => read.kind = Some(reader.text()?),
                Key::Text("a") => read.agent = reader.text()?,
                Key::Text("u") => read.fragment = reader.text()?,
                Key::Text("p") => read.password = reader.text()?,
                Key::Text("c") => read.candidate = reader.text()?,
                Key::Text("r") => read.room = reader.text()?,
                Key::Text("f") => read.caller = reader.text()?,
                Key::Text("g") => read.target = reader.text()?,
                Key::Text("addrs") => read.punch.addresses = addresses(&mut reader)?,
                Key::Text("ts") => read.punch.sent_at_ms = reader.u64()?,
                Key::Text("nt") => read.punch.nat = reader.u8()?,
                Key::Text("d") => read.message = reader.bytes()?,
                Key::Text(_) | Key::Number(_) | Key::Negative => reader.skip_unknown()?,
            }
        }
        reader.end()?;
        Ok(read)
    }

    fn into_frame(self) -> Result<SignalFrame, FrameError> {
        Ok(match self.kind.ok_or(CborError::MissingKey)? {
            "reg" => SignalFrame::Register { agent: self.agent.to_owned() },
            "ack" => SignalFrame::Acknowledged,
            "noagent" => SignalFrame::NoAgent,
            "incoming" => SignalFrame::Incoming {
                room: self.room.to_owned(),
                caller: self.caller.to_owned(),
                target: self.target.to_owned(),
            },
            "cred" => SignalFrame::Credentials {
                fragment: self.fragment.to_owned(),
                password: self.password.to_owned(),
            },
            "cand" => SignalFrame::Candidate { line: self.candidate.to_owned() },
            "eoc" => SignalFrame::EndOfCandidates,
            "punch-init" => SignalFrame::PunchBegin(self.punch),
            "punch-ack" => SignalFrame::PunchAnswer(self.punch),
            "punch-go" => SignalFrame::PunchGo,
            "dht" => SignalFrame::Dht { message: self.message.to_vec() },
            _ => return Err(FrameError::UnknownType),
        })
    }
}

fn addresses(reader: &mut Reader<'_>) -> Result<Vec<String>, CborError> {
    let listed = reader.list(HUB_ADDRESSES_MAX, |reader| reader.text().map(str::to_owned))?;
    Ok(listed.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_may_come_in_any_order_and_unknown_ones_are_skipped() {
        let mut writer = Writer::default();
        writer.map(3).text("zz").array(1).map(2).text("y").null().text("x").null();
        writer.text("t").text("reg").text("a").text("me");
        let agent = "me".to_owned();
        let frame = SignalFrame::decode(&writer.into_bytes());
        assert_eq!(frame, Ok(SignalFrame::Register { agent }));
    }

    #[test]
    fn of_a_key_that_comes_twice_the_first_counts() {
        let mut writer = Writer::default();
        writer.map(6).text("a").text("me").text("t").text("reg").text("t").text("noagent");
        // The second need not even have the type that its key wants.
        writer.text("a").unsigned(7_u8).text("zz").null().text("zz").null();
        let agent = "me".to_owned();
        let frame = SignalFrame::decode(&writer.into_bytes());
        assert_eq!(frame, Ok(SignalFrame::Register { agent }));
        let mut cut = Writer::default();
        cut.map(2).text("t").text("ack").text("t");
        assert!(SignalFrame::decode(&cut.into_bytes()).is_err(), "it still has to be an item");
    }

    #[test]
    fn what_has_no_type_or_another_one_is_told_apart() {
        let missing = FrameError::Malformed(CborError::MissingKey);
        assert_eq!(SignalFrame::decode(&[0xa0]), Err(missing));
        assert_eq!(SignalFrame::decode(b"\xa1atczzz"), Err(FrameError::UnknownType));
        assert_eq!(SignalFrame::decode(&[0; HUB_MESSAGE_BYTES_MAX + 1]), Err(FrameError::TooLong));
        assert!(matches!(SignalFrame::decode(b"\x81\x01"), Err(FrameError::Malformed(_))));
        assert!(matches!(SignalFrame::decode(b""), Err(FrameError::Malformed(_))));
    }
}
