//! Assignment of shards to splits.

use super::{super::braces, PrepareError, SplitRule};

/// Assigns shards to splits.
pub(super) fn split(names: &[String], rule: &SplitRule) -> Result<Vec<(String, Vec<String>)>, PrepareError> {
    let splits: Vec<(String, Vec<String>)> = match rule {
        SplitRule::Ratio(ratio) => {
            let total: f64 = ratio.iter().sum();
            if !(total > 0.0 && total.is_finite() && ratio.iter().all(|share| *share >= 0.0)) {
                return Err(PrepareError::Split(
                    "a split ratio needs three numbers of at least 0, one above 0: 8,1,1".to_owned(),
                ));
            }
            let (mut sum, mut start) = (0.0, 0);
            let parts = ["train", "val", "test"].into_iter().zip(ratio).map(|(name, share)| {
                sum += share / total;
                let end = ((names.len() as f64 * sum) as usize).clamp(start, names.len());
                let shards = names.get(start..end).unwrap_or_default().to_vec();
                start = end;
                (name.to_owned(), shards)
            });
            parts.collect()
        }
        SplitRule::Patterns(patterns) => {
            let mut splits: Vec<(String, Vec<String>)> = Vec::new();
            for (name, pattern) in patterns {
                let invalid = |reason: String| PrepareError::Split(format!("the pattern `{pattern}` of {name} {reason}"));
                let mut chosen = Vec::new();
                for pattern in braces::expand(pattern).map_err(invalid)? {
                    let regex = fancy_regex::Regex::new(&format!("^(?:{pattern})"))
                        .map_err(|error| invalid(format!("is no regular expression: {error}")))?;
                    for shard in names {
                        if regex
                            .is_match(shard)
                            .map_err(|error| invalid(format!("cannot be applied: {error}")))?
                            && !chosen.contains(shard)
                        {
                            chosen.push(shard.clone());
                        }
                    }
                }
                chosen.sort();
                splits.push((name.clone(), chosen));
            }
            splits
        }
    };
    match splits.iter().find(|(name, _)| name == "train") {
        Some((_, shards)) if !shards.is_empty() => Ok(splits),
        _ => Err(PrepareError::Split(format!(
            "the split `train` would have none of the {} shard(s), which are assigned whole: choose --split-ratio 1,0,0, or name its \
             shards with --split-parts train:PATTERN",
            names.len()
        ))),
    }
}
