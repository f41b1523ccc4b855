//! What must not happen, whatever does: a creation that the plugin delays or fails, a
//! record that is missing without a word.

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use ccnp_eventlog::messages::nri::{Hook, POSIXRlimit};
use ccnp_eventlog::nri::writer::MOST_RECORDS;
use ccnp_eventlog::record::Field;
use common::adjusted::{adjustments, env, everything, list, string, HasLinux};
use common::disk::Disk;
use common::plugin::{audited, audited_with, is, number, text, Plugin, Record};
use common::runtime::{
    Creation, Failure, Runtime, Version, ALPHA, CONTAINERD_2_2_1, CONTAINERD_2_3, LONGEST_MESSAGE,
    PATIENCE,
};
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use protobuf::Message;

/// What a runtime may be kept waiting for every event of the node.
const AT_ONCE: Duration = Duration::from_millis(5);
/// The cores are shared and noisy; nobody's creation fails by this.
const SOON: Duration = Duration::from_millis(250);

/// As long as runtimes wait, unless somebody configures them.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// A plugin whose log is on this disk.
fn audited_on(disk: &Disk, arguments: &[&str]) -> (Runtime, Plugin) {
    let mut plugin = Plugin::stopped();
    plugin.container_log = disk.path().join("container.log");
    let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
    plugin.run(arguments);
    runtime.connect();
    plugin.records_of("session_started", 1);
    (runtime, plugin)
}

/// A creation with one adjustment, which was applied.
fn small(id: &str) -> Creation {
    Creation::of(id)
        .adjust(|a| a.args = list(&["/y"]))
        .owner(Field::Args, ALPHA)
        .effective(|c| c.args = list(&["/y"]))
}

/// A creation with fifty.
fn large(id: &str) -> Creation {
    let names: Vec<String> = (0..50).map(|n| format!("VARIABLE_{n}")).collect();
    let creation = Creation::of(id)
        .adjust(|a| a.env = names.iter().map(|name| env(name, "value")).collect())
        .effective(|c| c.env.extend(names.iter().map(|name| format!("{name}=value"))));
    names.iter().fold(creation, |creation, name| creation.owner_of(Field::Env, name, ALPHA))
}

/// Says how long half of the answers to Validate took at the most, and 99 of a hundred.
fn latencies(runtime: &Runtime, what: &str) -> (Duration, Duration) {
    let latencies = runtime.latencies_of("ValidateContainerAdjustment");
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    let (half, most, worst) = (at(50), at(99), at(100));
    println!("{what}: {} answers, p50 {half:?}, p99 {most:?}, worst {worst:?}", latencies.len());
    (half, most)
}

fn answers_were_at_once(runtime: &Runtime, what: &str) {
    let (half, most) = latencies(runtime, what);
    assert!(half < AT_ONCE && most < SOON, "{what}: {half:?}, {most:?}");
}

/// What is told faster than it can be written is lost; what comes later is not.
fn until_it_has_caught_up(runtime: &mut Runtime, plugin: &Plugin) -> Vec<Record> {
    let mut later = 0;
    plugin.records_when("what comes later", |records| {
        later += 1;
        runtime.live(&small(&format!("later{later}")));
        (0..later).any(|at| has(records, "adjustment", &format!("later{at}")))
    })
}

/// Records are counted, and those that are missing are said to be; by the writer, whose
/// own records are not counted.
fn every_record_is_there_or_counted_as_lost(records: &[Record]) {
    let numbers: Vec<u64> = records
        .iter()
        .filter(|record| record.contains_key("seq"))
        .map(|record| number(record, "seq"))
        .collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "not in order");
    let missing: u64 = numbers.windows(2).map(|pair| pair[1] - pair[0] - 1).sum();
    let lost = records.iter().filter(|record| !record.contains_key("seq"));
    let lost: u64 = lost.map(|record| number(record, "records")).sum();
    assert_eq!(missing, lost, "missing, and counted as lost");
}

fn every_adjustment_has_one_outcome(records: &[Record]) {
    let of = |kind: &str, key: &str| {
        let of_kind = records.iter().filter(|record| text(record, "kind") == kind);
        let mut numbers: Vec<u64> = of_kind.map(|record| number(record, key)).collect();
        numbers.sort();
        numbers
    };
    assert_eq!(of("adjustment", "seq"), of("outcome", "of"));
}

