//! Conversations a second that one thread renders, tokenizes and labels, with a template of the table and a Jinja template.
//!
//!     cargo bench -p neva-data --bench conversations [-- TOKENIZER]
//!
//! `TOKENIZER` is a folder or a file; without it the built-in tokenizer is used, which has few words and so more tokens.

use neva_data::{ChatTemplate, Conversation, JinjaSettings, JinjaTemplate, Tokenizer, Turn};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// A chat template of the usual kind.
const JINJA: &str = "{{ bos_token }}{% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] }}\
                     {{ ' ' if m['role'] == 'user' else eos_token }}{% endfor %}";
const ROUNDS: usize = 5;
const CONVERSATIONS: usize = 3000;

fn conversation() -> Conversation {
    let turn = |question: &str, answer: &str| Turn {
        question: question.to_owned(),
        answer: Some(answer.to_owned()),
    };
    Conversation {
        system: None,
        turns: vec![
            turn(
                "<image>\nWhat is shown in this picture, and what might happen next?",
                "The picture shows a busy harbour in the early morning. Fishing boats are moored along the quay, and several people are \
                 sorting nets while gulls circle overhead.",
            ),
            turn(
                "How many boats are there?",
                "There are seven boats, four of them blue and three of them white.",
            ),
        ],
    }
}

#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn main() -> ExitCode {
    let address = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let tokenizer = Tokenizer::open(address.as_deref().unwrap_or("builtin:mistral_2k")).expect("a tokenizer");
    let jinja = JinjaTemplate::new(JinjaSettings {
        name: "bench".to_owned(),
        source: JINJA.to_owned(),
        tokens: vec![("bos_token".into(), "<s>".into()), ("eos_token".into(), "</s>".into())],
        special: vec!["<s>".into(), "</s>".into()],
        ..JinjaSettings::default()
    });
    let templates = [
        ChatTemplate::named("v1").expect("a name of the table"),
        ChatTemplate::Jinja(Arc::new(jinja.expect("a template"))),
    ];
    println!(
        "{:10} {:>22} {:>18} {:>14}",
        "template", "tokens/conversation", "conversations/s", "rendering/s"
    );
    for template in templates {
        let conversation = conversation();
        let render = || template.render(&conversation).expect("a conversation");
        let tokens = tokenizer.encode_prompt(&render()).expect("a text").ids.len();
        let whole = rate(|| assert_eq!(tokenizer.encode_prompt(&render()).expect("a text").ids.len(), tokens));
        let rendering = rate(|| assert!(!render().answers.is_empty()));
        println!("{:10} {tokens:>22} {whole:>18.0} {rendering:>14.0}", template.name());
    }
    ExitCode::SUCCESS
}

/// Returns the best rate of several rounds.
fn rate(work: impl Fn()) -> f64 {
    let round = |_| {
        let start = Instant::now();
        (0..CONVERSATIONS).for_each(|_| work());
        CONVERSATIONS as f64 / start.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(round).fold(0.0, f64::max)
}
