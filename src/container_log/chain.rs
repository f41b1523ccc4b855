//! The register, kept in step with the log.
//!
//! The log is written ahead: an event is durable before it is extended. So the
//! register holds what the log's events add up to, less some of the last. Which
//! ones is found by computing: from the last value that the log itself states, on
//! through the events after it, until the sum is what the hardware shows.

use std::collections::VecDeque;

use sha2::{Digest as _, Sha256, Sha384};

use crate::error::Result;
use crate::live::{Register, Values};
use crate::log::{algorithm, Digest, Event};

/// An event's digest in both banks: of its whole data, as Confidential Containers'
/// AAEL does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventDigests {
    sha256: [u8; 32],
    sha384: [u8; 48],
}

impl EventDigests {
    pub fn of(data: &[u8]) -> EventDigests {
        let (sha256, sha384) = (Sha256::digest(data).into(), Sha384::digest(data).into());
        EventDigests { sha256, sha384 }
    }

    pub fn list(&self) -> [Digest<'_>; 2] {
        [
            Digest { algorithm: algorithm::SHA256, bytes: &self.sha256 },
            Digest { algorithm: algorithm::SHA384, bytes: &self.sha384 },
        ]
    }

    /// The digests of an event, where they are those of its data.
    pub fn confirmed(event: &Event<'_>) -> Option<EventDigests> {
        let digests = EventDigests::of(event.data);
        event.digests().eq(digests.list()).then_some(digests)
    }

    /// What a register holds once it was extended by the event.
    fn extend(&self, values: &Values) -> Values {
        let extend = |(bank, value): &(u16, Vec<u8>)| {
            let value = match *bank {
                algorithm::SHA256 => {
                    Sha256::new().chain_update(value).chain_update(self.sha256).finalize().to_vec()
                }
                _ => {
                    Sha384::new().chain_update(value).chain_update(self.sha384).finalize().to_vec()
                }
            };
            (*bank, value)
        };
        values.iter().map(extend).collect()
    }
}

/// What a look at the register found.
#[derive(Debug)]
pub enum Found {
    /// It is where the log ends, now that so many events were extended late.
    InStep { late: usize },
    /// Somebody else extended it: it holds this.
    Changed(Values),
}

#[derive(Debug)]
pub struct Chain {
    register: Register,
    /// What the register held last, as far as we know.
    value: Option<Values>,
    /// Events of the log that may not be in it.
    pending: VecDeque<EventDigests>,
}

impl Chain {
    pub fn new(register: Register) -> Chain {
        Chain { register, value: None, pending: VecDeque::new() }
    }

    pub fn register(&self) -> &Register {
        &self.register
    }

    pub fn value(&self) -> Option<&Values> {
        self.value.as_ref()
    }

    /// How many events of the log may not be in the register.
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Starts anew from a value that the log states, or from none that is known.
    pub fn restart(&mut self, value: Option<Values>) {
        self.value = value;
        self.pending.clear();
    }

    /// Takes note of an event that is in the log.
    pub fn push(&mut self, digests: EventDigests) {
        self.pending.push_back(digests);
    }

    /// Compares the register with the log, and extends what it lacks.
    pub fn follow(&mut self) -> Result<Found> {
        let live = self.register.read()?;
        let Some(count) = self.events_in(&live) else { return Ok(Found::Changed(live)) };
        self.pending.drain(..count);
        self.value = Some(live);
        let late = self.pending.len();
        self.extend()?;
        Ok(Found::InStep { late })
    }

    /// How many of the pending events are in the register already. One is where its
    /// extending was interrupted, or failed on its way back.
    fn events_in(&self, live: &Values) -> Option<usize> {
        let mut value = self.value.clone()?;
        for (count, digests) in self.pending.iter().enumerate() {
            if value == *live {
                return Some(count);
            }
            value = digests.extend(&value);
        }
        (value == *live).then_some(self.pending.len())
    }

    /// Extends the register by what is pending, one event after the other, and looks
    /// whether it moved as computed.
    pub fn extend(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // From an unknown value nothing could be compared later: the next look states
        // the value anew, and this event is then one of those before it.
        let Some(mut value) = self.value.clone() else { return Ok(()) };
        while let Some(digests) = self.pending.front() {
            self.register.extend(&digests.list())?;
            value = digests.extend(&value);
            self.value = Some(value.clone());
            self.pending.pop_front();
        }
        if self.register.read()? != value {
            let name = self.register.name();
            log::warn!(
                "{name} is not what the container log adds up to: somebody else extended it at \
                 the same time; the next record says so"
            );
        }
        Ok(())
    }
}
