//! Which addresses the box sends to for others: none but those of the public network, whatever way
//! they are written.
//!
//! Owns the table of special-purpose blocks and the ways in which one address hides in another. An
//! immutable value, built from the configuration by the management core and read wherever a peer's
//! address comes in, and again right before it is used. It never resolves a name.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

use crate::limits::{ALLOWED_BLOCKS_MAX, OWN_ADDRESSES_MAX};

/// Why an address is not sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Error)]
pub enum Denied {
    /// No address: a name, or one of the spellings that only some programs understand.
    #[error("no address")]
    NotAnAddress,
    /// One of the box's own addresses.
    #[error("an address of this machine")]
    Own,
    /// In a block that the operator denies.
    #[error("a denied address")]
    ByOperator,
    /// A service of a hosting provider that hands out secrets.
    #[error("a metadata service")]
    Metadata,
    /// "This network", or no address at all.
    #[error("an unspecified address")]
    Unspecified,
    /// The machine itself.
    #[error("a loopback address")]
    Loopback,
    /// The same link.
    #[error("a link-local address")]
    LinkLocal,
    /// A private network of IPv4.
    #[error("a private address")]
    Private,
    /// A provider's network behind its address translation.
    #[error("a shared address")]
    Shared,
    /// A private network of IPv6.
    #[error("a unique local address")]
    UniqueLocal,
    /// A private network of an older IPv6.
    #[error("a site-local address")]
    SiteLocal,
    /// Many machines.
    #[error("a multicast address")]
    Multicast,
    /// All machines of a network.
    #[error("a broadcast address")]
    Broadcast,
    /// Examples in texts.
    #[error("a documentation address")]
    Documentation,
    /// Test networks.
    #[error("a benchmarking address")]
    Benchmarking,
    /// A translator or tunnel whose other end cannot be told from the address.
    #[error("a tunnel or translation prefix")]
    Translation,
    /// Anything else that is not of the public network.
    #[error("a reserved address")]
    Reserved,
}

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    first: IpAddr,
    prefix_bits: u8,
}

/// A policy that cannot be; the operator wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// A prefix longer than the address, or an address with bits behind its prefix.
    #[error("not the first address of a block of that size")]
    Block,
    /// More blocks than are looked through for each address.
    #[error("at most {ALLOWED_BLOCKS_MAX} allowed blocks, and as many denied ones")]
    TooManyBlocks,
    /// More addresses than a machine has.
    #[error("at most {OWN_ADDRESSES_MAX} addresses of this machine")]
    TooManyAddresses,
}

impl fmt::Display for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.first, self.prefix_bits)
    }
}

impl FromStr for Block {
    type Err = PolicyError;

    /// `ADDRESS/BITS`.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (first, bits) = text.split_once('/').ok_or(PolicyError::Block)?;
        let first = first.parse().ok().ok_or(PolicyError::Block)?;
        Self::new(first, bits.parse().ok().ok_or(PolicyError::Block)?)
    }
}

impl Block {
    /// All addresses, of IPv4 and of IPv6.
    pub const ALL: [Self; 2] = [
        Self { first: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix_bits: 0 },
        Self { first: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix_bits: 0 },
    ];

    /// The block that begins with an address and whose addresses agree in so many bits. One of IPv4
    /// addresses that are mapped into IPv6 is the block of these, as [`canonical`] addresses are
    /// looked up.
    ///
    /// # Errors
    ///
    /// If there is no such block.
    pub fn new(first: IpAddr, prefix_bits: u8) -> Result<Self, PolicyError> {
        let block = Self { first, prefix_bits };
        let is_whole = prefix_bits <= bits_of(first) && block.masked(first) == first;
        let mapped = match (canonical(first), prefix_bits.checked_sub(MAPPED_BITS)) {
            (IpAddr::V4(inner), Some(bits)) if first.is_ipv6() => {
                Some(Self { first: IpAddr::V4(inner), prefix_bits: bits })
            }
            _ => None,
        };
        is_whole.then_some(mapped.unwrap_or(block)).ok_or(PolicyError::Block)
    }

