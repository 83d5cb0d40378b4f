//! Speed and memory of the index of a record file with a million records, on one core.
//!
//!     cargo bench -p neva-data --bench record_files
//!
//! A measured value beyond its bound fails the bench.

use std::{
    env,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    process::{Command, ExitCode},
    sync::Arc,
    time::Instant,
};

use neva_data::{ChatTemplate, ImagePosition, ImageProcessor, LlavaDataset, LlavaJsonConfig, RecordFile, Tokenizer};

const RECORDS: usize = 1_000_000;
const ROUNDS: usize = 5;

/// Writes a file like LLaVA's, with texts of 20 to 1300 letters. `escaped` has the letters of Chinese as Python's
/// `json.dump` writes them by default.
fn write(path: &Path, lines: bool, escaped: bool) -> std::io::Result<u64> {
    let word = if escaped { "\\u732b\\u5728" } else { "a cat sits on " };
    let mut file = BufWriter::new(File::create(path)?);
    for id in 0..RECORDS {
        let start = match (lines, id) {
            (true, _) => "",
            (false, 0) => "[",
            (false, _) => ", ",
        };
        let (question, answer) = (word.repeat(1 + id % 7), word.repeat(1 + id * 31 % 97));
        write!(
            file,
            "{start}{{\"id\": \"{id:09}\", \"image\": \"coco/train2017/{id:012}.jpg\", \"conversations\": [{{\"from\": \"human\", \"value\": \
             \"<image>\\n{question}?\"}}, {{\"from\": \"gpt\", \"value\": \"{answer}\"}}]}}"
        )?;
        if lines {
            file.write_all(b"\n")?;
        }
    }
    if !lines {
        file.write_all(b"]")?;
    }
    file.flush()?;
    Ok(file.get_ref().metadata()?.len())
}

/// Returns the anonymous memory of this process, in bytes.
fn anonymous() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) * 1024.0
}

/// Variable with the file that a process of its own opens, to measure memory without that of other files.
const FILE: &str = "NEVA_BENCH_FILE";

/// Opens a file, and prints the anonymous memory that its index takes.
#[expect(clippy::print_stdout, reason = "the answer to the bench that started this process")]
fn print_memory(path: &Path) {
    let before = anonymous();
    let file = RecordFile::open(path, None).expect("the file is a list");
    println!("{}", anonymous() - before);
    assert_eq!(file.len(), RECORDS);
}

/// Returns the anonymous memory that the index of a file takes, in bytes.
fn memory(path: &Path) -> f64 {
    let mut own = Command::new(env::current_exe().expect("this program has a file"));
    let output = own.env(FILE, path).output().expect("this program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim().parse().unwrap_or(f64::NAN)
}

/// Writes a file of texts without images, and returns the number of records a second that a run checks at its start.
fn checked(path: &Path) -> f64 {
    let records: Vec<_> = (0..RECORDS / 10)
        .map(|id| format!("{{\"id\": {id}, \"conversations\": [{{\"from\": \"human\", \"value\": \"{id}?\"}}, {{\"from\": \"gpt\", \"value\": \"{}\"}}]}}", "a cat sits on ".repeat(30)))
        .collect();
    fs::write(path, format!("[{}]", records.join(","))).expect("the file is written");
    let config = LlavaJsonConfig {
        paths: vec![path.to_owned()],
        image_folder: None,
        apply_exif: false,
        template: ChatTemplate::named("v1").expect("v1 is built in"),
        image_token_position: ImagePosition::Keep,
        reads_images: true,
    };
    let tokenizer = Arc::new(Tokenizer::builtin("mistral_2k").expect("it is built in"));
    let load = || drop(LlavaDataset::load(&config, Arc::clone(&tokenizer), ImageProcessor::clip(56)).expect("the records are valid"));
    records.len() as f64 / seconds(load)
}

/// Returns the least seconds of several calls: other work on the machine can only add to them.
fn seconds(mut call: impl FnMut()) -> f64 {
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

#[expect(clippy::print_stdout, reason = "a bench prints what it measured")]
fn main() -> ExitCode {
    if let Some(path) = env::var_os(FILE) {
        print_memory(Path::new(&path));
        return ExitCode::SUCCESS;
    }
    let folder = tempfile::tempdir().expect("a folder for the files");
    let cache = folder.path().join("cache");
    let mut missed = false;
    println!("file               MB    scan GB/s (>= 1)    reopen ms (<= 50)    memory % (<= 10)");
    for (name, lines, escaped) in [
        ("plain.json", false, false),
        ("plain.jsonl", true, false),
        ("escaped.json", false, true),
    ] {
        let path = folder.path().join(name);
        let size = write(&path, lines, escaped).expect("the file is written") as f64;
        let memory = memory(&path) / size * 100.0;
        let scan = size / 1e9 / seconds(|| drop(RecordFile::open(&path, None).expect("the file is a list")));
        drop(RecordFile::open(&path, Some(&cache)));
        let reopen = 1e3 * seconds(|| assert_eq!(RecordFile::open(&path, Some(&cache)).map(|file| file.len()).ok(), Some(RECORDS)));
        // NaN is beyond every bound.
        let kept = scan >= 1.0 && reopen <= 50.0 && memory <= 10.0;
        missed |= !kept;
        let note = if kept { "" } else { "  MISSED" };
        println!(
            "{name:14} {:6.0}    {scan:16.2}    {reopen:17.1}    {memory:16.1}{note}",
            size / 1e6
        );
        // The next file needs the space.
        fs::remove_file(&path).expect("the file is removed");
    }
    println!(
        "check at the start of a run: {:.0} records/s on all cores",
        checked(&folder.path().join("texts.json"))
    );
    ExitCode::from(u8::from(missed))
}
