//! Files of jobs, read through the tunnel: parts of many files in one call.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::command::{self, script};
use crate::{
    batch_error::BatchError,
    error::ExecutorError,
    tunnel::{Tunnel, TunnelCommand},
};

/// Time that a part may take in addition: a login node starts several programs for it.
const PART_TIMEOUT: Duration = Duration::from_millis(100);

const READ: &str = include_str!("scripts/read.sh");

/// Part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// At most this many bytes from an offset on.
    From(u64, u64),
    /// The last bytes.
    End(u64),
    /// The beginning of `checkpoint.json` in each folder in this folder.
    EachCheckpoint(u64),
}

/// A file that was read: the number of its request, the name of its folder for checkpoints, and its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReadPart {
    pub(super) request: usize,
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// Reads parts of files in one call. Files that do not exist are absent.
///
/// # Errors
/// The machine cannot be reached.
pub(super) async fn read(tunnel: &dyn Tunnel, requests: &[(Part, PathBuf)]) -> Result<Vec<ReadPart>, ExecutorError> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let mut input = Vec::new();
    for (part, path) in requests {
        let head = match part {
            Part::From(offset, limit) => format!("{offset} {limit} "),
            Part::End(limit) => format!("end {limit} "),
            Part::EachCheckpoint(limit) => format!("each {limit} "),
        };
        input.extend_from_slice(head.as_bytes());
        input.extend_from_slice(path.as_os_str().as_encoded_bytes());
        input.push(b'\n');
    }
    let mut command = TunnelCommand {
        stdin: input,
        ..script(READ, [])
    };
    command.deadline += PART_TIMEOUT * u32::try_from(requests.len()).unwrap_or(u32::MAX);
    let output = tunnel.run(&command).await?;
    if !output.is_success() {
        return Err(command::failure(&tunnel.place(), "sh", &output));
    }
    parse(&output.stdout).ok_or_else(|| {
        BatchError::Output {
            place: tunnel.place(),
            program: "sh".into(),
            text: String::from_utf8_lossy(&output.stdout).chars().take(200).collect(),
            expected: "the parts of files that were requested",
        }
        .into()
    })
}

fn parse(mut bytes: &[u8]) -> Option<Vec<ReadPart>> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut words = head.splitn(3, ' ');
        let request: usize = words.next()?.parse().ok()?;
        let size: usize = words.next()?.parse().ok()?;
        let name = words.next()?.to_owned();
        let rest = &bytes[end + 1..];
        parts.push(ReadPart {
            request: request.checked_sub(1)?,
            name,
            bytes: rest.get(..size)?.to_vec(),
        });
        bytes = rest.get(size..)?.strip_prefix(b"\n")?;
    }
    Some(parts)
}

/// Refuses a folder whose name cannot be passed to Slurm or in a line.
pub(super) fn check_folder(dir: &Path) -> Result<(), ExecutorError> {
    let name = dir.to_str().ok_or_else(|| ExecutorError::NotUtf8 { path: dir.to_owned() })?;
    let what = match name {
        name if name.contains(['\n', '\r']) => "a line end",
        // sbatch and srun replace `%j` and others in names of files, and read a backslash as an escape.
        name if name.contains(['%', '\\']) => "`%` or a backslash, which Slurm replaces",
        _ => return Ok(()),
    };
    Err(BatchError::FolderName { dir: dir.to_owned(), what }.into())
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    /// Runs the script itself on real files.
    #[test]
    fn parts_of_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("log a"), "0123456789\n").unwrap();
        fs::write(at("empty"), "").unwrap();
        fs::create_dir_all(at("checkpoints/x y")).unwrap();
        fs::write(at("checkpoints/x y/checkpoint.json"), "{}").unwrap();
        let base = dir.path().display();
        let input = format!(
            "4 3 {base}/log a\nend 4 {base}/log a\n99 5 {base}/log a\n0 9 {base}/none\n0 9 {base}/empty\neach 9 {base}/checkpoints\n"
        );
        fs::write(at("input"), input).unwrap();
        let output = Command::new("sh")
            .args(["-c", READ, "neva-run"])
            .stdin(fs::File::open(at("input")).unwrap())
            .output()
            .unwrap();
        let part = |request, name: &str, bytes: &str| ReadPart {
            request,
            name: name.into(),
            bytes: bytes.into(),
        };
        let expected = [
            part(0, "-", "456"),
            part(1, "-", "789\n"),
            part(2, "-", ""),
            part(4, "-", ""),
            part(5, "x y", "{}"),
        ];
        assert_eq!(parse(&output.stdout).unwrap(), expected);
        assert_eq!(parse(b"1 5 -\nabc"), None);
    }
}
