//! Syntax of `--set`, on a real recipe.

use neva_run::{
    config::{self, Node, Source},
    resolve,
};

/// A recipe with lists of maps, maps, text and numbers of all kinds.
const RECIPE: &str = "\
_factory_: llava15_7b
finetune:
  data:
    _target_: vlm.NevaPreloadedDataModule
    paths: [a.json, b.json]
    global_batch_size: 32
  trainer:
    callbacks:
    - _target_: my_crate::Log
      every: 5
      tags: {a: 1}
";

fn parse(text: &str) -> Node {
    config::parse(&Source::new("run.yaml", text)).unwrap()
}

/// Returns the value at `path` after `sets`, on one line.
#[track_caller]
fn value(sets: &[&str], path: &str) -> String {
    let resolved = resolve(parse(RECIPE), sets).unwrap_or_else(|error| panic!("{sets:?}: {}", config::render(&error, false)));
    let states = config::history(&resolved.traced().unwrap(), path);
    let last = states.last().unwrap_or_else(|| panic!("there is no {path}"));
    last.value.clone().unwrap()
}

#[test]
fn overrides_are_applied() {
    for (sets, path, expect) in [
        // Numbers in all spellings.
        (&["finetune.trainer.max_steps=1_000"][..], "finetune.trainer.max_steps", "1000"),
        (&["finetune.optim.lr=1e-4"], "finetune.optim.lr", "0.0001"),
        (&["finetune.optim.lr=1"], "finetune.optim.lr", "1.0"),
        // Operators use the present value.
        (&["finetune.trainer.max_steps+=10"], "finetune.trainer.max_steps", "5200"),
        (
            &[
                "finetune.trainer.max_steps=5",
                "finetune.trainer.max_steps+=2",
                "finetune.trainer.max_steps*=3",
            ],
            "finetune.trainer.max_steps",
            "21",
        ),
        (&["finetune.trainer.max_steps-=190"], "finetune.trainer.max_steps", "5000"),
        (&["finetune.trainer.max_steps/=10"], "finetune.trainer.max_steps", "519"),
        (&["finetune.optim.lr/=4"], "finetune.optim.lr", "2.5e-5"),
        (&["peft_scheme=none", "finetune.optim.lr*=2"], "finetune.optim.lr", "4e-5"),
        // Operators on an argument start from its default, and the recipe derives from the result.
        (&["num_gpus_per_node/=2"], "finetune.trainer.devices", "4"),
        (&["num_gpus_per_node-=4"], "num_gpus_per_node", "4"),
        (&["num_gpus_per_node-=6", "num_gpus_per_node+=2"], "num_gpus_per_node", "4"),
        (&["num_gpus_per_node/=4", "num_nodes*=4"], "finetune.trainer.num_nodes", "4"),
        (&["num_gpus_per_node=1", "num_nodes=8", "num_nodes/=2"], "num_nodes", "4"),
        (
            &["num_gpus_per_node/=2", "num_nodes+=1", "finetune.trainer.num_nodes+=0"],
            "finetune.trainer.num_nodes",
            "2",
        ),
        // Arguments: the scheme, not null; a text that looks like a number.
        (&["peft_scheme=none"], "peft_scheme", "none"),
        (&["peft_scheme=none"], "finetune.peft", "null"),
        (&["name=1.10"], "finetune.log.name", "\"1.10\""),
        // Lists.
        (&["finetune.data.paths[0]=c.json"], "finetune.data.paths", "[c.json, b.json]"),
        (
            &["finetune.data.paths+=[c.json, d.json]"],
            "finetune.data.paths",
            "[a.json, b.json, c.json, d.json]",
        ),
        (&["finetune.data.paths+=c.json"], "finetune.data.paths", "[a.json, b.json, c.json]"),
        (
            &["finetune.data.paths[+]=c.json"],
            "finetune.data.paths",
            "[a.json, b.json, c.json]",
        ),
        (&["~finetune.data.paths[0]"], "finetune.data.paths", "[b.json]"),
        (
            &["~finetune.data.paths", "finetune.data.paths+=[c.json]"],
            "finetune.data.paths",
            "[c.json]",
        ),
        (&["finetune.optim.betas[0]=.5"], "finetune.optim.betas", "[0.5, 0.95]"),
        // Maps: a dotted path adds a key, and the others stay.
        (
            &["finetune.trainer.callbacks[0].tags.b=2"],
            "finetune.trainer.callbacks[0].tags.b",
            "2",
        ),
        (
            &["finetune.trainer.callbacks[0].tags.b=2"],
            "finetune.trainer.callbacks[0].tags.a",
            "1",
        ),
        (
            &["finetune.trainer.callbacks[0].tags|={b: 2}"],
            "finetune.trainer.callbacks[0].tags.a",
            "1",
        ),
        (
            &["finetune.trainer.callbacks[0].tags|={~a: null, b: 2}"],
            "finetune.trainer.callbacks[0].tags.b",
            "2",
        ),
        (
            &["finetune.trainer.callbacks[0].runtime=5"],
            "finetune.trainer.callbacks[0].runtime",
            "5",
        ),
        // Optional values.
        (
            &["finetune.trainer.max_steps=null", "finetune.trainer.max_epochs=1"],
            "finetune.trainer.max_steps",
            "null",
        ),
        (&["dir=/runs/x=1,2"], "dir", "\"/runs/x=1,2\""),
        // A deletion restores the default.
        (&["~finetune.peft"], "finetune.peft", "null"),
        (&["~finetune.optim.weight_decay"], "finetune.optim.weight_decay", "0.1"),
        // A type with its arguments, in place of a map.
        (
            &["finetune.optim=optim.Lion(lr=1e-5, betas=[0.9, 0.99])"],
            "finetune.optim._target_",
            "optim.Lion",
        ),
        (
            &["finetune.optim=optim.Lion(lr=1e-5, betas=[0.9, 0.99])"],
            "finetune.optim.betas",
            "[0.9, 0.99]",
        ),
        (
            &["finetune.optim=optim.Lion(lr=1e-5)", "finetune.optim.lr=3"],
            "finetune.optim.lr",
            "3.0",
        ),
        (
            &["finetune.model=neva_llama3_8b()"],
            "finetune.model.text_config.vocab_size",
            "128256",
        ),
        (&["finetune.model=llava15_13b"], "finetune.model.text_config.hidden_size", "5120"),
        (
            &[
                "finetune.model=neva_tiny(freeze_vision_model=true)",
                "finetune.model.text_config.num_hidden_layers=2",
            ],
            "finetune.model.freeze_vision_model",
            "true",
        ),
    ] {
        assert_eq!(value(sets, path), expect, "{sets:?}");
    }
}

