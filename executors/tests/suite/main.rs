//! Executors through their public door: what they would do, and jobs of shell scripts.

mod local;
mod render;
mod support;
