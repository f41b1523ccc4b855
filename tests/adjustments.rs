//! What the plugin records of adjustments: each field, who made it, what became of it.

mod common;

use std::collections::BTreeSet;
use std::fs;

use ccnp_eventlog::log::{algorithm, Log};
use ccnp_eventlog::messages::nri::{
    Container, ContainerAdjustment, Hooks, LinuxMemoryPolicy, LinuxPids, LinuxRdt, LinuxResources,
};
use ccnp_eventlog::record::Field;
use common::adjusted::{
    adjustments, boolean, device, env, everything, hook, hugepages, int, io_priority, list, map,
    mount, namespace, net_device, outcome, removed_mount, rlimit, rule, scheduler, seccomp, shows,
    string, uint, uint32, HasLinux,
};
use common::plugin::{audited, audited_with, is, number, text, Plugin, Record};
use common::replay::hash;
use common::runtime::{
    bytes, some, Creation, Runtime, Version, ALPHA, BETA, CONTAINERD_2_2_0, CONTAINERD_2_2_1,
    CONTAINERD_2_3, CONTAINERD_2_4, CRIO_1_34, DEFAULT_VALIDATOR, OURS,
};

const SECRET: &[u8] = b"s3cr3t";

/// Waits until all that came before is in the log, and gives it.
fn all_records(runtime: &mut Runtime, plugin: &Plugin) -> Vec<Record> {
    runtime.live(&Creation::of("last"));
    plugin.records_when("the last creation", |records| {
        records.iter().any(|record| is(record, "no_adjustment", "last"))
    })
}

/// The lines of one creation that went well, under a runtime of this version.
fn lines_of(version: Version, creation: &Creation) -> Vec<String> {
    let (mut runtime, plugin) = audited(version);
    runtime.live(creation);
    adjustments(&all_records(&mut runtime, &plugin), &creation.effective.id)
}

/// What is recorded of `everything`, in the order of fields and keys, and what it shows.
const EVERYTHING: [(&str, &str); 54] = [
    ("annotation.add a.io/key by 10-alpha: applied", "*"),
    ("annotation.add b.io/key by 10-alpha: applied", "*"),
    ("env.add A by 10-alpha: applied", "*"),
    ("env.add TOKEN by 10-alpha: applied", "*"),
    ("args.set by 10-alpha: applied", "/bin/sh 2"),
    ("hook.add prestart by 10-alpha: applied", "/h/before 1"),
    ("hook.add poststart by 10-alpha: applied", "/h/started 1"),
    ("hook.add poststop by 10-alpha: applied", "/h/stopped 1"),
    ("hook.add create_runtime by 10-alpha: applied", "/h/runtime 1"),
    ("hook.add create_container by 10-alpha: applied", "/h/container 1"),
    ("hook.add start_container by 10-alpha: applied", "/h/start 1"),
    ("cdi_device.add vendor.com/gpu=0 by 10-alpha: not_observable", ""),
    ("cdi_device.add vendor.com/gpu=1 by 10-alpha: not_observable", ""),
    ("device.add /dev/a by 10-alpha: applied", "c 8:9"),
    ("device.add /dev/z by 10-alpha: applied", "c 9:9"),
    ("cgroups_path.set by 10-alpha: applied", "/here"),
    ("oom_score_adj.set by 10-alpha: applied", "29"),
    ("io_priority.set by 10-alpha: applied", "2 3"),
    ("scheduler.set by 10-alpha: applied", "5"),
    ("seccomp_policy.set by 10-alpha: applied", "SCMP_ACT_ERRNO /run/listener"),
    ("namespace.add cgroup by 10-alpha: applied", "/run/ns/cgroup"),
    ("namespace.add user by 10-alpha: applied", "/run/ns/user"),
    ("sysctl.add net.a by 10-alpha: applied", "2"),
    ("sysctl.add net.b by 10-alpha: applied", "1"),
    ("net_device.add eth0 by 10-alpha: applied", "outer"),
    ("net_device.add eth1 by 10-alpha: applied", "inner"),
    ("memory_policy.set by 10-alpha: not_observable", "0-1"),
    ("cpu_period.set by 10-alpha: applied", "18"),
    ("cpu_quota.set by 10-alpha: applied", "17"),
    ("cpu_shares.set by 10-alpha: applied", "16"),
    ("cpuset_cpus.set by 10-alpha: applied", "0-3"),
    ("cpuset_mems.set by 10-alpha: applied", "0"),
    ("cpu_realtime_runtime.set by 10-alpha: applied", "19"),
    ("cpu_realtime_period.set by 10-alpha: applied", "20"),
    ("memory_limit.set by 10-alpha: applied", "8000"),
    ("memory_reservation.set by 10-alpha: applied", "9000"),
    ("memory_swap.set by 10-alpha: applied", "10000"),
    ("memory_kernel.set by 10-alpha: applied", "11000"),
    ("memory_kernel_tcp.set by 10-alpha: applied", "12000"),
    ("memory_swappiness.set by 10-alpha: applied", "13"),
    ("memory_disable_oom_killer.set by 10-alpha: applied", "true"),
    ("memory_use_hierarchy.set by 10-alpha: applied", "true"),
    ("hugepage_limit.add 1GB by 10-alpha: applied", "25"),
    ("hugepage_limit.add 2MB by 10-alpha: applied", "24"),
    ("unified.add cpu.weight by 10-alpha: applied", "28"),
    ("unified.add memory.high by 10-alpha: applied", "27"),
    ("pids_limit.set by 10-alpha: applied", "23"),
    // Nobody owns rules, and there are two who may have made it.
    ("device_rule.add (unknown): applied", "allow c 1:3 rwm"),
    ("blockio_class.set by 10-alpha: not_observable", "slow"),
    ("rdt_class.set by 10-alpha: applied", "gold"),
    ("rdt_clos_id.set by 10-alpha: applied", "gold"),
    ("rdt_schemata.set by 10-alpha: applied", "MB:0=50"),
    ("rdt_enable_monitoring.set by 10-alpha: applied", "true"),
    ("mount.add /m/1 by 10-alpha: applied", "bind /src/1 ro"),
];
const EVERYTHING_LAST: [(&str, &str); 2] = [
    ("mount.add /m/2 by 10-alpha: applied", "bind /src/2 rw nosuid"),
    ("rlimit.add RLIMIT_NOFILE by 10-alpha: applied", "5 10"),
];

fn everything_as_recorded() -> impl Iterator<Item = (&'static str, &'static str)> {
    EVERYTHING.into_iter().chain(EVERYTHING_LAST)
}

#[test]
fn every_field_is_recorded_in_its_place_with_its_value_owner_and_outcome() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    runtime.live(&everything("all"));
    let records = all_records(&mut runtime, &plugin);
    let expected: Vec<&str> = everything_as_recorded().map(|(line, _)| line).collect();
    assert_eq!(adjustments(&records, "all"), expected);
    let changes = records.iter().filter(|record| is(record, "adjustment", "all"));
    let mut fields = BTreeSet::new();
    for (record, (line, value)) in changes.zip(everything_as_recorded()) {
        assert!(shows(record, value), "{line}: {record:?} does not show {value:?}");
        let outcome = outcome(&records, record).unwrap();
        assert_eq!(outcome.get("value"), record.get("value"), "{line}");
        assert_eq!(text(record, "pod_uid"), "0a1b");
        fields.insert(text(record, "field"));
    }
    assert_eq!(fields, Field::all().map(Field::name).collect());
}

