//! The plugin's sessions with runtimes: registration, masks, frames, ends of all kinds.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ccnp_eventlog::messages::nri::{
    ContainerEventRequest, LinuxResources, StateChangeEvent, SynchronizeRequest,
    ValidateContainerAdjustmentRequest,
};
use ccnp_eventlog::record::Field;
use common::adjusted::{int, uint, HasLinux};
use common::plugin::{audited, audited_with, is, number, text, Plugin, Record, NRI};
use common::runtime::{
    bytes, frame, pod, some, Creation, Failure, Runtime, Sending, Version, ALPHA, CONTAINERD_2_1,
    CONTAINERD_2_2_0, CONTAINERD_2_2_1, CONTAINERD_2_3, CONTAINERD_2_4, CRIO_1_34, DOCKER,
    LONGEST_MESSAGE, PATIENCE, RESOURCE_EXHAUSTED, UNIMPLEMENTED,
};
use common::{nri_captures, read};
use protobuf::Message;
use serde_json::Value;

/// POST_CREATE, START, UPDATE, POST_UPDATE, REMOVE, VALIDATE and RUN_POD.
const WANTED: i32 = 0x25b1;

const SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";

fn kinds(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| text(record, "kind")).collect()
}

fn count(records: &[Record], kind: &str) -> usize {
    kinds(records).iter().filter(|of| **of == kind).count()
}

/// A session that works: a creation is audited.
fn audits(runtime: &mut Runtime, plugin: &Plugin, id: &str) {
    let creation = Creation::of(id)
        .adjust(|a| a.linux.mut_or_insert_default().cgroups_path = "/here".into())
        .owner(Field::CgroupsPath, ALPHA)
        .effective(|c| c.linux.mut_or_insert_default().cgroups_path = "/here".into());
    runtime.live(&creation);
    plugin.records_when("an outcome", |records| records.iter().any(|r| is(r, "outcome", id)));
}

#[test]
fn it_says_who_it_is_and_what_it_is_connected_with() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    assert_eq!(runtime.registered.plugin_name, "eventlog");
    assert_eq!(runtime.registered.plugin_idx, "00");
    assert!(runtime.registered.nri_version.starts_with("v0."), "{:?}", runtime.registered);
    let started = &plugin.records_of("session_started", 1)[0];
    assert_eq!(text(started, "runtime"), "containerd");
    assert_eq!(text(started, "runtime_version"), CONTAINERD_2_3.version);
    assert_eq!(text(started, "nri_version"), CONTAINERD_2_3.nri);
    audits(&mut runtime, &plugin, "c1");
    let records = plugin.records();
    assert_eq!(kinds(&records)[0], "log_opened");
    let counted: Vec<u64> = records
        .iter()
        .filter(|record| record.contains_key("seq"))
        .map(|record| number(record, "seq"))
        .collect();
    assert!(counted.windows(2).all(|pair| pair[0] + 1 == pair[1]), "gaps: {counted:?}");
}

#[test]
fn name_and_index_are_the_operators() {
    let (runtime, _plugin) = audited_with(CONTAINERD_2_3, &["--name", "watch.er", "--index", "42"]);
    assert_eq!(runtime.registered.plugin_name, "watch.er");
    assert_eq!(runtime.registered.plugin_idx, "42");
}

/// A plugin that is run by its environment alone, and the runtime that it connects to.
fn audited_by(variables: &[(&str, &str)]) -> (Runtime, Plugin) {
    let mut plugin = Plugin::stopped();
    let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
    let child = Command::new(NRI)
        .env_clear()
        .env("CCNP_EVENTLOG_NRI_SOCKET", plugin.socket())
        .env("CCNP_EVENTLOG_CONTAINER_LOG", &plugin.container_log)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    plugin.adopt(child.unwrap());
    runtime.connect();
    (runtime, plugin)
}

