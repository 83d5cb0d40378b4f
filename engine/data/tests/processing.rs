//! Compares image processing with Hugging Face's processors and PIL, whose output hashes are in
//! `processing/reference.json`, written by `processing/make.py`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use neva_data::{DataError, Filter, ImageProcessor, ModelProcessor, Pixels, ProcessMode, ProcessorOrigin, RgbImage, Tiling};
use neva_schemas::{LlavaModel, VisionConfig};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Reference {
    processors: BTreeMap<String, Value>,
    processed: Vec<Processed>,
    resized: Vec<Resized>,
    /// Minimum and maximum of tiles, width and height of an image, columns and rows of its grid.
    grids: Vec<[usize; 6]>,
    tiled: Vec<Tiled>,
}

/// Output of a Hugging Face processor.
#[derive(Deserialize)]
struct Processed {
    image: String,
    processor: String,
    mode: ProcessMode,
    shape: [usize; 3],
    sha256: String,
    sum: f64,
}

/// Tiles of transformers' processor of InternVL.
#[derive(Deserialize)]
struct Tiled {
    image: String,
    min: usize,
    max: usize,
    /// Height and width.
    tile: (usize, usize),
    count: usize,
    sha256: String,
}

/// Output of PIL's `resize(.., resample)`.
#[derive(Deserialize)]
struct Resized {
    image: String,
    size: [usize; 2],
    resample: u32,
    sha256: String,
}

#[test]
fn resize_is_bitwise_equal_to_pil() {
    let cases = reference().resized;
    assert!(cases.len() > 60);
    for Resized {
        image,
        size: [width, height],
        resample,
        sha256,
    } in cases
    {
        let resized = open(&image).resized(width, height, Filter::of_code(resample).unwrap());
        assert_eq!(hash(&resized.data), sha256, "{image} to {width}x{height}, filter {resample}");
    }
}

/// A crop has the pixels that a crop of the whole resized image has.
#[test]
fn a_crop_is_a_part_of_the_resized_image() {
    for image in ["wide.png", "tall.png", "strip.png"].map(open) {
        for mode in [ProcessMode::Pad, ProcessMode::Square] {
            let mut whole = ImageProcessor::clip(60).with_mode(mode);
            whole.crop = None;
            let mut cropped = whole.clone();
            cropped.crop = Some((20, 31));
            let (whole, cropped) = (whole.resize_and_crop(&image), cropped.resize_and_crop(&image));
            let (left, top) = ((whole.width - 31) / 2, (whole.height - 20) / 2);
            for y in 0..20 {
                let from = 3 * ((top + y) * whole.width + left);
                assert_eq!(
                    whole.data[from..from + 93],
                    cropped.data[93 * y..93 * (y + 1)],
                    "row {y} in {mode:?} mode"
                );
            }
        }
    }
}

/// The background of a very narrow image is not computed.
#[test]
fn a_narrow_image_is_padded_or_cropped() {
    let image = RgbImage::filled(1, 5000, [255, 0, 0]);
    for (mode, red) in [(ProcessMode::Pad, 122), (ProcessMode::Square, 255)] {
        let small = ImageProcessor::clip(28).with_mode(mode).resize_and_crop(&image);
        assert_eq!((small.width, small.height, small.data[0]), (28, 28, red), "{mode:?}");
    }
}

#[test]
fn grids_of_tiles_are_those_of_transformers() {
    let grids = reference().grids;
    assert!(grids.len() > 60);
    for [min_tiles, max_tiles, width, height, columns, rows] in grids {
        let tiling = Tiling {
            min_tiles,
            max_tiles,
            thumbnail: true,
        };
        let label = format!("{width} x {height}, {min_tiles} to {max_tiles} tiles");
        assert_eq!(tiling.grid(width, height, (448, 448)), (columns, rows), "{label}");
        let thumbnail = usize::from(columns * rows > 1);
        assert_eq!(tiling.count(width, height, (448, 448)), columns * rows + thumbnail, "{label}");
    }
}

