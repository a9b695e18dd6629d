//! Queries that the other side is to relay to a third node (spec §10): `relay_query` from P4,
//! `nodes.relay` and the query itself from P0 and P2. On the calling thread.

use crate::error::PeerError;
use crate::link::Link;
use crate::objects::{ObjectStream, unexpected};
use crate::random;
use crate::session::Session;
use waystation_astral::frame::{Frame, Profile};
use waystation_astral::identity::Identity;
use waystation_astral::object::type_names;

impl Link {
    /// Asks `target` through the other side, in this node's own name.
    ///
    /// # Errors
    ///
    /// As [`Link::query`]; as [`Link::prepare_relay`] in P0 and P2.
    pub fn query_relayed(&self, target: &Identity, query: &str) -> Result<Session, PeerError> {
        self.query_relayed_for(&self.local(), target, query)
    }

    /// As [`Link::query_relayed`], in somebody else's name.
    ///
    /// # Errors
    ///
    /// As [`Link::query_relayed`].
    pub fn query_relayed_for(
        &self,
        caller: &Identity,
        target: &Identity,
        query: &str,
    ) -> Result<Session, PeerError> {
        let nonce = random::nonce()?;
        let (window, query) = (self.window_bytes(), query.as_bytes());
        if self.profile() == Profile::P4 {
            let (caller, target) = (caller.as_bytes(), target.as_bytes());
            let frame = Frame::RelayQuery { caller, target, nonce, window, query };
            return self.ask(&frame, self.query_timeout());
        }
        let caller = Some(caller).filter(|caller| **caller != self.local());
        self.prepare_relay(nonce, caller, Some(target))?;
        self.ask(&Frame::Query { nonce, window, query }, self.query_timeout())
    }

    /// Prepares the other side for a query with this nonce: whom it is from, and whom it is for
    /// (spec §10.1).
    ///
    /// # Errors
    ///
    /// As [`Link::query`]; [`PeerError::Refused`] with the other side's words.
    pub fn prepare_relay(
        &self,
        nonce: u64,
        caller: Option<&Identity>,
        target: Option<&Identity>,
    ) -> Result<(), PeerError> {
        let mut query = format!("nodes.relay?nonce={nonce:016x}");
        for (name, identity) in [("set_caller", caller), ("set_target", target)] {
            if let Some(identity) = identity {
                query.push_str(&format!("&{name}={identity}"));
            }
        }
        match ObjectStream::open(self.query(&query)?).next()? {
            Some(object) if object.type_name == type_names::ACK => Ok(()),
            Some(object) => Err(unexpected(object)),
            None => Err(PeerError::Ended { step: crate::error::Step::Operation }),
        }
    }
}
