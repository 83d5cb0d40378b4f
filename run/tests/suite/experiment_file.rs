//! Experiment files: their resolution, and messages about invalid files.

use neva_run::{
    ResolvedExperiment,
    config::{self, Source},
    resolve_experiment,
};
use neva_schemas::{Dependency, ExecutorConfig, TaskSpec, When};

fn resolved(text: &str, sets: &[&str]) -> Result<ResolvedExperiment, String> {
    let file = config::parse(&Source::new("exp.yaml", text)).map_err(|error| config::render(&error, false))?;
    resolve_experiment(file, sets, None).map_err(|problems| config::render(&problems, false))
}

fn experiment(text: &str, sets: &[&str]) -> neva_schemas::ExperimentConfig {
    resolved(text, sets).unwrap_or_else(|error| panic!("{error}")).experiment
}

fn lr(work: &TaskSpec) -> f64 {
    match work {
        TaskSpec::Finetune(run) => match &run.finetune.optim {
            neva_schemas::Optim::AdamW(adam) => adam.lr,
            optim => panic!("{optim:?}"),
        },
        work => panic!("{work:?}"),
    }
}

const SWEPT: &str = "
name: lrs
max_parallel: 3
tasks:
  prepare:
    task: {_target_: run.Script, inline: echo hello}
  train:
    task:
      _factory_: neva_tiny
      finetune: {trainer: {max_steps: 4}, optim: {lr: 3e-3}}
    executor: {_target_: run.LocalExecutor, retries: 2}
    depends_on: [prepare]
    sweep: {over: {finetune.optim.lr: [1e-3, 2e-3]}}
  plot:
    task: {_target_: run.Script, path: plot.sh, args: [a, 1], env: {N: 4}}
    depends_on: [train, 'afterany:prepare']
  notify:
    task: {_target_: run.Script, inline: echo it failed}
    depends_on: [{task: train, when: afternotok}]
";

#[test]
fn a_sweep_expands_and_edges_follow_it() {
    let spec = experiment(SWEPT, &[]);
    assert_eq!((spec.name.as_str(), spec.max_parallel), ("lrs", Some(3)));
    let names: Vec<_> = spec.tasks.keys().map(String::as_str).collect();
    assert_eq!(names, ["prepare", "train-lr=1e-3", "train-lr=2e-3", "plot", "notify"]);
    for (name, expect) in [("train-lr=1e-3", 1e-3), ("train-lr=2e-3", 2e-3)] {
        let task = &spec.tasks[name];
        assert_eq!(lr(&task.task), expect);
        assert_eq!(task.executor.as_ref().map(ExecutorConfig::retries), Some(2));
        assert_eq!(task.depends_on, [Dependency::on("prepare")]);
    }
    let edges = |name: &str| spec.tasks[name].depends_on.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(edges("plot"), ["train-lr=1e-3", "train-lr=2e-3", "afterany:prepare"]);
    assert_eq!(edges("notify"), ["afternotok:train-lr=1e-3", "afternotok:train-lr=2e-3"]);
    let TaskSpec::Script(script) = &spec.tasks["plot"].task else {
        panic!()
    };
    assert_eq!(
        (script.args.as_slice(), script.env["N"].as_str()),
        (["a".to_owned(), "1".to_owned()].as_slice(), "4")
    );
}

#[test]
fn command_line_overrides_apply_to_recipes_before_a_sweep() {
    let spec = experiment(
        SWEPT,
        &[
            "name=other",
            "tasks.train.task.finetune.trainer.max_steps=9",
            "tasks.train.task.finetune.optim.lr=5",
            "tasks.train.task.peft_scheme=lora",
            "tasks.plot.task.args+=[last]",
            "~tasks.notify",
        ],
    );
    assert_eq!(spec.name, "other");
    assert!(!spec.tasks.contains_key("notify"));
    let TaskSpec::Finetune(run) = &spec.tasks["train-lr=2e-3"].task else {
        panic!()
    };
    assert_eq!((run.finetune.trainer.max_steps, run.finetune.peft.is_some()), (Some(9), true));
    // The sweep is applied last.
    assert_eq!(lr(&spec.tasks["train-lr=2e-3"].task), 2e-3);
    let TaskSpec::Script(script) = &spec.tasks["plot"].task else {
        panic!()
    };
    assert_eq!(script.args, ["a", "1", "last"]);
}

