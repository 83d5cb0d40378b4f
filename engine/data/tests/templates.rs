//! Compares templates with the output of NeMo's own code (`templates/conv_templates.json`, recorded by executing it).

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{collections::BTreeMap, fs, path::Path};

use neva_data::{ChatTemplate, Conversation, IMAGE_TOKEN, TEMPLATES, Template, Turn, render};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    render_2turn: String,
}

#[test]
fn two_turns_render_as_in_nemo() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates/conv_templates.json");
    let golden: BTreeMap<String, Golden> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(golden.len() > 15);
    for (name, Golden { render_2turn }) in golden {
        let (turns, expected) = match name.as_str() {
            "plain" => (conversation(&[("<image>\nWhat is this?", "A caption.")]), render_2turn),
            // An alias of `plain` here. In NeMo it is the raw style, which NeMo's data module never uses.
            "v0_plain" => continue,
            // NeMo renders the missing system text as Python's None.
            "mistral" => (two_turns(), render_2turn.replace("None", "")),
            _ => (two_turns(), render_2turn),
        };
        check(&name, &turns, &expected);
    }
}

#[test]
fn llama_templates_render_as_in_hugging_face() {
    let system = "You are a helpful language and vision assistant. You are able to understand the visual content that the \
                  user provides, and assist the user with a variety of tasks using natural language.";
    check(
        "llama_3",
        &two_turns(),
        &format!(
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is this?<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\nA cat.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nColour?<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\nBlack.<|eot_id|>"
        ),
    );
    check(
        "llava_llama_2",
        &two_turns(),
        &format!(
            "<s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n<image>\nWhat is this? [/INST] A cat. </s>\
             <s>[INST] Colour? [/INST] Black. </s>"
        ),
    );
    // NeMo's mllama, on the date that the chat template has where no clock is given.
    check(
        "mllama",
        &two_turns(),
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n\
         Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is this?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\nA cat.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n\
         Colour?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nBlack.<|eot_id|>",
    );
    check(
        "mistral_instruct",
        &two_turns(),
        "<s>[INST] <image>\nWhat is this? [/INST] A cat. </s><s>[INST] Colour? [/INST] Black. </s>",
    );
}

#[test]
fn every_template_marks_answers_and_has_a_stop_string() {
    for template in TEMPLATES {
        assert!(!template.stop.is_empty(), "{}", template.name);
        let full = if template.caption_only {
            conversation(&[("<image>", "A cat.")])
        } else {
            two_turns()
        };
        let prompt = render(template, &full).unwrap();
        let answers: Vec<&str> = prompt.answers.iter().map(|range| &prompt.text[range.clone()]).collect();
        let expected: Vec<String> = full
            .turns
            .iter()
            .map(|turn| format!("{}{}{}", template.gap, turn.answer.as_ref().unwrap(), template.stop))
            .collect();
        assert_eq!(answers, expected, "{}", template.name);
        assert_eq!(prompt.images.len(), 1);
        assert_eq!(&prompt.text[prompt.images[0].clone()], IMAGE_TOKEN);

        // A generation prompt ends before the answer. An empty answer is only the stop string.
        for (answer, expected) in [(None, None), (Some(String::new()), Some(template.stop))] {
            let mut asked = full.clone();
            asked.turns.last_mut().unwrap().answer = answer;
            let asked = render(template, &asked).unwrap();
            let start = prompt.answers.last().unwrap().start;
            assert_eq!(asked.text[..start], prompt.text[..start], "{}", template.name);
            match expected {
                None => assert_eq!(asked.text.len(), start, "{}", template.name),
                Some(expected) => assert_eq!(&asked.text[asked.answers.last().unwrap().clone()], expected),
            }
        }
    }
}

#[test]
fn names_are_unique_and_aliases_work() {
    let mut names: Vec<&str> = TEMPLATES.iter().flat_map(|t| t.aliases.iter().copied().chain([t.name])).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    for (alias, name) in [
        ("llama_3", "llava_llama_3"),
        ("default", "v1"),
        ("vicuna_v1", "v1"),
        ("v0_plain", "plain"),
        ("vicuna", "v1"),
        ("Vicuna-v1.5", "v1"),
        ("llava_v1.5", "v1"),
        ("Llama-3", "llava_llama_3"),
        ("llama3", "llava_llama_3"),
        ("llama2", "llama_2"),
        ("chatml", "qwen_1_5"),
        ("Qwen2", "qwen_1_5"),
        ("gemma", "gemma_instruct"),
        ("zephyr", "mistral_zephyr"),
    ] {
        assert_eq!(Template::named(alias).unwrap().name, name, "{alias}");
    }
    let text = Template::named("vicuna_v2").unwrap_err().to_string();
    assert!(text.contains("`vicuna_v2`") && text.contains("v1, "), "{text}");
}

