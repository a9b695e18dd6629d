//! What a link receives: records opened where they lie, frames decoded, payload carried on.
//!
//! The receiving half of the data path, on buffers that are still borrowed from the port.

use super::connection::{LinkInput, Phase};
use super::links::{Failure, Step};
use crate::block::Block;
use crate::fabric::{Piece, SealedInPlace};
use crate::limits::{
    ACT_COST_BYTES, BLOCKS_RESERVED, FRAME_COST_BYTES, IN_PLACE_MIN_BYTES, RESEAL_MIN_BYTES,
};
use crate::record_reader::{Found, InputProgress, OpenRecord};
use crate::statistics::{Stage, TrafficClass};
use std::ops::Range;
use waystation_astral::brontide::{RECORD_HEADER_BYTES, TAG_BYTES};
use waystation_astral::frame::{DataRun, Decoded, Frame, Profile, data_header_bytes};
use waystation_relay::drop_reason::DropReason;

/// Room a payload needs in front of it to be sealed in place for any profile.
const IN_PLACE_HEAD_BYTES: usize = RECORD_HEADER_BYTES + data_header_bytes(Profile::P4);

/// How a step on an input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// All of the input is dealt with.
    All,
    /// The budget ran out before.
    Stopped,
}

impl Step<'_> {
    /// Takes `bytes` from `progress` on through whatever phases they lead to, as far as the budget
    /// goes.
    pub(super) fn feed(
        &mut self,
        phase: &mut Phase,
        bytes: &mut [u8],
        progress: &mut InputProgress,
    ) -> Result<Fed, Failure> {
        if progress.record.is_some() && self.resume_record(phase, progress)? == Fed::Stopped {
            return Ok(Fed::Stopped);
        }
        loop {
            if let Some(record) = self.leftover.take() {
                progress.record = Some(record);
                return Ok(Fed::Stopped);
            }
            if self.must_stop() && progress.cursor < bytes.len() {
                return Ok(Fed::Stopped);
            }
            match phase {
                Phase::Shaking(shaking) => {
                    if !shaking.collect(bytes, &mut progress.cursor) {
                        return Ok(Fed::All);
                    }
                    self.budget.charge(ACT_COST_BYTES);
                    if let Some(next) = self.on_act(shaking)? {
                        *phase = next;
                    }
                }
                Phase::Negotiating(_) | Phase::Link(_) => {
                    match self.feed_record(phase, bytes, progress)? {
                        Some(Fed::All) => {}
                        Some(Fed::Stopped) => return Ok(Fed::Stopped),
                        None => return Ok(Fed::All),
                    }
                }
                _ => return Ok(Fed::All),
            }
        }
    }

    /// Whether others must have their turn now. Input that was sealed in goes on in copies, of a
    /// record and of what is behind it, so without blocks for them the step must go on.
    fn must_stop(&self) -> bool {
        self.budget.is_spent() && (self.sealed.is_none() || self.fabric.pool.available() >= 2)
    }

    /// Goes on with a record whose frames were more than one turn's work.
    fn resume_record(
        &mut self,
        phase: &mut Phase,
        progress: &mut InputProgress,
    ) -> Result<Fed, Failure> {
        let Some(OpenRecord { mut block, rest }) = progress.record.take() else {
            return Ok(Fed::All);
        };
        let outcome = self.on_plaintext(phase, &mut block, rest.clone(), false);
        self.keep_rest(block, rest.end, outcome, progress)
    }

    /// Opens one record and deals with it. `None`: the input is used up.
    fn feed_record(
        &mut self,
        phase: &mut Phase,
        bytes: &mut [u8],
        progress: &mut InputProgress,
    ) -> Result<Option<Fed>, Failure> {
        let pool = &mut self.fabric.pool;
        let reader = match phase {
            Phase::Negotiating(negotiating) => &mut negotiating.reader,
            Phase::Link(link) => &mut link.reader,
            _ => return Ok(None),
        };
        let found = reader.next(bytes, &mut progress.cursor, pool).map_err(Failure::Dropped)?;
        match found {
            Found::Nothing => Ok(None),
            Found::InInput(plaintext) => {
                self.fabric.statistics.counters.records_opened += 1;
                self.budget.charge_record(plaintext.len());
                let in_place = self.in_place;
                if let (Phase::Link(link), true) = (&mut *phase, in_place)
                    && let Some(sealed) = self.reseal(link, bytes, &plaintext)
                {
                    self.sealed = sealed;
                    return Ok(Some(Fed::All));
                }
                let end = plaintext.end;
                match self.on_plaintext(phase, bytes, plaintext, in_place)? {
                    None => Ok(Some(Fed::All)),
                    Some(stopped) => self.copy_rest(phase, bytes, stopped..end, progress).map(Some),
                }
            }
            Found::Carried => {
                self.fabric.statistics.counters.records_opened += 1;
                let Some(record) = reader.take_carried() else { return Ok(None) };
                let OpenRecord { mut block, rest: plaintext } = record;
                self.budget.charge_record(plaintext.len());
                let may_keep =
                    self.sealed.is_none() && self.fabric.pool.available() > BLOCKS_RESERVED;
                if let (Phase::Link(link), true) = (&mut *phase, may_keep)
                    && let Some(sealed) = self.reseal(link, &mut block, &plaintext)
                {
                    self.fabric.attach_block(sealed, block);
                    return Ok(Some(Fed::All));
                }
                let end = plaintext.end;
                let outcome = self.on_plaintext(phase, &mut block, plaintext, false);
                self.keep_rest(block, end, outcome, progress).map(Some)
            }
        }
    }

    /// Seals a record anew where it was opened, if it holds nothing but payload of one session that
    /// may go on at once. `None`: its frames have to be looked at one by one. `Some(None)`: sealing
    /// failed, and the link it was for will end.
    fn reseal(
        &mut self,
        link: &mut LinkInput,
        buffer: &mut [u8],
        plaintext: &Range<usize>,
    ) -> Option<Option<SealedInPlace>> {
        let start = plaintext.start.checked_sub(RECORD_HEADER_BYTES)?;
        if plaintext.len() < RESEAL_MIN_BYTES || !link.decoder.at_boundary() || self.must_stop() {
            return None;
        }
        let run = DataRun::read(link.profile, &buffer[plaintext.clone()])?;
        let record = start..plaintext.end + TAG_BYTES;
        let from = (self.slot, link.profile);
        let behind = self.sealed.as_ref();
        let sealed = self.fabric.forward_record(from, (buffer, record), &run, behind)?;
        self.budget.charge(FRAME_COST_BYTES);
        link.frames_in += u64::from(run.frames);
        link.payload_bytes_in += run.payload_bytes as u64;
        self.count_frames(link, u64::from(run.frames), true);
        Some(sealed)
    }

    /// Accounts for frames of one record.
    fn count_frames(&mut self, link: &mut LinkInput, frames: u64, active: bool) {
        let now_ns = self.fabric.opened_ns;
        link.received_ns = now_ns;
        if active {
            link.active_ns = now_ns;
        }
        let wait_ns = now_ns.saturating_sub(self.fabric.reaped_ns);
        let statistics = &mut self.fabric.statistics;
        statistics.counters.frames_in += frames;
        statistics.histograms.record(Stage::ReapToOpen, TrafficClass::Data, wait_ns, frames);
    }

    /// Keeps the block of a record that was not dealt with to its end.
    fn keep_rest(
        &mut self,
        block: Block,
        end: usize,
        outcome: Result<Option<usize>, Failure>,
        progress: &mut InputProgress,
    ) -> Result<Fed, Failure> {
        match outcome {
            Ok(Some(stopped)) => {
                progress.record = Some(OpenRecord { block, rest: stopped..end });
                Ok(Fed::Stopped)
            }
            Ok(None) => {
                self.fabric.pool.give_back(block);
                Ok(Fed::All)
            }
            Err(failure) => {
                self.fabric.pool.give_back(block);
                Err(failure)
            }
        }
    }

    /// Copies what is left of a record, since its buffer may go on to be sent from. Without a block
    /// for it the step goes on to its end instead.
    pub(super) fn copy_rest(
        &mut self,
        phase: &mut Phase,
        bytes: &mut [u8],
        rest: Range<usize>,
        progress: &mut InputProgress,
    ) -> Result<Fed, Failure> {
        let Some(mut block) = self.fabric.pool.take() else {
            self.budget.lift();
            return self.on_plaintext(phase, bytes, rest, false).map(|_stopped| Fed::All);
        };
        block[..rest.len()].copy_from_slice(&bytes[rest.clone()]);
        progress.record = Some(OpenRecord { block, rest: 0..rest.len() });
        Ok(Fed::Stopped)
    }

    /// Returns where it stopped, if that was before the end.
    fn on_plaintext(
        &mut self,
        phase: &mut Phase,
        bytes: &mut [u8],
        plaintext: Range<usize>,
        in_place: bool,
    ) -> Result<Option<usize>, Failure> {
        match phase {
            Phase::Negotiating(negotiating) => {
                let Some(established) = self.negotiate(negotiating, &bytes[plaintext])? else {
                    return Ok(None);
                };
                self.establish(phase, established).map(|()| None)
            }
            Phase::Link(link) => self.on_frames(link, bytes, plaintext, in_place),
            _ => Ok(None),
        }
    }

    /// Deals with the frames of a record, as far as the budget goes. Returns where it stopped, if
    /// that was before the end.
    pub(super) fn on_frames(
        &mut self,
        link: &mut LinkInput,
        bytes: &mut [u8],
        plaintext: Range<usize>,
        in_place: bool,
    ) -> Result<Option<usize>, Failure> {
        let frames_before = link.frames_in;
        let mut active = false;
        let mut cursor = 0;
        let mut stopped = None;
        loop {
            if cursor < plaintext.len() && self.must_stop() {
                stopped = Some(plaintext.start + cursor);
                break;
            }
            let decoded = link.decoder.next(&bytes[plaintext.clone()], &mut cursor);
            let decoded = decoded.map_err(|_bad| Failure::Dropped(DropReason::FrameRejected))?;
            match decoded {
                None => break,
                Some(Decoded::Frame(Frame::Ping { nonce, pong })) => {
                    link.frames_in += 1;
                    self.budget.charge(FRAME_COST_BYTES);
                    self.on_ping(link, nonce, pong);
                }
                Some(Decoded::Frame(frame)) => {
                    link.frames_in += 1;
                    active = true;
                    self.budget.charge_frame(&frame);
                    self.fabric.on_session_frame(self.slot, &frame);
                }
                Some(Decoded::Data { nonce, offset, bytes: count, first, .. }) => {
                    link.frames_in += u64::from(first);
                    self.budget.charge(FRAME_COST_BYTES);
                    active = true;
                    link.payload_bytes_in += count as u64;
                    let start = plaintext.start + offset;
                    let range = start..start + count;
                    let in_place = in_place
                        && self.sealed.is_none()
                        && count >= IN_PLACE_MIN_BYTES
                        && range.end == plaintext.end
                        && start >= IN_PLACE_HEAD_BYTES;
                    let piece = Piece { buffer: &mut *bytes, range, in_place };
                    let sealed = self.fabric.on_data(self.slot, nonce, piece);
                    self.sealed = self.sealed.take().or(sealed);
                }
            }
        }
        self.count_frames(link, link.frames_in - frames_before, active);
        Ok(stopped)
    }

    fn on_ping(&mut self, link: &mut LinkInput, nonce: u64, pong: bool) {
        if !pong {
            self.fabric.control(self.slot, &Frame::Ping { nonce, pong: true });
            return;
        }
        match link.ping {
            Some((expected, pinged_ns)) if expected == nonce => {
                link.ping_round_trip_ns = self.fabric.opened_ns.saturating_sub(pinged_ns);
                link.ping = None;
            }
            Some(_) | None if link.prelude_pongs > 0 => link.prelude_pongs -= 1,
            Some(_) | None => self.fabric.count_drop(DropReason::UnknownSessionIgnored, 0),
        }
    }
}
