//! A cluster as its login node describes it, and the draft of an executor file for it. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use neva_schemas::time_limit_s;

/// A cluster, as its login node describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cluster {
    /// Version of Slurm, as `22.05.8`.
    pub(super) version: String,
    /// Values of `scontrol show config`.
    pub(super) settings: BTreeMap<String, String>,
    /// Partitions in Slurm's order.
    pub(super) partitions: Vec<Partition>,
    /// Accounts that the user may charge; none where accounts are not used.
    pub(super) accounts: Vec<String>,
}

/// A partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) name: String,
    pub(super) is_default: bool,
    /// Jobs may start in it.
    pub(super) is_up: bool,
    /// Longest time of a job, as Slurm writes it; `None` without a limit.
    pub(super) max_time: Option<String>,
    /// Accounts that may use it; `None`: all.
    pub(super) allowed_accounts: Option<Vec<String>>,
    /// Nodes by what they have.
    pub(super) nodes: Vec<NodeGroup>,
}

/// Equal nodes of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NodeGroup {
    pub(super) count: u32,
    pub(super) cpus: u32,
    pub(super) memory_mb: u64,
    /// Generic resources, as `gpu:a100:8`; empty for none.
    pub(super) gres: String,
    pub(super) state: String,
}

impl NodeGroup {
    /// Returns the GPUs of a node: `gpu:8`, `gpu:a100:4`, also several types.
    pub(super) fn gpus(&self) -> u32 {
        let resources = split_gres(&self.gres);
        let gpus = resources
            .iter()
            .filter(|resource| *resource == "gpu" || resource.starts_with("gpu:"));
        gpus.map(|gpu| gpu.rsplit(':').next().and_then(|count| count.parse().ok()).unwrap_or(1))
            .sum()
    }
}

/// Splits `gpu:a100:8(S:0-1),nvme:1` at its commas, without what is in brackets.
fn split_gres(gres: &str) -> Vec<String> {
    let (mut depth, mut plain) = (0_u32, String::new());
    for letter in gres.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            letter if depth == 0 => plain.push(letter),
            _ => {}
        }
    }
    let names = plain.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty() && *name != "null")
        .map(str::to_owned)
        .collect()
}

impl Partition {
    /// Returns the GPUs of its nodes: `8 on 4 nodes (gpu:a100:8)`.
    pub(super) fn gpus(&self) -> Option<String> {
        let mut by_gres = BTreeMap::<(u32, String), u32>::new();
        for group in self.nodes.iter().filter(|group| group.gpus() > 0) {
            let names: Vec<_> = split_gres(&group.gres).into_iter().filter(|name| name.starts_with("gpu")).collect();
            *by_gres.entry((group.gpus(), names.join(","))).or_default() += group.count;
        }
        let texts: Vec<_> = by_gres
            .iter()
            .rev()
            .map(|((gpus, gres), nodes)| format!("{gpus} on {nodes} node{} ({gres})", if *nodes == 1 { "" } else { "s" }))
            .collect();
        (!texts.is_empty()).then(|| texts.join(", "))
    }

    /// Returns the number of nodes.
    pub(super) fn num_nodes(&self) -> u32 {
        self.nodes.iter().map(|group| group.count).sum()
    }
}

impl Cluster {
    /// Returns the partition of a job: the named one, else the default.
    pub(super) fn partition(&self, name: Option<&str>) -> Option<&Partition> {
        self.partitions.iter().find(|partition| match name {
            Some(name) => partition.name == name,
            None => partition.is_default,
        })
    }

    /// Returns the names of the partitions.
    pub(super) fn partition_names(&self) -> String {
        let names: Vec<_> = self.partitions.iter().map(|partition| partition.name.as_str()).collect();
        names.join(", ")
    }

    /// Returns the partition that a training would take: with the most GPUs on a node among those that are up.
    fn best(&self) -> Option<&Partition> {
        let gpus = |partition: &Partition| partition.nodes.iter().map(NodeGroup::gpus).max().unwrap_or(0);
        let up = self.partitions.iter().filter(|partition| partition.is_up);
        // The first of equals, and the default before others.
        up.rev().max_by_key(|partition| (gpus(partition), partition.is_default))
    }
}

/// Longest time in a draft: a day, beyond which a job waits longer than it saves.
const DRAFT_TIME_S: u64 = 24 * 3600;

