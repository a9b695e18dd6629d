//! Row 15: handshakes of the appliance against what their cryptography costs by itself.

use crate::compare::appliance::{Appliance, Port};
use crate::compare::contender::{Contender, Outcome, Schedule, Setting, alternate};
use crate::compare::figures::{Measure, Sample};
use crate::compare::goals::{BARE, WAYSTATION};
use crate::load::clock::{Clock, thread_processor_ns};
use crate::load::processor;
use crate::swarm::dial::{RelayAddress, shake_hands};
use anyhow::{Context, Result, anyhow, bail};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use secp256k1::ecdh::SharedSecret;
use secp256k1::{PublicKey, SecretKey};
use std::io::Read;
use std::thread;
use waystation_astral::brontide::RECORD_HEADER_BYTES;
use waystation_peer::secret_key;

/// Dialers at a time, so that the relay never waits for one of them.
const DIALERS: usize = 4;
/// Bytes of a compressed point and of a tag.
const POINT_BYTES: usize = 33;
const TAG_BYTES: usize = 16;

pub(super) fn handshakes(setting: &Setting) -> Result<Outcome> {
    let appliance = Appliance::start(Port::IoUring, setting)?;
    let ours: Box<dyn Contender> = Box::new(Waystation { appliance, clock: setting.clock });
    let bare: Box<dyn Contender> = Box::new(Bare { cpu: setting.relay_cpu });
    let entries = vec![(WAYSTATION, Ok(ours)), (BARE, Ok(bare))];
    alternate("handshakes", entries, &setting.schedule)
}

struct Waystation {
    appliance: Appliance,
    clock: Clock,
}

impl Contender for Waystation {
    fn round(&mut self, schedule: &Schedule) -> Result<Sample> {
        let watched = self.appliance.process.watched();
        let (relay, clock) = (self.appliance.relay, self.clock);
        let before = watched.read()?;
        let start_ns = clock.now_ns();
        let end_ns = start_ns + u64::try_from(schedule.measured.as_nanos())?;
        let dialers: Vec<_> = (0..DIALERS)
            .map(|_| thread::spawn(move || shake_until(&relay, clock, end_ns)))
            .collect();
        let mut handshakes = 0;
        for dialer in dialers {
            handshakes += dialer.join().map_err(|_panic| anyhow!("a dialer panicked"))??;
        }
        let seconds = (clock.now_ns() - start_ns) as f64 / 1e9;
        let spent = watched.read()?.since(&before);
        if spent.forwarding_ns == 0 {
            bail!("the data core has spent no time");
        }
        let processor_seconds = spent.forwarding_ns as f64 / 1e9;
        Ok(Sample::from([
            (Measure::HandshakesPerProcessorSecond, handshakes as f64 / processor_seconds),
            (Measure::RelayProcessorShare, processor_seconds / seconds),
        ]))
    }

    fn messages_checked(&self) -> u64 {
        0
    }
}

/// Shakes hands and hangs up, again and again. What the relay sends behind the third act shows that
/// it has finished its side.
fn shake_until(relay: &RelayAddress, clock: Clock, end_ns: u64) -> Result<u64> {
    let mut handshakes = 0;
    while clock.now_ns() < end_ns {
        let (mut stream, mut transport) = shake_hands(relay, &secret_key()?)?;
        let mut header = [0; RECORD_HEADER_BYTES];
        stream.read_exact(&mut header).context("reading the greeting")?;
        transport.opener.open_header(&header).context("opening the greeting")?;
        handshakes += 1;
    }
    Ok(handshakes)
}

struct Bare {
    cpu: usize,
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