fn has(records: &[Record], kind: &str, id: &str) -> bool {
    records.iter().any(|record| is(record, kind, id))
}

#[test]
fn answers_are_at_once() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    for at in 0..300 {
        runtime.live(&everything(&format!("c{at}")));
    }
    answers_were_at_once(&runtime, "every field");
    let records = until_it_has_caught_up(&mut runtime, &plugin);
    every_record_is_there_or_counted_as_lost(&records);
}

/// There an answer waits for the disk, but not as long as the runtime waits for it.
#[test]
fn fail_closed_is_as_slow_as_the_disk() {
    let (mut runtime, plugin) = audited_with(CONTAINERD_2_3, &["--fail-closed"]);
    for at in 0..100 {
        let id = format!("c{at}");
        runtime.create(&small(&id));
        assert!(has(&plugin.records(), "adjustment", &id), "on the disk before it is accepted");
    }
    latencies(&runtime, "fail closed");
}

#[test]
fn a_stuck_disk_delays_no_creation_and_loses_nothing() {
    let Some(disk) = Disk::that_freezes() else { return };
    let (mut runtime, plugin) = audited_on(&disk, &[]);
    let frozen = disk.freeze();
    for at in 0..100 {
        runtime.live(&small(&format!("c{at}")));
    }
    drop(frozen);
    answers_were_at_once(&runtime, "a stuck disk");
    let all = plugin.records_when("the last one", |records| has(records, "outcome", "c99"));
    every_record_is_there_or_counted_as_lost(&all);
    for at in 0..100 {
        assert_eq!(adjustments(&all, &format!("c{at}")), ["args.set by 10-alpha: applied"]);
    }
}

#[test]
fn a_full_disk_delays_no_creation_and_its_loss_is_counted() {
    let Some(disk) = Disk::small(64 << 10) else { return };
    let (mut runtime, plugin) = audited_on(&disk, &[]);
    runtime.live(&small("before"));
    plugin.records_when("before", |records| has(records, "outcome", "before"));
    disk.fill();
    // Each makes a hundred records: twice of what waits in memory.
    for at in 0..MOST_RECORDS / 50 {
        runtime.live(&large(&format!("c{at}")));
    }
    answers_were_at_once(&runtime, "a full disk");
    disk.empty();
    let records = until_it_has_caught_up(&mut runtime, &plugin);
    assert!(records.iter().any(|r| text(r, "kind") == "lost"), "{}", plugin.said());
    every_record_is_there_or_counted_as_lost(&records);
}

/// Standard errors that nobody reads and that take not a byte more: a pipe, and a
/// socket as the journal's is. The ends to read from are to be kept.
fn deaf() -> [(Stdio, OwnedFd); 2] {
    let (reader, writer) = std::io::pipe().unwrap();
    let nonblocking = |on| {
        let flags = if on { OFlag::O_NONBLOCK } else { OFlag::empty() };
        fcntl(writer.as_raw_fd(), FcntlArg::F_SETFL(flags)).unwrap();
    };
    nonblocking(true);
    while (&writer).write(&[7; 4096]).is_ok() {}
    nonblocking(false);
    let (far, mut near) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    while near.write(&[7; 4096]).is_ok() {}
    near.set_nonblocking(false).unwrap();
    [(writer.into(), reader.into()), (OwnedFd::from(near).into(), far.into())]
}

/// Warnings come in floods where something is wrong, and wrong it is for everybody.
#[test]
fn a_standard_error_that_nobody_reads_delays_no_creation() {
    let Some(disk) = Disk::small(64 << 10) else { return };
    for (stderr, _kept) in deaf() {
        let mut plugin = Plugin::stopped();
        plugin.container_log = disk.path().join("container.log");
        let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
        plugin.adopt(plugin.command(&["--log", "trace"]).stderr(stderr).spawn().unwrap());
        runtime.connect();
        runtime.live(&small("before"));
        plugin.records_when("before", |records| has(records, "outcome", "before"));
        for _ in 0..1000 {
            let service = "nri.pkg.api.v1alpha1.Plugin";
            let answer = runtime.call_bytes(service, "ValidateContainerAdjustment", b"\xff");
            assert_eq!(answer, Ok(Vec::new()));
        }
        disk.fill();
        for at in 0..200 {
            runtime.live(&small(&format!("c{at}")));
        }
        answers_were_at_once(&runtime, "a standard error that nobody reads");
        disk.empty();
    }
}

