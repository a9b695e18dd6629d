//! Who a node is: its public point, and the private scalar behind it.
//!
//! Owns the binary and text forms of identities (spec §2) and the in-memory life of private keys.
//! Every room uses it, on every thread; nothing here waits, logs or draws random bytes. A private
//! key never reaches text: it has neither `Display` nor `Clone`, and its `Debug` shows whose it is.

use std::fmt;
use std::str::FromStr;

use secp256k1::PublicKey;
use secp256k1::ecdh::SharedSecret;
use thiserror::Error;

use crate::limits::{IDENTITY_BYTES, IDENTITY_TEXT_BYTES, SECRET_KEY_BYTES};

/// The text that means the zero identity besides 66 zeros (spec §2).
const ANYONE_TEXT: &str = "anyone";

/// Names a node by its 33-byte compressed secp256k1 point; 33 zero bytes mean "anyone" (spec §2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity([u8; IDENTITY_BYTES]);

impl Identity {
    /// The zero identity: nobody in particular (spec §2).
    pub const ANYONE: Self = Self([0; IDENTITY_BYTES]);
    /// Bytes of the binary form.
    pub const BYTES: usize = IDENTITY_BYTES;

    /// Reads the binary form.
    ///
    /// # Errors
    /// [`IdentityError::NotAPoint`] unless the bytes are all zero or a compressed curve point.
    pub fn from_bytes(bytes: &[u8; IDENTITY_BYTES]) -> Result<Self, IdentityError> {
        if *bytes == Self::ANYONE.0 {
            return Ok(Self::ANYONE);
        }
        // The compressed form of a point is unique, so equal bytes are equal points.
        let Ok(_) = PublicKey::from_byte_array_compressed(*bytes) else {
            return Err(IdentityError::NotAPoint);
        };
        Ok(Self(*bytes))
    }

    /// Returns the binary form.
    pub fn as_bytes(&self) -> &[u8; IDENTITY_BYTES] {
        &self.0
    }

