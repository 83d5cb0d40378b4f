//! Nested calls, calls in lists and with commas; and texts that only look like calls.

use neva_recipes::neva_tiny;
use neva_run::{
    ResolveOptions, Resolved,
    config::{self, Factories, Problems, Source},
    resolve_with,
};
use neva_schemas::{CallbackConfig, EarlyStoppingConfig, LlavaModel, Model, TextConfig};
use serde::Deserialize;

/// Sizes as one list, and a text model that another factory may return.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sized {
    /// Width and depth.
    sizes: [usize; 2],
    #[serde(default)]
    text: TextConfig,
    #[serde(default)]
    vocab: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wide {
    by: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Early {
    patience: u64,
}

fn options() -> ResolveOptions {
    let factories = Factories::builtin()
        .with("Model", "sized", |sized: Sized| {
            let mut model: LlavaModel = neva_tiny::model();
            model.text_config = sized.text;
            [model.text_config.hidden_size, model.text_config.num_hidden_layers] = sized.sizes;
            model.text_config.vocab_size = sized.vocab.map_or(7, |vocab| vocab.len());
            Model::Llava(model)
        })
        .with("TextConfig", "wide", |wide: Wide| TextConfig {
            intermediate_size: 1000 * wide.by,
            ..TextConfig::default()
        })
        .with("Callback", "early", |early: Early| {
            CallbackConfig::EarlyStopping(EarlyStoppingConfig {
                patience: early.patience,
                ..EarlyStoppingConfig::default()
            })
        });
    ResolveOptions {
        factories,
        ..ResolveOptions::default()
    }
}

fn run(file: &str, sets: &[&str]) -> Result<Resolved, Problems> {
    let node = config::parse(&Source::new("run.yaml", format!("_factory_: neva_tiny\n{file}"))).unwrap();
    resolve_with(node, sets, &options())
}

fn resolved(file: &str, sets: &[&str]) -> Resolved {
    run(file, sets).unwrap_or_else(|error| panic!("{file:?} {sets:?}: {}", config::render(&error, false)))
}

#[test]
fn arguments_of_a_call_may_be_lists_and_calls() {
    // Width, depth, and the result of the nested call.
    for (file, set, expect) in [
        ("", "finetune.model=sized(sizes=[320,2])", [320, 2, 11008, 7]),
        ("", "finetune.model=sized(sizes=[320, 2], text=wide(by=3))", [320, 2, 3000, 7]),
        ("", "finetune.model=sized(text=wide(by=3),sizes=[320,2],)", [320, 2, 3000, 7]),
        (
            "",
            "finetune.model={_factory_: sized, sizes: [320, 2], text: wide(by=3)}",
            [320, 2, 3000, 7],
        ),
        (
            "",
            "finetune.model=sized(sizes=[320, 2], text={intermediate_size: 9, head_dim: 4})",
            [320, 2, 9, 7],
        ),
        // Text is expected: a name and a call are text.
        ("", "finetune.model=sized(sizes=[320, 2], vocab=wide)", [320, 2, 11008, 4]),
        ("", "finetune.model=sized(sizes=[320, 2], vocab='wide(by=3)')", [320, 2, 11008, 10]),
        ("", "finetune.model=sized(sizes=[320, 2], vocab=wide(by=3))", [320, 2, 11008, 10]),
        (
            "finetune:\n  model: sized(sizes=[320, 2], text=wide(by=3))\n",
            "name=x",
            [320, 2, 3000, 7],
        ),
        (
            "finetune: {model: \"sized(sizes=[320, 2], text=wide(by=3))\"}\n",
            "name=x",
            [320, 2, 3000, 7],
        ),
        (
            "finetune:\n  model: {_factory_: sized, sizes: [320, 2], text: {_factory_: wide, by: 3}}\n",
            "finetune.model.text_config.intermediate_size*=2",
            [320, 2, 6000, 7],
        ),
    ] {
        let text = resolved(file, &[set]).run.finetune.model.as_llava().unwrap().text_config.clone();
        let found = [text.hidden_size, text.num_hidden_layers, text.intermediate_size, text.vocab_size];
        assert_eq!(found, expect, "{file:?} {set}");
    }
}

#[test]
fn items_of_a_list_may_be_calls() {
    for (file, sets) in [
        (
            "",
            &["finetune.trainer.callbacks=[early(patience=3), nl.EarlyStopping(patience=4, min_delta=0.5)]"][..],
        ),
        (
            "",
            &["finetune.trainer.callbacks=[{_factory_: early, patience: 3}, nl.EarlyStopping(patience=4)]"],
        ),
        (
            "",
            &[
                "finetune.trainer.callbacks+=[early(patience=3)]",
                "finetune.trainer.callbacks[+]=early(patience=4)",
            ],
        ),
        (
            "",
            &[
                "finetune.trainer.callbacks=[early(patience=3), early(patience=3)]",
                "finetune.trainer.callbacks[1].patience+=1",
            ],
        ),
        (
            "finetune: {trainer: {callbacks: [early(patience=3), \"nl.EarlyStopping(mode=max, patience=4)\"]}}\n",
            &[],
        ),
        (
            "finetune:\n  trainer:\n    callbacks:\n    - early(patience=3)\n    - nl.EarlyStopping(mode=max, patience=4)\n",
            &[],
        ),
    ] {
        let callbacks = resolved(file, sets).run.finetune.trainer.callbacks;
        let patience = |callback: &CallbackConfig| match callback {
            CallbackConfig::EarlyStopping(early) => early.patience,
            CallbackConfig::Custom(own) => panic!("{own:?}"),
        };
        assert_eq!(callbacks.iter().map(patience).collect::<Vec<_>>(), [3, 4], "{file:?} {sets:?}");
    }
}

#[test]
fn a_mistake_in_an_inner_call_is_underlined() {
    let mistake = |file: &str, sets: &[&str]| config::render(&run(file, sets).unwrap_err(), false);
    insta::assert_snapshot!(mistake("", &["finetune.model=sized(sizes=[320, 2], text=wide(be=3))"]), @r#"
     × `finetune.model.text.be`: unknown field `be`
      ╭─[--set:1:48]
    1 │ finetune.model=sized(sizes=[320, 2], text=wide(be=3))
      ·                                                ─┬
      ·                                                 ╰── unknown field
      ╰────
     help: did you mean `by`? The fields here are `by`
    "#);
    insta::assert_snapshot!(mistake("", &["finetune.trainer.callbacks=[early(patience=soon)]"]), @r#"
     × `finetune.trainer.callbacks[0].patience`: expected an integer, found `soon`
      ╭─[--set:1:44]
    1 │ finetune.trainer.callbacks=[early(patience=soon)]
      ·                                            ──┬─
      ·                                              ╰── expected an integer
      ╰────
    "#);
    insta::assert_snapshot!(mistake("", &["finetune.trainer.callbacks=[eary(patience=3)]"]), @r#"
     × `finetune.trainer.callbacks[0]`: unknown name `eary`
      ╭─[--set:1:29]
    1 │ finetune.trainer.callbacks=[eary(patience=3)]
      ·                             ────────┬───────
      ·                                     ╰── unknown name
      ╰────
     help: did you mean `early`? The names here are `nl.EarlyStopping`, `my_crate::MyType`, `early`
    "#);
    insta::assert_snapshot!(mistake("finetune: {trainer: {callbacks: [nl.EarlyStopping(mode=max, patience=4)]}}\n", &[]), @r#"
     × `finetune.trainer.callbacks[0]`: `nl.EarlyStopping(mode=max` is an incomplete call
      ╭─[run.yaml:2:34]
    1 │ _factory_: neva_tiny
    2 │ finetune: {trainer: {callbacks: [nl.EarlyStopping(mode=max, patience=4)]}}
      ·                                  ────────────┬────────────
      ·                                              ╰── here
      ╰────
     help: write a call with commas in quotes here: `"name(a=1, b=2)"`
    "#);
}

#[test]
fn too_deeply_nested_calls_are_refused() {
    for depth in [66, 100_000] {
        let call = format!("finetune.model={}1{}", "sized(text=".repeat(depth), ")".repeat(depth));
        let error = run("", &[&call]).unwrap_err().to_string();
        assert!(error.ends_with("calls, lists and maps are nested too deeply here"), "{error}");
    }
}
