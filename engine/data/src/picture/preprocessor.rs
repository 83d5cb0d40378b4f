//! Hugging Face's `preprocessor_config.json`, of CLIP and SigLIP, in the spellings of all their versions.

use std::path::Path;

use serde::Deserialize;

use super::process::{ImageProcessor, ProcessMode, Size, bytes};
use crate::error::DataError;

impl ImageProcessor {
    /// Reads a Hugging Face `preprocessor_config.json`, or the one in the folder `path`; the mode is `pad`.
    ///
    /// # Errors
    /// When it cannot be read, or is not a bicubic CLIP or SigLIP processor's.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let path = if path.is_dir() {
            path.join("preprocessor_config.json")
        } else {
            path.to_owned()
        };
        let text = std::fs::read_to_string(&path).map_err(|error| DataError::Read { path: path.clone(), error })?;
        Self::from_json(&text).map_err(|reason| DataError::Processor { path, reason })
    }

    fn from_json(text: &str) -> Result<Self, String> {
        let config: Preprocessor = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let kind = config.image_processor_type.or(config.feature_extractor_type).unwrap_or_default();
        let base = if kind.starts_with("CLIP") || kind.is_empty() {
            Self::clip(224)
        } else if kind.to_ascii_lowercase().starts_with("siglip") {
            Self::siglip(224)
        } else {
            return Err(format!(
                "image_processor_type `{kind}` is not known: CLIPImageProcessor and SiglipImageProcessor are"
            ));
        };
        if let Some(resample) = config.resample.filter(|&resample| resample != BICUBIC) {
            return Err(format!("resample {resample} is not supported: only {BICUBIC} (bicubic) is"));
        }
        let size = match config.size {
            None => base.size,
            Some(Extent::Edge(edge) | Extent::Shortest { shortest_edge: edge }) if base.crop.is_some() => Some(Size::ShortestEdge(edge)),
            Some(Extent::Edge(edge)) => Some(Size::Exact { height: edge, width: edge }),
            Some(Extent::Shortest { shortest_edge }) => Some(Size::ShortestEdge(shortest_edge)),
            Some(Extent::Exact { height, width }) => Some(Size::Exact { height, width }),
        };
        let crop = match config.crop_size {
            None => base.crop,
            Some(Extent::Edge(edge) | Extent::Shortest { shortest_edge: edge }) => Some((edge, edge)),
            Some(Extent::Exact { height, width }) => Some((height, width)),
        };
        let (size, crop) = (
            size.filter(|_| config.do_resize.unwrap_or(true)),
            crop.filter(|_| config.do_center_crop.unwrap_or(base.crop.is_some())),
        );
        let zero = |size| {
            matches!(
                size,
                Size::ShortestEdge(0) | Size::Exact { height: 0, .. } | Size::Exact { width: 0, .. }
            )
        };
        if size.is_some_and(zero) || crop.is_some_and(|(height, width)| height * width == 0) {
            return Err("size and crop_size must be positive".to_owned());
        }
        let normalized = config.do_normalize.unwrap_or(true);
        let mean = config.image_mean.unwrap_or(base.mean);
        Ok(Self {
            mode: ProcessMode::Pad,
            background: bytes(mean),
            size,
            crop,
            rescale: if config.do_rescale.unwrap_or(true) {
                config.rescale_factor.unwrap_or(base.rescale)
            } else {
                1.0
            },
            mean: if normalized { mean } else { [0.0; 3] },
            std: if normalized {
                config.image_std.unwrap_or(base.std)
            } else {
                [1.0; 3]
            },
        })
    }
}

/// PIL's number of the bicubic filter.
const BICUBIC: u32 = 3;

/// The fields of `preprocessor_config.json` that say how pixels come about.
#[derive(Deserialize)]
struct Preprocessor {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    size: Option<Extent>,
    crop_size: Option<Extent>,
    do_resize: Option<bool>,
    do_center_crop: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    resample: Option<u32>,
    rescale_factor: Option<f64>,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
}

/// A size in any of its spellings over the years: `336`, `{"shortest_edge": 336}`, `{"height": 336, "width": 336}`.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a size is a number, {\"shortest_edge\": n} or {\"height\": n, \"width\": n}"
)]
enum Extent {
    Edge(usize),
    Shortest { shortest_edge: usize },
    Exact { height: usize, width: usize },
}
