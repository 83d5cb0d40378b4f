//! Allocation of this machine's cores and GPUs to the fine-tunes of an experiment.
//!
//! A fine-tune on CPUs takes cores, one on GPUs takes GPUs of its own. Scripts take neither. Tasks that an executor of
//! the caller runs are assumed to run elsewhere and take nothing.

use std::collections::BTreeMap;

use neva_schemas::{Accelerator, ExecutorConfig, ExperimentConfig, MAX_PARALLEL, Run, Task, TaskSpec, env, thread_count};

use super::machine::Machine;
use crate::environment;

/// Resources of a fine-tune.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    ranks: u32,
    /// Number of cores, if it computes on CPUs.
    cores: u32,
    /// Number of GPUs that it uses alone.
    gpus: u32,
}

/// The machine, and the tasks that run on it.
#[derive(Debug)]
pub(super) struct Resources {
    machine: Machine,
    max_parallel: Option<u32>,
    /// By the number of the task: a cluster schedules it.
    scheduled: Vec<bool>,
    /// By the number of the task; `None` for a task that takes nothing.
    requests: Vec<Option<Request>>,
    /// Running tasks with the GPUs that they hold.
    running: BTreeMap<usize, Vec<String>>,
}

impl Resources {
    /// Creates the resources for `experiment`; `executor` is the default of its tasks. `elsewhere`: an executor of the
    /// caller runs all tasks.
    pub(super) fn new(experiment: &ExperimentConfig, executor: &ExecutorConfig, elsewhere: bool, machine: Machine) -> Self {
        let request = |task: &Task| match &task.task {
            TaskSpec::Finetune(run) if !elsewhere => match task.executor.as_ref().unwrap_or(executor) {
                ExecutorConfig::Local(local) => Some(request(run, &local.env_vars, &machine)),
                ExecutorConfig::Docker(docker) => Some(request(run, &docker.env_vars, &machine)),
                // A cluster schedules it.
                ExecutorConfig::Slurm(_) | ExecutorConfig::Kubernetes(_) => None,
            },
            _ => None,
        };
        let is_scheduled = |task: &Task| match task.executor.as_ref().unwrap_or(executor) {
            ExecutorConfig::Local(_) | ExecutorConfig::Docker(_) => false,
            ExecutorConfig::Slurm(_) | ExecutorConfig::Kubernetes(_) => !elsewhere,
        };
        Self {
            scheduled: experiment.tasks.values().map(is_scheduled).collect(),
            requests: experiment.tasks.values().map(request).collect(),
            max_parallel: experiment.max_parallel,
            running: BTreeMap::new(),
            machine,
        }
    }

    /// Returns the number of running tasks.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Returns true if `members`, which start together, may start now. They always may if no task runs: waiting would
    /// not help.
    pub(super) fn fits(&self, members: &[usize]) -> bool {
        if self.running.is_empty() {
            return true;
        }
        // Without a limit of the user, a cluster gets all its tasks at once.
        let counts = |task: &&usize| self.max_parallel.is_some() || !self.scheduled[**task];
        let most = self.max_parallel.unwrap_or(MAX_PARALLEL) as usize;
        let new = members.iter().filter(counts).count();
        if new > 0 && self.running.keys().filter(counts).count() + new > most {
            return false;
        }
        let (mut cores, mut gpus) = (0_u32, 0_usize);
        for request in members.iter().filter_map(|member| self.requests[*member]) {
            cores = cores.saturating_add(request.cores);
            gpus += request.gpus as usize;
        }
        let used = self.running.keys().filter_map(|task| self.requests[*task]);
        let used = used.fold(0, |used: u32, request| used.saturating_add(request.cores));
        let held: usize = self.running.values().map(Vec::len).sum();
        // `max_parallel` may oversubscribe cores, but never a GPU.
        let enough_cores = self.max_parallel.is_some() || cores == 0 || used == 0 || used.saturating_add(cores) <= self.machine.cores;
        let enough_gpus = gpus == 0 || held == 0 || held + gpus <= self.machine.gpus.len();
        enough_cores && enough_gpus
    }

