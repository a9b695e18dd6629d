//! A key inside its back ends, ready to seal and open.

use std::fmt;

#[cfg(feature = "aead-rustcrypto")]
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use zeroize::Zeroizing;

use super::{AeadBackend, AeadSuite};
use crate::limits::TAG_BYTES;

/// Bytes of a ChaCha20 key (RFC 8439 §2.3).
pub(crate) const KEY_BYTES: usize = 32;

/// A ChaCha20-Poly1305 key without associated data, whose nonces are a counter (spec §0.2, §3.3).
///
/// Sealing and opening never allocate, with one exception: the first long text under a split
/// [`AeadSuite`] makes the second back end's state, so that links which never carry one do not pay
/// for it. All methods return `None` only for a text that does not authenticate, or if a back end
/// fails, which the program has ruled out for its choice at start-up.
pub struct AeadKey {
    suite: AeadSuite,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    short: Cipher,
    /// Boxed: a cipher has up to half a kilobyte, and most links need only one.
    long: Option<Box<Cipher>>,
}

impl AeadKey {
    /// Makes a key. Its copy of the bytes is erased when it is replaced or dropped.
    pub fn new(suite: AeadSuite, key: &[u8; KEY_BYTES]) -> Option<Self> {
        let short = Cipher::new(suite.short, key)?;
        Some(Self { suite, bytes: Zeroizing::new(*key), short, long: None })
    }

    /// Replaces the key. State outside of this value is kept and used again.
    pub fn replace(&mut self, key: &[u8; KEY_BYTES]) -> Option<()> {
        self.bytes.copy_from_slice(key);
        self.short.replace(key)?;
        match &mut self.long {
            Some(long) => long.replace(key),
            None => Some(()),
        }
    }

    /// The key itself, which the next one is derived from.
    pub(crate) fn expose_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }

    /// Encrypts `text` in place under the nonce `counter` and writes its tag.
    #[inline]
    pub fn seal(&mut self, counter: u64, text: &mut [u8], tag: &mut [u8; TAG_BYTES]) -> Option<()> {
        self.cipher(text.len())?.seal(&nonce(counter), text, tag)
    }

    /// Decrypts `sealed` in place under the nonce `counter`, its tag at the end, and returns the
    /// plaintext. After a failure its content means nothing.
    #[inline]
    pub fn open<'a>(&mut self, counter: u64, sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let text_bytes = sealed.len().checked_sub(TAG_BYTES)?;
        self.cipher(text_bytes)?.open(&nonce(counter), sealed)
    }

    /// The cipher for a text of that length.
    #[inline]
    fn cipher(&mut self, text_bytes: usize) -> Option<&mut Cipher> {
        if !self.suite.is_long(text_bytes) {
            return Some(&mut self.short);
        }
        if self.long.is_none() {
            self.add_long()?;
        }
        self.long.as_deref_mut()
    }

    #[cold]
    fn add_long(&mut self) -> Option<()> {
        let backend = self.suite.long?.backend;
        self.long = Some(Box::new(Cipher::new(backend, &self.bytes)?));
        Some(())
    }
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AeadKey").field("suite", &self.suite).finish_non_exhaustive()
    }
}

type NonceBytes = [u8; NONCE_LEN];

