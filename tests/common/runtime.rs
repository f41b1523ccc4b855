//! A container runtime as far as an NRI plugin sees one, and as strict as the one in
//! Go: multiplexer and ttrpc over a unix socket, in code of its own.

use std::fs;
use std::io::{self, Read, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ccnp_eventlog::messages::nri::{
    ConfigureRequest, ConfigureResponse, Container, ContainerAdjustment, ContainerEventRequest,
    ContainerUpdate, Event, LinuxResources, PluginInstance, PodSandbox, RegisterPluginRequest,
    StateChangeEvent, SynchronizeRequest, SynchronizeResponse, UpdateContainerRequest,
    ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};
use ccnp_eventlog::messages::ttrpc::{Request, Response, Status};
use ccnp_eventlog::record::Field;
use protobuf::{EnumOrUnknown, Message, MessageField};

/// The cores are shared and noisy, and a plugin is up in no time.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Connections of the multiplexer: what the runtime calls, what the plugin calls.
pub const PLUGIN: u32 = 1;
pub const RUNTIME: u32 = 2;

const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

pub const UNKNOWN: i32 = 2;
pub const RESOURCE_EXHAUSTED: i32 = 8;
pub const UNIMPLEMENTED: i32 = 12;

/// The buffer of Go's reader: a frame with the start of a message must fit.
const BUFFER: usize = 4096;
pub const LONGEST_MESSAGE: usize = 4 << 20;

/// A release of a runtime, as a plugin can tell it from others.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    pub name: &'static str,
    pub version: &'static str,
    /// Said since NRI 0.12.
    pub nri: &'static str,
    pub known_events: i32,
    /// A call for each event; before NRI 0.12, StateChange told of most.
    pub has_calls: bool,
}

const SINCE_0_2: i32 = 0x7ff;
const SINCE_0_10: i32 = 0x3fff;

pub const CONTAINERD_2_1: Version = containerd("2.1.4", SINCE_0_2);
pub const CONTAINERD_2_2_0: Version = containerd("2.2.0", SINCE_0_10);
pub const CONTAINERD_2_2_1: Version = containerd("v2.2.1-0ubuntu1~24.04.2", SINCE_0_10);
pub const CONTAINERD_2_3: Version =
    Version { nri: "v0.12.0", has_calls: true, ..containerd("2.3.0+unknown", SINCE_0_10) };
pub const CONTAINERD_2_4: Version =
    Version { nri: "v0.12.3", has_calls: true, ..containerd("v2.4.0", SINCE_0_10) };
pub const CRIO_1_34: Version = Version { name: "cri-o", ..containerd("1.34.0", SINCE_0_10) };
pub const DOCKER: Version = Version { name: "docker", ..containerd("28.5.1", SINCE_0_2) };

const fn containerd(version: &'static str, known_events: i32) -> Version {
    Version { name: "containerd", version, nri: "", known_events, has_calls: false }
}

/// How a message becomes frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// As Go does: a first frame of its buffer's size, and one with all the rest.
    AsGo,
    /// A frame, and a write, for each byte.
    ByteByByte,
    /// Short frames with those of a connection that nobody has between them.
    Interleaved,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    Refused(i32, String),
    TimedOut,
    Closed,
}

/// The runtime: its socket, what it is, and the plugin that is connected.
pub struct Runtime {
    listener: UnixListener,
    socket: PathBuf,
    pub version: Version,
    pub sending: Sending,
    /// Whether Configure comes before the answer to RegisterPlugin, as it may.
    pub configures_first: bool,
    pub request_timeout: Duration,
    /// What runs already, told to a plugin in so many messages.
    pub containers: Vec<Container>,
    pub parts: usize,
    session: Option<Session>,
}

impl Runtime {
    pub fn listen(socket: &Path, version: Version) -> Runtime {
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        Runtime {
            listener,
            socket: socket.to_owned(),
            version,
            sending: Sending::AsGo,
            configures_first: false,
            request_timeout: Duration::from_secs(2),
            containers: Vec::new(),
            parts: 1,
            session: None,
        }
    }

