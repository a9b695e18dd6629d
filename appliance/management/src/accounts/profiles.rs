//! Which profiles an identity's links have spoken, in one byte.
//!
//! Part of an account, on the management thread. An account is kept for every identity of the last
//! day or so, and a tree of names would be a third of its memory.

use waystation_astral::frame::Profile;

/// A set of profiles, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Profiles(u8);

impl Profiles {
    /// Adds one, if it is not there yet.
    pub(super) fn insert(&mut self, profile: Profile) {
        self.0 |= bit(profile);
    }

    /// The names of those in it, oldest profile first.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let present = move |profile: &Profile| self.0 & bit(*profile) != 0;
        Profile::ALL.into_iter().filter(present).map(Profile::name)
    }
}

fn bit(profile: Profile) -> u8 {
    match profile {
        Profile::P0 => 1,
        Profile::P2 => 1 << 1,
        Profile::P4 => 1 << 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_named_once_and_in_order_however_they_came() {
        let mut profiles = Profiles::default();
        assert_eq!(profiles.names().count(), 0);
        for profile in [Profile::P4, Profile::P0, Profile::P4] {
            profiles.insert(profile);
        }
        assert_eq!(profiles.names().collect::<Vec<_>>(), ["p0", "p4"]);
        profiles.insert(Profile::P2);
        assert_eq!(profiles.names().collect::<Vec<_>>(), ["p0", "p2", "p4"]);
    }
}
