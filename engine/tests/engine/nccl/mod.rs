//! Process groups over NCCL: unique ids, order of transfers, and failures. Library and GPU are simulated; the store is
//! c10d's.

mod failures;
mod gpu;
mod library;

use crate::comm::check_collectives;
use crate::setting::{ONE, Samples, close, lay_out, microbatches, mock, small, train, trainer, within_limit};
use gpu::{Gpu, Simulation};
use neva_engine::comm::{CommError, Mesh, NcclWorld, ProcessGroupFactory, ThreadFactory, run_ranks};
use neva_schemas::ParallelSizes;
use neva_torch_ffi::TcpStore;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

const HOST: &str = "127.0.0.1";
const LONG: Duration = Duration::from_secs(60);

/// Runs `body` on ranks with one simulated GPU each.
fn on_gpus<T: Send>(
    world: usize,
    timeout: Duration,
    gpu: impl Fn() -> Gpu + Sync,
    body: impl Fn(&ThreadFactory, NcclWorld<Gpu>) -> T + Sync,
) -> Vec<T> {
    let store = TcpStore::server(HOST, 0, world, LONG).unwrap();
    run_ranks(world, LONG, |factory| {
        let nccl = NcclWorld::new(gpu(), &store, factory.rank(), timeout).unwrap();
        body(&factory, nccl)
    })
}

fn all(world: usize) -> Vec<usize> {
    (0..world).collect()
}

#[test]
fn every_collective_of_every_size() {
    within_limit(|| {
        for world in 2..=4 {
            let simulation = Arc::default();
            on_gpus(
                world,
                LONG,
                || Gpu::new(&simulation),
                |host, nccl| {
                    check_collectives(&*nccl.over(host).ring("ring", &all(world)).unwrap());
                    nccl.leave();
                },
            );
            assert_eq!(simulation.aborted.load(Ordering::Relaxed), 0);
            // The group's communicator, and each link at both ends: one to either side, which are the same for two ranks.
            let links = if world == 2 { 2 } else { 2 * world };
            assert_eq!(simulation.destroyed.load(Ordering::Relaxed) as usize, world + 2 * links);
        }
    });
}

#[test]
fn cpu_tensors_go_through_the_host_group() {
    within_limit(|| {
        let simulation = Arc::default();
        on_gpus(
            2,
            LONG,
            || Gpu::of(&simulation, Kind::Double),
            |host, nccl| {
                let group = nccl.over(host).ring("ring", &all(2)).unwrap();
                let connected = simulation.begun("send");
                for kind in [Kind::Float, Kind::Int64, Kind::Bool] {
                    let (mine, into) = (Tensor::ones([2], (kind, Device::Cpu)), Tensor::zeros([2], (kind, Device::Cpu)));
                    group.broadcast(&mine, 1).unwrap();
                    let sent = group.send(&mine, 1 - group.rank(), 5).unwrap();
                    group.recv(&into, 1 - group.rank(), 5).unwrap().wait().unwrap();
                    sent.wait().unwrap();
                    assert!(into.equal(&mine));
                }
                assert_eq!((simulation.begun("broadcast"), simulation.begun("send")), (0, connected));
                // Tags of headers are not allowed for CPU tensors.
                let refused = group.send(&Tensor::from(1f32), 1 - group.rank(), 1 << 30).unwrap_err();
                assert!(refused.to_string().contains("go up to 1073741823"), "{refused}");
                check_collectives(&*group);
                assert!(simulation.begun("broadcast") > 0);
                nccl.leave();
            },
        );
    });
}

#[test]
fn a_send_without_a_link_is_refused() {
    within_limit(|| {
        let simulation = Arc::default();
        on_gpus(
            3,
            LONG,
            || Gpu::new(&simulation),
            |host, nccl| {
                let group = nccl.over(host).group("flat", &all(3)).unwrap();
                let refused = group.send(&Tensor::from(1f32), (group.rank() + 1) % 3, 0).unwrap_err();
                assert!(refused.to_string().contains("have no link"), "{refused}");
                let error = nccl.over(host).group("others", &[7]).unwrap_err();
                assert!(matches!(error, CommError::Bug(_)), "{error}");
                nccl.leave();
            },
        );
    });
}

/// Returns the numbers 0..24 in an order that depends on the seed alone.
fn shuffled(seed: u64) -> Vec<u32> {
    let mut state = seed;
    let mut keyed: Vec<_> = (0..24u32)
        .map(|number| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33, number)
        })
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, number)| number).collect()
}

/// Returns tensor `number` of a rank: six tags, four tensors each, of different sizes; some are empty.
fn numbered(rank: usize, number: u32) -> Tensor {
    Tensor::full(
        [i64::from(number % 6)],
        f64::from(number) + 100.0 * rank as f64,
        (Kind::Float, Device::Cpu),
    )
}

