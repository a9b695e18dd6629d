//! How a process hands over to the next one: what they say to each other, and in what form.
//!
//! The process that runs listens on a Unix socket beside the stats socket ([`socket_of`]), and
//! takes nobody but its own user and root there. Whoever is to be next asks, gets the sockets that
//! are listened with, starts, and asks for the rest when all of its cores wait:
//!
//! ```text
//! next → this   Ask        who it is, with how many cores
//! this → next   Offer      what is listened with        or Refusal: this one goes on
//! next → this   Ready      its cores have what is listened with and serve nobody
//! this → next   Core …     each core's clients over UDP, who are served on here
//! this → next   Told
//! next → this   Prepared   its cores have all of them
//! this → next   Links …    links that stand still from here on
//! this → next   LinksComplete
//! next → this   LinksTaken whether it can go on with all of these; if not, they go on here
//! this → next   Core …     what has changed since, of each core as soon as it has told: from then on
//!                          its clients wait, until the next one's core has it and serves them
//! this → next   Complete
//! next → this   Taken      all of its cores serve clients over UDP
//! this → next   Yours      all else is the next one's now, and the next one begins
//! ```
//!
//! Whatever fails before `Yours` closes the connection; then this process goes on, and the next one
//! ends. What the next one has changed for clients over UDP by then, such as an allocation that it
//! made, ends with it. Nothing is served by both, unless the next one hangs after `Complete` until
//! this one gives it up: then it may serve some datagrams before it ends. Each message is bounded in
//! bytes, descriptors and time. The form has a version ([`VERSION`]): another one is refused, and
//! nothing has happened.

pub mod asking;
mod channel;
mod gap;
mod message;
mod records;
pub(crate) mod serving;

pub use asking::{Given, HandOverError, TakeOver, ask};
pub(crate) use channel::Channel;
pub use channel::ChannelError;
pub use gap::UdpGap;
pub(crate) use message::{Ask, CoreMessage, LinksMessage, Message, Offer, Role, SocketGroup};
pub(crate) use records::SessionRecord;
pub(crate) use serving::{Step, ToldCore};

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The form of the messages. Another number is another form.
pub const VERSION: u32 = 3;
/// Bytes of one message: ten times what the allocations and sessions of one core can come to.
pub(crate) const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Descriptors of one message: as many as there are ports.
pub(crate) const MESSAGE_DESCRIPTORS_MAX: usize = 1 << 17;
/// Links of one message: as many descriptors as go with one byte.
pub(crate) const LINKS_PER_MESSAGE: usize = DESCRIPTORS_PER_BYTE;
/// Bytes of these as they are written, but for what a single link has.
pub(crate) const LINKS_MESSAGE_BYTES: usize = 2 << 20;
/// Bytes that the sessions of one link may take as they are written, which goes in one message: half
/// of it, and what else the link has is far less than the other. Some 65 000 sessions are always
/// within it.
pub(crate) const LINK_SESSIONS_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;
/// Descriptors that go with one byte; the kernel takes 253 (`SCM_MAX_FD`).
pub(crate) const DESCRIPTORS_PER_BYTE: usize = 128;
/// How long one side waits for the other where that one has only to answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the next process may take to start, where it measures ciphers and may measure the
/// machine.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the next process's cores may take to take up what they are told: tens of microseconds
/// for each session and allocation, most of them the kernel's, and a processor that they share with
/// the cores that tell.
pub(crate) const TAKE_UP_TIMEOUT: Duration = Duration::from_secs(30);

/// What is added to the stats socket's path.
const SUFFIX: &str = ".up";

/// Where a program with this stats socket can be asked to hand over.
pub fn socket_of(stats_socket: &Path) -> PathBuf {
    let mut path = stats_socket.as_os_str().to_owned();
    path.push(SUFFIX);
    PathBuf::from(path)
}
