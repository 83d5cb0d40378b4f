//! Jinja templates: the texts of transformers' `apply_chat_template` and the labels within them (`templates/jinja.json`), and
//! which template a run uses.

use std::{collections::BTreeMap, fs, path::Path};

use neva_data::{ChatTemplate, Conversation, DataError, JinjaSettings, JinjaTemplate, TextTools, Tokenizer, Turn};
use neva_schemas::{ConversationTemplateConfig, ImageDataConfig};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    template: String,
    special: Vec<String>,
    tokens: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    conversation: Dialogue,
    text: Option<String>,
    labels: Option<Vec<String>>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Dialogue {
    system: Option<String>,
    turns: Vec<(String, Option<String>)>,
}

impl From<Dialogue> for Conversation {
    fn from(dialogue: Dialogue) -> Self {
        let turn = |(question, answer)| Turn { question, answer };
        Self {
            system: dialogue.system,
            turns: dialogue.turns.into_iter().map(turn).collect(),
        }
    }
}

fn jinja(source: &str, special: &[&str]) -> Result<JinjaTemplate, DataError> {
    JinjaTemplate::new(JinjaSettings {
        name: "test".to_owned(),
        source: source.to_owned(),
        special: special.iter().map(|token| (*token).to_owned()).collect(),
        ..JinjaSettings::default()
    })
}

fn conversation(turns: &[(&str, Option<&str>)]) -> Conversation {
    let turn = |&(question, answer): &(&str, Option<&str>)| Turn {
        question: question.to_owned(),
        answer: answer.map(str::to_owned),
    };
    Conversation {
        system: None,
        turns: turns.iter().map(turn).collect(),
    }
}

#[test]
fn texts_and_labels_are_those_of_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates/jinja.json");
    let golden: BTreeMap<String, Golden> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(golden.len(), 10);
    for (name, golden) in golden {
        let template = JinjaTemplate::new(JinjaSettings {
            name: name.clone(),
            source: golden.template,
            tokens: golden.tokens.into_iter().collect(),
            special: golden.special,
            ..JinjaSettings::default()
        });
        let template = template.unwrap();
        for (i, case) in golden.cases.into_iter().enumerate() {
            let conversation = case.conversation.into();
            match (template.render(&conversation), case.error) {
                (Ok(prompt), None) => {
                    let labels: Vec<_> = prompt.answers.iter().map(|range| prompt.text[range.clone()].to_owned()).collect();
                    assert_eq!(Some(prompt.text), case.text, "{name} {i}");
                    assert_eq!(Some(labels), case.labels, "{name} {i}");
                }
                (Err(error), Some(expected)) => assert!(error.to_string().contains(&expected), "{name} {i}: {error}"),
                (found, expected) => panic!("{name} {i}: {found:?} instead of {expected:?}"),
            }
        }
    }
}

/// Templates that a mark around an answer would change, or that have no generation prompt.
#[test]
fn labels_hold_for_templates_of_every_kind() {
    const ASKED: &str = "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\n{% else %}A: ";
    let cases = [
        // No generation prompt: the header is no label.
        (
            format!("{ASKED}{{{{ m.content }}}}</s>{{% endif %}}{{% endfor %}}"),
            "One.",
            " One.</s>",
        ),
        (
            format!("{ASKED}{{{{ m.content }}}}</s>{{% endif %}}{{% endfor %}}"),
            "A: ",
            " A: </s>",
        ),
        (
            format!("{ASKED}{{{{ m.content | trim }}}}</s>{{% endif %}}{{% endfor %}}"),
            " One.\n",
            " One.</s>",
        ),
        // The answer is looked at: marks would change what is rendered.
        (
            format!("{ASKED}{{{{ '*' if m.content[0] == 'O' }}}}{{{{ m.content }}}}</s>{{% endif %}}{{% endfor %}}"),
            "One.",
            " *One.</s>",
        ),
        (
            format!("{ASKED}{{{{ m.content or 'nothing' }}}}</s>{{% endif %}}{{% endfor %}}"),
            "",
            " nothing</s>",
        ),
    ];
    for (source, answer, expected) in cases {
        let template = jinja(&source, &["</s>"]).unwrap_or_else(|error| panic!("{source}: {error}"));
        let prompt = template
            .render(&conversation(&[("Hi", Some(answer)), ("Again", Some("Two."))]))
            .unwrap();
        let labels: Vec<_> = prompt.answers.iter().map(|range| &prompt.text[range.clone()]).collect();
        assert_eq!(labels[0], expected, "{source}");
        assert_eq!(template.stop(), "</s>", "{source}");
        // A prompt ends with what stands before an answer in training.
        let asked = template.render(&conversation(&[("Hi", None)])).unwrap();
        assert_eq!(asked.text, "Q: Hi\nA:", "{source}");
    }
}

