//! Readers of what Slurm's programs print. Pure.

use std::collections::BTreeMap;

use super::site::{NodeGroup, Partition};

/// Parses `scontrol show config`.
pub(super) fn parse_settings(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

/// Parses `scontrol -o show partition`, and `sinfo -h -o '%R|%D|%c|%m|%G|%T'`.
pub(super) fn parse_partitions(partitions: &str, nodes: &str) -> Vec<Partition> {
    let group = |line: &str| {
        let fields: Vec<_> = line.split('|').map(str::trim).collect();
        let [name, count, cpus, memory, gres, state] = fields[..] else {
            return None;
        };
        let number = |text: &str| text.trim_end_matches('+').parse::<u64>().unwrap_or(0);
        let group = NodeGroup {
            count: u32::try_from(number(count)).unwrap_or(0),
            cpus: u32::try_from(number(cpus)).unwrap_or(0),
            memory_mb: number(memory),
            gres: if gres == "(null)" { String::new() } else { gres.to_owned() },
            state: state.to_owned(),
        };
        Some((name.to_owned(), group))
    };
    let groups: Vec<_> = nodes.lines().filter_map(group).collect();
    let partition = |line: &str| {
        let values: BTreeMap<_, _> = line.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        let value = |name: &str| values.get(name).copied();
        let name = value("PartitionName")?.to_owned();
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        Some(Partition {
            is_default: value("Default") == Some("YES"),
            is_up: value("State").is_none_or(|state| state == "UP"),
            max_time: value("MaxTime")
                .filter(|time| *time != "UNLIMITED" && *time != "INFINITE")
                .map(str::to_owned),
            allowed_accounts: value("AllowAccounts").filter(|accounts| *accounts != "ALL").map(list),
            nodes: groups
                .iter()
                .filter(|(of, _)| *of == name)
                .map(|(_, group)| group.clone())
                .collect(),
            name,
        })
    };
    partitions.lines().filter_map(partition).collect()
}
