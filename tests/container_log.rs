//! The container log: whole events whoever dies, one writer, and a register that the
//! log explains.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ccnp_eventlog::container_log::{ContainerLog, Opened, Settings, DEFAULT_PCR};
use ccnp_eventlog::error::Error;
use ccnp_eventlog::live::{from_hex, Register};
use ccnp_eventlog::log::payload::hex;
use ccnp_eventlog::log::write::write_event;
use ccnp_eventlog::log::{algorithm, event_type, Digest, End, Log};
use ccnp_eventlog::nri::writer::{Writer, MOST_RECORDS};
use ccnp_eventlog::record::{
    decode, Action, Attribution, Body, Change, Container, Field, Outcome, Record, Registered,
    Shown, TAG,
};
use ccnp_eventlog::source;
use common::fuse::{Asked, FuseFile};
use common::replay::hash;
use serde_json::{Map, Value};
use tempfile::TempDir;

/// What a copy of this program is to do instead of testing.
const ROLE: &str = "CONTAINER_LOG_TEST_ROLE";
const FOLDER: &str = "CONTAINER_LOG_TEST_FOLDER";
const REGISTER: &str = "CONTAINER_LOG_TEST_REGISTER";

fn settings(folder: &Path) -> Settings {
    Settings {
        path: folder.join("container.log"),
        register: None,
        pcr: DEFAULT_PCR,
        boot_id: "this-boot".to_owned(),
    }
}

fn open(folder: &Path) -> Opened {
    ContainerLog::open(settings(folder)).unwrap()
}

fn baseline(seq: u64) -> Record {
    let id = format!("c{seq}");
    let container = Container { id, name: "shop".to_owned(), ..Container::default() };
    Record {
        seq: Some(seq),
        container: Some(Arc::new(container)),
        ..Record::new(SystemTime::now(), Body::Baseline)
    }
}

/// One whose event is of about this many bytes, most of them text.
fn large(seq: u64, kibibytes: usize) -> Record {
    let plugins = vec!["p".repeat(4096); kibibytes.div_ceil(4).min(32)];
    let change = Change {
        target: None,
        field: Field::Env,
        action: Action::Add,
        name: Some("PATH".to_owned()),
        value: Shown::Redacted,
        plugins,
        attribution: Attribution::Ambiguous,
    };
    Record { body: Body::Update(change), ..baseline(seq) }
}

fn parsed(path: &Path) -> Log<Vec<u8>> {
    Log::parse(common::read(path)).unwrap()
}

fn records(path: &Path) -> Vec<Map<String, Value>> {
    let log = parsed(path);
    assert_eq!(log.end(), End::AtLastByte, "{}", path.display());
    log.events().map(|event| decode(event.data).expect("a record")).collect()
}

fn kinds(path: &Path) -> Vec<String> {
    records(path).iter().map(|record| record["kind"].as_str().unwrap().to_owned()).collect()
}

fn seqs(path: &Path) -> Vec<u64> {
    records(path).iter().filter_map(|record| record.get("seq")?.as_u64()).collect()
}

