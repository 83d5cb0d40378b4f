//! Learning rate and weight decay of each parameter.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use neva_layout::{Hyperparameters, ParamSpec, hyperparameters, idle_groups, llava_parameters, lora_adapters};
use neva_schemas::{AdamW, Lion, LlavaModel, LoRA, Optim, ParamGroup, Sgd, VisionPlacement};

/// Learning rate 1, decay 0.1.
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

/// The parameters of a model with adapters.
fn parameters() -> Vec<ParamSpec> {
    let model = LlavaModel::default();
    let mut specs = llava_parameters(&model, VisionPlacement::Shared);
    specs.extend(lora_adapters(&model, &specs, &LoRA::default(), "peft").unwrap().parameters);
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
fn the_first_group_that_names_a_parameter_has_it() {
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
            assert_eq!(hyperparameters(optim, spec), expect, "{name} with {:?}", optim.groups());
        }
    };
    let of = |groups: &[ParamGroup]| adamw(None, groups.to_vec());
    // Without groups, matrices decay and nothing else does, whatever the optimizer.
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
    // A group's decay is that of all that it names; what it leaves open is the optimizer's.
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
    // A name in full, and a pattern that is only part of one.
    check(
        &of(&[group(&[MATRIX], Some(5.0), None), group(&["norm"], Some(6.0), None)]),
        &[(MATRIX, 5.0, 0.1), (NORM, 1.0, 0.0)],
    );
    // The projector's own comes after all groups.
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
fn patterns_that_name_nothing_are_told() {
    let check = |optim: &Optim, trained: &[&str], expect: &[&str]| {
        assert_eq!(idle_groups(optim, trained.iter().copied()), expect, "{:?}", optim.groups());
    };
    let groups = vec![group(&["*vision*", "*lora_B*"], None, None), group(&["*norm*", "*"], None, None)];
    check(&adamw(None, groups.clone()), &[NORM, BIAS, B], &[]);
    check(&adamw(None, groups.clone()), &[NORM], &["*vision*", "*lora_B*"]);
    check(&adamw(None, groups), &[], &["*vision*", "*lora_B*", "*norm*", "*"]);
    check(&adamw(None, Vec::new()), &[NORM], &[]);
    check(&adamw(Some(1.0), Vec::new()), &[NORM], &["*multi_modal_projector*"]);
    check(&adamw(Some(1.0), Vec::new()), &[PROJECTOR_BIAS], &[]);
}
