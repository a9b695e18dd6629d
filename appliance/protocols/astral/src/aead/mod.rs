//! ChaCha20-Poly1305 back ends behind one seam: which there are, and which one seals what.
//!
//! Astral links have one cipher, and it is most of what relaying costs, so its implementation is
//! chosen by measurement. The program chooses an [`AeadSuite`] once at start-up, on its main
//! thread ([`choice`]); the handshake gives it to both directions of a link, whose keys
//! ([`AeadKey`]) live on the data core that owns the link. All back ends write the same bytes:
//! none may be used that disagrees with ring ([`choice::measure`]).
//!
//! | back end | feature | needs | what it is good for |
//! | --- | --- | --- | --- |
//! | `ring` | always there | a C compiler | short texts: the lowest price of a call |
//! | `openssl` | `aead-openssl` | OpenSSL 3 with headers | long texts, with AVX-512 above all |
//! | `rustcrypto` | `aead-rustcrypto` | Rust | an independent implementation to check against |

pub mod choice;
mod key;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

pub use key::AeadKey;
pub(crate) use key::KEY_BYTES;

/// Names an implementation of ChaCha20-Poly1305, built into this program or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AeadBackend {
    /// libcrypto of OpenSSL 3, through its EVP interface.
    Openssl,
    /// The *ring* crate.
    #[default]
    Ring,
    /// The `chacha20poly1305` crate of the RustCrypto project.
    RustCrypto,
}

impl AeadBackend {
    /// Every back end there could be, the one that is always there first.
    pub const ALL: [Self; 3] = [Self::Ring, Self::Openssl, Self::RustCrypto];

    /// The name in configurations and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Openssl => "openssl",
            Self::Ring => "ring",
            Self::RustCrypto => "rustcrypto",
        }
    }

    /// Whether this program has it.
    pub const fn is_built_in(self) -> bool {
        match self {
            Self::Openssl => cfg!(feature = "aead-openssl"),
            Self::Ring => true,
            Self::RustCrypto => cfg!(feature = "aead-rustcrypto"),
        }
    }

    /// The back ends this program has.
    pub fn built_in() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|backend| backend.is_built_in())
    }
}

impl fmt::Display for AeadBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AeadBackend {
    type Err = AeadNameError;

    fn from_str(text: &str) -> Result<Self, AeadNameError> {
        let named = Self::ALL.into_iter().find(|backend| backend.name() == text);
        let backend = named.ok_or(AeadNameError::Unknown)?;
        if backend.is_built_in() { Ok(backend) } else { Err(AeadNameError::NotBuiltIn(backend)) }
    }
}

/// Says which back end takes which texts: one for all of them, or a second one for long texts.
///
/// A call has a fixed price and a price per byte, and no back end has the lowest of both: half of
/// all calls are for the two bytes of a record's length.
///
/// As text, a suite is `ring`, or `ring+openssl:2048` where OpenSSL takes texts from 2048 bytes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AeadSuite {
    short: AeadBackend,
    long: Option<LongTexts>,
}

/// The second back end of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LongTexts {
    backend: AeadBackend,
    min_bytes: u16,
}

impl AeadSuite {
    /// One back end for everything. `None` if this program does not have it.
    pub fn alone(backend: AeadBackend) -> Option<Self> {
        backend.is_built_in().then_some(Self { short: backend, long: None })
    }

    /// `short`, and `long` for texts of at least `min_bytes`. `None` if this program does not have
    /// both, or if they are the same.
    pub fn split(short: AeadBackend, long: AeadBackend, min_bytes: u16) -> Option<Self> {
        let possible = short.is_built_in() && long.is_built_in() && short != long;
        possible.then_some(Self { short, long: Some(LongTexts { backend: long, min_bytes }) })
    }

    /// Whether a text of so many bytes is for the second back end.
    #[inline]
    fn is_long(&self, text_bytes: usize) -> bool {
        self.long.is_some_and(|long| text_bytes >= usize::from(long.min_bytes))
    }
}

impl fmt::Display for AeadSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.short.fmt(f)?;
        match self.long {
            Some(LongTexts { backend, min_bytes }) => write!(f, "+{backend}:{min_bytes}"),
            None => Ok(()),
        }
    }
}

impl FromStr for AeadSuite {
    type Err = AeadNameError;

    fn from_str(text: &str) -> Result<Self, AeadNameError> {
        let Some((short, long)) = text.split_once('+') else {
            return Ok(Self { short: text.parse()?, long: None });
        };
        let (long, min_bytes) = long.split_once(':').ok_or(AeadNameError::Unknown)?;
        let min_bytes = min_bytes.parse().map_err(|_not_a_number| AeadNameError::Unknown)?;
        Self::split(short.parse()?, long.parse()?, min_bytes).ok_or(AeadNameError::Unknown)
    }
}

/// Says why a text names no back end or suite of this program; the operator's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AeadNameError {
    /// The back end exists, but not in this program.
    #[error("not built into this program; build it with the cargo feature aead-{0}")]
    NotBuiltIn(AeadBackend),
    /// No back end has that name.
    #[error("not ring, openssl, rustcrypto or two of them as ring+openssl:2048")]
    Unknown,
}