#[test]
fn transfers_are_matched_by_tag_in_any_order() {
    within_limit(|| {
        for seed in 0..8 {
            let simulation = Arc::default();
            on_gpus(
                2,
                LONG,
                || Gpu::new(&simulation),
                |host, nccl| {
                    let group = nccl.over(host).ring("pair", &all(2)).unwrap();
                    let (rank, peer) = (group.rank(), 1 - group.rank());
                    let own = 3 * seed + rank as u64;
                    // Half of the receives are posted before the sends, half afterwards; within a tag in the order of sending.
                    let mut expected = vec![std::collections::VecDeque::new(); 6];
                    shuffled(3 * seed + peer as u64)
                        .into_iter()
                        .for_each(|number| expected[number as usize % 6].push_back(number));
                    let ask = |number: u32| {
                        let into = Tensor::zeros([i64::from(number % 6)], (Kind::Float, Device::Cpu));
                        let pending = group.recv(&into, peer, number % 6).unwrap();
                        (into, pending)
                    };
                    let orders = shuffled(own + 50);
                    let (early, late) = orders.split_at(12);
                    let mut asked: Vec<_> = early.iter().map(|number| (number % 6, ask(*number))).collect();
                    let sent: Vec<_> = shuffled(own)
                        .into_iter()
                        .map(|number| group.send(&numbered(rank, number), peer, number % 6).unwrap())
                        .collect();
                    asked.extend(late.iter().map(|number| (number % 6, ask(*number))));
                    let mut tensors: Vec<_> = asked
                        .into_iter()
                        .map(|(tag, (into, pending))| (expected[tag as usize].pop_front().unwrap(), into, pending))
                        .collect();
                    // Wait in reverse order.
                    tensors.reverse();
                    for (number, into, pending) in tensors {
                        pending.wait().unwrap();
                        assert!(
                            into.equal(&numbered(peer, number)),
                            "seed {seed}, rank {rank}: {number} is {into:?}"
                        );
                    }
                    sent.into_iter().for_each(|sent| sent.wait().unwrap());
                    nccl.leave();
                },
            );
        }
    });
}

#[test]
fn a_call_does_not_wait_for_the_other_ranks() {
    within_limit(|| {
        let simulation = Arc::<Simulation>::default();
        let (begun, wait) = channel();
        let (begun, wait) = (std::sync::Mutex::new(begun), std::sync::Mutex::new(wait));
        on_gpus(
            2,
            LONG,
            || Gpu::new(&simulation),
            |host, nccl| {
                let group = nccl.over(host).ring("pair", &all(2)).unwrap();
                let (sum, parcel) = (Tensor::from(1f32), Tensor::from(5f32));
                if group.rank() == 1 {
                    wait.lock().unwrap().recv_timeout(LONG).unwrap();
                }
                let pending = group.start_all_reduce(&sum, neva_engine::comm::Reduce::Sum).unwrap();
                let transfer = match group.rank() {
                    0 => group.send(&parcel, 1, 0).unwrap(),
                    _ => group.recv(&parcel, 0, 0).unwrap(),
                };
                if group.rank() == 0 {
                    begun.lock().unwrap().send(()).unwrap();
                }
                // A tensor whose work handle is dropped is held until its call is complete.
                let held = simulation.held.load(Ordering::Relaxed);
                match group.rank() {
                    0 => drop(transfer),
                    _ => transfer.wait().unwrap(),
                }
                if group.rank() == 0 {
                    assert_eq!(simulation.held.load(Ordering::Relaxed), held + 1);
                }
                pending.wait().unwrap();
                assert_eq!(sum.double_value(&[]), 2.0);
                nccl.leave();
            },
        );
        assert_eq!(simulation.held.load(Ordering::Relaxed), 1);
    });
}

/// Returns the losses of a run on ranks with simulated GPUs.
fn losses(finetune: &neva_schemas::Finetune, samples: &Samples, sizes: ParallelSizes, steps: u64) -> Vec<f64> {
    let mut finetune = finetune.clone();
    lay_out(&mut finetune, sizes);
    let simulation = Arc::<Simulation>::default();
    let ranks = on_gpus(
        sizes.world() as usize,
        LONG,
        || Gpu::new(&simulation),
        |host, nccl| {
            let mesh = Mesh::new(sizes, &nccl.over(host)).unwrap();
            let mut trainer = trainer(&finetune, mesh.clone());
            let losses: Vec<_> = (0..steps)
                .map(|step| {
                    let batch = microbatches(&finetune, samples, &mesh, step);
                    trainer.step(&batch, |peak| peak, step).unwrap().loss.unwrap()
                })
                .collect();
            drop((mesh, trainer));
            nccl.leave();
            losses
        },
    );
    assert_eq!(simulation.aborted.load(Ordering::Relaxed), 0);
    ranks.into_iter().next().unwrap()
}

#[test]
fn pipeline_and_tensor_parallel_runs_match_one_rank() {
    within_limit(|| {
        let mut finetune = small();
        mock(&mut finetune).micro_batch_size = 1;
        finetune.model.as_llava_mut().unwrap().text_config.num_hidden_layers = 4;
        let samples = Samples::of(&finetune);
        let one = train(&finetune, &samples, ONE, 3).losses;
        // Both stages send activations and gradients to each other, in different orders.
        let mut interleaved = finetune.clone();
        interleaved.trainer.strategy.virtual_pipeline_model_parallel_size = Some(2);
        let pipeline = ParallelSizes { pp: 2, ..ONE };
        close("PP2xVPP2", &losses(&interleaved, &samples, pipeline, 3), &one, 1e-5);
        let both = ParallelSizes { tp: 2, ..pipeline };
        close("TP2xPP2", &losses(&finetune, &samples, both, 3), &one, 1e-5);
    });
}
