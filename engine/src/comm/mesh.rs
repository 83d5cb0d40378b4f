//! The axes that ranks form.

use super::collective::{Collective, CommError, Fabric, Solo};
use super::traffic::{Counted, Traffic};
use neva_schemas::ParallelSizes;
use std::collections::BTreeMap;
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

/// This rank's place: its group along every axis, those of two axes together, and the world.
#[derive(Debug, Clone)]
pub struct Mesh {
    sizes: ParallelSizes,
    axes: [Arc<dyn Collective>; 4],
    replicas: Arc<dyn Collective>,
    sharers: Arc<dyn Collective>,
    ends: Arc<dyn Collective>,
    world: Arc<dyn Collective>,
    counted: Vec<(&'static str, Arc<Counted>)>,
}

impl Mesh {
    /// A mesh of one rank.
    pub fn single() -> Self {
        let solo = || Arc::new(Solo) as Arc<dyn Collective>;
        Self {
            sizes: ParallelSizes::ONE,
            axes: [solo(), solo(), solo(), solo()],
            replicas: solo(),
            sharers: solo(),
            ends: solo(),
            world: solo(),
            counted: Vec::new(),
        }
    }

    /// Forms the groups of this rank. Every rank forms its own in the same order.
    ///
    /// # Errors
    /// A group could not be formed, or the sizes do not make up the world.
    pub fn new(sizes: ParallelSizes, fabric: &dyn Fabric) -> Result<Self, CommError> {
        if sizes.world() as usize != fabric.world() {
            return Err(CommError::Bug(format!(
                "{} ranks were started, the run needs {}",
                fabric.world(),
                sizes.world()
            )));
        }
        let place = Place::of(sizes, fabric.rank());
        let mut mesh = Self { sizes, ..Self::single() };
        for axis in Axis::ALL {
            let members = place.along(&[axis]);
            mesh.axes[axis as usize] = match axis {
                // What they share they pass on from one to the next.
                Axis::Context | Axis::Pipeline => mesh.add(axis.name(), &members, |name| fabric.ring(name, &members))?,
                Axis::Tensor | Axis::Data => mesh.form(fabric, axis.name(), &members)?,
            };
        }
        let (tensor, context, data) = (Axis::Tensor, Axis::Context, Axis::Data);
        // Gradients are sent while a backward pass goes on, when each rank has them. The context axis exchanges keys
        // and values meanwhile: in one group the ranks might start the two in different orders.
        mesh.replicas = match sizes.cp {
            1 => mesh.axis(data).clone(),
            _ => mesh.form(fabric, "replicas", &place.along(&[context, data]))?,
        };
        mesh.sharers = match (sizes.tp, sizes.cp) {
            (_, 1) => mesh.axis(tensor).clone(),
            (1, _) => mesh.axis(context).clone(),
            _ => mesh.form(fabric, "sharers", &place.along(&[tensor, context]))?,
        };
        let stages = place.along(&[Axis::Pipeline]);
        let (first, last) = (stages[0], stages[stages.len() - 1]);
        if stages.len() == 2 {
            mesh.ends = mesh.axis(Axis::Pipeline).clone();
        } else if stages.len() > 2 && [first, last].contains(&fabric.rank()) {
            mesh.ends = mesh.form(fabric, "ends", &[first, last])?;
        }
        mesh.world = mesh.form(fabric, "world", &(0..fabric.world()).collect::<Vec<_>>())?;
        Ok(mesh)
    }

    fn form(&mut self, fabric: &dyn Fabric, name: &'static str, members: &[usize]) -> Result<Arc<dyn Collective>, CommError> {
        self.add(name, members, |name| fabric.group(name, members))
    }

    fn add(
        &mut self,
        name: &'static str,
        members: &[usize],
        form: impl FnOnce(&str) -> Result<Arc<dyn Collective>, CommError>,
    ) -> Result<Arc<dyn Collective>, CommError> {
        if members.len() == 1 {
            return Ok(Arc::new(Solo));
        }
        let group = Arc::new(Counted::new(form(&format!("{name}.{}", members[0]))?));
        self.counted.push((name, group.clone()));
        Ok(group)
    }

    /// Number of ranks along each axis.
    pub fn sizes(&self) -> ParallelSizes {
        self.sizes
    }

    /// This rank's group along `axis`.
    pub fn axis(&self, axis: Axis) -> &Arc<dyn Collective> {
        &self.axes[axis as usize]
    }

    /// Ranks that hold the same parameters and train on different data: those of the context and the data axis, the
    /// context varying fastest. Gradients are summed over them.
    pub fn replicas(&self) -> &Arc<dyn Collective> {
        &self.replicas
    }

    /// Ranks that train the same layers on the same samples: those of the tensor and the context axis, the tensor
    /// varying fastest. They share out the pictures.
    pub fn sharers(&self) -> &Arc<dyn Collective> {
        &self.sharers
    }

    /// The first and the last stage of the pipeline: both hold a tied embedding. On the stages between them, a group of
    /// one rank.
    pub fn ends(&self) -> &Arc<dyn Collective> {
        &self.ends
    }

    /// All ranks.
    pub fn world(&self) -> &Arc<dyn Collective> {
        &self.world
    }

    /// Whether this rank is the one that writes what all ranks agree on.
    pub fn is_first(&self) -> bool {
        self.world.rank() == 0
    }

    /// What this rank has sent through each of its groups, by the group's name.
    pub fn traffic(&self) -> BTreeMap<&'static str, Traffic> {
        self.counted.iter().map(|(name, group)| (*name, group.traffic())).collect()
    }
}

/// Where a rank stands on each axis.
struct Place {
    lengths: [usize; 4],
    coordinates: [usize; 4],
}

impl Place {
    fn of(sizes: ParallelSizes, rank: usize) -> Self {
        let lengths = [sizes.tp, sizes.cp, sizes.dp, sizes.pp].map(|size| size as usize);
        let mut rest = rank;
        let coordinates = lengths.map(|length| {
            let coordinate = rest % length;
            rest /= length;
            coordinate
        });
        Self { lengths, coordinates }
    }

    /// Ranks that differ from this one along `axes` at most, ascending.
    fn along(&self, axes: &[Axis]) -> Vec<usize> {
        let mut ranks = vec![0];
        let mut stride = 1;
        for axis in Axis::ALL {
            let (length, own) = (self.lengths[axis as usize], self.coordinates[axis as usize]);
            let here = if axes.contains(&axis) { 0..length } else { own..own + 1 };
            ranks = here
                .flat_map(|coordinate| ranks.iter().map(move |rank| rank + coordinate * stride).collect::<Vec<_>>())
                .collect();
            stride *= length;
        }
        ranks
    }
}
