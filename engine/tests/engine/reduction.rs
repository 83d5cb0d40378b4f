//! Reduction of gradients: groups, time of the reduction, and the norm.

use crate::setting::{ONE, close, on_mesh, small, within_limit};
use neva_engine::comm::{Axis, Mesh};
use neva_engine::optim::{Gradients, Optimizer, Partition};
use neva_engine::parameters::{Parameter, Parameters};
use neva_layout::{Cut, Init, ParamSpec, Part, PartialSum, Stage};
use neva_schemas::{Finetune, ParallelSizes};
use std::collections::{BTreeMap, BTreeSet};
use tch::{Device, Kind, Tensor};

const EMBEDDING: &str = "model.language_model.embed_tokens.weight";

/// Returns parameters of ones; the embedding is `tied` to the head.
fn parameters(shapes: &[(&str, [i64; 2])], tied: bool) -> Parameters {
    let mut parameters = Parameters::default();
    for (name, shape) in shapes {
        parameters.insert(Parameter {
            spec: ParamSpec {
                name: (*name).into(),
                shape: shape.map(|size| size as usize).to_vec(),
                init: Init::Ones,
                cut: Cut::Replicate,
                heads: None,
                stage: if tied && *name == EMBEDDING {
                    Stage::FirstAndLast
                } else {
                    Stage::First
                },
                part: Part::Language,
                adapts: None,
                lora: None,
                partial_sum: PartialSum::Never,
                used: true,
            },
            tensor: Tensor::ones(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true),
            trainable: true,
            quantized: None,
        });
    }
    parameters
}

/// Returns a function whose gradient is `factor` for every value of the parameters `names`.
fn linear(parameters: &Parameters, names: &[&str], factor: f64) -> Tensor {
    let terms = names
        .iter()
        .map(|name| parameters.get(name).unwrap().tensor.sum(Kind::Float) * factor);
    terms.reduce(|sum, term| sum + term).unwrap()
}

struct Rank {
    parameters: Parameters,
    gradients: Gradients,
    optimizer: Optimizer,
}

fn rank(finetune: &Finetune, mesh: &Mesh, shapes: &[(&str, [i64; 2])]) -> Rank {
    let decoder = finetune.model.description().decoder.unwrap();
    let parameters = parameters(shapes, decoder.config.tie_word_embeddings);
    let strategy = &finetune.trainer.strategy;
    let partition = Partition::new(&parameters, finetune, mesh);
    Rank {
        gradients: Gradients::new(&parameters, &partition, strategy, mesh).unwrap(),
        optimizer: Optimizer::new(&finetune.optim, &strategy.ddp, &parameters, &partition).unwrap(),
        parameters,
    }
}

impl Rank {
    /// Returns the values of each gradient that this rank updates, by name; `None` if it was not touched.
    fn own(&self) -> BTreeMap<String, Option<Vec<f32>>> {
        let mut shards = self.optimizer.shards().peekable();
        let all = self.parameters.trainable().zip(self.gradients.touched());
        all.filter_map(|(parameter, gradient)| {
            let shard = shards.next_if(|shard| shard.spec.name == parameter.spec.name)?;
            let own = gradient.map(|gradient| {
                let flat = gradient.view([-1]);
                Vec::try_from(flat.narrow(0, shard.range.start as i64, shard.range.len() as i64)).unwrap()
            });
            Some((parameter.spec.name.clone(), own))
        })
        .collect()
    }
}

#[test]
fn the_embedding_group_sums_a_tied_embedding() {
    within_limit(|| {
        for (pp, distributed) in [(2, false), (2, true), (3, false), (3, true)] {
            let mut finetune = small();
            finetune.model.as_llava_mut().unwrap().text_config.tie_word_embeddings = true;
            finetune.trainer.strategy.ddp.use_distributed_optimizer = distributed;
            let ranks = on_mesh(ParallelSizes { pp, dp: 2, ..ONE }, |mesh| {
                let (stage, data) = (mesh.axis(Axis::Pipeline).rank(), mesh.axis(Axis::Data).rank());
                let last = stage + 1 == pp as usize;
                let shapes: &[_] = match stage {
                    0 => &[(EMBEDDING, [13, 10]), ("a", [7, 5])],
                    _ if last => &[("b", [70, 3]), (EMBEDDING, [13, 10]), ("c", [3, 1])],
                    _ => &[("d", [2, 2])],
                };
                let mut rank = rank(&finetune, &mesh, shapes);
                // One rank of the embedding group does not reach the embedding.
                let mut reached: Vec<_> = shapes.iter().map(|(name, _)| *name).collect();
                if !(last && data == 1) {
                    reached.retain(|name| *name != EMBEDDING);
                }
                let factor = (1 + data) as f64;
                let output = linear(&rank.parameters, &reached, factor);
                rank.gradients.backward(&output, None, None, &[]).unwrap();
                rank.gradients.reduce(&mesh).unwrap();
                (rank.own(), rank.gradients.norm(&mesh).unwrap())
            });
            let middle = if pp == 3 { 2 * 2 } else { 0 };
            let squares = 13.0 * 10.0 * 4.0 + f64::from(7 * 5 + 70 * 3 + 3 + middle) * 9.0;
            let mut seen = BTreeSet::new();
            for (own, norm) in ranks {
                close("norm", &[norm], &[f64::sqrt(squares)], 1e-6);
                for (name, values) in own {
                    let expected = if name == EMBEDDING { 2.0 } else { 3.0 };
                    let values = values.unwrap_or_else(|| panic!("`{name}` counts as touched on every rank"));
                    assert!(values.iter().all(|value| *value == expected), "`{name}`: {values:?}");
                    seen.insert(name);
                }
            }
            assert_eq!(seen.len(), if pp == 3 { 5 } else { 4 });
        }
    });
}

