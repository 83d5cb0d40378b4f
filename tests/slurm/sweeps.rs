//! A sweep of fine-tunes is an array.

use std::fs;

use neva_tests::root;

use crate::{
    cluster::Cluster,
    experiments::{command, experiment, jobs},
    training::{losses, steps},
};

/// A sweep of a fine-tune: the losses are those of the same runs on this machine, also where an element was retried.
#[test]
fn the_runs_of_a_sweep_train_as_on_this_machine() {
    let cluster = Cluster::shared();
    let points = ["lr=1e-2", "lr=1e-3", "lr=1e-4"];
    let trained = |place: &str, executor: Option<&str>| {
        let dir = cluster.dir.path().join(place);
        fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink(root().join("recipes"), dir.join("recipes")).unwrap();
        let mut arguments: Vec<String> = crate::cluster::tiny(
            &dir,
            "sweep",
            &["finetune.trainer.max_steps=10", "finetune.resume.resume_if_exists=false"],
        );
        // Each run is in the folder of its task.
        let at = arguments.iter().position(|word| word.starts_with("dir=")).unwrap();
        arguments.drain(at - 1..=at);
        arguments.extend(["--sweep", "finetune.optim.lr=1e-2,1e-3,1e-4", "--max-parallel", "2"].map(str::to_owned));
        if let Some(executor) = executor {
            arguments.extend(["--executor".to_owned(), executor.to_owned()]);
        }
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let _ = neva_tests::run(command(&cluster, &dir, &words)).with_code(0);
        experiment(&dir, "sweep").unwrap()
    };
    let here = trained("here", None);
    let executor = cluster.executor("sweep", "");
    let there = trained("there", Some(&executor));
    for point in points {
        let (here, there) = (here.join("tasks").join(point), there.join("tasks").join(point));
        assert_eq!(steps(&there), 10, "{point}");
        assert_eq!(losses(&here), losses(&there), "{point}");
    }
    let mut numbers = jobs(&there);
    numbers.sort();
    assert_eq!(numbers.len(), 3);
    assert!(
        numbers.iter().enumerate().all(|(task, id)| id.ends_with(&format!("_{task}"))),
        "{numbers:?}"
    );
}
