//! Numbers of A2AL and bounds this crate sets itself, a section per module.
//!
//! Each constant names its unit, and either the section of the specification that fixes it (§) or
//! the sum it follows from. What an operator may change is in the configuration of a node; nothing
//! here is.

use crate::rate::Rate;

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
/// Keys whose points are remembered, and up to as many more. They are more than a table has nodes in
/// practice, and whoever else asks often is among those who asked last.
pub const KNOWN_KEYS_MAX: usize = 4_096;
/// Bytes that each takes: key, point, and a map that is half full.
pub const KNOWN_KEY_BYTES: usize = 390;
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

// --- rate ---------------------------------------------------------------------------------------

/// Sources of each kind whose rates are remembered, and up to as many more: about 100 bytes each,
/// five kinds, so 13 MB in the worst case.
pub const RATE_SOURCES_MAX: usize = 16_384;
/// Datagrams from one address (§17.3).
pub const PACKETS_PER_ADDRESS: Rate = Rate { per_s: 200, burst: 400 };
/// STOREs from one address. A daemon brings everything it publishes at once, every half hour.
pub const STORES_PER_ADDRESS: Rate = Rate { per_s: 50, burst: 200 };
/// Records that one key has signed (§17.3), with a burst for an agent with many topics.
pub const STORES_PER_PUBLISHER: Rate = Rate { per_s: 10, burst: 100 };
/// Datagrams from one address to a beacon: its STOREs (below) and as many questions. Each costs a
/// verification or two, so one address at its rate takes a twentieth of a processor.
pub const PACKETS_PER_ADDRESS_BEACON: Rate = Rate { per_s: 500, burst: 8_000 };
/// STOREs from one address to a beacon. A daemon brings every record that it keeps, its own and those
/// of others, without a pause, every half hour (§19.6): most keep less than the burst, and the rate
/// lets in 450 000 in that time.
pub const STORES_PER_ADDRESS_BEACON: Rate = Rate { per_s: 250, burst: 4_000 };
/// Records that one key has signed, to a beacon: each is brought by all eight of its replicas.
pub const STORES_PER_PUBLISHER_BEACON: Rate = Rate { per_s: 80, burst: 800 };
/// Answers to a network (/24, /56) that has proved nothing (§17.3).
pub const ANSWERS_TO_STRANGERS: Rate = Rate { per_s: 20, burst: 100 };
/// Messages of all addresses together that have proved nothing, by default: a verification, an answer
/// and a ping of each make 0.1 ms, so a flood from any number of addresses takes a fifth of a
/// processor. Whoever answers that ping is a stranger no more.
pub const STRANGERS_DEFAULT: Rate = Rate::with_burst_of_two_seconds(2_000);
/// Questions that strangers of one network cause this node to ask.
pub const VALIDATIONS_PER_NETWORK: Rate = Rate { per_s: 10, burst: 50 };
/// Nodes in an answer to an address that has proved nothing: about 420 bytes (§17.3).
pub const NODES_FOR_STRANGERS: usize = 4;
/// Messages whose repetition is noticed, and up to as many more.
pub const DUPLICATES_MAX: usize = 32_768;
/// Milliseconds for which a message that comes again counts as repeated (§17.3).
pub const DUPLICATE_MS: u64 = 60_000;
/// Times that the same message is answered (§17.3).
pub const DUPLICATE_ANSWERS_MAX: u8 = 3;

// --- routing ------------------------------------------------------------------------------------

