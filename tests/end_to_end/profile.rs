//! `--profile`: a trace of all ranks, and a table of where the steps went.

use neva_tests::small::{small, words};
use neva_tests::{Ended, neva_run, run, run_folder};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A span of a trace, in microseconds.
#[derive(Debug, Clone)]
struct Span {
    name: String,
    start: f64,
    end: f64,
    args: Value,
}

/// The spans of each rank's threads, and the summary.
struct Trace {
    spans: BTreeMap<(u64, u64), Vec<Span>>,
    threads: BTreeMap<(u64, u64), String>,
    summary: Value,
}

impl Trace {
    fn read(run: &Path) -> Self {
        let trace: Value = serde_json::from_slice(&std::fs::read(run.join("profile.json")).unwrap()).unwrap();
        assert!(!run.join("profile.writing").exists());
        let (mut spans, mut threads) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::new());
        for event in trace["traceEvents"].as_array().unwrap() {
            let thread = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
            let name = event["name"].as_str().unwrap().to_owned();
            match event["ph"].as_str().unwrap() {
                "X" => {
                    let (start, duration) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
                    let args = event["args"].clone();
                    let end = start + duration;
                    spans.entry(thread).or_default().push(Span { name, start, end, args });
                }
                "M" if name == "thread_name" => drop(threads.insert(thread, event["args"]["name"].as_str().unwrap().to_owned())),
                "M" => assert!(
                    ["process_name", "process_sort_index", "thread_sort_index"].contains(&name.as_str()),
                    "{name}"
                ),
                "b" | "e" => assert_eq!(event["cat"], "in flight"),
                other => panic!("{other}"),
            }
        }
        for spans in spans.values_mut() {
            // Around before within.
            spans.reverse();
            spans.sort_by(|a, b| a.start.total_cmp(&b.start).then(b.end.total_cmp(&a.end)));
        }
        Self {
            spans,
            threads,
            summary: trace["otherData"].clone(),
        }
    }

    fn ranks(&self) -> Vec<u64> {
        self.spans
            .keys()
            .map(|(rank, _)| *rank)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Returns the spans of the thread that runs a rank's steps.
    fn main(&self, rank: u64) -> &[Span] {
        let mut threads = self.spans.iter().filter(|((of, _), _)| *of == rank);
        let has_steps = |spans: &[Span]| spans.iter().any(|span| span.name == "step");
        threads.find(|(_, spans)| has_steps(spans)).expect("a thread with steps").1
    }

    /// Asserts that a span lies within those around it, on every thread.
    fn check_nesting(&self) {
        for (thread, spans) in &self.spans {
            assert!(self.threads.contains_key(thread), "{thread:?} has a name");
            let mut open: Vec<&Span> = Vec::new();
            for span in spans {
                assert!(span.end >= span.start, "{span:?}");
                // Times have three decimals.
                open.retain(|around| around.end > span.start + 0.002);
                for around in &open {
                    assert!(span.end <= around.end + 0.002, "{span:?} ends after {around:?}");
                }
                open.push(span);
            }
        }
    }
}

/// Returns the spans directly within `around`.
fn within<'a>(spans: &'a [Span], around: &Span) -> Vec<&'a Span> {
    let inside =
        |span: &&Span| span.start >= around.start && span.end <= around.end + 0.002 && span.end - span.start < around.end - around.start;
    let all: Vec<_> = spans.iter().filter(inside).collect();
    let mut direct: Vec<&Span> = Vec::new();
    for span in all {
        if direct.last().is_none_or(|last| span.start >= last.end - 0.002) {
            direct.push(span);
        }
    }
    direct
}

fn profiled(dir: &Path, name: &str, settings: &[&str], more: &[&str]) -> (Ended, Trace) {
    let ended = run(neva_run(&words(&small(dir, name, settings), more))).with_code(0);
    let trace = Trace::read(&run_folder(dir, name));
    trace.check_nesting();
    (ended, trace)
}

const STEPS: [&str; 2] = ["finetune.trainer.max_steps=4", "finetune.log.ckpt.every_n_train_steps=null"];

