//! `${path}` and `${env:NAME}`, as a whole value and inside text.

use neva_run::{
    ResolveOptions,
    config::{self, Source},
    resolve_with,
};

fn options() -> ResolveOptions {
    ResolveOptions {
        variable: |name| match name {
            "STEPS" => Some("7".to_owned()),
            "EMPTY" => Some(String::new()),
            "RUN" => Some("${name}".to_owned()),
            _ => None,
        },
        ..ResolveOptions::default()
    }
}

fn resolved(text: &str, sets: &[&str]) -> Result<config::Node, config::Problems> {
    let node = config::parse(&Source::new("run.yaml", format!("_factory_: llava15_7b\n{text}"))).unwrap();
    Ok(resolve_with(node, sets, &options())?.traced()?)
}

fn mistake(text: &str, sets: &[&str]) -> String {
    config::render(&resolved(text, sets).expect_err("a mistake"), false)
}

#[test]
fn references_are_followed() {
    for (text, sets, path, expect) in [
        // A whole value keeps its type, and may refer to an argument, a recipe's value or an override.
        (
            "finetune: {trainer: {max_steps: '${num_gpus_per_node}'}}",
            &[][..],
            "finetune.trainer.max_steps",
            "8",
        ),
        (
            "finetune: {trainer: {max_steps: '${num_gpus_per_node}'}}",
            &["num_gpus_per_node=2"],
            "finetune.trainer.max_steps",
            "2",
        ),
        (
            "",
            &["finetune.trainer.max_steps=${finetune.data.seq_length}"],
            "finetune.trainer.max_steps",
            "4096",
        ),
        (
            "",
            &["finetune.optim.betas=${finetune.optim.betas}", "finetune.optim.betas=[0.5, 0.6]"],
            "finetune.optim.betas",
            "[0.5, 0.6]",
        ),
        (
            "finetune:\n  optim:\n    lr_scheduler: {warmup_steps: '${finetune.trainer.max_steps}'}\n",
            &["finetune.trainer.max_steps=9"],
            "finetune.optim.lr_scheduler.warmup_steps",
            "9",
        ),
        // Through another reference, and into its result.
        (
            "",
            &[
                "finetune.trainer.max_steps=${num_nodes}",
                "finetune.log.name=s${finetune.trainer.max_steps}",
            ],
            "finetune.log.name",
            "s1",
        ),
        // Inside text.
        ("name: 'n${num_nodes}-g${num_gpus_per_node}'", &[], "finetune.log.name", "n1-g8"),
        ("name: ${peft_scheme}", &[], "name", "lora"),
        // The escape.
        ("dir: '/x/$${name}'", &[], "dir", "\"/x/${name}\""),
        ("dir: '/x/$$$${name}'", &[], "dir", "\"/x/$${name}\""),
        ("name: 'x'\ndir: '/$$${name}'", &[], "dir", "\"/$x\""),
        ("name: 'x'\ndir: '/$$$$${name}$${name}'", &[], "dir", "\"/$$x${name}\""),
        // The result is text everywhere: in the graph, and through another reference.
        ("dir: '/x/$${name}'", &[], "finetune.log.log_dir", "\"/x/${name}\""),
        (
            "name: 'x'\ndir: '/$$${name}$${name}'",
            &[],
            "finetune.log.log_dir",
            "\"/$x${name}\"",
        ),
        ("_env_: [RUN]\ndir: '${env:RUN}'", &[], "finetune.log.log_dir", "\"${name}\""),
        (
            "dir: '$${x}'\nfinetune: {resume: {adapter_path: '${dir}-$${y}'}}",
            &[],
            "finetune.resume.adapter_path",
            "\"${x}-${y}\"",
        ),
        (
            "finetune: {log: {log_dir: '$${x}'}, resume: {adapter_path: '${finetune.log.log_dir}'}}",
            &["finetune.log.log_dir=$${z}"],
            "finetune.resume.adapter_path",
            "\"${z}\"",
        ),
        // A `$` not before `{` stays.
        ("dir: '/x/$name{}'", &[], "dir", "\"/x/$name{}\""),
        ("name: 'x'\ndir: '/$$a/${name}$$'", &[], "dir", "\"/$$a/x$$\""),
        // An operator computes with the present value of a reference.
        (
            "finetune: {trainer: {max_steps: '${num_gpus_per_node}'}}",
            &["finetune.trainer.max_steps*=2"],
            "finetune.trainer.max_steps",
            "16",
        ),
        (
            "num_nodes: '${num_gpus_per_node}'\nnum_gpus_per_node: 4",
            &["num_nodes/=2"],
            "num_nodes",
            "2",
        ),
        // The environment, if the file or the command line lists the variable.
        (
            "_env_: [STEPS]\nfinetune: {trainer: {max_steps: '${env:STEPS}'}}",
            &[],
            "finetune.trainer.max_steps",
            "7",
        ),
        ("name: 'run-${env:STEPS}'", &["_env_+=[STEPS]"], "name", "run-7"),
        ("_env_: [GONE]\ndir: 'run-${env:GONE:a:b}'", &[], "dir", "\"run-a:b\""),
        (
            "_env_: [GONE]\nfinetune: {trainer: {max_steps: '${env:GONE:3}'}}",
            &[],
            "finetune.trainer.max_steps",
            "3",
        ),
        // The value of a variable is not searched for references.
        ("_env_: [RUN]\ndir: '${env:RUN}'", &[], "dir", "\"${name}\""),
        ("_env_: [EMPTY]\nname: 'x${env:EMPTY}'", &[], "name", "x"),
    ] {
        let node = resolved(text, sets).unwrap_or_else(|error| panic!("{text:?} {sets:?}: {}", config::render(&error, false)));
        let states = config::history(&node, path);
        assert_eq!(
            states.last().and_then(|step| step.value.clone()).as_deref(),
            Some(expect),
            "{text:?} {sets:?}"
        );
    }
}

