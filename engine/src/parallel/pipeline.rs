//! Execution of a pipeline schedule on one stage.

use crate::comm::{ProcessGroup, Work};
use crate::error::{EngineError, Result};
use neva_layout::{Action, Pass, Stages};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Number of actions ahead of the present one whose receives are started, to overlap transfers with computation.
const LOOKAHEAD: usize = 2;

/// Stage of a pipeline on this rank.
#[derive(Debug, Clone)]
pub struct Pipeline {
    group: Arc<dyn ProcessGroup>,
    stages: Stages,
}

/// Computation of a stage. A microbatch is identified by its number in the schedule, a model chunk by its number in the
/// stage.
pub trait StageWork {
    /// Returns shape, kind and device of the hidden states of a microbatch between two chunks.
    fn boundary(&self, microbatch: usize) -> (Vec<i64>, Kind, Device);

    /// Returns whether anything before the chunk is trained, so that its input has a gradient. It depends on the config,
    /// never on data, because it decides whether the previous stage waits for the gradient.
    fn input_trained(&self, chunk: usize) -> bool;

    /// Returns whether anything up to the end of the chunk is trained.
    fn output_trained(&self, chunk: usize) -> bool;

    /// Runs a forward pass. Returns the hidden states for the next chunk, or on the last one the output that
    /// [`Self::backward`] needs. `input` is `None` for the first chunk.
    ///
    /// # Errors
    /// A collective failed.
    fn forward(&mut self, microbatch: usize, chunk: usize, input: Option<&Tensor>) -> Result<Tensor>;

    /// Runs a backward pass. Returns the gradient of the input, if it has one. `grad` is the gradient of the output;
    /// `None` for the last chunk.
    ///
    /// # Errors
    /// A collective failed.
    fn backward(&mut self, microbatch: usize, chunk: usize, saved: &SavedActivation, grad: Option<&Tensor>) -> Result<Option<Tensor>>;
}

/// Saved activation of a microbatch between its passes.
#[derive(Debug)]
pub struct SavedActivation {
    /// Input, a leaf; `None` for the first chunk.
    pub input: Option<Tensor>,
    /// Output with its autograd graph.
    pub output: Tensor,
}

/// Report of a stage.
#[derive(Debug, Clone, Default)]
pub struct StageReport {
    /// Largest number of microbatches whose activations were saved at once, summed over its chunks.
    pub most_in_flight: usize,
    /// Processor time that each action took on its thread, in seconds.
    pub seconds: Vec<(Action, f64)>,
}

/// Transfers in flight on a stage.
#[derive(Default)]
struct Transfers {
    receives: BTreeMap<Action, (Tensor, Work)>,
    sends: BTreeMap<Action, Work>,
}

impl Pipeline {
    /// Creates the stage of this rank in the pipeline-parallel group `group`.
    pub fn new(group: Arc<dyn ProcessGroup>, stages: Stages) -> Self {
        Self { group, stages }
    }

    /// Returns the number of the stage.
    pub fn stage(&self) -> usize {
        self.group.rank()
    }

    /// Returns the partition of the layers.
    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    /// Returns the number in the model of a chunk of this stage.
    fn chunk_number(&self, chunk: usize) -> usize {
        self.stages.chunk_number(self.stage(), chunk)
    }

