//! Files with packets in them: pcapng is written, and both pcapng and the older pcap are read.
//!
//! Pure: bytes in, bytes out. Written as draft-ietf-opsawg-pcapng has it, in this machine's byte
//! order; read from machines of either. What a file says of lengths is believed only as far as the
//! file goes.

use std::time::Duration;

/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;
/// Block types and options of pcapng.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const OPTION_END: u16 = 0;
const OPTION_COMMENT: u16 = 1;
const OPTION_APPLICATION: u16 = 4;
const OPTION_NAME: u16 = 2;
const OPTION_RESOLUTION: u16 = 9;
/// Time stamps are in units of 10⁻⁹ s.
const NANOSECONDS: u8 = 9;
/// First words of pcap files, with microseconds and with nanoseconds.
const PCAP_MAGICS: [u32; 2] = [0xa1b2_c3d4, 0xa1b2_3c4d];
const PCAP_HEADER_BYTES: usize = 24;
const PCAP_RECORD_BYTES: usize = 16;
/// Type, length and the length again.
const BLOCK_FRAME_BYTES: usize = 12;

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CaptureError {
    /// Operator: it is something else.
    #[error("this is neither pcap nor pcapng, and no hex digits")]
    NoCapture,
    /// Operator: the packets begin with something else than an Ethernet header.
    #[error("its packets are of link type {0}; only Ethernet (1) is understood")]
    NotEthernet(u16),
    /// Operator: it ends in the middle, or its lengths contradict each other.
    #[error("it is damaged at byte {0}")]
    Damaged(usize),
}

/// The beginning of a pcapng file.
pub(crate) fn beginning(application: &str) -> Vec<u8> {
    let mut section = Vec::new();
    section.extend(BYTE_ORDER_MAGIC.to_ne_bytes());
    section.extend(1_u16.to_ne_bytes());
    section.extend(0_u16.to_ne_bytes());
    // How long the section is, is not known yet.
    section.extend(u64::MAX.to_ne_bytes());
    option(&mut section, OPTION_APPLICATION, application.as_bytes());
    option(&mut section, OPTION_END, &[]);
    block(SECTION_HEADER, &section)
}

/// An interface that packets behind this come from; they name it by its place among all.
pub(crate) fn interface(name: &str) -> Vec<u8> {
    let mut description = Vec::new();
    description.extend(ETHERNET.to_ne_bytes());
    description.extend([0; 2]);
    // No limit of the length.
    description.extend(0_u32.to_ne_bytes());
    option(&mut description, OPTION_NAME, name.as_bytes());
    option(&mut description, OPTION_RESOLUTION, &[NANOSECONDS]);
    option(&mut description, OPTION_END, &[]);
    block(INTERFACE_DESCRIPTION, &description)
}

/// A packet with a comment: when it came since the Unix epoch, by which of the interfaces, and how
/// long it was of which this is the beginning.
pub(crate) fn packet(
    at: Duration,
    interface: u32,
    frame: &[u8],
    frame_bytes: u32,
    comment: &str,
) -> Vec<u8> {
    let time_ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    let [high, low] = [time_ns >> 32, time_ns & 0xffff_ffff];
    let captured_bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let mut body = Vec::with_capacity(frame.len() + comment.len() + 40);
    let half = |half: u64| u32::try_from(half).unwrap_or(u32::MAX);
    for word in [interface, half(high), half(low), captured_bytes, frame_bytes] {
        body.extend(word.to_ne_bytes());
    }
    body.extend(frame);
    pad(&mut body);
    option(&mut body, OPTION_COMMENT, comment.as_bytes());
    option(&mut body, OPTION_END, &[]);
    block(ENHANCED_PACKET, &body)
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let bytes = u32::try_from(body.len() + BLOCK_FRAME_BYTES).unwrap_or(u32::MAX).to_ne_bytes();
    let mut block = Vec::with_capacity(body.len() + BLOCK_FRAME_BYTES);
    block.extend(kind.to_ne_bytes());
    block.extend(bytes);
    block.extend(body);
    block.extend(bytes);
    block
}

