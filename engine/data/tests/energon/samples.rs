//! Sample types: what of a sample is read, where its images are, and what is trained on.

use neva_data::Sample;
use neva_schemas::{EnergonMultiModalDataModule, ImageToken, MultiModalSampleConfig, SampleLoader};
use serde_json::{Value, json};

use super::set::{
    Part, image_part, json_part, loader, one_sample, open, settings, trained_text, vqa_loader, vqa_set, whole_text, with_loader,
};

/// Reads the one sample of a dataset that is made of these parts.
fn read(parts: &[Part], own: SampleLoader, change: impl FnOnce(&mut EnergonMultiModalDataModule)) -> Result<Sample, String> {
    let folder = tempfile::tempdir().unwrap();
    one_sample(folder.path(), parts, own);
    let mut data = settings(folder.path());
    change(&mut data);
    let opened = open(&data).map_err(|error| error.to_string())?;
    let sample = opened.train.get(0).map_err(|error| error.to_string())?;
    // The sample without pixels is the same one.
    let without = opened.train.get_without_pixels(0).unwrap();
    assert_eq!(
        (&without.ids, &without.labels, without.images.len()),
        (&sample.ids, &sample.labels, sample.images.len())
    );
    Ok(sample)
}

/// A case: type, mapping, JSON, images, whole text, trained text.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Value, &'a [&'a str], &'a str, &'a str);

const SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed and polite \
                      answers to user's questions. ";

#[test]
fn each_type_is_encoded() {
    let vqa: &[(&str, &str)] = &[("image", "png"), ("context", "json[q]"), ("answers", "json[a]")];
    let cases: &[Case<'_>] = &[
        (
            "VQASample",
            vqa,
            json!({"q": "What?", "a": "A cat."}),
            &["k.png"],
            "USER: <image>\nWhat? ASSISTANT: A cat.</s>",
            "A cat.</s>",
        ),
        (
            "VQASample",
            vqa,
            json!({"q": "See <image> here", "a": ["One", "Two"]}),
            &["k.png"],
            "USER: See <image> here ASSISTANT: One</s>",
            "One</s>",
        ),
        (
            "VQASample",
            &[
                ("image", "png"),
                ("context", "json[q]"),
                ("answers", "json[a]"),
                ("answer_weights", "json[w]"),
            ],
            json!({"q": "What?", "a": ["One", "Two"], "w": [0.3, 1]}),
            &["k.png"],
            "USER: <image>\nWhat? ASSISTANT: Two</s>",
            "Two</s>",
        ),
        (
            // Several turns, and answers with blanks around them, which the template strips.
            "VQASample",
            vqa,
            json!({"q": ["<image> A?", "B?"], "a": [" one ", "two "]}),
            &["k.png"],
            "USER: <image> A? ASSISTANT: one</s>USER: B? ASSISTANT: two</s>",
            "one</s>two</s>",
        ),
        (
            "VQASample",
            vqa,
            json!({"q": "No image, <image> is text", "a": "Yes."}),
            &[],
            "USER: No image, <image> is text ASSISTANT: Yes.</s>",
            "Yes.</s>",
        ),
        (
            "CaptioningSample",
            &[("image", "png"), ("caption", "json[c]")],
            json!({"c": " A cat. "}),
            &["k.png"],
            "<image>A cat.\n",
            "A cat.\n",
        ),
        (
            "OCRSample",
            &[("image", "png"), ("text", "json[t]")],
            json!({"t": "STOP"}),
            &["k.png"],
            "<image>STOP\n",
            "STOP\n",
        ),
        (
            "ImageClassificationSample",
            &[("image", "png"), ("label", "json[l]")],
            json!({"l": 7}),
            &["k.png"],
            "<image>7\n",
            "7\n",
        ),
        (
            "ImageClassificationSample",
            &[("image", "png"), ("label", "json[l]"), ("label_name", "json[n]")],
            json!({"l": 7, "n": "cat"}),
            &["k.png"],
            "<image>cat\n",
            "cat\n",
        ),
        (
            "TextSample",
            &[("text", "json[t]")],
            json!({"t": "One two <image>."}),
            &[],
            "One two <image>.",
            "One two <image>.",
        ),
        (
            "MultiChoiceVQASample",
            &[
                ("image", "png"),
                ("context", "json[q]"),
                ("choices", "json[c]"),
                ("correct_choice_idx", "json[i]"),
            ],
            json!({"q": "Which?", "c": ["red", "blue"], "i": 1}),
            &["k.png"],
            "USER: <image>\nWhich?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly. ASSISTANT: B</s>",
            "B</s>",
        ),
        (
            "InterleavedSample",
            &[("sequence", "parts(json[s], image)")],
            json!({"s": ["One.", {"image": "1.png"}, "Two.", {"image": "0.png"}]}),
            &["k.0.png", "k.1.png"],
            "One.<image>Two.<image>",
            "One.Two.",
        ),
        (
            // Two images on one text, and one on an earlier text: each has its place.
            "SimilarityInterleavedSample",
            &[
                ("images", "parts(json[i])"),
                ("texts", "json[t]"),
                ("matched_text_indices", "json[m]"),
            ],
            json!({"i": ["0.png", "1.png", "2.png"], "t": ["One.", "Two."], "m": [1, 1, 0]}),
            &["k.0.png", "k.1.png", "k.2.png"],
            "One. <image> Two. <image> <image>",
            "One. Two. ",
        ),
        (
            "SimilarityInterleavedSample",
            &[("images", "parts(json[i])"), ("texts", "json[t]"), ("similarity_matrix", "json[m]")],
            json!({"i": ["0.png"], "t": ["One.", "Two."], "m": [[0.1, 0.9]]}),
            &["k.0.png"],
            "One. Two. <image>",
            "One. Two. ",
        ),
        (
            // LLaVA's records in shards: slices take the questions and the answers.
            "VQASample",
            &[
                ("image", "png"),
                ("context", "json[conversations][0::2][value]"),
                ("answers", "json[conversations][1::2][value]"),
            ],
            json!({"conversations": [{"value": "<image>\nA?"}, {"value": "a"}, {"value": "B?"}, {"value": "b"}]}),
            &["k.png"],
            "USER: <image>\nA? ASSISTANT: a</s>USER: B? ASSISTANT: b</s>",
            "a</s>b</s>",
        ),
        (
            "VQASample",
            &[("image", "png"), ("context", "\"Describe it.\""), ("answers", "json[c]")],
            json!({"c": "Red."}),
            &["k.png"],
            "USER: <image>\nDescribe it. ASSISTANT: Red.</s>",
            "Red.</s>",
        ),
    ];
    for (sample_type, fields, json, images, text, trained) in cases {
        let mut parts: Vec<Part> = images.iter().zip(1..).map(|(name, number)| image_part(name, number)).collect();
        parts.push(json_part("k", json));
        let sample = read(&parts, loader(sample_type, fields), |_| {}).unwrap();
        let flat = |text: &str| text.replace(SYSTEM, "").replace(' ', "");
        assert_eq!(flat(&whole_text(&sample)), flat(text), "{sample_type} {json}");
        let labels = trained_text(&sample);
        assert_eq!(flat(&labels), flat(trained), "{sample_type} {json}");
        assert_eq!(sample.images.len(), images.len(), "{sample_type} {json}");
        assert_eq!(sample.ids.len(), sample.labels.len());
    }
}

