//! Variables, modules and setup lines.

use std::{collections::BTreeMap, fmt::Write as _};

use neva_schemas::{SET_BY_LAUNCHER, SlurmExecutorConfig, env};

use super::text::quoted;

/// Returns the lines that set the environment up, before any function of the script is used.
pub(super) fn set_up(config: &SlurmExecutorConfig, variables: &BTreeMap<String, String>) -> String {
    let mut text = format!(
        "\n# The launcher's own, which ranks would take for theirs.\nunset {}\n",
        SET_BY_LAUNCHER.join(" ")
    );
    text += &exports(variables);
    if let Some(port) = config.launcher.as_ref().and_then(|launcher| launcher.settings()?.rdzv_port) {
        let _ = writeln!(text, "export {}={port}", env::MASTER_PORT);
    }
    if !config.modules.is_empty() {
        text.push('\n');
    }
    for module in &config.modules {
        let module = quoted(module);
        let _ = writeln!(text, "module load {module} || fail 3 \"cannot load the module \"{module}");
    }
    if let Some(libtorch) = &config.libtorch {
        let _ = writeln!(
            text,
            "\nexport LD_LIBRARY_PATH={}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}",
            quoted(&format!("{}/lib", libtorch.trim_end_matches('/')))
        );
    }
    if let Some(lines) = &config.setup_lines {
        let _ = writeln!(text, "\n# setup_lines\n{}", lines.trim_end());
    }
    text
}

/// Returns an `export` line for each variable. Their values may hold any character but NUL.
pub(super) fn exports(variables: &BTreeMap<String, String>) -> String {
    let line = |(name, value): (&String, &String)| format!("export {name}={}\n", quoted(value));
    variables.iter().map(line).collect()
}
