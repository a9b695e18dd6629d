//! Who may have allocations: static users, and users whose name says until when it is good.
//!
//! Owned as an immutable value by whoever configures a server, and shared with it: a change is a new
//! value. Passwords are turned into keys when it is made, so that none of them is kept. Called on
//! the data core for each request of a client that is not known yet.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use crate::integrity::{Key, PasswordAlgorithm, userhash};
use crate::limits::{
    REALM_BYTES_MAX, SECRET_BYTES_MAX, SHARED_SECRETS_MAX, TIME_LIMITED_PASSWORD_BYTES,
    USERHASH_BYTES, USERNAME_BYTES_MAX, USERS_MAX,
};

/// Credentials that cannot be used; the operator wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CredentialsError {
    /// A realm that is empty or too long.
    #[error("a realm has 1 to {REALM_BYTES_MAX} bytes")]
    Realm,
    /// A username that is empty or too long.
    #[error("a username has 1 to {USERNAME_BYTES_MAX} bytes")]
    Username,
    /// A username that is there already.
    #[error("two users have one name")]
    UsernameTwice,
    /// A password or shared secret that is empty or too long.
    #[error("a password or secret has 1 to {SECRET_BYTES_MAX} bytes")]
    Secret,
    /// More users than fit.
    #[error("at most {USERS_MAX} users")]
    TooManyUsers,
    /// More shared secrets than are tried.
    #[error("at most {SHARED_SECRETS_MAX} shared secrets")]
    TooManySecrets,
}

/// How a request says who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim<'a> {
    /// By name (RFC 8489 §14.3).
    Username(&'a str),
    /// By the hash of name and realm (RFC 8489 §14.4).
    Userhash(&'a [u8; USERHASH_BYTES]),
}

/// Keys that a request of a user may be made with.
#[derive(Debug)]
pub struct Found<'a> {
    /// The whole name.
    pub name: &'a str,
    /// One key, or one for each shared secret.
    pub keys: Vec<Key>,
}

/// Static users and shared secrets of one realm.
#[derive(Clone)]
pub struct Credentials {
    realm: Box<str>,
    users: HashMap<Box<str>, [Key; 2]>,
    names: HashMap<[u8; USERHASH_BYTES], Box<str>>,
    secrets: Vec<hmac::Key>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("realm", &self.realm)
            .field("users", &self.users.len())
            .field("secrets", &self.secrets.len())
            .finish()
    }
}

impl Credentials {
    /// Credentials of a realm, so far of nobody.
    ///
    /// # Errors
    ///
    /// If the realm is empty or too long.
    pub fn new(realm: &str) -> Result<Self, CredentialsError> {
        let is_possible = (1..=REALM_BYTES_MAX).contains(&realm.len());
        let realm = is_possible.then(|| realm.into()).ok_or(CredentialsError::Realm)?;
        Ok(Self { realm, users: HashMap::new(), names: HashMap::new(), secrets: Vec::new() })
    }

    /// Adds a static user. Name and password are taken as they are: others than ASCII have to be
    /// given as OpaqueString (RFC 8265) leaves them, which is what clients send.
    ///
    /// # Errors
    ///
    /// If there is a limit that it breaks, or such a user already.
    pub fn add_user(&mut self, name: &str, password: &[u8]) -> Result<(), CredentialsError> {
        if !(1..=USERNAME_BYTES_MAX).contains(&name.len()) {
            return Err(CredentialsError::Username);
        }
        check_secret(password)?;
        if self.users.len() >= USERS_MAX {
            return Err(CredentialsError::TooManyUsers);
        }
        if self.users.contains_key(name) {
            return Err(CredentialsError::UsernameTwice);
        }
        let keys = [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256]
            .map(|algorithm| Key::long_term(algorithm, name, &self.realm, password));
        self.users.insert(name.into(), keys);
        self.names.insert(userhash(name, &self.realm), name.into());
        Ok(())
    }

