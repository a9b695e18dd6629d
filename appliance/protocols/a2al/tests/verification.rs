//! What this crate's verification says is what `ring` says, which is what upstream's library says: for
//! every input that libraries are known to differ about, and for mutations of whatever holds.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]
#![allow(clippy::print_stdout, reason = "how many of the inputs hold is of interest")]

use std::collections::BTreeMap;

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use ring::digest::{Context, SHA512};
use ring::signature::{ED25519, UnparsedPublicKey};
use waystation_a2al::keys::{Ed25519, PublicKey, Signature, Signatures, SigningKey, Verifier as _};
use waystation_a2al::random::RandomSource;
use waystation_a2al::verification::RememberingEd25519;

/// The order of the group, little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];
/// Messages that are tried until one makes a hash with the wanted remainder by eight: far more than
/// it takes.
const MESSAGES_TRIED: u32 = 10_000;
const MUTATIONS: usize = 100_000;

fn ring_says(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    UnparsedPublicKey::new(&ED25519, &key.0).verify(message, &signature.0).is_ok()
}

/// Asks all; gives back what they agree on.
fn verdict(
    remembering: &mut RememberingEd25519,
    key: &PublicKey,
    message: &[u8],
    signature: &Signature,
) -> bool {
    let expected = ring_says(key, message, signature);
    let input = || format!("{key:?} {message:02x?} {:02x?}", signature.0);
    assert_eq!(Ed25519.verifies(key, message, signature), expected, "{}", input());
    for time in ["first", "second"] {
        let says = remembering.verifies(key, message, signature);
        assert_eq!(says, expected, "the {time} time: {}", input());
    }
    expected
}

/// A sum of 256 bits, without what is carried out.
fn sum(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut carried = 0;
    std::array::from_fn(|at| {
        carried += u16::from(left[at]) + u16::from(right[at]);
        let byte = (carried & 0xff) as u8;
        carried >>= 8;
        byte
    })
}

fn signature(r: &[u8; 32], s: &[u8; 32]) -> Signature {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(r);
    bytes[32..].copy_from_slice(s);
    Signature(bytes)
}

fn challenge(r: &[u8; 32], key: &PublicKey, message: &[u8]) -> Scalar {
    let mut context = Context::new(&SHA512);
    [&r[..], &key.0, message].iter().for_each(|part| context.update(part));
    Scalar::from_bytes_mod_order_wide(context.finish().as_ref().try_into().unwrap())
}

/// Encodings of y-coordinates that are not below the field's prime, and of a zero with a sign: nobody
/// writes them, and libraries read them or do not. y and y + 2^255 - 19 are the same for y < 19.
fn encodings_that_nobody_writes() -> Vec<[u8; 32]> {
    let mut prime = [0xff; 32];
    (prime[0], prime[31]) = (0xed, 0x7f);
    let small = |value: u8| std::array::from_fn(|at| if at == 0 { value } else { 0 });
    let mut all: Vec<[u8; 32]> = (0..19).map(|value| sum(&prime, &small(value))).collect();
    all.push(small(1));
    // The prime less one: y = -1, at which x is zero.
    all.push(sum(&prime, &[0xff; 32]));
    let signed = |mut bytes: [u8; 32]| {
        bytes[31] |= 0x80;
        bytes
    };
    let with_sign: Vec<[u8; 32]> = all.iter().copied().map(signed).collect();
    all.extend(with_sign);
    all
}

fn torsion() -> Vec<[u8; 32]> {
    EIGHT_TORSION.iter().map(|point| point.compress().0).collect()
}

fn scalar(random: &mut RandomSource) -> Scalar {
    let (low, high): ([u8; 32], [u8; 32]) = (random.bytes(), random.bytes());
    let mut wide = [0; 64];
    wide[..32].copy_from_slice(&low);
    wide[32..].copy_from_slice(&high);
    Scalar::from_bytes_mod_order_wide(&wide)
}

#[test]
fn points_of_small_order_and_odd_encodings_count_as_they_do_for_ring() {
    let mut random = RandomSource::new([1; 32]);
    let mut remembering = RememberingEd25519::default();
    let honest = EdwardsPoint::mul_base(&scalar(&mut random)).compress().0;
    let mut points = [torsion(), encodings_that_nobody_writes()].concat();
    points.push(honest);
    points.push([0xff; 32]);
    points.push(std::array::from_fn(|at| if at == 0 { 2 } else { 0 }));
    let zero = [0; 32];
    let scalars = [zero, ORDER, Scalar::ONE.to_bytes()];
    let mut held = 0;
    for key in points.iter().copied().map(PublicKey) {
        for r in &points {
            for (s, message) in scalars.iter().zip([b"a", b"b", b"c"]) {
                let holds = verdict(&mut remembering, &key, message, &signature(r, s));
                assert!(!holds || *s != ORDER, "S has one form");
                held += usize::from(holds);
            }
        }
    }
    // A key of small order signs whatever its multiples allow.
    println!("{held} signatures of small order hold");
    assert!(held >= 8, "{held}");
}

