//! Whatever a runtime sends: no panic, and the same calls and records however the
//! bytes are cut.

mod common;

use std::collections::HashSet;
use std::fs;
use std::sync::OnceLock;

use ccnp_eventlog::messages::nri::{
    ConfigureRequest, ContainerEventRequest, LinuxResources, StateChangeEvent, SynchronizeRequest,
    UpdateContainerRequest,
};
use ccnp_eventlog::messages::ttrpc::Request;
use ccnp_eventlog::nri::adjustment::Detail;
use ccnp_eventlog::nri::audit::Audit;
use ccnp_eventlog::nri::session::{Call, Method, Received, Session};
use ccnp_eventlog::record::{Field, Record};
use common::adjusted::{everything, map, HasLinux};
use common::runtime::{bytes, frame, pod, some, Creation, BETA, PLUGIN, RUNTIME};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, Index};
use protobuf::{EnumOrUnknown, Message};
use serde_json::{Map, Value};

const SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";

/// A call before it has a number: method and payload.
type Seed = (String, Vec<u8>);

/// Requests with something in every field.
fn made() -> Vec<Seed> {
    let all = everything("c1")
        .update("other", |r| r.unified = map(&[("b", "1"), ("a", "2"), ("c", "3")]))
        .owner_of(Field::Env, "WITHDRAWN", &format!("-{BETA}"))
        .owner_of(Field::Annotation, "WITHDRAWN", &format!("-{BETA}"));
    let container = some(all.effective.clone());
    let resources = LinuxResources::clone(all.effective.clone().resources());
    let sync = |more| {
        let (pods, containers) = (vec![pod()], vec![all.effective.clone()]);
        bytes(&SynchronizeRequest { pods, containers, more, ..Default::default() })
    };
    let configure = |nri_version: &str| {
        bytes(&ConfigureRequest {
            runtime_name: "containerd".into(),
            runtime_version: "2.3.0".into(),
            nri_version: nri_version.into(),
            ..Default::default()
        })
    };
    let event = bytes(&ContainerEventRequest {
        pod: some(pod()),
        container: container.clone(),
        ..Default::default()
    });
    let change = |event| {
        let (pod, container) = (some(pod()), container.clone());
        let event = EnumOrUnknown::from_i32(event);
        bytes(&StateChangeEvent { event, pod, container, ..Default::default() })
    };
    let update = UpdateContainerRequest {
        pod: some(pod()),
        container: container.clone(),
        linux_resources: some(resources),
        ..Default::default()
    };
    let mut made = vec![
        ("Configure", configure("v0.12.0")),
        ("Configure", configure("")),
        ("Synchronize", sync(true)),
        ("Synchronize", sync(false)),
        ("ValidateContainerAdjustment", bytes(&all.request)),
        ("ValidateContainerAdjustment", bytes(&Creation::of("c2").request)),
        ("UpdateContainer", bytes(&update)),
        ("Shutdown", Vec::new()),
        ("Nonsense", event.clone()),
    ];
    for method in ["PostCreateContainer", "StartContainer", "PostUpdateContainer"] {
        made.push((method, event.clone()));
    }
    for method in ["RemoveContainer", "UpdatePodSandbox", "StopPodSandbox"] {
        made.push((method, event.clone()));
    }
    made.extend((1..=15).map(|event| ("StateChange", change(event))));
    made.into_iter().map(|(method, payload)| (method.to_owned(), payload)).collect()
}

/// What real runtimes sent: their calls, and whole streams of their frames.
fn captured() -> (Vec<Seed>, Vec<Vec<u8>>) {
    let (mut calls, mut streams) = (Vec::new(), Vec::new());
    let Some(folder) = common::nri_captures() else { return (calls, streams) };
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let mut stream = Vec::new();
        for line in fs::read_to_string(path).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| line[key].as_str().unwrap_or_default();
            match text("dir") {
                "rx" => stream.extend(unhex(text("hex"))),
                "req" => calls.push((text("method").to_owned(), unhex(text("payload")))),
                _ => {}
            }
        }
        streams.push(stream);
    }
    (calls, streams)
}

fn unhex(text: &str) -> Vec<u8> {
    let pair = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(pair).collect()
}

fn seeds() -> &'static (Vec<Seed>, Vec<Vec<u8>>) {
    static SEEDS: OnceLock<(Vec<Seed>, Vec<Vec<u8>>)> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let (calls, streams) = captured();
        ([made(), calls].concat(), streams)
    })
}