fn older(folder: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_older =
        |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("container-");
    names.filter(is_older).collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn the_log_is_an_event_log_of_records() {
    let folder = TempDir::new().unwrap();
    let Opened { mut log, next_seq, known, unfinished } = open(folder.path());
    assert!(next_seq == 0 && known.is_empty() && unfinished.is_empty());
    log.append(&[baseline(0), baseline(1)]).unwrap();
    log.append(&[baseline(2)]).unwrap();

    let path = folder.path().join("container.log");
    let parsed = parsed(&path);
    let header = parsed.spec_id().unwrap();
    assert_eq!(header.index, 0);
    assert_eq!(Registered::of(header), Some(Registered { mr_index: 4, pcr: DEFAULT_PCR }));
    assert_eq!(kinds(&path), ["log_opened", "baseline", "baseline", "baseline"]);
    for event in parsed.events() {
        assert_eq!((event.index, event.event_type), (4, event_type::EV_EVENT_TAG));
        let digests: Vec<_> = event.digests().map(|d| (d.algorithm, d.bytes.to_vec())).collect();
        let expected = [algorithm::SHA256, algorithm::SHA384]
            .map(|bank| (bank, hash(bank, event.data).unwrap()));
        assert_eq!(digests, expected);
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);

    let Ok(tool) = Command::new("tpm2_eventlog").arg(&path).output() else {
        eprintln!("SKIPPED: no tpm2_eventlog");
        return;
    };
    assert!(tool.status.success(), "{}", String::from_utf8_lossy(&tool.stderr));
    let said = String::from_utf8_lossy(&tool.stdout);
    assert_eq!(said.matches("EV_EVENT_TAG").count(), 4, "{said}");
}

#[test]
fn a_server_serves_it_to_both_worlds_while_it_grows() {
    const TDX: (i32, i32) = (1, 0);
    const TPM: (i32, i32) = (1, 1);
    let server = common::server::Server::start(&[]);
    let mut log = open(server.folder.path()).log;
    let event = |log, position| -> Value {
        let path = server.get(log, position, 1).unwrap();
        serde_json::from_slice(&common::read(&path)).unwrap()
    };
    for seq in 0..3 {
        log.append(&[baseline(seq)]).unwrap();
        let position = i32::try_from(seq).unwrap() + 2;
        let tdx = &event(TDX, position)["EventLogs"][0];
        assert_eq!((&tdx["Register"], &tdx["Rtmr"]), (&"RTMR3".into(), &3.into()));
        let tpm = &event(TPM, position)["EventLogs"][0];
        assert_eq!(tpm["EventType"], "EV_EVENT_TAG");
        assert!(server.get(TPM, position + 1, 1).is_err());
    }
}

#[test]
fn a_torn_event_is_cut_wherever_it_ends() {
    let folder = TempDir::new().unwrap();
    let Opened { mut log, .. } = open(folder.path());
    log.append(&[baseline(0)]).unwrap();
    let whole = common::read(log.path()).len();
    log.append(&[baseline(1)]).unwrap();
    let content = common::read(log.path());
    drop(log);
    let check = |content: &[u8]| {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("container.log");
        fs::write(&path, content).unwrap();
        let Opened { mut log, next_seq, .. } = open(folder.path());
        assert_eq!(next_seq, 1);
        log.append(&[baseline(1)]).unwrap();
        assert_eq!(kinds(&path), ["log_opened", "baseline", "log_recovered", "baseline"]);
        assert_eq!(records(&path)[2]["bytes_cut"], content.len() - whole);
    };
    for length in whole + 1..content.len() {
        check(&content[..length]);
    }
    // What a power loss makes of blocks that were allocated and never written.
    for zeros in [1, 100, 4096] {
        check(&[&content[..whole], &vec![0; zeros]].concat());
    }
    let data_is_zero = |from: usize| {
        let mut content = content.clone();
        content[from..].fill(0);
        content
    };
    check(&data_is_zero(whole + 12));
    check(&data_is_zero(content.len() - 1));
}

/// A rest that no crash leaves is not thrown away.
#[test]
fn a_damaged_file_is_kept_as_it_is() {
    let folder = TempDir::new().unwrap();
    let Opened { mut log, .. } = open(folder.path());
    log.append(&[baseline(0)]).unwrap();
    let whole = common::read(log.path()).len();
    for seq in 1..50 {
        log.append(&[large(seq, 128)]).unwrap();
    }
    let path = log.path().to_owned();
    drop(log);
    let mut content = common::read(&path);
    content[whole + 8] = 0xff;
    fs::write(&path, &content).unwrap();
    drop(open(folder.path()));
    assert_eq!(kinds(&path), ["log_opened", "log_recovered"]);
    let [kept] = &older(folder.path())[..] else { panic!("one file") };
    assert_eq!(records(&path)[0]["previous"], kept.file_name().unwrap().to_str().unwrap());
    assert!(records(&path)[1]["note"].as_str().unwrap().contains(&whole.to_string()));
    assert_eq!(common::read(kept), content);
}

#[test]
fn what_earlier_runs_of_this_boot_wrote_is_known() {
    let adjustment = |seq: u64| match large(seq, 1) {
        Record { body: Body::Update(change), .. } => {
            Record { body: Body::Adjustment(change), ..baseline(seq) }
        }
        _ => unreachable!(),
    };
    let outcome = |seq: u64, of: u64| match large(seq, 1) {
        Record { body: Body::Update(change), .. } => {
            let body = Body::Outcome { of, outcome: Outcome::Applied, change };
            Record { body, ..baseline(of) }
        }
        _ => unreachable!(),
    };
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path()).log;
    log.append(&[baseline(0), adjustment(1), adjustment(2)]).unwrap();
    drop(log);
    // Another PCR in the header, so another file of the same boot.
    let other = Settings { pcr: 14, ..settings(folder.path()) };
    let mut log = ContainerLog::open(other.clone()).unwrap().log;
    let mut late = outcome(5, 1);
    late.seq = Some(5);
    log.append(&[adjustment(4), late, large(6, 1)]).unwrap();
    drop(log);
    let Opened { next_seq, known, unfinished, .. } = ContainerLog::open(other.clone()).unwrap();
    assert_eq!(next_seq, 7);
    let ids = ["c0", "c1", "c2", "c4"].map(str::to_owned);
    assert_eq!(known, ids.into_iter().collect());
    let seqs: Vec<_> = unfinished.iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [2, 4, 6], "updates too");

    let next_boot = Settings { boot_id: "next".to_owned(), ..other };
    let Opened { next_seq, known, unfinished, .. } = ContainerLog::open(next_boot).unwrap();
    assert!(next_seq == 0 && known.is_empty() && unfinished.is_empty());
}

#[test]
fn each_boot_has_a_file_and_eight_older_ones_are_kept() {
    let folder = TempDir::new().unwrap();
    let mut inodes = Vec::new();
    for boot in 0..12u64 {
        let settings = Settings { boot_id: format!("boot-{boot}"), ..settings(folder.path()) };
        // A second run of one boot goes on with its file.
        for run in 0..2 {
            let mut log = ContainerLog::open(settings.clone()).unwrap().log;
            log.append(&[baseline(run)]).unwrap();
        }
        let path = folder.path().join("container.log");
        assert_eq!(kinds(&path), ["log_opened", "baseline", "baseline"]);
        assert_eq!(records(&path)[0]["boot_id"], format!("boot-{boot}"));
        inodes.push(fs::metadata(&path).unwrap().ino());
    }
    let older = older(folder.path());
    let kept: Vec<_> = older.iter().map(|path| fs::metadata(path).unwrap().ino()).collect();
    assert_eq!(kept, inodes[3..11]);
    let previous = records(&folder.path().join("container.log"))[0]["previous"].clone();
    assert_eq!(previous, older[7].file_name().unwrap().to_str().unwrap());
}

