//! What of a container a plugin can adjust, and what can become of it.
//!
//! The names here are published: tools compare them. A new one may be added, none
//! is ever changed.

/// A field of NRI's ContainerAdjustment, in the order in which runtimes apply them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    Annotation,
    Env,
    Args,
    Hook,
    CdiDevice,
    Device,
    CgroupsPath,
    OomScoreAdj,
    IoPriority,
    Scheduler,
    SeccompPolicy,
    Namespace,
    Sysctl,
    NetDevice,
    MemoryPolicy,
    CpuPeriod,
    CpuQuota,
    CpuShares,
    CpusetCpus,
    CpusetMems,
    CpuRealtimeRuntime,
    CpuRealtimePeriod,
    MemoryLimit,
    MemoryReservation,
    MemorySwap,
    MemoryKernel,
    MemoryKernelTcp,
    MemorySwappiness,
    MemoryDisableOomKiller,
    MemoryUseHierarchy,
    HugepageLimit,
    Unified,
    PidsLimit,
    DeviceRule,
    BlockioClass,
    RdtClass,
    RdtClosId,
    RdtSchemata,
    RdtEnableMonitoring,
    Mount,
    Rlimit,
}

/// Field, its name in records, NRI's number for it.
type Row = (Field, &'static str, Option<i32>);

/// In the order of [`Field`]. Rules for the device cgroup alone have no number: no
/// plugin owns them.
const FIELDS: [Row; 41] = [
    (Field::Annotation, "annotation", Some(1)),
    (Field::Env, "env", Some(6)),
    (Field::Args, "args", Some(7)),
    (Field::Hook, "hook", Some(3)),
    (Field::CdiDevice, "cdi_device", Some(5)),
    (Field::Device, "device", Some(4)),
    (Field::CgroupsPath, "cgroups_path", Some(28)),
    (Field::OomScoreAdj, "oom_score_adj", Some(29)),
    (Field::IoPriority, "io_priority", Some(31)),
    (Field::Scheduler, "scheduler", Some(36)),
    (Field::SeccompPolicy, "seccomp_policy", Some(32)),
    (Field::Namespace, "namespace", Some(33)),
    (Field::Sysctl, "sysctl", Some(34)),
    (Field::NetDevice, "net_device", Some(35)),
    (Field::MemoryPolicy, "memory_policy", Some(40)),
    (Field::CpuPeriod, "cpu_period", Some(18)),
    (Field::CpuQuota, "cpu_quota", Some(17)),
    (Field::CpuShares, "cpu_shares", Some(16)),
    (Field::CpusetCpus, "cpuset_cpus", Some(21)),
    (Field::CpusetMems, "cpuset_mems", Some(22)),
    (Field::CpuRealtimeRuntime, "cpu_realtime_runtime", Some(19)),
    (Field::CpuRealtimePeriod, "cpu_realtime_period", Some(20)),
    (Field::MemoryLimit, "memory_limit", Some(8)),
    (Field::MemoryReservation, "memory_reservation", Some(9)),
    (Field::MemorySwap, "memory_swap", Some(10)),
    (Field::MemoryKernel, "memory_kernel", Some(11)),
    (Field::MemoryKernelTcp, "memory_kernel_tcp", Some(12)),
    (Field::MemorySwappiness, "memory_swappiness", Some(13)),
    (Field::MemoryDisableOomKiller, "memory_disable_oom_killer", Some(14)),
    (Field::MemoryUseHierarchy, "memory_use_hierarchy", Some(15)),
    (Field::HugepageLimit, "hugepage_limit", Some(24)),
    (Field::Unified, "unified", Some(27)),
    (Field::PidsLimit, "pids_limit", Some(23)),
    (Field::DeviceRule, "device_rule", None),
    (Field::BlockioClass, "blockio_class", Some(25)),
    (Field::RdtClass, "rdt_class", Some(26)),
    (Field::RdtClosId, "rdt_clos_id", Some(37)),
    (Field::RdtSchemata, "rdt_schemata", Some(38)),
    (Field::RdtEnableMonitoring, "rdt_enable_monitoring", Some(39)),
    (Field::Mount, "mount", Some(2)),
    (Field::Rlimit, "rlimit", Some(30)),
];

/// What was done to a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// A new entry of a list or map.
    Add,
    /// A single value.
    Set,
    /// An entry whose key was there already.
    Replace,
    Remove,
    /// A single value taken away.
    Clear,
    /// An earlier plugin's adjustment taken back, nothing put in its place.
    Withdraw,
}

/// How sure it is which plugin made an adjustment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribution {
    /// The runtime says so.
    Owner,
    /// The runtime names several plugins, not which of them did this.
    Ambiguous,
    /// The runtime names none, and only one can have.
    Inferred,
    Unknown,
}

