//! Nonces that need no memory: made of the time and the client's address, and recognised by a MAC.
//!
//! Owns their layout (RFC 8489 §9.2): the cookie, the security features, then in base64 the time of
//! issue and an HMAC-SHA256 over all of it and the client's address, port and transport. So a nonce
//! proves that its client receives what is sent to its address, for as long as it is good, and a
//! changed feature bit makes it none of ours. Called on a data core for every request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::hmac;
use subtle::ConstantTimeEq as _;

use crate::limits::{NONCE_BYTES, NONCE_KEY_BYTES, NONCE_MAC_BYTES};
use crate::transport::FiveTuple;

/// What begins a nonce of a server that follows RFC 8489 (§9.2).
const COOKIE: &[u8; 9] = b"obMatJos2";
/// The feature "Password algorithms": bit 0, the least significant (erratum 6290 to RFC 8489 §18.1,
/// which the corrected vector of Appendix B.1 agrees with).
const PASSWORD_ALGORITHMS: u8 = 1;
/// The feature "Username anonymity": bit 1.
const USERNAME_ANONYMITY: u8 = 2;
/// Bytes of cookie and features.
const PREFIX_BYTES: usize = COOKIE.len() + 4;
/// Bytes of time and MAC before base64.
const STAMP_BYTES: usize = 4 + NONCE_MAC_BYTES;

/// A nonce on its way to a client.
pub type Nonce = [u8; NONCE_BYTES];

/// What a server is able to do, as its nonces say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SecurityFeatures {
    /// It lists password algorithms, and a client is to choose one.
    pub password_algorithms: bool,
    /// It knows users by USERHASH, and a client is to send that instead of its name.
    pub username_anonymity: bool,
}

impl SecurityFeatures {
    /// What a nonce of any server says; nothing if it does not begin with the cookie.
    pub fn of_nonce(nonce: &[u8]) -> Option<Self> {
        let encoded = nonce.strip_prefix(COOKIE)?.get(..4)?;
        let mut features = [0; 3];
        let decoded = STANDARD_NO_PAD.decode_slice(encoded, &mut features).ok()?;
        let [_, _, last] = features;
        (decoded == features.len()).then_some(Self {
            password_algorithms: last & PASSWORD_ALGORITHMS != 0,
            username_anonymity: last & USERNAME_ANONYMITY != 0,
        })
    }

    /// Cookie and features as they begin a nonce.
    fn prefix(self) -> [u8; PREFIX_BYTES] {
        let algorithms = if self.password_algorithms { PASSWORD_ALGORITHMS } else { 0 };
        let anonymity = if self.username_anonymity { USERNAME_ANONYMITY } else { 0 };
        let mut prefix = [0; PREFIX_BYTES];
        let (cookie, features) = prefix.split_at_mut(COOKIE.len());
        cookie.copy_from_slice(COOKIE);
        encode(&[0, 0, algorithms | anonymity], features);
        prefix
    }
}

/// Makes and recognises nonces.
#[derive(Debug)]
pub struct Nonces {
    key: hmac::Key,
    prefix: [u8; PREFIX_BYTES],
    lifetime_s: u32,
}

impl Nonces {
    /// Nonces under a key that has to be random, that say some features, and that are good for so
    /// many seconds.
    pub fn new(key: &[u8; NONCE_KEY_BYTES], features: SecurityFeatures, lifetime_s: u32) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        Self { key, prefix: features.prefix(), lifetime_s }
    }

    /// From now on, nonces say other features; older ones are no longer recognised.
    pub fn set_features(&mut self, features: SecurityFeatures) {
        self.prefix = features.prefix();
    }

    /// A nonce for a client.
    pub fn issue(&self, client: &FiveTuple, unix_s: u64) -> Nonce {
        let issued = stamp(unix_s);
        let mut nonce = [0; NONCE_BYTES];
        let (prefix, encoded) = nonce.split_at_mut(PREFIX_BYTES);
        prefix.copy_from_slice(&self.prefix);
        let mut bytes = [0; STAMP_BYTES];
        let (time, mac) = bytes.split_at_mut(4);
        time.copy_from_slice(&issued.to_be_bytes());
        mac.copy_from_slice(&self.mac(client, issued));
        encode(&bytes, encoded);
        nonce
    }

    /// Whether a nonce was issued to this client, and is still good.
    pub fn is_good(&self, nonce: &[u8], client: &FiveTuple, unix_s: u64) -> bool {
        let Some(encoded) = nonce.strip_prefix(&self.prefix) else {
            return false;
        };
        let mut bytes = [0; STAMP_BYTES];
        if nonce.len() != NONCE_BYTES
            || STANDARD_NO_PAD.decode_slice(encoded, &mut bytes) != Ok(STAMP_BYTES)
        {
            return false;
        }
        let [t0, t1, t2, t3, ref mac @ ..] = bytes;
        let issued = u32::from_be_bytes([t0, t1, t2, t3]);
        let is_ours = bool::from(self.mac(client, issued).ct_eq(mac));
        // A nonce that claims to come from the future was made before a clock was set back.
        is_ours && stamp(unix_s).wrapping_sub(issued) <= self.lifetime_s
    }

    /// The bucket of the reply limit that a source prefix falls into; keyed, so that nobody can
    /// choose whom to share one with.
    pub fn bucket(&self, prefix: &[u8], buckets: usize) -> usize {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"bucket");
        context.update(prefix);
        let tag = context.sign();
        let number =
            tag.as_ref().iter().take(4).fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        number % buckets
    }

    fn mac(&self, client: &FiveTuple, issued: u32) -> [u8; NONCE_MAC_BYTES] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&self.prefix);
        context.update(&issued.to_be_bytes());
        match client.client.ip() {
            std::net::IpAddr::V4(ip) => context.update(&ip.octets()),
            std::net::IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        context.update(&client.client.port().to_be_bytes());
        context.update(&[client.transport as u8]);
        let tag = context.sign();
        let mut mac = [0; NONCE_MAC_BYTES];
        mac.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        mac
    }
}

/// Seconds since the epoch in the 32 bits that a nonce has for them; differences survive the wrap.
fn stamp(unix_s: u64) -> u32 {
    let [_, _, _, _, bytes @ ..] = unix_s.to_be_bytes();
    u32::from_be_bytes(bytes)
}

/// Encodes into exactly the bytes there are; lengths are constants that fit each other.
fn encode(bytes: &[u8], into: &mut [u8]) {
    let written = STANDARD_NO_PAD.encode_slice(bytes, into);
    debug_assert!(written.is_ok(), "a nonce's parts have fixed lengths");
}
