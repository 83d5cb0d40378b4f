//! Settings that do not fit are refused before anything starts.

use std::path::Path;

use neva_executors::Executor as _;
use neva_schemas::{DockerExecutorConfig, Validate as _, exit_class};
use serde_json::json;

use crate::cases::{executor, plan};

#[test]
fn what_does_not_fit_the_run_is_refused() {
    let dir = Path::new("/runs/x");
    for (settings, message, help) in [
        (
            json!({ "ntasks_per_node": 4 }),
            "`executor.ntasks_per_node` is 4, but the run has 2 ranks",
            "num_gpus_per_node=4",
        ),
        (
            json!({ "num_gpus": 1 }),
            "the run has 2 ranks, but the executor requests 1 GPUs",
            "executor.num_gpus=2",
        ),
        (
            json!({ "additional_kwargs": { "auto_remove": true } }),
            "`executor.additional_kwargs` sets `auto_remove`",
            "docker rm",
        ),
        (
            json!({ "additional_kwargs": { "volumes": ["/a"] } }),
            "`executor.additional_kwargs` sets `volumes`",
            "`volumes` of the executor",
        ),
        (
            json!({ "additional_kwargs": { "memory": "1g" } }),
            "`executor.additional_kwargs` has no \"memory\"",
            "mem_limit",
        ),
        (
            json!({ "additional_kwargs": { "mem_limit": "much" } }),
            "`executor.additional_kwargs` sets `mem_limit` to \"much\", which is not an amount of memory",
            "64g",
        ),
        (
            json!({ "additional_kwargs": { "Env": ["A=1"] } }),
            "`executor.additional_kwargs` sets `Env`",
            "`env_vars`",
        ),
        (
            json!({ "additional_kwargs": { "HostConfig": { "PidMode": "host" } } }),
            "`executor.additional_kwargs` sets `HostConfig.PidMode`, but the processes of a job end with their own process namespace",
            "remove it",
        ),
        (
            json!({ "additional_kwargs": { "HostConfig": { "Memroy": 1 } } }),
            "`executor.additional_kwargs` sets `HostConfig.Memroy`, which the Docker API does not have",
            "Docker API",
        ),
        (
            json!({ "additional_kwargs": { "Hostname": 7 } }),
            "`executor.additional_kwargs` has a value that the Docker API does not take",
            "Docker API",
        ),
    ] {
        let error = executor(&settings).render(&plan("llava15_7b", dir, 2)).unwrap_err();
        assert!(error.to_string().starts_with(message), "{settings}: {error}");
        assert!(error.help().unwrap().contains(help), "{settings}: {:?}", error.help());
        assert_eq!(error.exit_code(), exit_class::INPUT);
    }
    let mut two = plan("neva_tiny", dir, 2);
    two.num_nodes = 2;
    assert!(executor(&json!({})).render(&two).unwrap_err().to_string().contains("2 nodes"));
}

#[test]
fn what_is_wrong_by_itself_is_a_problem_of_the_file() {
    for (settings, path, message) in [
        (json!({}), "container_image", "no image is named"),
        (json!({ "shm_size": "big" }), "shm_size", "is not an amount of memory"),
        (json!({ "ulimits": ["memlock"] }), "ulimits[0]", "is not a limit"),
        (json!({ "volumes": ["/a", "b/c:/d"] }), "volumes[1]", "neither an absolute path"),
        (json!({ "healthcheck": { "tset": "x" } }), "healthcheck", "tset"),
        (
            json!({ "docker_host": "tcp://host:2375" }),
            "docker_host",
            "is not a socket of this machine",
        ),
        (json!({ "num_gpus": -2 }), "num_gpus", "a number of GPUs"),
        (
            json!({ "launcher": { "run.Torchrun": { "nsys_profile": true } } }),
            "launcher.nsys_profile",
            "nsys",
        ),
        (json!({ "ray_template": "x" }), "ray_template", "no Ray"),
        (json!({ "env_vars": { "HF_TOKEN": "x" } }), "env_vars", "HF_TOKEN"),
        (json!({ "grace_s": 100_000 }), "grace_s", "longer than a day"),
    ] {
        let config: DockerExecutorConfig = serde_json::from_value(settings.clone()).unwrap();
        let problems = config.problems("");
        let found = problems.iter().find(|problem| problem.path.starts_with(path));
        let found = found.unwrap_or_else(|| panic!("{settings}: {problems:?}"));
        assert!(found.message.contains(message), "{settings}: {}", found.message);
    }
}