    /// The socket is unlinked and made anew, and whoever was connected no longer is.
    pub fn restart(&mut self) {
        self.session = None;
        fs::remove_file(&self.socket).unwrap();
        self.listener = UnixListener::bind(&self.socket).unwrap();
        self.listener.set_nonblocking(true).unwrap();
    }

    /// The next connection, whatever comes over it.
    pub fn accept_raw(&self) -> UnixStream {
        let begin = Instant::now();
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return stream,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(begin.elapsed() < PATIENCE, "no plugin connects");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A plugin that has asked to be registered and has no answer yet.
    pub fn accept(&self) -> Session {
        self.greet(self.accept_raw())
    }

    /// The same over a connection that the plugin was given.
    pub fn greet(&self, stream: UnixStream) -> Session {
        Session::open(Wire::new(stream, self.sending), self.version, self.request_timeout)
    }

    /// A plugin that is registered, configured and synchronized.
    pub fn connect(&mut self) {
        let session = self.accept();
        self.establish(session).expect("the plugin connects");
    }

    /// All that comes before the first event.
    pub fn establish(&mut self, mut session: Session) -> Result<(), Failure> {
        self.configure(&mut session)?;
        session.synchronize(&self.containers, self.parts)?;
        self.session = Some(session);
        Ok(())
    }

    pub fn configure(&self, session: &mut Session) -> Result<(), Failure> {
        if self.configures_first {
            session.send_configure();
            session.answer_registration(None);
        } else {
            session.answer_registration(None);
            session.send_configure();
        }
        session.receive_events()
    }

    /// Closes the connection without a word, which is all that runtimes ever do.
    pub fn disconnect(&mut self) {
        self.session = None;
    }
}

impl Deref for Runtime {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("a plugin is connected")
    }
}

impl DerefMut for Runtime {
    fn deref_mut(&mut self) -> &mut Session {
        self.session.as_mut().expect("a plugin is connected")
    }
}

/// One connection with a plugin, from its registration on.
pub struct Session {
    wire: Wire,
    version: Version,
    timeout: Duration,
    registration: u32,
    pub registered: RegisterPluginRequest,
    /// The mask that the plugin answered Configure with.
    pub events: i32,
    next: u32,
    /// Of every answer: the method and the time that it took.
    pub latencies: Vec<(String, Duration)>,
}

impl Session {
    fn open(mut wire: Wire, version: Version, timeout: Duration) -> Session {
        let message = wire.receive(PATIENCE).expect("a plugin registers");
        assert_eq!((message.connection, message.kind), (RUNTIME, REQUEST), "registers first");
        let request = Request::parse_from_bytes(&message.body).unwrap();
        assert_eq!((&*request.service, &*request.method), (RUNTIME_SERVICE, "RegisterPlugin"));
        let registered = RegisterPluginRequest::parse_from_bytes(&request.payload).unwrap();
        let good = |c: u8| c.is_ascii_alphanumeric() || b"_.+-".contains(&c);
        let (name, index) = (&registered.plugin_name, &registered.plugin_idx);
        assert!(!name.is_empty() && name.bytes().all(good), "name {name:?}");
        assert!(index.len() == 2 && index.bytes().all(|c| c.is_ascii_digit()), "index {index:?}");
        Session {
            wire,
            version,
            timeout,
            registration: message.id,
            registered,
            events: 0,
            next: 1,
            latencies: Vec::new(),
        }
    }

    pub fn answer_registration(&mut self, error: Option<&str>) {
        let status = error.map(|message| Status {
            code: UNKNOWN,
            message: message.to_owned(),
            ..Default::default()
        });
        let response =
            Response { status: MessageField(status.map(Box::new)), ..Default::default() };
        self.wire.send(RUNTIME, self.registration, RESPONSE, &bytes(&response));
    }

