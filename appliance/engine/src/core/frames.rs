//! What a link receives: records opened where they lie, frames decoded, payload carried on.
//!
//! The receiving half of the data path, on buffers that are still borrowed from the port.

use super::connection::{LinkInput, Phase};
use super::links::{Failure, Step};
use crate::fabric::Piece;
use crate::limits::IN_PLACE_MIN_BYTES;
use crate::record_reader::Found;
use crate::statistics::{Stage, TrafficClass};
use std::ops::Range;
use waystation_astral::brontide::RECORD_HEADER_BYTES;
use waystation_astral::frame::{Decoded, Frame, Profile, data_header_bytes};
use waystation_relay::drop_reason::DropReason;

/// Room a payload needs in front of it to be sealed in place for any profile.
const IN_PLACE_HEAD_BYTES: usize = RECORD_HEADER_BYTES + data_header_bytes(Profile::P4);

impl Step<'_> {
    /// Takes all of `bytes` through whatever phases they lead to.
    pub(super) fn feed(&mut self, phase: &mut Phase, bytes: &mut [u8]) -> Result<(), Failure> {
        let mut cursor = 0;
        loop {
            match phase {
                Phase::Shaking(shaking) => {
                    if !shaking.collect(bytes, &mut cursor) {
                        return Ok(());
                    }
                    if let Some(next) = self.on_act(shaking)? {
                        *phase = next;
                    }
                }
                Phase::Negotiating(_) | Phase::Link(_) => {
                    if !self.feed_record(phase, bytes, &mut cursor)? {
                        return Ok(());
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// Opens one record and deals with it. `false`: the input is used up.
    fn feed_record(
        &mut self,
        phase: &mut Phase,
        bytes: &mut [u8],
        cursor: &mut usize,
    ) -> Result<bool, Failure> {
        let pool = &mut self.fabric.pool;
        let reader = match phase {
            Phase::Negotiating(negotiating) => &mut negotiating.reader,
            Phase::Link(link) => &mut link.reader,
            _ => return Ok(false),
        };
        match reader.next(bytes, cursor, pool).map_err(Failure::Dropped)? {
            Found::Nothing => Ok(false),
            Found::InInput(plaintext) => {
                self.fabric.statistics.counters.records_opened += 1;
                let in_place = self.in_place;
                self.on_plaintext(phase, bytes, plaintext, in_place).map(|()| true)
            }
            Found::Carried => {
                self.fabric.statistics.counters.records_opened += 1;
                let Some((mut block, length)) = reader.take_carried() else { return Ok(false) };
                let outcome = self.on_plaintext(phase, &mut block, 0..length, false);
                self.fabric.pool.give_back(block);
                outcome.map(|()| true)
            }
        }
    }

    fn on_plaintext(
        &mut self,
        phase: &mut Phase,
        bytes: &mut [u8],
        plaintext: Range<usize>,
        in_place: bool,
    ) -> Result<(), Failure> {
        match phase {
            Phase::Negotiating(negotiating) => {
                let Some(established) = self.negotiate(negotiating, &bytes[plaintext])? else {
                    return Ok(());
                };
                self.establish(phase, established)
            }
            Phase::Link(link) => self.on_frames(link, bytes, plaintext, in_place),
            _ => Ok(()),
        }
    }

    pub(super) fn on_frames(
        &mut self,
        link: &mut LinkInput,
        bytes: &mut [u8],
        plaintext: Range<usize>,
        in_place: bool,
    ) -> Result<(), Failure> {
        let now_ns = self.fabric.opened_ns;
        link.received_ns = now_ns;
        let frames_before = link.frames_in;
        let mut active = false;
        let mut cursor = 0;
        loop {
            let decoded = link.decoder.next(&bytes[plaintext.clone()], &mut cursor);
            let decoded = decoded.map_err(|_bad| Failure::Dropped(DropReason::FrameRejected))?;
            match decoded {
                None => break,
                Some(Decoded::Frame(Frame::Ping { nonce, pong })) => {
                    link.frames_in += 1;
                    self.on_ping(link, nonce, pong);
                }
                Some(Decoded::Frame(frame)) => {
                    link.frames_in += 1;
                    active = true;
                    self.fabric.on_session_frame(self.slot, &frame);
                }
                Some(Decoded::Data { nonce, offset, bytes: count, first, .. }) => {
                    link.frames_in += u64::from(first);
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
        if active {
            link.active_ns = now_ns;
        }
        let frames = link.frames_in - frames_before;
        let wait_ns = now_ns.saturating_sub(self.fabric.reaped_ns);
        let statistics = &mut self.fabric.statistics;
        statistics.counters.frames_in += frames;
        statistics.histograms.record(Stage::ReapToOpen, TrafficClass::Data, wait_ns, frames);
        Ok(())
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
