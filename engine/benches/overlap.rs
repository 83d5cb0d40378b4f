//! Time of a step with and without overlap of communication and computation, for two processes over Gloo, and over a link
//! that is slower than the computation. The variants alternate step by step in one run. The ratio has a bound.
//!
//!     cargo bench --workspace --bench overlap

mod bounds;
mod setting;

use bounds::Bounds;
use neva_engine::comm::{CommError, Handshake, Mesh, ProcessGroup, ProcessGroupFactory, Reduce, Work, rendezvous};
use neva_schemas::{Finetune, ParallelSizes, RankEnv};
use neva_torch_ffi::TcpStore;
use setting::{microbatches, trainer};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tch::Tensor;

const HOST: &str = "127.0.0.1";
const RANKS: u32 = 2;
const TIMEOUT: Duration = Duration::from_secs(120);
const MICROBATCHES: u64 = 2;
const WARM_UP: u64 = 2;
const STEPS: u64 = 9;
/// Bytes per second of the slow link.
const LINK: f64 = 50e6;
/// Longest step with overlap, as a fraction of one without.
const LOOPBACK_BOUND: f64 = 1.15;
const LINK_BOUND: f64 = 0.95;

fn finetune(distributed: bool, overlap: bool) -> Finetune {
    let mut finetune = setting::finetune(192, 2 * MICROBATCHES * u64::from(RANKS), 2);
    let text = &mut finetune.model.as_llava_mut().expect("a LLaVA model").text_config;
    (text.num_hidden_layers, text.hidden_size, text.intermediate_size) = (8, 256, 768);
    let ddp = &mut finetune.trainer.strategy.ddp;
    ddp.bucket_size = 1 << 19;
    ddp.use_distributed_optimizer = distributed;
    (ddp.overlap_grad_reduce, ddp.overlap_param_gather) = (overlap, overlap);
    finetune
}

/// Measures the median seconds of a step, without and with overlap.
fn measure(distributed: bool, factory: &dyn ProcessGroupFactory) -> [f64; 2] {
    let sizes = ParallelSizes {
        dp: RANKS,
        ..ParallelSizes::ONE
    };
    let mesh = Mesh::new(sizes, factory).expect("ranks meet");
    let mut trainers = [false, true].map(|overlap| trainer(&finetune(distributed, overlap), mesh.clone()));
    let microbatches = microbatches(&finetune(distributed, false), &mesh);
    let mut seconds = [Vec::new(), Vec::new()];
    for step in 0..WARM_UP + STEPS {
        for (trainer, seconds) in trainers.iter_mut().zip(&mut seconds) {
            // Transfers that an earlier step left in progress belong to that step.
            let started = Instant::now();
            trainer.step(&microbatches, |peak| peak, step).expect("a step");
            if step >= WARM_UP {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
    }
    seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    })
}

/// Process groups over a link of limited bandwidth, which carries one transfer after the other.
struct Link<'a> {
    factory: &'a dyn ProcessGroupFactory,
    bytes_per_second: f64,
}

impl ProcessGroupFactory for Link<'_> {
    fn rank(&self) -> usize {
        self.factory.rank()
    }

    fn world(&self) -> usize {
        self.factory.world()
    }

    fn group(&self, name: &str, members: &[usize]) -> Result<Arc<dyn ProcessGroup>, CommError> {
        Ok(Arc::new(Linked {
            group: self.factory.group(&format!("linked.{name}"), members)?,
            bytes_per_second: self.bytes_per_second,
            free: Mutex::new(Instant::now()),
        }))
    }
}

#[derive(Debug)]
struct Linked {
    group: Arc<dyn ProcessGroup>,
    bytes_per_second: f64,
    /// Time at which the link has carried all started transfers.
    free: Mutex<Instant>,
}

