//! Images of LLaVA data: in a `.tar` file, turned upright, and cut into tiles.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use neva_data::{
    Broken, ChatTemplate, DataError, Dataset, IGNORE_INDEX, IMAGE_TOKEN_INDEX, ImagePosition, ImageProcessor, LlavaDataset,
    LlavaJsonConfig, Tiling, Tokenizer,
};

/// Writes two records with three images, and returns the folder with the config of the data.
fn data() -> (tempfile::TempDir, LlavaJsonConfig) {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    fs::create_dir(&images).unwrap();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (from, to) in [
        ("processing/wide.png", "wide.png"),
        ("processing/square.png", "square.png"),
        ("images/turned6.jpg", "turned.jpg"),
    ] {
        fs::copy(committed.join(from), images.join(to)).unwrap();
    }
    let records = r#"[
        {"id": 1, "image": ["wide.png", "square.png"], "conversations": [
            {"from": "human", "value": "<image>\n<image>\nWhich is wide?"}, {"from": "gpt", "value": "The first."}]},
        {"id": 2, "image": "./turned.jpg", "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A pattern."}]}]"#;
    let path = folder.path().join("data.json");
    fs::write(&path, records).unwrap();
    let config = LlavaJsonConfig {
        paths: vec![path],
        image_folder: Some(images),
        apply_exif: false,
        template: ChatTemplate::named("v1").unwrap(),
        image_token_position: ImagePosition::Keep,
        reads_images: true,
    };
    (folder, config)
}

fn pack(folder: &Path) -> PathBuf {
    let tar = folder.join("images.tar");
    let status = Command::new("tar")
        .arg("-C")
        .arg(folder.join("images"))
        .arg("-cf")
        .args([&*tar, Path::new(".")])
        .status();
    assert!(status.unwrap().success());
    tar
}

fn load(config: &LlavaJsonConfig, processor: ImageProcessor) -> Result<LlavaDataset, DataError> {
    LlavaDataset::load(config, Arc::new(Tokenizer::open("builtin:mistral_2k").unwrap()), processor)
}

#[test]
fn a_tar_file_gives_the_samples_of_its_folder() {
    let (folder, config) = data();
    let packed = LlavaJsonConfig {
        image_folder: Some(pack(folder.path())),
        ..config.clone()
    };
    let (files, packed_files) = (
        load(&config, ImageProcessor::clip(28)).unwrap(),
        load(&packed, ImageProcessor::clip(28)).unwrap(),
    );
    assert_eq!(packed_files.len(), 2);
    for index in 0..2 {
        assert_eq!(files.get(index).unwrap(), packed_files.get(index).unwrap());
    }
    LlavaDataset::check_first(&packed, Broken::Fail).unwrap();
    let text = fs::read_to_string(&config.paths[0]).unwrap();
    fs::write(&config.paths[0], text.replace("square.png", "round.png")).unwrap();
    let error = load(&packed, ImageProcessor::clip(28)).unwrap_err().to_string();
    assert!(
        error.contains("record 0 (id 1), image: there is no file") && error.contains("images.tar: round.png"),
        "{error}"
    );
}

#[test]
fn a_broken_tar_file_is_named() {
    let (folder, config) = data();
    let broken = folder.path().join("broken.tar");
    fs::write(&broken, b"\x1f\x8b\x08 compressed").unwrap();
    let config = LlavaJsonConfig {
        image_folder: Some(broken),
        ..config
    };
    for error in [
        load(&config, ImageProcessor::clip(28)).unwrap_err(),
        LlavaDataset::check_first(&config, Broken::Fail).unwrap_err(),
    ] {
        assert!(error.to_string().contains("broken.tar is compressed"), "{error}");
    }
}

/// Without the setting, the image is as it is stored: 7 x 5 pixels, with its rows above each other.
#[test]
fn images_are_turned_upright_on_request() {
    let (_folder, config) = data();
    let mut processor = ImageProcessor::clip(28);
    (processor.mode, processor.size, processor.crop) = (neva_data::ProcessMode::Square, None, None);
    for (apply_exif, expected) in [(false, (5, 7)), (true, (7, 5))] {
        let config = LlavaJsonConfig {
            apply_exif,
            ..config.clone()
        };
        let sample = load(&config, processor.clone()).unwrap().get(1).unwrap();
        assert_eq!((sample.images[0].height, sample.images[0].width), expected);
    }
}

/// An image of several tiles has a placeholder for each, without labels.
#[test]
fn a_placeholder_is_repeated_for_each_tile() {
    let (_folder, config) = data();
    let mut processor = ImageProcessor::siglip(28);
    let plain = load(&config, processor.clone()).unwrap().get(0).unwrap();
    processor.tiling = Some(Tiling {
        min_tiles: 1,
        max_tiles: 6,
        thumbnail: true,
    });
    let tiled_data = load(&config, processor).unwrap();
    let tiled = tiled_data.get(0).unwrap();
    // 150 x 100 is 3 x 2 tiles and a thumbnail; 71 x 71 is 2 x 2 tiles and a thumbnail.
    assert_eq!((plain.images.len(), tiled.images.len()), (2, 7 + 5));
    let runs = |ids: &[i64]| {
        let runs = ids.chunk_by(|a, b| a == b).filter(|run| run[0] == IMAGE_TOKEN_INDEX);
        runs.map(<[i64]>::len).collect::<Vec<_>>()
    };
    assert_eq!((runs(&plain.ids), runs(&tiled.ids)), (vec![1, 1], vec![7, 5]));
    let without_images = |ids: &[i64]| ids.iter().copied().filter(|&id| id != IMAGE_TOKEN_INDEX).collect::<Vec<_>>();
    assert_eq!(without_images(&plain.ids), without_images(&tiled.ids));
    assert_eq!(plain.num_labels(), tiled.num_labels());
    for (&id, &label) in tiled.ids.iter().zip(&tiled.labels) {
        assert!(id != IMAGE_TOKEN_INDEX || label == IGNORE_INDEX);
    }
    let skipped = tiled_data.get_without_pixels(0).unwrap();
    assert_eq!(
        (&skipped.ids, &skipped.labels, skipped.images.len()),
        (&tiled.ids, &tiled.labels, 12)
    );
    assert!(
        skipped
            .images
            .iter()
            .all(|image| image.chw.is_empty() && (image.height, image.width) == (28, 28))
    );
}
