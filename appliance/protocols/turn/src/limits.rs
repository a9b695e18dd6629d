//! Numbers of STUN and TURN and bounds this crate sets itself, a section per module.
//!
//! Each constant names its unit, and either the section of RFC 8489 (STUN) or RFC 8656 (TURN) that
//! fixes it or the sum it follows from. What an operator may change is in
//! [`crate::server::ServerConfig`]; nothing here is.

// --- message ------------------------------------------------------------------------------------

/// Bytes before the first attribute of a message (RFC 8489 §5).
pub const HEADER_BYTES: usize = 20;
/// Bytes of a transaction's name (RFC 8489 §5).
pub const TRANSACTION_ID_BYTES: usize = 12;
/// The magic cookie behind the length (RFC 8489 §5).
pub const MAGIC_COOKIE: u32 = 0x2112_a442;
/// Bytes of an attribute's type and length (RFC 8489 §14).
pub const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// Longest value of an attribute in bytes: what its u16 length can say (RFC 8489 §14).
pub const ATTRIBUTE_VALUE_BYTES_MAX: usize = 65_535;
/// Most attributes of a message that is read. A request of ours has fewer than 16, and one
/// CreatePermission may name this many peers less those; it bounds the work of one packet.
pub const ATTRIBUTES_MAX: usize = 64;
/// Bytes of an XOR address attribute with its header, for IPv6 (RFC 8489 §14.2).
pub const ADDRESS_ATTRIBUTE_BYTES_MAX: usize = ATTRIBUTE_HEADER_BYTES + 20;
/// Most unknown attributes that an answer lists. Two bytes each; a client that sends more learns of
/// the rest once it has left these out.
pub const UNKNOWN_ATTRIBUTES_MAX: usize = 16;
/// Longest message in bytes: the header and what a u16 length that is a multiple of 4 can say.
pub const MESSAGE_BYTES_MAX: usize = HEADER_BYTES + 65_532;

// --- integrity ----------------------------------------------------------------------------------

/// Bytes of a MESSAGE-INTEGRITY value: HMAC-SHA1 (RFC 8489 §14.5).
pub const INTEGRITY_SHA1_BYTES: usize = 20;
/// Bytes of a whole MESSAGE-INTEGRITY-SHA256 value (RFC 8489 §14.6).
pub const INTEGRITY_SHA256_BYTES: usize = 32;
/// Fewest bytes to which a MESSAGE-INTEGRITY-SHA256 value may be cut (RFC 8489 §14.6).
pub const INTEGRITY_SHA256_BYTES_MIN: usize = 16;
/// Bytes of the longest long-term key: SHA-256 (RFC 8489 §18.5.1.2).
pub const KEY_BYTES_MAX: usize = 32;
/// Bytes of a USERHASH value: SHA-256 (RFC 8489 §14.4).
pub const USERHASH_BYTES: usize = 32;

// --- channel_data -------------------------------------------------------------------------------

/// Bytes of a ChannelData message's channel number and length (RFC 8656 §12.4).
pub const CHANNEL_HEADER_BYTES: usize = 4;
/// The lowest channel number (RFC 8656 §12).
pub const CHANNEL_NUMBER_MIN: u16 = 0x4000;
/// The highest channel number: that of RFC 5766 §11, whose clients are still around (coturn's chooses
/// from all of its range). RFC 8656 §12 ends it at 0x4fff for the sake of clients that tell several
/// protocols on one socket by the first byte; a server has no others to tell.
pub const CHANNEL_NUMBER_MAX: u16 = 0x7fff;

// --- stream -------------------------------------------------------------------------------------

/// Bytes that tell how long a message in a stream is: type or channel number, and length.
pub const STREAM_HEAD_BYTES: usize = 4;
/// Longest message in a stream in bytes, which is what a reader must be able to hold: a STUN message
/// is the longer one (ChannelData: 4 + 65 535 padded to a multiple of 4).
pub const STREAM_MESSAGE_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

// --- credentials --------------------------------------------------------------------------------

/// Longest username in bytes (RFC 8489 §14.3: less than 509).
pub const USERNAME_BYTES_MAX: usize = 508;
/// Longest realm in bytes. RFC 8489 §14.9 allows 127 characters; a realm is a domain name, and a
/// short one keeps answers to strangers short.
pub const REALM_BYTES_MAX: usize = 127;
/// Longest password or shared secret in bytes.
pub const SECRET_BYTES_MAX: usize = 256;
/// Most static users: two keys, a hash and a name each come to less than 1 KiB, so 16 MiB in all.
pub const USERS_MAX: usize = 16_384;
/// Most shared secrets at a time: the one in use, and others while it is replaced.
pub const SHARED_SECRETS_MAX: usize = 4;
/// Bytes of the password of a time-limited user: an HMAC-SHA1 in base64.
pub const TIME_LIMITED_PASSWORD_BYTES: usize = 28;

// --- nonce --------------------------------------------------------------------------------------

/// Bytes of the key that nonces are made with.
pub const NONCE_KEY_BYTES: usize = 32;
/// Bytes of the MAC in a nonce: cut from 32, because a nonce is worth nothing after an hour and an
/// answer to a stranger should be short.
pub const NONCE_MAC_BYTES: usize = 12;
/// Bytes of a nonce: the cookie (9), the security features (4), and the time (4) and MAC in base64
/// without padding (RFC 8489 §9.2).
pub const NONCE_BYTES: usize = 9 + 4 + ((4 + NONCE_MAC_BYTES) * 8).div_ceil(6);