    /// Tells whether this is the zero identity.
    pub fn is_anyone(&self) -> bool {
        *self == Self::ANYONE
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// Reads 66 hexadecimal digits of either case, or the word `anyone`.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text == ANYONE_TEXT {
            return Ok(Self::ANYONE);
        }
        if text.len() != IDENTITY_TEXT_BYTES {
            return Err(IdentityError::TextLength { bytes: text.len() });
        }
        let mut bytes = [0; IDENTITY_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            for digit in pair {
                let Some(value) = char::from(*digit).to_digit(16) else {
                    return Err(IdentityError::TextDigit { byte: *digit });
                };
                *byte = (*byte << 4) | value as u8;
            }
        }
        Self::from_bytes(&bytes)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(")?;
        write_hex(&self.0[..4], f)?;
        f.write_str("…)")
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// A peer's point, ready for key agreement. Reading one costs a square root, a tenth of an
/// agreement.
#[derive(Clone, Copy)]
pub(crate) struct Point {
    identity: Identity,
    key: PublicKey,
}

impl Point {
    /// Reads a compressed point; `None` if it is not on the curve.
    pub(crate) fn from_bytes(bytes: &[u8; IDENTITY_BYTES]) -> Option<Self> {
        let key = PublicKey::from_byte_array_compressed(*bytes).ok()?;
        Some(Self { identity: Identity(*bytes), key })
    }

    /// Whose point it is.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }
}

/// Holds a node's private scalar and the identity that follows from it.
///
/// The scalar is erased when the key is dropped. Copies are made only by [`SecretKey::duplicate`].
pub struct SecretKey {
    scalar: secp256k1::SecretKey,
    identity: Identity,
}

impl SecretKey {
    /// Takes a big-endian scalar and computes its identity, which costs one base point
    /// multiplication.
    ///
    /// # Errors
    /// [`IdentityError::NotAScalar`] for zero and for values not below the curve's order.
    pub fn from_bytes(bytes: &[u8; SECRET_KEY_BYTES]) -> Result<Self, IdentityError> {
        let Ok(scalar) = secp256k1::SecretKey::from_secret_bytes(*bytes) else {
            return Err(IdentityError::NotAScalar);
        };
        let identity = Identity(PublicKey::from_secret_key(&scalar).serialize());
        Ok(Self { scalar, identity })
    }

    /// Returns the identity whose private half this is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Returns the same as [`SecretKey::identity`], by reference.
    pub(crate) fn identity_ref(&self) -> &Identity {
        &self.identity
    }

    /// Shows the scalar, for writing a key file and for key agreement; never for logs.
    pub fn expose_bytes(&self) -> &[u8; SECRET_KEY_BYTES] {
        self.scalar.as_secret_bytes()
    }

    /// Makes another copy, so that each core can own one.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { scalar: self.scalar, identity: self.identity }
    }

    /// Writes `SHA256(compressed(scalar · point))` to `shared` in constant time (spec §3.1).
    pub(crate) fn agree(&self, point: &Point, shared: &mut [u8; SECRET_KEY_BYTES]) {
        // libsecp256k1's default hash is SHA-256 over the compressed shared point, as BOLT 8 wants.
        let mut secret = SharedSecret::new(&point.key, &self.scalar);
        shared.copy_from_slice(secret.as_secret_bytes());
        secret.non_secure_erase();
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        // A volatile write with a fence behind it; the library calls it "non secure" because copies
        // made by moves are out of its reach.
        self.scalar.non_secure_erase();
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Says why bytes or text are no identity, or no private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The 33 bytes are neither zero nor a compressed curve point.
    #[error("identity is not a point of secp256k1")]
    NotAPoint,
    /// The scalar is zero or not below the order of the curve.
    #[error("private key is zero or not below the order of secp256k1")]
    NotAScalar,
    /// The text holds something other than hexadecimal digits.
    #[error("identity text holds byte {byte:#04x}, which is no hexadecimal digit")]
    TextDigit {
        /// The first offending byte.
        byte: u8,
    },
    /// The text has a length other than 66 and is not `anyone`.
    #[error("identity text is {bytes} bytes long, not 66")]
    TextLength {
        /// Length of the text.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The public point of the scalar 11×32 (spec §18.1).
    const POINT: &str = "034f355bdcb7cc0af728ef3cceb9615d90684bb5b2ca5f859ab0f0b704075871aa";
    /// The order of the curve (SEC 2 §2.4.1).
    const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";

    fn scalar(text: &str) -> [u8; 32] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn text_of_either_case_reads_as_the_same_point() {
        let identity: Identity = POINT.parse().unwrap();
        assert_eq!(POINT.to_uppercase().parse(), Ok(identity));
        assert_eq!(identity.to_string(), POINT);
        assert_eq!(format!("{identity:?}"), "Identity(034f355b…)");
    }

    #[test]
    fn zero_identity_reads_from_its_three_forms() {
        assert_eq!("anyone".parse(), Ok(Identity::ANYONE));
        assert_eq!("0".repeat(66).parse(), Ok(Identity::ANYONE));
        assert_eq!(Identity::from_bytes(&[0; 33]), Ok(Identity::ANYONE));
        assert_eq!(Identity::ANYONE.to_string(), "0".repeat(66));
        assert!(Identity::ANYONE.is_anyone());
        assert!(!POINT.parse::<Identity>().unwrap().is_anyone());
    }

    #[test]
    fn bytes_off_the_curve_are_refused() {
        let mut bytes = *POINT.parse::<Identity>().unwrap().as_bytes();
        for prefix in [0x00, 0x01, 0x04, 0x05, 0x06, 0x07, 0xff] {
            bytes[0] = prefix;
            assert_eq!(Identity::from_bytes(&bytes), Err(IdentityError::NotAPoint), "{prefix}");
        }
        // No point has x = 5, and x = p is not reduced.
        let mut off_curve = [0; 33];
        (off_curve[0], off_curve[32]) = (2, 5);
        assert_eq!(Identity::from_bytes(&off_curve), Err(IdentityError::NotAPoint));
        let field = "02fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f";
        assert_eq!(field.parse::<Identity>(), Err(IdentityError::NotAPoint));
    }

    #[test]
    fn malformed_text_names_its_fault() {
        let length = |bytes| Err(IdentityError::TextLength { bytes });
        assert_eq!("".parse::<Identity>(), length(0));
        assert_eq!(POINT[1..].parse::<Identity>(), length(65));
        assert_eq!("Anyone".parse::<Identity>(), length(6));
        assert_eq!(
            "0x".repeat(33).parse::<Identity>(),
            Err(IdentityError::TextDigit { byte: b'x' })
        );
        assert_eq!(
            "é".repeat(33).parse::<Identity>(),
            Err(IdentityError::TextDigit { byte: 0xc3 })
        );
    }

    #[test]
    fn scalar_outside_the_group_is_refused() {
        let mut order = scalar(ORDER);
        assert_eq!(SecretKey::from_bytes(&order).unwrap_err(), IdentityError::NotAScalar);
        assert_eq!(SecretKey::from_bytes(&[0; 32]).unwrap_err(), IdentityError::NotAScalar);
        assert_eq!(SecretKey::from_bytes(&[0xff; 32]).unwrap_err(), IdentityError::NotAScalar);
        order[31] -= 1;
        assert!(SecretKey::from_bytes(&order).is_ok());
    }

    #[test]
    fn secret_key_knows_its_identity_and_so_does_its_duplicate() {
        let key = SecretKey::from_bytes(&[0x11; 32]).unwrap();
        assert_eq!(key.identity().to_string(), POINT);
        let copy = key.duplicate();
        drop(key);
        assert_eq!(copy.identity().to_string(), POINT);
        assert_eq!(copy.expose_bytes(), &[0x11; 32]);
    }

    #[test]
    fn debug_of_a_secret_key_shows_only_whose_it_is() {
        let key = SecretKey::from_bytes(&[0xab; 32]).unwrap();
        let text = format!("{key:?} {key:#?}");
        let identity = format!("{:?}", key.identity());
        assert!(text.contains(&identity), "{text}");
        let rest = text.replace(&identity, "");
        assert!(!rest.contains("ab") && !rest.contains("171"), "{rest}");
    }

    #[test]
    fn both_sides_agree_on_the_same_secret_and_refuse_what_is_no_point() {
        let (one, two) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
        let (one, two) = (one.unwrap(), two.unwrap());
        let (mut left, mut right) = ([0; 32], [0; 32]);
        let point = |key: &SecretKey| Point::from_bytes(key.identity().as_bytes()).unwrap();
        one.agree(&point(&two), &mut left);
        two.agree(&point(&one), &mut right);
        assert_eq!(left, right);
        assert_ne!(left, [0; 32]);
        assert_eq!(point(&one).identity(), one.identity());
        assert!(Point::from_bytes(&[0; 33]).is_none());
    }

    proptest! {
        #[test]
        fn every_identity_survives_text_and_bytes(bytes in any::<[u8; 32]>()) {
            let Ok(key) = SecretKey::from_bytes(&bytes) else { return Ok(()) };
            let identity = key.identity();
            prop_assert_eq!(identity.to_string().parse(), Ok(identity));
            prop_assert_eq!(Identity::from_bytes(identity.as_bytes()), Ok(identity));
        }

        #[test]
        fn any_text_reads_without_panic(text in ".{0,80}") {
            let _ = text.parse::<Identity>();
        }
    }
}
