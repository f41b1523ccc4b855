//! Requested: what plugins asked for, leaf by leaf, and which of them did.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use clap::ValueEnum;

use super::leaf::{self, Leaf, Print, Said};
use super::session::version;
use crate::messages::nri::{
    Container, ContainerUpdate, FieldOwners, LinuxResources, PluginInstance,
    ValidateContainerAdjustmentRequest,
};
use crate::record::{self, Action, Attribution, Change, Field, Shown, MOST_PLUGINS};

/// Entries of one key that are compared part by part.
const MOST_COMPARED: usize = 64;
/// Adjustments of one creation that are recorded. No honest one has a tenth of that, and
/// the runtime waits behind whoever works through a request made of nothing else.
const MOST_ASKED: usize = 10_000;
/// As many plugins as are looked at; a node has a handful.
const MOST_CONNECTED: usize = 1024;
/// Of identifiers, and of names of containers, pods and plugins, in characters.
const LONGEST_NAME: usize = 256;

/// How much of the values records show. Secrets never, by either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Detail {
    /// No amounts of CPU, memory and the like
    Summary,
    /// All values that are no secrets
    Full,
}

/// One adjustment that was asked for, until its outcome is known.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The number of its record, and whose it is.
    pub seq: u64,
    pub container: Arc<record::Container>,
    /// Not an update of a container that exists.
    pub of_creation: bool,
    pub change: Change,
    pub note: Option<&'static str>,
    pub wanted: Wanted,
    /// What the container had there before any plugin.
    pub before: Arc<Entries>,
    /// Whether it had anything in this field: then the runtime shows the field.
    pub field_shown_before: bool,
    /// Removed as well as set, by which a runtime may lose it.
    pub removal_marked: bool,
    /// How many equal ones there must be, where entries are appended.
    pub rank: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// An entry that has at least these parts.
    Entry(Vec<Print>),
    Gone,
    /// As it was before.
    AsBefore,
}

/// What was asked for, in the order in which runtimes apply it.
#[derive(Debug, Default)]
pub struct Requested {
    pub asked: Vec<Asked>,
    /// How many there were beyond the bound.
    pub left_out: usize,
}

impl Requested {
    /// Takes in more, as long as there is room.
    fn extend(&mut self, more: Requested) {
        self.left_out = self.left_out.saturating_add(more.left_out);
        self.asked.extend(more.asked);
        self.left_out = self.left_out.saturating_add(self.asked.len().saturating_sub(MOST_ASKED));
        self.asked.truncate(MOST_ASKED);
    }

    /// Hooks keep the order of their stages; everything else goes by its key.
    fn sort(&mut self) {
        self.asked.sort_by(|a, b| {
            let (a, b) = (&a.change, &b.change);
            order(a.field, a.name.as_deref()).cmp(&order(b.field, b.name.as_deref()))
        });
    }
}

fn order(field: Field, name: Option<&str>) -> (Field, &str) {
    (field, name.filter(|_| field != Field::Hook).unwrap_or_default())
}

/// A container's leaves by field and key.
#[derive(Debug, Default)]
pub struct Effective {
    entries: HashMap<(Field, String), Arc<Entries>>,
    fields: HashSet<Field>,
}

/// What stands at one key, so that comparing many wishes with many entries takes no
/// longer than reading them.
#[derive(Debug, Default)]
pub struct Entries {
    counts: HashMap<Vec<Print>, usize>,
    count: usize,
    /// Of all entries in their order.
    sum: Option<Print>,
}

impl Effective {
    pub fn of(container: &Container) -> Effective {
        let mut entries = HashMap::<_, Entries>::new();
        let mut fields = HashSet::new();
        for Leaf { field, name, said, .. } in leaf::of_container(container) {
            if let Said::Is(prints) = said {
                fields.insert(field);
                entries.entry((field, name)).or_default().add(prints);
            }
        }
        let entries = entries.into_iter().map(|(key, entries)| (key, Arc::new(entries)));
        Effective { entries: entries.collect(), fields }
    }

    pub fn at(&self, field: Field, name: &str) -> Arc<Entries> {
        self.entries.get(&(field, name.to_owned())).cloned().unwrap_or_default()
    }