#[test]
fn system_text_whitespace_and_image_position() {
    let mut asked = conversation(&[(" Look: <image> and <image>. ", " Two. ")]);
    asked.system = Some("Be brief.".to_owned());
    check("v1", &asked, "Be brief. USER:  Look: <image> and <image>.  ASSISTANT:  Two. </s>");
    check(
        "mistral_instruct",
        &asked,
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nLook: <image> and <image>. [/INST] Two. </s>",
    );
    check(
        "nv_dpo",
        &asked,
        "<extra_id_0>System\nBe brief.\n\n<extra_id_1>User\n Look: <image> and <image>. \n<extra_id_1>Assistant\n Two. \n<extra_id_1>",
    );
    asked.move_images_to_front();
    asked.system = Some(String::new());
    check("v1", &asked, "USER: <image>\n<image>\nLook:  and . ASSISTANT:  Two. </s>");
}

/// LLaVA's `preprocess_multimodal` strips what is left, so a question of images alone ends in no line break.
#[test]
fn images_move_to_the_front_as_in_llava() {
    for (question, expected) in [
        ("<image>", "<image>"),
        (" <image>\n ", "<image>"),
        ("What? <image>", "<image>\nWhat?"),
        ("<image>\nWhat?", "<image>\nWhat?"),
        ("<image><image>", "<image>\n<image>"),
        ("What?", "What?"),
    ] {
        let mut moved = conversation(&[(question, "A.")]);
        moved.move_images_to_front();
        assert_eq!(moved.turns[0].question, expected, "{question:?}");
    }
}

/// `<image>` as text is no placeholder, and the ranges of answers and images hold in the text without its mark.
#[test]
fn a_literal_image_token_is_text() {
    let literal = Conversation::literal("Write <image> in HTML.").into_owned();
    let question = format!("<image>\n{literal}");
    let prompt = render(Template::named("v1").unwrap(), &conversation(&[(&question, &literal)])).unwrap();
    let text = "USER: <image>\nWrite <image> in HTML. ASSISTANT: Write <image> in HTML.</s>";
    assert!(prompt.text.ends_with(text), "{}", prompt.text);
    assert_eq!(prompt.images.len(), 1);
    assert!(prompt.text[prompt.images[0].end..].starts_with("\nWrite"));
    assert_eq!(&prompt.text[prompt.answers[0].clone()], " Write <image> in HTML.</s>");
}

#[test]
fn control_strings_are_found_in_every_template() {
    let controls = |name: &str| {
        let found = ChatTemplate::named(name).unwrap().control_strings();
        (found.stop, found.headers)
    };
    let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    for (name, stop, headers) in [
        ("v1", &["</s>"][..], &[][..]),
        ("plain", &[], &[]),
        ("v0", &[], &[]),
        (
            "llama_3",
            &["<|eot_id|>"],
            &["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
        ),
        ("llama_2", &["</s>"], &["<s>"]),
        ("mistral", &["</s>"], &["<s>"]),
        ("qwen_1_5", &["<|im_end|>"], &["<|im_start|>"]),
        ("zephyr", &["</s>"], &[]),
        ("gemma", &["<end_of_turn>"], &["<start_of_turn>"]),
        ("nvgpt", &["<extra_id_1>"], &["<extra_id_0>"]),
    ] {
        assert_eq!(controls(name), (strings(stop), strings(headers)), "{name}");
    }
}

#[test]
fn conversations_that_cannot_be_rendered_are_rejected() {
    let mut unanswered = two_turns();
    unanswered.turns[0].answer = None;
    let mut with_system = two_turns();
    with_system.system = Some("Be brief.".to_owned());
    let cases = [
        ("gemma_instruct", with_system, "no place for the conversation's system text"),
        ("v1", conversation(&[]), "it has no turn"),
        ("v1", unanswered, "only its last turn may lack an answer"),
        ("plain", two_turns(), "exactly two messages"),
        ("plain", conversation(&[("What?", "A cat.")]), "exactly two messages"),
    ];
    for (name, turns, expected) in cases {
        let text = render(Template::named(name).unwrap(), &turns).unwrap_err().to_string();
        assert!(text.contains(expected) && text.contains(name), "{text}");
    }
}

#[track_caller]
fn check(name: &str, turns: &Conversation, expected: &str) {
    assert_eq!(render(Template::named(name).unwrap(), turns).unwrap().text, expected, "{name}");
}

fn two_turns() -> Conversation {
    conversation(&[("<image>\nWhat is this?", "A cat."), ("Colour?", "Black.")])
}

fn conversation(turns: &[(&str, &str)]) -> Conversation {
    let turn = |&(question, answer): &(&str, &str)| Turn {
        question: question.to_owned(),
        answer: Some(answer.to_owned()),
    };
    Conversation {
        system: None,
        turns: turns.iter().map(turn).collect(),
    }
}
