//! Opaque UDP sessions: datagrams that go from one leg to the other and back as they came.
//!
//! Owns which address a leg has and how it may change, what passes, and when a session ends. The
//! management core opens and closes sessions; a data core calls [`Sessions::receive`] for each
//! datagram and does what the outcome says. Sans-IO: no socket, no clock, no randomness but the
//! seeds of the index. It never answers with more bytes than came, keeps nothing for a source but a
//! few places per session, and takes no memory for a datagram.
//!
//! How addresses are learned and what a spoofed source can do: `docs/protocols/opaque-udp.md`.
//!
//! Cost of a datagram that passes, in cache lines of 64 bytes: one of the index, one for each leg,
//! one more if the session has a rate, and the first of the payload in a WireGuard session.

mod endpoint;
mod handing_over;
mod index;
mod leg;
mod meter;
mod offload;
mod opening;
pub mod proof;
mod receive;
mod roaming;
mod sessions;
mod settings;
mod sweep;
pub mod tier;
pub mod wireguard;

pub use endpoint::LocalPort;
pub use handing_over::{LegState, SessionState};
pub use leg::Side;
pub use meter::RateLimit;
pub use offload::{Offer, OfferedLeg, Pace};
pub use receive::Outcome;
pub use sessions::{Event, Evidence, Listed, ListedLeg, Path, Sessions};
pub use settings::{Learning, LegSettings, OpenError, Protocol, Settings};
