//! Import of a checkpoint with the shapes of LLaVA-1.5-7B, against `cp` of the same files: times, their ratio, and memory.
//!
//!     cargo bench --workspace --bench import
//!     NEVA_BENCH_GB=14 cargo bench --workspace --bench import
//!
//! The checkpoint has as many layers as fit `NEVA_BENCH_GB` (default: 3, or less where the disk has less than four times
//! that). Both programs end with the files on the disk: import syncs each file before its rename, so `cp` is followed by
//! `sync` of its files. They take turns, and the median of the rounds counts.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints a table, reads its one variable, and stops where it cannot measure"
)]

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use serde_json::{Map, Value, json};

/// Rounds of each measurement.
const ROUNDS: usize = 3;
/// Least speed, as a part of that of `cp`.
const LEAST_RATIO: f64 = 0.8;
/// Maximum memory of an import in GiB.
const MOST_MEMORY: f64 = 2.0;
/// Maximum size of a file.
const SHARD: u64 = 4_000_000_000;

/// Sizes of LLaVA-1.5-7B.
const HIDDEN: u64 = 4096;
const INNER: u64 = 11008;
const ROWS: u64 = 32064;
const VISION: u64 = 1024;

fn main() -> ExitCode {
    let wanted = std::env::var("NEVA_BENCH_GB").ok().and_then(|text| text.parse::<f64>().ok());
    // Beside the programs, which are on the disk of the build; /tmp may be memory.
    let place = tempfile::tempdir_in(Path::new(env!("CARGO_BIN_EXE_neva-run")).parent().unwrap()).unwrap();
    let free = free_gb(place.path());
    let size = wanted.unwrap_or_else(|| (free / 4.0).min(3.0));
    println!("{size:.1} GB of weights (NEVA_BENCH_GB), {free:.0} GB free");
    let mut missed = 0;
    for (name, in_memory) in [
        ("names of the hub", false),
        ("names of transformers 4.52", true),
        ("pickles", false),
    ] {
        let source = place.path().join("source");
        fs::create_dir(&source).unwrap();
        let bytes = write_checkpoint(&source, size * 1e9, in_memory, name == "pickles");
        missed += measured(place.path(), &source, name, bytes);
        fs::remove_dir_all(&source).unwrap();
    }
    ExitCode::from(u8::from(missed > 0))
}

/// Prints a row of the table. Returns the number of missed bounds.
fn measured(place: &Path, source: &Path, name: &str, bytes: u64) -> usize {
    let (mut copies, mut unsynced, mut imports, mut memory) = (Vec::new(), Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..ROUNDS {
        let copy = place.join("copy");
        let started = Instant::now();
        run(Command::new("cp").arg("-r").arg(source).arg(&copy));
        unsynced.push(started.elapsed().as_secs_f64());
        run(Command::new("sync").args(fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().path())));
        copies.push(started.elapsed().as_secs_f64());
        fs::remove_dir_all(&copy).unwrap();
        let target = place.join("target");
        let started = Instant::now();
        let peak = import(source, &target);
        imports.push(started.elapsed().as_secs_f64());
        memory = memory.max(peak);
        fs::remove_dir_all(&target).unwrap();
    }
    let (copy, import) = (median(&mut copies), median(&mut imports));
    let (speed, ratio) = (bytes as f64 / 1e9 / import, copy / import);
    let verdict = |kept: bool| if kept { "kept" } else { "MISSED" };
    let unsynced = median(&mut unsynced);
    println!("{name:28} cp and sync {copy:.2} s (cp alone {unsynced:.2} s)   import {import:.2} s, {speed:.2} GB/s");
    println!(
        "  speed, as a part of cp's   {ratio:7.2}     at least {LEAST_RATIO}    {}",
        verdict(ratio >= LEAST_RATIO)
    );
    println!(
        "  memory                     {memory:7.3} GiB at most  {MOST_MEMORY} GiB  {}",
        verdict(memory <= MOST_MEMORY)
    );
    usize::from(ratio < LEAST_RATIO) + usize::from(memory > MOST_MEMORY)
}

