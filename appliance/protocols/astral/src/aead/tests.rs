//! What holds for every back end: the same bytes, the same refusals, names that read back; and
//! the choice for figures of every kind.

use proptest::collection::vec;
use proptest::prelude::*;

use super::choice::{AeadCost, AeadUnusable, LENGTHS, cheapest, measure};
use super::*;
use crate::limits::{
    AEAD_SAMPLES_MIN, AEAD_TEXT_BYTES_MEASURED, RECORD_PLAINTEXT_MAX_BYTES, TAG_BYTES,
};

/// Every back end alone, and every pair of them split at a length where both are used.
pub(crate) fn suites() -> impl Iterator<Item = AeadSuite> {
    let alone = AeadBackend::built_in().filter_map(AeadSuite::alone);
    let pairs = AeadBackend::built_in()
        .flat_map(|short| AeadBackend::built_in().map(move |long| (short, long)));
    alone.chain(pairs.filter_map(|(short, long)| AeadSuite::split(short, long, 5)))
}

fn seal(suite: AeadSuite, key: &[u8; 32], counter: u64, text: &[u8]) -> Vec<u8> {
    let mut sealed = text.to_vec();
    let mut tag = [0; TAG_BYTES];
    AeadKey::new(suite, key).unwrap().seal(counter, &mut sealed, &mut tag).unwrap();
    sealed.extend_from_slice(&tag);
    sealed
}

#[test]
fn ring_is_there_and_is_the_default() {
    assert!(AeadBackend::built_in().any(|backend| backend == AeadBackend::Ring));
    assert_eq!(AeadSuite::default().to_string(), "ring");
    assert_eq!("ring".parse(), Ok(AeadSuite::default()));
}

#[test]
fn names_of_suites_read_back() {
    for suite in suites() {
        assert_eq!(suite.to_string().parse(), Ok(suite));
    }
}

#[test]
fn names_of_nothing_are_refused() {
    for text in
        ["", "Ring", "ring+", "ring+ring:5", "ring+openssl", "ring+openssl:70000", "+ring:1"]
    {
        assert!(text.parse::<AeadSuite>().is_err(), "{text}");
    }
    assert_eq!("auto".parse::<AeadBackend>(), Err(AeadNameError::Unknown));
}

#[test]
fn back_end_that_is_not_built_in_says_so() {
    for backend in AeadBackend::ALL.into_iter().filter(|backend| !backend.is_built_in()) {
        assert_eq!(
            backend.name().parse(),
            Err::<AeadBackend, _>(AeadNameError::NotBuiltIn(backend))
        );
        assert_eq!(AeadSuite::alone(backend), None);
        assert_eq!(AeadSuite::split(AeadBackend::Ring, backend, 1), None);
    }
}

#[test]
fn keys_are_not_in_debug_output() {
    for suite in suites() {
        let key = AeadKey::new(suite, &[0xab; 32]).unwrap();
        let text = format!("{key:?}");
        assert!(!text.contains("171") && !text.to_lowercase().contains("abab"), "{text}");
    }
}

#[test]
fn replaced_key_is_a_new_key_for_texts_of_every_length() {
    for suite in suites() {
        let mut key = AeadKey::new(suite, &[1; 32]).unwrap();
        for round in 2..5 {
            for text_bytes in [0, 2, 4, 5, 6, 1000] {
                let mut sealed = vec![round; text_bytes];
                let mut tag = [0; TAG_BYTES];
                key.seal(7, &mut sealed, &mut tag).unwrap();
                sealed.extend_from_slice(&tag);
                let same =
                    seal(AeadSuite::default(), &[round - 1; 32], 7, &vec![round; text_bytes]);
                assert_eq!(sealed, same, "{suite}");
            }
            key.replace(&[round; 32]).unwrap();
            assert_eq!(key.expose_bytes(), &[round; 32]);
        }
    }
}

#[test]
fn longest_text_is_sealed_alike_by_all() {
    let text: Vec<u8> = (0..=250).cycle().take(RECORD_PLAINTEXT_MAX_BYTES).collect();
    let expected = seal(AeadSuite::default(), &[9; 32], u64::MAX, &text);
    for suite in suites() {
        assert_eq!(seal(suite, &[9; 32], u64::MAX, &text), expected, "{suite}");
    }
}