/// Returns a draft of an executor file for the cluster. `tunnel` are the lines of its tunnel, indented.
pub(super) fn draft(cluster: &Cluster, tunnel: &str) -> String {
    let mut yaml = String::new();
    let name = cluster.settings.get("ClusterName").map_or("this cluster", String::as_str);
    // Writing to a string succeeds.
    let _ = write!(
        yaml,
        "# Profile of {name}, drafted from sinfo and scontrol (Slurm {}): check each value.\n_target_: run.SlurmExecutor\n",
        cluster.version
    );
    if let Some(partition) = cluster.best() {
        let others: Vec<_> = cluster.partitions.iter().filter(|other| *other != partition).map(about).collect();
        let _ = writeln!(yaml, "partition: {}   # {}", scalar(&partition.name), about(partition));
        for other in others {
            let _ = writeln!(yaml, "# partition: {other}");
        }
        let time = partition
            .max_time
            .as_deref()
            .filter(|time| time_limit_s(time).is_some_and(|limit| limit < DRAFT_TIME_S));
        let _ = writeln!(yaml, "time: \"{}\"", time.unwrap_or("24:00:00"));
        match partition.nodes.iter().map(NodeGroup::gpus).max() {
            Some(gpus) if gpus > 0 => {
                yaml += "# `gpus_per_node` follows from the run; write `gres: gpu:8` where the cluster wants it by that name.\n";
            }
            _ => yaml += "gpus_per_node: 0   # its nodes have none\n",
        }
    }
    let allowed = cluster.best().and_then(|partition| partition.allowed_accounts.as_ref());
    let is_allowed = |account: &&String| allowed.is_none_or(|allowed| allowed.contains(account));
    let (mut accounts, others): (Vec<_>, Vec<_>) = cluster.accounts.iter().partition(is_allowed);
    accounts.extend(others);
    match accounts.as_slice() {
        [] => yaml += "# account: none is needed, as it seems\n",
        [first, rest @ ..] => {
            let others = if rest.is_empty() {
                String::new()
            } else {
                format!("   # or {}", rest.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", "))
            };
            let _ = writeln!(yaml, "account: {}{others}", scalar(first));
        }
    }
    if cluster
        .settings
        .get("SelectTypeParameters")
        .is_some_and(|value| value.contains("MEMORY"))
    {
        yaml += "mem: 0   # all memory of the nodes; without it a job gets the cluster's default\n";
    }
    if is_older(&cluster.version, 19, 5) {
        let _ = writeln!(yaml, "slurm_version: \"{}\"", cluster.version);
    }
    yaml += "signal_s: 300   # the ranks save five minutes before the time limit, and the job is requeued\n";
    if cluster.settings.get("JobRequeue").is_some_and(|value| value == "0") {
        yaml += "# JobRequeue=0: after the loss of a node a job is not requeued unless it asks for it\n";
    }
    if let Some(size) = cluster.settings.get("MaxArraySize").filter(|size| *size != "1001") {
        let _ = writeln!(yaml, "max_array_size: {size}   # a sweep of more tasks is several arrays");
    }
    yaml += tunnel;
    yaml
}

/// Describes a partition: `gpu: 4 nodes, GPUs 8 on 4 nodes (gpu:a100:8), at most 2-00:00:00`.
fn about(partition: &Partition) -> String {
    let gpus = partition
        .gpus()
        .map_or_else(|| "no GPUs".to_owned(), |gpus| format!("GPUs: {gpus}"));
    let limit = partition
        .max_time
        .as_ref()
        .map_or_else(String::new, |limit| format!(", at most {limit}"));
    let nodes = partition.num_nodes();
    let plural = if nodes == 1 { "" } else { "s" };
    format!("{}: {nodes} node{plural}, {gpus}{limit}", partition.name)
}

/// Returns true if a version is older than `major.minor`.
pub(super) fn is_older(version: &str, major: u32, minor: u32) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(own), Some(own_minor)) => (own, own_minor) < (major, minor),
        _ => false,
    }
}

/// Quotes a text unless YAML and our own reader take it for a text.
fn scalar(text: &str) -> String {
    let is_plain =
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let is_word = ["true", "false", "null", "yes", "no", "on", "off"].contains(&text.to_lowercase().as_str());
    if is_plain && !is_word {
        text.to_owned()
    } else {
        format!("{text:?}")
    }
}
