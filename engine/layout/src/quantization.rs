//! Weights in 4 bits (QLoRA): which they are, and where tensor parallelism may cut them.

use crate::parameter::{Cut, ParamSpec, Part};
use crate::trainable::is_trainable;
use neva_schemas::{Finetune, Peft, Problem};

/// Values of a block, which share one scale.
pub const NF4_BLOCK: usize = 64;

/// Returns whether a run keeps `spec` in 4 bits: the weight of a frozen linear of the language model.
pub fn is_quantized(spec: &ParamSpec, finetune: &Finetune) -> bool {
    let asked = finetune.peft.as_ref().map(Peft::lora).and_then(|lora| lora.quantization);
    asked.is_some() && spec.part == Part::Language && spec.lora.is_some() && !is_trainable(spec, finetune)
}

/// The part of a matrix in blocks that one tensor-parallel rank holds: the same blocks of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCut {
    /// First row, or 0 where rows are not cut.
    pub first_row: usize,
    /// Number of rows.
    pub rows: usize,
    /// First column.
    pub first_column: usize,
    /// Number of columns.
    pub columns: usize,
}

/// Returns the part of a quantised weight that rank `tp_rank` of `tp` holds; `None` for all of it.
///
/// # Errors
/// A border is within a block: the ranks would need another scale than one rank has. The reason is returned.
pub fn block_cut(spec: &ParamSpec, tp_rank: usize, tp: usize) -> Result<Option<BlockCut>, String> {
    let (rows, columns) = (spec.shape[0], spec.shape[1]);
    let Some(shard) = spec.shard(tp_rank, tp) else { return Ok(None) };
    let (cut, aligned) = if shard.dim == 0 {
        let part = BlockCut {
            first_row: shard.start,
            rows: shard.len,
            first_column: 0,
            columns,
        };
        let bounds = [shard.start * columns, (shard.start + shard.len) * columns];
        let inside = bounds.into_iter().filter(|bound| *bound < rows * columns);
        (part, inside.into_iter().all(|bound| bound.is_multiple_of(NF4_BLOCK)))
    } else {
        let part = BlockCut {
            first_row: 0,
            rows,
            first_column: shard.start,
            columns: shard.len,
        };
        let sizes = [columns, shard.start, shard.len];
        (part, sizes.into_iter().all(|size| size.is_multiple_of(NF4_BLOCK)))
    };
    if aligned {
        return Ok(Some(cut));
    }
    let dim = if spec.cut == Cut::Row { "columns" } else { "rows" };
    Err(format!(
        "`{}` {:?} is cut by {dim} within blocks of {NF4_BLOCK} values, which have one scale each",
        spec.name, spec.shape
    ))
}

/// Returns the problem of a run whose tensor-parallel ranks cannot hold whole blocks of its quantised weights. `path` is that
/// of the adapters' settings.
pub fn quantization_problem(parameters: &[ParamSpec], finetune: &Finetune, path: &str) -> Option<Problem> {
    let tp = finetune.trainer.strategy.tensor_model_parallel_size as usize;
    let quantized = parameters.iter().filter(|spec| is_quantized(spec, finetune));
    let mut ranks = quantized.flat_map(|spec| (0..tp).map(move |rank| block_cut(spec, rank, tp)));
    let reason = ranks.find_map(Result::err)?;
    let message = format!("with {tp} tensor-parallel ranks, {reason}");
    let help = "use fewer tensor-parallel ranks (data, pipeline and context parallelism cut no weight), or quantization=null";
    Some(Problem::error(format!("{path}.quantization"), message).help(help))
}