/// Numbers and their like are left out, and nothing of which a thief makes use.
#[test]
fn a_summary_has_all_records_and_fewer_values() {
    let (mut runtime, plugin) = audited_with(CONTAINERD_2_3, &["--detail", "summary"]);
    runtime.live(&everything("all"));
    let records = all_records(&mut runtime, &plugin);
    let expected: Vec<&str> = everything_as_recorded().map(|(line, _)| line).collect();
    assert_eq!(adjustments(&records, "all"), expected);
    let changes = records.iter().filter(|record| is(record, "adjustment", "all"));
    for (record, (line, value)) in changes.zip(everything_as_recorded()) {
        let field = text(record, "field");
        if AMOUNTS.iter().any(|amount| field.starts_with(amount)) {
            assert_eq!(record.get("value"), None, "{line}");
        } else if field != "rlimit" {
            assert!(shows(record, value), "{line}: {record:?} does not show {value:?}");
        }
    }
}

/// How the names of those fields begin whose values say how much of something.
const AMOUNTS: [&str; 10] = [
    "blockio",
    "cpu",
    "hugepage_limit",
    "io_priority",
    "memory_",
    "oom_score_adj",
    "pids_limit",
    "rdt_",
    "scheduler",
    "unified",
];

/// What a runtime never shows cannot be found missing.
#[test]
fn what_is_not_shown_is_only_missing_where_it_would_be_shown() {
    let never = ["cdi_device", "memory_policy", "blockio_class"];
    let since_2_2_1 = [
        "io_priority",
        "scheduler",
        "net_device",
        "rdt_class",
        "rdt_clos_id",
        "rdt_schemata",
        "rdt_enable_monitoring",
    ];
    let since_2_3 = ["sysctl", "rlimit", "seccomp_policy"];
    for (version, hidden) in [
        (CONTAINERD_2_2_0, [&never[..], &since_2_2_1, &since_2_3].concat()),
        (CONTAINERD_2_2_1, [&never[..], &since_2_3].concat()),
        (CONTAINERD_2_3, never.to_vec()),
        (CONTAINERD_2_4, never.to_vec()),
        (CRIO_1_34, [&never[..], &since_2_2_1, &since_2_3].concat()),
    ] {
        let creation = everything("all");
        let pristine = creation.request.container.clone().unwrap();
        let lines = lines_of(version, &creation.effective(|c| *c = pristine));
        assert_eq!(lines.len(), everything_as_recorded().count());
        for line in lines {
            let field = line.split('.').next().unwrap();
            let outcome = if hidden.contains(&field) { "not_observable" } else { "not_applied" };
            assert!(line.ends_with(outcome), "{}: {line}", version.version);
        }
    }
}

type Setter = fn(&mut dyn HasLinux, u64);

/// Where a field is one number or truth value, and how to set it.
const SCALARS: [(Field, Setter); 14] = [
    (Field::CpuPeriod, |of, value| of.cpu().period = uint(value)),
    (Field::CpuQuota, |of, value| of.cpu().quota = int(value as i64)),
    (Field::CpuShares, |of, value| of.cpu().shares = uint(value)),
    (Field::CpuRealtimeRuntime, |of, value| of.cpu().realtime_runtime = int(value as i64)),
    (Field::CpuRealtimePeriod, |of, value| of.cpu().realtime_period = uint(value)),
    (Field::MemoryLimit, |of, value| of.memory().limit = int(value as i64)),
    (Field::MemoryReservation, |of, value| of.memory().reservation = int(value as i64)),
    (Field::MemorySwap, |of, value| of.memory().swap = int(value as i64)),
    (Field::MemoryKernel, |of, value| of.memory().kernel = int(value as i64)),
    (Field::MemoryKernelTcp, |of, value| of.memory().kernel_tcp = int(value as i64)),
    (Field::MemorySwappiness, |of, value| of.memory().swappiness = uint(value)),
    (Field::MemoryDisableOomKiller, |of, value| {
        of.memory().disable_oom_killer = boolean(value != 0)
    }),
    (Field::MemoryUseHierarchy, |of, value| of.memory().use_hierarchy = boolean(value != 0)),
    (Field::PidsLimit, |of, value| {
        of.resources().pids = some(LinuxPids { limit: value as i64, ..Default::default() });
    }),
];

#[test]
fn every_number_is_compared_with_what_was_and_what_is() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    for (field, set) in SCALARS {
        let id = |what: &str| format!("{}-{what}", field.name());
        let wanted = |what| Creation::of(&id(what)).adjust(|a| set(a, 7)).owner(field, ALPHA);
        runtime.live(&wanted("applied").effective(|c| set(c, 7)));
        runtime.live(&wanted("other").effective(|c| set(c, 0)));
        runtime.live(&wanted("missing"));
        runtime.live(&wanted("noop").pristine(|c| set(c, 7)));
        runtime.live(&wanted("kept").pristine(|c| set(c, 0)));
        runtime.live(&wanted("changed").pristine(|c| set(c, 0)).effective(|c| set(c, 7)));
    }
    let records = all_records(&mut runtime, &plugin);
    for (field, _) in SCALARS {
        for (what, outcome) in [
            ("applied", "applied"),
            ("other", "not_applied"),
            ("missing", "not_applied"),
            ("noop", "applied, noop"),
            ("kept", "not_applied"),
            ("changed", "applied"),
        ] {
            let lines = adjustments(&records, &format!("{}-{what}", field.name()));
            assert_eq!(lines, [format!("{}.set by 10-alpha: {outcome}", field.name())], "{what}");
        }
    }
}

