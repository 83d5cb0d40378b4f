//! The head's loss and its gradients, of one and of several chunks of positions, against libtorch's cross entropy in fp64.

use neva_engine::comm::{Axis, Mesh};
use neva_engine::loss::Head;
use neva_engine::nn::TensorRegion;
use neva_engine::param_sync::Weight;
use tch::{Device, Kind, Reduction, Tensor, no_grad};

/// Width of the hidden states.
const H: i64 = 8;

#[test]
fn loss_is_the_cross_entropy_of_labelled_positions() {
    tch::manual_seed(7);
    // Positions and rows of the vocabulary: one chunk; two chunks; rows that are no multiple of a vector.
    for (s, v, kind) in [
        (40, 100, Kind::Float),
        (50, 131_072, Kind::Float),
        (30, 262_144, Kind::BFloat16),
        (5, 33, Kind::BFloat16),
    ] {
        let random = |size: &[i64]| {
            Tensor::randn(size, (Kind::Float, Device::Cpu))
                .to_kind(kind)
                .set_requires_grad(true)
        };
        let labels_bs = Tensor::randint(v, [2, s], (Kind::Int64, Device::Cpu));
        // Two positions in five have no label.
        let hidden_from = Tensor::arange(2 * s, (Kind::Int64, Device::Cpu)).view([2, s]).remainder(5).lt(2);
        let labels_bs = labels_bs.masked_fill(&hidden_from, -100);
        for trained in [true, false] {
            let (hidden_bsh, weight_vh) = (random(&[2, s, H]), random(&[v, H]).detach().set_requires_grad(trained));
            let region = TensorRegion::new(Mesh::single().axis(Axis::Tensor).clone(), false);
            let head = Head::new(Weight::from(weight_vh.shallow_clone()), 0, v as usize, region);
            let loss = head.loss_sum(&hidden_bsh, &labels_bs).unwrap().unwrap();
            (&loss * 0.25).backward();
            let wide = |x: &Tensor| x.detach().to_kind(Kind::Double).set_requires_grad(true);
            let (hidden, weight) = (wide(&hidden_bsh), wide(&weight_vh));
            let logits = hidden.flatten(0, 1).linear(&weight, None::<Tensor>);
            let theirs = logits.cross_entropy_loss::<Tensor>(&labels_bs.flatten(0, 1), None, Reduction::Sum, -100, 0.0);
            (&theirs * 0.25).backward();
            let relative = |own: &Tensor, theirs: &Tensor| {
                let difference = (own.to_kind(Kind::Double) - theirs).abs().max().double_value(&[]);
                difference / theirs.abs().max().double_value(&[])
            };
            let bound = if kind == Kind::Float { 1e-5 } else { 2e-2 };
            let mut errors = vec![
                relative(&loss.detach(), &theirs.detach()),
                relative(&hidden_bsh.grad(), &hidden.grad()),
            ];
            if trained {
                errors.push(relative(&weight_vh.grad(), &weight.grad()));
            }
            assert!(
                errors.iter().all(|error| *error < bound),
                "{s} positions, {v} rows, {kind:?}: {errors:?}"
            );
            assert!(trained || !weight_vh.grad().defined());
            // Without a graph, as in a validation.
            let plain = no_grad(|| head.loss_sum(&hidden_bsh, &labels_bs)).unwrap().unwrap();
            assert_eq!(plain.double_value(&[]), loss.double_value(&[]));
        }
    }
}
