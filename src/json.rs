//! A slice as JSON: the keys, their order and their notation are those that
//! CCNP's published clients read; those of an event from `Position` on are for people.
//!
//! The reference server's oddities are kept because its verifiers parse them:
//! `Digests` holds decimal bytes in brackets, `AlgorithmId` is that of the last
//! digest, `Header.DigestCount` is always 0.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::log::payload::{describe, hex, printable_line};
use crate::log::{algorithm, event_type, Digest, Event, Log, Registers, Slice, SpecId};
use crate::record::{self, Registered};

/// How a log is told.
#[derive(Clone, Copy, Debug)]
pub enum View {
    /// The firmware's, whose indexes count these registers: all of its banks.
    Firmware(Registers),
    /// The containers', in the terms of either kind of machine: their registers and
    /// the bank that goes with them, whichever was extended. Events have one more key,
    /// the record.
    Containers(Registers),
}

impl View {
    fn registers(self) -> Registers {
        let (View::Firmware(registers) | View::Containers(registers)) = self;
        registers
    }

    /// The index of an event's register in the view's terms.
    fn index(self, index: u32, header: Option<&SpecId>) -> u32 {
        match (self, header.and_then(Registered::of)) {
            (View::Containers(registers), Some(registered)) => registered.index(registers),
            _ => index,
        }
    }

    fn digests<'a>(self, event: &Event<'a>) -> impl Iterator<Item = Digest<'a>> {
        let shown = match self {
            View::Firmware(_) => None,
            View::Containers(Registers::Rtmr) => Some(algorithm::SHA384),
            View::Containers(Registers::Pcr) => Some(algorithm::SHA256),
        };
        event.digests().filter(move |digest| shown.is_none_or(|bank| bank == digest.algorithm))
    }
}

/// Writes the slice, one JSON object on one line.
pub fn write<B: AsRef<[u8]>>(
    slice: &Slice<'_, B>,
    view: View,
    to: &mut dyn Write,
) -> serde_json::Result<()> {
    serde_json::to_writer(to, &Json { slice, view })
}

struct Json<'s, 'l, B> {
    slice: &'s Slice<'l, B>,
    view: View,
}

impl<B: AsRef<[u8]>> Serialize for Json<'_, '_, B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let log: &Log<B> = self.slice.log();
        let header = log.spec_id().map(|spec_id| JsonHeader {
            spec_id,
            bytes: log.header_bytes(),
            view: self.view,
        });
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("Header", &header)?;
        map.serialize_entry("EventLogs", &JsonEvents(self))?;
        map.end()
    }
}

struct JsonHeader<'a> {
    spec_id: &'a SpecId,
    bytes: &'a [u8],
    view: View,
}

impl Serialize for JsonHeader<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sizes: BTreeMap<String, u16> = self
            .spec_id
            .algorithms
            .iter()
            .rev()
            .map(|a| (a.algorithm.to_string(), a.size))
            .collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("Address", &0)?;
        map.serialize_entry("Length", &self.bytes.len())?;
        map.serialize_entry("HeaderData", &Base64(self.bytes))?;
        map.serialize_entry(
            register_key(self.view.registers()),
            &self.view.registers().number(self.spec_id.index),
        )?;
        map.serialize_entry("Etype", &event_type::EV_NO_ACTION)?;
        map.serialize_entry("DigestCount", &0)?;
        map.serialize_entry("DigestSizes", &sizes)?;
        map.end()
    }
}

struct JsonEvents<'j, 's, 'l, B>(&'j Json<'s, 'l, B>);

impl<B: AsRef<[u8]>> Serialize for JsonEvents<'_, '_, '_, B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.slice.count()))?;
        for event in self.0.slice.events() {
            let view = self.0.view;
            let index = view.index(event.index, self.0.slice.log().spec_id());
            list.serialize_element(&JsonEvent { event, index, view })?;
        }
        list.end()
    }
}

struct JsonEvent<'a> {
    event: Event<'a>,
    /// Of its register, as the view has it.
    index: u32,
    view: View,
}

impl Serialize for JsonEvent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let JsonEvent { event, index, view } = self;
        let registers = view.registers();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(register_key(registers), &registers.number(*index))?;
        map.serialize_entry("Etype", &event.event_type)?;
        map.serialize_entry("DigestCount", &view.digests(event).count())?;
        map.serialize_entry(
            "Digests",
            &view.digests(event).map(|d| Decimal(d.bytes)).collect::<Vec<_>>(),
        )?;
        map.serialize_entry("Data", &Base64(event.bytes))?;
        map.serialize_entry("Event", &Base64(event.data))?;
        map.serialize_entry("Length", &event.bytes.len())?;
        map.serialize_entry("EventSize", &event.data.len())?;
        map.serialize_entry("AlgorithmId", &view.digests(event).last().map_or(0, |d| d.algorithm))?;
        map.serialize_entry("Position", &event.position)?;
        map.serialize_entry("Register", &registers.name(*index))?;
        map.serialize_entry("EventType", &event_type::name(event.event_type))?;
        map.serialize_entry("DigestsByAlgorithm", &ByAlgorithm(event, *view))?;
        let View::Containers(_) = view else {
            map.serialize_entry("Description", &describe(event))?;
            return map.end();
        };
        let record = record::decode(event.data);
        let description = match &record {
            Some(record) => printable_line(&record::describe(record)),
            None => describe(event),
        };
        map.serialize_entry("Description", &description)?;
        map.serialize_entry("Record", &record)?;
        map.end()
    }
}

struct ByAlgorithm<'a>(&'a Event<'a>, View);

impl Serialize for ByAlgorithm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.1.digests(self.0).map(|d| (algorithm::name(d.algorithm), hex(d.bytes))),
        )
    }
}

fn register_key(registers: Registers) -> &'static str {
    match registers {
        Registers::Rtmr => "Rtmr",
        Registers::Pcr => "Pcr",
    }
}

struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

/// Go's `%v` of a byte slice: `[11 135 73]`.
struct Decimal<'a>(&'a [u8]);

impl Serialize for Decimal<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Decimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (at, byte) in self.0.iter().enumerate() {
            let space = if at > 0 { " " } else { "" };
            write!(f, "{space}{byte}")?;
        }
        f.write_str("]")
    }
}
