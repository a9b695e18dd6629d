//! Loads the object into the kernel and runs its program on frames.

use crate::{
    abi::limits::CAPTURE_RING_MIN_BYTES,
    object::{CAPTURE_ENABLED, CAPTURE_RING, PREBUILT, SELECT_PROGRAM, XDP_PROGRAM},
    pins::Pins,
    runs::Runs,
    tables::Tables,
};
use aya::{
    Ebpf, EbpfError, EbpfLoader, TestRun as _, TestRunOptions,
    maps::MapError,
    programs::{ProgramError, SkReuseport, Xdp},
};
use nix::sys::signal::{SigSet, SigmaskHow};
use std::{os::fd::AsFd, time::Duration};

/// Bytes in front of a frame that the kernel leaves free in a test run, and that may come back in
/// front of what was given.
const HEADROOM_BYTES: usize = 256;

/// How often a program is offered to a verifier that was interrupted. As many times as libbpf does:
/// signals are held back meanwhile, so that only what is meant for the kernel itself can interrupt.
const LOAD_ATTEMPTS_MAX: u32 = 5;

/// Why the object could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Host: the process may not load programs.
    #[error(
        "the kernel does not let this process load BPF programs: it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root"
    )]
    NotPermitted,
    /// Host or bug: the kernel refused the object or a map.
    #[error("the BPF object was refused: {0}")]
    Object(#[source] EbpfError),
    /// Host or bug: the kernel refused a program; the text holds the verifier's reasons.
    #[error("a BPF program was refused: {0}")]
    Program(#[source] ProgramError),
    /// Bug: the object lacks something, or a map has another layout.
    #[error("the BPF object has no {0}, or not as expected")]
    Missing(&'static str),
    /// Host: a map could not be opened.
    #[error("a BPF map could not be used: {0}")]
    Map(#[source] MapError),
}

/// Why a frame could not be run through the program.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Bug: the program is not there.
    #[error("the program is not loaded")]
    Missing,
    /// Host: the kernel refused the frame or the run.
    #[error("the kernel did not run the program: {0}")]
    Refused(#[source] ProgramError),
}

/// What the program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// What the kernel was told: `XDP_ABORTED` 0, `DROP` 1, `PASS` 2, `TX` 3, `REDIRECT` 4.
    pub action: u32,
    /// Mean time of a run, at the kernel's resolution of one nanosecond.
    pub duration: Duration,
}

/// Whether the program can hand samples of frames to user space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capture {
    /// It cannot, and nothing of that is left in it.
    #[default]
    Never,
    /// It can, once [`SettingsTable::capture`](crate::tables::SettingsTable::capture) says of what;
    /// needs Linux 5.18.
    Ring {
        /// Room for samples that were not read yet; made a power of two of pages.
        bytes: u32,
    },
}

/// The loaded object: its programs and its maps.
#[derive(Debug)]
pub struct Programs {
    object: Ebpf,
    /// The maps.
    pub tables: Tables,
}

impl Programs {
    /// Loads the committed object. With `pins`, sessions and counters are those that an earlier
    /// process left there, or are kept there for the next.
    ///
    /// # Errors
    /// When the process lacks privileges, or the kernel refuses a map or a program.
    pub fn load(pins: Option<&Pins>) -> Result<Self, LoadError> {
        Self::load_object(PREBUILT, pins, Capture::Never)
    }

    /// As [`Self::load`], with room for samples of frames or without.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(pins: Option<&Pins>, capture: Capture) -> Result<Self, LoadError> {
        Self::load_object(PREBUILT, pins, capture)
    }

    /// As [`Self::load`], for another build of the object.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_object(
        object: &[u8],
        pins: Option<&Pins>,
        capture: Capture,
    ) -> Result<Self, LoadError> {
        // What the kernel can do is found out first, by loading; what was interrupted then would pass
        // for what it cannot.
        let _held_back = SignalsHeldBack::on_this_thread();
        let mut loader = EbpfLoader::new();
        if let Capture::Ring { bytes } = capture {
            loader.override_global(CAPTURE_ENABLED, &1_u32, true);
            loader.map_max_entries(CAPTURE_RING, bytes.max(CAPTURE_RING_MIN_BYTES));
        }
        if let Some(pins) = pins {
            for name in Pins::KEPT_MAPS {
                loader.map_pin_path(name, pins.map(name));
            }
        }
        let mut object = loader.load(object).map_err(load_error)?;
        let program = xdp(&mut object).ok_or(LoadError::Missing(XDP_PROGRAM))?;
        persistently(|| program.load())?;
        let program = select(&mut object).ok_or(LoadError::Missing(SELECT_PROGRAM))?;
        persistently(|| program.load())?;
        let tables = Tables::take(&mut object)?;
        Ok(Self { object, tables })
    }

    /// Runs the program on a frame `repeat` times, as if it had come in by `interface`, and returns
    /// what became of it the last time. The maps are used and changed as by any other frame.
    ///
    /// # Errors
    /// When the kernel refuses: frames shorter than 14 bytes or longer than a page less its
    /// headroom, or an interface that is not there.
    pub fn run(&mut self, frame: &[u8], interface: u32, repeat: u32) -> Result<Ran, RunError> {
        let mut out = vec![0; frame.len() + HEADROOM_BYTES];
        let context = context(frame.len(), interface);
        let program = xdp(&mut self.object).ok_or(RunError::Missing)?;
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).map_err(RunError::Refused)?;
        out.truncate(usize::try_from(result.data_size_out).unwrap_or(0));
        Ok(Ran { frame: out, action: result.return_value, duration: result.duration })
    }

    /// The number that `bpftool prog` knows the program by.
    pub fn id(&mut self) -> Option<u32> {
        xdp(&mut self.object)?.info().ok().map(|info| info.id())
    }

    /// What the kernel has measured of the XDP program's runs; all zero if nobody wanted that.
    pub fn runs(&mut self) -> Runs {
        let info = xdp(&mut self.object).and_then(|program| program.info().ok());
        info.map_or_else(Runs::default, |info| Runs {
            count: info.run_count(),
            time: info.run_time(),
        })
    }

    /// Lets the selecting program choose among the sockets that share an address with `socket`, in
    /// place of one that does so already. Which socket is whose stands in [`Tables::sockets`]. It
    /// stays until [`deselect_for`] or until the last of them is closed.
    ///
    /// # Errors
    /// When the socket shares its address with none (`SO_REUSEPORT`), or is not bound.
    pub fn select_for(&mut self, socket: impl AsFd) -> Result<(), ProgramError> {
        let program = select(&mut self.object).ok_or(ProgramError::NotLoaded)?;
        program.attach(socket)
    }

    pub(crate) fn xdp(&mut self) -> Option<&mut Xdp> {
        xdp(&mut self.object)
    }
}

