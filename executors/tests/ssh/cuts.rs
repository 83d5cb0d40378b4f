//! Connections that are cut: the right result or the right error, never a second execution, never a hang.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{PROGRAMS, block_on, connect, message, output, server::Server, sh};

/// Cuts all connections after a moment, on a thread of its own.
fn cut_after(server: &Arc<Server>, moment: Duration) -> std::thread::JoinHandle<()> {
    let server = server.clone();
    std::thread::spawn(move || {
        std::thread::park_timeout(moment);
        server.cut();
    })
}

#[test]
fn a_command_that_is_cut_is_not_repeated() {
    let server = Arc::new(Server::start());
    for program in PROGRAMS {
        let tunnel = connect(&server.config(program));
        let log = server.dir.path().join(format!("{program:?}"));
        block_on(async {
            output(&*tunnel, "true").await;
            let cut = cut_after(&server, Duration::from_secs(1));
            let start = Instant::now();
            let error = tunnel
                .run(&sh(&format!("echo ran >> {}; sleep 30", log.display())))
                .await
                .unwrap_err();
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
            assert!(error.is_connection_lost(), "{}", message(&error));
            assert!(message(&error).ends_with("exit 3"));
            cut.join().unwrap();
            // The tunnel connects again by itself.
            assert_eq!(output(&*tunnel, "echo again").await, "again\n");
            assert_eq!(fs::read_to_string(&log).unwrap(), "ran\n");
        });
    }
}

#[test]
fn a_server_that_is_away_is_reported_and_found_again() {
    let server = Server::start();
    for program in PROGRAMS {
        let tunnel = connect(&server.config(program));
        block_on(async {
            output(&*tunnel, "true").await;
            server.down();
            let start = Instant::now();
            let error = tunnel.run(&sh("true")).await.unwrap_err();
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
            assert!(error.is_connection_lost(), "{}", message(&error));
            assert!(message(&error).contains("Connection refused"), "{}", message(&error));
            server.up(&[]);
            assert_eq!(output(&*tunnel, "echo again").await, "again\n");
        });
    }
}

#[test]
fn an_upload_that_is_cut_goes_on() {
    let server = Arc::new(Server::start());
    let local = server.dir.path().join("large");
    let bytes: Vec<u8> = (0..96_u32 << 18)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    fs::write(&local, &bytes).unwrap();
    for program in PROGRAMS {
        let tunnel = connect(&server.config(program));
        let folder = server.dir.path().join(format!("far-{program:?}"));
        let there = folder.join("large");
        block_on(async {
            output(&*tunnel, "true").await;
            let cuts = [
                cut_after(&server, Duration::from_millis(700)),
                cut_after(&server, Duration::from_millis(1600)),
            ];
            tunnel.upload(&local, &there).await.unwrap();
            for cut in cuts {
                cut.join().unwrap();
            }
        });
        assert!(fs::read(&there).unwrap() == bytes, "{program:?}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "a temporary file was left");
    }
}

#[test]
fn an_upload_to_a_server_that_stays_away_ends_and_goes_on_later() {
    let server = Arc::new(Server::start());
    let local = server.dir.path().join("large");
    let bytes = vec![7; 96 << 20];
    fs::write(&local, &bytes).unwrap();
    for program in PROGRAMS {
        let folder = server.dir.path().join(format!("far-{program:?}"));
        let there = folder.join("large");
        block_on(async {
            let tunnel = connect(&server.config(program));
            output(&*tunnel, "true").await;
            let stopped = {
                let (server, folder) = (server.clone(), folder.clone());
                std::thread::spawn(move || {
                    // Something of it is there.
                    let has_part =
                        || fs::read_dir(&folder).is_ok_and(|mut files| files.any(|file| file.unwrap().metadata().unwrap().len() > 0));
                    while !has_part() {
                        std::thread::park_timeout(Duration::from_millis(5));
                    }
                    server.down();
                })
            };
            let start = Instant::now();
            let error = tunnel.upload(&local, &there).await.unwrap_err();
            stopped.join().unwrap();
            assert!(error.is_connection_lost(), "{}", message(&error));
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
            assert!(!there.exists());
            server.up(&[]);
            // Another launcher's tunnel, later.
            connect(&server.config(program)).upload(&local, &there).await.unwrap();
        });
        assert!(fs::read(&there).unwrap() == bytes, "{program:?}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "a temporary file was left");
    }
}

#[test]
fn a_log_that_is_cut_goes_on_at_its_byte() {
    let server = Arc::new(Server::start());
    let log = server.dir.path().join("rank0.log");
    let text: String = (0..200_000).map(|line| format!("line {line}\n")).collect();
    fs::write(&log, &text).unwrap();
    for program in PROGRAMS {
        let tunnel = connect(&server.config(program));
        block_on(async {
            let cut = cut_after(&server, Duration::from_millis(300));
            let mut read = Vec::new();
            let deadline = Instant::now() + Duration::from_secs(60);
            while read.len() < text.len() {
                match tunnel.read(&log, read.len() as u64, 16 << 10).await {
                    Ok(Some(bytes)) => read.extend(bytes),
                    Ok(None) => panic!("the log is there"),
                    Err(error) => {
                        assert!(error.is_connection_lost(), "{}", message(&error));
                        assert!(Instant::now() < deadline, "{program:?}: {}", message(&error));
                        // Connections are cut as long as the server is busy cutting them.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
            cut.join().unwrap();
            assert!(read == text.as_bytes(), "{program:?}");
        });
    }
}
