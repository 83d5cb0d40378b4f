//! What a user sees after a mistake: the headline, the underlined characters, what to write instead.

#![expect(dead_code, reason = "only Debug reads these types: they exist to be filled")]

use std::collections::BTreeMap;

use neva_run::config::{self, ConfigError, Origin, Problems, Source};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    name: String,
    nodes: Option<u32>,
    precision: Option<Precision>,
    #[serde(default)]
    resume: bool,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    layers: Vec<i8>,
    optim: Optim,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Precision {
    Bf16,
    Fp8,
}

#[derive(Debug, Deserialize)]
enum Optim {
    #[serde(rename = "optim.AdamW")]
    AdamW(AdamW),
    #[serde(rename = "optim.Sgd")]
    Sgd { lr: f64 },
}

// Without `deny_unknown_fields`: the tree refuses unknown fields all the same.
#[derive(Debug, Deserialize)]
struct AdamW {
    lr: f64,
    #[serde(default)]
    betas: Option<(f64, f64)>,
}

const GOOD: &str = "\
name: tune
nodes: 2
optim:
  _target_: optim.AdamW
  lr: 1e-4
  betas: [0.9, 0.95]
";

/// The report for a file and edits, or the value if there is nothing to report.
fn report(yaml: &str, edits: &[&str]) -> String {
    match load(yaml, edits) {
        Ok(recipe) => format!("{recipe:?}"),
        Err(problems) => config::render(&problems, false),
    }
}

fn load(yaml: &str, edits: &[&str]) -> Result<Recipe, Problems> {
    let mut root = config::parse(&Source::new("train.yaml", yaml))?;
    config::apply_edits(&mut root, edits.iter().copied())?;
    Ok(config::from_node(&root)?)
}

/// The good file with one line replaced by another.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old));
    GOOD.replace(old, new)
}

