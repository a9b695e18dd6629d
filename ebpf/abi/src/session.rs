//! Sessions as the programs look them up, and what is kept with each.

use crate::limits::INDICES_MAX;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address as it lies in a packet; IPv4 as `::ffff:a.b.c.d`.
///
/// An IPv6 packet never matches an IPv4 entry: keys carry the family too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Address {
    /// Four words in the order of the packet's bytes, whatever the byte order of the machine.
    pub words: [u32; 4],
}

impl Address {
    /// The third word of an IPv4 address.
    pub const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

    /// An IPv4 address from the word that lies in the packet.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, 0, Self::MAPPED, word] }
    }

    /// The sixteen bytes.
    pub fn octets(self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (four, word) in octets.chunks_exact_mut(4).zip(self.words) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        octets
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let word = |at: usize| {
            u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
        };
        Self { words: [word(0), word(4), word(8), word(12)] }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.words[..3] == [0, 0, Address::MAPPED] {
            IpAddr::V4(Ipv4Addr::from(address.words[3].to_ne_bytes()))
        } else {
            IpAddr::V6(Ipv6Addr::from(address.octets()))
        }
    }
}

/// Sixteen bits as they lie in a packet: a port, a channel number, a length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct NetworkU16(u16);

impl NetworkU16 {
    /// From a number.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// From what was read off a packet as it lies there.
    #[inline(always)]
    pub const fn from_packet(raw: u16) -> Self {
        Self(raw)
    }

    /// The number.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }

    /// What is to be written into a packet.
    #[inline(always)]
    pub const fn to_packet(self) -> u16 {
        self.0
    }
}

/// Families of addresses in keys and sessions.
pub mod family {
    /// IPv4.
    pub const V4: u8 = 4;
    /// IPv6.
    pub const V6: u8 = 6;
}

/// Whose packets an entry is about: who sends, to which of our addresses, on which channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct SessionKey {
    /// Source address of the packet.
    pub source: Address,
    /// Destination address of the packet, one of this machine's.
    pub local: Address,
    /// Source port.
    pub source_port: NetworkU16,
    /// Destination port.
    pub local_port: NetworkU16,
    /// Number of the TURN channel the packet is framed with (RFC 8656 §12.4), 0 for none.
    pub channel: NetworkU16,
    /// [`family::V4`] or [`family::V6`], as the packet's.
    pub family: u16,
}

impl SessionKey {
    /// The key of packets from `source` to `local` that are framed with `channel`, if any.
    ///
    /// The two addresses must be of one family; otherwise no packet has this key.
    pub fn new(
        source: core::net::SocketAddr,
        local: core::net::SocketAddr,
        channel: Option<u16>,
    ) -> Self {
        Self {
            source: source.ip().into(),
            local: local.ip().into(),
            source_port: NetworkU16::new(source.port()),
            local_port: NetworkU16::new(local.port()),
            channel: NetworkU16::new(channel.unwrap_or(0)),
            family: family_of(source.ip()).into(),
        }
    }
}

/// What is done with the packets of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// Handed to the owner's processor, for user space.
    Steer = 0,
    /// Rewritten and sent to the target without user space.
    Relay = 1,
    /// The same for WireGuard's data whose receiver is called by one of the indices. Everything
    /// else goes to user space, which learns from handshakes where an end is and what it is called.
    RelayTransport = 2,
}