#[test]
fn tiles_are_bitwise_equal_to_hugging_face() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("preprocessor_config.json");
    for case in reference().tiled {
        let (height, width) = case.tile;
        let config = json!({
            "image_processor_type": "GotOcr2ImageProcessorFast", "size": {"height": height, "width": width},
            "crop_to_patches": true, "min_patches": case.min, "max_patches": case.max,
        });
        fs::write(&file, config.to_string()).unwrap();
        let processor = ImageProcessor::open(&file).unwrap();
        let image = open(&case.image);
        let tiles = processor.process_tiles(&image);
        let label = format!("{} in {} to {} tiles of {height} x {width}", case.image, case.min, case.max);
        assert_eq!(tiles.len(), case.count, "{label}");
        assert_eq!(processor.num_tiles(image.width, image.height), case.count, "{label}");
        let bytes: Vec<u8> = tiles.iter().flat_map(|tile| &tile.chw).flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(hash(&bytes), case.sha256, "{label}");
        assert_eq!(processor.output_size(), Some((height, width)));
    }
}

#[test]
fn process_is_bitwise_equal_to_hugging_face() {
    let Reference { processors, processed, .. } = reference();
    assert!(processed.len() > 60);
    let folder = tempfile::tempdir().unwrap();
    for case in processed {
        let file = folder.path().join("preprocessor_config.json");
        fs::write(&file, processors[&case.processor].to_string()).unwrap();
        let processor = ImageProcessor::open(folder.path()).unwrap().with_mode(case.mode);
        let Pixels { height, width, chw } = processor.process(&open(&case.image));
        let label = format!("{} by {} in {:?} mode", case.image, case.processor, case.mode);
        assert_eq!([3, height, width], case.shape, "{label}");
        let sum: f64 = chw.iter().map(|&x| f64::from(x)).sum();
        assert!(
            (sum - case.sum).abs() < 1e-6 * chw.len() as f64,
            "{label}: sum {sum}, expected {}",
            case.sum
        );
        let bytes: Vec<u8> = chw.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(hash(&bytes), case.sha256, "{label}");
        if let Some(size) = processor.output_size() {
            assert_eq!(size, (height, width), "{label}: output_size");
        }
    }
}

#[test]
fn an_unsupported_preprocessor_is_rejected() {
    let cases = [
        (
            json!({"image_processor_type": "Qwen2VLImageProcessor"}),
            "`Qwen2VLImageProcessor` is not supported",
        ),
        (
            json!({"image_processor_type": "CLIPImageProcessor", "resample": 0}),
            "resample 0 is not supported",
        ),
        (
            json!({"image_processor_type": "CLIPImageProcessor", "do_convert_rgb": false}),
            "do_convert_rgb is false",
        ),
        (
            json!({"image_processor_type": "CLIPImageProcessor", "do_pad": true}),
            "do_pad is true",
        ),
        (json!({"size": "large"}), "a size is a number"),
        (
            json!({"image_processor_type": "CLIPImageProcessor", "crop_size": {"height": 0, "width": 3}}),
            "must be positive",
        ),
        (json!([1]), "invalid"),
        (json!({}), "not an image processor"),
        (json!({"processor_class": "LlavaProcessor"}), "not an image processor"),
        (json!({"model_type": "llava", "image_seq_length": 576}), "not an image processor"),
        (
            json!({"image_processor_type": "LlavaNextImageProcessor"}),
            "`LlavaNextImageProcessor` is not supported",
        ),
        (
            json!({"image_processor_type": "Siglip2ImageProcessor"}),
            "`Siglip2ImageProcessor` is not supported",
        ),
        (
            json!({"image_processor_type": "CLIPImageProcessor", "crop_to_patches": true}),
            "crop_to_patches is true, which only GotOcr2ImageProcessor applies",
        ),
        (
            json!({"image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": true, "max_patches": 0}),
            "min_patches 1 and max_patches 0 are not supported",
        ),
        (
            json!({"image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": true, "size": {"shortest_edge": 4}}),
            "size is not the height and width of a tile",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (config, expected) in cases {
        let file = folder.path().join("p.json");
        fs::write(&file, config.to_string()).unwrap();
        let error = ImageProcessor::open(&file).unwrap_err();
        assert!(matches!(error, DataError::Processor { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("p.json") && text.contains(expected), "{config}: {text}");
    }
    let error = ImageProcessor::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("preprocessor_config.json"), "{error}");
}

/// transformers 5 nests the image processor in `processor_config.json`, which takes precedence, as there.
#[test]
fn a_nested_image_processor_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: serde_json::Value| fs::write(folder.path().join(name), content.to_string()).unwrap();
    let model = llava(56);
    let found = || ModelProcessor::of_model(&model, Some(folder.path())).unwrap();
    assert!(matches!(found().origin, ProcessorOrigin::Family(name) if name == "clip_vision_model"));
    write(
        "processor_config.json",
        json!({"processor_class": "LlavaProcessor", "image_seq_length": 576}),
    );
    assert!(matches!(found().origin, ProcessorOrigin::Family(_)));
    let size = json!({"height": 56, "width": 56});
    let plain = json!({"image_processor_type": "SiglipImageProcessor", "size": size, "image_mean": [0.1, 0.2, 0.3]});
    write("preprocessor_config.json", plain.clone());
    assert_eq!(found().processor.mean, [0.1, 0.2, 0.3]);
    assert_eq!(found().file().1, plain.to_string().into_bytes());
    let nested = json!({"image_processor_type": "SiglipImageProcessor", "size": size, "image_mean": [0.4, 0.5, 0.6]});
    write("processor_config.json", json!({"image_processor": nested}));
    assert_eq!(found().processor.mean, [0.4, 0.5, 0.6]);
    let (name, content) = found().file();
    assert_eq!(name, "preprocessor_config.json");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&content).unwrap(), nested);
    write("processor_config.json", json!({"image_processor": {}}));
    assert!(ModelProcessor::of_model(&model, Some(folder.path())).is_err());
}

