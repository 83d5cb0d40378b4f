//! `neva-run show RECIPE`: the resolved run.

use clap::Args;

use super::{OutputArgs, RecipeInput, report::Report};
use crate::{
    config::{Origin, to_json, to_node, to_yaml_string},
    error::RunError,
};

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    input: RecipeInput,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn show(args: &ShowArgs, report: &mut Report) -> Result<(), RunError> {
    let resolved = args.input.resolve()?;
    report.warnings(&resolved.warnings);
    let node = to_node(&resolved.run, Origin::recipe(&resolved.run.factory))?;
    report.result(to_yaml_string(&node).trim_end(), &to_json(&node));
    Ok(())
}
