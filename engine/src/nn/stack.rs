//! A stack of layers.

use super::build::Build;
use super::outputs::OutputPositions;
use super::recompute::{Block, Submodule};
use crate::error::Result;
use std::ops::Range;
use tch::Tensor;

/// A stack of layers, in groups that are recomputed in the backward pass or save their activations.
#[derive(Debug)]
pub struct Stack<L> {
    groups: Vec<Submodule<Group<L>>>,
}

/// One layer, or layers that are recomputed together.
#[derive(Debug)]
struct Group<L> {
    layers: Vec<L>,
}

impl<L: Block> Stack<L> {
    /// Makes the layers `name.0`, `name.1` and so on of a range; `layer` gets the index of the layer.
    ///
    /// # Errors
    /// A parameter is missing.
    pub fn new(build: &Build<'_>, name: &str, layers: Range<usize>, layer: impl Fn(usize, &Build<'_>) -> Result<L>) -> Result<Self> {
        let groups = build.layer_groups(layers).into_iter().map(|group| {
            build.submodule(group.recomputed, |build| {
                let layers = group.layers.map(|number| layer(number, &build.at(&format!("{name}.{number}"))));
                Ok(Group {
                    layers: layers.collect::<Result<_>>()?,
                })
            })
        });
        Ok(Self {
            groups: groups.collect::<Result<_>>()?,
        })
    }

    /// Returns the number of layers.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.block().layers.len()).sum()
    }

    /// Returns whether there is no layer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs every layer.
    ///
    /// # Errors
    /// A collective failed.
    pub fn forward(&self, x_bsh: &Tensor, with: &L::With) -> Result<Tensor> {
        self.forward_at(x_bsh, with, &OutputPositions::All)
    }

    /// Runs every layer; the last one computes the hidden states of `outputs` alone, `[1, t, h]`.
    ///
    /// # Errors
    /// A collective failed.
    pub fn forward_at(&self, x_bsh: &Tensor, with: &L::With, outputs: &OutputPositions) -> Result<Tensor> {
        let Some((last, groups)) = self.groups.split_last() else {
            return outputs.select(x_bsh);
        };
        let mut x_bsh = x_bsh.shallow_clone();
        for group in groups {
            x_bsh = group.forward(&x_bsh, with)?;
        }
        last.forward_at(&x_bsh, with, outputs)
    }

    /// Runs every layer without gradients; each gets one item of `own`.
    ///
    /// # Errors
    /// The error of a layer.
    pub fn forward_each<T>(
        &self,
        x_bsh: &Tensor,
        own: &mut [T],
        forward: impl Fn(&L, &Tensor, &mut T) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (mut x_bsh, mut own) = (x_bsh.shallow_clone(), own.iter_mut());
        for group in &self.groups {
            for (layer, own) in group.block().layers.iter().zip(&mut own) {
                x_bsh = forward(layer, &x_bsh, own)?;
            }
        }
        Ok(x_bsh)
    }
}

impl<L: Block> Block for Group<L> {
    type With = L::With;

    fn forward(&self, x_bsh: &Tensor, with: &L::With) -> Result<Tensor> {
        self.forward_at(x_bsh, with, &OutputPositions::All)
    }

    fn forward_at(&self, x_bsh: &Tensor, with: &L::With, outputs: &OutputPositions) -> Result<Tensor> {
        let Some((last, layers)) = self.layers.split_last() else {
            return outputs.select(x_bsh);
        };
        let mut x_bsh = x_bsh.shallow_clone();
        for layer in layers {
            x_bsh = layer.forward(&x_bsh, with)?;
        }
        last.forward_at(&x_bsh, with, outputs)
    }
}
