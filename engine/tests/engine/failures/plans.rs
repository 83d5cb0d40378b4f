//! Plans that are refused.

use super::recorded;
use crate::setting::{plan, small, within_limit};
use neva_engine::engine;
use neva_schemas::{Engine, Finetune, LaunchPlan, LoRA, Peft, RankEnv, exit_class};

/// Checks that a run is refused with exit code `class` and all of `expect` in the reason.
fn check_plan(change: impl FnOnce(&mut LaunchPlan), rank: &RankEnv, class: u8, expect: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(&small(), folder.path());
    change(&mut plan);
    let failure = engine().train(&plan, rank).unwrap_err();
    let text = failure.to_string();
    assert_eq!((failure.class, failure.rank, failure.step), (class, rank.rank, None), "{text}");
    for part in expect {
        assert!(text.contains(part), "{text}\nlacks: {part}");
    }
    assert_eq!(recorded(folder.path()), failure);
}

pub(super) fn check(change: impl FnOnce(&mut Finetune), expect: &[&str]) {
    check_plan(|plan| change(&mut plan.run.finetune), &RankEnv::single(), exit_class::INPUT, expect);
}

#[test]
fn invalid_plans_are_refused() {
    within_limit(|| {
        let single = RankEnv::single();
        check_plan(
            |plan| plan.format = 7,
            &single,
            exit_class::INPUT,
            &["plan.json", "format 7, this program reads format 1"],
        );
        check_plan(
            |plan| plan.run.finetune.trainer.devices = 2,
            &single,
            exit_class::INPUT,
            &["the run needs 2 ranks, but 1 were started", "num_gpus_per_node"],
        );
        let second = RankEnv {
            rank: 1,
            world_size: 3,
            ..RankEnv::single()
        };
        check_plan(|_| {}, &second, exit_class::INPUT, &["the run needs 1 ranks, but 3 were started"]);
        check(
            |finetune| {
                finetune.model.as_llava_mut().unwrap().text_config.hidden_size = 63;
                finetune.trainer.max_steps = Some(0);
                *finetune.optim.lr_mut() = -1.0;
            },
            &[
                "finetune.model.text_config.hidden_size",
                "finetune.trainer.max_steps",
                "finetune.optim.lr",
            ],
        );
        check(
            |finetune| finetune.trainer.strategy.pipeline_model_parallel_size = 2,
            &[
                "context x pipeline = 1 x 1 x 2",
                "use a multiple of 2 ranks, the nearest: 2 devices",
            ],
        );
        check(
            |finetune| {
                finetune.model.as_llava_mut().unwrap().freeze_vision_model = true;
                finetune.model.as_llava_mut().unwrap().freeze_vision_projection = true;
                finetune.model.as_llava_mut().unwrap().freeze_language_model = true;
            },
            &["all frozen"],
        );
        check(
            |finetune| {
                finetune.peft = Some(Peft::LoRA(LoRA {
                    target_modules: vec!["linear_kqv".into()],
                    ..LoRA::default()
                }))
            },
            &[
                "finetune.peft.target_modules",
                "linear_kqv",
                "module.language_model.decoder.layers.0.self_attention.linear_qkv",
            ],
        );
        check(
            |finetune| crate::setting::mock(finetune).seq_length = 5,
            &["`seq_length` 5 leaves no room for text", "nearest that fits: 7"],
        );
    });
}