/// Names are made of times, and a clock may be set back by years.
#[test]
fn a_clock_that_was_set_back_costs_no_newer_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("container.log");
    let of_boot = |boot: &str| Settings { boot_id: boot.to_owned(), ..settings(folder.path()) };
    drop(ContainerLog::open(of_boot("the future")).unwrap());
    for at in 0..8 {
        let name = format!("container-20990101T000000.00000{at}Z.log");
        fs::copy(&path, folder.path().join(name)).unwrap();
    }
    for boot in ["one", "two", "three"] {
        let inode = fs::metadata(&path).unwrap().ino();
        drop(ContainerLog::open(of_boot(boot)).unwrap());
        let older = older(folder.path());
        assert_eq!(older.len(), 8);
        let newest = older.last().unwrap();
        assert_eq!(fs::metadata(newest).unwrap().ino(), inode, "{older:?}");
        let previous = records(&path)[0]["previous"].as_str().unwrap().to_owned();
        assert_eq!(folder.path().join(previous), *newest);
    }
}

/// Whoever can write to the file cannot stop the count, nor make numbers of it that
/// readers of JSON round.
#[test]
fn a_number_that_no_run_reaches_is_not_gone_on_from() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path()).log;
    log.append(&[baseline(0), baseline(1)]).unwrap();
    let path = log.path().to_owned();
    drop(log);
    let json = format!(r#"{{"kind":"baseline","seq":{}}}"#, u64::MAX);
    let length = u32::try_from(json.len()).unwrap();
    let data = [&TAG.to_le_bytes()[..], &length.to_le_bytes(), json.as_bytes()].concat();
    let [sha256, sha384] =
        [algorithm::SHA256, algorithm::SHA384].map(|bank| (bank, hash(bank, &data).unwrap()));
    let digests =
        [&sha256, &sha384].map(|(algorithm, bytes)| Digest { algorithm: *algorithm, bytes });
    let mut event = Vec::new();
    write_event(&mut event, 4, event_type::EV_EVENT_TAG, &digests, &data).unwrap();
    File::options().append(true).open(&path).unwrap().write_all(&event).unwrap();
    let mut last = 1;
    for _ in 0..3 {
        let Opened { mut log, next_seq, .. } = open(folder.path());
        assert!(next_seq > last && next_seq < 1 << 53, "{next_seq} after {last}");
        log.append(&[baseline(next_seq)]).unwrap();
        last = next_seq;
    }
}

#[test]
fn no_file_grows_beyond_what_a_server_reads_and_one_is_always_there() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path()).log;
    let path = log.path().to_owned();
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (path, done) = (path.clone(), Arc::clone(&done));
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let log = parsed(&path);
                assert!(log.spec_id().is_some());
                assert_eq!(decode(log.event(1).unwrap().data).unwrap()["kind"], "log_opened");
            }
        })
    };
    for seq in (0..160).step_by(16) {
        let batch: Vec<_> = (seq..seq + 16).map(|seq| large(seq, 128)).collect();
        log.append(&batch).unwrap();
    }
    done.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
    let mut found = Vec::new();
    for file in older(folder.path()).iter().chain([&path]) {
        assert!(fs::metadata(file).unwrap().len() <= source::LIMIT as u64);
        found.extend(seqs(file));
    }
    assert_eq!(older(folder.path()).len(), 1);
    assert_eq!(found, (0..160).collect::<Vec<_>>());
    // Too large for any file.
    let batch: Vec<_> = (0..40).map(|seq| large(seq, 128)).collect();
    assert!(matches!(log.append(&batch), Err(Error::BatchTooLarge { .. })));
    log.append(&[baseline(160)]).unwrap();
    drop(log);
    assert_eq!(open(folder.path()).next_seq, 161);
}

#[test]
fn a_file_that_somebody_deletes_or_truncates_is_begun_anew() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path()).log;
    let path = log.path().to_owned();
    log.append(&[baseline(0)]).unwrap();
    fs::remove_file(&path).unwrap();
    log.append(&[baseline(1)]).unwrap();
    assert_eq!(kinds(&path), ["log_opened", "baseline"]);
    assert_eq!(seqs(&path), [1]);
    File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    log.append(&[baseline(2)]).unwrap();
    assert_eq!(seqs(&path), [2]);
    assert_eq!(fs::metadata(&older(folder.path())[0]).unwrap().len(), 100);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert!(matches!(log.append(&[baseline(3)]), Err(Error::NotAContainerLog { .. })));
    assert_eq!(common::read(&path), b"precious");
}

#[test]
fn a_second_writer_is_told_of_the_first() {
    let folder = TempDir::new().unwrap();
    let _log = open(folder.path()).log;
    let error = ContainerLog::open(settings(folder.path())).unwrap_err();
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("container.log");
    let refused = || {
        let error = ContainerLog::open(settings(folder.path())).unwrap_err();
        assert!(matches!(error, Error::NotAContainerLog { .. }), "{error}");
    };
    for content in [&b""[..], b"precious", &common::read(&common::tpm_log())] {
        fs::write(&path, content).unwrap();
        refused();
        assert_eq!(common::read(&path), content);
    }
    fs::remove_file(&path).unwrap();
    let target = folder.path().join("target");
    for exists in [false, true] {
        if exists {
            fs::write(&target, "precious").unwrap();
        }
        symlink(&target, &path).unwrap();
        refused();
        assert_eq!(target.exists(), exists);
        fs::remove_file(&path).unwrap();
    }
    fs::create_dir(&path).unwrap();
    refused();
    fs::remove_dir(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    refused();
    fs::remove_file(&path).unwrap();
    let missing = Settings { path: "/nowhere/container.log".into(), ..settings(folder.path()) };
    let error = ContainerLog::open(missing).unwrap_err().to_string();
    assert!(error.contains("/nowhere/container.log") && error.contains("tmpfiles"), "{error}");
}

/// A copy of this program with a role to play in `folder`.
fn copy(role: &str, folder: &Path, before: &[&str]) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match before {
        [] => Command::new(this),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(this);
            command
        }
    };
    command.args(["--exact", "a_role_in_another_test", "--nocapture"]);
    command.env(ROLE, role).env(FOLDER, folder);
    command
}

