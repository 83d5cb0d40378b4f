//! Secrets are in no object that is rendered.

use neva_executors::{Executor as _, KubernetesExecutor};
use serde_json::json;

use crate::cases::{config, llava};

#[test]
fn values_of_the_launcher_are_in_no_manifest() {
    let settings = json!({"env_from": ["HF_TOKEN"], "env_secrets": {"WANDB_API_KEY": "wandb/key"}});
    let executor = KubernetesExecutor::new(config(&settings)).environment([("HF_TOKEN".to_owned(), "hf_verysecret".to_owned())].into());
    let submission = executor.render(&llava()).unwrap();
    let text = serde_json::to_string(&submission).unwrap();
    assert!(!text.contains("hf_verysecret"));
    assert!(!format!("{executor:?}").contains("hf_verysecret"), "logs print the executor");
    let reference = r#"{"name":"HF_TOKEN","valueFrom":{"secretKeyRef":{"name":"llava15-7b-"#;
    assert!(text.contains(reference), "{text}");
}
