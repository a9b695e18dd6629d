//! A well-behaved Astral node as a client: links, sessions, inner links and the client side of a
//! gateway. For the demo, the load generator and the tests; the appliance itself never uses it.
//!
//! Blocking calls and plain threads. A [`Link`] has one thread that reads and one that writes what
//! the first leaves to it; a [`Session`] belongs to whoever holds it. Nothing here trusts the other
//! side: every wait has an end, every queue a bound (see [`limits`]).

#![forbid(unsafe_code)]

mod by_hand;
mod clock;
mod error;
mod establish;
mod gateway;
mod idle;
pub mod limits;
mod link;
mod objects;
mod outbox;
mod random;
mod reader;
mod records;
mod relaying;
mod session;
mod transport;
mod turn;

pub use by_hand::{Got, HandLink};
pub use error::{LinkFailure, PeerError, SessionError, Step};
pub use gateway::{Registration, RouteForm, Way};
pub use idle::{IdlePool, IdleSocket};
pub use link::{CreditReturn, InboundQuery, Link, LinkOptions, REJECTED, Style, session_error};
pub use outbox::SentStatistics;
pub use random::secret_key;
pub use session::{Resetter, Session, SessionReader, SessionWriter};
pub use transport::{Close, Duplex, Halves, ReadHalf};
pub use turn::{DatagramError, Relayed, TurnClient, TurnClientError};
