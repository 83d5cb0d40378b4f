//! Programs and files to copy. Each `*.rs` beside this file is an example: `cargo run --release --example NAME`.
