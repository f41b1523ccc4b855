//! Records → `container.log`, and the register that it is extended into.
//!
//! The log is an event log like the firmware's: a Spec ID header, then an
//! EV_EVENT_TAG event for each record. It is a write-ahead log of the register: a
//! batch of records is written in one go, made durable by one fdatasync(2), and only
//! then extended, event by event. [`ContainerLog::append`] returns after that, and
//! whatever it was given is on the disk; nothing is flushed between batches, and
//! whoever gathers records decides what a flush costs each. A TPM takes milliseconds
//! to extend: who cannot wait for it takes the two halves one by one.
//!
//! What a crash leaves, and the next [`ContainerLog::open`] makes of it:
//!
//! ```text
//! within the write        the start of a batch          cut after its last whole event
//! before the extends      events, none extended         extended now
//! between the extends     events, some extended         the others extended now
//! power loss              another boot                  cut, and a new file begun
//! within the change of    a temporary file, or two      swept; the file goes on under
//! files                   names of one file             the one name
//! ```
//!
//! The register is known by computing. The log states its value in the first record
//! (`log_opened`) and wherever it had become another (`register_changed`); from the
//! last of these on, every event extends it. The hardware must show one of the sums
//! on the way: then what comes after is extended late. If it shows none, somebody
//! else extended it too; that becomes a `register_changed` record, which states what
//! was found and, like any other, is extended itself. Replay starts anew there.
//! Events before it that never were extended stay so; a note says how many. All this
//! is done when the log is opened and before each batch, by the same code. A register
//! that fails stops no record: events wait, and the next batch tries again. Should
//! their file be full by then, they stay so too; the next file then states the value
//! when it can be read again.
//!
//! There is a file for each boot, and none larger than a server reads. A new one takes
//! the place of the old by rename(2), and the old keeps a name of its own.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::live::{from_hex, Register, Values, BANKS, RTMR3_INDEX};
use crate::lock::{self, Lock, NotLocked};
use crate::log::event_type::EV_EVENT_TAG;
use crate::log::payload::hex;
use crate::log::write::{write_event, write_spec_id};
use crate::log::{algorithm, Log};
use crate::record::{self, Body, Record, RegisterState, Registered};
use crate::source;

mod chain;
mod files;

use chain::{Chain, EventDigests, Found};
use files::{Current, Files, State};

/// As much as one batch may hold: what follows the last whole event is at the most
/// the rest of one, so a larger rest is damage and no crash.
pub const LARGEST_BATCH: usize = 4 << 20;

/// As many of the log's own records are kept for [`ContainerLog::take_own`].
const MOST_OWN: usize = 64;

/// Where container logs name a PCR though none is extended.
pub const DEFAULT_PCR: u32 = 13;

#[derive(Clone, Debug)]
pub struct Settings {
    pub path: PathBuf,
    /// What is extended, if anything.
    pub register: Option<Register>,
    /// What a reader of PCRs is told where no PCR is extended.
    pub pcr: u32,
    /// See [`boot_id`].
    pub boot_id: String,
}

/// What tells this boot of the machine from all others.
pub fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|error| Error::reading(path, error))?;
    Ok(text.trim().to_owned())
}

/// The one writer of a container log.
#[derive(Debug)]
pub struct ContainerLog {
    settings: Settings,
    files: Files,
    current: Current,
    chain: Option<Chain>,
    trouble: Option<String>,
    own: Vec<Record>,
    /// Held as long as we live; the kernel frees it when we do not.
    _lock: Lock,
}

/// An open log, and what its files say of this boot.
#[derive(Debug)]
pub struct Opened {
    pub log: ContainerLog,
    /// One more than the greatest so far.
    pub next_seq: u64,
    /// Containers whose creation, or presence, is on record.
    pub known: HashSet<String>,
    /// Adjustments whose outcome is not on record, in the order of their numbers.
    pub unfinished: Vec<Map<String, Value>>,
}

