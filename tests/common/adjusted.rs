//! Adjustments and containers in few words, and the records about them in lines.

use std::collections::HashMap;

use ccnp_eventlog::messages::nri::{
    CDIDevice, Container, ContainerAdjustment, Hook, Hooks, HugepageLimit, KeyValue, LinuxCPU,
    LinuxContainer, LinuxContainerAdjustment, LinuxDevice, LinuxDeviceCgroup, LinuxIOPriority,
    LinuxMemory, LinuxMemoryPolicy, LinuxNamespace, LinuxNetDevice, LinuxPids, LinuxRdt,
    LinuxResources, LinuxScheduler, LinuxSeccomp, LinuxSyscall, Mount, OptionalBool, OptionalInt64,
    OptionalRepeatedString, OptionalString, OptionalUInt32, OptionalUInt64, POSIXRlimit,
};
use ccnp_eventlog::record::Field;
use serde_json::Value;

use super::plugin::{is, number, text, Record};
use super::runtime::{some, Creation, ALPHA};

pub fn map(entries: &[(&str, &str)]) -> HashMap<String, String> {
    entries.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

pub fn list(entries: &[&str]) -> Vec<String> {
    entries.iter().map(ToString::to_string).collect()
}

pub fn int(value: i64) -> protobuf::MessageField<OptionalInt64> {
    some(OptionalInt64 { value, ..Default::default() })
}

pub fn uint(value: u64) -> protobuf::MessageField<OptionalUInt64> {
    some(OptionalUInt64 { value, ..Default::default() })
}

pub fn uint32(value: u32) -> protobuf::MessageField<OptionalUInt32> {
    some(OptionalUInt32 { value, ..Default::default() })
}

pub fn boolean(value: bool) -> protobuf::MessageField<OptionalBool> {
    some(OptionalBool { value, ..Default::default() })
}

pub fn string(value: &str) -> protobuf::MessageField<OptionalString> {
    some(OptionalString { value: value.into(), ..Default::default() })
}

pub fn env(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value.into(), ..Default::default() }
}

pub fn mount(destination: &str, source: &str, options: &[&str]) -> Mount {
    let (type_, options) = ("bind".into(), list(options));
    Mount {
        destination: destination.into(),
        type_,
        source: source.into(),
        options,
        ..Default::default()
    }
}

pub fn removed_mount(destination: &str) -> Mount {
    Mount { destination: format!("-{destination}"), ..Default::default() }
}

pub fn hook(path: &str) -> Hook {
    Hook { path: path.into(), args: list(&["hook", "--token=s3cr3t"]), ..Default::default() }
}

pub fn device(path: &str, major: i64) -> LinuxDevice {
    LinuxDevice { path: path.into(), type_: "c".into(), major, minor: 9, ..Default::default() }
}

pub fn rule(major: i64) -> LinuxDeviceCgroup {
    LinuxDeviceCgroup {
        allow: true,
        type_: "c".into(),
        major: int(major),
        minor: int(3),
        access: "rwm".into(),
        ..Default::default()
    }
}

pub fn namespace(type_: &str, path: &str) -> LinuxNamespace {
    LinuxNamespace { type_: type_.into(), path: path.into(), ..Default::default() }
}

pub fn rlimit(soft: u64, hard: u64) -> POSIXRlimit {
    POSIXRlimit { type_: "RLIMIT_NOFILE".into(), hard, soft, ..Default::default() }
}

pub fn net_device(host: &str, name: &str) -> (String, LinuxNetDevice) {
    (host.into(), LinuxNetDevice { name: name.into(), ..Default::default() })
}

pub fn hugepages(page_size: &str, limit: u64) -> HugepageLimit {
    HugepageLimit { page_size: page_size.into(), limit, ..Default::default() }
}

pub fn io_priority(class: i32, priority: i32) -> protobuf::MessageField<LinuxIOPriority> {
    some(LinuxIOPriority { class, priority, ..Default::default() })
}

pub fn scheduler(policy: i32, priority: i32) -> protobuf::MessageField<LinuxScheduler> {
    some(LinuxScheduler { policy, priority, ..Default::default() })
}

pub fn seccomp() -> protobuf::MessageField<LinuxSeccomp> {
    some(LinuxSeccomp {
        default_action: "SCMP_ACT_ERRNO".into(),
        architectures: list(&["SCMP_ARCH_X86_64"]),
        listener_path: "/run/listener".into(),
        listener_metadata: "s3cr3t".into(),
        syscalls: vec![LinuxSyscall {
            names: list(&["read", "write"]),
            action: "SCMP_ACT_ALLOW".into(),
            ..Default::default()
        }],
        ..Default::default()
    })
}

