//! The NRI plugin: what it sees of containers becomes records, and the records go to
//! the container log and the journal.

pub mod writer;