#[test]
fn fail_closed_rejects_what_cannot_be_recorded_and_nothing_else() {
    let Some(disk) = Disk::small(1 << 10) else { return };
    for (arguments, rejects) in [(&["--fail-closed"][..], true), (&[], false)] {
        let (mut runtime, plugin) = audited_on(&disk, arguments);
        let rejected =
            |runtime: &mut Runtime, id| runtime.try_create(&large(id)).unwrap().is_some();
        assert!(!rejected(&mut runtime, "before"));
        plugin.records_when("before", |records| has(records, "adjustment", "before"));
        disk.fill();
        assert_eq!(rejected(&mut runtime, "full"), rejects);
        disk.empty();
        let begin = Instant::now();
        while rejected(&mut runtime, "after") {
            assert!(begin.elapsed() < PATIENCE, "rejects though there is room");
            std::thread::sleep(Duration::from_millis(50));
        }
        if rejects {
            let records = plugin.records();
            assert!(has(&records, "adjustment", "after"), "on the disk before it is accepted");
        }
    }
}

/// A runtime fails a request that has no answer in time, so a rejection is in time.
#[test]
fn fail_closed_rejects_in_time_where_the_disk_is_stuck() {
    let Some(disk) = Disk::that_freezes() else { return };
    let (mut runtime, _plugin) = audited_on(&disk, &["--fail-closed"]);
    let frozen = disk.freeze();
    let answer = runtime.try_create(&small("c1"));
    drop(frozen);
    assert!(matches!(answer, Ok(Some(_))), "{answer:?}");
    let begin = Instant::now();
    while runtime.try_create(&small("c2")).unwrap().is_some() {
        assert!(begin.elapsed() < PATIENCE, "rejects though the disk works");
    }
}

#[test]
fn a_request_as_large_as_any_is_answered() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    let mut value =
        Creation::of("value").adjust(|a| a.env = vec![env("K", &"x".repeat(4_190_000))]);
    value = value.owner_of(Field::Env, "K", ALPHA).effective(|c| c.env = list(&["K=x"]));
    runtime.live(&value);
    let names: Vec<String> = (0..60_000).map(|n| format!("VARIABLE_{n:08}_WITH_A_NAME")).collect();
    let many =
        Creation::of("many").adjust(|a| a.env = names.iter().map(|name| env(name, "v")).collect());
    runtime.live(&many);
    latencies(&runtime, "4 MiB");
    let records = until_it_has_caught_up(&mut runtime, &plugin);
    assert_eq!(adjustments(&records, "value"), ["env.add K by 10-alpha: not_applied"]);
    every_record_is_there_or_counted_as_lost(&records);
    assert!(plugin.said().len() < 100_000);
}

/// The creation with as many of something, each of the same size, as a message has
/// room for.
fn as_many_as_fit(creation: impl Fn(usize) -> Creation) -> Creation {
    let size = |count| creation(count).request.compute_size() as usize;
    let (some, more) = (size(10_000), size(20_000));
    // What is around the request in its call, and what lengths of lengths differ by.
    let room = LONGEST_MESSAGE - 1000;
    let fitting = creation(10_000 + (room - some) * 10_000 / (more - some));
    let size = fitting.request.compute_size() as usize;
    assert!(size <= room && size > room - 10_000, "{size} bytes");
    fitting
}

fn numbers(count: usize, width: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("{n:0width$}"))
}

