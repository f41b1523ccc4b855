//! A bounded cursor over bytes: the only place that reads an integer.
//!
//! Everything in an event log is little-endian (PFP §10, UEFI 2.10 §1.8.1) and
//! unaligned. A read that does not fit gives `None` and moves nothing, so the
//! caller still knows the offset of what was missing.

/// A position in a byte slice that can only move forward and never past its end.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes, offset: 0 }
    }

    /// A reader of `bytes` from `offset` on; at the end where that lies outside.
    pub fn at(bytes: &'a [u8], offset: usize) -> Self {
        let offset = offset.min(bytes.len());
        Reader { rest: bytes.get(offset..).unwrap_or_default(), offset }
    }

    /// How far the reader has come, in bytes from the start.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        self.offset = self.offset.saturating_add(length);
        Some(taken)
    }

    /// Takes as many bytes as a length field of 32 bits says.
    pub fn take_u32(&mut self, length: u32) -> Option<&'a [u8]> {
        self.take(usize::try_from(length).ok()?)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
