//! Sending a package to the cluster.

use std::{path::Path, time::Duration};

use super::{CODE_DIFF, CODE_FOLDER, CODE_RECORD, Content, Package};
use crate::{
    error::ExecutorError,
    packager_error::PackagerError,
    tunnel::{Tunnel, TunnelCommand, TunnelFile},
};

/// Time to unpack.
const UNPACK: Duration = Duration::from_secs(600);

/// Arguments: folder of the job, archive, hash. Unpacks into a new folder, which then takes the place of an older one.
const UNPACK_SCRIPT: &str = "cd \"$1\" || exit 74
[ \"$(cat code/.neva-code 2>/dev/null)\" = \"$3\" ] && exit 0
rm -rf code.part && mkdir code.part && tar -xf \"$2\" -C code.part && printf %s \"$3\" >code.part/.neva-code || exit 74
rm -rf code.old
if [ -e code ] || [ -L code ]; then mv code code.old || exit 74; fi
mv code.part code && rm -rf code.old";

/// Arguments: folder of the job, folder to use.
const LINK_SCRIPT: &str = "cd \"$1\" || exit 74
[ -d \"$2\" ] || { echo \"there is no folder $2\" >&2; exit 74; }
[ \"$(readlink code)\" = \"$2\" ] || { ln -s \"$2\" code.part && mv -T code.part code 2>/dev/null || mv code.part code; }";

impl Package {
    /// Puts the code into the folder `dir` of a job, which exists. The archive is kept in `archives` by its hash, so that
    /// equal code is sent once.
    ///
    /// # Errors
    /// The machine cannot be reached, or a file cannot be written there.
    pub async fn send(&self, tunnel: &dyn Tunnel, dir: &Path, archives: &Path) -> Result<(), ExecutorError> {
        let (script, arguments) = match &self.content {
            Content::Archive(file) => {
                let archive = archives.join(format!("{}.tar", self.record.hash));
                tunnel.upload(file.path(), &archive).await?;
                (UNPACK_SCRIPT, vec![path(dir)?, path(&archive)?, self.record.hash.clone()])
            }
            Content::Folder(there) => (LINK_SCRIPT, vec![path(dir)?, path(there)?]),
        };
        let argv = ["sh", "-c", script, "neva-run"].map(str::to_owned).into_iter().chain(arguments);
        let output = tunnel.run(&TunnelCommand::new(argv).deadline(UNPACK)).await?;
        if !output.is_success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(PackagerError::Unpack {
                place: tunnel.place(),
                folder: dir.join(CODE_FOLDER),
                reason: stderr.lines().last().unwrap_or("no reason is known").to_owned(),
            }
            .into());
        }
        let file = |name: &str, bytes: Vec<u8>| TunnelFile {
            path: dir.join(name),
            bytes,
            mode: 0o644,
        };
        let mut files = vec![file(CODE_RECORD, (serde_json::to_string_pretty(&self.record)? + "\n").into_bytes())];
        if !self.diff.is_empty() {
            files.push(file(CODE_DIFF, self.diff.clone()));
        }
        tunnel.write(&files).await
    }
}

fn path(path: &Path) -> Result<String, ExecutorError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| ExecutorError::NotUtf8 { path: path.to_owned() })
}