    /// Whether anything of this field shows.
    pub fn has(&self, field: Field) -> bool {
        self.fields.contains(&field)
    }
}

impl Entries {
    fn add(&mut self, prints: Vec<Print>) {
        self.count = self.count.saturating_add(1);
        self.sum = Some(Print::sum(self.sum, &prints));
        let count = self.counts.entry(prints).or_default();
        *count = count.saturating_add(1);
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether both are the same, in the same order.
    pub fn are(&self, others: &Entries) -> bool {
        self.sum == others.sum
    }

    /// How many have all of these parts.
    pub fn count_of(&self, parts: &Vec<Print>) -> usize {
        if let Some(count) = self.counts.get(parts) {
            return *count;
        }
        // An entry shows more than was asked for, as a device its owner. Several of
        // one key are rare; what is beyond the bound was made to keep us busy.
        let has_all = |entry: &&Vec<Print>| parts.iter().all(|part| entry.contains(part));
        self.counts.keys().take(MOST_COMPARED).filter(has_all).count()
    }
}

/// Who asked: the runtime's word, and who else it can have been.
struct Owners<'a> {
    fields: &'a FieldOwners,
    /// In the order in which they are called.
    candidates: &'a [String],
    /// The runtime names the last plugin that added a hook, and there are several hooks.
    hooks_of_last_alone: bool,
}

/// The plugins of a request, as `index-name`, which is how they are called everywhere.
pub fn connected(request: &ValidateContainerAdjustmentRequest) -> Vec<String> {
    let name = |plugin: &PluginInstance| cut(&format!("{}-{}", plugin.index, plugin.name));
    request.plugins.iter().take(MOST_CONNECTED).map(name).collect()
}

/// A name that stands in many records: no honest one is longer.
pub fn cut(name: &str) -> String {
    name.chars().take(LONGEST_NAME).collect()
}

/// Everything that was asked for with a container's creation, in the order in which
/// runtimes apply it: the container's own adjustments, then updates of others.
pub fn requested(
    request: &ValidateContainerAdjustmentRequest,
    ourselves: &str,
    nri_version: &str,
    detail: Detail,
) -> Requested {
    let candidates: Vec<String> = connected(request)
        .into_iter()
        .filter(|plugin| plugin != ourselves && plugin != "00-default-validator")
        .collect();
    let nobody = FieldOwners::default();
    let leaves = leaf::of_adjustment(&request.adjust);
    let hooks = leaves.iter().filter(|leaf| leaf.field == Field::Hook).count();
    let owners = |id: &str| Owners {
        fields: request.owners.owners.get(id).unwrap_or(&nobody),
        candidates: &candidates,
        hooks_of_last_alone: version(nri_version) < [0, 12, 0] && hooks > 1,
    };
    let before = Effective::of(&request.container);
    let own = owners(&request.container.id);
    let mut requested = asked(leaves, &before, &own, None, detail);
    let misroutes = ([0, 11, 0]..=[0, 12, 2]).contains(&version(nri_version));
    for removal in &mut requested.asked {
        if misroutes || version(nri_version) == [0, 0, 0] {
            find_misrouted(removal, &before);
        }
    }
    requested.extend(withdrawn(&own, &requested.asked, &before));
    requested.sort();
    for update in &request.update {
        requested.extend(updated(update, &owners(&update.container_id), detail));
    }
    requested
}

/// What an update of an existing container asks for. Who asked, nobody tells.
pub fn update(before: &Container, resources: &LinuxResources, detail: Detail) -> Requested {
    let nobody =
        Owners { fields: &FieldOwners::default(), candidates: &[], hooks_of_last_alone: false };
    let before = Effective::of(before);
    // What a runtime's client leaves as it is comes as 0.
    let mut leaves = leaf::of_resources(resources);
    leaves.retain(|leaf| leaf.shown != Shown::Value("0".to_owned()));
    asked(leaves, &before, &nobody, None, detail)
}

fn updated(update: &ContainerUpdate, owners: &Owners<'_>, detail: Detail) -> Requested {
    let leaves = leaf::of_resources(&update.linux.resources);
    let target = cut(&update.container_id);
    asked(leaves, &Effective::default(), owners, Some(&target), detail)
}