impl ContainerLog {
    /// Takes possession of the log: locks it against a second writer, mends what a
    /// dead one left, and goes on with its file or begins a new one.
    ///
    /// A register that cannot be read or extended is an error here, where somebody
    /// can still mend it.
    pub fn open(settings: Settings) -> Result<Opened> {
        let files = Files::new(&settings.path);
        let lock = lock::take(&files.lock_path()).map_err(|error| match error {
            NotLocked::Held(holder) => {
                Error::ContainerLogInUse { path: settings.path.clone(), holder }
            }
            NotLocked::Failed(source) => files.failed(source),
        })?;
        let found = Standing::in_place(&files)?;
        files.sweep()?;
        let mut past = Past::default();
        past.learn_older(&files, &settings.boot_id)?;
        let mut chain = settings.register.clone().map(Chain::new);
        let live = chain.as_ref().map(|chain| chain.register().read()).transpose()?;
        let mut recovery = Recovery::default();
        let mut own = Vec::new();
        let current = match found {
            None => Self::begin_first(&files, &settings, &mut chain, live, None, &mut own)?,
            Some((file, standing)) => {
                if standing.boot_id() == settings.boot_id {
                    past.learn(&standing.log, standing.events);
                }
                let opened = standing.opened();
                if standing.is_torn() {
                    recovery.bytes_cut = standing.rest;
                    file.set_len(standing.length).map_err(|error| files.failed(error))?;
                }
                if standing.goes_on(&settings) {
                    if let Some(chain) = &mut chain {
                        standing.recall(chain);
                    }
                    Current::adopt(file, standing.length, opened)
                        .map_err(|error| files.failed(error))?
                } else {
                    recovery.damaged_at = standing.is_damaged().then_some(standing.length);
                    let present = Some((&file, opened));
                    Self::begin_first(&files, &settings, &mut chain, live, present, &mut own)?
                }
            }
        };
        let mut log =
            ContainerLog { settings, files, current, chain, trouble: None, own, _lock: lock };
        log.catch_up(recovery)?;
        log.files.prune();
        Ok(past.opened(log))
    }

    /// Begins this process' first file, and extends its first record.
    fn begin_first(
        files: &Files,
        settings: &Settings,
        chain: &mut Option<Chain>,
        live: Option<Values>,
        present: Option<(&File, SystemTime)>,
        own: &mut Vec<Record>,
    ) -> Result<Current> {
        let (current, opened) = begin(files, settings, chain, live, present)?;
        own.push(opened);
        chain.as_mut().map(Chain::extend_one).transpose()?;
        Ok(current)
    }

    /// Brings register and log together after [`ContainerLog::open`] found the file,
    /// and puts on record what had to be done.
    fn catch_up(&mut self, mut recovery: Recovery) -> Result<()> {
        let mut changed = None;
        match self.chain.as_mut().map(Chain::look).transpose()? {
            Some(Found::InStep { late }) => {
                recovery.events_extended = u64::try_from(late).unwrap_or(u64::MAX);
            }
            Some(Found::Changed(values)) => changed = Some(values),
            None => {}
        }
        while let Some(chain) = self.chain.as_mut().filter(|chain| chain.can_extend()) {
            chain.extend_one()?;
        }
        let records: Vec<Record> = recovery.record().into_iter().collect();
        self.write(changed, &records)?;
        self.is_on_record(records);
        while self.extend_one() {}
        Ok(())
    }

    /// Appends records, all of them or none. They are durable when this returns, and
    /// extended, unless the register fails: see [`ContainerLog::trouble`]. With no
    /// records at all this is about the register alone.
    pub fn append(&mut self, records: &[Record]) -> Result<()> {
        self.commit(records)?;
        while self.extend_one() {}
        Ok(())
    }

    /// The first half of [`ContainerLog::append`]: the records are durable, and wait to
    /// be extended. Other batches may come before that.
    pub fn commit(&mut self, records: &[Record]) -> Result<()> {
        let changed = match self.chain.as_mut().map(Chain::look) {
            None | Some(Ok(Found::InStep { .. })) => None,
            Some(Ok(Found::Changed(values))) => Some(values),
            Some(Err(error)) => {
                self.is_failing(error);
                None
            }
        };
        self.write(changed, records)
    }

    /// The other half: extends the register by one event. `false` where none waits, or
    /// the register fails.
    pub fn extend_one(&mut self) -> bool {
        let Some(chain) = &mut self.chain else { return false };
        if let Err(error) = chain.extend_one() {
            self.is_failing(error);
            return false;
        }
        if chain.can_extend() {
            return true;
        }
        if chain.waiting() == 0 && self.trouble.take().is_some() {
            log::info!("{} is in step with the log again", chain.register().name());
        }
        false
    }