#[test]
fn variables_do_what_the_flags_do() {
    let (mut runtime, plugin) = audited_by(&[
        ("CCNP_EVENTLOG_NRI_NAME", "watch.er"),
        ("CCNP_EVENTLOG_NRI_INDEX", "42"),
        ("CCNP_EVENTLOG_NRI_DETAIL", "summary"),
        ("CCNP_EVENTLOG_NRI_EXTEND", "none"),
    ]);
    assert_eq!(runtime.registered.plugin_name, "watch.er");
    assert_eq!(runtime.registered.plugin_idx, "42");
    runtime.live(&Creation::of("c1").adjust(|a| a.cpu().shares = uint(7)));
    let adjustment = &plugin.records_of("adjustment", 1)[0];
    assert_eq!(adjustment.get("value"), None, "a summary shows no amounts");
}

#[test]
fn fail_closed_is_a_truth_value_in_the_environment() {
    for (value, rejects) in
        [("1", true), ("yes", true), ("true", true), ("0", false), ("false", false), ("no", false)]
    {
        let (mut runtime, plugin) = audited_by(&[("CCNP_EVENTLOG_NRI_FAIL_CLOSED", value)]);
        plugin.records_of("session_started", 1);
        // Nothing is written to a file that is not ours.
        fs::remove_file(&plugin.container_log).unwrap();
        fs::write(&plugin.container_log, "precious").unwrap();
        let answer = runtime.try_create(&Creation::of("c1")).unwrap();
        assert_eq!(answer.is_some(), rejects, "{value}: {answer:?}");
    }
}

/// These name a plugin to whom the runtime passes a connection as well.
#[test]
fn a_name_without_a_connection_is_not_the_runtimes() {
    let (runtime, _plugin) =
        audited_by(&[("NRI_PLUGIN_NAME", "launched"), ("NRI_PLUGIN_IDX", "07")]);
    assert_eq!(runtime.registered.plugin_name, "eventlog");
    assert_eq!(runtime.registered.plugin_idx, "00");
}

/// Whatever the frames are, and whichever of Configure and the answer to
/// RegisterPlugin comes first.
#[test]
fn frames_may_be_cut_in_any_way_and_configure_may_come_early() {
    for sending in [Sending::AsGo, Sending::ByteByByte, Sending::Interleaved] {
        for configures_first in [false, true] {
            let mut plugin = Plugin::stopped();
            let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
            (runtime.sending, runtime.configures_first) = (sending, configures_first);
            plugin.run(&[]);
            runtime.connect();
            let large = Creation::of("large").pristine(|c| c.args = vec!["x".repeat(10_000)]);
            runtime.live(&large);
            audits(&mut runtime, &plugin, "c1");
        }
    }
}

#[test]
fn both_messages_of_the_beginning_may_come_in_one_piece() {
    let mut plugin = Plugin::stopped();
    let runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
    plugin.run(&[]);
    let mut stream = runtime.accept_raw();
    read_frame(&mut stream);
    let registered = frame(2, &[0, 0, 0, 0, 0, 0, 0, 1, 2, 0]);
    let configure =
        b"\0\0\0\x28\0\0\0\x01\x01\0\x0a\x1bnri.pkg.api.v1alpha1.Plugin\x12\x09Configure";
    stream.write_all(&[registered, frame(1, configure)].concat()).unwrap();
    let (connection, answer) = read_frame(&mut stream);
    assert_eq!((connection, &answer[4..9]), (1, &[0, 0, 0, 1, 2][..]));
}

/// (connection, payload) of the next frame.
fn read_frame(stream: &mut UnixStream) -> (u32, Vec<u8>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut header = [0; 8];
    stream.read_exact(&mut header).unwrap();
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let mut payload = vec![0; number(&header[4..]) as usize];
    stream.read_exact(&mut payload).unwrap();
    (number(&header[..4]), payload)
}

