//! The three acts, driven by `snow` with the primitives of [`crate::noise_resolver`].
//!
//! Each act is one Noise message with an empty payload and a version byte before it (spec §3.2).

use std::fmt;

use snow::{Builder, HandshakeState};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{Opener, Sealer, Transport};
use crate::aead::AeadSuite;
use crate::identity::{Identity, SecretKey};
use crate::limits::{ACT_ONE_BYTES, ACT_THREE_BYTES, ACT_TWO_BYTES, TAG_BYTES};
use crate::noise_resolver::{FinalChainingKey, PeerPoints, Resolver, noise_params};

/// What sets Astral's handshake apart from BOLT 8's, which says `lightning` (spec §3.1).
const PROLOGUE: &[u8] = b"astral";
/// The version byte of every act (spec §3.1).
const VERSION: u8 = 0;

/// Names one of the three handshake messages (spec §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Initiator to responder: an ephemeral point.
    One,
    /// Responder to initiator: an ephemeral point.
    Two,
    /// Initiator to responder: the initiator's identity.
    Three,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "act one",
            Self::Two => "act two",
            Self::Three => "act three",
        })
    }
}

/// Runs the dialing side of a handshake.
#[derive(Debug)]
pub struct Initiator(Handshake);

impl Initiator {
    /// Prepares a handshake from `local` to the node `remote`. `ephemeral` must be fresh and
    /// random.
    ///
    /// # Errors
    /// [`HandshakeError::OwnIdentity`] if `remote` is our own (spec §3.2), and
    /// [`HandshakeError::UnknownRemote`] if it is the zero identity.
    pub fn new(
        local: &SecretKey,
        remote: &Identity,
        ephemeral: &SecretKey,
    ) -> Result<Self, HandshakeError> {
        Self::with_prologue(local, remote, ephemeral, PROLOGUE)
    }

    pub(super) fn with_prologue(
        local: &SecretKey,
        remote: &Identity,
        ephemeral: &SecretKey,
        prologue: &[u8],
    ) -> Result<Self, HandshakeError> {
        if remote.is_anyone() {
            return Err(HandshakeError::UnknownRemote);
        }
        if *remote == local.identity() {
            return Err(HandshakeError::OwnIdentity);
        }
        Handshake::new(local, Some(remote), ephemeral, prologue).map(Self)
    }

    /// Lets this suite seal and open the records, instead of ring alone.
    #[must_use]
    pub fn with_aead(mut self, suite: AeadSuite) -> Self {
        self.0.suite = suite;
        self
    }

    /// Writes act one.
    ///
    /// # Errors
    /// [`HandshakeError::OutOfOrder`] if it was written already.
    pub fn act_one(&mut self) -> Result<[u8; ACT_ONE_BYTES], HandshakeError> {
        self.0.enter(Act::One)?;
        let act = self.0.write(Act::One)?;
        self.0.due = Some(Act::Two);
        Ok(act)
    }

    /// Reads act two and returns act three with the established channel.
    ///
    /// # Errors
    /// For a wrong version, key or tag, and [`HandshakeError::OutOfOrder`] before act one.
    pub fn act_two(
        mut self,
        act: &[u8; ACT_TWO_BYTES],
    ) -> Result<([u8; ACT_THREE_BYTES], Transport), HandshakeError> {
        self.0.enter(Act::Two)?;
        self.0.read(Act::Two, act)?;
        let act_three = self.0.write(Act::Three)?;
        let suite = self.0.suite;
        let (to_responder, to_initiator, chaining_key) = self.0.split(Act::Three)?;
        let transport = transport(suite, &to_responder, &to_initiator, &chaining_key)?;
        Ok((act_three, transport))
    }

    #[cfg(test)]
    pub(super) fn hash(&self) -> &[u8] {
        self.0.noise.get_handshake_hash()
    }
}

/// Runs the accepting side of a handshake.
#[derive(Debug)]
pub struct Responder(Handshake);

