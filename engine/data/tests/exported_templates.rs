//! Templates as Jinja: transformers renders with them exactly what a run was trained on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use neva_data::{ChatTemplate, Conversation, DataError, JinjaSettings, JinjaTemplate, TEMPLATES, Turn};

fn turn(question: &str, answer: Option<&str>) -> Turn {
    Turn {
        question: question.to_owned(),
        answer: answer.map(str::to_owned),
    }
}

/// Conversations of one turn and of several, with and without system text, image and answer.
fn conversations() -> Vec<Conversation> {
    let of = |system: Option<&str>, turns: Vec<Turn>| Conversation {
        system: system.map(str::to_owned),
        turns,
    };
    vec![
        of(None, vec![turn("<image>\nWhat is this?", None)]),
        of(None, vec![turn("<image>\nWhat is this?", Some("A cat."))]),
        of(
            None,
            vec![
                turn("<image>\n<image>\nWhat differs?", Some("Nothing.")),
                turn("Why?", Some("It's \"equal\" \\ {{ same }}.")),
                turn("Sure?\n\nReally?", None),
            ],
        ),
        of(
            Some("Be brief.\n'Always'."),
            vec![turn("Hello", Some("Hi")), turn("And <image> now?", None)],
        ),
        of(Some(""), vec![turn("Hello", Some(""))]),
        of(None, vec![turn("  spaces around  ", Some("\n an answer \n"))]),
    ]
}

/// Compiles a template as transformers would: without knowing what wrote it.
fn compiled(source: String, tokens: &[(&str, &str)]) -> ChatTemplate {
    let settings = JinjaSettings {
        name: "exported".to_owned(),
        source,
        tokens: tokens
            .iter()
            .map(|(name, token)| ((*name).to_owned(), (*token).to_owned()))
            .collect(),
        ..JinjaSettings::default()
    };
    ChatTemplate::Jinja(Arc::new(JinjaTemplate::new(settings).unwrap()))
}

fn text(template: &ChatTemplate, conversation: &Conversation) -> Result<String, DataError> {
    template.render(conversation).map(|prompt| prompt.text)
}

#[test]
fn render_as_the_table_does() {
    let mut rendered = 0;
    for template in TEMPLATES.iter().filter(|template| !template.caption_only) {
        let own = ChatTemplate::from(template);
        let jinja = compiled(own.to_jinja(false), &[]);
        for conversation in conversations() {
            match text(&own, &conversation) {
                Ok(expected) => {
                    assert_eq!(
                        text(&jinja, &conversation).unwrap(),
                        expected,
                        "{}: {conversation:?}",
                        template.name
                    );
                    rendered += 1;
                }
                Err(_) => assert!(text(&jinja, &conversation).is_err(), "{}: {conversation:?}", template.name),
            }
        }
    }
    assert!(rendered > 100, "{rendered}");
}

#[test]
fn of_captions_take_the_images_of_a_question() {
    let own = ChatTemplate::named("plain").unwrap();
    let source = own.to_jinja(false);
    let render = |messages: &str, prompts: bool| {
        let mut environment = minijinja::Environment::new();
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_template("plain", &source).unwrap();
        let messages: serde_json::Value = serde_json::from_str(messages).unwrap();
        let context = minijinja::context! { messages => messages, add_generation_prompt => prompts };
        environment.get_template("plain").unwrap().render(context).unwrap()
    };
    let question = r#"{"role": "user", "content": "<image>\nDescribe it."}"#;
    let parts = r#"{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe it."}]}"#;
    let answer = r#"{"role": "assistant", "content": "A cat."}"#;
    let caption = Conversation {
        system: None,
        turns: vec![turn("<image>\nDescribe it.", Some("A cat."))],
    };
    let expected = text(&own, &caption).unwrap();
    assert_eq!(expected, "<image>A cat.\n");
    for question in [question, parts] {
        assert_eq!(render(&format!("[{question}, {answer}]"), false), expected);
        assert_eq!(render(&format!("[{question}]"), true), "<image>");
    }
}

#[test]
fn take_lists_of_parts() {
    let own = ChatTemplate::named("v1").unwrap();
    let conversation = Conversation {
        system: None,
        turns: vec![turn("<image>\nWhat is this?", None)],
    };
    let expected = text(&own, &conversation).unwrap();
    let mut environment = minijinja::Environment::new();
    let source = own.to_jinja(false);
    environment.add_template("v1", &source).unwrap();
    let content = serde_json::json!([{ "type": "image" }, { "type": "text", "text": "What is this?" }]);
    let messages = serde_json::json!([{ "role": "user", "content": content }]);
    let context = minijinja::context! { messages => messages, add_generation_prompt => true };
    assert_eq!(environment.get_template("v1").unwrap().render(context).unwrap(), expected);
}

#[test]
fn start_with_bos_on_request() {
    let own = ChatTemplate::named("v1").unwrap();
    let conversation = &conversations()[0];
    let jinja = compiled(own.to_jinja(true), &[("bos_token", "<s>")]);
    assert_eq!(
        text(&jinja, conversation).unwrap(),
        format!("<s>{}", text(&own, conversation).unwrap())
    );
}

/// The settings that a recipe gives to a Jinja template are part of the exported one.
#[test]
fn have_the_settings_of_the_recipe() {
    let source = "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>\n{% endfor %}\
                  {% if add_generation_prompt %}<|model|>{% endif %}";
    let settings = JinjaSettings {
        name: "own".to_owned(),
        source: source.to_owned(),
        system: Some("It's\nours.".to_owned()),
        roles: vec!["human".to_owned(), "model".to_owned()],
        stop: Some("<|end|>".to_owned()),
        ..JinjaSettings::default()
    };
    let own = ChatTemplate::Jinja(Arc::new(JinjaTemplate::new(settings).unwrap()));
    let jinja = compiled(own.to_jinja(false), &[]);
    for conversation in conversations() {
        let expected = text(&own, &conversation).unwrap();
        assert_eq!(text(&jinja, &conversation).unwrap(), expected, "{conversation:?}");
    }
    let plain = Conversation {
        system: None,
        turns: vec![turn("Hi", None)],
    };
    assert_eq!(
        text(&own, &plain).unwrap(),
        "<|system|>It's\nours.<|end|>\n<|human|>Hi<|end|>\n<|model|>"
    );
}