fn option(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(kind.to_ne_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    body.extend(value);
    pad(body);
}

/// Everything begins at a multiple of four bytes.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The frames of a capture, the first so many of them.
pub(crate) fn frames(file: &[u8], most: usize) -> Result<Vec<Vec<u8>>, CaptureError> {
    let first = word(file, 0, false).ok_or(CaptureError::NoCapture)?;
    if first == SECTION_HEADER {
        return frames_of_pcapng(file, most);
    }
    for is_swapped in [false, true] {
        if word(file, 0, is_swapped).is_some_and(|magic| PCAP_MAGICS.contains(&magic)) {
            return frames_of_pcap(file, most, is_swapped);
        }
    }
    Err(CaptureError::NoCapture)
}

fn frames_of_pcap(
    file: &[u8],
    most: usize,
    is_swapped: bool,
) -> Result<Vec<Vec<u8>>, CaptureError> {
    let link = word(file, 20, is_swapped).ok_or(CaptureError::Damaged(file.len()))?;
    ethernet(u16::try_from(link & 0xffff).unwrap_or(u16::MAX))?;
    let (mut frames, mut at) = (Vec::new(), PCAP_HEADER_BYTES);
    while at < file.len() && frames.len() < most {
        let damaged = CaptureError::Damaged(at);
        let bytes = word(file, at + 8, is_swapped).and_then(|it| usize::try_from(it).ok());
        let (from, bytes) = (at + PCAP_RECORD_BYTES, bytes.ok_or(damaged)?);
        let to = from.checked_add(bytes).ok_or(damaged)?;
        frames.push(file.get(from..to).ok_or(damaged)?.to_vec());
        at = to;
    }
    Ok(frames)
}

fn frames_of_pcapng(file: &[u8], most: usize) -> Result<Vec<Vec<u8>>, CaptureError> {
    let (mut frames, mut at, mut is_swapped) = (Vec::new(), 0, false);
    while at < file.len() && frames.len() < most {
        let damaged = CaptureError::Damaged(at);
        if word(file, at, false) == Some(SECTION_HEADER) {
            // The number of a section header reads the same both ways; what follows says which.
            is_swapped = match word(file, at + 8, false) {
                Some(BYTE_ORDER_MAGIC) => false,
                Some(magic) if magic.swap_bytes() == BYTE_ORDER_MAGIC => true,
                _ => return Err(damaged),
            };
        }
        let number = |at: usize| word(file, at, is_swapped);
        let kind = number(at).ok_or(damaged)?;
        let bytes = number(at + 4).and_then(|it| usize::try_from(it).ok()).ok_or(damaged)?;
        let is_whole = bytes >= BLOCK_FRAME_BYTES && bytes.is_multiple_of(4);
        let end = at.checked_add(bytes).filter(|end| is_whole && *end <= file.len());
        let body = file.get(at + 8..end.ok_or(damaged)? - 4).ok_or(damaged)?;
        let length = |at: usize| word(body, at, is_swapped).and_then(|it| usize::try_from(it).ok());
        match kind {
            INTERFACE_DESCRIPTION => {
                let &[low, high, ..] = body else { return Err(damaged) };
                let link = u16::from_ne_bytes([low, high]);
                ethernet(if is_swapped { link.swap_bytes() } else { link })?;
            }
            ENHANCED_PACKET => {
                let frame = length(12).and_then(|bytes| body.get(20..20_usize.checked_add(bytes)?));
                frames.push(frame.ok_or(damaged)?.to_vec());
            }
            SIMPLE_PACKET => {
                let said = length(0).ok_or(damaged)?;
                let rest = body.get(4..).ok_or(damaged)?;
                frames.push(rest[..said.min(rest.len())].to_vec());
            }
            _ => {}
        }
        at += bytes;
    }
    Ok(frames)
}

fn ethernet(link: u16) -> Result<(), CaptureError> {
    if link == ETHERNET { Ok(()) } else { Err(CaptureError::NotEthernet(link)) }
}

/// Four bytes as a number of the machine that wrote them.
fn word(bytes: &[u8], at: usize, is_swapped: bool) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk::<4>()?;
    let number = u32::from_ne_bytes(*four);
    Some(if is_swapped { number.swap_bytes() } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: [&[u8]; 3] = [&[1; 14], &[2; 61], &[3; 200]];

    fn pcapng() -> Vec<u8> {
        let mut file = [beginning("test"), interface("wan"), interface("lan")].concat();
        for (number, frame) in FRAMES.iter().enumerate() {
            let at = Duration::new(1_700_000_000, 5);
            let number = u32::try_from(number).unwrap();
            file.extend(packet(at, number % 2, frame, 1500, "drop_denied: why"));
        }
        file
    }

    /// One as `tcpdump` writes it, of a machine of either byte order.
    fn pcap(is_swapped: bool) -> Vec<u8> {
        let word =
            |number: u32| if is_swapped { number.swap_bytes() } else { number }.to_ne_bytes();
        let mut file = Vec::new();
        let version = u32::from_ne_bytes([2, 0, 4, 0]);
        file.extend(word(PCAP_MAGICS[0]));
        file.extend(version.to_ne_bytes());
        for number in [0, 0, 65_535, 1] {
            file.extend(word(number));
        }
        for frame in FRAMES {
            let bytes = u32::try_from(frame.len()).unwrap();
            for number in [1_700_000_000, 7, bytes, bytes] {
                file.extend(word(number));
            }
            file.extend(frame);
        }
        file
    }

    #[test]
    fn what_is_written_is_read_and_so_are_files_of_others() {
        for file in [pcapng(), pcap(false), pcap(true)] {
            assert_eq!(frames(&file, 10).unwrap(), FRAMES.map(<[u8]>::to_vec));
            assert_eq!(frames(&file, 2).unwrap().len(), 2);
        }
    }

    #[test]
    fn what_is_no_capture_is_refused_by_name() {
        assert_eq!(frames(b"", 1), Err(CaptureError::NoCapture));
        assert_eq!(frames(b"hello, world", 1), Err(CaptureError::NoCapture));
        let mut of_wifi = pcap(false);
        of_wifi[20..24].copy_from_slice(&105_u32.to_ne_bytes());
        assert_eq!(frames(&of_wifi, 1), Err(CaptureError::NotEthernet(105)));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_read_or_refused() {
        for file in [pcapng(), pcap(false)] {
            for bytes in 0..file.len() {
                if let Ok(read) = frames(&file[..bytes], 10) {
                    assert!(read.len() < FRAMES.len());
                }
            }
            for bit in 0..8 * file.len() {
                let mut spoilt = file.clone();
                spoilt[bit / 8] ^= 1 << (bit % 8);
                if let Ok(read) = frames(&spoilt, 10) {
                    assert!(read.iter().all(|frame| frame.len() <= file.len()));
                }
            }
        }
    }
}
