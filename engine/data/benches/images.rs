//! Speed of one core from JPEG files to the input of CLIP at 336 pixels, padded to a square.
//!
//!     cargo bench -p neva-data --bench images [-- FILE...]
//!
//! Without files, the photographs of examples/photos are used.

#![expect(clippy::print_stdout, reason = "prints a table")]

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    time::Instant,
};

use neva_data::{ImageProcessor, RgbImage, has_jpeg_simd};

/// Rounds, of which the fastest counts: other programs on the machine only slow a round down.
const ROUNDS: usize = 9;

fn main() {
    let mut files: Vec<PathBuf> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .map(PathBuf::from)
        .collect();
    if files.is_empty() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/photos");
        let entries = fs::read_dir(folder).expect("the photographs").flatten();
        files = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "jpg"))
            .collect();
    }
    let files: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).expect("a file")).collect();
    let decode = |bytes: &Vec<u8>| RgbImage::decode(bytes, "image").expect("an image");
    let images: Vec<RgbImage> = files.iter().map(decode).collect();
    let processor = ImageProcessor::clip(336);
    let simd = if has_jpeg_simd() { "with" } else { "without" };
    println!("{} JPEG files, {simd} nasm, images a second:", files.len());
    row("decode", &files, decode);
    row("pad, resize, normalize", &images, |image| processor.process(image));
    row("all", &files, |bytes| processor.process(&decode(bytes)));
}

fn row<T, U>(name: &str, inputs: &[T], run: impl Fn(&T) -> U) {
    let once = || {
        let start = Instant::now();
        inputs.iter().for_each(|input| drop(black_box(run(input))));
        start.elapsed().as_secs_f64()
    };
    let fastest = (0..ROUNDS).map(|_| once()).fold(f64::INFINITY, f64::min);
    println!("  {name:<24} {:>8.1}", inputs.len() as f64 / fastest);
}
