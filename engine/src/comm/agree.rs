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
    if !mesh.is_first() {
        let received: Result<T, (u8, String)> = serde_json::from_slice(&first_tells(&**world, &[])?).map_err(not_json)?;
        return received.map_err(|(class, message)| EngineError::First { class, message });
    }
    let mine = decide();
    let message = match &mine {
        Ok(value) => serde_json::to_vec(&Ok::<_, (u8, String)>(value)),
        Err(error) => serde_json::to_vec(&Err::<T, _>((error.class(), error.to_string()))),
    };
    let told = message.map_err(not_json).and_then(|message| first_tells(&**world, &message));
    // Its own error stays the cause, also where it cannot be told.
    mine.and_then(|value| told.map(|_| value))
}

/// What the first rank says, on every rank; on the others, `message` does not matter.
fn first_tells(world: &dyn Collective, message: &[u8]) -> Result<Vec<u8>> {
    let length = Tensor::from(message.len() as i64);
    world.broadcast(&length, 0)?;
    let bytes = if world.rank() == 0 {
        Tensor::f_from_slice(message)?
    } else {
        Tensor::f_zeros([length.int64_value(&[])], (Kind::Uint8, tch::Device::Cpu))?
    };
    world.broadcast(&bytes, 0)?;
    Ok(Vec::try_from(&bytes)?)
}

fn not_json(error: serde_json::Error) -> EngineError {
    EngineError::Bug(format!("ranks exchange what is not JSON: {error}"))
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
    let message = match &mine {
        Ok(()) => Ok(Vec::new()),
        Err(error) => serde_json::to_vec(&(error.class(), error.to_string())).map_err(not_json),
    };
    let heard = message.and_then(|message| hear(group, message));
    // Its own error stays the cause, also where it cannot be told.
    mine?;
    for (member, text) in heard?.iter().enumerate() {
        if !text.trim_ascii().is_empty() {
            let (class, message) = serde_json::from_slice(text).map_err(not_json)?;
            let rank = number(member);
            return Err(EngineError::Peer { rank, class, message });
        }
    }
    Ok(())
}

/// What every member says; nothing where none says anything.
fn hear(group: &dyn Collective, message: Vec<u8>) -> Result<Vec<Vec<u8>>> {
    let longest = Tensor::from(message.len() as i64);
    group.all_reduce(&longest, Reduce::Max)?;
    let longest = longest.int64_value(&[]);
    if longest == 0 {
        return Ok(Vec::new());
    }
    // JSON may end in blanks.
    let mut padded = message;
    padded.resize(longest as usize, b' ');
    let all = group.all_gather(&Tensor::f_from_slice(&padded)?)?;
    all.iter().map(|text| Ok(Vec::try_from(text)?)).collect()
}
