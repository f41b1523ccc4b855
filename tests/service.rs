//! GetEventlog as its clients see it: the real server, over its socket.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use ccnp_eventlog::client::call;
use ccnp_eventlog::error::Error;
use ccnp_eventlog::log::payload::hex;
use ccnp_eventlog::log::write::{write_event, write_spec_id};
use ccnp_eventlog::log::{algorithm, Digest, Log};
use ccnp_eventlog::record::{Body, Record, Registered, TAG};
use ccnp_eventlog::rpc::health::health_check_response::ServingStatus;
use ccnp_eventlog::rpc::health::HealthCheckRequest;
use ccnp_eventlog::rpc::HEALTH_CHECK;
use common::server::{Server, CTL, PATIENCE, SERVER, TDX, TPM};
use common::{ccel, read, tpm_log};
use grpcio::RpcStatusCode as Code;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const SAAS_TDX: (i32, i32) = (1, 0);

/// The code and text of a refusal.
fn refusal(outcome: Result<std::path::PathBuf, Error>) -> (Code, String) {
    match outcome {
        Err(Error::Call { status }) => (status.code(), status.message().to_owned()),
        other => panic!("not a status: {other:?}"),
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

fn positions(path: &Path) -> Vec<u64> {
    let events = json(path)["EventLogs"].as_array().unwrap().clone();
    events.iter().map(|event| event["Position"].as_u64().unwrap()).collect()
}

#[test]
fn positions_count_from_one_and_zero_means_all() {
    let server = Server::start(&[]);
    let all: Vec<u64> = (1..=26).collect();
    for (start, count, expected) in [
        (0, 0, &all[..]),
        (1, 0, &all[..]),
        (1, 26, &all[..]),
        (2, 5, &all[1..6]),
        (26, 1, &all[25..]),
        (26, 0, &all[25..]),
        (0, 3, &all[..3]),
    ] {
        let path = server.get(TDX, start, count).unwrap();
        assert_eq!(positions(&path), expected, "start {start}, count {count}");
    }
}

#[test]
fn what_cannot_be_served_is_refused_in_the_words_that_clients_compare() {
    let server = Server::start(&[]);
    let container = server.path("container.log");
    for (log, start, count, code, text) in [
        ((7, 0), 0, 0, Code::INVALID_ARGUMENT, "Invalid Request"),
        ((0, -3), 0, 0, Code::INVALID_ARGUMENT, "Invalid Request"),
        (TDX, -1, 0, Code::INVALID_ARGUMENT, "start_position is -1: it must not be negative"),
        (TDX, 0, i32::MIN, Code::INVALID_ARGUMENT, "count is -2147483648: it must not be negative"),
        (TDX, 27, 0, Code::OUT_OF_RANGE, "start_position 27 is past the last event, 26"),
        (TDX, 27, 1, Code::OUT_OF_RANGE, "start_position 27 is past the last event, 26"),
        (TDX, 1, 27, Code::OUT_OF_RANGE, "Invalid count exceeds event log length"),
        (TDX, 26, 2, Code::OUT_OF_RANGE, "Invalid count exceeds event log length"),
        (
            TDX,
            i32::MAX,
            i32::MAX,
            Code::OUT_OF_RANGE,
            "start_position 2147483647 is past the last event, 26",
        ),
        (
            SAAS_TDX,
            0,
            0,
            Code::NOT_FOUND,
            &format!(
                "stat {}: no such file or directory; eventlog-nri writes it where containerd or \
                 CRI-O runs: systemctl enable --now ccnp-eventlog-nri.service",
                container.display()
            ),
        ),
    ] {
        let refused = refusal(server.get(log, start, count));
        assert_eq!(refused, (code, text.to_owned()), "{log:?} {start} {count}");
    }
    let (code, _) = refusal(server.get(TDX, 1, 27));
    assert_eq!(code, Code::OUT_OF_RANGE, "the server lives on");
}

#[test]
fn a_slice_is_published_as_json_and_as_the_bytes_themselves() {
    let server = Server::start(&[]);
    for (log, file, prefix) in [(TDX, ccel(), "tdx-paas"), (TPM, tpm_log(), "tpm-paas")] {
        let original = read(&file);
        let parsed = Log::parse(&original).unwrap();
        let whole = server.get(log, 0, 0).unwrap();
        let bin = read(&whole.with_extension("bin"));
        assert_eq!(bin, original[..bin.len()], "the whole slice is the log up to its padding");
        assert!(original[bin.len()..].iter().all(|byte| *byte == 0xff));

        let part = server.get(log, 2, 3).unwrap();
        let bytes = parsed.events().skip(1).take(3).map(|event| event.bytes).collect::<Vec<_>>();
        let expected = [parsed.header_bytes(), &bytes.concat()].concat();
        assert_eq!(read(&part.with_extension("bin")), expected);

        let name = part.file_name().unwrap().to_str().unwrap();
        let hash = hex(&Sha256::digest(read(&part))[..8]);
        assert_eq!(name, format!("{prefix}-2-3-{hash}.json"), "content decides the name");
    }
}

#[test]
fn published_files_are_for_their_group_and_nobody_else() {
    let server = Server::start(&[]);
    let path = server.get(TDX, 0, 0).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o640);
    assert_eq!(mode(&path.with_extension("bin")), 0o640);
    assert_eq!(mode(&server.output()), 0o2750);
    assert_eq!(mode(&server.socket()), 0o660);
}

/// Keys in the order of the text, which a parsed object does not keep.
fn keys(text: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('"') {
        let end = start + 1 + rest[start + 1..].find('"').unwrap();
        if rest[end + 1..].starts_with(':') {
            keys.push(rest[start + 1..end].to_owned());
        }
        rest = &rest[end + 1..];
    }
    keys
}

#[test]
fn the_json_has_the_keys_that_clients_read_in_their_order() {
    let server = Server::start(&[]);
    let text = fs::read_to_string(server.get(TDX, 1, 1).unwrap()).unwrap();
    let expected = "Header Address Length HeaderData Rtmr Etype DigestCount DigestSizes 12 \
        EventLogs Rtmr Etype DigestCount Digests Data Event Length EventSize AlgorithmId \
        Position Register EventType DigestsByAlgorithm sha384 Description";
    assert_eq!(keys(&text), expected.split_whitespace().collect::<Vec<_>>());
    let tpm = fs::read_to_string(server.get(TPM, 1, 1).unwrap()).unwrap();
    assert!(keys(&tpm).contains(&"Pcr".to_owned()) && !keys(&tpm).contains(&"Rtmr".to_owned()));
}

#[test]
fn the_json_says_what_the_log_says() {
    use base64::engine::general_purpose::STANDARD;
    use base64::Engine;
    let server = Server::start(&[]);
    let original = read(&ccel());
    let log = Log::parse(&original).unwrap();
    let published = json(&server.get(TDX, 0, 0).unwrap());
    assert_eq!(published["Header"]["Length"], 65);
    assert_eq!(published["Header"]["Rtmr"], 0, "MR index 1, less one");
    assert_eq!(published["Header"]["DigestCount"], 0);
    assert_eq!(published["Header"]["DigestSizes"]["12"], 48);
    assert_eq!(published["Header"]["HeaderData"], STANDARD.encode(log.header_bytes()));
    for (event, said) in log.events().zip(published["EventLogs"].as_array().unwrap()) {
        let digest = event.digests().next().unwrap().bytes;
        let decimal = digest.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(said["Rtmr"], event.index - 1);
        assert_eq!(said["Etype"], event.event_type);
        assert_eq!(said["DigestCount"], 1);
        assert_eq!(said["Digests"][0], format!("[{decimal}]"));
        assert_eq!(said["DigestsByAlgorithm"]["sha384"], hex(digest));
        assert_eq!(said["Data"], STANDARD.encode(event.bytes));
        assert_eq!(said["Event"], STANDARD.encode(event.data));
        assert_eq!(said["Length"], event.bytes.len());
        assert_eq!(said["EventSize"], event.data.len());
        assert_eq!(said["AlgorithmId"], algorithm::SHA384);
        assert_eq!(said["Register"], format!("RTMR{}", event.index - 1));
    }
    let third = &published["EventLogs"][2];
    assert_eq!(third["EventType"], "EV_EFI_VARIABLE_DRIVER_CONFIG");
    assert_eq!(third["Description"], "SecureBoot: enabled");
}

#[test]
fn mrtd_and_a_log_without_header_are_told_as_the_reference_tells_them() {
    let server = Server::stopped();
    let mut mrtd = Vec::new();
    write_spec_id(&mut mrtd, 0, &[(algorithm::SHA384, 48)], b"").unwrap();
    let digests = [Digest { algorithm: algorithm::SHA384, bytes: &[7; 48] }];
    write_event(&mut mrtd, 0, 0x8000_0008, &digests, &[0; 16]).unwrap();
    fs::write(server.path("mrtd"), &mrtd).unwrap();
    // One event in the SHA1 format: PCR 4, EV_ACTION, digest, size, data.
    let sha1 =
        [&4u32.to_le_bytes()[..], &5u32.to_le_bytes(), &[9; 20], &4u32.to_le_bytes(), b"Boot"];
    fs::write(server.path("sha1"), sha1.concat()).unwrap();
    let mut server = server;
    let (mrtd, sha1) = (server.path("mrtd"), server.path("sha1"));
    server.run(&["--ccel", mrtd.to_str().unwrap(), "--tpm-log", sha1.to_str().unwrap()]);

    let published = json(&server.get(TDX, 0, 0).unwrap());
    assert_eq!(published["Header"]["Rtmr"], u32::MAX);
    assert_eq!(published["EventLogs"][0]["Rtmr"], u32::MAX);
    assert_eq!(published["EventLogs"][0]["Register"], "MRTD");
    let published = json(&server.get(TPM, 0, 0).unwrap());
    assert_eq!(published["Header"], Value::Null);
    assert_eq!(published["EventLogs"][0]["AlgorithmId"], algorithm::SHA1);
    assert_eq!(published["EventLogs"][0]["Pcr"], 4);
    assert_eq!(published["EventLogs"][0]["Description"], "Boot");
}

#[test]
fn a_log_that_breaks_is_served_up_to_the_break() {
    let mut server = Server::stopped();
    let whole = read(&tpm_log());
    let events = Log::parse(&whole).unwrap().len();
    let broken = &whole[..whole.len() - 3];
    let last = Log::parse(&whole).unwrap().event(events).unwrap().offset;
    fs::write(server.path("broken"), broken).unwrap();
    let path = server.path("broken");
    server.run(&["--tpm-log", path.to_str().unwrap()]);
    let count = i32::try_from(events).unwrap();
    assert_eq!(positions(&server.get(TPM, 1, count - 1).unwrap()).len(), events - 1);
    for (start, wanted) in [(0, 0), (1, count), (count, 0), (count + 5, 1)] {
        let (code, text) = refusal(server.get(TPM, start, wanted));
        assert_eq!(code, Code::DATA_LOSS, "{start} {wanted}");
        assert!(text.contains(&format!("at offset {last}")), "{text}");
        assert!(text.contains(&format!("{} events before it are readable", events - 1)), "{text}");
    }
}

#[test]
fn unreadable_empty_and_oversized_files_are_told_apart() {
    let mut server = Server::stopped();
    fs::write(server.path("empty"), "").unwrap();
    fs::File::create(server.path("huge")).unwrap().set_len((16 << 20) + 1).unwrap();
    fs::write(server.path("words"), "these are words and not an event log, however long").unwrap();
    fs::create_dir(server.path("folder")).unwrap();
    let fifo = nix::unistd::mkfifo(&server.path("fifo"), nix::sys::stat::Mode::S_IRWXU);
    fifo.unwrap();
    for (name, code, words) in [
        ("fifo", Code::INTERNAL, "not a regular file"),
        ("empty", Code::NOT_FOUND, "no event log"),
        ("huge", Code::RESOURCE_EXHAUSTED, "larger than the limit of 16777216 bytes"),
        ("words", Code::DATA_LOSS, "not an event log"),
        ("folder", Code::INTERNAL, "not a regular file"),
        ("absent", Code::NOT_FOUND, "no such file or directory"),
    ] {
        let path = server.path(name);
        server.run(&["--ccel", path.to_str().unwrap()]);
        let (got, text) = refusal(server.get(TDX, 0, 0));
        assert!(got == code && text.contains(words), "{name}: {got:?} {text}");
        server.signal(nix::sys::signal::Signal::SIGKILL);
        server.wait();
    }
}

/// Root reads everything, so this server is nobody; with a copy of the program that
/// nobody can start.
#[test]
fn a_log_that_the_server_may_not_read_is_said_to_be_so() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can start a server as somebody else");
        return;
    }
    const NOBODY: u32 = 65534;
    let mut server = Server::stopped();
    let (program, log) = (server.path("eventlog-server"), server.path("secret"));
    fs::copy(SERVER, &program).unwrap();
    fs::copy(ccel(), &log).unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(server.folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let prepared = server.command(&[]);
    let mut command = Command::new(program);
    command.env_clear().envs(prepared.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.env("CCNP_EVENTLOG_CCEL", &log).uid(NOBODY).gid(NOBODY);
    server.adopt(command.spawn().unwrap());
    server.until("the server listens", || UnixStream::connect(server.socket()).is_ok());
    let (code, text) = refusal(server.get(TDX, 0, 0));
    assert_eq!(code, Code::PERMISSION_DENIED, "{text}");
    assert!(text.contains(log.to_str().unwrap()), "{text}");
}

#[test]
fn a_log_that_is_replaced_is_read_again() {
    let mut server = Server::stopped();
    let path = server.path("log-file");
    fs::copy(ccel(), &path).unwrap();
    server.run(&["--ccel", path.to_str().unwrap()]);
    assert_eq!(positions(&server.get(TDX, 0, 0).unwrap()).len(), 26);
    fs::write(server.path("next"), read(&tpm_log())).unwrap();
    fs::rename(server.path("next"), &path).unwrap();
    let events = Log::parse(read(&tpm_log())).unwrap().len();
    assert_eq!(positions(&server.get(TDX, 0, 0).unwrap()).len(), events);
}

#[test]
fn sixty_four_clients_each_get_their_own_bytes() {
    let server = Server::start(&[]);
    let original = read(&ccel());
    let log = Log::parse(&original).unwrap();
    std::thread::scope(|scope| {
        for client in 0..64 {
            let (server, log) = (&server, &log);
            scope.spawn(move || {
                for round in 0..4 {
                    let start = 1 + (client + round * 7) % 26;
                    let count = 1 + (client * 3 + round) % (27 - start);
                    let path = server.get(TDX, start, count).unwrap();
                    let first = usize::try_from(start).unwrap();
                    let events = (first..first + usize::try_from(count).unwrap())
                        .map(|position| log.event(position).unwrap().bytes);
                    let expected =
                        [&[log.header_bytes()][..], &events.collect::<Vec<_>>()].concat();
                    assert_eq!(read(&path.with_extension("bin")), expected.concat());
                }
            });
        }
    });
}

#[test]
fn health_is_told_for_the_server_and_its_service() {
    let server = Server::start(&[]);
    let check = |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned(), ..Default::default() };
        call(&server.socket(), &HEALTH_CHECK, &request, PATIENCE)
    };
    for service in ["", "Eventlog"] {
        let reply = check(service).unwrap();
        assert_eq!(reply.status.enum_value(), Ok(ServingStatus::SERVING), "{service:?}");
    }
    match check("Nobody") {
        Err(Error::Call { status }) => assert_eq!(status.code(), Code::NOT_FOUND),
        other => panic!("{other:?}"),
    }
}