    /// The first of its addresses.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// How many leading bits its addresses share.
    pub fn prefix_bits(&self) -> u8 {
        self.prefix_bits
    }

    /// Whether an address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && self.masked(ip) == self.first
    }

    fn masked(&self, ip: IpAddr) -> IpAddr {
        let behind = u32::from(bits_of(ip).saturating_sub(self.prefix_bits));
        match ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(behind).unwrap_or_default();
                IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(behind).unwrap_or_default();
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
            }
        }
    }
}

/// Bits in front of an IPv4 address that is mapped into IPv6.
const MAPPED_BITS: u8 = 96;

fn bits_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// What is denied, and what an operator opened or closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    allowed: Vec<Block>,
    denied: Vec<Block>,
    own: BTreeSet<IpAddr>,
}

impl AddressPolicy {
    /// A policy that opens blocks beside the public network, for a machine with these addresses.
    ///
    /// # Errors
    ///
    /// If there are more of either than a policy has room for.
    pub fn new(
        allowed: Vec<Block>,
        own: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self, PolicyError> {
        if allowed.len() > ALLOWED_BLOCKS_MAX {
            return Err(PolicyError::TooManyBlocks);
        }
        let own: BTreeSet<_> = own.into_iter().map(canonical).collect();
        if own.len() > OWN_ADDRESSES_MAX {
            return Err(PolicyError::TooManyAddresses);
        }
        Ok(Self { allowed, denied: Vec::new(), own })
    }

    /// The same policy without some blocks of what it admits, wherever their addresses hide.
    ///
    /// # Errors
    ///
    /// If there are more than a policy has room for.
    pub fn without(self, denied: Vec<Block>) -> Result<Self, PolicyError> {
        if denied.len() > ALLOWED_BLOCKS_MAX {
            return Err(PolicyError::TooManyBlocks);
        }
        Ok(Self { denied, ..self })
    }

    /// A policy that admits nothing.
    pub fn nothing() -> Self {
        Self { denied: Block::ALL.to_vec(), ..Self::default() }
    }

    /// Whether an address, or an IPv4 address that a packet to it may end up at, is in a denied
    /// block. The address is a [`canonical`] one.
    pub(crate) fn denies(&self, ip: IpAddr) -> bool {
        let is_in_denied = |ip: IpAddr| self.denied.iter().any(|block| block.contains(ip));
        let mut hidden = hidden_ipv4(ip).into_iter().flatten();
        is_in_denied(ip) || hidden.any(|hidden| is_in_denied(IpAddr::V4(hidden)))
    }

    /// Whether an address may be sent to; gives it in its one canonical form.
    ///
    /// # Errors
    ///
    /// Why not. What an operator opened is open as itself alone, not where it hides in another
    /// address; the machine's own addresses cannot be opened.
    pub fn check(&self, ip: IpAddr) -> Result<IpAddr, Denied> {
        let ip = canonical(ip);
        let hidden = hidden_ipv4(ip);
        let is_own = |ip: IpAddr| self.own.contains(&ip);
        if is_own(ip) || hidden.iter().flatten().any(|hidden| is_own(IpAddr::V4(*hidden))) {
            return Err(Denied::Own);
        }
        if self.denies(ip) {
            return Err(Denied::ByOperator);
        }
        if self.allowed.iter().any(|block| block.contains(ip)) {
            return Ok(ip);
        }
        let special = match ip {
            IpAddr::V4(ip) => special_ipv4(ip),
            IpAddr::V6(ip) => special_ipv6(ip),
        };
        let hidden = hidden.into_iter().flatten().find_map(special_ipv4);
        special.or(hidden).map_or(Ok(ip), Err)
    }

    /// Whether the address in a text may be sent to. Only the spellings of RFC 3986 and RFC 5952
    /// are read: decimal with four parts, or hexadecimal with colons.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check_text(&self, text: &str) -> Result<IpAddr, Denied> {
        let parsed = text.parse().ok().ok_or(Denied::NotAnAddress)?;
        self.check(parsed)
    }
}

