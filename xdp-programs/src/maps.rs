//! The maps. Their names are what `waystation-ebpf` finds them by.

use aya_ebpf::{
    macros::map,
    maps::{
        Array, CpuMap, DevMapHash, HashMap, LpmTrie, PerCpuArray, ReusePortSockArray, RingBuf,
        XskMap,
    },
};
use waystation_ebpf_abi::{
    Address, Captured, Counter, FramePlace, FrameSocket, OwnAddresses, Reading, Selection,
    SessionBucket, SessionRecord, SessionSeeds, Settings, SocketPlace, StrangerBucket, Verdict,
    limits,
};

/// What the operator wants; one entry.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// What each UDP port is for, two bits each.
#[map]
pub static PORT_KINDS: Array<u64> = Array::with_max_entries(limits::PORT_WORDS, 0);

/// Where the record of each session is.
#[map]
pub static SESSION_INDEX: Array<SessionBucket> =
    Array::with_max_entries(limits::SESSION_BUCKETS, 0);

/// What becomes of known packets.
#[map]
pub static SESSION_RECORDS: Array<SessionRecord> =
    Array::with_max_entries(limits::SESSION_RECORDS, 0);

/// What places in the index are drawn with; one entry.
#[map]
pub static SESSION_SEEDS: Array<SessionSeeds> = Array::with_max_entries(1, 0);

/// Addresses of this machine; one entry.
#[map]
pub static OWN_ADDRESSES: Array<OwnAddresses> = Array::with_max_entries(1, 0);

/// Those that found no room there, and which kinds of ports are served on each (`Port::bit`).
#[map]
pub static LOCAL_ADDRESSES: HashMap<Address, u8> =
    HashMap::with_max_entries(limits::LOCAL_ADDRESSES_MAX, 0);

/// In which blocks of addresses some are denied, a bit each.
#[map]
pub static DENIED_HINTS: Array<u64> = Array::with_max_entries(limits::DENIED_HINT_WORDS, 0);

/// IPv4 prefixes nothing is taken from.
#[map]
pub static DENIED_V4: LpmTrie<u32, u8> = LpmTrie::with_max_entries(limits::DENIED_PREFIXES_MAX, 0);

/// IPv6 prefixes nothing is taken from.
#[map]
pub static DENIED_V6: LpmTrie<[u32; 4], u8> =
    LpmTrie::with_max_entries(limits::DENIED_PREFIXES_MAX, 0);

/// When each source without a session would have paid for its packets.
#[map]
pub static STRANGERS: Array<StrangerBucket> = Array::with_max_entries(limits::STRANGER_BUCKETS, 0);

/// The same, in nanoseconds, for all sources that were not remembered, per processor.
#[map]
pub static NEWCOMERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The clock, as each processor has read it.
#[map]
pub static READINGS: PerCpuArray<Reading> = PerCpuArray::with_max_entries(1, 0);

/// Verdicts, counted per processor.
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(Verdict::COUNT, 0);

/// Processors that packets may be steered to.
#[map]
pub static PROCESSORS: CpuMap = CpuMap::with_max_entries(limits::PROCESSORS_MAX, 0);

/// Interfaces that packets may leave by other than where they came in.
#[map]
pub static EGRESS: DevMapHash = DevMapHash::with_max_entries(limits::EGRESS_INTERFACES_MAX, 0);

/// The data cores' sockets on addresses that they share.
#[map]
pub static SOCKETS: ReusePortSockArray =
    ReusePortSockArray::with_max_entries(limits::SOCKETS_MAX, 0);

/// Which of them is whose, on which address: its place there.
#[map]
pub static SOCKET_PLACES: HashMap<SocketPlace, u32> =
    HashMap::with_max_entries(limits::SOCKETS_MAX, 0);

/// What was chosen among them, per processor.
#[map]
pub static SELECTIONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Selection::COUNT, 0);

/// Samples of frames. The smallest there can be, unless user space wants some.
#[map]
pub static CAPTURED: RingBuf = RingBuf::with_byte_size(limits::CAPTURE_RING_MIN_BYTES, 0);

/// The sample that each processor is at.
#[map]
pub static SAMPLE: PerCpuArray<Captured> = PerCpuArray::with_max_entries(1, 0);

/// Samples that found no room, per processor.
#[map]
pub static CAPTURES_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Where there are sockets for frames, and whose each is.
#[map]
pub static FRAME_PLACES: HashMap<FramePlace, FrameSocket> =
    HashMap::with_max_entries(limits::FRAME_SOCKETS_MAX, 0);

/// Those sockets.
#[map]
pub static FRAME_SOCKETS: XskMap = XskMap::with_max_entries(limits::FRAME_SOCKETS_MAX, 0);
