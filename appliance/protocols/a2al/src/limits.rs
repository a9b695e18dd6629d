//! Numbers of A2AL and bounds this crate sets itself, a section per module.
//!
//! Each constant names its unit, and either the section of the specification that fixes it (§) or
//! the sum it follows from. What an operator may change is in the configuration of a node; nothing
//! here is.

// --- cbor ---------------------------------------------------------------------------------------

/// Levels of arrays and maps within each other that are read (§2.2).
pub const CBOR_DEPTH_MAX: usize = 32;

// --- identities ---------------------------------------------------------------------------------

/// Bytes of an address: version and hash (§1.1).
pub const ADDRESS_BYTES: usize = 21;
/// Bytes of a node id and of a storage key (§1.2).
pub const NODE_ID_BYTES: usize = 32;
/// Bytes of an Ed25519 public key.
pub const PUBLIC_KEY_BYTES: usize = 32;
/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes of the signature of a chain's key: one byte names the public key (§1.5).
pub const CHAIN_SIGNATURE_BYTES: usize = 65;
/// Bytes of an address text that is looked at; the longest form has 43, and 90 is where Bech32
/// ends (§1.3).
pub const ADDRESS_TEXT_BYTES_MAX: usize = 90;
/// Bytes of the text that a chain's key signed; what upstream writes has about 220, and a record
/// with it has to fit a datagram (§1.5, §3.5).
pub const DELEGATION_MESSAGE_BYTES_MAX: usize = 1024;
/// Seconds that a delegation is good for after its end (§1.5).
pub const DELEGATION_GRACE_S: u64 = 60;
/// Seconds that a record, and a delegation's issue, may lie ahead of the clock (§5.3, §1.5).
pub const FUTURE_SKEW_S: u64 = 60;

// --- message ------------------------------------------------------------------------------------

/// Bytes of a datagram, sent or received (§3.5).
pub const DATAGRAM_BYTES_MAX: usize = 1200;
/// Bytes of a message on a stream or in a hub's frame (§3.5, §16.3).
pub const STREAM_MESSAGE_BYTES_MAX: usize = 65_536;
/// Bytes of the body of an answer that lists nodes or records (§3.5).
pub const ANSWER_BODY_BYTES_MAX: usize = 1050;
/// Bytes of a message around its body: heads 1 + 3, header 29, public key 1 + 2 + 32, signature
/// 1 + 2 + 64, less one head that the body brings (§3.1).
pub const ENVELOPE_BYTES: usize = 134;
/// Bytes of a transaction's id (§3.1).
pub const TRANSACTION_ID_BYTES: usize = 20;
/// Bytes of a probe's token (§3.3).
pub const TOKEN_BYTES: usize = 8;
/// Nodes in one answer that are read; 15 fit a datagram, and streams carry answers made for one.
pub const NODES_READ_MAX: usize = 64;
/// Records in one answer that are read; five fit a datagram (§3.5).
pub const RECORDS_READ_MAX: usize = 64;
/// Types of waiting mail that one answer tells of: there are 16 in the category (§21.3).
pub const POOL_TYPES_MAX: usize = 16;
/// Ids of waiting mail of one type that an answer names (§21.3).
pub const POOL_IDS_MAX: usize = 8;

// --- record -------------------------------------------------------------------------------------

/// Bytes of the payload of a topic and of a mailbox record (§5.9, §5.10).
pub const SMALL_PAYLOAD_BYTES_MAX: usize = 512;
/// Bytes of an agent profile that writers produce (§5.8).
pub const PROFILE_PAYLOAD_BYTES_MAX: usize = 700;
/// Code points of a topic's brief (§5.9).
pub const TOPIC_BRIEF_CHARACTERS_MAX: usize = 140;
/// Highest NAT type of an endpoint record (§5.7).
pub const NAT_TYPE_MAX: u8 = 4;
/// Hub addresses of an endpoint record, and bytes of each (§5.3).
pub const SIGNALS_MAX: usize = 8;
/// Bytes of a hub's address (§5.3).
pub const SIGNAL_BYTES_MAX: usize = 2048;
/// TURN addresses of an endpoint record, and bytes of each (§5.3).
pub const TURNS_MAX: usize = 16;
/// Bytes of a TURN address (§5.3).
pub const TURN_BYTES_MAX: usize = 512;
/// Elements of any other list in a payload: what a datagram holds of the shortest ones.
pub const PAYLOAD_LIST_MAX: usize = DATAGRAM_BYTES_MAX;
/// Endpoints of one record that are looked at; a node has one for each family and a few more.
pub const ENDPOINTS_USED_MAX: usize = 16;
