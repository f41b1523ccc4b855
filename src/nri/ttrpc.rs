//! Messages in a byte stream, as ttrpc frames them: length and stream identifier,
//! both big-endian, a type, flags, and that many bytes.

/// Neither side accepts more.
const LONGEST: usize = 4 << 20;

const HEADER: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
    /// A stream's data, which NRI never uses, or something newer.
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Chosen by the caller, repeated in the answer.
    pub stream: u32,
    pub kind: Kind,
    /// `None` where it was longer than 4 MiB and was thrown away as it came.
    pub body: Option<Vec<u8>>,
}

/// The messages of one byte stream, as far as they have come.
#[derive(Debug, Default)]
pub struct Inbox {
    header: Vec<u8>,
    current: Option<Incoming>,
}

#[derive(Debug)]
struct Incoming {
    message: Message,
    left: usize,
}

impl Inbox {
    /// Takes bytes of the stream and delivers each message that they complete.
    pub fn receive(&mut self, mut bytes: &[u8], mut deliver: impl FnMut(Message)) {
        loop {
            if let Some(mut incoming) = self.current.take() {
                let (taken, rest) = bytes.split_at(incoming.left.min(bytes.len()));
                if let Some(body) = &mut incoming.message.body {
                    body.extend(taken);
                }
                incoming.left = incoming.left.saturating_sub(taken.len());
                bytes = rest;
                match incoming.left {
                    0 => deliver(incoming.message),
                    _ => self.current = Some(incoming),
                }
            }
            if bytes.is_empty() {
                return;
            }
            let missing = HEADER.saturating_sub(self.header.len());
            let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
            self.header.extend(taken);
            bytes = rest;
            self.current = incoming(&self.header);
            if self.current.is_some() {
                self.header.clear();
            }
        }
    }
}

fn incoming(header: &[u8]) -> Option<Incoming> {
    let (length, rest) = header.split_first_chunk()?;
    let (stream, rest) = rest.split_first_chunk()?;
    let [kind, _flags] = rest.first_chunk()?;
    let left = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    let kind = match kind {
        1 => Kind::Request,
        2 => Kind::Response,
        _ => Kind::Other,
    };
    // The body grows as bytes come: the length alone allocates nothing.
    let body = (left <= LONGEST).then(Vec::new);
    Some(Incoming { message: Message { stream: u32::from_be_bytes(*stream), kind, body }, left })
}

/// A message as bytes of its stream. Ours are short.
pub fn message(stream: u32, kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(body.len().saturating_add(HEADER));
    message.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    message.extend(stream.to_be_bytes());
    message.push(match kind {
        Kind::Request => 1,
        Kind::Response => 2,
        Kind::Other => 3,
    });
    message.push(0);
    message.extend(body);
    message
}
