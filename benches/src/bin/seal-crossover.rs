//! Where sealing a payload in the buffer it arrived in begins to beat copying it behind others.
//!
//! A record costs two AEAD operations, each with a fixed price, and a copy costs its bytes. This
//! measures both ways for payloads of several sizes, on one thread with hot caches, and says from
//! which size on one payload alone in its record is cheaper than the same payload gathered. The
//! engine keeps the answer as `IN_PLACE_MIN_BYTES`.

use clap::Parser;
use std::hint::black_box;
use std::time::{Duration, Instant};
use waystation_astral::aead::AeadSuite;
use waystation_astral::brontide::{
    Initiator, RECORD_HEADER_BYTES, RECORD_PLAINTEXT_MAX_BYTES, Responder, Sealer, TAG_BYTES,
};
use waystation_astral::frame::{Profile, data_header_bytes, write_data_header};
use waystation_astral::identity::SecretKey;
use waystation_benches::aead::AeadOption;

/// Payload sizes that are compared.
const PAYLOAD_BYTES: [usize; 12] =
    [64, 256, 1024, 2048, 4096, 8192, 12_288, 16_384, 24_576, 32_768, 49_152, 61_440];

#[derive(Debug, Parser)]
#[command(about = "Compares sealing in place with gathering, by payload size")]
struct Arguments {
    /// Rounds; medians are printed
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Length of one measurement, in milliseconds
    #[arg(long, default_value_t = 100)]
    milliseconds: u64,
    /// What seals: a suite as the relay's status names it, or auto for the cheapest
    #[arg(long, value_name = "SUITE", default_value_t = AeadOption::Auto)]
    aead: AeadOption,
}

#[expect(clippy::print_stdout, reason = "the figures are the answer")]
fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let length = Duration::from_millis(arguments.milliseconds);
    let suite = arguments.aead.suite();
    println!("sealed by {suite}");
    println!("payload bytes   in place ns   gathered ns   in place / gathered");
    for payload_bytes in PAYLOAD_BYTES {
        let mut alone = Vec::new();
        let mut gathered = Vec::new();
        for _ in 0..arguments.rounds {
            alone.push(nanoseconds_in_place(suite, payload_bytes, length)?);
            gathered.push(nanoseconds_gathered(suite, payload_bytes, length)?);
        }
        let (alone, gathered) = (median(alone), median(gathered));
        println!("{payload_bytes:>13} {alone:>13.0} {gathered:>13.0} {:>21.2}", alone / gathered);
    }
    Ok(())
}

/// One record per payload, header written in front of it where it lies.
fn nanoseconds_in_place(
    suite: AeadSuite,
    payload_bytes: usize,
    length: Duration,
) -> anyhow::Result<f64> {
    let mut sealer = sealer(suite)?;
    let head = RECORD_HEADER_BYTES + data_header_bytes(Profile::P4);
    let mut record = vec![7; head + payload_bytes + TAG_BYTES];
    measure(length, 1, || {
        write_header(&mut record[RECORD_HEADER_BYTES..], payload_bytes)?;
        sealer.seal_in_place(&mut record)?;
        black_box(&mut record);
        Ok(())
    })
}

/// As many payloads as fit one record, copied behind each other and sealed once.
fn nanoseconds_gathered(
    suite: AeadSuite,
    payload_bytes: usize,
    length: Duration,
) -> anyhow::Result<f64> {
    let mut sealer = sealer(suite)?;
    let head = data_header_bytes(Profile::P4);
    let frames = RECORD_PLAINTEXT_MAX_BYTES / (head + payload_bytes);
    let plaintext_bytes = frames * (head + payload_bytes);
    let source = vec![7; payload_bytes];
    let mut record = vec![0; RECORD_HEADER_BYTES + plaintext_bytes + TAG_BYTES];
    measure(length, frames, || {
        let mut at = RECORD_HEADER_BYTES;
        for _ in 0..frames {
            write_header(&mut record[at..], payload_bytes)?;
            at += head;
            record[at..at + payload_bytes].copy_from_slice(black_box(&source));
            at += payload_bytes;
        }
        sealer.seal_in_place(&mut record)?;
        black_box(&mut record);
        Ok(())
    })
}

fn write_header(out: &mut [u8], payload_bytes: usize) -> anyhow::Result<()> {
    write_data_header(Profile::P4, 1, u16::try_from(payload_bytes)?, out)?;
    Ok(())
}

/// Nanoseconds per frame.
#[expect(clippy::disallowed_methods, reason = "measuring time is what this program does")]
fn measure(
    length: Duration,
    frames: usize,
    mut once: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < length {
        for _ in 0..16 {
            once()?;
        }
        count += 16;
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(count) / frames as f64)
}

fn sealer(suite: AeadSuite) -> anyhow::Result<Sealer> {
    let key = |byte| SecretKey::from_bytes(&[byte; 32]);
    let (local, remote) = (key(1)?, key(2)?);
    let mut initiator = Initiator::new(&local, &remote.identity(), &key(3)?)?.with_aead(suite);
    let mut responder = Responder::new(&remote, &key(4)?)?;
    let act_two = responder.act_one(&initiator.act_one()?)?;
    let (_, transport) = initiator.act_two(&act_two)?;
    Ok(transport.sealer)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
