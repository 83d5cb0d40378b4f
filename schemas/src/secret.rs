//! Detection and masking of secrets, which must not reach a plan, a log or a report.

/// Replacement of a secret.
const MASK: &str = "***";

/// Returns true if `name` looks like that of a secret: `HF_TOKEN` and `PGPASSWORD` do, `TOKENIZERS_PARALLELISM` does not.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    const SECRETS: &[&str] = &["TOKEN", "PASSWORD", "PASSWD", "SECRET", "CREDENTIAL", "KEY"];
    // These contain one of them by chance; a PKEY is InfiniBand's, as in NCCL_IB_PKEY.
    const HARMLESS: &[&str] = &["TOKENIZ", "PKEY", "KEYBOARD"];
    let upper = HARMLESS.iter().fold(name.to_ascii_uppercase(), |name, word| name.replace(word, ""));
    SECRETS.iter().any(|word| upper.contains(word))
}

/// Masks the secrets in a word of a command line, so that a report may quote it: the text after a secret's name and `=`
/// or `:`, and user and password in a URL.
#[must_use]
pub fn mask_secrets(word: &str) -> String {
    if let Some((at, sign)) = word.match_indices(['=', ':']).find(|(at, _)| is_secret_name(&word[..*at])) {
        return format!("{}{sign}{MASK}", &word[..at]);
    }
    let mut shown = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("://") {
        let authority = after.split(['/', '?', '#', '\'', '"', ' ']).next().unwrap_or_default();
        let user = authority.rfind('@').unwrap_or_default();
        shown.push_str(before);
        shown.push_str("://");
        if user > 0 {
            shown.push_str(MASK);
        }
        rest = &after[user..];
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_names_of_secrets() {
        let secrets = [
            "HF_TOKEN",
            "WANDB_API_KEY",
            "aws_secret_access_key",
            "SSHKEY",
            "PGPASSWORD",
            "GITHUBTOKEN",
            "a.password",
        ];
        for name in secrets {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["TOKENIZERS_PARALLELISM", "NCCL_IB_PKEY", "KEYBOARD", "finetune.data.tokenizer", ""] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn masks_secrets_in_words() {
        for (word, shown) in [
            ("--set", "--set"),
            ("name=two words", "name=two words"),
            ("executor.env_vars.HF_TOKEN=hf_abc=d", "executor.env_vars.HF_TOKEN=***"),
            ("--set=executor.env_vars.HF_TOKEN=hf_abc", "--set=executor.env_vars.HF_TOKEN=***"),
            (
                "executor.env_vars={A: b, HF_TOKEN: hf_abc}",
                "executor.env_vars={A: b, HF_TOKEN:***",
            ),
            ("uri=https://me:pass@word@host:1/x?a=b@c", "uri=https://***@host:1/x?a=b@c"),
            ("--file=s3://bucket/at@sign", "--file=s3://bucket/at@sign"),
            ("{a: 'http://u:p@h', b: http://é@h}", "{a: 'http://***@h', b: http://***@h}"),
            ("http://@h", "http://@h"),
        ] {
            assert_eq!(mask_secrets(word), shown);
        }
    }
}
