//! Images of a sample, before and after processing.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::{
    check::{ImageRef, Kind, Probe, image_problem},
    image::{Filter, RgbImage},
};

/// Maximum edge of a shown image, in pixels.
const SHOWN: usize = 336;

/// An image of a sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InspectedImage {
    /// The file, for messages.
    pub path: String,
    /// Width in pixels; 0 if the file cannot be decoded.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width and height of each image that the vision encoder gets of it.
    pub processed: Vec<(usize, usize)>,
    /// Kind and description of the problem of the file.
    #[serde(skip)]
    pub problem: Option<(Kind, String)>,
    /// The image, small, as the address of a PNG image.
    #[serde(skip)]
    pub original_png: String,
    /// The processed images, before normalization.
    #[serde(skip)]
    pub processed_png: Vec<String>,
}

impl InspectedImage {
    /// Shows an image, and what the vision encoder gets of it.
    pub(super) fn of(path: String, image: &RgbImage, processed: &[RgbImage]) -> Self {
        Self {
            path,
            width: image.width,
            height: image.height,
            processed: processed.iter().map(|image| (image.width, image.height)).collect(),
            problem: None,
            original_png: png(image),
            processed_png: processed.iter().map(png).collect(),
        }
    }

    /// Decodes and processes an image.
    pub(super) fn open(probe: &Probe, image: &ImageRef) -> Self {
        let path = image.describe().to_owned();
        match image.decode() {
            Ok(image) => Self::of(path, &image, &probe.process(&image)),
            Err(_) => Self {
                path,
                problem: image_problem(image),
                ..Self::default()
            },
        }
    }
}

/// Returns a `data:` address of the image, scaled to at most [`SHOWN`] pixels. The file itself would be shown differently:
/// a browser turns images as EXIF says, the training does not.
fn png(image: &RgbImage) -> String {
    let long = image.width.max(image.height);
    let small;
    let shown = if long > SHOWN {
        let scaled = |edge: usize| (edge * SHOWN / long).max(1);
        small = image.resized(scaled(image.width), scaled(image.height), Filter::Bicubic);
        &small
    } else {
        image
    };
    // Writing to memory does not fail.
    encoded(shown).map_or_else(
        |_| String::new(),
        |bytes| format!("data:image/png;base64,{}", STANDARD.encode(bytes)),
    )
}

/// Returns the bytes of a PNG file.
fn encoded(image: &RgbImage) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let edge = |edge: usize| u32::try_from(edge).unwrap_or(u32::MAX);
    let mut encoder = png::Encoder::new(&mut bytes, edge(image.width), edge(image.height));
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&image.data)?;
    writer.finish()?;
    Ok(bytes)
}
