//! How flows are told to the programs of `benches/frame-programs`: the entries of their maps, byte
//! by byte as `maps.rs` there has them, and the frames that they fill their memory with.
//!
//! Numbers that lie in frames are in network order, and words of them as this machine reads them.

use crate::streets::End;
use std::net::SocketAddrV4;
use waystation_turn::channel_data::{ChannelNumber, header};

/// As `main.rs` of the programs has them.
pub(super) const FLOWS_MAX: u32 = 16;
pub(super) const MESSAGE_BYTES: usize = 1000;
const HEADERS_BYTES: usize = 14 + 20 + 8;
const FRAMING_BYTES: usize = 4;
const NUMBER_BYTES: usize = 8;
const BODY_STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Bytes of a datagram of the flood.
const FLOOD_BYTES: usize = 32;

const COURSE_WORDS: usize = 14;
pub(super) type Course = [u32; COURSE_WORDS];
pub(super) type Arrival = [u32; 4];

/// The first words of a tally: the number that is to come next, and how many came, were lost, were
/// not as they should be, and were compared byte by byte.
pub(super) type Tally = [u64; 5];
pub(super) const EXPECTED: usize = 0;
pub(super) const CAME: usize = 1;
pub(super) const LOST: usize = 2;
pub(super) const CHANGED: usize = 3;
pub(super) const COMPARED: usize = 4;

/// Nanoseconds between one and the next, when the next is due, and how many there were.
pub(super) type Pace = [u64; 3];
pub(super) const STEADY: u32 = 0;
pub(super) const FLOOD: u32 = 1;

/// What the memory of each frame begins as.
pub(super) fn frame() -> Vec<u8> {
    let mut frame = vec![0; HEADERS_BYTES + FRAMING_BYTES + NUMBER_BYTES];
    frame.extend(body());
    frame
}

fn body() -> impl Iterator<Item = u8> {
    let words = (MESSAGE_BYTES - NUMBER_BYTES) / 8;
    (1..=words as u64).flat_map(|number| number.wrapping_mul(BODY_STEP).to_ne_bytes())
}

/// How frames from an end's interface to the relay's begin.
pub(super) fn course(
    end: &End,
    from: SocketAddrV4,
    to: SocketAddrV4,
    channel: Option<ChannelNumber>,
) -> Course {
    let framing = channel.and_then(|channel| header(channel, MESSAGE_BYTES));
    let framing = framing.map_or(Vec::new(), |framing| framing.to_vec());
    let udp_bytes = (8 + framing.len() + MESSAGE_BYTES) as u16;
    let mut sum = pseudo_header_sum(from, to, udp_bytes);
    sum += words_sum(&udp_header(from, to, udp_bytes)) + words_sum(&framing);
    sum += words_sum(&body().collect::<Vec<_>>());
    let mut head = vec![0; FRAMING_BYTES - framing.len()];
    let cut_bytes = head.len() as u32;
    head.extend(ethernet_header(end));
    head.extend(ipv4_header(from, to, 20 + udp_bytes));
    head.extend(udp_header(from, to, udp_bytes));
    head.extend(framing);
    entry(head, sum, cut_bytes)
}

/// How datagrams of the flood begin, whose sender and checksum are filled in each time.
pub(super) fn flood_course(end: &End, to: SocketAddrV4) -> Course {
    let from = SocketAddrV4::new([0, 0, 0, 0].into(), to.port());
    let udp_bytes = (8 + FLOOD_BYTES) as u16;
    let mut ip = ipv4_header(from, to, 20 + udp_bytes);
    ip[10..12].fill(0);
    let sum = words_sum(&ip);
    let mut head = ethernet_header(end);
    head.extend(ip);
    head.extend(udp_header(from, to, udp_bytes));
    entry(head, sum, 0)
}

/// How frames arrive from the relay.
pub(super) fn arrival(
    from: SocketAddrV4,
    to: SocketAddrV4,
    channel: Option<ChannelNumber>,
    is_finished: bool,
) -> Arrival {
    let source = u32::from_ne_bytes(from.ip().octets());
    let [a, b] = from.port().to_be_bytes();
    let [c, d] = to.port().to_be_bytes();
    let framing = channel.and_then(|channel| header(channel, MESSAGE_BYTES));
    let framing = framing.map_or(0, u32::from_ne_bytes);
    [source, u32::from_ne_bytes([a, b, c, d]), framing, u32::from(is_finished)]
}

