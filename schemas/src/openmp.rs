//! OpenMP settings of a rank: spin count and number of threads.

use crate::contract::env;

/// libgomp's spin count for ranks: long enough to wait for the next loop of a step, short enough to free the core for
/// the thread that the others wait for. libgomp's default spins for milliseconds, which slows a rank down by an order
/// of magnitude if other processes use the machine. `engine/benches/contention.rs` measures it.
const SPIN_COUNT: &str = "3000";

/// Returns the variable that limits the spinning of a rank's OpenMP threads and its value, or `None` if the user has
/// set one. `is_set` looks up the rank's environment.
pub fn spin_count(is_set: impl Fn(&str) -> bool) -> Option<(&'static str, &'static str)> {
    let chosen = [env::GOMP_SPINCOUNT, env::OMP_WAIT_POLICY].into_iter().any(is_set);
    (!chosen).then_some((env::GOMP_SPINCOUNT, SPIN_COUNT))
}

/// Parses a value of `OMP_NUM_THREADS`. In a list, with one item per level of nested regions, the first counts.
pub fn thread_count(text: &str) -> Option<u32> {
    let first = text.split(',').next().unwrap_or_default();
    first.trim().parse().ok().filter(|threads| *threads > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_users_wait_policy() {
        let cases: [(&[&str], bool); 4] = [
            (&[], true),
            (&["GOMP_SPINCOUNT"], false),
            (&["OMP_WAIT_POLICY"], false),
            (&["OMP_NUM_THREADS"], true),
        ];
        for (set, ours) in cases {
            assert_eq!(spin_count(|name| set.contains(&name)).is_some(), ours, "{set:?}");
        }
    }

    #[test]
    fn thread_count_is_that_of_the_outer_level() {
        for (text, threads) in [
            ("4", Some(4)),
            (" 4 ", Some(4)),
            ("4,2", Some(4)),
            ("0", None),
            ("-1", None),
            ("", None),
            ("many", None),
        ] {
            assert_eq!(thread_count(text), threads, "{text:?}");
        }
    }
}
