//! Differences of kernels from libtorch's formulae, in values and gradients. The tests measure them with the emulated kernels
//! of a CPU, and `make gpu-check` with those of a GPU.

use crate::kernels::Kernels;
use crate::launch::torch;
use crate::{blocks, quantize, rms_norm, rope, swiglu};
use neva_torch_ffi::{Error, Result, grad, load_cuda, set_cuda_device};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Difference of one operation, and the time that both ways need.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Operation, data type and shape.
    pub case: String,
    /// Greatest difference of a value or gradient, relative to the greatest magnitude of the formula's tensor.
    pub greatest: f64,
    /// What rounding explains.
    pub bound: f64,
    /// Time of the kernels, forward and backward.
    pub fused: Duration,
    /// Time of the formula, forward and backward.
    pub formula: Duration,
}

/// Sizes that are compared.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Rows: tokens.
    pub rows: i64,
    /// Hidden size.
    pub width: i64,
    /// MLP width.
    pub mlp: i64,
    /// Heads of `head` values.
    pub heads: i64,
    /// Values of a head; half of them are rotated in a case.
    pub head: i64,
}

/// The sizes of a 7B model's layer, with 4,096 tokens.
pub const LAYER_OF_7B: Sizes = Sizes {
    rows: 4096,
    width: 4096,
    mlp: 11008,
    heads: 32,
    head: 128,
};

/// Compiles the kernels for a GPU, and compares them at [`LAYER_OF_7B`].
///
/// # Errors
/// There is no GPU, or its kernels do not compile or do not run.
pub fn compare_on_gpu(gpu: usize) -> std::result::Result<Vec<Difference>, String> {
    let text = |error: Error| error.to_string();
    if !load_cuda().map_err(text)? {
        return Err("libtorch has no CUDA here".into());
    }
    set_cuda_device(gpu).map_err(text)?;
    let device = Device::Cuda(gpu);
    Kernels::prepare(device)?;
    let kernels = Kernels::of(device).ok_or("the kernels are gone")?;
    kernels.compare(LAYER_OF_7B).map_err(text)
}

impl Kernels {
    /// Compares all operations that there are kernels for, in fp32, bf16 and fp16.
    ///
    /// # Errors
    /// libtorch or the GPU refused.
    pub fn compare(&self, sizes: Sizes) -> Result<Vec<Difference>> {
        let mut found = Vec::new();
        for (kind, name) in [(Kind::Float, "fp32"), (Kind::BFloat16, "bf16"), (Kind::Half, "fp16")] {
            if !self.has("rms_norm", kind) {
                continue;
            }
            found.push(self.compare_rms_norm(sizes, kind, name)?);
            found.push(self.compare_swiglu(sizes, kind, name)?);
            for dim in [sizes.head, sizes.head / 2] {
                found.push(self.compare_rope(sizes, dim, kind, name)?);
            }
            if !self.has("quantize_e4m3", kind) {
                continue;
            }
            for (format, format_name) in [(Kind::Float8e4m3fn, "E4M3"), (Kind::Float8e5m2, "E5M2")] {
                found.push(self.compare_quantize(sizes, format, &format!("{name} to {format_name}"), kind)?);
                for width in [blocks::BLOCK, blocks::MX_BLOCK] {
                    found.push(self.compare_blocks(sizes, ([1, width], format), &format!("{name} to {format_name}"), kind)?);
                }
            }
            let squares = ([blocks::BLOCK; 2], Kind::Float8e4m3fn);
            found.push(self.compare_blocks(sizes, squares, &format!("{name} to E4M3"), kind)?);
        }
        Ok(found)
    }

    fn random(&self, size: &[i64], kind: Kind) -> Result<Tensor> {
        let values = Tensor::f_randn(size, (Kind::Float, self.device())).and_then(|values| values.f_to_kind(kind));
        values.map_err(torch("random values"))
    }

    fn compare_rms_norm(&self, sizes: Sizes, kind: Kind, name: &str) -> Result<Difference> {
        let inputs = [self.random(&[sizes.rows, sizes.width], kind)?, self.random(&[sizes.width], kind)?];
        self.differentiable(
            format!("RMSNorm {name} {}x{}", sizes.rows, sizes.width),
            &inputs,
            |[x, weight]| self.rms_norm(x, weight, 1e-5),
            |[x, weight]| rms_norm::formula(x, weight, 1e-5).map_err(torch("RMSNorm")),
        )
    }

