//! What is odd about a log that can be read all the same.
//!
//! Real firmware writes all of these; none of them is a reason to withhold an
//! event. They are found by a walk over the parsed log, when somebody asks.

use std::fmt;

use super::event::{End, Event, Log};
use super::event_type::{EV_NO_ACTION, EV_SEPARATOR};
use super::register::{Registers, NO_REGISTER};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The Spec ID event's own digest must be zero (PFP §10.4.5.1).
    HeaderDigest,
    /// The Spec ID event is not of version 2.0.
    HeaderVersion { major: u8, minor: u8 },
    /// EventSize of the Spec ID event leaves out its vendorInfo.
    VendorInfoOutside,
    /// The header declares a digest size that is not the algorithm's.
    DeclaredSize { algorithm: u16, size: u16 },
    /// The event's banks are not the header's: banks without a digest cannot be
    /// replayed from here on.
    Banks { position: usize },
    /// The machine has no register of this index.
    NoSuchRegister { position: usize, index: u32 },
    /// A second separator in one register.
    SecondSeparator { position: usize, index: u32 },
    /// The firmware reports an error through its separator (value 1).
    SeparatorError { position: usize, index: u32 },
    /// An EV_NO_ACTION with a digest that is not zero; it is not extended.
    NoActionDigest { position: usize },
    /// What follows the last event is neither all 0xff nor all 0x00.
    MixedPadding { bytes: usize },
}

/// All that is odd about a log, in its order.
pub fn warnings<B: AsRef<[u8]>>(log: &Log<B>, registers: Registers) -> Vec<Warning> {
    let mut found = Vec::new();
    if let Some(header) = log.spec_id() {
        let (major, minor, _) = header.version;
        if !header.digest_is_zero {
            found.push(Warning::HeaderDigest);
        }
        if (major, minor) != (2, 0) {
            found.push(Warning::HeaderVersion { major, minor });
        }
        if header.vendor_info_outside {
            found.push(Warning::VendorInfoOutside);
        }
        found.extend(header.algorithms.iter().filter_map(|declared| {
            let size = super::algorithm::size(declared.algorithm)?;
            (size != declared.size).then_some(Warning::DeclaredSize {
                algorithm: declared.algorithm,
                size: declared.size,
            })
        }));
    }
    let mut separated = Vec::new();
    for event in log.events() {
        event_warnings(log, registers, &event, &mut separated, &mut found);
    }
    if let End::Padding { bytes, byte: None } = log.end() {
        found.push(Warning::MixedPadding { bytes });
    }
    found
}

fn event_warnings<B: AsRef<[u8]>>(
    log: &Log<B>,
    registers: Registers,
    event: &Event<'_>,
    separated: &mut Vec<u32>,
    found: &mut Vec<Warning>,
) {
    let Event { position, index, .. } = *event;
    if log.spec_id().is_some_and(|header| !header.declares_banks_of(event)) {
        found.push(Warning::Banks { position });
    }
    let exists = registers.exist(index);
    if !exists && index != NO_REGISTER {
        found.push(Warning::NoSuchRegister { position, index });
    }
    if event.event_type == EV_NO_ACTION
        && event.digests().any(|digest| digest.bytes.iter().any(|byte| *byte != 0))
    {
        found.push(Warning::NoActionDigest { position });
    }
    if event.event_type == EV_SEPARATOR && exists {
        if event.data == [1, 0, 0, 0] {
            found.push(Warning::SeparatorError { position, index });
        }
        if separated.contains(&index) {
            found.push(Warning::SecondSeparator { position, index });
        } else {
            separated.push(index);
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::HeaderDigest => write!(f, "the Spec ID event's digest is not zero"),
            Warning::HeaderVersion { major, minor } => {
                write!(f, "the Spec ID event is of version {major}.{minor}, not 2.0")
            }
            Warning::VendorInfoOutside => {
                write!(f, "the Spec ID event's size leaves out its vendor information")
            }
            Warning::DeclaredSize { algorithm, size } => {
                write!(f, "{size} bytes are declared for algorithm {algorithm:#06x}")
            }
            Warning::Banks { position } => {
                write!(f, "event {position} has other banks than the header declares")
            }
            Warning::NoSuchRegister { position, index } => {
                write!(f, "event {position} has index {index}, which is no register")
            }
            Warning::SecondSeparator { position, index } => {
                write!(f, "event {position} is a second separator of index {index}")
            }
            Warning::SeparatorError { position, index } => {
                write!(f, "event {position}: the firmware reports an error for index {index}")
            }
            Warning::NoActionDigest { position } => {
                write!(f, "event {position} is EV_NO_ACTION with a digest that is not zero")
            }
            Warning::MixedPadding { bytes } => {
                write!(f, "{bytes} bytes of neither events nor padding follow the last event")
            }
        }
    }
}
