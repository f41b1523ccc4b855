//! Spec ID header, events, and where a log ends (PFP 1.06 §10.2).
//!
//! Parsing walks the log once and remembers where each event starts, nothing
//! else; an event is decoded again, in place, whenever it is asked for. So a
//! parsed log costs its bytes and one offset an event, whoever owns the bytes.
//!
//! A log has no length field. It ends with its bytes, or where padding begins,
//! or where it breaks: three outcomes that are never mistaken for each other.

use super::algorithm;
use super::event_type::EV_NO_ACTION;
use super::reader::Reader;
use super::register::{Registers, NO_REGISTER};
use crate::error::{Defect, Malformed};

/// The sixteen bytes that make a first event the header of a crypto-agile log
/// (TCG_EfiSpecIDEvent, PFP §10.4.5.1).
pub const SPEC_ID_SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";

/// No TPM implements more banks than a handful; the bound keeps a hostile header
/// from making every later look-up slow.
const MOST_ALGORITHMS: u32 = 32;

/// Identifier and digest size of a declared algorithm.
const DECLARED_ALGORITHM_SIZE: usize = 4;

/// The fixed fields of an event in a crypto-agile log up to its digests: index,
/// type, digest count.
const AGILE_FIXED: usize = 12;

/// One bank's digest of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest<'a> {
    /// TCG algorithm identifier, see [`algorithm`].
    pub algorithm: u16,
    /// As many bytes as the header declares for the algorithm.
    pub bytes: &'a [u8],
}

/// One record of a log, borrowed from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Counted from 1 over the events after the Spec ID header: what
    /// `tpm2_eventlog` prints as EventNum.
    pub position: usize,
    /// Bytes from the start of the log.
    pub offset: usize,
    /// PCR, or MR index in a CCEL; see [`Registers`].
    pub index: u32,
    pub event_type: u32,
    /// What the event says of itself.
    pub data: &'a [u8],
    /// The whole record.
    pub bytes: &'a [u8],
    digests: Digests<'a>,
}

impl<'a> Event<'a> {
    /// The digests in the order of the log.
    pub fn digests(&self) -> Digests<'a> {
        self.digests
    }

    /// Whether the event was extended into a register: EV_NO_ACTION never is
    /// (PFP §10.4.1), and an index of no register cannot be.
    pub fn is_extended(&self) -> bool {
        self.event_type != EV_NO_ACTION && self.index != NO_REGISTER
    }
}

/// The digests of one event, decoded as they are walked over.
#[derive(Clone, Copy, Debug)]
pub struct Digests<'a> {
    reader: Reader<'a>,
    dialect: Dialect<'a>,
}

impl<'a> Iterator for Digests<'a> {
    type Item = Digest<'a>;

    fn next(&mut self) -> Option<Digest<'a>> {
        let (algorithm, size) = match self.dialect {
            Dialect::Sha1 => (algorithm::SHA1, algorithm::SHA1_SIZE),
            Dialect::Agile(declared) => {
                let algorithm = self.reader.u16()?;
                (algorithm, digest_size(declared, algorithm)?)
            }
        };
        Some(Digest { algorithm, bytes: self.reader.take(size)? })
    }
}

/// An algorithm and its digest size in bytes, as a Spec ID event declares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeclaredAlgorithm {
    pub algorithm: u16,
    pub size: u16,
}

/// What frames an event's digests.
#[derive(Clone, Copy, Debug)]
enum Dialect<'a> {
    /// TPM 1.2: exactly one digest of 20 bytes, no algorithm identifier.
    Sha1,
    /// TPM 2.0 and CCEL: a count, then identifier and digest each.
    Agile(&'a [DeclaredAlgorithm]),
}

/// The length of a digest: what the header declares, else what is known of the
/// algorithm. The header wins, since whoever wrote it framed the log by it.
fn digest_size(declared: &[DeclaredAlgorithm], algorithm: u16) -> Option<usize> {
    declared
        .iter()
        .find(|d| d.algorithm == algorithm)
        .map(|d| d.size)
        .or_else(|| algorithm::size(algorithm))
        .map(usize::from)
}