    fn compare_swiglu(&self, sizes: Sizes, kind: Kind, name: &str) -> Result<Difference> {
        // Halves of one projection, as rows that are not contiguous.
        let both = self.random(&[sizes.rows, 2 * sizes.mlp], kind)?;
        let half = |start| both.f_narrow(1, start, sizes.mlp).map_err(torch("SwiGLU"));
        self.differentiable(
            format!("SwiGLU {name} {}x{}", sizes.rows, sizes.mlp),
            &[half(0)?, half(sizes.mlp)?],
            |[gate, up]| self.swiglu(gate, up),
            |[gate, up]| swiglu::formula(gate, up),
        )
    }

    fn compare_rope(&self, sizes: Sizes, dim: i64, kind: Kind, name: &str) -> Result<Difference> {
        let Sizes { rows, heads, head, .. } = sizes;
        let x = self.random(&[1, rows, heads, head], kind)?;
        let x = x.f_transpose(1, 2).map_err(torch("rotary embedding"))?;
        let angles = self.random(&[1, 1, rows, dim / 2], Kind::Float)?.repeat([1, 1, 1, 2]);
        let [cosines, sines] = [angles.cos(), angles.sin()].map(|values| values.to_kind(kind));
        self.differentiable(
            format!("RoPE {name} {rows}x{heads}x{head}, {dim} rotated"),
            &[x],
            |[x]| self.rotate(x, &cosines, &sines),
            |[x]| rope::formula(x, &cosines, &sines).map_err(torch("rotary embedding")),
        )
    }

    /// Compares the output of a function and the gradients of its inputs.
    fn differentiable<const N: usize>(
        &self,
        case: String,
        inputs: &[Tensor; N],
        kernel: impl Fn(&[Tensor; N]) -> Result<Tensor>,
        formula: impl Fn(&[Tensor; N]) -> Result<Tensor>,
    ) -> Result<Difference> {
        let mut kinds = inputs.iter().map(Tensor::kind);
        let bound = bound(kinds.next().unwrap_or(Kind::Float));
        let upstream = tch::no_grad(|| self.random(&formula(inputs)?.size(), inputs[0].kind()))?;
        let values = |function: &dyn Fn(&[Tensor; N]) -> Result<Tensor>| -> Result<Vec<Tensor>> {
            let leaves = inputs.each_ref().map(|input| input.detach().set_requires_grad(true));
            let y = function(&leaves)?;
            let leaves: Vec<&Tensor> = leaves.iter().collect();
            let gradients = grad(&[&y], &[Some(&upstream)], &leaves, false)?;
            Ok([Some(y.detach())].into_iter().chain(gradients).flatten().collect())
        };
        let (fused, own) = self.timed(|| values(&kernel))?;
        let (plain, theirs) = self.timed(|| values(&formula))?;
        let mut greatest = if own.len() == theirs.len() { 0.0 } else { f64::INFINITY };
        for (own, theirs) in own.iter().zip(&theirs) {
            greatest = f64::max(greatest, relative(own, theirs)?);
        }
        Ok(Difference {
            case,
            greatest,
            bound,
            fused,
            formula: plain,
        })
    }

    /// Compares bytes and amaxes. Sizes that are no multiples of a tile, and values that are no numbers, are among them.
    fn compare_quantize(&self, sizes: Sizes, format: Kind, name: &str, kind: Kind) -> Result<Difference> {
        let (rows, columns) = (sizes.rows, sizes.width);
        let op = torch("FP8 cast");
        let x = self.spread(&[rows, columns], kind)?;
        let scale = Tensor::f_full([], 37.5, (Kind::Float, self.device())).map_err(&op)?;
        let zero = || Tensor::f_zeros([], (Kind::Float, self.device())).map_err(&op);
        let (own_amax, amax) = (zero()?, zero()?);
        let (fused, own) = self.timed(|| Ok(vec![self.quantize(&x, &scale, format, true, Some(&own_amax))?]))?;
        let (plain, theirs) = self.timed(|| Ok(vec![quantize::formula(&x, &scale, format, true, Some(&amax)).map_err(&op)?]))?;
        let mut greatest = relative(&own_amax, &amax)?.max(relative(&self.amax(&x)?, &amax)?);
        for (own, theirs) in own.iter().zip(&theirs) {
            greatest = greatest.max(relative(&bytes(&own.data)?, &bytes(&theirs.data)?)?);
            let again = own.data.f_view_dtype(Kind::Uint8).map_err(&op)?;
            let plain = quantize::transpose_formula(&again).map_err(&op)?;
            greatest = greatest.max(relative(&self.transpose(&again)?, &plain)?);
            greatest = match (&own.transposed, &theirs.transposed) {
                (Some(own), Some(theirs)) => greatest.max(relative(&bytes(own)?, &bytes(theirs)?)?),
                _ => f64::INFINITY,
            };
        }
        Ok(Difference {
            case: format!("cast and transposition {name} {rows}x{columns}"),
            greatest,
            bound: 0.0,
            fused,
            formula: plain,
        })
    }