/// Buckets: bits of a node id (§8.1).
pub const BUCKETS: usize = NODE_ID_BYTES * 8;
/// Nodes of a bucket (§8.1).
pub const BUCKET_NODES_MAX: usize = 16;
/// Nodes per bucket that others spoke of (§8.1).
pub const BUCKET_CANDIDATES_MAX: usize = 5;
/// Milliseconds after which what others said is forgotten (§8.1).
pub const CANDIDATE_TTL_MS: u64 = 7_200_000;
/// Milliseconds within which a node counts as fresh (Appendix A).
pub const FRESH_MS: u64 = 1_800_000;
/// Milliseconds since its last answer after which a node is not listed any more (§8.6 [R]).
pub const LISTED_MS: u64 = 7_200_000;
/// Milliseconds since its last answer within which a node is not asked to make room.
pub const CHALLENGE_AGE_MS_MIN: u64 = 60_000;
/// Nodes of one network (/24, /48) in a bucket, and in the table (§8.8).
pub const NODES_PER_SITE_AND_BUCKET_MAX: usize = 2;
/// Nodes of one network in the table (§8.8).
pub const NODES_PER_SITE_MAX: usize = 10;
/// Milliseconds between two look-ups that fill whatever bucket, but for each bucket's first.
pub const REFILL_PAUSE_MS: u64 = 60_000;
/// Nearest nodes of which an answer takes the healthy ones first (§8.6).
pub const ANSWER_POOL_NODES: usize = 64;
/// Nodes of an answer, before it is trimmed to its size (§7.2).
pub const ANSWER_NODES_MAX: usize = 16;
/// Buckets that a size estimate looks at (§14.1).
pub const ESTIMATE_BUCKETS: usize = 5;

// --- peers --------------------------------------------------------------------------------------

/// Nodes in the address book, and up to as many more; and addresses at which somebody answered.
pub const PEERS_MAX: usize = 16_384;
/// Bytes that a node takes there, in a map that is half full.
pub const PEER_BYTES: usize = 390;
/// Bytes that an address and a time take in such a map.
pub const PLACE_BYTES: usize = 100;
/// Messages in the name of a proved address that its node has not signed, since its last answer, after
/// which what comes from there is verified as seldom as what strangers send. A node that starts again
/// with another key is asked who it is after its first.
pub const IMPOSTORS_PER_PLACE: u8 = 16;
/// Milliseconds for which an answer proves where a node is. A path of a translator lives about that
/// long without traffic.
pub const PROOF_MS: u64 = 1_800_000;
/// Failures in a row that make a node bad (§9.3).
pub const BAD_FAILURES: u32 = 2;
/// First back-off; it doubles with each failure (§9.4).
pub const BACKOFF_MS_MIN: u64 = 30_000;
/// Doublings of the back-off (§9.4).
pub const BACKOFF_EXPONENT_MAX: u32 = 10;
/// Milliseconds without any answer after which the own network is suspected (§9.4).
pub const OFFLINE_SUSPICION_MS: u64 = 45_000;
/// Nodes that fail within a window and make the own network suspect (§9.4).
pub const CORRELATED_FAILURES: usize = 4;
/// That window in milliseconds (§9.4).
pub const CORRELATED_WINDOW_MS: u64 = 15_000;

// --- store --------------------------------------------------------------------------------------

/// Keys that a store has by default (§6.1).
pub const STORE_KEYS_DEFAULT: usize = 100_000;
/// Keys of a beacon's store by default (§19.6).
pub const STORE_KEYS_BEACON: usize = 5_000_000;
/// Bytes of a beacon's store by default: 1 KiB for each key, rounded up.
pub const STORE_BYTES_BEACON: u64 = 5 << 30;
/// Bytes that a store has by default: 1 KiB for each key.
pub const STORE_BYTES_DEFAULT: usize = STORE_KEYS_DEFAULT * 1024;
/// Bytes that a record takes besides its own: the structure, its counters, its places in the lists of
/// its network and its signer, and shares of the maps.
pub const RECORD_OVERHEAD_BYTES: usize = 570;
/// Sovereign records of a key (§6.1).
pub const SOVEREIGN_RECORDS_PER_KEY: usize = 8;
/// Topic records of a key (§6.1).
pub const TOPIC_RECORDS_PER_KEY: usize = 100;
/// Mailbox records of a key (§6.1).
pub const MAILBOX_RECORDS_PER_KEY: usize = 50;
/// Mailbox records of a key and signer (§6.1).
pub const MAILBOX_RECORDS_PER_KEY_AND_SIGNER: usize = 4;
/// Records of one signer over all keys (§17.4).
pub const RECORDS_PER_PUBLISHER_MAX: usize = 10_000;
/// Records of one network, or of one signer, up to which shares of a full store are alike. A daemon
/// publishes dozens for its agents; what is above loses its oldest first (§17.4).
pub const SHARE_RECORDS_MIN: u32 = 64;
/// Seconds to live of a record that is not refused: 30 days (§17.4).
pub const TTL_S_MAX: u32 = 30 * 86_400;
/// Seconds for which a record is kept at most, whatever it says (§17.4).
pub const STORED_TTL_S_MAX: u64 = 86_400;
/// Milliseconds for which a record is shown that its publisher has not confirmed (§6.4).
pub const SOFT_DEADLINE_MS: u64 = 120_000;
/// Delegations that are not verified again, and up to as many more.
pub const DELEGATIONS_REMEMBERED_MAX: usize = 4_096;
/// Milliseconds that a subscription lasts (§6.5).
pub const SUBSCRIPTION_MS: u64 = 60_000;
/// Subscriptions of a key (§6.5 [R]).
pub const SUBSCRIPTIONS_PER_KEY_MAX: usize = 32;
/// Subscriptions of one IP address (§6.5 [R]).
pub const SUBSCRIPTIONS_PER_ADDRESS_MAX: usize = 64;
/// Subscriptions in all.
pub const SUBSCRIPTIONS_MAX: usize = 16_384;