#[test]
fn a_role_in_another_test() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    match role.as_str() {
        "append" => append_and_acknowledge(&folder),
        "begin files" => begin_files(&folder),
        "full disk" => fill_the_disk(&folder),
        "lose" => lose_records(&folder),
        "journal" => write_to_the_journal(&folder),
        role => panic!("{role}"),
    }
}

/// Appends batches until killed, and tells in a file what was acknowledged.
fn append_and_acknowledge(folder: &Path) {
    let register = std::env::var_os(REGISTER).map(|file| Register::Rtmr3 { file: file.into() });
    let settings = Settings { register, ..settings(folder) };
    let Opened { mut log, next_seq, .. } = ContainerLog::open(settings).unwrap();
    let mut acks = File::options().create(true).append(true).open(folder.join("acks")).unwrap();
    let mut seq = next_seq;
    loop {
        let batch: Vec<_> = (seq..seq + 1 + seq % 5).map(baseline).collect();
        seq += batch.len() as u64;
        log.append(&batch).unwrap();
        acks.write_all(format!("{}\n", seq - 1).as_bytes()).unwrap();
    }
}

fn acknowledged(folder: &Path) -> Vec<u64> {
    let acks = fs::read_to_string(folder.join("acks")).unwrap_or_default();
    acks.lines().map(|line| line.parse().unwrap()).collect()
}

/// Kills the copy some time after it has begun to acknowledge.
fn kill_while_appending(mut copy: Child, folder: &Path, round: u64) {
    let before = acknowledged(folder).len();
    let begin = Instant::now();
    while acknowledged(folder).len() < before + 2 {
        assert!(begin.elapsed() < Duration::from_secs(60), "nothing was appended");
        assert!(copy.try_wait().unwrap().is_none(), "the copy ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_micros(round * 373 % 5000));
    copy.kill().unwrap();
    copy.wait().unwrap();
}

#[test]
fn kill_nine_tears_no_event_and_loses_none_that_was_acknowledged() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("container.log");
    for round in 0..40 {
        let copy = copy("append", folder.path(), &[]).stdout(Stdio::null()).spawn().unwrap();
        kill_while_appending(copy, folder.path(), round);
        let Opened { next_seq, .. } = open(folder.path());
        let last = *acknowledged(folder.path()).last().unwrap();
        assert!(next_seq > last, "{next_seq} after {last}");
        assert_eq!(seqs(&path), (0..next_seq).collect::<Vec<_>>());
    }
    let leftovers = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let leftovers: Vec<_> = leftovers.filter(|n| n.to_string_lossy().contains(".tmp-")).collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

/// Begins one file after the other until killed.
fn begin_files(folder: &Path) {
    for boot in 0.. {
        let boot_id = format!("{}-{boot}", std::process::id());
        let mut log = ContainerLog::open(Settings { boot_id, ..settings(folder) }).unwrap().log;
        log.append(&[baseline(boot)]).unwrap();
    }
}

#[test]
fn kill_nine_between_two_files_leaves_a_log_in_place() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("container.log");
    let (mut temporary, mut twice) = (0, 0);
    for round in 0..60u64 {
        let mut copy = copy("begin files", folder.path(), &[]);
        let mut copy = copy.stdout(Stdio::null()).spawn().unwrap();
        while !path.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(5000 + round * 977 % 9000));
        copy.kill().unwrap();
        copy.wait().unwrap();
        let names = || fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let is_temporary = |path: &PathBuf| path.to_str().unwrap().contains(".tmp-");
        temporary += names().filter(is_temporary).count();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        twice += older(folder.path()).iter().filter(|file| inode(file) == inode(&path)).count();
        let (inode_before, boot) = (inode(&path), records(&path)[0]["boot_id"].clone());
        for file in older(folder.path()).iter().chain([&path]) {
            assert_eq!(kinds(file)[0], "log_opened");
        }
        // The boot goes on where it was.
        let boot_id = boot.as_str().unwrap().to_owned();
        drop(ContainerLog::open(Settings { boot_id, ..settings(folder.path()) }).unwrap());
        assert_eq!(inode(&path), inode_before);
        assert_eq!(names().filter(is_temporary).count(), 0);
        assert!(older(folder.path()).iter().all(|file| inode(file) != inode(&path)));
        assert!(older(folder.path()).len() <= 8);
    }
    eprintln!("of 60 kills, {temporary} left a temporary file and {twice} a file of two names");
}

/// A value that is extended as RTMR3 is.
struct Emulated {
    folder: TempDir,
    state: Arc<Mutex<(Vec<u8>, Mood)>>,
    _mount: FuseFile,
}

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Failing,
    /// Extends, and says that it has not.
    Lying,
    /// Somebody else extends right after us.
    Crowded,
}

impl Emulated {
    fn rtmr3() -> Option<Emulated> {
        let folder = TempDir::new().unwrap();
        let state = Arc::new(Mutex::new((vec![0; 48], Mood::Well)));
        let shared = Arc::clone(&state);
        let mount = FuseFile::mount(&folder.path().join("rtmr3"), move |asked| {
            let mut state = shared.lock().unwrap();
            match asked {
                _ if state.1 == Mood::Failing => Err(libc::EIO),
                Asked::Read { offset, size } => {
                    Ok(state.0.iter().skip(offset).take(size).copied().collect())
                }
                Asked::Written(digest) if digest.len() != 48 => Err(libc::EINVAL),
                Asked::Written(digest) => {
                    let times = if state.1 == Mood::Crowded { 2 } else { 1 };
                    for _ in 0..times {
                        state.0 = hash(algorithm::SHA384, &[&state.0, digest].concat()).unwrap();
                    }
                    match std::mem::replace(&mut state.1, Mood::Well) {
                        Mood::Lying => Err(libc::EIO),
                        _ => Ok(Vec::new()),
                    }
                }
            }
        })?;
        Some(Emulated { folder, state, _mount: mount })
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("rtmr3")
    }

