//! What the container log says: one record, its canonical JSON, its event data.
//!
//! `eventlog-nri` writes records, everybody else reads them. In the log a record is
//! the data of an EV_EVENT_TAG event, a TCG_PCClientTaggedEvent (PFP 1.06 §10.4.2)
//! of our tag whose content is JSON in the canonical form of RFC 8785: keys sorted,
//! no white space. So whoever parsed a record can compute its digest again.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::log::reader::Reader;
use crate::log::{Registers, SpecId};

mod field;

pub use field::{nri_event, Action, Attribution, Field, Outcome};

/// Identifies our tagged events: "NRIL" read as a big-endian number, as AAEL's is.
pub const TAG: u32 = 0x4e52_494c;

/// Strings of a record come from plugins and pods; longer ones are cut, in bytes of
/// JSON. No record is longer than [`LONGEST`] by this.
pub const LONGEST_STRING: usize = 4096;

/// Of a record, in bytes.
const LONGEST: usize = 256 << 10;

/// As many plugins as one adjustment names.
pub const MOST_PLUGINS: usize = 32;

/// One entry of the container log.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub time: SystemTime,
    /// Counts what the plugin saw: a gap is a loss. What the writer itself has to
    /// say is not counted.
    pub seq: Option<u64>,
    pub runtime: Option<Arc<Runtime>>,
    pub container: Option<Arc<Container>>,
    pub body: Body,
    /// What else is to be known, in a few words.
    pub note: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    pub name: String,
    pub version: String,
}

/// A container and its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub pod_namespace: String,
    pub pod_name: String,
    pub pod_uid: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// The first record of every file.
    LogOpened {
        boot_id: String,
        /// Of this program.
        version: String,
        /// The name of the file before this one.
        previous: Option<String>,
        /// The register that this file's events are extended into, as it was before.
        register: Option<RegisterState>,
    },
    /// What a writer that died left unfinished, and what was done about it.
    LogRecovered {
        bytes_cut: u64,
        events_extended: u64,
    },
    /// Somebody else extended the register: it was found like this, and the log
    /// replays from here on, this record's own event included.
    RegisterChanged {
        register: RegisterState,
    },
    /// So many records are missing here.
    Lost {
        records: u64,
    },
    SessionStarted {
        nri_version: String,
    },
    SessionEnded,
    PluginConnected {
        plugin: String,
    },
    PluginGone {
        plugin: String,
    },
    /// A container that was there before the plugin.
    Baseline,
    /// A container that came to be while nobody watched.
    UnauditedCreation,
    /// A creation that no plugin adjusted.
    NoAdjustment,
    Adjustment(Change),
    /// A change to a container that exists already.
    Update(Change),
    /// What became of the change of record `of`.
    Outcome {
        of: u64,
        outcome: Outcome,
        change: Change,
    },
}

/// A register's value, bank by bank: algorithm name and lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterState {
    /// `RTMR3`, `PCR13`.
    pub name: String,
    pub banks: Vec<(String, String)>,
}

/// One thing that a plugin asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The container that it is for, where that is another than the record's.
    pub target: Option<String>,
    pub field: Field,
    pub action: Action,
    /// The key, in a field that has some.
    pub name: Option<String>,
    pub value: Shown,
    /// As `index-name`, in the order in which they were called.
    pub plugins: Vec<String>,
    pub attribution: Attribution,
}

/// What a record shows of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// There is none, as where something is removed.
    Nothing,
    /// There is one, and it may be a secret.
    Redacted,
    Value(String),
}