/// The header of a crypto-agile log (TCG_EfiSpecIDEvent, PFP §10.4.5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecId {
    /// 0 in a TPM log; TDVF writes 1 in a CCEL, others 0.
    pub index: u32,
    /// The 20 bytes of the header's own digest are zero, as they must be.
    pub digest_is_zero: bool,
    pub platform_class: u32,
    /// Major and minor version and errata: 2, 0, 0 to 105 or so.
    pub version: (u8, u8, u8),
    /// Size of UINTN in the firmware: 1 for 32 bits, 2 for 64.
    pub uintn_size: u8,
    /// In the order of the header.
    pub algorithms: Vec<DeclaredAlgorithm>,
    /// What the log's writer has to say of itself, at the most 255 bytes.
    pub vendor_info: Vec<u8>,
    /// The length in bytes of the whole header record.
    pub length: usize,
    /// EventSize left out vendorInfo and `length` includes it all the same.
    pub vendor_info_outside: bool,
}

/// Why a log has no further event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The last event ends with the bytes.
    AtLastByte,
    /// The log area goes on: `bytes` of it, all of value `byte`, or mixed.
    Padding { bytes: usize, byte: Option<u8> },
    /// The log cannot be read any further.
    Broken(Malformed),
}

/// A parsed log that owns or borrows its bytes.
#[derive(Clone, Debug)]
pub struct Log<B> {
    bytes: B,
    spec_id: Option<SpecId>,
    starts: Vec<usize>,
    /// Where the last whole event ends.
    length: usize,
    end: End,
}

impl<B: AsRef<[u8]>> Log<B> {
    /// Finds the events of a log.
    ///
    /// A log that breaks after some events is a log: [`Log::end`] says where. An
    /// error is only what has no events to give: no bytes, bytes of another
    /// kind, a header that cannot be read.
    pub fn parse(bytes: B) -> Result<Log<B>, Malformed> {
        let all = bytes.as_ref();
        let refuse = |offset, defect| Malformed { offset, defect, readable_events: 0 };
        // A log area that nobody wrote to is as good as no log.
        if [0x00, 0xff].iter().any(|blank| all.iter().all(|byte| byte == blank)) {
            return Err(refuse(0, Defect::Empty));
        }
        let spec_id = SpecId::parse(all).map_err(|defect| refuse(0, defect))?;
        let dialect = Dialect::of(&spec_id);
        if spec_id.is_none() {
            recognize_sha1_format(all).map_err(|defect| refuse(0, defect))?;
        }
        let mut starts = Vec::new();
        let mut reader = Reader::at(all, spec_id.as_ref().map_or(0, |header| header.length));
        let end = loop {
            if let Some(end) = end_at(&reader, dialect) {
                break end;
            }
            let offset = reader.offset();
            match parse_event(&mut reader, dialect) {
                Ok(_) => starts.push(offset),
                Err(defect) => {
                    let readable_events = starts.len();
                    reader = Reader::at(all, offset);
                    break End::Broken(Malformed { offset, defect, readable_events });
                }
            }
        };
        Ok(Log { length: reader.offset(), bytes, spec_id, starts, end })
    }

    /// A log that owns a copy of its header and events, without padding: what is
    /// kept once the file's mapping is given back.
    pub fn detach(self) -> Log<Box<[u8]>> {
        let Log { bytes, spec_id, starts, length, end } = self;
        let bytes = bytes.as_ref().get(..length).unwrap_or_default().into();
        Log { bytes, spec_id, starts, length, end }
    }

    /// The Spec ID header; `None` for a log in the SHA1 format.
    pub fn spec_id(&self) -> Option<&SpecId> {
        self.spec_id.as_ref()
    }

    /// The header record as it stands in the log; empty in the SHA1 format.
    pub fn header_bytes(&self) -> &[u8] {
        let length = self.spec_id.as_ref().map_or(0, |header| header.length);
        self.bytes.as_ref().get(..length).unwrap_or_default()
    }

    /// How many events can be read.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    pub fn end(&self) -> End {
        self.end
    }

    /// The event at a position counted from 1.
    pub fn event(&self, position: usize) -> Option<Event<'_>> {
        let offset = *self.starts.get(position.checked_sub(1)?)?;
        let mut reader = Reader::at(self.bytes.as_ref(), offset);
        let event = parse_event(&mut reader, Dialect::of(&self.spec_id)).ok()?;
        Some(Event { position, ..event })
    }

    /// All events that can be read, in the order of the log.
    pub fn events(&self) -> impl Iterator<Item = Event<'_>> {
        (1..=self.len()).filter_map(|position| self.event(position))
    }

    /// The bytes of `count` events from `first` on, one after the other as they
    /// stand in the log.
    pub(super) fn bytes_of(&self, first: usize, count: usize) -> &[u8] {
        let start_of = |position: usize| match position.checked_sub(1) {
            Some(at) => self.starts.get(at).copied().unwrap_or(self.length),
            None => 0,
        };
        let range = start_of(first)..start_of(first.saturating_add(count));
        self.bytes.as_ref().get(range).unwrap_or_default()
    }
}

