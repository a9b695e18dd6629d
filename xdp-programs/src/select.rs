//! Chooses among the data cores' sockets that share a port: the one of the core that owns the
//! session of the datagram.
//!
//! Called by the kernel for each datagram, or each train that it has joined, on the way to its
//! socket. Sockets on one address are a group, and only one of the group that the kernel asks about
//! can be chosen, so a core's socket is found by the group's address and the core. A datagram
//! without a session goes where the kernel's hash of the 5-tuple sends it: which core makes its
//! session has to be decided by something that does not change before there is one.

use crate::{
    maps::{SELECTIONS, SOCKET_PLACES, SOCKETS},
    sessions, window,
};
use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_skb_load_bytes_relative, macros::sk_reuseport,
    programs::SkReuseportContext,
};
use waystation_ebpf_abi::{Address, NetworkU16, Selection, SessionKey, SocketPlace, family};

const SK_PASS: u32 = 1;
const HEADER_START_NETWORK: u32 = 1;
const ETHERTYPE_IPV4: u32 = 0x0800_u16.to_be() as u32;
const ETHERTYPE_IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// The entry for groups of sockets on one port.
#[sk_reuseport]
pub fn owner_socket(ctx: SkReuseportContext) -> u32 {
    if let Some(key) = key_of(&ctx)
        && let Some(session) = sessions::of_key(&key)
    {
        // SAFETY: the kernel keeps the entry's memory while the program runs.
        let owner_cpu = unsafe { (*session).owner_cpu };
        count(choose(&ctx, &key, owner_cpu));
    }
    SK_PASS
}

/// Chooses the socket of a core in the group that the datagram is for. Without one, the kernel's
/// hash decides.
#[inline(always)]
fn choose(ctx: &SkReuseportContext, key: &SessionKey, owner_cpu: u32) -> Selection {
    let address = if ctx.bind_inany() == 0 { key.local } else { Address::default() };
    let place = SocketPlace { address, port: key.local_port, family: key.family, owner_cpu };
    let Some(index) = SOCKET_PLACES.get_ptr(place) else {
        return Selection::NoSocket;
    };
    // SAFETY: the kernel keeps the entry's memory while the program runs.
    match SOCKETS.select_reuseport(ctx, unsafe { *index }) {
        Ok(()) => Selection::Owner,
        Err(_) => Selection::NoSocket,
    }
}

#[inline(always)]
fn count(selection: Selection) {
    if let Some(counter) = SELECTIONS.get_ptr_mut(selection as u32) {
        // SAFETY: the counter is this processor's alone.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
fn key_of(ctx: &SkReuseportContext) -> Option<SessionKey> {
    let (source_port, local_port) = ports(ctx)?;
    let (source, local, family) = match ctx.eth_protocol() {
        ETHERTYPE_IPV4 => {
            let [source, local] = network_words::<2>(ctx, 12)?;
            (Address::from_v4_word(source), Address::from_v4_word(local), family::V4)
        }
        ETHERTYPE_IPV6 => {
            let words = network_words::<8>(ctx, 8)?;
            let source = Address { words: [words[0], words[1], words[2], words[3]] };
            let local = Address { words: [words[4], words[5], words[6], words[7]] };
            (source, local, family::V6)
        }
        _ => return None,
    };
    Some(SessionKey {
        source,
        local,
        source_port,
        local_port,
        channel: NetworkU16::new(0),
        family: family.into(),
    })
}

#[inline(always)]
fn ports(ctx: &SkReuseportContext) -> Option<(NetworkU16, NetworkU16)> {
    let from = ctx.data();
    if from + 4 > ctx.data_end() {
        return None;
    }
    // SAFETY: four bytes of the UDP header are there.
    let ports = unsafe { window::read::<[u16; 2]>(from as *const u8, 0) };
    Some((NetworkU16::from_packet(ports[0]), NetworkU16::from_packet(ports[1])))
}

/// Words of the network header from `at` on.
#[inline(always)]
fn network_words<const N: usize>(ctx: &SkReuseportContext, at: u32) -> Option<[u32; N]> {
    let mut words = [0_u32; N];
    // SAFETY: the destination has as many bytes as the kernel is told.
    let failed = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            at,
            words.as_mut_ptr().cast(),
            size_of::<[u32; N]>() as u32,
            HEADER_START_NETWORK,
        )
    };
    (failed == 0).then_some(words)
}
