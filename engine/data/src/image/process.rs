//! Image processing of NeVA with Hugging Face's CLIP and SigLIP processors.

use neva_schemas::ModelDescription;
use serde::Deserialize;

use super::RgbImage;
use crate::sample::Pixels;

/// Image processor: pads or crops, resizes and normalizes images for the vision encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    /// Treatment of images that are not square.
    pub mode: ProcessMode,
    /// Background colour in `pad` mode: the mean colour, truncated to bytes.
    pub background: [u8; 3],
    /// The processor itself pads an image to a square, as `LlavaImageProcessor` does with `do_pad`.
    pub pads: bool,
    /// Size after the bicubic resize. `None`: no resize.
    pub size: Option<Size>,
    /// (height, width) of the center crop after the resize; a smaller image is padded with black. `None`: no crop.
    pub crop: Option<(usize, usize)>,
    /// Factor that scales a byte to the range 0 to 1.
    pub rescale: f64,
    /// Mean per channel, which is subtracted.
    pub mean: [f64; 3],
    /// Standard deviation per channel, the divisor.
    pub std: [f64; 3],
}

/// NeMo's `image_process_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessMode {
    /// Pads the image to a square with the mean colour, the image in the center; nothing is cropped.
    #[default]
    Pad,
    /// Keeps the aspect ratio without cropping: the shorter edge is at most 224 pixels, the longer one at most 448. Sizes
    /// differ from image to image.
    Keep,
    /// Resizes and crops as the processor's config says: pixels outside the central square are dropped.
    Square,
}

/// Target size of the resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Length of the shorter edge; the aspect ratio is kept.
    ShortestEdge(usize),
    /// Height and width; the aspect ratio may change.
    Exact {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
    },
}

impl ImageProcessor {
    /// Returns OpenAI CLIP's processor for square images of `edge` pixels, in `pad` mode.
    #[must_use]
    pub fn clip(edge: usize) -> Self {
        let mean = [0.481_454_66, 0.457_827_5, 0.408_210_73];
        Self {
            mode: ProcessMode::Pad,
            background: bytes(mean),
            pads: false,
            size: Some(Size::ShortestEdge(edge)),
            crop: Some((edge, edge)),
            rescale: RESCALE,
            mean,
            std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
        }
    }

    /// Returns SigLIP's processor for square images of `edge` pixels, in `pad` mode.
    #[must_use]
    pub fn siglip(edge: usize) -> Self {
        let size = Some(Size::Exact { height: edge, width: edge });
        let mean = [0.5; 3];
        Self {
            background: bytes(mean),
            size,
            crop: None,
            mean,
            std: [0.5; 3],
            ..Self::clip(edge)
        }
    }

    /// Returns the default processor of a model's vision encoder, in `pad` mode.
    #[must_use]
    pub fn default_of(model: &ModelDescription) -> Self {
        let edge = model.image_size();
        let Some(tower) = &model.vision else {
            return Self::clip(edge);
        };
        let defaults = tower.config.image_defaults();
        let base = Self {
            background: bytes(defaults.mean),
            mean: defaults.mean,
            std: defaults.std,
            ..Self::clip(edge)
        };
        if defaults.crops {
            return base;
        }
        Self {
            size: Some(Size::Exact { height: edge, width: edge }),
            crop: None,
            ..base
        }
    }

    /// Returns the processor with another mode.
    #[must_use]
    pub fn with_mode(self, mode: ProcessMode) -> Self {
        Self { mode, ..self }
    }

    /// Returns the (height, width) of [`Self::process`]'s output, or `None` if it depends on the image.
    #[must_use]
    pub fn output_size(&self) -> Option<(usize, usize)> {
        match (self.mode, self.crop, self.size) {
            (ProcessMode::Keep, ..) => None,
            (_, Some(crop), _) => Some(crop),
            (_, None, Some(Size::Exact { height, width })) => Some((height, width)),
            (mode, None, Some(Size::ShortestEdge(edge))) if mode == ProcessMode::Pad || self.pads => Some((edge, edge)),
            _ => None,
        }
    }

