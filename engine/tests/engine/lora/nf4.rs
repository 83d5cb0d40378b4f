//! 4-bit values against bitsandbytes. `tests/fixtures/nf4.py` made the table with `bitsandbytes.functional`.

use neva_engine::checkpoint::TensorFile;
use neva_engine::quantization::Nf4;
use std::path::Path;
use tch::{Kind, Tensor};

fn table() -> TensorFile {
    TensorFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/nf4.safetensors")).unwrap()
}

#[test]
fn values_are_those_of_bitsandbytes_bit_for_bit() {
    let table = table();
    let mut compared = 0;
    for name in table.tensors().into_keys() {
        let Some(case) = name.strip_suffix(".weight") else { continue };
        let read = |what: &str| table.read(&format!("{case}.{what}"), None).unwrap();
        let weight = read("weight");
        let quantized = Nf4::quantize(&weight).unwrap();
        assert!(quantized.packed().equal(&read("packed")), "{case}: other bytes");
        let values = quantized.dequantize(weight.kind()).unwrap();
        assert_eq!(values.kind(), weight.kind());
        let expected = read("dequantized");
        assert!(
            values.equal(&expected),
            "{case}: off by {:e}",
            (&values - &expected).abs().max().to_kind(Kind::Double).double_value(&[])
        );
        compared += 1;
    }
    assert_eq!(compared, 4);
}

#[test]
fn a_value_takes_four_bits_and_its_share_of_the_scales() {
    let weight = Tensor::randn([1024, 4096], (Kind::BFloat16, tch::Device::Cpu));
    let quantized = Nf4::quantize(&weight).unwrap();
    let share = quantized.bytes() as f64 / (2 * weight.numel()) as f64;
    assert!(share <= 0.27, "{share}");
    // 4 + 8/64 + 32/16384 bits of 16.
    assert!((share - (4.0 + 8.0 / 64.0 + 32.0 / 16384.0) / 16.0).abs() < 1e-5, "{share}");
}

#[test]
fn only_matrices_are_quantized() {
    let zeros = Tensor::zeros([64], (Kind::Float, tch::Device::Cpu));
    assert!(Nf4::quantize(&zeros).is_err());
    // All blocks are 0.
    let zeros = Tensor::zeros([4, 64], (Kind::Float, tch::Device::Cpu));
    assert!(Nf4::quantize(&zeros).unwrap().dequantize(Kind::Float).unwrap().equal(&zeros));
}
