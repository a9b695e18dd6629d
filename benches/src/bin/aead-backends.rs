//! What the ChaCha20-Poly1305 back ends of this build cost, by length of text.
//!
//! One thread, hot caches, in place, as on a data core. Back ends take turns; the least of all
//! rounds counts, because other load only ever adds. Setting a key up is listed by itself: a
//! direction of a link does it once in 1000 operations.

#![forbid(unsafe_code)]

use anyhow::Context;
use clap::Parser;
use std::hint::black_box;
use waystation_astral::aead::choice::{cheapest, measure};
use waystation_astral::aead::{AeadBackend, AeadKey, AeadSuite};
use waystation_astral::brontide::{RECORD_PLAINTEXT_MAX_BYTES, TAG_BYTES};
use waystation_astral::limits::KEY_ROTATION_OPERATIONS;
use waystation_benches::aead::monotonic_ns;

/// Lengths of text: a record's length field, and bodies up to the longest.
const TEXT_BYTES: [usize; 10] =
    [2, 64, 256, 1024, 2048, 4096, 8192, 16_384, 32_768, RECORD_PLAINTEXT_MAX_BYTES];
/// Bytes sealed between two looks at the clock, and the price of a call in bytes.
const SAMPLE_BYTES: usize = 512 * 1024;
const CALL_BYTES: usize = 512;

#[derive(Debug, Parser)]
#[command(about = "Measures the ChaCha20-Poly1305 back ends of this build")]
struct Arguments {
    /// Rounds; the least of each figure is printed
    #[arg(long, default_value_t = 25)]
    rounds: usize,
}

/// Nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Cost {
    seal: f64,
    seal_and_open: f64,
}

#[expect(clippy::print_stdout, reason = "the figures are the answer")]
fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let backends: Vec<_> = AeadBackend::built_in().collect();
    let mut costs = vec![[Cost { seal: f64::MAX, seal_and_open: f64::MAX }; TEXT_BYTES.len()]; 3];
    let mut key_ns = [f64::MAX; 3];
    for _ in 0..arguments.rounds {
        for (index, &backend) in backends.iter().enumerate() {
            key_ns[index] = key_ns[index].min(replace_ns(backend)?);
            for (cost, text_bytes) in costs[index].iter_mut().zip(TEXT_BYTES) {
                let now = cost_of(backend, text_bytes)?;
                cost.seal = now.seal.min(cost.seal);
                cost.seal_and_open = now.seal_and_open.min(cost.seal_and_open);
            }
        }
    }
    println!("nanoseconds, seal / open; the share of a key in each operation comes on top\n");
    print!("| text bytes |");
    backends.iter().for_each(|backend| print!(" {backend} | GB/s |"));
    print!("\n| ---: |");
    backends.iter().for_each(|_| print!(" ---: | ---: |"));
    println!();
    for (at, text_bytes) in TEXT_BYTES.into_iter().enumerate() {
        print!("| {text_bytes} |");
        for (costs, _) in costs.iter().zip(&backends) {
            let Cost { seal, seal_and_open } = costs[at];
            let open = seal_and_open - seal;
            print!(" {seal:.0} / {open:.0} | {:.2} |", text_bytes as f64 / seal);
        }
        println!();
    }
    print!("| a new key |");
    key_ns.iter().zip(&backends).for_each(|(ns, _)| print!(" {ns:.0} | |"));
    print!("\n| of it in one operation |");
    let operations = KEY_ROTATION_OPERATIONS as f64;
    key_ns.iter().zip(&backends).for_each(|(ns, _)| print!(" {:.2} | |", ns / operations));
    println!("\n\nchosen at start: {}", cheapest(&measure(monotonic_ns())));
    Ok(())
}

fn key(backend: AeadBackend) -> anyhow::Result<AeadKey> {
    let suite = AeadSuite::alone(backend).context("a back end that is not built in")?;
    AeadKey::new(suite, &[7; 32]).context("the back end refuses its key")
}

fn cost_of(backend: AeadBackend, text_bytes: usize) -> anyhow::Result<Cost> {
    let mut key = key(backend)?;
    let mut record = vec![0x5a; text_bytes + TAG_BYTES];
    let seal = |key: &mut AeadKey, record: &mut [u8], counter| {
        let (text, tag) = record.split_last_chunk_mut()?;
        key.seal(counter, black_box(text), tag)
    };
    // What was sealed can be sealed again; what is opened has to be sealed before each time.
    let sealed = per_operation_ns(text_bytes, |counter| seal(&mut key, &mut record, counter))?;
    let both = per_operation_ns(text_bytes, |counter| {
        seal(&mut key, &mut record, counter)?;
        key.open(counter, black_box(&mut record)).map(drop)
    })?;
    Ok(Cost { seal: sealed, seal_and_open: both })
}

fn per_operation_ns(
    text_bytes: usize,
    mut operation: impl FnMut(u64) -> Option<()>,
) -> anyhow::Result<f64> {
    let operations = (SAMPLE_BYTES / (text_bytes + CALL_BYTES)) as u64;
    let mut now_ns = monotonic_ns();
    let start_ns = now_ns();
    for counter in 0..operations {
        operation(counter).context("the back end failed")?;
    }
    Ok((now_ns() - start_ns) as f64 / operations as f64)
}

fn replace_ns(backend: AeadBackend) -> anyhow::Result<f64> {
    const KEYS: u32 = 500;
    let mut key = key(backend)?;
    let mut now_ns = monotonic_ns();
    let start_ns = now_ns();
    for byte in 0..KEYS {
        key.replace(black_box(&[byte.to_le_bytes()[0]; 32])).context("a key is refused")?;
    }
    Ok((now_ns() - start_ns) as f64 / f64::from(KEYS))
}