    /// What is wrong with the register at present. Records are written all the same.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// What the log had to say of itself since this was asked last: records that are
    /// in it and that nobody appended.
    pub fn take_own(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.own)
    }

    fn is_on_record(&mut self, records: Vec<Record>) {
        let room = MOST_OWN.saturating_sub(self.own.len());
        self.own.extend(records.into_iter().take(room));
    }

    pub fn path(&self) -> &Path {
        self.files.path()
    }

    /// Writes a batch, in a new file where it has no room in this one.
    fn write(&mut self, changed: Option<Values>, records: &[Record]) -> Result<()> {
        let index = self.settings.index();
        let batch = Batch::of(records, index)?;
        let changed = changed.map(|values| (self.register_changed(&values), values));
        let head = match &changed {
            Some((record, _)) => Batch::of(std::slice::from_ref(record), index)?,
            None => Batch::default(),
        };
        let size = head.bytes.len().saturating_add(batch.bytes.len());
        if size == 0 {
            return Ok(());
        }
        if size > LARGEST_BATCH {
            return Err(Error::BatchTooLarge { bytes: size, limit: LARGEST_BATCH });
        }
        if self.fits(size)? {
            let bytes = [head.bytes.as_slice(), &batch.bytes].concat();
            self.current.append(&bytes).map_err(|error| self.files.failed(error))?;
            if let (Some(chain), Some((record, values))) = (&mut self.chain, changed) {
                chain.restart(Some(values));
                log::warn!("{} was extended by somebody else", chain.register().name());
                self.is_on_record(vec![record]);
            }
            self.is_to_be_extended(head.digests);
        } else {
            // A file's events are extended while it is the file.
            while self.extend_one() {}
            // Its first record states the register's value, so no other has to.
            let known = self.chain.as_ref().and_then(|chain| chain.value().cloned());
            self.begin_another(changed.map(|(_, values)| values).or(known))?;
            self.current.append(&batch.bytes).map_err(|error| self.files.failed(error))?;
        }
        self.is_to_be_extended(batch.digests);
        Ok(())
    }

    /// Whether the file is as we left it and has room for so many bytes.
    fn fits(&self, bytes: usize) -> Result<bool> {
        let path = self.files.path();
        match self.current.state(path).map_err(|error| self.files.failed(error))? {
            State::AsLeft => {
                let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
                let limit = u64::try_from(source::LIMIT).unwrap_or(u64::MAX);
                Ok(self.current.length().saturating_add(bytes) <= limit)
            }
            State::Another => Err(Error::NotAContainerLog { path: path.to_owned() }),
            State::Changed | State::Gone => {
                log::warn!("{} is not as it was left: a new one is begun", path.display());
                Ok(false)
            }
        }
    }

    fn begin_another(&mut self, value: Option<Values>) -> Result<()> {
        let gone = self.current.state(self.files.path()).is_ok_and(|state| state == State::Gone);
        let present = (!gone).then(|| (self.current.file(), self.current.opened));
        let begun = begin(&self.files, &self.settings, &mut self.chain, value, present);
        let (current, opened) = begun?;
        self.current = current;
        self.is_on_record(vec![opened]);
        self.files.prune();
        Ok(())
    }

    fn is_to_be_extended(&mut self, digests: Vec<EventDigests>) {
        if let Some(chain) = &mut self.chain {
            digests.into_iter().for_each(|digests| chain.push(digests));
        }
    }

    /// Says so, once for each reason.
    fn is_failing(&mut self, error: Error) {
        let error = error.to_string();
        if self.trouble.as_ref() != Some(&error) {
            log::warn!("{error}; records go on, and wait to be extended");
        }
        self.trouble = Some(error);
    }

    fn register_changed(&self, values: &Values) -> Record {
        let register = self.settings.register.as_ref().map(Register::name).unwrap_or_default();
        let state = register_state(register, values);
        let mut record = Record::new(SystemTime::now(), Body::RegisterChanged { register: state });
        let waiting = self.chain.as_ref().map_or(0, Chain::waiting);
        if waiting > 0 {
            let note = format!("of the events before this one, {waiting} may not be extended");
            record.note = Some(note);
        }
        record
    }
}

impl Settings {
    /// Of the register that events are extended into, or would be in a TDX guest.
    fn index(&self) -> u32 {
        self.register.as_ref().map_or(RTMR3_INDEX, Register::index)
    }

    fn registered(&self) -> Registered {
        let pcr = match &self.register {
            Some(Register::Pcr { number, .. }) => *number,
            _ => self.pcr,
        };
        Registered { mr_index: RTMR3_INDEX, pcr }
    }
}

