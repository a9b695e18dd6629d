//! Netlink messages as bytes: headers, attributes, and attributes in attributes (netlink(7)).
//!
//! Pure. Numbers are in the byte order of the machine. Lengths come from the kernel and are
//! believed only as far as the bytes reach.

/// Bytes of the header in front of each message.
pub(super) const HEADER_BYTES: usize = 16;
/// The message ends an answer of several.
pub(super) const DONE: u16 = 3;
/// The message is an acknowledgement, or says why not.
pub(super) const ERROR: u16 = 2;

pub(super) const FLAG_REQUEST: u16 = 0x1;
pub(super) const FLAG_ACK: u16 = 0x4;
pub(super) const FLAG_DUMP: u16 = 0x300;

/// Set in the type of an attribute that holds others.
const NESTED: u16 = 0x8000;
/// The bits of a type that are no flags.
const TYPE_MASK: u16 = 0x3fff;
const ALIGNMENT: usize = 4;

/// A message with its header.
pub(super) fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let bytes = u32::try_from(HEADER_BYTES + payload.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER_BYTES + payload.len());
    message.extend(bytes.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags | FLAG_REQUEST).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(payload);
    message
}

/// A received message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// The messages of one datagram.
pub(super) fn messages(mut bytes: &[u8]) -> Vec<Received<'_>> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind), Some(sequence)) =
        (u32_at(bytes, 0), u16_at(bytes, 4), u32_at(bytes, 8))
    {
        let Some(payload) = bytes.get(HEADER_BYTES..length as usize) else { break };
        found.push(Received { kind, sequence, payload });
        bytes = bytes.get(aligned(length as usize)..).unwrap_or_default();
    }
    found
}

/// Attributes being written.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    pub(super) fn text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    pub(super) fn number(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_ne_bytes())
    }

    pub(super) fn nested(self, kind: u16, inner: Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The attributes in some bytes, each with its type.
pub(super) fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let length = usize::from(length);
        let Some(value) = bytes.get(4..length) else { break };
        found.push((kind & TYPE_MASK, value));
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    found
}

/// The first attribute of a type.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).into_iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A number of one or four bytes.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    match value {
        [byte] => Some(u64::from(*byte)),
        _ => u32_at(value, 0).map(u64::from),
    }
}

/// A text without the zero at its end.
pub(super) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0'))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::{Attributes, attribute, attributes, message, messages, number, text};

    #[test]
    fn what_is_written_is_read_again() {
        let inner = Attributes::default().text(2, "eth0").number(7, 9);
        let written = Attributes::default().nested(1, inner).bytes(3, &[5]).into_bytes();
        let nested = attribute(&written, 1).unwrap();
        assert_eq!(text(attribute(nested, 2).unwrap()), Some("eth0"));
        assert_eq!(number(attribute(nested, 7).unwrap()), Some(9));
        assert_eq!(number(attribute(&written, 3).unwrap()), Some(5));
        let sent = message(16, 0, 42, &written);
        let read = messages(&sent);
        assert_eq!((read.len(), read[0].kind, read[0].sequence), (1, 16, 42));
        assert_eq!(read[0].payload, written);
    }

    #[test]
    fn no_length_is_believed_beyond_the_bytes() {
        let written = Attributes::default().text(2, "a name").number(7, 9).into_bytes();
        let sent = message(16, 0, 42, &written);
        for end in 0..sent.len() {
            for read in messages(&sent[..end]) {
                attributes(read.payload);
            }
        }
        for at in 0..sent.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut wrong = sent.clone();
                wrong[at] = value;
                for read in messages(&wrong) {
                    attributes(read.payload);
                }
            }
        }
    }
}
