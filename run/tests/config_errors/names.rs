//! Unknown and missing keys, types and choices.

use crate::{report, with};

#[test]
fn an_unknown_field() {
    insta::assert_snapshot!(report(&with("  lr:", "  lrr:"), &[]), @r#"
     × `optim.lrr`: unknown field `lrr`
      ╭─[train.yaml:5:3]
    4 │   _target_: optim.AdamW
    5 │   lrr: 1e-4
      ·   ─┬─
      ·    ╰── unknown field
    6 │   betas: [0.9, 0.95]
      ╰────
     help: did you mean `lr`? The fields here are `lr`, `betas`
    "#);
}

#[test]
fn an_unknown_field_at_the_top() {
    insta::assert_snapshot!(report(&with("nodes: 2", "num_nodes: 2"), &[]), @r#"
     × `num_nodes`: unknown field `num_nodes`
      ╭─[train.yaml:2:1]
    1 │ name: tune
    2 │ num_nodes: 2
      · ────┬────
      ·     ╰── unknown field
    3 │ optim:
      ╰────
     help: the fields here are `name`, `nodes`, `precision`, `resume`, `env`, `layers`, `optim`
    "#);
}

#[test]
fn a_missing_field() {
    insta::assert_snapshot!(report(&with("  lr: 1e-4\n", ""), &[]), @r#"
     × `optim.lr`: required, but not given
      ╭─[train.yaml:3:1]
    2 │ nodes: 2
    3 │ optim:
      · ──┬──
      ·   ╰── missing in here
    4 │   _target_: optim.AdamW
      ╰────
    "#);
}

#[test]
fn an_unknown_target() {
    insta::assert_snapshot!(report(&with("optim.AdamW", "adamv"), &[]), @r#"
     × `optim._target_`: unknown name `adamv`
      ╭─[train.yaml:4:13]
    3 │ optim:
    4 │   _target_: adamv
      ·             ──┬──
      ·               ╰── unknown name
    5 │   lr: 1e-4
      ╰────
     help: did you mean `optim.AdamW`? The names here are `optim.AdamW`, `optim.Sgd`
    "#);
}

#[test]
fn a_missing_target() {
    insta::assert_snapshot!(report(&with("  _target_: optim.AdamW\n", ""), &[]), @r#"
     × `optim`: `_target_` is missing
      ╭─[train.yaml:3:1]
    2 │ nodes: 2
    3 │ optim:
      · ──┬──
      ·   ╰── which type is this?
    4 │   lr: 1e-4
      ╰────
     help: add `_target_:` with one of `optim.AdamW`, `optim.Sgd`
    "#);
}

#[test]
fn a_target_that_is_not_a_name() {
    insta::assert_snapshot!(report(&with("optim.AdamW", "[a]"), &[]), @r#"
     × `optim._target_`: expected the name of a type, found a list
      ╭─[train.yaml:4:13]
    3 │ optim:
    4 │   _target_: [a]
      ·             ┬
      ·             ╰── expected the name of a type
    5 │   lr: 1e-4
      ╰────
     help: the names here are `optim.AdamW`, `optim.Sgd`
    "#);
}

#[test]
fn an_unknown_choice() {
    insta::assert_snapshot!(report(&with("nodes: 2", "precision: fp9"), &[]), @r#"
     × `precision`: unknown name `fp9`
      ╭─[train.yaml:2:12]
    1 │ name: tune
    2 │ precision: fp9
      ·            ─┬─
      ·             ╰── unknown name
    3 │ optim:
      ╰────
     help: did you mean `fp8`? The names here are `bf16`, `fp8`
    "#);
}