/// Imports a checkpoint. Returns the largest memory of the program in GiB.
fn import(source: &Path, target: &Path) -> f64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_neva-run"))
        .args([Path::new("import"), source, Path::new("--output"), target])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0_u64;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = peak.max(kib.unwrap_or_default());
        std::thread::park_timeout(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success(), "the import failed");
    peak as f64 / (1 << 20) as f64
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?} failed");
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn free_gb(path: &Path) -> f64 {
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().last().unwrap().trim().parse::<f64>().unwrap() / 1e9
}

/// Writes a checkpoint of bf16 of about `size` bytes. Returns its size.
fn write_checkpoint(folder: &Path, size: f64, in_memory: bool, pickles: bool) -> u64 {
    let layer = 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER + 2 * HIDDEN);
    let rest = 2 * 2 * ROWS * HIDDEN + 2 * 304_000_000;
    let layers = ((size - rest as f64) / layer as f64).round().clamp(1.0, 32.0) as u64;
    let tensors = tensors(layers, in_memory);
    let config = json!({
        "model_type": "llava", "image_token_index": 32000,
        "text_config": {
            "model_type": "llama", "vocab_size": ROWS, "hidden_size": HIDDEN, "intermediate_size": INNER,
            "num_hidden_layers": layers, "num_attention_heads": 32, "rms_norm_eps": 1e-5,
        },
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": VISION, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
        },
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut shards: Vec<Vec<Tensor>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        if filled + tensor.bytes() > SHARD {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += tensor.bytes();
        shards.last_mut().unwrap().push(tensor);
    }
    let (mut map, count, mut total) = (Map::new(), shards.len(), 0);
    let (stem, end) = if pickles {
        ("pytorch_model", "bin")
    } else {
        ("model", "safetensors")
    };
    for (number, shard) in shards.iter().enumerate() {
        let file = format!("{stem}-{:05}-of-{count:05}.{end}", number + 1);
        map.extend(shard.iter().map(|tensor| (tensor.name.clone(), Value::from(file.as_str()))));
        total += write_shard(&folder.join(file), shard, pickles);
    }
    let index = folder.join(format!("{stem}.{end}.index.json"));
    fs::write(index, json!({"weight_map": map}).to_string()).unwrap();
    total
}

struct Tensor {
    name: String,
    shape: Vec<u64>,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        2 * self.shape.iter().product::<u64>()
    }
}

fn tensors(layers: u64, in_memory: bool) -> Vec<Tensor> {
    let (body, head, level) = if in_memory {
        ("model.language_model", "lm_head", "model.")
    } else {
        ("language_model.model", "language_model.lm_head", "")
    };
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[u64]| {
        let shape = shape.to_vec();
        all.push(Tensor { name, shape });
    };
    add(format!("{body}.embed_tokens.weight"), &[ROWS, HIDDEN]);
    for layer in 0..layers {
        let at = format!("{body}.layers.{layer}");
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(format!("{at}.self_attn.{name}.weight"), &[HIDDEN, HIDDEN]);
        }
        for name in ["gate_proj", "up_proj"] {
            add(format!("{at}.mlp.{name}.weight"), &[INNER, HIDDEN]);
        }
        add(format!("{at}.mlp.down_proj.weight"), &[HIDDEN, INNER]);
        for name in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("{at}.{name}.weight"), &[HIDDEN]);
        }
    }
    add(format!("{body}.norm.weight"), &[HIDDEN]);
    add(format!("{head}.weight"), &[ROWS, HIDDEN]);
    for (number, input) in [(1, VISION), (2, HIDDEN)] {
        add(format!("{level}multi_modal_projector.linear_{number}.weight"), &[HIDDEN, input]);
        add(format!("{level}multi_modal_projector.linear_{number}.bias"), &[HIDDEN]);
    }
    let tower = format!("{level}vision_tower.vision_model");
    add(format!("{tower}.embeddings.class_embedding"), &[VISION]);
    add(format!("{tower}.embeddings.patch_embedding.weight"), &[VISION, 3, 14, 14]);
    add(format!("{tower}.embeddings.position_embedding.weight"), &[577, VISION]);
    let mut pair = |name: &str, shape: &[u64]| {
        add(format!("{tower}.{name}.weight"), shape);
        add(format!("{tower}.{name}.bias"), &shape[..1]);
    };
    pair("pre_layrnorm", &[VISION]);
    pair("post_layernorm", &[VISION]);
    for layer in 0..24 {
        let at = format!("encoder.layers.{layer}");
        for name in ["layer_norm1", "layer_norm2"] {
            pair(&format!("{at}.{name}"), &[VISION]);
        }
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            pair(&format!("{at}.self_attn.{name}"), &[VISION, VISION]);
        }
        pair(&format!("{at}.mlp.fc1"), &[4096, VISION]);
        pair(&format!("{at}.mlp.fc2"), &[VISION, 4096]);
    }
    all
}

