//! One connection to a runtime: registration, its calls, our answers. Bytes in,
//! calls out; the socket is somebody else's.
//!
//! Answers cost nothing to make: the runtime waits for each, with all containers of
//! the node behind it, so that a call is answered before it is understood.

use protobuf::Message as _;

use super::mux::{self, Demux, TooLong, PLUGIN_SERVICE, RUNTIME_SERVICE};
use super::ttrpc::{self, Inbox, Kind};
use crate::messages::nri::{
    ConfigureRequest, ConfigureResponse, Event, RegisterPluginRequest, SynchronizeRequest,
    SynchronizeResponse, ValidateContainerAdjustmentResponse,
};
use crate::messages::ttrpc::{Request, Response, Status};

const RUNTIME: &str = "nri.pkg.api.v1alpha1.Runtime";
const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";
/// The version of NRI that these messages are of.
const NRI_VERSION: &str = "v0.12.2";

/// The runtime closes a connection that does not register within 5 s.
const REGISTRATION_TIMEOUT_NANOSECONDS: i64 = 5_000_000_000;

/// google.rpc.Code.
const INVALID_ARGUMENT: i32 = 3;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNIMPLEMENTED: i32 = 12;

/// What we want to hear of: a bit for each event, the first for event 1.
const WANTED: [Event; 7] = [
    Event::RUN_POD_SANDBOX,
    Event::POST_CREATE_CONTAINER,
    Event::START_CONTAINER,
    Event::UPDATE_CONTAINER,
    Event::POST_UPDATE_CONTAINER,
    Event::REMOVE_CONTAINER,
    Event::VALIDATE_CONTAINER_ADJUSTMENT,
];

/// Asks for every event that the runtime knows.
const EVERYTHING: i32 = 0;

/// What a runtime calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Configure,
    Synchronize,
    Validate,
    /// An event about a pod or a container.
    Event(Event),
    /// The same in older runtimes, which name the event in the message.
    StateChange,
    Shutdown,
    Unknown,
}

/// A call that waits for its answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    stream: u32,
    pub method: Method,
    pub payload: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Call(Call),
    /// The runtime did not take us; the connection is of no use any more.
    Refused(String),
    /// Bytes to send at once: an answer to what is no call.
    Answer(Vec<u8>),
}

#[derive(Debug, Default)]
pub struct Session {
    demux: Demux,
    calls: Inbox,
    answers: Inbox,
}

impl Session {
    /// The bytes that register a plugin, the first to be sent.
    pub fn register(name: &str, index: &str) -> Vec<u8> {
        let plugin = RegisterPluginRequest {
            plugin_name: name.to_owned(),
            plugin_idx: index.to_owned(),
            nri_version: NRI_VERSION.to_owned(),
            ..Default::default()
        };
        let request = Request {
            service: RUNTIME.to_owned(),
            method: "RegisterPlugin".to_owned(),
            payload: encode(&plugin),
            timeout_nano: REGISTRATION_TIMEOUT_NANOSECONDS,
            ..Default::default()
        };
        mux::frames(RUNTIME_SERVICE, &ttrpc::message(1, Kind::Request, &encode(&request)))
    }

    /// Takes bytes off the socket. The runtime may call before it has answered our
    /// registration, so that both directions are served alike.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Received>, TooLong> {
        let Session { demux, calls, answers } = self;
        let mut received = Vec::new();
        demux.receive(bytes, |stream, bytes| match stream {
            PLUGIN_SERVICE => calls.receive(bytes, |message| received.extend(call(message))),
            RUNTIME_SERVICE => answers.receive(bytes, |message| received.extend(refusal(message))),
            _ => {}
        })?;
        Ok(received)
    }
}

fn call(message: ttrpc::Message) -> Option<Received> {
    if message.kind != Kind::Request {
        return None;
    }
    let fail = |code, what: &str| {
        let status = Status { code, message: what.to_owned(), ..Default::default() };
        let status = Some(status).into();
        Some(Received::Answer(answer(message.stream, &Response { status, ..Default::default() })))
    };
    let Some(body) = message.body else {
        return fail(RESOURCE_EXHAUSTED, "message longer than 4194304 bytes");
    };
    let Ok(request) = Request::parse_from_bytes(&body) else {
        return fail(INVALID_ARGUMENT, "not a ttrpc request");
    };
    match method(&request.service, &request.method) {
        // The one error that a runtime takes kindly: it then asks in the older way.
        Method::Unknown => fail(UNIMPLEMENTED, "unknown method"),
        method => {
            Some(Received::Call(Call { stream: message.stream, method, payload: request.payload }))
        }
    }
}

fn refusal(message: ttrpc::Message) -> Option<Received> {
    let response = Response::parse_from_bytes(&message.body.unwrap_or_default());
    match response {
        Ok(response) if response.status.code == 0 => None,
        Ok(response) => Some(Received::Refused(response.status.message.clone())),
        Err(_) => Some(Received::Refused("the answer is no ttrpc response".to_owned())),
    }
}