#[test]
fn keys_outside_the_prime_group_count_as_they_do_for_ring() {
    let mut random = RandomSource::new([2; 32]);
    let mut remembering = RememberingEd25519::default();
    let mut held: BTreeMap<bool, usize> = BTreeMap::new();
    for of_key in EIGHT_TORSION {
        for of_r in EIGHT_TORSION {
            let (a, r) = (scalar(&mut random), scalar(&mut random));
            let key = PublicKey((EdwardsPoint::mul_base(&a) + of_key).compress().0);
            let r_bytes = (EdwardsPoint::mul_base(&r) + of_r).compress().0;
            // S·B − h·A is R only for hashes that take what is outside away; with the cofactor all
            // of them would do.
            let fits = |message: &u32| {
                let h = challenge(&r_bytes, &key, &message.to_be_bytes());
                -(of_key * h) == of_r
            };
            let sign = |message: u32| {
                let h = challenge(&r_bytes, &key, &message.to_be_bytes());
                signature(&r_bytes, &(r + h * a).to_bytes())
            };
            let fitting = (0..MESSAGES_TRIED).find(fits);
            let other = (0..MESSAGES_TRIED).find(|message| !fits(message));
            for message in fitting.into_iter().chain(other) {
                let bytes = message.to_be_bytes();
                let holds = verdict(&mut remembering, &key, &bytes, &sign(message));
                assert_eq!(holds, fitting == Some(message), "{of_key:?} {of_r:?}");
                *held.entry(holds).or_default() += 1;
            }
        }
    }
    println!("{held:?}");
    assert!(held[&true] >= 8 && held[&false] >= 8, "{held:?}");
}

#[test]
fn a_scalar_has_one_form() {
    let key = SigningKey::from_seed(&[3; 32]).unwrap();
    let good = key.sign(b"message");
    let mut remembering = RememberingEd25519::default();
    assert!(verdict(&mut remembering, &key.public(), b"message", &good));
    let (r, s) = (good.0[..32].try_into().unwrap(), good.0[32..].try_into().unwrap());
    let mut larger: [u8; 32] = s;
    // Every further form that fits 256 bits.
    for _ in 0..15 {
        larger = sum(&larger, &ORDER);
        assert!(!verdict(&mut remembering, &key.public(), b"message", &signature(&r, &larger)));
    }
    for s in [ORDER, [0xff; 32], sum(&ORDER, &Scalar::ONE.to_bytes())] {
        assert!(!verdict(&mut remembering, &key.public(), b"message", &signature(&r, &s)));
    }
}

#[test]
fn a_hundred_thousand_mutations_count_as_they_do_for_ring() {
    let mut random = RandomSource::new([4; 32]);
    let keys: Vec<SigningKey> =
        (0..64).map(|number| SigningKey::from_seed(&[number; 32]).unwrap()).collect();
    let signer = |key: &SigningKey, message: &[u8]| (key.public(), key.sign(message));
    let mut verifier = RememberingEd25519::default();
    let mut held = 0;
    for _ in 0..MUTATIONS {
        let mut message: [u8; 32] = random.bytes();
        let key = &keys[random.below(keys.len())];
        let (mut public, mut signature) = signer(key, &message);
        for _ in 0..random.below(3) {
            let (place, bit) = (random.below(32 + 64 + 32), 1 << random.below(8));
            match place {
                0..32 => public.0[place] ^= bit,
                32..96 => signature.0[place - 32] ^= bit,
                _ => message[place - 96] ^= bit,
            }
        }
        let expected = ring_says(&public, &message, &signature);
        assert_eq!(
            verifier.verifies(&public, &message, &signature),
            expected,
            "{public:?} {message:02x?} {:02x?}",
            signature.0
        );
        held += usize::from(expected);
    }
    println!("{held} of {MUTATIONS} hold");
    assert!(held > MUTATIONS / 4 && held < MUTATIONS / 2, "{held}");
}

#[test]
fn keys_of_forgeries_are_not_remembered() {
    let mut verifier = RememberingEd25519::default();
    let key = |number: u16| {
        let mut seed = [5; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        SigningKey::from_seed(&seed).unwrap()
    };
    for number in 0..100 {
        let (signer, other) = (key(number), key(number + 1));
        assert!(!verifier.verifies(&signer.public(), b"said", &other.sign(b"said")));
    }
    assert_eq!(verifier.known(), 0);
    for number in 0..100 {
        let signer = key(number);
        assert!(verifier.verifies(&signer.public(), b"said", &signer.sign(b"said")));
    }
    assert_eq!(verifier.known(), 100);
    // A node's own is of this kind.
    let Signatures { mut verifier, signer } = Signatures::from(key(0));
    assert!(verifier.verifies(&signer.public(), b"said", &signer.sign(b"said")));
}