    fn send_configure(&mut self) {
        let request = ConfigureRequest {
            runtime_name: self.version.name.to_owned(),
            runtime_version: self.version.version.to_owned(),
            registration_timeout: 5000,
            request_timeout: i64::try_from(self.timeout.as_millis()).unwrap(),
            nri_version: self.version.nri.to_owned(),
            ..Default::default()
        };
        self.send(PLUGIN_SERVICE, "Configure", &bytes(&request));
    }

    /// The answer to Configure; a mask with events that the runtime does not know ends
    /// the session, and the plugin is not told why.
    fn receive_events(&mut self) -> Result<(), Failure> {
        let answer = self.receive("Configure", Instant::now())?;
        self.events = ConfigureResponse::parse_from_bytes(&answer).unwrap().events;
        if self.events & !self.version.known_events != 0 {
            self.wire.close();
            return Err(Failure::Closed);
        }
        Ok(())
    }

    pub fn synchronize(&mut self, containers: &[Container], parts: usize) -> Result<(), Failure> {
        let size = containers.len().div_ceil(parts).max(1);
        for part in 0..parts {
            let some = containers.iter().skip(part * size).take(size).cloned().collect();
            self.synchronize_part(some, part + 1 < parts)?;
        }
        Ok(())
    }

    pub fn synchronize_part(
        &mut self,
        containers: Vec<Container>,
        more: bool,
    ) -> Result<(), Failure> {
        let request =
            SynchronizeRequest { pods: vec![pod()], containers, more, ..Default::default() };
        self.synchronize_with(&request)
    }

    pub fn synchronize_with(&mut self, request: &SynchronizeRequest) -> Result<(), Failure> {
        let answer = self.call("Synchronize", request)?;
        let answer = SynchronizeResponse::parse_from_bytes(&answer).unwrap();
        assert_eq!(answer.more, request.more, "a plugin that does not echo `more` is dropped");
        assert!(answer.special_fields.unknown_fields().iter().next().is_none(), "no updates");
        Ok(())
    }

    /// Whether the plugin wants to know of an event.
    pub fn is_told(&self, event: Event) -> bool {
        let told = if self.events == 0 { self.version.known_events } else { self.events };
        told & (1 << (event as i32 - 1)) != 0
    }

    /// Asks the plugin about a creation, if it wants to be asked.
    pub fn create(&mut self, creation: &Creation) {
        self.try_create(creation).expect("an answer");
    }

    /// The reason of a rejection, if there is one.
    pub fn try_create(&mut self, creation: &Creation) -> Result<Option<String>, Failure> {
        if !self.is_told(Event::VALIDATE_CONTAINER_ADJUSTMENT) {
            return Ok(None);
        }
        let answer = self.call("ValidateContainerAdjustment", &creation.request)?;
        let answer = ValidateContainerAdjustmentResponse::parse_from_bytes(&answer).unwrap();
        assert!(answer.reject || answer.reason.is_empty());
        Ok(answer.reject.then_some(answer.reason))
    }

    pub fn run_pod(&mut self) {
        self.tell(Event::RUN_POD_SANDBOX, None);
    }

    pub fn post_create(&mut self, container: &Container) {
        self.tell(Event::POST_CREATE_CONTAINER, Some(container));
    }

    pub fn start(&mut self, container: &Container) {
        self.tell(Event::START_CONTAINER, Some(container));
    }

    pub fn remove(&mut self, container: &Container) {
        self.tell(Event::REMOVE_CONTAINER, Some(container));
    }

    pub fn post_update(&mut self, container: &Container) {
        self.tell(Event::POST_UPDATE_CONTAINER, Some(container));
    }

    pub fn update(&mut self, container: &Container, resources: &LinuxResources) {
        let request = UpdateContainerRequest {
            pod: some(pod()),
            container: some(container.clone()),
            linux_resources: some(resources.clone()),
            ..Default::default()
        };
        if self.is_told(Event::UPDATE_CONTAINER) {
            let answer = self.call("UpdateContainer", &request).expect("an answer");
            assert!(answer.is_empty(), "an observer updates nothing");
        }
    }