// --- nat ----------------------------------------------------------------------------------------

/// Nodes whose word on the own address is kept.
pub const VOTES_MAX: usize = 256;
/// Nodes that have to agree (§15.1).
pub const VOTES_NEEDED: usize = 3;
/// Milliseconds for which a word counts (§15.1).
pub const VOTE_MS: u64 = 900_000;
/// Nodes that a probe asks (§15.2).
pub const PROBE_NODES: usize = 3;
/// Milliseconds that a probe waits (§15.2).
pub const PROBE_WAIT_MS: u64 = 5_000;
/// Milliseconds between probes (§15.2).
pub const PROBE_PERIOD_MS: u64 = 1_200_000;
/// Milliseconds for which a probe's result counts (§15.3).
pub const PROBE_RESULT_MS: u64 = 1_800_000;
/// Echoes to one address within a window (§15.2).
pub const ECHOES_PER_WINDOW: u32 = 3;
/// That window in milliseconds (§15.2).
pub const ECHO_WINDOW_MS: u64 = 10_000;
/// Addresses whose echoes are counted, and up to as many more.
pub const ECHO_SOURCES_MAX: usize = 4_096;

// --- seen ---------------------------------------------------------------------------------------

/// Nodes of which it is known when they were met: 40 bytes each.
pub const SEEN_NODES_MAX: usize = 100_000;
/// Lines of the file that are read.
pub const SEEN_LINES_MAX: usize = 2 * SEEN_NODES_MAX;
/// Seconds after which a meeting is forgotten: 7 days (§14.2).
pub const SEEN_S_MAX: u64 = 7 * 86_400;

// --- query --------------------------------------------------------------------------------------

/// Questions to good nodes at a time (§11.1).
pub const GOOD_CALLS: usize = 5;
/// Questions to nodes of which nothing is known, at a time (§11.1).
pub const UNKNOWN_CALLS: usize = 3;
/// Questions of one look-up (§11.1 [R]).
pub const QUERY_CALLS_MAX: usize = 96;
/// Milliseconds of one look-up (§11.1 [R]).
pub const QUERY_MS_MAX: u64 = 20_000;
/// Nodes of which one look-up hears.
pub const QUERY_CANDIDATES_MAX: usize = 512;
/// Nodes of one network of which one look-up asks, where networks are kept diverse.
pub const QUERY_NODES_PER_SITE_MAX: usize = 4;
/// Nearest nodes that have to have answered, or failed, for a look-up to end (§11.1 [R]).
pub const QUERY_NEAREST: usize = 16;
/// Nodes of the table that a look-up begins with (§11.1).
pub const QUERY_SEEDS: usize = 64;
/// Records that one look-up gives back: a full key's from two replicas.
pub const QUERY_RECORDS_MAX: usize = 200;
/// Look-ups at a time.
pub const QUERIES_MAX: usize = 256;

// --- node ---------------------------------------------------------------------------------------