/// Requests whose every part is compared with, or repeated for, every other by whoever
/// is careless.
fn laborious() -> [(&'static str, Version, Creation); 6] {
    let limits = as_many_as_fit(|count| {
        let limit = POSIXRlimit { type_: "R".into(), soft: 1, hard: 1, ..Default::default() };
        let half = vec![limit; count / 2];
        Creation::of("limits")
            .pristine(|c| {
                c.env = numbers(count, 14).map(|name| name + "=").collect();
                c.rlimits = half.clone();
            })
            .adjust(|a| a.rlimits = half.clone())
    });
    let withdrawn = as_many_as_fit(|count| {
        let names = numbers(count, 11).map(|name| format!("w{name}"));
        let creation = Creation::of("withdrawn")
            .adjust(|a| a.env = numbers(count, 12).map(|name| env(&name, "v")).collect());
        names.fold(creation, |creation, name| creation.owner_of(Field::Env, &name, "-20-beta"))
    });
    let hooks = |owners: &str, plugins: &[&str]| {
        as_many_as_fit(|count| {
            let hook = Hook { path: "h".into(), ..Default::default() };
            Creation::of("hooks")
                .adjust(|a| a.hooks.mut_or_insert_default().prestart = vec![hook; count])
                .owner(Field::Hook, owners)
                .plugins(plugins)
        })
    };
    let list = |name: &str| hooks(&vec![name; (3 << 20) / (name.len() + 1)].join(","), &[]);
    let plugins: Vec<String> = numbers(1024, 200).map(|name| format!("10-{name}")).collect();
    let plugins: Vec<&str> = plugins.iter().map(String::as_str).collect();
    let named = as_many_as_fit(|count| {
        Creation::of("named")
            .pristine(|c| c.name = "n".repeat(1 << 20))
            .adjust(|a| a.annotations = numbers(count, 56).map(|key| (key, "".into())).collect())
    });
    [
        ("limits", CONTAINERD_2_3, limits),
        ("withdrawals", CONTAINERD_2_3, withdrawn),
        ("hooks of a long list", CONTAINERD_2_3, list(ALPHA)),
        // There the last of them is named alone.
        ("hooks of many plugins", CONTAINERD_2_2_1, hooks(plugins[1023], &plugins)),
        ("a long name", CONTAINERD_2_3, named),
        ("hooks of a list of long names", CONTAINERD_2_3, list(&"p".repeat(255))),
    ]
}

/// Whoever waits for the answer after it would have its creation fail.
#[test]
fn no_request_takes_long_to_understand_or_much_memory() {
    let mut failures = Vec::new();
    for (what, version, creation) in laborious() {
        let mut plugin = Plugin::stopped();
        let mut runtime = Runtime::listen(&plugin.socket(), version);
        // What takes too long is told here, and how long.
        runtime.request_timeout = PATIENCE;
        plugin.run(&[]);
        runtime.connect();
        plugin.may_use(4 << 30);
        let answers = [&creation, &small("next")].map(|creation| runtime.try_create(creation));
        if answers != [Ok(None), Ok(None)] {
            failures.push(format!("{what}: {answers:?}\n{}", plugin.said()));
            continue;
        }
        runtime.post_create(&creation.effective);
        runtime.create(&small("last"));
        let (_, peak) = (latencies(&runtime, what), plugin.peak_memory());
        println!("{what}: {} MiB of memory", peak >> 20);
        failures.extend(
            runtime
                .latencies
                .iter()
                .filter(|(_, taken)| *taken > REQUEST_TIMEOUT)
                .map(|(method, taken)| format!("{what}: {method} waits for {taken:?}")),
        );
        if peak >= 512 << 20 {
            failures.push(format!("{what}: {peak} bytes of memory"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_thousand_containers_are_recorded() {
    let (mut runtime, mut plugin) = audited(CONTAINERD_2_3);
    let begin = Instant::now();
    for at in 0..1000 {
        runtime.live(&large(&format!("c{at}")));
    }
    let told = begin.elapsed();
    answers_were_at_once(&runtime, "50,000 adjustments");
    until_it_has_caught_up(&mut runtime, &plugin);
    plugin.stop();
    let records = plugin.records();
    println!("told in {told:?}, written in {:?}, {} records", begin.elapsed(), records.len());
    every_record_is_there_or_counted_as_lost(&records);
    let count = |kind: &str| records.iter().filter(|r| text(r, "kind") == kind).count() as u64;
    let lost: u64 = records.iter().map(|record| number(record, "records")).sum();
    assert!(count("adjustment") + count("outcome") + lost >= 100_000, "{lost} lost");
}

/// Whenever it dies, every container is on record in the end, with its adjustments or
/// as one whose creation was missed.
#[test]
fn a_plugin_that_is_killed_goes_on_where_it_was() {
    let mut plugin = Plugin::stopped();
    let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
    plugin.run(&[]);
    runtime.connect();
    let mut created = Vec::new();
    for round in 0..8 {
        for at in 0..20 {
            let creation = small(&format!("c{round}-{at}"));
            runtime.create(&creation);
            if at % 3 > 0 {
                runtime.post_create(&creation.effective);
            }
            created.push(creation.effective);
        }
        std::thread::sleep(Duration::from_millis(round * 3));
        plugin.kill();
        // The one that is asked about while nobody listens fails in the runtime.
        assert_eq!(runtime.try_create(&small("nobody")), Err(Failure::Closed));
        runtime.disconnect();
        runtime.containers = created.clone();
        plugin.run(&[]);
        runtime.connect();
    }
    runtime.live(&small("last"));
    let records = plugin.records_when("the last one", |records| has(records, "outcome", "last"));
    plugin.stop();
    assert!(plugin.log_is_whole());
    let told = |id: &str| {
        let kinds = ["adjustment", "baseline", "unaudited_creation"];
        kinds.iter().any(|kind| has(&records, kind, id))
    };
    let untold: Vec<_> = created.iter().filter(|container| !told(&container.id)).collect();
    assert!(untold.is_empty(), "{untold:?}");
    every_adjustment_has_one_outcome(&records);
    let wrong = ["never_created", "not_applied"];
    assert!(records.iter().all(|record| !wrong.contains(&text(record, "outcome"))));
    let known: BTreeSet<&str> = created.iter().map(|container| &*container.id).collect();
    let found =
        records.iter().filter(|r| ["baseline", "unaudited_creation"].contains(&text(r, "kind")));
    let found: Vec<&str> = found.map(|record| text(record, "container_id")).collect();
    assert!(found.iter().all(|id| known.contains(id)), "{found:?}");
    assert_eq!(found.len(), found.iter().collect::<BTreeSet<_>>().len(), "told twice");
}

/// A runtime that shows no container, as some do.
#[test]
fn creations_that_stay_open_are_given_up_and_not_gathered_for_ever() {
    let (mut runtime, mut plugin) = audited(CONTAINERD_2_3);
    for at in 0..5000 {
        runtime.create(&small(&format!("c{at}")));
    }
    let records =
        plugin.records_when("the first are given up", |records| has(records, "outcome", "c0"));
    assert!(!has(&records, "outcome", "c4999"));
    plugin.stop();
    let records = plugin.records();
    every_record_is_there_or_counted_as_lost(&records);
    every_adjustment_has_one_outcome(&records);
    let mut outcomes = records.iter().filter(|record| text(record, "kind") == "outcome");
    assert!(outcomes.all(|record| text(record, "outcome") == "unresolved"));
}

/// Values that plugins choose may be as odd as they like.
#[test]
fn extremes_of_numbers_and_texts_are_recorded() {
    let (mut runtime, plugin) = audited_with(CONTAINERD_2_3, &[]);
    let creation = Creation::of("c1").adjust(|a| {
        a.memory().limit.mut_or_insert_default().value = i64::MIN;
        a.cpu().shares.mut_or_insert_default().value = u64::MAX;
        a.resources().pids.mut_or_insert_default().limit = i64::MAX;
        a.resources().blockio_class = string(&"\0".repeat(5000));
        a.linux.mut_or_insert_default().oom_score_adj.mut_or_insert_default().value = i64::MIN;
        a.linux.mut_or_insert_default().io_priority.mut_or_insert_default().class = i32::MIN;
        a.linux.mut_or_insert_default().scheduler.mut_or_insert_default().policy = i32::MAX;
        a.env = vec![env("", ""), env("=", "="), env("-", "")];
        a.annotations.insert(String::new(), String::new());
        a.annotations.insert("-".into(), String::new());
    });
    runtime.live(&creation);
    runtime.live(&small("after"));
    let records = plugin.records_when("the next", |records| has(records, "outcome", "after"));
    let limit = records.iter().find(|record| text(record, "field") == "memory_limit").unwrap();
    assert_eq!(text(limit, "value"), i64::MIN.to_string());
    let shares = records.iter().find(|record| text(record, "field") == "cpu_shares").unwrap();
    assert_eq!(text(shares, "value"), u64::MAX.to_string());
    every_record_is_there_or_counted_as_lost(&records);
}
