//! Files: written and sent once, atomically, also where there is no shell.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use neva_executors::tunnel::{Tunnel, TunnelFile};
use neva_schemas::SshProgram;

use crate::{PROGRAMS, block_on, connect, message, server::Server, sh};

/// Writes, reads and sends files in `dir`, which the test sees too since the server is on this machine.
async fn check(tunnel: &dyn Tunnel, dir: &Path) {
    let path = dir.join("it's a \"new\" folder/$HOME/plan.json");
    let file = TunnelFile {
        path: path.clone(),
        bytes: b"0123456789".to_vec(),
        mode: 0o640,
    };
    tunnel.write(std::slice::from_ref(&file)).await.unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    tunnel.write(std::slice::from_ref(&file)).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), metadata.ino(), "the file was written again");
    let other = TunnelFile {
        bytes: b"9876543210".to_vec(),
        ..file
    };
    tunnel.write(&[other]).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"9876543210");
    assert_eq!(
        fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "a temporary file was left"
    );

    assert_eq!(tunnel.read(&path, 3, 4).await.unwrap(), Some(b"6543".to_vec()));
    assert_eq!(tunnel.read(&path, 8, 4).await.unwrap(), Some(b"10".to_vec()));
    assert_eq!(tunnel.read(&path, 20, 4).await.unwrap(), Some(Vec::new()));
    assert_eq!(tunnel.read(&dir.join("none"), 0, 4).await.unwrap(), None);

    let (from, to) = (dir.join("tree"), dir.join("there"));
    fs::create_dir_all(from.join("lib/empty")).unwrap();
    fs::write(from.join("neva-rank"), "program").unwrap();
    fs::set_permissions(from.join("neva-rank"), fs::Permissions::from_mode(0o755)).unwrap();
    let large: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(from.join("lib/a b.so"), &large).unwrap();
    std::os::unix::fs::symlink("a b.so", from.join("lib/link.so")).unwrap();
    fs::write(from.join("none"), "").unwrap();
    tunnel.upload(&from, &to).await.unwrap();
    assert!(fs::read(to.join("lib/link.so")).unwrap() == large);
    assert_eq!(fs::read(to.join("none")).unwrap(), b"");
    assert_eq!(fs::metadata(to.join("neva-rank")).unwrap().permissions().mode() & 0o777, 0o755);
    // Only what changed is sent.
    let inodes = || ["lib/a b.so", "neva-rank"].map(|name| fs::metadata(to.join(name)).unwrap().ino());
    let before = inodes();
    fs::write(from.join("neva-rank"), "PROGRAM").unwrap();
    tunnel.upload(&from, &to).await.unwrap();
    let after = inodes();
    assert!(before[0] == after[0] && before[1] != after[1]);
    assert_eq!(fs::read(to.join("neva-rank")).unwrap(), b"PROGRAM");

    // What cannot be written or read is named.
    for target in [to.join("neva-rank/below"), to.clone()] {
        let file = TunnelFile {
            path: target.clone(),
            bytes: b"x".to_vec(),
            mode: 0o600,
        };
        let error = tunnel.write(&[file]).await.unwrap_err();
        assert!(!error.is_connection_lost(), "{}", message(&error));
        let message = message(&error);
        assert!(
            message.starts_with(&format!("cannot write {} on root@127.0.0.1:", target.display())),
            "{message}"
        );
        assert!(message.ends_with("exit 3"), "{message}");
    }
    assert!(fs::metadata(&to).unwrap().is_dir());
}

#[test]
fn files_are_written_sent_and_read() {
    let server = Server::start();
    for program in PROGRAMS {
        let dir = tempfile::tempdir().unwrap();
        block_on(check(&*connect(&server.config(program)), dir.path()));
    }
}

/// An account that only transfers files.
#[test]
fn files_are_transferred_without_a_shell() {
    let server = Server::start();
    let keys = fs::read_to_string(server.file("authorized_keys")).unwrap();
    fs::write(
        server.file("authorized_keys"),
        keys.replace("ssh-rsa", "command=\"internal-sftp\" ssh-rsa"),
    )
    .unwrap();
    let mut config = server.config(SshProgram::Ssh2);
    config.identity = Some(server.file("id_rsa"));
    let tunnel = connect(&config);
    let error = message(&block_on(tunnel.run(&sh("echo x"))).unwrap_err());
    assert!(error.contains("does not run commands") && error.ends_with("exit 3"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    block_on(check(&*tunnel, dir.path()));
}