/// Questions under way.
pub const CALLS_MAX: usize = 4_096;
/// Milliseconds that a question waits for its answer (§10.1).
pub const CALL_MS: u64 = 2_000;
/// Times that a question is asked. A node whose bucket is full answers its first one late (D-1), and
/// a datagram may be lost.
pub const CALL_ATTEMPTS: u8 = 2;
/// Milliseconds that a first question to a bootstrap address waits (§10.1).
pub const BOOTSTRAP_CALL_MS: u64 = 5_000;
/// Times that a bootstrap address is asked (§10.1).
pub const BOOTSTRAP_ATTEMPTS: u8 = 3;
/// Bootstrap addresses.
pub const BOOTSTRAP_ADDRESSES_MAX: usize = 64;
/// Questions under way that strangers have caused.
pub const VALIDATIONS_MAX: usize = 512;
/// Events that wait to be taken.
pub const EVENTS_MAX: usize = 1_024;
/// Datagrams that wait to be sent.
pub const OUTBOX_MAX: usize = 4_096;
/// Milliseconds between rounds of upkeep (§13.6).
pub const UPKEEP_MS: u64 = 15_000;
/// Milliseconds from the first answer of the network to a first round of upkeep: a look-up of a few
/// round trips.
pub const JOINED_UPKEEP_MS: u64 = 2_000;
/// Candidates of the table that are asked in a round.
pub const CANDIDATES_PER_UPKEEP: usize = 8;
/// Keys whose expired records are removed in a round.
pub const EXPIRED_KEYS_PER_UPKEEP: usize = 1_024;
/// Milliseconds between tries to find the network while the table is empty (§12).
pub const REBOOTSTRAP_MS: u64 = 10_000;

// --- own records --------------------------------------------------------------------------------

/// Records that this node publishes in its own name besides its endpoint record: a profile, and
/// topics that an operator names.
pub const OWN_PAYLOADS_MAX: usize = 64;
/// Seconds that such a record lives (§5.6).
pub const OWN_TTL_S: u32 = 3_600;
/// Seconds that the own records live of a node that leaves: as long as a restart may take, with the
/// minute by which clocks may differ.
pub const LEAVE_TTL_S: u32 = 300;

// --- replication --------------------------------------------------------------------------------

/// Records that this node publishes.
pub const PUBLISHED_MAX: usize = 1_024;
/// Replicas that a record wants (§13.1).
pub const REPLICAS: usize = 8;
/// Replicas that a record has at most (§13.1).
pub const REPLICAS_MAX: usize = 16;
/// Milliseconds between STOREs of one round (§13.1).
pub const STORE_PAUSE_MS: u64 = 200;
/// Milliseconds between renewals: half of an endpoint record's life (§5.6).
pub const RENEWAL_MS: u64 = 1_800_000;
/// Seconds that an endpoint record lives (§5.6).
pub const ENDPOINT_TTL_S: u32 = 3_600;
/// Milliseconds until a replica's first probe, and after a failed one (§13.1).
pub const PROBE_MS_MIN: u64 = 30_000;
/// Milliseconds between probes of a replica that always answers (§13.1).
pub const PROBE_MS_MAX: u64 = 3_600_000;
/// Milliseconds that a replica may be silent before it is given up (§13.1).
pub const GRACE_MS: u64 = 1_800_000;
/// Nodes that refused a record and are not asked again for a while, and up to as many more.
pub const REFUSING_MAX: usize = 1_024;

// --- snapshot -----------------------------------------------------------------------------------

/// Records of a snapshot: what a store has by default, several under some keys. About 100 MB.
pub const SNAPSHOT_RECORDS_MAX: usize = 2 * STORE_KEYS_DEFAULT;
/// Nodes of a snapshot that are asked at once; the others wait as candidates.
pub const SNAPSHOT_NODES_ASKED: usize = 32;

// --- host ---------------------------------------------------------------------------------------

/// Bytes of a certificate's extension: an address and a delegation with its text.
pub const CERTIFICATE_EXTENSION_BYTES_MAX: usize = 2048;
/// Bytes of a control message without its head (§19.3).
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 4096;
/// Control messages of one side of a connection: an agent has few topics, and says each once.
pub const CONTROL_MESSAGES_MAX: usize = 64;

