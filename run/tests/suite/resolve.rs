//! Precedence, and reports of mistakes.

use neva_run::{
    config::{self, Source},
    resolve,
};
use neva_schemas::{Data, Peft, PeftScheme, Run};

fn resolved(text: &str, sets: &[&str]) -> Run {
    let node = config::parse(&Source::new("run.yaml", text)).expect("YAML");
    resolve(node, sets)
        .unwrap_or_else(|error| panic!("{}", config::render(&error, false)))
        .run
}

fn mistake(text: &str, sets: &[&str]) -> String {
    let node = config::parse(&Source::new("run.yaml", text)).expect("YAML");
    config::render(&resolve(node, sets).expect_err("a mistake"), false)
}

fn tp(run: &Run) -> u32 {
    run.finetune.trainer.strategy.tensor_model_parallel_size
}

fn lr(run: &Run) -> f64 {
    *run.finetune.optim.lr()
}

#[test]
fn arguments_are_evaluated_first_wherever_they_are_written() {
    let full = resolved("_factory_: llava15_7b\npeft_scheme: none", &[]);
    assert_eq!((tp(&full), lr(&full), &full.finetune.peft), (2, 2e-5, &None));
    // The argument set last, after an override of the graph.
    let lora = resolved(
        "_factory_: llava15_7b\npeft_scheme: none",
        &["finetune.trainer.max_steps=9", "peft_scheme=lora"],
    );
    assert_eq!(
        (tp(&lora), lr(&lora), lora.peft_scheme, lora.finetune.trainer.max_steps),
        (1, 1e-4, PeftScheme::Lora, Some(9))
    );
    let Some(Peft::LoRA(adapters)) = &lora.finetune.peft else {
        panic!("adapters")
    };
    assert_eq!(adapters.dim, 32);
}

#[test]
fn the_graph_is_overridden_by_the_file_and_then_by_set_in_order() {
    let text = "_factory_: llava15_7b\nfinetune:\n  trainer: {strategy: {tensor_model_parallel_size: 4}}\n  optim: {lr: 1e-3}\n";
    let file = resolved(text, &["peft_scheme=none"]);
    assert_eq!(
        (tp(&file), lr(&file)),
        (4, 1e-3),
        "explicit overrides win over what the scheme changes"
    );
    assert_eq!(
        file.finetune.optim.adamw().map(|adamw| adamw.eps),
        Some(1e-5),
        "what is not overridden stays"
    );
    let set = resolved(text, &["finetune.optim.lr=1", "finetune.optim.lr=3e-3", "finetune.optim.lr*=2"]);
    assert_eq!((tp(&set), lr(&set)), (4, 6e-3));
}

#[test]
fn arguments_reach_the_graph() {
    let run = resolved(
        "_factory_: llava15_7b",
        &["num_nodes=2", "num_gpus_per_node=4", "name=1.10", "dir=/runs"],
    );
    let trainer = &run.finetune.trainer;
    assert_eq!((trainer.num_nodes, trainer.devices), (2, 4));
    assert_eq!(
        (run.finetune.log.name.as_str(), run.finetune.log.log_dir.as_deref()),
        ("1.10", Some("/runs".as_ref()))
    );
    assert_eq!((run.num_nodes, run.num_gpus_per_node, run.name.as_str()), (2, 4, "1.10"));
}

#[test]
fn another_target_replaces_and_a_section_of_comments_overrides_nothing() {
    let run = resolved(
        "_factory_: neva_tiny\nfinetune:\n  data:\n    _target_: vlm.NevaPreloadedDataModule\n    paths: a.json\n",
        &[],
    );
    let Data::Preloaded(data) = &run.finetune.data else {
        panic!("preloaded data")
    };
    assert_eq!(
        (data.seq_length, data.paths.as_slice()),
        (2048, ["a.json".into()].as_slice()),
        "defaults of the type, not of the recipe's mock data"
    );
    assert_eq!(
        resolved("_factory_: neva_tiny\nfinetune:\n  # all comments\n", &[]),
        resolved("_factory_: neva_tiny", &[])
    );
    assert_eq!(resolved("_factory_: llava15_7b", &["~finetune.peft"]).finetune.peft, None);
    assert_eq!(resolved("_factory_: llava15_7b", &["finetune.peft=null"]).finetune.peft, None);
}

