//! Ranks, the axes that they form, and what they say to each other.
//!
//! A [`Collective`] is one group of ranks; a [`Mesh`] holds this rank's group along every axis. The same
//! code runs over processes ([`GlooFabric`] on CPUs, [`NcclFabric`] on GPUs) and over threads of one process
//! ([`ThreadFabric`], for tests and simulation). Every wait has a deadline, and its error names axis, operation, shape and rank.

mod agree;
mod collective;
mod gloo;
mod greeting;
mod mesh;
mod nccl;
mod rendezvous;
mod threads;
mod traffic;

pub use agree::{all_succeed, first_decides, stages_succeed};
pub(crate) use collective::IN_GROUP;
pub use collective::{Collective, CommError, Fabric, Pending, Reduce, Solo};
pub use gloo::GlooFabric;
pub use greeting::Greeting;
pub use mesh::{Axis, Mesh};
pub use nccl::{Backend, Call, Nccl, NcclFabric, NcclWorld};
pub use rendezvous::{Meeting, rendezvous};
pub use threads::{ThreadFabric, run_ranks};
pub use traffic::{Sent, Traffic};