/// What frames to a receiver are found by.
pub(super) fn bound_for(to: SocketAddrV4) -> u64 {
    let port = u16::from_ne_bytes(to.port().to_be_bytes());
    u64::from(u32::from_ne_bytes(to.ip().octets())) | u64::from(port) << 32
}

fn entry(mut head: Vec<u8>, sum: u64, cut_bytes: u32) -> Course {
    let mut course = [0; COURSE_WORDS];
    head.resize(4 * (COURSE_WORDS - 2), 0);
    for (word, bytes) in course.iter_mut().zip(head.chunks_exact(4)) {
        *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    // Some 600 words of 16 bits.
    course[COURSE_WORDS - 2] = sum as u32;
    course[COURSE_WORDS - 1] = cut_bytes;
    course
}

fn ethernet_header(end: &End) -> Vec<u8> {
    [&end.relay_station[..], &end.station, &[0x08, 0x00]].concat()
}

fn ipv4_header(from: SocketAddrV4, to: SocketAddrV4, bytes: u16) -> Vec<u8> {
    // No options, Don't Fragment, a TTL of 64, UDP.
    let mut header = vec![0x45, 0];
    header.extend(bytes.to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    header.extend(from.ip().octets());
    header.extend(to.ip().octets());
    let checksum = !folded(words_sum(&header));
    header[10..12].copy_from_slice(&checksum.to_ne_bytes());
    header
}

/// Without a checksum.
fn udp_header(from: SocketAddrV4, to: SocketAddrV4, bytes: u16) -> Vec<u8> {
    let fields = [from.port(), to.port(), bytes, 0];
    fields.iter().flat_map(|field| field.to_be_bytes()).collect()
}

fn pseudo_header_sum(from: SocketAddrV4, to: SocketAddrV4, udp_bytes: u16) -> u64 {
    let ends = [from.ip().octets(), to.ip().octets()].concat();
    words_sum(&ends) + words_sum(&[0, 17]) + words_sum(&udp_bytes.to_be_bytes())
}

/// Sum of words of 16 bits as this machine reads them, of an even number of bytes.
fn words_sum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(2).map(|two| u64::from(u16::from_ne_bytes([two[0], two[1]]))).sum()
}

fn folded(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end() -> End {
        End { name: "c".to_owned(), station: [2, 0, 0, 0, 0, 3], relay_station: [2, 0, 0, 0, 0, 1] }
    }

    fn bytes(course: &Course) -> Vec<u8> {
        course[..12].iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn headers_end_where_messages_begin() {
        let from = "198.51.100.7:4000".parse().unwrap();
        let to = "198.51.100.1:3478".parse().unwrap();
        let framed = course(&end(), from, to, ChannelNumber::new(0x4000));
        let head = bytes(&framed);
        assert_eq!(framed[13], 0);
        assert_eq!(head[..14], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 3, 8, 0]);
        assert_eq!(head[16..18], 1032_u16.to_be_bytes());
        assert_eq!(folded(words_sum(&head[14..34])), 0xffff);
        assert_eq!(head[34..38], [0x0f, 0xa0, 0x0d, 0x96]);
        assert_eq!(head[42..46], [0x40, 0, 0x03, 0xe8]);
        let bare = course(&end(), from, to, None);
        assert_eq!((bare[13], bytes(&bare)[4..18].to_vec()), (4, head[..14].to_vec()));
        assert_eq!(bytes(&bare)[38..46][..4], [0x0f, 0xa0, 0x0d, 0x96]);
        assert_eq!(frame().len(), 46 + MESSAGE_BYTES);
    }

    #[test]
    fn arrivals_are_found_by_address_and_port() {
        let to = "203.0.113.7:258".parse().unwrap();
        assert_eq!(bound_for(to).to_ne_bytes(), [203, 0, 113, 7, 1, 2, 0, 0]);
        let from = "203.0.113.1:772".parse().unwrap();
        let [source, ports, framing, is_finished] = arrival(from, to, None, true);
        assert_eq!(source.to_ne_bytes(), [203, 0, 113, 1]);
        assert_eq!(ports.to_ne_bytes(), [3, 4, 1, 2]);
        assert_eq!((framing, is_finished), (0, 1));
    }
}
