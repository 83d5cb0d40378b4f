//! One recipe on three sites: three golden scripts, and one run. `UPDATE=1` writes the scripts.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

const RECIPE: &str = "recipes/llava15_7b.yaml";
const SITES: [&str; 3] = ["bare", "pyxis", "old"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Renders the recipe on two nodes of a site.
fn rendered(site: &str, sets: &[&str]) -> Value {
    let executor = format!("examples/sites/{site}.yaml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_neva-run"));
    command
        .args([
            "render",
            RECIPE,
            "--executor",
            &executor,
            "--set",
            "num_nodes=2",
            "--output",
            "json",
        ])
        .args(sets.iter().flat_map(|set| ["--set", set]))
        .env("HF_TOKEN", "hf_secret")
        .current_dir(root());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{site}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the batch script, with a fixed date.
fn script(submission: &Value) -> String {
    let text = submission["files"]["job.sbatch"].as_str().unwrap();
    let date = submission["dir"].as_str().unwrap().rsplit('/').next().unwrap();
    text.replace(date, "2026-11-24_10-00-00")
}

#[test]
fn three_sites_give_three_scripts() {
    let update = std::env::vars_os().any(|(name, _)| name == OsStr::new("UPDATE"));
    for site in SITES {
        let submission = rendered(site, &[]);
        let text = script(&submission);
        let file = root().join(format!("run/tests/sites/{site}.sbatch"));
        if update {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &text).unwrap();
        }
        let golden = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, golden, "{}: run with UPDATE=1 and read the diff", file.display());
        assert!(!submission.to_string().contains("hf_secret"), "{site}: a secret");
    }
}

#[test]
fn the_run_is_the_same_on_every_site() {
    let hashes = SITES.map(|site| rendered(site, &[])["run_hash"].clone());
    assert!(hashes.iter().all(|hash| *hash == hashes[0] && hash.is_string()), "{hashes:?}");
    let executor = rendered("bare", &["executor.time=10", "executor.partition=other"]);
    assert_eq!(executor["run_hash"], hashes[0]);
    assert!(script(&executor).contains("#SBATCH --partition=other\n#SBATCH --requeue\n#SBATCH --signal=USR1@300\n#SBATCH --time=10\n"));
    assert_ne!(rendered("bare", &["finetune.optim.lr=1e-3"])["run_hash"], hashes[0]);
}