/// A written processor is read back as the same processor.
#[test]
fn a_processor_is_written_as_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("preprocessor_config.json");
    let mut pads = ImageProcessor::clip(336);
    pads.pads = true;
    let mut tiles = ImageProcessor::siglip(448);
    tiles.filter = Filter::Lanczos;
    tiles.tiling = Some(Tiling {
        min_tiles: 2,
        max_tiles: 6,
        thumbnail: false,
    });
    for processor in [ImageProcessor::clip(336), ImageProcessor::siglip(384), pads, tiles] {
        fs::write(&file, processor.to_json().to_string()).unwrap();
        assert_eq!(ImageProcessor::open(&file).unwrap(), processor);
    }
}

/// `LlavaImageProcessor` with `do_pad` pads to a square whatever the run's mode crops.
#[test]
fn llavas_processor_pads_to_a_square() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("preprocessor_config.json");
    let config = |kind: &str, do_pad: bool| {
        let square = json!({"height": 56, "width": 56});
        let config = json!({
            "image_processor_type": kind, "do_pad": do_pad, "size": {"shortest_edge": 56}, "crop_size": square,
        });
        fs::write(&file, config.to_string()).unwrap();
        ImageProcessor::open(&file).unwrap()
    };
    let image = RgbImage::filled(40, 20, [255, 0, 0]);
    let padded = config("LlavaImageProcessor", true);
    let cropped = config("LlavaImageProcessor", false);
    assert_eq!(cropped, config("CLIPImageProcessorFast", false));
    assert_ne!(
        padded.process(&image).chw,
        cropped.clone().with_mode(ProcessMode::Square).process(&image).chw
    );
    assert_eq!(
        padded.clone().with_mode(ProcessMode::Square).process(&image).chw,
        cropped.with_mode(ProcessMode::Pad).process(&image).chw
    );
}

/// Each family has default values, without the file of a processor.
#[test]
fn each_family_has_values() {
    for (vision, mean) in [
        (VisionConfig::clip_vit_l_14_336(), [0.481_454_66, 0.457_827_5, 0.408_210_73]),
        (VisionConfig::siglip_vit_400m_14_384(), [0.5; 3]),
        (VisionConfig::intern_vit_300m_448px(), [0.485, 0.456, 0.406]),
    ] {
        let edge = vision.image_size;
        let model = LlavaModel {
            vision_config: vision,
            ..LlavaModel::default()
        };
        let processor = ModelProcessor::of_model(&model.description(), None).unwrap().processor;
        assert_eq!((processor.mean, processor.output_size()), (mean, Some((edge, edge))));
    }
}

fn llava(edge: usize) -> neva_schemas::ModelDescription {
    let mut model = LlavaModel::default();
    model.vision_config.image_size = edge;
    model.description()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/processing")
}

fn reference() -> Reference {
    serde_json::from_str(&fs::read_to_string(folder().join("reference.json")).unwrap()).unwrap()
}

fn open(image: &str) -> RgbImage {
    RgbImage::open(&folder().join(image)).unwrap()
}

fn hash(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