/// Damage that leaves most as it was.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index, usize),
    Repeat(Index, usize),
    Insert(Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 1..=u8::MAX).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        1 => (at(), 1..100usize).prop_map(|(at, length)| Damage::Cut(at, length)),
        1 => (at(), 1..2000usize).prop_map(|(at, length)| Damage::Repeat(at, length)),
        1 => (at(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let end = |at: usize, length: usize| bytes.len().min(at + length);
        match damage {
            Damage::Insert(at, more) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, more.iter().copied());
            }
            _ if bytes.is_empty() => {}
            Damage::Flip(at, bits) => {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            Damage::Cut(at, length) => {
                let at = at.index(bytes.len());
                bytes.drain(at..end(at, *length));
            }
            Damage::Repeat(at, length) => {
                let at = at.index(bytes.len());
                let again = bytes[at..end(at, *length)].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

/// Calls in frames, of which most are as they should be.
fn calls() -> impl Strategy<Value = Vec<u8>> {
    let frame_length = prop_oneof![Just(4096usize), 1..200usize];
    let damages = prop_oneof![2 => Just(Vec::new()), 3 => vec(damage(), 1..4)];
    let call = (select(seeds().0.as_slice()), damages, frame_length, any::<bool>());
    vec(call, 1..8).prop_map(|calls| {
        let mut stream = frame(RUNTIME, &message(1, 2, b""));
        for (number, ((method, payload), damages, length, interleaved)) in (0u32..).zip(calls) {
            let request = Request {
                service: SERVICE.into(),
                method,
                payload: damaged(payload, &damages),
                ..Default::default()
            };
            for piece in message(2 * number + 1, 1, &bytes(&request)).chunks(length) {
                stream.extend(frame(PLUGIN, piece));
                if interleaved {
                    stream.extend(frame(9, b"nobody's"));
                }
            }
        }
        stream
    })
}

fn message(id: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_be_bytes()[..], &id.to_be_bytes(), &[kind, 0], body].concat()
}

/// Streams of all kinds, down to noise.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let mut real = seeds().1.clone();
    // Where there are none, an empty one.
    real.push(Vec::new());
    let stream = prop_oneof![
        6 => calls(),
        3 => select(real),
        1 => vec(any::<u8>(), 0..500),
    ];
    let damages = prop_oneof![Just(Vec::new()), vec(damage(), 1..4)];
    (stream, damages).prop_map(|(stream, damages)| damaged(stream, &damages))
}

/// What the plugin makes of a stream that comes in pieces of these lengths, over and
/// over: what it received, the records of it, and whether the stream got out of step.
fn made_of(stream: &[u8], lengths: &[usize]) -> (Vec<Received>, Vec<Heard>, bool) {
    let mut session = Session::default();
    let mut audit = Audit::new("00-eventlog".to_owned(), Detail::Full, 0, HashSet::new());
    let (mut all, mut heard) = (Vec::new(), Vec::new());
    let (mut rest, mut lengths) = (stream, lengths.iter().cycle());
    while !rest.is_empty() {
        let length = *lengths.next().unwrap();
        let (piece, more) = rest.split_at(length.min(rest.len()));
        rest = more;
        let Ok(received) = session.receive(piece) else { return (all, heard, true) };
        for received in received {
            if let Received::Call(call) = &received {
                heard.push(hear(&mut audit, call));
            }
            all.push(received);
        }
    }
    (all, heard, false)
}

/// The records of a call, or none where it cannot be decoded.
type Heard = Option<Vec<Map<String, Value>>>;

fn hear(audit: &mut Audit, call: &Call) -> Heard {
    let records = match call.method {
        Method::Configure => {
            let request = ConfigureRequest::parse_from_bytes(&call.payload).ok()?;
            audit.configured(&request, true)
        }
        _ => audit.hear(call).ok()?,
    };
    let timeless = |record: &Record| {
        let mut json = record.to_json();
        json.remove("time");
        json
    };
    Some(records.iter().map(timeless).collect())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 5000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_pieces_make_no_difference(
        stream in streams(),
        lengths in prop_oneof![Just(vec![1]), vec(1..300usize, 1..10)],
    ) {
        let (received, heard, out_of_step) = made_of(&stream, &[usize::MAX]);
        let (received_in_pieces, heard_in_pieces, in_pieces) = made_of(&stream, &lengths);
        prop_assert_eq!(out_of_step, in_pieces);
        if out_of_step {
            // What came whole before that may be thrown away with the piece it is in.
            prop_assert!(received_in_pieces.starts_with(&received));
            prop_assert!(heard_in_pieces.starts_with(&heard));
        } else {
            prop_assert_eq!(received, received_in_pieces);
            prop_assert_eq!(heard, heard_in_pieces);
        }
    }
}

/// Otherwise the property is about nothing.
#[test]
fn the_seeds_are_understood() {
    for (number, (method, payload)) in seeds().0.iter().enumerate() {
        let (method, payload) = (method.clone(), payload.clone());
        let request = Request { service: SERVICE.into(), method, payload, ..Default::default() };
        let stream = frame(PLUGIN, &message(1, 1, &bytes(&request)));
        let (received, heard, out_of_step) = made_of(&stream, &[usize::MAX]);
        assert!(received.len() == 1 && !out_of_step, "{number}");
        let decoded = heard.iter().all(Option::is_some);
        assert!(decoded || request.method.ends_with("PodSandbox"), "{number} {}", request.method);
    }
}
