//! Mesh of the ranks: the tensor-, context-, data- and pipeline-parallel groups of this rank.

use super::process_group::{ProcessGroup, ProcessGroupFactory, Solo};
use super::traffic::{Counted, Traffic};
use crate::comm_error::CommError;
use crate::profiler::Profiler;
use neva_schemas::{MeshCoordinates, ParallelSizes};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An axis of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Tensor parallelism: splits each matrix.
    Tensor,
    /// Context parallelism: splits each sequence.
    Context,
    /// Data parallelism: splits each global batch.
    Data,
    /// Pipeline parallelism: splits the layers.
    Pipeline,
}

impl Axis {
    /// All axes.
    pub const ALL: [Self; 4] = [Self::Tensor, Self::Context, Self::Data, Self::Pipeline];

    /// Returns the coordinate along this axis.
    fn of(self, position: MeshCoordinates) -> u32 {
        match self {
            Self::Tensor => position.tp,
            Self::Context => position.cp,
            Self::Data => position.dp,
            Self::Pipeline => position.pp,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Context => "context",
            Self::Data => "data",
            Self::Pipeline => "pipeline",
        }
    }
}

/// Process groups of this rank: one along every axis, the combined ones, and the world.
#[derive(Debug, Clone)]
pub struct Mesh {
    sizes: ParallelSizes,
    axes: [Arc<dyn ProcessGroup>; 4],
    dp_cp: Arc<dyn ProcessGroup>,
    tp_cp: Arc<dyn ProcessGroup>,
    embedding: Arc<dyn ProcessGroup>,
    world: Arc<dyn ProcessGroup>,
    counted: Vec<Arc<Counted>>,
    profiler: Profiler,
}

impl Mesh {
    /// Creates a mesh of one rank.
    pub fn single() -> Self {
        let solo = || Arc::new(Solo) as Arc<dyn ProcessGroup>;
        Self {
            sizes: ParallelSizes::ONE,
            axes: [solo(), solo(), solo(), solo()],
            dp_cp: solo(),
            tp_cp: solo(),
            embedding: solo(),
            world: solo(),
            counted: Vec::new(),
            profiler: Profiler::default(),
        }
    }

    /// Creates the groups of this rank. Every rank creates its own in the same order.
    ///
    /// # Errors
    /// A group could not be created, or the product of the sizes is not the world size.
    pub fn new(sizes: ParallelSizes, factory: &dyn ProcessGroupFactory) -> Result<Self, CommError> {
        if sizes.world() as usize != factory.world() {
            return Err(CommError::Bug(format!(
                "{} ranks were started, the run needs {}",
                factory.world(),
                sizes.world()
            )));
        }
        let position = Position::of(sizes, factory.rank());
        let mut mesh = Self { sizes, ..Self::single() };
        for axis in Axis::ALL {
            let members = position.along(&[axis]);
            mesh.axes[axis as usize] = match axis {
                // Neighbours on these axes send tensors to each other.
                Axis::Context | Axis::Pipeline => mesh.add(axis.name(), &members, |name| factory.ring(name, &members))?,
                Axis::Tensor | Axis::Data => mesh.form(factory, axis.name(), &members)?,
            };
        }
        let (tensor, context, data) = (Axis::Tensor, Axis::Context, Axis::Data);
        // Gradients are reduced during the backward pass, while the context-parallel group exchanges keys and values.
        // A separate group is needed: in one group the ranks might start the two in different orders.
        mesh.dp_cp = match sizes.cp {
            1 => mesh.axis(data).clone(),
            _ => mesh.form(factory, "dp_cp", &position.along(&[context, data]))?,
        };
        mesh.tp_cp = match (sizes.tp, sizes.cp) {
            (_, 1) => mesh.axis(tensor).clone(),
            (1, _) => mesh.axis(context).clone(),
            _ => mesh.form(factory, "tp_cp", &position.along(&[tensor, context]))?,
        };
        let stages = position.along(&[Axis::Pipeline]);
        let (first, last) = (stages[0], stages[stages.len() - 1]);
        if stages.len() == 2 {
            mesh.embedding = mesh.axis(Axis::Pipeline).clone();
        } else if stages.len() > 2 && [first, last].contains(&factory.rank()) {
            mesh.embedding = mesh.form(factory, "embedding", &[first, last])?;
        }
        mesh.world = mesh.form(factory, "world", &(0..factory.world()).collect::<Vec<_>>())?;
        Ok(mesh)
    }