/// (what it is about, the creation, its records)
type Case = (&'static str, fn(Creation) -> Creation, &'static [&'static str]);

fn holds(version: Version, cases: &[Case]) {
    let (mut runtime, plugin) = audited(version);
    for (what, creation, _) in cases {
        runtime.live(&creation(Creation::of(what)));
    }
    let records = all_records(&mut runtime, &plugin);
    let mut failures = Vec::new();
    for (what, _, expected) in cases {
        let lines = adjustments(&records, what);
        if lines != *expected {
            failures.push(format!("{what}: {lines:#?} and not {expected:#?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn entries_of_maps_and_lists_are_added_replaced_removed_and_withdrawn() {
    holds(CONTAINERD_2_3, ENTRIES);
}

const ENTRIES: &[Case] = &[
    (
        "annotation, new",
        |c| {
            c.adjust(|a| a.annotations = map(&[("k", "v")]))
                .owner_of(Field::Annotation, "k", BETA)
                .effective(|c| c.annotations = map(&[("k", "v")]))
        },
        &["annotation.add k by 20-beta: applied"],
    ),
    (
        "annotation, new and lost",
        |c| {
            c.adjust(|a| a.annotations = map(&[("k", "v")])).owner_of(Field::Annotation, "k", ALPHA)
        },
        &["annotation.add k by 10-alpha: not_applied"],
    ),
    (
        "annotation, over a pristine one",
        |c| {
            c.pristine(|c| c.annotations = map(&[("k", "old")]))
                .adjust(|a| a.annotations = map(&[("k", "new")]))
                .owner_of(Field::Annotation, "k", ALPHA)
                .effective(|c| c.annotations = map(&[("k", "new")]))
        },
        &["annotation.replace k by 10-alpha: applied"],
    ),
    (
        "annotation, masked by the runtime",
        |c| {
            c.pristine(|c| c.annotations = map(&[("k", "old")]))
                .adjust(|a| a.annotations = map(&[("k", "new")]))
                .owner_of(Field::Annotation, "k", ALPHA)
        },
        &["annotation.replace k by 10-alpha: indeterminate"],
    ),
    (
        "annotation, removed and masked",
        |c| {
            c.pristine(|c| c.annotations = map(&[("k", "old")]))
                .adjust(|a| a.annotations = map(&[("-k", "")]))
        },
        &["annotation.remove k (unknown): indeterminate"],
    ),
    (
        "annotation, removed",
        |c| {
            c.pristine(|c| c.annotations = map(&[("k", "old")]))
                .adjust(|a| a.annotations = map(&[("-k", "")]))
                .effective(|c| c.annotations.clear())
                .plugins(&[OURS, DEFAULT_VALIDATOR, BETA])
        },
        &["annotation.remove k by 20-beta (inferred): applied"],
    ),
    (
        "annotation, removed though it is not there",
        |c| c.adjust(|a| a.annotations = map(&[("-k", "")])),
        &["annotation.remove k (unknown): applied, noop"],
    ),
    (
        "annotation, another plugin's, replaced",
        |c| {
            c.adjust(|a| a.annotations = map(&[("-k", ""), ("k", "v")]))
                .owner_of(Field::Annotation, "k", BETA)
                .effective(|c| c.annotations = map(&[("k", "v")]))
        },
        &["annotation.replace k by 20-beta: applied"],
    ),
    (
        "annotation, another plugin's, replaced and lost",
        |c| {
            c.adjust(|a| a.annotations = map(&[("-k", ""), ("k", "v")])).owner_of(
                Field::Annotation,
                "k",
                BETA,
            )
        },
        &["annotation.replace k by 20-beta: not_applied, removal-marker race"],
    ),
    (
        "env, over a pristine one",
        |c| {
            c.pristine(|c| c.env = list(&["A=b=c", "K=old", "KEY=k"]))
                .adjust(|a| a.env = vec![env("K", "new=er")])
                .owner_of(Field::Env, "K", ALPHA)
                .effective(|c| c.env = list(&["A=b=c", "K=new=er", "KEY=k"]))
        },
        &["env.replace K by 10-alpha: applied"],
    ),
    (
        "env, ignored",
        |c| {
            c.pristine(|c| c.env = list(&["K=old"]))
                .adjust(|a| a.env = vec![env("K", "new")])
                .owner_of(Field::Env, "K", ALPHA)
        },
        &["env.replace K by 10-alpha: not_applied"],
    ),
    (
        "env, the same as before",
        |c| {
            c.pristine(|c| c.env = list(&["K=v"])).adjust(|a| a.env = vec![env("K", "v")]).owner_of(
                Field::Env,
                "K",
                ALPHA,
            )
        },
        &["env.replace K by 10-alpha: applied, noop"],
    ),
    (
        "env, two that differ",
        |c| {
            c.pristine(|c| c.env = list(&["K=old"]))
                .adjust(|a| a.env = vec![env("K", "new")])
                .owner_of(Field::Env, "K", ALPHA)
                .effective(|c| c.env = list(&["K=old", "K=new"]))
        },
        &["env.replace K by 10-alpha: indeterminate"],
    ),
    (
        "env, two, neither of them",
        |c| {
            c.adjust(|a| a.env = vec![env("K", "new")])
                .owner_of(Field::Env, "K", ALPHA)
                .effective(|c| c.env = list(&["K=old", "K=older"]))
        },
        &["env.add K by 10-alpha: not_applied"],
    ),
    (
        "env, empty",
        |c| {
            c.adjust(|a| a.env = vec![env("K", "")])
                .owner_of(Field::Env, "K", ALPHA)
                .effective(|c| c.env = list(&["K="]))
        },
        &["env.add K by 10-alpha: applied"],
    ),
    ("env, withdrawn", |c| c.owner_of(Field::Env, "K", "-20-beta"), &["env.withdraw K by 20-beta"]),
    (
        "mount, over a pristine one",
        |c| {
            c.pristine(|c| c.mounts = vec![mount("/data", "/srv", &["ro"])])
                .adjust(|a| a.mounts = vec![mount("/data", "/other", &["rw"])])
                .owner_of(Field::Mount, "/data", ALPHA)
                .effective(|c| c.mounts = vec![mount("/data", "/other", &["rw"])])
        },
        &["mount.replace /data by 10-alpha: applied"],
    ),
    (
        "mount, removed",
        |c| {
            c.pristine(|c| c.mounts = vec![mount("/data", "/srv", &["ro"])])
                .adjust(|a| a.mounts = vec![removed_mount("/data")])
                .effective(|c| c.mounts.clear())
                .plugins(&[OURS, ALPHA])
        },
        &["mount.remove /data by 10-alpha (inferred): applied"],
    ),
    (
        "mount, removed and there",
        |c| {
            c.pristine(|c| c.mounts = vec![mount("/data", "/srv", &["ro"])])
                .adjust(|a| a.mounts = vec![removed_mount("/data")])
        },
        &["mount.remove /data (unknown): not_applied"],
    ),
    (
        "mount, options in another order",
        |c| {
            c.adjust(|a| a.mounts = vec![mount("/m", "/src", &["rw", "nosuid", "rw"])])
                .owner_of(Field::Mount, "/m", ALPHA)
                .effective(|c| c.mounts = vec![mount("/m", "/src", &["rw", "rw", "nosuid"])])
        },
        &["mount.add /m by 10-alpha: applied"],
    ),
    (
        "mount, without an option",
        |c| {
            c.adjust(|a| a.mounts = vec![mount("/m", "/src", &["rw", "nosuid"])])
                .owner_of(Field::Mount, "/m", ALPHA)
                .effective(|c| c.mounts = vec![mount("/m", "/src", &["rw"])])
        },
        &["mount.add /m by 10-alpha: not_applied"],
    ),
    (
        "mount, from elsewhere",
        |c| {
            c.adjust(|a| a.mounts = vec![mount("/m", "/src", &["rw"])])
                .owner_of(Field::Mount, "/m", ALPHA)
                .effective(|c| c.mounts = vec![mount("/m", "/elsewhere", &["rw"])])
        },
        &["mount.add /m by 10-alpha: not_applied"],
    ),
    (
        "mount, withdrawn",
        |c| c.owner_of(Field::Mount, "/m", "-20-beta"),
        &["mount.withdraw /m by 20-beta"],
    ),
    (
        "device, over a pristine one",
        |c| {
            c.pristine(|c| c.linux.mut_or_insert_default().devices = vec![device("/dev/x", 1)])
                .adjust(|a| a.linux.mut_or_insert_default().devices = vec![device("/dev/x", 2)])
                .owner_of(Field::Device, "/dev/x", ALPHA)
                .effective(|c| c.linux.mut_or_insert_default().devices = vec![device("/dev/x", 2)])
        },
        &["device.replace /dev/x by 10-alpha: applied"],
    ),
    (
        "device, with another number",
        |c| {
            c.adjust(|a| a.linux.mut_or_insert_default().devices = vec![device("/dev/x", 2)])
                .owner_of(Field::Device, "/dev/x", ALPHA)
                .effective(|c| c.linux.mut_or_insert_default().devices = vec![device("/dev/x", 1)])
        },
        &["device.add /dev/x by 10-alpha: not_applied"],
    ),
    (
        "device, with another mode",
        |c| {
            let with_mode = |mode| {
                let mut device = device("/dev/x", 1);
                (device.file_mode, device.uid) = (uint32(mode), uint32(0));
                device
            };
            c.adjust(|a| a.linux.mut_or_insert_default().devices = vec![with_mode(0o666)])
                .owner_of(Field::Device, "/dev/x", ALPHA)
                .effective(|c| {
                    c.linux.mut_or_insert_default().devices = vec![with_mode(0o600)];
                })
        },
        &["device.add /dev/x by 10-alpha: not_applied"],
    ),
    (
        "device, withdrawn",
        |c| c.owner_of(Field::Device, "/dev/x", "-20-beta"),
        &["device.withdraw /dev/x by 20-beta"],
    ),
    (
        "device rule, the only plugin's",
        |c| c.adjust(|a| a.resources().devices = vec![rule(1)]).plugins(&[OURS, BETA]),
        &["device_rule.add by 20-beta (inferred): not_applied"],
    ),
    (
        "namespace, over a pristine one",
        |c| {
            c.pristine(|c| c.linux.mut_or_insert_default().namespaces = vec![namespace("pid", "")])
                .adjust(|a| {
                    a.linux.mut_or_insert_default().namespaces = vec![namespace("pid", "/p")]
                })
                .owner_of(Field::Namespace, "pid", ALPHA)
                .effective(|c| {
                    c.linux.mut_or_insert_default().namespaces = vec![namespace("pid", "/p")];
                })
        },
        &["namespace.replace pid by 10-alpha: applied"],
    ),
    (
        "namespace, removed",
        |c| {
            c.pristine(|c| c.linux.mut_or_insert_default().namespaces = vec![namespace("ipc", "")])
                .adjust(|a| {
                    a.linux.mut_or_insert_default().namespaces = vec![namespace("-ipc", "")]
                })
                .owner_of(Field::Namespace, "ipc", ALPHA)
                .effective(|c| c.linux.mut_or_insert_default().namespaces.clear())
        },
        &["namespace.remove ipc by 10-alpha: applied"],
    ),
    (
        "sysctl, over a pristine one",
        |c| {
            c.pristine(|c| c.linux.mut_or_insert_default().sysctl = map(&[("net.a", "1")]))
                .adjust(|a| a.linux.mut_or_insert_default().sysctl = map(&[("net.a", "2")]))
                .owner_of(Field::Sysctl, "net.a", ALPHA)
                .effective(|c| c.linux.mut_or_insert_default().sysctl = map(&[("net.a", "2")]))
        },
        &["sysctl.replace net.a by 10-alpha: applied"],
    ),
    (
        "sysctl, removed and there",
        |c| {
            c.pristine(|c| c.linux.mut_or_insert_default().sysctl = map(&[("net.a", "1")]))
                .adjust(|a| a.linux.mut_or_insert_default().sysctl = map(&[("-net.a", "")]))
        },
        &["sysctl.remove net.a (unknown): not_applied"],
    ),
    (
        "sysctl, another plugin's, replaced and lost",
        |c| {
            c.pristine(|c| c.linux.mut_or_insert_default().sysctl = map(&[("net.b", "1")]))
                .adjust(|a| {
                    a.linux.mut_or_insert_default().sysctl = map(&[("-net.a", ""), ("net.a", "2")]);
                })
                .owner_of(Field::Sysctl, "net.a", BETA)
        },
        &["sysctl.replace net.a by 20-beta: not_applied, removal-marker race"],
    ),
    (
        "sysctl, removed by way of an annotation",
        |c| {
            c.pristine(|c| c.linux.mut_or_insert_default().sysctl = map(&[("net.a", "1")]))
                .adjust(|a| a.annotations = map(&[("-net.a", "")]))
                .plugins(&[OURS, ALPHA])
        },
        &["sysctl.remove net.a by 10-alpha (inferred): not_applied, misrouted"],
    ),
    (
        "network device, removed",
        |c| {
            c.pristine(|c| {
                c.linux.mut_or_insert_default().net_devices = [net_device("eth0", "a")].into();
            })
            .adjust(|a| {
                a.linux.mut_or_insert_default().net_devices = [net_device("-eth0", "")].into();
            })
            .effective(|c| c.linux.mut_or_insert_default().net_devices.clear())
        },
        &["net_device.remove eth0 (unknown): applied"],
    ),
    (
        "huge pages, over pristine ones",
        |c| {
            c.pristine(|c| c.resources().hugepage_limits = vec![hugepages("2MB", 1)])
                .adjust(|a| a.resources().hugepage_limits = vec![hugepages("2MB", 2)])
                .owner_of(Field::HugepageLimit, "2MB", ALPHA)
                .effective(|c| c.resources().hugepage_limits = vec![hugepages("2MB", 2)])
        },
        &["hugepage_limit.replace 2MB by 10-alpha: applied"],
    ),
    (
        "unified, over a pristine one",
        |c| {
            c.pristine(|c| c.resources().unified = map(&[("cpu.weight", "1")]))
                .adjust(|a| a.resources().unified = map(&[("cpu.weight", "2")]))
                .owner_of(Field::Unified, "cpu.weight", ALPHA)
        },
        &["unified.replace cpu.weight by 10-alpha: not_applied"],
    ),
    (
        "limit, one of two of its type",
        |c| {
            c.pristine(|c| c.rlimits = vec![rlimit(1, 2)])
                .adjust(|a| a.rlimits = vec![rlimit(5, 10)])
                .owner_of(Field::Rlimit, "RLIMIT_NOFILE", ALPHA)
                .effective(|c| c.rlimits = vec![rlimit(1, 2), rlimit(5, 10)])
        },
        &["rlimit.add RLIMIT_NOFILE by 10-alpha: indeterminate"],
    ),
];

#[test]
fn single_values_are_set_cleared_and_withdrawn() {
    holds(CONTAINERD_2_3, VALUES);
}

fn rdt(change: impl FnOnce(&mut LinuxRdt)) -> protobuf::MessageField<LinuxRdt> {
    let mut rdt = LinuxRdt::new();
    change(&mut rdt);
    some(rdt)
}

const VALUES: &[Case] = &[
    (
        "args, ignored",
        |c| c.adjust(|a| a.args = list(&["/y"])).owner(Field::Args, BETA),
        &["args.set by 20-beta: not_applied"],
    ),
    ("args, withdrawn", |c| c.owner(Field::Args, "-20-beta"), &["args.withdraw by 20-beta"]),
    (
        "hooks of two plugins",
        |c| {
            let hooks =
                Hooks { create_runtime: vec![hook("/a"), hook("/b")], ..Default::default() };
            c.adjust(|a| a.hooks = some(hooks.clone()))
                .owner(Field::Hook, "10-alpha,20-beta")
                .effective(|c| c.hooks = some(hooks))
        },
        &[
            "hook.add create_runtime by 10-alpha+20-beta (ambiguous): applied",
            "hook.add create_runtime by 10-alpha+20-beta (ambiguous): applied",
        ],
    ),
    (
        "hook that is there once, and was before",
        |c| {
            let hooks = Hooks { prestart: vec![hook("/a")], ..Default::default() };
            c.pristine(|c| c.hooks = some(hooks.clone()))
                .adjust(|a| a.hooks = some(hooks))
                .owner(Field::Hook, ALPHA)
        },
        &["hook.add prestart by 10-alpha: not_applied"],
    ),
    (
        "hook in another stage",
        |c| {
            let prestart = Hooks { prestart: vec![hook("/a")], ..Default::default() };
            let poststop = Hooks { poststop: vec![hook("/a")], ..Default::default() };
            c.adjust(|a| a.hooks = some(prestart))
                .owner(Field::Hook, ALPHA)
                .effective(|c| c.hooks = some(poststop))
        },
        &["hook.add prestart by 10-alpha: not_applied"],
    ),
    (
        "hook asked for twice, and there once",
        |c| {
            let twice = Hooks { prestart: vec![hook("/a"), hook("/a")], ..Default::default() };
            let once = Hooks { prestart: vec![hook("/a")], ..Default::default() };
            c.adjust(|a| a.hooks = some(twice))
                .owner(Field::Hook, ALPHA)
                .effective(|c| c.hooks = some(once))
        },
        &["hook.add prestart by 10-alpha: applied", "hook.add prestart by 10-alpha: not_applied"],
    ),
    (
        "no limit of processes",
        |c| {
            c.adjust(|a| a.resources().pids.mut_or_insert_default().limit = -1)
                .owner(Field::PidsLimit, ALPHA)
        },
        &["pids_limit.set by 10-alpha: applied, noop"],
    ),
    (
        "no limit of processes, though there was one",
        |c| {
            c.pristine(|c| c.resources().pids.mut_or_insert_default().limit = 5)
                .adjust(|a| a.resources().pids.mut_or_insert_default().limit = -1)
                .owner(Field::PidsLimit, ALPHA)
        },
        &["pids_limit.set by 10-alpha: not_applied"],
    ),
    (
        "memory, with the swap that the limit brings",
        |c| {
            c.adjust(|a| (a.memory().limit, a.memory().swap) = (int(1000), int(5000)))
                .owner(Field::MemoryLimit, ALPHA)
                .owner(Field::MemorySwap, BETA)
                .effective(|c| (c.memory().limit, c.memory().swap) = (int(1000), int(1000)))
        },
        &["memory_limit.set by 10-alpha: applied", "memory_swap.set by 20-beta: not_applied"],
    ),
    (
        "priority, cleared",
        |c| {
            c.pristine(|c| c.linux.mut_or_insert_default().io_priority = io_priority(2, 3))
                .adjust(|a| a.linux.mut_or_insert_default().io_priority = io_priority(0, 0))
                .owner(Field::IoPriority, ALPHA)
                .effective(|c| c.linux.mut_or_insert_default().io_priority = None.into())
        },
        &["io_priority.clear by 10-alpha: applied"],
    ),
    (
        "scheduler, cleared and there",
        |c| {
            c.pristine(|c| c.linux.mut_or_insert_default().scheduler = scheduler(2, 5))
                .adjust(|a| a.linux.mut_or_insert_default().scheduler = scheduler(0, 0))
                .owner(Field::Scheduler, ALPHA)
        },
        &["scheduler.clear by 10-alpha: not_applied"],
    ),
    (
        "seccomp policy, another one",
        |c| {
            c.adjust(|a| a.linux.mut_or_insert_default().seccomp_policy = seccomp())
                .owner(Field::SeccompPolicy, ALPHA)
                .effective(|c| {
                    let policy = &mut c.linux.mut_or_insert_default().seccomp_policy;
                    *policy = seccomp();
                    policy.mut_or_insert_default().syscalls.clear();
                })
        },
        &["seccomp_policy.set by 10-alpha: not_applied"],
    ),
    (
        "seccomp policy, with an error number that runtimes do not copy",
        |c| {
            c.adjust(|a| {
                let linux = a.linux.mut_or_insert_default();
                linux.seccomp_policy = seccomp();
                linux.seccomp_policy.mut_or_insert_default().default_errno = uint32(1);
            })
            .owner(Field::SeccompPolicy, ALPHA)
            .effective(|c| c.linux.mut_or_insert_default().seccomp_policy = seccomp())
        },
        &[
            "seccomp_policy.set by 10-alpha: applied",
            "seccomp_policy.set default_errno by 10-alpha: not_applied",
        ],
    ),
    (
        "memory policy, cleared",
        |c| {
            c.adjust(|a| {
                a.linux.mut_or_insert_default().memory_policy = some(LinuxMemoryPolicy::new());
            })
            .owner(Field::MemoryPolicy, ALPHA)
        },
        &["memory_policy.clear by 10-alpha: not_observable"],
    ),
    (
        "classes, cleared",
        |c| {
            c.pristine(|c| {
                c.linux.mut_or_insert_default().rdt = rdt(|rdt| rdt.clos_id = string("gold"));
            })
            .adjust(|a| {
                (a.resources().blockio_class, a.resources().rdt_class) = (string(""), string(""));
            })
            .owner(Field::BlockioClass, ALPHA)
            .owner(Field::RdtClass, BETA)
            .effective(|c| c.linux.mut_or_insert_default().rdt = None.into())
        },
        &["blockio_class.clear by 10-alpha: not_observable", "rdt_class.clear by 20-beta: applied"],
    ),
    (
        "class with the runtime's prefix",
        |c| {
            c.adjust(|a| a.resources().rdt_class = string("gold"))
                .owner(Field::RdtClass, ALPHA)
                .effective(|c| {
                    c.linux.mut_or_insert_default().rdt =
                        rdt(|rdt| rdt.clos_id = string("pre/gold"));
                })
        },
        &["rdt_class.set by 10-alpha: applied"],
    ),
];

/// One marker in the request, and the runtime tells of three fields.
#[test]
fn resource_control_is_cleared_as_a_whole() {
    let creation = [Field::RdtClosId, Field::RdtSchemata, Field::RdtEnableMonitoring]
        .into_iter()
        .fold(Creation::of("c1"), |creation, field| creation.owner(field, "-20-beta"))
        .pristine(|c| {
            c.linux.mut_or_insert_default().rdt = rdt(|rdt| rdt.clos_id = string("gold"));
        })
        .adjust(|a| a.linux.mut_or_insert_default().rdt = rdt(|rdt| rdt.remove = true))
        .effective(|c| c.linux.mut_or_insert_default().rdt = None.into());
    let lines = lines_of(CONTAINERD_2_3, &creation);
    assert_eq!(lines[0], "rdt_clos_id.clear by 20-beta: applied");
    assert!(lines.iter().all(|line| line.contains(".clear by 20-beta")), "{lines:?}");
}

/// There the container is shown as the specification has it.
#[test]
fn only_containerd_masks_annotations() {
    holds(
        CRIO_1_34,
        &[
            (
                "replaced",
                |c| {
                    c.pristine(|c| c.annotations = map(&[("k", "old")]))
                        .adjust(|a| a.annotations = map(&[("k", "new")]))
                        .owner_of(Field::Annotation, "k", ALPHA)
                },
                &["annotation.replace k by 10-alpha: not_applied"],
            ),
            (
                "removed",
                |c| {
                    c.pristine(|c| c.annotations = map(&[("k", "old")]))
                        .adjust(|a| a.annotations = map(&[("-k", "")]))
                },
                &["annotation.remove k (unknown): not_applied"],
            ),
        ],
    );
}

/// NRI 0.12.3 no longer takes a sysctl's removal for an annotation's.
#[test]
fn a_newer_runtime_means_annotations_when_it_says_so() {
    holds(
        CONTAINERD_2_4,
        &[(
            "removed",
            |c| {
                c.pristine(|c| c.linux.mut_or_insert_default().sysctl = map(&[("net.a", "1")]))
                    .adjust(|a| a.annotations = map(&[("-net.a", "")]))
            },
            &["annotation.remove net.a (unknown): applied, noop"],
        )],
    );
}

#[test]
fn who_can_have_made_it_is_inferred_where_nobody_owns_it() {
    let candidates: [(&[&str], &str); 6] = [
        (&[OURS, ALPHA], "mount.remove /m by 10-alpha (inferred)"),
        (&[OURS, DEFAULT_VALIDATOR, ALPHA], "mount.remove /m by 10-alpha (inferred)"),
        (&[OURS, "99-eventlog"], "mount.remove /m by 99-eventlog (inferred)"),
        (&[OURS, ALPHA, BETA], "mount.remove /m (unknown)"),
        (&[OURS], "mount.remove /m (unknown)"),
        (&[], "mount.remove /m (unknown)"),
    ];
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    for (at, (plugins, _)) in candidates.iter().enumerate() {
        let creation = Creation::of(&format!("c{at}")).plugins(plugins);
        runtime.live(&creation.adjust(|a| a.mounts = vec![removed_mount("/m")]));
    }
    let records = all_records(&mut runtime, &plugin);
    for (at, (plugins, expected)) in candidates.iter().enumerate() {
        let lines = adjustments(&records, &format!("c{at}"));
        assert_eq!(lines, [format!("{expected}: applied, noop")], "{plugins:?}");
    }
}

/// Whoever owns the limit took it away, and runtimes show that in two ways.
#[test]
fn a_limit_of_no_processes_is_none_where_somebody_asked_for_it() {
    let pids = |c: &mut Container, limit| {
        c.resources().pids = some(LinuxPids { limit, ..Default::default() });
    };
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    let wanted = |id: &str| {
        Creation::of(id)
            .pristine(|c| pids(c, 7))
            .adjust(|a| a.resources().pids = some(LinuxPids::new()))
            .owner(Field::PidsLimit, ALPHA)
    };
    runtime.live(&wanted("none").effective(|c| c.resources().pids = None.into()));
    runtime.live(&wanted("zero").effective(|c| pids(c, 0)));
    runtime.live(&wanted("kept"));
    let records = all_records(&mut runtime, &plugin);
    for (id, outcome) in [("none", "applied"), ("zero", "applied"), ("kept", "not_applied")] {
        let lines = adjustments(&records, id);
        assert_eq!(lines, [format!("pids_limit.set by 10-alpha: {outcome}")], "{id}");
        let record = records.iter().find(|record| is(record, "adjustment", id)).unwrap();
        assert_eq!(text(record, "value"), "0", "{id}");
    }
}

/// Runtimes fill in empty messages where nobody asked for anything.
#[test]
fn what_is_empty_is_no_adjustment() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    let empties = Creation::of("c1").adjust(|a| {
        a.hooks = some(Hooks::new());
        (*a.memory(), *a.cpu()) = Default::default();
        a.linux.mut_or_insert_default().rdt = some(LinuxRdt::new());
    });
    runtime.live(&empties);
    let mut bare = Creation::of("c2");
    (bare.request.adjust, bare.request.owners) = (None.into(), None.into());
    runtime.live(&bare);
    let records = all_records(&mut runtime, &plugin);
    for id in ["c1", "c2"] {
        assert_eq!(adjustments(&records, id), [""; 0]);
        let none = records.iter().filter(|record| is(record, "no_adjustment", id));
        assert_eq!(none.count(), 1, "{id}");
    }
}

#[test]
fn what_became_of_it_is_said_when_it_is_known() {
    let (mut runtime, mut plugin) = audited(CONTAINERD_2_3);
    let args = |id: &str| {
        Creation::of(id)
            .adjust(|a| a.args = list(&["/y"]))
            .owner(Field::Args, ALPHA)
            .effective(|c| c.args = list(&["/y"]))
    };
    // Another plugin's error hides what comes after the creation.
    runtime.create(&args("only started"));
    runtime.start(&args("only started").effective);
    // The runtime removes what it could not create.
    let never = args("never");
    runtime.create(&never);
    runtime.remove(&never.request.container.clone().unwrap());
    runtime.remove(&never.effective);
    let (early, late) = (args("early"), args("late"));
    runtime.create(&early);
    runtime.create(&late);
    runtime.post_create(&late.effective);
    runtime.post_create(&early.effective);
    runtime.start(&early.effective);
    runtime.remove(&early.effective);
    runtime.create(&args("open"));
    let records = all_records(&mut runtime, &plugin);
    for (id, outcome) in [
        ("only started", ": applied"),
        ("never", ": never_created"),
        ("early", ": applied"),
        ("late", ": applied"),
        ("open", ""),
    ] {
        assert_eq!(adjustments(&records, id), [format!("args.set by 10-alpha{outcome}")], "{id}");
    }
    let outcomes = records.iter().filter(|record| is(record, "outcome", "never"));
    assert_eq!(outcomes.count(), 1, "removed twice, told once");
    plugin.stop();
    let lines = adjustments(&plugin.records(), "open");
    assert_eq!(lines, ["args.set by 10-alpha: unresolved"]);
}

#[test]
fn a_creation_that_a_lost_session_left_open_is_decided_in_the_next() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    let args =
        |id: &str| Creation::of(id).adjust(|a| a.args = list(&["/y"])).owner(Field::Args, ALPHA);
    runtime.create(&args("created"));
    runtime.create(&args("ignored"));
    runtime.create(&args("late"));
    runtime.disconnect();
    runtime.containers = vec![
        args("created").effective(|c| c.args = list(&["/y"])).effective,
        args("ignored").effective,
        Creation::of("unseen").effective,
    ];
    runtime.connect();
    runtime.start(&args("late").effective(|c| c.args = list(&["/y"])).effective);
    let records = all_records(&mut runtime, &plugin);
    assert_eq!(adjustments(&records, "created"), ["args.set by 10-alpha: applied"]);
    assert_eq!(adjustments(&records, "late"), ["args.set by 10-alpha: applied"]);
    assert_eq!(adjustments(&records, "ignored"), ["args.set by 10-alpha: not_applied"]);
    let unaudited = records.iter().filter(|record| text(record, "kind") == "unaudited_creation");
    let ids: Vec<&str> = unaudited.map(|record| text(record, "container_id")).collect();
    assert_eq!(ids, ["unseen"], "it came to be between the sessions");
    assert!(records.iter().all(|record| text(record, "kind") != "baseline"));
}

/// Between two sessions it may have come and gone, or never have come.
#[test]
fn a_creation_that_the_next_session_does_not_show_stays_unresolved() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    let gone = Creation::of("gone").adjust(|a| a.args = list(&["/y"])).owner(Field::Args, ALPHA);
    runtime.create(&gone);
    runtime.disconnect();
    runtime.connect();
    runtime.remove(&gone.effective);
    let records = all_records(&mut runtime, &plugin);
    assert_eq!(adjustments(&records, "gone"), ["args.set by 10-alpha: unresolved"]);
}

#[test]
fn a_creation_that_nobody_was_asked_about_is_told() {
    let mut plugin = Plugin::stopped();
    let mut runtime = Runtime::listen(&plugin.socket(), CONTAINERD_2_3);
    let of = |id: &str| Creation::of(id).effective;
    runtime.containers = vec![of("old")];
    plugin.run(&[]);
    runtime.connect();
    runtime.post_create(&of("gap"));
    runtime.start(&of("gap"));
    runtime.start(&of("started"));
    runtime.start(&of("old"));
    runtime.live(&Creation::of("asked"));
    let records = all_records(&mut runtime, &plugin);
    let unaudited = records.iter().filter(|record| text(record, "kind") == "unaudited_creation");
    let ids: Vec<&str> = unaudited.map(|record| text(record, "container_id")).collect();
    assert_eq!(ids, ["gap", "started"]);
}

#[test]
fn changes_to_other_containers_are_told_with_the_creation_that_they_came_with() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    let creation = Creation::of("c1")
        .update("other", |r| r.cpu.mut_or_insert_default().shares = uint(77))
        .owner_in("other", Field::CpuShares, ALPHA);
    runtime.live(&creation);
    plugin.records_of("update", 1);
    let records = all_records(&mut runtime, &plugin);
    let updates: Vec<_> = records.iter().filter(|record| is(record, "update", "c1")).collect();
    let [update] = updates[..] else { panic!("{updates:?}") };
    assert_eq!((text(update, "target"), text(update, "event")), ("other", "cpu_shares.set"));
    assert_eq!((text(update, "value"), text(update, "attribution")), ("77", "owner"));
    assert_eq!(update["plugins"], serde_json::json!([ALPHA]));
    assert!(outcome(&records, update).is_none(), "nothing was seen of the other container");
}

/// Runtimes tell of such a change only by showing the container for another reason.
#[test]
fn what_became_of_another_container_is_said_when_it_shows() {
    let (mut runtime, mut plugin) = audited(CONTAINERD_2_3);
    for (id, other) in [("c1", "resized"), ("c2", "kept"), ("c3", "removed"), ("c4", "unseen")] {
        let creation = Creation::of(id)
            .update(other, |r| r.cpu.mut_or_insert_default().shares = uint(77))
            .owner_in(other, Field::CpuShares, ALPHA);
        runtime.live(&creation);
    }
    let with = |id: &str, shares| Creation::of(id).effective(|c| c.cpu().shares = uint(shares));
    runtime.post_update(&with("resized", 77).effective);
    runtime.post_update(&with("kept", 7).effective);
    runtime.remove(&with("removed", 7).effective);
    all_records(&mut runtime, &plugin);
    plugin.stop();
    let records = plugin.records();
    for (id, expected) in [
        ("c1", "applied"),
        ("c2", "not_applied"),
        ("c3", "not_observable"),
        ("c4", "not_observable"),
    ] {
        let update = records.iter().find(|record| is(record, "update", id)).unwrap();
        let outcome = outcome(&records, update).unwrap();
        assert_eq!(text(outcome, "outcome"), expected, "{id}");
        assert_eq!(text(outcome, "target"), text(update, "target"));
    }
}

/// The first two fail in the runtime, which tells nobody.
#[test]
fn an_update_that_is_tried_again_is_compared_with_what_came_of_it() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    let limited = |limit| {
        let mut container = Creation::of("c1").effective;
        container.memory().limit = int(limit);
        container
    };
    runtime.live(&Creation::of("c1").pristine(|c| c.memory().limit = int(100)));
    for limit in [300, 400, 500] {
        let wanted = LinuxResources::clone(limited(limit).resources());
        runtime.update(&limited(100), &wanted);
    }
    runtime.post_update(&limited(500));
    let records = all_records(&mut runtime, &plugin);
    let updates = records.iter().filter(|record| is(record, "update", "c1"));
    let outcomes: Vec<_> =
        updates.map(|update| text(outcome(&records, update).unwrap(), "outcome")).collect();
    assert_eq!(outcomes, ["not_applied", "not_applied", "applied"]);
}

/// Maps have no order of their own.
#[test]
fn keys_of_an_update_come_in_the_order_of_their_bytes() {
    const KEYS: [&str; 8] = [
        "CPU",
        "cpu.weight",
        "cpu.weight.nice",
        "io.max",
        "memory.high",
        "memory.low",
        "pids.max",
        "ä",
    ];
    let unified = KEYS.map(|key| (key, "1"));
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    runtime.live(&Creation::of("c1").update("other", |r| r.unified = map(&unified)));
    runtime.live(&Creation::of("c2"));
    let resources = LinuxResources { unified: map(&unified), ..Default::default() };
    runtime.update(&Creation::of("c2").effective, &resources);
    let records = all_records(&mut runtime, &plugin);
    for id in ["c1", "c2"] {
        let updates = records.iter().filter(|record| is(record, "update", id));
        let names: Vec<&str> = updates.map(|record| text(record, "name")).collect();
        assert_eq!(names, KEYS, "{id}");
    }
}

#[test]
fn an_update_is_told_with_what_became_of_it() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    let resized = |id: &str, limit| {
        let mut container = Creation::of(id).effective;
        container.memory().limit = int(limit);
        container
    };
    let wanted = LinuxResources::clone(resized("", 500).resources());
    for (id, limit) in [("c1", 500), ("c2", 100)] {
        runtime.live(&Creation::of(id).pristine(|c| c.memory().limit = int(100)));
        runtime.update(&resized(id, 100), &wanted);
        runtime.post_update(&resized(id, limit));
    }
    let records = all_records(&mut runtime, &plugin);
    for (id, expected) in [("c1", "applied"), ("c2", "not_applied")] {
        let updates: Vec<_> = records.iter().filter(|record| is(record, "update", id)).collect();
        let [update] = updates[..] else { panic!("{updates:?}") };
        assert_eq!(text(update, "event"), "memory_limit.set");
        assert_eq!((text(update, "value"), text(update, "attribution")), ("500", "unknown"));
        assert_eq!(text(outcome(&records, update).unwrap(), "outcome"), expected, "{id}");
    }
}

