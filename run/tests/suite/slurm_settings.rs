//! Settings of the Slurm executor that cannot work are refused before anything is submitted.

use std::process::Command;

/// Renders `neva_tiny` for Slurm with these overrides. Returns the exit code, the output and the error output.
fn render(sets: &[&str]) -> (i32, String, String) {
    render_for("slurm", sets)
}

/// Renders `neva_tiny` for an executor with these overrides. Returns the exit code, the output and the error output.
fn render_for(executor: &str, sets: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neva-run"));
    command
        .args(["render", "neva_tiny", "--executor", executor])
        .args(sets.iter().flat_map(|set| ["--set", set]));
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let cases = [
        ("time=4h", "\"4h\" is not a time limit of Slurm", "days-hours:minutes"),
        ("time=1:2:3:4", "is not a time limit", "minutes (`90`)"),
        ("signal=USR2@60", "do not save and stop on the signal USR2", "TERM, INT, HUP, USR1"),
        ("signal=@60", "is not a signal", "USR1@120"),
        ("signal_s=600", "the limit is 600 s", "raise `time`"),
        ("max_requeues=3", "is not requeued when it reaches it", "signal_s: 120"),
        ("dependency_type=whenever", "`dependency_type` is \"whenever\"", "aftercorr"),
        ("dependencies=[prepare]", "\"prepare\" is not the number of a job", "depends_on"),
        ("array=7-0", "is not a range of an array", "0-7%2"),
        (
            "partition='two words'",
            "is not a value that Slurm accepts for `partition`",
            "remove blanks",
        ),
        ("account=--x", "is not a value that Slurm accepts for `account`", "remove"),
        ("mem=lots", "is not an amount of memory", "64G"),
        ("cpus_per_task=0", "`cpus_per_task` is 0", ""),
        ("exclusive=maybe", "`exclusive` is \"maybe\"", "`topo`"),
        ("open_mode=w", "`open_mode` is \"w\"", "append"),
        ("slurm_version=new", "is not a version of Slurm", "sbatch --version"),
        ("het_group_indices=[0, 1]", "`heterogeneous` is not", "heterogeneous: true"),
        (
            "container_mounts=[/data]",
            "has no effect without `container_image`",
            "set the image",
        ),
        ("ray_template=ray.sub.j2", "neva-run has no Ray", "remove it"),
        ("job_details.folder=/x", "the folder of a job is that of its run", "set `dir`"),
        (
            "additional_parameters={nodes: 4}",
            "--nodes follows from the run",
            "the field `nodes`",
        ),
        ("additional_parameters={output: x}", "--output is set by the launcher", "remove it"),
        ("env_vars.HF_TOKEN=hf_x", "HF_TOKEN looks like a secret", "env_from"),
        ("nodes=4", "`executor.nodes` is 4, but the run has 1 nodes", "num_nodes=4"),
        (
            "tunnel={_target_: run.SSHTunnel, host: login}",
            "the folder of jobs is missing",
            "job_dir",
        ),
        (
            "tunnel={_target_: run.SSHTunnel, host: me@login, job_dir: /x}",
            "the user is a field of its own",
            "user: me",
        ),
        (
            "tunnel={_target_: run.LocalTunnel, job_dir: x}",
            "is not an absolute path",
            "/scratch",
        ),
        ("packager={_target_: run.PatternPackager}", "there is no pattern", "src/"),
        ("launcher=ft", "`ft` is not supported", "retries"),
        ("launcher=slurm_ray", "`slurm_ray` is not supported", "Ray"),
        ("status_interval_s=0", "it must be from 1 to 3600", ""),
        ("partitions=x", "partitions", "partition"),
    ];
    for (set, message, help) in cases {
        let (code, output, errors) = render(&[&format!("executor.{set}")]);
        assert_eq!((code, output.as_str()), (2, ""), "{set}: {errors}");
        let plain = errors.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "");
        assert!(plain.contains(message) && plain.contains(help), "{set}: {errors}");
    }
    let pairs = [
        (["mem=1G", "mem_per_cpu=1G"], "only one of `mem` and `mem_per_cpu`"),
        (
            ["cpus_per_task=1", "cpus_per_gpu=1"],
            "only one of `cpus_per_task` and `cpus_per_gpu`",
        ),
        (["signal=USR1@60", "signal_s=60"], "both `signal` and `signal_s` are set"),
        (
            ["gres=gpu:a100:4", "gpus_per_node=8"],
            "requests 4 GPUs on each node, but `gpus_per_node` is 8",
        ),
        (["dependency_type=singleton", "dependencies=[12]"], "has no `dependencies`"),
    ];
    for (sets, message) in pairs {
        let (code, _, errors) = render(&sets.map(|set| format!("executor.{set}")).each_ref().map(String::as_str));
        let plain = errors.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "");
        assert!(code == 2 && plain.contains(message), "{sets:?}: {errors}");
    }
}