#[test]
fn images_have_the_order_of_their_places() {
    let images = ["k.0.png", "k.1.png", "k.2.png"];
    let mut parts: Vec<Part> = images.iter().zip(1..).map(|(name, number)| image_part(name, number)).collect();
    parts.push(json_part(
        "k",
        &json!({"i": ["0.png", "1.png", "2.png"], "t": ["One.", "Two."], "m": [1, 0, 1]}),
    ));
    let own = || {
        loader(
            "SimilarityInterleavedSample",
            &[
                ("images", "parts(json[i])"),
                ("texts", "json[t]"),
                ("matched_text_indices", "json[m]"),
            ],
        )
    };
    let one = |number: u8| {
        let parts = [image_part("k.png", number), json_part("k", &json!({"c": "x"}))];
        read(
            &parts,
            loader("CaptioningSample", &[("image", "png"), ("caption", "json[c]")]),
            |_| {},
        )
        .unwrap()
        .images
        .remove(0)
    };
    let sample = read(&parts, own(), |_| {}).unwrap();
    assert_eq!(sample.images, [one(2), one(1), one(3)]);
    let before = read(&parts, own(), |data| data.multimodal_sample_config.image_following_text = false).unwrap();
    assert_eq!(whole_text(&before).replace(' ', ""), "<image>One.<image><image>Two.");
    assert_eq!(before.images, [one(2), one(1), one(3)]);
}

#[test]
fn the_image_token_and_the_template_are_settings() {
    let parts = [
        image_part("k.png", 1),
        json_part("k", &json!({"question": "Look: [IMG] or <image>?", "answers": ["A"]})),
    ];
    let token = |data: &mut EnergonMultiModalDataModule| {
        data.multimodal_sample_config = MultiModalSampleConfig {
            image_token: ImageToken {
                token_str: "[IMG]".to_owned(),
                ..ImageToken::default()
            },
            ..MultiModalSampleConfig::default()
        };
        data.multimodal_sample_config.conversation_template_config.as_mut().unwrap().system = None;
    };
    let sample = read(&parts, vqa_loader(), token).unwrap();
    assert_eq!(whole_text(&sample).replace(' ', ""), "USER:Look:<image>or<image>?ASSISTANT:A</s>");
    assert_eq!(sample.images.len(), 1);
    let text = read(&parts[1..], vqa_loader(), token).unwrap();
    assert_eq!(whole_text(&text).replace(' ', ""), "USER:Look:[IMG]or<image>?ASSISTANT:A</s>");
}

