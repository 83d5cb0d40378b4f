//! JobSets and TrainJobs against the schemas of their custom resources; `crds/README.md` says where these are from.

use neva_executors::Payload;
use serde_json::{Value, json};

use crate::cases::cases;

/// Returns the problems of an object with the schema of its kind.
fn problems(object: &Value) -> Vec<String> {
    let schema = match object["kind"].as_str().unwrap() {
        "JobSet" => include_str!("crds/jobset.json"),
        "TrainJob" => include_str!("crds/trainjob.json"),
        kind => panic!("{kind} has no schema here"),
    };
    let validator = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
    validator
        .iter_errors(object)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

fn object(name: &str) -> Value {
    let case = cases().into_iter().find(|case| case.name == name).unwrap();
    let Payload::Manifests(manifests) = case.submission.payload else {
        panic!("{name}");
    };
    manifests.manifests.last().unwrap().clone()
}

#[test]
fn custom_resources_have_the_schemas_of_their_controllers() {
    for name in ["jobset", "trainjob"] {
        assert_eq!(problems(&object(name)), Vec::<String>::new(), "{name}");
    }
}

/// The schemas find what is wrong.
#[test]
fn a_wrong_field_or_type_is_found() {
    for (name, path, value) in [
        ("jobset", "/spec", json!({"replicatedJobs": [{"name": "x"}]})),
        ("jobset", "/spec/failurePolicy", json!({"maxRestart": 1})),
        ("jobset", "/spec/network/publishNotReadyAddresses", json!("yes")),
        ("trainjob", "/spec/trainer", json!({"numNode": 1})),
        ("trainjob", "/spec/runtimePatches/0/manager", json!("")),
        (
            "trainjob",
            "/spec/runtimePatches/0/trainingRuntimeSpec/template/spec/replicatedJobs/0/template/spec",
            json!({"podSpec": 1}),
        ),
    ] {
        let mut object = object(name);
        *object.pointer_mut(path).unwrap() = value;
        assert!(!problems(&object).is_empty(), "{name} {path}");
    }
}
