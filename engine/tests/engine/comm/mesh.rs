//! Meshes: order of the ranks, and groups along each axis.

use super::LONG;
use crate::setting::within_limit;
use neva_engine::comm::{Axis, CommError, Mesh, ProcessGroup, ProcessGroupFactory, Reduce, Work, run_ranks};
use neva_schemas::ParallelSizes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tch::Tensor;

/// Factory that records the requested groups and creates none.
struct Recorder {
    rank: usize,
    world: usize,
    groups: Mutex<BTreeMap<String, Vec<usize>>>,
}

#[derive(Debug)]
struct Place(usize, usize);

impl ProcessGroup for Place {
    fn rank(&self) -> usize {
        self.0
    }

    fn size(&self) -> usize {
        self.1
    }

    fn start_all_reduce(&self, _: &Tensor, _: Reduce) -> Result<Work, CommError> {
        Err(CommError::HandshakeMismatch("no peer".into()))
    }

    fn start_all_gather(&self, _: &Tensor, _: &Tensor) -> Result<Work, CommError> {
        Err(CommError::HandshakeMismatch("no peer".into()))
    }

    fn start_reduce_scatter(&self, _: &Tensor, _: &Tensor) -> Result<Work, CommError> {
        Err(CommError::HandshakeMismatch("no peer".into()))
    }

    fn start_broadcast(&self, _: &Tensor, _: usize) -> Result<Work, CommError> {
        Err(CommError::HandshakeMismatch("no peer".into()))
    }

    fn send(&self, _: &Tensor, _: usize, _: u32) -> Result<Work, CommError> {
        Err(CommError::HandshakeMismatch("no peer".into()))
    }

    fn recv(&self, _: &Tensor, _: usize, _: u32) -> Result<Work, CommError> {
        Err(CommError::HandshakeMismatch("no peer".into()))
    }
}

impl ProcessGroupFactory for Recorder {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn group(&self, name: &str, members: &[usize]) -> Result<Arc<dyn ProcessGroup>, CommError> {
        let place = members.iter().position(|member| *member == self.rank).unwrap();
        assert!(
            self.groups.lock().unwrap().insert(name.into(), members.to_vec()).is_none(),
            "`{name}` was created twice"
        );
        Ok(Arc::new(Place(place, members.len())))
    }
}

fn all_sizes() -> Vec<ParallelSizes> {
    let mut all = Vec::new();
    for tp in 1..=3 {
        for cp in 1..=2 {
            for dp in 1..=3 {
                for pp in 1..=2 {
                    all.push(ParallelSizes { tp, cp, dp, pp });
                }
            }
        }
    }
    all
}

#[test]
fn rank_order_is_tensor_context_data_pipeline() {
    for sizes in all_sizes() {
        let lengths = [sizes.tp, sizes.cp, sizes.dp, sizes.pp].map(|size| size as usize);
        let world = sizes.world() as usize;
        let mut named: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let number = |place: [usize; 4]| ((place[3] * lengths[2] + place[2]) * lengths[1] + place[1]) * lengths[0] + place[0];
        for p in 0..lengths[3] {
            for d in 0..lengths[2] {
                for c in 0..lengths[1] {
                    for t in 0..lengths[0] {
                        let place = [t, c, d, p];
                        let factory = Recorder {
                            rank: number(place),
                            world,
                            groups: Mutex::default(),
                        };
                        let mesh = Mesh::new(sizes, &factory).unwrap();
                        let groups = factory.groups.into_inner().unwrap();
                        for (index, axis) in Axis::ALL.into_iter().enumerate() {
                            let group = mesh.axis(axis);
                            assert_eq!(
                                (group.rank(), group.size()),
                                (place[index], lengths[index]),
                                "{sizes:?} {axis:?} of {place:?}"
                            );
                            let members: Vec<_> = (0..lengths[index])
                                .map(|other| {
                                    let mut there = place;
                                    there[index] = other;
                                    number(there)
                                })
                                .collect();
                            assert!(
                                members.len() == 1 || groups.values().any(|found| *found == members),
                                "{sizes:?}: {groups:?} lacks {members:?}"
                            );
                        }
                        assert_eq!(
                            (mesh.world().rank(), mesh.world().size(), mesh.is_first()),
                            (number(place), world, number(place) == 0)
                        );
                        assert_eq!(mesh.sizes(), sizes);
                        for (name, members) in groups {
                            let known = named.entry(name.clone()).or_insert_with(|| members.clone());
                            assert_eq!(*known, members, "{sizes:?}: ranks disagree on `{name}`");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_mesh_of_another_size_is_refused() {
    let factory = Recorder {
        rank: 0,
        world: 3,
        groups: Mutex::default(),
    };
    let error = Mesh::new(
        ParallelSizes {
            tp: 2,
            ..ParallelSizes::ONE
        },
        &factory,
    )
    .unwrap_err();
    assert!(
        matches!(&error, CommError::Bug(text) if text.contains('3') && text.contains('2')),
        "{error}"
    );
}

#[test]
fn groups_of_a_mesh_sum_over_their_own_axis() {
    within_limit(|| {
        for sizes in all_sizes().into_iter().filter(|sizes| sizes.world() <= 12) {
            let sums = run_ranks(sizes.world() as usize, LONG, |factory| {
                let mesh = Mesh::new(sizes, &factory).unwrap();
                Axis::ALL.map(|axis| {
                    let sum = Tensor::from(factory.rank() as i64);
                    mesh.axis(axis).all_reduce(&sum, Reduce::Sum).unwrap();
                    sum.int64_value(&[])
                })
            });
            let lengths = [sizes.tp, sizes.cp, sizes.dp, sizes.pp].map(i64::from);
            for (rank, sums) in sums.into_iter().enumerate() {
                let mut stride = 1;
                for (sum, length) in sums.into_iter().zip(lengths) {
                    let coordinate = rank as i64 / stride % length;
                    let expected: i64 = (0..length).map(|other| rank as i64 + (other - coordinate) * stride).sum();
                    assert_eq!(sum, expected, "{sizes:?}, rank {rank}, stride {stride}");
                    stride *= length;
                }
            }
        }
    });
}