/// Leaves it to the kernel's hash which of the sockets that share an address with `socket` a datagram
/// goes to. Needs Linux 5.3.
///
/// # Errors
/// When no program chooses among them.
pub fn deselect_for(socket: impl AsFd) -> Result<(), ProgramError> {
    SkReuseport::detach(socket)
}

/// `struct xdp_md` of a frame that came in by an interface: begin, end, metadata, interface, queue,
/// and an interface to leave by, which is for another kind of program.
fn context(frame_bytes: usize, interface: u32) -> [u8; 24] {
    let end = u32::try_from(frame_bytes).unwrap_or(u32::MAX);
    let mut context = [0; 24];
    for (field, value) in context.chunks_exact_mut(4).zip([0, end, 0, interface, 0, 0]) {
        field.copy_from_slice(&value.to_ne_bytes());
    }
    context
}

fn xdp(object: &mut Ebpf) -> Option<&mut Xdp> {
    object.program_mut(XDP_PROGRAM)?.try_into().ok()
}

fn select(object: &mut Ebpf) -> Option<&mut SkReuseport> {
    object.program_mut(SELECT_PROGRAM)?.try_into().ok()
}

/// Loads a program, again if the kernel's verifier gave up because it was interrupted. The verifier
/// does so for any signal the thread has yet to take, and in a process of many threads that may be
/// one it would ignore, such as news of a child that another thread waits for: so none is taken.
///
/// # Errors
/// What the last attempt failed with.
pub fn persistently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), LoadError> {
    let _held_back = SignalsHeldBack::on_this_thread();
    let mut attempts = 1;
    loop {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == std::io::ErrorKind::WouldBlock
                    && attempts < LOAD_ATTEMPTS_MAX =>
            {
                attempts += 1;
            }
            loaded => return loaded.map_err(program_error),
        }
    }
}

/// The calling thread takes no signal until this is dropped.
struct SignalsHeldBack {
    before: Option<SigSet>,
}

impl SignalsHeldBack {
    /// A host that does not let a thread choose leaves it as it was: only the attempts remain then.
    fn on_this_thread() -> Self {
        Self { before: SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok() }
    }
}

impl Drop for SignalsHeldBack {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // It cannot fail with a set that the kernel gave.
            let _ = before.thread_set_mask();
        }
    }
}

fn load_error(error: EbpfError) -> LoadError {
    if let EbpfError::MapError(MapError::CreateError { io_error, .. }) = &error
        && io_error.kind() == std::io::ErrorKind::PermissionDenied
    {
        return LoadError::NotPermitted;
    }
    LoadError::Object(error)
}

fn program_error(error: ProgramError) -> LoadError {
    if let ProgramError::LoadError { io_error, .. } = &error
        && io_error.kind() == std::io::ErrorKind::PermissionDenied
        && !error.to_string().contains("processed ")
    {
        return LoadError::NotPermitted;
    }
    LoadError::Program(error)
}
