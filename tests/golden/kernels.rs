//! The comparison of a GPU's kernels with libtorch's formulae, as JSON for `make gpu-check`.

use neva_kernels::comparison::compare_on_gpu;
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::ExitCode;

/// Writes a list of differences, or an object with the reason why there is none.
pub(crate) fn compare(gpu: &str) -> ExitCode {
    let differences = match gpu.parse() {
        Ok(gpu) => compare_on_gpu(gpu),
        Err(_) => Err(format!("`{gpu}` is no number of a GPU")),
    };
    let microseconds = |time: std::time::Duration| time.as_secs_f64() * 1e6;
    let answer = match differences {
        Ok(differences) => (differences.iter())
            .map(|difference| {
                json!({
                    "case": difference.case,
                    "greatest": difference.greatest,
                    "bound": difference.bound,
                    "fused_us": microseconds(difference.fused),
                    "formula_us": microseconds(difference.formula),
                })
            })
            .collect::<Value>(),
        Err(reason) => json!({ "missing": reason }),
    };
    match writeln!(std::io::stdout(), "{answer}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