    fn register(&self) -> Register {
        Register::Rtmr3 { file: self.file() }
    }

    fn settings(&self) -> Settings {
        Settings { register: Some(self.register()), ..settings(self.folder.path()) }
    }

    fn open(&self) -> ContainerLog {
        ContainerLog::open(self.settings()).unwrap().log
    }

    fn value(&self) -> Vec<u8> {
        self.state.lock().unwrap().0.clone()
    }

    fn is(&self, mood: Mood) {
        self.state.lock().unwrap().1 = mood;
    }

    fn extend_by_somebody_else(&self) {
        let digest = Digest { algorithm: algorithm::SHA384, bytes: &[0x5e; 48] };
        self.register().extend(&[digest]).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("container.log")
    }

    /// The register is what the log adds up to.
    fn agrees(&self) -> bool {
        replayed(&self.path(), algorithm::SHA384) == self.value()
    }
}

/// The register's value by a container log: from each value that a record states, on
/// through the events, that record's own the first.
fn replayed(path: &Path, bank: u16) -> Vec<u8> {
    let log = parsed(path);
    let mut value = Vec::new();
    for event in log.events() {
        let record = decode(event.data).unwrap();
        if let Some(stated) = record.get("register_banks") {
            let text = stated[algorithm::name(bank)].as_str().unwrap_or_default();
            value = from_hex(text.as_bytes()).unwrap();
        }
        let digest = event.digests().find(|digest| digest.algorithm == bank).unwrap();
        value = hash(bank, &[&value, digest.bytes].concat()).unwrap();
    }
    value
}

#[test]
fn the_register_holds_what_the_log_adds_up_to() {
    let Some(rtmr3) = Emulated::rtmr3() else { return };
    rtmr3.extend_by_somebody_else();
    let before = hex(&rtmr3.value());
    let mut log = rtmr3.open();
    assert!(rtmr3.agrees());
    log.append(&[baseline(0), baseline(1)]).unwrap();
    log.append(&[baseline(2)]).unwrap();
    assert!(rtmr3.agrees());
    assert_eq!(records(&rtmr3.path())[0]["register"], "RTMR3");
    assert_eq!(records(&rtmr3.path())[0]["register_banks"]["sha384"], before);
    assert_eq!(kinds(&rtmr3.path()), ["log_opened", "baseline", "baseline", "baseline"]);
    drop(log);
    drop(rtmr3.open());
    assert_eq!(kinds(&rtmr3.path()).len(), 4, "nothing to recover");
}

#[test]
fn kill_nine_leaves_register_and_log_in_agreement() {
    let Some(rtmr3) = Emulated::rtmr3() else { return };
    let mut late = 0;
    for round in 0..40 {
        let mut copy = copy("append", rtmr3.folder.path(), &[]);
        let copy = copy.env(REGISTER, rtmr3.file()).stdout(Stdio::null()).spawn().unwrap();
        kill_while_appending(copy, rtmr3.folder.path(), round);
        late += usize::from(!rtmr3.agrees_or_is_torn());
        drop(rtmr3.open());
        assert!(rtmr3.agrees(), "round {round}");
    }
    let kinds = kinds(&rtmr3.path());
    let recovered = kinds.iter().filter(|kind| *kind == "log_recovered").count();
    assert!(!kinds.contains(&"register_changed".to_owned()), "{kinds:?}");
    assert!(recovered >= late, "{recovered} of {late}");
    eprintln!("{late} of 40 kills between write and extend");
    let seqs = seqs(&rtmr3.path());
    assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>());
    assert!(seqs.len() as u64 > *acknowledged(rtmr3.folder.path()).last().unwrap());
}

impl Emulated {
    fn agrees_or_is_torn(&self) -> bool {
        parsed(&self.path()).end() != End::AtLastByte || self.agrees()
    }
}

/// Every point between a write and its extends, one by one.
#[test]
fn events_that_were_not_extended_are_extended_late() {
    let Some(rtmr3) = Emulated::rtmr3() else { return };
    let mut log = rtmr3.open();
    log.append(&[baseline(0)]).unwrap();
    let mut values = vec![rtmr3.value()];
    for seq in 1..4 {
        log.append(&[baseline(seq)]).unwrap();
        values.push(rtmr3.value());
    }
    drop(log);
    let content = common::read(&rtmr3.path());
    for (extended, value) in values.iter().enumerate() {
        fs::write(rtmr3.path(), &content).unwrap();
        rtmr3.state.lock().unwrap().0 = value.clone();
        drop(rtmr3.open());
        assert!(rtmr3.agrees());
        let late = values.len() - 1 - extended;
        let last = records(&rtmr3.path()).pop().unwrap();
        match late {
            0 => assert_eq!(last["kind"], "baseline"),
            _ => assert_eq!(last["events_extended"], late),
        }
    }
}

