//! Trust in hosts, the SSH config file, and jump hosts.

use std::{
    fs,
    time::{Duration, Instant},
};

use neva_executors::tunnel::SshTunnel;
use neva_schemas::{SshProgram, SshTunnelConfig};

use crate::{PROGRAMS, block_on, connect, message, output, server::Server, sh};

/// Returns the message of a login that must fail soon.
fn refusal(config: &SshTunnelConfig) -> String {
    let start = Instant::now();
    let error = block_on(connect(config).run(&sh("true"))).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(!error.is_connection_lost(), "{}", message(&error));
    message(&error)
}

fn fingerprint(file: &std::path::Path) -> String {
    let output = std::process::Command::new("ssh-keygen").arg("-lf").arg(file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().find(|word| word.starts_with("SHA256:")).unwrap().to_owned()
}

#[test]
fn a_changed_host_key_is_refused_with_both_fingerprints() {
    let server = Server::start();
    for program in PROGRAMS {
        for strict in [true, false] {
            let mut config = server.config(program);
            config.known_hosts = Some(server.file("known_hosts.wrong"));
            config.strict_host_key_checking = strict;
            let message = refusal(&config);
            assert!(message.contains("it has changed"), "{message}");
            for key in ["wrong_ed25519.pub", "host_ed25519.pub"] {
                assert!(message.contains(&fingerprint(&server.file(key))), "{key}: {message}");
            }
            assert!(message.contains("ssh-keygen -f") && message.ends_with("exit 3"), "{message}");
        }
    }
}

#[test]
fn an_unknown_host_is_refused_or_recorded() {
    let server = Server::start();
    for program in PROGRAMS {
        let known_hosts = server.dir.path().join(format!("known_hosts.{program:?}"));
        let mut config = server.config(program);
        config.known_hosts = Some(known_hosts.clone());
        let message = refusal(&config);
        assert!(message.contains("key of it is in"), "{message}");
        assert!(
            message.contains("log in once by hand, with `ssh ") && message.ends_with("exit 3"),
            "{message}"
        );
        assert!(!known_hosts.exists());
        config.strict_host_key_checking = false;
        assert_eq!(block_on(output(&*connect(&config), "echo in")), "in\n");
        config.strict_host_key_checking = true;
        assert_eq!(block_on(output(&*connect(&config), "echo in")), "in\n");
        let name = format!("[127.0.0.1]:{} ", server.port());
        assert!(fs::read_to_string(&known_hosts).unwrap().starts_with(&name));
        // A file in which `ssh-keygen -H` hid the names.
        assert!(
            std::process::Command::new("ssh-keygen")
                .arg("-Hf")
                .arg(&known_hosts)
                .output()
                .unwrap()
                .status
                .success()
        );
        assert!(!fs::read_to_string(&known_hosts).unwrap().contains("127.0.0.1"));
        assert_eq!(block_on(output(&*connect(&config), "echo in")), "in\n");
    }
}

/// The file knows one key of the server, and not the one that clients prefer.
#[test]
fn a_known_key_of_any_type_is_enough() {
    let server = Server::start();
    let all = fs::read_to_string(server.file("known_hosts")).unwrap();
    let ecdsa: String = all
        .lines()
        .filter(|line| line.contains("ecdsa"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(server.file("known_hosts"), ecdsa).unwrap();
    for program in PROGRAMS {
        assert_eq!(block_on(output(&*connect(&server.config(program)), "echo in")), "in\n");
    }
}

/// Returns the config of a tunnel to an entry of an SSH config file.
fn entry(server: &Server, program: SshProgram, text: &str) -> SshTunnelConfig {
    let file = server.dir.path().join("ssh_config");
    fs::write(&file, text).unwrap();
    SshTunnelConfig {
        host: "hpc".into(),
        config_file: Some(file),
        job_dir: Some("/tmp".into()),
        program,
        ..SshTunnelConfig::default()
    }
}

#[test]
fn an_entry_of_the_config_file_is_used() {
    let server = Server::start();
    for program in PROGRAMS {
        let text = format!(
            "Host other\n  Port 1\nHost h*c !hpx\n  HostName 127.0.0.1\n  Port {}\n  User root\n  IdentityFile {}\n  IdentityFile {}\n  \
             IdentitiesOnly yes\n  UserKnownHostsFile {}\n",
            server.port(),
            server.file("id_refused").display(),
            server.file("id_ecdsa").display(),
            server.file("known_hosts").display(),
        );
        let config = entry(&server, program, &text);
        assert_eq!(block_on(output(&*connect(&config), "echo in")), "in\n");
    }
    // What the built-in client cannot do is refused, and not skipped.
    let config = entry(&server, SshProgram::Ssh2, "Host *\n  ProxyCommand nc %h %p\n");
    let error = message(&SshTunnel::new(&config, None).unwrap_err());
    assert!(
        error.contains("ProxyCommand") && error.contains("program: openssh") && error.ends_with("exit 2"),
        "{error}"
    );
}

#[test]
fn a_host_is_reached_through_others() {
    let (first, second, target) = (Server::start(), Server::start(), Server::start());
    for program in PROGRAMS {
        // All keys of the three are accepted by all.
        let keys: String = [&first, &second, &target]
            .map(|server| fs::read_to_string(server.file("id_ed25519.pub")).unwrap())
            .concat();
        let known: String = [&first, &second, &target]
            .map(|server| fs::read_to_string(server.file("known_hosts")).unwrap())
            .concat();
        let (known_hosts, key) = (target.dir.path().join("known_hosts"), target.file("id_ed25519"));
        fs::write(&known_hosts, known).unwrap();
        for server in [&first, &second, &target] {
            fs::write(server.file("authorized_keys"), &keys).unwrap();
        }
        let common = format!("UserKnownHostsFile {}\n  IdentityFile {}\n", known_hosts.display(), key.display());
        let text = format!(
            "Host gate\n  HostName 127.0.0.1\n  User root\n  Port {}\nHost hpc\n  HostName 127.0.0.1\n  Port {}\n  User root\n  \
             ProxyJump gate,root@127.0.0.1:{}\nHost *\n  {common}",
            first.port(),
            target.port(),
            second.port(),
        );
        let jumps = |server: &Server| {
            fs::read_to_string(server.file("sshd.log"))
                .unwrap()
                .matches("Accepted publickey")
                .count()
        };
        let before = [&first, &second, &target].map(jumps);
        let mut config = entry(&target, program, &text);
        let check = |config: &SshTunnelConfig| {
            let tunnel = connect(config);
            block_on(async {
                assert_eq!(output(&*tunnel, "echo in").await, "in\n");
                let flood = tunnel
                    .run(&sh("cat; head -c 3000000 /dev/zero >&2").stdin(vec![5; 3_000_000]))
                    .await
                    .unwrap();
                assert!(flood.stdout == vec![5; 3_000_000] && flood.stderr.len() == 3_000_000);
            });
        };
        check(&config);
        for (server, before) in [&first, &second, &target].into_iter().zip(before) {
            assert!(jumps(server) > before, "{program:?} went another way");
        }
        // The tunnel's own jump hosts take precedence.
        config.jump = Some(vec![format!("root@127.0.0.1:{}", second.port())]);
        let before = jumps(&first);
        check(&config);
        assert_eq!(jumps(&first), before);
        // A jump host that is away is named.
        second.down();
        let error = message(&block_on(connect(&config).run(&sh("true"))).unwrap_err());
        assert!(
            error.contains("Connection refused") || error.contains("Connection closed"),
            "{error}"
        );
        second.up(&[]);
    }
}
