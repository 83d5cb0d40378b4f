//! Scripts that run with stand-ins for Slurm's programs.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use neva_executors::slurm::render::{GroupTask, Work, render_array, render_group, render_script};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    cases::{config, script, tiny},
    machine::{Machine, end, read},
};

/// A failure record of a rank with an exit code, a time and whether another rank caused it.
fn record(class: u8, unix_ms: u64, is_peer: bool) -> String {
    let peer = if is_peer { r#","by_peer":true"# } else { "" };
    format!(r#"{{"class":{class},"rank":0,"step":3,"unix_ms":{unix_ms},"chain":["a \"by_peer\":true text"]{peer}}}"#)
}

#[test]
fn odd_values_reach_the_ranks() {
    let values = [
        ("BLANKS", " two  words "),
        ("QUOTES", r#"it's "quoted" \ and `more`"#),
        ("LINES", "first\n#SBATCH --nodes=9\nlast\n"),
        ("DOLLARS", "$HOME ${RANK} $(id) $$"),
        ("EMPTY", ""),
        ("lower_case", "kept"),
        ("UNICODE", "größe ☃"),
    ];
    let machine = Machine::new();
    let names: Vec<_> = values.iter().map(|(name, _)| format!("printf '%s\\0' \"${name}\"")).collect();
    let ranks = format!(
        "{{ {}; }} >env.$SLURM_PROCID; echo ${{RANK:-unset}} ${{WORLD_SIZE:-unset}}",
        names.join("; ")
    );
    let job = machine.job(&json!({"progress_interval_s": 0}), &ranks, &values);
    let (code, errors) = machine.run(&job, 0);
    assert_eq!(code, 0, "{errors}");
    for rank in 0..2 {
        let seen = read(job.dir.join(format!("env.{rank}")));
        let seen: Vec<_> = seen.split_terminator('\0').collect();
        assert_eq!(seen, values.map(|(_, value)| value), "rank {rank}");
    }
    // Variables of another launcher do not reach them.
    assert_eq!(read(job.dir.join("logs/rank1.log")), "unset unset\n");
    assert_eq!(read(job.dir.join("slurm.status")), "7 0 0\n");
    assert_eq!(machine.calls("scontrol"), Vec::<String>::new());
}

#[test]
fn the_exit_code_is_that_of_the_first_failure_that_no_other_rank_caused() {
    let cases = [
        ("exit 3".to_owned(), 3),
        ("exit 137".to_owned(), 1),
        ("exit 101".to_owned(), 4),
        ("exit 127".to_owned(), 3),
        ("kill -SEGV $$".to_owned(), 1),
        // The rank that failed first wrote last.
        (
            format!(
                "echo '{}' >>failures.jsonl; echo '{}' >>failures.jsonl; exit 1",
                record(1, 50, true),
                record(2, 60, false)
            ),
            2,
        ),
        (
            format!(
                "echo '{}' >>failures.jsonl; echo '{}' >>failures.jsonl; exit 4",
                record(1, 70, false),
                record(3, 60, false)
            ),
            3,
        ),
        (format!("echo '{}' >>failures.jsonl; exit 1", record(3, 50, true)), 3),
    ];
    for (ranks, expected) in cases {
        let machine = Machine::new();
        let job = machine.job(&json!({}), &format!("[ $SLURM_PROCID = 0 ] || exit 0\n{ranks}"), &[]);
        // A record of an earlier start does not count.
        fs::create_dir_all(&job.dir).unwrap();
        fs::write(job.dir.join("failures.jsonl"), record(4, 1, false) + "\n").unwrap();
        let (code, errors) = machine.run(&job, 0);
        assert_eq!(code, expected, "{ranks}: {errors}");
        assert_eq!(read(job.dir.join("slurm.status")), format!("7 0 {expected}\n"), "{ranks}");
    }
}

#[test]
fn failures_are_retried_as_often_as_asked_for() {
    // Exit code, requeues that were made before, retries, and whether the job is requeued.
    let cases = [
        (0, "", 2, false),
        (1, "", 0, false),
        (1, "", 2, true),
        (1, "7 failed\n", 2, true),
        (1, "7 failed\n7 failed\n", 2, false),
        // Those of another job in the folder, and those at a time limit.
        (1, "6 failed\n6 failed\n7 stopped\n7 stopped\n", 2, true),
        (2, "", 2, false),
        (3, "", 1, true),
        (4, "", 2, false),
        (139, "", 2, true),
    ];
    for (code, before, retries, is_requeued) in cases {
        let machine = Machine::new();
        let job = machine.job(&json!({"retries": retries}), &format!("exit {code}"), &[]);
        fs::create_dir_all(&job.dir).unwrap();
        fs::write(job.dir.join("slurm.requeues"), before).unwrap();
        let restart = before.lines().count() as u32;
        let (_, errors) = machine.run(&job, restart);
        let what = format!("exit code {code}, {before:?}, {retries} retries: {errors}");
        assert_eq!(machine.calls("scontrol") == ["requeue 7"], is_requeued, "{what}");
        // A requeued job has not ended.
        assert_eq!(job.dir.join("slurm.status").exists(), !is_requeued, "{what}");
    }
}

const STOPPED: &str = r#"[ $SLURM_PROCID = 1 ] || echo '{"steps": 3, "stopped": "SIGNAL"}' >report.json; exit 1"#;

#[test]
fn a_run_that_stopped_before_its_time_limit_is_requeued() {
    let cases: &[(Value, &str, &str, bool)] = &[
        (json!({"signal_s": 60}), "SIGUSR1", "", true),
        (json!({"signal": "TERM@60"}), "SIGTERM", "", true),
        (json!({"signal_s": 60, "max_requeues": 1}), "SIGUSR1", "7 stopped\n", false),
        (json!({"signal_s": 60, "max_requeues": 1}), "SIGUSR1", "7 failed\n", true),
        // Another signal: somebody stopped the run. Neither is it a failure.
        (json!({"signal_s": 60, "retries": 3}), "SIGTERM", "", false),
        (json!({"retries": 3}), "SIGUSR1", "", false),
        (json!({}), "SIGUSR1", "", false),
    ];
    for (settings, signal, before, is_requeued) in cases {
        let machine = Machine::new();
        let job = machine.job(settings, &STOPPED.replace("SIGNAL", signal), &[]);
        fs::create_dir_all(&job.dir).unwrap();
        fs::write(job.dir.join("slurm.requeues"), before).unwrap();
        let (code, errors) = machine.run(&job, 0);
        assert_eq!(
            machine.calls("scontrol") == ["requeue 7"],
            *is_requeued,
            "{settings} {signal}: {errors}"
        );
        assert_eq!(code, 1, "{settings}: {errors}");
    }
}

#[test]
fn a_cancelled_job_is_not_requeued() {
    let machine = Machine::new();
    let settings = json!({"signal": "TERM@60", "retries": 3});
    let job = machine.job(
        &settings,
        &format!("echo '7 TERM' >cancel; {}", STOPPED.replace("SIGNAL", "SIGTERM")),
        &[],
    );
    let (code, errors) = machine.run(&job, 0);
    assert_eq!((code, machine.calls("scontrol")), (1, vec![]), "{errors}");
    // The request may come before the ranks start.
    assert_eq!(machine.calls("srun").len(), 1);
    let (code, _) = machine.run(&job, 1);
    assert_eq!((code, machine.calls("srun").len()), (1, 1));
    // A request for an earlier job in the folder does not count.
    fs::write(job.dir.join("cancel"), "6 TERM\n").unwrap();
    let _ = machine.run(&job, 0);
    assert_eq!(machine.calls("srun").len(), 2);
}

#[test]
fn a_new_start_removes_what_the_last_one_left_and_continues_the_logs() {
    let machine = Machine::new();
    let job = machine.job(
        &json!({}),
        "echo start $SLURM_RESTART_COUNT; [ ! -e report.json ] && [ ! -e slurm.status ]",
        &[],
    );
    machine.write(&job);
    fs::write(job.dir.join("report.json"), r#"{"stopped": "SIGUSR1"}"#).unwrap();
    fs::write(job.dir.join("slurm.status"), "7 0 1\n").unwrap();
    fs::write(job.dir.join("logs/rank0.log"), "start\n").unwrap();
    let (code, errors) = machine.run(&job, 1);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(read(job.dir.join("logs/rank0.log")), "start\nstart 1\n");
    assert!(errors.starts_with("neva-run: start 2 of job 7, failures 0\n"), "{errors}");
}

/// Starts a job whose ranks wait for a signal, sends `signal` to its script, and returns its exit code.
fn signalled(machine: &Machine, settings: &Value, signal: Signal) -> (i32, String) {
    let ranks = "trap 'echo \"{\\\"stopped\\\": \\\"SIGUSR1\\\"}\" >report.json; exit 1' USR1 TERM\n\
                 touch ready.$SLURM_PROCID; for i in $(seq 300); do /bin/sleep 0.1; done";
    let job = machine.job(settings, ranks, &[]);
    let child = machine.start(&job, 0, &[]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !(job.dir.join("ready.0").exists() && job.dir.join("ready.1").exists()) {
        assert!(Instant::now() < deadline, "the ranks start in time");
        std::thread::yield_now();
    }
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
    if signal == Signal::TERM {
        // As Slurm does when a job is cancelled.
        for task in machine.calls("pids") {
            kill_process(Pid::from_raw(task.parse().unwrap()).unwrap(), signal).unwrap();
            // The rank is a child of the shell that waits for it.
            let children = read(format!("/proc/{task}/task/{task}/children"));
            for child in children.split_whitespace() {
                kill_process(Pid::from_raw(child.parse().unwrap()).unwrap(), signal).unwrap();
            }
        }
    }
    end(child)
}

#[test]
fn a_signal_to_the_script_is_passed_on_to_the_ranks() {
    let machine = Machine::new();
    // The stand-in signals the shells around the ranks, and these only continue: the ranks are their children.
    machine.program(
        "scancel",
        "#!/bin/bash\necho \"$*\" >>\"$CALLS/scancel\"\nfor task in $(cat \"$CALLS/pids\"); do pkill \"-${1#--signal=}\" -P \"$task\"; done\n",
    );
    let (code, errors) = signalled(&machine, &json!({"signal": "B:USR1@60"}), Signal::USR1);
    assert_eq!(machine.calls("scancel"), ["--signal=USR1 7"], "{errors}");
    assert_eq!((code, machine.calls("scontrol")), (1, vec!["requeue 7".to_owned()]), "{errors}");
}

#[test]
fn a_job_that_slurm_ends_waits_for_its_ranks_and_is_not_requeued() {
    let machine = Machine::new();
    let (code, errors) = signalled(&machine, &json!({"signal_s": 60, "retries": 2}), Signal::TERM);
    assert_eq!((code, machine.calls("scontrol")), (1, vec![]), "{errors}");
}

#[test]
fn progress_is_shown_in_the_comment_and_keeps_the_key() {
    let machine = Machine::new();
    let ranks = r#"[ $SLURM_PROCID = 0 ] || exit 0
echo '{"step": 4, "reduced_train_loss": 2.5, "lr": 1e-4}' >>metrics.jsonl
echo '{"step": 4, "val_loss": 7.5}' >>metrics.jsonl
for i in $(seq 600); do [ -s "$CALLS/scontrol" ] && exit 0; /bin/sleep 0.1; done; exit 1"#;
    let job = machine.job(&json!({"progress_interval_s": 1}), ranks, &[]);
    let (code, errors) = machine.run(&job, 0);
    assert_eq!(code, 0, "{errors}");
    let steps = tiny(Path::new("/x"), 1, 2).run.finetune.trainer.max_steps.unwrap();
    let expected = format!("update JobId=7 Comment=my comment neva-run:abc123 step 5 of {steps}, loss 2.5");
    assert_eq!(machine.calls("scontrol"), [expected]);
}

#[test]
fn a_module_that_cannot_be_loaded_ends_the_job() {
    let machine = Machine::new();
    let (code, errors) = machine.run(&machine.job(&json!({"modules": ["cuda/12.8", "missing"]}), "exit 0", &[]), 0);
    assert_eq!(machine.calls("module"), ["load cuda/12.8", "load missing"]);
    assert_eq!(code, 3);
    assert!(errors.contains("neva-run: cannot load the module missing"), "{errors}");
}

#[test]
fn setup_lines_and_the_path_of_libtorch_are_in_effect() {
    let machine = Machine::new();
    let settings = json!({"libtorch": "/opt/lib torch/", "setup_lines": "export FROM_SETUP=\"$LD_LIBRARY_PATH\""});
    let job = machine.job(&settings, "echo \"$FROM_SETUP\"", &[("LD_LIBRARY_PATH", "/own")]);
    assert_eq!(machine.run(&job, 0).0, 0);
    assert_eq!(read(job.dir.join("logs/rank0.log")), "/opt/lib torch/lib:/own\n");
}

#[test]
fn a_script_runs_in_its_folder_with_its_arguments() {
    let machine = Machine::new();
    let mut plan = script(&machine.path("task"), "echo \"$1 $STAGE $PWD\"; exit 7\n");
    plan.working_directory = machine.path("bin");
    let job = render_script(&config(&json!({"retries": 1})), &plan).unwrap();
    let (code, errors) = machine.run(&job, 0);
    assert_eq!(code, 7, "{errors}");
    assert_eq!(
        read(job.dir.join("logs/rank0.log")),
        format!("two words one {}\n", machine.path("bin").display())
    );
    // Every exit code but 0 is a failure of a script.
    assert_eq!(machine.calls("scontrol"), ["requeue 7"]);
}

#[test]
fn each_task_of_an_array_has_its_folder_and_variables() {
    let machine = Machine::new();
    let program = machine.program("rank", "#!/bin/bash\necho \"$3 $NEVA_TASK $SHARED\"; exit ${NEVA_TASK#task}\n");
    let root = machine.path("a sweep");
    let plans = ["task0", "task1"].map(|name| {
        let mut plan = tiny(&root.join(name), 1, 1);
        plan.env = [("NEVA_TASK", name), ("SHARED", "two words")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        plan
    });
    let job = render_array(
        &config(&json!({"retries": 1})),
        "sweep",
        &root,
        &[&plans[0], &plans[1]].map(Work::Ranks),
        None,
        &program,
    )
    .unwrap();
    for (task, code) in [(0, 0), (1, 1)] {
        let number = task.to_string();
        let env = [("SLURM_ARRAY_JOB_ID", "6"), ("SLURM_ARRAY_TASK_ID", number.as_str())];
        let (own, errors) = end(machine.start(&job, 0, &env));
        assert_eq!(own, code, "{errors}");
        let dir = root.join(format!("task{task}"));
        let expected = format!("{} task{task} two words\n", dir.join("plan.json").display());
        assert_eq!(read(dir.join("logs/rank0.log")), expected);
    }
    assert_eq!(read(root.join("task0/slurm.status")), "6 0 0\n");
    // The number of the task itself.
    assert_eq!(machine.calls("scontrol"), ["requeue 6_1"]);
    // What a task prints itself stands in its own folder.
    assert!(read(root.join("task1/logs/slurm.log")).contains("exit code 1 of job 6"));
}

/// Runs a group of a run and a script, with these texts.
fn group(machine: &Machine, settings: &Value, ranks: &str, text: &str) -> (i32, String) {
    let program = machine.program("rank", &format!("#!/bin/bash\n{ranks}\n"));
    let root = machine.path("group");
    let mut train = tiny(&root.join("train"), 1, 2);
    train.env = [("ROLE".to_owned(), "trainer".to_owned())].into();
    let mut serve = script(&root.join("serve"), text);
    serve.working_directory = machine.path("bin");
    let settings = config(settings);
    let tasks = [Work::Ranks(&train), Work::Script(&serve)].map(|work| GroupTask { config: &settings, work });
    machine.run(&render_group("pair", &root, &tasks, &program).unwrap(), 0)
}

#[test]
fn the_tasks_of_a_group_run_together() {
    let machine = Machine::new();
    // Each waits for the other.
    let meet = |own: &str, other: &str| {
        format!("touch \"$CALLS/{own}\"; for i in $(seq 600); do [ -e \"$CALLS/{other}\" ] && break; /bin/sleep 0.1; done; [ $i -lt 600 ]")
    };
    let (code, errors) = group(
        &machine,
        &json!({}),
        &format!("{}; echo \"$ROLE\"", meet("train", "serve")),
        &format!("{}; echo \"${{ROLE:-none}}\"", meet("serve", "train")),
    );
    assert_eq!(code, 0, "{errors}");
    let at = |file: &str| read(machine.path("group").join(file));
    assert_eq!(
        (at("train/logs/rank1.log"), at("serve/logs/rank0.log")),
        ("trainer\n".into(), "none\n".into())
    );
    assert_eq!(
        (at("train/slurm.status"), at("serve/slurm.status")),
        ("7 0 0\n".into(), "7 0 0\n".into())
    );
}

#[test]
fn a_failed_task_of_a_group_ends_the_others() {
    let machine = Machine::new();
    let endless = "for i in $(seq 600); do /bin/sleep 0.1; done";
    let settings = json!({"monitor_group_job_wait_time": 0, "retries": 1, "wait_time_for_group_job": 0});
    let (code, errors) = group(&machine, &settings, "exit 3", endless);
    assert_eq!(code, 3, "{errors}");
    let at = |file: &str| read(machine.path("group").join(file));
    assert_eq!(at("train/slurm.status"), "7 0 3\n");
    assert_ne!(at("serve/slurm.status"), "7 0 0\n");
    assert_eq!(machine.calls("scontrol"), ["requeue 7"]);
}

#[test]
fn a_requeued_group_starts_only_tasks_that_did_not_succeed() {
    let machine = Machine::new();
    let root = machine.path("group");
    fs::create_dir_all(root.join("train")).unwrap();
    fs::write(root.join("train/slurm.status"), "7 0 0\n").unwrap();
    let settings = config(&json!({"wait_time_for_group_job": 0}));
    let train = tiny(&root.join("train"), 1, 1);
    let mut serve = script(&root.join("serve"), "echo again");
    serve.working_directory = machine.path("bin");
    let tasks = [Work::Ranks(&train), Work::Script(&serve)].map(|work| GroupTask { config: &settings, work });
    let program = machine.program("rank", "#!/bin/bash\nexit 1\n");
    let (code, errors) = machine.run(&render_group("pair", &root, &tasks, &program).unwrap(), 1);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(read(root.join("train/slurm.status")), "7 1 0\n");
    assert_eq!(read(root.join("serve/logs/rank0.log")), "again\n");
}

#[test]
fn a_task_of_a_group_may_end_before_the_others() {
    let machine = Machine::new();
    let (code, errors) = group(&machine, &json!({"wait_time_for_group_job": 0}), "exit 0", "/bin/sleep 2; exit 0\n");
    assert_eq!(code, 0, "{errors}");
}
