//! The termination message of a pod: what its start script reports of the ranks. The table is in `render/mod.rs`.

use std::{os::unix::process::ExitStatusExt as _, path::PathBuf, process::ExitStatus};

use neva_schemas::{ExitClass, RankFailure};

use crate::exit::RankExit;

/// What a pod reported at its end.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PodMessage {
    pub(super) exits: Vec<RankExit>,
    pub(super) records: Vec<RankFailure>,
    pub(super) checkpoint: Option<PathBuf>,
    /// Class and message of a pod that did not start its ranks.
    pub(super) failure: Option<(ExitClass, String)>,
}

impl PodMessage {
    /// Parses a message; `None` if it is not that of the start script.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut message = Self::default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "exit" => message.exits.push(exit(rest)?),
                "record" => message.records.extend(serde_json::from_str::<RankFailure>(rest)),
                "checkpoint" => message.checkpoint = rest.split_once(' ').map(|(_, path)| path.into()),
                "fail" => {
                    let (class, words) = rest.split_once(' ')?;
                    message.failure = Some((class.parse().ok()?, words.to_owned()));
                }
                _ => return None,
            }
        }
        (message != Self::default()).then_some(message)
    }
}

/// Parses `RANK CODE UNIX_S BY_ITSELF`.
fn exit(text: &str) -> Option<RankExit> {
    let mut words = text.split(' ');
    let mut number = || words.next()?.parse::<u64>().ok();
    let (rank, code, seconds, by_itself) = (number()?, number()?, number()?, number()?);
    let code = i32::try_from(code).ok()?;
    Some(RankExit {
        rank: u32::try_from(rank).ok()?,
        // A shell's code for a program that a signal ended.
        status: match code {
            129..=159 => ExitStatus::from_raw(code - 128),
            code => ExitStatus::from_raw((code & 0xff) << 8),
        },
        // The second in which it was seen: records, which have milliseconds, come first.
        unix_ms: seconds.saturating_mul(1000) + 999,
        by_itself: by_itself == 1,
        stopped: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_holds_exits_records_and_a_checkpoint() {
        let text = "exit 2 1 1796044543 1\nexit 3 143 1796044545 0\ncheckpoint 12 /runs/a/checkpoints/x=1 y\n\
            record {\"class\":1,\"rank\":2,\"step\":null,\"unix_ms\":5,\"chain\":[\"a\"]}\n";
        let message = PodMessage::parse(text).unwrap();
        let exits: Vec<_> = message
            .exits
            .iter()
            .map(|exit| (exit.rank, exit.status.code(), exit.status.signal(), exit.by_itself))
            .collect();
        assert_eq!(exits, [(2, Some(1), None, true), (3, None, Some(15), false)]);
        assert_eq!(message.checkpoint, Some("/runs/a/checkpoints/x=1 y".into()));
        assert_eq!((message.records.len(), message.failure), (1, None));
        let failed = PodMessage::parse("fail 3 cannot write to /runs\n").unwrap();
        assert_eq!(failed.failure, Some((3, "cannot write to /runs".into())));
        assert_eq!(PodMessage::parse("checkpoint \nexit 0 0 1 1\n").unwrap().checkpoint, None);
        for other in ["", "exec: \"/bin/sh\": no such file", "exit a b c d", "fail x"] {
            assert_eq!(PodMessage::parse(other), None, "{other}");
        }
    }
}