/// Python's decoder of JSON, which Energon uses, skips it.
#[test]
fn a_byte_order_mark_in_front_of_json_is_skipped() {
    let own = |bytes: &[u8]| [image_part("k.png", 1), ("k.json".to_owned(), bytes.to_vec())];
    let json = br#"{"question": "Q?", "answers": ["A."]}"#;
    let marked = read(&own(&[b"\xef\xbb\xbf", &json[..]].concat()), vqa_loader(), |_| {}).unwrap();
    assert_eq!(whole_text(&marked), whole_text(&read(&own(json), vqa_loader(), |_| {}).unwrap()));
}

/// A case: mapping, parts, texts of the error.
type Refused<'a> = (SampleLoader, Vec<Part>, &'a [&'a str]);

#[test]
fn broken_samples_are_named_with_key_and_field() {
    let json = |value: Value| json_part("k", &value);
    let image = || image_part("k.png", 1);
    let similar = || {
        loader(
            "SimilarityInterleavedSample",
            &[
                ("images", "parts(json[i])"),
                ("texts", "json[t]"),
                ("matched_text_indices", "json[m]"),
            ],
        )
    };
    let sequence = || loader("InterleavedSample", &[("sequence", "parts(json[s], image)")]);
    let choice = || {
        loader(
            "MultiChoiceVQASample",
            &[
                ("image", "png"),
                ("context", "json[q]"),
                ("choices", "json[c]"),
                ("correct_choice_idx", "json[i]"),
            ],
        )
    };
    let cases: Vec<Refused<'_>> = vec![
        (
            vqa_loader(),
            vec![image(), ("k.json".into(), b"{".to_vec())],
            &["sample k, json: is not JSON"],
        ),
        (
            vqa_loader(),
            vec![image(), ("k.json".into(), vec![b'"', 0xff, b'"'])],
            &["sample k, json: is not JSON"],
        ),
        (
            vqa_loader(),
            vec![image(), json(json!({"answers": ["a"]}))],
            &["sample k, json[question]: there is no key `question`; there are answers"],
        ),
        (
            vqa_loader(),
            vec![image()],
            &["sample k, json: there is no part of this name; the sample has png"],
        ),
        (
            vqa_loader(),
            vec![image(), json(json!({"question": 5, "answers": ["a"]}))],
            &["sample k, context: must be text or a list of texts, found a number"],
        ),
        (
            vqa_loader(),
            vec![image(), json(json!({"question": "q", "answers": []}))],
            &["sample k, answers: is an empty list"],
        ),
        (
            vqa_loader(),
            vec![image(), json(json!({"question": ["a", "b"], "answers": ["c"]}))],
            &["sample k, answers: has 1 text(s), but `context` has 2"],
        ),
        (
            vqa_loader(),
            vec![image(), json(json!({"question": "<image><image>", "answers": ["a"]}))],
            &["sample k, image: 1 image(s), but the text has `<image>` 2 time(s)"],
        ),
        (
            vqa_loader(),
            vec![
                ("k.png".into(), b"no image".to_vec()),
                json(json!({"question": "q", "answers": ["a"]})),
            ],
            &["shard_000.tar: sample k, png", "not an image"],
        ),
        (
            similar(),
            vec![image(), json(json!({"i": ["0.png"], "t": ["a"], "m": [0]}))],
            &["sample k, 0.png: there is no part of this name"],
        ),
        (
            similar(),
            vec![image(), json(json!({"i": ["png"], "t": ["a"], "m": [1]}))],
            &["sample k, matched_text_indices[0]: names no text: there are 1"],
        ),
        (
            similar(),
            vec![image(), json(json!({"i": ["png"], "t": ["a"], "m": []}))],
            &["matched_text_indices: has 0 number(s) for 1 image(s)"],
        ),
        (sequence(), vec![json(json!({"s": []}))], &["sample k, sequence: has no text"]),
        (
            sequence(),
            vec![json(json!({"s": ["a", 7]}))],
            &["sample k, sequence[1]: must be text or an image, found a number"],
        ),
        (
            choice(),
            vec![image(), json(json!({"q": "a", "c": ["b"], "i": 1}))],
            &["sample k, correct_choice_idx: must be the index of one of the 1 choices"],
        ),
    ];
    for (own, parts, expected) in cases {
        let error = read(&parts, own, |_| {}).unwrap_err();
        for text in expected {
            assert!(error.contains(text), "{text}\nis not in\n{error}");
        }
    }
}