    /// Everything from creation to start, as it was meant to be.
    pub fn live(&mut self, creation: &Creation) {
        self.create(creation);
        self.post_create(&creation.effective);
        self.start(&creation.effective);
    }

    /// An event in the dialect of the runtime's version.
    fn tell(&mut self, event: Event, container: Option<&Container>) {
        if !self.is_told(event) {
            return;
        }
        let container = MessageField(container.cloned().map(Box::new));
        if self.version.has_calls {
            let request = ContainerEventRequest {
                pod: some(pod()),
                container: container.clone(),
                ..Default::default()
            };
            match self.call(method(event), &request) {
                Err(Failure::Refused(UNIMPLEMENTED, _)) => {}
                answer => return assert_eq!(answer, Ok(Vec::new())),
            }
        }
        let event = StateChangeEvent {
            event: EnumOrUnknown::new(event),
            pod: some(pod()),
            container,
            ..Default::default()
        };
        assert_eq!(self.call("StateChange", &event), Ok(Vec::new()));
    }

    /// A call of the plugin, and its answer's payload.
    pub fn call(&mut self, method: &str, request: &impl Message) -> Result<Vec<u8>, Failure> {
        self.call_bytes(PLUGIN_SERVICE, method, &bytes(request))
    }

    pub fn call_bytes(
        &mut self,
        service: &str,
        method: &str,
        payload: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let begin = Instant::now();
        self.send(service, method, payload);
        self.receive(method, begin)
    }

    fn send(&mut self, service: &str, method: &str, payload: &[u8]) {
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: payload.to_vec(),
            timeout_nano: i64::try_from(self.timeout.as_nanos()).unwrap(),
            ..Default::default()
        };
        self.send_body(&bytes(&request));
    }

    /// A request with any body, of any length.
    pub fn send_body(&mut self, body: &[u8]) {
        self.wire.send(PLUGIN, self.next, REQUEST, body);
    }

    /// The answer to the last request. Whoever is late is disconnected.
    pub fn receive(&mut self, method: &str, begin: Instant) -> Result<Vec<u8>, Failure> {
        let message = self.wire.receive(self.timeout).inspect_err(|_| self.wire.close())?;
        let taken = begin.elapsed();
        assert_eq!((message.connection, message.kind), (PLUGIN, RESPONSE), "{method}");
        assert_eq!(message.id, self.next, "{method}: the answer to another request");
        self.next += 2;
        self.latencies.push((method.to_owned(), taken));
        let response = Response::parse_from_bytes(&message.body).unwrap();
        match response.status.into_option() {
            Some(status) if status.code != 0 => Err(Failure::Refused(status.code, status.message)),
            _ => Ok(response.payload),
        }
    }

    /// How long the answers to a method took, the shortest first.
    pub fn latencies_of(&self, method: &str) -> Vec<Duration> {
        let of_method = self.latencies.iter().filter(|(of, _)| of == method);
        let mut latencies: Vec<Duration> = of_method.map(|(_, latency)| *latency).collect();
        latencies.sort();
        latencies
    }

    /// Bytes as they are, on the trunk.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.wire.stream.write_all(bytes);
    }

    /// Waits until the plugin hangs up, and says whether it did.
    pub fn hangs_up(&mut self, patience: Duration) -> bool {
        self.wire.receive(patience).err() == Some(Failure::Closed)
    }
}

fn method(event: Event) -> &'static str {
    match event {
        Event::RUN_POD_SANDBOX => "RunPodSandbox",
        Event::POST_CREATE_CONTAINER => "PostCreateContainer",
        Event::START_CONTAINER => "StartContainer",
        Event::POST_UPDATE_CONTAINER => "PostUpdateContainer",
        Event::REMOVE_CONTAINER => "RemoveContainer",
        other => panic!("{other:?} is not told"),
    }
}

/// Frames and messages, and what Go's side does not put up with.
struct Wire {
    stream: UnixStream,
    sending: Sending,
    trunk: Vec<u8>,
    /// What has come over each connection and is no whole message yet.
    received: [Vec<u8>; 2],
    last_request: u32,
}

