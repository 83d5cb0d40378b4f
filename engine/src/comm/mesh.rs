//! The axes that ranks form.

use super::collective::{Collective, CommError, Fabric, Solo};
use neva_schemas::ParallelSizes;
use std::sync::Arc;

/// An axis of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Ranks that share each matrix.
    Tensor,
    /// Ranks that share each sequence.
    Context,
    /// Ranks that share each global batch.
    Data,
    /// Ranks that share the layers.
    Pipeline,
}

impl Axis {
    /// All axes, in the order in which the rank's number counts them: the first varies fastest.
    pub const ALL: [Self; 4] = [Self::Tensor, Self::Context, Self::Data, Self::Pipeline];

    fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Context => "context",
            Self::Data => "data",
            Self::Pipeline => "pipeline",
        }
    }
}

/// This rank's place: its group along every axis, and the world.
#[derive(Debug, Clone)]
pub struct Mesh {
    sizes: ParallelSizes,
    axes: [Arc<dyn Collective>; 4],
    world: Arc<dyn Collective>,
}

impl Mesh {
    /// A mesh of one rank.
    pub fn single() -> Self {
        let solo = || Arc::new(Solo) as Arc<dyn Collective>;
        Self {
            sizes: ParallelSizes::ONE,
            axes: [solo(), solo(), solo(), solo()],
            world: solo(),
        }
    }

    /// Forms the groups of this rank along every axis.
    ///
    /// # Errors
    /// A group could not be formed, or the sizes do not make up the world.
    pub fn new(sizes: ParallelSizes, fabric: &dyn Fabric) -> Result<Self, CommError> {
        if sizes.world() as usize != fabric.world() {
            return Err(CommError::Strangers(format!(
                "{} ranks were started, the run needs {}",
                fabric.world(),
                sizes.world()
            )));
        }
        let lengths = [sizes.tp, sizes.cp, sizes.dp, sizes.pp].map(|size| size as usize);
        let mut axes: Vec<Arc<dyn Collective>> = Vec::with_capacity(4);
        let mut stride = 1;
        for (axis, length) in Axis::ALL.into_iter().zip(lengths) {
            let coordinate = fabric.rank() / stride % length;
            let first = fabric.rank() - coordinate * stride;
            let members: Vec<_> = (0..length).map(|index| first + index * stride).collect();
            axes.push(if length == 1 {
                Arc::new(Solo)
            } else {
                fabric.group(&format!("{}.{first}", axis.name()), &members)?
            });
            stride *= length;
        }
        let everyone: Vec<_> = (0..fabric.world()).collect();
        let world = if fabric.world() == 1 {
            Arc::new(Solo)
        } else {
            fabric.group("world", &everyone)?
        };
        let axes = axes.try_into().unwrap_or_else(|_| unreachable!("one group per axis"));
        Ok(Self { sizes, axes, world })
    }

    /// Number of ranks along each axis.
    pub fn sizes(&self) -> ParallelSizes {
        self.sizes
    }

    /// This rank's group along `axis`.
    pub fn axis(&self, axis: Axis) -> &Arc<dyn Collective> {
        &self.axes[axis as usize]
    }

    /// All ranks.
    pub fn world(&self) -> &Arc<dyn Collective> {
        &self.world
    }

    /// Whether this rank is the one that writes what all ranks agree on.
    pub fn is_first(&self) -> bool {
        self.world.rank() == 0
    }
}
