//! Process groups, the device mesh and the rendezvous of the ranks.
//!
//! A [`ProcessGroup`] is one group of ranks; a [`Mesh`] holds this rank's group along every axis. The same
//! code runs over processes ([`GlooFactory`] on CPUs, [`NcclFactory`] on GPUs) and over threads of one process
//! ([`ThreadFactory`], for tests and simulation). Every wait has a deadline, and its error names group, operation, shape and rank.

mod agree;
mod gloo;
mod handshake;
mod mesh;
mod nccl;
mod process_group;
mod rendezvous;
mod sequence_numbers;
mod threads;
mod traffic;

pub use crate::comm_error::CommError;
pub use agree::{all_succeed, decide_on_first_rank, gather_on_first_rank, stages_succeed};
pub use gloo::GlooFactory;
pub use handshake::Handshake;
pub use mesh::{Axis, Mesh};
pub use nccl::{Backend, Call, Nccl, NcclFactory, NcclWorld};
pub use process_group::{ProcessGroup, ProcessGroupFactory, Reduce, Solo, Work};
pub use rendezvous::{Rendezvous, rendezvous};
pub use threads::{ThreadFactory, run_ranks};
pub use traffic::{Sent, Traffic};
