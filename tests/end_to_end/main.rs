//! The programs together: what the README promises, and what happens when something goes wrong.

mod direct;
mod inputs;
mod layering;
mod photos;
mod processes;
