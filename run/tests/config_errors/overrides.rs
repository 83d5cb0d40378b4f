//! Overrides that cannot be parsed or do not apply.

use crate::{GOOD, report};

#[test]
fn override_with_a_wrong_value() {
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
fn override_of_an_item() {
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
fn override_with_an_unknown_field() {
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
fn override_of_a_type() {
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
fn override_through_a_scalar() {
    insta::assert_snapshot!(report(GOOD, &["optim.lr.max=1"]), @r#"
     × `optim.lr.max`: expected a map to descend into, found `1e-4`
      ╭─[--set:1:10]
    1 │ optim.lr.max=1
      ·          ─┬─
      ·           ╰── expected a map to descend into
      ╰────
     help: `1e-4` comes from train.yaml:5:7
    "#);
}

#[test]
fn override_past_the_end() {
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
fn deletion_of_a_missing_key() {
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
fn override_adding_a_list_to_text() {
    insta::assert_snapshot!(report(GOOD, &["name+=[x]"]), @r#"
     × `name`: expected a list to append to, found `tune`
      ╭─[--set:1:1]
    1 │ name+=[x]
      · ──┬─
      ·   ╰── expected a list to append to
      ╰────
     help: `tune` comes from train.yaml:1:7
    "#);
}

#[test]
fn override_dividing_by_zero() {
    insta::assert_snapshot!(report(GOOD, &["nodes/=0"]), @r#"
     × `nodes`: division by zero
      ╭─[--set:1:8]
    1 │ nodes/=0
      ·        ┬
      ·        ╰── here
      ╰────
    "#);
}

#[test]
fn override_with_bad_yaml() {
    insta::assert_snapshot!(report(GOOD, &["env={A: [1}"]), @r#"
     × mismatched bracket '[' closed by '}'
      ╭─[--set:1:9]
    1 │ env={A: [1}
      ·         ┬
      ·         ╰── here
      ╰────
     help: write text with special characters in quotes: `env="{A: [1}"`
    "#);
}

#[test]
fn override_with_an_alias() {
    insta::assert_snapshot!(report(GOOD, &["name=*.linear_qkv"]), @r#"
     × alias references unknown anchor
      ╭─[--set:1:6]
    1 │ name=*.linear_qkv
      ·      ┬
      ·      ╰── here
      ╰────
     help: write text with special characters in quotes: `name="*.linear_qkv"`
    "#);
}

#[test]
fn several_bad_overrides() {
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
fn several_overrides_that_do_not_apply() {
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
