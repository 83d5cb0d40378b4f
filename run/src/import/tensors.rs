//! Tensors to write, and where their values come from. Values are read while they are written, one tensor at a time.

use neva_weights::{Dtype, Output, StoredTensor, TensorInfo, WeightFile, WeightsError, values};

type Written = Result<(), WeightsError>;

/// Tensors to write.
#[derive(Debug)]
pub(super) struct Tensors {
    pub(super) files: Vec<WeightFile>,
    pub(super) wanted: Vec<Wanted>,
}

/// A tensor to write.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) info: TensorInfo,
    pub(super) from: From,
}

/// A tensor of a file: indices of the file and of the tensor in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) file: usize,
    pub(super) tensor: usize,
}

/// Source of a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum From {
    /// A tensor of a file.
    Stored(At),
    /// The same with the rows of each head in Hugging Face's order instead of llama.cpp's.
    Heads(At, usize),
    /// The same with further rows, each the mean of its rows.
    Rows(At),
    /// `base + scale * b @ a`.
    Merged { base: At, a: At, b: At, scale: f32 },
}

impl Tensors {
    /// Returns a file and its tensor.
    fn at(&self, at: At) -> Result<(&WeightFile, &StoredTensor), WeightsError> {
        let found = self
            .files
            .get(at.file)
            .and_then(|file| Some((file, file.tensors().get(at.tensor)?)));
        found.ok_or_else(|| WeightsError::Content {
            path: std::path::PathBuf::new(),
            reason: format!("there is no tensor {at:?}"),
            help: "",
        })
    }

    /// Writes the tensor of an index.
    pub(super) fn write(&self, index: usize, output: &mut Output<'_>) -> Written {
        let Wanted { info, from } = &self.wanted[index];
        match *from {
            From::Stored(at) => self.stored(at, output),
            From::Heads(at, heads) => {
                let (file, tensor) = self.at(at)?;
                output.bytes(&in_halves(&file.read(tensor)?, info, heads))
            }
            From::Rows(at) => {
                self.stored(at, output)?;
                let (file, tensor) = self.at(at)?;
                let row = mean_row(file, tensor)?;
                let rows = info.shape.first().copied().unwrap_or_default();
                let old = tensor.info.shape.first().copied().unwrap_or_default();
                (old..rows).try_for_each(|_| output.bytes(&row))
            }
            From::Merged { base, a, b, scale } => {
                let read = |at: At| self.at(at).and_then(|(file, tensor)| file.read_f32(tensor));
                let mut merged = read(base)?;
                add_product(&mut merged, &read(a)?, &read(b)?, scale, info);
                output.bytes(&values::of_f32(info.dtype, &merged).unwrap_or_default())
            }
        }
    }

    fn stored(&self, at: At, output: &mut Output<'_>) -> Written {
        let (file, tensor) = self.at(at)?;
        match tensor.range() {
            Some(range) => output.copy(file, range),
            None => file.stream(tensor, &mut |bytes| output.bytes(bytes)),
        }
    }
}

/// Returns the rows of each head in the order of Hugging Face: first the even ones of llama.cpp, then the odd ones.
fn in_halves(bytes: &[u8], info: &TensorInfo, heads: usize) -> Vec<u8> {
    let rows = info.shape.first().copied().unwrap_or_default();
    let (row, per_head) = (bytes.len() / rows.max(1), rows / heads.max(1));
    let mut ordered = Vec::with_capacity(bytes.len());
    for head in 0..heads {
        for half in 0..2 {
            for pair in 0..per_head / 2 {
                let at = (head * per_head + 2 * pair + half) * row;
                ordered.extend_from_slice(&bytes[at..at + row]);
            }
        }
    }
    ordered
}

/// Returns the mean of a tensor's rows, in its kind.
fn mean_row(file: &WeightFile, tensor: &StoredTensor) -> Result<Vec<u8>, WeightsError> {
    let (rows, width) = match tensor.info.shape[..] {
        [rows, width] if width > 0 => (rows, width),
        _ => (1, 1),
    };
    let (mut sums, mut column, mut rest) = (vec![0_f64; width], 0, Vec::new());
    let size = tensor.info.dtype.bitsize() / 8;
    let dtype = tensor.info.dtype;
    file.stream(tensor, &mut |bytes| {
        rest.extend_from_slice(bytes);
        let whole = rest.len() / size * size;
        for value in values::to_f32(dtype, &rest[..whole]).unwrap_or_default() {
            sums[column] += f64::from(value);
            column = (column + 1) % width;
        }
        rest.drain(..whole);
        Ok(())
    })?;
    let mean: Vec<f32> = sums.iter().map(|sum| (sum / rows.max(1) as f64) as f32).collect();
    Ok(values::of_f32(dtype, &mean).unwrap_or_default())
}

/// Adds `scale * b @ a` to `values`, in fp32, on all cores.
fn add_product(values: &mut [f32], a: &[f32], b: &[f32], scale: f32, info: &TensorInfo) {
    let [rows, width] = info.shape[..] else { return };
    let rank = b.len() / rows.max(1);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = rows.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let parts = values.chunks_mut(part * width).zip(b.chunks(part * rank));
        for (values, b) in parts {
            scope.spawn(move || {
                for (row, factors) in values.chunks_mut(width).zip(b.chunks(rank)) {
                    let mut product = vec![0_f32; width];
                    for (factor, a) in factors.iter().zip(a.chunks(width)) {
                        for (sum, a) in product.iter_mut().zip(a) {
                            *sum += factor * a;
                        }
                    }
                    for (value, product) in row.iter_mut().zip(product) {
                        *value += scale * product;
                    }
                }
            });
        }
    });
}

/// Returns whether values of a kind can be computed with.
pub(super) fn is_number(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}