#[test]
fn a_sweep_of_a_script_changes_its_fields() {
    let spec = experiment(
        "tasks:\n  s:\n    task: {_target_: run.Script, inline: 'true', args: [x]}\n    sweep: {mode: zip, over: {'args[0]': [1, 2], entrypoint: [bash, sh]}}\n",
        &[],
    );
    let tasks: Vec<_> = spec.tasks.iter().map(|(name, task)| (name.as_str(), &task.task)).collect();
    let [(first, TaskSpec::Script(one)), (second, TaskSpec::Script(two))] = tasks.as_slice() else {
        panic!("{tasks:?}")
    };
    assert_eq!((*first, *second), ("s-args.0=1,entrypoint=bash", "s-args.0=2,entrypoint=sh"));
    assert_eq!((one.args[0].as_str(), two.entrypoint.as_str()), ("1", "sh"));
}

#[test]
fn a_recipe_may_be_a_separate_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("mine.yaml"),
        "_factory_: neva_tiny\nfinetune: {optim: {lr: 7e-3}}\n",
    )
    .unwrap();
    let path = dir.path().join("exp.yaml");
    let text = "tasks:\n  a: {task: {recipe: ./mine.yaml}}\n  b: {task: {recipe: ./mine.yaml, set: [finetune.optim.lr=8e-3]}}\n  c: {task: {recipe: neva_tiny}}\n";
    std::fs::write(&path, text).unwrap();
    let file = neva_run::load(path.to_str().unwrap()).unwrap();
    let sets = ["tasks.b.task.finetune.trainer.max_steps=3"];
    let spec = resolve_experiment(file, &sets, None).unwrap().experiment;
    let lrs: Vec<_> = spec.tasks.values().map(|task| lr(&task.task)).collect();
    assert_eq!(lrs, [7e-3, 8e-3, 2e-3]);
}

#[test]
fn groups_and_sequences_are_read() {
    let script = "{task: {_target_: run.Script, inline: 'true'}}";
    let text = format!(
        "groups: {{pair: [a, b]}}\ntasks:\n  a: {script}\n  b: {script}\n  c: {{task: {{_target_: run.Script, inline: 'true'}}, depends_on: [pair]}}\n"
    );
    let spec = experiment(&text, &[]);
    assert_eq!(spec.parents("c"), [("a", When::AfterOk), ("b", When::AfterOk)]);
    assert_eq!(spec.group_of("b"), Some("pair"));
    let spec = experiment(&format!("sequential: true\ntasks:\n  a: {script}\n  b: {script}\n"), &[]);
    assert_eq!(spec.parents("b"), [("a", When::AfterOk)]);
}

