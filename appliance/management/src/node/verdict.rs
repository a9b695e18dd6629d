//! What becomes of a query, and the commands that it amounts to.
//!
//! Made by the node, the gateway and the services on the management thread. Every query gets
//! exactly one verdict, and every verdict exactly one command that answers, now or later; what it closes or paces comes on top.

use std::sync::Arc;
use waystation_astral::frame::Profile;
use waystation_astral::object::{AnswerObject, AnswerWriter, Encoding};
use waystation_astral::objects::ErrorMessage;
use waystation_engine::control::Command;
use waystation_relay::drop_reason::DropReason;
use waystation_relay::ids::{CoreId, LegTag, LinkTag, SocketTag};
use waystation_relay::quota::Quota;
use waystation_relay::switch::Relayed;

/// The only code that a query of ours gets: "rejected" in every era (spec §8.4).
const REJECTED: u8 = 1;

/// What happens to a query. There is exactly one for each.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Code 1.
    Reject(DropReason),
    /// Accepted, with an error object in these bytes.
    Refuse(DropReason, Vec<u8>),
    /// Accepted, with these bytes.
    Answer(Vec<u8>),
    /// Accepted, with these bytes, and these sockets have no purpose any more.
    Unregistered(Vec<u8>, Vec<SocketTag>),
    /// Passed on as it is.
    Offer(Offer),
    /// Accepted; what its caller sends, at most so many bytes, is input.
    Accept { input_max_bytes: u32 },
    /// Accepted; the session becomes a link to this node.
    Inside,
    /// Answered later, once the data cores have said what it asks for.
    Later,
    /// A copy: no answer.
    Forget,
}

/// Where a query is passed on to, and how fast its session may be.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) target: LinkTag,
    /// In whose name and for whom, when that is not the asking peer and this link's.
    pub(crate) relayed: Option<Relayed>,
    /// The quota of the asking link's peer.
    pub(crate) caller_pace: Option<Arc<Quota>>,
    /// The quota of the target link's peer.
    pub(crate) target_pace: Option<Arc<Quota>>,
}

/// Accepts with these objects, written as the caller asked.
pub(crate) fn answer(output: Encoding, objects: &[&dyn AnswerObject]) -> Verdict {
    match bytes_of(output, objects) {
        Some(bytes) => Verdict::Answer(bytes),
        None => Verdict::Reject(DropReason::MalformedQuery),
    }
}

/// Accepts with an error object of the caller's era.
pub(crate) fn refuse(
    reason: DropReason,
    output: Encoding,
    profile: Profile,
    text: &str,
) -> Verdict {
    match bytes_of(output, &[&ErrorMessage::new(text, profile)]) {
        Some(bytes) => Verdict::Refuse(reason, bytes),
        None => Verdict::Reject(reason),
    }
}

/// `None` when one of them has no form in this encoding.
pub(crate) fn bytes_of(output: Encoding, objects: &[&dyn AnswerObject]) -> Option<Vec<u8>> {
    let mut writer = AnswerWriter::new(output);
    for object in objects {
        writer.write(*object).ok()?;
    }
    Some(writer.into_bytes())
}

impl Verdict {
    /// Why the query was not served; `None` if it was.
    pub(crate) fn refusal(&self) -> Option<DropReason> {
        match self {
            Self::Reject(reason) | Self::Refuse(reason, _) => Some(*reason),
            Self::Forget => Some(DropReason::DuplicateNonce),
            Self::Answer(_)
            | Self::Unregistered(..)
            | Self::Offer(_)
            | Self::Inside
            | Self::Accept { .. }
            | Self::Later => None,
        }
    }

    /// Writes the one command that it amounts to, and what else it entails.
    pub(crate) fn carry_out(self, leg: LegTag, query: &[u8], out: &mut Vec<(CoreId, Command)>) {
        let answer =
            |leg: LegTag, bytes: Vec<u8>| (leg.core, Command::Answer { leg, bytes: bytes.into() });
        match self {
            Self::Reject(_) => out.push((leg.core, Command::Reject { leg, code: REJECTED })),
            Self::Refuse(_, bytes) | Self::Answer(bytes) => out.push(answer(leg, bytes)),
            Self::Unregistered(bytes, sockets) => {
                out.push(answer(leg, bytes));
                // To these sockets their nonce is now a void one.
                let reason = DropReason::SocketNonceUnknown;
                let close =
                    |socket: SocketTag| (socket.core, Command::CloseSocket { socket, reason });
                out.extend(sockets.into_iter().map(close));
            }
            Self::Offer(Offer { target, relayed, caller_pace, target_pace }) => {
                // Before the offer, so that no answer can overtake it.
                out.extend(target_pace.map(|pace| (leg.core, Command::Pace { leg, pace })));
                let (query, pace) = (query.into(), caller_pace);
                let offer = Command::Offer { caller: leg, target, query, relayed, pace };
                out.push((target.core, offer));
            }
            Self::Accept { input_max_bytes } => {
                out.push((leg.core, Command::Accept { leg, input_max_bytes }));
            }
            Self::Later => {}
            Self::Inside => out.push((leg.core, Command::TerminateInside { leg })),
            Self::Forget => out.push((leg.core, Command::Forget { leg })),
        }
    }
}
