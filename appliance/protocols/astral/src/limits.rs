//! Numbers of the Astral link protocol and bounds this crate sets itself, a section per module.
//!
//! Each constant names its unit, and either the section of the link specification that fixes it or
//! the sum it follows from. Nothing here is configurable: what an operator may change lives in the
//! configuration of the rooms that use this crate.

// --- identity -----------------------------------------------------------------------------------

/// Bytes of an identity: a SEC1 compressed secp256k1 point (spec §2).
pub const IDENTITY_BYTES: usize = 33;
/// Hexadecimal characters of an identity's text form (spec §2).
pub const IDENTITY_TEXT_BYTES: usize = 2 * IDENTITY_BYTES;
/// Bytes of a private scalar, big-endian (spec §2).
pub const SECRET_KEY_BYTES: usize = 32;

// --- aead ---------------------------------------------------------------------------------------

/// Lengths of text in bytes at which back ends are measured: a record's length, a small body, and
/// every power of two at which the cheapest one may change, up to where only the price of a byte
/// counts.
pub const AEAD_TEXT_BYTES_MEASURED: [u16; 7] = [2, 512, 1024, 2048, 4096, 8192, 16_384];
/// Nanoseconds after which measuring ends early: a start-up should not be felt.
pub const AEAD_MEASURING_NS_MAX: u64 = 25_000_000;
/// Samples of each back end and length that are taken in any case, so that one of them may hit a
/// moment in which the machine did something else.
pub const AEAD_SAMPLES_MIN: usize = 3;
/// Samples of each back end and length if there is time.
pub const AEAD_SAMPLES_MAX: usize = 9;

// --- brontide -----------------------------------------------------------------------------------

/// Bytes of act one: version, ephemeral point, tag (spec §3.2).
pub const ACT_ONE_BYTES: usize = 50;
/// Bytes of act two: version, ephemeral point, tag (spec §3.2).
pub const ACT_TWO_BYTES: usize = 50;
/// Bytes of act three: version, encrypted static point with its tag, tag (spec §3.2).
pub const ACT_THREE_BYTES: usize = 66;
/// Bytes of a ChaCha20-Poly1305 tag (RFC 8439 §2.8).
pub const TAG_BYTES: usize = 16;
/// Bytes of a record's encrypted length: a u16 and its tag (spec §3.3).
pub const RECORD_HEADER_BYTES: usize = 2 + TAG_BYTES;
/// Bytes a record adds to its plaintext: the header and the body's tag (spec §3.3).
pub const RECORD_OVERHEAD_BYTES: usize = RECORD_HEADER_BYTES + TAG_BYTES;
/// Longest plaintext of a record in bytes: what its u16 length can say (spec §3.3).
pub const RECORD_PLAINTEXT_MAX_BYTES: usize = 65_535;
/// AEAD operations after which a direction changes its key: two per record, so every 500 records
/// (spec §3.3).
pub const KEY_ROTATION_OPERATIONS: u64 = 1000;

// --- endpoint -----------------------------------------------------------------------------------

/// Bytes of a version 3 onion address before base32: key 32, checksum 2, version 1 (spec §12).
pub const ONION_BYTES: usize = 35;
/// Longest endpoint payload in bytes: a gateway endpoint with presence bytes (spec §12).
pub const ENDPOINT_PAYLOAD_MAX_BYTES: usize = 2 * (1 + IDENTITY_BYTES);

// --- node_info ----------------------------------------------------------------------------------

/// Longest alias of a node info string in bytes: what its u8 length can say (spec §2.1).
pub const NODE_ALIAS_MAX_BYTES: usize = 255;
/// Most endpoints of a node info string: what its u8 count can say (spec §2.1).
pub const NODE_ENDPOINTS_MAX: usize = 255;
/// Longest binary form of a node info string in bytes: alias with its length, identity, count, and
/// the endpoints, each with its tag.
pub const NODE_INFO_MAX_BYTES: usize = 1
    + NODE_ALIAS_MAX_BYTES
    + IDENTITY_BYTES
    + 1
    + NODE_ENDPOINTS_MAX * (1 + ENDPOINT_PAYLOAD_MAX_BYTES);
/// Longest text after `node1` in characters: base62 puts at least 5 bits in each (spec §2.1).
pub const NODE_INFO_TEXT_MAX_BYTES: usize = (NODE_INFO_MAX_BYTES * 8).div_ceil(5);

