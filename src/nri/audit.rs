//! What a runtime says → records.
//!
//! A creation is followed from its adjustments to the first sight of the container;
//! until then only fingerprints of what was asked for are kept, and of a bounded
//! number of containers. Everything said may be wrong, late, doubled or missing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use protobuf::Message;
use serde_json::{Map, Value};

use super::adjustment::{self, cut, Asked, Detail, Effective, Requested};
use super::outcome::outcome;
use super::session::{Call, Method};
use crate::messages::nri::{
    ConfigureRequest, Container, ContainerEventRequest, Event, PodSandbox, StateChangeEvent,
    SynchronizeRequest, UpdateContainerRequest, ValidateContainerAdjustmentRequest,
};
use crate::record::{self, Body, Change, Outcome, Record, Runtime};

/// As many containers as a node ever creates at once, and more.
const MOST_PENDING: usize = 4096;
/// Adjustments of all of these together.
const MOST_OPEN: usize = 1 << 17;
/// A runtime shows a container within moments of its creation, if ever.
const PATIENCE: Duration = Duration::from_secs(600);
/// Container identifiers that were seen; those of removed containers are forgotten.
const MOST_KNOWN: usize = 65536;
/// No node has more containers.
const MOST_SYNCHRONIZED: usize = 65536;

/// The state between a runtime's messages.
#[derive(Debug)]
pub struct Audit {
    /// Our own name among the plugins.
    ourselves: String,
    detail: Detail,
    next_seq: u64,
    runtime: Arc<Runtime>,
    nri_version: String,
    /// What was asked for and has not shown yet, by the container that will show it.
    pending: HashMap<String, Pending>,
    /// How many adjustments that is.
    open: usize,
    /// Containers that the log knows of.
    known: HashSet<String>,
    /// Whether there was a session before this one: what is new then was missed.
    watched_before: bool,
    plugins: Vec<String>,
    /// A Synchronize under way, which may come in several messages.
    synchronizing: Vec<(Arc<record::Container>, Option<Effective>)>,
    /// Of the pods, what records say.
    pods: HashMap<String, PodSandbox>,
}

#[derive(Debug)]
struct Pending {
    asked: Vec<Asked>,
    since: Instant,
    /// There was a time in which the container may have shown, unseen.
    interrupted: bool,
}

impl Audit {
    /// `next_seq` and `known` go on from what the log holds already.
    pub fn new(ourselves: String, detail: Detail, next_seq: u64, known: HashSet<String>) -> Audit {
        // A session is the first that is ever recorded.
        let watched_before = next_seq > 0;
        Audit {
            ourselves,
            detail,
            next_seq,
            runtime: Arc::default(),
            nri_version: String::new(),
            pending: HashMap::new(),
            open: 0,
            watched_before,
            known,
            plugins: Vec::new(),
            synchronizing: Vec::new(),
            pods: HashMap::new(),
        }
    }

    /// What an earlier run asked for and did not see the end of: the fingerprints went
    /// with it.
    pub fn leave_unresolved(&mut self, unfinished: &[Map<String, Value>]) -> Vec<Record> {
        let mut records = Vec::new();
        for record in unfinished {
            let of = record.get("seq").and_then(Value::as_u64);
            let change = Change::from_json(record);
            let Some((of, change)) = of.zip(change) else { continue };
            let body = Body::Outcome { of, outcome: Outcome::Unresolved, change };
            let mut record = self.record(record::Container::from_json(record).map(Arc::new), body);
            record.runtime = None;
            record.note = Some("the plugin was restarted".to_owned());
            records.push(record);
        }
        records
    }

    /// A session begins.
    pub fn configured(&mut self, request: &ConfigureRequest, validates: bool) -> Vec<Record> {
        self.runtime = Arc::new(Runtime {
            name: cut(&request.runtime_name),
            version: cut(&request.runtime_version),
        });
        self.nri_version = cut(&request.nri_version);
        self.synchronizing.clear();
        self.pods.clear();
        let nri_version = self.nri_version.clone();
        let mut started = self.record(None, Body::SessionStarted { nri_version });
        if !validates {
            started.note = Some("this runtime may not tell who adjusts what".to_owned());
        }
        vec![started]
    }