/// What became of an adjustment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Applied,
    NotApplied,
    /// This runtime does not show the field.
    NotObservable,
    /// What the runtime shows fits both.
    Indeterminate,
    /// The container never came to be.
    NeverCreated,
    /// Nothing was seen of the container before the plugin stopped or gave up.
    Unresolved,
}

impl Field {
    pub fn all() -> impl Iterator<Item = Field> {
        FIELDS.iter().map(|row| row.0)
    }

    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// NRI's number for the field, by which a runtime tells who owns it.
    pub fn number(self) -> Option<i32> {
        self.row().2
    }

    pub fn from_name(name: &str) -> Option<Field> {
        Field::all().find(|field| field.name() == name)
    }

    fn row(self) -> &'static Row {
        FIELDS.iter().find(|row| row.0 == self).unwrap_or(&FIELDS[0])
    }
}

impl Action {
    const ALL: [Action; 6] = [
        Action::Add,
        Action::Set,
        Action::Replace,
        Action::Remove,
        Action::Clear,
        Action::Withdraw,
    ];

    pub fn from_name(name: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|one| one.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Action::Add => "add",
            Action::Set => "set",
            Action::Replace => "replace",
            Action::Remove => "remove",
            Action::Clear => "clear",
            Action::Withdraw => "withdraw",
        }
    }
}

impl Attribution {
    const ALL: [Attribution; 4] =
        [Attribution::Owner, Attribution::Ambiguous, Attribution::Inferred, Attribution::Unknown];

    pub fn from_name(name: &str) -> Option<Attribution> {
        Attribution::ALL.into_iter().find(|one| one.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Attribution::Owner => "owner",
            Attribution::Ambiguous => "ambiguous",
            Attribution::Inferred => "inferred",
            Attribution::Unknown => "unknown",
        }
    }
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::NotApplied => "not_applied",
            Outcome::NotObservable => "not_observable",
            Outcome::Indeterminate => "indeterminate",
            Outcome::NeverCreated => "never_created",
            Outcome::Unresolved => "unresolved",
        }
    }
}

/// The message that containerd/nri#268 logs for the same thing, where it has one.
/// The two of the realtime scheduler are spelt as meant: the draft has "set linux
/// cpuset mems" three times.
pub fn nri_event(field: Field, action: Action) -> Option<&'static str> {
    let written = matches!(action, Action::Add | Action::Set | Action::Replace);
    let removed = action == Action::Remove;
    let cleared = action == Action::Clear;
    Some(match field {
        Field::Annotation if removed => "remove annotation",
        Field::Annotation if written => "add annotation",
        Field::Env if removed => "remove environment variable",
        Field::Env if written => "add environment variable",
        Field::Args if written => "set process arguments",
        Field::Hook if written => "add OCI hook",
        Field::CdiDevice if written => "inject CDI devices",
        Field::Device if removed => "remove linux device",
        Field::Device if written => "add linux device",
        Field::CgroupsPath if written => "set linux cgroups path",
        Field::OomScoreAdj if written => "set process OOM score adjustment",
        Field::IoPriority if written => "set process IO priority",
        Field::Scheduler if written => "set linux scheduler",
        Field::SeccompPolicy if written => "set linux seccomp policy",
        Field::Namespace if removed => "remove linux namespace",
        Field::Namespace if written => "set linux namespace",
        Field::Sysctl if removed => "remove linux sysctl",
        Field::Sysctl if written => "set linux sysctl",
        Field::NetDevice if removed => "remove linux net device",
        Field::NetDevice if written => "add linux net device",
        Field::CpuPeriod if written => "set linux CPU period",
        Field::CpuQuota if written => "set linux CPU quota",
        Field::CpuShares if written => "set linux CPU shares",
        Field::CpusetCpus if written => "set linux cpuset CPUs",
        Field::CpusetMems if written => "set linux cpuset mems",
        Field::CpuRealtimeRuntime if written => "set linux cpu realtime runtime",
        Field::CpuRealtimePeriod if written => "set linux cpu realtime period",
        Field::MemoryLimit if written => "set linux memory limit",
        Field::MemorySwap if written => "set linux swap limit",
        Field::HugepageLimit if written => "set linux hugepage limit",
        Field::Unified if written => "set linux cgroups unified resource",
        Field::PidsLimit if written => "set linux PIDs limit",
        Field::DeviceRule if written => "add linux device rule",
        Field::BlockioClass if cleared => "clear linux blkio class",
        Field::BlockioClass if written => "set linux blkio class",
        Field::RdtClass if cleared => "clear linux RDT class",
        Field::RdtClass if written => "set linux RDT class",
        Field::RdtClosId if cleared => "clear linux RDT",
        Field::RdtClosId if written => "set linux RDT CLOS ID",
        Field::RdtSchemata if written => "set linux RDT schemata",
        Field::RdtEnableMonitoring if written => "set linux RDT monitoring",
        Field::Mount if removed => "remove mount",
        Field::Mount if written => "add mount",
        Field::Rlimit if written => "add process rlimits",
        _ => return None,
    })
}