struct Received {
    connection: u32,
    id: u32,
    kind: u8,
    body: Vec<u8>,
}

impl Wire {
    fn new(stream: UnixStream, sending: Sending) -> Wire {
        stream.set_nonblocking(false).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Wire { stream, sending, trunk: Vec::new(), received: Default::default(), last_request: 0 }
    }

    fn close(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// A plugin that hung up is noticed where its answer is missing.
    fn send(&mut self, connection: u32, id: u32, kind: u8, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap();
        let message = [&length.to_be_bytes()[..], &id.to_be_bytes(), &[kind, 0], body].concat();
        let frames: Vec<Vec<u8>> = match self.sending {
            Sending::AsGo => {
                let (first, rest) = message.split_at(message.len().min(BUFFER));
                [first, rest]
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .map(|part| frame(connection, part))
                    .collect()
            }
            Sending::ByteByByte => message.chunks(1).map(|part| frame(connection, part)).collect(),
            Sending::Interleaved => {
                let parts = message.chunks(7);
                let parts = parts.flat_map(|part| [frame(9, b"nobody's"), frame(connection, part)]);
                vec![parts.flatten().collect()]
            }
        };
        for frame in frames {
            if self.stream.write_all(&frame).is_err() {
                return;
            }
        }
    }

    fn receive(&mut self, patience: Duration) -> Result<Received, Failure> {
        let end = Instant::now() + patience;
        loop {
            if let Some(message) = [PLUGIN, RUNTIME].into_iter().find_map(|of| self.message(of)) {
                return Ok(message);
            }
            if let Some((connection, payload)) = self.frame() {
                self.accept_frame(connection, &payload);
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::TimedOut);
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut buffer = [0; BUFFER];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Failure::Closed),
                Ok(length) => self.trunk.extend(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Failure::Closed),
            }
        }
    }

    /// The next whole frame of the trunk.
    fn frame(&mut self) -> Option<(u32, Vec<u8>)> {
        let header = self.trunk.first_chunk::<8>()?;
        let (connection, length) = (be(&header[..4]), be(&header[4..]) as usize);
        assert!(length > 0, "an empty frame");
        assert!(length <= LONGEST_MESSAGE + 10, "a frame of {length} bytes");
        let payload = self.trunk.get(8..8 + length)?.to_vec();
        self.trunk.drain(..8 + length);
        Some((connection, payload))
    }

    fn accept_frame(&mut self, connection: u32, payload: &[u8]) {
        assert!([PLUGIN, RUNTIME].contains(&connection), "a frame for connection {connection}");
        let received = &mut self.received[connection as usize - 1];
        let whole = received.first_chunk::<10>().map_or(0, |header| 10 + be(&header[..4]) as usize);
        let rest_of_body = whole.saturating_sub(received.len());
        assert!(
            payload.len() <= BUFFER || payload.len() <= rest_of_body,
            "a header in a frame of {} bytes, which Go has no room for",
            payload.len()
        );
        received.extend(payload);
    }

    fn message(&mut self, connection: u32) -> Option<Received> {
        let received = &mut self.received[connection as usize - 1];
        let header = received.first_chunk::<10>()?;
        let (length, id) = (be(&header[..4]) as usize, be(&header[4..8]));
        let [kind, flags] = [header[8], header[9]];
        assert!(length <= LONGEST_MESSAGE && flags == 0, "length {length}, flags {flags}");
        assert!(id % 2 == 1, "stream {id} is even");
        match connection {
            PLUGIN => assert_eq!(kind, RESPONSE, "a plugin only answers here"),
            _ => assert!(kind == REQUEST && id > self.last_request, "kind {kind}, stream {id}"),
        }
        let body = received.get(10..10 + length)?.to_vec();
        received.drain(..10 + length);
        if connection == RUNTIME {
            self.last_request = id;
        }
        Some(Received { connection, id, kind, body })
    }
}

