//! The nsys profiler.

use neva_schemas::{SlurmExecutorConfig, TorchrunConfig};

use super::text::{Words, quoted};

/// Samples the GPUs on the first rank of each node only: nsys allows one sampler per node.
const WITH_GPU_METRICS: &str = r#"
# Runs nsys; the first rank of a node also samples its GPUs.
nsys='if [ "${SLURM_LOCALID:-0}" -eq 0 ]; then
    set -- --gpu-metrics-devices=all "$@"
fi
exec nsys profile "$@"'
"#;

/// Returns the settings of the profiler, if it is wanted.
pub(super) fn settings(config: &SlurmExecutorConfig) -> Option<&TorchrunConfig> {
    let settings = config.launcher.as_ref().and_then(|launcher| launcher.settings());
    settings.filter(|settings| settings.nsys_profile)
}

/// Returns the lines before the step: the folder of profiles, which nsys does not create.
pub(super) fn before(settings: &TorchrunConfig) -> String {
    let sampler = if settings.nsys_gpu_metrics { WITH_GPU_METRICS } else { "" };
    format!("{sampler}mkdir -p \"$dir\"/{}\n", quoted(&settings.nsys_folder))
}

/// Adds the words before the program of a rank.
pub(super) fn prefix(settings: &TorchrunConfig, words: &mut Words) {
    match settings.nsys_gpu_metrics {
        true => {
            words.words(["sh", "-c"]);
            words.shell("\"$nsys\"");
            words.word("nsys");
        }
        false => words.words(["nsys", "profile"]),
    }
    words.words(["-s", "none", "-t", &settings.nsys_trace.join(","), "-o"]);
    let file = format!("{}/{}", settings.nsys_folder.trim_end_matches('/'), settings.nsys_filename);
    words.shell(format!("\"$dir\"/{}", quoted(&file)));
    words.words(&settings.nsys_extra_args);
}