#[test]
fn every_runtime_is_asked_for_events_that_it_knows() {
    let other = |name, version, nri| Version { name, version, nri, ..CONTAINERD_2_4 };
    for (version, events) in [
        (CONTAINERD_2_2_0, WANTED),
        (CONTAINERD_2_2_1, WANTED),
        (CONTAINERD_2_3, WANTED),
        (CONTAINERD_2_4, WANTED),
        (CONTAINERD_2_1, 0),
        (CRIO_1_34, WANTED),
        (DOCKER, 0),
        (other("containerd", "2.2.0-225-ge9dc15b7a.m", ""), WANTED),
        (other("containerd", "2.3.0", "(devel)"), WANTED),
        (other("containerd", "v2.10.0", ""), WANTED),
        (other("containerd", "1.7.28", ""), 0),
        (other("containerd", "v2", ""), 0),
        (other("containerd", "", ""), 0),
        (other("cri-o", "1.33.5", ""), 0),
        (other("cri-o", "1.9.0", ""), 0),
        (other("something", "1.0.0", "0.10.0"), WANTED),
        (other("something", "1.0.0", "v0.9.0"), 0),
        (other("something", "1.0.0", "0.0.0-unknown"), 0),
        (other("something", "9.9.9", ""), 0),
    ] {
        let (runtime, _plugin) = audited(version);
        assert_eq!(runtime.events, events, "{version:?}");
    }
}

/// Whoever asks for everything is told everything, and has nothing to say to it.
#[test]
fn a_runtime_without_validation_is_answered_whatever_it_asks() {
    let (mut runtime, _plugin) = audited(CONTAINERD_2_1);
    let event = ContainerEventRequest::new();
    for method in ["CreateContainer", "UpdateContainer", "StopContainer", "UpdatePodSandbox"] {
        assert_eq!(runtime.call(method, &event), Ok(Vec::new()), "{method}");
    }
    for event in 0..20 {
        let mut change = StateChangeEvent::new();
        change.event = protobuf::EnumOrUnknown::from_i32(event);
        assert_eq!(runtime.call("StateChange", &change), Ok(Vec::new()), "event {event}");
    }
}

/// A runtime closes the connection over an event that it does not know. It never does
/// over everything, and so nothing that it can tell is missed.
#[test]
fn a_mask_that_ends_two_sessions_becomes_everything() {
    let lying = Version { known_events: CONTAINERD_2_1.known_events, ..CONTAINERD_2_2_0 };
    let mut plugin = Plugin::stopped();
    let mut runtime = Runtime::listen(&plugin.socket(), lying);
    plugin.run(&[]);
    for _ in 0..2 {
        let mut session = runtime.accept();
        assert_eq!(runtime.configure(&mut session), Err(Failure::Closed));
        assert_eq!(session.events, WANTED);
    }
    runtime.connect();
    assert_eq!(runtime.events, 0);
    assert!(plugin.is_running());
}

/// Sessions end for other reasons too: whoever validates is still heard, and is asked
/// for no more than is needed once things are well.
#[test]
fn everything_is_asked_for_until_a_session_goes_well() {
    let mut plugin = Plugin::stopped();
    let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_2_0);
    plugin.run(&[]);
    for _ in 0..2 {
        let mut session = runtime.accept();
        runtime.configure(&mut session).unwrap();
        assert_eq!(session.events, WANTED);
    }
    runtime.connect();
    assert_eq!(runtime.events, 0);
    audits(&mut runtime, &plugin, "c1");
    runtime.disconnect();
    runtime.connect();
    assert_eq!(runtime.events, WANTED);
    audits(&mut runtime, &plugin, "c2");
}

/// What they carry is not what the events of containers carry, and nobody asked for it.
#[test]
fn events_of_pods_make_no_record() {
    let all = Version { name: "something", version: "9.9.9", ..CONTAINERD_2_2_0 };
    let (mut runtime, plugin) = audited(all);
    assert_eq!(runtime.events, 0);
    let mut resources = LinuxResources::new();
    resources.memory.mut_or_insert_default().limit = int(-1);
    resources.cpu.mut_or_insert_default().cpus = "0-1".into();
    let mut request = bytes(&ContainerEventRequest { pod: some(pod()), ..Default::default() });
    for field in [2, 3] {
        let resources = bytes(&resources);
        request.extend([field << 3 | 2, u8::try_from(resources.len()).unwrap()]);
        request.extend(resources);
    }
    for event in ["Run", "Update", "PostUpdate", "Stop", "Remove"] {
        let method = format!("{event}PodSandbox");
        assert_eq!(runtime.call_bytes(SERVICE, &method, &request), Ok(Vec::new()), "{method}");
    }
    audits(&mut runtime, &plugin, "c1");
    let records = plugin.records();
    assert_eq!(kinds(&records)[..3], ["log_opened", "session_started", "plugin_connected"]);
    assert_eq!(count(&records, "lost"), 0);
}