    /// Compares bytes and inverse scales of a matrix in blocks, and of its transposed one. Some blocks are 0.
    fn compare_blocks(&self, sizes: Sizes, (block, format): ([i64; 2], Kind), name: &str, kind: Kind) -> Result<Difference> {
        let (rows, columns) = (sizes.rows, sizes.width);
        let op = torch("FP8 cast of blocks");
        let x = self.spread(&[rows, columns], kind)?;
        let zeros = x
            .f_narrow(0, rows / 2, rows - rows / 2)
            .and_then(|part| part.f_narrow(1, 0, columns / 2));
        let _ = zeros.and_then(|mut zeros| zeros.f_zero_()).map_err(&op)?;
        let (fused, own) = self.timed(|| Ok(vec![self.quantize_blocks(&x, block, format, true)?]))?;
        let (plain, theirs) = self.timed(|| Ok(vec![blocks::formula(&x, block, format, true).map_err(&op)?]))?;
        let mut greatest: f64 = 0.0;
        for (own, theirs) in own.iter().zip(&theirs) {
            let (Some(own_transposed), Some(transposed)) = (&own.transposed, &theirs.transposed) else {
                greatest = f64::INFINITY;
                continue;
            };
            for (own, theirs) in [(own, theirs), (own_transposed.as_ref(), transposed.as_ref())] {
                greatest = greatest.max(relative(&bytes(&own.data)?, &bytes(&theirs.data)?)?);
                greatest = greatest.max(relative(&own.scale_inv, &theirs.scale_inv)?);
            }
        }
        Ok(Difference {
            case: format!(
                "cast in blocks of {}x{} and transposition {name} {rows}x{columns}",
                block[0], block[1]
            ),
            greatest,
            bound: 0.0,
            fused,
            formula: plain,
        })
    }

    /// Returns random values of many magnitudes: in FP8 from subnormal ones to beyond the largest one.
    fn spread(&self, size: &[i64; 2], kind: Kind) -> Result<Tensor> {
        let exponents = self.random(&[size[0], 1], Kind::Float)?;
        // The largest ones stay finite in fp16.
        let factors = exponents
            .f_mul_scalar(4.0)
            .and_then(|exponents| exponents.f_exp2()?.f_clamp_max(4096.0));
        let x = self.random(size, kind)?;
        factors
            .and_then(|factors| x.f_mul(&factors)?.f_to_kind(kind))
            .map_err(torch("random values"))
    }

    /// Returns the result of the second of two runs, and its time until the device is done.
    fn timed<T>(&self, run: impl Fn() -> Result<Vec<T>>) -> Result<(Duration, Vec<T>)> {
        run()?;
        self.wait();
        let started = Instant::now();
        let result = run()?;
        self.wait();
        Ok((started.elapsed(), result))
    }

    fn wait(&self) {
        if let Device::Cuda(gpu) = self.device() {
            tch::Cuda::synchronize(gpu as i64);
        }
    }
}

/// Returns what rounding explains: another order of a sum in fp32; in 16 bits a step that one way rounds and the other does not.
fn bound(kind: Kind) -> f64 {
    match kind {
        Kind::Float => 1e-5,
        Kind::Half => 1.0 / 512.0,
        _ => 1.0 / 64.0,
    }
}

/// Returns FP8 values as the numbers of their bytes.
fn bytes(data: &Tensor) -> Result<Tensor> {
    let bytes = data.f_view_dtype(Kind::Uint8).and_then(|bytes| bytes.f_to_kind(Kind::Float));
    bytes.map_err(torch("FP8 cast"))
}

/// Returns the greatest difference, relative to the greatest magnitude of `theirs`; infinite if shapes differ.
fn relative(own: &Tensor, theirs: &Tensor) -> Result<f64> {
    if own.size() != theirs.size() || own.kind() != theirs.kind() {
        return Ok(f64::INFINITY);
    }
    let of = |tensor: &Tensor| tensor.f_to_kind(Kind::Double);
    let greatest = |tensor: &Tensor| tensor.f_abs()?.f_max()?.f_double_value(&[]);
    let difference = of(own).and_then(|own| greatest(&own.f_sub(&of(theirs)?)?));
    let difference = difference.map_err(torch("compare"))?;
    let magnitude = of(theirs).and_then(|theirs| greatest(&theirs)).map_err(torch("compare"))?;
    // NaN is a difference, too.
    if difference.is_nan() {
        Ok(f64::INFINITY)
    } else {
        Ok(difference / magnitude.max(f64::MIN_POSITIVE))
    }
}
