//! Hugging Face's `preprocessor_config.json` of CLIP, SigLIP, LLaVA and InternVL, in the formats of all transformers
//! versions, and `processor_config.json` of transformers 5, which nests it under `image_processor`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    process::{ImageProcessor, ProcessMode, Size, bytes},
    resize::Filter,
    tiles::Tiling,
};
use crate::error::DataError;

impl ImageProcessor {
    /// Reads a Hugging Face image processor from a file or its folder. The mode is `pad`.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or does not describe a supported processor.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let path = Self::file_at(path);
        let text = std::fs::read_to_string(&path).map_err(|error| DataError::Read { path: path.clone(), error })?;
        Self::from_json(&text).map_err(|reason| DataError::Processor { path, reason })
    }

    /// Returns the file that `path` names: itself, or that of a folder.
    pub(super) fn file_at(path: &Path) -> PathBuf {
        if path.is_dir() {
            Self::file_in(path).unwrap_or_else(|| path.join(PREPROCESSOR_CONFIG))
        } else {
            path.to_owned()
        }
    }

    /// Returns the file of the image processor in the folder of a model, if there is one. As in transformers,
    /// `processor_config.json` takes precedence if it has an image processor.
    #[must_use]
    pub fn file_in(folder: &Path) -> Option<PathBuf> {
        let nested = folder.join(PROCESSOR_CONFIG);
        let holds_one = |path: &Path| {
            let content: Value = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
            content.get(NESTED)?.is_object().then_some(())
        };
        if holds_one(&nested).is_some() {
            return Some(nested);
        }
        Some(folder.join(PREPROCESSOR_CONFIG)).filter(|path| path.is_file())
    }

    /// Returns the processor as the content of a `preprocessor_config.json`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let size = match self.size {
            Some(Size::ShortestEdge(edge)) => json!({ "shortest_edge": edge }),
            Some(Size::Exact { height, width }) => json!({ "height": height, "width": width }),
            None => Value::Null,
        };
        let kind = match (self.tiling, self.pads) {
            (Some(_), _) => "GotOcr2ImageProcessor",
            (None, true) => "LlavaImageProcessor",
            (None, false) => "CLIPImageProcessor",
        };
        let mut content = json!({
            "image_processor_type": kind,
            "do_convert_rgb": true,
            "do_resize": self.size.is_some(),
            "do_center_crop": self.crop.is_some(),
            "do_rescale": true,
            "do_normalize": true,
            "resample": self.filter.code(),
            "rescale_factor": self.rescale,
            "image_mean": self.mean,
            "image_std": self.std,
        });
        if self.pads {
            content["do_pad"] = true.into();
        }
        if let Some(tiling) = self.tiling {
            content["crop_to_patches"] = true.into();
            content["min_patches"] = tiling.min_tiles.into();
            content["max_patches"] = tiling.max_tiles.into();
            content["use_thumbnail"] = tiling.thumbnail.into();
        }
        if !size.is_null() {
            content["size"] = size;
        }
        if let Some((height, width)) = self.crop {
            content["crop_size"] = json!({ "height": height, "width": width });
        }
        content
    }

    fn from_json(text: &str) -> Result<Self, String> {
        let content: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let content = content.get(NESTED).filter(|nested| nested.is_object()).unwrap_or(&content);
        let config = Preprocessor::deserialize(content).map_err(|error| error.to_string())?;
        let named = config.image_processor_type.as_ref().or(config.feature_extractor_type.as_ref());
        if named.is_none() && (config.size.is_none() || config.image_mean.is_none()) {
            return Err("this is not an image processor: it has neither image_processor_type nor size and image_mean".to_owned());
        }
        let kind = Kind::named(named.map_or("CLIPImageProcessor", String::as_str))?;
        let base = match kind {
            Kind::Clip | Kind::Llava => Self::clip(224),
            Kind::Siglip => Self::siglip(224),
            Kind::GotOcr2 => Self {
                size: Some(Size::Exact { height: 384, width: 384 }),
                crop: None,
                ..Self::clip(384)
            },
        };
        let tiling = config.tiling(kind)?;
        let filter = match config.resample {
            None => Filter::Bicubic,
            Some(code) => Filter::of_code(code).ok_or_else(|| {
                format!("resample {code} is not supported: use 1 (Lanczos), 2 (bilinear), 3 (bicubic), 4 (box) or 5 (Hamming)")
            })?,
        };
        if config.do_convert_rgb == Some(false) {
            return Err("do_convert_rgb is false: images are always converted to RGB here".to_owned());
        }
        let pads = config.do_pad == Some(true);
        if pads && kind != Kind::Llava {
            return Err(
                "do_pad is true, which is not applied: data_config.image_process_mode says how an image becomes a square".to_owned(),
            );
        }
        let size = match config.size {
            None => base.size,
            Some(Extent::Edge(edge) | Extent::Shortest { shortest_edge: edge }) if base.crop.is_some() => Some(Size::ShortestEdge(edge)),
            Some(Extent::Edge(edge)) => Some(Size::Exact { height: edge, width: edge }),
            Some(Extent::Shortest { shortest_edge }) => Some(Size::ShortestEdge(shortest_edge)),
            Some(Extent::Exact { height, width }) => Some(Size::Exact { height, width }),
        };
        let crop = match config.crop_size {
            _ if kind == Kind::GotOcr2 => None,
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
        if tiling.is_some() && !matches!(size, Some(Size::Exact { .. })) {
            return Err("crop_to_patches is true, but size is not the height and width of a tile".to_owned());
        }
        if size.is_some_and(zero) || crop.is_some_and(|(height, width)| height * width == 0) {
            return Err("size and crop_size must be positive".to_owned());
        }
        let normalized = config.do_normalize.unwrap_or(true);
        let mean = config.image_mean.unwrap_or(base.mean);
        Ok(Self {
            mode: ProcessMode::Pad,
            background: bytes(mean),
            pads,
            size,
            filter,
            crop,
            tiling,
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

/// File of an image processor.
pub(super) const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";
/// File of a processor, in which transformers 5 nests the image processor.
const PROCESSOR_CONFIG: &str = "processor_config.json";
const NESTED: &str = "image_processor";

/// Reads the content of a `preprocessor_config.json`, or the same content from a `processor_config.json`.
pub(super) fn processor_content(file: &Path) -> std::io::Result<Vec<u8>> {
    let bytes = std::fs::read(file)?;
    let content: Option<Value> = serde_json::from_slice(&bytes).ok();
    let nested = content
        .as_ref()
        .and_then(|content| content.get(NESTED))
        .filter(|nested| nested.is_object());
    Ok(nested.map_or_else(|| bytes.clone(), |nested| format!("{nested:#}\n").into_bytes()))
}

/// Classes of image processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Clip,
    Siglip,
    Llava,
    /// InternVL's.
    GotOcr2,
}

impl Kind {
    /// Finds the class by name. Names may end with a backend: `CLIPImageProcessorFast`, `CLIPImageProcessorPil`.
    fn named(name: &str) -> Result<Self, String> {
        let class = name.strip_suffix("Fast").or_else(|| name.strip_suffix("Pil")).unwrap_or(name);
        Ok(match class.to_ascii_lowercase().as_str() {
            "clipimageprocessor" | "clipfeatureextractor" => Self::Clip,
            "siglipimageprocessor" => Self::Siglip,
            "llavaimageprocessor" => Self::Llava,
            "gotocr2imageprocessor" => Self::GotOcr2,
            _ => {
                return Err(format!(
                    "image_processor_type `{name}` is not supported: use CLIPImageProcessor, SiglipImageProcessor, \
                     LlavaImageProcessor or GotOcr2ImageProcessor"
                ));
            }
        })
    }
}

/// The fields of `preprocessor_config.json` that affect the pixels.
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
    do_convert_rgb: Option<bool>,
    do_pad: Option<bool>,
    /// InternVL's tiles.
    crop_to_patches: Option<bool>,
    min_patches: Option<usize>,
    max_patches: Option<usize>,
    use_thumbnail: Option<bool>,
    resample: Option<u32>,
    rescale_factor: Option<f64>,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
}

impl Preprocessor {
    /// Returns the tiling, by default from 1 to 12 tiles and a thumbnail, as in transformers.
    fn tiling(&self, kind: Kind) -> Result<Option<Tiling>, String> {
        if self.crop_to_patches != Some(true) {
            return Ok(None);
        }
        if kind != Kind::GotOcr2 {
            return Err("crop_to_patches is true, which only GotOcr2ImageProcessor applies: set it to false".to_owned());
        }
        let tiling = Tiling {
            min_tiles: self.min_patches.unwrap_or(1),
            max_tiles: self.max_patches.unwrap_or(12),
            thumbnail: self.use_thumbnail.unwrap_or(true),
        };
        if (1..=MAX_TILES).contains(&tiling.max_tiles) && (1..=tiling.max_tiles).contains(&tiling.min_tiles) {
            Ok(Some(tiling))
        } else {
            Err(format!(
                "min_patches {} and max_patches {} are not supported: use 1 <= min_patches <= max_patches <= {MAX_TILES}",
                tiling.min_tiles, tiling.max_tiles
            ))
        }
    }
}

/// Maximum number of tiles of an image.
const MAX_TILES: usize = 256;

/// A size in any of the accepted formats: `336`, `{"shortest_edge": 336}`, `{"height": 336, "width": 336}`.
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
