//! The vocabulary of neva-run: plain, serializable types that say what a run is.
//!
//! This crate is responsible for the typed recipe graph, its validation, the launch plan and the
//! contract between launcher and rank. It does no I/O, reads no environment and no clock, and
//! links no tensor library, so that every other crate can afford to depend on it.
#![forbid(unsafe_code)]

mod callback;
mod contract;
mod custom_data;
mod cut;
mod data;
mod executor;
mod experiment;
mod finetune;
mod layers;
mod log;
mod model;
mod optim;
mod parallel;
mod peft;
mod period;
mod plan;
mod rank_env;
mod recipe;
mod recompute;
mod resume;
mod schedule;
mod schema;
mod script;
mod secret;
mod strategy;
mod sweep;
mod task;
mod trainer;
mod validate;
mod workspace;

pub use callback::{Callback, CustomCallback, EarlyStopping, METRICS, MetricMode};
pub use contract::{
    Engine, ExitClass, FAILURES_FILE, METRICS_FILE, PARAMETERS_FILE, PLAN_FILE, REPORT_FILE, RankFailure, RunReport, env, exit_class,
};
pub use custom_data::CustomData;
pub use data::{Data, ImageDataConfig, ImageProcessMode, ImageTokenPosition, MockDataModule, NevaPreloadedDataModule};
pub use executor::{Executor, LocalExecutor};
pub use experiment::{Experiment, MAX_PARALLEL};
pub use finetune::Finetune;
pub use layers::{LayerShares, Uneven};
pub use log::{Log, MlflowLogger, ModelCheckpoint};
pub use model::{FeatureSelect, LlavaModel, Model, TextConfig, TextModelType, VisionConfig, VisionModelType};
pub use optim::{AdamW, Lion, Optim, ParamGroup, Sgd};
pub use parallel::ParallelSizes;
pub use peft::{LoRA, Peft};
pub use period::Period;
pub use plan::{GenerateRequest, LaunchPlan, PLAN_FORMAT};
pub use rank_env::{RankEnv, Starter};
pub use recipe::{PeftScheme, RecipeArgs, Run};
pub use recompute::{RecomputeGranularity, RecomputeMethod, RecomputeModule};
pub use resume::{AutoResume, RestoreConfig};
pub use schedule::{LrScheduler, RampType};
pub use schema::{SCHEMAS, SchemaEntry};
pub use script::{SCRIPT_LIMIT, Script, ScriptPlan};
pub use secret::{names_secret, without_secrets};
pub use strategy::{CpCommType, DistributedDataParallelConfig, MegatronStrategy, VisionPlacement};
pub use sweep::{SweepMode, SweepOrder};
pub use task::{Dependency, Task, When, Work};
pub use trainer::{Accelerator, LossNormalization, MixedPrecision, NanPolicy, Plugins, Precision, Trainer};
pub use validate::{Problem, Severity, Validate};
pub use workspace::{LOCAL, Workspace};