impl<'a> Dialect<'a> {
    fn of(spec_id: &'a Option<SpecId>) -> Self {
        match spec_id {
            Some(header) => Dialect::Agile(&header.algorithms),
            None => Dialect::Sha1,
        }
    }
}

impl SpecId {
    /// Reads the header, `None` where the log does not start with one.
    ///
    /// The test is the signature, neither type nor size: logs in the SHA1 format
    /// start with an EV_NO_ACTION of their own (StartupLocality), and Spec ID
    /// Event00 and 02 are those of the SHA1 format.
    fn parse(log: &[u8]) -> Result<Option<SpecId>, Defect> {
        let mut reader = Reader::new(log);
        let fields = (|| {
            let index = reader.u32()?;
            let event_type = reader.u32()?;
            let digest = reader.take(algorithm::SHA1_SIZE)?;
            Some((index, event_type, digest, reader.u32()?))
        })();
        let Some((index, event_type, digest, size)) = fields else {
            return Err(Defect::TruncatedHeader { left: log.len() });
        };
        let signed = reader.rest().starts_with(SPEC_ID_SIGNATURE);
        if event_type != EV_NO_ACTION || !signed {
            return Ok(None);
        }
        let left = reader.rest().len();
        let data = reader.take_u32(size).ok_or(Defect::DataPastEnd { size, left })?;
        let mut fields = Reader::at(data, SPEC_ID_SIGNATURE.len());
        let past_end = Defect::SpecIdPastEnd;
        let platform_class = fields.u32().ok_or(past_end)?;
        let minor = fields.u8().ok_or(past_end)?;
        let major = fields.u8().ok_or(past_end)?;
        let errata = fields.u8().ok_or(past_end)?;
        let uintn_size = fields.u8().ok_or(past_end)?;
        let count = fields.u32().ok_or(past_end)?;
        if count > MOST_ALGORITHMS {
            let room = fields.rest().len() / DECLARED_ALGORITHM_SIZE;
            let fits = usize::try_from(count).is_ok_and(|count| count <= room);
            return Err(match fits {
                true => Defect::TooManyAlgorithms { count },
                false => Defect::AlgorithmsPastEnd { count },
            });
        }
        let mut algorithms = Vec::new();
        for _ in 0..count {
            let declared = fields.u16().zip(fields.u16());
            let (algorithm, size) = declared.ok_or(Defect::AlgorithmsPastEnd { count })?;
            algorithms.push(DeclaredAlgorithm { algorithm, size });
        }
        let mut header = SpecId {
            index,
            digest_is_zero: digest.iter().all(|byte| *byte == 0),
            platform_class,
            version: (major, minor, errata),
            uintn_size,
            algorithms,
            vendor_info: Vec::new(),
            length: reader.offset(),
            vendor_info_outside: false,
        };
        // Some writers leave vendorInfo out of EventSize. EventSize is the record's
        // boundary by the specification, so it is given up only where no event
        // stands there and one does after the vendor's bytes.
        let vendor_info_size = usize::from(fields.u8().unwrap_or(0));
        let outside = vendor_info_size.saturating_sub(fields.rest().len());
        let further = header.length.saturating_add(outside);
        if outside > 0
            && further <= log.len()
            && !header.event_stands_at(log, header.length)
            && header.event_stands_at(log, further)
        {
            header.length = further;
            header.vendor_info_outside = true;
        }
        header.vendor_info.extend(fields.rest().iter().take(vendor_info_size));
        Ok(Some(header))
    }

    fn event_stands_at(&self, log: &[u8], offset: usize) -> bool {
        let dialect = Dialect::Agile(&self.algorithms);
        let mut reader = Reader::at(log, offset);
        end_at(&reader, dialect).is_some() || parse_event(&mut reader, dialect).is_ok()
    }