impl Responder {
    /// Prepares to answer whoever dials `local`. `ephemeral` must be fresh and random.
    ///
    /// # Errors
    /// [`HandshakeError::Primitive`] only, which no input brings about.
    pub fn new(local: &SecretKey, ephemeral: &SecretKey) -> Result<Self, HandshakeError> {
        Self::with_prologue(local, ephemeral, PROLOGUE)
    }

    pub(super) fn with_prologue(
        local: &SecretKey,
        ephemeral: &SecretKey,
        prologue: &[u8],
    ) -> Result<Self, HandshakeError> {
        Handshake::new(local, None, ephemeral, prologue).map(Self)
    }

    /// Lets this suite seal and open the records, instead of ring alone.
    #[must_use]
    pub fn with_aead(mut self, suite: AeadSuite) -> Self {
        self.0.suite = suite;
        self
    }

    /// Reads act one and returns act two.
    ///
    /// # Errors
    /// For a wrong version, key or tag, and [`HandshakeError::OutOfOrder`] on a second call; the
    /// handshake is over then.
    pub fn act_one(
        &mut self,
        act: &[u8; ACT_ONE_BYTES],
    ) -> Result<[u8; ACT_TWO_BYTES], HandshakeError> {
        self.0.enter(Act::One)?;
        self.0.read(Act::One, act)?;
        let act_two = self.0.write(Act::Two)?;
        self.0.due = Some(Act::Three);
        Ok(act_two)
    }

    /// Reads act three and returns who dialed with the established channel.
    ///
    /// # Errors
    /// For a wrong version, key or tag, and [`HandshakeError::OutOfOrder`] before act one.
    pub fn act_three(
        mut self,
        act: &[u8; ACT_THREE_BYTES],
    ) -> Result<(Identity, Transport), HandshakeError> {
        self.0.enter(Act::Three)?;
        self.0.read(Act::Three, act)?;
        let remote = self.0.remote()?;
        let suite = self.0.suite;
        let (to_responder, to_initiator, chaining_key) = self.0.split(Act::Three)?;
        let transport = transport(suite, &to_initiator, &to_responder, &chaining_key)?;
        Ok((remote, transport))
    }

    #[cfg(test)]
    pub(super) fn hash(&self) -> &[u8] {
        self.0.noise.get_handshake_hash()
    }

    #[cfg(test)]
    pub(super) fn hash_after_act_three(
        mut self,
        act: &[u8; ACT_THREE_BYTES],
    ) -> Result<Vec<u8>, HandshakeError> {
        self.0.read(Act::Three, act)?;
        Ok(self.hash().to_vec())
    }
}

/// A symmetric key or chaining key, erased when dropped.
type Key = Zeroizing<[u8; 32]>;

/// What both sides share: the Noise state, and which act may come next.
struct Handshake {
    noise: HandshakeState,
    peer_points: PeerPoints,
    final_chaining_key: FinalChainingKey,
    /// `None` while an act is worked on and for good after one failed.
    due: Option<Act>,
    /// What the records will be sealed with.
    suite: AeadSuite,
}

impl Handshake {
    fn new(
        local: &SecretKey,
        remote: Option<&Identity>,
        ephemeral: &SecretKey,
        prologue: &[u8],
    ) -> Result<Self, HandshakeError> {
        let final_chaining_key = FinalChainingKey::default();
        let peer_points = PeerPoints::default();
        let resolver = Resolver::new(local, ephemeral, &peer_points, &final_chaining_key);
        let build = || {
            let builder = Builder::with_resolver(noise_params(), Box::new(resolver))
                .prologue(prologue)?
                .local_private_key(local.expose_bytes())?;
            match remote {
                Some(remote) => builder.remote_public_key(remote.as_bytes())?.build_initiator(),
                None => builder.build_responder(),
            }
        };
        let noise = build().map_err(|error| HandshakeError::of(Act::One, &error))?;
        let (due, suite) = (Some(Act::One), AeadSuite::default());
        Ok(Self { noise, peer_points, final_chaining_key, due, suite })
    }

    /// Takes the turn of `act`; the caller sets what is due next when all went well.
    fn enter(&mut self, act: Act) -> Result<(), HandshakeError> {
        if self.due.take() != Some(act) {
            return Err(HandshakeError::OutOfOrder { act });
        }
        Ok(())
    }