fn asked(
    mut leaves: Vec<Leaf>,
    before: &Effective,
    owners: &Owners<'_>,
    target: Option<&str>,
    detail: Detail,
) -> Requested {
    let key = |leaf: &Leaf| (leaf.field, leaf.name.clone());
    let mut marked = HashSet::new();
    let mut written = HashSet::new();
    for leaf in &leaves {
        match leaf.said {
            Said::Remove => marked.insert(key(leaf)),
            _ => written.insert(key(leaf)),
        };
    }
    // Set and removed is one wish: to have it replaced.
    leaves.retain(|leaf| leaf.said != Said::Remove || !written.contains(&key(leaf)));
    leaves.sort_by(|a, b| order(a.field, Some(&a.name)).cmp(&order(b.field, Some(&b.name))));
    let left_out = leaves.len().saturating_sub(MOST_ASKED);
    leaves.truncate(MOST_ASKED);
    let mut ranks = HashMap::<_, usize>::new();
    let mut asked = Vec::with_capacity(leaves.len());
    for leaf in leaves {
        let key = key(&leaf);
        let Leaf { field, name, said, shown } = leaf;
        let (plugins, attribution) = owners.of(field, &name);
        if said == (Said::Clear { perhaps_absent: true }) && attribution != Attribution::Owner {
            continue;
        }
        let entries = before.at(field, &name);
        let removal_marked = marked.contains(&key);
        let rank = ranks.entry((key, said.clone())).or_default();
        *rank = rank.saturating_add(1);
        let (action, wanted) = match said {
            Said::Remove => (Action::Remove, Wanted::Gone),
            Said::Clear { .. } => (Action::Clear, Wanted::Gone),
            Said::Is(_) if is_no_limit(field, &shown) => (Action::Set, Wanted::Gone),
            Said::Is(prints) => {
                let there = removal_marked || !entries.is_empty();
                (written_by(field, &name, there), Wanted::Entry(prints))
            }
        };
        asked.push(Asked {
            seq: 0,
            container: Arc::default(),
            of_creation: false,
            change: Change {
                target: target.map(str::to_owned),
                field,
                action,
                name: Some(name).filter(|name| !name.is_empty()),
                value: if hides(detail, field) { Shown::Nothing } else { shown },
                plugins,
                attribution,
            },
            note: None,
            wanted,
            before: entries,
            field_shown_before: before.has(field),
            removal_marked,
            rank: *rank,
        });
    }
    Requested { asked, left_out }
}

/// Neither is a limit, and none is what shows.
fn is_no_limit(field: Field, shown: &Shown) -> bool {
    field == Field::PidsLimit
        && matches!(shown, Shown::Value(limit) if limit == "-1" || limit == "0")
}

fn written_by(field: Field, name: &str, there: bool) -> Action {
    match field {
        // These are appended, whatever is there.
        Field::Hook | Field::CdiDevice | Field::DeviceRule | Field::Rlimit => Action::Add,
        _ if name.is_empty() || field == Field::SeccompPolicy => Action::Set,
        _ if there => Action::Replace,
        _ => Action::Add,
    }
}

fn hides(detail: Detail, field: Field) -> bool {
    use Field::*;
    let amount = matches!(
        field,
        OomScoreAdj
            | IoPriority
            | Scheduler
            | MemoryPolicy
            | CpuPeriod
            | CpuQuota
            | CpuShares
            | CpusetCpus
            | CpusetMems
            | CpuRealtimeRuntime
            | CpuRealtimePeriod
            | MemoryLimit
            | MemoryReservation
            | MemorySwap
            | MemoryKernel
            | MemoryKernelTcp
            | MemorySwappiness
            | MemoryDisableOomKiller
            | MemoryUseHierarchy
            | HugepageLimit
            | Unified
            | PidsLimit
            | BlockioClass
            | RdtClass
            | RdtClosId
            | RdtSchemata
            | RdtEnableMonitoring
            | Rlimit
    );
    detail == Detail::Summary && amount
}