#[test]
fn every_method_has_its_answer_and_an_unknown_one_says_so() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    let empty = ContainerEventRequest::new();
    for method in [
        "Shutdown",
        "RunPodSandbox",
        "UpdatePodSandbox",
        "PostUpdatePodSandbox",
        "StopPodSandbox",
        "RemovePodSandbox",
        "CreateContainer",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
        "UpdateContainer",
        "PostUpdateContainer",
        "StopContainer",
        "RemoveContainer",
        "StateChange",
        "ValidateContainerAdjustment",
    ] {
        assert_eq!(runtime.call(method, &empty), Ok(Vec::new()), "{method}");
    }
    for (service, method) in
        [(SERVICE, "Dance"), (SERVICE, ""), ("nri.pkg.api.v2.Plugin", "StartContainer"), ("", "")]
    {
        let answer = runtime.call_bytes(service, method, b"");
        assert!(matches!(answer, Err(Failure::Refused(UNIMPLEMENTED, _))), "{method}: {answer:?}");
    }
    audits(&mut runtime, &plugin, "c1");
}

/// Whatever is in a request to validate, an error would make the creation fail.
#[test]
fn a_request_that_cannot_be_decoded_fails_no_creation() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    for payload in [&b"\xff\xff\xff"[..], b"\x12\x7f", b"\x12\x02\x0a\x05", b"garbage"] {
        let answer = runtime.call_bytes(SERVICE, "ValidateContainerAdjustment", payload);
        assert_eq!(answer, Ok(Vec::new()), "{payload:?}");
    }
    audits(&mut runtime, &plugin, "c1");
}

#[test]
fn a_message_that_is_too_long_is_refused_and_the_session_lives() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    for length in [LONGEST_MESSAGE + 1, LONGEST_MESSAGE + 5000] {
        runtime.send_body(&vec![7; length]);
        let answer = runtime.receive("nothing", Instant::now());
        assert!(matches!(answer, Err(Failure::Refused(RESOURCE_EXHAUSTED, _))), "{answer:?}");
    }
    audits(&mut runtime, &plugin, "c1");
}

#[test]
fn what_was_there_before_is_told_in_parts() {
    let containers: Vec<_> = (0..7).map(|n| Creation::of(&format!("old{n}")).effective).collect();
    for parts in [1, 3, 7] {
        let mut plugin = Plugin::stopped();
        let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
        (runtime.containers, runtime.parts) = (containers.clone(), parts);
        plugin.run(&[]);
        runtime.connect();
        let baseline = plugin.records_of("baseline", 7);
        let mut ids: Vec<&str> =
            baseline.iter().map(|record| text(record, "container_id")).collect();
        ids.sort();
        assert_eq!(ids, ["old0", "old1", "old2", "old3", "old4", "old5", "old6"]);
        assert_eq!(text(&baseline[0], "pod_name"), "web");
        assert_eq!(text(&baseline[0], "pod_namespace"), "shop");
    }
}

/// Runtimes that round the pods in a message down to none send such messages until
/// their patience ends.
#[test]
fn thousands_of_empty_messages_are_answered_and_leave_no_trace() {
    let mut plugin = Plugin::stopped();
    let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
    plugin.run(&[]);
    let mut session = runtime.accept();
    runtime.configure(&mut session).unwrap();
    let empty = SynchronizeRequest { more: true, ..Default::default() };
    for _ in 0..5000 {
        session.synchronize_with(&empty).unwrap();
    }
    drop(session);
    runtime.connect();
    audits(&mut runtime, &plugin, "c1");
    assert!(plugin.said().len() < 20_000, "{} bytes said", plugin.said().len());
    assert_eq!(count(&plugin.records(), "baseline"), 0);
}

