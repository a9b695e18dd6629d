//! The answers of a server: what they say, and how they are closed.
//!
//! Owns their form. Called once per answered request, on the server's data core; it writes into the
//! buffer it is given and allocates nothing.

use std::net::SocketAddr;

use arrayvec::ArrayVec;

use super::Outcome;
use super::reservations::Token;
use crate::attribute::{AttributeType, ErrorCode, Family};
use crate::discard::Discard;
use crate::integrity::{Integrity, Key};
use crate::limits::{ANSWER_BYTES_MAX, UNKNOWN_ATTRIBUTES_MAX};
use crate::message::{Class, Message, Method};
use crate::nonce::Nonce;
use crate::writer::MessageWriter;

/// The PASSWORD-ALGORITHMS value, the preferred one first: SHA-256, MD5 (RFC 8489 §14.11).
pub(super) const PASSWORD_ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// What a client learns of its allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allocated {
    pub(super) relayed: [Option<SocketAddr>; 2],
    pub(super) mapped: SocketAddr,
    pub(super) lifetime_s: u32,
    /// Of the port that is kept for it.
    pub(super) token: Option<Token>,
    /// The family that it wanted as well and did not get.
    pub(super) failed: Option<(Family, ErrorCode)>,
}

/// What an answer says if it says yes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body {
    Mapped(SocketAddr),
    Allocated(Allocated),
    Refreshed { lifetime_s: u32 },
    Done,
}

/// What it says if it says no.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    Code(ErrorCode),
    /// 420.
    Unknown(ArrayVec<AttributeType, UNKNOWN_ATTRIBUTES_MAX>),
    /// 300.
    Alternate(SocketAddr),
    /// 401 or 438: how to authenticate.
    Challenge(ErrorCode, Nonce),
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::Code(code)
    }
}

impl Refusal {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Code(code) | Self::Challenge(code, _) => *code,
            Self::Unknown(_) => ErrorCode::UnknownAttribute,
            Self::Alternate(_) => ErrorCode::TryAlternate,
        }
    }
}

/// Everything of an answer but what it says.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) request: &'a Message<'a>,
    pub(super) realm: &'a str,
    pub(super) software: Option<&'a str>,
    /// What closes the answer to an authenticated request.
    pub(super) seal: Option<(Integrity, &'a Key)>,
}

impl Answer<'_> {
    /// Writes an answer into the buffer.
    pub(super) fn write(
        &self,
        said: &Result<Body, Refusal>,
        buffer: &mut [u8; ANSWER_BYTES_MAX],
    ) -> Outcome {
        let class = if said.is_ok() { Class::Success } else { Class::Error };
        let (method, transaction) = (self.request.method(), self.request.transaction());
        let mut writer = MessageWriter::new(buffer, class, method, transaction);
        match said {
            Ok(body) => write_body(&mut writer, body),
            Err(refusal) => self.write_refusal(&mut writer, refusal),
        }
        if let Some((integrity, key)) = self.seal {
            if method == Method::ALLOCATE || method == Method::REFRESH {
                self.software.iter().for_each(|software| {
                    writer.attribute(AttributeType::SOFTWARE, software.as_bytes());
                });
            }
            writer.integrity(integrity, key.expose_secret());
        }
        if self.request.has_fingerprint() {
            writer.fingerprint();
        }
        match writer.finish() {
            Ok(bytes) => Outcome::Answer { bytes, error: said.as_ref().err().map(Refusal::code) },
            // Cannot be: the buffer has room for the longest answer, whose parts are all bounded.
            Err(_) => Outcome::Discard(Discard::Oversize),
        }
    }

    fn write_refusal(&self, writer: &mut MessageWriter<'_>, refusal: &Refusal) {
        writer.error(refusal.code());
        match refusal {
            Refusal::Code(_) => {}
            Refusal::Unknown(unknown) => {
                writer.unknown_attributes(unknown);
            }
            Refusal::Alternate(server) => {
                writer.plain_address(AttributeType::ALTERNATE_SERVER, *server);
            }
            Refusal::Challenge(_, nonce) => {
                writer
                    .attribute(AttributeType::REALM, self.realm.as_bytes())
                    .attribute(AttributeType::NONCE, nonce)
                    .attribute(AttributeType::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS);
            }
        }
    }
}

fn write_body(writer: &mut MessageWriter<'_>, body: &Body) {
    match body {
        Body::Mapped(mapped) => {
            writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, *mapped);
        }
        Body::Allocated(allocated) => write_allocated(writer, allocated),
        Body::Refreshed { lifetime_s } => {
            writer.number(AttributeType::LIFETIME, *lifetime_s);
        }
        Body::Done => {}
    }
}

fn write_allocated(writer: &mut MessageWriter<'_>, allocated: &Allocated) {
    for relayed in allocated.relayed.iter().flatten() {
        writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, *relayed);
    }
    writer.number(AttributeType::LIFETIME, allocated.lifetime_s);
    if let Some(token) = &allocated.token {
        writer.attribute(AttributeType::RESERVATION_TOKEN, token);
    }
    if let Some((family, code)) = allocated.failed {
        writer.address_error(family, code);
    }
    writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, allocated.mapped);
}
