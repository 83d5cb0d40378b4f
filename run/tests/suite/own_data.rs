//! Custom data modules of the rank program: fields that the launcher reads, and fields that it forwards.

use neva_run::{
    config::{self, Origin, Source},
    resolve,
};
use neva_schemas::{Data, Run};
use serde_json::{Value, json};

fn resolved(text: &str, sets: &[&str]) -> Run {
    let node = config::parse(&Source::new("run.yaml", text)).expect("YAML");
    resolve(node, sets)
        .unwrap_or_else(|error| panic!("{}", config::render(&error, false)))
        .run
}

/// Returns a recipe whose data module is `data`, in braces.
fn recipe(data: &str) -> String {
    format!("_factory_: neva_tiny\nfinetune:\n  data: {data}\n")
}

#[test]
fn common_fields_are_read_and_others_are_forwarded() {
    let fields = |data: &Data| {
        json!([
            data.seq_length(),
            data.global_batch_size(),
            data.micro_batch_size(),
            data.num_workers(),
            data.shuffle(),
            data.seed()
        ])
    };
    for (data, sets, expect_fields, expect_arguments) in [
        // The defaults are those of `vlm.NevaPreloadedDataModule`.
        ("{_target_: 'my::Data'}", &[][..], json!([2048, 8, 4, 8, true, 1234]), json!({})),
        (
            "{_target_: 'my::Data', seq_length: 64, global_batch_size: 16, micro_batch_size: 2, num_workers: 0, shuffle: false, seed: 7}",
            &[],
            json!([64, 16, 2, 0, false, 7]),
            json!({}),
        ),
        (
            "{_target_: 'my::Data', micro_batch_size: 2, path: ./shards, mix: {a: 0.5, b: [1, 2]}}",
            &["finetune.data.num_workers=1", "finetune.data.mix.a=0.25"],
            json!([2048, 8, 2, 1, true, 1234]),
            json!({"path": "./shards", "mix": {"a": 0.25, "b": [1, 2]}}),
        ),
    ] {
        let run = resolved(&recipe(data), sets);
        assert_eq!(fields(&run.finetune.data), expect_fields, "{data}");
        let Data::Custom(custom) = &run.finetune.data else {
            panic!("{data}: {:?}", run.finetune.data)
        };
        assert_eq!(custom.target(), "my::Data");
        assert_eq!(Value::Object(custom.arguments()), expect_arguments, "{data}");

        // Ranks read the same run that `show` prints.
        let plan = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<Run>(&plan).unwrap(), run);
        let yaml = config::to_yaml_string(&config::to_node(&run, Origin::recipe("neva_tiny")).unwrap());
        assert_eq!(resolved(&yaml, &[]), run, "{yaml}");
    }
}

#[test]
fn invalid_common_fields_are_underlined() {
    let report = |data: &str| {
        let node = config::parse(&Source::new("run.yaml", recipe(data))).unwrap();
        config::render(&resolve(node, &[""; 0]).unwrap_err(), false)
    };
    for (data, expect) in [
        (
            "{_target_: 'my::Data', seq_length: long}",
            "`seq_length` is \"long\", it must be a whole number of at least 0",
        ),
        (
            "{_target_: 'my::Data', num_workers: -1}",
            "`num_workers` is -1, it must be a whole number of at least 0",
        ),
        ("{_target_: 'my::Data', shuffle: 1}", "`shuffle` is 1, it must be true or false"),
        (
            "{_target_: 'my::Data', seed: null}",
            "`seed` is null, it must be a whole number of at least 0",
        ),
        (
            "{_target_: 'my::Data', micro_batch_size: 0}",
            "`micro_batch_size` is 0, it must be at least 1",
        ),
        (
            "{_target_: 'my::Data', global_batch_size: 6}",
            "`global_batch_size` 6 is not a multiple of micro_batch_size x data-parallel ranks = 4 x 1 = 4",
        ),
        ("{_target_: vlm.MockDataModul}", "did you mean `vlm.MockDataModule`?"),
        ("{_target_: MyData}", "`my_crate::MyType`"),
    ] {
        let report = report(data);
        // Reports break long lines.
        let words = report.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(words.contains(expect), "{data}:\n{report}");
        assert!(report.contains("[run.yaml:3:"), "{data}:\n{report}");
    }
}

#[test]
fn a_graph_from_rust_is_checked_like_a_file() {
    let mut run = resolved(&recipe("{_target_: 'my::Data'}"), &[]);
    let Data::Custom(custom) = &mut run.finetune.data else {
        panic!("{:?}", run.finetune.data)
    };
    custom.0.insert("_target_".into(), json!("MyData"));
    custom.0.insert("seed".into(), json!(1.5));
    let problems = neva_schemas::Validate::problems(&run, "");
    let report: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        report,
        [
            "finetune.data.seed: `seed` is 1.5, it must be a whole number of at least 0",
            "finetune.data._target_: there is no data module \"MyData\" (built in are vlm.MockDataModule, vlm.NevaPreloadedDataModule and EnergonMultiModalDataModule; an own type is named by its path, my_crate::MyData)",
        ]
    );
}

#[test]
fn preloaded_data_is_shuffled_by_default() {
    for (rest, expect) in [("", true), (", shuffle: false", false)] {
        let run = resolved(
            &recipe(&format!("{{_target_: vlm.NevaPreloadedDataModule, paths: a.json{rest}}}")),
            &[],
        );
        assert_eq!(run.finetune.data.shuffle(), expect);
    }
    assert!(resolved("_factory_: neva_tiny", &[]).finetune.data.shuffle(), "mock data");
}
