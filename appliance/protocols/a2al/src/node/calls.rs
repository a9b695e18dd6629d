//! Questions under way: sent, asked again, given up (specification §10).
//!
//! An answer counts by its transaction and, where it is known who was asked, by its signer (T9).

use std::net::SocketAddr;

use super::Node;
use crate::limits::CALLS_MAX;
use crate::message::{self, Body, MessageType, TransactionId};
use crate::node_id::NodeId;
use crate::query::QueryId;
use crate::record::RecordType;
use crate::replication::PublishedName;
use crate::time::{Millis, Now};

/// What a question is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// A stranger wrote from the address.
    Validate,
    /// A newcomer wants the place of the one that is asked.
    Challenge,
    /// To know whether it is still there, or there at all.
    Upkeep,
    /// To find the network.
    Bootstrap,
    /// For a look-up.
    Query(QueryId),
    /// To have a published record kept.
    Store(PublishedName),
    /// To know whether a replica is still there.
    Probe,
    /// To tell a subscriber.
    Push(NodeId),
    /// To let a publisher know that its record is kept here.
    Register(NodeId, RecordType),
}

/// A question under way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) purpose: Purpose,
    pub(super) to: SocketAddr,
    pub(super) expected: Option<NodeId>,
    body: Body,
    pub(super) sent_at: Millis,
    deadline: Millis,
    attempts_left: u8,
    attempt_ms: u64,
}

/// How long and how often a question is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) attempts: u8,
    pub(super) attempt_ms: u64,
}

impl Call {
    /// The type of the answer.
    pub(super) fn answer_type(&self) -> Option<MessageType> {
        self.body.message_type().answer()
    }

    /// Says whether it was asked before, so that its answer may be that to a repetition.
    pub(super) fn is_repeated(&self) -> bool {
        self.attempts_left == 0
    }

    /// The look-up that it is asked for.
    fn query(&self) -> Option<QueryId> {
        match self.purpose {
            Purpose::Query(query) => Some(query),
            Purpose::Validate
            | Purpose::Challenge
            | Purpose::Upkeep
            | Purpose::Bootstrap
            | Purpose::Store(_)
            | Purpose::Probe
            | Purpose::Push(_)
            | Purpose::Register(..) => None,
        }
    }
}

impl Node {
    /// Asks a node, unless too many questions are under way.
    pub(super) fn ask(
        &mut self,
        to: SocketAddr,
        expected: Option<NodeId>,
        body: Body,
        purpose: Purpose,
        patience: Patience,
        now: Now,
    ) -> bool {
        if self.calls.len() >= CALLS_MAX {
            return false;
        }
        let call = Call {
            purpose,
            to,
            expected,
            body,
            sent_at: now.millis,
            deadline: now.millis.plus(patience.attempt_ms),
            attempts_left: patience.attempts.saturating_sub(1),
            attempt_ms: patience.attempt_ms,
        };
        self.send_call(call);
        true
    }

    /// Takes the question that an answer is for.
    pub(super) fn take_call(&mut self, transaction: &TransactionId) -> Option<Call> {
        let call = self.calls.remove(transaction)?;
        self.deadlines.remove(&(call.deadline, *transaction));
        Some(call)
    }

    /// Asks again what was not answered in time, and gives up what was asked often enough.
    pub(super) fn expire_calls(&mut self, now: Now) {
        while let Some((deadline, transaction)) = self.deadlines.first().copied()
            && deadline <= now.millis
        {
            let Some(mut call) = self.take_call(&transaction) else {
                self.deadlines.remove(&(deadline, transaction));
                continue;
            };
            if call.attempts_left > 0 {
                call.attempts_left -= 1;
                call.sent_at = now.millis;
                call.deadline = now.millis.plus(call.attempt_ms);
                let slow = call.expected.zip(call.query());
                self.send_call(call);
                if let Some((node, query)) = slow {
                    self.query_is_slow(query, &node, now);
                }
            } else {
                self.statistics.unanswered += 1;
                self.give_up(&call, now);
            }
        }
    }

    /// Sends a message that needs no answer, or is one.
    pub(super) fn send(&mut self, to: SocketAddr, transaction: TransactionId, body: &Body) {
        let bytes = message::encode(&*self.signatures.signer, transaction, body);
        if bytes.len() > crate::limits::DATAGRAM_BYTES_MAX {
            self.statistics.drop(super::DropReason::AnswerTooLong);
            return;
        }
        self.queue(to, bytes);
    }

    fn send_call(&mut self, call: Call) {
        // Each attempt has a name of its own, as upstream's have.
        let transaction = TransactionId(self.random.bytes());
        self.send(call.to, transaction, &call.body);
        self.deadlines.insert((call.deadline, transaction));
        self.calls.insert(transaction, call);
    }
}