    /// Adds a secret shared with whoever hands out time-limited users: names of the form
    /// `expiry:user` or `expiry`, with the expiry in seconds since the Unix epoch, whose password is
    /// the base64 form of the HMAC-SHA1 of the name. Other servers call this `use-auth-secret`.
    ///
    /// # Errors
    ///
    /// If it breaks a limit.
    pub fn add_shared_secret(&mut self, secret: &[u8]) -> Result<(), CredentialsError> {
        check_secret(secret)?;
        if self.secrets.len() >= SHARED_SECRETS_MAX {
            return Err(CredentialsError::TooManySecrets);
        }
        self.secrets.push(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret));
        Ok(())
    }

    /// The realm.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// Whether every user can be found by USERHASH: names of time-limited users are not known
    /// before they come, so a server that has any must not ask for hashes.
    pub fn knows_userhashes(&self) -> bool {
        self.secrets.is_empty()
    }

    /// The user that a request claims to be of, and the keys it may be made with. `unix_s` is the
    /// time now; without it, names whose time is over count as well.
    pub fn find<'a>(
        &'a self,
        claim: Claim<'a>,
        algorithm: PasswordAlgorithm,
        unix_s: Option<u64>,
    ) -> Option<Found<'a>> {
        let name = match claim {
            Claim::Username(name) => name,
            Claim::Userhash(hash) => self.names.get(hash)?,
        };
        if let Some([md5, sha256]) = self.users.get(name) {
            let key = match algorithm {
                PasswordAlgorithm::Md5 => md5,
                PasswordAlgorithm::Sha256 => sha256,
            };
            return Some(Found { name, keys: vec![key.clone()] });
        }
        let is_good = expiry_unix_s(name)? > unix_s.unwrap_or_default();
        let keys = is_good.then(|| self.time_limited_keys(name, algorithm))?;
        (!keys.is_empty()).then_some(Found { name, keys })
    }

    fn time_limited_keys(&self, name: &str, algorithm: PasswordAlgorithm) -> Vec<Key> {
        let key = |secret| {
            let mut password = time_limited_password_with(secret, name);
            let key = Key::long_term(algorithm, name, &self.realm, &password);
            password.zeroize();
            key
        };
        self.secrets.iter().map(key).collect()
    }
}

/// The password of a time-limited user, as whoever hands it out computes it.
pub fn time_limited_password(secret: &[u8], name: &str) -> Zeroizing<String> {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let password = time_limited_password_with(&key, name);
    Zeroizing::new(String::from_utf8_lossy(&password).into_owned())
}

/// The part of a name that quotas count: of a time-limited one what follows the time, so that a new
/// name is no new user.
pub fn quota_name(name: &str) -> &str {
    match name.split_once(':') {
        Some((expiry, user)) if !user.is_empty() && is_expiry(expiry) => user,
        _ => name,
    }
}

fn check_secret(secret: &[u8]) -> Result<(), CredentialsError> {
    let is_possible = (1..=SECRET_BYTES_MAX).contains(&secret.len());
    is_possible.then_some(()).ok_or(CredentialsError::Secret)
}

fn time_limited_password_with(secret: &hmac::Key, name: &str) -> [u8; TIME_LIMITED_PASSWORD_BYTES] {
    let tag = hmac::sign(secret, name.as_bytes());
    let mut password = [0; TIME_LIMITED_PASSWORD_BYTES];
    let written = STANDARD.encode_slice(tag.as_ref(), &mut password);
    debug_assert_eq!(written, Ok(TIME_LIMITED_PASSWORD_BYTES));
    password
}

fn expiry_unix_s(name: &str) -> Option<u64> {
    let expiry = name.split_once(':').map_or(name, |(expiry, _)| expiry);
    is_expiry(expiry).then(|| expiry.parse().ok())?
}

