//! Checks of this machine: the rank program, libtorch, the workspace, memory and disk.

use std::{fs, path::Path, thread::available_parallelism};

use super::{super::Globals, checks::Check};
use crate::{
    block_on, environment,
    program::{self, LIBTORCH_VERSION, RankVersion},
    workspace::WORKSPACE_FILE,
};

/// Checks that the rank program exists, starts, and links the libtorch that it was built for.
pub(super) fn rank_program() -> Vec<Check> {
    const NAME: &str = "neva-rank";
    let version = program::find_here().and_then(|path| Ok((block_on(program::version(&path))??, path)));
    match version {
        Ok((version, path)) => vec![
            Check::ok(NAME, format!("{} {}", path.display(), version.version)),
            libtorch(&version),
            Check::ok(
                "gpu",
                if version.cuda {
                    "usable".to_owned()
                } else {
                    "none: ranks compute on the CPU".to_owned()
                },
            ),
        ],
        Err(error) => vec![Check::missing(NAME, &error)],
    }
}

pub(super) fn libtorch(version: &RankVersion) -> Check {
    let fits = version
        .libtorch
        .strip_prefix(LIBTORCH_VERSION)
        .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()));
    let help = (!fits).then(|| format!("run `make setup`, or let LIBTORCH name a libtorch {LIBTORCH_VERSION}"));
    let needed = if fits {
        String::new()
    } else {
        format!(", needs {LIBTORCH_VERSION}")
    };
    Check {
        name: "libtorch",
        ok: fits,
        detail: format!("{}{needed}", version.libtorch),
        help,
    }
}

/// Reports the workspace file and its executors.
pub(super) fn workspace(globals: &Globals) -> Check {
    const NAME: &str = "workspace";
    match globals.workspace() {
        Ok(None) if globals.no_workspace => Check::ok(NAME, "ignored".to_owned()),
        Ok(None) => Check::ok(NAME, format!("none: there is no {WORKSPACE_FILE} here or above")),
        Ok(Some(workspace)) => {
            let names: Vec<_> = workspace.settings.executors.keys().map(String::as_str).collect();
            let executors = if names.is_empty() {
                String::new()
            } else {
                format!(", executors {}", names.join(", "))
            };
            Check::ok(NAME, format!("{}{executors}", workspace.file.display()))
        }
        Err(error) => Check {
            help: Some(format!(
                "`neva-run validate {WORKSPACE_FILE}` shows where; `--no-workspace` ignores the file"
            )),
            ..Check::missing(NAME, &error)
        },
    }
}

pub(super) fn machine() -> Check {
    let cores = available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_kib(&text));
    let memory = memory.map_or_else(
        || "memory unknown".to_owned(),
        |kib| format!("{} of memory free", size(kib.saturating_mul(1024))),
    );
    Check::ok("machine", format!("{cores} cores, {memory}"))
}

/// Reports whether images are decoded by vector instructions. `neva-rank`, which decodes them, is built with `neva-run`.
pub(super) fn jpeg() -> Check {
    let detail = if neva_data::has_jpeg_simd() {
        "decoded with vector instructions"
    } else {
        "decoded without vector instructions, about three times slower: install nasm, \
         run `cargo clean -p mozjpeg-sys --release`, build again"
    };
    Check::ok("jpeg", detail.to_owned())
}

/// Parses the line `MemAvailable:  123 kB` of /proc/meminfo, in KiB.
fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

pub(super) fn disk() -> Option<Check> {
    let folder = environment::working_directory().ok()?;
    let space = rustix::fs::statvfs(Path::new(&folder)).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    Some(Check::ok("disk", format!("{} free in {}", size(free), folder.display())))
}

/// Formats bytes in the largest unit that fits.
pub(super) fn size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let (unit, one) = units.into_iter().find(|(_, one)| bytes >= *one).unwrap_or(("bytes", 1));
    format!("{:.0} {unit}", bytes as f64 / one as f64)
}