#[test]
fn a_register_that_somebody_else_extended_is_stated_anew() {
    let Some(rtmr3) = Emulated::rtmr3() else { return };
    let mut log = rtmr3.open();
    log.append(&[baseline(0)]).unwrap();
    // While we run.
    rtmr3.extend_by_somebody_else();
    log.append(&[baseline(1)]).unwrap();
    assert!(rtmr3.agrees());
    assert_eq!(kinds(&rtmr3.path()), ["log_opened", "baseline", "register_changed", "baseline"]);
    drop(log);
    // And while we do not.
    rtmr3.extend_by_somebody_else();
    drop(rtmr3.open());
    assert!(rtmr3.agrees());
    assert_eq!(kinds(&rtmr3.path()).pop().unwrap(), "register_changed");
    // At once with a crash: nobody can tell, and the log says what was found.
    let content = common::read(&rtmr3.path());
    let mut log = rtmr3.open();
    let value = rtmr3.value();
    log.append(&[baseline(2)]).unwrap();
    drop(log);
    assert!(common::read(&rtmr3.path()).len() > content.len());
    rtmr3.state.lock().unwrap().0 = value;
    rtmr3.extend_by_somebody_else();
    drop(rtmr3.open());
    assert!(rtmr3.agrees());
    assert_eq!(kinds(&rtmr3.path()).pop().unwrap(), "register_changed");
}

#[test]
fn a_register_that_fails_stops_no_record_and_catches_up() {
    let Some(rtmr3) = Emulated::rtmr3() else { return };
    let mut log = rtmr3.open();
    rtmr3.is(Mood::Failing);
    log.append(&[baseline(0)]).unwrap();
    log.append(&[baseline(1)]).unwrap();
    assert!(log.trouble().unwrap().contains("RTMR3"), "{:?}", log.trouble());
    rtmr3.is(Mood::Well);
    assert!(!rtmr3.agrees(), "a reader sees it");
    log.append(&[baseline(2)]).unwrap();
    assert_eq!(log.trouble(), None);
    assert!(rtmr3.agrees());
    assert_eq!(kinds(&rtmr3.path()), ["log_opened", "baseline", "baseline", "baseline"]);
    drop(log);
    rtmr3.is(Mood::Failing);
    let error = ContainerLog::open(rtmr3.settings()).unwrap_err();
    assert!(matches!(error, Error::Register { .. }), "{error}");
}

#[test]
fn an_extend_that_was_done_and_failed_is_not_done_twice() {
    let Some(rtmr3) = Emulated::rtmr3() else { return };
    let mut log = rtmr3.open();
    rtmr3.is(Mood::Lying);
    log.append(&[baseline(0), baseline(1)]).unwrap();
    assert!(log.trouble().is_some());
    log.append(&[baseline(2)]).unwrap();
    assert!(rtmr3.agrees());
    assert_eq!(kinds(&rtmr3.path()), ["log_opened", "baseline", "baseline", "baseline"]);
}

#[test]
fn somebody_who_extends_at_the_same_time_is_noticed() {
    let Some(rtmr3) = Emulated::rtmr3() else { return };
    let mut log = rtmr3.open();
    rtmr3.is(Mood::Crowded);
    log.append(&[baseline(0), baseline(1)]).unwrap();
    assert!(!rtmr3.agrees(), "and a reader sees it");
    log.append(&[baseline(2)]).unwrap();
    assert!(rtmr3.agrees());
    assert_eq!(kinds(&rtmr3.path())[3..], ["register_changed", "baseline"]);
}

/// What a crash between the halves leaves is what other tests recover from.
#[test]
fn batches_can_be_durable_before_any_is_extended() {
    let Some(rtmr3) = Emulated::rtmr3() else { return };
    let mut log = rtmr3.open();
    log.commit(&[baseline(0), baseline(1)]).unwrap();
    assert_eq!(seqs(&rtmr3.path()), [0, 1]);
    assert!(!rtmr3.agrees());
    assert!(log.extend_one());
    log.commit(&[baseline(2)]).unwrap();
    while log.extend_one() {}
    assert!(rtmr3.agrees());
    assert_eq!(kinds(&rtmr3.path()), ["log_opened", "baseline", "baseline", "baseline"]);
    // Somebody else comes between: how many are missing cannot be known any more.
    log.commit(&[baseline(3), baseline(4)]).unwrap();
    rtmr3.extend_by_somebody_else();
    log.append(&[baseline(5)]).unwrap();
    assert!(rtmr3.agrees());
    let changed = records(&rtmr3.path()).into_iter().find(|r| r["kind"] == "register_changed");
    let note = changed.unwrap()["note"].as_str().unwrap().to_owned();
    assert_eq!(note, "of the events before this one, 2 may not be extended");
}

/// A register that fails while a file is full: the next one does without its value
/// until there is one.
#[test]
fn a_new_file_states_the_value_when_it_can_be_read() {
    let Some(rtmr3) = Emulated::rtmr3() else { return };
    let mut log = rtmr3.open();
    rtmr3.is(Mood::Failing);
    log.append(&[baseline(0)]).unwrap();
    fs::remove_file(rtmr3.path()).unwrap();
    log.append(&[baseline(1)]).unwrap();
    rtmr3.is(Mood::Well);
    log.append(&[baseline(2)]).unwrap();
    assert!(rtmr3.agrees());
    assert_eq!(kinds(&rtmr3.path()), ["log_opened", "baseline", "register_changed", "baseline"]);
    assert_eq!(log.trouble(), None);
}

