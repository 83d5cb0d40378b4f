//! The typed graph: descriptions in Rust, factories, differences and history.

use neva_recipes::{llava15_7b, neva_tiny};
use neva_run::{
    ResolveOptions,
    config::{self, Call, Config, Factories, Partial, Source},
    resolve, resolve_with,
};
use neva_schemas::{Finetune, LlavaModel, Model};
use serde::{Deserialize, Serialize};

fn recipe() -> Config<Finetune> {
    Config::new(llava15_7b::finetune_recipe(llava15_7b::default_args()))
}

#[test]
fn a_description_can_be_assigned_broadcast_compared_and_written() {
    let original = recipe();
    let mut mine = original.clone();
    assert_eq!(mine, original);
    mine.trainer.max_steps = Some(100);
    assert_eq!(mine.broadcast("initializer_range", &0.01).unwrap(), 2);
    assert_eq!(mine.broadcast("no_such_field", &1).unwrap(), 0);
    let error = mine.broadcast("initializer_range", &"large").unwrap_err();
    assert_eq!(
        error.to_string(),
        "`model.text_config.initializer_range`: expected a number, found the text \"large\""
    );
    let lines: Vec<_> = original.diff(&mine).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "model.text_config.initializer_range: 0.02 -> 0.01 (default)",
            "model.vision_config.initializer_range: 0.02 -> 0.01 (default)",
            "trainer.max_steps: 5190 -> 100 (default)",
        ]
    );
    let mut paths = Vec::new();
    mine.walk(|path, node| paths.extend(node.get("hidden_size").map(|_| path.to_string())))
        .unwrap();
    assert_eq!(paths, ["model.text_config", "model.vision_config"]);

    let factories = Factories::builtin();
    for (name, text) in [("a.yaml", mine.to_yaml()), ("a.json", mine.to_json()), ("a.toml", mine.to_toml())] {
        let node = config::parse(&Source::new(name, text.unwrap())).unwrap();
        assert_eq!(Config::read(node, &factories).unwrap(), mine, "{name}");
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Loss {
    #[serde(rename = "losses.Scaled")]
    Scaled { by: f64 },
    #[serde(rename = "losses.Zero")]
    Zero,
}

impl Call for Loss {
    type Late = f64;
    type Output = f64;

    fn call(&self, late: f64) -> f64 {
        match self {
            Self::Scaled { by } => by * late,
            Self::Zero => 0.0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Head {
    loss: Partial<Loss>,
}

impl Call for Head {
    type Late = ();
    type Output = f64;

    fn call(&self, (): ()) -> f64 {
        self.loss.call(2.0)
    }
}

#[test]
fn a_partial_waits_for_late_arguments() {
    let read = |text: &str| Config::<Head>::read(config::parse(&Source::new("head.yaml", text)).unwrap(), &Factories::default());
    for (text, expect, written) in [
        (
            "loss: {_target_: losses.Scaled, _partial_: true, by: 3}",
            6.0,
            "loss:\n  _target_: losses.Scaled\n  _partial_: true\n  by: 3.0\n",
        ),
        (
            "loss: {_target_: losses.Scaled, by: 3}",
            6.0,
            "loss:\n  _target_: losses.Scaled\n  _partial_: true\n  by: 3.0\n",
        ),
        (
            "loss: losses.Scaled(by=3)",
            6.0,
            "loss:\n  _target_: losses.Scaled\n  _partial_: true\n  by: 3.0\n",
        ),
        ("loss: losses.Zero", 0.0, "loss:\n  _target_: losses.Zero\n  _partial_: true\n"),
    ] {
        let head = read(text).unwrap_or_else(|error| panic!("{text}: {}", config::render(&error, false)));
        assert_eq!(head.build(), expect, "{text}");
        assert_eq!(head.to_yaml().unwrap(), written, "{text}");
        assert_eq!(read(written).unwrap(), head, "F8: what is written reads back");
    }
    let error = read("loss: {_target_: losses.Zero, _partial_: false}").unwrap_err();
    assert_eq!(error.to_string(), "`loss`: this description is called later, not built");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sized {
    hidden: usize,
    #[serde(default = "one")]
    layers: usize,
}

fn one() -> usize {
    1
}

fn options() -> ResolveOptions {
    let factories = Factories::builtin()
        .with("Model", "sized", |sized: Sized| {
            let mut model: LlavaModel = neva_tiny::model();
            model.text_config.hidden_size = sized.hidden;
            model.text_config.num_hidden_layers = sized.layers;
            Model::Llava(model)
        })
        .with("TextConfig", "wide", |_: config::NoArguments| neva_schemas::TextConfig {
            hidden_size: 8192,
            ..Default::default()
        });
    ResolveOptions {
        factories,
        ..ResolveOptions::default()
    }
}

#[test]
fn custom_factories() {
    let run = |text: &str, sets: &[&str]| {
        let node = config::parse(&Source::new("run.yaml", format!("_factory_: neva_tiny\n{text}"))).unwrap();
        resolve_with(node, sets, &options())
    };
    for (text, sets, hidden, layers) in [
        ("finetune: {model: sized(hidden=320)}", &[][..], 320, 1),
        ("finetune:\n  model: sized(hidden=320, layers=2)", &[], 320, 2),
        ("finetune: {model: {_factory_: sized, hidden: 320, layers: 3}}", &[], 320, 3),
        // Keys next to a whole call are merged over its result.
        (
            "finetune: {model: {_factory_: sized(hidden=320), text_config: {num_hidden_layers: 5}}}",
            &[],
            320,
            5,
        ),
        (
            "",
            &[
                "finetune.model=sized(hidden=320, layers=2)",
                "finetune.model.text_config.num_hidden_layers+=7",
            ],
            320,
            9,
        ),
        ("", &["finetune.model|={_factory_: sized, hidden: 320}"], 320, 1),
        ("finetune:\n  model:\n    text_config: wide()", &[], 8192, 32),
    ] {
        let resolved = match run(text, sets) {
            Ok(resolved) => resolved,
            Err(error) => panic!("{text:?} {sets:?}: {}", config::render(&error, false)),
        };
        let model = &resolved.run.finetune.model.as_llava().unwrap().text_config;
        assert_eq!((model.hidden_size, model.num_hidden_layers), (hidden, layers), "{text:?} {sets:?}");
    }
    let mistake = |text: &str| config::render(&run(text, &[]).unwrap_err(), false);
    insta::assert_snapshot!(mistake("finetune: {model: sized()}"), @r#"
     × `finetune.model.hidden`: required, but not given
      ╭─[run.yaml:2:19]
    1 │ _factory_: neva_tiny
    2 │ finetune: {model: sized()}
      ·                   ───┬───
      ·                      ╰── missing in here
      ╰────
    "#);
    insta::assert_snapshot!(mistake("finetune: {model: {_factory_: size, hidden: 3}}"), @r#"
     × `finetune.model._factory_`: unknown name `size`
      ╭─[run.yaml:2:31]
    1 │ _factory_: neva_tiny
    2 │ finetune: {model: {_factory_: size, hidden: 3}}
      ·                               ──┬─
      ·                                 ╰── unknown name
      ╰────
     help: did you mean `sized`? The names here are `vlm.LlavaModel`, `llm.GPTModel`,
           `llm.LlamaModel`, `llm.MistralModel`, `llm.NemotronModel`, `llm.Qwen2Model`,
           `Llava15Config13B`, `Llava15Config7B`, `NevaConfig`, `NevaModel`, `llava15_13b`,
           `llava15_7b`, `neva_llama3_8b`, `neva_tiny`, `sized`
    "#);
    insta::assert_snapshot!(mistake("finetune: {model: {_factory_: sized, _target_: vlm.LlavaModel}}"), @r#"
     × `finetune.model._factory_`: `_target_` and `_factory_` both name the type to build here
      ╭─[run.yaml:2:31]
    1 │ _factory_: neva_tiny
    2 │ finetune: {model: {_factory_: sized, _target_: vlm.LlavaModel}}
      ·                               ──┬──
      ·                                 ╰── here
      ╰────
     help: leave out `_target_` to call the factory
    "#);
    insta::assert_snapshot!(mistake("finetune: {model: {_factory_: sized, hidden: wide}}"), @r#"
     × `finetune.model.hidden`: expected an integer, found `wide`
      ╭─[run.yaml:2:46]
    1 │ _factory_: neva_tiny
    2 │ finetune: {model: {_factory_: sized, hidden: wide}}
      ·                                              ──┬─
      ·                                                ╰── expected an integer
      ╰────
    "#);
}

#[test]
fn every_value_has_a_history() {
    let text = "_factory_: llava15_7b\nname: mine\nfinetune:\n  optim: {lr: 1e-3}\n";
    let node = config::parse(&Source::new("run.yaml", text)).unwrap();
    let sets = [
        "finetune.optim.lr=3e-3",
        "finetune.optim.lr*=2",
        "~finetune.peft",
        "finetune.optim.betas[0]=.5",
        "finetune.data.num_workers=${num_nodes}",
    ];
    let resolved = resolve(node, &sets).unwrap();
    let tree = resolved.traced().unwrap();
    let states = |path: &str| {
        let states = config::history(&tree, path);
        let state = |step: &config::Revision| format!("{} ({})", step.value.as_deref().unwrap_or("deleted"), step.origin);
        states.iter().map(state).collect::<Vec<_>>().join(", ")
    };
    for (path, expect) in [
        (
            "finetune.optim.lr",
            "0.0001 (recipe llava15_7b), 1e-3 (run.yaml:4:15), 3e-3 (--set finetune.optim.lr=3e-3), 0.006 (--set finetune.optim.lr*=2)",
        ),
        (
            "finetune.optim.betas[0]",
            "0.9 (recipe llava15_7b), 0.5 (--set finetune.optim.betas[0]=.5)",
        ),
        ("name", "default (recipe llava15_7b), mine (run.yaml:2:7)"),
        ("finetune.log.name", "default (recipe llava15_7b), mine (run.yaml:2:7)"),
        ("finetune.optim.eps", "1e-5 (recipe llava15_7b)"),
        (
            "finetune.data.num_workers",
            "4 (recipe llava15_7b), \"${num_nodes}\" (--set finetune.data.num_workers=${num_nodes}), 1 (--set finetune.data.num_workers=${num_nodes})",
        ),
        ("finetune.no_such", ""),
        ("finetune.[", ""),
    ] {
        assert_eq!(states(path), expect, "{path}");
    }
    let peft = config::history(&tree, "finetune.peft");
    assert_eq!(peft.len(), 3);
    assert!(
        peft[0]
            .value
            .as_deref()
            .is_some_and(|value| value.starts_with("{_target_: vlm.LoRA")),
        "{peft:?}"
    );
    assert_eq!(
        (&peft[1].value, peft[1].origin.to_string().as_str()),
        (&None, "--set ~finetune.peft")
    );
    assert_eq!(
        (peft[2].value.as_deref(), &peft[2].origin),
        (Some("null"), &config::Origin::Default)
    );
}

#[test]
fn differences_name_path_values_and_origins() {
    let parse = |name: &str, text: &str| config::parse(&Source::new(name, text)).unwrap();
    for (left, right, expect) in [
        ("a: 1_000\nb: x", "b: \"x\"\na: 1000", &[][..]),
        ("a: 1.0", "a: 1", &[]),
        ("a: 1", "a: 2", &["a: 1 -> 2 (l:1:4 -> r:1:4)"]),
        ("a: '1'", "a: 1", &[]),
        ("a: {b: 1, c: 2}", "a: {b: 1}", &["a.c: 2 -> (absent) (l:1:14)"]),
        ("a: []", "a: [{x: 1}]", &["a[0]: (absent) -> {x: 1} (r:1:5)"]),
        ("a: [1, 2]", "a: [1, 3, 4]", &["a: [1, 2] -> [1, 3, 4] (l:1:4 -> r:1:4)"]),
        ("a: [{x: 1}, {x: 2}]", "a: [{x: 1}, {x: 3}]", &["a[1].x: 2 -> 3 (l:1:17 -> r:1:17)"]),
        ("a: {x: 1}", "a: null", &["a: {x: 1} -> null (l:1:4 -> r:1:4)"]),
        ("a: .nan", "a: .nan", &[]),
    ] {
        let (left, right) = (parse("l", left), parse("r", right));
        let lines: Vec<_> = config::diff(&left, &right).iter().map(ToString::to_string).collect();
        assert_eq!(lines, expect);
        assert_eq!(left == right, expect.is_empty());
    }
}
