//! Values of a wrong type.

use crate::{report, with};

#[test]
fn not_a_number() {
    insta::assert_snapshot!(report(&with("1e-4", "fast"), &[]), @r#"
     × `optim.lr`: expected a number, found `fast`
      ╭─[train.yaml:5:7]
    4 │   _target_: optim.AdamW
    5 │   lr: fast
      ·       ──┬─
      ·         ╰── expected a number
    6 │   betas: [0.9, 0.95]
      ╰────
    "#);
}

#[test]
fn not_an_integer() {
    insta::assert_snapshot!(report(&with("nodes: 2", "nodes: two"), &[]), @r#"
     × `nodes`: expected an integer, found `two`
      ╭─[train.yaml:2:8]
    1 │ name: tune
    2 │ nodes: two
      ·        ─┬─
      ·         ╰── expected an integer
    3 │ optim:
      ╰────
    "#);
}

#[test]
fn a_float_for_an_integer() {
    insta::assert_snapshot!(report(&with("nodes: 2", "nodes: 1e3"), &[]), @r#"
     × `nodes`: expected an integer, found `1e3`
      ╭─[train.yaml:2:8]
    1 │ name: tune
    2 │ nodes: 1e3
      ·        ─┬─
      ·         ╰── expected an integer
    3 │ optim:
      ╰────
     help: write `1000`
    "#);
}

#[test]
fn quotes_around_a_number() {
    insta::assert_snapshot!(report(&with("nodes: 2", "nodes: \"5\""), &[]), @r#"
     × `nodes`: expected an integer, found the text "5"
      ╭─[train.yaml:2:8]
    1 │ name: tune
    2 │ nodes: "5"
      ·        ─┬─
      ·         ╰── expected an integer
    3 │ optim:
      ╰────
     help: quotes make it text: write `5` without them
    "#);
}

#[test]
fn a_negative_count() {
    insta::assert_snapshot!(report(&with("nodes: 2", "nodes: -2"), &[]), @r#"
     × `nodes`: `-2` is out of range: expected 0 to 4294967295
      ╭─[train.yaml:2:8]
    1 │ name: tune
    2 │ nodes: -2
      ·        ─┬
      ·         ╰── expected 0 to 4294967295
    3 │ optim:
      ╰────
    "#);
}

#[test]
fn an_integer_too_large() {
    insta::assert_snapshot!(report(&with("nodes: 2", "layers: [1, 2, 0x80]"), &[]), @r#"
     × `layers[2]`: `0x80` is out of range: expected -128 to 127
      ╭─[train.yaml:2:16]
    1 │ name: tune
    2 │ layers: [1, 2, 0x80]
      ·                ──┬─
      ·                  ╰── expected -128 to 127
    3 │ optim:
      ╰────
    "#);
}

#[test]
fn y_for_true() {
    insta::assert_snapshot!(report(&with("nodes: 2", "resume: y"), &[]), @r#"
     × `resume`: expected `true` or `false`, found `y`
      ╭─[train.yaml:2:9]
    1 │ name: tune
    2 │ resume: y
      ·         ┬
      ·         ╰── expected `true` or `false`
    3 │ optim:
      ╰────
     help: write `true`, without quotes
    "#);
}

#[test]
fn null_for_text() {
    insta::assert_snapshot!(report(&with("name: tune", "name:"), &[]), @r#"
     × `name`: expected text, found null
      ╭─[train.yaml:1:1]
    1 │ name:
      · ──┬─
      ·   ╰── expected text
    2 │ nodes: 2
      ╰────
     help: write an empty text as `""`, and the word itself as `"null"`
    "#);
}

#[test]
fn a_list_for_text() {
    insta::assert_snapshot!(report(&with("name: tune", "name: [a]"), &[]), @r#"
     × `name`: expected text, found a list
      ╭─[train.yaml:1:7]
    1 │ name: [a]
      ·       ┬
      ·       ╰── expected text
    2 │ nodes: 2
      ╰────
    "#);
}

#[test]
fn text_for_a_list() {
    insta::assert_snapshot!(report(&with("nodes: 2", "layers: 3"), &[]), @r#"
     × `layers`: expected a list, found `3`
      ╭─[train.yaml:2:9]
    1 │ name: tune
    2 │ layers: 3
      ·         ┬
      ·         ╰── expected a list
    3 │ optim:
      ╰────
     help: write a list of one item as `[3]`
    "#);
}

#[test]
fn a_list_for_a_map() {
    insta::assert_snapshot!(report(&with("nodes: 2", "env:\n  - A=1"), &[]), @r#"
     × `env`: expected a map, found a list
      ╭─[train.yaml:2:1]
    1 │ name: tune
    2 │ env:
      · ─┬─
      ·  ╰── expected a map
    3 │   - A=1
      ╰────
    "#);
}

#[test]
fn an_item_of_a_list() {
    insta::assert_snapshot!(report(&with("0.95", "high"), &[]), @r#"
     × `optim.betas[1]`: expected a number, found `high`
      ╭─[train.yaml:6:16]
    5 │   lr: 1e-4
    6 │   betas: [0.9, high]
      ·                ──┬─
      ·                  ╰── expected a number
      ╰────
    "#);
}

#[test]
fn a_pair_of_three() {
    insta::assert_snapshot!(report(&with("0.95", "0.95, 1"), &[]), @r#"
     × `optim.betas`: expected 2 items, found 3
      ╭─[train.yaml:6:10]
    5 │   lr: 1e-4
    6 │   betas: [0.9, 0.95, 1]
      ·          ┬
      ·          ╰── expected 2 items
      ╰────
    "#);
}
