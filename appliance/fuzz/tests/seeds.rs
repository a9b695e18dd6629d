//! Replays every committed seed, and what is left of it when it is cut or one bit of it flips.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its seeds has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use waystation_fuzz::{TARGETS, Target};

/// Seeds that a target has at least; fewer would miss one of its parts.
const SEEDS_MIN: usize = 12;
/// Bytes that a seed has at most: a dual greeting with an answer behind it.
const SEED_BYTES_MAX: usize = 2048;
/// Variations of one seed, of each kind, that the tests try at most; longer seeds are varied at as
/// many places, evenly spread.
const VARIATIONS_MAX: usize = 160;

fn seeds_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

/// Every seed of a target by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = fs::read_dir(seeds_directory().join(target)).unwrap();
    let mut seeds: Vec<_> = directory
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

/// Calls `look` with every seed; the harness shows the last line if it panics.
#[expect(clippy::print_stdout, reason = "names the seed at which a test fails")]
fn each_seed(mut look: impl FnMut(Target, &[u8])) {
    for (target, run) in TARGETS {
        for (name, seed) in seeds(target) {
            println!("{target}/{name}");
            look(run, &seed);
        }
    }
}

#[test]
fn every_target_has_seeds_and_every_seed_a_target() {
    let directories = fs::read_dir(seeds_directory()).unwrap();
    let directories: BTreeSet<_> =
        directories.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(directories, targets);
    for target in targets {
        let seeds = seeds(&target);
        assert!(seeds.len() >= SEEDS_MIN, "{target} has {} seeds", seeds.len());
        for (name, seed) in &seeds {
            assert!(seed.len() <= SEED_BYTES_MAX, "{target}/{name} has {} bytes", seed.len());
            let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            assert!(name.bytes().all(|byte| is_word(byte) || byte == b'_'), "{target}/{name}");
        }
        let different: BTreeSet<_> = seeds.iter().map(|(_, seed)| seed).collect();
        assert_eq!(different.len(), seeds.len(), "{target} has one seed twice");
    }
}

#[test]
fn every_target_has_a_fuzzing_binary_of_its_name() {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("libfuzzer");
    let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
    for (target, _) in TARGETS {
        let file = package.join("fuzz_targets").join(target).with_extension("rs");
        let source = fs::read_to_string(&file).unwrap();
        let call = format!("fuzz_target!(|input: &[u8]| waystation_fuzz::{target}(input));");
        assert!(source.contains(&call), "{} does not run {target}", file.display());
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not built");
    }
    let files = fs::read_dir(package.join("fuzz_targets")).unwrap().count();
    assert_eq!(files, TARGETS.len(), "a fuzzing binary without a target");
}

#[test]
fn seeds_hold_every_property() {
    each_seed(|run, seed| run(seed));
}

#[test]
fn cut_seeds_hold_every_property() {
    each_seed(|run, seed| {
        for end in (0..seed.len()).step_by(seed.len().div_ceil(VARIATIONS_MAX).max(1)) {
            run(&seed[..end]);
        }
    });
}

#[test]
fn seeds_with_a_flipped_bit_hold_every_property() {
    each_seed(|run, seed| {
        let bits = seed.len() * 8;
        for bit in (0..bits).step_by(bits.div_ceil(VARIATIONS_MAX).max(1)) {
            let mut flipped = seed.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            run(&flipped);
        }
    });
}