    /// Processes an image: returns the input of the vision encoder.
    #[must_use]
    pub fn process(&self, image: &RgbImage) -> Pixels {
        self.normalize(&self.resize_and_crop(image))
    }

    /// Pads, resizes and crops an image, without normalization.
    #[must_use]
    pub fn resize_and_crop(&self, image: &RgbImage) -> RgbImage {
        match self.mode {
            ProcessMode::Pad => crop(resize(&expand_to_square(image, self.background), self.size), self.crop),
            ProcessMode::Keep => resize(image, Some(Size::ShortestEdge(keep_mode_edge(image)))),
            ProcessMode::Square if self.pads => crop(resize(&expand_to_square(image, self.background), self.size), self.crop),
            ProcessMode::Square => crop(resize(image, self.size), self.crop),
        }
    }

    fn normalize(&self, image: &RgbImage) -> Pixels {
        let plane = image.width * image.height;
        let mut chw = Vec::with_capacity(3 * plane);
        for channel in 0..3 {
            let (mean, std) = (self.mean[channel] as f32, self.std[channel] as f32);
            // NumPy rescales in double precision and normalizes in single precision.
            let values: [f32; 256] = std::array::from_fn(|byte| ((byte as f64 * self.rescale) as f32 - mean) / std);
            chw.extend(image.data.iter().skip(channel).step_by(3).map(|&byte| values[usize::from(byte)]));
        }
        Pixels {
            height: image.height,
            width: image.width,
            chw,
        }
    }
}

pub(super) fn bytes(colour: [f64; 3]) -> [u8; 3] {
    colour.map(|channel| (channel * 255.0) as u8)
}

fn expand_to_square(image: &RgbImage, background: [u8; 3]) -> RgbImage {
    let RgbImage { width, height, .. } = *image;
    let edge = width.max(height);
    let mut square = RgbImage::filled(edge, edge, background);
    square.paste(image, ((edge - width) / 2).cast_signed(), ((edge - height) / 2).cast_signed());
    square
}

fn resize(image: &RgbImage, size: Option<Size>) -> RgbImage {
    let RgbImage { width, height, .. } = *image;
    match size {
        None => image.clone(),
        Some(Size::Exact { height, width }) => image.resized(width, height),
        // The longer edge is truncated to an integer, not rounded. It is never 0, as it is at least `edge`.
        Some(Size::ShortestEdge(edge)) if width <= height => image.resized(edge, edge * height / width),
        Some(Size::ShortestEdge(edge)) => image.resized(edge * width / height, edge),
    }
}

/// Returns the shorter edge in `keep` mode: 224, or less if the longer edge would exceed 448.
fn keep_mode_edge(image: &RgbImage) -> usize {
    let (long, short) = (image.width.max(image.height), image.width.min(image.height));
    let aspect = long as f64 / short as f64;
    ((448.0 / aspect).min(224.0) as usize).max(1)
}

/// Crops as `center_crop` of transformers does: the offset is rounded down if the image is larger, up if it is smaller.
fn crop(image: RgbImage, size: Option<(usize, usize)>) -> RgbImage {
    let Some((height, width)) = size else { return image };
    if (image.height, image.width) == (height, width) {
        return image;
    }
    let offset = |from: usize, to: usize| {
        if from >= to {
            -((from - to) / 2).cast_signed()
        } else {
            (to - from).div_ceil(2).cast_signed()
        }
    };
    let mut cropped = RgbImage::filled(width, height, [0; 3]);
    cropped.paste(&image, offset(image.width, width), offset(image.height, height));
    cropped
}

/// 1/255 as transformers configs write it.
const RESCALE: f64 = 0.003_921_568_627_450_98;