#[test]
fn it_waits_for_a_runtime_and_follows_it_through_a_restart() {
    let mut plugin = Plugin::stopped();
    plugin.run(&[]);
    std::thread::sleep(Duration::from_millis(150));
    let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_2_1);
    runtime.connect();
    audits(&mut runtime, &plugin, "c1");
    runtime.restart();
    runtime.version = CONTAINERD_2_3;
    runtime.connect();
    audits(&mut runtime, &plugin, "c2");
    let records = plugin.records();
    assert_eq!((count(&records, "session_started"), count(&records, "session_ended")), (2, 1));
    let last = records.iter().rev().find(|record| text(record, "kind") == "session_started");
    assert_eq!(text(last.unwrap(), "runtime_version"), CONTAINERD_2_3.version);
}

/// Go's side keeps such a connection, on which nothing will ever happen.
#[test]
fn a_registration_that_is_refused_is_tried_again() {
    let mut plugin = Plugin::stopped();
    let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
    plugin.run(&[]);
    let mut session = runtime.accept();
    session.answer_registration(Some("invalid plugin index \"00\"\n\x1b[31m"));
    assert!(session.hangs_up(Duration::from_secs(5)), "the plugin stays on a dead connection");
    let said = plugin.said_when("invalid plugin index");
    assert!(!said.contains('\x1b'), "{said:?}");
    runtime.connect();
    audits(&mut runtime, &plugin, "c1");
}

#[test]
fn it_can_be_launched_by_the_runtime() {
    let mut plugin = Plugin::stopped();
    let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
    let (ours, theirs) = UnixStream::pair().unwrap();
    // Standard input is the one descriptor that std hands on; it becomes 3.
    let child = Command::new("sh")
        .env_clear()
        .env("NRI_PLUGIN_NAME", "launched")
        .env("NRI_PLUGIN_IDX", "07")
        .env("NRI_PLUGIN_SOCKET", "3")
        .arg("-c")
        .arg(r#"exec "$0" "$@" 3<&0 </dev/null"#)
        .arg(NRI)
        .arg("--container-log")
        .arg(&plugin.container_log)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    plugin.adopt(child.unwrap());
    let session = runtime.greet(ours);
    assert_eq!(session.registered.plugin_name, "launched");
    assert_eq!(session.registered.plugin_idx, "07");
    runtime.establish(session).unwrap();
    audits(&mut runtime, &plugin, "c1");
    runtime.disconnect();
    assert!(plugin.wait().success());
    let records = plugin.records();
    assert_eq!(kinds(&records).last(), Some(&"session_ended"), "nobody to connect to again");
}

#[test]
fn nothing_on_the_socket_makes_it_die() {
    let message = |kind: u8, length: u32, body: &[u8]| {
        [&length.to_be_bytes()[..], &1u32.to_be_bytes(), &[kind, 0], body].concat()
    };
    for garbage in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0xff; 100],
        frame(1, &[0xff; 100]),
        frame(1, &message(1, 3, b"\xff\xff\xff")),
        frame(1, &message(9, 0, b"")),
        frame(2, &message(1, 0, b"")),
        frame(1, b""),
        [&1u32.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat(),
        Vec::new(),
    ] {
        let mut plugin = Plugin::stopped();
        let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
        plugin.run(&[]);
        let mut stream = runtime.accept_raw();
        stream.write_all(&garbage).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
        runtime.connect();
        assert!(plugin.is_running(), "{garbage:?}\n{}", plugin.said());
    }
}

#[test]
fn sigterm_ends_it_well_at_any_time() {
    let mut waiting = Plugin::stopped();
    waiting.run(&[]);
    std::thread::sleep(Duration::from_millis(200));
    waiting.stop();

    let mut registering = Plugin::stopped();
    let runtime = Runtime::listen(&registering.socket(), CONTAINERD_2_3);
    registering.run(&[]);
    let _session = runtime.accept();
    registering.stop();

    let (_runtime, mut connected) = audited(CONTAINERD_2_3);
    connected.records_of("session_started", 1);
    connected.stop();
    assert!(connected.log_is_whole());
    assert_eq!(kinds(&connected.records()).last(), Some(&"session_ended"));
}