// --- reply_limit --------------------------------------------------------------------------------

/// Buckets of the limit on answers to strangers. A fixed table, so that no source costs memory;
/// sources share a bucket by chance, and this many make it rare for honest ones. 128 KiB.
pub const REPLY_BUCKETS: usize = 16_384;

// --- ports --------------------------------------------------------------------------------------

/// Ports drawn at random before the range is searched in order from the last one.
pub const PORT_DRAWS: usize = 8;
/// Ports that may prove to be in use by others before an allocation fails.
pub const PORT_OPENINGS_MAX: usize = 16;

// --- quotas -------------------------------------------------------------------------------------

/// Slots for each allocation or reservation that may be counted. With all of them of different users a
/// set is a quarter full on average, and none in 10^9 needs more than it has.
pub const QUOTA_SLOTS_PER_HOLDER: usize = 4;
/// Slots that one user may be counted in: all of them are looked at for each Allocate. 256 bytes.
pub const QUOTA_SET_SLOTS: usize = 32;
/// Times that a set is gone through until all that is released was found. Each in vain takes another
/// core's Allocate at the wrong moment, so this only bounds what a bug may cost.
pub const QUOTA_RELEASE_SCANS_MAX: usize = 1000;

// --- server -------------------------------------------------------------------------------------

/// Longest payload of a datagram in bytes over IPv4, which is the shorter one: 65 535 less the headers
/// of IP and UDP.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Bytes of the longest answer: the header, an error with its reason (4 + 4 + 60), unknown
/// attributes (4 + 32), realm (4 + 128), nonce (4 + 36), algorithms (4 + 8), software (4 + 64), three
/// addresses (3 × 24), lifetime (8), token (12), an address error (4 + 4 + 60), the longer integrity
/// (36) and the fingerprint (8), which is 584, rounded up to the next power of two.
pub const ANSWER_BYTES_MAX: usize = 1024;
/// Longest SOFTWARE value in bytes that an answer carries.
pub const SOFTWARE_BYTES_MAX: usize = 64;
/// Bytes before the payload of what goes to a client: a Data indication's header, an IPv6 peer and
/// the head of DATA (48), or the whole of one with an ICMP attribute, which is longer.
pub const CLIENT_HEAD_BYTES_MAX: usize =
    HEADER_BYTES + ADDRESS_ATTRIBUTE_BYTES_MAX + ATTRIBUTE_HEADER_BYTES + 8;
/// Seconds for which a permission lasts (RFC 8656 §9).
pub const PERMISSION_LIFETIME_S: u32 = 300;
/// Seconds for which a channel stays bound (RFC 8656 §12).
pub const CHANNEL_LIFETIME_S: u32 = 600;
/// Seconds for which an allocation lasts unless its client asks for longer (RFC 8656 §6).
pub const ALLOCATION_LIFETIME_DEFAULT_S: u32 = 600;
/// Seconds for which an allocation lasts at most (RFC 8656 §7.2 recommends no more than an hour).
pub const ALLOCATION_LIFETIME_MAX_S: u32 = 3600;
/// Seconds for which the port next to an allocation's is kept for its client (RFC 8656 §7.2).
pub const RESERVATION_LIFETIME_S: u32 = 30;
/// Bytes of a reservation's token (RFC 8656 §18.10).
pub const RESERVATION_TOKEN_BYTES: usize = 8;
/// Most reservations at a time; each holds a port, and counts against its user's allocations.
pub const RESERVATIONS_MAX: usize = 1024;
/// Slots of the table of reservations for each that may be in it, so that a token is found a free one
/// in few draws. 32 bytes each, 64 KiB for each core.
pub const RESERVATION_SLOTS_PER_KEPT: usize = 2;
/// Tokens drawn until one has a free slot. With the table half full, which is all it may be, none of
/// 65 000 reservations finds none.
pub const TOKEN_DRAWS: usize = 16;
/// Seconds for which a nonce is good (RFC 8656 §5 asks for no more than an hour).
pub const NONCE_LIFETIME_DEFAULT_S: u32 = 3600;
/// Allocations of one server at most, unless the operator says otherwise.
pub const ALLOCATIONS_DEFAULT_MAX: usize = 16_384;
/// Allocations of one user at most, unless the operator says otherwise.
pub const ALLOCATIONS_PER_USER_DEFAULT_MAX: u32 = 64;
/// Permissions of one allocation at most, unless the operator says otherwise.
pub const PERMISSIONS_DEFAULT_MAX: usize = 128;
/// Channels of one allocation at most, unless the operator says otherwise.
pub const CHANNELS_DEFAULT_MAX: usize = 64;
/// Answers a second to strangers of one prefix (/32 or /64), unless the operator says otherwise.
pub const STRANGER_REPLIES_DEFAULT_PER_S: u32 = 20;
/// Answers to strangers of one prefix at once, unless the operator says otherwise.
pub const STRANGER_REPLIES_DEFAULT_BURST: u32 = 5;
/// Allocations that one call of the timer looks at, so that no turn of the loop takes long.
pub const ALLOCATIONS_PER_TIMER_CALL_MAX: usize = 256;
/// Allocations whose peers one call of the timer judges anew: with as many permissions and channels as
/// they may have by default that is 12 000 addresses, a millisecond.
pub const ALLOCATIONS_RECHECKED_PER_TIMER_CALL_MAX: usize = 64;
