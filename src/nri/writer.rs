//! The thread between the runtime's socket and the disk.
//!
//! Whoever offers records never waits for a disk: they are queued, and a thread
//! appends to the log whatever has gathered, one flush for all of it, and extends the
//! register while nothing new waits. A queue that
//! is full because the disk is loses records, counts them, and has the log say how
//! many are missing where they are missing. What is durable is told to the journal
//! by a thread of its own, since journald may be slow; there copies may be lost.

use std::collections::VecDeque;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};

use crate::container_log::ContainerLog;
use crate::error::{Error, Result};
use crate::log::payload::printable_line;
use crate::record::{describe, Body, Container, Outcome, Record, Runtime, Shown};
use crate::systemd::{self, Priority};

/// What the queue holds at the most, in records and in bytes of memory.
pub const MOST_RECORDS: usize = 65536;
pub const MOST_BYTES: usize = 64 << 20;

/// What is appended at once: JSON's escapes make at worst six bytes of one, and then
/// it is still less than a log takes.
const BATCH_RECORDS: usize = 1024;
const BATCH_BYTES: usize = 512 << 10;

const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Records on their way to the journal.
const JOURNAL_QUEUE: usize = 1024;

/// Takes records and never waits.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

/// Says which records one has offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// All records up to this one, counted from the start.
    upto: u64,
    /// Some had no room.
    lost: bool,
}

/// How the writer fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub written: u64,
    pub lost: u64,
    pub queued: usize,
    /// Why records cannot be written, or not be extended.
    pub failing: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Of what waits and of what is being written.
    records: usize,
    bytes: usize,
    /// Counted from the start; what was lost is in none of them.
    taken: u64,
    durable: u64,
    lost: u64,
    failing: Option<String>,
    /// When to give up, once there will be no more records.
    stop: Option<Instant>,
    /// Nothing is appended any more, and nothing is on its way to the journal.
    ended: bool,
    told: bool,
}

/// A record and what it takes of memory: nothing, where it says what was lost.
#[derive(Debug)]
struct Waiting {
    record: Record,
    bytes: usize,
}

/// What is appended at once.
#[derive(Debug, Default)]
struct Batch {
    records: Vec<Record>,
    /// How many of these were taken from others, and their bytes.
    taken: usize,
    bytes: usize,
}

impl Writer {
    pub fn start(log: ContainerLog) -> Result<Writer> {
        let shared = Arc::new(Shared::default());
        let failed = |source| Error::System { call: "starting a thread", source };
        let (journal, records) = sync_channel(JOURNAL_QUEUE);
        let tell = move || tell_the_journal(&records);
        let teller = match systemd::has_journal() {
            true => Some(thread::Builder::new().name("journal".to_owned()).spawn(tell)),
            false => None,
        };
        let teller = teller.transpose().map_err(failed)?;
        let theirs = Arc::clone(&shared);
        let write = move || {
            Appending { log, shared: &theirs, journal }.run();
            theirs.queue().ended = true;
            theirs.changed.notify_all();
            // It ends with what is on its way, now that no more comes.
            let _ = teller.map(JoinHandle::join);
            theirs.queue().told = true;
            theirs.changed.notify_all();
        };
        thread::Builder::new().name("writer".to_owned()).spawn(write).map_err(failed)?;
        Ok(Writer { shared })
    }

    /// Queues records for the log. Those that have no room are lost and counted.
    pub fn offer(&self, records: Vec<Record>) -> Ticket {
        let mut queue = self.shared.queue();
        let mut lost = false;
        for record in records {
            lost |= !queue.take(record);
        }
        self.shared.changed.notify_all();
        Ticket { upto: queue.taken, lost }
    }

    /// Waits until the ticket's records are in the log, all of them; `false` where they
    /// are not by then, or never will be.
    pub fn wait(&self, ticket: Ticket, timeout: Duration) -> bool {
        let missing = |queue: &mut Queue| queue.durable < ticket.upto && !queue.ended;
        let queue = self.shared.queue();
        if ticket.lost {
            return false;
        }
        let waited = self.shared.changed.wait_timeout_while(queue, timeout, missing);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.durable >= ticket.upto
    }

    pub fn state(&self) -> State {
        let queue = self.shared.queue();
        State {
            written: queue.durable,
            lost: queue.lost,
            queued: queue.records,
            failing: queue.failing.clone(),
        }
    }

