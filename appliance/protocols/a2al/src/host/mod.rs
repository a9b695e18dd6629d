//! What two hosts say to each other over QUIC, beside the DHT (specification §19.2, §19.3): whom a
//! certificate speaks for, and how a connection to an agent begins.
//!
//! Pure codecs, with the one check that upstream leaves out (D-2). This appliance has no agents and
//! speaks no QUIC; the room is for whoever does, and holds the forms against the vectors.

mod certificate;
mod control;

pub use certificate::{AgentExtension, CertificateError, EXTENSION_OID, agent_of};
pub use control::{
    AgentOpening, ControlError, ControlMessage, MAIL_ACCEPTED, MailDelivery, control_messages,
};