#[test]
fn a_trace_holds_the_phases_of_each_step() {
    let dir = tempfile::tempdir().unwrap();
    let (ended, trace) = profiled(dir.path(), "one", &STEPS, &["--profile", "3"]);
    assert_eq!(trace.ranks(), [0]);
    let main = trace.main(0);
    let steps: Vec<_> = main.iter().filter(|span| span.name == "step").collect();
    assert_eq!(
        steps.iter().map(|step| step.args["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    for step in &steps {
        let phases: Vec<_> = within(main, step).iter().map(|span| span.name.as_str()).collect();
        // Two microbatches.
        let passes = ["forward", "backward"].repeat(2);
        let expected = [
            &["data", "agree", "optimizer"],
            passes.as_slice(),
            &["reduce", "clip"],
            &phases[9..phases.len() - 2],
            &["optimizer", "log"],
        ]
        .concat();
        assert_eq!(phases, expected);
        // Gradients are scaled only if they are clipped.
        assert!(phases[9..phases.len() - 2].iter().all(|phase| *phase == "clip"), "{phases:?}");
    }
    for forward in main.iter().filter(|span| span.name == "forward") {
        let parts: Vec<_> = within(main, forward).iter().map(|span| span.name.as_str()).collect();
        assert_eq!(parts, ["vision", "loss"]);
    }
    for before in ["open data", "load weights", "create optimizer"] {
        let span = main.iter().find(|span| span.name == before);
        assert!(span.is_some_and(|span| span.end <= steps[0].start), "{before}");
    }
    // A step has no time without a phase, apart from calls between two of them. A busy machine may stop the process there.
    let covered = |step: &&&Span| {
        let phases: f64 = within(main, step).iter().map(|span| span.end - span.start).sum();
        phases / (step.end - step.start)
    };
    let most = steps.iter().map(|step| covered(&step)).fold(0.0, f64::max);
    assert!(most > 0.9, "{most}");
    assert!(
        ended.stdout.contains("profile of steps 2 to 3: means of a step\n"),
        "{}",
        ended.stdout
    );
    assert!(ended.stdout.contains("\nMFU "), "{}", ended.stdout);
    assert!(ended.stdout.contains("\n  profile     "), "{}", ended.stdout);
    check_summary(&trace.summary, 1);
}

/// Checks that the phases add up to the step, and that everything was measured.
#[track_caller]
fn check_summary(summary: &Value, ranks: u64) {
    assert_eq!((&summary["format"], summary["ranks"].as_u64()), (&1.into(), Some(ranks)));
    let number = |value: &Value| value.as_f64().unwrap();
    let phases = summary["phases"].as_array().unwrap();
    let sum: f64 = phases
        .iter()
        .filter(|phase| phase["part_of"].is_null())
        .map(|phase| number(&phase["ms"]))
        .sum();
    let step = number(&summary["step_ms"]);
    assert!((sum - step).abs() < 1e-6 * step, "{sum} of {step}: {summary}");
    for key in [
        "processor_ms",
        "tokens_per_second",
        "model_flops",
        "product_flops",
        "peak_flops",
        "mfu",
        "product_share",
    ] {
        assert!(number(&summary[key]) > 0.0, "{key} in {summary}");
    }
}

#[test]
fn every_layout_has_the_same_work_and_its_own_collectives() {
    let dir = tempfile::tempdir().unwrap();
    let strategy = |setting: &str| format!("finetune.trainer.strategy.{setting}");
    let distributed = strategy("ddp.use_distributed_optimizer=true");
    // Layout, ranks, and group and operation of collectives that it has.
    let cases: [(&str, Vec<String>, u64, &[&str]); 4] = [
        ("one", vec![], 1, &[]),
        ("dp", vec![distributed], 2, &["data reduce_scatter", "data all_gather"]),
        (
            "tp_pp",
            vec![strategy("tensor_model_parallel_size=2"), strategy("pipeline_model_parallel_size=2")],
            4,
            &["tensor all_reduce", "pipeline send", "pipeline recv"],
        ),
        (
            "cp",
            vec![strategy("context_parallel_size=2")],
            2,
            &["dp_cp all_reduce", "context send", "context recv"],
        ),
    ];
    let mut work = BTreeSet::new();
    for (name, settings, ranks, expected) in cases {
        let devices = format!("num_gpus_per_node={ranks}");
        let settings: Vec<_> = STEPS
            .into_iter()
            .chain(settings.iter().map(String::as_str))
            .chain([devices.as_str()])
            .collect();
        let (ended, trace) = profiled(dir.path(), name, &settings, &["--profile=2"]);
        assert_eq!(trace.ranks(), (0..ranks).collect::<Vec<_>>(), "{name}");
        check_summary(&trace.summary, ranks);
        work.insert(trace.summary["model_flops"].as_f64().unwrap().to_bits());
        let mut found = BTreeSet::new();
        for span in trace.spans.values().flatten().filter(|span| span.args["bytes"].is_u64()) {
            assert!(span.args["bytes"].as_u64().unwrap() > 0, "{name}: {span:?}");
            assert!(
                span.args["in_flight_us"].as_f64().unwrap() + 0.002 >= span.end - span.start,
                "{name}: {span:?}"
            );
            found.insert(format!("{} {}", span.args["group"].as_str().unwrap(), span.name));
        }
        for operation in expected {
            assert!(found.contains(*operation), "{name}: {operation} is not among {found:?}");
        }
        if ranks == 1 {
            assert_eq!(found, BTreeSet::new());
        } else {
            assert!(
                ended.stdout.contains(&format!("profile of step 2 on {ranks} ranks")),
                "{}",
                ended.stdout
            );
            assert!(ended.stdout.contains("\ncollectives "), "{}", ended.stdout);
        }
    }
    assert_eq!(work.len(), 1, "the model's operations do not depend on the layout");
}

#[test]
fn data_workers_and_saves_are_in_the_trace() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [
        "finetune.trainer.max_steps=4",
        "finetune.log.ckpt.every_n_train_steps=2",
        "finetune.data.num_workers=1",
        "finetune.trainer.val_check_interval=2",
        "finetune.trainer.limit_val_batches=1",
    ];
    let (_, trace) = profiled(dir.path(), "saving", &settings, &["--profile", "4"]);
    let names = |thread: &str| {
        let threads = trace.threads.iter().filter(|(_, name)| *name == thread);
        let spans = threads.flat_map(|(thread, _)| trace.spans.get(thread).into_iter().flatten());
        spans.map(|span| span.name.as_str()).collect::<BTreeSet<_>>()
    };
    assert_eq!(names("data-0"), BTreeSet::from(["prepare"]));
    assert_eq!(names("checkpoint"), BTreeSet::from(["write checkpoint"]));
    let main = trace.main(0);
    let steps: Vec<_> = main.iter().filter(|span| span.name == "step").collect();
    for (step, saves) in steps.iter().zip([false, true, false, true]) {
        // A save after a validation belongs to it.
        let inside = |span: &&Span| span.start >= step.start && span.end <= step.end;
        let names: BTreeSet<_> = main.iter().filter(inside).map(|span| span.name.as_str()).collect();
        for phase in ["save", "validate"] {
            assert_eq!(names.contains(phase), saves, "{phase} in {names:?}");
        }
    }
    let phases = trace.summary["phases"].as_array().unwrap();
    assert!(phases.iter().any(|phase| phase["name"] == "save"), "{phases:?}");
}

/// `--direct` runs one rank in place of the launcher, and a plan carries the setting to any executor.
#[test]
fn a_recipe_and_a_direct_run_profile_alike() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [STEPS.as_slice(), &["finetune.trainer.profile_steps=2"]].concat();
    let (_, trace) = profiled(dir.path(), "recipe", &settings, &[]);
    let (_, direct) = profiled(dir.path(), "direct", &STEPS, &["--direct", "--profile", "2"]);
    assert_eq!(trace.summary["model_flops"], direct.summary["model_flops"]);
    assert_eq!(trace.summary["product_flops"], direct.summary["product_flops"]);
    assert_eq!(trace.summary["steps"], direct.summary["steps"]);
}