// --- hub ----------------------------------------------------------------------------------------

/// Bytes of a message to or from a hub, whatever is in it (§19.4).
pub const HUB_MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Bytes of the name of an agent: the longest text of an address and some more, as a hub does not
/// read it.
pub const HUB_AGENT_BYTES_MAX: usize = 128;
/// Bytes of the name of a room: four times the 32 that clients write (§19.4).
pub const HUB_ROOM_BYTES_MAX: usize = 128;
/// Bytes of the parameters of a request: room and two names, each byte in three, and a little more.
pub const HUB_QUERY_BYTES_MAX: usize = 1536;
/// Addresses that a hub's frame lists; an endpoint record has as many.
pub const HUB_ADDRESSES_MAX: usize = 64;
/// Connections of a hub by default: a daemon holds one, and one more while it calls.
pub const HUB_CONNECTIONS_DEFAULT: usize = 4_096;
/// Connections of one source (an IPv4 address, a /56 of IPv6) by default: an office behind one
/// address.
pub const HUB_CONNECTIONS_PER_SOURCE_DEFAULT: usize = 256;
/// Names registered at a hub by default, about 300 bytes each.
pub const HUB_REGISTRATIONS_DEFAULT: usize = 65_536;
/// Names registered by one connection (§19.4 [R]).
pub const HUB_REGISTRATIONS_PER_CONNECTION_DEFAULT: usize = 1_024;
/// Names registered from one source (§19.4 [R]).
pub const HUB_REGISTRATIONS_PER_SOURCE_DEFAULT: usize = 4_096;
/// Rooms of a hub by default: every connection that it may have is in one.
pub const HUB_ROOMS_DEFAULT: usize = HUB_CONNECTIONS_DEFAULT / 2;
/// Rooms in which one source waits for a second party (§19.4 [R]).
pub const HUB_WAITING_PER_SOURCE_DEFAULT: usize = 64;
/// Connections from one source.
pub const HUB_ARRIVALS_PER_SOURCE: Rate = Rate { per_s: 20, burst: 300 };
/// Calls of registered agents from one source: each is a frame to somebody else.
pub const HUB_CALLS_PER_SOURCE: Rate = Rate { per_s: 10, burst: 100 };
/// Messages of a connection of agents: all names again every 45 s, and questions to the network.
pub const HUB_SIGNAL_MESSAGES: Rate = Rate { per_s: 64, burst: 2_048 };
/// Messages in a room (§19.4 [R]): candidates of two parties, which are dozens.
pub const HUB_ROOM_MESSAGES: Rate = Rate { per_s: 50, burst: 500 };
/// Bytes in a room (§19.4 [R]): it is for arranging a connection, not one itself.
pub const HUB_ROOM_BYTES: Rate = Rate { per_s: 16 * 1024, burst: 512 * 1024 };
/// Sources whose arrivals and calls are remembered, and up to as many more: about 60 bytes each.
pub const HUB_SOURCES_MAX: usize = 16_384;
/// Bytes that a first party may say before the second comes.
pub const HUB_EARLY_BYTES_MAX: usize = 32 * 1024;
/// Messages that it may say: credentials, dozens of candidates, a list of addresses.
pub const HUB_EARLY_MESSAGES_MAX: usize = 128;
/// Milliseconds from a connection to its request.
pub const HUB_REQUEST_MS: u64 = 10_000;
/// Milliseconds without a message after which a connection of agents ends (§19.4).
pub const HUB_SIGNAL_IDLE_MS: u64 = 60_000;
/// Milliseconds for which a first party waits for the second (§19.4).
pub const HUB_WAIT_MS: u64 = 30_000;
/// Milliseconds without a message after which a room ends: an exchange takes seconds, and is tried
/// again within half a minute.
pub const HUB_ROOM_IDLE_MS: u64 = 120_000;
/// Milliseconds that a connection has to show that it lives when another source wants its name.
pub const HUB_CONTEST_MS: u64 = 5_000;
