//! Prints the samples of a split of an Energon dataset as lines of JSON, for the comparison with megatron-energon
//! (`make test-energon`). An image is its size and the SHA-256 of its RGB bytes.
//!
//! ```text
//! energon_dump PATH SPLIT [LOADERS.json]           prints the samples
//! energon_dump --speed SECONDS PATH SPLIT [..]     prints the number of samples that it decodes in a second, on one thread
//! ```

use std::{
    error::Error,
    fmt::Write as _,
    io::{self, BufWriter, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use neva_data::{Dataset as _, EnergonData, EnergonDataset, EnergonSample, ModelFolders, Value};
use neva_schemas::{EnergonMultiModalDataModule, LlavaModel};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest as _, Sha256};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "energon_dump: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let seconds = match arguments.first().is_some_and(|first| first == "--speed") {
        true => {
            let seconds: f64 = arguments.get(1).ok_or("--speed needs a number of seconds")?.parse()?;
            arguments.drain(..2);
            Some(Duration::from_secs_f64(seconds))
        }
        false => None,
    };
    let (Some(path), Some(split)) = (arguments.first(), arguments.get(1)) else {
        return Err("name a dataset and a split".into());
    };
    let sample_loaders = match arguments.get(2) {
        Some(file) => serde_json::from_slice(&std::fs::read(file)?)?,
        None => Default::default(),
    };
    let data = EnergonMultiModalDataModule {
        path: path.into(),
        tokenizer: Some("builtin:mistral_2k".to_owned()),
        sample_loaders,
        ..EnergonMultiModalDataModule::default()
    };
    let model = LlavaModel::default().description();
    let tools = EnergonData::tools(&data, &model, ModelFolders::default())
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let dataset = EnergonData::split(&data, &model, &tools, split)?;
    let mut out = BufWriter::new(io::stdout().lock());
    match seconds {
        None => {
            for index in 0..dataset.len() {
                writeln!(out, "{}", line(&dataset, &dataset.energon_sample(index)?)?)?;
            }
        }
        Some(limit) => writeln!(out, "{:.3}", speed(&dataset, limit)?)?,
    }
    out.flush()?;
    Ok(())
}

/// Reads and decodes samples for a time, and returns their number in a second.
fn speed(dataset: &EnergonDataset, limit: Duration) -> Result<f64, Box<dyn Error>> {
    let (start, mut count) = (Instant::now(), 0u32);
    while start.elapsed() < limit {
        for index in 0..dataset.len() {
            let sample = dataset.energon_sample(index)?;
            for (_, value) in &sample.fields {
                decode(dataset, &sample, value)?;
            }
            count += 1;
            if start.elapsed() >= limit {
                break;
            }
        }
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

fn decode(dataset: &EnergonDataset, sample: &EnergonSample, value: &Value) -> Result<(), Box<dyn Error>> {
    match value {
        Value::Image(part) => {
            std::hint::black_box(dataset.image(sample, part)?);
            Ok(())
        }
        Value::List(items) => items.iter().try_for_each(|item| decode(dataset, sample, item)),
        _ => Ok(()),
    }
}

fn line(dataset: &EnergonDataset, sample: &EnergonSample) -> Result<Json, Box<dyn Error>> {
    let mut fields = Map::new();
    for (name, value) in &sample.fields {
        fields.insert((*name).to_owned(), plain(dataset, sample, value)?);
    }
    Ok(json!({"key": sample.raw.key(), "type": sample.sample_type.name(), "fields": fields}))
}

fn plain(dataset: &EnergonDataset, sample: &EnergonSample, value: &Value) -> Result<Json, Box<dyn Error>> {
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => Json::Number(number.clone()),
        Value::Text(text) => text.as_str().into(),
        Value::Object(fields) => Json::Object(fields.clone()),
        Value::List(items) => {
            let items = items.iter().map(|item| plain(dataset, sample, item));
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Image(part) => {
            let image = dataset.image(sample, part)?;
            let mut hash = String::new();
            for byte in Sha256::digest(&image.data) {
                write!(hash, "{byte:02x}")?;
            }
            json!({"width": image.width, "height": image.height, "sha256": hash})
        }
    })
}
