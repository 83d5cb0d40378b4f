//! Costs of libgomp's spin count on an idle machine, and its savings on a shared one: seconds of a few training steps for
//! each setting, alone and beside as many busy processes as there are cores.
//!
//!     cargo bench --workspace --bench contention
//!
//! The settings alternate, so that other load on the machine affects all of them. Medians are printed.

mod setting;

use neva_engine::comm::Mesh;
use setting::{microbatches, trainer};
use std::env;
use std::process::{Child, Command, Stdio};
use std::thread::available_parallelism;
use std::time::Instant;

/// Variable with the role of this process: `steps` measures, `busy` keeps a core busy.
const ROLE: &str = "NEVA_BENCH_ROLE";
const STEPS: u64 = 12;
const ROUNDS: usize = 5;

/// Environment of each setting: variable and value.
const SETTINGS: &[(&str, &str)] = &[
    ("", "libgomp's default"),
    ("GOMP_SPINCOUNT", "0"),
    ("GOMP_SPINCOUNT", "300"),
    ("GOMP_SPINCOUNT", "1000"),
    ("GOMP_SPINCOUNT", "3000"),
    ("GOMP_SPINCOUNT", "10000"),
    ("GOMP_SPINCOUNT", "30000"),
    ("GOMP_SPINCOUNT", "100000"),
    ("OMP_WAIT_POLICY", "PASSIVE"),
];

/// Trains a few steps on all cores, and prints their seconds.
#[expect(clippy::print_stdout, reason = "the answer to the bench that started this process")]
fn steps() {
    let mesh = Mesh::single();
    let finetune = setting::finetune(128, 8, 4);
    tch::set_num_threads(available_parallelism().map_or(1, |cores| cores.get() as i32));
    let microbatches = microbatches(&finetune, &mesh);
    let mut trainer = trainer(&finetune, mesh);
    let start = Instant::now();
    for step in 0..STEPS {
        trainer.step(&microbatches, |peak| peak, step).expect("a step");
    }
    println!("{}", start.elapsed().as_secs_f64());
}

fn busy() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn own(role: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("this program has a file"));
    command.env(ROLE, role).env_remove("GOMP_SPINCOUNT").env_remove("OMP_WAIT_POLICY");
    command
}

fn seconds((name, value): (&str, &str)) -> f64 {
    let mut command = own("steps");
    if !name.is_empty() {
        command.env(name, value);
    }
    let output = command.stderr(Stdio::inherit()).output().expect("this program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().expect("the seconds that the steps took")
}

/// Processes that keep the cores busy until this is dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn start() -> Self {
        let cores = available_parallelism().map_or(1, |cores| cores.get());
        let start = |_| own("busy").stdin(Stdio::null()).spawn().expect("this program starts");
        Self((0..cores).map(start).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // A process that has ended needs no signal.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn main() {
    match env::var_os(ROLE).as_deref().and_then(|role| role.to_str()) {
        Some("steps") => return steps(),
        Some("busy") => busy(),
        _ => {}
    }
    let mut quiet = vec![Vec::new(); SETTINGS.len()];
    let mut contended = vec![Vec::new(); SETTINGS.len()];
    for _ in 0..ROUNDS {
        for (setting, times) in SETTINGS.iter().zip(&mut quiet) {
            times.push(seconds(*setting));
        }
        let _busy = Busy::start();
        for (setting, times) in SETTINGS.iter().zip(&mut contended) {
            times.push(seconds(*setting));
        }
    }
    println!("setting                     quiet s  contended s  quiet : contended");
    for ((name, value), (quiet, contended)) in SETTINGS.iter().zip(quiet.into_iter().zip(contended)) {
        let (quiet, contended) = (median(quiet), median(contended));
        let setting = if name.is_empty() {
            (*value).to_owned()
        } else {
            format!("{name}={value}")
        };
        println!("{setting:<26}  {quiet:>7.2}  {contended:>11.2}  1 : {:.1}", contended / quiet);
    }
}