#[test]
fn an_idle_writer_has_the_register_catch_up() {
    let Some(rtmr3) = Emulated::rtmr3() else { return };
    let writer = Writer::start(rtmr3.open()).unwrap();
    rtmr3.is(Mood::Failing);
    assert!(writer.wait(writer.offer(vec![baseline(0)]), Duration::from_secs(60)));
    let until = |what: &str, is_so: &dyn Fn() -> bool| {
        let begin = Instant::now();
        while !is_so() {
            assert!(begin.elapsed() < Duration::from_secs(60), "never happened: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    until("it is said", &|| writer.state().failing.is_some_and(|said| said.contains("RTMR3")));
    rtmr3.is(Mood::Well);
    until("it catches up", &|| writer.state().failing.is_none());
    assert!(rtmr3.agrees());
}

#[test]
fn a_second_name_from_an_unfinished_change_of_files_is_removed() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path()).log;
    log.append(&[baseline(0)]).unwrap();
    let path = log.path().to_owned();
    drop(log);
    let name = records(&path)[0]["time"].as_str().unwrap().replace(['-', ':'], "");
    let second = folder.path().join(format!("container-{name}.log"));
    fs::hard_link(&path, &second).unwrap();
    drop(open(folder.path()));
    assert!(!second.exists());
    // In another boot the change is done once more.
    fs::hard_link(&path, &second).unwrap();
    let next = Settings { boot_id: "next".to_owned(), ..settings(folder.path()) };
    drop(ContainerLog::open(next).unwrap());
    assert_eq!(kinds(&second), ["log_opened", "baseline"]);
    assert_eq!(kinds(&path), ["log_opened"]);
}

#[test]
fn another_register_has_another_file() {
    let Some(rtmr3) = Emulated::rtmr3() else { return };
    drop(open(rtmr3.folder.path()));
    drop(rtmr3.open());
    assert!(rtmr3.agrees());
    assert_eq!(older(rtmr3.folder.path()).len(), 1);
    drop(open(rtmr3.folder.path()));
    assert_eq!(records(&rtmr3.path())[0].get("register"), None);
    assert_eq!(older(rtmr3.folder.path()).len(), 2);
}

/// A TPM that knows one command, whose PCRs stand in files as sysfs shows them.
#[test]
fn a_pcr_is_extended_in_those_banks_that_there_are() {
    let folder = TempDir::new().unwrap();
    let value = folder.path().join("pcr-sha256/13");
    fs::create_dir(value.parent().unwrap()).unwrap();
    let write = |path: &Path, value: &[u8]| {
        fs::write(path, hex(value).to_uppercase() + "\n").unwrap();
    };
    write(&value, &[0; 32]);
    let (path, mut held, mut code, mut times) = (value.clone(), vec![0; 32], 0u32, 0);
    let device = FuseFile::mount(&folder.path().join("tpmrm0"), move |asked| match asked {
        Asked::Read { .. } => Ok([&[0x80, 0x02, 0, 0, 0, 10], &code.to_be_bytes()[..]].concat()),
        Asked::Written(command) => {
            times += 1;
            if times % 3 == 0 {
                code = 0x922;
                return Ok(Vec::new());
            }
            let head = "8002 00000041 00000182 0000000d 00000009 40000009 0000 00 0000 \
                        00000001 000b"
                .replace(' ', "");
            assert_eq!(hex(&command[..command.len() - 32]), head);
            assert_eq!(command.len(), 0x41);
            held = hash(algorithm::SHA256, &[&held, &command[33..]].concat()).unwrap();
            fs::write(&path, hex(&held).to_uppercase() + "\n").unwrap();
            code = 0;
            Ok(Vec::new())
        }
    });
    let Some(_device) = device else { return };
    let register = Register::Pcr {
        number: 13,
        device: folder.path().join("tpmrm0"),
        banks: folder.path().to_owned(),
    };
    let settings = Settings { register: Some(register.clone()), ..settings(folder.path()) };
    let mut log = ContainerLog::open(settings.clone()).unwrap().log;
    for seq in 0..5 {
        log.append(&[baseline(seq), baseline(seq + 100)]).unwrap();
    }
    assert_eq!(log.trouble(), None);
    let file = folder.path().join("container.log");
    let held = register.read().unwrap();
    assert_eq!(held, [(algorithm::SHA256, replayed(&file, algorithm::SHA256))]);
    assert!(parsed(&file).events().all(|event| event.index == 13));
    let header = parsed(&file).spec_id().cloned().unwrap();
    assert_eq!(Registered::of(&header), Some(Registered { mr_index: 4, pcr: 13 }));
    drop(log);

    write(&value, b"short");
    let error = ContainerLog::open(settings.clone()).unwrap_err().to_string();
    assert!(error.contains("PCR13") && error.contains("pcr-sha256/13"), "{error}");
    fs::remove_file(&value).unwrap();
    let error = ContainerLog::open(settings).unwrap_err().to_string();
    assert!(error.contains("No such file") || error.contains("not found"), "{error}");
    assert!(error.contains("TPM 2.0"), "{error}");
}

/// Runs a role with a small file system of its own at `FOLDER/full`.
fn run_on_a_small_disk(role: &str) {
    let folder = TempDir::new().unwrap();
    let script = r#"mkdir "$0/full" && mount -t tmpfs -o size=1m tmpfs "$0/full" && exec "$@""#;
    let text = folder.path().to_str().unwrap();
    let before = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, text];
    if !Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: no mount namespace without root");
        return;
    }
    let outcome = copy(role, folder.path(), &before).output().unwrap();
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    run_on_a_small_disk("full disk");
}

