//! Faults of NeMo-Run, and the tests that neva-run does not have them.
//!
//! | | NeMo-Run | test |
//! |---|---|---|
//! | F1 | the launching script runs again in each child, without end | `experiment_program::one_launcher_starts_all_tasks_and_its_program_is_not_executed_again`, `experiment_program::an_experiment_that_starts_itself_ends` |
//! | F2 | one broken cloud package breaks all imports | `process::the_program_links_no_libtorch`: nothing is imported, and nothing but the C library linked |
//! | F3 | every error of the command line exits with 0 | [`every_mistake_has_an_exit_code`], `cli/exit_codes.md`, `process::a_failure_sets_the_exit_code` |
//! | F4 | a failed task does not fail the run | `experiment_program::a_failed_task_fails_the_run_and_skips_its_dependents` |
//! | F5 | dependents of a failed task run | the same, and `experiment::an_edge_requires_how_the_parent_ended` |
//! | F6 | the first member of a group to end, well or not, ends the others | `experiment::a_group_is_stopped_only_on_failure` |
//! | F7 | `retries=2` makes one attempt | `experiment::two_retries_make_three_attempts`, `retry::a_run_that_fails_twice_succeeds_at_the_third_attempt` |
//! | F8 | exported configurations cannot be read | `recipes::show_prints_a_recipe_file_of_the_same_run`, `cli/export.md`, `config_properties.rs` |
//! | F9 | the environment is not quoted, and upper-cased | `experiment_tasks::environment_and_arguments_are_passed_unchanged` |
//! | F10 | text that equals a factory's name becomes an object | [`text_stays_text`], `overrides::text_that_looks_like_a_call_or_factory_stays_text` |
//! | F11 | an argument whose name begins with `run` is refused | [`a_name_may_begin_with_run`] |
//! | F12 | a value ends at its second `=` | [`a_value_may_hold_an_equals_sign`] |
//! | F13 | unknown flags are ignored | [`unknown_flags_are_refused`] |
//! | F14 | no name is suggested, contrary to the manual | [`the_nearest_name_is_suggested`] |
//! | F15 | lambdas and comprehensions are parsed but never accepted | [`values_are_not_parsed_as_code`] |
//! | F16 | tasks run the `python` in PATH, not the running one | `process::the_rank_program_is_found_by_variable_then_next_to_the_launcher_then_in_path` |

use neva_run::{config, load, resolve};
use neva_schemas::exit_class;

use crate::process::Program;

/// Returns the value at `path` of `neva_tiny` after one override.
#[track_caller]
fn value(set: &str, path: &str) -> String {
    let resolved = resolve(load("neva_tiny").unwrap(), &[set]).unwrap_or_else(|error| panic!("{set}: {}", config::render(&error, false)));
    let states = config::history(&resolved.traced().unwrap(), path);
    states.last().unwrap().value.clone().unwrap()
}

/// Returns the report of an invalid override.
#[track_caller]
fn mistake(set: &str) -> String {
    let problems = resolve(load("neva_tiny").unwrap(), &[set]).expect_err(set);
    config::render(&problems, false)
}

#[test]
fn every_mistake_has_an_exit_code() {
    for arguments in [
        &["neva_tiny", "--set", "finetune.trainer.max_steps=abc"][..],
        &["neva_tiny", "--set", "epochs=3"],
        &["neva_tiny", "--set", "name"],
        &["neva_tiny", "--executor", "nowhere"],
        &["neva_tiny", "--executor", "nowhere.yaml"],
        &["nowhere"],
        &["nowhere.yaml"],
        &[],
        &["show"],
        &["diff", "neva_tiny"],
        &["neva_tiny", "name=x"],
        &["validate", "nowhere.yaml"],
        &["recipes", "copy", "nowhere"],
        &["schema", "nowhere"],
        &["experiment", "status", "nowhere"],
    ] {
        let program = Program::new("", arguments);
        let home = program.dir.path().join("home").display().to_string();
        let (code, stdout, stderr, _dir) = program.env(&[("NEVA_RUN_HOME", &home)]).run();
        assert_eq!(code, i32::from(exit_class::INPUT), "{arguments:?}: {stdout}{stderr}");
        assert!(!stderr.is_empty() || arguments.is_empty(), "{arguments:?}");
    }
}

#[test]
fn text_stays_text() {
    for name in ["neva_tiny", "llava15_7b", "optim.Lion", "none", "vlm.LoRA"] {
        assert_eq!(value(&format!("name={name}"), "finetune.log.name"), name);
    }
}

#[test]
fn a_name_may_begin_with_run() {
    for name in ["runtime", "run", "executors", "plugins_of_mine", "factory"] {
        let set = format!("finetune.trainer.callbacks=[{{_target_: my_crate::Log, {name}: 5}}]");
        assert_eq!(value(&set, &format!("finetune.trainer.callbacks[0].{name}")), "5");
    }
    // A missing field is reported as such.
    assert!(mistake("runtime=5").contains("unknown field `runtime`"));
}

#[test]
fn a_value_may_hold_an_equals_sign() {
    assert_eq!(value("dir=/runs/lr=1e-4,tp=2", "dir"), "\"/runs/lr=1e-4,tp=2\"");
    assert_eq!(
        value("finetune.optim=optim.Lion(lr=1e-5, betas=[0.9, 0.99])", "finetune.optim.betas"),
        "[0.9, 0.99]"
    );
    let (code, stdout, stderr, _dir) = Program::new("", &["neva_tiny", "--dry-run", "--set", "executor.env_vars={A: 'b=c', B: d}"]).run();
    assert!(code == 0 && stdout.contains("A=b=c") && stdout.contains("B=d"), "{stdout}{stderr}");
}

#[test]
fn unknown_flags_are_refused() {
    for arguments in [
        &["neva_tiny", "--nosuch", "--dry-run"][..],
        &["show", "neva_tiny", "--nosuch"],
        &["diff", "neva_tiny", "neva_tiny", "--nosuch"],
        &["validate", "--nosuch", "a.yaml"],
        &["recipes", "list", "--nosuch"],
        &["experiment", "list", "--nosuch"],
        &["doctor", "--nosuch"],
        &["--nosuch"],
    ] {
        let (code, stdout, stderr, _dir) = Program::new("", arguments).run();
        assert_eq!(code, i32::from(exit_class::INPUT), "{arguments:?}: {stdout}");
        assert!(stderr.contains("unexpected argument '--nosuch'"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn the_nearest_name_is_suggested() {
    for (set, expect) in [
        ("num_node=2", "did you mean `num_nodes`?"),
        ("peft_scheme=loraa", "did you mean `lora`?"),
        ("finetune.optm.lr=1", "did you mean `optim`?"),
        ("finetune.optim.l_r=1", "did you mean `lr`?"),
        ("finetune.optim._target_=optim.Adam", "did you mean `optim.AdamW`?"),
        ("finetune.model=neva_tinny", "did you mean `neva_tiny`?"),
        ("_factory_=neva_tin", "did you mean `neva_tiny`?"),
        ("name=${num_node}", "did you mean `num_nodes`?"),
    ] {
        let report = mistake(set);
        assert!(report.contains(expect), "{set}: {report}");
    }
}

#[test]
fn values_are_not_parsed_as_code() {
    for text in ["lambda x: x", "[x for x in range(3)]", "1 if True else 2", "range(3)"] {
        assert!(
            mistake(&format!("finetune.trainer.max_steps={text}")).contains("finetune.trainer.max_steps"),
            "{text}"
        );
    }
    assert_eq!(value("dir='1 if True else 2'", "dir"), "\"1 if True else 2\"");
}
