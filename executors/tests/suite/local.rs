//! Jobs of shell scripts: their ends, their failures, and that no process is left.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use super::support::{Job, alive, local, processes};
use neva_executors::{Executor, ExecutorError, JobFailure, JobState};
use neva_schemas::{RankFailure, StopSignal, exit_class};

/// Runs a job of `ranks` shells that run `script`, and returns its failure.
async fn failure(ranks: u32, script: &str) -> JobFailure {
    failure_of(Job::new(ranks, script)).await
}

async fn failure_of(job: Job) -> JobFailure {
    match job.run().await {
        JobState::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// Returns a shell command that writes a failure record as an engine does.
fn record(rank: u32, class: u8, unix_ms: u64, chain: &[&str]) -> String {
    record_of(rank, class, unix_ms, chain, false)
}

fn record_of(rank: u32, class: u8, unix_ms: u64, chain: &[&str], peer_failure: bool) -> String {
    let failure = RankFailure {
        class,
        rank,
        step: Some(7),
        unix_ms,
        chain: chain.iter().map(|cause| (*cause).to_owned()).collect(),
        peer_failure,
        help: None,
    };
    format!("echo '{}' >> failures.jsonl\n", serde_json::to_string(&failure).unwrap())
}

#[tokio::test]
async fn ranks_get_torchruns_variables_and_a_log_each() {
    let job = Job::new(
        2,
        "echo \"$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR $GREETING\"; echo $MASTER_PORT > port$RANK; echo oops >&2",
    );
    assert_eq!(job.run().await, JobState::Succeeded);
    assert_eq!(job.read("logs/rank0.log"), "0/2 0/2 127.0.0.1 two words\noops\n");
    assert_eq!(job.read("logs/rank1.log"), "1/2 1/2 127.0.0.1 two words\noops\n");
    let port: u16 = job.read("port0").trim().parse().unwrap();
    assert!(port > 0);
    assert_eq!(job.read("port0"), job.read("port1"));
    assert_eq!(
        fs::read_to_string(job.submission.dir.join("plan.json")).unwrap(),
        job.submission.files[std::path::Path::new("plan.json")]
    );
}

#[tokio::test]
async fn peers_of_an_early_success_continue() {
    let job = Job::new(2, "[ $RANK = 0 ] && exit 0\nuntil [ -e go ]; do sleep 0.01; done; echo done > late");
    let handle = job.submit().await;
    job.lines("plan.json", 1).await;
    assert_eq!(job.executor.status(&handle).await.unwrap().state, JobState::Running);
    fs::write(job.submission.dir.join("go"), "").unwrap();
    assert_eq!(job.end(&handle).await, JobState::Succeeded);
    assert_eq!(job.read("late"), "done\n");
    assert_eq!(
        job.executor.status(&handle).await.unwrap().state,
        JobState::Succeeded,
        "the state does not change"
    );
}

#[tokio::test]
async fn the_exit_code_of_a_rank_without_a_record_is_the_class_of_its_failure() {
    let cases = [
        ("exit 1", exit_class::JOB, "exit code 1"),
        ("exit 2", exit_class::INPUT, "exit code 2"),
        ("exit 3", exit_class::CLUSTER, "exit code 3"),
        ("exit 4", exit_class::BUG, "exit code 4"),
        ("exit 77", exit_class::JOB, "exit code 77"),
        ("exit 101", exit_class::BUG, "exit code 101"),
        ("exit 126", exit_class::CLUSTER, "exit code 126"),
        ("kill -KILL $$", exit_class::JOB, "killed by SIGKILL"),
        ("kill -SEGV $$", exit_class::JOB, "killed by SIGSEGV"),
        ("kill -TERM $$", exit_class::JOB, "killed by SIGTERM"),
        ("kill -XFSZ $$", exit_class::JOB, "killed by SIGXFSZ"),
        ("kill -XCPU $$", exit_class::JOB, "killed by SIGXCPU"),
        ("exit 127", exit_class::CLUSTER, "libtorch was not found"),
        ("/nowhere/neva-rank", exit_class::CLUSTER, "the rank program was not found: "),
        (
            "echo 'neva-rank: error while loading shared libraries: libtorch_cpu.so: cannot open' >&2; exit 1",
            exit_class::CLUSTER,
            "libtorch was not found",
        ),
    ];
    for (script, class, message) in cases {
        let failure = failure(1, script).await;
        assert_eq!((failure.class, failure.rank, failure.others), (class, Some(0), 0), "{script}");
        assert!(failure.to_string().contains(message), "{script}: {failure}");
        assert_eq!(
            failure.help.as_deref() == Some("run `make setup`"),
            message.contains("libtorch"),
            "{script}"
        );
    }
}

#[tokio::test]
async fn an_exceeded_system_limit_is_reported() {
    let loader =
        "echo 'neva-rank: error while loading shared libraries: libtorch_cpu.so: failed to map segment from shared object' >&2; exit 127";
    for (script, message, help) in [
        ("kill -XFSZ $$", "SIGXFSZ", "ulimit -f unlimited"),
        ("kill -XCPU $$", "SIGXCPU", "ulimit -t unlimited"),
        (loader, "failed to map segment", "ulimit -v unlimited"),
    ] {
        let failure = failure(1, script).await;
        assert!(failure.to_string().contains(message), "{script}: {failure}");
        assert!(
            failure.help.as_ref().is_some_and(|text| text.contains(help)),
            "{script}: {failure:?}"
        );
    }
}

/// Ranks receive the signal of the request.
#[tokio::test]
async fn ranks_receive_the_signal_of_the_request() {
    let script = "for signal in TERM INT HUP USR1; do trap \"echo $signal > got; exit 0\" $signal; done
        echo up > ready; while :; do sleep 0.05; done";
    for signal in StopSignal::ALL {
        // The shell cannot trap signals that this test inherited as ignored.
        signal_hook::flag::register(signal.number(), Arc::default()).unwrap();
        let job = Job::new(1, script);
        let handle = job.submit().await;
        job.lines("ready", 1).await;
        job.executor.cancel(&handle, signal).await.unwrap();
        assert_eq!(job.end(&handle).await, JobState::Cancelled);
        assert_eq!(format!("SIG{}", job.read("got").trim()), signal.name());
    }
}

#[tokio::test]
async fn without_a_record_the_end_of_the_log_is_reported() {
    let failure = failure(1, "for i in $(seq 30); do echo line $i; done; exit 1").await;
    assert_eq!(failure.tail.first().map(String::as_str), Some("line 21"));
    assert_eq!(failure.tail.last().map(String::as_str), Some("line 30"));
    assert!(failure.log.unwrap().ends_with("run/logs/rank0.log"));
}

#[tokio::test]
async fn the_first_record_by_time_is_reported_and_the_others_counted() {
    let script = format!(
        "case $RANK in 0) {} exit 1;; 1) {} exit 2;; *) printf '{{\"class\"' >> failures.jsonl; exit 1;; esac",
        record(0, 1, 2000, &["rank 1 is gone"]),
        record(1, 2, 1000, &["batch 3", "label 9 is outside the vocabulary"]),
    );
    let failure = failure(3, &script).await;
    assert_eq!(
        (failure.class, failure.rank, failure.step, failure.others),
        (2, Some(1), Some(7), 2)
    );
    insta::assert_snapshot!(failure, @"rank 1 failed in step 7: batch 3: label 9 is outside the vocabulary (2 more ranks failed)");
    assert_eq!(failure.tail, [""; 0]);
}

#[tokio::test]
async fn a_killed_rank_is_the_root_cause() {
    let script = format!(
        "[ $RANK = 1 ] && kill -KILL $$\n{} exit 1",
        record(0, 3, 1000, &["rank 1 closed the connection"])
    );
    let failure = failure(2, &script).await;
    assert_eq!((failure.class, failure.rank, failure.others), (exit_class::JOB, Some(1), 1));
    assert!(
        failure.to_string().starts_with("rank 1 failed: it was killed by SIGKILL"),
        "{failure}"
    );
    assert!(failure.help.unwrap().contains("memory"));
}

#[tokio::test]
async fn a_peer_failure_yields_to_the_root_cause() {
    let script = format!(
        "case $RANK in 0) {} exit 1;; *) {} exit 2;; esac",
        record_of(0, 1, 1000, &["connection closed by peer"], true),
        record(1, 2, 1004, &["dog.jpg is not an image"]),
    );
    let failure = failure(2, &script).await;
    insta::assert_snapshot!(failure, @"rank 1 failed in step 7: dog.jpg is not an image (1 more rank failed)");
    assert_eq!(failure.class, exit_class::INPUT);
}

#[tokio::test]
async fn a_rank_that_had_to_be_killed_is_the_root_cause_of_peer_failures() {
    let script = format!(
        "[ $RANK = 2 ] && {{ echo $$ > pid; kill -STOP $$; }}\n{UNTIL_STOPPED}\n{} exit 1",
        record_of(0, 1, 1000, &["all_reduce: rank 0 waited 6 s"], true)
            .replace("\"rank\":0", "\"rank\":'$RANK'")
            .replace(":1000", ":'$((1000 + RANK))'"),
    );
    let failure = failure_of(Job::with_short_timeouts(3, &script)).await;
    insta::assert_snapshot!(failure, @"rank 2 failed: it did not respond and had to be killed: it was stopped by a signal: rank 0 in step 7: all_reduce: rank 0 waited 6 s (2 more ranks failed)");
    assert_eq!(failure.class, exit_class::JOB);
}

/// Waits until the process of the file `pid` is stopped.
const UNTIL_STOPPED: &str = "until grep -q '^State:.T' /proc/$(cat pid)/status; do sleep 0.01; done 2>/dev/null";

/// A rank that waits for the stopped one in another call must be killed, too.
#[tokio::test]
async fn a_stopped_rank_is_blamed_before_other_killed_ranks() {
    let script = |until: &str, stopped: &str| {
        let record = record_of(1, 1, 1000, &["all_reduce: rank 1 waited 6 s"], true);
        format!(
            "[ $RANK = 1 ] && {{ until [ $(cat ready 2>/dev/null | wc -l) = 3 ]; do sleep 0.01; done; {until}; {record} exit 1; }}
            trap '' TERM; echo $RANK >> ready; {stopped}
            while :; do sleep 0.05; done"
        )
    };
    let script_of_stopped = script(UNTIL_STOPPED, "[ $RANK = 3 ] && { echo $$ > pid; kill -STOP $$; }");
    let stopped = failure_of(Job::with_short_timeouts(4, &script_of_stopped)).await;
    insta::assert_snapshot!(stopped, @"rank 3 failed: it did not respond and had to be killed: it was stopped by a signal: rank 1 in step 7: all_reduce: rank 1 waited 6 s (1 more rank failed)");
    let stuck = failure_of(Job::with_short_timeouts(4, &script(":", ""))).await;
    insta::assert_snapshot!(stuck, @"rank 0 failed: it did not respond and had to be killed: stuck, or slower than `finetune.trainer.timeout_s`: so did ranks 2, 3: rank 1 in step 7: all_reduce: rank 1 waited 6 s (1 more rank failed)");
}

/// Records of older rank programs have no field `by_peer`.
#[test]
fn a_record_without_by_peer_is_a_root_cause() {
    let old = r#"{"class":1,"rank":0,"step":null,"unix_ms":5,"chain":["no space"]}"#;
    assert!(!serde_json::from_str::<RankFailure>(old).unwrap().peer_failure);
}

#[tokio::test]
async fn a_rank_that_does_not_end_is_killed_after_the_timeout() {
    let mut job = Job::with_short_timeouts(2, "[ $RANK = 0 ] && kill -STOP $$\nexit 0");
    local(&mut job.submission).exit_timeout_s = Some(1);
    let JobState::Failed(failure) = job.run().await else {
        panic!("a failure")
    };
    insta::assert_snapshot!(failure, @"rank 0 failed: it had not ended 1 s after another rank succeeded: stopped, or stuck");
    assert_eq!(failure.class, exit_class::JOB);
    // A rank that succeeds after SIGTERM was slow, not stuck.
    let mut slow = Job::new(
        2,
        "[ $RANK = 1 ] && { until [ -e ready ]; do sleep 0.01; done; exit 0; }\ntrap 'exit 0' TERM; : > ready; while :; do sleep 0.05; done",
    );
    local(&mut slow.submission).exit_timeout_s = Some(1);
    assert_eq!(slow.run().await, JobState::Succeeded);
}

#[tokio::test]
async fn peers_of_a_failed_rank_are_terminated_then_killed() {
    // Rank 1 exits on SIGTERM; rank 2 and its child ignore it.
    let script = "echo $$ >> pids
        [ $RANK = 0 ] && { until [ $(cat ready 2>/dev/null | wc -l) = 2 ]; do sleep 0.01; done; exit 1; }
        [ $RANK = 1 ] && trap 'echo saved > saved; exit 0' TERM
        [ $RANK = 2 ] && { trap '' TERM; (echo $$ >> pids; while :; do sleep 0.1; done) & }
        echo $RANK >> ready
        while :; do sleep 0.05; done";
    let job = Job::with_short_timeouts(3, script);
    let started = Instant::now();
    let JobState::Failed(failure) = job.run().await else {
        panic!("a failure")
    };
    assert_eq!((failure.rank, failure.others), (Some(0), 0), "a terminated rank did not fail");
    assert_eq!(job.read("saved"), "saved\n");
    assert!(started.elapsed() >= job.executor.settle + job.executor.grace);
    for pid in job.read("pids").lines() {
        assert!(!alive(pid), "{pid} is still running");
    }
}

#[tokio::test]
async fn cancelling_ends_the_job_and_cancelling_twice_kills_it() {
    let job = Job::new(2, "trap 'exit 0' TERM; echo up >> ready; while :; do sleep 0.05; done");
    let handle = job.submit().await;
    job.lines("ready", 2).await;
    job.executor.cancel(&handle, StopSignal::Terminate).await.unwrap();
    assert_eq!(job.end(&handle).await, JobState::Cancelled);

    let mut stubborn = Job::new(1, "trap '' TERM; echo $$ >> ready; while :; do sleep 0.05; done");
    stubborn.executor.grace = Duration::from_secs(3600);
    let handle = stubborn.submit().await;
    let pid = stubborn.lines("ready", 1).await;
    stubborn.executor.cancel(&handle, StopSignal::Terminate).await.unwrap();
    stubborn.executor.cancel(&handle, StopSignal::Terminate).await.unwrap();
    assert_eq!(stubborn.end(&handle).await, JobState::Cancelled);
    assert!(!alive(&pid));
}

#[tokio::test]
async fn a_taken_port_causes_one_more_attempt() {
    let taken = record(0, 3, 1000, &["the store", "port 1234: EADDRINUSE, address already in use"]);
    let once = Job::new(
        2,
        &format!("echo $MASTER_PORT >> ports$RANK; [ -e tried$RANK ] && exit 0; : > tried$RANK; [ $RANK = 1 ] && exit 0\n{taken} exit 3"),
    );
    assert_eq!(once.run().await, JobState::Succeeded);
    let ports = once.read("ports0");
    let ports: Vec<_> = ports.lines().collect();
    assert_eq!(ports.len(), 2);
    assert_ne!(ports[0], ports[1]);

    let always = Job::new(1, &format!("echo $MASTER_PORT >> ports; {taken} exit 3"));
    let JobState::Failed(failure) = always.run().await else {
        panic!("a failure")
    };
    assert_eq!((failure.class, always.read("ports").lines().count()), (exit_class::CLUSTER, 2));
}

#[tokio::test]
async fn logs_are_read_in_bounded_chunks() {
    let job = Job::new(1, "i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done");
    let handle = job.submit().await;
    assert_eq!(job.end(&handle).await, JobState::Succeeded);
    let (mut bytes, mut next, mut parts) = (Vec::new(), 0, 0);
    loop {
        let chunk = job.executor.logs(&handle, 0, next).await.unwrap();
        if chunk.bytes.is_empty() {
            break;
        }
        (next, parts) = (chunk.next, parts + 1);
        bytes.extend(chunk.bytes);
    }
    assert_eq!(bytes, "0123456789\n".repeat(20000).into_bytes());
    assert!(parts > 1);
    assert_eq!(
        job.executor.logs(&handle, 9, 0).await.unwrap().bytes,
        b"",
        "a rank without a log has no output"
    );
}

#[tokio::test]
async fn a_failed_start_leaves_no_process() {
    let mut job = Job::new(3, "echo $$ > pid$RANK; sleep 60");
    processes(&mut job.submission)[2].argv[0] = "/nowhere/neva-rank".into();
    let error = job.executor.submit(&job.submission).await.unwrap_err();
    assert!(
        matches!(&error, ExecutorError::Start { program, .. } if program == "/nowhere/neva-rank"),
        "{error:?}"
    );
    assert_eq!(error.exit_code(), exit_class::CLUSTER);
    assert!(error.help().unwrap().contains("cargo build --release"));
    for rank in 0..2 {
        // It may have been killed before it wrote its id.
        let pid = fs::read_to_string(job.submission.dir.join(format!("pid{rank}"))).unwrap_or_default();
        assert!(pid.is_empty() || !alive(&pid), "rank {rank} is still running");
    }
}

#[tokio::test]
async fn a_folder_holds_one_job_at_a_time() {
    let job = Job::new(1, "echo up > ready; sleep 60");
    let handle = job.submit().await;
    job.lines("ready", 1).await;
    let error = job.executor.submit(&job.submission).await.unwrap_err();
    assert!(matches!(error, ExecutorError::AlreadyRunning { .. }), "{error:?}");
    job.executor.cancel(&handle, StopSignal::Terminate).await.unwrap();
    assert_eq!(job.end(&handle).await, JobState::Cancelled);
}

/// The state of an attempt is separate from that of the next: its end, its failures, its output and its cancel
/// requests.
#[tokio::test]
async fn a_folder_accepts_another_job_after_the_first() {
    let first = format!(
        "echo output of $RANK; echo x >> tries; [ $(wc -l < tries) -gt 4 ] && exit 0
        [ $(wc -l < tries) -gt 2 ] && {{ trap 'exit 0' TERM; echo $RANK >> ready; while :; do sleep 0.05; done; }}
        {} printf '{{\"class\"' >> failures.jsonl; exit 2",
        record(0, 2, 1000, &["the first attempt"])
    );
    let job = Job::new(1, &first);
    for _ in 0..2 {
        let JobState::Failed(failure) = job.run().await else {
            panic!("a failure")
        };
        assert_eq!(
            (failure.class, failure.chain, failure.others),
            (2, vec!["the first attempt".to_owned()], 0)
        );
    }
    assert_eq!(
        job.read("failures.jsonl").matches("the first attempt").count(),
        2,
        "the records are kept"
    );

    let handle = job.submit().await;
    job.lines("ready", 1).await;
    assert_eq!(job.executor.status(&handle).await.unwrap().state, JobState::Running);
    job.executor.cancel(&handle, StopSignal::Terminate).await.unwrap();
    assert_eq!(job.end(&handle).await, JobState::Cancelled);

    let handle = job.submit().await;
    job.lines("ready", 2).await;
    job.executor.cancel(&handle, StopSignal::Terminate).await.unwrap();
    job.end(&handle).await;
    assert_eq!(job.run().await, JobState::Succeeded);
    assert_eq!(
        job.executor.logs(&handle, 0, 0).await.unwrap().bytes,
        b"output of 0\n",
        "the output of the latest attempt"
    );
    for attempt in 1..5 {
        // A shell may report that its child was terminated.
        let log = job.read(&format!("logs/attempt-{attempt}/rank0.log"));
        assert_eq!(log.lines().next(), Some("output of 0"), "{attempt}");
    }
}

/// An attempt without a record is described by its own log, not by the record of an earlier attempt.
#[tokio::test]
async fn a_failure_without_a_record_ignores_earlier_records() {
    let job = Job::new(
        1,
        &format!(
            "[ -e tried ] && {{ echo second; exit 4; }}; : > tried; echo error while loading shared libraries; {} exit 2",
            record(0, 2, 1000, &["the first attempt"])
        ),
    );
    job.run().await;
    let JobState::Failed(failure) = job.run().await else {
        panic!("a failure")
    };
    assert_eq!((failure.class, failure.tail), (exit_class::BUG, vec!["second".to_owned()]));
}

#[test]
fn a_job_of_a_dead_launcher_failed_and_its_ranks_are_dead() {
    let job = Job::new(1, "echo $$ > pid; sleep 60");
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (handle, pid) = first.block_on(async { (job.submit().await, job.lines("pid", 1).await) });
    drop(first);
    let JobState::Failed(failure) = runtime().block_on(job.end(&handle)) else {
        panic!("a failure")
    };
    assert_eq!((failure.class, failure.rank), (exit_class::CLUSTER, None));
    let deadline = Instant::now() + super::support::DEADLINE;
    while alive(&pid) {
        assert!(Instant::now() < deadline, "{pid} is still running");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A full disk at the job's end hides neither the failure nor its cause.
#[tokio::test]
async fn a_final_state_that_cannot_be_written_is_still_reported() {
    let full = "ln -s /dev/full job.json.partial\n";
    let help = || Some("make room there".to_owned());
    // The rank's own record contains the cause.
    let failure = RankFailure {
        class: exit_class::CLUSTER,
        rank: 0,
        step: Some(7),
        unix_ms: 1,
        chain: vec!["cannot write model.safetensors: No space left on device".into()],
        peer_failure: false,
        help: help(),
    };
    let job = Job::new(
        1,
        &format!(
            "{full}echo '{}' >> failures.jsonl\nexit 3",
            serde_json::to_string(&failure).unwrap()
        ),
    );
    let handle = job.submit().await;
    let JobState::Failed(seen) = job.end(&handle).await else {
        panic!("it failed")
    };
    assert_eq!(
        (seen.class, &seen.chain, &seen.help),
        (exit_class::CLUSTER, &failure.chain, &failure.help)
    );
    assert!(!job.submission.dir.join("job.json").exists());
    // Without a record, the error in its log is the cause.
    let words = "echo 'error: cannot write model.safetensors: No space left on device'\necho 'help: make room there'\n";
    let job = Job::new(1, &format!("{full}{words}exit 3"));
    let handle = job.submit().await;
    let JobState::Failed(seen) = job.end(&handle).await else {
        panic!("it failed")
    };
    assert_eq!((seen.class, &seen.chain, seen.help), (exit_class::CLUSTER, &failure.chain, help()));
    // Without any error text the suggestion is still there.
    let job = Job::new(1, &format!("{full}exit 3"));
    let handle = job.submit().await;
    let JobState::Failed(seen) = job.end(&handle).await else {
        panic!("it failed")
    };
    assert!(seen.help.as_ref().is_some_and(|help| help.starts_with("make room")), "{seen:?}");
    // A success is not a failure, and the next job in the folder has its own state.
    let job = Job::new(1, &format!("test -e again && rm job.json.partial && exit 1\ntouch again\n{full}"));
    let handle = job.submit().await;
    assert_eq!(job.end(&handle).await, JobState::Succeeded);
    let handle = job.submit().await;
    assert!(matches!(job.end(&handle).await, JobState::Failed(_)));
}
