//! The tunnel to this machine.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    time::{Duration, Instant},
};

use neva_executors::tunnel::{CommandEnd, LocalTunnel, Tunnel, TunnelCommand, TunnelFile};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

#[test]
fn commands_report_their_end_and_both_outputs() {
    let run = |script: &str, stdin: &str| {
        let mut command = TunnelCommand::new(["sh", "-c", script])
            .stdin(stdin)
            .deadline(Duration::from_secs(30));
        command.env.insert("TOKEN".to_owned(), "two words\n$HOME 'x' \"y\"".to_owned());
        let output = block_on(LocalTunnel.run(&command)).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.end, text(output.stdout), text(output.stderr))
    };
    let exit = CommandEnd::Exit;
    assert_eq!(run("cat; echo e >&2; exit 3", "in"), (exit(3), "in".into(), "e\n".into()));
    assert_eq!(run("printf %s \"$TOKEN\"", "").1, "two words\n$HOME 'x' \"y\"");
    assert_eq!(run("kill -KILL $$", "").0, CommandEnd::Signal("KILL".to_owned()));
    // Neither a flood of errors nor unread input blocks a command.
    let (end, stdout, stderr) = run("head -c 4000000 /dev/zero | tr '\\0' x >&2; echo done", &"y".repeat(1 << 20));
    assert_eq!((end, stdout.as_str(), stderr.len()), (exit(0), "done\n", 4_000_000));
}

#[test]
fn a_command_ends_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let script = format!("(sleep 2; touch {}) & wait", mark.display());
    let command = TunnelCommand::new(["sh", "-c", &script]).deadline(Duration::from_millis(300));
    let start = Instant::now();
    let error = block_on(LocalTunnel.run(&command)).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(error.is_connection_lost());
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        assert!(!mark.exists(), "a process of the command was left");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn a_missing_program_is_named() {
    let command = TunnelCommand::new(["no-such-program", "x"]);
    let error = block_on(LocalTunnel.run(&command)).unwrap_err();
    assert_eq!(error.to_string(), "cannot start no-such-program on this machine: it is not in PATH");
    assert!(!error.is_connection_lost());
}

#[test]
fn files_are_written_read_and_copied_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a b/new/plan.json");
    let file = TunnelFile {
        path: path.clone(),
        bytes: b"0123456789".to_vec(),
        mode: 0o640,
    };
    block_on(LocalTunnel.write(std::slice::from_ref(&file))).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    block_on(LocalTunnel.write(&[file])).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), metadata.ino(), "the file was written again");
    assert_eq!(
        fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "a temporary file was left"
    );

    let read = |offset, limit| block_on(LocalTunnel.read(&path, offset, limit)).unwrap();
    assert_eq!(read(3, 4), Some(b"3456".to_vec()));
    assert_eq!(read(8, 4), Some(b"89".to_vec()));
    assert_eq!(read(20, 4), Some(Vec::new()));
    assert_eq!(block_on(LocalTunnel.read(&dir.path().join("none"), 0, 4)).unwrap(), None);

    let (from, to) = (dir.path().join("a b"), dir.path().join("copy"));
    block_on(LocalTunnel.upload(&from, &to)).unwrap();
    let copy = to.join("new/plan.json");
    assert_eq!(fs::read(&copy).unwrap(), b"0123456789");
    let inode = fs::metadata(&copy).unwrap().ino();
    block_on(LocalTunnel.upload(&from, &to)).unwrap();
    assert_eq!(fs::metadata(&copy).unwrap().ino(), inode);
    fs::write(&path, "9876543210").unwrap();
    block_on(LocalTunnel.upload(&path, &copy)).unwrap();
    assert_eq!(fs::read(&copy).unwrap(), b"9876543210");
}
