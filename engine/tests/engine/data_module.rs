//! Custom data modules, and the order in which samples are read.

use crate::setting::{ONE, run_on, small, within_limit};
use neva_data::{DataError, Dataset, MockConfig, MockDataset, Sample};
use neva_engine::checkpoint::Artifacts;
use neva_engine::{DataModule, EngineError, Registry, Result, RunData};
use neva_schemas::{CustomData, Data, Finetune, RunReport, exit_class};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TARGET: &str = "tests::Listed";

/// Random samples that record which of them are read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    samples: usize,
    list: PathBuf,
}

impl DataModule for Listed {
    fn open(&self, finetune: &Finetune, base: Option<&Path>) -> Result<RunData> {
        assert_eq!(base, None, "the run starts from fresh weights");
        let model = finetune.model.as_llava().unwrap();
        let config = MockConfig {
            seq_length: finetune.data.seq_length(),
            image_seq_len: model.image_seq_length(),
            vocab_size: model.text_config.vocab_size as u64,
            image_height: model.vision_config.image_size,
            image_width: model.vision_config.image_size,
            num_samples: self.samples,
            ..MockConfig::default()
        };
        let list = Listing {
            samples: MockDataset::new(config)?,
            list: self.list.clone(),
        };
        Ok(RunData {
            train: Arc::new(list),
            val: None,
            artifacts: Artifacts::from([("own.txt".to_owned(), b"kept".to_vec())]),
        })
    }
}

struct Listing {
    samples: MockDataset,
    list: PathBuf,
}

impl Dataset for Listing {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let mut list = OpenOptions::new().create(true).append(true).open(&self.list).unwrap();
        writeln!(list, "{index}").unwrap();
        self.samples.get(index)
    }

    fn name(&self, index: usize) -> String {
        self.samples.name(index)
    }
}

/// Returns the small run with this data module, with `data` merged over its arguments.
fn finetune(data: Value) -> Finetune {
    let mut map = json!({
        "_target_": TARGET,
        "seq_length": 24,
        "global_batch_size": 4,
        "micro_batch_size": 2,
        "num_workers": 0,
    });
    map.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
    let mut finetune = small();
    finetune.data = Data::Custom(CustomData(map.as_object().unwrap().clone()));
    finetune.trainer.max_steps = Some(3);
    finetune
}

fn train(finetune: &Finetune, run_dir: &Path, registry: &Registry) -> Result<RunReport> {
    run_on(finetune, run_dir, ONE, registry).remove(0)
}

/// Returns the samples that a run of three steps reads of 6, four at a time.
fn read(data: Value) -> Vec<usize> {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list");
    let mut data = data;
    data["samples"] = json!(6);
    data["list"] = json!(list);
    let report = train(&finetune(data), folder.path(), &Registry::builtin().data::<Listed>(TARGET)).unwrap();
    assert_eq!(std::fs::read(report.checkpoint.unwrap().join("own.txt")).unwrap(), b"kept");
    let text = std::fs::read_to_string(list).unwrap();
    let read: Vec<_> = text.lines().map(|line| line.parse().unwrap()).collect();
    // Before the first step, the data are searched for a label: the first sample has one.
    assert_eq!(read[0], 0);
    read[1..].to_vec()
}

#[test]
fn a_custom_data_module_is_read_in_order_or_shuffled() {
    within_limit(|| {
        let twice: Vec<_> = (0..6).chain(0..6).collect();
        assert_eq!(read(json!({ "shuffle": false })), twice);
        assert_eq!(read(json!({ "shuffle": false, "seed": 7 })), twice);

        let shuffled = read(json!({}));
        assert_eq!(shuffled, read(json!({ "shuffle": true })), "shuffled by default");
        assert_ne!(shuffled, read(json!({ "seed": 7 })));
        let (first, second) = shuffled.split_at(6);
        assert_ne!(first, second);
        for epoch in [first, second] {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, twice[..6], "{epoch:?} is no permutation");
            assert_ne!(epoch, &twice[..6]);
        }
    });
}

#[test]
fn an_invalid_data_module_is_reported() {
    let check = |data: Value, registry: &Registry, expect: &str| {
        let folder = tempfile::tempdir().unwrap();
        let error = train(&finetune(data), folder.path(), registry).unwrap_err();
        assert!(matches!(error, EngineError::Run(_)), "{error:?}");
        assert_eq!(error.exit_code(), exit_class::INPUT);
        assert_eq!(error.to_string(), expect);
    };
    within_limit(move || {
        let own = Registry::builtin().data::<Listed>(TARGET);
        let whole = json!({ "samples": 6, "list": "/nowhere" });
        check(
            whole.clone(),
            &Registry::builtin(),
            "finetune.data._target_: this rank program has no data module `tests::Listed` (NEVA_RANK names the program that has it)",
        );
        check(
            json!({ "_target_": "tests::Other" }),
            &own,
            "finetune.data._target_: this rank program has no data module `tests::Other` (it has tests::Listed; NEVA_RANK names the program that has it)",
        );
        check(
            json!({ "list": "/nowhere" }),
            &own,
            "finetune.data: tests::Listed: missing field `samples`",
        );
        check(
            json!({ "samples": 6, "list": "/nowhere", "lits": 1 }),
            &own,
            "finetune.data: tests::Listed: unknown field `lits`, expected `samples` or `list`",
        );
        check(
            json!({ "samples": 0, "list": "/nowhere" }),
            &own,
            "finetune.data: the data module has no sample to train on",
        );
    });
}