#[test]
fn an_untied_embedding_is_not_summed() {
    within_limit(|| {
        let finetune = small();
        let sums = on_mesh(ParallelSizes { pp: 2, ..ONE }, |mesh| {
            let mut rank = rank(&finetune, &mesh, &[(EMBEDDING, [2, 2])]);
            let output = linear(&rank.parameters, &[EMBEDDING], 1.0);
            rank.gradients.backward(&output, None, None, &[0]).unwrap();
            rank.gradients.reduce(&mesh).unwrap();
            (rank.own().remove(EMBEDDING).flatten(), rank.gradients.norm(&mesh).unwrap())
        });
        for (values, norm) in sums {
            assert_eq!(values.unwrap(), [1.0; 4]);
            close("norm", &[norm], &[f64::sqrt(8.0)], 1e-6);
        }
    });
}

const THREE: &[(&str, [i64; 2])] = &[("a", [4, 4]), ("b", [4, 4]), ("c", [4, 4])];

/// Returns the number of buckets that this rank has reduced.
fn sent(mesh: &Mesh) -> u64 {
    let traffic = mesh.traffic();
    let calls = |operation| traffic["data"].get(operation).map_or(0, |sent| sent.calls);
    calls("reduce_scatter") + calls("all_reduce")
}

#[test]
fn full_buckets_are_reduced_in_order() {
    within_limit(|| {
        for (distributed, overlap) in [(true, true), (false, true), (true, false)] {
            let mut finetune = small();
            let ddp = &mut finetune.trainer.strategy.ddp;
            (ddp.use_distributed_optimizer, ddp.overlap_grad_reduce, ddp.bucket_size) = (distributed, overlap, 16);
            on_mesh(ParallelSizes { dp: 2, ..ONE }, |mesh| {
                let mut rank = rank(&finetune, &mesh, THREE);
                let data = mesh.axis(Axis::Data).rank();
                let mut pass = |names: &[&str], last: &[usize]| {
                    let output = linear(&rank.parameters, names, 1.0);
                    rank.gradients.backward(&output, None, None, last).unwrap();
                    if overlap { sent(&mesh) } else { 0 }
                };
                // The ranks complete buckets in different orders: `c` is reduced first on both.
                let after = if data == 0 {
                    [
                        pass(&["a", "b", "c"], &[]),
                        pass(&["a"], &[0]),
                        pass(&["c"], &[2]),
                        pass(&["b"], &[1]),
                    ]
                } else {
                    [
                        pass(&["c"], &[2]),
                        pass(&["b"], &[]),
                        // Without a gradient of `a`.
                        pass(&["b"], &[0, 1]),
                        sent(&mesh) * u64::from(overlap),
                    ]
                };
                let expected = match (overlap, data) {
                    (false, _) => [0, 0, 0, 0],
                    (true, 0) => [0, 0, 1, 3],
                    (true, _) => [1, 1, 3, 3],
                };
                assert_eq!(after, expected, "distributed: {distributed}");
                rank.gradients.reduce(&mesh).unwrap();
                let expected = BTreeMap::from([("a", 2.0), ("b", 4.0), ("c", 3.0)]);
                for (name, values) in rank.own() {
                    let expected = expected[name.as_str()];
                    assert!(values.unwrap().iter().all(|value| *value == expected), "{name}");
                }
            });
        }
    });
}

#[test]
fn a_gradient_after_the_last_pass_is_a_bug() {
    within_limit(|| {
        let mut finetune = small();
        finetune.trainer.strategy.ddp.overlap_grad_reduce = true;
        on_mesh(ParallelSizes { dp: 2, ..ONE }, |mesh| {
            let mut rank = rank(&finetune, &mesh, THREE);
            let mut pass = |last: &[usize]| {
                let output = linear(&rank.parameters, &["a", "b", "c"], 1.0);
                rank.gradients.backward(&output, None, None, last)
            };
            pass(&[0, 1, 2]).unwrap();
            let error = pass(&[]).unwrap_err().to_string();
            assert!(error.contains("comes after its last backward pass"), "{error}");
        });
    });
}