proptest! {
    #[test]
    fn all_suites_seal_alike_and_open_what_another_sealed(
        key: [u8; 32],
        counter: u64,
        text in vec(any::<u8>(), 0..2000),
    ) {
        let expected = seal(AeadSuite::default(), &key, counter, &text);
        for suite in suites() {
            let sealed = seal(suite, &key, counter, &text);
            prop_assert_eq!(&sealed, &expected, "{}", suite);
            for other in suites() {
                let mut opener = AeadKey::new(other, &key).unwrap();
                let mut theirs = sealed.clone();
                prop_assert!(opener.open(counter, &mut theirs).is_some_and(|opened| opened == text));
            }
        }
    }

    #[test]
    fn all_suites_refuse_a_changed_text_tag_key_or_counter_and_go_on(
        key: [u8; 32],
        counter in 0..u64::MAX,
        text in vec(any::<u8>(), 0..300),
        at: prop::sample::Index,
        bit in 0..8_u32,
    ) {
        let good = seal(AeadSuite::default(), &key, counter, &text);
        let mut changed = good.clone();
        changed[at.index(good.len())] ^= 1 << bit;
        let mut other_key = key;
        other_key[at.index(32)] ^= 1 << bit;
        for suite in suites() {
            let mut opener = AeadKey::new(suite, &key).unwrap();
            prop_assert!(opener.open(counter, &mut changed.clone()).is_none(), "{}", suite);
            prop_assert!(opener.open(counter + 1, &mut good.clone()).is_none(), "{}", suite);
            prop_assert!(opener.open(counter, &mut good[1..].to_vec()).is_none(), "{}", suite);
            let mut other = AeadKey::new(suite, &other_key).unwrap();
            prop_assert!(other.open(counter, &mut good.clone()).is_none(), "{}", suite);
            // A refusal leaves nothing behind in the back end's state.
            let mut again = good.clone();
            prop_assert!(opener.open(counter, &mut again).is_some_and(|opened| opened == text));
        }
    }
}

#[test]
fn text_shorter_than_a_tag_is_refused() {
    for suite in suites() {
        let mut key = AeadKey::new(suite, &[3; 32]).unwrap();
        for bytes in 0..TAG_BYTES {
            assert_eq!(key.open(0, &mut vec![0; bytes]), None, "{suite}");
        }
    }
}

#[test]
fn every_back_end_is_measured_and_agrees_with_ring() {
    let mut now_ns = 0;
    let costs = measure(|| {
        now_ns += 1_000_000;
        now_ns
    });
    let measured: Vec<_> = costs.iter().map(|cost| cost.backend).collect();
    assert_eq!(measured, AeadBackend::built_in().collect::<Vec<_>>());
    for cost in costs {
        assert!(cost.ns.unwrap().iter().all(|ns| *ns < u64::MAX), "{cost:?}");
    }
}

#[test]
fn measuring_ends_early_when_time_is_up() {
    let mut readings = 0_u64;
    measure(|| {
        readings += 1;
        readings * 1_000_000_000
    });
    let samples = AEAD_SAMPLES_MIN * LENGTHS * AeadBackend::built_in().count();
    assert!(readings <= 2 * samples as u64 + 3, "{readings} readings");
}

fn cost(backend: AeadBackend, call_ns: u64, ns_per_kib: u64) -> AeadCost {
    let ns = AEAD_TEXT_BYTES_MEASURED.map(|bytes| call_ns + u64::from(bytes) * ns_per_kib / 1024);
    AeadCost { backend, ns: Ok(ns) }
}

#[test]
fn ring_alone_is_chosen_where_nothing_else_can_be_used() {
    let refused = AeadCost { backend: AeadBackend::Openssl, ns: Err(AeadUnusable::Refused) };
    assert_eq!(cheapest(&[cost(AeadBackend::Ring, 300, 750), refused]).to_string(), "ring");
    assert_eq!(cheapest(&[]).to_string(), "ring");
}

#[test]
fn small_gains_do_not_replace_ring() {
    let costs = [cost(AeadBackend::Ring, 300, 750), cost(AeadBackend::Openssl, 300, 740)];
    assert_eq!(cheapest(&costs).to_string(), "ring");
}

#[cfg(feature = "aead-openssl")]
#[test]
fn back_end_with_cheap_bytes_and_dear_calls_gets_long_texts_only() {
    let ring = cost(AeadBackend::Ring, 300, 750);
    let of = |call_ns, ns_per_kib| {
        cheapest(&[ring, cost(AeadBackend::Openssl, call_ns, ns_per_kib)]).to_string()
    };
    assert_eq!(of(800, 500), "ring+openssl:4096");
    assert_eq!(of(500, 500), "ring+openssl:1024");
    assert_eq!(of(200, 500), "openssl");
    assert_eq!(of(200, 1000), "openssl+ring:1024");
    assert_eq!(of(9000, 500), "ring");
}

#[cfg(feature = "aead-openssl")]
#[test]
fn second_back_end_starts_where_it_wins_without_exception() {
    let mut openssl = cost(AeadBackend::Openssl, 700, 500);
    // A lucky sample at 512 bytes.
    openssl.ns.as_mut().unwrap()[1] = 1;
    let suite = cheapest(&[cost(AeadBackend::Ring, 300, 750), openssl]);
    assert_eq!(suite.to_string(), "ring+openssl:2048");
}
