//! Puts the program on network interfaces, and takes it off again.
//!
//! A program that is not ours is never replaced: the kernel refuses a link where another program
//! is, and nothing here asks it to do otherwise.

use crate::{pins::Pins, programs::Programs};
use aya::{
    pin::PinError,
    programs::{
        ProgramError, Xdp, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        xdp::XdpLink,
    },
    sys::SyscallError,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const EPERM: i32 = 1;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENOLINK: i32 = 67;
const EOPNOTSUPP: i32 = 95;

/// Which of the two ways of running the program the operator accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// In the driver, or not at all.
    Native,
    /// In the driver; where it cannot, after the kernel has made a packet of the frame.
    #[default]
    NativeOrGeneric,
    /// After the kernel has made a packet of the frame.
    Generic,
}

/// How the program runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// After the kernel has made a packet of the frame: correct, and several times dearer.
    Generic,
    /// As the process before attached it.
    TakenOver,
}

/// Why the program is not on an interface.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Operator: there is no such interface here.
    #[error("there is no network interface {interface}")]
    NoInterface {
        /// Its name.
        interface: Box<str>,
    },
    /// Operator: another XDP program is there, which is left alone.
    #[error(
        "{interface} has another XDP program, which is left alone; `ip link show dev {interface}` names it, and `ip link set dev {interface} xdp off` removes it"
    )]
    Occupied {
        /// Its name.
        interface: Box<str>,
    },
    /// Host: the process may not attach programs.
    #[error("attaching to {interface} needs CAP_NET_ADMIN and CAP_BPF, or root")]
    NotPermitted {
        /// Its name.
        interface: Box<str>,
    },
    /// Host: the driver has no native mode, and no other was wanted.
    #[error(
        "the driver of {interface} cannot run XDP programs; allow generic mode, or use another tier"
    )]
    NoNativeMode {
        /// Its name.
        interface: Box<str>,
    },
    /// Host: the kernel is too old for links (5.9).
    #[error("the kernel has no BPF links for XDP, which need Linux 5.9")]
    NoLinks,
    /// Host: refused for a reason the driver knows; often an MTU or a receive offload (LRO) that
    /// does not go with XDP, or too few queues.
    #[error(
        "{interface} refused the program: {error}; drivers refuse large MTUs (above about 3500), LRO (`ethtool -K {interface} lro off`) and having too few queues (`ethtool -L`)"
    )]
    Refused {
        /// Its name.
        interface: Box<str>,
        /// What the kernel said.
        #[source]
        error: ProgramError,
    },
    /// Host: the link could not be pinned or taken over.
    #[error("{path}: the link could not be kept: {error}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        error: PinError,
    },
    /// Host: a pinned link could not be opened or removed.
    #[error("{path}: the link of an earlier process could not be used: {error}")]
    Earlier {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
}

/// The program on one interface. Without a pin it goes when this is dropped; with one it stays.
#[derive(Debug)]
pub struct Attachment {
    /// The interface.
    pub interface: Box<str>,
    /// How it runs there.
    pub mode: Mode,
    /// Why it does not run in the driver although that was wanted first.
    pub native_refusal: Option<ProgramError>,
    link: FdLink,
    pin: Option<PathBuf>,
}

