//! The rank program with the built-in types. A program with custom types is built like this one.

fn main() -> std::process::ExitCode {
    neva_engine::rank_main(neva_engine::Registry::builtin())
}
