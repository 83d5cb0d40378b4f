//! Checks of the partition and of its GPUs.

use neva_schemas::time_limit_s;

use super::{
    cluster::{Doctor, UNREACHABLE, text},
    parse::parse_partitions,
    site::{NodeGroup, Partition},
};

impl Doctor<'_> {
    pub(super) async fn partitions(&mut self) -> Option<()> {
        const NAME: &str = "partition";
        let partitions = self.command(&["scontrol", "-o", "show", "partition"]).await;
        let nodes = self.command(&["sinfo", "-h", "-o", "%R|%D|%c|%m|%G|%T"]).await;
        let (partitions, nodes) = match (partitions, nodes) {
            (Ok(partitions), Ok(nodes)) => (partitions, nodes),
            (Err(error), _) | (_, Err(error)) => {
                return self.checks.error(NAME, &error, UNREACHABLE);
            }
        };
        self.cluster.partitions = parse_partitions(&text(&partitions.stdout), &text(&nodes.stdout));
        let names = self.cluster.partition_names();
        let wanted = self.executor.config.partition.clone();
        let Some(partition) = self.cluster.partition(wanted.as_deref()).cloned() else {
            let detail = match &wanted {
                Some(wanted) => format!("there is no partition {wanted}"),
                None => "no partition is the default, and the executor names none".to_owned(),
            };
            return self.checks.problem(NAME, detail, format!("set `partition` to one of {names}"));
        };
        let name = &partition.name;
        let limits = [partition.max_time.as_deref(), Some(self.executor.config.time.as_str())];
        if let [Some(Some(limit)), Some(Some(time))] = limits.map(|time| time.map(time_limit_s))
            && time > limit
        {
            let max = partition.max_time.clone().unwrap_or_default();
            let detail = format!("`time` is {}, and {name} allows {max}", self.executor.config.time);
            return self.checks.problem(
                NAME,
                detail,
                format!("set `time: {max}` at most, with `signal_s` for a requeue, or another partition of {names}"),
            );
        }
        let account = self.executor.config.account.as_ref();
        if let Some(allowed) = &partition.allowed_accounts
            && !account.is_none_or(|account| allowed.contains(account))
        {
            let detail = format!("{name} is not open to the account {}", account.map_or("", String::as_str));
            return self.checks.problem(
                NAME,
                detail,
                format!("set `account` to one of {}, or another partition of {names}", allowed.join(", ")),
            );
        }
        if !partition.is_up {
            return self.checks.problem(
                NAME,
                format!("{name} is down"),
                format!("wait, or set `partition` to another one of {names}"),
            );
        }
        let usable = partition.nodes.iter().filter(|group| !is_away(&group.state));
        let usable: u32 = usable.map(|group| group.count).sum();
        if usable == 0 {
            let detail = format!("no node of {name} is in service");
            return self.checks.problem(
                NAME,
                detail,
                format!("`sinfo -R` says why; set `partition` to another one of {names}"),
            );
        }
        let limit = partition
            .max_time
            .as_ref()
            .map_or_else(String::new, |limit| format!(", at most {limit}"));
        let mut cores: Vec<_> = partition.nodes.iter().map(|group| (group.cpus, group.memory_mb / 1024)).collect();
        cores.sort_unstable();
        let size = cores
            .last()
            .map_or_else(String::new, |(cpus, memory)| format!(", up to {cpus} cores and {memory} GiB"));
        let others = if self.cluster.partitions.len() > 1 {
            format!("; all: {names}")
        } else {
            String::new()
        };
        self.checks.ok(
            NAME,
            format!(
                "{name}: {usable} of {} nodes in service{size}{limit}{others}",
                partition.num_nodes()
            ),
        );
        Some(())
    }

    pub(super) fn gpus(&mut self) -> Option<()> {
        const NAME: &str = "gpu";
        let config = &self.executor.config;
        let partition = self.cluster.partition(config.partition.as_deref());
        let found = partition.and_then(Partition::gpus);
        let name = partition.map_or("the cluster", |partition| partition.name.as_str()).to_owned();
        let wanted = config.gpus_per_node.unwrap_or(0);
        let most = partition
            .into_iter()
            .flat_map(|partition| &partition.nodes)
            .map(NodeGroup::gpus)
            .max();
        let others: Vec<_> = self
            .cluster
            .partitions
            .iter()
            .filter(|other| other.gpus().is_some())
            .map(|other| other.name.clone())
            .collect();
        match found {
            Some(_) | None if wanted > most.unwrap_or(0) => {
                let detail = format!("`gpus_per_node` is {wanted}, and a node of {name} has {}", most.unwrap_or(0));
                let help = if others.is_empty() {
                    "set `gpus_per_node: 0`, or `gres` where the cluster has another name for them".to_owned()
                } else {
                    format!("partitions with GPUs: {}", others.join(", "))
                };
                return self.checks.problem(NAME, detail, help);
            }
            Some(found) => self.checks.ok(NAME, found),
            None if others.is_empty() => self.checks.ok(NAME, "none: ranks compute on the CPU, with `gpus_per_node: 0`"),
            None => self
                .checks
                .ok(NAME, format!("none in {name}; partitions with GPUs: {}", others.join(", "))),
        }
        Some(())
    }
}

/// Returns true for states in which a node takes no job.
fn is_away(state: &str) -> bool {
    ["down", "drain", "fail", "maint", "power", "unknown"]
        .iter()
        .any(|away| state.starts_with(away))
        || state.ends_with('*')
}