    /// A call of the session, other than Configure.
    pub fn hear(&mut self, call: &Call) -> protobuf::Result<Vec<Record>> {
        let payload = &call.payload;
        Ok(match call.method {
            Method::Synchronize => {
                self.synchronized(&SynchronizeRequest::parse_from_bytes(payload)?)
            }
            Method::Validate => {
                self.validated(&ValidateContainerAdjustmentRequest::parse_from_bytes(payload)?)
            }
            Method::Event(Event::UPDATE_CONTAINER) => {
                self.updating(&UpdateContainerRequest::parse_from_bytes(payload)?)
            }
            Method::Event(
                event @ (Event::POST_CREATE_CONTAINER
                | Event::START_CONTAINER
                | Event::POST_START_CONTAINER
                | Event::POST_UPDATE_CONTAINER
                | Event::REMOVE_CONTAINER),
            ) => {
                let request = ContainerEventRequest::parse_from_bytes(payload)?;
                self.happened(event, &request.pod, &request.container)
            }
            Method::StateChange => {
                let change = StateChangeEvent::parse_from_bytes(payload)?;
                let event = change.event.enum_value_or_default();
                self.happened(event, &change.pod, &change.container)
            }
            // Other events are of pods, or say what others say again.
            _ => Vec::new(),
        })
    }

    /// A session ended. Creations under way stay open: the next session may show them.
    pub fn disconnected(&mut self) -> Vec<Record> {
        for pending in self.pending.values_mut() {
            pending.interrupted = true;
        }
        vec![self.record(None, Body::SessionEnded)]
    }

    /// The containers that exist, in one message or several.
    fn synchronized(&mut self, request: &SynchronizeRequest) -> Vec<Record> {
        let room = MOST_SYNCHRONIZED.saturating_sub(self.pods.len());
        for PodSandbox { id, name, uid, namespace, .. } in request.pods.iter().take(room) {
            let [id, name, uid, namespace] = [id, name, uid, namespace].map(|text| cut(text));
            let pod = PodSandbox { id: id.clone(), name, uid, namespace, ..PodSandbox::default() };
            self.pods.insert(id, pod);
        }
        let room = MOST_SYNCHRONIZED.saturating_sub(self.synchronizing.len());
        for container in request.containers.iter().take(room) {
            let pod = self.pods.get(&container.pod_sandbox_id).cloned().unwrap_or_default();
            let subject = subject(&pod, container);
            let awaited = self.pending.contains_key(&subject.id);
            let effective = awaited.then(|| Effective::of(container));
            self.synchronizing.push((subject, effective));
        }
        if request.more {
            return Vec::new();
        }
        self.pods.clear();
        let mut records = Vec::new();
        let all = std::mem::take(&mut self.synchronizing);
        // Those whose end nobody told are forgotten here.
        let exist: HashSet<&str> = all.iter().map(|(container, _)| container.id.as_str()).collect();
        let pending = &self.pending;
        self.known.retain(|id| exist.contains(id.as_str()) || pending.contains_key(id));
        for (container, effective) in all {
            if let Some(effective) = effective {
                records.extend(self.resolve(&container.id, &effective));
            }
            if self.is_new(&container.id) {
                let body = match self.watched_before {
                    true => Body::UnauditedCreation,
                    false => Body::Baseline,
                };
                records.push(self.record(Some(container), body));
            }
        }
        self.watched_before = true;
        records
    }

    /// A container is about to be created, as plugins adjusted it.
    fn validated(&mut self, request: &ValidateContainerAdjustmentRequest) -> Vec<Record> {
        let mut records = self.plugins_now(request);
        let container = subject(&request.pod, &request.container);
        self.is_new(&container.id);
        let Requested { mut asked, left_out } =
            adjustment::requested(request, &self.ourselves, &self.nri_version, self.detail);
        if asked.is_empty() {
            records.push(self.record(Some(container), Body::NoAdjustment));
            return records;
        }
        for asked in &mut asked {
            let body = match asked.change.target {
                None => Body::Adjustment(asked.change.clone()),
                Some(_) => Body::Update(asked.change.clone()),
            };
            records.push(self.ask(&container, asked, body));
        }
        records.extend(self.leave_out(&container, left_out));
        records.extend(self.wait(asked));
        records
    }