/// What becomes of the packets of one key, and what the program remembers of them.
///
/// User space writes an entry whole and reads it; from `limiter_ns` on the program writes too. Those
/// words are written without atomic operations: packets of one key have one 5-tuple, a network card
/// puts them in one queue, and one processor serves that. Where that does not hold a count may be
/// lost and a burst be a packet longer, nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Session {
    /// Our address that packets leave from.
    pub target_source: Address,
    /// Where packets go.
    pub target_destination: Address,
    /// Our port that packets leave from.
    pub target_source_port: NetworkU16,
    /// The port packets go to.
    pub target_destination_port: NetworkU16,
    /// Number of the TURN channel that packets are framed with when they leave, 0 for none.
    pub target_channel: NetworkU16,
    /// An [`Action`].
    pub action: u8,
    /// [`family::V4`] or [`family::V6`], of the target.
    pub target_family: u8,
    /// Processor of the data core that owns the session.
    pub owner_cpu: u32,
    /// Time that 1024 bytes of payload take at the session's rate, in nanoseconds; 0 for no limit.
    /// 1 GB/s is 1024.
    pub cost_ns_per_kib: u32,
    /// How far ahead of its rate the session may be, in nanoseconds.
    pub burst_ns: u64,
    /// What the target is called by, as it lies in packets; for [`Action::RelayTransport`] alone.
    /// Places that are not needed repeat one that is.
    pub indices: [u32; INDICES_MAX],

    /// When everything relayed so far would be paid for at the session's rate, in nanoseconds of
    /// the monotonic clock: the theoretical arrival time of the generic cell rate algorithm.
    pub limiter_ns: u64,
    /// When the last packet was seen, in nanoseconds of the coarse monotonic clock.
    pub last_seen_ns: u64,
    /// Packets that were relayed or steered.
    pub packets: u64,
    /// Bytes of IP of those packets, as received.
    pub bytes: u64,
    /// Packets dropped because of the session's rate or hop limit.
    pub dropped_packets: u64,
    /// When the next hop below was looked up; 0 for never.
    pub hop_checked_ns: u64,
    /// When a packet is handed to user space again so that the kernel asks after the neighbour.
    pub neighbour_refresh_at_ns: u64,
    /// Interface the next hop is on; 0 for unknown.
    pub hop_interface: u32,
    /// Largest IP packet on the way, in bytes; 0 for unknown.
    pub hop_mtu_bytes: u32,
    /// Ethernet addresses of the next hop's frames: destination, then source.
    pub hop_frame: [u16; 6],
    /// Sum of what a packet's pseudo-header (RFC 768) has from its key, the protocol included; see
    /// [`Session::with_sums`].
    pub key_sum: u16,
    /// What the rewrite adds to the sum that a packet's checksum is of, but for lengths.
    pub rewrite_sum: u16,
}

impl Session {
    /// An entry whose packets are handed to the core on `owner_cpu`.
    pub fn steered(owner_cpu: u32) -> Self {
        Self { action: Action::Steer as u8, owner_cpu, ..Self::default() }
    }

    /// An entry whose packets leave from `from` to `to`, framed with `channel`, if any.
    ///
    /// The two addresses must be of one family.
    pub fn relayed(
        from: core::net::SocketAddr,
        to: core::net::SocketAddr,
        channel: Option<u16>,
        owner_cpu: u32,
    ) -> Self {
        Self {
            target_source: from.ip().into(),
            target_destination: to.ip().into(),
            target_source_port: NetworkU16::new(from.port()),
            target_destination_port: NetworkU16::new(to.port()),
            target_channel: NetworkU16::new(channel.unwrap_or(0)),
            action: Action::Relay as u8,
            target_family: family_of(to.ip()),
            owner_cpu,
            ..Self::default()
        }
    }

    /// Limits the session to `bytes_per_s` with bursts of `burst_bytes`.
    ///
    /// The slowest rate is one KiB in 4 s. A rate that would round to no limit becomes the fastest
    /// limit, 1 TB/s.
    #[must_use]
    pub fn limited(mut self, bytes_per_s: u64, burst_bytes: u64) -> Self {
        let cost_ns = (1024 * 1_000_000_000_u64).checked_div(bytes_per_s).unwrap_or(u64::MAX);
        self.cost_ns_per_kib = u32::try_from(cost_ns).unwrap_or(u32::MAX).max(1);
        self.burst_ns = (burst_bytes >> 10).saturating_mul(u64::from(self.cost_ns_per_kib));
        self
    }

    /// An entry that relays nothing but WireGuard's data for an end that is called by one of these.
    #[must_use]
    pub fn for_transport(mut self, indices: [u32; INDICES_MAX]) -> Self {
        self.action = Action::RelayTransport as u8;
        self.indices = indices;
        self
    }

