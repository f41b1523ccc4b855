//! Two byte streams on one socket: frames of a stream's number and a length, both
//! big-endian, and that many bytes.
//!
//! A frame is no message: a message may span several frames, and frames of both
//! streams interleave. So bytes are delivered as they come, and nothing is held
//! here but the frame's own eight bytes.

/// Calls of the runtime, answered by the plugin.
pub const PLUGIN_SERVICE: u32 = 1;
/// Calls of the plugin, answered by the runtime.
pub const RUNTIME_SERVICE: u32 = 2;

const HEADER: usize = 8;

/// The runtime's reader gives the connection up over a longer frame.
const LONGEST_SENT: usize = 4096;

/// What the runtime's writer sends at the most is a message of 4 MiB with its
/// header; whatever claims more is out of step.
const LONGEST_RECEIVED: usize = (4 << 20) + 4096;

/// A frame that claims to be longer than any is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    pub length: u32,
}

/// The receiving end of a socket.
#[derive(Debug, Default)]
pub struct Demux {
    header: Vec<u8>,
    stream: u32,
    /// Bytes of the frame that are still to come.
    left: usize,
}

impl Demux {
    /// Takes bytes off the socket and delivers each piece to its stream.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        mut deliver: impl FnMut(u32, &[u8]),
    ) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            if self.left == 0 {
                let missing = HEADER.saturating_sub(self.header.len());
                let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
                self.header.extend(taken);
                bytes = rest;
                if let Some((stream, length)) = header(&self.header) {
                    self.header.clear();
                    self.stream = stream;
                    self.left = usize::try_from(length)
                        .ok()
                        .filter(|length| *length <= LONGEST_RECEIVED)
                        .ok_or(TooLong { length })?;
                }
            } else {
                let (taken, rest) = bytes.split_at(self.left.min(bytes.len()));
                deliver(self.stream, taken);
                self.left = self.left.saturating_sub(taken.len());
                bytes = rest;
            }
        }
        Ok(())
    }
}

fn header(bytes: &[u8]) -> Option<(u32, u32)> {
    let (stream, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*stream), u32::from_be_bytes(*rest.first_chunk()?)))
}

/// A message as frames for a stream.
pub fn frames(stream: u32, message: &[u8]) -> Vec<u8> {
    let mut frames = Vec::with_capacity(message.len().saturating_add(HEADER));
    for piece in message.chunks(LONGEST_SENT) {
        // A piece is never longer than 4096 bytes.
        let length = u32::try_from(piece.len()).unwrap_or_default();
        frames.extend(stream.to_be_bytes());
        frames.extend(length.to_be_bytes());
        frames.extend(piece);
    }
    frames
}