impl Body {
    /// The record's kind as it is published.
    pub fn kind(&self) -> &'static str {
        self.row().0
    }

    /// The journal's MESSAGE_ID of the kind, 128 bits as hexadecimal digits; the
    /// message catalogue explains each.
    pub fn message_id(&self) -> &'static str {
        self.row().1
    }

    fn row(&self) -> (&'static str, &'static str) {
        match self {
            Body::LogOpened { .. } => ("log_opened", "07fea77223af46e2b89c1d99f099195b"),
            Body::LogRecovered { .. } => ("log_recovered", "c5fc5f7b67274fb58f0e9cdad27b8a02"),
            Body::RegisterChanged { .. } => {
                ("register_changed", "60fe882095fc4b2d9fc8790f51a99616")
            }
            Body::Lost { .. } => ("lost", "f48e7af51b924e35844042dd5720c0da"),
            Body::SessionStarted { .. } => ("session_started", "d3ad6abd717a4d9e8b90a23fcbea236c"),
            Body::SessionEnded => ("session_ended", "c57d664b9b2745b6b968c4cdf81ac0a0"),
            Body::PluginConnected { .. } => {
                ("plugin_connected", "9b147baf20df483fadd8219870dd2034")
            }
            Body::PluginGone { .. } => ("plugin_gone", "d03ada2d812d425aacfe89da484249b9"),
            Body::Baseline => ("baseline", "204e427e74e74077acf3d446f306dcbc"),
            Body::UnauditedCreation => ("unaudited_creation", "9a78c304f70f41a89cfd169cb380f022"),
            Body::NoAdjustment => ("no_adjustment", "cca31694db8d4803816391247de694aa"),
            Body::Adjustment(_) => ("adjustment", "a95bc0aacbdc4fadb440c647fa0b8be2"),
            Body::Update(_) => ("update", "4a1c581d3a8c404da33572b662562a08"),
            Body::Outcome { .. } => ("outcome", "a8db4d2098fa4ee0825d99b9fd301930"),
        }
    }

    pub fn change(&self) -> Option<&Change> {
        match self {
            Body::Adjustment(change) | Body::Update(change) => Some(change),
            Body::Outcome { change, .. } => Some(change),
            _ => None,
        }
    }
}

impl Change {
    /// What an adjustment's record in the log says was asked for.
    pub fn from_json(record: &Map<String, Value>) -> Option<Change> {
        let text = |key: &str| record.get(key).and_then(Value::as_str);
        let plugins = record.get("plugins").and_then(Value::as_array);
        let plugins = plugins.into_iter().flatten().filter_map(Value::as_str);
        Some(Change {
            target: text("target").map(str::to_owned),
            field: Field::from_name(text("field")?)?,
            action: Action::from_name(text("action")?)?,
            name: text("name").map(str::to_owned),
            value: match (text("value"), record.contains_key("redacted")) {
                (Some(value), _) => Shown::Value(value.to_owned()),
                (None, true) => Shown::Redacted,
                (None, false) => Shown::Nothing,
            },
            plugins: plugins.map(str::to_owned).collect(),
            attribution: Attribution::from_name(text("attribution")?)?,
        })
    }
}

impl Container {
    /// The container of a record in the log.
    pub fn from_json(record: &Map<String, Value>) -> Option<Container> {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        let container = Container {
            id: text("container_id").to_owned(),
            name: text("container_name").to_owned(),
            pod_namespace: text("pod_namespace").to_owned(),
            pod_name: text("pod_name").to_owned(),
            pod_uid: text("pod_uid").to_owned(),
        };
        (!container.id.is_empty()).then_some(container)
    }
}

impl Record {
    /// A record about no container in particular.
    pub fn new(time: SystemTime, body: Body) -> Record {
        Record { time, seq: None, runtime: None, container: None, body, note: None }
    }

