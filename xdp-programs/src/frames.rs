//! Brings frames of sessions to the sockets of their data cores, past the kernel's network stack.

use crate::{Outcome, maps, parse::Flow};
use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use waystation_ebpf_abi::{FramePlace, Session, Settings, Verdict, limits::FRAME_PACKET_BYTES_MAX};

/// Hands a frame of a wanted kind over if the core that owns its session has a socket where it came in. What
/// it has carried is not counted with the session: the core counts it.
#[inline(always)]
pub fn hand_over(
    ctx: &XdpContext,
    settings: &Settings,
    flow: &Flow,
    session: &mut Session,
    now_ns: u64,
) -> Option<Outcome> {
    let is_wanted = (settings.frame_kinds >> (flow.port & 3)) & 1 != 0;
    if settings.frame_sockets == 0 || !is_wanted || flow.ip_bytes > FRAME_PACKET_BYTES_MAX {
        return None;
    }
    let interface = ctx.ingress_ifindex() as u32;
    let queue = ctx.rx_queue_index();
    let socket = maps::FRAME_PLACES.get_ptr(FramePlace { interface, queue })?;
    // SAFETY: the kernel keeps the entry's memory while the program runs.
    let socket = unsafe { *socket };
    if socket.owner_cpu != session.owner_cpu {
        return None;
    }
    // A socket that was closed is no longer in its map.
    let action = maps::FRAME_SOCKETS.redirect(socket.index, xdp_action::XDP_PASS.into()).ok()?;
    session.last_seen_ns = now_ns;
    Some(Outcome { verdict: Verdict::Steered, action })
}