#[test]
fn plugins_that_come_and_go_are_told() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    for plugins in [&[OURS, ALPHA][..], &[OURS, ALPHA, BETA], &[OURS, ALPHA, BETA], &[OURS, BETA]] {
        runtime.create(&Creation::of("c").plugins(plugins));
    }
    runtime.create(&Creation::of("last").plugins(&[OURS, BETA]));
    let records = plugin.records_of("plugin_gone", 1);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["plugins"], serde_json::json!([ALPHA]));
    let connected: Vec<_> = plugin
        .records_of("plugin_connected", 1)
        .iter()
        .map(|record| record["plugins"].clone())
        .collect();
    assert_eq!(connected.last(), Some(&serde_json::json!([BETA])));
    assert_eq!(
        connected.iter().filter(|plugins| **plugins == serde_json::json!([BETA])).count(),
        1
    );
}

fn adjusted(id: &str, change: impl FnOnce(&mut ContainerAdjustment)) -> Creation {
    Creation::of(id).adjust(change)
}

/// Everything that the plugin writes, wherever it does.
fn written(plugin: &Plugin) -> Vec<u8> {
    let files = fs::read_dir(plugin.folder.path()).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).flat_map(|path| fs::read(path).unwrap()).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn no_secret_is_ever_written() {
    for detail in ["full", "summary"] {
        let (mut runtime, plugin) =
            audited_with(CONTAINERD_2_3, &["--detail", detail, "--log", "trace"]);
        runtime.live(&everything("all"));
        let keep = |c: &mut Container| {
            c.env = list(&["K=s3cr3t"]);
            c.args = list(&["/bin/x", "s3cr3t"]);
            c.annotations = map(&[("k", "s3cr3t")]);
        };
        runtime.live(&everything("more").pristine(keep));
        let mut options = adjusted("options", |a| {
            a.mounts = vec![
                mount("/a", "//host", &["rw", "username=bob", "password=s3cr3t"]),
                mount(
                    "/b",
                    "//host",
                    &["PASSWORD=s3cr3t", "credentials=/etc/s3cr3t", "pass=s3cr3t"],
                ),
                mount("/c", "//host", &["secret=s3cr3t", "passwd=s3cr3t", "token=s3cr3t"]),
            ];
            // Lists in one option, and options in an option.
            for (at, option) in ["vers=3.0,username=bob,password=s3cr3t", "data=password=s3cr3t"]
                .into_iter()
                .chain(["pwd=s3cr3t", "cred=s3cr3t", "rw,PWD=s3cr3t"])
                .enumerate()
            {
                a.mounts.push(mount(&format!("/o/{at}"), "//host", &[option]));
            }
            // Runtimes put an equals sign between the two, wherever the first ends.
            a.env = vec![env("TOKEN=s3cr3t", "")];
            let hooks = a.hooks.mut_or_insert_default();
            hooks.prestart = vec![hook("/h")];
            hooks.prestart[0].env = list(&["TOKEN=s3cr3t"]);
        });
        for at in 0..2 {
            runtime.live(&options);
            options.effective.id = format!("options{at}");
        }
        runtime.remove(&everything("all").effective);
        // What cannot be decoded may be a secret as well.
        let broken = [&[0x12, 0x7f][..], SECRET].concat();
        let service = "nri.pkg.api.v1alpha1.Plugin";
        runtime.call_bytes(service, "ValidateContainerAdjustment", &broken).unwrap();
        let records = all_records(&mut runtime, &plugin);
        assert!(!contains(&written(&plugin), SECRET), "with {detail} detail\n{}", plugin.said());
        let shown = records.iter().find(|record| text(record, "name") == "/a").unwrap();
        assert!(text(shown, "value").contains("//host") && text(shown, "value").contains("rw"));
        let variable = records
            .iter()
            .find(|record| is(record, "adjustment", "options") && text(record, "field") == "env");
        assert_eq!(text(variable.unwrap(), "name"), "TOKEN");
    }
}