/// Ranks start in another folder than the launcher, also on the same machine.
#[test]
fn relative_paths_of_ranks_are_refused() {
    let cases = [
        (
            "slurm",
            "libtorch=.libtorch",
            "`libtorch` is \".libtorch\": ranks start in another folder",
            "path on the nodes",
        ),
        (
            "slurm",
            "libtorch=~/libtorch",
            "`libtorch` is \"~/libtorch\"",
            "`~` and variables are not replaced",
        ),
        ("slurm", "libtorch=''", "`libtorch` is \"\"", "the absolute path"),
        (
            "slurm",
            "rank_program=bin/neva-rank",
            "ranks start in another folder",
            "as `/opt/neva/bin/neva-rank`",
        ),
        (
            "docker",
            "libtorch=.libtorch",
            "`libtorch` is \".libtorch\": ranks start in another folder",
            "path in the container",
        ),
        (
            "docker",
            "rank_program=./neva-rank",
            "ranks start in another folder",
            "or a name in PATH there",
        ),
        ("docker", "rank_program=''", "`rank_program` is empty", "remove it"),
        (
            "kubernetes",
            "rank_program=bin/neva-rank",
            "ranks start in another folder",
            "the absolute path in the image",
        ),
    ];
    for (executor, set, message, help) in cases {
        let image = match executor {
            "docker" => "container_image=neva:1",
            "kubernetes" => "image=neva:1",
            _ => "time=10",
        };
        let (code, output, errors) = render_for(executor, &[&format!("executor.{image}"), &format!("executor.{set}")]);
        assert_eq!((code, output.as_str()), (2, ""), "{set}: {errors}");
        let plain = errors.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "");
        assert!(plain.contains(message) && plain.contains(help), "{executor} {set}: {errors}");
    }
    let (code, output, errors) = render(&["executor.rank_program=neva-rank", "executor.libtorch=/opt/libtorch"]);
    assert!(code == 0 && output.contains("=/opt/libtorch/lib"), "{output}{errors}");
}

#[test]
fn settings_become_options_of_sbatch() {
    let cases = [
        ("time=10", "--time=10"),
        ("time=1-12", "--time=1-12"),
        ("account=acct", "--account=acct"),
        ("exclusive=true", "--exclusive"),
        ("exclusive=user", "--exclusive=user"),
        ("gpus_per_node=1", "--gpus-per-node=1"),
        ("mem=0", "--mem=0"),
        ("signal='B:TERM@30'", "--signal=B:TERM@30"),
        ("signal_s=60", "--signal=USR1@60"),
        ("job_details.job_name=mine", "--job-name=mine"),
        ("job_name_prefix=team-", "--job-name=team-default"),
        ("comment='two words'", "--comment=\"two words\""),
        ("additional_parameters={mail_type: END}", "--mail-type=END"),
        ("additional_parameters={--switches: 1}", "--switches=1"),
        ("additional_parameters={oversubscribe: true}", "--oversubscribe"),
    ];
    for (set, option) in cases {
        let (code, output, errors) = render(&[&format!("executor.{set}")]);
        assert_eq!(code, 0, "{set}: {errors}");
        assert!(output.lines().any(|line| line == format!("#SBATCH {option}")), "{set}: {output}");
    }
    let (_, output, _) = render(&["executor.additional_parameters={open-mode: null, no-requeue: true}"]);
    assert!(
        !output.contains("--open-mode=append\n#SBATCH") && output.contains("#SBATCH --no-requeue\n"),
        "{output}"
    );
    assert!(!output.contains("#SBATCH --requeue\n"), "{output}");
}
