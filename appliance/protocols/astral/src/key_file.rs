//! The file that holds a node's private key, in every form stock nodes have written (spec §2).
//!
//! The program reads it once at start-up and writes it when it makes a new identity; opening the
//! file, its mode and its path are the program's business.

use thiserror::Error;
use zeroize::Zeroizing;

use crate::identity::{IdentityError, SecretKey};
use crate::limits::{KEY_FILE_MAX_BYTES, SECRET_KEY_BYTES};

/// What every canonical object starts with: `ADC0` (spec §5.2).
const MAGIC: &[u8] = b"ADC0";
/// Object type of `node_identity` files, until 2026-02-04.
const OLD_TYPE: &[u8] = b"keys.private_key";
/// Algorithm of `node_identity` files.
const OLD_ALGORITHM: &[u8] = b"ecdsa-secp256k1";
/// Object type of `node_key` files, from 2026-02-05.
const NEW_TYPE: &[u8] = b"mod.crypto.private_key";
/// Algorithm of `node_key` files.
const NEW_ALGORITHM: &[u8] = b"secp256k1";

/// Reads a key file: 32 raw bytes, or a canonical object of either type, and nothing else.
///
/// # Errors
/// For any other content, naming the part that is wrong.
pub fn read(bytes: &[u8]) -> Result<SecretKey, KeyFileError> {
    if let Ok(scalar) = bytes.try_into() {
        return Ok(SecretKey::from_bytes(scalar)?);
    }
    let object = bytes.strip_prefix(MAGIC).ok_or(KeyFileError::Unrecognised)?;
    let (type_name, payload) = take_short(object)?;
    let (algorithm, scalar) = match type_name {
        OLD_TYPE => {
            let (algorithm, rest) = take_short(payload)?;
            let (length, scalar) = rest.split_first().ok_or(KeyFileError::Truncated)?;
            expect_length(usize::from(*length))?;
            (algorithm == OLD_ALGORITHM, scalar)
        }
        NEW_TYPE => {
            let (algorithm, rest) = take_short(payload)?;
            let (length, scalar) = rest.split_first_chunk().ok_or(KeyFileError::Truncated)?;
            expect_length(usize::from(u16::from_be_bytes(*length)))?;
            (algorithm == NEW_ALGORITHM, scalar)
        }
        _ => return Err(KeyFileError::ObjectType),
    };
    if !algorithm {
        return Err(KeyFileError::Algorithm);
    }
    let (scalar, surplus) = scalar.split_first_chunk().ok_or(KeyFileError::Truncated)?;
    if !surplus.is_empty() {
        return Err(KeyFileError::Surplus { bytes: surplus.len() });
    }
    Ok(SecretKey::from_bytes(scalar)?)
}

/// Writes the `node_key` form, which nodes read from 2026-02-05 on. The bytes are erased when
/// dropped.
pub fn write(key: &SecretKey) -> Zeroizing<Vec<u8>> {
    // Reserving all of it keeps the vector from growing and leaving copies behind.
    let mut file = Zeroizing::new(Vec::with_capacity(KEY_FILE_MAX_BYTES));
    file.extend_from_slice(MAGIC);
    for name in [NEW_TYPE, NEW_ALGORITHM] {
        file.push(name.len() as u8);
        file.extend_from_slice(name);
    }
    file.extend_from_slice(&(SECRET_KEY_BYTES as u16).to_be_bytes());
    file.extend_from_slice(key.expose_bytes());
    file
}

/// Splits a string with a one-byte length off.
fn take_short(bytes: &[u8]) -> Result<(&[u8], &[u8]), KeyFileError> {
    let (length, rest) = bytes.split_first().ok_or(KeyFileError::Truncated)?;
    rest.split_at_checked(usize::from(*length)).ok_or(KeyFileError::Truncated)
}

fn expect_length(bytes: usize) -> Result<(), KeyFileError> {
    if bytes != SECRET_KEY_BYTES {
        return Err(KeyFileError::ScalarLength { bytes });
    }
    Ok(())
}

