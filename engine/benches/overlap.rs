//! The time of a step with gradients and weights sent while the ranks compute, against sending them before and behind:
//! two processes over Gloo, and the same over a link that is slower than the ranks compute. The variants take turns, step
//! by step, in one run.
//!
//!     cargo bench -p neva-engine --bench overlap

mod setting;

use neva_engine::comm::{Collective, CommError, Fabric, Greeting, Mesh, Pending, Reduce, rendezvous};
use neva_schemas::{Finetune, ParallelSizes, RankEnv};
use neva_torch_ffi::TcpStore;
use setting::{microbatches, trainer};
use std::process::Command;
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

fn finetune(distributed: bool, overlap: bool) -> Finetune {
    let mut finetune = setting::finetune(192, 2 * MICROBATCHES * u64::from(RANKS), 2);
    let text = &mut finetune.model.llava_mut().text_config;
    (text.num_hidden_layers, text.hidden_size, text.intermediate_size) = (8, 256, 768);
    let ddp = &mut finetune.trainer.strategy.ddp;
    ddp.bucket_size = 1 << 19;
    ddp.use_distributed_optimizer = distributed;
    (ddp.overlap_grad_reduce, ddp.overlap_param_gather) = (overlap, overlap);
    finetune
}

/// Seconds of a step, the median of several, without and with overlap.
fn measure(distributed: bool, fabric: &dyn Fabric) -> [f64; 2] {
    let sizes = ParallelSizes {
        dp: RANKS,
        ..ParallelSizes::ONE
    };
    let mesh = Mesh::new(sizes, fabric).expect("ranks meet");
    let mut trainers = [false, true].map(|overlap| trainer(&finetune(distributed, overlap), mesh.clone()));
    let microbatches = microbatches(&finetune(distributed, false), &mesh);
    let mut seconds = [Vec::new(), Vec::new()];
    for step in 0..WARM_UP + STEPS {
        for (trainer, seconds) in trainers.iter_mut().zip(&mut seconds) {
            // What an earlier step has left under way belongs to that step.
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

/// Groups over a link that carries so many bytes per second, one transfer behind the other.
struct Link<'a> {
    fabric: &'a dyn Fabric,
    bytes_per_second: f64,
}

impl Fabric for Link<'_> {
    fn rank(&self) -> usize {
        self.fabric.rank()
    }

    fn world(&self) -> usize {
        self.fabric.world()
    }

    fn group(&self, name: &str, members: &[usize]) -> Result<Arc<dyn Collective>, CommError> {
        Ok(Arc::new(Linked {
            group: self.fabric.group(&format!("linked.{name}"), members)?,
            bytes_per_second: self.bytes_per_second,
            free: Mutex::new(Instant::now()),
        }))
    }
}

#[derive(Debug)]
struct Linked {
    group: Arc<dyn Collective>,
    bytes_per_second: f64,
    /// When the link will have carried what was started.
    free: Mutex<Instant>,
}

impl Linked {
    /// Complete when the group has done it and the link could have carried `times` the tensor.
    fn carry(&self, tensor: &Tensor, times: f64, pending: Result<Pending, CommError>) -> Result<Pending, CommError> {
        let (pending, bytes) = (pending?, (tensor.numel() * tensor.kind().elt_size_in_bytes()) as f64);
        let mut free = self.free.lock().expect("no rank panics");
        *free = (*free).max(Instant::now()) + Duration::from_secs_f64(times * bytes / self.bytes_per_second);
        let due = *free;
        Ok(Pending::new(move || {
            pending.wait()?;
            #[expect(clippy::disallowed_methods, reason = "a slow link does nothing else")]
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            Ok(())
        }))
    }

    /// Share of a tensor that a ring of the ranks carries once.
    fn once(&self) -> f64 {
        (self.size() - 1) as f64 / self.size() as f64
    }
}

impl Collective for Linked {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CommError> {
        self.carry(tensor, 2.0 * self.once(), self.group.start_all_reduce(tensor, reduce))
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError> {
        self.carry(into, self.once(), self.group.start_all_gather(into, tensor))
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Pending, CommError> {
        self.carry(tensor, self.once(), self.group.start_reduce_scatter(into, tensor))
    }

    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Pending, CommError> {
        self.carry(tensor, 1.0, self.group.start_broadcast(tensor, root))
    }

    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Pending, CommError> {
        self.carry(tensor, 1.0, self.group.send(tensor, to, tag))
    }

    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Pending, CommError> {
        self.group.recv(into, from, tag)
    }
}

/// One rank: measures everything, and the first one says it.
#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn rank(rank: u32, port: u16) {
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
    let greeting = Greeting {
        plan: "bench".into(),
        version: String::new(),
        libtorch: String::new(),
        transport: "gloo".into(),
    };
    let meeting = rendezvous(&environment, &greeting, b"", TIMEOUT, &|| false).expect("ranks meet");
    let link = Link {
        fabric: &meeting.fabric,
        bytes_per_second: LINK,
    };
    let links: [(&str, &dyn Fabric); 2] = [("loopback", &meeting.fabric), ("50 MB/s", &link)];
    if rank == 0 {
        println!("link      optimizer    overlap off  overlap on  on / off");
    }
    for (name, fabric) in links {
        for distributed in [false, true] {
            let [off, on] = measure(distributed, fabric);
            if rank == 0 {
                let optimizer = if distributed { "distributed" } else { "plain" };
                println!(
                    "{name:<8}  {optimizer:<11}  {:>8.0} ms  {:>7.0} ms  {:>8.2}",
                    1e3 * off,
                    1e3 * on,
                    on / off
                );
            }
        }
    }
    meeting.leave(TIMEOUT);
}

fn main() {
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
    for mut rank in ranks {
        assert!(rank.wait().expect("a child").success(), "a rank failed");
    }
}