/// Writes a file of tensors with values that no file system can compress away. Returns its size.
fn write_shard(path: &PathBuf, tensors: &[Tensor], pickle: bool) -> u64 {
    let mut file = BufWriter::with_capacity(1 << 22, File::create(path).unwrap());
    let noise: Vec<u8> = (0..1_u64 << 22)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    let mut fill = |file: &mut BufWriter<File>, mut bytes: u64| {
        while bytes > 0 {
            let part = bytes.min(noise.len() as u64);
            file.write_all(&noise[..usize::try_from(part).unwrap()]).unwrap();
            bytes -= part;
        }
    };
    if pickle {
        archive(&mut file, tensors, &mut fill);
    } else {
        let (mut header, mut at) = (Map::new(), 0);
        for tensor in tensors {
            let end = at + tensor.bytes();
            header.insert(
                tensor.name.clone(),
                json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [at, end]}),
            );
            at = end;
        }
        let header = Value::Object(header).to_string();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        fill(&mut file, at);
    }
    let file = file.into_inner().unwrap();
    file.sync_all().unwrap();
    file.metadata().unwrap().len()
}

/// Writes an archive as torch.save does, of at most 4 GiB.
fn archive(file: &mut BufWriter<File>, tensors: &[Tensor], fill: &mut dyn FnMut(&mut BufWriter<File>, u64)) {
    let text = |text: &str| [&b"X"[..], &u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat();
    let number = |value: u64| [&b"J"[..], &i32::try_from(value).unwrap().to_le_bytes()].concat();
    let tuple = |values: &[u64]| [&b"("[..], &values.iter().flat_map(|value| number(*value)).collect::<Vec<_>>(), b"t"].concat();
    let mut code = b"\x80\x02}".to_vec();
    for (index, tensor) in tensors.iter().enumerate() {
        let shape = &tensor.shape;
        let strides: Vec<_> = (0..shape.len()).map(|dim| shape[dim + 1..].iter().product::<u64>()).collect();
        code.extend(
            [
                text(&tensor.name),
                b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
                text("storage"),
            ]
            .concat(),
        );
        code.extend([b"ctorch\nBFloat16Storage\n".to_vec(), text(&index.to_string()), text("cpu")].concat());
        code.extend(
            [
                number(tensor.bytes() / 2),
                b"tQ".to_vec(),
                number(0),
                tuple(shape),
                tuple(&strides),
                b"\x89NtRs".to_vec(),
            ]
            .concat(),
        );
    }
    code.push(b'.');
    let (mut central, mut at) = (Vec::new(), 0_u32);
    let storages = tensors
        .iter()
        .enumerate()
        .map(|(index, tensor)| (format!("a/data/{index}"), tensor.bytes()));
    let mut entries = vec![("a/data.pkl".to_owned(), code.len() as u64)];
    entries.extend(storages);
    let count = u16::try_from(entries.len()).unwrap().to_le_bytes();
    for (index, (name, bytes)) in entries.into_iter().enumerate() {
        let size = u32::try_from(bytes).unwrap().to_le_bytes();
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        let head = [&b"PK\x03\x04"[..], &[0; 14], &size, &size, &length, &[0; 2], name.as_bytes()].concat();
        file.write_all(&head).unwrap();
        if index == 0 {
            file.write_all(&code).unwrap();
        } else {
            fill(file, bytes);
        }
        central.extend(
            [
                &b"PK\x01\x02"[..],
                &[0; 16],
                &size,
                &size,
                &length,
                &[0; 12],
                &at.to_le_bytes(),
                name.as_bytes(),
            ]
            .concat(),
        );
        at += u32::try_from(head.len() as u64 + bytes).unwrap();
    }
    file.write_all(&central).unwrap();
    let size = u32::try_from(central.len()).unwrap().to_le_bytes();
    file.write_all(&[&b"PK\x05\x06"[..], &[0; 4], &count, &count, &size, &at.to_le_bytes(), &[0; 2]].concat())
        .unwrap();
}
