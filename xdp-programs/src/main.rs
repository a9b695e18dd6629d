//! The programs that run in the kernel: one on each network interface, before the kernel's own
//! network stack, and one that chooses a socket.
//!
//! Called by the kernel for every received frame, on the processor that received it, with
//! interrupts held off. They must never loop without a bound, wait, or change a frame that then
//! goes on to user space. What they decide is listed in `waystation_ebpf_abi::Verdict`; what they
//! know is in the maps, which `waystation-ebpf` fills.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod capture;
mod checksum;
mod clock;
mod frames;
mod limiter;
mod maps;
mod parse;
mod relay;
mod select;
mod sessions;
mod strangers;
mod window;
mod words;

use aya_ebpf::{
    bindings::xdp_action, helpers::generated::bpf_get_smp_processor_id, macros::xdp,
    programs::XdpContext,
};
use parse::Flow;
use waystation_ebpf_abi::{Action, Counter, NetworkU16, Session, Settings, Verdict};

/// How the kernel is told: the routing look-up asks for a licence compatible with its own.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A verdict and what the kernel is to do.
struct Outcome {
    verdict: Verdict,
    action: u32,
}

impl From<Verdict> for Outcome {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        let action = if verdict.is_drop() { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS };
        Self { verdict, action }
    }
}

/// The entry on network interfaces. Inlined into what the kernel calls: a second function would return
/// once more, which costs as much as a call of the kernel's.
#[xdp]
#[inline(always)]
pub fn waystation(ctx: XdpContext) -> u32 {
    let frame_bytes = window::frame_bytes(&ctx) as u64;
    let Some(settings) = maps::SETTINGS.get(0) else {
        return xdp_action::XDP_PASS;
    };
    let is_sampled = capture::begin(&ctx, settings, frame_bytes);
    let outcome = match window::link_layer(&ctx, settings) {
        Ok(window::Link { network: window::Network::Ipv4, tagged: None }) => {
            judge::<14>(&ctx, settings, parse::ipv4::<14>(&ctx), None)
        }
        Ok(window::Link { network: window::Network::Ipv6, tagged: None }) => {
            judge::<14>(&ctx, settings, parse::ipv6::<14>(&ctx), None)
        }
        Ok(window::Link { network: window::Network::Ipv4, tagged }) => {
            judge::<18>(&ctx, settings, parse::ipv4::<18>(&ctx), tagged)
        }
        Ok(window::Link { network: window::Network::Ipv6, tagged }) => {
            judge::<18>(&ctx, settings, parse::ipv6::<18>(&ctx), tagged)
        }
        Err(verdict) => verdict.into(),
    };
    count(outcome.verdict, frame_bytes);
    if is_sampled {
        capture::end(&ctx, settings, outcome.verdict);
    }
    outcome.action
}

/// Decides about one datagram whose IP header begins at `L3` in its frame.
#[inline(always)]
fn judge<const L3: usize>(
    ctx: &XdpContext,
    settings: &Settings,
    parsed: Result<Flow, Verdict>,
    tagged: Option<window::Tag>,
) -> Outcome {
    let mut flow = match parsed {
        Ok(flow) => flow,
        Err(verdict) => return verdict.into(),
    };
    if let Some(fault) = flow.fault {
        return refuse(&flow, fault);
    }
    if strangers::is_denied(settings, &flow) {
        return refuse(&flow, Verdict::DropDenied);
    }
    match parse::channel::<L3>(ctx, &flow) {
        Ok(channel) => flow.channel = channel,
        Err(verdict) if verdict.is_drop() => return refuse(&flow, verdict),
        Err(verdict) => return verdict.into(),
    }
    if let Some(session) = sessions::of_flow(&flow) {
        let now_ns = clock::now_ns();
        // Sockets for frames take none with a tag.
        if tagged.is_none()
            && let Some(outcome) = frames::hand_over(ctx, settings, &flow, session, now_ns)
        {
            return outcome;
        }
        if session.action != Action::Steer as u8 {
            return match relay::relay::<L3>(ctx, settings, &flow, session, tagged, now_ns) {
                Ok(outcome) => outcome,
                Err(verdict) => verdict.into(),
            };
        }
        return steer(session, &flow, now_ns);
    }
    if flow.channel.number() != 0 {
        // A channel that user space relays, of a client it knows.
        flow.channel = NetworkU16::new(0);
        if let Some(session) = sessions::of_flow(&flow) {
            let now_ns = clock::now_ns();
            if tagged.is_none()
                && let Some(outcome) = frames::hand_over(ctx, settings, &flow, session, now_ns)
            {
                return outcome;
            }
            return steer(session, &flow, now_ns);
        }
    }
    if !is_local(&flow) {
        return Verdict::PassForeign.into();
    }
    strangers::judge(settings, &flow).into()
}

/// Hands a datagram to the processor of the core that owns its session.
#[inline(always)]
fn steer(session: &mut Session, flow: &Flow, now_ns: u64) -> Outcome {
    session.last_seen_ns = now_ns;
    session.packets += 1;
    session.bytes += u64::from(flow.ip_bytes);
    // SAFETY: has no precondition.
    let here = unsafe { bpf_get_smp_processor_id() };
    let action = if session.owner_cpu == here {
        xdp_action::XDP_PASS
    } else {
        // A processor that is not in the map: the kernel's stack takes it here.
        match maps::PROCESSORS.redirect(session.owner_cpu, xdp_action::XDP_PASS.into()) {
            Ok(action) | Err(action) => action,
        }
    };
    Outcome { verdict: Verdict::Steered, action }
}

/// Drops a datagram by reason, if it was for this machine; what is for others is not ours to judge.
#[inline(always)]
fn refuse(flow: &Flow, verdict: Verdict) -> Outcome {
    if is_local(flow) { verdict.into() } else { Verdict::PassForeign.into() }
}

/// Whether ports like this one are the relay's on the address: the same number on another address
/// of this machine may be anybody's.
#[inline(always)]
fn is_local(flow: &Flow) -> bool {
    let Some(own) = maps::OWN_ADDRESSES.get(0) else {
        return false;
    };
    let mut kinds = 0;
    let elsewhere = if flow.is_v4() {
        for (address, its) in own.v4.iter().zip(&own.v4_kinds) {
            if *address == flow.local.words[3] {
                kinds = *its;
                break;
            }
        }
        own.v4_elsewhere
    } else {
        for (address, its) in own.v6.iter().zip(&own.v6_kinds) {
            if *address == flow.local {
                kinds = *its;
                break;
            }
        }
        own.v6_elsewhere
    };
    if kinds == 0 && elsewhere != 0 {
        kinds = match maps::LOCAL_ADDRESSES.get_ptr(flow.local) {
            // SAFETY: the kernel keeps the entry's memory while the program runs.
            Some(kinds) => u32::from(unsafe { *kinds }),
            None => 0,
        };
    }
    (kinds >> (flow.port & 3)) & 1 != 0
}

#[inline(always)]
fn count(verdict: Verdict, frame_bytes: u64) {
    if let Some(counter) = maps::COUNTERS.get_ptr_mut(verdict.index()) {
        // SAFETY: the counter is this processor's alone.
        let counter: &mut Counter = unsafe { &mut *counter };
        counter.packets += 1;
        counter.bytes += frame_bytes;
    }
}

/// Never called: nothing here panics, and the kernel's verifier would refuse a program that loops.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