#[test]
fn references_to_missing_values() {
    insta::assert_snapshot!(mistake("name: run-${num_node}", &[]), @r#"
     × `name`: unknown field `num_node`
      ╭─[run.yaml:2:11]
    1 │ _factory_: llava15_7b
    2 │ name: run-${num_node}
      ·           ─────┬─────
      ·                ╰── unknown field
      ╰────
     help: did you mean `num_nodes`? The fields here are `dir`, `name`, `num_nodes`,
           `num_gpus_per_node`, `peft_scheme`, `nemo_compat`
    "#);
    insta::assert_snapshot!(mistake("name: ${finetune.log.name}\nfinetune: {}", &[]), @r#"
     × `name`: an argument of the recipe cannot refer to the graph
      ╭─[run.yaml:2:7]
    1 │ _factory_: llava15_7b
    2 │ name: ${finetune.log.name}
      ·       ──────────┬─────────
      ·                 ╰── here
    3 │ finetune: {}
      ╰────
     help: the recipe derives the graph from its arguments: let a value of the graph refer to the
           argument
    "#);
    insta::assert_snapshot!(mistake("name: run-${USER}", &[]), @r#"
     × `name`: there is no value at `USER`
      ╭─[run.yaml:2:11]
    1 │ _factory_: llava15_7b
    2 │ name: run-${USER}
      ·           ───┬───
      ·              ╰── here
      ╰────
     help: write an environment variable as `${env:USER}`, and the text itself as `$${USER}`
    "#);
    insta::assert_snapshot!(mistake("name: run-${num_nodes", &[]), @r#"
     × `name`: `}` is missing
      ╭─[run.yaml:2:11]
    1 │ _factory_: llava15_7b
    2 │ name: run-${num_nodes
      ·           ─────┬─────
      ·                ╰── here
      ╰────
     help: write the text `${` itself as `$${`
    "#);
    insta::assert_snapshot!(mistake("finetune:\n  optim: {lr: '${finetune.optim.eps}', eps: '${finetune.optim.weight_decay}', weight_decay: '${finetune.optim.lr}'}\n", &[]), @r#"
     × `finetune.optim.lr`: these references form a cycle: finetune.optim.eps (run.yaml:3:16) ->
     │ finetune.optim.weight_decay (run.yaml:3:46) -> finetune.optim.lr (run.yaml:3:94) ->
     │ finetune.optim.eps (run.yaml:3:16)
      ╭─[run.yaml:3:16]
    2 │ finetune:
    3 │   optim: {lr: '${finetune.optim.eps}', eps: '${finetune.optim.weight_decay}', weight_decay: '${finetune.optim.lr}'}
      ·                ──────────┬──────────
      ·                          ╰── here
      ╰────
     help: replace one of these references by a value
    "#);
    insta::assert_snapshot!(mistake("", &["finetune.optim.lr=x${finetune.data}"]), @r#"
     × `finetune.optim.lr`: a map cannot be part of a text
      ╭─[--set:1:20]
    1 │ finetune.optim.lr=x${finetune.data}
      ·                    ────────┬───────
      ·                            ╰── here
      ╰────
     help: let the reference be the whole value
    "#);
    insta::assert_snapshot!(mistake("", &["finetune.optim.lr=${finetune.log.name}"]), @r#"
     × `finetune.optim.lr`: expected a number, found the text "default"
      ╭─[--set:1:19]
    1 │ finetune.optim.lr=${finetune.log.name}
      ·                   ──────────┬─────────
      ·                             ╰── expected a number
      ╰────
    "#);
}

#[test]
fn variables_that_are_refused() {
    insta::assert_snapshot!(mistake("name: run-${env:STEPS}", &[]), @r#"
     × `name`: this configuration does not list the environment variable `STEPS`
      ╭─[run.yaml:2:11]
    1 │ _factory_: llava15_7b
    2 │ name: run-${env:STEPS}
      ·           ──────┬─────
      ·                 ╰── here
      ╰────
     help: add `_env_: [STEPS]` at the top of the file, or `--set '_env_+=[STEPS]'`
    "#);
    insta::assert_snapshot!(mistake("_env_: [GONE]\nname: run-${env:GONE}", &[]), @r#"
     × `name`: `GONE` is not set in the environment
      ╭─[run.yaml:3:11]
    2 │ _env_: [GONE]
    3 │ name: run-${env:GONE}
      ·           ─────┬─────
      ·                ╰── here
      ╰────
     help: set it, or write a default: `${env:GONE:...}`
    "#);
    insta::assert_snapshot!(mistake("_env_: [HF_TOKEN]\nname: run-${env:HF_TOKEN}", &[]), @r#"
     × `name`: `HF_TOKEN` looks like a secret, and would be written into the records of the run
      ╭─[run.yaml:3:11]
    2 │ _env_: [HF_TOKEN]
    3 │ name: run-${env:HF_TOKEN}
      ·           ───────┬───────
      ·                  ╰── here
      ╰────
     help: the engine's libraries and the executors read secrets from the environment themselves
    "#);
    insta::assert_snapshot!(mistake("name: run-${env:a b}", &[]), @r#"
     × `name`: `a b` is not the name of a variable
      ╭─[run.yaml:2:11]
    1 │ _factory_: llava15_7b
    2 │ name: run-${env:a b}
      ·           ─────┬────
      ·                ╰── here
      ╰────
    "#);
}

/// A few lines whose references would exceed any memory.
#[test]
fn references_that_would_exhaust_memory_are_refused() {
    let laughs = |first: &str, times: &str| {
        let lines = (1..40).map(|i| {
            format!(
                "    a{i}: {}\n",
                times.replace('#', &format!("${{finetune.trainer.callbacks[0].a{}}}", i - 1))
            )
        });
        format!(
            "finetune:\n trainer:\n  callbacks:\n  - _target_: x::Y\n    a0: {first}\n{}",
            lines.collect::<String>()
        )
    };
    for text in [laughs("ha", "\"##\""), laughs("[ha, ha]", "[\"#\", \"#\"]")] {
        let error = resolved(&text, &[]).unwrap_err();
        let first = error.errors()[0].problem.to_string();
        assert_eq!(first, "too large: references may add 100000 values and 1048576 bytes of text");
    }
    let chain: String = (1..200)
        .map(|i| format!("    a{i}: ${{finetune.trainer.callbacks[0].a{}}}\n", i - 1))
        .collect();
    let text = format!("finetune:\n trainer:\n  callbacks:\n  - _target_: x::Y\n    a0: 1\n{chain}");
    let error = resolved(&text, &[]).unwrap_err();
    assert_eq!(
        error.errors()[0].problem.to_string(),
        "more than 64 references refer to each other in a chain"
    );
}