/// Begins a file with its header and first record, in the place of the present one.
fn begin(
    files: &Files,
    settings: &Settings,
    chain: &mut Option<Chain>,
    value: Option<Values>,
    present: Option<(&File, SystemTime)>,
) -> Result<(Current, Record)> {
    let older = present.map(|(file, opened)| files.older_name(file, opened)).transpose()?;
    let previous = older.as_deref().and_then(Path::file_name);
    let register = settings.register.as_ref();
    let state = |register: &Register| {
        register_state(register.name(), value.as_ref().unwrap_or(&Values::new()))
    };
    let now = SystemTime::now();
    let opened = Record::new(
        now,
        Body::LogOpened {
            boot_id: settings.boot_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            previous: previous.map(|name| name.to_string_lossy().into_owned()),
            register: register.map(state),
        },
    );
    let batch = Batch::of(std::slice::from_ref(&opened), settings.index())?;
    let mut content = Vec::new();
    let vendor_info = settings.registered().to_vendor_info();
    // A constant few bytes, which have room in every size field.
    let _ = write_spec_id(&mut content, 0, &BANKS, &vendor_info);
    content.extend(batch.bytes);
    let current = files.replace(&content, now, older.as_deref())?;
    if let Some(chain) = chain {
        chain.restart(value);
        batch.digests.into_iter().for_each(|digests| chain.push(digests));
    }
    Ok((current, opened))
}

fn register_state(name: String, values: &Values) -> RegisterState {
    let banks = values.iter().map(|(bank, value)| (algorithm::name(*bank), hex(value)));
    RegisterState { name, banks: banks.collect() }
}

/// The value that a record states; `None` where it states none.
fn stated(record: &Map<String, Value>) -> Option<Values> {
    let banks = record.get("register_banks")?.as_object()?;
    let values: Option<Values> = BANKS
        .iter()
        .filter_map(|(bank, _)| Some((*bank, banks.get(&algorithm::name(*bank))?)))
        .map(|(bank, value)| Some((bank, from_hex(value.as_str()?.as_bytes())?)))
        .collect();
    values.filter(|values| !values.is_empty())
}

/// Records as events.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    digests: Vec<EventDigests>,
}

impl Batch {
    fn of(records: &[Record], index: u32) -> Result<Batch> {
        let mut batch = Batch::default();
        for record in records {
            let data = record.to_event_data();
            let digests = EventDigests::of(&data);
            let written =
                write_event(&mut batch.bytes, index, EV_EVENT_TAG, &digests.list(), &data);
            written
                .map_err(|_| Error::BatchTooLarge { bytes: data.len(), limit: LARGEST_BATCH })?;
            batch.digests.push(digests);
        }
        Ok(batch)
    }
}

/// What had to be mended when the log was opened.
#[derive(Debug, Default)]
struct Recovery {
    bytes_cut: u64,
    events_extended: u64,
    /// The file before this one cannot be read beyond this offset.
    damaged_at: Option<u64>,
}

impl Recovery {
    fn record(self) -> Option<Record> {
        let Recovery { bytes_cut, events_extended, damaged_at } = self;
        if bytes_cut == 0 && events_extended == 0 && damaged_at.is_none() {
            return None;
        }
        let body = Body::LogRecovered { bytes_cut, events_extended };
        let mut record = Record::new(SystemTime::now(), body);
        record.note = damaged_at
            .map(|offset| format!("the previous file is damaged at offset {offset} and kept so"));
        Some(record)
    }
}

/// A file of ours as it was found.
#[derive(Debug)]
struct Standing {
    log: Log<Vec<u8>>,
    registered: Registered,
    /// How many events are whole, digests included.
    events: usize,
    /// Where the last of them ends, and how many bytes follow.
    length: u64,
    rest: u64,
}

impl Standing {
    /// The file at the log's place, `None` where there is none. Anything that is no
    /// container log is left alone.
    fn in_place(files: &Files) -> Result<Option<(File, Standing)>> {
        let Some((file, content)) = files.open()? else { return Ok(None) };
        match Standing::of(content) {
            Some(standing) => Ok(Some((file, standing))),
            None => Err(Error::NotAContainerLog { path: files.path().to_owned() }),
        }
    }