#[test]
fn templates_that_cannot_be_used_are_refused() {
    let ask = "{% for m in messages %}{{ m.content }}{% endfor %}";
    for (source, expected) in [
        ("{% for m in messages %}", "chat template test: is not a Jinja template"),
        ("Hello", "does not write the texts of a question and its answer"),
        (
            "{{ raise_exception('No thanks.') }}",
            "chat template test: No thanks. (line 1 of the template)",
        ),
        ("{{ messages[0].content.nothing() }}", "chat template test: "),
    ] {
        let error = jinja(source, &[]).unwrap_err().to_string();
        assert!(error.contains(expected), "{source}: {error}");
    }
    let many = |roles: &[&str], stop: &str| {
        JinjaTemplate::new(JinjaSettings {
            name: "test".to_owned(),
            source: ask.to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            stop: Some(stop.to_owned()),
            ..JinjaSettings::default()
        })
    };
    let error = many(&["user", "assistant", "tool"], "").unwrap_err().to_string();
    assert!(error.contains("`roles` must name two roles"), "{error}");
    let error = many(&[], "</s>").unwrap_err().to_string();
    assert!(error.contains("the stop string \"</s>\" does not follow an answer"), "{error}");
    // What a template does with a conversation shows when it is rendered.
    let last_only = jinja(
        "{% for m in messages %}{{ m.content if loop.last or m.role == 'user' else '' }}|{% endfor %}",
        &["|"],
    )
    .unwrap();
    let error = last_only
        .render(&conversation(&[("Hi", Some("Ho")), ("Hi", Some("Ho"))]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("answer 0 in another way once more messages follow"), "{error}");
    let other_image = jinja(
        "{% for m in messages %}{{ m.content | replace('<image>', '<|image_pad|>') }}|{% endfor %}",
        &["|"],
    )
    .unwrap();
    let error = other_image
        .render(&conversation(&[("<image>Hi", Some("Ho"))]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("writes `<image>` 0 time(s) for 1 image(s)"), "{error}");
}

#[test]
fn extensions_of_hugging_face_are_there() {
    let cases = [
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        (
            "{{ {'a': [1, 2.5, none], 'b': '<ä>'} | tojson }}",
            r#"{"a": [1, 2.5, null], "b": "<ä>"}"#,
        ),
        (
            "{{ {'a': [1], 'b': {}} | tojson(indent=2) }}",
            "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}",
        ),
        ("{{ ' x '.strip() + 'a,b'.split(',')[1] + 'ab'.upper() }}", "xbAB"),
        (
            "{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
            "13",
        ),
        (
            "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "1",
        ),
        (
            "{% set ns = namespace(n=0) %}\n  {% for i in [1, 2] %}\n{% set ns.n = ns.n + i %}\n  {% endfor %}\n{{ ns.n }}",
            "3",
        ),
        ("{{ messages[::-1][0].role }}", "assistant"),
    ];
    for (source, expected) in cases {
        let whole = format!("{source}[[[{{% for m in messages %}}{{{{ m.content }}}}</s>{{% endfor %}}");
        let prompt = jinja(&whole, &["</s>"])
            .unwrap()
            .render(&conversation(&[("Hi", Some("Ho"))]))
            .unwrap();
        assert_eq!(prompt.text.split("[[[").next(), Some(expected), "{source}");
    }
}

/// The order of NeMo's document: the recipe's own template, `conv_template`, the chat template of the tokenizer, an error.
#[test]
fn the_recipe_s_template_comes_before_the_tokenizer_s() {
    let json = include_bytes!("../tokenizers/mistral_2k/tokenizer.json");
    let config = |chat_template: Option<&str>| {
        let mut config = serde_json::json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true});
        config["chat_template"] = chat_template.into();
        config.to_string()
    };
    let own = "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{{ eos_token if m.role == 'assistant' }}\
               {% endfor %}";
    let listed = serde_json::json!([{"name": "tool_use", "template": "x"}, {"name": "default", "template": own}]);
    let tools = |data: ImageDataConfig, chat_template: Option<&str>, add_bos| {
        let tokenizer = Tokenizer::from_bytes("t", json, Some(config(chat_template).as_bytes())).unwrap();
        TextTools::new(&data, add_bos, tokenizer)
    };
    let text = |data: ImageDataConfig, chat_template: Option<&str>| {
        let tools = tools(data, chat_template, None).unwrap();
        tools.check_control_strings().unwrap();
        let prompt = tools.template.render(&conversation(&[("Hi", Some("Ho"))])).unwrap();
        let labels: Vec<_> = prompt.answers.iter().map(|range| prompt.text[range.clone()].to_owned()).collect();
        let bos = tools
            .tokenizer
            .encode_prompt(&prompt)
            .unwrap()
            .ids
            .iter()
            .filter(|&&id| id == 1)
            .count();
        (prompt.text, labels.concat(), bos)
    };
    let default = ImageDataConfig::default;
    let null = || ImageDataConfig {
        conv_template: None,
        ..default()
    };
    let llava = || ImageDataConfig {
        conversation_template_config: Some(ConversationTemplateConfig::default()),
        ..default()
    };
    let system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed and \
                  polite answers to user's questions.";
    let v1 = text(default(), Some(own));
    assert!(v1.0.ends_with("questions. USER: Hi ASSISTANT: Ho</s>"), "{v1:?}");
    assert_eq!((v1.1.as_str(), v1.2), (" Ho</s>", 1));
    let expected = (format!("{system} USER: Hi ASSISTANT: Ho</s>"), " Ho</s>".to_owned(), 1);
    assert_eq!(text(llava(), Some(own)), expected);
    assert_eq!(text(llava(), None), expected);
    let expected = ("<s>[user]Hi[assistant]Ho</s>".to_owned(), "Ho</s>".to_owned(), 1);
    assert_eq!(text(null(), Some(own)), expected);
    // The tokenizer's template says where BOS is: none is added before a text that starts without it.
    assert_eq!(text(null(), Some(&own.replace("{{ bos_token }}", ""))).2, 0);
    let mut named = llava();
    if let Some(template) = &mut named.conversation_template_config {
        template.chat_template = None;
        template.system = None;
        template.roles = vec!["q".to_owned(), "assistant".to_owned()];
    }
    assert_eq!(text(named, Some(own)).0, "<s>[q]Hi[assistant]Ho</s>");
    let error = tools(null(), None, None).unwrap_err();
    assert!(matches!(error, DataError::NoTemplate { .. }), "{error}");
    assert!(error.to_string().contains("the tokenizer t has no chat template"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    for (name, content, stored) in [
        (
            "tokenizer_config.json",
            serde_json::json!({ "chat_template": listed }).to_string(),
            "tokenizer_config.json",
        ),
        (
            "chat_template.json",
            serde_json::json!({ "chat_template": "json" }).to_string(),
            "chat_template.json",
        ),
        ("chat_template.jinja", "jinja".to_owned(), "chat_template.jinja"),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
        let tokenizer = Tokenizer::open(folder.path().to_str().unwrap()).unwrap();
        let expected = name.strip_prefix("chat_template.").unwrap_or(own);
        assert_eq!(tokenizer.chat_template(), Some(expected), "{name}");
        assert!(tokenizer.files().iter().any(|(file, _)| file == stored), "{name}");
    }
}

#[test]
fn tags_that_do_not_close_are_errors() {
    for source in ["{%}", "{# {%} #}{%", "{% generation", "{{", "{%%}", "%}{%"] {
        let settings = JinjaSettings {
            name: "own".to_owned(),
            source: source.to_owned(),
            ..JinjaSettings::default()
        };
        let error = JinjaTemplate::new(settings).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("chat template own: "), "{source}: {error}");
    }
}

/// A template whose stop string the tokenizer spells with several tokens would train a model that does not stop.
#[test]
fn stop_strings_must_be_single_tokens() {
    let check = |name: &str| {
        let config = ImageDataConfig {
            conv_template: Some(name.to_owned()),
            ..ImageDataConfig::default()
        };
        let tools = TextTools::new(&config, None, Tokenizer::builtin("mistral_2k").unwrap()).unwrap();
        tools.check_control_strings().map_err(|error| error.to_string())
    };
    for name in ["v1", "plain", "v0", "mistral", "llama_2", "zephyr"] {
        assert_eq!(check(name), Ok(None), "{name}");
    }
    let error = check("llama_3").unwrap_err();
    assert!(
        error.starts_with(
            "template `llava_llama_3` ends answers with `<|eot_id|>`, which the tokenizer builtin:mistral_2k spells with several \
             tokens, so the trained model would not stop; templates that fit the tokenizer: v1, llava_v1,"
        ),
        "{error}"
    );
    for name in ["qwen_1_5", "mpt", "gemma", "nvgpt", "mllama"] {
        assert!(check(name).unwrap_err().contains("would not stop"), "{name}");
    }
    // Only the headers are text: a warning.
    let config = ImageDataConfig {
        conversation_template_config: Some(ConversationTemplateConfig {
            chat_template: Some("{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '</s>' }}{% endfor %}".to_owned()),
            ..ConversationTemplateConfig::default()
        }),
        ..ImageDataConfig::default()
    };
    let tools = TextTools::new(&config, None, Tokenizer::builtin("mistral_2k").unwrap()).unwrap();
    let warning = tools.check_control_strings().unwrap().unwrap();
    assert!(
        warning.contains("writes `<|system|>`, `<|user|>`, `<|assistant|>`, which the tokenizer builtin:mistral_2k spells"),
        "{warning}"
    );
    assert_eq!(ChatTemplate::named("v1").unwrap(), ChatTemplate::from(&neva_data::TEMPLATES[0]));
}