#[test]
fn annotations_of_the_runtimes_themselves_are_shown() {
    let annotations = map(&[
        ("io.kubernetes.cri.sandbox-id", "shown"),
        ("io.kubernetes.cri-o.Name", "shown"),
        ("cdi.k8s.io/vendor", "shown"),
        ("io.kubernetes.crio", "s3cr3t"),
        ("example.com/cdi.k8s.io/x", "s3cr3t"),
    ]);
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    runtime.live(&adjusted("c1", |a| a.annotations = annotations.clone()));
    let records = all_records(&mut runtime, &plugin);
    let of_c1: Vec<_> = records.iter().filter(|record| is(record, "adjustment", "c1")).collect();
    assert_eq!(of_c1.len(), annotations.len());
    assert_eq!(of_c1.iter().filter(|record| shows(record, "shown")).count(), 3);
    assert_eq!(of_c1.iter().filter(|record| shows(record, "*")).count(), 2);
}

#[test]
fn long_names_and_values_are_cut() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    let long = "é".repeat(50_000);
    runtime.live(&adjusted("c1", |a| {
        a.env = vec![env(&long, "v")];
        a.linux.mut_or_insert_default().cgroups_path = long.clone();
        a.mounts = vec![mount("/m", &long, &[&long])];
    }));
    let records = all_records(&mut runtime, &plugin);
    let of_c1: Vec<_> = records.iter().filter(|record| is(record, "adjustment", "c1")).collect();
    assert_eq!(of_c1.len(), 3);
    for record in of_c1 {
        for key in ["name", "value"] {
            assert!(text(record, key).len() <= 4096 + '…'.len_utf8(), "{key}");
        }
    }
}

