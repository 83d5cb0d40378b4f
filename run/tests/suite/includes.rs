//! Includes, in three languages.

use std::{fs, path::Path};

use neva_run::{
    ResolveOptions,
    config::{self, Node},
    load, resolve, resolve_with,
};

/// Creates a folder with files, by name.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    folder
}

fn load_in(folder: &Path, name: &str) -> Result<Node, config::ConfigError> {
    load(folder.join(name).to_str().unwrap())
}

/// Returns the report for `run.yaml`, without the folder's name.
fn mistake(files: &[(&str, &str)]) -> String {
    let folder = folder(files);
    let report = match load_in(folder.path(), "run.yaml") {
        Err(error) => config::render(&error, false),
        Ok(node) => config::render(&resolve(node, &[""; 0]).expect_err("a mistake"), false),
    };
    report.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn includes_are_merged() {
    let base = "_factory_: llava15_7b\nnum_nodes: 2\nfinetune:\n  optim: {lr: 1e-3, eps: 1e-6}\n  trainer: {max_steps: 5}\n";
    for (files, path, expect) in [
        // Merged under the file's own keys; another recipe replaces only the name, and arguments stay.
        (
            &[
                ("base.yaml", base),
                ("run.yaml", "_include_: base.yaml\nfinetune: {optim: {lr: 2}}"),
            ][..],
            "finetune.optim.lr",
            "2.0",
        ),
        (
            &[
                ("base.yaml", base),
                ("run.yaml", "_include_: base.yaml\nfinetune: {optim: {lr: 2}}"),
            ],
            "finetune.optim.eps",
            "1e-6",
        ),
        (
            &[("base.yaml", base), ("run.yaml", "_include_: [base.yaml]\n_factory_: llava15_13b")],
            "num_nodes",
            "2",
        ),
        (
            &[("base.yaml", base), ("run.yaml", "_include_: [base.yaml]\n_factory_: llava15_13b")],
            "_factory_",
            "llava15_13b",
        ),
        // Merged in order.
        (
            &[
                ("a.yaml", base),
                ("b.yaml", "num_nodes: 4"),
                ("run.yaml", "_include_: [a.yaml, b.yaml]"),
            ],
            "num_nodes",
            "4",
        ),
        // Relative to the including file; other languages; sections.
        (
            &[
                (
                    "sub/a.json",
                    "{\"_factory_\": \"neva_tiny\", \"finetune\": {\"_include_\": \"b.toml:parts.graph\"}}",
                ),
                ("sub/b.toml", "[parts.graph.optim]\nlr = 1_0.5\n"),
                ("run.yaml", "_include_: [sub/a.json]"),
            ],
            "finetune.optim.lr",
            "10.5",
        ),
        // As a value.
        (
            &[
                ("m.yaml", "large: {_factory_: llava15_13b}"),
                ("run.yaml", "_factory_: llava15_7b\nfinetune: {model: '@m.yaml:large'}"),
            ],
            "finetune.model.text_config.hidden_size",
            "5120",
        ),
        (
            &[
                ("b.yaml", "- 0.5\n- 0.25"),
                ("run.yaml", "_factory_: llava15_7b\nfinetune: {optim: {betas: '@b.yaml'}}"),
            ],
            "finetune.optim.betas",
            "[0.5, 0.25]",
        ),
        // Text that only looks like an include.
        (&[("run.yaml", "_factory_: llava15_7b\ndir: '@home'")], "dir", "\"@home\""),
        (&[("run.yaml", "_factory_: llava15_7b\ndir: '@@x.yaml'")], "dir", "\"@x.yaml\""),
        (&[("run.yaml", "_factory_: llava15_7b\ndir: '@@@x.yaml'")], "dir", "\"@@x.yaml\""),
        // Deletion of a value of an included file or of the recipe.
        (
            &[
                ("base.yaml", base),
                ("run.yaml", "_include_: base.yaml\nfinetune: {optim: {~lr: }}"),
            ],
            "finetune.optim.lr",
            "0.0001",
        ),
        (
            &[("run.yaml", "_factory_: llava15_7b\nfinetune: {~peft: }")],
            "finetune.peft",
            "null",
        ),
        (
            &[
                ("base.yaml", "finetune: {~peft: }"),
                ("run.yaml", "_include_: base.yaml\n_factory_: llava15_7b"),
            ],
            "finetune.peft",
            "null",
        ),
    ] {
        let folder = folder(files);
        let node = load_in(folder.path(), "run.yaml").unwrap_or_else(|error| panic!("{files:?}: {}", config::render(&error, false)));
        let resolved = resolve(node, &[""; 0]).unwrap_or_else(|error| panic!("{files:?}: {}", config::render(&error, false)));
        let states = config::history(&resolved.traced().unwrap(), path);
        assert_eq!(
            states.last().and_then(|step| step.value.clone()).as_deref(),
            Some(expect),
            "{files:?}"
        );
    }
}

#[test]
fn a_set_resolves_files_against_the_working_directory() {
    let folder = folder(&[("m.yaml", "large: {_factory_: llava15_13b, freeze_vision_model: true}")]);
    let options = ResolveOptions {
        folder: folder.path().to_owned(),
        ..ResolveOptions::default()
    };
    let run = |set: &str| resolve_with(load("llava15_7b").unwrap(), &[set], &options);
    let resolved = run("finetune.model=@m.yaml:large").unwrap();
    assert!(resolved.run.finetune.model.as_llava().unwrap().freeze_vision_model);
    // Quotes make it text.
    let resolved = run("dir=\"@m.yaml\"").unwrap();
    assert_eq!(resolved.run.dir.as_deref(), Some(Path::new("@m.yaml")));
    insta::assert_snapshot!(config::render(&run("finetune.model=@large").unwrap_err(), false), @r#"
     × `@large` is not the name of a file
      ╭─[--set:1:16]
    1 │ finetune.model=@large
      ·                ───┬──
      ·                   ╰── here
      ╰────
     help: a file is written `name.yaml` or `name.yaml:section`; its name ends in `yaml`, `yml`,
           `json`, `toml`
    "#);
}

#[test]
fn invalid_includes() {
    let graph = "_factory_: neva_tiny\n";
    insta::assert_snapshot!(mistake(&[("run.yaml", "_include_: [base.yaml]")]), @r#"
     × cannot read `base.yaml`: there is no such file
      ╭─[run.yaml:1:13]
    1 │ _include_: [base.yaml]
      ·             ────┬────
      ·                 ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(mistake(&[("run.yaml", "_include_: [base]")]), @r#"
     × `base` is not the name of a file
      ╭─[run.yaml:1:13]
    1 │ _include_: [base]
      ·             ──┬─
      ·               ╰── here
      ╰────
     help: a file is written `name.yaml` or `name.yaml:section`; its name ends in `yaml`, `yml`,
           `json`, `toml`
    "#);
    insta::assert_snapshot!(mistake(&[("run.yaml", "a: '@b.yaml:large'"), ("b.yaml", "larg: 1")]), @r#"
     × unknown field `large`
      ╭─[run.yaml:1:4]
    1 │ a: '@b.yaml:large'
      ·    ───────┬───────
      ·           ╰── unknown field
      ╰────
     help: did you mean `larg`? The fields here are `larg`
    "#);
    insta::assert_snapshot!(mistake(&[("run.yaml", "_include_: b.yaml"), ("b.yaml", "[1]")]), @r#"
     × expected a file that holds a map, found a list
      ╭─[run.yaml:1:12]
    1 │ _include_: b.yaml
      ·            ───┬──
      ·               ╰── expected a file that holds a map
      ╰────
     help: write `"@b.yaml"` to include a value of another kind
    "#);
    insta::assert_snapshot!(mistake(&[("run.yaml", "_include_: a.yaml"), ("a.yaml", "x: '@b.yaml:y'"), ("b.yaml", "y:\n  z: {_include_: [run.yaml]}")]), @r#"
     × these files include each other in a cycle: run.yaml:1:12 ->
     │ a.yaml:1:4 -> b.yaml:2:19
      ╭─[b.yaml:2:19]
    1 │ y:
    2 │   z: {_include_: [run.yaml]}
      ·                   ────┬───
      ·                       ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(mistake(&[("run.yaml", &format!("{graph}finetune: {{~pef: }}"))]), @r#"
     × `finetune.pef`: unknown field `pef`
      ╭─[run.yaml:2:12]
    1 │ _factory_: neva_tiny
    2 │ finetune: {~pef: }
      ·            ──┬─
      ·              ╰── unknown field
      ╰────
     help: did you mean `peft`? The fields here are `model`, `data`, `trainer`, `optim`, `peft`,
           `log`, `resume`
    "#);
    // A mistake in an included file is reported in that file.
    insta::assert_snapshot!(mistake(&[("run.yaml", "_include_: b.json"), ("b.json", "{\"_factory_\": \"neva_tiny\",\n \"finetune\": {\"optim\": {\"lr\": \"fast\"}}}")]), @r#"
     × `finetune.optim.lr`: expected a number, found the text "fast"
      ╭─[b.json:2:31]
    1 │ {"_factory_": "neva_tiny",
    2 │  "finetune": {"optim": {"lr": "fast"}}}
      ·                               ───┬──
      ·                                  ╰── expected a number
      ╰────
    "#);
    insta::assert_snapshot!(mistake(&[("run.yaml", "_include_: b.toml"), ("b.toml", "_factory_ = 'neva_tiny'\n[finetune.optim]\nlr = 'fast'\n")]), @r#"
     × `finetune.optim.lr`: expected a number, found the text "fast"
      ╭─[b.toml:3:6]
    2 │ [finetune.optim]
    3 │ lr = 'fast'
      ·      ───┬──
      ·         ╰── expected a number
      ╰────
    "#);
}

/// Includes whose content would exceed any memory.
#[test]
fn includes_that_would_exhaust_memory_are_refused() {
    let files: Vec<_> = (0..40)
        .map(|i| (format!("{i}.yaml"), format!("a: '@{}.yaml'\nb: '@{}.yaml'\n", i + 1, i + 1)))
        .collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let folder = folder(&[&files[..], &[("40.yaml", "1")]].concat());
    let error = load_in(folder.path(), "0.yaml").unwrap_err();
    assert_eq!(
        error.problem.to_string(),
        "too large: at most 200 files with 100000 values may be included"
    );
}