/// The one form of an address that has several: an IPv4 address that is mapped into IPv6 reaches the
/// same socket as itself.
pub fn canonical(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
    }
}

/// IPv4 addresses that a packet to an IPv6 address may end up at.
fn hidden_ipv4(ip: IpAddr) -> [Option<Ipv4Addr>; 2] {
    let IpAddr::V6(ip) = ip else {
        return [None; 2];
    };
    let bits = ip.to_bits();
    // Cutting off the bits above the lowest 32 is the purpose.
    let at = |shift: u32| {
        let [.., a, b, c, d] = (bits >> shift).to_be_bytes();
        Some(Ipv4Addr::new(a, b, c, d))
    };
    let behind = |shift: u32, prefix: u128| (bits >> shift == prefix).then(|| at(0)).flatten();
    // Compatible, translated (RFC 2765), and by the well-known prefix of NAT64 (RFC 6052).
    let translated = behind(32, 0)
        .or_else(|| behind(32, 0xffff_0000))
        .or_else(|| behind(32, 0x0064_ff9b_u128 << 64));
    let is_6to4 = bits >> 112 == 0x2002;
    // An interface that is named after an IPv4 address, with or without the bit that calls it
    // unique.
    let interface = (bits >> 32) & 0xffff_ffff;
    let is_isatap = interface == 0x0000_5efe || interface == 0x0200_5efe;
    let tunnelled = if is_6to4 { at(80) } else { None };
    [translated.or(if is_isatap { at(0) } else { None }), tunnelled]
}

/// RFC 6890 and the registry it began, with what hosting providers put into it.
fn special_ipv4(ip: Ipv4Addr) -> Option<Denied> {
    match ip.octets() {
        [169, 254, 169, 253 | 254] | [100, 100, 100, 200] | [192, 0, 0, 192] => {
            Some(Denied::Metadata)
        }
        [0, ..] => Some(Denied::Unspecified),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(Denied::Private),
        [100, 64..=127, ..] => Some(Denied::Shared),
        [127, ..] => Some(Denied::Loopback),
        [169, 254, ..] => Some(Denied::LinkLocal),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some(Denied::Documentation),
        [192, 0, 0, _] => Some(Denied::Reserved),
        [192, 88, 99, _] => Some(Denied::Translation),
        [198, 18..=19, ..] => Some(Denied::Benchmarking),
        [224..=239, ..] => Some(Denied::Multicast),
        [255, 255, 255, 255] => Some(Denied::Broadcast),
        [240..=255, ..] => Some(Denied::Reserved),
        _ => None,
    }
}

/// The IPv6 registry. What is neither global unicast nor behind the well-known prefix of NAT64 is
/// denied without having to be listed.
fn special_ipv6(ip: Ipv6Addr) -> Option<Denied> {
    match ip.segments() {
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] => {
            Some(Denied::Metadata)
        }
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Denied::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Denied::Loopback),
        [0x0064, 0xff9b, 0, 0, 0, 0, _, _] => None,
        [0x0064, 0xff9b, ..] => Some(Denied::Translation),
        [0xfc00..=0xfdff, ..] => Some(Denied::UniqueLocal),
        [0xfe80..=0xfebf, ..] => Some(Denied::LinkLocal),
        [0xfec0..=0xfeff, ..] => Some(Denied::SiteLocal),
        [0xff00..=0xffff, ..] => Some(Denied::Multicast),
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Some(Denied::Documentation),
        [0x2001, 0x0002, 0, ..] => Some(Denied::Benchmarking),
        [0x2001, 0, ..] => Some(Denied::Translation),
        [0x2001, 0..=0x01ff, ..] => Some(Denied::Reserved),
        [0x2000..=0x3fff, ..] => None,
        [0, 0, 0, 0, 0, 0, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => Some(Denied::Translation),
        _ => Some(Denied::Reserved),
    }
}