#[test]
fn strange_characters_are_kept_and_do_no_harm() {
    let strange_runtime = Version { name: "\x1b[31mred\n", version: "\x1b", ..CONTAINERD_2_3 };
    let (mut runtime, plugin) = audited_with(strange_runtime, &["--log", "debug"]);
    let strange = "a\n\0\x1b[31m\"\\\u{202e}\u{7f}";
    runtime.live(&adjusted(strange, |a| {
        a.env = vec![env(strange, "v")];
        a.linux.mut_or_insert_default().cgroups_path = strange.into();
    }));
    let records = all_records(&mut runtime, &plugin);
    let of_it: Vec<_> = records.iter().filter(|record| is(record, "adjustment", strange)).collect();
    assert_eq!(text(of_it[0], "name"), strange);
    assert_eq!(text(of_it[1], "value"), strange);
    assert!(!plugin.said().contains('\x1b'), "{:?}", plugin.said());
}

/// Go checks its strings; from another the message is lost, and that is told.
#[test]
fn strings_that_are_no_utf_8_cost_the_record_and_not_the_creation() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    let creation = adjusted("c1", |a| a.env = vec![env("K@@@Y", "v@@@")]);
    let mut request = bytes(&creation.request);
    while let Some(at) = request.windows(3).position(|window| window == b"@@@") {
        request[at..at + 3].copy_from_slice(b"\xff\xc0\xfe");
    }
    let service = "nri.pkg.api.v1alpha1.Plugin";
    let answer = runtime.call_bytes(service, "ValidateContainerAdjustment", &request);
    assert_eq!(answer, Ok(Vec::new()));
    runtime.post_create(&creation.effective);
    let records = all_records(&mut runtime, &plugin);
    let is_recorded = records.iter().any(|record| is(record, "adjustment", "c1"));
    let is_told = records.iter().any(|record| text(record, "kind") == "lost")
        && records.iter().any(|record| is(record, "unaudited_creation", "c1"));
    assert!(is_recorded || is_told);
}

/// The log is one that any reader of TCG logs reads.
#[test]
fn every_event_is_measured_by_its_data() {
    let (mut runtime, plugin) = audited(CONTAINERD_2_3);
    runtime.live(&everything("all"));
    all_records(&mut runtime, &plugin);
    let log = Log::parse(fs::read(&plugin.container_log).unwrap()).unwrap();
    let banks = &log.spec_id().unwrap().algorithms;
    assert!(!banks.is_empty());
    for event in log.events() {
        assert_eq!(event.digests().count(), banks.len());
        for digest in event.digests() {
            let expected = hash(digest.algorithm, event.data).unwrap();
            assert_eq!(digest.bytes, expected, "{}", algorithm::name(digest.algorithm));
        }
    }
    let sequence: Vec<u64> = plugin
        .records()
        .iter()
        .filter(|record| record.contains_key("seq"))
        .map(|record| number(record, "seq"))
        .collect();
    assert!(sequence.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{sequence:?}");
}
