//! How long the launcher takes: a table of what was measured, the bound that it must keep, and their ratio.
//!
//!     cargo bench --workspace --bench launch
//!
//! Whole processes are timed, from their start to their end, as a user waits for them. Where nemo-run is installed for
//! `python3`, the same is done with it, in the same minute on the same machine.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints a table, and stops where it cannot measure"
)]

use std::{
    fmt::Write as _,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Times each case is measured; the median counts.
const ROUNDS: usize = 9;

/// Tasks of the large experiment.
const TASKS: usize = 1000;

/// Experiments of the large store.
const STORED: usize = 10_000;

/// A line of the table.
struct Row {
    name: String,
    measured: f64,
    bound: Option<f64>,
    unit: &'static str,
    /// The same with nemo-run.
    peer: Option<f64>,
}

/// A folder with a store of its own.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn neva_run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_neva-run"));
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env("NEVA_RUN_HOME", self.path("home"));
        command.env("NEVA_RANK", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/neva-rank"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

fn main() -> ExitCode {
    let peer = nemo_run();
    let mut rows = vec![dry_run()];
    rows.extend(no_ops(peer));
    rows.extend(planned());
    rows.extend(listed());
    print!("{}", table(&rows));
    if !peer {
        println!("nemo-run is not installed for python3, so nothing is compared with it (pip install nemo_run 'leptonai<0.27')");
    }
    let missed = rows
        .iter()
        .filter(|row| row.bound.is_some_and(|bound| row.measured > bound))
        .count();
    println!(
        "{missed} of {} bounds missed",
        rows.iter().filter(|row| row.bound.is_some()).count()
    );
    ExitCode::from(u8::from(missed > 0))
}

/// The median time of a command that must end well, in milliseconds.
fn median(mut command: impl FnMut() -> Command) -> f64 {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let mut command = command();
            let started = Instant::now();
            let status = command.status().unwrap();
            let time = started.elapsed();
            assert!(status.success(), "{command:?}: {status}");
            time
        })
        .collect();
    times.sort();
    times[ROUNDS / 2].as_secs_f64() * 1e3
}

fn row(name: impl Into<String>, measured: f64, bound: Option<f64>) -> Row {
    Row {
        name: name.into(),
        measured,
        bound,
        unit: "ms",
        peer: None,
    }
}

fn dry_run() -> Row {
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes/llava15_7b.yaml");
    let place = Place::new();
    row(
        "dry run of recipes/llava15_7b.yaml",
        median(|| place.neva_run(&[recipe, "--dry-run"])),
        Some(20.0),
    )
}

/// Scripts that do nothing, through the local executor.
fn no_ops(peer: bool) -> Vec<Row> {
    let of = |tasks: usize, bound| {
        let place = Place::new();
        fs::write(place.path("exp.yaml"), experiment(tasks)).unwrap();
        let measured = median(|| place.neva_run(&["exp.yaml", "--quiet"]));
        Row {
            peer: peer.then(|| median(|| nemo_run_scripts(&place, tasks))),
            ..row(
                format!("{tasks} no-op script task{}, start to end", if tasks == 1 { "" } else { "s" }),
                measured,
                Some(bound),
            )
        }
    };
    vec![of(1, 100.0), of(20, 300.0)]
}

fn experiment(tasks: usize) -> String {
    let mut text = "name: bench\ntasks:\n".to_owned();
    for task in 0..tasks {
        writeln!(text, "  t{task}: {{task: {{_target_: run.Script, inline: 'true'}}}}").unwrap();
    }
    text
}

/// A large experiment is read, resolved and rendered. What it would do is printed when all of that is done, so the
/// first byte is the end of the measurement.
fn planned() -> Vec<Row> {
    let place = Place::new();
    let points: Vec<_> = (1..=TASKS).map(|point| format!("{point}e-5")).collect();
    let swept = format!(
        "name: swept\ntasks:\n  train: {{task: {{_factory_: neva_tiny}}, sweep: {{over: {{finetune.optim.lr: [{}]}}}}}}\n",
        points.join(", ")
    );
    let mut rows = Vec::new();
    for (what, text) in [("fine-tunes of a sweep", swept), ("scripts", experiment(TASKS))] {
        fs::write(place.path("exp.yaml"), text).unwrap();
        let (mut times, mut peaks): (Vec<_>, Vec<_>) = (0..3).map(|_| first_byte(place.neva_run(&["exp.yaml", "--dry-run"]))).unzip();
        times.sort_by(f64::total_cmp);
        peaks.sort_by(f64::total_cmp);
        rows.push(row(format!("{TASKS} {what}, planned"), times[1], Some(1000.0)));
        rows.push(Row {
            unit: "MB",
            ..row("  peak resident memory", peaks[2], Some(100.0))
        });
    }
    rows
}

