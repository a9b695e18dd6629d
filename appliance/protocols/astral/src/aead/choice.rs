//! Measures the back ends and chooses among them.
//!
//! Called once at start-up, on the main thread, before the program gives up privileges: a library
//! may read files of its own at its first use. The clock is passed in. A measurement opens and
//! seals texts in a cache-hot buffer, as a data core does; the back ends take turns, and the least
//! of several samples counts, because other load on the machine only ever adds to one.

use thiserror::Error;

use super::{AeadBackend, AeadKey, AeadSuite};
use crate::limits::{
    AEAD_MEASURING_NS_MAX, AEAD_SAMPLES_MAX, AEAD_SAMPLES_MIN, AEAD_TEXT_BYTES_MEASURED, TAG_BYTES,
};

/// How many text lengths are measured.
pub const LENGTHS: usize = AEAD_TEXT_BYTES_MEASURED.len();

/// By how many hundredths another back end has to be cheaper to be preferred. What is less than
/// the noise of a measurement is not worth a second state for each link.
const GAIN_HUNDREDTHS_MIN: u64 = 4;
/// Bytes that one sample is about, so that long texts take no longer than short ones.
const SAMPLE_BYTES: usize = 48 * 1024;
/// What a call costs, in bytes that could be sealed in its time.
const CALL_BYTES: usize = 512;
/// Room for the longest text and its tag.
const BUFFER_BYTES: usize = AEAD_TEXT_BYTES_MEASURED[LENGTHS - 1] as usize + TAG_BYTES;

/// What one back end costs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AeadCost {
    pub backend: AeadBackend,
    /// Sealing and opening a text once each, in nanoseconds, for each length of
    /// [`AEAD_TEXT_BYTES_MEASURED`]; or why it cannot be used.
    pub ns: Result<[u64; LENGTHS], AeadUnusable>,
}

/// Says why a back end cannot be used; the builder's, host's or the library's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AeadUnusable {
    /// It seals other bytes than ring, or does not open what ring sealed.
    #[error("it disagrees with ring")]
    Disagrees,
    /// This program was built without it.
    #[error("it is not built into this program")]
    NotBuiltIn,
    /// It does not take a key, or does not seal: where only FIPS ciphers are allowed, for example.
    #[error("its library refuses ChaCha20-Poly1305")]
    Refused,
}

/// Measures every back end that is built in, in at most a few times ten milliseconds.
/// `now_ns` reads a monotonic clock, in nanoseconds.
pub fn measure(mut now_ns: impl FnMut() -> u64) -> Vec<AeadCost> {
    let mut costs: Vec<AeadCost> = AeadBackend::built_in()
        .map(|backend| AeadCost { backend, ns: agrees(backend).map(|()| [u64::MAX; LENGTHS]) })
        .collect();
    let start_ns = now_ns();
    for sample in 0..AEAD_SAMPLES_MAX {
        if sample >= AEAD_SAMPLES_MIN && now_ns() - start_ns > AEAD_MEASURING_NS_MAX {
            break;
        }
        for cost in &mut costs {
            sample_into(cost, &mut now_ns);
        }
    }
    costs
}

fn sample_into(cost: &mut AeadCost, now_ns: &mut impl FnMut() -> u64) {
    let Ok(least_ns) = &mut cost.ns else { return };
    for (least_ns, text_bytes) in least_ns.iter_mut().zip(AEAD_TEXT_BYTES_MEASURED) {
        match sample_ns(cost.backend, usize::from(text_bytes), now_ns) {
            Some(ns) => *least_ns = ns.min(*least_ns),
            None => {
                cost.ns = Err(AeadUnusable::Refused);
                return;
            }
        }
    }
}

/// One sample: nanoseconds of sealing and opening a text of that length.
fn sample_ns(
    backend: AeadBackend,
    text_bytes: usize,
    now_ns: &mut impl FnMut() -> u64,
) -> Option<u64> {
    let mut key = AeadKey::new(AeadSuite::alone(backend)?, &KEY)?;
    let mut room = [0; BUFFER_BYTES];
    let sealed = room.get_mut(..text_bytes + TAG_BYTES)?;
    let rounds = SAMPLE_BYTES / (text_bytes + CALL_BYTES);
    let mut once = |counter| {
        let (text, tag) = sealed.split_last_chunk_mut()?;
        key.seal(counter, text, tag)?;
        key.open(counter, sealed).map(|_text| ())
    };
    // The first one finds cold caches.
    once(0)?;
    let start_ns = now_ns();
    for counter in 0..rounds as u64 {
        once(counter)?;
    }
    Some((now_ns() - start_ns) / rounds as u64)
}