/// F10: text becomes a type only where a type is expected.
#[test]
fn text_that_looks_like_a_call_or_factory_stays_text() {
    for text in ["llava15_7b", "llava15_7b()", "optim.Lion(lr=1e-5)", "none"] {
        assert_eq!(
            value(&[&format!("finetune.data.paths=[\"{text}\"]")], "finetune.data.paths[0]"),
            yaml(text)
        );
        assert_eq!(value(&[&format!("dir={text}")], "dir"), yaml(text));
    }
}

fn yaml(text: &str) -> String {
    config::to_yaml_string(&config::to_node(&text, config::Origin::Default).unwrap())
        .trim()
        .to_owned()
}

/// Returns the first line of the report, and the help.
fn mistake(sets: &[&str]) -> String {
    let error = resolve(parse(RECIPE), sets).expect_err("a mistake");
    config::render(&error, false)
}

#[test]
fn invalid_overrides() {
    insta::assert_snapshot!(mistake(&["finetune.optim.lr+=fast"]), @r#"
     × `finetune.optim.lr`: expected a number, found `fast`
      ╭─[--set:1:20]
    1 │ finetune.optim.lr+=fast
      ·                    ──┬─
      ·                      ╰── expected a number
      ╰────
    "#);
    insta::assert_snapshot!(mistake(&["finetune.log.name*=2"]), @r#"
     × `finetune.log.name`: expected a number, found the text "default"
      ╭─[--set:1:14]
    1 │ finetune.log.name*=2
      ·              ──┬─
      ·                ╰── expected a number
      ╰────
     help: the text "default" comes from recipe llava15_7b
    "#);
    insta::assert_snapshot!(mistake(&["finetune.data.paths[2]=x"]), @r#"
     × `finetune.data.paths[2]`: there is no item 2: the list has 2
      ╭─[--set:1:20]
    1 │ finetune.data.paths[2]=x
      ·                    ─┬─
      ·                     ╰── no such item
      ╰────
     help: items count from 0; `+=` appends to a list
    "#);
    insta::assert_snapshot!(mistake(&["finetune.data.paths[+]+=x"]), @r#"
     × `[+]` appends already: write `[+]=` instead of `[+]+=`
      ╭─[--set:1:20]
    1 │ finetune.data.paths[+]+=x
      ·                    ──┬──
      ·                      ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(mistake(&["finetune.trainer.max_steps.x=1"]), @r#"
     × `finetune.trainer.max_steps.x`: expected a map to descend into, found `5190`
      ╭─[--set:1:28]
    1 │ finetune.trainer.max_steps.x=1
      ·                            ┬
      ·                            ╰── expected a map to descend into
      ╰────
     help: `5190` comes from recipe llava15_7b
    "#);
    insta::assert_snapshot!(mistake(&["~finetune.data.pathz"]), @r#"
     × `finetune.data.pathz`: unknown field `pathz`
      ╭─[--set:1:16]
    1 │ ~finetune.data.pathz
      ·                ──┬──
      ·                  ╰── unknown field
      ╰────
     help: did you mean `paths`? The fields here are `_target_`, `paths`, `global_batch_size`
    "#);
}

#[test]
fn invalid_calls() {
    insta::assert_snapshot!(mistake(&["finetune.optim=optim.Lion(1e-5)"]), @r#"
     × `finetune.optim`: this argument needs a name
      ╭─[--set:1:27]
    1 │ finetune.optim=optim.Lion(1e-5)
      ·                           ──┬─
      ·                             ╰── here
      ╰────
     help: write `optim.Lion(NAME=1e-5)`
    "#);
    insta::assert_snapshot!(mistake(&["finetune.optim=optim.Lion(lr=1e-5, lr=2)"]), @r#"
     × `finetune.optim`: the argument `lr` is given twice
      ╭─[--set:1:36]
    1 │ finetune.optim=optim.Lion(lr=1e-5, lr=2)
      ·                                    ─┬
      ·                                     ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(mistake(&["finetune.optim=optim.Lion(beta=1)"]), @r#"
     × `finetune.optim.beta`: unknown field `beta`
      ╭─[--set:1:27]
    1 │ finetune.optim=optim.Lion(beta=1)
      ·                           ──┬─
      ·                             ╰── unknown field
      ╰────
     help: did you mean `betas`? The fields here are `lr`, `weight_decay`, `betas`, `clip_grad`,
           `mm_projector_lr`, `param_groups`, `lr_scheduler`
    "#);
    insta::assert_snapshot!(mistake(&["finetune.optim=optim.Lio(lr=1)"]), @r#"
     × `finetune.optim`: unknown name `optim.Lio`
      ╭─[--set:1:16]
    1 │ finetune.optim=optim.Lio(lr=1)
      ·                ───────┬───────
      ·                       ╰── unknown name
      ╰────
     help: did you mean `optim.Lion`? The names here are `optim.AdamW`, `optim.SGD`, `optim.Lion`,
           `distributed_fused_adam_with_cosine_annealing`
    "#);
    insta::assert_snapshot!(mistake(&["finetune.optim=optim.Lion(lr=[1)"]), @r#"
     × `finetune.optim`: this bracket is not closed
      ╭─[--set:1:30]
    1 │ finetune.optim=optim.Lion(lr=[1)
      ·                              ┬
      ·                              ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(mistake(&["finetune.model=lava15_7b()"]), @r#"
     × `finetune.model`: unknown name `lava15_7b`
      ╭─[--set:1:16]
    1 │ finetune.model=lava15_7b()
      ·                ─────┬─────
      ·                     ╰── unknown name
      ╰────
     help: did you mean `llava15_7b`? The names here are `vlm.LlavaModel`, `llm.GPTModel`,
           `llm.LlamaModel`, `llm.MistralModel`, `llm.NemotronModel`, `llm.Qwen2Model`,
           `Llava15Config13B`, `Llava15Config7B`, `NevaConfig`, `NevaModel`, `llava15_13b`,
           `llava15_7b`, `neva_llama3_8b`, `neva_tiny`
    "#);
    insta::assert_snapshot!(mistake(&["finetune.model=llava15_7b(freeze=true)"]), @r#"
     × `finetune.model.freeze`: unknown field `freeze`
      ╭─[--set:1:27]
    1 │ finetune.model=llava15_7b(freeze=true)
      ·                           ───┬──
      ·                              ╰── unknown field
      ╰────
     help: the fields here are `freeze_language_model`, `freeze_vision_model`,
           `freeze_vision_projection`
    "#);
    insta::assert_snapshot!(mistake(&["finetune.trainer=neva_tiny()"]), @r#"
     × `finetune.trainer`: expected a map, found `neva_tiny()`
      ╭─[--set:1:18]
    1 │ finetune.trainer=neva_tiny()
      ·                  ─────┬─────
      ·                       ╰── expected a map
      ╰────
     help: the fields here are `accelerator`, `devices`, `num_nodes`, `max_steps`, `max_epochs`,
           `max_time`, `val_check_interval`, `limit_val_batches`, `log_every_n_steps`, `strategy`,
           `plugins`, `loss_normalization`, `nan_policy`, `loss_spike_threshold`, `require`,
           `profile_steps`, `callbacks`, `seed`, `deterministic`, `threads_per_rank`, `timeout_s`
    "#);
}

/// Values of a wrong type are reported together, not one after the other.
#[test]
fn all_problems_are_reported_at_once() {
    insta::assert_snapshot!(mistake(&["finetune.optim.lr=fast", "finetune.optim.epss=1", "finetune.trainer.max_steps=-1", "finetune.peft.dim=x"]), @r#"
     × `finetune.trainer.max_steps`: `-1` is out of range: expected 0 to 18446744073709551615
      ╭─[--set:1:28]
    1 │ finetune.trainer.max_steps=-1
      ·                            ─┬
      ·                             ╰── expected 0 to 18446744073709551615
      ╰────

     × `finetune.optim.lr`: expected a number, found `fast`
      ╭─[--set:1:19]
    1 │ finetune.optim.lr=fast
      ·                   ──┬─
      ·                     ╰── expected a number
      ╰────

     × `finetune.optim.epss`: unknown field `epss`
      ╭─[--set:1:16]
    1 │ finetune.optim.epss=1
      ·                ──┬─
      ·                  ╰── unknown field
      ╰────
     help: did you mean `eps`? The fields here are `lr`, `weight_decay`, `betas`, `eps`, `clip_grad`,
           `mm_projector_lr`, `param_groups`, `lr_scheduler`

     × `finetune.peft.dim`: expected an integer, found `x`
      ╭─[--set:1:19]
    1 │ finetune.peft.dim=x
      ·                   ┬
      ·                   ╰── expected an integer
      ╰────
    "#);
}
