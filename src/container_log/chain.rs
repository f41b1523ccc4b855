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
    /// It is where the log says, less so many events that are still to be extended.
    InStep { late: usize },
    /// Somebody else extended it: it holds this.
    Changed(Values),
}

#[derive(Debug)]
pub struct Chain {
    register: Register,
    /// What the register held last, as far as we know.
    value: Option<Values>,
    /// Events of the log that are not in it, as far as we know.
    pending: VecDeque<EventDigests>,
    /// Nothing went wrong since a look found all that to be so. Without that nothing is
    /// extended: it might be there already.
    sure: bool,
}

impl Chain {
    pub fn new(register: Register) -> Chain {
        Chain { register, value: None, pending: VecDeque::new(), sure: false }
    }

    pub fn register(&self) -> &Register {
        &self.register
    }

    /// What the register holds, where that is sure.
    pub fn value(&self) -> Option<&Values> {
        self.value.as_ref().filter(|_| self.sure)
    }

    /// How many events of the log are not in the register, or may not be.
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    pub fn can_extend(&self) -> bool {
        self.sure && !self.pending.is_empty()
    }

    /// Starts anew from a value that the log states, and the register was just seen to
    /// hold (or will be looked at next); or from none that is known.
    pub fn restart(&mut self, value: Option<Values>) {
        self.sure = value.is_some();
        self.value = value;
        self.pending.clear();
    }

    /// Takes note of an event that is in the log.
    pub fn push(&mut self, digests: EventDigests) {
        self.pending.push_back(digests);
    }

    /// Compares the register with the log.
    pub fn look(&mut self) -> Result<Found> {
        self.sure = false;
        let live = self.register.read()?;
        let Some(count) = self.events_in(&live) else { return Ok(Found::Changed(live)) };
        self.pending.drain(..count);
        self.value = Some(live);
        self.sure = true;
        Ok(Found::InStep { late: self.pending.len() })
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

    /// Extends the register by the first of what is pending, and after the last looks
    /// whether it moved as computed.
    pub fn extend_one(&mut self) -> Result<()> {
        let Some(digests) = self.pending.front().filter(|_| self.sure) else { return Ok(()) };
        self.sure = false;
        self.register.extend(&digests.list())?;
        self.value = self.value.as_ref().map(|value| digests.extend(value));
        self.pending.pop_front();
        if self.pending.is_empty() && Some(self.register.read()?) != self.value {
            let name = self.register.name();
            log::warn!(
                "{name} is not what the container log adds up to: somebody else extended it at \
                 the same time; the next record says so"
            );
        }
        self.sure = true;
        Ok(())
    }
}
