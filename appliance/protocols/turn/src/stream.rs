//! Where messages begin and end in a stream (RFC 8489 §6.2.2, RFC 8656 §12.5).
//!
//! Owns the rule and nothing else: whoever reads the connection keeps the bytes of a message that
//! has not arrived whole, at most [`STREAM_MESSAGE_BYTES_MAX`]. TLS would be a stream as well, whose
//! bytes come here once they are decrypted.
//!
//! [`STREAM_MESSAGE_BYTES_MAX`]: crate::limits::STREAM_MESSAGE_BYTES_MAX

use thiserror::Error;

use crate::channel_data::is_channel_data;
use crate::limits::{CHANNEL_HEADER_BYTES, HEADER_BYTES, STREAM_HEAD_BYTES};

/// A stream whose next byte starts neither a STUN message nor ChannelData. Nothing behind it can be
/// found, so its connection has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("neither a STUN message nor ChannelData")]
pub struct StreamError;

/// How many bytes the message that starts here has, padding included; none while too little of it
/// has arrived to tell.
///
/// # Errors
///
/// If no message starts here.
pub fn message_bytes(input: &[u8]) -> Result<Option<usize>, StreamError> {
    let Some(first) = input.first() else {
        return Ok(None);
    };
    let is_stun = first & 0xc0 == 0;
    if !is_stun && !is_channel_data(*first) {
        return Err(StreamError);
    }
    let Some(&[_, _, l0, l1]) = input.get(..STREAM_HEAD_BYTES) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if !is_stun {
        return Ok(Some(CHANNEL_HEADER_BYTES + length.next_multiple_of(4)));
    }
    if length % 4 != 0 {
        return Err(StreamError);
    }
    Ok(Some(HEADER_BYTES + length))
}

/// The first whole message of a stream; none while it has not arrived whole.
///
/// # Errors
///
/// If no message starts here.
pub fn first_message(input: &[u8]) -> Result<Option<&[u8]>, StreamError> {
    Ok(message_bytes(input)?.and_then(|bytes| input.get(..bytes)))
}