    /// The record as JSON. Keys that do not apply are left out, so that nothing
    /// stands for nothing; a removal is an action and never a value.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut json = Json(Map::new());
        json.text("kind", self.body.kind());
        json.text("time", &humantime::format_rfc3339_micros(self.time).to_string());
        json.number("seq", self.seq);
        if let Some(Runtime { name, version }) = self.runtime.as_deref() {
            json.text("runtime", name);
            json.text("runtime_version", version);
        }
        if let Some(container) = &self.container {
            json.text("container_id", &container.id);
            json.text("container_name", &container.name);
            json.text("pod_namespace", &container.pod_namespace);
            json.text("pod_name", &container.pod_name);
            json.text("pod_uid", &container.pod_uid);
        }
        match &self.body {
            Body::LogOpened { boot_id, version, previous, register } => {
                json.text("boot_id", boot_id);
                json.text("version", version);
                json.text("previous", previous.as_deref().unwrap_or_default());
                json.register(register.as_ref());
            }
            Body::LogRecovered { bytes_cut, events_extended } => {
                json.number("bytes_cut", Some(*bytes_cut));
                json.number("events_extended", Some(*events_extended));
            }
            Body::RegisterChanged { register } => json.register(Some(register)),
            Body::Lost { records } => json.number("records", Some(*records)),
            Body::SessionStarted { nri_version } => json.text("nri_version", nri_version),
            Body::PluginConnected { plugin } | Body::PluginGone { plugin } => {
                json.list("plugins", std::slice::from_ref(plugin));
            }
            Body::Adjustment(change) | Body::Update(change) => json.change(change),
            Body::Outcome { of, outcome, change } => {
                json.change(change);
                json.number("of", Some(*of));
                json.text("outcome", outcome.name());
            }
            Body::SessionEnded | Body::Baseline | Body::UnauditedCreation | Body::NoAdjustment => {}
        }
        json.text("note", self.note.as_deref().unwrap_or_default());
        json.0
    }

    /// The record as the data of an EV_EVENT_TAG event.
    pub fn to_event_data(&self) -> Vec<u8> {
        let json = Value::Object(self.to_json()).to_string();
        // Strings, lists and their number are bounded, so that this fits.
        let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
        let mut data = Vec::with_capacity(json.len().saturating_add(8));
        data.extend(TAG.to_le_bytes());
        data.extend(length.to_le_bytes());
        data.extend(json.as_bytes());
        data
    }
}

/// The record in an event's data, `None` where the data is something else: also JSON
/// that is longer than any record or not canonical, since it says different things to
/// different readers.
pub fn decode(event_data: &[u8]) -> Option<Map<String, Value>> {
    let mut reader = Reader::new(event_data);
    let (tag, length) = reader.u32().zip(reader.u32())?;
    let content = reader.take_u32(length).filter(|_| tag == TAG)?;
    if content.len() > LONGEST {
        return None;
    }
    let record: Map<String, Value> = serde_json::from_slice(content).ok()?;
    let canonical = serde_json::to_string(&record).ok()?;
    (canonical.as_bytes() == content).then_some(record)
}

/// A record in a line for people. Made from what stands in the log, which anybody
/// may have written: nothing is taken for granted, and control characters are left
/// to whoever shows it.
pub fn describe(record: &Map<String, Value>) -> String {
    let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| record.get(key).and_then(Value::as_u64).unwrap_or_default();
    let plugins: Vec<&str> = record
        .get("plugins")
        .and_then(Value::as_array)
        .map(|plugins| plugins.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let plugins = match (plugins.is_empty(), text("attribution")) {
        (true, _) => "somebody unknown".to_owned(),
        (false, "ambiguous") => format!("one of {}", plugins.join(", ")),
        (false, "inferred") => format!("{} (inferred)", plugins.join(", ")),
        (false, _) => plugins.join(", "),
    };
    let container = match text("pod_name") {
        "" => format!("container {}", text("container_id")),
        pod => format!("{}/{pod}/{}", text("pod_namespace"), text("container_name")),
    };
    let change = || {
        let key = [text("field"), text("name")].join(" ");
        let value = match text("value") {
            "" => String::new(),
            value => format!(" = {value}"),
        };
        let target = match text("target") {
            "" => container.clone(),
            target => format!("container {target}, with {container}"),
        };
        format!("{} {}{value} by {plugins} in {target}", text("action"), key.trim_end())
    };
    let note = match text("note") {
        "" => String::new(),
        note => format!(" ({note})"),
    };
    let said = match text("kind") {
        "log_opened" => format!("log opened by eventlog-nri {}", text("version")),
        "log_recovered" => format!(
            "log recovered: {} bytes of an unfinished event cut, {} events extended late",
            number("bytes_cut"),
            number("events_extended")
        ),
        "register_changed" => "the register was extended by somebody else".to_owned(),
        "lost" => format!("{} records are missing here", number("records")),
        "session_started" => {
            format!("connected to {} {}", text("runtime"), text("runtime_version"))
        }
        "session_ended" => format!("disconnected from {}", text("runtime")),
        "plugin_connected" => format!("plugin {plugins} connected"),
        "plugin_gone" => format!("plugin {plugins} gone"),
        "baseline" => format!("{container} was there before"),
        "unaudited_creation" => format!("{container} was created unaudited"),
        "no_adjustment" => format!("{container} was created without adjustments"),
        "adjustment" => change(),
        "update" => format!("update: {}", change()),
        "outcome" => format!("{}: {}", text("outcome"), change()),
        kind => format!("record of unknown kind {kind}"),
    };
    said + &note
}

/// Which register a container log is about, in the terms of both kinds of machine:
/// the vendorInfo of its Spec ID event. Events carry the index of the register that
/// they were extended into, and a reader of the other kind finds its own here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    pub mr_index: u32,
    pub pcr: u32,
}

