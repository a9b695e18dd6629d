//! The curve and cipher operations of a responder in a loop.

use crate::compare::contender::{Contender, Schedule};
use crate::compare::figures::{Measure, Sample};
use crate::load::clock::thread_processor_ns;
use crate::load::processor;
use anyhow::{Context, Result, anyhow};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use secp256k1::ecdh::SharedSecret;
use secp256k1::{PublicKey, SecretKey};
use std::thread;

/// Bytes of a compressed point and of a tag.
const POINT_BYTES: usize = 33;
const TAG_BYTES: usize = 16;

/// A thread that does nothing else.
pub(super) struct Bare {
    pub(super) cpu: usize,
}

impl Contender for Bare {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let (cpu, measured_ns) = (self.cpu, u64::try_from(schedule.measured.as_nanos())?);
        let thread = thread::spawn(move || -> Result<f64> {
            processor::pin(cpu)?;
            let start_ns = thread_processor_ns();
            let mut handshakes = 0_u32;
            loop {
                respond()?;
                handshakes += 1;
                let spent_ns = thread_processor_ns() - start_ns;
                if spent_ns >= measured_ns {
                    return Ok(f64::from(handshakes) * 1e9 / spent_ns as f64);
                }
            }
        });
        let rate = thread.join().map_err(|_panic| anyhow!("a thread panicked"))??;
        Ok(Sample::from([(Measure::HandshakesPerProcessorSecond, rate)]))
    }

    fn messages_checked(&self) -> u64 {
        0
    }
}

/// The curve and cipher operations of one responder (spec §3.2): an ephemeral key, two points to
/// read, three shared secrets, and the tags and the sealed key of the three acts. No hashing, no
/// bookkeeping.
fn respond() -> Result<()> {
    let scalar = |byte: u8| {
        SecretKey::from_secret_bytes([byte; 32]).map_err(|_wrong| anyhow!("not a scalar"))
    };
    let (own, ephemeral) = (scalar(0x11)?, scalar(0x22)?);
    std::hint::black_box(PublicKey::from_secret_key(&ephemeral).serialize());
    let points = peer_points()?;
    for (point, scalar) in [(0, &own), (0, &ephemeral), (1, &ephemeral)] {
        let point = points.get(point).context("no such point")?;
        std::hint::black_box(SharedSecret::new(point, scalar).as_secret_bytes());
    }
    for text_bytes in [0, 0, POINT_BYTES, 0] {
        cipher(text_bytes)?;
    }
    Ok(())
}

/// The initiator's ephemeral and static points, read from their bytes as they come.
fn peer_points() -> Result<[PublicKey; 2]> {
    static BYTES: std::sync::OnceLock<Option<[[u8; POINT_BYTES]; 2]>> = std::sync::OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let point = |byte: u8| {
            let scalar = SecretKey::from_secret_bytes([byte; 32]).ok()?;
            Some(PublicKey::from_secret_key(&scalar).serialize())
        };
        Some([point(0x33)?, point(0x44)?])
    });
    let [ephemeral, fixed] = bytes.context("no points")?;
    let read = |bytes: [u8; POINT_BYTES]| {
        PublicKey::from_byte_array_compressed(std::hint::black_box(bytes))
            .map_err(|_wrong| anyhow!("not a point"))
    };
    Ok([read(ephemeral)?, read(fixed)?])
}

/// One seal; opening costs the same.
fn cipher(text_bytes: usize) -> Result<()> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32])
        .map_err(|ring::error::Unspecified| anyhow!("the cipher refuses its key"))?;
    let mut text = [0_u8; POINT_BYTES + TAG_BYTES];
    let text = text.get_mut(..text_bytes).unwrap_or_default();
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let tag = LessSafeKey::new(key)
        .seal_in_place_separate_tag(nonce, Aad::from(&[0; 32]), text)
        .map_err(|ring::error::Unspecified| anyhow!("sealing failed"))?;
    let _ = std::hint::black_box(tag);
    Ok(())
}
