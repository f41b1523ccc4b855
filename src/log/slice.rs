//! (start, count) → events: the arithmetic of GetEventlog's positions.

use super::event::{End, Event, Log};
use crate::error::{Error, Malformed};

/// Consecutive events of a log, all of them readable.
#[derive(Debug)]
pub struct Slice<'l, B> {
    log: &'l Log<B>,
    first: usize,
    count: usize,
}

/// The events that a request asks for: checked numbers, but of no log yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    start: usize,
    count: usize,
}

impl Range {
    /// Positions count from 1; a `start` of 0 means the first event and a `count`
    /// of 0 all up to the end. Neither may be negative.
    pub fn new(start: i32, count: i32) -> Result<Range, Error> {
        let not_negative = |field, value: i32| {
            usize::try_from(value).map_err(|_| Error::Negative { field, value })
        };
        Ok(Range {
            start: not_negative("start_position", start)?,
            count: not_negative("count", count)?,
        })
    }
}

/// Why a log cannot give a range of events.
#[derive(Debug)]
pub enum OutOfReach {
    Request(Error),
    /// The log breaks before the range ends.
    Log(Malformed),
}

impl<'l, B: AsRef<[u8]>> Slice<'l, B> {
    /// Selects a range of a log's events.
    ///
    /// Nothing is clipped: what reaches past the last event is refused, and past
    /// the place where a log breaks it is refused as a broken log, since nobody
    /// knows how many events stood behind it.
    pub fn of(log: &'l Log<B>, range: Range) -> Result<Self, OutOfReach> {
        let Range { start, count } = range;
        let events = log.len();
        let first = start.max(1);
        let last = match count {
            0 => events,
            _ => first.saturating_add(count).saturating_sub(1),
        };
        match log.end() {
            End::Broken(malformed) if count == 0 || last > events => {
                Err(OutOfReach::Log(malformed))
            }
            _ if start > events => Err(OutOfReach::Request(Error::StartPastEnd { start, events })),
            _ if last > events => Err(OutOfReach::Request(Error::CountPastEnd { events })),
            _ => Ok(Slice { log, first, count: last.saturating_add(1).saturating_sub(first) }),
        }
    }

    /// Position of the first event.
    pub fn first(&self) -> usize {
        self.first
    }

    /// How many events there are.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn log(&self) -> &'l Log<B> {
        self.log
    }

    pub fn events(&self) -> impl Iterator<Item = Event<'l>> + use<'l, B> {
        let log = self.log;
        (self.first..self.first.saturating_add(self.count))
            .filter_map(|position| log.event(position))
    }

    /// The slice as a log of its own: the header and the events, byte for byte.
    pub fn bytes(&self) -> [&'l [u8]; 2] {
        [self.log.header_bytes(), self.log.bytes_of(self.first, self.count)]
    }
}