/// What adjustments and containers have in common.
pub trait HasLinux {
    fn resources(&mut self) -> &mut LinuxResources;

    fn memory(&mut self) -> &mut LinuxMemory {
        self.resources().memory.mut_or_insert_default()
    }

    fn cpu(&mut self) -> &mut LinuxCPU {
        self.resources().cpu.mut_or_insert_default()
    }
}

impl HasLinux for ContainerAdjustment {
    fn resources(&mut self) -> &mut LinuxResources {
        self.linux.mut_or_insert_default().resources.mut_or_insert_default()
    }
}

impl HasLinux for Container {
    fn resources(&mut self) -> &mut LinuxResources {
        self.linux.mut_or_insert_default().resources.mut_or_insert_default()
    }
}

/// One container with every field adjusted, in an order that is none, and as it is
/// where all of it was applied.
pub fn everything(id: &str) -> Creation {
    let hooks = Hooks {
        start_container: vec![hook("/h/start")],
        create_container: vec![hook("/h/container")],
        create_runtime: vec![hook("/h/runtime")],
        poststop: vec![hook("/h/stopped")],
        poststart: vec![hook("/h/started")],
        prestart: vec![hook("/h/before")],
        ..Default::default()
    };
    let resources = LinuxResources {
        memory: some(LinuxMemory {
            limit: int(8000),
            reservation: int(9000),
            swap: int(10000),
            kernel: int(11000),
            kernel_tcp: int(12000),
            swappiness: uint(13),
            disable_oom_killer: boolean(true),
            use_hierarchy: boolean(true),
            ..Default::default()
        }),
        cpu: some(LinuxCPU {
            shares: uint(16),
            quota: int(17),
            period: uint(18),
            realtime_runtime: int(19),
            realtime_period: uint(20),
            cpus: "0-3".into(),
            mems: "0".into(),
            ..Default::default()
        }),
        hugepage_limits: vec![hugepages("2MB", 24), hugepages("1GB", 25)],
        unified: map(&[("memory.high", "27"), ("cpu.weight", "28")]),
        devices: vec![rule(1)],
        pids: some(LinuxPids { limit: 23, ..Default::default() }),
        ..Default::default()
    };
    let linux = LinuxContainer {
        namespaces: vec![namespace("user", "/run/ns/user"), namespace("cgroup", "/run/ns/cgroup")],
        devices: vec![device("/dev/z", 9), device("/dev/a", 8)],
        oom_score_adj: int(29),
        cgroups_path: "/here".into(),
        io_priority: io_priority(2, 3),
        seccomp_policy: seccomp(),
        sysctl: map(&[("net.b", "1"), ("net.a", "2")]),
        net_devices: [net_device("eth1", "inner"), net_device("eth0", "outer")].into(),
        scheduler: scheduler(2, 5),
        resources: some(resources.clone()),
        rdt: some(LinuxRdt {
            clos_id: string("gold"),
            schemata: some(OptionalRepeatedString {
                value: list(&["MB:0=50"]),
                ..Default::default()
            }),
            enable_monitoring: boolean(true),
            ..Default::default()
        }),
        ..Default::default()
    };
    let rlimits = vec![rlimit(5, 10)];
    let mounts = vec![mount("/m/2", "/src/2", &["rw", "nosuid"]), mount("/m/1", "/src/1", &["ro"])];
    let cdi_devices = ["vendor.com/gpu=1", "vendor.com/gpu=0"]
        .map(|name| CDIDevice { name: name.into(), ..Default::default() });
    let adjustment = ContainerAdjustment {
        annotations: map(&[("b.io/key", "s3cr3t"), ("a.io/key", "s3cr3t")]),
        mounts: mounts.clone(),
        env: vec![env("TOKEN", "s3cr3t"), env("A", "s3cr3t")],
        hooks: some(hooks.clone()),
        rlimits: rlimits.clone(),
        cdi_devices: cdi_devices.to_vec(),
        args: list(&["/bin/sh", "-c", "s3cr3t"]),
        linux: some(LinuxContainerAdjustment {
            devices: linux.devices.clone(),
            resources: some(LinuxResources {
                blockio_class: string("slow"),
                rdt_class: string("gold"),
                ..resources
            }),
            cgroups_path: linux.cgroups_path.clone(),
            oom_score_adj: linux.oom_score_adj.clone(),
            io_priority: linux.io_priority.clone(),
            seccomp_policy: linux.seccomp_policy.clone(),
            namespaces: linux.namespaces.clone(),
            sysctl: linux.sysctl.clone(),
            net_devices: linux.net_devices.clone(),
            scheduler: linux.scheduler.clone(),
            rdt: linux.rdt.clone(),
            memory_policy: some(LinuxMemoryPolicy {
                mode: 2,
                nodes: "0-1".into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let creation = Creation::of(id).adjust(|a| *a = adjustment).effective(|c| {
        c.annotations.extend(map(&[("b.io/key", "s3cr3t"), ("a.io/key", "s3cr3t")]));
        c.env.extend(list(&["TOKEN=s3cr3t", "A=s3cr3t"]));
        c.args = list(&["/bin/sh", "-c", "s3cr3t"]);
        c.hooks = some(hooks);
        (c.rlimits, c.mounts, c.linux) = (rlimits, mounts, some(linux));
    });
    owned_by(ALPHA, creation)
}

/// Makes one plugin the owner of all that `everything` adjusts.
fn owned_by(plugin: &str, creation: Creation) -> Creation {
    let keyed: [(Field, &[&str]); 11] = [
        (Field::Annotation, &["a.io/key", "b.io/key"]),
        (Field::Mount, &["/m/1", "/m/2"]),
        (Field::Env, &["A", "TOKEN"]),
        (Field::CdiDevice, &["vendor.com/gpu=0", "vendor.com/gpu=1"]),
        (Field::Device, &["/dev/a", "/dev/z"]),
        (Field::Namespace, &["cgroup", "user"]),
        (Field::Sysctl, &["net.a", "net.b"]),
        (Field::NetDevice, &["eth0", "eth1"]),
        (Field::HugepageLimit, &["1GB", "2MB"]),
        (Field::Unified, &["cpu.weight", "memory.high"]),
        (Field::Rlimit, &["RLIMIT_NOFILE"]),
    ];
    let is_simple =
        |field: &Field| field.number().is_some() && keyed.iter().all(|(keyed, _)| keyed != field);
    let creation = Field::all()
        .filter(is_simple)
        .fold(creation, |creation, field| creation.owner(field, plugin));
    keyed.into_iter().fold(creation, |creation, (field, keys)| {
        keys.iter().fold(creation, |creation, key| creation.owner_of(field, key, plugin))
    })
}

/// The adjustments of a container in the order of their records: each in a line with
/// who made it, how sure that is, and what became of it.
pub fn adjustments(records: &[Record], container: &str) -> Vec<String> {
    let of_container = records.iter().filter(|record| is(record, "adjustment", container));
    of_container.map(|record| line(record, outcome(records, record))).collect()
}

pub fn outcome<'a>(records: &'a [Record], of: &Record) -> Option<&'a Record> {
    let mut outcomes = records.iter().filter(|record| text(record, "kind") == "outcome");
    outcomes.find(|outcome| number(outcome, "of") == number(of, "seq"))
}

fn line(record: &Record, outcome: Option<&Record>) -> String {
    let mut line = text(record, "event").to_owned();
    // A rule has no key; what its record has for a name is its own business.
    if text(record, "field") != "device_rule" && record.contains_key("name") {
        line += &format!(" {}", text(record, "name"));
    }
    if let Some(plugins) = record.get("plugins").and_then(Value::as_array) {
        let plugins: Vec<&str> = plugins.iter().filter_map(Value::as_str).collect();
        line += &format!(" by {}", plugins.join("+"));
    }
    if text(record, "attribution") != "owner" {
        line += &format!(" ({})", text(record, "attribution"));
    }
    let Some(outcome) = outcome else { return line };
    // What becomes of a withdrawal is not said everywhere.
    if text(record, "action") != "withdraw" {
        line += &format!(": {}", text(outcome, "outcome"));
    }
    let notes = [text(record, "note"), text(outcome, "note")].join(" ");
    for note in ["noop", "removal-marker race", "misrouted"] {
        if notes.contains(note) {
            line += &format!(", {note}");
        }
    }
    line
}

/// Whether a record shows of its value what it must: nothing, that there is one (`*`),
/// or a text with all of these words.
pub fn shows(record: &Record, expected: &str) -> bool {
    let (value, redacted) =
        (record.get("value").and_then(Value::as_str), record.contains_key("redacted"));
    match expected {
        "" => value.is_none() && !redacted,
        "*" => value.is_none() && redacted,
        words => {
            !redacted
                && value.is_some_and(|value| words.split(' ').all(|word| value.contains(word)))
        }
    }
}
