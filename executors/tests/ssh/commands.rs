//! Commands: their environment, input, outputs and end.

use std::time::{Duration, Instant};

use neva_executors::tunnel::{CommandEnd, TunnelCommand};

use crate::{PROGRAMS, block_on, connect, message, output, server::Server, sh};

#[test]
fn a_command_is_run_as_on_this_machine() {
    let server = Server::start();
    for program in PROGRAMS {
        let tunnel = connect(&server.config(program));
        block_on(async {
            let run = async |script: &str, stdin: &str| {
                let output = tunnel.run(&sh(script).stdin(stdin)).await.unwrap();
                (
                    output.end,
                    String::from_utf8(output.stdout).unwrap(),
                    String::from_utf8(output.stderr).unwrap(),
                )
            };
            let exit = CommandEnd::Exit;
            assert_eq!(run("cat; echo e >&2; exit 3", "in").await, (exit(3), "in".into(), "e\n".into()));
            assert_eq!(
                run("printf 'no end'; printf 'nor here' >&2", "").await,
                (exit(0), "no end".into(), "nor here".into())
            );
            assert_eq!(run("exit 127", "").await.0, exit(127));
            assert_eq!(run("exit 255", "").await.0, exit(255));
            assert_eq!(run("kill -KILL $$", "").await.0, CommandEnd::Signal("KILL".to_owned()));
            assert_eq!(run("kill -SEGV $$", "").await.0, CommandEnd::Signal("SEGV".to_owned()));
            // Neither a flood of errors nor unread input blocks a command, and bytes stay as they are.
            let (end, stdout, stderr) = run("head -c 4000000 /dev/zero | tr '\\0' x >&2; echo done", &"y".repeat(1 << 20)).await;
            assert_eq!((end, stdout.as_str(), stderr.len()), (exit(0), "done\n", 4_000_000));
            let bytes: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
            let echoed = tunnel.run(&sh("cat").stdin(bytes.clone())).await.unwrap();
            assert!(echoed.stdout == bytes, "{program:?}");
            // Words are words: no shell reads them, however long they are.
            let long = "x".repeat(100_000);
            let words = [
                "printf",
                "<%s>",
                "a b",
                "$HOME",
                "'",
                "\"",
                "*",
                "new\nline",
                "\\",
                "",
                "-n",
                "é",
                &long,
                &long,
                &long,
            ];
            let printed = tunnel.run(&TunnelCommand::new(words)).await.unwrap();
            let expect: String = words[2..].iter().map(|word| format!("<{word}>")).collect();
            assert_eq!(String::from_utf8(printed.stdout).unwrap(), expect);
            let missing = tunnel.run(&TunnelCommand::new(["no-such-program"])).await.unwrap();
            assert_eq!(missing.end, exit(127));
            assert!(String::from_utf8_lossy(&missing.stderr).contains("no-such-program"));
        });
    }
}

#[test]
fn the_environment_is_on_no_command_line() {
    let server = Server::start();
    for program in PROGRAMS {
        let tunnel = connect(&server.config(program));
        let mut command = sh(
            "printf '%s' \"$TOKEN\"; for f in /proc/[0-9]*/cmdline; do tr '\\0' '\\n' <$f; done 2>/dev/null >all; \
                              printf '%s\\n' \"$TOKEN\" >word; grep -cF -f word all >&2; rm -f all word",
        );
        command.env.insert("TOKEN".to_owned(), "hf_0123456789 'x' \"$y\"".to_owned());
        let output = block_on(tunnel.run(&command)).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hf_0123456789 'x' \"$y\"");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "0\n");
        let bad = |name: &str, value: &str| {
            let mut command = sh("true");
            command.env.insert(name.to_owned(), value.to_owned());
            message(&block_on(tunnel.run(&command)).unwrap_err())
        };
        assert!(bad("A B", "").contains("not a name of a variable"));
        assert!(bad("A", "x\0y").contains("NUL"));
    }
}

#[test]
fn a_command_before_each_program_sets_the_environment() {
    let server = Server::start();
    for program in PROGRAMS {
        let mut config = server.config(program);
        config.shell = Some("/bin/bash".into());
        config.pre_command = Some("echo noise; export FROM_BEFORE=\"$(cat)\"yes".into());
        let tunnel = connect(&config);
        let command = sh("echo \"$FROM_BEFORE\"; cat").stdin("input");
        let run = block_on(tunnel.run(&command)).unwrap();
        assert_eq!(String::from_utf8_lossy(&run.stdout), "yes\ninput");

        config.pre_command = Some("module() { echo \"no module $1\" >&2; return 1; }; module slurm".into());
        let folder = tempfile::tempdir().unwrap();
        let ran = folder.path().join("ran");
        let command = sh(&format!("echo ran > {}", ran.display()));
        let error = message(&block_on(connect(&config).run(&command)).unwrap_err());
        assert!(
            error.contains("`pre_command` failed") && error.contains("no module slurm") && error.ends_with("exit 3"),
            "{error}"
        );
        assert!(!ran.exists());
    }
}

#[test]
fn a_command_ends_at_its_deadline_and_the_tunnel_goes_on() {
    let server = Server::start();
    for program in PROGRAMS {
        let tunnel = connect(&server.config(program));
        block_on(async {
            assert_eq!(output(&*tunnel, "echo first").await, "first\n");
            let start = Instant::now();
            let error = tunnel.run(&sh("sleep 60").deadline(Duration::from_secs(2))).await.unwrap_err();
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
            assert!(error.is_connection_lost());
            assert!(message(&error).contains("did not end within 2 s"), "{}", message(&error));
            assert_eq!(output(&*tunnel, "echo again").await, "again\n");
        });
    }
}

/// Servers allow few commands at once over one connection.
#[test]
fn commands_wait_for_a_session() {
    let server = Server::with(&["--config", "MaxSessions 1"]);
    for program in PROGRAMS {
        let tunnel = connect(&server.config(program));
        block_on(async {
            let numbers = futures_util::future::join_all((0..6).map(|number| {
                let tunnel = tunnel.clone();
                async move { output(&*tunnel, &format!("sleep 0.3; echo {number}")).await }
            }));
            assert_eq!(numbers.await, ["0\n", "1\n", "2\n", "3\n", "4\n", "5\n"]);
        });
    }
}