    fn form(
        &mut self,
        factory: &dyn ProcessGroupFactory,
        name: &'static str,
        members: &[usize],
    ) -> Result<Arc<dyn ProcessGroup>, CommError> {
        self.add(name, members, |name| factory.group(name, members))
    }

    fn add(
        &mut self,
        name: &'static str,
        members: &[usize],
        form: impl FnOnce(&str) -> Result<Arc<dyn ProcessGroup>, CommError>,
    ) -> Result<Arc<dyn ProcessGroup>, CommError> {
        if members.len() == 1 {
            return Ok(Arc::new(Solo));
        }
        let group = Arc::new(Counted::new(name, form(&format!("{name}.{}", members[0]))?));
        self.counted.push(group.clone());
        Ok(group)
    }

    /// Returns the number of ranks along each axis.
    pub fn sizes(&self) -> ParallelSizes {
        self.sizes
    }

    /// Returns this rank's group along `axis`.
    pub fn axis(&self, axis: Axis) -> &Arc<dyn ProcessGroup> {
        &self.axes[axis as usize]
    }

    /// Returns the DP-CP group: ranks that hold the same parameters and train on different data, the context axis
    /// varying fastest. Gradients are summed over them.
    pub fn dp_cp_group(&self) -> &Arc<dyn ProcessGroup> {
        &self.dp_cp
    }

    /// Returns the TP-CP group: ranks that train the same layers on the same samples, the tensor axis varying fastest.
    /// The images of a microbatch are split among them.
    pub fn tp_cp_group(&self) -> &Arc<dyn ProcessGroup> {
        &self.tp_cp
    }

    /// Returns the embedding group: the first and the last pipeline stage, which both hold a tied embedding. On the
    /// stages between them, a group of one rank.
    pub fn embedding_group(&self) -> &Arc<dyn ProcessGroup> {
        &self.embedding
    }

    /// Returns the group of all ranks.
    pub fn world(&self) -> &Arc<dyn ProcessGroup> {
        &self.world
    }

    /// Returns whether this is rank 0, which writes what all ranks agree on.
    pub fn is_first(&self) -> bool {
        self.world.rank() == 0
    }

    /// Records the collectives of all groups in a profile, and lets the phases of a run record theirs.
    #[must_use]
    pub fn profiled(self, profiler: Profiler) -> Self {
        self.counted.iter().for_each(|group| group.record(&profiler));
        Self { profiler, ..self }
    }

    /// Returns the recorder of this rank.
    pub fn profiler(&self) -> &Profiler {
        &self.profiler
    }

    /// Returns what this rank has sent through each of its groups, by the group's name.
    pub fn traffic(&self) -> BTreeMap<&'static str, Traffic> {
        self.counted.iter().map(|group| (group.name(), group.traffic())).collect()
    }
}

/// Coordinates of a rank in the mesh.
struct Position {
    sizes: ParallelSizes,
    own: MeshCoordinates,
}

impl Position {
    fn of(sizes: ParallelSizes, rank: usize) -> Self {
        let own = sizes.coordinates(rank as u32);
        Self { sizes, own }
    }

    /// Returns the ranks whose coordinates differ from this one's along `axes` at most, ascending.
    fn along(&self, axes: &[Axis]) -> Vec<usize> {
        let fixed: Vec<_> = Axis::ALL.into_iter().filter(|axis| !axes.contains(axis)).collect();
        let is_member = |rank: &u32| {
            let position = self.sizes.coordinates(*rank);
            fixed.iter().all(|axis| axis.of(position) == axis.of(self.own))
        };
        (0..self.sizes.world()).filter(is_member).map(|rank| rank as usize).collect()
    }
}
