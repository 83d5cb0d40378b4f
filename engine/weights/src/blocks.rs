//! Quantized blocks of GGUF, dequantized with llama.cpp's formulae, in fp32.

use half::f16;

/// A type of quantized blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocks {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Types that are read: id, block, name, values and bytes of a block.
const KNOWN: &[(u32, Blocks, &str, usize, usize)] = &[
    (2, Blocks::Q4_0, "Q4_0", 32, 18),
    (3, Blocks::Q4_1, "Q4_1", 32, 20),
    (6, Blocks::Q5_0, "Q5_0", 32, 22),
    (7, Blocks::Q5_1, "Q5_1", 32, 24),
    (8, Blocks::Q8_0, "Q8_0", 32, 34),
    (12, Blocks::Q4K, "Q4_K", 256, 144),
    (13, Blocks::Q5K, "Q5_K", 256, 176),
    (14, Blocks::Q6K, "Q6_K", 256, 210),
];

/// Names of types that are not read.
const OTHERS: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl Blocks {
    /// Returns the blocks of a tensor's type.
    pub(crate) fn of_type(kind: u32) -> Option<Self> {
        KNOWN.iter().find(|row| row.0 == kind).map(|row| row.1)
    }

    /// Returns the name of a tensor's type.
    pub(crate) fn name_of_type(kind: u32) -> String {
        let known = OTHERS.iter().find(|row| row.0 == kind);
        known.map_or_else(|| kind.to_string(), |row| row.1.to_owned())
    }

    /// Returns the names of the types that are read.
    pub(crate) fn names() -> String {
        KNOWN.iter().map(|row| row.2).collect::<Vec<_>>().join(", ")
    }

    fn row(self) -> &'static (u32, Self, &'static str, usize, usize) {
        KNOWN.iter().find(|row| row.1 == self).unwrap_or(&KNOWN[0])
    }

    pub(crate) fn name(self) -> &'static str {
        self.row().2
    }

    /// Returns the number of values of a block.
    pub(crate) fn values(self) -> usize {
        self.row().3
    }

    /// Returns the size of a block in bytes.
    pub(crate) fn bytes(self) -> usize {
        self.row().4
    }

    /// Appends the values of whole blocks to `values`.
    pub(crate) fn dequantize(self, bytes: &[u8], values: &mut Vec<f32>) {
        let block = match self {
            Self::Q4_0 => q4_0,
            Self::Q4_1 => q4_1,
            Self::Q5_0 => q5_0,
            Self::Q5_1 => q5_1,
            Self::Q8_0 => q8_0,
            Self::Q4K => q4_k,
            Self::Q5K => q5_k,
            Self::Q6K => q6_k,
        };
        for bytes in bytes.chunks_exact(self.bytes()) {
            block(bytes, values);
        }
    }
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn q4_0(block: &[u8], values: &mut Vec<f32>) {
    let (scale, quants) = (f16_at(block, 0), &block[2..18]);
    values.extend(quants.iter().map(|byte| scale * (f32::from(byte & 15) - 8.0)));
    values.extend(quants.iter().map(|byte| scale * (f32::from(byte >> 4) - 8.0)));
}

fn q4_1(block: &[u8], values: &mut Vec<f32>) {
    let (scale, least, quants) = (f16_at(block, 0), f16_at(block, 2), &block[4..20]);
    values.extend(quants.iter().map(|byte| scale * f32::from(byte & 15) + least));
    values.extend(quants.iter().map(|byte| scale * f32::from(byte >> 4) + least));
}

/// Returns value `index` of 32 with 5 bits: 4 in `low`, the highest in `high`.
fn five_bits(high: &[u8], low: &[u8], index: usize) -> f32 {
    let byte = low[index % 16];
    let nibble = if index < 16 { byte & 15 } else { byte >> 4 };
    f32::from(nibble | (high[index / 8] >> (index % 8) & 1) << 4)
}

fn q5_0(block: &[u8], values: &mut Vec<f32>) {
    let scale = f16_at(block, 0);
    values.extend((0..32).map(|index| scale * (five_bits(&block[2..6], &block[6..22], index) - 16.0)));
}

fn q5_1(block: &[u8], values: &mut Vec<f32>) {
    let (scale, least) = (f16_at(block, 0), f16_at(block, 2));
    values.extend((0..32).map(|index| scale * five_bits(&block[4..8], &block[8..24], index) + least));
}

fn q8_0(block: &[u8], values: &mut Vec<f32>) {
    let scale = f16_at(block, 0);
    values.extend(block[2..34].iter().map(|byte| scale * f32::from(byte.cast_signed())));
}

/// Returns scale and minimum of group `group` of 8, each with 6 bits in the 12 bytes of `packed`.
fn group_scales(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, least) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        ((low & 15) | (packed[group - 4] >> 6) << 4, (low >> 4) | (packed[group] >> 6) << 4)
    };
    (f32::from(scale), f32::from(least))
}

/// Appends 256 values in 8 groups of 32; `high` has the fifth bits.
fn grouped(block: &[u8], high: Option<&[u8]>, low: &[u8], values: &mut Vec<f32>) {
    let (scale, least) = (f16_at(block, 0), f16_at(block, 2));
    for group in 0..8 {
        let (own_scale, own_least) = group_scales(&block[4..16], group);
        let (scale, least) = (scale * own_scale, least * own_least);
        for index in 0..32 {
            let byte = low[group / 2 * 32 + index];
            let nibble = if group % 2 == 0 { byte & 15 } else { byte >> 4 };
            let high = high.map_or(0, |high| (high[index] >> group & 1) << 4);
            values.push(scale * f32::from(nibble | high) - least);
        }
    }
}

fn q4_k(block: &[u8], values: &mut Vec<f32>) {
    grouped(block, None, &block[16..144], values);
}

fn q5_k(block: &[u8], values: &mut Vec<f32>) {
    grouped(block, Some(&block[16..48]), &block[48..176], values);
}

fn q6_k(block: &[u8], values: &mut Vec<f32>) {
    let (low, high, scales, scale) = (&block[..128], &block[128..192], &block[192..208], f16_at(block, 208));
    for index in 0..256 {
        // Halves of 128 values, each with 4 rows of 32.
        let (half, row, column) = (index / 128, index / 32 % 4, index % 32);
        let byte = low[half * 64 + row % 2 * 32 + column];
        let nibble = if row < 2 { byte & 15 } else { byte >> 4 };
        let top = high[half * 32 + column] >> (2 * row) & 3;
        let quant = f32::from(nibble | top << 4) - 32.0;
        let own = f32::from(scales[index / 16].cast_signed());
        values.push(scale * own * quant);
    }
}