#[test]
fn its_command_line_is_checked() {
    for wrong in [
        &["--index", "7"][..],
        &["--index", "abc"],
        &["--name", ""],
        &["--name", "a/b"],
        &["--detail", "some"],
        &["--extend", "nothing"],
        &["--extend", "tpm:99"],
    ] {
        let status = Command::new(NRI).env_clear().args(wrong).output().unwrap().status;
        assert!(matches!(status.code(), Some(2 | 64)), "{wrong:?}: {status}");
    }
}

/// A line of a capture: what the runtime sent, or a plugin.
struct Line {
    from_runtime: bool,
    bytes: Vec<u8>,
}

fn unhex(text: &str) -> Vec<u8> {
    let pair = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(pair).collect()
}

fn capture(file: &str) -> Option<Vec<Line>> {
    let text = String::from_utf8(read(&nri_captures()?.join(file))).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines = lines.filter(|line| line["dir"] != "req").map(|line| Line {
        from_runtime: line["dir"] == "rx",
        bytes: unhex(line["hex"].as_str().unwrap()),
    });
    Some(lines.collect())
}

/// What Go's side sent, sent again, and an answer for each that its plugin answered.
fn replay(runtime: &Runtime, lines: &[Line], like_theirs: impl Fn(&[u8]) -> bool) {
    let mut stream = runtime.accept_raw();
    let (connection, _) = read_frame(&mut stream);
    assert_eq!(connection, 2);
    for line in &lines[1..] {
        if line.from_runtime {
            stream.write_all(&line.bytes).unwrap();
        } else {
            let (connection, payload) = read_frame(&mut stream);
            let answer = frame(connection, &payload);
            if like_theirs(&line.bytes) {
                assert_eq!(answer, line.bytes);
            }
        }
    }
}

#[test]
fn a_session_of_the_real_runtime_is_answered_as_a_real_plugin_answered_it() {
    let Some(lines) = capture("s1_events0.jsonl") else { return };
    let mut plugin = Plugin::stopped();
    let runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
    plugin.run(&[]);
    replay(&runtime, &lines, |_| true);
    let records = plugin.records_of("session_ended", 1);
    assert_eq!(records.len(), 1);
    let records = plugin.records();
    let line = |record: &Record| {
        let plugins: Vec<&str> =
            record["plugins"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let said = [text(record, "event"), text(record, "name"), &plugins.join("+")].join(" ");
        (said, text(record, "outcome").to_owned())
    };
    let outcomes: Vec<_> = records
        .iter()
        .filter(|record| is(record, "outcome", "c1") && record.contains_key("plugins"))
        .map(line)
        .collect();
    for (said, outcome) in [
        ("annotation.replace k 20-beta", "not_applied"),
        ("env.add NEW 10-alpha", "applied"),
        ("env.replace OVR 10-alpha", "applied"),
        ("args.set  20-beta", "applied"),
        ("hook.add create_runtime 10-alpha+20-beta", "applied"),
        ("device.add /dev/n 10-alpha", "applied"),
        ("namespace.remove ipc 10-alpha", "applied"),
        ("sysctl.add net.b 10-alpha", "applied"),
        ("memory_limit.set  10-alpha", "applied"),
        ("memory_swap.set  10-alpha", "not_applied"),
        ("mount.add /m 10-alpha", "not_applied"),
        ("cdi_device.add v/c=d 10-alpha", "not_observable"),
        ("rlimit.add RLIMIT_NOFILE 10-alpha", "not_observable"),
    ] {
        let expected = (said.to_owned(), outcome.to_owned());
        assert!(outcomes.contains(&expected), "{expected:?} is not in {outcomes:#?}");
    }
}

/// There the plugin said that it has no RunPodSandbox, and asked for fewer events.
#[test]
fn a_session_in_the_old_dialect_is_answered_too() {
    let Some(lines) = capture("c2_statechange.jsonl") else { return };
    let mut plugin = Plugin::stopped();
    let runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_2_0);
    plugin.run(&[]);
    let empty_answer = 18;
    replay(&runtime, &lines, |theirs| theirs.len() == empty_answer);
    plugin.records_of("session_ended", 1);
    let outcomes =
        plugin.records().into_iter().filter(|record| is(record, "outcome", "c1")).count();
    assert!(outcomes > 0);
}

