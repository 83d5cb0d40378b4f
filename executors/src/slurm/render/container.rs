//! Containers: pyxis and enroot, or Apptainer.

use std::{collections::BTreeSet, path::Path};

use neva_schemas::{ContainerRuntime, SlurmExecutorConfig};

use super::{
    text::{Words, path_text, quoted, refused},
    work::Work,
};
use crate::error::ExecutorError;

/// A task's container.
pub(super) struct Container<'a> {
    config: &'a SlurmExecutorConfig,
    image: &'a str,
    /// Mounts for bash, quoted.
    mounts: Vec<String>,
    /// Names of variables that replace those of the image.
    variables: BTreeSet<&'a str>,
    has_gpus: bool,
}

impl<'a> Container<'a> {
    /// Returns the container of a task, if it has one.
    pub(super) fn new(
        config: &'a SlurmExecutorConfig,
        work: Work<'a>,
        rank_program: &Path,
        has_gpus: bool,
    ) -> Result<Option<Self>, ExecutorError> {
        let Some(image) = &config.container_image else {
            return Ok(None);
        };
        let folder = path_text(work.dir())?;
        if folder.contains([',', ':']) {
            return Err(refused(
                &format!("the job's folder {folder:?} contains `,` or `:`, which separate the mounts of a container"),
                "name another folder with `--set dir=...`",
            ));
        }
        let mut mounts = vec!["\"$dir:$dir\"".to_owned()];
        if !work.working_directory(config)?.starts_with("\"$dir") {
            mounts.push("\"$PWD:$PWD\"".to_owned());
        }
        // An uploaded program is not in the image.
        let folder = rank_program
            .parent()
            .filter(|folder| folder.is_absolute() && config.rank_program.is_none());
        if let (Some(folder), Work::Ranks(_)) = (folder, work) {
            let folder = path_text(folder)?;
            mounts.push(quoted(&format!("{folder}:{folder}:ro")));
        }
        for mount in &config.container_mounts {
            mounts.push(match mount.contains(':') {
                true => quoted(mount),
                false => quoted(&format!("{mount}:{mount}")),
            });
        }
        let own = work.env().keys().chain(&config.env_from);
        let variables = own.chain(config.container_env.iter().flatten()).map(String::as_str).collect();
        Ok(Some(Self {
            config,
            image,
            mounts,
            variables,
            has_gpus,
        }))
    }

    /// Adds the options of srun.
    pub(super) fn srun_options(&self, words: &mut Words) {
        if self.config.container_runtime != ContainerRuntime::Pyxis {
            return;
        }
        words.word(format!("--container-image={}", self.image));
        words.shell(format!("--container-mounts={}", self.mounts.join(",")));
        words.shell("--container-workdir=\"$PWD\"");
        if !self.variables.is_empty() {
            let names: Vec<_> = self.variables.iter().copied().collect();
            words.word(format!("--container-env={}", names.join(",")));
        }
    }

    /// Adds the words before the task's program.
    pub(super) fn prefix(&self, words: &mut Words) {
        if self.config.container_runtime != ContainerRuntime::Apptainer {
            return;
        }
        words.words(["apptainer", "exec"]);
        if self.has_gpus {
            words.word("--nv");
        }
        self.mounts.iter().for_each(|mount| words.shell(format!("--bind={mount}")));
        words.shell("--pwd=\"$PWD\"");
        words.word(self.image);
    }

    /// Returns the lines that pass variables into an Apptainer container, where those of the image would replace them.
    pub(super) fn exports(&self) -> String {
        if self.config.container_runtime != ContainerRuntime::Apptainer || self.variables.is_empty() {
            return String::new();
        }
        let names: Vec<_> = self.variables.iter().copied().collect();
        format!(
            "for name in {}; do\n    if [ -n \"${{!name+set}}\" ]; then\n        export \"APPTAINERENV_$name=${{!name}}\"\n    fi\ndone\n",
            names.join(" ")
        )
    }
}