    fn write<const N: usize>(&mut self, act: Act) -> Result<[u8; N], HandshakeError> {
        let mut message = [VERSION; N];
        let written = self.noise.write_message(&[], &mut message[1..]);
        match written {
            Ok(bytes) if bytes + 1 == N => Ok(message),
            Ok(_) => Err(HandshakeError::Primitive { act }),
            Err(error) => Err(HandshakeError::of(act, &error)),
        }
    }

    fn read<const N: usize>(&mut self, act: Act, message: &[u8; N]) -> Result<(), HandshakeError> {
        if message[0] != VERSION {
            return Err(HandshakeError::Version { act, got: message[0] });
        }
        // The payload is empty, but room for its tag lets the cipher work without a heap copy.
        let mut payload = [0; TAG_BYTES];
        match self.noise.read_message(&message[1..], &mut payload) {
            Ok(_) => Ok(()),
            Err(error) => Err(HandshakeError::of(act, &error)),
        }
    }

    /// Returns who is on the other side, once act three was read.
    fn remote(&self) -> Result<Identity, HandshakeError> {
        let act = Act::Three;
        let bytes = self.noise.get_remote_static().and_then(<[u8]>::first_chunk);
        let point = bytes.and_then(|bytes| self.peer_points.read(bytes));
        point.map(|point| point.identity()).ok_or(HandshakeError::Key { act })
    }

    /// Returns the key to the responder, the key to the initiator, and the final chaining key.
    fn split(mut self, act: Act) -> Result<(Key, Key, Key), HandshakeError> {
        let (to_responder, to_initiator) = self.noise.dangerously_get_raw_split();
        let (to_responder, to_initiator) =
            (Zeroizing::new(to_responder), Zeroizing::new(to_initiator));
        let chaining_key =
            self.final_chaining_key.get().ok_or(HandshakeError::Primitive { act })?;
        Ok((to_responder, to_initiator, chaining_key))
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("due", &self.due).finish_non_exhaustive()
    }
}

fn transport(
    suite: AeadSuite,
    sending: &Key,
    receiving: &Key,
    chaining_key: &Key,
) -> Result<Transport, HandshakeError> {
    let refused = HandshakeError::Primitive { act: Act::Three };
    let sealer = Sealer::new(suite, sending, chaining_key).ok_or(refused)?;
    let opener = Opener::new(suite, receiving, chaining_key).ok_or(refused)?;
    Ok(Transport { sealer, opener })
}

/// Says why a handshake failed, and in which act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// The peer sent a point that is not on the curve.
    #[error("{act} carries no valid point")]
    Key {
        /// The faulty act.
        act: Act,
    },
    /// The caller called the acts out of order, or went on after a failure; a bug of ours.
    #[error("{act} is not due")]
    OutOfOrder {
        /// The act that was attempted.
        act: Act,
    },
    /// The node to dial is this node.
    #[error("refused to shake hands with our own identity")]
    OwnIdentity,
    /// A cryptographic primitive refused well-formed input; a bug of ours.
    #[error("a primitive failed in {act}")]
    Primitive {
        /// The act being worked on.
        act: Act,
    },
    /// A tag of the peer's act does not verify: it dialed somebody else, or was tampered with.
    #[error("{act} does not authenticate")]
    Tag {
        /// The faulty act.
        act: Act,
    },
    /// The node to dial is the zero identity, which has no key.
    #[error("refused to shake hands with the zero identity")]
    UnknownRemote,
    /// The peer speaks another handshake version, or no Noise at all.
    #[error("{act} has version byte {got:#04x}")]
    Version {
        /// The faulty act.
        act: Act,
        /// The version byte received.
        got: u8,
    },
}

impl HandshakeError {
    /// Translates what `snow` says: a bad point fails key agreement, a bad tag fails decryption.
    fn of(act: Act, error: &snow::Error) -> Self {
        match error {
            snow::Error::Dh => Self::Key { act },
            snow::Error::Decrypt => Self::Tag { act },
            _ => Self::Primitive { act },
        }
    }
}
