//! An observer in a container runtime's Node Resource Interface (NRI).
//!
//! A runtime asks its plugins how to adjust each container it creates, and then
//! whether the sum of it is valid: this last request shows every adjustment and who
//! asked for it. What the container really got shows in the events that follow. The
//! data flows down this list, and each module uses only those above it:
//!
//! ```text
//!  socket ─ mux ─ ttrpc ─ session ─ leaf ─ adjustment ─ outcome ─ audit ─ writer ─ log
//!           bytes messages calls    values requested    effective records
//! ```

pub mod adjustment;
pub mod audit;
pub mod leaf;
pub mod mux;
pub mod outcome;
pub mod plugin;
pub mod session;
pub mod ttrpc;
pub mod writer;
