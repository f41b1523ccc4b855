//! Containers and adjustments, leaf by leaf: one small thing that is so, or that
//! somebody wants so.
//!
//! Requested and effective are compared by fingerprints, so that no value outlives
//! the message that it came in; what people may see of it stands beside.

use sha2::{Digest, Sha256};

use crate::log::payload::hex;
use crate::messages::nri::{
    Container, ContainerAdjustment, Hook, Hooks, LinuxDevice, LinuxDeviceCgroup, LinuxIOPriority,
    LinuxMemoryPolicy, LinuxRdt, LinuxResources, LinuxScheduler, LinuxSeccomp, Mount, POSIXRlimit,
};
use crate::record::{Field, Shown};

/// Marks a key for removal, in every adjustment that has keys.
const REMOVAL: char = '-';

/// Annotations that runtimes and CDI write for everybody to see; the value of any
/// other may be a token.
const PUBLIC_ANNOTATIONS: [&str; 3] = ["io.kubernetes.cri.", "io.kubernetes.cri-o.", "cdi.k8s.io/"];

/// Parts of the names of mount options whose values are secret.
const SECRET_OPTIONS: [&str; 11] =
    ["pass", "pwd", "cred", "secret", "token", "key", "auth", "user", "cookie", "pin", "data"];

/// Longer class names are compared as a whole.
const LONGEST_CLASS: usize = 128;

/// SHA-256 of a label and a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Print([u8; 32]);

impl Print {
    /// Of what came before, if anything did, and more.
    pub fn sum(before: Option<Print>, more: &[Print]) -> Print {
        let mut hash = Sha256::new();
        before.iter().chain(more).for_each(|print| hash.update(print.0));
        Print(hash.finalize().into())
    }
}

impl std::fmt::Debug for Print {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Print")
    }
}

fn print(label: &str, value: &str) -> Print {
    let mut hash = Sha256::new();
    hash.update(label);
    hash.update([0]);
    hash.update(value);
    Print(hash.finalize().into())
}

/// What is said of a leaf.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    /// Its value: an effective leaf equals a requested one if it has all of its parts.
    Is(Vec<Print>),
    /// It is to be taken away.
    Remove,
    /// Its value is to be taken away. Where that is how an empty message reads,
    /// it may as well have been left out.
    Clear { perhaps_absent: bool },
}

#[derive(Clone, Debug)]
pub struct Leaf {
    pub field: Field,
    /// The key; empty in a field that has none.
    pub name: String,
    pub said: Said,
    pub shown: Shown,
}

/// Leaves under construction.
#[derive(Debug, Default)]
struct Leaves(Vec<Leaf>);

/// What a container and an adjustment have in common: fields of the same names and
/// types, in two messages.
macro_rules! linux_leaves {
    ($leaves:ident, $linux:ident) => {
        for device in &$linux.devices {
            $leaves.device(device);
        }
        $leaves.text(Field::CgroupsPath, &$linux.cgroups_path);
        $leaves.scalar(Field::OomScoreAdj, $linux.oom_score_adj.as_ref().map(|adj| adj.value));
        if let Some(priority) = $linux.io_priority.as_ref() {
            $leaves.io_priority(priority);
        }
        if let Some(scheduler) = $linux.scheduler.as_ref() {
            $leaves.scheduler(scheduler);
        }
        if let Some(policy) = $linux.seccomp_policy.as_ref() {
            $leaves.seccomp(policy);
        }
        for namespace in &$linux.namespaces {
            $leaves.plain(Field::Namespace, &namespace.type_, &namespace.path);
        }
        for (name, value) in &$linux.sysctl {
            $leaves.plain(Field::Sysctl, name, value);
        }
        for (name, device) in &$linux.net_devices {
            $leaves.plain(Field::NetDevice, name, &device.name);
        }
    };
}

/// What a container is, as a runtime shows it.
pub fn of_container(container: &Container) -> Vec<Leaf> {
    let mut leaves = Leaves::default();
    for (name, value) in &container.annotations {
        leaves.whole(Field::Annotation, name, value, Shown::Redacted);
    }
    for variable in &container.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        leaves.whole(Field::Env, name, value, Shown::Redacted);
    }
    leaves.args(&container.args);
    leaves.hooks(&container.hooks);
    for device in &container.cdi_devices {
        leaves.whole(Field::CdiDevice, &device.name, "", Shown::Nothing);
    }
    let linux = &container.linux;
    linux_leaves!(leaves, linux);
    leaves.resources(&linux.resources);
    // A container shows 0 where it has no limit.
    let none = Shown::Value("0".to_owned());
    leaves.0.retain(|leaf| leaf.field != Field::PidsLimit || leaf.shown != none);
    if let Some(rdt) = linux.rdt.as_ref() {
        leaves.rdt(rdt);
        // The class is shown as this, where the runtime may put a prefix before it.
        if let Some(class) = rdt.clos_id.as_ref().filter(|class| class.value.len() <= LONGEST_CLASS)
        {
            let ends = class.value.char_indices().filter_map(|(at, _)| class.value.get(at..));
            let prints = ends.map(|end| print("value", end)).collect();
            leaves.push(Field::RdtClass, "", Said::Is(prints), Shown::Nothing);
        }
    }
    for mount in &container.mounts {
        leaves.mount(mount);
    }
    for rlimit in &container.rlimits {
        leaves.rlimit(rlimit);
    }
    leaves.0
}

