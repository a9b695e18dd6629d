//! The routes of what helps to find out what is wrong: a packet to be explained, and packets to be
//! captured.

use super::request::{Order, Question};
use super::routes::{Parameters, Refusal, flag, optional, parsed, refuse};
use crate::limits::{EXPLAINED_FRAME_BYTES_MAX, INTERFACE_NAME_BYTES_MAX};
use crate::xdp::CaptureRequest;
use std::num::NonZeroU32;

/// `/v1/explain`
pub(super) fn explain(given: &Parameters<'_>) -> Result<Question, Refusal> {
    let hex = given.value("frame").ok_or(Refusal::Missing { name: "frame" })?;
    let wanted = || format!("hex digits of 1 to {EXPLAINED_FRAME_BYTES_MAX} bytes");
    let frame = bytes(hex).filter(|it| (1..=EXPLAINED_FRAME_BYTES_MAX).contains(&it.len()));
    let frame = frame.ok_or_else(|| refuse("frame", &shortened(hex), wanted()))?;
    let interface = match given.value("interface") {
        Some(name) if name.is_empty() || name.len() > INTERFACE_NAME_BYTES_MAX => {
            return Err(refuse("interface", &shortened(name), "the name of one".to_owned()));
        }
        name => name.map(str::to_owned),
    };
    Ok(Question::Explain { frame, interface })
}

/// `/v1/capture`
pub(super) fn capture(given: &Parameters<'_>) -> Result<Question, Refusal> {
    let every = optional(given, "every", "a number from 1 on")?.map_or(1, NonZeroU32::get);
    Ok(Question::Order(Order::Capture(CaptureRequest {
        capture: optional(given, "capture", "the number of a capture")?,
        verdicts: parsed(given, "verdicts", "verdicts")?,
        every,
        is_last: flag(given, "last")?.unwrap_or(false),
    })))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let digit = |letter: u8| char::from(letter).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect::<Option<_>>())?
}

/// Enough of a wrong value to know it again.
fn shortened(value: &str) -> String {
    value.chars().take(40).collect()
}