/// NRI 0.11.0 to 0.12.2 takes the removal of a sysctl for that of an annotation, and
/// removes neither.
fn find_misrouted(removal: &mut Asked, before: &Effective) {
    let Change { field, action, name, .. } = &mut removal.change;
    let name = name.as_deref().unwrap_or_default();
    let is_annotation = !before.at(Field::Annotation, name).is_empty();
    let sysctl = before.at(Field::Sysctl, name);
    if *field == Field::Annotation
        && *action == Action::Remove
        && !is_annotation
        && !sysctl.is_empty()
    {
        *field = Field::Sysctl;
        removal.before = sysctl;
        removal.field_shown_before = true;
        removal.note = Some("misrouted to annotations by the runtime");
    }
}

/// Adjustments that a later plugin took back: nothing is left of them but the owner,
/// with the mark of a removal.
fn withdrawn(owners: &Owners<'_>, asked: &[Asked], before: &Effective) -> Requested {
    let field_of = |number: &i32| Field::all().find(|field| field.number() == Some(*number));
    let simple = owners.fields.simple.iter().map(|(number, owner)| (number, "", owner));
    let compound = owners.fields.compound.iter().flat_map(|(number, names)| {
        names.owners.iter().map(move |(name, owner)| (number, name.as_str(), owner))
    });
    let still: HashSet<(Field, &str)> = asked
        .iter()
        .flat_map(|asked| {
            let field = asked.change.field;
            [(field, ""), (field, asked.change.name.as_deref().unwrap_or_default())]
        })
        .collect();
    let mut withdrawn = Requested::default();
    for (number, name, owner) in simple.chain(compound) {
        let (Some(field), Some(plugin)) = (field_of(number), owner.strip_prefix('-')) else {
            continue;
        };
        if still.contains(&(field, name)) {
            continue;
        }
        let name = if field == Field::Env { leaf::variable(name) } else { name };
        if withdrawn.asked.len() >= MOST_ASKED {
            withdrawn.left_out = withdrawn.left_out.saturating_add(1);
            continue;
        }
        withdrawn.asked.push(Asked {
            seq: 0,
            container: Arc::default(),
            of_creation: false,
            change: Change {
                target: None,
                field,
                action: Action::Withdraw,
                name: Some(name.to_owned()).filter(|name| !name.is_empty()),
                value: Shown::Nothing,
                plugins: vec![cut(plugin)],
                attribution: Attribution::Owner,
            },
            note: None,
            wanted: Wanted::AsBefore,
            before: before.at(field, name),
            field_shown_before: before.has(field),
            removal_marked: false,
            rank: 1,
        });
    }
    withdrawn
}

impl Owners<'_> {
    /// Which plugins made an adjustment, and how sure that is.
    fn of(&self, field: Field, name: &str) -> (Vec<String>, Attribution) {
        let number = field.number().unwrap_or_default();
        let owner = match self.fields.compound.get(&number) {
            Some(names) => names.owners.get(name),
            None => self.fields.simple.get(&number),
        };
        let owner = owner.map(|owner| owner.strip_prefix('-').unwrap_or(owner));
        match (owner.filter(|owner| !owner.is_empty()), self.candidates) {
            // All plugins that added a hook, in the order of their calls.
            (Some(owners), _) if field == Field::Hook && owners.contains(',') => {
                (owners.split(',').take(MOST_PLUGINS).map(cut).collect(), Attribution::Ambiguous)
            }
            // Any plugin before the one that is named may have added some of them.
            (Some(last), candidates) if field == Field::Hook && self.hooks_of_last_alone => {
                let upto = candidates.iter().position(|plugin| plugin == last);
                let upto = upto.and_then(|at| candidates.get(..=at)).unwrap_or_default();
                match upto {
                    [] | [_] => (vec![cut(last)], Attribution::Owner),
                    several => (
                        several.iter().take(MOST_PLUGINS).cloned().collect(),
                        Attribution::Ambiguous,
                    ),
                }
            }
            (Some(owner), _) => (vec![cut(owner)], Attribution::Owner),
            (None, [only]) => (vec![only.clone()], Attribution::Inferred),
            (None, _) => (Vec::new(), Attribution::Unknown),
        }
    }
}
