//! `make gpu-check` with the packed programs, on a CPU; on a machine with a GPU only the device differs.

use neva_tests::{DEADLINE, finish_within, program, root, run, start};
use std::path::Path;
use std::process::Command;

/// Returns a Python command without variables of an outer run or of the machine's GPU.
fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg("-B").args(arguments).current_dir(root());
    command
}

/// Packs the built programs, as `make gpu-pack` does.
fn packed(out: &Path) {
    let programs = program("neva-run");
    let (programs, out) = (programs.parent().unwrap().to_str().unwrap(), out.to_str().unwrap());
    let ended = run(python(&["engine/gpu_check/pack.py", "--programs", programs, "--out", out])).with_code(0);
    assert!(ended.stdout.contains("MiB into"), "{}", ended.stdout);
}

#[test]
fn every_stage_passes_on_a_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack");
    packed(&pack);
    let results = folder.path().join("CPU_RESULTS.md");
    let check = pack.join("check.py");
    let arguments = [check.to_str().unwrap(), "--device", "cpu", "--results", results.to_str().unwrap()];
    // It has its own deadline of ten minutes.
    let child = start(python(&arguments));
    let ended = finish_within(child, 2 * DEADLINE);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let text = std::fs::read_to_string(results).unwrap();
    for line in [
        "# CPU results",
        "- GPU: none: the stages were tried on the CPU",
        "## programs start: passed",
        "| libtorch | 2.11.0 |",
        "## golden, fp32 without TF32: passed",
        "| train_lora_proj | loss off by ",
        "| llava_clip_llama_gqa | loss off by ",
        "## golden, bf16: passed",
        "## train, kill, resume: passed",
        "| losses | equal bit for bit |",
        "## fused kernels: passed",
        "| not compared | libtorch has no CUDA here |",
        "## FP8: passed",
        "| bf16_with_fp8_mixed | mean loss off by ",
        "| bf16_with_fp8_subchannel_scaling_mixed | mean loss off by ",
        "| bf16_with_mxfp8_mixed | mean loss off by ",
        "decoder linears in fp8 (emulated) |",
        "## several ranks: passed",
        "| tensor parallel 2 | loss off by ",
        "## speed: LLaVA-1.5 7B, LoRA, bf16: passed",
        "## speed: Qwen2.5 7B, LoRA, bf16: passed",
        "| published | 14110 tokens/s (one H100, ",
        "## speed: Llama 2 7B, LoRA, FP8, packed: passed",
        "| FP8 share of the decoder's linears | 100.0% |",
        "| tokens/s | ",
    ] {
        assert!(text.contains(line), "{text}\ndoes not contain: {line}");
    }
}

#[test]
fn a_wrong_number_fails_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("pack");
    packed(&pack);
    let cases = pack.join("cases/cases.json");
    let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&cases).unwrap()).unwrap();
    text[0]["losses"][0] = 7.0.into();
    std::fs::write(&cases, text.to_string()).unwrap();
    let results = folder.path().join("results.md");
    let check = pack.join("check.py");
    let [check, results_path] = [&check, &results].map(|path| path.to_str().unwrap());
    let only = |word| run(python(&[check, "--device", "cpu", "--results", results_path, "--only", word]));
    let ended = only("fp32").with_code(1);
    assert!(ended.stdout.contains("FAILED, results in"), "{}", ended.stdout);
    let text = std::fs::read_to_string(&results).unwrap();
    assert!(
        text.contains("## golden, fp32 without TF32: FAILED") && text.contains("loss off by"),
        "{text}"
    );
    assert!(
        text.contains("only those with `fp32` in their name") && !text.contains("## FP8"),
        "{text}"
    );
    let ended = only("FP4").with_code(2);
    assert!(ended.stderr.contains("no stage has `FP4` in its name"), "{}", ended.stderr);
}

#[test]
fn without_a_gpu_it_reports_that_and_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let python3 = run(python(&["-c", "import sys; print(sys.executable)"])).with_code(0).stdout;
    // A machine without nvidia-smi.
    let mut command = Command::new(python3.trim());
    command
        .arg("-B")
        .arg(root().join("engine/gpu_check/check.py"))
        .env("PATH", folder.path());
    let ended = run(command).with_code(0);
    assert!(
        ended
            .stdout
            .starts_with("gpu-check: nothing was checked: nvidia-smi finds no NVIDIA GPU"),
        "{}",
        ended.stdout
    );
    // A GPU, and a Python without torch.
    let smi = folder.path().join("nvidia-smi");
    std::fs::write(&smi, "#!/bin/sh\necho 'NVIDIA H200, 570.1, 143771 MiB'\n").unwrap();
    std::fs::set_permissions(&smi, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(python3.trim());
    command
        .arg("-B")
        .arg(root().join("engine/gpu_check/check.py"))
        .args(["--root", folder.path().to_str().unwrap()])
        .env("PATH", folder.path())
        .env("LIBTORCH", folder.path());
    let ended = run(command).with_code(0);
    assert!(
        ended.stdout.contains("nothing was checked: no libtorch_cuda.so in"),
        "{}",
        ended.stdout
    );
}