/// A key that protects nothing.
const KEY: [u8; 32] = *b"a key to measure a cipher with..";

/// Checks a back end against ring, at all lengths around those where implementations change loops.
fn agrees(backend: AeadBackend) -> Result<(), AeadUnusable> {
    let key = |backend| AeadSuite::alone(backend).and_then(|suite| AeadKey::new(suite, &KEY));
    let mut theirs = key(backend).ok_or(AeadUnusable::Refused)?;
    let mut ring = key(AeadBackend::Ring).ok_or(AeadUnusable::Refused)?;
    let lengths = [0, 1, 2, 15, 16, 17, 63, 64, 65, 192, 255, 256, 257, 511, 512, 513, 1024, 4099];
    for (counter, text_bytes) in (1..).zip(lengths) {
        let text: Vec<u8> = (0..=u8::MAX).cycle().take(text_bytes).collect();
        let mut sealed = text.clone();
        let mut tag = [0; TAG_BYTES];
        ring.seal(counter, &mut sealed, &mut tag).ok_or(AeadUnusable::Refused)?;
        let (mut again, mut other_tag) = (text.clone(), [0; TAG_BYTES]);
        theirs.seal(counter, &mut again, &mut other_tag).ok_or(AeadUnusable::Refused)?;
        if (&again, other_tag) != (&sealed, tag) {
            return Err(AeadUnusable::Disagrees);
        }
        sealed.extend_from_slice(&tag);
        if theirs.open(counter, &mut sealed).as_deref() != Some(&text) {
            return Err(AeadUnusable::Disagrees);
        }
    }
    Ok(())
}

/// The cheapest suite by these figures: the back end with the least costs for the shortest texts,
/// and with it another one from the length on where that is cheaper, if it is anywhere.
pub fn cheapest(costs: &[AeadCost]) -> AeadSuite {
    let usable = || costs.iter().filter_map(|cost| Some((cost.backend, cost.ns.ok()?)));
    let preferred = |at: usize| {
        let ring = usable().find(|(backend, _)| *backend == AeadBackend::Ring);
        let least = usable().min_by_key(|(_, ns)| ns[at]);
        // What cannot win clearly does not replace the one that is always there.
        match (ring, least) {
            (Some(ring), Some(least)) if !is_gain(ring.1[at], least.1[at]) => Some(ring),
            _ => least,
        }
    };
    let (Some((short, short_ns)), Some((long, long_ns))) = (preferred(0), preferred(LENGTHS - 1))
    else {
        return AeadSuite::default();
    };
    // The first of the lengths from which on the second one is cheaper without exception.
    let gains = (0..LENGTHS).rev().take_while(|&at| is_gain(short_ns[at], long_ns[at]));
    let split = gains
        .last()
        .and_then(|at| AeadSuite::split(short, long, *AEAD_TEXT_BYTES_MEASURED.get(at)?));
    split.or_else(|| AeadSuite::alone(short)).unwrap_or_default()
}

/// What is used, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AeadChoice {
    pub suite: AeadSuite,
    /// Whether the operator named it; otherwise it was the cheapest.
    pub forced: bool,
    /// What was measured.
    pub costs: Vec<AeadCost>,
}

impl AeadChoice {
    /// Takes the back end that the operator named, or the cheapest suite by these figures.
    ///
    /// # Errors
    /// If the named one cannot be used.
    pub fn of(forced: Option<AeadBackend>, costs: Vec<AeadCost>) -> Result<Self, AeadUnusable> {
        let suite = match forced {
            None => cheapest(&costs),
            Some(backend) => {
                if let Some(cost) = costs.iter().find(|cost| cost.backend == backend) {
                    cost.ns?;
                }
                AeadSuite::alone(backend).ok_or(AeadUnusable::NotBuiltIn)?
            }
        };
        Ok(Self { suite, forced: forced.is_some(), costs })
    }
}

fn is_gain(from_ns: u64, to_ns: u64) -> bool {
    to_ns.saturating_mul(100) <= from_ns.saturating_mul(100 - GAIN_HUNDREDTHS_MIN)
}