    /// Runs `actions` in order.
    ///
    /// # Errors
    /// A collective or another stage failed, or did not answer before the deadline.
    pub fn run(&self, actions: &[Action], work: &mut impl StageWork) -> Result<StageReport> {
        let mut transfers = Transfers::default();
        let mut saved: BTreeMap<(usize, usize), SavedActivation> = BTreeMap::new();
        let trains = actions.iter().any(|action| action.pass == Pass::Backward);
        let mut report = StageReport::default();
        for (at, action) in actions.iter().enumerate() {
            for ahead in actions[at..].iter().take(1 + LOOKAHEAD) {
                self.start_recv(*ahead, work, &mut transfers)?;
            }
            let received = match transfers.receives.remove(action) {
                Some((tensor, work_handle)) => {
                    work_handle.wait()?;
                    Some(tensor)
                }
                None => None,
            };
            let Action { microbatch, chunk, .. } = *action;
            let started = processor_seconds();
            match action.pass {
                Pass::Forward => {
                    let input = received.map(|input| input.set_requires_grad(trains && work.input_trained(chunk)));
                    let output = work.forward(microbatch, chunk, input.as_ref())?;
                    self.start_send(*action, &output, &mut transfers)?;
                    if trains {
                        saved.insert((microbatch, chunk), SavedActivation { input, output });
                        report.most_in_flight = report.most_in_flight.max(saved.len());
                    }
                }
                Pass::Backward => {
                    // A received gradient proves that the output was received: its send buffer can be freed.
                    let forward = Action {
                        pass: Pass::Forward,
                        ..*action
                    };
                    if let Some(sent) = transfers.sends.remove(&forward).filter(|_| received.is_some()) {
                        sent.wait()?;
                    }
                    let saved = saved
                        .remove(&(microbatch, chunk))
                        .ok_or_else(|| EngineError::Bug(format!("{action:?} comes before its forward pass")))?;
                    if let Some(grad) = work.backward(microbatch, chunk, &saved, received.as_ref())? {
                        self.start_send(*action, &grad, &mut transfers)?;
                    }
                }
            }
            report.seconds.push((*action, processor_seconds() - started));
        }
        transfers.sends.into_values().try_for_each(Work::wait)?;
        Ok(report)
    }

    /// Starts to receive the input of an action from another stage.
    fn start_recv(&self, action: Action, work: &impl StageWork, transfers: &mut Transfers) -> Result<()> {
        let (stages, number) = (self.stages.stages(), self.chunk_number(action.chunk));
        let (from, number) = match action.pass {
            Pass::Forward if number > 0 => ((self.stage() + stages - 1) % stages, number - 1),
            Pass::Backward if number + 1 < stages * self.stages.chunks() && work.output_trained(action.chunk) => {
                ((self.stage() + 1) % stages, number + 1)
            }
            _ => return Ok(()),
        };
        if let Entry::Vacant(place) = transfers.receives.entry(action) {
            let (shape, kind, device) = work.boundary(action.microbatch);
            let tensor = Tensor::f_zeros(&shape, (kind, device))?;
            let work_handle = self.group.recv(&tensor, from, self.tag(action.pass, action.microbatch, number))?;
            place.insert((tensor, work_handle));
        }
        Ok(())
    }

    /// Starts to send the output of an action to the next stage in its direction.
    fn start_send(&self, action: Action, tensor: &Tensor, transfers: &mut Transfers) -> Result<()> {
        let (stages, number) = (self.stages.stages(), self.chunk_number(action.chunk));
        let to = match action.pass {
            Pass::Forward if number + 1 < stages * self.stages.chunks() => (self.stage() + 1) % stages,
            Pass::Backward if number > 0 => (self.stage() + stages - 1) % stages,
            _ => return Ok(()),
        };
        let tensor = tensor.detach().contiguous();
        let work_handle = self.group.send(&tensor, to, self.tag(action.pass, action.microbatch, number))?;
        transfers.sends.insert(action, work_handle);
        Ok(())
    }

    /// Returns the tag of the transfer of a microbatch's output of model chunk `number`.
    fn tag(&self, pass: Pass, microbatch: usize, number: usize) -> u32 {
        let chunks = self.stages.stages() * self.stages.chunks();
        let number = (microbatch * chunks + number) * 2 + usize::from(pass == Pass::Backward);
        // Tags are reused only after far more microbatches than a step has.
        (number % (1 << 30)) as u32
    }
}

/// Returns the processor time of this thread, in seconds.
fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