    /// Whether packets leave without user space.
    pub const fn is_relayed(&self) -> bool {
        self.action == Action::Relay as u8 || self.action == Action::RelayTransport as u8
    }

    /// This entry with the sums that the programs need of it and its key: both are the same for all its
    /// packets. As they lie in packets, folded, and never 0.
    #[must_use]
    pub fn with_sums(mut self, key: &SessionKey) -> Self {
        /// Protocol number of UDP.
        const UDP: u16 = 17;
        let of_key = sum_of(&key.source) + sum_of(&key.local);
        let of_target = sum_of(&self.target_source) + sum_of(&self.target_destination);
        self.key_sum = folded(of_key + u64::from(UDP.to_be()));
        let (ports, target_ports) = (
            [key.source_port, key.local_port, key.channel],
            [self.target_source_port, self.target_destination_port, self.target_channel],
        );
        let words =
            |words: [NetworkU16; 3]| words.map(|word| u64::from(word.0)).iter().sum::<u64>();
        // To take a sum away is to add its complement (RFC 1624 §3).
        let taken_away = u64::from(!folded(of_key + words(ports)));
        self.rewrite_sum = folded(taken_away + of_target + words(target_ports));
        self
    }

    /// This entry with what the programs remember in another: what has been carried, and what is
    /// owed at the session's rate. A next hop is remembered only where the target is the same.
    #[must_use]
    pub fn remembering(self, other: &Self) -> Self {
        let mut entry = Self {
            limiter_ns: other.limiter_ns,
            last_seen_ns: other.last_seen_ns,
            packets: other.packets,
            bytes: other.bytes,
            dropped_packets: other.dropped_packets,
            key_sum: other.key_sum,
            rewrite_sum: other.rewrite_sum,
            ..self
        };
        let is_same_way = self.target_source == other.target_source
            && self.target_destination == other.target_destination;
        if is_same_way {
            entry.hop_checked_ns = other.hop_checked_ns;
            entry.neighbour_refresh_at_ns = other.neighbour_refresh_at_ns;
            entry.hop_interface = other.hop_interface;
            entry.hop_mtu_bytes = other.hop_mtu_bytes;
            entry.hop_frame = other.hop_frame;
        }
        entry
    }
}

/// The sum of an address's words; of an IPv4 address, without what makes it an IPv6 one.
fn sum_of(address: &Address) -> u64 {
    let [first, second, third, fourth] = address.words.map(u64::from);
    if address.words[..3] == [0, 0, Address::MAPPED] {
        fourth
    } else {
        first + second + third + fourth
    }
}

