//! Runs jobs on a Slurm cluster.

pub mod render;