    /// Has what is queued written and the journal told, for so long at the most;
    /// `false` where some is not written.
    pub fn finish(self, timeout: Duration) -> bool {
        let mut queue = self.shared.queue();
        queue.stop = Some(Instant::now().checked_add(timeout).unwrap_or_else(Instant::now));
        self.shared.changed.notify_all();
        let runs = |queue: &mut Queue| !queue.told;
        let waited = self.shared.changed.wait_timeout_while(queue, timeout, runs);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.records == 0 && queue.waiting.is_empty()
    }
}

impl Drop for Writer {
    /// Without [`Writer::finish`], the thread writes what it has and ends by itself.
    fn drop(&mut self) {
        self.shared.queue().stop.get_or_insert_with(Instant::now);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// A panic elsewhere leaves the counts as they were: no reason to stop writing.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Queues a record, or counts it where it has no room.
    fn take(&mut self, record: Record) -> bool {
        let bytes = size(&record);
        let total = self.bytes.saturating_add(bytes);
        if self.records >= MOST_RECORDS || total > MOST_BYTES {
            self.lose();
            return false;
        }
        self.records = self.records.saturating_add(1);
        self.bytes = total;
        self.taken = self.taken.saturating_add(1);
        self.waiting.push_back(Waiting { record, bytes });
        true
    }

    fn lose(&mut self) {
        self.lost = self.lost.saturating_add(1);
        // One that has a number is not ours: it tells of what was never a record.
        let ours = self.waiting.back_mut().filter(|last| last.record.seq.is_none());
        match ours.map(|last| &mut last.record.body) {
            Some(Body::Lost { records }) => *records = records.saturating_add(1),
            _ => {
                let record = Record::new(SystemTime::now(), Body::Lost { records: 1 });
                self.waiting.push_back(Waiting { record, bytes: 0 });
            }
        }
    }

    /// Takes out what is to be appended next; it counts as queued until it is durable.
    fn next_batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        while let Some(Waiting { record, bytes }) = self.waiting.pop_front() {
            let total = batch.bytes.saturating_add(bytes);
            let full = batch.records.len() >= BATCH_RECORDS || total > BATCH_BYTES;
            if full && !batch.records.is_empty() {
                self.waiting.push_front(Waiting { record, bytes });
                break;
            }
            batch.taken = batch.taken.saturating_add(usize::from(bytes > 0));
            batch.bytes = total;
            batch.records.push(record);
        }
        batch
    }

    /// Records come first: somebody may wait for them. At the end there is an end.
    fn may_extend(&self) -> bool {
        self.waiting.is_empty() && self.stop.is_none_or(|stop| Instant::now() < stop)
    }

    fn is_durable(&mut self, batch: &Batch) {
        self.records = self.records.saturating_sub(batch.taken);
        self.bytes = self.bytes.saturating_sub(batch.bytes);
        let durable = u64::try_from(batch.taken).unwrap_or(u64::MAX);
        self.durable = self.durable.saturating_add(durable);
    }
}

/// What a record takes of memory, about: its texts, and itself.
fn size(record: &Record) -> usize {
    let mut size = std::mem::size_of::<Waiting>();
    let mut add = |text: &str| size = size.saturating_add(text.len());
    record.note.iter().for_each(|note| add(note));
    if let Some(Runtime { name, version }) = record.runtime.as_deref() {
        [name, version].into_iter().for_each(|text| add(text));
    }
    if let Some(Container { id, name, pod_namespace, pod_name, pod_uid }) =
        record.container.as_deref()
    {
        [id, name, pod_namespace, pod_name, pod_uid].into_iter().for_each(|text| add(text));
    }
    if let Body::SessionStarted { nri_version: text }
    | Body::PluginConnected { plugin: text }
    | Body::PluginGone { plugin: text } = &record.body
    {
        add(text);
    }
    if let Some(change) = record.body.change() {
        change.target.iter().chain(&change.name).chain(&change.plugins).for_each(|text| add(text));
        if let Shown::Value(value) = &change.value {
            add(value);
        }
    }
    size
}

/// The thread that appends.
struct Appending<'s> {
    log: ContainerLog,
    shared: &'s Shared,
    /// Nobody listens where there is no journal.
    journal: SyncSender<Record>,
}

