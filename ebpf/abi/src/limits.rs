//! Sizes of the maps, with unit and derivation. What a map is loaded with may be changed by
//! `waystation-ebpf`; these are the sizes the object asks for by itself.

/// Sessions that the programs know, of both families together. A session has an entry per direction
/// and a TURN client one more for its control traffic, so this holds 20 000 sessions of either kind.
pub const SESSION_ENTRIES_MAX: u32 = 65_536;

/// Records of sessions, 192 B each, which the kernel allocates at once: 12 MiB. Those beyond the
/// entries are for what replaces an entry, and let one that has become free rest for a while: a
/// program on another processor may look at it still.
pub const SESSION_RECORDS: u32 = SESSION_ENTRIES_MAX + 64;

/// Words of the index that share a bucket: a line of the processor's cache.
pub const SESSION_WAYS: usize = 16;

/// Such buckets, a power of two: 2 MiB. Two words to a bucket when all entries are there, so that of
/// a million full tables one or two have a bucket that is too full for one more.
pub const SESSION_BUCKETS: u32 = 32_768;

/// Sources without a session that are remembered for their rate, 16 B each: 1 MiB.
pub const STRANGERS_MAX: u32 = 65_536;

/// Of those, as many share a place in the table: a line of the processor's cache. Of a full one, who
/// owes least makes room.
pub const STRANGER_WAYS: usize = 4;

/// Such places; a power of two.
pub const STRANGER_BUCKETS: u32 = STRANGERS_MAX / STRANGER_WAYS as u32;

/// Words that say in which blocks of addresses some are denied: a bit for each of 65 536 blocks of
/// either family, 16 KiB.
pub const DENIED_HINT_WORDS: u32 = 2 * 65_536 / u64::BITS;

/// IPv4 addresses of this machine that are compared with one after the other; more are looked up.
pub const OWN_V4_MAX: usize = 8;

/// IPv6 addresses, as those.
pub const OWN_V6_MAX: usize = 4;

/// Denied prefixes of either family. Allocated one by one.
pub const DENIED_PREFIXES_MAX: u32 = 16_384;

/// Addresses of this machine that sessions are served on: dozens on each of dozens of interfaces.
/// At about 80 B an entry, which the kernel allocates at once, 80 KiB.
pub const LOCAL_ADDRESSES_MAX: u32 = 1024;

/// Numbers that an end of a WireGuard tunnel is called by in data that is sent to it: more than the
/// three key pairs that it has at a time.
pub const INDICES_MAX: usize = 4;

/// Bytes of the shortest WireGuard data: a head of 16, no payload, and a tag of 16 (whitepaper
/// §5.4.6).
pub const TRANSPORT_BYTES_MIN: usize = 32;

/// Processors that packets may be steered to.
pub const PROCESSORS_MAX: u32 = 256;

/// Interfaces that a session's packets may leave by other than where they came in.
pub const EGRESS_INTERFACES_MAX: u32 = 64;

/// Sockets that the selecting program chooses among: one per data core and address that is listened
/// on. At 8 B each, and about 80 B for whose it is, 90 KiB.
pub const SOCKETS_MAX: u32 = 1024;

/// Sockets that frames are brought to, of all data cores together: 2 MiB of locked memory each, 32 MiB.
pub const FRAME_SOCKETS_MAX: u32 = 16;

/// The longest IP packet that such a socket's memory takes, of 2 KiB less the 256 bytes that the
/// kernel keeps in front of a frame and its Ethernet header. The kernel would drop a longer one.
pub const FRAME_PACKET_BYTES_MAX: u16 = 2048 - 256 - 14;

/// VLANs that the program may be told of. Each is compared with every tagged frame.
pub const VLANS_MAX: usize = 4;

/// Ports in a word of the port map: two bits each.
pub const PORTS_PER_WORD: u32 = 32;

/// Words of the port map: every UDP port, 16 KiB.
pub const PORT_WORDS: u32 = 65_536 / PORTS_PER_WORD;

/// Length of the shortest Ethernet frame without its checksum. What follows a datagram in a frame
/// no longer than this is padding (IEEE 802.3 §3.2.8).
pub const FRAME_MIN_BYTES: usize = 60;

/// How long a next hop found by a routing look-up is used again, in nanoseconds: a look-up costs
/// more than the rest of the program, and a changed route may be noticed a tenth of a second late.
pub const NEXT_HOP_FRESH_NS: u64 = 100_000_000;

/// Bytes of a frame's beginning in a sample: all headers there can be, and so much of the payload
/// that messages of STUN and WireGuard can be told.
pub const CAPTURED_BYTES_MAX: usize = 256;

/// Bytes of the smallest ring of samples: a page. It is there also where nobody captures.
pub const CAPTURE_RING_MIN_BYTES: u32 = 4096;