/// A sum of words of 16 and 32 bits in 16, with carries added (RFC 1071); 0 only of nothing.
fn folded(mut sum: u64) -> u16 {
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn family_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => family::V4,
        IpAddr::V6(_) => family::V6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{align_of, offset_of, size_of};
    use core::net::SocketAddr;

    #[test]
    fn layouts_are_those_the_object_was_built_with() {
        assert_eq!((size_of::<Address>(), align_of::<Address>()), (16, 4));
        assert_eq!((size_of::<SessionKey>(), align_of::<SessionKey>()), (40, 4));
        assert_eq!(offset_of!(SessionKey, source_port), 32);
        assert_eq!(offset_of!(SessionKey, family), 38);
        assert_eq!((size_of::<Session>(), align_of::<Session>()), (152, 8));
        assert_eq!(offset_of!(Session, owner_cpu), 40);
        assert_eq!(offset_of!(Session, indices), 56);
        assert_eq!(offset_of!(Session, limiter_ns), 72);
        assert_eq!(offset_of!(Session, hop_frame), 136);
    }

    #[test]
    fn types_of_maps_have_no_hidden_bytes() {
        // The sum of the fields' sizes is the size, so no byte of an entry is uninitialised.
        assert_eq!(size_of::<SessionKey>(), 2 * 16 + 3 * 2 + 2);
        let words = 2 * 16 + 3 * 2 + 2 + 2 * 4 + 8 * 8 + 4 * 4 + 2 * 4 + 12 + 2 * 2;
        assert_eq!(size_of::<Session>(), words);
    }

    #[test]
    fn addresses_come_back_as_they_went_in() {
        for text in ["192.0.2.7", "0.0.0.0", "255.255.255.255", "2001:db8::5", "::", "::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(address)), address);
        }
        let one = Address::from(IpAddr::from([192, 0, 2, 7]));
        assert_eq!(one, Address::from_v4_word(u32::from_ne_bytes([192, 0, 2, 7])));
    }

    #[test]
    fn an_ipv6_source_that_spells_ipv4_has_another_key() {
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        let v4 = SessionKey::new(socket("192.0.2.1:7"), socket("192.0.2.2:9"), None);
        let v6 =
            SessionKey::new(socket("[::ffff:192.0.2.1]:7"), socket("[::ffff:192.0.2.2]:9"), None);
        assert_eq!(v4.source, v6.source);
        assert_ne!(v4, v6);
    }

    #[test]
    fn an_entry_that_replaces_another_remembers_what_was_carried_and_owed() {
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (from, to) = (socket("192.0.2.2:9"), socket("192.0.2.1:7"));
        let mut before = Session::relayed(from, to, None, 1);
        (before.packets, before.bytes, before.limiter_ns) = (3, 300, 7);
        (before.hop_interface, before.hop_checked_ns) = (5, 6);
        let next = Session::relayed(from, to, None, 1).for_transport([1, 2, 2, 2]);
        let entry = next.remembering(&before);
        assert_eq!((entry.packets, entry.bytes, entry.limiter_ns), (3, 300, 7));
        assert_eq!((entry.hop_interface, entry.indices), (5, [1, 2, 2, 2]));
        assert!(entry.is_relayed());
        // Elsewhere there is another next hop.
        let entry = Session::steered(1).remembering(&before);
        assert_eq!((entry.packets, entry.hop_interface, entry.is_relayed()), (3, 0, false));
    }

    #[test]
    fn sums_are_those_of_the_words_in_the_packet() {
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        let key = SessionKey::new(socket("192.0.2.1:7"), socket("192.0.2.2:9"), Some(0x4001));
        let same = Session::relayed(socket("192.0.2.1:7"), socket("192.0.2.2:9"), Some(0x4001), 0);
        // Written as the packet came: nothing is added, and nothing is 0xffff.
        assert_eq!(same.with_sums(&key).rewrite_sum, 0xffff);
        let words = [0xc000, 0x0201, 0xc000, 0x0202, 17_u32];
        let sum: u32 = words.iter().sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        assert_eq!(u32::from(u16::from_be(same.with_sums(&key).key_sum)), sum);
        // A port that is higher by one.
        let other = Session::relayed(socket("192.0.2.1:8"), socket("192.0.2.2:9"), Some(0x4001), 0);
        assert_eq!(u16::from_be(other.with_sums(&key).rewrite_sum), 1);
        let to6 = Session::relayed(socket("[::1]:7"), socket("[::3]:9"), Some(0x4001), 0);
        let gone: u32 = [0xc000, 0x0201, 0xc000, 0x0202].iter().sum();
        let gone = (gone & 0xffff) + (gone >> 16);
        assert_eq!(u32::from(u16::from_be(to6.with_sums(&key).rewrite_sum)), 0xffff - gone + 4);
    }

    #[test]
    fn a_rate_is_a_cost_in_time() {
        let limited = Session::steered(0).limited(1_000_000_000, 10 << 10);
        assert_eq!((limited.cost_ns_per_kib, limited.burst_ns), (1024, 10 * 1024));
        assert_eq!(Session::steered(0).limited(0, 1).cost_ns_per_kib, u32::MAX);
        assert_eq!(Session::steered(0).limited(u64::MAX, 1).cost_ns_per_kib, 1);
    }
}
