//! Names for everything the relay joins: cores, links, legs, raw sockets and UDP sessions.
//!
//! Owned by whoever holds the value; called from data cores and the management core alike. Tags
//! carry a generation, so a tag of something that has ended never names its successor. They are
//! meaningless outside one process and are never sent to a peer.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// One data core, counted from 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct CoreId(pub u16);

impl CoreId {
    /// The index of this core in per-core tables.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! tag {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        pub struct $name {
            /// The core that owns it.
            pub core: CoreId,
            /// Its place in that core's table.
            pub slot: u32,
            /// How often the place was used before.
            pub generation: u32,
        }

        impl fmt::Display for $name {
            /// `core.slot.generation`, the form listings print and commands take.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}.{}", self.core, self.slot, self.generation)
            }
        }

        impl FromStr for $name {
            type Err = TagError;

            fn from_str(text: &str) -> Result<Self, TagError> {
                let (core, slot, generation) = split_tag(text)?;
                Ok(Self { core: CoreId(core), slot, generation })
            }
        }
    };
}

tag!(
    /// A link: an authenticated, encrypted connection to one peer.
    LinkTag
);
tag!(
    /// A leg: one side of a session, on one link.
    LegTag
);
tag!(
    /// A raw socket of the gateway: an idle connection, a caller, or half of a pipe.
    SocketTag
);
tag!(
    /// An opaque UDP session between two legs.
    UdpSessionTag
);

/// Why a text is not a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// Not three parts.
    #[error("a tag has three numbers with dots between them, like 0.12.3")]
    Shape,
    /// One part is no number.
    #[error("a tag has three numbers with dots between them, like 0.12.3: {0}")]
    Number(#[from] ParseIntError),
}

fn split_tag(text: &str) -> Result<(u16, u32, u32), TagError> {
    let mut parts = text.split('.');
    let (Some(core), Some(slot), Some(generation), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TagError::Shape);
    };
    Ok((core.parse()?, slot.parse()?, generation.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_reads_back_what_it_prints() {
        let tag = LinkTag { core: CoreId(3), slot: 77, generation: 5 };
        assert_eq!(tag.to_string().parse::<LinkTag>(), Ok(tag));
    }

    #[test]
    fn text_that_is_no_tag_is_refused() {
        for text in ["", "1", "1.2", "1.2.3.4", "a.b.c", "70000.1.1", "1.2.-3"] {
            assert!(text.parse::<LegTag>().is_err(), "{text}");
        }
    }
}