/// What our messages read out of the bytes is what Go's read out of them.
#[test]
fn the_messages_are_those_of_the_real_runtime() {
    let Some(captures) = nri_captures() else { return };
    let text = String::from_utf8(read(&captures.join("s1_events0.jsonl"))).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut validated = lines.filter(|line| line["method"] == "ValidateContainerAdjustment");
    let payload = unhex(validated.next().unwrap()["payload"].as_str().unwrap());
    let request = ValidateContainerAdjustmentRequest::parse_from_bytes(&payload).unwrap();
    let go: Value = serde_json::from_slice(&read(&captures.join("s1_validate.json"))).unwrap();

    let strings = |value: &Value| -> std::collections::HashMap<String, String> {
        let of = |(key, value): (&String, &Value)| (key.clone(), value.as_str().unwrap().into());
        value.as_object().unwrap().iter().map(of).collect()
    };
    let (adjust, theirs) = (&request.adjust, &go["adjust"]);
    assert_eq!(request.pod.uid, go["pod"]["uid"].as_str().unwrap());
    assert_eq!(request.container.annotations, strings(&go["container"]["annotations"]));
    assert_eq!(serde_json::json!(request.container.env), go["container"]["env"]);
    assert_eq!(adjust.annotations, strings(&theirs["annotations"]));
    assert_eq!(serde_json::json!(adjust.args), theirs["args"]);
    let env: Vec<_> =
        adjust.env.iter().map(|e| serde_json::json!({"key": e.key, "value": e.value})).collect();
    assert_eq!(Value::from(env), theirs["env"]);
    for (mount, theirs) in adjust.mounts.iter().zip(theirs["mounts"].as_array().unwrap()) {
        assert_eq!(mount.destination, theirs["destination"].as_str().unwrap());
        assert_eq!(mount.source, theirs["source"].as_str().unwrap_or_default());
    }
    let hooks: Vec<_> = adjust.hooks.create_runtime.iter().map(|hook| hook.path.clone()).collect();
    assert_eq!(hooks, ["/h/alpha", "/h/beta"]);
    let (linux, theirs) = (&adjust.linux, &theirs["linux"]);
    let number = |value: &Value| value.as_str().unwrap().parse::<i64>().unwrap();
    let (memory, go_memory) = (&linux.resources.memory, &theirs["resources"]["memory"]);
    assert_eq!(memory.limit.value, number(&go_memory["limit"]["value"]));
    assert_eq!(memory.reservation.value, number(&go_memory["reservation"]["value"]));
    assert_eq!(memory.swap.value, number(&go_memory["swap"]["value"]));
    assert!(memory.kernel.is_none() && linux.resources.cpu.shares.is_none());
    assert_eq!(linux.oom_score_adj.value, 7);
    assert_eq!(linux.sysctl, strings(&theirs["sysctl"]));
    assert_eq!(linux.namespaces[0].type_, "-ipc");
    assert_eq!((linux.devices[0].major, linux.devices[0].minor), (9, 9));
    assert!(linux.rdt.remove && linux.rdt.clos_id.is_none());
    assert_eq!((adjust.rlimits[0].hard, adjust.rlimits[0].soft), (10, 5));
    assert_eq!(adjust.cdi_devices[0].name, "v/c=d");
    assert_eq!(request.update[0].container_id, "other");
    assert_eq!(request.update[0].linux.resources.cpu.shares.value, 77);
    let names: Vec<_> = request.plugins.iter().map(|p| format!("{}-{}", p.index, p.name)).collect();
    assert_eq!(names, ["10-alpha", "20-beta", "50-audit", "95-gov"]);
    for (id, theirs) in go["owners"]["owners"].as_object().unwrap() {
        let ours = &request.owners.owners[id];
        for (field, owner) in strings(&theirs["simple"]) {
            assert_eq!(ours.simple[&field.parse().unwrap()], owner, "{id} {field}");
        }
        for (field, owners) in theirs["compound"].as_object().into_iter().flatten() {
            assert_eq!(ours.compound[&field.parse().unwrap()].owners, strings(&owners["owners"]));
        }
    }
    assert!(!bytes(&request).is_empty());
}
