//! Refusals of sbatch: which of them are wrong settings, and what to type instead.

use super::command;
use crate::{
    batch_error::BatchError,
    error::ExecutorError,
    tunnel::{CommandEnd, CommandOutput},
};

/// Returns the error of a failed sbatch.
pub(super) fn refused(place: &str, code: i32, stderr: &[u8]) -> ExecutorError {
    let words = command::words(stderr);
    if command::is_unreachable(&words) || matches!(code, 126 | 127) {
        let output = CommandOutput {
            end: CommandEnd::Exit(code),
            stdout: Vec::new(),
            stderr: stderr.to_vec(),
        };
        return command::failure(place, "sbatch", &output);
    }
    let lower = words.to_ascii_lowercase();
    let known = REFUSALS.iter().find(|(text, _)| lower.contains(text));
    BatchError::Refused {
        program: "sbatch".into(),
        help: known.map(|(_, help)| (*help).to_owned()),
        // Nothing that the user set: Slurm's programs are there, but no cluster.
        is_input: known.is_some_and(|(text, _)| *text != NO_CLUSTER),
        words,
    }
    .into()
}

/// Words of Slurm's programs on a machine that belongs to no cluster.
const NO_CLUSTER: &str = "could not establish a configuration source";

/// Words of sbatch that mean a wrong setting, and what to type instead.
const REFUSALS: &[(&str, &str)] = &[
    (
        NO_CLUSTER,
        "this machine belongs to no cluster: work on a login node, or name one with the executor's `tunnel`",
    ),
    ("invalid partition", "set `executor.partition` to one that `sinfo` lists"),
    (
        "invalid account",
        "set `executor.account` to one that `sacctmgr show associations user=$USER` lists",
    ),
    ("invalid qos", "set `executor.qos` to one that `sacctmgr show qos` lists"),
    (
        "invalid generic resource",
        "set `executor.gpus_per_node` or `executor.gres` to what `sinfo -o '%P %G'` lists",
    ),
    (
        "node configuration is not available",
        "no node has that many GPUs, cores or that much memory: compare `num_gpus_per_node`, `executor.mem` and others with \
         `sinfo -N -o '%N %c %m %G'`",
    ),
    (
        "node count specification invalid",
        "set `num_nodes` to at most the number of nodes that `sinfo` lists",
    ),
    (
        "more processors requested",
        "set `executor.cpus_per_task` lower: compare with `sinfo -o '%P %c'`",
    ),
    (
        "invalid job array specification",
        "the cluster allows fewer tasks in an array: set `executor.max_array_size` to what `scontrol show config | grep MaxArraySize` \
         prints, or lower the numbers of `executor.array`",
    ),
    ("invalid --time", "write `executor.time` as `30`, `2:00:00` or `1-12:00:00`"),
    (
        "time limit is invalid",
        "set `executor.time` to at most the limit of the partition, which `sinfo -o '%P %l'` lists",
    ),
    (
        "invalid feature",
        "set `executor.constraint` to features that `sinfo -o '%P %f'` lists",
    ),
    (
        "reservation is invalid",
        "set `executor.reservation` to one that `scontrol show reservation` lists",
    ),
    ("reservation", "see `scontrol show reservation`"),
    ("job dependency problem", "set `executor.dependencies` to numbers of jobs"),
    (
        "unrecognized option",
        "this Slurm does not have the option: set it to `null` in `executor.additional_parameters`, or set `executor.slurm_version`",
    ),
    ("unknown option", "set the option to `null` in `executor.additional_parameters`"),
    ("invalid option", "set the option to `null` in `executor.additional_parameters`"),
    (
        "violates accounting",
        "the limits of your account or QOS do not allow it: ask for less, or wait for your other jobs",
    ),
    ("invalid wckey", "set `wckey` in `executor.additional_parameters`"),
    ("invalid", "compare the executor's settings with `man sbatch`"),
    (
        "access/permission denied",
        "your user may not submit such a job: see `executor.partition` and `executor.account`",
    ),
    (
        "user's group not permitted",
        "your group may not use this partition: set `executor.partition`",
    ),
    (
        "not permitted to use",
        "set `executor.account`, `executor.partition` or `executor.qos` to what you may use",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of sbatch 22.05.
    #[test]
    fn refusals_say_what_to_type() {
        for (code, words, class, help) in [
            (
                1,
                "sbatch: error: Batch job submission failed: Invalid partition name specified",
                2,
                "sinfo",
            ),
            (
                1,
                "sbatch: error: Batch job submission failed: Requested node configuration is not available",
                2,
                "executor.mem",
            ),
            (255, "sbatch: unrecognized option '--segment=4'", 2, "additional_parameters"),
            (
                1,
                "sbatch: error: Batch job submission failed: Invalid job array specification",
                2,
                "executor.max_array_size",
            ),
            (1, "sbatch: error: Batch job submission failed: Something new", 3, ""),
            (127, "sh: 1: sbatch: not found", 3, "login node"),
        ] {
            let error = refused("this machine", code, words.as_bytes());
            assert_eq!(error.exit_code(), class, "{words}");
            assert!(error.help().unwrap_or_default().contains(help), "{words}: {error:?}");
        }
        assert!(
            refused(
                "x",
                1,
                b"sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
            )
            .is_connection_lost()
        );
    }
}
