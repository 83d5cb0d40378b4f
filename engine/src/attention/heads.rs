//! Reshaping and repeating of attention heads.

use tch::Tensor;

/// Reshapes `[b, n, s, d]` to `[b, s, n * d]`.
pub(crate) fn join_heads(x_bnsd: &Tensor) -> Tensor {
    x_bnsd.transpose(1, 2).flatten(2, 3)
}

/// Repeats each key or value head for the `groups` query heads that share it.
pub(super) fn share_heads(x_bnsd: &Tensor, groups: i64) -> Tensor {
    if groups == 1 {
        x_bnsd.shallow_clone()
    } else {
        x_bnsd.repeat_interleave_self_int(groups, 1, None)
    }
}
