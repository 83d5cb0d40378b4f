//! OpenMP's settings of this process: the spin count of idle threads, and the number of threads.

use super::environment::{is_set, lookup};
use neva_schemas::{RankEnv, env, spin_count, thread_count};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Once;
use std::thread::available_parallelism;

/// Restarts this program with a spin count for libgomp if none is set. libgomp reads it when it is loaded, before `main`.
/// neva-run sets it; this is for ranks that torchrun or a script starts. Returns if no restart is needed.
pub(super) fn restart_with_spin_count() {
    let Some((name, value)) = spin_count(is_set) else { return };
    let mut arguments = std::env::args_os();
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = Command::new(program);
    if let Some(own_name) = arguments.next() {
        command.arg0(own_name);
    }
    let error = command.args(arguments).env(name, value).exec();
    tracing::warn!("cannot restart with {name}={value}: {error}; this rank is slow on a shared machine");
}

/// Warns once about a process whose idle threads spin: a user's own program with this engine in it.
pub(super) fn warn_of_spinning(threads: u32) {
    static WARNED: Once = Once::new();
    let Some((name, value)) = spin_count(is_set).filter(|_| threads > 1) else {
        return;
    };
    WARNED.call_once(|| {
        tracing::warn!(
            "idle OpenMP threads of this process spin, which makes training slow on a shared machine: \
             set {name}={value} in the environment before the program starts"
        );
    });
}

/// Returns the default number of threads of a rank: `OMP_NUM_THREADS`, else its share of the machine's cores.
pub(super) fn default_threads(rank: &RankEnv) -> u32 {
    let cores = available_parallelism().map_or(1, usize::from);
    let set = lookup(env::OMP_NUM_THREADS).filter(|text| !text.is_empty());
    let (threads, warning) = choose(set.as_deref(), cores, rank, is_set(env::TORCHELASTIC_RUN_ID));
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    threads
}

/// Chooses the number of threads of a rank on a machine of `cores`, with `OMP_NUM_THREADS` as `set`. Adds a warning if that
/// is not a number, or probably not the user's choice.
fn choose(set: Option<&str>, cores: usize, rank: &RankEnv, by_torchrun: bool) -> (u32, Option<String>) {
    const NAME: &str = env::OMP_NUM_THREADS;
    let own = u32::try_from(cores / rank.local_world_size.max(1) as usize).unwrap_or(1).max(1);
    match set.map(|text| (text, thread_count(text))) {
        None => (own, None),
        Some((text, None)) => {
            let warning = format!("{NAME}={text:?} is not a number of threads and is ignored: {own} are used");
            (own, Some(warning))
        }
        Some((_, Some(1))) if own > 1 && by_torchrun && rank.rank == 0 => {
            let warning = format!(
                "each rank uses 1 of {own} threads, because torchrun sets {NAME}=1 by default: \
                 export {NAME}={own}, or set finetune.trainer.threads_per_rank={own}"
            );
            (1, Some(warning))
        }
        Some((_, Some(threads))) => (threads, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_has_the_number_of_threads_in_its_environment() {
        let rank = |local_world_size| RankEnv {
            local_world_size,
            ..RankEnv::single()
        };
        // OMP_NUM_THREADS, cores, ranks of the machine, started by torchrun: threads, warning.
        let cases = [
            (None, 8, 1, false, 8, false),
            (None, 8, 2, false, 4, false),
            (None, 1, 2, false, 1, false),
            (Some("3"), 8, 2, false, 3, false),
            (Some("16"), 8, 2, false, 16, false),
            (Some("1"), 8, 2, false, 1, false),
            (Some("1"), 8, 2, true, 1, true),
            (Some("1"), 2, 2, true, 1, false),
            (Some("2"), 8, 2, true, 2, false),
            (Some("all"), 8, 2, false, 4, true),
        ];
        for (set, cores, ranks, by_torchrun, threads, warned) in cases {
            let (found, warning) = choose(set, cores, &rank(ranks), by_torchrun);
            assert_eq!(
                (found, warning.is_some()),
                (threads, warned),
                "{set:?} {cores} {ranks} {by_torchrun}: {warning:?}"
            );
        }
    }
}
