//! Tests of the tunnels on real SSH servers: `make e2e-slurm` runs them, as root. Each starts servers of its own, and cuts
//! their connections as networks do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod cuts;
mod files;
mod hosts;
mod keys;
mod master;
mod server;

use std::{future::Future, sync::Arc, time::Duration};

use neva_executors::{
    ExecutorError,
    tunnel::{CommandEnd, SshTunnel, Tunnel, TunnelCommand},
};
use neva_schemas::{SshProgram, SshTunnelConfig};

/// Both programs that connect.
const PROGRAMS: [SshProgram; 2] = [SshProgram::Ssh2, SshProgram::OpenSsh];

/// Runs a future to its end, which must come within two minutes.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let done = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), future).await });
    runtime.shutdown_timeout(Duration::from_secs(5));
    done.expect("the test hung for two minutes")
}

fn connect(config: &SshTunnelConfig) -> Arc<dyn Tunnel> {
    Arc::new(SshTunnel::new(config, None).unwrap())
}

fn sh(script: &str) -> TunnelCommand {
    TunnelCommand::new(["sh", "-c", script]).deadline(Duration::from_secs(60))
}

/// Runs a script, which must succeed, and returns its output.
async fn output(tunnel: &dyn Tunnel, script: &str) -> String {
    let output = tunnel.run(&sh(script)).await.unwrap();
    assert_eq!(output.end, CommandEnd::Exit(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the message of an error with its causes, its help and its exit code.
fn message(error: &ExecutorError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let chain: Vec<_> = causes.map(ToString::to_string).collect();
    format!(
        "{}\nhelp: {}\nexit {}",
        chain.join(": "),
        error.help().unwrap_or_default(),
        error.exit_code()
    )
}