#[test]
fn problems_of_an_experiment_are_underlined() {
    let script = "{_target_: run.Script, inline: 'true'}";
    let cases = [
        ("tasks: []", "`tasks` is a map", "exp.yaml:1:8"),
        ("tasks: {}", "the experiment has no tasks", "exp.yaml:1:8"),
        ("tasks: {a: 1}", "a task is a map", "exp.yaml:1:12"),
        ("nane: x\ntasks: {}", "did you mean `name`?", "exp.yaml:1:1"),
        ("tasks:\n  a: {tesk: {}}", "did you mean `task`?", "exp.yaml:2:7"),
        (
            "tasks:\n  a: {task: {_target_: run.Skript}}",
            "did you mean `run.Script`?",
            "exp.yaml:2:24",
        ),
        (
            "tasks:\n  a: {task: {_target_: run.Script, inline: x, arg: [b]}}",
            "did you mean `args`?",
            "exp.yaml:2:47",
        ),
        (
            "tasks:\n  a: {task: {_factory_: neva_tony}}",
            "did you mean `neva_tiny`?",
            "exp.yaml:2:25",
        ),
        (
            "tasks:\n  a: {task: {_factory_: neva_tiny, finetune: {optim: {lrr: 1}}}}",
            "did you mean `lr`?",
            "exp.yaml:2:55",
        ),
        (
            "tasks:\n  a: {task: SCRIPT, depends_on: [b]}",
            "there is no task `b`",
            "exp.yaml:2:",
        ),
        (
            "tasks:\n  a: {task: SCRIPT, depends_on: ['afterok:b']}",
            "there is no task `b`",
            "exp.yaml:2:",
        ),
        (
            "tasks:\n  a: {task: SCRIPT, depends_on: ['aftrany:b']}",
            "did you mean `afterany`?",
            "exp.yaml:2:",
        ),
        (
            "tasks:\n  a: {task: SCRIPT, executor: locl}",
            "did you mean `local`?",
            "exp.yaml:2:",
        ),
        ("tasks:\n  a: {task: SCRIPT, sweep: {}}", "`over` is missing", "exp.yaml:2:"),
        (
            "tasks:\n  a: {task: SCRIPT, sweep: {over: {inline: x}}}",
            "the values of a path are a list",
            "exp.yaml:2:",
        ),
        (
            "tasks:\n  a: {task: SCRIPT, sweep: {over: {inline: [x], args: [1]}, mode: zap}}",
            "`zip`",
            "exp.yaml:2:",
        ),
        (
            "tasks:\n  a: {task: SCRIPT, sweep: {over: {intine: [x]}}}",
            "did you mean `inline`?",
            "exp.yaml:2:",
        ),
        (
            "tasks:\n  a: {task: {_factory_: neva_tiny}, sweep: {over: {finetune.optim.lrr: [1]}}}",
            "did you mean `lr`?",
            "exp.yaml:2:52",
        ),
        (
            "tasks:\n  a: {task: {_factory_: neva_tiny}, sweep: {over: {finetune.optim.lr: [1, fast]}}}",
            "`fast`",
            "exp.yaml:2:75",
        ),
        (
            "groups: {g: [x]}\ntasks:\n  a: {task: SCRIPT}",
            "there is no task `x`",
            "exp.yaml:1:14",
        ),
        (
            "groups: {a: [a]}\ntasks:\n  a: {task: SCRIPT}",
            "`a` is also the name of a task",
            "exp.yaml:1:",
        ),
        (
            "groups: {g: [a], h: [a]}\ntasks:\n  a: {task: SCRIPT}",
            "`a` is already in the group `g`",
            "exp.yaml:1:",
        ),
        (
            "sequential: true\ngroups: {g: [a, b]}\ntasks:\n  a: {task: SCRIPT}\n  b: {task: SCRIPT}",
            "a group starts together",
            "exp.yaml:2:",
        ),
        (
            "tasks:\n  a: {task: SCRIPT, depends_on: [b]}\n  b: {task: SCRIPT, depends_on: [a]}",
            "these tasks wait for each other: `a` for `b` for `a`",
            "exp.yaml:2:",
        ),
        (
            "groups: {g: [a, b]}\ntasks:\n  a: {task: SCRIPT}\n  b: {task: SCRIPT, depends_on: [a]}",
            "wait for each other",
            "exp.yaml:",
        ),
    ];
    for (text, expect, place) in cases {
        let error = resolved(&text.replace("SCRIPT", script), &[]).unwrap_err();
        let words = error.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(words.contains(expect), "{text}\n{expect}\n{error}");
        assert!(error.contains(place), "{text}\n{place}\n{error}");
    }
}

#[test]
fn the_problems_of_all_tasks_are_reported_together() {
    let error = resolved(
        "tasks:\n  a: {task: {_factory_: neva_tiny, finetune: {optim: {lrr: 1}}}}\n  b: {task: {_target_: run.Skript}}\n",
        &[],
    )
    .unwrap_err();
    assert!(error.contains("lrr") && error.contains("run.Skript"), "{error}");
}

#[test]
fn a_shell_variable_in_a_script_is_kept() {
    let spec = experiment(
        "tasks:\n  a: {task: {_target_: run.Script, inline: 'echo ${HOME} neva_tiny'}}\n",
        &[],
    );
    let TaskSpec::Script(script) = &spec.tasks["a"].task else {
        panic!()
    };
    assert_eq!(script.inline.as_deref(), Some("echo ${HOME} neva_tiny"));
}