const VENDOR_INFO: &[u8; 8] = b"ccnp-nri";

impl Registered {
    pub fn to_vendor_info(self) -> Vec<u8> {
        [&VENDOR_INFO[..], &self.mr_index.to_le_bytes(), &self.pcr.to_le_bytes()].concat()
    }

    /// What a log's header says; `None` where it is no container log.
    pub fn of(header: &SpecId) -> Option<Registered> {
        let mut reader = Reader::new(&header.vendor_info);
        let ours = reader.take(VENDOR_INFO.len())? == VENDOR_INFO;
        let (mr_index, pcr) = reader.u32().zip(reader.u32())?;
        ours.then_some(Registered { mr_index, pcr })
    }

    /// The index in the terms of a kind of registers.
    pub fn index(self, registers: Registers) -> u32 {
        match registers {
            Registers::Rtmr => self.mr_index,
            Registers::Pcr => self.pcr,
        }
    }
}

/// An object under construction: what is empty is left out, what is long is cut.
struct Json(Map<String, Value>);

impl Json {
    fn text(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.0.insert(key.to_owned(), bounded(text).into());
        }
    }

    fn number(&mut self, key: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.0.insert(key.to_owned(), number.into());
        }
    }

    fn list(&mut self, key: &str, texts: &[String]) {
        if !texts.is_empty() {
            let texts: Vec<String> =
                texts.iter().take(MOST_PLUGINS).map(|text| bounded(text)).collect();
            self.0.insert(key.to_owned(), texts.into());
        }
    }

    fn register(&mut self, register: Option<&RegisterState>) {
        let Some(RegisterState { name, banks }) = register else { return };
        self.text("register", name);
        let banks: Map<String, Value> =
            banks.iter().map(|(bank, value)| (bank.clone(), bounded(value).into())).collect();
        self.0.insert("register_banks".to_owned(), banks.into());
    }

    fn change(&mut self, change: &Change) {
        let Change { target, field, action, name, value, plugins, attribution } = change;
        self.text("target", target.as_deref().unwrap_or_default());
        self.text("field", field.name());
        self.text("action", action.name());
        self.text("event", &format!("{}.{}", field.name(), action.name()));
        self.text("nri_event", nri_event(*field, *action).unwrap_or_default());
        self.text("name", name.as_deref().unwrap_or_default());
        match value {
            Shown::Nothing => {}
            Shown::Redacted => drop(self.0.insert("redacted".to_owned(), true.into())),
            Shown::Value(value) => self.text("value", value),
        }
        self.list("plugins", plugins);
        self.text("attribution", attribution.name());
    }
}

/// The text, or as much of it as a record has room for and a mark that it was cut.
/// What JSON escapes counts as what it becomes.
fn bounded(text: &str) -> String {
    let mut length = 0usize;
    let cut = text.char_indices().find(|(_, character)| {
        let escaped = character.is_control() || matches!(character, '"' | '\\');
        length = length.saturating_add(if escaped { 6 } else { character.len_utf8() });
        length > LONGEST_STRING
    });
    match cut.and_then(|(at, _)| text.get(..at)) {
        Some(beginning) => format!("{beginning}…"),
        None => text.to_owned(),
    }
}
