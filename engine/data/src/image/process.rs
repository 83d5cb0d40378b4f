//! Image processing of NeVA with Hugging Face's CLIP and SigLIP processors.

use std::ops::Range;

use neva_schemas::ModelDescription;
use serde::Deserialize;

use super::{
    RgbImage,
    resize::{Canvas, Filter, Window, resize},
    tiles::Tiling,
};
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
    /// Size after the resize. `None`: no resize.
    pub size: Option<Size>,
    /// Filter of the resize.
    pub filter: Filter,
    /// (height, width) of the center crop after the resize; a smaller image is padded with black. `None`: no crop.
    pub crop: Option<(usize, usize)>,
    /// Cuts an image into tiles of `size`, instead of `mode` and `crop`. `None`: an image is one tile.
    pub tiling: Option<Tiling>,
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
            filter: Filter::Bicubic,
            crop: Some((edge, edge)),
            tiling: None,
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
        if self.tiling.is_some() {
            return self.tile();
        }
        match (self.mode, self.crop, self.size) {
            (ProcessMode::Keep, ..) => None,
            (_, Some(crop), _) => Some(crop),
            (_, None, Some(Size::Exact { height, width })) => Some((height, width)),
            (mode, None, Some(Size::ShortestEdge(edge))) if mode == ProcessMode::Pad || self.pads => Some((edge, edge)),
            _ => None,
        }
    }

    /// Returns the (height, width) of a tile.
    fn tile(&self) -> Option<(usize, usize)> {
        match self.size? {
            Size::Exact { height, width } => Some((height, width)),
            Size::ShortestEdge(edge) => Some((edge, edge)),
        }
    }

    /// Returns the number of inputs of the vision encoder for an image of this size: 1, or with [`Self::tiling`] its tiles.
    #[must_use]
    pub fn num_tiles(&self, width: usize, height: usize) -> usize {
        match (self.tiling, self.tile()) {
            (Some(tiling), Some(tile)) => tiling.count(width, height, tile),
            _ => 1,
        }
    }

    /// Processes an image: returns the inputs of the vision encoder, [`Self::num_tiles`] of them, row by row.
    #[must_use]
    pub fn process_tiles(&self, image: &RgbImage) -> Vec<Pixels> {
        self.tiles(image).iter().map(|tile| self.normalize(tile)).collect()
    }

    /// Returns the tiles of an image before they are normalized.
    pub(crate) fn tiles(&self, image: &RgbImage) -> Vec<RgbImage> {
        let (Some(tiling), Some(tile)) = (self.tiling, self.tile()) else {
            return vec![self.resize_and_crop(image)];
        };
        let (height, width) = tile;
        let (columns, rows) = tiling.grid(image.width, image.height, tile);
        let canvas = Canvas::of(image);
        let mut tiles = Vec::with_capacity(columns * rows + 1);
        for row in 0..rows {
            for column in 0..columns {
                let window = Window {
                    columns: column * width..(column + 1) * width,
                    rows: row * height..(row + 1) * height,
                };
                tiles.push(resize(&canvas, columns * width, rows * height, self.filter, &window));
            }
        }
        if tiling.thumbnail && tiles.len() > 1 {
            tiles.push(image.resized(width, height, self.filter));
        }
        tiles
    }

    /// Processes an image as one tile: returns the input of the vision encoder.
    #[must_use]
    pub fn process(&self, image: &RgbImage) -> Pixels {
        self.normalize(&self.resize_and_crop(image))
    }

    /// Pads, resizes and crops an image, without normalization.
    #[must_use]
    pub fn resize_and_crop(&self, image: &RgbImage) -> RgbImage {
        let (canvas, size, crop) = match self.mode {
            _ if self.tiling.is_some() => (Canvas::of(image), self.size, None),
            ProcessMode::Keep => (Canvas::of(image), Some(Size::ShortestEdge(keep_mode_edge(image))), None),
            ProcessMode::Square if !self.pads => (Canvas::of(image), self.size, self.crop),
            ProcessMode::Pad | ProcessMode::Square => (Canvas::square(image, self.background), self.size, self.crop),
        };
        let (width, height) = resized_size(canvas.size(), size);
        let Some((crop_height, crop_width)) = crop else {
            return resize(&canvas, width, height, self.filter, &Window::whole(width, height));
        };
        let (columns, left) = crop_range(width, crop_width);
        let (rows, top) = crop_range(height, crop_height);
        let cropped = resize(&canvas, width, height, self.filter, &Window { columns, rows });
        if (cropped.width, cropped.height) == (crop_width, crop_height) {
            return cropped;
        }
        let mut padded = RgbImage::filled(crop_width, crop_height, [0; 3]);
        padded.paste(&cropped, left.cast_signed(), top.cast_signed());
        padded
    }

    fn normalize(&self, image: &RgbImage) -> Pixels {
        // NumPy rescales in double precision and normalizes in single precision.
        let [red, green, blue]: [[f32; 256]; 3] = std::array::from_fn(|channel| {
            let (mean, std) = (self.mean[channel] as f32, self.std[channel] as f32);
            std::array::from_fn(|byte| ((byte as f64 * self.rescale) as f32 - mean) / std)
        });
        let plane = image.width * image.height;
        let mut chw = vec![0.0; 3 * plane];
        let (first, rest) = chw.split_at_mut(plane);
        let (second, third) = rest.split_at_mut(plane);
        let to = first.iter_mut().zip(second).zip(third);
        for (&[r, g, b], ((to_red, to_green), to_blue)) in image.data.as_chunks().0.iter().zip(to) {
            *to_red = red[usize::from(r)];
            *to_green = green[usize::from(g)];
            *to_blue = blue[usize::from(b)];
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

/// Returns width and height of an image of `width x height` after the resize to `size`.
fn resized_size((width, height): (usize, usize), size: Option<Size>) -> (usize, usize) {
    match size {
        None => (width, height),
        Some(Size::Exact { height, width }) => (width, height),
        // The longer edge is truncated to an integer, not rounded. It is never 0, as it is at least `edge`.
        Some(Size::ShortestEdge(edge)) if width <= height => (edge, edge * height / width.max(1)),
        Some(Size::ShortestEdge(edge)) => (edge * width / height.max(1), edge),
    }
}

/// Returns the shorter edge in `keep` mode: 224, or less if the longer edge would exceed 448.
fn keep_mode_edge(image: &RgbImage) -> usize {
    let (long, short) = (image.width.max(image.height), image.width.min(image.height));
    let aspect = long as f64 / short as f64;
    ((448.0 / aspect).min(224.0) as usize).max(1)
}

/// Returns which of `from` pixels a crop to `to` pixels keeps, and at which position. As `center_crop` of transformers, the
/// offset is rounded down if the image is larger, up if it is smaller.
fn crop_range(from: usize, to: usize) -> (Range<usize>, usize) {
    if from >= to {
        let start = (from - to) / 2;
        (start..start + to, 0)
    } else {
        (0..from, (to - from).div_ceil(2))
    }
}

/// 1/255 as transformers configs write it.
const RESCALE: f64 = 0.003_921_568_627_450_98;
