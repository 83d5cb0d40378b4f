//! Export of a checkpoint with the widths of a 7B LLaVA, compared with `cp` and `sync` of its files. Bounds: 0.8 of the speed of
//! the copy for the whole export, with its check and with the files on disk; and 2 GiB of memory.
//!
//! The rows: *writing* ends before the disk has everything; *check* reads what was written, while the disk goes on; the rest of
//! *export* waits for the disk.
//!
//!     cargo bench --workspace --bench export
//!
//! `NEVA_BENCH_LAYERS` sets the number of layers; the default needs 12 GB of disk, the 32 layers of a whole 7B 45 GB.
#![expect(clippy::print_stdout, reason = "a benchmark's answer")]

mod bounds;

use bounds::Bounds;
use neva_engine::checkpoint::ModelCache;
use neva_engine::export::{ExportDtype, ExportFormat, ExportRequest, Exported, export};
use neva_engine::model::Models;
use neva_layout::Families;
use neva_schemas::{LlavaModel, Model, VisionPlacement};
use serde_json::{Map, json};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Layers of the language model; 8 of 32 have a fourth of the bytes, in tensors of the same shapes.
const LAYERS: usize = 8;
const VARIABLE: &str = "NEVA_BENCH_LAYERS";
/// In GiB.
const MEMORY: f64 = 2.0;
const SPEED: f64 = 0.8;
const REPEATS: usize = 3;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let layers = std::env::vars().find(|(name, _)| name == VARIABLE).map(|(_, value)| value.parse());
    let layers = layers.transpose()?.unwrap_or(LAYERS);
    // Beside the build, which is on a disk; a temporary folder may be in memory.
    let place = std::env::current_exe()?;
    let place = place.parent().ok_or("the bench is in no folder")?;
    let folder = tempfile::Builder::new().prefix("export-").tempdir_in(place)?;
    let (model, checkpoint) = (folder.path().join("model"), folder.path().join("checkpoint"));
    write_model(&model, layers)?;
    let whole = run(&model, &checkpoint, ExportFormat::Neva)?;
    std::fs::remove_dir_all(&model)?;
    let bytes = std::fs::metadata(checkpoint.join("model.safetensors"))?.len();
    println!("{layers} layers: a checkpoint of {:.2} GB", bytes as f64 / 1e9);
    let [write, check] = [whole.write_time, whole.check_time].map(|time| time.as_secs_f64());
    println!(
        "to the format neva, once: writing {write:.2} s, check {check:.2} s, peak memory {:.2} GiB",
        peak_memory()?
    );
    let (mut copies, mut writes, mut exports, mut checks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut copy_cpu, mut export_cpu) = (Vec::new(), Vec::new());
    forget_peak_memory()?;
    for _ in 0..REPEATS {
        let target = folder.path().join("copy");
        let (started, [_, before]) = (Instant::now(), cpu_seconds()?);
        copy(&checkpoint, &target)?;
        copies.push(started.elapsed().as_secs_f64());
        copy_cpu.push(cpu_seconds()?[1] - before);
        std::fs::remove_dir_all(&target)?;
        let (started, [before, _]) = (Instant::now(), cpu_seconds()?);
        let exported = run(&checkpoint, &target, ExportFormat::Hf)?;
        exports.push(started.elapsed().as_secs_f64());
        export_cpu.push(cpu_seconds()?[0] - before);
        writes.push(exported.write_time.as_secs_f64());
        checks.push(exported.check_time.as_secs_f64());
        std::fs::remove_dir_all(&target)?;
    }
    let [copy, write, check, export] = [copies, writes, checks, exports].map(median);
    let [copy_cpu, export_cpu] = [copy_cpu, export_cpu].map(median);
    let (memory, mut bounds) = (peak_memory()?, Bounds::default());
    let speed = |seconds: f64| bytes as f64 / seconds / 1e9;
    println!("cp and sync     {copy:8.2} s    {:6.2} GB/s", speed(copy));
    println!("writing         {write:8.2} s    {:6.2} GB/s", speed(write));
    println!("check           {check:8.2} s    {:6.2} GB/s", speed(check));
    println!("export          {export:8.2} s    {:6.2} GB/s", speed(export));
    println!("writing / cp    {:8.2}", write / copy);
    println!(
        "export / cp     {:8.2}{}",
        export / copy,
        bounds.at_most(export / copy, 1.0 / SPEED)
    );
    println!("processor time: cp and sync {copy_cpu:.2} s, export {export_cpu:.2} s");
    println!("peak memory     {memory:8.2} GiB{}", bounds.at_most(memory, MEMORY));
    Ok(bounds.finish())
}

fn run(source: &Path, out: &Path, format: ExportFormat) -> neva_engine::Result<Exported> {
    let request = ExportRequest {
        out: Some(out.to_owned()),
        dtype: Some(ExportDtype::Bfloat16),
        ..ExportRequest::new(source, format)
    };
    export(&request, &Models::builtin(), &ModelCache::at(PathBuf::new()))
}

/// Writes a LLaVA-1.5 of 7B with fewer layers, in bf16.
fn write_model(folder: &Path, layers: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut model = LlavaModel::default();
    model.text_config.num_hidden_layers = layers;
    model.text_config.vocab_size = 32064;
    let families = Families::builtin();
    let table = families.resolve(&Model::Llava(model), "model").map_err(|problem| problem.message)?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("config.json"), table.write_config().to_string())?;
    let (mut header, mut at) = (Map::new(), 0);
    for row in table.parameters(VisionPlacement::Duplicated) {
        let end = at + 2 * row.numel();
        header.insert(
            table.hub_name(&row.name),
            json!({ "dtype": "BF16", "shape": row.shape, "data_offsets": [at, end] }),
        );
        at = end;
    }
    let header = serde_json::to_vec(&header)?;
    let mut file = BufWriter::new(File::create(folder.join("model.safetensors"))?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    // Small values of changing bits, that no file system compresses.
    let block: Vec<u8> = (0..1u32 << 20)
        .flat_map(|index| [(index.wrapping_mul(2_654_435_761) >> 24) as u8, 0x3c])
        .collect();
    let mut left = at;
    while left > 0 {
        let size = left.min(block.len());
        file.write_all(&block[..size])?;
        left -= size;
    }
    file.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let done = |status: io::Result<std::process::ExitStatus>, what: &str| match status?.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{what} failed"))),
    };
    done(Command::new("cp").arg("-r").args([from, to]).status(), "cp")?;
    // An export is on disk when it is done.
    done(Command::new("sync").arg(to.join("model.safetensors")).status(), "sync")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the processor time of this process, and of its children that have ended.
fn cpu_seconds() -> Result<[f64; 2], Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no /proc/self/stat")?;
    // User and system time are the 14th and 15th field, those of children follow; in hundredths of a second.
    let times = fields
        .split_whitespace()
        .skip(11)
        .map(str::parse)
        .take(4)
        .collect::<Result<Vec<f64>, _>>()?;
    let [user, system, childrens_user, childrens_system] = times[..] else {
        return Err("no times in /proc/self/stat".into());
    };
    Ok([user + system, childrens_user + childrens_system].map(|ticks| ticks / 100.0))
}

/// Makes the peak that of what follows.
fn forget_peak_memory() -> io::Result<()> {
    std::fs::write("/proc/self/clear_refs", "5")
}

/// Returns the most memory that this process had, in GiB.
fn peak_memory() -> Result<f64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes: f64 = line.ok_or("no VmHWM")?.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes / f64::from(1 << 20))
}