impl Appending<'_> {
    fn run(mut self) {
        self.tell(Vec::new());
        while let Some(batch) = self.wait_for_batch() {
            if !self.append(&batch.records) {
                return;
            }
            let mut queue = self.shared.queue();
            queue.is_durable(&batch);
            self.shared.changed.notify_all();
            drop(queue);
            self.tell(batch.records);
        }
    }

    /// Has the journal say what is in the log by now. What has no room on its way
    /// there is in the log all the same.
    fn tell(&mut self, records: Vec<Record>) {
        let own = self.log.take_own();
        for record in &records {
            if let Body::Lost { records } = record.body {
                log::warn!("{records} records are missing in the container log at this point");
            }
        }
        for record in own.into_iter().chain(records) {
            let _ = self.journal.try_send(record);
        }
    }

    /// `None` where nothing is queued and nothing will be. What waits to be extended is
    /// extended meanwhile, and a register that failed is tried again.
    fn wait_for_batch(&mut self) -> Option<Batch> {
        let idle = |queue: &mut Queue| queue.waiting.is_empty() && queue.stop.is_none();
        loop {
            while self.shared.queue().may_extend() && self.log.extend_one() {}
            self.shared.queue().failing = self.log.trouble().map(str::to_owned);
            let pause = self.log.trouble().map_or(Duration::MAX, |_| TRY_AGAIN);
            let waited = self.shared.changed.wait_timeout_while(self.shared.queue(), pause, idle);
            let (mut queue, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if !timeout.timed_out() {
                let batch = queue.next_batch();
                return (!batch.records.is_empty()).then_some(batch);
            }
            drop(queue);
            // Nothing to write, unless somebody else extended the register: the next
            // batch says so then.
            let _ = self.log.commit(&[]);
            self.tell(Vec::new());
        }
    }

    /// Appends until it works; `false` where it is time to give up.
    fn append(&mut self, records: &[Record]) -> bool {
        let mut failed = false;
        loop {
            match self.log.commit(records) {
                Ok(()) => {
                    if failed {
                        log::info!("{} can be written again", self.log.path().display());
                    }
                    return true;
                }
                Err(error) => self.is_failing(error.to_string()),
            }
            failed = true;
            let hopeful = |queue: &Queue| queue.stop.is_none_or(|stop| Instant::now() < stop);
            let mut queue = self.shared.queue();
            let next = Instant::now().checked_add(TRY_AGAIN);
            // Every offer wakes us.
            while let Some(left) = next.and_then(|next| next.checked_duration_since(Instant::now()))
            {
                if !hopeful(&queue) {
                    return false;
                }
                let waited = self.shared.changed.wait_timeout(queue, left);
                queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if !hopeful(&queue) {
                return false;
            }
        }
    }

    /// Says so once, and again where the reason is another.
    fn is_failing(&self, reason: String) {
        let before = self.shared.queue().failing.replace(reason.clone());
        if before.as_ref() != Some(&reason) {
            log::error!("{reason}; records wait in memory, {MOST_RECORDS} at the most");
        }
    }
}

fn tell_the_journal(records: &Receiver<Record>) {
    for record in records {
        let json = record.to_json();
        let priority = match &record.body {
            Body::Lost { .. } => Priority::Warning,
            Body::RegisterChanged { .. } => Priority::Notice,
            Body::Outcome { outcome: Outcome::NotApplied, .. } => Priority::Notice,
            _ => Priority::Info,
        };
        let message = printable_line(&describe(&json));
        systemd::write_to_journal(priority, &message, &journal_fields(&record, &json));
    }
}

/// A record's fields under the names that they have in the journal.
fn journal_fields(record: &Record, json: &Map<String, Value>) -> Vec<(&'static str, String)> {
    const FIELDS: [(&str, &str); 11] = [
        ("CONTAINER_ID", "container_id"),
        ("CONTAINER_NAME", "container_name"),
        ("POD_NAMESPACE", "pod_namespace"),
        ("POD_NAME", "pod_name"),
        ("POD_UID", "pod_uid"),
        ("NRI_PLUGIN", "plugins"),
        ("NRI_EVENT", "event"),
        ("NRI_NAME", "name"),
        ("NRI_OUTCOME", "outcome"),
        ("NRI_SEQ", "seq"),
        ("RUNTIME", "runtime"),
    ];
    let mut fields = vec![("MESSAGE_ID", record.body.message_id().to_owned())];
    fields
        .extend(FIELDS.into_iter().filter_map(|(field, key)| Some((field, words(json.get(key)?)))));
    fields
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(words).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
