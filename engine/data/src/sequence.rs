//! Inputs and targets of one sample.

/// Inputs and targets of one sample; `labels[i]` is the target of position `i`. See
/// [`Sample::sequence`](crate::Sample::sequence).
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// Sample name, for messages.
    pub name: &'a str,
    /// Token ids, [`IMAGE_TOKEN_INDEX`](crate::IMAGE_TOKEN_INDEX) once per image. Shape `[t]`.
    pub ids: &'a [i64],
    /// Targets; negative ones are ignored by the loss. Shape `[t]`.
    pub labels: &'a [i64],
    /// Number of images of the sample.
    pub num_images: usize,
}

impl Sequence<'_> {
    /// Returns the number of positions after the merge, not truncated, with `image_seq_len` positions per image.
    #[must_use]
    pub fn merged_length(&self, image_seq_len: usize) -> usize {
        self.ids.len().saturating_sub(self.num_images) + self.num_images * image_seq_len
    }
}
