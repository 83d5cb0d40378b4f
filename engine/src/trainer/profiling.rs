//! The profile of a run: steps are recorded from the start of the process, then the first rank writes the spans of all ranks,
//! and prints where the steps went.

use super::fit::Fit;
use super::step::Trainer;
use crate::comm::{all_succeed, gather_on_first_rank};
use crate::error::{EngineError, Result};
use crate::precision::compute_kind;
use crate::profile::{ProfileSummary, RankProfile, STEP, StepWork, measured_peak, write_trace};
use crate::profiler::{Begin, Details, Profiler, Recorded};
use neva_schemas::PROFILE_FILE;
use std::fs::File;
use std::io::BufWriter;
use std::io::Write as _;
use std::path::Path;

impl Trainer {
    /// Returns the work since the start of the process.
    fn work(&self) -> StepWork {
        let products: u64 = self.loaded.parameters.effects().flops().iter().sum();
        StepWork {
            step: 0,
            model_flops: self.model_flops(),
            product_flops: products as f64,
            tokens: if self.counts_samples() { self.batch_counts.tokens } else { 0 },
        }
    }
}

impl Fit<'_> {
    pub(super) fn profiler(&self) -> &Profiler {
        self.trainer.mesh().profiler()
    }

    /// Records a step that ended, with everything up to the next one. Writes the profile after the last step of it.
    pub(super) fn profile_step(&mut self, begin: Option<Begin>, step: u64) -> Result<()> {
        if begin.is_none() {
            return Ok(());
        }
        self.profiler().end(begin, STEP, Details::Step(step));
        let (now, before) = (self.trainer.work(), self.profiled.before);
        self.profiled.done.push(StepWork {
            step,
            model_flops: now.model_flops - before.model_flops,
            product_flops: now.product_flops - before.product_flops,
            tokens: now.tokens - before.tokens,
        });
        self.profiled.before = now;
        if self.profiled.done.len() >= self.profiled.wanted {
            self.finish_profile()?;
        }
        Ok(())
    }

    /// Writes the profile, unless it is written. Every rank calls it.
    pub(super) fn finish_profile(&mut self) -> Result<()> {
        let Some(recorded) = self.profiler().finish() else { return Ok(()) };
        if self.profiled.done.is_empty() {
            // All ranks have done the same steps.
            tracing::warn!("no profile was written: this attempt did no step");
            return Ok(());
        }
        let mesh = self.trainer.mesh();
        // Ranks that share a machine measure its peak together.
        all_succeed(mesh, Ok(()))?;
        let own = self.rank_profile(recorded, true);
        all_succeed(
            mesh,
            own.as_ref().map(drop).map_err(|error| EngineError::Machine(error.to_string())),
        )?;
        let ranks = gather_on_first_rank(mesh, own?)?;
        let written = if mesh.is_first() {
            self.write_profile(&ranks).map(Some)
        } else {
            Ok(None)
        };
        all_succeed(
            mesh,
            written.as_ref().map(drop).map_err(|error| EngineError::Machine(error.to_string())),
        )?;
        if let Some(summary) = written? {
            let path = self.state.run_dir.join(PROFILE_FILE);
            let text = format!("{summary}trace: {}, for https://ui.perfetto.dev\n", path.display());
            self.records.print(&text);
        }
        Ok(())
    }

    /// Writes what this rank recorded of a run that failed, on the first rank. The other ranks may be gone.
    pub(super) fn write_failed_profile(&mut self) {
        let Some(recorded) = self.profiler().finish().filter(|_| self.state.is_first) else {
            return;
        };
        let written = self
            .rank_profile(recorded, false)
            .and_then(|own| self.write_profile(std::slice::from_ref(&own)));
        match written {
            Ok(_) => tracing::info!("{PROFILE_FILE} holds what rank 0 did until the run failed"),
            Err(error) => tracing::warn!("the profile of the failed run was not written: {error}"),
        }
    }

    fn rank_profile(&self, recorded: Recorded, with_peak: bool) -> Result<RankProfile> {
        let trainer = &self.state.run.finetune.trainer;
        let mesh = self.trainer.mesh();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let peak_flops = match with_peak {
            true => measured_peak(compute_kind(trainer.precision()), self.batching.device())?,
            false => 0.0,
        };
        Ok(RankProfile {
            rank: mesh.world().rank(),
            host: host.trim().to_owned(),
            recorded,
            steps: self.profiled.done.clone(),
            precision: trainer.precision(),
            threads: u32::try_from(tch::get_num_threads()).unwrap_or(0),
            peak_flops,
        })
    }

    fn write_profile(&self, ranks: &[RankProfile]) -> Result<ProfileSummary> {
        let summary = ProfileSummary::of(ranks);
        let path = self.state.run_dir.join(PROFILE_FILE);
        write(&path, ranks, &summary).map_err(EngineError::io("write", &path))?;
        Ok(summary)
    }
}

/// Writes a trace under a temporary name, and renames it.
fn write(path: &Path, ranks: &[RankProfile], summary: &ProfileSummary) -> std::io::Result<()> {
    let temporary = path.with_extension("writing");
    let mut file = BufWriter::new(File::create(&temporary)?);
    write_trace(ranks, summary, &mut file)?;
    file.flush()?;
    file.get_ref().sync_all()?;
    std::fs::rename(&temporary, path)
}