impl Attachment {
    /// Puts the program on an interface of the calling thread's network namespace. With `pins`, a
    /// link that an earlier process left there gets this program instead, without a packet missing
    /// it, and the link stays when this process ends.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn new(
        programs: &mut Programs,
        interface: &str,
        wanted: Wanted,
        pins: Option<&Pins>,
    ) -> Result<Self, AttachError> {
        let pin = pins.map(|pins| pins.link(interface));
        let program = programs.xdp().ok_or_else(|| AttachError::Refused {
            interface: interface.into(),
            error: ProgramError::NotLoaded,
        })?;
        if let Some(path) = pin.as_ref().filter(|path| path.exists())
            && let Some(link) = take_over(program, interface, path)?
        {
            let interface = interface.into();
            return Ok(Self { interface, mode: Mode::TakenOver, native_refusal: None, link, pin });
        }
        let (link, mode, native_refusal) = attach(program, interface, wanted)?;
        let link = match &pin {
            None => link,
            Some(path) => {
                let pinned = link
                    .pin(path)
                    .map_err(|error| AttachError::Pin { path: path.clone(), error })?;
                FdLink::from(pinned)
            }
        };
        Ok(Self { interface: interface.into(), mode, native_refusal, link, pin })
    }

    /// Whether the interface runs the program of this number, and not one that another process has
    /// put in its place. If the kernel does not tell, it does.
    pub fn runs(&self, program: u32) -> bool {
        self.link.info().map_or(true, |info| info.program_id() == program)
    }

    /// Puts this program where another process has put its own, without a packet missing both.
    ///
    /// # Errors
    /// See [`AttachError`]. What is there then stays if it is pinned.
    pub fn put_back(self, programs: &mut Programs) -> Result<Self, AttachError> {
        let Self { interface, mode, native_refusal, link, pin } = self;
        let refused = |error| AttachError::Refused { interface: interface.clone(), error };
        let program = programs.xdp().ok_or_else(|| refused(ProgramError::NotLoaded))?;
        let link = XdpLink::try_from(link).map_err(|error| AttachError::Earlier {
            path: pin.clone().unwrap_or_default(),
            error: link_error(error),
        })?;
        let taken = program.attach_to_link(link).and_then(|id| program.take_link(id));
        let link = FdLink::try_from(taken.map_err(refused)?);
        let link = link.map_err(|_no_link| AttachError::NoLinks)?;
        Ok(Self { interface, mode, native_refusal, link, pin })
    }

    /// Takes the program off the interface, pinned or not.
    ///
    /// # Errors
    /// When the pin cannot be removed; the program then stays.
    pub fn detach(self) -> io::Result<()> {
        if let Some(path) = &self.pin {
            match fs::remove_file(path) {
                // Another process has wanted the interface no more.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        drop(self.link);
        Ok(())
    }
}

/// Gives the link that an earlier process pinned this program. `None`: the link's interface is
/// gone, and so is the pin.
fn take_over(
    program: &mut Xdp,
    interface: &str,
    path: &Path,
) -> Result<Option<FdLink>, AttachError> {
    let earlier = |error: io::Error| AttachError::Earlier { path: path.to_owned(), error };
    let pinned = PinnedLink::from_pin(path).map_err(|error| earlier(link_error(error)))?;
    let link =
        XdpLink::try_from(FdLink::from(pinned)).map_err(|error| earlier(link_error(error)))?;
    let taken = program.attach_to_link(link).and_then(|id| program.take_link(id));
    match taken {
        Ok(link) => FdLink::try_from(link).map(Some).map_err(|_no_link| AttachError::NoLinks),
        Err(error) if errno(&error) == Some(ENOLINK) => {
            fs::remove_file(path).map_err(earlier)?;
            Ok(None)
        }
        Err(error) => Err(AttachError::Refused { interface: interface.into(), error }),
    }
}

fn attach(
    program: &mut Xdp,
    interface: &str,
    wanted: Wanted,
) -> Result<(FdLink, Mode, Option<ProgramError>), AttachError> {
    let mut native_refusal = None;
    if wanted != Wanted::Generic {
        match attach_as(program, interface, XdpMode::Driver) {
            Ok(link) => return Ok((link, Mode::Native, None)),
            Err(AttachError::Refused { error, .. }) if wanted == Wanted::NativeOrGeneric => {
                native_refusal = Some(error);
            }
            Err(AttachError::Refused { error, .. }) if errno(&error) == Some(EOPNOTSUPP) => {
                return Err(AttachError::NoNativeMode { interface: interface.into() });
            }
            Err(error) => return Err(error),
        }
    }
    let link = attach_as(program, interface, XdpMode::Skb)?;
    Ok((link, Mode::Generic, native_refusal))
}

fn attach_as(program: &mut Xdp, interface: &str, mode: XdpMode) -> Result<FdLink, AttachError> {
    let attached = program.attach(interface, mode).and_then(|id| program.take_link(id));
    let interface = Box::from(interface);
    match attached {
        // Without links the program would be attached in a way that replaces others unasked;
        // dropping it takes it off again.
        Ok(link) => FdLink::try_from(link).map_err(|_no_link| AttachError::NoLinks),
        Err(ProgramError::UnknownInterface { .. }) => Err(AttachError::NoInterface { interface }),
        Err(error) => Err(match errno(&error) {
            Some(EBUSY | EEXIST) => AttachError::Occupied { interface },
            Some(EPERM) => AttachError::NotPermitted { interface },
            _ => AttachError::Refused { interface, error },
        }),
    }
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error.raw_os_error(),
        _ => None,
    }
}

fn link_error(error: LinkError) -> io::Error {
    match error {
        LinkError::SyscallError(SyscallError { io_error, .. }) => io_error,
        other => io::Error::other(other),
    }
}