/// What plugins ask for, together.
///
/// Runtimes fill the request with empty messages, so that a message's presence says
/// nothing; only a value's does.
pub fn of_adjustment(adjust: &ContainerAdjustment) -> Vec<Leaf> {
    let mut leaves = Leaves::default();
    for (name, value) in &adjust.annotations {
        let public = PUBLIC_ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix));
        let shown = if public { Shown::Value(value.clone()) } else { Shown::Redacted };
        leaves.whole(Field::Annotation, name, value, shown);
    }
    for variable in &adjust.env {
        leaves.whole(Field::Env, self::variable(&variable.key), &variable.value, Shown::Redacted);
    }
    leaves.args(&adjust.args);
    leaves.hooks(&adjust.hooks);
    for device in &adjust.cdi_devices {
        leaves.whole(Field::CdiDevice, &device.name, "", Shown::Nothing);
    }
    let linux = &adjust.linux;
    linux_leaves!(leaves, linux);
    if let Some(policy) = linux.memory_policy.as_ref() {
        leaves.memory_policy(policy);
    }
    leaves.resources(&linux.resources);
    if let Some(rdt) = linux.rdt.as_ref() {
        leaves.rdt(rdt);
    }
    for mount in &adjust.mounts {
        leaves.mount(mount);
    }
    for rlimit in &adjust.rlimits {
        leaves.rlimit(rlimit);
    }
    // Keyed ones are removed by the mark; the removal has no value of its own.
    for leaf in &mut leaves.0 {
        if let (true, Some(name)) = (has_marks(leaf.field), leaf.name.strip_prefix(REMOVAL)) {
            leaf.name = name.to_owned();
            leaf.said = Said::Remove;
            leaf.shown = Shown::Nothing;
        }
    }
    leaves.0
}

/// What an update asks for.
pub fn of_resources(resources: &LinuxResources) -> Vec<Leaf> {
    let mut leaves = Leaves::default();
    leaves.resources(resources);
    leaves.0
}

/// A variable's name: what stands behind an equals sign in it is part of a value.
pub fn variable(key: &str) -> &str {
    key.split_once('=').map_or(key, |(name, _)| name)
}

fn has_marks(field: Field) -> bool {
    matches!(
        field,
        Field::Annotation
            | Field::Env
            | Field::Device
            | Field::Namespace
            | Field::Sysctl
            | Field::NetDevice
            | Field::Mount
    )
}

impl Leaves {
    fn push(&mut self, field: Field, name: &str, said: Said, shown: Shown) {
        self.0.push(Leaf { field, name: name.to_owned(), said, shown });
    }

    /// A value that is compared as a whole.
    fn whole(&mut self, field: Field, name: &str, value: &str, shown: Shown) {
        self.push(field, name, Said::Is(vec![print("value", value)]), shown);
    }

    /// The same, for all to see.
    fn plain(&mut self, field: Field, name: &str, value: &str) {
        self.whole(field, name, value, Shown::Value(value.to_owned()));
    }