#[test]
fn good() {
    insta::assert_snapshot!(report(GOOD, &[]), @r#"Recipe { name: "tune", nodes: Some(2), precision: None, resume: false, env: {}, layers: [], optim: AdamW(AdamW { lr: 0.0001, betas: Some((0.9, 0.95)) }) }"#);
}

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
fn quotes_round_a_number() {
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
fn yes_for_true() {
    insta::assert_snapshot!(report(&with("nodes: 2", "resume: yes"), &[]), @r#"
     × `resume`: expected `true` or `false`, found `yes`
      ╭─[train.yaml:2:9]
    1 │ name: tune
    2 │ resume: yes
      ·         ─┬─
      ·          ╰── expected `true` or `false`
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
     help: no text is written `""`, the word itself `"null"`
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
     help: a list of one is written `[3]`
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
fn a_target_that_is_no_name() {
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

#[test]
fn a_key_twice() {
    insta::assert_snapshot!(report(&with("nodes: 2", "name: b"), &[]), @r#"
     × the key `name` is given twice
      ╭─[train.yaml:2:1]
    1 │ name: tune
    2 │ name: b
      · ──┬─
      ·   ╰── here
    3 │ optim:
      ╰────
    "#);
}

#[test]
fn a_tag() {
    insta::assert_snapshot!(report(&with("nodes: 2", "nodes: !int 2"), &[]), @r#"
     × YAML tags are not used: the type of a field decides how its value is read
      ╭─[train.yaml:2:13]
    1 │ name: tune
    2 │ nodes: !int 2
      ·             ┬
      ·             ╰── here
    3 │ optim:
      ╰────
    "#);
}

#[test]
fn an_open_bracket() {
    insta::assert_snapshot!(report(&with("0.95]", "0.95"), &[]), @r#"
     × unclosed bracket '['
      ╭─[train.yaml:6:10]
    5 │   lr: 1e-4
    6 │   betas: [0.9, 0.95
      ·          ┬
      ·          ╰── here
      ╰────
    "#);
}

#[test]
fn wide_characters() {
    insta::assert_snapshot!(report(&with("name: tune\nnodes: 2", "\"näme\": 鳥"), &[]), @r#"
     × `näme`: unknown field `näme`
      ╭─[train.yaml:1:1]
    1 │ "näme": 鳥
      · ───┬──
      ·    ╰── unknown field
    2 │ optim:
      ╰────
     help: did you mean `name`? The fields here are `name`, `nodes`, `precision`, `resume`, `env`,
           `layers`, `optim`
    "#);
}

#[test]
fn an_empty_file() {
    insta::assert_snapshot!(report("", &[]), @r#"
    × expected a map, found null
     ╭─[train.yaml:1:1]
     ╰────
    help: the fields here are `name`, `nodes`, `precision`, `resume`, `env`, `layers`, `optim`
    "#);
}

#[test]
fn edit_with_a_wrong_value() {
    insta::assert_snapshot!(report(GOOD, &["optim.lr=quick"]), @r#"
     × `optim.lr`: expected a number, found `quick`
      ╭─[--set:1:10]
    1 │ optim.lr=quick
      ·          ──┬──
      ·            ╰── expected a number
      ╰────
    "#);
}

#[test]
fn edit_of_an_item() {
    insta::assert_snapshot!(report(GOOD, &["optim.betas[1]=[high]"]), @r#"
     × `optim.betas[1]`: expected a number, found a list
      ╭─[--set:1:16]
    1 │ optim.betas[1]=[high]
      ·                ┬
      ·                ╰── expected a number
      ╰────
    "#);
}

#[test]
fn edit_with_an_unknown_field() {
    insta::assert_snapshot!(report(GOOD, &["optim.lrr=1e-5"]), @r#"
     × `optim.lrr`: unknown field `lrr`
      ╭─[--set:1:7]
    1 │ optim.lrr=1e-5
      ·       ─┬─
      ·        ╰── unknown field
      ╰────
     help: did you mean `lr`? The fields here are `lr`, `betas`
    "#);
}

#[test]
fn edit_of_a_type() {
    insta::assert_snapshot!(report(GOOD, &["optim._target_=optim.Sgd"]), @r#"
     × `optim.lr`: required, but not given
      ╭─[--set:1:7]
    1 │ optim._target_=optim.Sgd
      ·       ────┬───
      ·           ╰── missing in here
      ╰────
    "#);
}

#[test]
fn edit_through_a_scalar() {
    insta::assert_snapshot!(report(GOOD, &["optim.lr.max=1"]), @r#"
     × `optim.lr.max`: expected a map to look into, found `1e-4`
      ╭─[--set:1:10]
    1 │ optim.lr.max=1
      ·          ─┬─
      ·           ╰── expected a map to look into
      ╰────
     help: `1e-4` comes from train.yaml:5:7
    "#);
}

#[test]
fn edit_past_the_end() {
    insta::assert_snapshot!(report(GOOD, &["optim.betas[2]=1"]), @r#"
     × `optim.betas[2]`: there is no item 2: the list has 2
      ╭─[--set:1:12]
    1 │ optim.betas[2]=1
      ·            ─┬─
      ·             ╰── no such item
      ╰────
     help: items count from 0; `+=` appends to a list
    "#);
}

#[test]
fn edit_of_what_is_not_there() {
    insta::assert_snapshot!(report(GOOD, &["optim.beta+=[1]"]), @r#"
     × `optim.beta`: unknown field `beta`
      ╭─[--set:1:7]
    1 │ optim.beta+=[1]
      ·       ──┬─
      ·         ╰── unknown field
      ╰────
     help: did you mean `betas`? The fields here are `lr`, `betas`
    "#);
}

#[test]
fn edit_adding_to_text() {
    insta::assert_snapshot!(report(GOOD, &["name+=x"]), @r#"
     × `name`: expected a list or a number, found `tune`
      ╭─[--set:1:1]
    1 │ name+=x
      · ──┬─
      ·   ╰── expected a list or a number
      ╰────
     help: `tune` comes from train.yaml:1:7
    "#);
}

#[test]
fn edit_dividing_by_zero() {
    insta::assert_snapshot!(report(GOOD, &["nodes/=0"]), @r#"
     × `nodes`: this computes no number from `2` and `0`
      ╭─[--set:1:8]
    1 │ nodes/=0
      ·        ┬
      ·        ╰── here
      ╰────
    "#);
}

#[test]
fn edit_with_bad_yaml() {
    insta::assert_snapshot!(report(GOOD, &["env={A: [1}"]), @r#"
     × mismatched bracket '[' closed by '}'
      ╭─[--set:1:9]
    1 │ env={A: [1}
      ·         ┬
      ·         ╰── here
      ╰────
     help: text with special characters is written `env="{A: [1}"`
    "#);
}

#[test]
fn edit_with_an_alias() {
    insta::assert_snapshot!(report(GOOD, &["name=*.linear_qkv"]), @r#"
     × alias references unknown anchor
      ╭─[--set:1:6]
    1 │ name=*.linear_qkv
      ·      ┬
      ·      ╰── here
      ╰────
     help: text with special characters is written `name="*.linear_qkv"`
    "#);
}

#[test]
fn several_bad_edits() {
    insta::assert_snapshot!(report(GOOD, &["optim.lr", "=3", "optim..lr=3", "optim.betas[x]=1", r#"env."a=1"#, "~nodes=3", "a b=1"]), @r#"
     × `=` is missing: write `path=value`, or `~path` to delete
      ╭─[--set:1:1]
    1 │ optim.lr
      · ────┬───
      ·     ╰── here
      ╰────

     × the path is missing: write `path=value`
      ╭─[--set:1:1]
    1 │ =3
      · ▲
      · ╰── here
      ╰────

     × a name is missing here
      ╭─[--set:1:7]
    1 │ optim..lr=3
      ·       ┬
      ·       ╰── here
      ╰────

     × a list index is a number from 0, as in `[0]`; a name in brackets needs quotes
      ╭─[--set:1:12]
    1 │ optim.betas[x]=1
      ·            ─┬─
      ·             ╰── here
      ╰────

     × the closing quote is missing
      ╭─[--set:1:5]
    1 │ env."a=1
      ·     ──┬─
      ·       ╰── here
      ╰────

     × a deletion takes no value: write `~path`
      ╭─[--set:1:7]
    1 │ ~nodes=3
      ·       ─┬
      ·        ╰── here
      ╰────

     × put a name with this character in quotes, as in `a."b c"`
      ╭─[--set:1:2]
    1 │ a b=1
      ·  ┬
      ·  ╰── here
      ╰────
    "#);
}

#[test]
fn several_edits_that_do_not_apply() {
    insta::assert_snapshot!(report(GOOD, &["~node", "nodes|={a: 1}", "name|=x"]), @r#"
     × `node`: unknown field `node`
      ╭─[--set:1:2]
    1 │ ~node
      ·  ──┬─
      ·    ╰── unknown field
      ╰────
     help: did you mean `nodes`? The fields here are `name`, `nodes`, `optim`

     × `nodes`: expected a map to merge into, found `2`
      ╭─[--set:1:1]
    1 │ nodes|={a: 1}
      · ──┬──
      ·   ╰── expected a map to merge into
      ╰────
     help: `2` comes from train.yaml:2:8

     × `name`: expected a map, as in `path|={a: 1}`, found `x`
      ╭─[--set:1:7]
    1 │ name|=x
      ·       ┬
      ·       ╰── expected a map, as in `path|={a: 1}`
      ╰────
    "#);
}

#[test]
fn a_rule_found_on_the_typed_value_is_shown_where_it_was_written() {
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
fn a_rule_on_a_default_is_shown_at_the_closest_value_above() {
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
fn colour_is_for_terminals_that_want_it() {
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

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let large = vec![b'#'; (4 << 20) + 1];
    for (path, expect) in [
        (folder.path().to_owned(), "it is a directory, expected a file"),
        (folder.path().join("none.yaml"), "there is no such file"),
        (
            file("latin1.yaml", b"name: a\nname: \xff\n"),
            "it is not UTF-8 text (byte 14, on line 2)",
        ),
        (file("nul.yaml", b"name: a\0b\n"), "a NUL byte: this is not a text file"),
        (file("large.yaml", &large), "it is larger than 4 MiB, which no configuration is"),
    ] {
        let error = config::read(&path).unwrap_err();
        assert!(error.to_string().ends_with(expect), "{error}");
    }
    assert!(config::read(&file("good.yaml", GOOD.as_bytes())).is_ok());
    // 100 MB are not read to be refused.
    let huge = folder.path().join("huge.json");
    std::fs::File::create(&huge).and_then(|file| file.set_len(100 << 20)).unwrap();
    assert!(
        config::read(&huge)
            .unwrap_err()
            .to_string()
            .ends_with("it is larger than 4 MiB, which no configuration is")
    );
}

#[test]
fn json_and_toml_that_cannot_be_read() {
    let report = |name: &str, text: &str| config::render(&config::parse(&Source::new(name, text)).unwrap_err(), false);
    insta::assert_snapshot!(report("a.json", "{\n  \"a\": 1,\n}"), @r#"
     × JSON has no comma in front of a closing bracket
      ╭─[a.json:3:1]
    2 │   "a": 1,
    3 │ }
      · ┬
      · ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(report("a.json", "{\"a\": {\"b\": 1, \"b\": 2}}"), @r#"
     × the key `b` is given twice
      ╭─[a.json:1:16]
    1 │ {"a": {"b": 1, "b": 2}}
      ·                ─┬─
      ·                 ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(report("a.json", "{\"a\": \"\\ud800\"}"), @r#"
     × this string has an escape that stands for no character
      ╭─[a.json:1:7]
    1 │ {"a": "\ud800"}
      ·       ────┬───
      ·           ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(report("a.json", "a: 1"), @r#"
     × a value is missing here; in JSON, texts and keys have double quotes
      ╭─[a.json:1:1]
    1 │ a: 1
      · ┬
      · ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(report("a.json", ""), @r#"
    × the text ends too early
     ╭─[a.json:1:1]
     ╰────
    "#);
    insta::assert_snapshot!(report("a.toml", "a = 1\na = 2\n"), @r#"
     × duplicate key
      ╭─[a.toml:2:1]
    1 │ a = 1
    2 │ a = 2
      · ┬
      · ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(report("a.toml", "a: 1"), @r#"
     × key with no value, expected `=`
      ╭─[a.toml:1:4]
    1 │ a: 1
      ·    ▲
      ·    ╰── here
      ╰────
    "#);
}

/// A line of any length is quoted in part, also next to the one that is meant.
#[test]
fn long_lines_are_quoted_in_part() {
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

#[test]
fn inputs_built_to_exhaust_a_reader_are_refused() {
    let laughs = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |yaml, i| {
        let j = i - 1;
        format!("{yaml}a{i}: &a{i} [*a{j}, *a{j}, *a{j}, *a{j}, *a{j}, *a{j}, *a{j}, *a{j}, *a{j}]\n")
    });
    let block = (0..1_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>();
    for (yaml, expect) in [
        (laughs, "too large: at most 64 levels and 100000 values, anchors expanded"),
        (
            "[".repeat(100_000),
            "too large: at most 64 levels and 100000 values, anchors expanded",
        ),
        (block, "too large: at most 64 levels and 100000 values, anchors expanded"),
        (
            format!("[{}]", "1,".repeat(200_000)),
            "too large: at most 64 levels and 100000 values, anchors expanded",
        ),
        ("a: &a [*a]".to_owned(), "this alias refers to a value that it is part of"),
    ] {
        let error = config::parse(&Source::new("bomb.yaml", yaml)).unwrap_err();
        assert_eq!(error.to_string(), expect);
    }
    for (name, text, expect) in [
        (
            "bomb.json",
            "[".repeat(100_000) + &"]".repeat(100_000),
            "too large: at most 64 levels",
        ),
        (
            "bomb.json",
            "{\"a\":".repeat(70) + "1" + &"}".repeat(70),
            "too large: at most 64 levels",
        ),
        (
            "bomb.toml",
            format!("a = {}{}", "[".repeat(70), "]".repeat(70)),
            "too large: at most 64 levels",
        ),
        ("bomb.toml", format!("{}a = 1", "a.".repeat(70)), "too large: at most 64 levels"),
    ] {
        let error = config::parse(&Source::new(name, text)).unwrap_err();
        assert_eq!(error.to_string(), expect);
    }
    for text in ["[".repeat(100_000), format!("a = {}", "[".repeat(100_000)), "{a={b=".repeat(50_000)] {
        for name in ["bomb.json", "bomb.toml"] {
            assert!(config::parse(&Source::new(name, text.as_str())).is_err());
        }
    }
    let deep = format!("{}a=1", "a.".repeat(100_000));
    assert_eq!(config::Edit::parse(&deep).unwrap_err().to_string(), "a path has at most 64 parts");
}
