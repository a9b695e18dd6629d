//! Writes canonical items.
//!
//! Owns the bytes written. Callers write the keys of a map in ascending order, which for the small
//! integers of this protocol is the canonical one, and say first how many there are.

/// A growing byte string of canonical CBOR.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Begins an empty byte string that has room for `capacity_bytes`.
    pub fn with_capacity(capacity_bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity_bytes) }
    }

    /// Continues what has been written elsewhere.
    pub fn after(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Everything written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes written so far.
    pub fn position(&self) -> usize {
        self.bytes.len()
    }

    /// Writes an unsigned integer.
    pub fn unsigned(&mut self, value: impl Into<u64>) -> &mut Self {
        self.head(0x00, value.into())
    }

    /// Writes a byte string.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.head(0x40, bytes.len() as u64);
        self.raw(bytes)
    }

    /// Writes a text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.head(0x60, text.len() as u64);
        self.raw(text.as_bytes())
    }

    /// Writes the head of an array; its elements follow.
    pub fn array(&mut self, count: usize) -> &mut Self {
        self.head(0x80, count as u64)
    }

    /// Writes the head of a map; its pairs follow.
    pub fn map(&mut self, count: usize) -> &mut Self {
        self.head(0xa0, count as u64)
    }

    /// Writes a truth value.
    pub fn boolean(&mut self, value: bool) -> &mut Self {
        self.raw(&[0xf4 + u8::from(value)])
    }

    /// Writes `null`.
    pub fn null(&mut self) -> &mut Self {
        self.raw(&[0xf6])
    }

    /// Writes a list with the writer of one element, or `null` for none.
    pub fn list<T>(
        &mut self,
        elements: Option<&[T]>,
        mut element: impl FnMut(&mut Self, &T),
    ) -> &mut Self {
        let Some(elements) = elements else {
            return self.null();
        };
        self.array(elements.len());
        for each in elements {
            element(self, each);
        }
        self
    }

    /// Writes items that are encoded already.
    pub fn raw(&mut self, encoded: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(encoded);
        self
    }

    #[expect(clippy::cast_possible_truncation, reason = "each arm has compared the value")]
    fn head(&mut self, major: u8, value: u64) -> &mut Self {
        match value {
            0..24 => self.raw(&[major | value as u8]),
            24..=0xff => self.raw(&[major | 24, value as u8]),
            0x100..=0xffff => self.raw(&[major | 25]).raw(&(value as u16).to_be_bytes()),
            0x1_0000..=0xffff_ffff => self.raw(&[major | 26]).raw(&(value as u32).to_be_bytes()),
            _ => self.raw(&[major | 27]).raw(&value.to_be_bytes()),
        }
    }
}

/// Bytes that the head of an item takes whose length or value is `value`.
pub(crate) fn head_bytes(value: usize) -> usize {
    match value {
        0..24 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}
