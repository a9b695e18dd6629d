//! The primitives that turn `snow` into BOLT 8: secp256k1 key agreement, a hash that remembers the
//! final chaining key, and ring's ChaCha20-Poly1305 (spec §3.1).
//!
//! Used by the handshake alone, once per connection. Randomness is refused: the ephemeral key comes
//! from the caller, so that the protocol stays reproducible.

use std::sync::{Arc, OnceLock};

use snow::params::{
    BaseChoice, CipherChoice, DHChoice, HandshakeChoice, HandshakeModifierList, HandshakePattern,
    HashChoice, NoiseParams,
};
use snow::resolvers::{CryptoResolver, RingResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

use crate::identity::{Identity, Point, SecretKey};
use crate::limits::{IDENTITY_BYTES, SECRET_KEY_BYTES};

/// The protocol name that is hashed first (spec §3.1).
const PROTOCOL_NAME: &str = "Noise_XK_secp256k1_ChaChaPoly_SHA256";
/// Bytes of a chaining key.
const CHAINING_KEY_BYTES: usize = 32;

/// Returns the handshake's parameters. `snow` knows no secp256k1; the choice named in its place
/// only reaches [`Resolver::resolve_dh`], which knows nothing else.
pub(crate) fn noise_params() -> NoiseParams {
    NoiseParams::new(
        PROTOCOL_NAME.to_owned(),
        BaseChoice::Noise,
        HandshakeChoice {
            pattern: HandshakePattern::XK,
            modifiers: HandshakeModifierList { list: Vec::new() },
        },
        DHChoice::Curve25519,
        CipherChoice::ChaChaPoly,
        HashChoice::SHA256,
    )
}

/// Receives the chaining key at the end of a handshake, which `snow` itself does not show. It is
/// the salt of the first key rotation (spec §3.2).
#[derive(Clone, Default)]
pub(crate) struct FinalChainingKey(Arc<OnceLock<Zeroizing<[u8; CHAINING_KEY_BYTES]>>>);

impl FinalChainingKey {
    /// Returns the key, once the last act was written or read.
    pub(crate) fn get(&self) -> Option<Zeroizing<[u8; CHAINING_KEY_BYTES]>> {
        self.0.get().cloned()
    }
}

/// The peer's points of one handshake, its ephemeral and its identity, each read once however
/// often it is agreed with.
#[derive(Clone, Default)]
pub(crate) struct PeerPoints(Arc<[OnceLock<Point>; PEER_POINTS]>);

/// Points that a peer shows in one handshake.
const PEER_POINTS: usize = 2;

impl PeerPoints {
    /// Reads a point, or finds it; `None` if it is not on the curve.
    pub(crate) fn read(&self, bytes: &[u8; IDENTITY_BYTES]) -> Option<Point> {
        let known = self.0.iter().filter_map(OnceLock::get);
        if let Some(point) = known.copied().find(|it| it.identity().as_bytes() == bytes) {
            return Some(point);
        }
        let point = Point::from_bytes(bytes)?;
        if let Some(place) = self.0.iter().find(|place| place.get().is_none()) {
            place.get_or_init(|| point);
        }
        Some(point)
    }
}

/// Hands `snow` its primitives for one handshake.
pub(crate) struct Resolver {
    local: SecretKey,
    ephemeral: SecretKey,
    peer_points: PeerPoints,
    final_chaining_key: FinalChainingKey,
}

impl Resolver {
    pub(crate) fn new(
        local: &SecretKey,
        ephemeral: &SecretKey,
        peer_points: &PeerPoints,
        final_chaining_key: &FinalChainingKey,
    ) -> Self {
        Self {
            local: local.duplicate(),
            ephemeral: ephemeral.duplicate(),
            peer_points: peer_points.clone(),
            final_chaining_key: final_chaining_key.clone(),
        }
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(NoRandomness))
    }

    fn resolve_dh(&self, _choice: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(Secp256k1 {
            local: self.local.duplicate(),
            ephemeral: self.ephemeral.duplicate(),
            peer_points: self.peer_points.clone(),
            role: Role::Unset,
        }))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        let sha256 = RingResolver.resolve_hash(choice)?;
        let final_chaining_key = self.final_chaining_key.clone();
        Some(Box::new(RememberingHash { sha256, final_chaining_key }))
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

/// A source of randomness that has none.
struct NoRandomness;

impl Random for NoRandomness {
    fn try_fill_bytes(&mut self, _dest: &mut [u8]) -> Result<(), snow::Error> {
        Err(snow::Error::Rng)
    }
}

/// One of the two key pairs of a handshake. `snow` makes two of these: the one it sets is the
/// static pair, the one it lets generate is the ephemeral pair. Both come with their public halves,
/// which saves two base point multiplications per handshake.
struct Secp256k1 {
    local: SecretKey,
    ephemeral: SecretKey,
    peer_points: PeerPoints,
    role: Role,
}

enum Role {
    Unset,
    Static,
    Ephemeral,
}

impl Secp256k1 {
    fn key(&self) -> Option<&SecretKey> {
        match self.role {
            Role::Unset => None,
            Role::Static => Some(&self.local),
            Role::Ephemeral => Some(&self.ephemeral),
        }
    }
}

impl Dh for Secp256k1 {
    fn name(&self) -> &'static str {
        "secp256k1"
    }

    fn pub_len(&self) -> usize {
        IDENTITY_BYTES
    }

    fn priv_len(&self) -> usize {
        SECRET_KEY_BYTES
    }

    /// Takes the static pair; any other key leaves the pair unset, and agreement fails.
    fn set(&mut self, privkey: &[u8]) {
        let is_local = privkey == self.local.expose_bytes();
        self.role = if is_local { Role::Static } else { Role::Unset };
    }

    /// Takes the ephemeral pair that the caller of the handshake drew.
    fn generate(&mut self, _rng: &mut dyn Random) -> Result<(), snow::Error> {
        self.role = Role::Ephemeral;
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.key().map_or(&Identity::ANYONE, SecretKey::identity_ref).as_bytes()
    }

    fn privkey(&self) -> &[u8] {
        self.key().map_or(&[], |key| key.expose_bytes())
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        // `snow` passes its whole key and output buffers, longer than what is in use.
        let (Some(key), Some(point), Some(out)) =
            (self.key(), pubkey.first_chunk(), out.first_chunk_mut())
        else {
            return Err(snow::Error::Dh);
        };
        key.agree(&self.peer_points.read(point).ok_or(snow::Error::Dh)?, out);
        Ok(())
    }

    /// The output is a hash, shorter than a public key.
    fn dh_len(&self) -> usize {
        SECRET_KEY_BYTES
    }
}

/// SHA-256 that remembers the salt of the final split.
struct RememberingHash {
    sha256: Box<dyn Hash>,
    final_chaining_key: FinalChainingKey,
}

impl Hash for RememberingHash {
    fn name(&self) -> &'static str {
        self.sha256.name()
    }

    fn block_len(&self) -> usize {
        self.sha256.block_len()
    }

    fn hash_len(&self) -> usize {
        self.sha256.hash_len()
    }

    fn reset(&mut self) {
        self.sha256.reset();
    }

    fn input(&mut self, data: &[u8]) {
        self.sha256.input(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        self.sha256.result(out);
    }

    fn hkdf(
        &mut self,
        chaining_key: &[u8],
        input_key_material: &[u8],
        outputs: usize,
        out1: &mut [u8],
        out2: &mut [u8],
        out3: &mut [u8],
    ) {
        // Only the split derives from the chaining key alone; the acts mix a shared secret in.
        if input_key_material.is_empty()
            && let Ok(key) = <[u8; CHAINING_KEY_BYTES]>::try_from(chaining_key)
        {
            self.final_chaining_key.0.get_or_init(|| Zeroizing::new(key));
        }
        self.sha256.hkdf(chaining_key, input_key_material, outputs, out1, out2, out3);
    }
}
