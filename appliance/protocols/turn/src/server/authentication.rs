//! Who sent a request: the long-term credential mechanism (RFC 8489 §9.2.4).
//!
//! Owns the order of the checks. Called on the server's data core for each request but Binding; it
//! reads the server and changes nothing, so a stranger leaves no trace.

use super::allocation::{Allocation, Owner};
use super::answer::PASSWORD_ALGORITHMS;
use super::requests::Request;
use crate::attribute::{AttributeType, ErrorCode};
use crate::credentials::{Claim, Credentials, Found};
use crate::integrity::{Integrity, Key, PasswordAlgorithm, verify};
use crate::limits::USERNAME_BYTES_MAX;
use crate::message::Message;
use crate::nonce::SecurityFeatures;

/// A client that is who it says.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) username: Box<str>,
    pub(super) key: Key,
    pub(super) algorithm: PasswordAlgorithm,
    /// What the answer is closed with.
    pub(super) seal: Integrity,
}

impl Identity {
    /// The owner of an allocation that this client makes or uses.
    pub(super) fn owner(&self, epoch: u64) -> Owner {
        let Self { username, key, algorithm, .. } = self;
        let key = Some(key.clone());
        Owner { username: username.clone(), key, algorithm: *algorithm, epoch }
    }
}

/// What the server knows when a request arrives.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub(super) credentials: &'a Credentials,
    pub(super) credentials_epoch: u64,
    /// The allocation that the request's 5-tuple has.
    pub(super) allocation: Option<&'a Allocation>,
    pub(super) nonce_is_good: bool,
}

/// Authenticates a request.
///
/// # Errors
///
/// 400 if it contradicts itself, 401 if nobody can have sent it, 438 if its nonce is not, or no
/// longer, good.
pub(super) fn authenticate(
    request: &Request<'_>,
    known: &Known<'_>,
) -> Result<Identity, ErrorCode> {
    let message = &request.message;
    if !message.has_integrity() {
        return Err(ErrorCode::Unauthenticated);
    }
    let (claim, realm, nonce) = claimed(message)?;
    let (algorithm, seal) = algorithm(message, nonce)?;
    if realm != known.credentials.realm().as_bytes() {
        return Err(ErrorCode::Unauthenticated);
    }
    let found = find(claim, algorithm, request, known).ok_or(ErrorCode::Unauthenticated)?;
    let matching = found.keys.into_iter().find(|key| verify(message, key).is_some());
    let key = matching.ok_or(ErrorCode::Unauthenticated)?;
    if !known.nonce_is_good {
        return Err(ErrorCode::StaleNonce);
    }
    Ok(Identity { username: found.name.into(), key, algorithm, seal })
}

/// User, realm and nonce of a request that has an integrity value.
fn claimed<'a>(message: &Message<'a>) -> Result<(Claim<'a>, &'a [u8], &'a [u8]), ErrorCode> {
    let username = message.attribute(AttributeType::USERNAME);
    let userhash = message.attribute(AttributeType::USERHASH);
    let realm = message.attribute(AttributeType::REALM).ok_or(ErrorCode::BadRequest)?;
    let nonce = message.attribute(AttributeType::NONCE).ok_or(ErrorCode::BadRequest)?;
    let claim = match (username, userhash) {
        (Some(username), _) => {
            let username = Some(username).filter(|name| name.len() <= USERNAME_BYTES_MAX);
            let username = username.and_then(|name| std::str::from_utf8(name).ok());
            Claim::Username(username.ok_or(ErrorCode::Unauthenticated)?)
        }
        (None, Some(userhash)) => {
            let Ok(userhash) = userhash.try_into() else {
                return Err(ErrorCode::Unauthenticated);
            };
            Claim::Userhash(userhash)
        }
        (None, None) => return Err(ErrorCode::BadRequest),
    };
    Ok((claim, realm, nonce))
}

/// Which algorithm made the client's key, and what the answer is closed with. A client that repeats
/// another list than ours was shown another one by somebody on the way.
fn algorithm(
    message: &Message<'_>,
    nonce: &[u8],
) -> Result<(PasswordAlgorithm, Integrity), ErrorCode> {
    let chosen = message.attribute(AttributeType::PASSWORD_ALGORITHM);
    let repeated = message.attribute(AttributeType::PASSWORD_ALGORITHMS);
    if chosen.is_none() && repeated.is_none() {
        return Ok((PasswordAlgorithm::Md5, Integrity::Sha1));
    }
    let announced = SecurityFeatures::of_nonce(nonce).unwrap_or_default().password_algorithms;
    if announced && (chosen.is_none() || repeated != Some(&PASSWORD_ALGORITHMS[..])) {
        return Err(ErrorCode::BadRequest);
    }
    // Without the announcement the nonce is none of ours, and the request ends with a new one.
    let algorithm = chosen.map_or(Some(PasswordAlgorithm::Md5), PasswordAlgorithm::from_value);
    Ok((algorithm.ok_or(ErrorCode::BadRequest)?, Integrity::Sha256))
}

/// The keys of a user. A client that has an allocation keeps the key it got it with, so its name's
/// time may be over by now; once credentials have changed, they have to know the name still.
fn find<'a>(
    claim: Claim<'a>,
    algorithm: PasswordAlgorithm,
    request: &Request<'a>,
    known: &Known<'a>,
) -> Option<Found<'a>> {
    let owned =
        known.allocation.filter(|allocation| claim == Claim::Username(allocation.username()));
    let Some(allocation) = owned else {
        return known.credentials.find(claim, algorithm, Some(request.now.unix_s));
    };
    let owner = &allocation.owner;
    if let Some(key) = &owner.key
        && owner.epoch == known.credentials_epoch
        && owner.algorithm == algorithm
    {
        return Some(Found { name: allocation.username(), keys: vec![key.clone()] });
    }
    known.credentials.find(claim, algorithm, None)
}
