//! What the first rank decides for all, and whether all of them succeeded.

use super::collective::{Collective, Reduce};
use super::mesh::{Axis, Mesh};
use crate::error::{EngineError, Result};
use serde::{Serialize, de::DeserializeOwned};
use tch::{Kind, Tensor};

/// What `decide` gives on the first rank, on every rank. Where the first rank fails, the others fail too, so that
/// none waits for it.
///
/// # Errors
/// That of `decide` on the first rank, [`EngineError::First`] on the others; or the ranks could not talk.
pub fn first_decides<T: Serialize + DeserializeOwned>(mesh: &Mesh, decide: impl FnOnce() -> Result<T>) -> Result<T> {
    let world = mesh.world();
    if world.size() == 1 {
        return decide();
    }
    let bug = |error: serde_json::Error| EngineError::Bug(format!("ranks exchange what is not JSON: {error}"));
    let mine = mesh.is_first().then(decide);
    let message = match &mine {
        None => Vec::new(),
        Some(Ok(value)) => serde_json::to_vec(&Ok::<_, (u8, String)>(value)).map_err(bug)?,
        Some(Err(error)) => serde_json::to_vec(&Err::<T, _>((error.class(), error.to_string()))).map_err(bug)?,
    };
    let length = Tensor::from(message.len() as i64);
    world.broadcast(&length, 0)?;
    let bytes = if mesh.is_first() {
        Tensor::f_from_slice(&message)?
    } else {
        Tensor::f_zeros([length.int64_value(&[])], (Kind::Uint8, tch::Device::Cpu))?
    };
    world.broadcast(&bytes, 0)?;
    if let Some(mine) = mine {
        return mine;
    }
    let received: Result<T, (u8, String)> = serde_json::from_slice(&Vec::<u8>::try_from(&bytes)?).map_err(bug)?;
    received.map_err(|(class, message)| EngineError::First { class, message })
}

/// Succeeds where every rank did. Where some failed, the others fail with the words of the first of them.
///
/// # Errors
/// This rank's own; [`EngineError::Peer`] where another one failed; or the ranks could not talk.
pub fn all_succeed(mesh: &Mesh, mine: Result<()>) -> Result<()> {
    members_succeed(&**mesh.world(), |rank| rank, mine)
}

/// What this stage of the pipeline has, where every stage has it. Where some failed, the others fail with the words of
/// the first of them.
///
/// # Errors
/// As [`all_succeed`].
pub fn stages_succeed<T>(mesh: &Mesh, mine: Result<T>) -> Result<T> {
    let stages = mesh.axis(Axis::Pipeline);
    // The pipeline is the outermost axis.
    let each = mesh.world().size() / stages.size();
    let own = mesh.world().rank() % each;
    let (value, mine) = match mine {
        Ok(value) => (Some(value), Ok(())),
        Err(error) => (None, Err(error)),
    };
    members_succeed(&**stages, |stage| stage * each + own, mine)?;
    value.ok_or_else(|| EngineError::Bug("a stage that failed succeeded".into()))
}

/// `number` is that of a member in the world.
fn members_succeed(group: &dyn Collective, number: impl Fn(usize) -> usize, mine: Result<()>) -> Result<()> {
    if group.size() == 1 {
        return mine;
    }
    let bug = |error: serde_json::Error| EngineError::Bug(format!("ranks exchange what is not JSON: {error}"));
    let message = match &mine {
        Ok(()) => Vec::new(),
        Err(error) => serde_json::to_vec(&(error.class(), error.to_string())).map_err(bug)?,
    };
    let longest = Tensor::from(message.len() as i64);
    group.all_reduce(&longest, Reduce::Max)?;
    let longest = longest.int64_value(&[]);
    if longest == 0 {
        return Ok(());
    }
    // JSON may end in blanks.
    let mut padded = message;
    padded.resize(longest as usize, b' ');
    let all = group.all_gather(&Tensor::f_from_slice(&padded)?)?;
    mine?;
    for (member, text) in all.iter().enumerate() {
        let text = Vec::<u8>::try_from(text)?;
        if !text.trim_ascii().is_empty() {
            let (class, message) = serde_json::from_slice(&text).map_err(bug)?;
            let rank = number(member);
            return Err(EngineError::Peer { rank, class, message });
        }
    }
    Ok(())
}