fn fill_the_disk(folder: &Path) {
    let folder = folder.join("full");
    let mut log = open(&folder).log;
    let path = log.path().to_owned();
    fs::write(folder.join("ballast"), vec![1; 700 << 10]).unwrap();
    let mut written = 0;
    let error = loop {
        match log.append(&[large(written, 8), baseline(written + 1)]) {
            Ok(()) => written += 2,
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("No space left on device"), "{error}");
    assert!(error.contains("make room"), "{error}");
    assert!(written > 10);
    for _ in 0..3 {
        assert_eq!(seqs(&path), (0..written).collect::<Vec<_>>());
        assert!(log.append(&[large(written, 8), baseline(written + 1)]).is_err());
    }
    fs::remove_file(folder.join("ballast")).unwrap();
    log.append(&[large(written, 8), baseline(written + 1)]).unwrap();
    assert_eq!(seqs(&path), (0..written + 2).collect::<Vec<_>>());
    drop(log);
    drop(open(&folder));
    assert!(!kinds(&path).contains(&"log_recovered".to_owned()));
}

#[test]
fn a_full_queue_loses_records_and_counts_them_where_they_are_missing() {
    run_on_a_small_disk("lose");
}

fn lose_records(folder: &Path) {
    let folder = folder.join("full");
    let log = open(&folder).log;
    let path = log.path().to_owned();
    let writer = Writer::start(log).unwrap();
    assert!(writer.wait(writer.offer(vec![baseline(0)]), Duration::from_secs(60)));
    // Not one more page.
    let mut ballast = File::create(folder.join("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let fill: Vec<_> = (1..=30).map(baseline).collect();
    let ticket = writer.offer(fill);
    assert!(!writer.wait(ticket, Duration::from_millis(300)), "the disk is full");
    assert!(writer.state().failing.unwrap().contains("No space left"));
    let begin = Instant::now();
    let all = MOST_RECORDS as u64 + 500;
    let ticket = writer.offer((31..=all).map(baseline).collect());
    assert!(begin.elapsed() < Duration::from_secs(1), "an offer waits for no disk");
    assert!(!writer.wait(ticket, Duration::from_secs(60)), "some are lost, so that is known");
    let state = writer.state();
    assert_eq!((state.lost, state.queued), (500, MOST_RECORDS));

    fs::remove_file(folder.join("ballast")).unwrap();
    // Room for what waits: it takes more than this disk has.
    drop(ballast);
    let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&folder).status();
    assert!(grown.unwrap().success());
    let ticket = loop {
        let ticket = writer.offer(vec![baseline(all + 1)]);
        if writer.wait(ticket, Duration::from_secs(60)) {
            break ticket;
        }
    };
    assert!(writer.wait(ticket, Duration::ZERO));
    let state = writer.state();
    assert_eq!((state.failing, state.queued), (None, 0));
    assert!(writer.finish(Duration::from_secs(60)));
    let records = records(&path);
    let lost = records.iter().position(|record| record["kind"] == "lost").unwrap();
    let before = &records[lost - 1]["seq"];
    let missing = records[lost]["records"].as_u64().unwrap();
    assert_eq!(before, MOST_RECORDS as u64);
    assert_eq!(missing, state.lost);
    assert_eq!(records.iter().filter(|record| record["kind"] == "lost").count(), 1);
    assert_eq!(records.last().unwrap()["seq"], all + 1);
}

#[test]
fn a_writer_that_is_finished_has_written_everything() {
    let folder = TempDir::new().unwrap();
    let writer = Writer::start(open(folder.path()).log).unwrap();
    for seq in 0..2000 {
        writer.offer(vec![baseline(seq)]);
    }
    assert!(writer.finish(Duration::from_secs(60)));
    let path = folder.path().join("container.log");
    assert_eq!(seqs(&path), (0..2000).collect::<Vec<_>>());
    drop(open(folder.path()));
}

#[test]
fn every_record_goes_to_the_journal_with_its_fields() {
    let folder = TempDir::new().unwrap();
    let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && exec \"$0\" \"$@\"";
    let before = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script];
    if !Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: no mount namespace without root");
        return;
    }
    let outcome = copy("journal", folder.path(), &before).output().unwrap();
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
}

fn write_to_the_journal(folder: &Path) {
    let journal = "/run/systemd/journal/socket";
    let journal = std::os::unix::net::UnixDatagram::bind(journal).unwrap();
    journal.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let writer = Writer::start(open(folder).log).unwrap();
    let Record { body: Body::Update(change), .. } = large(1, 1) else { unreachable!() };
    let change = Change { plugins: vec!["10-a".to_owned(), "20-b".to_owned()], ..change };
    let body = Body::Outcome { of: 0, outcome: Outcome::NotApplied, change };
    let mut record = Record { body, ..baseline(7) };
    Arc::make_mut(record.container.as_mut().unwrap()).name = "evil\nMESSAGE=forged".to_owned();
    writer.offer(vec![record]);
    let next_entry = || {
        let mut entry = vec![0; 1 << 16];
        let length = journal.recv(&mut entry).unwrap();
        String::from_utf8_lossy(&entry[..length]).into_owned()
    };
    let entry = next_entry();
    assert!(entry.contains("MESSAGE_ID=07fea77223af46e2b89c1d99f099195b"), "{entry}");
    let entry = next_entry();
    for line in [
        "PRIORITY=5",
        "MESSAGE_ID=a8db4d2098fa4ee0825d99b9fd301930",
        "CONTAINER_ID=c7",
        "NRI_PLUGIN=10-a,20-b",
        "NRI_EVENT=env.add",
        "NRI_NAME=PATH",
        "NRI_OUTCOME=not_applied",
        "NRI_SEQ=7",
    ] {
        assert!(entry.lines().any(|said| said == line), "{line} in {entry}");
    }
    // By the length that goes before it, the text is one field.
    assert!(
        entry.contains("CONTAINER_NAME\n\u{13}\0\0\0\0\0\0\0evil\nMESSAGE=forged\n"),
        "{entry}"
    );
    // A journal that reads nothing holds nobody up.
    for seq in 0..3000 {
        writer.offer(vec![baseline(seq)]);
    }
    let begin = Instant::now();
    assert!(writer.finish(Duration::from_secs(5)));
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert_eq!(seqs(&folder.join("container.log")).len(), 3001);
}