pub fn frame(connection: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&connection.to_be_bytes()[..], &length.to_be_bytes(), payload].concat()
}

fn be(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

pub fn bytes(message: &impl Message) -> Vec<u8> {
    message.write_to_bytes().unwrap()
}

/// The one pod of these tests.
pub fn pod() -> PodSandbox {
    PodSandbox {
        id: "pod0".into(),
        name: "web".into(),
        uid: "0a1b".into(),
        namespace: "shop".into(),
        ..Default::default()
    }
}

pub const ALPHA: &str = "10-alpha";
pub const BETA: &str = "20-beta";
/// The plugin under test.
pub const OURS: &str = "00-eventlog";
pub const DEFAULT_VALIDATOR: &str = "00-default-validator";

/// A creation as validators are asked about it, and the container that it leads to.
#[derive(Clone)]
pub struct Creation {
    pub request: ValidateContainerAdjustmentRequest,
    pub effective: Container,
}

impl Creation {
    /// Of a plain container, while two plugins and ours are connected.
    pub fn of(id: &str) -> Creation {
        let container = Container {
            id: id.to_owned(),
            pod_sandbox_id: pod().id,
            name: format!("name-of-{id}"),
            args: vec!["/bin/sleep".into(), "1".into()],
            env: vec!["PATH=/bin".into()],
            ..Default::default()
        };
        let request = ValidateContainerAdjustmentRequest {
            pod: some(pod()),
            container: some(container.clone()),
            adjust: some(ContainerAdjustment::new()),
            owners: some(Default::default()),
            ..Default::default()
        };
        Creation { request, effective: container }.plugins(&[OURS, ALPHA, BETA])
    }

    /// The container as it was before any plugin, and is unless one is effective.
    pub fn pristine(mut self, change: impl FnOnce(&mut Container)) -> Creation {
        change(self.request.container.mut_or_insert_default());
        self.effective = self.request.container.clone().unwrap();
        self
    }

    pub fn adjust(mut self, change: impl FnOnce(&mut ContainerAdjustment)) -> Creation {
        change(self.request.adjust.mut_or_insert_default());
        self
    }

    pub fn effective(mut self, change: impl FnOnce(&mut Container)) -> Creation {
        change(&mut self.effective);
        self
    }

    /// The plugins that are connected, as `index-name`.
    pub fn plugins(mut self, names: &[&str]) -> Creation {
        let instance = |name: &&str| {
            let (index, name) = name.split_once('-').unwrap();
            PluginInstance { name: name.into(), index: index.into(), ..Default::default() }
        };
        self.request.plugins = names.iter().map(instance).collect();
        self
    }

    pub fn owner(self, field: Field, plugin: &str) -> Creation {
        let id = self.effective.id.clone();
        self.owner_in(&id, field, plugin)
    }

    /// The owner of a field in the container with this id.
    pub fn owner_in(mut self, id: &str, field: Field, plugin: &str) -> Creation {
        let owners = self.request.owners.mut_or_insert_default().owners.entry(id.to_owned());
        owners.or_default().simple.insert(field.number().unwrap(), plugin.to_owned());
        self
    }

    pub fn owner_of(mut self, field: Field, key: &str, plugin: &str) -> Creation {
        let owners =
            self.request.owners.mut_or_insert_default().owners.entry(self.effective.id.clone());
        let of_field = owners.or_default().compound.entry(field.number().unwrap()).or_default();
        of_field.owners.insert(key.to_owned(), plugin.to_owned());
        self
    }

    /// A change to another container, asked for together with this creation.
    pub fn update(mut self, id: &str, change: impl FnOnce(&mut LinuxResources)) -> Creation {
        let mut update = ContainerUpdate { container_id: id.to_owned(), ..Default::default() };
        change(update.linux.mut_or_insert_default().resources.mut_or_insert_default());
        self.request.update.push(update);
        self
    }
}

pub fn some<M>(message: M) -> MessageField<M> {
    MessageField::some(message)
}