impl Linked {
    /// Returns work that ends once the group is done and the link could have carried `times` the tensor.
    fn carry(&self, tensor: &Tensor, times: f64, work: Result<Work, CommError>) -> Result<Work, CommError> {
        let (work, bytes) = (work?, (tensor.numel() * tensor.kind().elt_size_in_bytes()) as f64);
        let mut free = self.free.lock().expect("no rank panics");
        *free = (*free).max(Instant::now()) + Duration::from_secs_f64(times * bytes / self.bytes_per_second);
        let due = *free;
        Ok(Work::new(move || {
            work.wait()?;
            #[expect(clippy::disallowed_methods, reason = "a slow link does nothing else")]
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            Ok(())
        }))
    }

    /// Returns the fraction of a tensor that a ring of the ranks carries once.
    fn once(&self) -> f64 {
        (self.size() - 1) as f64 / self.size() as f64
    }
}

impl ProcessGroup for Linked {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Work, CommError> {
        self.carry(tensor, 2.0 * self.once(), self.group.start_all_reduce(tensor, reduce))
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        self.carry(into, self.once(), self.group.start_all_gather(into, tensor))
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        self.carry(tensor, self.once(), self.group.start_reduce_scatter(into, tensor))
    }

    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Work, CommError> {
        self.carry(tensor, 1.0, self.group.start_broadcast(tensor, root))
    }

    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Work, CommError> {
        self.carry(tensor, 1.0, self.group.send(tensor, to, tag))
    }

    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Work, CommError> {
        self.group.recv(into, from, tag)
    }
}

/// Runs one rank. The first rank prints the measurements and checks the bounds.
#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn rank(rank: u32, port: u16) -> ExitCode {
    tch::set_num_threads(1);
    let environment = RankEnv {
        rank,
        world_size: RANKS,
        local_rank: rank,
        local_world_size: RANKS,
        master_addr: HOST.into(),
        master_port: port,
        agent_store: true,
        ..RankEnv::single()
    };
    let handshake = Handshake {
        plan: "bench".into(),
        version: String::new(),
        libtorch: String::new(),
        transport: "gloo".into(),
    };
    let met = rendezvous(&environment, &handshake, b"", TIMEOUT, &|| false).expect("ranks meet");
    let link = Link {
        factory: &met.factory,
        bytes_per_second: LINK,
    };
    // Over loopback, overlap gains little, but must not cost much either.
    let links: [(&str, &dyn ProcessGroupFactory, f64); 2] = [("loopback", &met.factory, LOOPBACK_BOUND), ("50 MB/s", &link, LINK_BOUND)];
    let mut bounds = Bounds::default();
    if rank == 0 {
        println!("link      optimizer    overlap off  overlap on  on / off  bound");
    }
    for (name, factory, bound) in links {
        for distributed in [false, true] {
            let [off, on] = measure(distributed, factory);
            if rank == 0 {
                let optimizer = if distributed { "distributed" } else { "plain" };
                println!(
                    "{name:<8}  {optimizer:<11}  {:>8.0} ms  {:>7.0} ms  {:>8.2}{}",
                    1e3 * off,
                    1e3 * on,
                    on / off,
                    bounds.at_most(on / off, bound)
                );
            }
        }
    }
    met.leave(TIMEOUT);
    if rank == 0 { bounds.finish() } else { ExitCode::SUCCESS }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, role, number, port] = &arguments[..]
        && role == "rank"
    {
        return rank(number.parse().expect("a number"), port.parse().expect("a port"));
    }
    let store = TcpStore::server(HOST, 0, RANKS as usize, TIMEOUT).expect("a free port");
    let program = std::env::current_exe().expect("a program knows itself");
    let start = |rank: u32| {
        let mut command = Command::new(&program);
        command.args(["rank", &rank.to_string(), &store.port().to_string()]);
        command.spawn().expect("a process")
    };
    let ranks: Vec<_> = (0..RANKS).map(start).collect();
    let codes = ranks.into_iter().map(|mut rank| rank.wait().expect("a child").success());
    // Waits for all ranks.
    let failed = codes.filter(|success| !success).count();
    ExitCode::from(u8::from(failed > 0))
}
