//! Layers one behind the other.

use super::{Arrival, Block, Build, Recomputed};
use crate::error::Result;
use std::ops::Range;
use tch::Tensor;

/// Layers one behind the other, in groups that are computed again in the backward pass or keep their activations.
#[derive(Debug)]
pub struct Stack<L> {
    groups: Vec<Recomputed<Group<L>>>,
}

/// Some layers, and what each waits for.
#[derive(Debug)]
struct Group<L> {
    layers: Vec<(String, L)>,
    arrival: Arrival,
}

impl<L: Block> Stack<L> {
    /// The layers `name.0`, `name.1` ... of a range of them.
    ///
    /// # Errors
    /// A parameter of them is missing.
    pub fn new(build: &Build<'_>, name: &str, layers: Range<usize>, layer: impl Fn(&Build<'_>) -> Result<L>) -> Result<Self> {
        let groups = build.layer_groups(layers).into_iter().map(|group| {
            let names: Vec<_> = group.layers.map(|number| format!("{name}.{number}")).collect();
            let weights = group
                .recomputed
                .then(|| names.iter().flat_map(|name| build.trained(name)).collect());
            let layers = names.into_iter().map(|name| {
                let layer = layer(&build.at(&name))?;
                Ok((name, layer))
            });
            let arrival = build.arrival();
            let layers = layers.collect::<Result<_>>()?;
            Ok(Recomputed::new(Group { layers, arrival }, weights))
        });
        Ok(Self {
            groups: groups.collect::<Result<_>>()?,
        })
    }

    /// Number of layers.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.block().layers.len()).sum()
    }

    /// Whether there is no layer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hidden states behind the last layer.
    ///
    /// # Errors
    /// A collective failed.
    pub fn forward(&self, x_bsh: &Tensor, with: &L::With) -> Result<Tensor> {
        let mut x_bsh = x_bsh.shallow_clone();
        for group in &self.groups {
            x_bsh = group.forward(&x_bsh, with)?;
        }
        Ok(x_bsh)
    }

    /// The same without gradients, where each layer is given something of its own.
    ///
    /// # Errors
    /// That of a layer.
    pub fn forward_each<T>(
        &self,
        x_bsh: &Tensor,
        own: &mut [T],
        forward: impl Fn(&L, &Tensor, &mut T) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (mut x_bsh, mut own) = (x_bsh.shallow_clone(), own.iter_mut());
        for group in &self.groups {
            for ((_, layer), own) in group.block().layers.iter().zip(&mut own) {
                x_bsh = forward(layer, &x_bsh, own)?;
            }
        }
        Ok(x_bsh)
    }
}

impl<L: Block> Block for Group<L> {
    type With = L::With;

    fn forward(&self, x_bsh: &Tensor, with: &L::With) -> Result<Tensor> {
        let mut x_bsh = x_bsh.shallow_clone();
        for (name, layer) in &self.layers {
            self.arrival.wait_for(name)?;
            x_bsh = layer.forward(&x_bsh, with)?;
        }
        Ok(x_bsh)
    }
}
