//! The attributes of STUN and TURN messages: their numbers, and the values of those with a layout.
//!
//! Owns the numbers of RFC 8489 §18.3 and RFC 8656 §18 and the layout of addresses, errors and
//! password algorithms. Called by reader, writer and server on a data core. It never panics.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::MAGIC_COOKIE;
use crate::message::TransactionId;

/// Which attribute it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttributeType(pub u16);

impl AttributeType {
    /// RFC 8489 §14.1.
    pub const MAPPED_ADDRESS: Self = Self(0x0001);
    /// RFC 8489 §14.3.
    pub const USERNAME: Self = Self(0x0006);
    /// RFC 8489 §14.5.
    pub const MESSAGE_INTEGRITY: Self = Self(0x0008);
    /// RFC 8489 §14.8.
    pub const ERROR_CODE: Self = Self(0x0009);
    /// RFC 8489 §14.13.
    pub const UNKNOWN_ATTRIBUTES: Self = Self(0x000a);
    /// RFC 8656 §18.1.
    pub const CHANNEL_NUMBER: Self = Self(0x000c);
    /// RFC 8656 §18.2.
    pub const LIFETIME: Self = Self(0x000d);
    /// RFC 8656 §18.3.
    pub const XOR_PEER_ADDRESS: Self = Self(0x0012);
    /// RFC 8656 §18.4.
    pub const DATA: Self = Self(0x0013);
    /// RFC 8489 §14.9.
    pub const REALM: Self = Self(0x0014);
    /// RFC 8489 §14.10.
    pub const NONCE: Self = Self(0x0015);
    /// RFC 8656 §18.5.
    pub const XOR_RELAYED_ADDRESS: Self = Self(0x0016);
    /// RFC 8656 §18.6.
    pub const REQUESTED_ADDRESS_FAMILY: Self = Self(0x0017);
    /// RFC 8656 §18.7.
    pub const EVEN_PORT: Self = Self(0x0018);
    /// RFC 8656 §18.8.
    pub const REQUESTED_TRANSPORT: Self = Self(0x0019);
    /// RFC 8656 §18.9.
    pub const DONT_FRAGMENT: Self = Self(0x001a);
    /// RFC 8489 §14.6.
    pub const MESSAGE_INTEGRITY_SHA256: Self = Self(0x001c);
    /// RFC 8489 §14.12.
    pub const PASSWORD_ALGORITHM: Self = Self(0x001d);
    /// RFC 8489 §14.4.
    pub const USERHASH: Self = Self(0x001e);
    /// RFC 8489 §14.2.
    pub const XOR_MAPPED_ADDRESS: Self = Self(0x0020);
    /// RFC 8656 §18.10.
    pub const RESERVATION_TOKEN: Self = Self(0x0022);
    /// RFC 8656 §18.11.
    pub const ADDITIONAL_ADDRESS_FAMILY: Self = Self(0x8000);
    /// RFC 8656 §18.12.
    pub const ADDRESS_ERROR_CODE: Self = Self(0x8001);
    /// RFC 8489 §14.11.
    pub const PASSWORD_ALGORITHMS: Self = Self(0x8002);
    /// RFC 8656 §18.13.
    pub const ICMP: Self = Self(0x8004);
    /// RFC 8489 §14.14.
    pub const SOFTWARE: Self = Self(0x8022);
    /// RFC 8489 §14.15.
    pub const ALTERNATE_SERVER: Self = Self(0x8023);
    /// RFC 8489 §14.7.
    pub const FINGERPRINT: Self = Self(0x8028);

    /// Every attribute whose meaning is known here.
    pub const KNOWN: [Self; 28] = [
        Self::MAPPED_ADDRESS,
        Self::USERNAME,
        Self::MESSAGE_INTEGRITY,
        Self::ERROR_CODE,
        Self::UNKNOWN_ATTRIBUTES,
        Self::CHANNEL_NUMBER,
        Self::LIFETIME,
        Self::XOR_PEER_ADDRESS,
        Self::DATA,
        Self::REALM,
        Self::NONCE,
        Self::XOR_RELAYED_ADDRESS,
        Self::REQUESTED_ADDRESS_FAMILY,
        Self::EVEN_PORT,
        Self::REQUESTED_TRANSPORT,
        Self::DONT_FRAGMENT,
        Self::MESSAGE_INTEGRITY_SHA256,
        Self::PASSWORD_ALGORITHM,
        Self::USERHASH,
        Self::XOR_MAPPED_ADDRESS,
        Self::RESERVATION_TOKEN,
        Self::ADDITIONAL_ADDRESS_FAMILY,
        Self::ADDRESS_ERROR_CODE,
        Self::PASSWORD_ALGORITHMS,
        Self::ICMP,
        Self::SOFTWARE,
        Self::ALTERNATE_SERVER,
        Self::FINGERPRINT,
    ];

    /// Whether a receiver that does not know it must refuse the message (RFC 8489 §14).
    pub fn is_required(self) -> bool {
        self.0 < 0x8000
    }

    /// Whether its meaning is known here.
    pub fn is_known(self) -> bool {
        Self::KNOWN.contains(&self)
    }
}

impl fmt::Debug for AttributeType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#06x}", self.0)
    }
}

/// An address family as attributes name it (RFC 8489 §14.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// 0x01.
    Ipv4,
    /// 0x02.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// Its number in attributes.
    pub fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    /// The family with a number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Ipv4),
            2 => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// Its place in a table of two.
    pub fn index(self) -> usize {
        match self {
            Self::Ipv4 => 0,
            Self::Ipv6 => 1,
        }
    }
}