fn method(service: &str, method: &str) -> Method {
    if service != PLUGIN {
        return Method::Unknown;
    }
    match method {
        "Configure" => Method::Configure,
        "Synchronize" => Method::Synchronize,
        "Shutdown" => Method::Shutdown,
        "ValidateContainerAdjustment" => Method::Validate,
        "StateChange" => Method::StateChange,
        "RunPodSandbox" => Method::Event(Event::RUN_POD_SANDBOX),
        "UpdatePodSandbox" => Method::Event(Event::UPDATE_POD_SANDBOX),
        "PostUpdatePodSandbox" => Method::Event(Event::POST_UPDATE_POD_SANDBOX),
        "StopPodSandbox" => Method::Event(Event::STOP_POD_SANDBOX),
        "RemovePodSandbox" => Method::Event(Event::REMOVE_POD_SANDBOX),
        "CreateContainer" => Method::Event(Event::CREATE_CONTAINER),
        "PostCreateContainer" => Method::Event(Event::POST_CREATE_CONTAINER),
        "StartContainer" => Method::Event(Event::START_CONTAINER),
        "PostStartContainer" => Method::Event(Event::POST_START_CONTAINER),
        "UpdateContainer" => Method::Event(Event::UPDATE_CONTAINER),
        "PostUpdateContainer" => Method::Event(Event::POST_UPDATE_CONTAINER),
        "StopContainer" => Method::Event(Event::STOP_CONTAINER),
        "RemoveContainer" => Method::Event(Event::REMOVE_CONTAINER),
        _ => Method::Unknown,
    }
}

impl Call {
    /// Whether nothing fails where this call is never answered.
    pub fn may_be_left(&self) -> bool {
        matches!(self.method, Method::Event(_) | Method::StateChange)
    }

    /// The answer to most calls: nothing.
    pub fn done(&self) -> Vec<u8> {
        self.with(Vec::new())
    }

    /// To Configure: the events to be told of.
    pub fn subscribe(&self, events: i32) -> Vec<u8> {
        self.with(encode(&ConfigureResponse { events, ..Default::default() }))
    }

    /// To Synchronize: a runtime that sends its containers in several messages gives
    /// a plugin up that does not repeat `more`.
    pub fn synchronized(&self) -> Vec<u8> {
        let more = SynchronizeRequest::parse_from_bytes(&self.payload).is_ok_and(|sync| sync.more);
        self.with(encode(&SynchronizeResponse { more, ..Default::default() }))
    }

    /// To Validate, where no container may be created unlogged.
    pub fn reject(&self, reason: &str) -> Vec<u8> {
        let reason = reason.to_owned();
        let response =
            ValidateContainerAdjustmentResponse { reject: true, reason, ..Default::default() };
        self.with(encode(&response))
    }

    fn with(&self, payload: Vec<u8>) -> Vec<u8> {
        answer(self.stream, &Response { payload, ..Default::default() })
    }
}

fn answer(stream: u32, response: &Response) -> Vec<u8> {
    mux::frames(PLUGIN_SERVICE, &ttrpc::message(stream, Kind::Response, &encode(response)))
}

/// Our own messages have no required fields and are short: encoding cannot fail.
fn encode(message: &impl protobuf::Message) -> Vec<u8> {
    message.write_to_bytes().unwrap_or_default()
}

/// Whether a runtime is known to show adjustments to plugins, which it does since NRI
/// 0.10.
pub fn validates(runtime: &ConfigureRequest) -> bool {
    let first = match runtime.runtime_name.as_str() {
        "containerd" => Some([2, 2, 0]),
        "cri-o" => Some([1, 34, 0]),
        _ => None,
    };
    version(&runtime.nri_version) >= [0, 10, 0]
        || first.is_some_and(|first| version(&runtime.runtime_version) >= first)
}

/// The events to subscribe to. A runtime ends the connection over an event that it
/// does not know, without a word; so they are named where they are known to be known,
/// and elsewhere everything is asked for that there is.
pub fn events(runtime: &ConfigureRequest, cautious: bool) -> i32 {
    match validates(runtime) && !cautious {
        true => WANTED.iter().fold(0, |events, event| events | bit(*event)),
        false => EVERYTHING,
    }
}

fn bit(event: Event) -> i32 {
    1 << (event as i32).saturating_sub(1)
}

/// Major, minor and patch of `v2.2.1-0ubuntu1` and the like; zeros where there are
/// none.
pub fn version(text: &str) -> [u32; 3] {
    let mut numbers = text
        .trim_start_matches('v')
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|digits| digits.parse().ok());
    std::array::from_fn(|_| numbers.next().unwrap_or_default())
}