/// Time to the first byte of output in milliseconds, and the peak of resident memory up to then in megabytes.
fn first_byte(mut command: Command) -> (f64, f64) {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0]).unwrap();
    let time = started.elapsed().as_secs_f64() * 1e3;
    // What it prints does not fit into a pipe, so it waits for its reader.
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    output.read_to_end(&mut Vec::new()).unwrap();
    assert!(child.wait().unwrap().success());
    (time, peak * 1024.0 / 1e6)
}

/// A store that years have filled.
fn listed() -> Vec<Row> {
    let place = Place::new();
    fs::write(place.path("exp.yaml"), experiment(2)).unwrap();
    assert!(place.neva_run(&["exp.yaml"]).status().unwrap().success());
    let parent = place.path("home/experiments/bench");
    let first = fs::read_dir(&parent).unwrap().next().unwrap().unwrap().path();
    let id = first.file_name().unwrap().to_str().unwrap();
    let index = fs::read_to_string(place.path("home/index.jsonl")).unwrap();
    let mut whole = index.clone();
    for number in 1..STORED {
        let copy = format!("bench_{number:05}");
        copy_run(&first, &parent.join(&copy), id, &copy);
        whole += &index.replace(id, &copy);
    }
    fs::write(place.path("home/index.jsonl"), whole).unwrap();
    let list = || place.neva_run(&["experiment", "list"]);
    let output = list().stdout(Stdio::piped()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), STORED);
    let name = format!("list of {STORED} stored runs");
    let rows = vec![row(name, median(list), Some(100.0))];
    let status = median(|| place.neva_run(&["experiment", "status", "bench_05000"]));
    fs::remove_file(place.path("home/index.jsonl")).unwrap();
    let cold = first_byte(list()).0;
    rows.into_iter()
        .chain([
            row("  status of one of them", status, None),
            row("  list without the index", cold, None),
        ])
        .collect()
}

/// What a store needs of a run: its record and its timeline.
fn copy_run(from: &Path, to: &Path, id: &str, new: &str) {
    fs::create_dir(to).unwrap();
    for name in ["experiment.json", "events.jsonl"] {
        let text = fs::read_to_string(from.join(name)).unwrap();
        fs::write(to.join(name), text.replace(id, new)).unwrap();
    }
}

/// Whether nemo-run is installed for `python3`.
fn nemo_run() -> bool {
    let mut python = Command::new("python3");
    python
        .args(["-c", "import nemo_run"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}

fn nemo_run_scripts(place: &Place, tasks: usize) -> Command {
    let text = format!(
        "import nemo_run as run\nif __name__ == '__main__':\n    with run.Experiment('bench', executor=run.LocalExecutor()) as exp:\n        for task in range({tasks}):\n            exp.add(run.Script(inline='true'), name=f't{{task}}', tail_logs=False)\n        exp.run(detach=False, tail_logs=False)\n"
    );
    fs::write(place.path("bench.py"), text).unwrap();
    let mut python = Command::new("python3");
    python
        .arg("bench.py")
        .current_dir(place.0.path())
        .env("NEMORUN_HOME", place.path("nemo_home"));
    python.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    python
}

fn table(rows: &[Row]) -> String {
    let number = |value: Option<f64>, unit: &str| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} {unit}"));
    let mut text = format!(
        "{:<40} {:>12} {:>12} {:>7} {:>12} {:>9}\n",
        "", "measured", "bound", "ratio", "nemo-run", "nemo/neva"
    );
    for row in rows {
        let ratio = row
            .bound
            .map_or_else(|| "-".to_owned(), |bound| format!("{:.2}", row.measured / bound));
        let against = row
            .peer
            .map_or_else(|| "-".to_owned(), |peer| format!("{:.0}x", peer / row.measured));
        writeln!(
            text,
            "{:<40} {:>12} {:>12} {ratio:>7} {:>12} {against:>9}{}",
            row.name,
            number(Some(row.measured), row.unit),
            number(row.bound, row.unit),
            number(row.peer, row.unit),
            if row.bound.is_some_and(|bound| row.measured > bound) {
                "  MISSED"
            } else {
                ""
            },
        )
        .unwrap();
    }
    text
}
