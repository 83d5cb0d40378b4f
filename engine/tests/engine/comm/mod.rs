//! Process groups over threads.

mod failures;
mod mesh;

use crate::setting::within_limit;
use neva_engine::comm::{ProcessGroup, ProcessGroupFactory, Reduce, run_ranks};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

const LONG: Duration = Duration::from_secs(60);

/// Checks every operation on every kind that the engine sends. Also used by the tests of Gloo and NCCL.
pub(crate) fn check_collectives(group: &dyn ProcessGroup) {
    let (rank, size) = (group.rank() as i64, group.size() as i64);
    for kind in [Kind::Float, Kind::Double, Kind::Int64, Kind::BFloat16] {
        let of = |rank: i64| Tensor::from_slice(&[rank + 1, -10 * rank]).to_kind(kind).view([1, 2]);
        let check = |what: &str, got: &Tensor, expected: &[i64]| {
            assert_eq!((got.kind(), got.size()), (kind, vec![1, 2]), "{what}");
            assert_eq!(
                Vec::<i64>::try_from(got.to_kind(Kind::Int64).flatten(0, -1)).unwrap(),
                expected,
                "{what} of {kind:?} on rank {rank}"
            );
        };
        let (sum, max) = (of(rank), of(rank));
        group.all_reduce(&sum, Reduce::Sum).unwrap();
        check("sum", &sum, &[size * (size + 1) / 2, -5 * size * (size - 1)]);
        group.all_reduce(&max, Reduce::Max).unwrap();
        check("max", &max, &[size, 0]);

        let mine = of(rank);
        let gathered = group.all_gather(&mine).unwrap();
        // The gathered tensors are copies: writing to the source does not change them.
        let _ = mine.shallow_clone().fill_(7);
        assert_eq!(gathered.len() as i64, size);
        for (other, shard) in gathered.iter().enumerate() {
            check("gathered shard", shard, &[other as i64 + 1, -10 * other as i64]);
        }
        // The input of rank r is (r + 1) x [0, 1, ..], a row for each rank.
        let rows = Tensor::arange(2 * size, (Kind::Int64, Device::Cpu)).view([size, 2]).to_kind(kind) * (rank + 1);
        let shard = group.reduce_scatter(&rows).unwrap();
        let times = size * (size + 1) / 2;
        check("scattered shard", &shard.unsqueeze(0), &[2 * rank * times, (2 * rank + 1) * times]);
        for root in 0..size {
            let value = of(rank);
            group.broadcast(&value, root as usize).unwrap();
            check("broadcast", &value, &[root + 1, -10 * root]);
        }
        // Several at once, and receives in another order than the sends.
        let (first, second) = (of(rank), of(rank + 1));
        let (a, b) = (
            group.start_all_reduce(&first, Reduce::Sum).unwrap(),
            group.start_all_reduce(&second, Reduce::Max).unwrap(),
        );
        b.wait().unwrap();
        a.wait().unwrap();
        check("sum of two at once", &first, &[size * (size + 1) / 2, -5 * size * (size - 1)]);
        check("max of two at once", &second, &[size + 1, -10]);
        if size > 1 {
            let (next, previous) = (((rank + 1) % size) as usize, ((rank + size - 1) % size) as usize);
            let sent = [3, 4].map(|tag| group.send(&of(rank * 10 + i64::from(tag)), next, tag).unwrap());
            for tag in [4, 3] {
                let into = of(0);
                group.recv(&into, previous, tag).unwrap().wait().unwrap();
                let number = previous as i64 * 10 + i64::from(tag);
                check("received", &into, &[number + 1, -10 * number]);
            }
            sent.into_iter().for_each(|sent| sent.wait().unwrap());
        }
        let (scalar, empty) = (Tensor::from(rank).to_kind(kind), Tensor::zeros([0, 3], (kind, Device::Cpu)));
        group.all_reduce(&scalar, Reduce::Sum).unwrap();
        assert_eq!(scalar.double_value(&[]) as i64, size * (size - 1) / 2);
        group.all_reduce(&empty, Reduce::Sum).unwrap();
        assert_eq!(group.all_gather(&empty).unwrap().len() as i64, size);
    }
}

#[test]
fn threads_reduce_every_kind() {
    within_limit(|| {
        for world in [1, 2, 3] {
            run_ranks(world, LONG, |factory| {
                check_collectives(&*factory.group("all", &(0..world).collect::<Vec<_>>()).unwrap())
            });
        }
    });
}
