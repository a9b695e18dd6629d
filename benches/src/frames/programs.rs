//! The programs of `benches/frame-programs`: loads them, puts one on the ends' interfaces, runs the
//! other, and owns their maps.

use super::layout::{Arrival, Course, FLOWS_MAX, Pace, Tally};
use crate::streets::{Side, Streets};
use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, DevMap, HashMap, MapData};
use aya::programs::TestRunAttrs;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions, include_bytes_aligned};
use std::io::ErrorKind;
use std::{env, fmt, fs};
use waystation_ebpf::programs::persistently;

/// Built from `benches/frame-programs/`; a test compares the hashes of its sources.
static PREBUILT: &[u8] = include_bytes_aligned!("../../frame-programs/prebuilt/frames.bpf.o");
/// Another build of the object, to be measured or tested with in its place.
const OBJECT_VARIABLE: &str = "WAYSTATION_FRAMES_OBJECT";
const SEND: &str = "send";
const RECEIVE: &str = "receive";
/// Frames that one run of the kernel's loop hands over together: the most it takes.
const BATCH_FRAMES: u32 = 256;
/// Runs of one system call: a few milliseconds. Each call makes memory for its frames anew.
const RUNS_PER_CALL: u32 = 1 << 16;

/// The place of the flood among courses and devices.
pub(super) const FLOOD_COURSE: u32 = FLOWS_MAX;

/// See the module. Dropped, the programs are off the interfaces.
pub(super) struct FramePrograms {
    object: Ebpf,
    courses: Array<MapData, Course>,
    devices: DevMap<MapData>,
    bound_for: HashMap<MapData, u64, u32>,
    arrivals: Array<MapData, Arrival>,
    sent: Array<MapData, u64>,
    tallies: Array<MapData, Tally>,
    paces: Array<MapData, Pace>,
}

impl fmt::Debug for FramePrograms {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FramePrograms").finish_non_exhaustive()
    }
}

impl FramePrograms {
    /// Loads them for so many flows of so many frames under way each.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn load(flows: u32, window_frames: u32) -> Result<Self> {
        ensure!(flows <= FLOWS_MAX, "{flows} flows; the programs have room for {FLOWS_MAX}");
        let other = env::var_os(OBJECT_VARIABLE).map(fs::read).transpose();
        let other = other.context(OBJECT_VARIABLE)?;
        let mut loader = EbpfLoader::new();
        loader.override_global("FLOWS", &flows, true);
        loader.override_global("WINDOW_FRAMES", &window_frames, true);
        let mut object = loader.load(other.as_deref().unwrap_or(PREBUILT))?;
        for name in [SEND, RECEIVE] {
            let program = xdp(&mut object, name)?;
            persistently(|| program.load())?;
        }
        let mut map = |name| object.take_map(name).with_context(|| format!("no map {name}"));
        Ok(Self {
            courses: map("COURSES")?.try_into()?,
            devices: map("DEVICES")?.try_into()?,
            bound_for: map("BOUND_FOR")?.try_into()?,
            arrivals: map("ARRIVALS")?.try_into()?,
            sent: map("SENT")?.try_into()?,
            tallies: map("TALLIES")?.try_into()?,
            paces: map("PACES")?.try_into()?,
            object,
        })
    }

    /// Has the ends' interfaces take messages from now on.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn attach(&mut self, streets: &Streets) -> Result<()> {
        for side in Side::BOTH {
            let name = streets.end(side).name;
            let program = xdp(&mut self.object, RECEIVE)?;
            streets.at(side, || {
                program.attach(&name, XdpMode::Driver).with_context(|| format!("on {name}"))?;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// How frames of a flow begin, and the side that they leave at.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn set_course(
        &mut self,
        flow: u32,
        course: Course,
        streets: &Streets,
        side: Side,
    ) -> Result<()> {
        self.courses.set(flow, course, 0)?;
        let name = streets.end(side).name;
        // An interface's number is of its namespace.
        streets.at(side, || {
            let interface = nix::net::if_::if_nametoindex(name.as_str())?;
            Ok(self.devices.set(flow, interface, None, 0)?)
        })
    }

    /// How frames of a flow arrive.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or another flow arrives there.
    pub(super) fn set_arrival(&mut self, flow: u32, key: u64, arrival: Arrival) -> Result<()> {
        self.arrivals.set(flow, arrival, 0)?;
        ensure!(self.bound_for.get(&key, 0).is_err(), "two flows to one receiver");
        Ok(self.bound_for.insert(key, flow, 0)?)
    }

    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn set_pace(&mut self, which: u32, interval_ns: u64) -> Result<()> {
        let [_, _, count] = self.paces.get(&which, 0)?;
        Ok(self.paces.set(which, [interval_ns, 0, count], 0)?)
    }

    /// How often something was due that has a pace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn count(&self, which: u32) -> Result<u64> {
        let [_, _, count] = self.paces.get(&which, 0)?;
        Ok(count)
    }

    /// Messages of a flow that were sent so far.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn sent(&self, flow: u32) -> Result<u64> {
        Ok(self.sent.get(&flow, 0)?)
    }

    /// What has come of a flow so far.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn tally(&self, flow: u32) -> Result<Tally> {
        Ok(self.tallies.get(&flow, 0)?)
    }

    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn set_tally(&mut self, flow: u32, tally: Tally) -> Result<()> {
        Ok(self.tallies.set(flow, tally, 0)?)
    }

    /// Sends what is due or may be under way, for a few milliseconds.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, as it does before Linux 5.18.
    pub(super) fn send(&mut self, frame: &[u8]) -> Result<()> {
        let program = xdp(&mut self.object, SEND)?;
        let run = program.test_run(TestRunOptions {
            data_in: Some(frame),
            repeat: RUNS_PER_CALL,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH_FRAMES),
            ..TestRunOptions::new()
        });
        match run {
            Ok(_) => Ok(()),
            // A signal ends a call early.
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == ErrorKind::Interrupted =>
            {
                Ok(())
            }
            Err(error) => bail!("the kernel does not send frames: {error}"),
        }
    }
}

fn xdp<'object>(object: &'object mut Ebpf, name: &str) -> Result<&'object mut Xdp> {
    let program = object.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}
