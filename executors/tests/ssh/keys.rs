//! Logins: keys of each type, the agent, and what is refused.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use neva_schemas::SshProgram;

use crate::{PROGRAMS, block_on, connect, message, output, server::Server, sh};

#[test]
fn keys_of_each_type_log_in() {
    let server = Server::start();
    for program in PROGRAMS {
        for key in ["id_ed25519", "id_rsa", "id_ecdsa"] {
            let mut config = server.config(program);
            config.identity = Some(server.file(key));
            assert_eq!(block_on(output(&*connect(&config), "echo in")), "in\n", "{program:?} {key}");
        }
    }
}

#[test]
fn a_refused_key_is_named() {
    let server = Server::start();
    for program in PROGRAMS {
        let mut config = server.config(program);
        config.identity = Some(server.file("id_refused"));
        let start = Instant::now();
        let error = block_on(connect(&config).run(&sh("true"))).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        assert!(!error.is_connection_lost());
        let error = message(&error);
        assert!(
            error.starts_with(&format!("root@127.0.0.1:{} refused the login: ", server.port())),
            "{error}"
        );
        assert!(error.contains("publickey") && error.ends_with("exit 3"), "{error}");
        assert_ne!(error.lines().nth(1), Some("help: "), "{error}");
    }
}

/// Keys with a passphrase are for the agent; nothing asks for it.
#[test]
fn a_key_with_a_passphrase_is_used_through_the_agent() {
    let server = Server::start();
    let key = server.dir.path().join("id_secret");
    let keygen = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "passphrase", "-C", "secret", "-f"])
        .arg(&key)
        .status();
    assert!(keygen.unwrap().success());
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    fs::write(server.file("authorized_keys"), &public).unwrap();
    let mut config = server.config(SshProgram::Ssh2);
    config.identity = Some(key.clone());
    let error = message(&block_on(connect(&config).run(&sh("true"))).unwrap_err());
    assert!(error.contains(&format!("ssh-add {}", key.display())), "{error}");

    let agent = Agent::start(&server);
    agent.add(&server, &key, "passphrase");
    let text = format!("Host *\n  IdentityAgent {}\n", agent.socket.display());
    fs::write(server.dir.path().join("agent_config"), text).unwrap();
    for program in PROGRAMS {
        let mut config = server.config(program);
        config.identity = None;
        config.config_file = Some(server.dir.path().join("agent_config"));
        assert_eq!(block_on(output(&*connect(&config), "echo in")), "in\n", "{program:?}");
    }
}

struct Agent {
    process: Child,
    socket: std::path::PathBuf,
}

impl Agent {
    fn start(server: &Server) -> Self {
        let socket = server.dir.path().join("agent");
        let process = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            assert!(Instant::now() < deadline, "ssh-agent does not start");
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Self { process, socket }
    }

    fn add(&self, server: &Server, key: &std::path::Path, passphrase: &str) {
        let ask = server.dir.path().join("ask");
        crate::master::write_program(&ask, &format!("echo {passphrase}"));
        let mut add = Command::new("ssh-add");
        add.arg(key)
            .env("SSH_AUTH_SOCK", &self.socket)
            .env("SSH_ASKPASS", ask)
            .env("SSH_ASKPASS_REQUIRE", "force");
        assert!(add.stdin(Stdio::null()).status().unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
