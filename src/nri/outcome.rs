//! Requested versus effective: what became of an adjustment.
//!
//! Runtimes differ in what they apply and in what they show. What does not show is
//! not observable, which is not the same as not applied.

use super::adjustment::{Asked, Effective, Wanted};
use super::session::version;
use crate::record::{Field, Outcome, Runtime};

/// Compares an adjustment with the container as it came out. The note says what is
/// special about it.
pub fn outcome(
    asked: &Asked,
    effective: &Effective,
    runtime: &Runtime,
) -> (Outcome, Option<&'static str>) {
    let field = asked.change.field;
    let now = effective.at(field, asked.change.name.as_deref().unwrap_or_default());
    let shown = asked.field_shown_before || effective.has(field);
    if now.is_empty() && !shown && !always_shows(field, runtime) {
        return (Outcome::NotObservable, asked.note);
    }
    let unchanged = now.are(&asked.before);
    // containerd lays the annotations that the pod asked for over those that the
    // container has: such a key shows its old value, whatever became of it.
    let masked =
        field == Field::Annotation && unchanged && !now.is_empty() && runtime.name == "containerd";
    match &asked.wanted {
        Wanted::AsBefore => (applied_if(unchanged), asked.note),
        Wanted::Gone if !now.is_empty() && masked => (Outcome::Indeterminate, asked.note),
        Wanted::Gone if now.is_empty() && asked.before.is_empty() => {
            (Outcome::Applied, Some("noop"))
        }
        Wanted::Gone => (applied_if(now.is_empty()), asked.note),
        Wanted::Entry(parts) => {
            let (before, after) = (asked.before.count_of(parts), now.count_of(parts));
            match field {
                // These are appended, so that one more must be there than before.
                Field::Hook | Field::DeviceRule => {
                    (applied_if(after >= before.saturating_add(asked.rank)), asked.note)
                }
                // Appended as well, and nobody says which of several counts.
                Field::Env | Field::Rlimit if after > 0 && after < now.len() => {
                    (Outcome::Indeterminate, Some("several entries of this name"))
                }
                // The devices that the pod asked for show, and no others.
                Field::CdiDevice if after == 0 => (Outcome::NotObservable, asked.note),
                _ if after > 0 && before > 0 => (Outcome::Applied, Some("noop")),
                _ if after > 0 => (Outcome::Applied, asked.note),
                _ if masked => (Outcome::Indeterminate, asked.note),
                _ if asked.removal_marked && now.is_empty() => {
                    (Outcome::NotApplied, Some("removal-marker race"))
                }
                _ => (Outcome::NotApplied, asked.note),
            }
        }
    }
}

fn applied_if(so: bool) -> Outcome {
    if so {
        Outcome::Applied
    } else {
        Outcome::NotApplied
    }
}

/// Whether the runtime shows a field of a container that has nothing in it, so that
/// absence can be told from silence.
fn always_shows(field: Field, runtime: &Runtime) -> bool {
    let containerd_since =
        |first: [u32; 3]| runtime.name == "containerd" && version(&runtime.version) >= first;
    match field {
        Field::CdiDevice | Field::BlockioClass | Field::MemoryPolicy => false,
        Field::IoPriority
        | Field::NetDevice
        | Field::Scheduler
        | Field::RdtClass
        | Field::RdtClosId
        | Field::RdtSchemata
        | Field::RdtEnableMonitoring => containerd_since([2, 2, 1]),
        Field::Sysctl | Field::SeccompPolicy | Field::Rlimit => containerd_since([2, 3, 0]),
        _ => true,
    }
}
