//! Failures of `plot` and their messages. `cli/plot.md` compares figures.

use std::{io, path::PathBuf};

use neva_run::RunError;
use neva_track::TrackError;

#[test]
fn failures_have_an_exit_code_and_advice() {
    #[track_caller]
    fn check(error: TrackError, class: u8, advice: Option<&str>) {
        let error = RunError::from(error);
        assert_eq!((error.exit_code(), error.advice().as_deref()), (class, advice), "{error}");
    }
    let path = || PathBuf::from("m.jsonl");
    let io = |action, kind: io::ErrorKind| TrackError::Io {
        action,
        path: path(),
        source: kind.into(),
    };
    check(
        io("write", io::ErrorKind::StorageFull),
        3,
        Some("free disk space, or name a file on another disk with `--out`"),
    );
    check(
        io("write", io::ErrorKind::PermissionDenied),
        3,
        Some("name a file that you may write with `--out`"),
    );
    check(io("read", io::ErrorKind::PermissionDenied), 3, None);
    check(
        TrackError::BrokenMetrics {
            path: path(),
            line: 7,
            reason: String::new(),
        },
        2,
        Some("remove line 7, or plot another run"),
    );
}