    fn scalar(&mut self, field: Field, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.plain(field, "", &value.to_string());
        }
    }

    fn text(&mut self, field: Field, value: &str) {
        if !value.is_empty() {
            self.plain(field, "", value);
        }
    }

    fn clear(&mut self, field: Field, perhaps_absent: bool) {
        self.push(field, "", Said::Clear { perhaps_absent }, Shown::Nothing);
    }

    /// A class that an empty name takes away.
    fn class(&mut self, field: Field, class: Option<&str>) {
        match class {
            None => {}
            Some("") => self.clear(field, false),
            Some(class) => self.plain(field, "", class),
        }
    }

    fn args(&mut self, args: &[String]) {
        if let Some((program, arguments)) = args.split_first() {
            let shown = command(program, arguments.len());
            self.whole(Field::Args, "", &args.join("\0"), Shown::Value(shown));
        }
    }

    /// In the order in which runtimes append them.
    fn hooks(&mut self, hooks: &Hooks) {
        let stages = [
            ("prestart", &hooks.prestart),
            ("poststart", &hooks.poststart),
            ("poststop", &hooks.poststop),
            ("create_runtime", &hooks.create_runtime),
            ("create_container", &hooks.create_container),
            ("start_container", &hooks.start_container),
        ];
        for (stage, hooks) in stages {
            for Hook { path, args, env, timeout, .. } in hooks {
                let timeout = timeout.as_ref().map_or(String::new(), |t| t.value.to_string());
                let parts = [path.as_str(), &args.join("\0"), &env.join("\0"), &timeout];
                // By convention the first argument is the program again.
                let shown = command(path, args.len().saturating_sub(1));
                self.whole(Field::Hook, stage, &parts.join("\0\0"), Shown::Value(shown));
            }
        }
    }

    fn device(&mut self, device: &LinuxDevice) {
        let LinuxDevice { path, type_, major, minor, file_mode, uid, gid, .. } = device;
        let mut parts = vec![format!("{type_} {major}:{minor}")];
        // The upper bits tell the type once more.
        parts.extend(file_mode.as_ref().map(|mode| format!("mode {:04o}", mode.value & 0o7777)));
        parts.extend(uid.as_ref().map(|uid| format!("uid {}", uid.value)));
        parts.extend(gid.as_ref().map(|gid| format!("gid {}", gid.value)));
        let prints = parts.iter().map(|part| print("device", part)).collect();
        self.push(Field::Device, path, Said::Is(prints), Shown::Value(parts.join(" ")));
    }

    fn device_rule(&mut self, rule: &LinuxDeviceCgroup) {
        let number = |number: Option<i64>| match number {
            None | Some(-1) => "*".to_owned(),
            Some(number) => number.to_string(),
        };
        let rule = format!(
            "{} {} {}:{} {}",
            if rule.allow { "allow" } else { "deny" },
            if rule.type_.is_empty() { "a" } else { &rule.type_ },
            number(rule.major.as_ref().map(|major| major.value)),
            number(rule.minor.as_ref().map(|minor| minor.value)),
            rule.access
        );
        self.plain(Field::DeviceRule, "", rule.trim_end());
    }

    fn io_priority(&mut self, priority: &LinuxIOPriority) {
        match priority.class {
            0 => self.clear(Field::IoPriority, true),
            class => {
                let value = format!("class {class} priority {}", priority.priority);
                self.plain(Field::IoPriority, "", &value);
            }
        }
    }

    fn scheduler(&mut self, scheduler: &LinuxScheduler) {
        let LinuxScheduler { policy, nice, priority, flags, runtime, deadline, period, .. } =
            scheduler;
        if *policy == 0 {
            return self.clear(Field::Scheduler, true);
        }
        let value = format!(
            "policy {policy} nice {nice} priority {priority} flags {flags:?} runtime {runtime} \
             deadline {deadline} period {period}"
        );
        self.plain(Field::Scheduler, "", &value);
    }

    /// A profile is long and changes as a whole: a digest tells two apart. What a
    /// runtime does not copy, the default errno, is a leaf of its own.
    fn seccomp(&mut self, policy: &LinuxSeccomp) {
        let mut lines = vec![policy.default_action.clone(), policy.listener_path.clone()];
        lines.push(policy.architectures.join(","));
        lines.push(policy.flags.join(","));
        for call in &policy.syscalls {
            let errno = call.errno_ret.as_ref().map(|errno| errno.value);
            let args: Vec<_> =
                call.args.iter().map(|a| (a.index, a.value, a.value_two, &a.op)).collect();
            lines.push(format!("{} {} {errno:?} {args:?}", call.action, call.names.join(",")));
        }
        let text = lines.join("\n");
        let shown = format!(
            "default {}, {} rules, listener {:?}, sha256 {}",
            policy.default_action,
            policy.syscalls.len(),
            policy.listener_path,
            hex(&Sha256::digest(&text))
        );
        let prints = vec![print("policy", &text), print("metadata", &policy.listener_metadata)];
        self.push(Field::SeccompPolicy, "", Said::Is(prints), Shown::Value(shown));
        if let Some(errno) = policy.default_errno.as_ref() {
            self.plain(Field::SeccompPolicy, "default_errno", &errno.value.to_string());
        }
    }

    fn memory_policy(&mut self, policy: &LinuxMemoryPolicy) {
        if policy.mode == 0 && policy.nodes.is_empty() && policy.flags.is_empty() {
            return self.clear(Field::MemoryPolicy, true);
        }
        let LinuxMemoryPolicy { mode, nodes, flags, .. } = policy;
        let value = format!("mode {mode} nodes {nodes} flags {flags:?}");
        self.plain(Field::MemoryPolicy, "", &value);
    }

    fn resources(&mut self, resources: &LinuxResources) {
        let cpu = &resources.cpu;
        self.scalar(Field::CpuPeriod, cpu.period.as_ref().map(|period| period.value));
        self.scalar(Field::CpuQuota, cpu.quota.as_ref().map(|quota| quota.value));
        self.scalar(Field::CpuShares, cpu.shares.as_ref().map(|shares| shares.value));
        self.text(Field::CpusetCpus, &cpu.cpus);
        self.text(Field::CpusetMems, &cpu.mems);
        let runtime = cpu.realtime_runtime.as_ref();
        self.scalar(Field::CpuRealtimeRuntime, runtime.map(|runtime| runtime.value));
        let period = cpu.realtime_period.as_ref();
        self.scalar(Field::CpuRealtimePeriod, period.map(|period| period.value));

        let memory = &resources.memory;
        self.scalar(Field::MemoryLimit, memory.limit.as_ref().map(|limit| limit.value));
        let reservation = memory.reservation.as_ref();
        self.scalar(Field::MemoryReservation, reservation.map(|reservation| reservation.value));
        self.scalar(Field::MemorySwap, memory.swap.as_ref().map(|swap| swap.value));
        self.scalar(Field::MemoryKernel, memory.kernel.as_ref().map(|kernel| kernel.value));
        self.scalar(Field::MemoryKernelTcp, memory.kernel_tcp.as_ref().map(|tcp| tcp.value));
        let swappiness = memory.swappiness.as_ref();
        self.scalar(Field::MemorySwappiness, swappiness.map(|swappiness| swappiness.value));
        let disabled = memory.disable_oom_killer.as_ref();
        self.scalar(Field::MemoryDisableOomKiller, disabled.map(|disabled| disabled.value));
        let hierarchy = memory.use_hierarchy.as_ref();
        self.scalar(Field::MemoryUseHierarchy, hierarchy.map(|hierarchy| hierarchy.value));

        for limit in &resources.hugepage_limits {
            self.plain(Field::HugepageLimit, &limit.page_size, &limit.limit.to_string());
        }
        for (name, value) in &resources.unified {
            self.plain(Field::Unified, name, value);
        }
        self.scalar(Field::PidsLimit, resources.pids.as_ref().map(|pids| pids.limit));
        for rule in &resources.devices {
            self.device_rule(rule);
        }
        let class = resources.blockio_class.as_ref();
        self.class(Field::BlockioClass, class.map(|class| class.value.as_str()));
        let class = resources.rdt_class.as_ref();
        self.class(Field::RdtClass, class.map(|class| class.value.as_str()));
    }

    fn rdt(&mut self, rdt: &LinuxRdt) {
        let leaves = [
            (Field::RdtClosId, rdt.clos_id.as_ref().map(|id| id.value.clone())),
            (Field::RdtSchemata, rdt.schemata.as_ref().map(|schemata| schemata.value.join("\n"))),
            (
                Field::RdtEnableMonitoring,
                rdt.enable_monitoring.as_ref().map(|enable| enable.value.to_string()),
            ),
        ];
        for (field, value) in leaves {
            match value {
                // Set after it was cleared: the value it ends with.
                Some(value) => self.plain(field, "", &value),
                None if rdt.remove => self.clear(field, false),
                None => {}
            }
        }
    }

    fn mount(&mut self, mount: &Mount) {
        let Mount { destination, type_, source, options, .. } = mount;
        let mut sorted = options.clone();
        sorted.sort();
        let prints = vec![
            print("type", type_),
            print("source", source),
            print("options", &sorted.join("\0")),
        ];
        let options: Vec<String> = options.iter().map(|option| without_secret(option)).collect();
        let shown = format!("{type_} from {source} options {}", options.join(","));
        self.push(Field::Mount, destination, Said::Is(prints), Shown::Value(shown));
    }

    fn rlimit(&mut self, rlimit: &POSIXRlimit) {
        let POSIXRlimit { type_, hard, soft, .. } = rlimit;
        self.plain(Field::Rlimit, type_, &format!("soft {soft} hard {hard}"));
    }
}

/// The program, and of its arguments the number alone: they carry passwords.
fn command(program: &str, arguments: usize) -> String {
    match arguments {
        0 => program.to_owned(),
        1 => format!("{program} and 1 argument"),
        more => format!("{program} and {more} arguments"),
    }
}

/// A mount's option, or several with commas between them as cifs has them.
fn without_secret(options: &str) -> String {
    let each = options.split(',').map(|option| match option.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}=…"),
        // A value that is an option itself.
        Some((_, value)) if value.contains('=') => {
            let (names, _) = option.rsplit_once('=').unwrap_or_default();
            format!("{names}=…")
        }
        _ => option.to_owned(),
    });
    each.collect::<Vec<_>>().join(",")
}

fn is_secret(option: &str) -> bool {
    let option = option.to_ascii_lowercase();
    SECRET_OPTIONS.iter().any(|secret| option.contains(secret))
}
