//! The maps, each behind what it means.
//!
//! One writer: the management core. The programs read, and write what they remember of sessions.

use crate::{
    abi, capture::CaptureTable, programs::LoadError, selection::SocketTable, sources::Denied,
};
pub use crate::{
    sessions::{InsertError, SessionTable},
    sources::LocalAddressTable,
};
use abi::{Counter, FramePlace, FrameSocket, Port, PortKinds, Settings, Verdict};
pub use aya::maps::MapError;
use aya::{
    Ebpf,
    maps::{
        Array, CpuMap, DevMapHash, HashMap, Map, MapData, PerCpuArray, XskMap, xdp::XdpMapError,
    },
};
use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    ops::RangeInclusive,
    os::fd::AsRawFd,
};

/// Frames that may wait for a processor that packets are steered to: twice the 64 that the kernel
/// takes at a time for each of a few interfaces, as `xdp-tools` uses by default.
const STEERED_QUEUE_FRAMES: u32 = 2048;

/// Every map of the object.
#[derive(Debug)]
pub struct Tables {
    /// What the operator wants.
    pub settings: SettingsTable,
    /// What each UDP port is for.
    pub ports: PortTable,
    /// Sessions.
    pub sessions: SessionTable,
    /// This machine's addresses.
    pub local_addresses: LocalAddressTable,
    /// Verdicts so far.
    pub counters: CounterTable,
    /// Processors that packets may be steered to.
    pub processors: ProcessorTable,
    /// Interfaces that packets may leave by.
    pub egress: EgressTable,
    /// The data cores' sockets on addresses that they share.
    pub sockets: SocketTable,
    /// Samples of frames.
    pub captured: CaptureTable,
    /// Their sockets for frames.
    pub frame_sockets: FrameSocketTable,
}

impl Tables {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            settings: SettingsTable {
                map: typed(object, "SETTINGS")?,
                current: Settings { stranger_seed: seed(), ..Settings::default() },
                denied: Denied::new(
                    typed(object, "DENIED_V4")?,
                    typed(object, "DENIED_V6")?,
                    typed(object, "DENIED_HINTS")?,
                ),
            },
            ports: PortTable { map: typed(object, "PORT_KINDS")? },
            sessions: SessionTable::new(
                typed(object, "SESSION_INDEX")?,
                typed(object, "SESSION_RECORDS")?,
                typed(object, "SESSION_SEEDS")?,
            )
            .map_err(LoadError::Map)?,
            local_addresses: LocalAddressTable::new(
                typed(object, "OWN_ADDRESSES")?,
                typed(object, "LOCAL_ADDRESSES")?,
            ),
            counters: CounterTable { map: typed(object, "COUNTERS")? },
            processors: ProcessorTable { map: typed(object, "PROCESSORS")? },
            egress: EgressTable { map: typed(object, "EGRESS")? },
            sockets: SocketTable::new(
                typed(object, "SOCKETS")?,
                typed(object, "SOCKET_PLACES")?,
                typed(object, "SELECTIONS")?,
            ),
            captured: CaptureTable::new(
                typed(object, "CAPTURED")?,
                typed(object, "CAPTURES_LOST")?,
            ),
            frame_sockets: FrameSocketTable {
                places: typed(object, "FRAME_PLACES")?,
                sockets: typed(object, "FRAME_SOCKETS")?,
                count: 0,
            },
        })
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<T, LoadError> {
    let map = object.take_map(name).ok_or(LoadError::Missing(name))?;
    T::try_from(map).map_err(LoadError::Map)
}

/// A number that nobody outside can guess: what the standard library's tables are seeded with.
fn seed() -> u64 {
    RandomState::new().hash_one(0)
}

/// The operator's settings, and the prefixes that are denied.
pub struct SettingsTable {
    map: Array<MapData, Settings>,
    current: Settings,
    denied: Denied,
}

impl SettingsTable {
    /// Replaces all settings but the number of denied prefixes, which [`Self::deny`] keeps, what is
    /// captured, which [`Self::capture`] sets, the number of sockets for frames, and the seed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set(&mut self, settings: Settings) -> Result<(), MapError> {
        let current = self.current;
        self.store(Settings {
            denied_v4: current.denied_v4,
            denied_v6: current.denied_v6,
            capture_every: current.capture_every,
            capture_verdicts: current.capture_verdicts,
            frame_sockets: current.frame_sockets,
            stranger_seed: current.stranger_seed,
            frame_kinds: current.frame_kinds,
            ..settings
        })
    }

    /// Samples one of so many frames, and hands over those with one of these verdicts, a bit for
    /// each by its place. Without verdicts, none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn capture(&mut self, verdicts: u64, every: u32) -> Result<(), MapError> {
        let settings =
            Settings { capture_every: every, capture_verdicts: verdicts, ..self.current };
        self.store(settings)
    }

    /// Has the program look for sockets that frames are brought to, of which there are so many, if
    /// they are for ports of these kinds.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_frame_sockets(
        &mut self,
        frame_sockets: u32,
        kinds: &[Port],
    ) -> Result<(), MapError> {
        let frame_kinds = kinds.iter().fold(0, |bits, kind| bits | u32::from(kind.bit()));
        self.store(Settings { frame_sockets, frame_kinds, ..self.current })
    }

    /// Takes nothing any more from a prefix. Sessions of sources in it end with that.
    ///
    /// # Errors
    /// When the table is full or the kernel refuses.
    pub fn deny(&mut self, prefix: IpAddr, bits: u8) -> Result<(), MapError> {
        let is_new = u32::from(self.denied.insert(prefix, bits)?);
        let mut settings = self.current;
        *denied_of(&mut settings, prefix) += is_new;
        self.store(settings)
    }

    /// Takes from a prefix again, if exactly it was denied.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn allow(&mut self, prefix: IpAddr, bits: u8) -> Result<(), MapError> {
        let was_there = u32::from(self.denied.remove(prefix, bits)?);
        let mut settings = self.current;
        let denied = denied_of(&mut settings, prefix);
        *denied = denied.saturating_sub(was_there);
        self.store(settings)
    }

    fn store(&mut self, settings: Settings) -> Result<(), MapError> {
        self.map.set(0, settings, 0)?;
        self.current = settings;
        Ok(())
    }
}

