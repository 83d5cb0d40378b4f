//! Reports of mistakes: the headline, the underlined characters, and what to write instead.

#![expect(dead_code, reason = "only Debug reads these types: they exist to be filled")]

mod files;
mod names;
mod overrides;
mod places;
mod scalars;

use std::collections::BTreeMap;

use neva_run::config::{self, Problems, Source};
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

// Without `deny_unknown_fields`: the tree still refuses unknown fields.
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

/// Returns the report for a file and overrides, or the value if there is no problem.
fn report(yaml: &str, overrides: &[&str]) -> String {
    match load(yaml, overrides) {
        Ok(recipe) => format!("{recipe:?}"),
        Err(problems) => config::render(&problems, false),
    }
}

fn load(yaml: &str, overrides: &[&str]) -> Result<Recipe, Problems> {
    let mut root = config::parse(&Source::new("train.yaml", yaml))?;
    config::apply_overrides(&mut root, overrides.iter().copied())?;
    Ok(config::from_node(&root)?)
}

/// Returns the good file with one line replaced.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old));
    GOOD.replace(old, new)
}

#[test]
fn good() {
    insta::assert_snapshot!(report(GOOD, &[]), @r#"Recipe { name: "tune", nodes: Some(2), precision: None, resume: false, env: {}, layers: [], optim: AdamW(AdamW { lr: 0.0001, betas: Some((0.9, 0.95)) }) }"#);
}
