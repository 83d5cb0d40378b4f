//! The demo: a small model learns 16 photographs and answers questions about them.

use neva_tests::{DEADLINE, finish_within, metrics, neva_run, root, run, run_folder, start};
use std::path::Path;

const QUESTION: &str = "What is in the picture?";

#[test]
fn a_small_model_learns_photographs_and_answers_questions() {
    let dir = tempfile::tempdir().unwrap();
    let at = format!("dir={}", dir.path().display());
    let done = finish_within(start(neva_run(&["examples/photos/recipe.yaml", "--set", &at])), 2 * DEADLINE).with_code(0);
    let folder = run_folder(dir.path(), "photos");
    for place in ["metrics.jsonl", "logs", "checkpoints"] {
        assert!(
            done.stdout.contains(folder.join(place).to_str().unwrap()),
            "{place} is not named in:\n{}",
            done.stdout
        );
    }
    let losses = metrics(&folder, "reduced_train_loss");
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(last < first / 100.0, "the loss went from {first} to {last} only");

    let answers = expected();
    assert_eq!(answers.len(), 16);
    // The question is the same for all, so the answer depends on the image.
    for (image, answer) in answers.iter().step_by(3) {
        assert_eq!(ask(&folder, &root().join("examples/photos").join(image)), *answer, "{image}");
    }
    // The answer depends on the image, not on its name.
    let swapped = dir.path().join(&answers[0].0);
    std::fs::copy(root().join("examples/photos").join(&answers[1].0), &swapped).unwrap();
    assert_eq!(ask(&folder, &swapped), answers[1].1);
}

/// Returns image and answer of every record with the common question.
fn expected() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("examples/photos/photos.json")).unwrap();
    let records: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let common = records
        .iter()
        .filter(|record| record["conversations"][0]["value"] == format!("<image>\n{QUESTION}"));
    common
        .map(|record| {
            (
                record["image"].as_str().unwrap().to_owned(),
                record["conversations"][1]["value"].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

fn ask(run_folder: &Path, image: &Path) -> String {
    let command = neva_run(&[
        "generate",
        "--checkpoint",
        run_folder.to_str().unwrap(),
        "--image",
        image.to_str().unwrap(),
        "--prompt",
        QUESTION,
    ]);
    run(command).with_code(0).stdout.trim().to_owned()
}