#[test]
fn unknown_names_get_suggestions() {
    insta::assert_snapshot!(mistake("name: x\n_factory_: lava15_7b\n", &[]), @r#"
     × `_factory_`: unknown name `lava15_7b`
      ╭─[run.yaml:2:12]
    1 │ name: x
    2 │ _factory_: lava15_7b
      ·            ────┬────
      ·                ╰── unknown name
      ╰────
     help: did you mean `llava15_7b`? The names here are `llava15_7b`, `llava15_13b`, `llava15_11b`,
           `llava15_7b_pretrain`, `neva_llama3_8b`, `neva_tiny`
    "#);
    insta::assert_snapshot!(mistake("name: x\n", &[]), @r#"
     × `_factory_`: the file names no recipe
      ╭─[run.yaml:1:1]
    1 │ name: x
      · ──┬─
      ·   ╰── here
      ╰────
     help: add `_factory_:` with one of llava15_7b, llava15_13b, llava15_11b, llava15_7b_pretrain,
           neva_llama3_8b, neva_tiny
    "#);
    insta::assert_snapshot!(mistake("_factory_: neva_tiny\nnum_gpu_per_node: 2\n", &[]), @r#"
     × `num_gpu_per_node`: unknown field `num_gpu_per_node`
      ╭─[run.yaml:2:1]
    1 │ _factory_: neva_tiny
    2 │ num_gpu_per_node: 2
      · ────────┬───────
      ·         ╰── unknown field
      ╰────
     help: did you mean `num_gpus_per_node`? The fields here are `dir`, `name`, `num_nodes`,
           `num_gpus_per_node`, `peft_scheme`, `nemo_compat`, `finetune`
    "#);
    insta::assert_snapshot!(mistake("_factory_: neva_tiny\ntrainer:\n  max_steps: 5\n", &[]), @r#"
     × `trainer`: `trainer` is not an argument of the recipe
      ╭─[run.yaml:2:1]
    1 │ _factory_: neva_tiny
    2 │ trainer:
      · ───┬───
      ·    ╰── here
    3 │   max_steps: 5
      ╰────
     help: it is part of the graph: write it under `finetune`, or `--set finetune.trainer...`
    "#);
    insta::assert_snapshot!(mistake("_factory_: neva_tiny\n", &["finetune.optim.lrr=1"]), @r#"
     × `finetune.optim.lrr`: unknown field `lrr`
      ╭─[--set:1:16]
    1 │ finetune.optim.lrr=1
      ·                ─┬─
      ·                 ╰── unknown field
      ╰────
     help: did you mean `lr`? The fields here are `lr`, `weight_decay`, `betas`, `eps`, `clip_grad`,
           `mm_projector_lr`, `param_groups`, `lr_scheduler`
    "#);
    insta::assert_snapshot!(mistake("_factory_: neva_tiny\npeft_scheme: dora\n", &[]), @r#"
     × `peft_scheme`: unknown name `dora`
      ╭─[run.yaml:2:14]
    1 │ _factory_: neva_tiny
    2 │ peft_scheme: dora
      ·              ──┬─
      ·                ╰── unknown name
      ╰────
     help: did you mean `lora`? The names here are `lora`, `none`
    "#);
    insta::assert_snapshot!(mistake("- neva_tiny\n", &[]), @r#"
     × a recipe file is a map: `_factory_`, arguments, `finetune`
      ╭─[run.yaml:1:3]
    1 │ - neva_tiny
      ·   ────┬────
      ·       ╰── here
      ╰────
    "#);
}

#[test]
fn all_problems_of_values_are_reported_at_once_at_their_origins() {
    let text = "_factory_: llava15_7b\nname: a/b\nfinetune:\n  data:\n    global_batch_size: 30\n  optim:\n    lr: -1\n";
    insta::assert_snapshot!(mistake(text, &["finetune.trainer.max_steps=0"]), @r#"
     × `finetune.trainer.max_steps`: `max_steps` is 0, it must be at least 1
      ╭─[--set:1:28]
    1 │ finetune.trainer.max_steps=0
      ·                            ┬
      ·                            ╰── here
      ╰────

     × `finetune.optim.lr`: `lr` is -1.0, it must be at least 0 and finite
      ╭─[run.yaml:7:9]
    6 │   optim:
    7 │     lr: -1
      ·         ─┬
      ·          ╰── here
      ╰────

     × `finetune.log.name`: the name "a/b" is used as a folder name and must not contain '/': use
     │ letters, digits and - _ . = + @ ,
      ╭─[run.yaml:2:7]
    1 │ _factory_: llava15_7b
    2 │ name: a/b
      ·       ─┬─
      ·        ╰── here
    3 │ finetune:
      ╰────

     × `finetune.data.global_batch_size`: `global_batch_size` 30 is not a multiple of
     │ micro_batch_size x data-parallel ranks = 2 x 8 = 16
      ╭─[run.yaml:5:24]
    4 │   data:
    5 │     global_batch_size: 30
      ·                        ─┬
      ·                         ╰── here
    6 │   optim:
      ╰────
     help: nearest that fits: 32
    "#);
}

#[test]
fn a_problem_of_a_recipe_value_is_named_by_its_path() {
    insta::assert_snapshot!(mistake("_factory_: llava15_7b", &["peft_scheme=none", "num_gpus_per_node=3"]), @r#"
    × `finetune.trainer.strategy`: 3 ranks (1 nodes x 3 devices) are not a multiple of tensor x
    │ context x pipeline = 2 x 1 x 1 = 2 (set by recipe llava15_7b)
    help: use a multiple of 2 ranks, the nearest: 2 devices; or smaller parallel sizes
    "#);
    insta::assert_snapshot!(mistake("_factory_: neva_tiny", &["num_nodes=0", "name=\"\"", "dir="]), @r#"
     × `name`: the name is empty
      ╭─[--set:1:6]
    1 │ name=""
      ·      ─┬
      ·       ╰── here
      ╰────

     × `num_nodes`: `num_nodes` is 0, it must be at least 1
      ╭─[--set:1:11]
    1 │ num_nodes=0
      ·           ┬
      ·           ╰── here
      ╰────

     × `dir`: `dir` is empty
      ╭─[--set:1:5]
    1 │ dir=
      ╰────
     help: name a folder, `.` for the working folder, or null for the default
    "#);
}

#[test]
fn all_overrides_that_cannot_be_parsed_are_reported() {
    insta::assert_snapshot!(mistake("_factory_: neva_tiny", &["peft_scheme", "finetune.optim.betas[2]=1", "finetune.[=1"]), @r#"
     × `=` is missing: write `path=value`, or `~path` to delete
      ╭─[--set:1:1]
    1 │ peft_scheme
      · ─────┬─────
      ·      ╰── here
      ╰────

     × a name is missing here
      ╭─[--set:1:10]
    1 │ finetune.[=1
      ·          ┬
      ·          ╰── here
      ╰────
    "#);
}