    /// Something happened to a container.
    fn happened(&mut self, event: Event, pod: &PodSandbox, container: &Container) -> Vec<Record> {
        let subject = subject(pod, container);
        match event {
            Event::POST_CREATE_CONTAINER | Event::START_CONTAINER => {
                let mut records = self.shown(&subject.id, container);
                if self.is_new(&subject.id) {
                    records.push(self.record(Some(subject), Body::UnauditedCreation));
                }
                records
            }
            Event::POST_START_CONTAINER | Event::POST_UPDATE_CONTAINER => {
                self.shown(&subject.id, container)
            }
            Event::REMOVE_CONTAINER => {
                self.known.remove(&subject.id);
                // What came to be has been shown before, and is not pending any more.
                let pending = self.take_pending(&subject.id);
                let outcome = match &pending {
                    Some(pending) if pending.interrupted => Outcome::Unresolved,
                    _ => Outcome::NeverCreated,
                };
                self.give_up(pending, outcome)
            }
            _ => Vec::new(),
        }
    }

    /// An existing container is about to be updated.
    fn updating(&mut self, request: &UpdateContainerRequest) -> Vec<Record> {
        let container = subject(&request.pod, &request.container);
        let Requested { mut asked, left_out } =
            adjustment::update(&request.container, &request.linux_resources, self.detail);
        let mut records = Vec::new();
        records.extend(self.leave_out(&container, left_out));
        for asked in &mut asked {
            let body = Body::Update(asked.change.clone());
            records.push(self.ask(&container, asked, body));
        }
        records.extend(self.wait(asked));
        records
    }

    /// Gives up what has been open for too long.
    pub fn expire(&mut self) -> Vec<Record> {
        let old = |pending: &Pending| pending.since.elapsed() > PATIENCE;
        let expired: Vec<String> = self
            .pending
            .iter()
            .filter(|(_, pending)| old(pending))
            .map(|(id, _)| id.clone())
            .collect();
        let expired: Vec<Pending> = expired.iter().filter_map(|id| self.take_pending(id)).collect();
        self.give_up(expired, Outcome::Unresolved)
    }

    /// Gives up everything that is open: the plugin stops.
    pub fn finish(&mut self) -> Vec<Record> {
        let pending: Vec<Pending> = self.pending.drain().map(|(_, pending)| pending).collect();
        self.give_up(pending, Outcome::Unresolved)
    }

    /// A message that could not be decoded: nobody knows what it said.
    pub fn undecodable(&mut self) -> Vec<Record> {
        let mut lost = self.record(None, Body::Lost { records: 1 });
        lost.note = Some("a message of the runtime could not be decoded".to_owned());
        vec![lost]
    }

    fn leave_out(&mut self, container: &Arc<record::Container>, number: usize) -> Option<Record> {
        let records = u64::try_from(number).ok().filter(|number| *number > 0)?;
        let mut lost = self.record(Some(Arc::clone(container)), Body::Lost { records });
        lost.note = Some("more adjustments than are recorded of one creation".to_owned());
        Some(lost)
    }

    fn shown(&mut self, id: &str, container: &Container) -> Vec<Record> {
        match self.pending.contains_key(id) {
            true => self.resolve(id, &Effective::of(container)),
            false => Vec::new(),
        }
    }

    fn take_pending(&mut self, id: &str) -> Option<Pending> {
        let pending = self.pending.remove(id)?;
        self.open = self.open.saturating_sub(pending.asked.len());
        Some(pending)
    }

    fn resolve(&mut self, id: &str, effective: &Effective) -> Vec<Record> {
        let Some(pending) = self.take_pending(id) else { return Vec::new() };
        let mut records = Vec::new();
        for asked in pending.asked {
            let (outcome, note) = outcome(&asked, effective, &self.runtime);
            records.push(self.outcome(asked, outcome, note));
        }
        records
    }