fn denied_of(settings: &mut Settings, prefix: IpAddr) -> &mut u32 {
    if prefix.is_ipv4() { &mut settings.denied_v4 } else { &mut settings.denied_v6 }
}

/// What came of removing an entry: whether it was there.
pub(crate) fn removed(result: Result<(), MapError>) -> Result<bool, MapError> {
    match result {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// What each UDP port is for. All are foreign at first.
pub struct PortTable {
    map: Array<MapData, u64>,
}

impl PortTable {
    /// Says what a range of ports is for.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set(&mut self, ports: RangeInclusive<u16>, kind: Port) -> Result<(), MapError> {
        let Some((first, last)) = (!ports.is_empty()).then(|| ports.into_inner()) else {
            return Ok(());
        };
        for at in PortKinds::word_of(first)..=PortKinds::word_of(last) {
            let before = self.map.get(&at, 0)?;
            let within = (first..=last).filter(|port| PortKinds::word_of(*port) == at);
            let word = within.fold(before, |word, port| PortKinds::with(word, port, kind));
            self.map.set(at, word, 0)?;
        }
        Ok(())
    }
}

/// Verdicts so far.
pub struct CounterTable {
    map: PerCpuArray<MapData, Counter>,
}

impl CounterTable {
    /// How often a verdict was given on all processors.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn of(&self, verdict: Verdict) -> Result<Counter, MapError> {
        let mut sum = Counter::default();
        for counter in self.map.get(&verdict.index(), 0)?.iter() {
            sum.packets += counter.packets;
            sum.bytes += counter.bytes;
        }
        Ok(sum)
    }
}

/// Processors that packets may be steered to. Each costs a kernel thread.
pub struct ProcessorTable {
    map: CpuMap<MapData>,
}

impl ProcessorTable {
    /// Lets packets be steered to a processor.
    ///
    /// # Errors
    /// When there is no such processor or the kernel refuses.
    pub fn insert(&mut self, cpu: u32) -> Result<(), XdpMapError> {
        self.map.set(cpu, STEERED_QUEUE_FRAMES, None, 0)
    }
}

/// Interfaces that relayed packets may leave by other than where they came in.
pub struct EgressTable {
    map: DevMapHash<MapData>,
}

impl EgressTable {
    /// Adds an interface by its index. A driver that cannot send redirected frames drops them
    /// uncounted: on veth, the other end needs a program or GRO for that.
    ///
    /// # Errors
    /// When there is no such interface, the table is full or the kernel refuses.
    pub fn insert(&mut self, interface: u32) -> Result<(), XdpMapError> {
        self.map.insert(interface, interface, None, 0)
    }
}

/// Sockets that whole frames of sessions are brought to (AF_XDP).
pub struct FrameSocketTable {
    places: HashMap<MapData, FramePlace, FrameSocket>,
    sockets: XskMap<MapData>,
    count: u32,
}

impl FrameSocketTable {
    /// Says that the socket at a place is that of the core on `owner_cpu`. The kernel takes it out of
    /// the table when it is closed. Returns how many there are.
    ///
    /// # Errors
    /// When the table is full or the kernel refuses.
    pub fn insert(
        &mut self,
        place: FramePlace,
        owner_cpu: u32,
        socket: &impl AsRawFd,
    ) -> Result<u32, MapError> {
        let index = self.count;
        self.sockets.set(index, socket.as_raw_fd(), 0)?;
        self.places.insert(place, FrameSocket { index, owner_cpu }, 0)?;
        self.count += 1;
        Ok(self.count)
    }
}

macro_rules! debug_by_name {
    ($($table:ident),*) => {$(
        impl fmt::Debug for $table {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($table)).finish_non_exhaustive()
            }
        }
    )*};
}

debug_by_name!(
    CounterTable,
    EgressTable,
    FrameSocketTable,
    LocalAddressTable,
    PortTable,
    ProcessorTable,
    SessionTable,
    SettingsTable
);
