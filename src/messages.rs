//! The protobuf messages, generated from `proto/` at build time.

pub use generated::{eventlog, health, nri, reflection, reflection_v1alpha, ttrpc};

/// What build.rs generates keeps no lints of ours.
#[allow(
    clippy::all,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));
}