// --- key_file -----------------------------------------------------------------------------------

/// Longest key file of any era in bytes: the canonical `mod.crypto.private_key` object, that is the
/// magic, type name, algorithm name and scalar with their lengths (spec §2).
pub const KEY_FILE_MAX_BYTES: usize = 4 + (1 + 22) + (1 + 9) + (2 + SECRET_KEY_BYTES);

// --- frame --------------------------------------------------------------------------------------

/// Longest query string in bytes: what its u16 length can say (spec §6.1).
pub const QUERY_STRING_BYTES_MAX: usize = 65_535;
/// Longest data payload in bytes: what its u16 length can say (spec §6.1).
pub const DATA_PAYLOAD_BYTES_MAX: usize = 65_535;
/// Longest P4 frame payload in bytes: a relayed query with the longest string (spec §6.2).
pub const FRAME_PAYLOAD_BYTES_MAX: u32 = 65_615;
/// Longest type name of a frame in bytes: `nodes.frames.relay_query` (spec §1).
pub const FRAME_TYPE_NAME_BYTES_MAX: usize = 24;
/// Longest frame head in bytes: a P4 relayed query up to its string (spec §6.1).
pub const FRAME_HEAD_BYTES_MAX: usize =
    1 + FRAME_TYPE_NAME_BYTES_MAX + 4 + 2 * IDENTITY_BYTES + 8 + 4 + 2;

// --- object -------------------------------------------------------------------------------------

/// Longest type name of an object in bytes: what its u8 length can say (spec §5.1).
pub const OBJECT_TYPE_NAME_BYTES_MAX: usize = 255;

// --- query --------------------------------------------------------------------------------------

/// Most arguments of a query string that we read; upstream ops declare fewer than ten, and this
/// bounds the work of one query frame.
pub const QUERY_ARGUMENTS_MAX: usize = 64;

// --- operations ---------------------------------------------------------------------------------

/// Longest body of a pushed object in bytes until 2026‑01‑02 (spec §12.1).
pub const PUSH_BODY_BYTES_MAX: u32 = 32_768;

// --- negotiation --------------------------------------------------------------------------------

/// Bytes of the dual greeting (spec §16.2).
pub const DUAL_GREETING_BYTES: usize = 1776;
/// Bytes of the prelude that tells P0 from P1–P3, without the status byte before it (spec §16.2).
pub const PRELUDE_BYTES: usize = 28;
/// Random bytes in it: `a1…a7`, `b2…b7` and `c2…c8` (spec §16.2).
pub const PRELUDE_RANDOM_BYTES: usize = 7 + 6 + 7;
/// Most features of a greeting that we read. Our own dual greeting reads as 1653 in the raw form;
/// the next power of two above twice that leaves room for a variation of it.
pub const FEATURES_MAX: usize = 4096;
/// Longest greeting in bytes that we read: the longest of `FEATURES_MAX` one-letter features is
/// 12 KiB raw and 56 KiB as objects, rounded up to 64 KiB.
pub const GREETING_BYTES_MAX: usize = 65_536;
/// Longest payload of a negotiation object in bytes that we read: the dual greeting's count has
/// 1748, the longest string 256, an error text seldom more than 100.
pub const NEGOTIATION_PAYLOAD_BYTES_MAX: usize = 4096;
/// Most bytes kept while a raw peer's profile is unknown: one query of the longest string and one
/// whole record behind it. Stock peers send under 200 (spec §12.1).
pub const UNSETTLED_BYTES_MAX: usize = 131_072;
/// Longest text of a peer's `error_message` in bytes that an error keeps.
pub const PEER_TEXT_BYTES_MAX: usize = 200;

// --- gateway ------------------------------------------------------------------------------------

/// Longest object on an idle gateway connection in bytes: `mod.gateway.handoff_ack` (spec §11.2).
pub const IDLE_OBJECT_BYTES_MAX: usize = 1 + 23 + 4;
/// Bytes of a gateway nonce as a `nonce64` object (spec §11.2).
pub const NONCE_OBJECT_BYTES: usize = 1 + 7 + 4 + 8;
/// Payload of a `mod.gateway.socket` object in bytes that we read: the longest endpoint with its
/// tag and a nonce take 111.
pub const SOCKET_PAYLOAD_BYTES_MAX: usize = 1024;