/// Why a request is refused (RFC 8489 §14.8, RFC 8656 §19).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// 300.
    TryAlternate,
    /// 400.
    BadRequest,
    /// 401.
    Unauthenticated,
    /// 403.
    Forbidden,
    /// 420.
    UnknownAttribute,
    /// 437.
    AllocationMismatch,
    /// 438.
    StaleNonce,
    /// 440.
    AddressFamilyNotSupported,
    /// 441.
    WrongCredentials,
    /// 442.
    UnsupportedTransportProtocol,
    /// 443.
    PeerAddressFamilyMismatch,
    /// 486.
    AllocationQuotaReached,
    /// 508.
    InsufficientCapacity,
}

impl ErrorCode {
    /// Every code, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::TryAlternate,
        Self::BadRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::UnknownAttribute,
        Self::AllocationMismatch,
        Self::StaleNonce,
        Self::AddressFamilyNotSupported,
        Self::WrongCredentials,
        Self::UnsupportedTransportProtocol,
        Self::PeerAddressFamilyMismatch,
        Self::AllocationQuotaReached,
        Self::InsufficientCapacity,
    ];

    /// The number on the wire.
    pub fn number(self) -> u16 {
        match self {
            Self::TryAlternate => 300,
            Self::BadRequest => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::UnknownAttribute => 420,
            Self::AllocationMismatch => 437,
            Self::StaleNonce => 438,
            Self::AddressFamilyNotSupported => 440,
            Self::WrongCredentials => 441,
            Self::UnsupportedTransportProtocol => 442,
            Self::PeerAddressFamilyMismatch => 443,
            Self::AllocationQuotaReached => 486,
            Self::InsufficientCapacity => 508,
        }
    }

    /// The reason phrase that the RFCs give it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TryAlternate => "Try Alternate",
            Self::BadRequest => "Bad Request",
            Self::Unauthenticated => "Unauthenticated",
            Self::Forbidden => "Forbidden",
            Self::UnknownAttribute => "Unknown Attribute",
            Self::AllocationMismatch => "Allocation Mismatch",
            Self::StaleNonce => "Stale Nonce",
            Self::AddressFamilyNotSupported => "Address Family not Supported",
            Self::WrongCredentials => "Wrong Credentials",
            Self::UnsupportedTransportProtocol => "Unsupported Transport Protocol",
            Self::PeerAddressFamilyMismatch => "Peer Address Family Mismatch",
            Self::AllocationQuotaReached => "Allocation Quota Reached",
            Self::InsufficientCapacity => "Insufficient Capacity",
        }
    }

    /// The hundreds and the rest, as ERROR-CODE and ADDRESS-ERROR-CODE hold them.
    pub(crate) fn class_and_number(self) -> [u8; 2] {
        let number = self.number();
        // Both fit: every number is below 600.
        [number / 100, number % 100].map(|part| u8::try_from(part).unwrap_or_default())
    }
}

/// The number of the error that a response gives, if the value is an ERROR-CODE.
pub fn error_number(value: &[u8]) -> Option<u16> {
    let &[_, _, class, number, ..] = value else {
        return None;
    };
    Some(u16::from(class & 7) * 100 + u16::from(number))
}

/// Reads an XOR-MAPPED-ADDRESS, XOR-PEER-ADDRESS or XOR-RELAYED-ADDRESS value (RFC 8489 §14.2).
pub fn xor_address(value: &[u8], transaction: TransactionId) -> Option<SocketAddr> {
    let &[_, family, p0, p1, ref ip @ ..] = value else {
        return None;
    };
    let [c0, c1, c2, c3] = MAGIC_COOKIE.to_be_bytes();
    let port = u16::from_be_bytes([p0 ^ c0, p1 ^ c1]);
    let ip = match (Family::from_number(family)?, ip) {
        (Family::Ipv4, &[a, b, c, d]) => IpAddr::from([a ^ c0, b ^ c1, c ^ c2, d ^ c3]),
        (Family::Ipv6, ip) => {
            let ip = u128::from_be_bytes(ip.try_into().ok()?);
            IpAddr::V6(Ipv6Addr::from_bits(ip ^ ipv6_mask(transaction)))
        }
        (Family::Ipv4, _) => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Reads a MAPPED-ADDRESS or ALTERNATE-SERVER value (RFC 8489 §14.1).
pub fn plain_address(value: &[u8]) -> Option<SocketAddr> {
    let &[_, family, p0, p1, ref ip @ ..] = value else {
        return None;
    };
    let ip = match Family::from_number(family)? {
        Family::Ipv4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        Family::Ipv6 => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([p0, p1])))
}

/// The address whose plain layout is the XOR layout of this one. XOR is its own inverse.
pub(crate) fn xored(address: SocketAddr, transaction: TransactionId) -> SocketAddr {
    let [high, low, ..] = MAGIC_COOKIE.to_be_bytes();
    let ip = match address.ip() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() ^ MAGIC_COOKIE)),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() ^ ipv6_mask(transaction))),
    };
    SocketAddr::new(ip, address.port() ^ u16::from_be_bytes([high, low]))
}

/// What an IPv6 address is combined with: the cookie and the transaction's name.
fn ipv6_mask(TransactionId(transaction): TransactionId) -> u128 {
    let transaction = transaction.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte));
    u128::from(MAGIC_COOKIE) << 96 | transaction
}

/// Reads a value of four bytes of which the first names a family (RFC 8656 §18.6).
pub fn family(value: &[u8]) -> Option<Family> {
    let &[family, _, _, _] = value else {
        return None;
    };
    Family::from_number(family)
}
