//! Origins in reports: violated rules, recipes, long lines, colour.

use std::collections::BTreeMap;

use neva_run::config::{self, ConfigError, Origin, Source};

use crate::{GOOD, Recipe, load, report};

#[test]
fn a_violated_rule_is_shown_at_the_origin_of_the_value() {
    let root = config::parse(&Source::new("train.yaml", GOOD)).unwrap();
    let help = Some("use a value below 1".to_owned());
    let error = ConfigError::invalid(&root, "optim.betas[1]", "beta2 must be below 1", help);
    insta::assert_snapshot!(config::render(&error, false), @r#"
     × `optim.betas[1]`: beta2 must be below 1
      ╭─[train.yaml:6:16]
    5 │   lr: 1e-4
    6 │   betas: [0.9, 0.95]
      ·                ──┬─
      ·                  ╰── here
      ╰────
     help: use a value below 1
    "#);
}

#[test]
fn a_violated_rule_of_a_default_is_shown_at_the_closest_value_above() {
    let root = config::parse(&Source::new("train.yaml", GOOD)).unwrap();
    let error = ConfigError::invalid(&root, "optim.eps", "eps must be positive", None);
    insta::assert_snapshot!(config::render(&error, false), @r#"
     × `optim.eps`: eps must be positive
      ╭─[train.yaml:3:1]
    2 │ nodes: 2
    3 │ optim:
      · ──┬──
      ·   ╰── here
    4 │   _target_: optim.AdamW
      ╰────
    "#);
}

#[test]
fn a_value_from_a_recipe_names_the_recipe() {
    let root = config::to_node(&BTreeMap::from([("name", [1])]), Origin::recipe("llava15_7b")).unwrap();
    let error = config::from_node::<Recipe>(&root).unwrap_err();
    insta::assert_snapshot!(config::render(&error, false), @r#"  × `name`: expected text, found a list (set by recipe llava15_7b)"#);
}

#[test]
fn colour_is_for_terminals_without_no_color() {
    let error = load(GOOD, &["nodes=x"]).unwrap_err();
    assert!(config::render(&error, true).contains('\u{1b}'));
    assert!(!config::render(&error, false).contains('\u{1b}'));
    for (terminal, no_color, expect) in [
        (true, None, true),
        (true, Some(""), true),
        (true, Some("1"), false),
        (false, None, false),
    ] {
        assert_eq!(config::wants_colour(terminal, no_color.map(AsRef::as_ref)), expect);
    }
}

/// Long lines are quoted partly, also next to the underlined line.
#[test]
fn long_lines_are_quoted_partly() {
    let wide = "x".repeat(100_000);
    insta::assert_snapshot!(report(&format!("nodes: [{wide}, 1, {wide}]"), &[]), @r#"
     × `nodes`: expected an integer, found a list
      ╭─[train.yaml:1:8]
    1 │ nodes: [xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
      ·        ┬
      ·        ╰── expected an integer
      ╰────
    "#);
    insta::assert_snapshot!(report(&format!("name: a{}\nnodes: two # {wide}\n", "é".repeat(70_000)), &[]), @r#"
     × `nodes`: expected an integer, found `two`
      ╭─[train.yaml:2:8]
    2 │ nodes: two # xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
      ·        ─┬─
      ·         ╰── expected an integer
      ╰────
    "#);
    insta::assert_snapshot!(report("name: x", &[&format!("a.{wide}=1")]), @r#"
     × `a`: unknown field `a`
      ╭─[--set:1:1]
    1 │ a.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
      · ┬
      · ╰── unknown field
      ╰────
     help: the fields here are `name`, `nodes`, `precision`, `resume`, `env`, `layers`, `optim`
    "#);
    for at in 0..400 {
        for text in [
            format!("{}: [\n# {wide}", "é".repeat(at)),
            format!("{}: }}{wide}", "a".repeat(at)),
            format!("{}\0{wide}", "é".repeat(at)),
        ] {
            let error = config::parse(&Source::new("train.yaml", text)).unwrap_err();
            assert!(config::render(&error, false).len() < 2_000);
        }
    }
}