/// The container log is one file: it names its register and shows its digests as
/// the category has them, whichever register it was extended into.
#[test]
fn the_container_log_is_told_in_the_terms_of_the_category() {
    let record = Record::new(SystemTime::UNIX_EPOCH, Body::Lost { records: 3 });
    for extended in [4, 13] {
        let mut log = Vec::new();
        let banks = [(algorithm::SHA256, 32), (algorithm::SHA384, 48)];
        let registered = Registered { mr_index: 4, pcr: 13 };
        write_spec_id(&mut log, 0, &banks, &registered.to_vendor_info()).unwrap();
        let digests = [
            Digest { algorithm: algorithm::SHA256, bytes: &[1; 32] },
            Digest { algorithm: algorithm::SHA384, bytes: &[2; 48] },
        ];
        write_event(&mut log, extended, 6, &digests, &record.to_event_data()).unwrap();
        write_event(&mut log, extended, 6, &digests, b"somebody else's").unwrap();
        let mut server = Server::stopped();
        fs::write(server.path("container.log"), &log).unwrap();
        server.run(&[]);
        for (category, bank, digest, register) in [
            (0, algorithm::SHA384, hex(&[2; 48]), ("Rtmr", 3, "RTMR3")),
            (1, algorithm::SHA256, hex(&[1; 32]), ("Pcr", 13, "PCR13")),
        ] {
            let path = server.get((1, category), 0, 0).unwrap();
            let slice = json(&path);
            let event = &slice["EventLogs"][0];
            assert_eq!((&event["DigestCount"], &event["AlgorithmId"]), (&1.into(), &bank.into()));
            let shown = event["DigestsByAlgorithm"].as_object().unwrap();
            assert_eq!(shown.values().collect::<Vec<_>>(), [&Value::from(digest)]);
            let (key, number, name) = register;
            assert_eq!((&event[key], &event["Register"]), (&number.into(), &name.into()));
            assert_eq!(event["Record"], Value::Object(record.to_json()));
            assert_eq!(event["Description"], "3 records are missing here");
            assert_eq!(slice["EventLogs"][1]["Record"], Value::Null);
            assert_eq!(read(&path.with_extension("bin")), log, "the bytes are the whole record");
        }
    }
}

