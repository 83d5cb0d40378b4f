//! Ranks as threads of one process, with collectives inside backward callbacks.
#![expect(clippy::unwrap_used, reason = "test helpers may unwrap")]

mod ranks;

use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use neva_torch_ffi::{BoxError, Error, Function, GlooGroup, ReduceOp, TcpStore, apply, backward};
use ranks::{DEADLINE, run};
use tch::{Kind, Tensor};

/// Identity whose gradient is summed over the ranks, as at the input of a column-parallel layer.
struct SumGradient {
    group: Arc<GlooGroup>,
    deadline: Duration,
    ran_on: Arc<Mutex<Vec<ThreadId>>>,
}

impl Function for SumGradient {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        Ok(vec![inputs[0].shallow_clone()])
    }
    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        self.ran_on.lock().map_err(|_| "poisoned")?.push(thread::current().id());
        let sum = grads[0].as_ref().ok_or("no gradient")?.f_contiguous()?.f_detach_copy()?;
        self.group.all_reduce(&sum, ReduceOp::Sum)?.wait(self.deadline)?;
        Ok(vec![Some(sum)])
    }
}

fn leaf(values: &[f32]) -> Tensor {
    Tensor::from_slice(values).set_requires_grad(true)
}

#[test]
fn eight_threads_200_rounds() {
    const RANKS: usize = 8;
    run(
        RANKS,
        |_| (),
        |group| {
            let ran_on = Arc::default();
            for round in 0..200 {
                let x = leaf(&[1.0, 2.0]);
                let mut y = &x * 1.0;
                for _ in 0..2 {
                    let (group, ran_on) = (Arc::clone(group), Arc::clone(&ran_on));
                    let sum = SumGradient {
                        group,
                        deadline: DEADLINE,
                        ran_on,
                    };
                    y = apply(sum, &[&y]).unwrap().remove(0) * (1.0 / RANKS as f64);
                }
                backward(&[&y.sum(Kind::Float)], &[None], false).unwrap();
                assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), [1.0, 1.0], "round {round}");
            }
            // On CPU, callbacks run on the thread that called backward.
            let ran_on = ran_on.lock().unwrap();
            assert_eq!(ran_on.len(), 400);
            assert!(ran_on.iter().all(|id| *id == thread::current().id()));
        },
    );
}

/// Panics in backward.
struct Fails;

impl Function for Fails {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        Ok(vec![inputs[0].shallow_clone()])
    }
    fn backward(&mut self, _: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        panic!("out of range")
    }
}

/// Pitfall: if a rank fails, the others wait until their deadline, unless it aborts the group.
#[test]
fn a_panic_in_a_callback_and_the_other_rank() {
    const SHORT: Duration = Duration::from_millis(500);
    for (deadline, aborts) in [(SHORT, false), (DEADLINE, true)] {
        let start = Instant::now();
        let errors = run(
            2,
            |_| (),
            move |group| {
                let sum = SumGradient {
                    group: Arc::clone(group),
                    deadline,
                    ran_on: Arc::default(),
                };
                let y = apply(sum, &[&(leaf(&[1.0]) * 1.0)]).unwrap().remove(0);
                let y = if group.rank() == 0 {
                    apply(Fails, &[&y]).unwrap().remove(0)
                } else {
                    y
                };
                let error = backward(&[&y], &[None], false).unwrap_err();
                if aborts || group.rank() == 1 {
                    group.abort().unwrap();
                }
                error
            },
        );
        let text = errors[0].to_string();
        assert!(
            matches!(errors[0], Error::Panic(_)) && text.ends_with("panicked: out of range"),
            "{text}"
        );
        assert!(matches!(errors[1], Error::Callback(_)), "{:?}", errors[1]);
        let waited_out = errors[1].to_string().contains("all_reduce: timed out after 500ms");
        assert_eq!(waited_out, !aborts, "{}", errors[1]);
        assert!(start.elapsed() < DEADLINE / 2, "{:?}", start.elapsed());
    }
}

#[test]
fn a_panicking_rank_aborts_its_groups() {
    let start = Instant::now();
    let server = TcpStore::server(ranks::HOST, 0, 2, DEADLINE).unwrap();
    let port = server.port();
    let join = move |rank| {
        let store = TcpStore::client(ranks::HOST, port, 2, DEADLINE).unwrap();
        GlooGroup::new(&store, &ranks::options(rank, 2)).unwrap()
    };
    let formed = Arc::new(Barrier::new(2));
    let both = Arc::clone(&formed);
    let lost = thread::spawn(move || {
        let _group = join(1);
        both.wait();
        panic!("lost");
    });
    let group = join(0);
    formed.wait();
    let error = group
        .all_reduce(&leaf(&[1.0]), ReduceOp::Sum)
        .and_then(|mut work| work.wait(DEADLINE))
        .unwrap_err();
    assert!(matches!(error, Error::Torch { .. }), "{error:?}");
    lost.join().unwrap_err();
    assert!(start.elapsed() < DEADLINE / 4, "{:?}", start.elapsed());
}

/// Pitfall: all threads share libtorch's default generator, so ranks in threads must not use it.
#[test]
fn the_default_generator_is_shared() {
    let draw = || f64::try_from(Tensor::rand([1], tch::kind::FLOAT_CPU)).unwrap();
    tch::manual_seed(7);
    let sequence = [draw(), draw()];
    tch::manual_seed(7);
    assert_eq!([thread::spawn(draw).join().unwrap(), draw()], sequence);
}
