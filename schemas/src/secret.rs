//! What looks like a secret, and must not reach a plan, a log or a report.

/// Written in a secret's place.
const MASK: &str = "***";

/// Whether `name` says that its value is a secret: `HF_TOKEN` and `PGPASSWORD` do, `TOKENIZERS_PARALLELISM` does not.
#[must_use]
pub fn names_secret(name: &str) -> bool {
    const SECRETS: &[&str] = &["TOKEN", "PASSWORD", "PASSWD", "SECRET", "CREDENTIAL", "KEY"];
    // In these one of them stands by chance; a PKEY is InfiniBand's, as in NCCL_IB_PKEY.
    const HARMLESS: &[&str] = &["TOKENIZ", "PKEY", "KEYBOARD"];
    let upper = HARMLESS.iter().fold(name.to_ascii_uppercase(), |name, word| name.replace(word, ""));
    SECRETS.iter().any(|word| upper.contains(word))
}

/// A word of a command line, so that a report may quote it: what follows on a secret's name and `=` or `:` is left out,
/// and of an address the user and the password.
#[must_use]
pub fn without_secrets(word: &str) -> String {
    if let Some((at, sign)) = word.match_indices(['=', ':']).find(|(at, _)| names_secret(&word[..*at])) {
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
    fn names_of_secrets() {
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
            assert!(names_secret(name), "{name}");
        }
        for name in ["TOKENIZERS_PARALLELISM", "NCCL_IB_PKEY", "KEYBOARD", "finetune.data.tokenizer", ""] {
            assert!(!names_secret(name), "{name}");
        }
    }

    #[test]
    fn words_that_may_be_quoted() {
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
            assert_eq!(without_secrets(word), shown);
        }
    }
}