/// What only looks like a record is somebody else's: two readers could take it for two
/// different things.
#[test]
fn a_record_is_one_as_it_is_written_and_in_no_other_form() {
    let ours = Record::new(SystemTime::UNIX_EPOCH, Body::Lost { records: 3 });
    let record = Value::Object(ours.to_json());
    let long = format!(r#"{{"kind":"lost","note":"{}"}}"#, "x".repeat(256 << 10));
    let written = [
        (record.to_string(), record),
        (long, Value::Null),
        (r#"{"kind":"lost","records":3,"records":3}"#.into(), Value::Null),
        (r#"{"kind": "lost","records":3}"#.into(), Value::Null),
        ("{\"kind\":\"lost\",\"records\":3}\n".into(), Value::Null),
        (r#"{"records":3,"kind":"lost"}"#.into(), Value::Null),
        (format!(r#"{{"kind":"lost","records":{}}}"#, "1".repeat(30)), Value::Null),
    ];
    let mut log = Vec::new();
    let registered = Registered { mr_index: 4, pcr: 13 };
    write_spec_id(&mut log, 0, &[(algorithm::SHA384, 48)], &registered.to_vendor_info()).unwrap();
    for (json, _) in &written {
        let length = u32::try_from(json.len()).unwrap();
        let data = [&TAG.to_le_bytes()[..], &length.to_le_bytes(), json.as_bytes()].concat();
        let digests = [Digest { algorithm: algorithm::SHA384, bytes: &[2; 48] }];
        write_event(&mut log, 4, 6, &digests, &data).unwrap();
    }
    let mut server = Server::stopped();
    fs::write(server.path("container.log"), &log).unwrap();
    server.run(&[]);
    let slice = json(&server.get(SAAS_TDX, 0, 0).unwrap());
    for (at, (json, record)) in written.iter().enumerate() {
        let shown = &slice["EventLogs"][at]["Record"];
        assert_eq!(shown, record, "{:.60}", json);
    }
}

/// The caller hangs up before it is answered, which takes a while here.
#[test]
fn nobody_calls_anonymously() {
    let mut server = Server::stopped();
    let log = server.path("large");
    fs::write(&log, common::large_log(8 << 20)).unwrap();
    server.run(&["--ccel", log.to_str().unwrap()]);
    let mut caller = Command::new(CTL)
        .args(["get", "tdx", "--quiet", "--socket"])
        .arg(server.socket())
        .spawn()
        .unwrap();
    server.until("the slice is being written", || {
        let entries = fs::read_dir(server.output()).unwrap();
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(".tmp-"))
    });
    caller.kill().unwrap();
    caller.wait().unwrap();
    let expected = format!("by uid {} pid {} ", nix::unistd::getuid(), caller.id());
    server.until("the call is logged", || server.log().contains(&expected));
}

#[test]
fn every_call_is_logged_with_its_peer() {
    let server = Server::start(&[]);
    server.get(TDX, 1, 2).unwrap();
    let uid = nix::unistd::getuid();
    let expected = format!("start_position 1 count 2 by uid {uid} pid {} ", std::process::id());
    server.until("the call is logged", || server.log().contains(&expected));
}

#[test]
fn eventlogctl_shows_the_slice_and_speaks_in_exit_statuses() {
    let server = Server::start(&[]);
    let socket = server.socket();
    let ctl = |arguments: &[&str]| {
        let output = Command::new(CTL)
            .env_clear()
            .args(arguments)
            .env("CCNP_EVENTLOG_SOCKET", &socket)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (status, shown, _) = ctl(&["get", "tdx", "--start", "2", "--count", "2"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!((status, lines.len()), (0, 4), "{shown}");
    assert!(Path::new(lines[0]).is_file());
    assert!(lines[3].contains("RTMR0") && lines[3].contains("SecureBoot: enabled"), "{shown}");
    let (status, shown, _) = ctl(&["get", "tpm", "--quiet"]);
    assert_eq!((status, shown.lines().count()), (0, 1));

    assert_eq!(ctl(&["health"]), (0, String::new(), String::new()));
    assert_eq!(ctl(&["health", "--socket", "/nowhere"]).0, 2);
    assert_eq!(ctl(&["health", "--timeout", "never"]).0, 1);
    let (status, _, said) = ctl(&["get", "tdx", "--count", "999"]);
    assert_eq!(status, 64);
    assert!(said.contains("Invalid count exceeds event log length"), "{said}");
    let (status, _, said) = ctl(&["get", "tdx", "--start", "-1"]);
    assert_eq!(status, 64);
    assert!(said.contains("start_position is -1: it must not be negative"), "{said}");
    assert_eq!(ctl(&["get", "container"]).0, 66);
    assert_eq!(ctl(&["get", "nothing"]).0, 64);
    assert_eq!(ctl(&["get", "tdx", "--socket", "/nowhere"]).0, 69);
    assert_eq!(ctl(&["--help"]).0, 0);
}
