//! The contract of executors: one suite that every executor passes, through the public API.
//!
//! An executor joins with a [`Fixture`](fixture::Fixture), which sets up its jobs, and a line of `contract!`. `remote`
//! is a test executor whose files and processes are on a simulated remote machine, behind a connection that is slow and
//! gets lost.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod executable;
mod fixture;
mod local;
mod pbs;
mod remote;
#[macro_use]
mod suite;

mod on_this_machine {
    contract!(local, crate::local::LocalFixture::new());
}

mod on_another_machine {
    contract!(remote, crate::remote::RemoteFixture::new());
}

mod of_the_example {
    contract!(pbs, crate::pbs::PbsFixture::new());
}
