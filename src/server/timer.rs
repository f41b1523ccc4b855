//! The times that the main loop keeps, and how long it may sleep because of them.

use std::time::{Duration, Instant};

use nix::sys::epoll::EpollTimeout;

/// Something that falls due again and again.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    every: Duration,
    last: Instant,
}

impl Timer {
    pub fn new(every: Duration) -> Self {
        Timer { every, last: Instant::now() }
    }

    pub fn restart(&mut self) {
        self.last = Instant::now();
    }

    fn left(&self) -> Duration {
        self.every.saturating_sub(self.last.elapsed())
    }

    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Whether the time has come; then it begins anew.
    pub fn is_due(&mut self) -> bool {
        let due = self.is_over();
        if due {
            self.restart();
        }
        due
    }
}

/// How long epoll may wait: until the first of the timers, a millisecond more so
/// that it is over then, or for ever where there is none.
pub fn soonest<'t>(timers: impl Iterator<Item = &'t Timer>) -> EpollTimeout {
    timers.map(Timer::left).min().map_or(EpollTimeout::NONE, |left| {
        let left = left.saturating_add(Duration::from_millis(1));
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
    })
}
