//! One rank. Whoever has types of their own builds a program like this one.

fn main() -> std::process::ExitCode {
    neva_engine::rank_main(neva_engine::Registry::builtin())
}
