//! How a connection to the socket port says which gateway socket it means (spec §11.2).
//!
//! Registered nodes of the stock system write the nonce as 8 raw bytes, connecting ones as a C2
//! object; the first byte tells, if the gateway chose its nonces so that it can.

use crate::limits::NONCE_OBJECT_BYTES;

/// First byte of act one of a handshake: such a connection presents no nonce.
const NOISE_FIRST_BYTE: u8 = 0;
/// First byte of a `nonce64` object: the length of its type name.
const OBJECT_FIRST_BYTE: u8 = 7;
/// What precedes the nonce in a `nonce64` object.
const OBJECT_HEAD: [u8; 12] = *b"\x07nonce64\x00\x00\x00\x08";

/// Why a connection presents no nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NonceError {
    /// It starts a handshake instead.
    #[error("connection starts a handshake instead of presenting a nonce")]
    Handshake,
    /// Its first object is another one.
    #[error("connection presents another object than a nonce64")]
    NotANonce,
    /// The nonce was already given; the caller's mistake.
    #[error("connection already presented its nonce")]
    Ended,
}

/// Tells whether a gateway may hand out `nonce`: its first byte must be neither 00 nor 07.
pub const fn nonce_is_distinguishable(nonce: u64) -> bool {
    let first_byte = (nonce >> 56) as u8;
    first_byte != NOISE_FIRST_BYTE && first_byte != OBJECT_FIRST_BYTE
}

/// Builds the object form, which clients of a stock gateway must use.
pub fn nonce_object(nonce: u64) -> [u8; NONCE_OBJECT_BYTES] {
    let mut object = [0; NONCE_OBJECT_BYTES];
    let fields = OBJECT_HEAD.into_iter().chain(nonce.to_be_bytes());
    for (to, from) in object.iter_mut().zip(fields) {
        *to = from;
    }
    object
}

/// Reads the nonce in either form and leaves everything behind it in the input.
#[derive(Debug)]
pub struct NonceDecoder {
    taken_bytes: usize,
    object: bool,
    nonce: u64,
    over: Option<NonceError>,
}

impl Default for NonceDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl NonceDecoder {
    /// Starts at the connection's first byte.
    pub const fn new() -> Self {
        Self { taken_bytes: 0, object: false, nonce: 0, over: None }
    }

    /// Consumes `input` from `*cursor` on up to the end of the nonce and returns it; `None` when
    /// everything is consumed and the nonce goes on.
    ///
    /// # Errors
    /// [`NonceError`] at the first byte that rules a nonce out, which is not consumed when it is
    /// a handshake's; the same ever after, and [`NonceError::Ended`] after success.
    pub fn next(&mut self, input: &[u8], cursor: &mut usize) -> Result<Option<u64>, NonceError> {
        if let Some(over) = self.over {
            return Err(over);
        }
        for &byte in input.get(*cursor..).unwrap_or_default() {
            if self.taken_bytes == 0 {
                if byte == NOISE_FIRST_BYTE {
                    return Err(self.end(NonceError::Handshake));
                }
                self.object = byte == OBJECT_FIRST_BYTE;
            }
            *cursor += 1;
            let head: &[u8] = if self.object { &OBJECT_HEAD } else { &[] };
            match head.get(self.taken_bytes) {
                Some(&expected) if byte != expected => {
                    return Err(self.end(NonceError::NotANonce));
                }
                Some(_) => {}
                None => self.nonce = self.nonce << 8 | u64::from(byte),
            }
            self.taken_bytes += 1;
            if self.taken_bytes == head.len() + size_of::<u64>() {
                self.end(NonceError::Ended);
                return Ok(Some(self.nonce));
            }
        }
        Ok(None)
    }

    fn end(&mut self, why: NonceError) -> NonceError {
        self.over = Some(why);
        why
    }
}
