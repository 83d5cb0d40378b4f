//! What to type or do after an error.

use std::io;

use neva_data::PrepareError;
use neva_schemas::{Starter, env, exit_class};
use neva_track::TrackError;

use super::RunError;

impl RunError {
    /// Returns what to type or do instead, if known. Each problem of a configuration carries its own help.
    pub fn advice(&self) -> Option<String> {
        Some(match self {
            Self::RankEnv(_) => "start the ranks with `torchrun --no-python` or `srun`, or unset these variables".to_owned(),
            Self::SeveralRanks { world_size } => format!(
                "leave out `--direct` to start {world_size} processes here, add `--set num_gpus_per_node=1`, or start the ranks with \
                 `torchrun --no-python --nproc-per-node {world_size} neva-run RECIPE --direct` or `srun --ntasks={world_size} neva-run \
                 RECIPE --direct`"
            ),
            Self::WorldSize { starter, world_size, .. } => {
                let option = match starter {
                    Starter::Torchrun => "--nproc-per-node",
                    Starter::Srun => "--ntasks",
                };
                format!("start {world_size} ranks with {starter}'s `{option}`, or change `num_gpus_per_node` and `num_nodes`")
            }
            Self::StartedAsRank { .. } => "add `--direct`".to_owned(),
            Self::BrokenData { records: 0, .. } => "correct the files that are named above".to_owned(),
            Self::BrokenData { skip_list: None, .. } => {
                "correct these records, or list them for a run to skip: add `--skip-list FILE`".to_owned()
            }
            Self::BrokenData { skip_list: Some(file), .. } => format!(
                "correct these records, or train without them: `--set finetune.data.skip_list={}`",
                file.display()
            ),
            Self::Prepare(PrepareError::Exists(_)) => "add `--force-overwrite` to write its metadata again".to_owned(),
            Self::Prepare(PrepareError::NoShards(_)) => {
                "pack the files of each sample under one name, KEY.jpg and KEY.json: `tar --sort=name -cf shard_000000.tar *`".to_owned()
            }
            Self::Prepare(PrepareError::NoType { .. }) => {
                "name type and fields: `--sample-type VQASample --field-map '{\"image\": \"jpg\", \"context\": \"json[question]\", \
                 \"answers\": \"json[answers]\"}'`"
                    .to_owned()
            }
            Self::Prepare(PrepareError::Duplicates { .. }) => {
                "rename the files in one of the shards, or run `energon prepare --fix-duplicates`, which puts them into a folder for each \
                 shard"
                    .to_owned()
            }
            Self::Exists { .. } => "add `--yes` to overwrite it, or name another".to_owned(),
            Self::NoRankProgram { named: None } => "build it with `cargo build --release`, or set NEVA_RANK to its path".to_owned(),
            Self::NoLibtorch { problem, .. } => problem.help().to_owned(),
            Self::Track(TrackError::NoMetrics { .. }) => {
                "name a run's folder, or its `metrics.jsonl`; a run writes it after its first step".to_owned()
            }
            Self::Track(TrackError::BrokenMetrics { line, .. }) => format!("remove line {line}, or plot another run"),
            // A plot is the only record that this program writes.
            Self::Track(TrackError::Io { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
                "free disk space, or name a file on another disk with `--out`".to_owned()
            }
            Self::Track(TrackError::Io {
                action: "write", source, ..
            }) if source.kind() == io::ErrorKind::PermissionDenied => "name a file that you may write with `--out`".to_owned(),
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free disk space, or name another folder with `--set dir=...`".to_owned()
            }
            Self::File { source, .. } if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                "name a writable folder with `--set dir=...`".to_owned()
            }
            Self::Target { path, source, .. } => match source.kind() {
                io::ErrorKind::StorageFull => "free disk space, or name another disk".to_owned(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "name a place that you may write to".to_owned(),
                io::ErrorKind::NotFound => {
                    let folder = path.parent().unwrap_or(path);
                    format!("create the folder first: mkdir -p {}", folder.display())
                }
                _ => return None,
            },
            Self::Output { source } if source.kind() == io::ErrorKind::StorageFull => {
                "free disk space, or write it to another disk".to_owned()
            }
            Self::Cancelled { checkpoint: Some(_), .. } | Self::Stopped { checkpoint: Some(_), .. } => {
                "to resume from it, start the run again with `--set finetune.resume.resume_if_exists=true`".to_owned()
            }
            Self::NoReport { path, .. } => format!(
                "this is a bug of neva-run or of the rank program that {} names; please report it with the ranks' logs in {}",
                env::NEVA_RANK,
                path.with_file_name("logs").display()
            ),
            Self::Hub(error) => return error.help(),
            Self::Import(error) => return error.help(),
            Self::Executor(error) => return error.help(),
            Self::Experiment(error) => return error.help(),
            Self::Job(failure) if failure.class == exit_class::BUG && failure.help.is_none() => {
                "please report it with these lines and the rank's log".to_owned()
            }
            Self::Job(failure) => return failure.help.clone(),
            Self::Rank(failure) => return failure.help.clone(),
            _ => return None,
        })
    }
}
