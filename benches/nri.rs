//! How long a container runtime waits for the audit plugin, for each of its calls,
//! by how much was adjusted.
//!
//! A creation is three calls in a row, and then a pause, as on a node; the call after
//! Validate waits for what Validate meant to be worked out. `cargo bench --bench nri`

#[path = "../tests/common/mod.rs"]
mod common;

use std::thread;
use std::time::Duration;

use ccnp_eventlog::record::Field;
use common::plugin::audited;
use common::runtime::{Creation, CONTAINERD_2_3};

const CREATIONS: usize = 500;
const PAUSE: Duration = Duration::from_millis(5);
const CALLS: [&str; 3] = ["ValidateContainerAdjustment", "PostCreateContainer", "StartContainer"];

fn main() {
    println!("adjustments  call                         p50 µs  p99 µs  worst µs");
    for adjustments in [0, 10, 50, 500] {
        let (mut runtime, _plugin) = audited(CONTAINERD_2_3);
        for at in 0..CREATIONS {
            runtime.live(&creation(&format!("c{at}"), adjustments));
            thread::sleep(PAUSE);
        }
        for call in CALLS {
            let latencies = runtime.latencies_of(call);
            let percent = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
            let [half, most, worst] = [50, 99, 100].map(|at| percent(at).as_micros());
            println!("{adjustments:>11}  {call:<27}  {half:>6}  {most:>6}  {worst:>8}");
        }
    }
}

fn creation(id: &str, adjustments: usize) -> Creation {
    let mut creation = Creation::of(id).plugins(&["10-alpha"]);
    for at in 0..adjustments {
        let (key, value) = (format!("key{at}"), format!("value{at}"));
        creation = creation
            .owner_of(Field::Annotation, &key, "10-alpha")
            .adjust(|adjust| drop(adjust.annotations.insert(key.clone(), value.clone())))
            .effective(|container| drop(container.annotations.insert(key.clone(), value.clone())));
    }
    creation
}