    /// Allocates resources to `task`, which starts now; tasks of `concurrent` have not ended and may run at the same
    /// time. Returns the variables that limit the task to them, except those that the user set (`is_set`).
    pub(super) fn allocate(&mut self, task: usize, concurrent: &[usize], is_set: impl Fn(&str) -> bool) -> Vec<(&'static str, String)> {
        let mut variables = Vec::new();
        let mut own = Vec::new();
        if let Some(request) = self.requests[task] {
            if request.gpus > 0 {
                own = self.free_gpus(request.gpus as usize);
                if !own.is_empty() {
                    variables.push((env::CUDA_VISIBLE_DEVICES, own.join(",")));
                }
            }
            if !is_set(env::OMP_NUM_THREADS) {
                let others = concurrent.iter().filter(|other| self.requests[**other].is_some()).count();
                let parallel = self
                    .max_like(request)
                    .min(u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1));
                // A task that runs alone gets all cores: the default of the rank program.
                if parallel > 1 {
                    let threads = self.machine.cores / parallel.saturating_mul(request.ranks).max(1);
                    variables.push((env::OMP_NUM_THREADS, threads.max(1).to_string()));
                }
            }
        }
        self.running.insert(task, own);
        variables
    }

    /// Records a job that an earlier launch started, with its GPUs.
    pub(super) fn adopt(&mut self, task: usize, gpus: Vec<String>) {
        self.running.insert(task, gpus);
    }

    /// Releases the resources of a task that ended.
    pub(super) fn release(&mut self, task: usize) {
        self.running.remove(&task);
    }

    /// Returns the maximum number of fine-tunes with this request that run at the same time.
    fn max_like(&self, request: Request) -> u32 {
        let gpus = u32::try_from(self.machine.gpus.len()).unwrap_or(u32::MAX);
        let on_gpus = gpus.checked_div(request.gpus);
        let fit = on_gpus.unwrap_or_else(|| self.machine.cores / request.cores.max(1));
        match self.max_parallel {
            Some(most) if request.gpus > 0 => most.min(fit),
            Some(most) => most,
            None => fit,
        }
        .max(1)
    }

    /// Returns `count` GPUs that no task holds; none if fewer are free, as for a group that is larger than the machine.
    fn free_gpus(&self, count: usize) -> Vec<String> {
        let held = |gpu: &&String| self.running.values().flatten().any(|held| held == *gpu);
        let free: Vec<_> = self.machine.gpus.iter().filter(|gpu| !held(gpu)).take(count).cloned().collect();
        if free.len() == count {
            free
        } else {
            tracing::warn!("fewer than {count} GPUs are free for tasks that start together; they share GPUs");
            Vec::new()
        }
    }
}

/// Returns the resources of `run`, whose executor sets `variables`.
fn request(run: &Run, variables: &BTreeMap<String, String>, machine: &Machine) -> Request {
    let trainer = &run.finetune.trainer;
    let ranks = u32::try_from(trainer.world_size()).unwrap_or(u32::MAX);
    if trainer.accelerator != Accelerator::Cpu && !machine.gpus.is_empty() {
        // A user who names GPUs gets these, shared or not. The ranks of a run with too few GPUs refuse to start.
        let chosen = variables.contains_key(env::CUDA_VISIBLE_DEVICES) || ranks as usize > machine.gpus.len();
        let gpus = if chosen { 0 } else { ranks };
        return Request { ranks, cores: 0, gpus };
    }
    let named = variables.get(env::OMP_NUM_THREADS).cloned();
    let named = named.or_else(|| environment::variable(env::OMP_NUM_THREADS));
    let threads = trainer.threads_per_rank.or_else(|| thread_count(&named?)).unwrap_or(1);
    Request {
        ranks,
        cores: ranks.saturating_mul(threads),
        gpus: 0,
    }
}

#[cfg(test)]
mod tests {
    use neva_recipes::neva_tiny;
    use neva_schemas::{LocalExecutorConfig, Script};

    use super::*;

    fn machine(cores: u32, gpus: usize) -> Machine {
        Machine {
            cores,
            gpus: (0..gpus).map(|gpu| gpu.to_string()).collect(),
        }
    }

    /// Returns an experiment of `tasks` fine-tunes of `ranks` ranks, then a script.
    fn experiment(tasks: usize, ranks: u32, max_parallel: Option<u32>) -> ExperimentConfig {
        let mut finetune = neva_tiny::finetune_recipe(neva_tiny::default_args());
        finetune.trainer.devices = ranks;
        let run = Run::from_finetune(finetune);
        let names = (0..tasks).map(|number| (format!("t{number}"), Task::new(run.clone())));
        ExperimentConfig {
            tasks: names.chain([("script".to_owned(), Task::new(Script::inline("true")))]).collect(),
            max_parallel,
            ..ExperimentConfig::default()
        }
    }