fn is_expiry(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "1700000000:alice";

    fn credentials() -> Credentials {
        let mut credentials = Credentials::new("example.org").unwrap();
        credentials.add_user("bob", b"pass").unwrap();
        credentials.add_shared_secret(b"north").unwrap();
        credentials.add_shared_secret(b"south").unwrap();
        credentials
    }

    #[test]
    fn a_time_limited_user_is_found_until_its_time_and_under_each_secret() {
        let credentials = credentials();
        let find = |unix_s| credentials.find(Claim::Username(NAME), PasswordAlgorithm::Md5, unix_s);
        let keys = find(Some(1_699_999_999)).unwrap().keys;
        for (secret, key) in [&b"north"[..], b"south"].into_iter().zip(&keys) {
            let password = time_limited_password(secret, NAME);
            let expected =
                Key::long_term(PasswordAlgorithm::Md5, NAME, "example.org", password.as_bytes());
            assert_eq!(key.expose_secret(), expected.expose_secret());
        }
        assert_eq!(keys.len(), 2);
        assert!(find(Some(1_700_000_000)).is_none());
        assert!(find(None).is_some());
    }

    #[test]
    fn a_time_limited_password_is_the_one_other_servers_compute() {
        // echo -n 1700000000:alice | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(*time_limited_password(b"north", NAME), "Cd/49soE35ICqcJF/bCTn8Z4OyE=");
    }

    #[test]
    fn users_are_found_by_hash_only_when_all_of_them_can_be() {
        let mut alone = Credentials::new("example.org").unwrap();
        alone.add_user("bob", b"pass").unwrap();
        let hash = userhash("bob", "example.org");
        let found = alone.find(Claim::Userhash(&hash), PasswordAlgorithm::Sha256, Some(0));
        assert_eq!(found.unwrap().name, "bob");
        assert!(alone.find(Claim::Userhash(&[1; 32]), PasswordAlgorithm::Md5, None).is_none());
        assert!(alone.knows_userhashes());
        assert!(!credentials().knows_userhashes());
    }

    #[test]
    fn names_that_are_neither_static_nor_a_time_are_nobody() {
        let credentials = credentials();
        for name in ["carol", "", ":alice", "17x:alice", "99999999999999999999999:alice", "-1:a"] {
            let claim = Claim::Username(name);
            assert!(credentials.find(claim, PasswordAlgorithm::Md5, Some(1)).is_none(), "{name}");
        }
    }

    #[test]
    fn quotas_count_a_time_limited_user_once() {
        let names = ["1700000000:alice", "1800000000:alice", "bob", "1700000000", "x:bob", "17:"];
        let counted = ["alice", "alice", "bob", "1700000000", "x:bob", "17:"];
        assert_eq!(names.map(quota_name), counted);
    }

    #[test]
    fn limits_of_credentials_hold() {
        let long = "x".repeat(USERNAME_BYTES_MAX + 1);
        let mut credentials = credentials();
        assert_eq!(Credentials::new("").unwrap_err(), CredentialsError::Realm);
        assert_eq!(Credentials::new(&long).unwrap_err(), CredentialsError::Realm);
        assert_eq!(credentials.add_user("", b"p"), Err(CredentialsError::Username));
        assert_eq!(credentials.add_user(&long, b"p"), Err(CredentialsError::Username));
        assert_eq!(credentials.add_user("bob", b"p"), Err(CredentialsError::UsernameTwice));
        assert_eq!(credentials.add_user("eve", b""), Err(CredentialsError::Secret));
        let long = [0; SECRET_BYTES_MAX + 1];
        assert_eq!(credentials.add_shared_secret(&long), Err(CredentialsError::Secret));
        credentials.add_shared_secret(b"east").unwrap();
        credentials.add_shared_secret(b"west").unwrap();
        let fifth = credentials.add_shared_secret(b"up");
        assert_eq!(fifth, Err(CredentialsError::TooManySecrets));
        assert!(!format!("{credentials:?}").contains("bob"));
    }
}
