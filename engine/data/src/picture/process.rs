//! Image processing, as NeVA does it with Hugging Face's CLIP and SigLIP processors.

use serde::Deserialize;

use super::Rgb;
use crate::sample::Pixels;

/// How a picture is brought to the vision tower's size and range.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    /// What happens to a picture that is not square.
    pub mode: ProcessMode,
    /// Colour around the picture in `pad` mode: the mean colour, cut down to bytes.
    pub background: [u8; 3],
    /// Bicubic resize; `None` keeps the size.
    pub size: Option<Size>,
    /// Center crop to (height, width) after the resize; black where the picture is smaller.
    pub crop: Option<(usize, usize)>,
    /// Factor that brings a byte to `0..=1`.
    pub rescale: f64,
    /// Subtracted per channel.
    pub mean: [f64; 3],
    /// Divided by per channel.
    pub std: [f64; 3],
}

/// NeMo's `image_process_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessMode {
    /// Expand to a square, the picture centred on the mean colour: nothing is cut.
    #[default]
    Pad,
    /// Keep the aspect ratio, at most 448 by at least 224 pixels; no crop. Sizes differ from picture to picture.
    Keep,
    /// Resize and crop as the processor says: what is outside the central square is cut.
    Square,
}

/// Size after the resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// The shorter edge gets this length, the other one follows.
    ShortestEdge(usize),
    /// Both are given; the aspect ratio changes.
    Exact {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
}

impl ImageProcessor {
    /// OpenAI CLIP's processor for square pictures of `edge` pixels, in `pad` mode.
    #[must_use]
    pub fn clip(edge: usize) -> Self {
        let mean = [0.481_454_66, 0.457_827_5, 0.408_210_73];
        Self {
            mode: ProcessMode::Pad,
            background: bytes(mean),
            size: Some(Size::ShortestEdge(edge)),
            crop: Some((edge, edge)),
            rescale: RESCALE,
            mean,
            std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
        }
    }

    /// SigLIP's processor for square pictures of `edge` pixels, in `pad` mode.
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

    /// The same processor in another mode.
    #[must_use]
    pub fn with_mode(self, mode: ProcessMode) -> Self {
        Self { mode, ..self }
    }

    /// (height, width) of what [`Self::process`] returns, when it does not depend on the picture.
    #[must_use]
    pub fn output_size(&self) -> Option<(usize, usize)> {
        match (self.mode, self.crop, self.size) {
            (ProcessMode::Keep, ..) => None,
            (_, Some(crop), _) => Some(crop),
            (_, None, Some(Size::Exact { height, width })) => Some((height, width)),
            (ProcessMode::Pad, None, Some(Size::ShortestEdge(edge))) => Some((edge, edge)),
            _ => None,
        }
    }

    /// The picture as the vision tower takes it.
    #[must_use]
    pub fn process(&self, picture: &Rgb) -> Pixels {
        self.normalize(&self.frame(picture))
    }

    /// The geometric half: pad, resize, crop. Still bytes.
    #[must_use]
    pub fn frame(&self, picture: &Rgb) -> Rgb {
        match self.mode {
            ProcessMode::Pad => crop(resize(&expand_to_square(picture, self.background), self.size), self.crop),
            ProcessMode::Keep => resize(picture, Some(Size::ShortestEdge(kept_edge(picture)))),
            ProcessMode::Square => crop(resize(picture, self.size), self.crop),
        }
    }

    fn normalize(&self, picture: &Rgb) -> Pixels {
        let plane = picture.width * picture.height;
        let mut chw = Vec::with_capacity(3 * plane);
        for channel in 0..3 {
            let (mean, std) = (self.mean[channel] as f32, self.std[channel] as f32);
            // Rescaled in double precision and normalized in single, as NumPy does it there.
            let values: [f32; 256] = std::array::from_fn(|byte| ((byte as f64 * self.rescale) as f32 - mean) / std);
            chw.extend(picture.data.iter().skip(channel).step_by(3).map(|&byte| values[usize::from(byte)]));
        }
        Pixels {
            height: picture.height,
            width: picture.width,
            chw,
        }
    }
}

pub(super) fn bytes(colour: [f64; 3]) -> [u8; 3] {
    colour.map(|channel| (channel * 255.0) as u8)
}

fn expand_to_square(picture: &Rgb, background: [u8; 3]) -> Rgb {
    let Rgb { width, height, .. } = *picture;
    let edge = width.max(height);
    let mut square = Rgb::filled(edge, edge, background);
    square.paste(picture, ((edge - width) / 2).cast_signed(), ((edge - height) / 2).cast_signed());
    square
}

fn resize(picture: &Rgb, size: Option<Size>) -> Rgb {
    let Rgb { width, height, .. } = *picture;
    match size {
        None => picture.clone(),
        Some(Size::Exact { height, width }) => picture.resized(width, height),
        // The longer edge is cut down to an integer, not rounded, and may not vanish.
        Some(Size::ShortestEdge(edge)) if width <= height => picture.resized(edge, edge * height / width),
        Some(Size::ShortestEdge(edge)) => picture.resized(edge * width / height, edge),
    }
}

/// Shorter edge in `keep` mode: 224, or less if the longer edge would exceed 448.
fn kept_edge(picture: &Rgb) -> usize {
    let (long, short) = (picture.width.max(picture.height), picture.width.min(picture.height));
    let aspect = long as f64 / short as f64;
    ((448.0 / aspect).min(224.0) as usize).max(1)
}

/// `center_crop` of transformers: an offset is rounded down where the picture is larger, up where it is smaller.
fn crop(picture: Rgb, size: Option<(usize, usize)>) -> Rgb {
    let Some((height, width)) = size else { return picture };
    if (picture.height, picture.width) == (height, width) {
        return picture;
    }
    let offset = |from: usize, to: usize| {
        if from >= to {
            -((from - to) / 2).cast_signed()
        } else {
            (to - from).div_ceil(2).cast_signed()
        }
    };
    let mut cropped = Rgb::filled(width, height, [0; 3]);
    cropped.paste(&picture, offset(picture.width, width), offset(picture.height, height));
    cropped
}

/// 1/255 as transformers writes it.
const RESCALE: f64 = 0.003_921_568_627_450_98;