/// The formula counts what the products of this model count, which has no padding and recomputes nothing.
#[test]
fn a_profile_is_no_part_of_the_training() {
    let dir = tempfile::tempdir().unwrap();
    let losses = |name: &str, more: &[&str]| {
        let _ = run(neva_run(&words(&small(dir.path(), name, &STEPS), more))).with_code(0);
        neva_tests::small::losses(&run_folder(dir.path(), name))
    };
    assert_eq!(losses("with", &["--profile", "2"]), losses("without", &[]));
    assert!(!run_folder(dir.path(), "without").join("profile.json").exists());
}

#[test]
fn a_wrong_number_of_steps_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    // Arguments, and what the message says.
    let cases: [(&[&str], &str); 4] = [
        (&["--profile", "0"], "as in `--profile 4`"),
        (&["--profile", "5"], "the run has 4 steps"),
        (&["--profile"], "use 4, as in `--profile 4`"),
        (&["--profile", "many"], "type `--profile 10`, or write `--profile` after the recipe"),
    ];
    for (arguments, expected) in cases {
        let ended = run(neva_run(&words(&small(dir.path(), "refused", &STEPS), arguments))).with_code(2);
        let text: Vec<_> = ended.stderr.split_whitespace().collect();
        assert!(text.join(" ").contains(expected), "{arguments:?}: {}", ended.stderr);
    }
    assert!(!dir.path().join("refused").exists());
}

/// What happened until a rank failed is worth a look.
#[test]
fn a_failed_run_leaves_a_profile_of_its_first_rank() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [STEPS.as_slice(), &["finetune.optim.lr=1e30", "finetune.optim.clip_grad=0"]].concat();
    let ended = run(neva_run(&words(&small(dir.path(), "failed", &settings), &["--profile", "4"]))).with_code(1);
    let trace = Trace::read(&run_folder(dir.path(), "failed"));
    trace.check_nesting();
    assert!(trace.main(0).iter().any(|span| span.name == "backward"), "{}", ended.stderr);
    assert_eq!(trace.summary["ranks"], 1);
}
