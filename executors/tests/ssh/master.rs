//! A server that asks at each login, as for a one-time code: the user answers once, and all submissions use his connection.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use neva_schemas::{SshProgram, SshTunnelConfig};

use crate::{block_on, connect, message, output, server::Server, sh};

/// Writes an executable script.
pub(crate) fn write_program(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A second server, which asks for a code through PAM and counts the questions.
struct AskingServer {
    process: Child,
    dir: PathBuf,
    port: u16,
    pam: PathBuf,
}

impl AskingServer {
    fn start(keys: &Server) -> Self {
        let dir = keys.dir.path().join("asking");
        fs::create_dir(&dir).unwrap();
        // PAM's service has the program's name.
        let name = format!("neva-sshd-{}", std::process::id());
        let program = dir.join(&name);
        symlink("/usr/sbin/sshd", &program).unwrap();
        let check = dir.join("check");
        write_program(
            &check,
            &format!("read -r code; echo \"$code\" >>{}/asked; [ \"$code\" = 123456 ]", dir.display()),
        );
        let pam = Path::new("/etc/pam.d").join(&name);
        let text = format!(
            "auth required pam_exec.so expose_authtok quiet {}\nauth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n",
            check.display()
        );
        fs::write(&pam, text).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.join("sshd_config");
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nUsePAM yes\nPermitRootLogin yes\nPubkeyAuthentication no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication yes\nUseDNS no\nSetEnv HOME={}\nLogLevel VERBOSE\n",
            keys.file("host_ed25519").display(),
            dir.display(),
        );
        fs::write(&config, text).unwrap();
        let key = fs::read_to_string(keys.file("host_ed25519.pub")).unwrap();
        fs::write(dir.join("known_hosts"), format!("[127.0.0.1]:{port} {key}")).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(&program);
        command.args(["-D", "-e", "-f"]).arg(&config).stdin(Stdio::null()).stderr(log);
        let server = Self {
            process: command.spawn().unwrap(),
            dir,
            port,
            pam,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(server.dir.join("log")).unwrap());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        server
    }

    fn questions(&self) -> usize {
        fs::read_to_string(self.dir.join("asked")).unwrap_or_default().lines().count()
    }
}

impl Drop for AskingServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.pam);
    }
}

/// Does what a user does who types `command`: answers the questions with `code`.
fn type_command(command: &str, dir: &Path, code: &str) -> bool {
    let ask = dir.join("ask");
    write_program(&ask, &format!("echo {code}"));
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .env("SSH_ASKPASS", ask)
        .env("SSH_ASKPASS_REQUIRE", "force");
    shell
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// A connection that the user opened. It ends with this value, also if the test fails.
struct UsersConnection<'a> {
    /// Command that closes it.
    close: String,
    dir: &'a Path,
}

impl UsersConnection<'_> {
    /// Returns false if there was none.
    fn close(&self) -> bool {
        type_command(&self.close, self.dir, "")
    }
}

impl Drop for UsersConnection<'_> {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

#[test]
fn two_submissions_over_the_users_connection_cost_one_question() {
    let keys = Server::start();
    let server = AskingServer::start(&keys);
    #[expect(clippy::disallowed_methods, reason = "OpenSSH reads its files there")]
    let home = std::env::var("HOME").unwrap();
    fs::create_dir_all(Path::new(&home).join(".ssh")).unwrap();
    let config = |require_existing_master, program| SshTunnelConfig {
        port: Some(server.port),
        identity: None,
        known_hosts: Some(server.dir.join("known_hosts")),
        require_existing_master,
        ..keys.config(program)
    };
    // Nobody is asked in the background: the message says what to type.
    let mut help = String::new();
    for (required, expect) in [(true, "no open connection"), (false, "refused the login")] {
        let error = block_on(connect(&config(required, SshProgram::OpenSsh)).run(&sh("true"))).unwrap_err();
        help = error.help().unwrap();
        assert!(
            message(&error).contains(expect) && message(&error).ends_with("exit 3"),
            "{}",
            message(&error)
        );
    }
    let error = message(&block_on(connect(&config(false, SshProgram::Ssh2)).run(&sh("true"))).unwrap_err());
    assert!(error.contains("program: openssh"), "{error}");
    assert_eq!(server.questions(), 0);

    let typed = help.split('`').nth(1).unwrap();
    assert!(!type_command(typed, &server.dir, "000000"), "a wrong code");
    let wrong = server.questions();
    assert!(type_command(typed, &server.dir, "123456"), "{typed}");
    let opened = UsersConnection {
        close: typed.replace("-fN -o ControlMaster=yes", "-O exit"),
        dir: &server.dir,
    };
    assert_eq!(server.questions(), wrong + 1);
    for submission in ["first", "second"] {
        let tunnel = connect(&config(submission == "first", SshProgram::OpenSsh));
        block_on(async {
            assert_eq!(output(&*tunnel, &format!("echo {submission}")).await, format!("{submission}\n"));
            assert_eq!(output(&*tunnel, "echo more").await, "more\n");
        });
    }
    assert_eq!(server.questions(), wrong + 1);
    // The user's connection is his: it is still open, until he closes it.
    assert!(opened.close(), "{}", opened.close);
    let error = block_on(connect(&config(true, SshProgram::OpenSsh)).run(&sh("true"))).unwrap_err();
    assert!(message(&error).contains("no open connection"));
}