#[test]
fn excluded_shards_and_samples_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    vqa_set(folder.path(), &[0..3, 3..6, 6..9]);
    let split = "split_parts:\n  train: ['shard_{000..002}.tar']\nexclude:\n- shard_001.tar\n- shard_002.tar/0007\n";
    std::fs::write(folder.path().join(".nv-meta/split.yaml"), split).unwrap();
    let data = open(&settings(folder.path())).unwrap();
    let numbers: Vec<usize> = (0..data.train.len()).map(|index| super::set::number(&*data.train, index)).collect();
    assert_eq!(numbers, [0, 1, 2, 6, 8]);
    assert!(data.val.is_none());
}

#[test]
fn older_forms_are_read() {
    let folder = tempfile::tempdir().unwrap();
    vqa_set(folder.path(), &[0..3, 3..5]);
    let meta = folder.path().join(".nv-meta");
    std::fs::remove_file(meta.join(".info.json")).unwrap();
    std::fs::write(meta.join(".info.yaml"), "shard_counts:\n  shard_000.tar: 3\n  shard_001.tar: 2\n").unwrap();
    std::fs::remove_file(meta.join("split.yaml")).unwrap();
    let split = json!({"split_parts": {"train": ["shard_000.tar"], "val": ["shard_001.tar"]}});
    std::fs::write(meta.join("split.json"), split.to_string()).unwrap();
    let data = open(&settings(folder.path())).unwrap();
    assert_eq!((data.train.len(), data.val.unwrap().len()), (3, 2));
}

#[test]
fn python_in_a_dataset_asks_for_a_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("stories");
    vqa_set(&root, &[0..2]);
    let cases: &[(&str, &[&str])] = &[
        (
            "sample_type: {__module__: megatron.energon, __class__: InterleavedSample}\nsample_loader: sample_loader.py:sample_loader\npart_filter: x\n",
            &[
                "dataset.yaml, sample_loader",
                "finetune.data.sample_loaders: {stories: {sample_type: InterleavedSample, field_map: {sequence:",
            ],
        ),
        (
            "__module__: megatron.energon\n__class__: CrudeWebdataset\nsubflavors: {a: b}\n",
            &["dataset.yaml, __class__", "sample_loaders: {stories:"],
        ),
        (
            "sample_type: {__module__: mine, __class__: OwnSample}\nfield_map: {a: b}\n",
            &["OwnSample cannot be trained on", "CaptioningSample"],
        ),
        (
            "sample_type: {__module__: megatron.energon, __class__: VQASample}\nfield_map: {picture: jpg}\n",
            &["field_map.picture", "VQASample has no such field"],
        ),
        (
            "sample_type: {__module__: megatron.energon, __class__: VQASample}\nfield_map: {image: 'json[a'}\n",
            &["field_map.image", "brackets"],
        ),
        (
            "sample_type: {__module__: megatron.energon, __class__: VQASample}\nfield_map: {image: png}\n",
            &["field_map.context", "is missing"],
        ),
        ("sample_type: [a\n", &["dataset.yaml", "is not YAML"]),
        ("[]\n", &["dataset.yaml", "must be a mapping"]),
        (
            "sample_type: {__module__: megatron.energon, __class__: VQASample}\ndecoder: {image_decode: l8}\nfield_map: {image: png}\n",
            &["image_decode", "is l8, but images are decoded as RGB"],
        ),
    ];
    for (yaml, expected) in cases {
        std::fs::write(root.join(".nv-meta/dataset.yaml"), yaml).unwrap();
        let error = open(&settings(&root)).map(drop).unwrap_err().to_string();
        for text in *expected {
            assert!(error.contains(text), "{text}\nis not in\n{error}");
        }
    }
    std::fs::write(root.join(".nv-meta/dataset.yaml"), cases[0].0).unwrap();
    let data = open(&with_loader("stories", vqa_loader(), settings(&root))).unwrap();
    assert!(trained_text(&data.train.get(1).unwrap()).contains("A1."));
    let error = open(&with_loader("story", vqa_loader(), settings(&root)))
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.contains("sample_loader"), "{error}");
    // The deprecated form names the class of the dataset.
    let legacy = "__module__: megatron.energon\n__class__: VQAWebdataset\nfield_map: {image: png, context: 'json[question]', answers: 'json[answers]'}\n";
    std::fs::write(root.join(".nv-meta/dataset.yaml"), legacy).unwrap();
    assert_eq!(open(&settings(&root)).unwrap().train.len(), 2);
    let unused = with_loader("story", vqa_loader(), settings(&root));
    let error = open(&unused).map(drop).unwrap_err().to_string();
    assert!(error.contains("story") && error.contains("is the mapping of no dataset"), "{error}");
}