    fn give_up(
        &mut self,
        pending: impl IntoIterator<Item = Pending>,
        creation: Outcome,
    ) -> Vec<Record> {
        let mut records = Vec::new();
        for asked in pending.into_iter().flat_map(|pending| pending.asked) {
            let outcome = match (asked.of_creation, &asked.change.target) {
                (true, _) => creation,
                // Nobody tells what became of an update of another container; one
                // that should have been confirmed was interrupted.
                (false, Some(_)) => Outcome::NotObservable,
                (false, None) => Outcome::Unresolved,
            };
            let note = asked.note;
            records.push(self.outcome(asked, outcome, note));
        }
        records
    }

    fn outcome(&mut self, asked: Asked, outcome: Outcome, note: Option<&'static str>) -> Record {
        let Asked { seq: of, container, change, .. } = asked;
        let mut record = self.record(Some(container), Body::Outcome { of, outcome, change });
        record.note = note.map(str::to_owned);
        record
    }

    /// The record of something asked for, whose outcome will refer to it.
    fn ask(&mut self, container: &Arc<record::Container>, asked: &mut Asked, body: Body) -> Record {
        asked.seq = self.next_seq;
        asked.container = container.clone();
        asked.of_creation = matches!(body, Body::Adjustment(_));
        let mut record = self.record(Some(container.clone()), body);
        record.note = asked.note.map(str::to_owned);
        record
    }

    /// Keeps what was asked for until the container that it is for shows.
    fn wait(&mut self, asked: Vec<Asked>) -> Vec<Record> {
        let mut records = Vec::new();
        for asked in asked {
            let id = asked.change.target.as_ref().unwrap_or(&asked.container.id).clone();
            let full = self.pending.len() >= MOST_PENDING && !self.pending.contains_key(&id);
            if full || self.open >= MOST_OPEN {
                let oldest = self.pending.iter().min_by_key(|(_, pending)| pending.since);
                let oldest = oldest.map(|(id, _)| id.clone());
                let oldest = oldest.and_then(|id| self.take_pending(&id));
                records.extend(self.give_up(oldest, Outcome::Unresolved));
            }
            self.open = self.open.saturating_add(1);
            let pending = self.pending.entry(id).or_insert_with(|| Pending {
                asked: Vec::new(),
                since: Instant::now(),
                interrupted: false,
            });
            pending.asked.push(asked);
        }
        records
    }

    /// Who came and who went since the last creation. The runtime tells it only here,
    /// and tells neither why.
    fn plugins_now(&mut self, request: &ValidateContainerAdjustmentRequest) -> Vec<Record> {
        let now = adjustment::connected(request);
        let before = std::mem::replace(&mut self.plugins, now.clone());
        let gone = before.iter().filter(|plugin| !now.contains(plugin));
        let gone: Vec<Body> =
            gone.map(|plugin| Body::PluginGone { plugin: plugin.clone() }).collect();
        let connected = now.iter().filter(|plugin| !before.contains(plugin));
        let connected: Vec<Body> =
            connected.map(|plugin| Body::PluginConnected { plugin: plugin.clone() }).collect();
        gone.into_iter().chain(connected).map(|body| self.record(None, body)).collect()
    }

    /// Whether the log does not know of this container yet; from now on it does.
    fn is_new(&mut self, id: &str) -> bool {
        // Beyond the bound no container is called new: better none than a wrong one.
        self.known.len() < MOST_KNOWN && self.known.insert(id.to_owned())
    }

    fn record(&mut self, container: Option<Arc<record::Container>>, body: Body) -> Record {
        let seq = self.next_seq;
        self.next_seq = seq.saturating_add(1);
        Record {
            time: SystemTime::now(),
            seq: Some(seq),
            runtime: Some(Arc::clone(&self.runtime)),
            container,
            body,
            note: None,
        }
    }
}

fn subject(pod: &PodSandbox, container: &Container) -> Arc<record::Container> {
    Arc::new(record::Container {
        id: cut(&container.id),
        name: cut(&container.name),
        pod_namespace: cut(&pod.namespace),
        pod_name: cut(&pod.name),
        pod_uid: cut(&pod.uid),
    })
}
