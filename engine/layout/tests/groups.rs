//! Learning rate and weight decay of each parameter.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use neva_layout::{Families, Hyperparameters, ParamSpec, hyperparameters, lora_adapters, unmatched_optim_settings};
use neva_schemas::{AdamW, Lion, LlavaModel, LoRA, Model, Optim, ParamGroup, Sgd, VisionPlacement};

/// Returns AdamW with learning rate 1 and decay 0.1.
fn adamw(mm_projector_lr: Option<f64>, param_groups: Vec<ParamGroup>) -> Optim {
    Optim::AdamW(AdamW {
        lr: 1.0,
        weight_decay: 0.1,
        mm_projector_lr,
        param_groups,
        ..AdamW::default()
    })
}

fn group(params: &[&str], lr: Option<f64>, weight_decay: Option<f64>) -> ParamGroup {
    ParamGroup {
        params: params.iter().map(ToString::to_string).collect(),
        lr,
        weight_decay,
    }
}

/// Returns the parameters of a model with adapters.
fn parameters() -> Vec<ParamSpec> {
    let model = Model::Llava(LlavaModel::default());
    let table = Families::builtin().resolve(&model, "model").unwrap();
    let mut specs = table.parameters(VisionPlacement::Shared);
    specs.extend(lora_adapters(&specs, &LoRA::default(), "peft").unwrap().parameters);
    specs
}

const MATRIX: &str = "model.language_model.layers.1.mlp.up_proj.weight";
const NORM: &str = "model.language_model.norm.weight";
const BIAS: &str = "model.vision_tower.encoder.layers.0.mlp.fc1.bias";
const PROJECTOR: &str = "model.multi_modal_projector.linear_1.weight";
const PROJECTOR_BIAS: &str = "model.multi_modal_projector.linear_1.bias";
const A: &str = "model.language_model.layers.1.self_attn.linear_qkv.lora_A.weight";
const B: &str = "model.language_model.layers.1.self_attn.q_proj.lora_B.weight";

#[test]
fn the_first_matching_group_applies() {
    let specs = parameters();
    let check = |optim: &Optim, expect: &[(&str, f64, f64)]| {
        for (name, lr, weight_decay) in expect {
            let spec = specs
                .iter()
                .find(|spec| spec.name == *name)
                .unwrap_or_else(|| panic!("there is no `{name}`"));
            let expect = Hyperparameters {
                lr: *lr,
                weight_decay: *weight_decay,
            };
            assert_eq!(hyperparameters(optim, spec), expect, "{name} with {:?}", optim.param_groups());
        }
    };
    let of = |groups: &[ParamGroup]| adamw(None, groups.to_vec());
    // Without groups, only matrices decay, with every optimizer.
    let plain = [
        (MATRIX, 1.0, 0.1),
        (PROJECTOR, 1.0, 0.1),
        (A, 1.0, 0.1),
        (NORM, 1.0, 0.0),
        (BIAS, 1.0, 0.0),
    ];
    check(&of(&[]), &plain);
    let (lr, weight_decay) = (1.0, 0.1);
    check(
        &Optim::Sgd(Sgd {
            lr,
            weight_decay,
            ..Sgd::default()
        }),
        &plain,
    );
    check(
        &Optim::Lion(Lion {
            lr,
            weight_decay,
            ..Lion::default()
        }),
        &plain,
    );
    // A group's decay applies to all parameters that it matches; missing settings are the optimizer's.
    check(
        &of(&[
            group(&["*vision_tower*", "*norm*"], None, Some(0.3)),
            group(&["*"], Some(2.0), None),
        ]),
        &[(BIAS, 1.0, 0.3), (NORM, 1.0, 0.3), (MATRIX, 2.0, 0.1), (PROJECTOR_BIAS, 2.0, 0.0)],
    );
    check(
        &of(&[group(&["*lora_B*"], Some(16.0), None), group(&["*q_proj*"], Some(3.0), Some(0.0))]),
        &[
            (B, 16.0, 0.1),
            (A, 1.0, 0.1),
            ("model.language_model.layers.1.self_attn.q_proj.weight", 3.0, 0.0),
        ],
    );
    // A full name, and a pattern that matches only part of a name.
    check(
        &of(&[group(&[MATRIX], Some(5.0), None), group(&["norm"], Some(6.0), None)]),
        &[(MATRIX, 5.0, 0.1), (NORM, 1.0, 0.0)],
    );
    // Groups take precedence over `mm_projector_lr`.
    check(
        &adamw(Some(7.0), Vec::new()),
        &[(PROJECTOR, 7.0, 0.1), (PROJECTOR_BIAS, 7.0, 0.0), (MATRIX, 1.0, 0.1)],
    );
    check(
        &adamw(Some(7.0), vec![group(&["*linear_1.weight"], None, Some(0.5))]),
        &[(PROJECTOR, 1.0, 0.5), (PROJECTOR_BIAS, 7.0, 0.0)],
    );
}

#[test]
fn patterns_without_a_match_are_reported() {
    let check = |optim: &Optim, trained: &[&str], expect: &[&str]| {
        let specs = parameters();
        let trained = specs.iter().filter(|spec| trained.contains(&spec.name.as_str()));
        let expect: Vec<_> = expect
            .iter()
            .map(|pattern| match *pattern {
                "mm_projector_lr" => "mm_projector_lr: the projector has no trainable parameter".to_owned(),
                pattern => format!("param_groups: {pattern:?} matches no trainable parameter"),
            })
            .collect();
        assert_eq!(unmatched_optim_settings(optim, trained), expect, "{:?}", optim.param_groups());
    };
    let groups = vec![group(&["*vision*", "*lora_B*"], None, None), group(&["*norm*", "*"], None, None)];
    check(&adamw(None, groups.clone()), &[NORM, BIAS, B], &[]);
    check(&adamw(None, groups.clone()), &[NORM], &["*vision*", "*lora_B*"]);
    check(&adamw(None, groups), &[], &["*vision*", "*lora_B*", "*norm*", "*"]);
    check(&adamw(None, Vec::new()), &[NORM], &[]);
    check(&adamw(Some(1.0), Vec::new()), &[NORM], &["mm_projector_lr"]);
    check(&adamw(Some(1.0), Vec::new()), &[PROJECTOR_BIAS], &[]);
}