    /// Starts the fine-tunes that fit, in order; returns the variables of each.
    fn started(experiment: &ExperimentConfig, machine: Machine) -> Vec<BTreeMap<&'static str, String>> {
        let mut resources = Resources::new(experiment, &ExecutorConfig::default(), false, machine);
        let all: Vec<_> = (0..experiment.tasks.len()).collect();
        let mut started = Vec::new();
        for task in all.iter().copied() {
            if resources.requests[task].is_some() && resources.fits(&[task]) {
                let concurrent: Vec<_> = all.iter().copied().filter(|other| *other != task).collect();
                started.push(resources.allocate(task, &concurrent, |_| false).into_iter().collect());
            }
        }
        assert!(
            resources.fits(&[experiment.tasks.len() - 1]) || experiment.max_parallel.is_some(),
            "scripts take nothing"
        );
        started
    }

    #[test]
    fn as_many_fine_tunes_run_as_fit_and_share_the_threads() {
        // Fine-tunes, ranks of each, cores, GPUs, max_parallel: fine-tunes that start at once, threads of each rank.
        let cases = [
            ((4, 1, 2, 0, None), 2, Some("1")),
            ((4, 1, 8, 0, None), 4, Some("2")),
            ((4, 2, 8, 0, None), 4, Some("1")),
            ((4, 1, 1, 0, None), 1, None),
            ((1, 1, 8, 0, None), 1, None),
            ((4, 1, 8, 0, Some(2)), 2, Some("4")),
            ((4, 1, 2, 0, Some(4)), 4, Some("1")),
            ((4, 1, 8, 0, Some(1)), 1, None),
            ((4, 16, 8, 0, None), 1, None),
            ((4, 1, 8, 2, None), 2, Some("4")),
            ((4, 2, 8, 4, None), 2, Some("2")),
            // `max_parallel` never makes tasks share a GPU.
            ((4, 1, 8, 2, Some(4)), 2, Some("4")),
            ((4, 1, 8, 2, Some(1)), 1, None),
        ];
        for ((tasks, ranks, cores, gpus, max_parallel), count, threads) in cases {
            let case = format!("{tasks} of {ranks} ranks on {cores} cores and {gpus} GPUs, {max_parallel:?}");
            let started = started(&experiment(tasks, ranks, max_parallel), machine(cores, gpus));
            assert_eq!(started.len(), count, "{case}");
            for variables in &started {
                assert_eq!(variables.get(env::OMP_NUM_THREADS).map(String::as_str), threads, "{case}");
            }
            let mut held: Vec<_> = started
                .iter()
                .filter_map(|variables| variables.get(env::CUDA_VISIBLE_DEVICES))
                .collect();
            assert_eq!(held.len(), if gpus > 0 { count } else { 0 }, "{case}");
            held.sort();
            held.dedup();
            assert_eq!(
                held.len(),
                if gpus > 0 { count } else { 0 },
                "{case}: two tasks hold the same GPU: {held:?}"
            );
        }
    }

    #[test]
    fn tasks_share_a_gpu_that_their_executor_names() {
        let executor = ExecutorConfig::Local(LocalExecutorConfig {
            env_vars: [(env::CUDA_VISIBLE_DEVICES.to_owned(), "0".to_owned())].into(),
            ..LocalExecutorConfig::default()
        });
        let experiment = experiment(3, 1, Some(3));
        let mut resources = Resources::new(&experiment, &executor, false, machine(8, 1));
        for task in 0..3 {
            assert!(resources.fits(&[task]));
            let variables = resources.allocate(task, &[0, 1, 2], |_| false);
            assert!(
                variables.iter().all(|(name, _)| *name != env::CUDA_VISIBLE_DEVICES),
                "{variables:?}"
            );
        }
    }

    #[test]
    fn a_gpu_is_released_with_its_task_and_a_job_of_an_earlier_launch_keeps_its_gpu() {
        let experiment = experiment(3, 1, None);
        let mut resources = Resources::new(&experiment, &ExecutorConfig::default(), false, machine(8, 2));
        resources.adopt(0, vec!["1".to_owned()]);
        let gpu = |variables: Vec<(&'static str, String)>| variables.into_iter().find(|(name, _)| *name == env::CUDA_VISIBLE_DEVICES);
        assert_eq!(gpu(resources.allocate(1, &[], |_| false)).unwrap().1, "0");
        assert!(!resources.fits(&[2]));
        resources.release(0);
        assert!(resources.fits(&[2]));
        assert_eq!(gpu(resources.allocate(2, &[], |_| false)).unwrap().1, "1");
    }

    #[test]
    fn keeps_the_number_of_threads_that_the_user_set() {
        let experiment = experiment(4, 1, None);
        let mut resources = Resources::new(&experiment, &ExecutorConfig::default(), false, machine(8, 0));
        assert_eq!(resources.allocate(0, &[1, 2, 3], |name| name == env::OMP_NUM_THREADS), []);
    }
}
