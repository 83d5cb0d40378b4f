//! Small datasets, packed and prepared.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_data::{
    DataError, Dataset, EnergonData, EnergonDataset, ModelFolders, PrepareError, PrepareOptions, Prepared, Sample, SplitRule, Tokenizer,
    prepare,
};
use neva_schemas::{EnergonMultiModalDataModule, LlavaModel, SampleLoader};
use serde_json::{Value, json};

/// Name and content of a file in a shard.
pub(crate) type Part = (String, Vec<u8>);

/// Writes a shard.
pub(crate) fn pack(path: &Path, parts: &[Part]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    for (name, content) in parts {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    tar.finish().unwrap();
}

/// Returns a file of JSON.
pub(crate) fn json_part(key: &str, value: &Value) -> Part {
    (format!("{key}.json"), value.to_string().into_bytes())
}

/// Returns a file of an image, whose colour depends on `number`.
pub(crate) fn image_part(name: &str, number: u8) -> Part {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 6, 4);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    let pixels: Vec<u8> = (0..6u8 * 4 * 3).map(|at| at.wrapping_mul(number)).collect();
    writer.write_image_data(&pixels).unwrap();
    writer.finish().unwrap();
    (name.to_owned(), bytes)
}

/// Returns the files of question `number`, with an image.
pub(crate) fn vqa(number: usize) -> Vec<Part> {
    let key = format!("{number:04}");
    vec![
        image_part(&format!("{key}.png"), number as u8),
        json_part(
            &key,
            &json!({"question": format!("Q{number}?"), "answers": [format!("A{number}.")]}),
        ),
    ]
}

/// The mapping of [`vqa`].
pub(crate) fn vqa_loader() -> SampleLoader {
    loader(
        "VQASample",
        &[("image", "png,jpg"), ("context", "json[question]"), ("answers", "json[answers]")],
    )
}

pub(crate) fn loader(sample_type: &str, fields: &[(&str, &str)]) -> SampleLoader {
    SampleLoader {
        sample_type: Some(sample_type.to_owned()),
        field_map: fields
            .iter()
            .map(|(field, text)| ((*field).to_owned(), (*text).to_owned()))
            .collect(),
    }
}

pub(crate) fn options(loader: Option<SampleLoader>) -> PrepareOptions {
    PrepareOptions {
        workers: 2,
        split: SplitRule::Ratio([1.0, 0.0, 0.0]),
        exclude: Vec::new(),
        loader,
        index_only: false,
        force: false,
    }
}

pub(crate) fn run_prepare(root: &Path, options: &PrepareOptions) -> Result<Prepared, PrepareError> {
    prepare(root, options, &mut |_| {}, &|| false)
}

/// Packs a dataset of questions, `shards[i]` in shard `i`, and prepares it.
pub(crate) fn vqa_set(root: &Path, shards: &[std::ops::Range<usize>]) {
    for (index, shard) in shards.iter().enumerate() {
        let parts: Vec<Part> = shard.clone().flat_map(vqa).collect();
        pack(&root.join(format!("shard_{index:03}.tar")), &parts);
    }
    run_prepare(root, &options(Some(vqa_loader()))).unwrap();
}

/// Packs a dataset of one sample, and prepares it with a mapping.
pub(crate) fn one_sample(root: &Path, parts: &[Part], loader: SampleLoader) {
    pack(&root.join("shard_000.tar"), parts);
    run_prepare(root, &options(Some(loader))).unwrap();
}

pub(crate) fn settings(path: impl Into<PathBuf>) -> EnergonMultiModalDataModule {
    EnergonMultiModalDataModule {
        path: path.into(),
        tokenizer: Some("builtin:mistral_2k".to_owned()),
        add_bos: Some(false),
        ..EnergonMultiModalDataModule::default()
    }
}

pub(crate) fn with_loader(name: &str, loader: SampleLoader, data: EnergonMultiModalDataModule) -> EnergonMultiModalDataModule {
    EnergonMultiModalDataModule {
        sample_loaders: BTreeMap::from([(name.to_owned(), loader)]),
        ..data
    }
}

pub(crate) fn open(data: &EnergonMultiModalDataModule) -> Result<EnergonData, DataError> {
    let model = LlavaModel::default().description();
    let tools = EnergonData::tools(data, &model, ModelFolders::default()).unwrap();
    let opened = EnergonData::open(data, &model, &tools)?;
    Ok(opened)
}

pub(crate) fn check(data: &EnergonMultiModalDataModule) -> Result<(), DataError> {
    let model = LlavaModel::default().description();
    let tools = EnergonData::tools(data, &model, ModelFolders::default()).unwrap();
    EnergonData::check(data, &model, &tools)
}

pub(crate) fn split(data: &EnergonMultiModalDataModule, name: &str) -> EnergonDataset {
    let model = LlavaModel::default().description();
    let tools = EnergonData::tools(data, &model, ModelFolders::default()).unwrap();
    EnergonData::split(data, &model, &tools, name).unwrap()
}

/// Returns the text of a sample's tokens that `is_chosen` takes; `<image>` stands for an image.
fn text_of(sample: &Sample, is_chosen: impl Fn(i64) -> bool) -> String {
    let tokenizer = Tokenizer::open("builtin:mistral_2k").unwrap();
    let (mut text, mut run) = (String::new(), Vec::new());
    for (id, label) in sample.ids.iter().zip(&sample.labels) {
        if *id == neva_data::IMAGE_TOKEN_INDEX {
            text += &tokenizer.decode(&run, false).unwrap();
            run.clear();
            if is_chosen(0) {
                text += "<image>";
            }
        } else if is_chosen(*label) {
            run.push(*id);
        }
    }
    text + &tokenizer.decode(&run, false).unwrap()
}

/// Returns the whole text of a sample.
pub(crate) fn whole_text(sample: &Sample) -> String {
    text_of(sample, |_| true)
}

/// Returns the text that is trained on.
pub(crate) fn trained_text(sample: &Sample) -> String {
    text_of(sample, |label| label > 0)
}

/// Returns the numbers of the questions that the first `count` positions of the training stream have.
pub(crate) fn stream(data: &Arc<dyn Dataset>, seed: u64, positions: std::ops::Range<u64>) -> Vec<usize> {
    let order = data.order(seed, true);
    positions.map(|position| number(&**data, order.index(position) as usize)).collect()
}

/// Returns the number of the question at `index`.
pub(crate) fn number(data: &dyn Dataset, index: usize) -> usize {
    let name = data.name(index);
    name.rsplit(' ').next().unwrap().parse().unwrap()
}
