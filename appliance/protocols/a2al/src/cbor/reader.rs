//! Reads canonical items from a byte string, without copying.
//!
//! Owns the position and the depth. Called by every decoder of this crate; allocates nothing, and
//! reads no byte twice except to tell where an unknown item ends.

use super::CborError;
use crate::limits::CBOR_DEPTH_MAX;

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const SIMPLE: u8 = 7;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const INDEFINITE_MAP: u8 = 0xbf;
const BREAK: u8 = 0xff;
/// Low bits of an initial byte that say how many bytes of argument follow.
const ARGUMENT_U8: u8 = 24;
const ARGUMENT_U16: u8 = 25;
const ARGUMENT_U32: u8 = 26;
const ARGUMENT_U64: u8 = 27;

/// A position in a byte string that holds canonical CBOR.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    input: &'a [u8],
    at: usize,
    depth: usize,
    unknown_keys: u32,
    are_keys_sorted: bool,
}

/// What stands where a map's key is expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Key<'a> {
    /// An unsigned integer.
    Number(u64),
    /// A text.
    Text(&'a str),
    /// A negative integer; no map of this protocol has one that means something.
    Negative,
}

/// The part of a map that has not been read, and the key before it.
#[derive(Debug)]
pub struct Fields<'a> {
    /// Pairs to come; none for a map that ends at a break.
    remaining: Option<usize>,
    previous_key: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins at the first byte.
    pub fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0, depth: 0, unknown_keys: 0, are_keys_sorted: true }
    }

    /// Begins at the first byte of something whose maps have their keys in any order, and perhaps
    /// more than once: what is not signed needs no single form (§19.4).
    pub fn in_any_order(input: &'a [u8]) -> Self {
        Self { are_keys_sorted: false, ..Self::new(input) }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Keys of maps that were skipped because their meaning is unknown.
    pub fn unknown_keys(&self) -> u32 {
        self.unknown_keys
    }

    /// Counts one key that the caller does not know, and skips its value.
    pub fn skip_unknown(&mut self) -> Result<(), CborError> {
        self.unknown_keys = self.unknown_keys.saturating_add(1);
        self.skip()
    }

    /// Makes sure that the input ends here.
    pub fn end(&self) -> Result<(), CborError> {
        if self.at == self.input.len() { Ok(()) } else { Err(CborError::TrailingBytes) }
    }

    /// Reads an unsigned integer of at most `max`.
    pub fn unsigned(&mut self, max: u64) -> Result<u64, CborError> {
        let value = self.head_of(UNSIGNED)?;
        if value <= max { Ok(value) } else { Err(CborError::OutOfRange) }
    }

    /// Reads an unsigned integer of eight bits.
    pub fn u8(&mut self) -> Result<u8, CborError> {
        u8::try_from(self.head_of(UNSIGNED)?).map_err(out_of_range)
    }

    /// Reads an unsigned integer of sixteen bits.
    pub fn u16(&mut self) -> Result<u16, CborError> {
        u16::try_from(self.head_of(UNSIGNED)?).map_err(out_of_range)
    }

    /// Reads an unsigned integer of 32 bits.
    pub fn u32(&mut self) -> Result<u32, CborError> {
        u32::try_from(self.head_of(UNSIGNED)?).map_err(out_of_range)
    }

    /// Reads an unsigned integer of 64 bits.
    pub fn u64(&mut self) -> Result<u64, CborError> {
        self.head_of(UNSIGNED)
    }

    /// Reads a byte string.
    pub fn bytes(&mut self) -> Result<&'a [u8], CborError> {
        let length = self.head_of(BYTES)?;
        self.take(length)
    }

    /// Reads a byte string of exactly `N` bytes.
    pub fn byte_array<const N: usize>(&mut self) -> Result<[u8; N], CborError> {
        <[u8; N]>::try_from(self.bytes()?).map_err(|_not_that_long| CborError::WrongLength)
    }

    /// Reads a text.
    pub fn text(&mut self) -> Result<&'a str, CborError> {
        let length = self.head_of(TEXT)?;
        std::str::from_utf8(self.take(length)?).map_err(|_invalid| CborError::NotUtf8)
    }

    /// Reads a truth value.
    pub fn boolean(&mut self) -> Result<bool, CborError> {
        match self.peek()? {
            FALSE => self.advance(false),
            TRUE => self.advance(true),
            _ => Err(CborError::WrongType),
        }
    }

    /// Takes a `null` if one stands here.
    pub fn null(&mut self) -> Result<bool, CborError> {
        if self.peek()? == NULL { self.advance(true) } else { Ok(false) }
    }

    /// Reads a list of at most `count_max` elements with the reader of one, or `null`.
    pub fn list<T>(
        &mut self,
        count_max: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, CborError>,
    ) -> Result<Option<Vec<T>>, CborError> {
        if self.null()? {
            return Ok(None);
        }
        let count = self.begin(ARRAY)?;
        if count > count_max {
            return Err(CborError::OutOfRange);
        }
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(element(self)?);
        }
        self.depth -= 1;
        Ok(Some(elements))
    }

    /// Enters a map. Its pairs are read with [`Reader::field`] until there is none.
    pub fn map(&mut self) -> Result<Fields<'a>, CborError> {
        let count = self.begin(MAP)?;
        Ok(Fields { remaining: Some(count), previous_key: &[] })
    }

    /// Enters a map that may be of indefinite length, which upstream accepts where nothing is signed.
    pub fn outermost_map(&mut self) -> Result<Fields<'a>, CborError> {
        if self.peek()? != INDEFINITE_MAP {
            return self.map();
        }
        self.at += 1;
        self.deepen()?;
        Ok(Fields { remaining: None, previous_key: &[] })
    }

    /// Reads the key of a map's next pair; the caller reads its value. None at the map's end.
    ///
    /// # Errors
    /// A key that is neither integer nor text, or does not sort behind the one before it.
    pub fn field(&mut self, fields: &mut Fields<'a>) -> Result<Option<Key<'a>>, CborError> {
        let is_over = match &mut fields.remaining {
            Some(0) => true,
            Some(remaining) => {
                *remaining -= 1;
                false
            }
            None => self.peek()? == BREAK,
        };
        if is_over {
            self.at += usize::from(fields.remaining.is_none());
            self.depth -= 1;
            return Ok(None);
        }
        let start = self.at;
        let key = match self.peek()? >> 5 {
            UNSIGNED => Key::Number(self.head_of(UNSIGNED)?),
            NEGATIVE => self.head_of(NEGATIVE).map(|_value| Key::Negative)?,
            TEXT => Key::Text(self.text()?),
            _ => return Err(CborError::WrongType),
        };
        let encoded = &self.input[start..self.at];
        let is_sorted = (fields.previous_key.len(), fields.previous_key) < (encoded.len(), encoded);
        if !is_sorted && self.are_keys_sorted {
            return Err(CborError::NotCanonical);
        }
        fields.previous_key = encoded;
        Ok(Some(key))
    }

    /// Skips one item and gives its bytes. Their form is checked except for UTF-8 in texts.
    pub fn raw(&mut self) -> Result<&'a [u8], CborError> {
        let start = self.at;
        self.skip()?;
        Ok(&self.input[start..self.at])
    }

    /// Skips one item of any type.
    pub fn skip(&mut self) -> Result<(), CborError> {
        match self.peek()? >> 5 {
            major @ (UNSIGNED | NEGATIVE) => self.head_of(major).map(drop),
            major @ (BYTES | TEXT) => {
                let length = self.head_of(major)?;
                self.take(length).map(drop)
            }
            ARRAY => {
                for _ in 0..self.begin(ARRAY)? {
                    self.skip()?;
                }
                self.depth -= 1;
                Ok(())
            }
            MAP => {
                let mut fields = self.map()?;
                while self.field(&mut fields)?.is_some() {
                    self.skip()?;
                }
                Ok(())
            }
            SIMPLE => self.skip_simple(),
            _tag => Err(CborError::NotCanonical),
        }
    }

    /// Skips false, true, null, undefined, or a float of any width.
    fn skip_simple(&mut self) -> Result<(), CborError> {
        let following = match self.peek()? & 0x1f {
            20..=23 => 0,
            ARGUMENT_U16 => 2,
            ARGUMENT_U32 => 4,
            ARGUMENT_U64 => 8,
            _ => return Err(CborError::NotCanonical),
        };
        self.at += 1;
        self.take(following).map(drop)
    }

    /// Reads the head of an array or map and goes one level deeper. Each element takes a byte at
    /// least, so a count beyond what is left is refused before anything is read or allocated.
    fn begin(&mut self, major: u8) -> Result<usize, CborError> {
        let count = self.head_of(major)?;
        self.deepen()?;
        let left = self.input.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count <= left => Ok(count),
            Ok(_) | Err(_) => Err(CborError::Truncated),
        }
    }

    fn deepen(&mut self) -> Result<(), CborError> {
        self.depth += 1;
        if self.depth > CBOR_DEPTH_MAX { Err(CborError::TooDeep) } else { Ok(()) }
    }

    /// Reads the head of an item of a given major type, in its shortest form.
    fn head_of(&mut self, major: u8) -> Result<u64, CborError> {
        let initial = self.peek()?;
        if initial >> 5 != major {
            return Err(CborError::WrongType);
        }
        self.at += 1;
        let (value, shorter_max) = match initial & 0x1f {
            value @ 0..ARGUMENT_U8 => return Ok(u64::from(value)),
            ARGUMENT_U8 => (self.argument::<1>()?, u64::from(ARGUMENT_U8) - 1),
            ARGUMENT_U16 => (self.argument::<2>()?, u64::from(u8::MAX)),
            ARGUMENT_U32 => (self.argument::<4>()?, u64::from(u16::MAX)),
            ARGUMENT_U64 => (self.argument::<8>()?, u64::from(u32::MAX)),
            _reserved_or_indefinite => return Err(CborError::NotCanonical),
        };
        if value > shorter_max { Ok(value) } else { Err(CborError::NotCanonical) }
    }

    fn argument<const N: usize>(&mut self) -> Result<u64, CborError> {
        let bytes = self.take(N as u64)?;
        Ok(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], CborError> {
        let length = usize::try_from(length).map_err(|_beyond_memory| CborError::Truncated)?;
        let end = self.at.checked_add(length).ok_or(CborError::Truncated)?;
        let taken = self.input.get(self.at..end).ok_or(CborError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn peek(&self) -> Result<u8, CborError> {
        self.input.get(self.at).copied().ok_or(CborError::Truncated)
    }

    fn advance<T>(&mut self, value: T) -> Result<T, CborError> {
        self.at += 1;
        Ok(value)
    }
}

fn out_of_range(_too_large: std::num::TryFromIntError) -> CborError {
    CborError::OutOfRange
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(bytes: &[u8]) -> Result<(), CborError> {
        let mut reader = Reader::new(bytes);
        reader.skip()?;
        reader.end()
    }

    #[test]
    fn other_forms_of_a_value_are_refused() {
        for (bytes, why) in [
            (&[0x18, 0x17][..], "23 in two bytes"),
            (&[0x19, 0x00, 0xff], "255 in three bytes"),
            (&[0x1a, 0x00, 0x00, 0xff, 0xff], "65535 in five bytes"),
            (&[0x1b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], "2^32-1 in nine bytes"),
            (&[0x58, 0x01, 0x00], "a length in two bytes"),
            (&[0x5f, 0xff], "an indefinite byte string"),
            (&[0x9f, 0xff], "an indefinite array"),
            (&[0xbf, 0xff], "an indefinite map"),
            (&[0xa2, 0x02, 0x00, 0x01, 0x00], "keys in the wrong order"),
            (&[0xa2, 0x01, 0x00, 0x01, 0x00], "a key twice"),
            (&[0xc0, 0x00], "a tag"),
            (&[0xf8, 0xff], "a simple value in two bytes"),
            (&[0xff], "a break"),
        ] {
            assert_eq!(skipped(bytes), Err(CborError::NotCanonical), "{why}");
        }
    }

    #[test]
    fn counts_and_lengths_beyond_the_input_are_refused_before_they_are_read() {
        for head in [0x9b, 0xbb, 0x5b, 0x7b] {
            let bytes = [&[head][..], &[0x7f; 8]].concat();
            assert_eq!(skipped(&bytes), Err(CborError::Truncated));
        }
    }

    #[test]
    fn levels_end_at_their_limit() {
        let nested = |levels: usize| [vec![0x81; levels - 1], vec![0x80]].concat();
        assert_eq!(skipped(&nested(CBOR_DEPTH_MAX)), Ok(()));
        assert_eq!(skipped(&nested(CBOR_DEPTH_MAX + 1)), Err(CborError::TooDeep));
        assert_eq!(skipped(&nested(100_000)), Err(CborError::TooDeep));
    }

    #[test]
    fn only_the_outermost_map_may_be_indefinite() {
        let bytes = [0xbf, 0x01, 0x02, 0xff];
        let mut reader = Reader::new(&bytes);
        let mut fields = reader.outermost_map().unwrap();
        assert_eq!(reader.field(&mut fields), Ok(Some(Key::Number(1))));
        assert_eq!(reader.u8(), Ok(2));
        assert_eq!(reader.field(&mut fields), Ok(None));
        assert_eq!(reader.end(), Ok(()));
    }
}