    /// Whether an event carries exactly the banks that the header declares.
    pub fn declares_banks_of(&self, event: &Event<'_>) -> bool {
        event.digests().count() == self.algorithms.len()
            && event
                .digests()
                .all(|digest| self.algorithms.iter().any(|a| a.algorithm == digest.algorithm))
    }
}

/// The SHA1 format has no magic, and any text parses as its first event. So that
/// event must name a register and fit.
fn recognize_sha1_format(log: &[u8]) -> Result<(), Defect> {
    let mut reader = Reader::new(log);
    let event = parse_event(&mut reader, Dialect::Sha1).map_err(|_| Defect::NotALog)?;
    if Registers::Pcr.exist(event.index) || event.index == NO_REGISTER {
        Ok(())
    } else {
        Err(Defect::NotALog)
    }
}

/// Whether the log is over where the reader stands.
///
/// Padding is 0xff (OVMF, later td-shim) or 0x00 (td-shim, Arm CCA, TXT), from one
/// byte to the rest of the log area. An index of 0xffffffff alone is not padding:
/// Windows ends its logs with an EV_NO_ACTION of that index.
fn end_at(reader: &Reader<'_>, dialect: Dialect<'_>) -> Option<End> {
    let tail = reader.rest();
    let Some(first) = tail.first().copied() else {
        return Some(End::AtLastByte);
    };
    let fixed = match dialect {
        Dialect::Agile(_) => AGILE_FIXED,
        Dialect::Sha1 => AGILE_FIXED + algorithm::SHA1_SIZE,
    };
    let uniform = |bytes: &[u8]| bytes.iter().all(|byte| *byte == first);
    let ends = match first {
        // Index and type; what follows is not looked at before it is called padding.
        0xff => tail.get(..8).map_or_else(|| uniform(tail), uniform),
        // Index, type and digest count, or in the SHA1 format digest and size too.
        0x00 => tail.get(..fixed).map_or_else(|| uniform(tail), uniform),
        _ => false,
    };
    ends.then(|| End::Padding { bytes: tail.len(), byte: uniform(tail).then_some(first) })
}

/// Reads one event; its position is left to the caller.
fn parse_event<'a>(reader: &mut Reader<'a>, dialect: Dialect<'a>) -> Result<Event<'a>, Defect> {
    let start = *reader;
    let truncated = Defect::TruncatedHeader { left: start.rest().len() };
    let index = reader.u32().ok_or(truncated)?;
    let event_type = reader.u32().ok_or(truncated)?;
    let digests = match dialect {
        Dialect::Sha1 => reader.take(algorithm::SHA1_SIZE).ok_or(truncated)?,
        Dialect::Agile(declared) => {
            let count = reader.u32().ok_or(truncated)?;
            take_digests(reader, count, declared)?
        }
    };
    let left = reader.rest().len();
    let size = reader.u32().ok_or(Defect::TruncatedHeader { left })?;
    let left = reader.rest().len();
    let data = reader.take_u32(size).ok_or(Defect::DataPastEnd { size, left })?;
    let length = reader.offset().saturating_sub(start.offset());
    Ok(Event {
        position: 0,
        offset: start.offset(),
        index,
        event_type,
        data,
        bytes: start.rest().get(..length).unwrap_or_default(),
        digests: Digests { reader: Reader::new(digests), dialect },
    })
}

/// Takes `count` digests. The count is not believed: the bytes run out, or an
/// algorithm comes twice, long before a hostile one is reached.
fn take_digests<'a>(
    reader: &mut Reader<'a>,
    count: u32,
    declared: &[DeclaredAlgorithm],
) -> Result<&'a [u8], Defect> {
    let start = *reader;
    let taken = |reader: &Reader<'a>| {
        let length = reader.offset().saturating_sub(start.offset());
        start.rest().get(..length).unwrap_or_default()
    };
    for _ in 0..count {
        let left = reader.rest().len();
        let before = Reader::new(taken(reader));
        let algorithm = reader.u16().ok_or(Defect::TruncatedHeader { left })?;
        let mut seen = Digests { reader: before, dialect: Dialect::Agile(declared) };
        if seen.any(|digest| digest.algorithm == algorithm) {
            return Err(Defect::DuplicateAlgorithm { algorithm });
        }
        let size =
            digest_size(declared, algorithm).ok_or(Defect::UnknownAlgorithm { algorithm })?;
        reader.take(size).ok_or(Defect::DigestPastEnd { algorithm })?;
    }
    Ok(taken(reader))
}