/// Four zero bytes and the counter, the only little-endian number of the protocol (spec §0.2).
#[inline]
fn nonce(counter: u64) -> NonceBytes {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// A key in one back end. What ring expands from a key is out of our reach; the others erase it.
#[allow(clippy::large_enum_variant, reason = "ring serves most texts; a box would be a cache miss")]
enum Cipher {
    #[cfg(feature = "aead-openssl")]
    Openssl(openssl_context::Context),
    Ring(LessSafeKey),
    #[cfg(feature = "aead-rustcrypto")]
    RustCrypto(ChaCha20Poly1305),
}

impl Cipher {
    /// `None` if the back end is not built in or refuses the key.
    fn new(backend: AeadBackend, key: &[u8; KEY_BYTES]) -> Option<Self> {
        match backend {
            #[cfg(feature = "aead-openssl")]
            AeadBackend::Openssl => openssl_context::Context::new(key).map(Self::Openssl),
            #[cfg(not(feature = "aead-openssl"))]
            AeadBackend::Openssl => None,
            AeadBackend::Ring => {
                UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new).map(Self::Ring)
            }
            #[cfg(feature = "aead-rustcrypto")]
            AeadBackend::RustCrypto => Some(Self::RustCrypto(ChaCha20Poly1305::new(key.into()))),
            #[cfg(not(feature = "aead-rustcrypto"))]
            AeadBackend::RustCrypto => None,
        }
    }

    fn replace(&mut self, key: &[u8; KEY_BYTES]) -> Option<()> {
        match self {
            #[cfg(feature = "aead-openssl")]
            Self::Openssl(context) => context.replace(key),
            Self::Ring(_) => {
                *self = Self::new(AeadBackend::Ring, key)?;
                Some(())
            }
            #[cfg(feature = "aead-rustcrypto")]
            Self::RustCrypto(_) => {
                *self = Self::new(AeadBackend::RustCrypto, key)?;
                Some(())
            }
        }
    }

    #[inline]
    fn seal(
        &mut self,
        nonce: &NonceBytes,
        text: &mut [u8],
        tag: &mut [u8; TAG_BYTES],
    ) -> Option<()> {
        match self {
            #[cfg(feature = "aead-openssl")]
            Self::Openssl(context) => context.seal(nonce, text, tag),
            Self::Ring(key) => {
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let sealed = key.seal_in_place_separate_tag(nonce, Aad::empty(), text);
                tag.copy_from_slice(sealed.ok()?.as_ref());
                Some(())
            }
            #[cfg(feature = "aead-rustcrypto")]
            Self::RustCrypto(key) => {
                let sealed = key.encrypt_inout_detached(nonce.into(), &[], text.into());
                tag.copy_from_slice(&sealed.ok()?);
                Some(())
            }
        }
    }

    #[inline]
    fn open<'a>(&mut self, nonce: &NonceBytes, sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        match self {
            #[cfg(feature = "aead-openssl")]
            Self::Openssl(context) => context.open(nonce, sealed),
            Self::Ring(key) => {
                let nonce = Nonce::assume_unique_for_key(*nonce);
                key.open_in_place(nonce, Aad::empty(), sealed).ok()
            }
            #[cfg(feature = "aead-rustcrypto")]
            Self::RustCrypto(key) => {
                let (text, tag) = sealed.split_last_chunk_mut::<TAG_BYTES>()?;
                let tag = (&*tag).into();
                key.decrypt_inout_detached(nonce.into(), &[], (&mut *text).into(), tag).ok()?;
                Some(text)
            }
        }
    }
}

/// OpenSSL's side. A context is made once per key and only gets a new nonce for each text, which
/// allocates nothing; libcrypto erases its content when it is freed.
#[cfg(feature = "aead-openssl")]
mod openssl_context {
    use openssl::cipher::Cipher;
    use openssl::cipher_ctx::CipherCtx;

    use super::{KEY_BYTES, NonceBytes, TAG_BYTES};

    pub(super) struct Context(CipherCtx);

    impl Context {
        /// `None` if libcrypto may not use the cipher, as where only FIPS ciphers are allowed.
        pub(super) fn new(key: &[u8; KEY_BYTES]) -> Option<Self> {
            let mut context = CipherCtx::new().ok()?;
            context.encrypt_init(Some(Cipher::chacha20_poly1305()), Some(key), None).ok()?;
            Some(Self(context))
        }

        pub(super) fn replace(&mut self, key: &[u8; KEY_BYTES]) -> Option<()> {
            self.0.encrypt_init(None, Some(key), None).ok()
        }

        pub(super) fn seal(
            &mut self,
            nonce: &NonceBytes,
            text: &mut [u8],
            tag: &mut [u8; TAG_BYTES],
        ) -> Option<()> {
            self.0.encrypt_init(None, None, Some(nonce)).ok()?;
            self.run(text)?;
            self.0.tag(tag).ok()
        }

        pub(super) fn open<'a>(
            &mut self,
            nonce: &NonceBytes,
            sealed: &'a mut [u8],
        ) -> Option<&'a mut [u8]> {
            let (text, tag) = sealed.split_last_chunk_mut::<TAG_BYTES>()?;
            self.0.decrypt_init(None, None, Some(nonce)).ok()?;
            self.0.set_tag(tag).ok()?;
            if self.run(text).is_none() {
                // Here the text is decrypted before its tag is known to be right.
                text.fill(0);
                return None;
            }
            Some(text)
        }

        /// Encrypts or decrypts a whole text. An empty one has only a tag.
        fn run(&mut self, text: &mut [u8]) -> Option<()> {
            if !text.is_empty() {
                self.0.cipher_update_inplace(text, text.len()).ok()?;
            }
            self.0.cipher_final(&mut []).ok()?;
            Some(())
        }
    }
}
