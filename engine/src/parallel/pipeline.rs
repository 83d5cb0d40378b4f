//! Runs a pipeline's schedule on one stage.

use crate::comm::{Collective, Pending};
use crate::error::{EngineError, Result};
use neva_layout::{Action, Pass, Stages};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Actions ahead of the present one whose tensors are asked for already, so that they travel while it computes.
const AHEAD: usize = 2;

/// A stage of a pipeline: a rank's place among those that share the layers.
#[derive(Debug, Clone)]
pub struct Pipeline {
    group: Arc<dyn Collective>,
    stages: Stages,
}

/// What a stage computes. A micro-batch is known by its number in the schedule, a section by its chunk.
pub trait StageWork {
    /// Shape, kind and device of the hidden states of a micro-batch between two sections.
    fn boundary(&self, microbatch: usize) -> (Vec<i64>, Kind, Device);

    /// Whether anything in front of the section is trained, so that its input has a gradient. Depends on the run alone,
    /// never on data: the stage in front waits for the gradient or does not.
    fn input_trained(&self, chunk: usize) -> bool;

    /// Whether anything up to the end of the section is trained.
    fn output_trained(&self, chunk: usize) -> bool;

    /// Hidden states for the next section; of the last one, whatever [`Self::backward`] wants to be given. `input` is
    /// `None` where the model starts.
    ///
    /// # Errors
    /// A collective failed.
    fn forward(&mut self, microbatch: usize, chunk: usize, input: Option<&Tensor>) -> Result<Tensor>;

    /// The gradient of `input`, where the section has one that is trained. `grad` is that of `output`; `None` where the
    /// model ends.
    ///
    /// # Errors
    /// A collective failed.
    fn backward(&mut self, microbatch: usize, chunk: usize, kept: &Kept, grad: Option<&Tensor>) -> Result<Option<Tensor>>;
}

/// What a stage keeps of a micro-batch between its passes.
#[derive(Debug)]
pub struct Kept {
    /// A leaf; `None` where the model starts.
    pub input: Option<Tensor>,
    /// With its graph.
    pub output: Tensor,
}

/// What a stage did.
#[derive(Debug, Clone, Default)]
pub struct StageReport {
    /// Most micro-batches whose activations were held at once, summed over its sections.
    pub most_in_flight: usize,
    /// Processor time that each action took on its thread, in seconds.
    pub seconds: Vec<(Action, f64)>,
}

/// What is under way on a stage.
#[derive(Default)]
struct Traffic {
    arriving: BTreeMap<Action, (Tensor, Pending)>,
    leaving: BTreeMap<Action, Pending>,
}

impl Pipeline {
    /// The stage of this rank of `group`.
    pub fn new(group: Arc<dyn Collective>, stages: Stages) -> Self {
        Self { group, stages }
    }

    /// Number of the stage.
    pub fn stage(&self) -> usize {
        self.group.rank()
    }

    /// How the layers are shared out.
    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    /// Number of a chunk of this stage among the model's sections.
    fn section(&self, chunk: usize) -> usize {
        self.stages.number(self.stage(), chunk)
    }

    /// Does `actions`.
    ///
    /// # Errors
    /// A collective or another stage failed, or did not answer before the deadline.
    pub fn run(&self, actions: &[Action], work: &mut impl StageWork) -> Result<StageReport> {
        let mut traffic = Traffic::default();
        let mut kept: BTreeMap<(usize, usize), Kept> = BTreeMap::new();
        let trains = actions.iter().any(|action| action.pass == Pass::Backward);
        let mut report = StageReport::default();
        for (at, action) in actions.iter().enumerate() {
            for ahead in actions[at..].iter().take(1 + AHEAD) {
                self.ask(*ahead, work, &mut traffic)?;
            }
            let arrived = match traffic.arriving.remove(action) {
                Some((tensor, pending)) => {
                    pending.wait()?;
                    Some(tensor)
                }
                None => None,
            };
            let Action { microbatch, chunk, .. } = *action;
            let started = processor_seconds();
            match action.pass {
                Pass::Forward => {
                    let input = arrived.map(|input| input.set_requires_grad(trains && work.input_trained(chunk)));
                    let output = work.forward(microbatch, chunk, input.as_ref())?;
                    self.pass_on(*action, &output, &mut traffic)?;
                    if trains {
                        kept.insert((microbatch, chunk), Kept { input, output });
                        report.most_in_flight = report.most_in_flight.max(kept.len());
                    }
                }
                Pass::Backward => {
                    // Its gradient proves that the output has arrived: what is held of it can go.
                    let forward = Action {
                        pass: Pass::Forward,
                        ..*action
                    };
                    if let Some(sent) = traffic.leaving.remove(&forward).filter(|_| arrived.is_some()) {
                        sent.wait()?;
                    }
                    let kept = kept
                        .remove(&(microbatch, chunk))
                        .ok_or_else(|| EngineError::Bug(format!("{action:?} comes before its forward pass")))?;
                    if let Some(grad) = work.backward(microbatch, chunk, &kept, arrived.as_ref())? {
                        self.pass_on(*action, &grad, &mut traffic)?;
                    }
                }
            }
            report.seconds.push((*action, processor_seconds() - started));
        }
        traffic.leaving.into_values().try_for_each(Pending::wait)?;
        Ok(report)
    }

    /// Starts to receive what an action needs from another stage.
    fn ask(&self, action: Action, work: &impl StageWork, traffic: &mut Traffic) -> Result<()> {
        let (stages, section) = (self.stages.stages(), self.section(action.chunk));
        let (from, section) = match action.pass {
            Pass::Forward if section > 0 => ((self.stage() + stages - 1) % stages, section - 1),
            Pass::Backward if section + 1 < stages * self.stages.chunks() && work.output_trained(action.chunk) => {
                ((self.stage() + 1) % stages, section + 1)
            }
            _ => return Ok(()),
        };
        if let Entry::Vacant(place) = traffic.arriving.entry(action) {
            let (shape, kind, device) = work.boundary(action.microbatch);
            let tensor = Tensor::f_zeros(&shape, (kind, device))?;
            let pending = self.group.recv(&tensor, from, self.tag(action.pass, action.microbatch, section))?;
            place.insert((tensor, pending));
        }
        Ok(())
    }

    /// Starts to send what an action made to the stage that needs it.
    fn pass_on(&self, action: Action, tensor: &Tensor, traffic: &mut Traffic) -> Result<()> {
        let (stages, section) = (self.stages.stages(), self.section(action.chunk));
        let to = match action.pass {
            Pass::Forward if section + 1 < stages * self.stages.chunks() => (self.stage() + 1) % stages,
            Pass::Backward if section > 0 => (self.stage() + stages - 1) % stages,
            _ => return Ok(()),
        };
        let tensor = tensor.detach().contiguous();
        let pending = self.group.send(&tensor, to, self.tag(action.pass, action.microbatch, section))?;
        traffic.leaving.insert(action, pending);
        Ok(())
    }

    /// Transfers are matched by what they carry, never by arrival.
    fn tag(&self, pass: Pass, microbatch: usize, section: usize) -> u32 {
        let sections = self.stages.stages() * self.stages.chunks();
        let number = (microbatch * sections + section) * 2 + usize::from(pass == Pass::Backward);
        // Far more micro-batches than a step has: a tag may be used again once its tensor is there.
        (number % (1 << 30)) as u32
    }
}

/// Time that this thread has computed.
fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