/// Says what is wrong with a key file; always the operator's concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyFileError {
    /// The key is for another algorithm than secp256k1.
    #[error("key file holds a key of another algorithm than secp256k1")]
    Algorithm,
    /// The object is no private key.
    #[error("key file holds an object that is no private key")]
    ObjectType,
    /// The scalar is out of range.
    #[error("key file: {0}")]
    Scalar(#[from] IdentityError),
    /// The scalar is announced with a length other than 32.
    #[error("key file announces a scalar of {bytes} bytes, not {SECRET_KEY_BYTES}")]
    ScalarLength {
        /// The announced length.
        bytes: usize,
    },
    /// Bytes follow the key.
    #[error("key file has {bytes} bytes after the key")]
    Surplus {
        /// How many.
        bytes: usize,
    },
    /// The file ends early.
    #[error("key file ends early")]
    Truncated,
    /// The file is neither 32 bytes long nor a canonical object.
    #[error("key file is neither 32 raw bytes nor a canonical object")]
    Unrecognised,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn old_form(scalar: &[u8]) -> Vec<u8> {
        [b"ADC0\x10keys.private_key\x0fecdsa-secp256k1\x20", scalar].concat()
    }

    #[test]
    fn malformed_file_names_its_fault() {
        let good = old_form(&[0x11; 32]);
        let swap = |from: &str, to: &str| {
            let text = String::from_utf8(good.clone()).unwrap();
            read(text.replacen(from, to, 1).as_bytes()).unwrap_err()
        };
        assert_eq!(swap("ADC0", "ADC1"), KeyFileError::Unrecognised);
        assert_eq!(swap("keys.private", "keys.publics"), KeyFileError::ObjectType);
        assert_eq!(swap("ecdsa-secp256k1", "ecdsa-secp256r1"), KeyFileError::Algorithm);
        assert_eq!(swap("k1\x20", "k1\x1f"), KeyFileError::ScalarLength { bytes: 31 });
        assert_eq!(read(&[]).unwrap_err(), KeyFileError::Unrecognised);
        assert_eq!(read(&[0x11; 33]).unwrap_err(), KeyFileError::Unrecognised);
        let scalar = KeyFileError::Scalar(IdentityError::NotAScalar);
        assert_eq!(read(&[0; 32]).unwrap_err(), scalar);
        assert_eq!(read(&old_form(&[0xff; 32])).unwrap_err(), scalar);
    }

    #[test]
    fn every_cut_and_every_surplus_is_refused() {
        let key = SecretKey::from_bytes(&[0x11; 32]).unwrap();
        for file in [old_form(&[0x11; 32]), write(&key).to_vec()] {
            assert_eq!(read(&file).unwrap().identity(), key.identity());
            for cut in MAGIC.len()..file.len() {
                // Cut to 32 bytes, what is left of a canonical object passes for a raw scalar.
                let expected = (cut != SECRET_KEY_BYTES).then_some(KeyFileError::Truncated);
                assert_eq!(read(&file[..cut]).err(), expected, "{cut}");
            }
            let longer = [&file[..], b"\n"].concat();
            assert_eq!(read(&longer).unwrap_err(), KeyFileError::Surplus { bytes: 1 });
        }
    }

    #[test]
    fn longest_file_is_the_one_we_write() {
        let file = write(&SecretKey::from_bytes(&[0x11; 32]).unwrap());
        assert_eq!(file.len(), KEY_FILE_MAX_BYTES);
    }

    proptest! {
        #[test]
        fn written_key_reads_back(bytes in any::<[u8; 32]>()) {
            let Ok(key) = SecretKey::from_bytes(&bytes) else { return Ok(()) };
            let back = read(&write(&key)).unwrap();
            prop_assert_eq!(back.expose_bytes(), &bytes);
        }

        #[test]
        fn any_bytes_read_without_panic(tail in any::<Vec<u8>>()) {
            let _ = read(&tail);
            let _ = read(&[MAGIC, &tail].concat());
        }
    }
}