#[test]
fn backward_returns_the_gradient_of_its_input() {
    within_limit(|| {
        let mesh = Mesh::single();
        let mut rank = rank(&small(), &mesh, &[("a", [1, 2])]);
        let a = &rank.parameters.get("a").unwrap().tensor;
        let input = Tensor::from_slice(&[3f32, 5.0]).set_requires_grad(true);
        let output = a * &input;
        let seed = Tensor::from_slice2(&[[10f32, 100.0]]);
        let gradient = rank.gradients.backward(&output, Some(&seed), Some(&input), &[0]).unwrap();
        assert_eq!(Vec::<f32>::try_from(gradient.unwrap()).unwrap(), [10.0, 100.0]);
        rank.gradients.reduce(&mesh).unwrap();
        assert_eq!(rank.own()["a"], Some(vec![30.0, 500.0]));
    });
}

/// Two parameters, and a function of them whose gradients are one tensor, views or parts of one, or no matrices of their own.
struct Sharing {
    name: &'static str,
    shapes: [[i64; 2]; 2],
    function: fn(&[Tensor; 2]) -> Tensor,
}

const SHARING: &[Sharing] = &[
    Sharing {
        name: "one tensor",
        shapes: [[4, 4], [4, 4]],
        function: |[a, b]| a + b,
    },
    Sharing {
        name: "a tensor and a view of it",
        shapes: [[4, 4], [2, 8]],
        function: |[a, b]| a + b.view([4, 4]),
    },
    Sharing {
        name: "two views",
        shapes: [[2, 8], [8, 2]],
        function: |[a, b]| a.view([4, 4]) + b.view([4, 4]),
    },
    Sharing {
        name: "a view that the rest of the pass reads",
        shapes: [[4, 4], [2, 8]],
        function: |[a, b]| (b * 3.0).view([4, 4]) + a.view([4, 4]),
    },
    Sharing {
        name: "parts of one tensor",
        shapes: [[2, 4], [2, 4]],
        function: |ab| Tensor::cat(ab, 0),
    },
    Sharing {
        name: "a transposed tensor",
        shapes: [[4, 4], [4, 4]],
        function: |[a, b]| a.tr() + b,
    },
    Sharing {
        name: "an expanded value",
        shapes: [[4, 4], [4, 4]],
        function: |[a, b]| (a.sum(Kind::Float) + b.sum(Kind::Float)).expand([4, 4], false),
    },
];

/// Returns a loss of a sum, with other gradients in each pass.
fn weighted(sum: &Tensor, pass: usize) -> Tensor {
    let weights = Tensor::arange(16, (Kind::Float, Device::Cpu)) + pass as f64;
    (sum.reshape([-1]) * weights).sum(Kind::Float)
}

/// Each gradient is summed over passes and ranks, and scaled, by itself.
#[test]
fn gradients_of_one_memory_do_not_change_each_other() {
    within_limit(|| {
        let mut finetune = small();
        // A bucket for each parameter, reduced while the backward pass runs.
        let ddp = &mut finetune.trainer.strategy.ddp;
        (ddp.use_distributed_optimizer, ddp.overlap_grad_reduce, ddp.bucket_size) = (false, true, 1);
        for (Sharing { name, shapes, function }, dp) in SHARING.iter().flat_map(|sharing| [(sharing, 1), (sharing, 2)]) {
            on_mesh(ParallelSizes { dp, ..ONE }, |mesh| {
                let mut rank = rank(&finetune, &mesh, &[("a", shapes[0]), ("b", shapes[1])]);
                let leaves = ["a", "b"].map(|name| rank.parameters.get(name).unwrap().tensor.shallow_clone());
                let others = leaves.each_ref().map(|leaf| leaf.detach().set_requires_grad(true));
                let mut expected = [0.0, 0.0].map(|zero| Tensor::from(zero).to_kind(Kind::Float));
                for (pass, last) in [&[][..], &[0, 1]].into_iter().enumerate() {
                    rank.gradients
                        .backward(&weighted(&function(&leaves), pass), None, None, last)
                        .unwrap();
                    let gradients = Tensor::run_backward(&[weighted(&function(&others), pass)], &others, false, false);
                    expected
                        .iter_mut()
                        .zip(gradients)
                        .for_each(|(sum, gradient)| *sum = &*sum + gradient);
                }
                rank.gradients.reduce(&mesh).unwrap();
                rank.gradients.scale(0.5).unwrap();
                for ((parameter, values), sum) in rank.own().into_iter().zip(expected) {
                    let expected: Vec<f32> = (sum.reshape([-1]) * (0.5 * f64::from(dp))).try_into().unwrap();
                    assert_eq!(values.unwrap(), expected, "{name}: gradient of `{parameter}` on {dp} ranks");
                }
            });
        }
    });
}
