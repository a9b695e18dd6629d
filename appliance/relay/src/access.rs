//! Who may link to this node: one of three modes and a list of identities.
//!
//! Built by the management core from the configuration, read by data cores when a handshake has
//! shown who the peer is. Immutable: a change is a new value.

use std::collections::BTreeSet;
use waystation_astral::identity::Identity;

/// Which identities may link to this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Every one.
    #[default]
    Everyone,
    /// These and no others.
    Allowlist(BTreeSet<Identity>),
    /// All but these.
    Denylist(BTreeSet<Identity>),
}

impl Access {
    /// Whether an identity may link to this node.
    pub fn admits(&self, identity: &Identity) -> bool {
        match self {
            Self::Everyone => true,
            Self::Allowlist(identities) => identities.contains(identity),
            Self::Denylist(identities) => !identities.contains(identity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waystation_astral::identity::SecretKey;

    fn identity(number: u8) -> Identity {
        SecretKey::from_bytes(&[number; 32]).unwrap().identity()
    }

    #[test]
    fn each_mode_admits_whom_it_names() {
        let listed = BTreeSet::from([identity(1)]);
        let admitted = |access: &Access| [1, 2].map(|number| access.admits(&identity(number)));
        assert_eq!(admitted(&Access::Everyone), [true, true]);
        assert_eq!(admitted(&Access::Allowlist(listed.clone())), [true, false]);
        assert_eq!(admitted(&Access::Denylist(listed)), [false, true]);
    }
}
