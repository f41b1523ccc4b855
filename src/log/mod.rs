//! TCG event logs: bytes in, events out. No I/O, no clock, no unsafe.
//!
//! A log is what a TPM's firmware leaves in `binary_bios_measurements`, a TDX
//! guest's in its CCEL and the NRI plugin in `container.log`: one format, TCG PC
//! Client Platform Firmware Profile (PFP) 1.06 §10, in two dialects. The
//! crypto-agile one starts with a Spec ID event and carries a digest per bank;
//! the SHA1 one, of TPM 1.2, has neither.
//!
//! Every byte is taken to be hostile. Nothing here panics, allocates by a number
//! that stands in the input, or believes a length before it has been compared
//! with what is there.

pub mod algorithm;
pub mod event;
pub mod event_type;
pub mod payload;
pub mod reader;
pub mod register;
pub mod slice;
pub mod warning;
pub mod write;

pub use event::{Digest, End, Event, Log, SpecId};
pub use register::Registers;
pub use slice::Slice;
