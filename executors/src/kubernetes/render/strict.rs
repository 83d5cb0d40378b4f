//! Checks rendered objects against the types of Kubernetes, so that a misspelt field is found before the job is submitted.

use k8s_openapi::api::{batch::v1::Job, core::v1::PodTemplateSpec};
use neva_schemas::KubernetesKind;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::refused;
use crate::error::ExecutorError;

/// Returns an error if the object has a field that Kubernetes does not know, or a value of another type.
pub(super) fn check(object: &Value, kind: KubernetesKind) -> Result<(), ExecutorError> {
    let problem = match kind {
        KubernetesKind::Job => unknown::<Job>(object, ""),
        KubernetesKind::JobSet => {
            let path = "spec.replicatedJobs.0.template.spec.template";
            let template = object.pointer("/spec/replicatedJobs/0/template/spec/template");
            template.and_then(|template| unknown::<PodTemplateSpec>(template, path))
        }
        // Its parts are the same as those of the pod's template that they were taken from.
        KubernetesKind::TrainJob => None,
    };
    match problem {
        None => Ok(()),
        Some(problem) => Err(refused(
            format!("Kubernetes does not accept the job: {problem}"),
            "compare `executor.overrides`, `affinity`, `tolerations` and the other parts that are written as in a pod",
        )),
    }
}

/// Returns the problem of an object that is not a `T`.
fn unknown<T: DeserializeOwned + Serialize>(object: &Value, path: &str) -> Option<String> {
    let typed: T = match serde_json::from_value(object.clone()) {
        Ok(typed) => typed,
        Err(error) => return Some(error.to_string()),
    };
    let known = serde_json::to_value(typed).ok()?;
    lost(object, &known, &mut path.to_owned()).map(|field| format!("there is no field `{field}`"))
}

/// Returns the path of a field of `object` that `known` lacks.
fn lost(object: &Value, known: &Value, path: &mut String) -> Option<String> {
    let length = path.len();
    let mut enter = |name: &str, value: &Value, known: Option<&Value>| {
        if length > 0 {
            path.push('.');
        }
        path.push_str(name);
        let found = match known {
            None if value.is_null() => None,
            None => Some(path.clone()),
            Some(known) => lost(value, known, path),
        };
        path.truncate(length);
        found
    };
    match object {
        Value::Object(map) => map.iter().find_map(|(name, value)| enter(name, value, known.get(name))),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, value)| enter(&index.to_string(), value, known.get(index))),
        _ => None,
    }
}
