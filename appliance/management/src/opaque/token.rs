//! What the end of a leg is given to prove that the leg is its own.
//!
//! Made when a session opens, told once to whoever opened it, and kept nowhere here: the core has
//! the secret, and the end has the token. `docs/protocols/opaque-udp.md` says how an end uses it.

use std::fmt;
use std::fmt::Write;
use waystation_relay::ids::UdpSessionTag;
use waystation_relay::udp::Side;
use waystation_relay::udp::proof::{LegName, Secret};
use zeroize::Zeroizing;

/// The name of a leg in proofs, and its secret. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    name: [u8; LegName::BYTES],
    secret: Secret,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// As hexadecimal digits: those of the name, and behind them those of the secret.
    pub fn text(&self) -> Zeroizing<String> {
        let bytes = self.name.iter().chain(self.secret.expose());
        let mut text = Zeroizing::new(String::with_capacity(2 * (LegName::BYTES + 32)));
        for byte in bytes {
            // Writing to a text does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

/// The secrets of the legs of a session that is being opened.
#[derive(Debug)]
pub(super) struct Tokens(pub(super) [Option<Secret>; 2]);

impl Tokens {
    pub(super) fn secret(&self, side: Side) -> Option<Secret> {
        self.0[side.index()].clone()
    }

    /// What the ends of a session are given.
    pub(super) fn of(self, session: UdpSessionTag) -> [Option<Token>; 2] {
        Side::BOTH.map(|side| {
            let name = LegName { session, side }.bytes();
            Some(Token { name, secret: self.secret(side)? })
        })
    }
}