    fn of(content: Vec<u8>) -> Option<Standing> {
        let all = content.len();
        if all > source::LIMIT {
            return None;
        }
        let log = Log::parse(content).ok()?;
        let header = log.spec_id()?;
        let registered = Registered::of(header)?;
        let mut events = 0usize;
        let mut length = header.length;
        for event in log.events() {
            // A power loss can leave a whole event of zeros where its data should be.
            if EventDigests::confirmed(&event).is_none() {
                break;
            }
            events = events.saturating_add(1);
            length = event.offset.saturating_add(event.bytes.len());
        }
        let rest = u64::try_from(all.saturating_sub(length)).unwrap_or(u64::MAX);
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        Some(Standing { log, registered, events, length, rest })
    }

    /// What a crash leaves behind the last whole event.
    fn is_torn(&self) -> bool {
        self.rest > 0 && !self.is_damaged()
    }

    fn is_damaged(&self) -> bool {
        self.rest > u64::try_from(LARGEST_BATCH).unwrap_or(u64::MAX)
    }

    fn first_record(&self) -> Map<String, Value> {
        let first = self.log.event(1).filter(|_| self.events > 0);
        let record = first.and_then(|event| record::decode(event.data)).unwrap_or_default();
        match text(&record, "kind") {
            "log_opened" => record,
            _ => Map::new(),
        }
    }

    fn boot_id(&self) -> String {
        text(&self.first_record(), "boot_id").to_owned()
    }

    /// When it was begun, by its own record.
    fn opened(&self) -> SystemTime {
        let stated = humantime::parse_rfc3339(text(&self.first_record(), "time"));
        stated.unwrap_or_else(|_| SystemTime::now())
    }

    /// Whether these settings would have begun just such a file.
    fn goes_on(&self, settings: &Settings) -> bool {
        let record = self.first_record();
        let register = settings.register.as_ref().map(Register::name).unwrap_or_default();
        text(&record, "boot_id") == settings.boot_id
            && text(&record, "register") == register
            && self.registered == settings.registered()
            && !self.is_damaged()
    }

    /// Tells the chain what the file says of the register.
    fn recall(&self, chain: &mut Chain) {
        for event in self.log.events().take(self.events) {
            let record = record::decode(event.data).unwrap_or_default();
            if matches!(text(&record, "kind"), "log_opened" | "register_changed") {
                chain.restart(stated(&record));
            }
            chain.push(EventDigests::of(event.data));
        }
    }
}

/// What the files of this boot say.
#[derive(Debug, Default)]
struct Past {
    next_seq: u64,
    known: HashSet<String>,
    /// Adjustments so far without an outcome: few, whatever the number of records.
    unfinished: BTreeMap<u64, Map<String, Value>>,
    finished: HashSet<u64>,
}

impl Past {
    fn learn_older(&mut self, files: &Files, boot_id: &str) -> Result<()> {
        for path in files.older()? {
            let content = File::open(&path).and_then(|mut file| files::read_bounded(&mut file));
            // It is history: what cannot be read of it stops nobody.
            let Ok(content) = content.inspect_err(|error| log::warn!("{path:?}: {error}")) else {
                continue;
            };
            if let Some(standing) = Standing::of(content).filter(|s| s.boot_id() == boot_id) {
                self.learn(&standing.log, standing.events);
            }
        }
        Ok(())
    }

    fn learn(&mut self, log: &Log<Vec<u8>>, events: usize) {
        for event in log.events().take(events) {
            let Some(record) = record::decode(event.data) else { continue };
            let number = |key: &str| record.get(key).and_then(Value::as_u64);
            // RFC 8785 has no greater numbers, so that none of ours is.
            let seq = number("seq").filter(|seq| *seq < (1 << 53) - 1);
            self.next_seq = self.next_seq.max(seq.map_or(0, |seq| seq.saturating_add(1)));
            let kind = text(&record, "kind");
            if matches!(kind, "adjustment" | "no_adjustment" | "baseline" | "unaudited_creation") {
                self.known.insert(text(&record, "container_id").to_owned());
            }
            match (kind, seq, number("of")) {
                ("adjustment" | "update", Some(seq), _) if !self.finished.contains(&seq) => {
                    self.unfinished.insert(seq, record);
                }
                ("outcome", _, Some(of)) => {
                    self.unfinished.remove(&of);
                    self.finished.insert(of);
                }
                _ => {}
            }
        }
    }

    fn opened(self, log: ContainerLog) -> Opened {
        let Past { next_seq, known, unfinished, .. } = self;
        Opened { log, next_seq, known, unfinished: unfinished.into_values().collect() }
    }
}

fn text<'r>(record: &'r Map<String, Value>, key: &str) -> &'r str {
    record.get(key).and_then(Value::as_str).unwrap_or_default()
}
