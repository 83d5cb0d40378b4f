//! Decisions of rank 0 for all ranks, and joint success or failure.

use super::mesh::{Axis, Mesh};
use super::process_group::{ProcessGroup, Reduce};
use crate::error::{EngineError, Result};
use neva_schemas::MeshCoordinates;
use serde::{Serialize, de::DeserializeOwned};
use tch::{Kind, Tensor};

/// Runs `decide` on rank 0 and returns its value on every rank. If it fails, the other ranks fail too instead of
/// waiting for rank 0.
///
/// # Errors
/// The error of `decide` on rank 0, [`EngineError::First`] on the others; or communication failed.
pub fn decide_on_first_rank<T: Serialize + DeserializeOwned>(mesh: &Mesh, decide: impl FnOnce() -> Result<T>) -> Result<T> {
    let world = mesh.world();
    if world.size() == 1 {
        return decide();
    }
    if !mesh.is_first() {
        let received: Result<T, (u8, String)> = serde_json::from_slice(&broadcast_bytes(&**world, 0, &[])?).map_err(not_json)?;
        return received.map_err(|(class, message)| EngineError::First { class, message });
    }
    let mine = decide();
    let message = match &mine {
        Ok(value) => serde_json::to_vec(&Ok::<_, (u8, String)>(value)),
        Err(error) => serde_json::to_vec(&Err::<T, _>((error.exit_code(), error.to_string()))),
    };
    let sent = message.map_err(not_json).and_then(|message| broadcast_bytes(&**world, 0, &message));
    // The own error is returned even if it could not be sent.
    mine.and_then(|value| sent.map(|_| value))
}

/// Returns the message of rank `root` on every rank; on the others, `message` is ignored.
fn broadcast_bytes(world: &dyn ProcessGroup, root: usize, message: &[u8]) -> Result<Vec<u8>> {
    let length = Tensor::from(message.len() as i64);
    world.broadcast(&length, root)?;
    let bytes = if world.rank() == root {
        Tensor::f_from_slice(message)?
    } else {
        Tensor::f_zeros([length.int64_value(&[])], (Kind::Uint8, tch::Device::Cpu))?
    };
    world.broadcast(&bytes, root)?;
    Ok(Vec::try_from(&bytes)?)
}

/// Returns the values of all ranks on rank 0, in rank order, and nothing on the others. The ranks send one after another, so
/// that a rank never holds the messages of all.
///
/// # Errors
/// Communication failed.
pub fn gather_on_first_rank<T: Serialize + DeserializeOwned>(mesh: &Mesh, mine: T) -> Result<Vec<T>> {
    let world = mesh.world();
    if world.size() == 1 {
        return Ok(vec![mine]);
    }
    let message = serde_json::to_vec(&mine).map_err(not_json)?;
    let mut values = Vec::new();
    for root in 0..world.size() {
        let received = broadcast_bytes(&**world, root, &message)?;
        if mesh.is_first() {
            values.push(serde_json::from_slice(&received).map_err(not_json)?);
        }
    }
    Ok(values)
}

fn not_json(error: serde_json::Error) -> EngineError {
    EngineError::Bug(format!("a message between ranks is not JSON: {error}"))
}

/// Succeeds if every rank succeeded. If some failed, the others fail with the message of the first of them.
///
/// # Errors
/// This rank's own; [`EngineError::Peer`] if another rank failed; or communication failed.
pub fn all_succeed(mesh: &Mesh, mine: Result<()>) -> Result<()> {
    members_succeed(&**mesh.world(), |rank| rank, mine)
}

/// Returns this pipeline stage's value if every stage succeeded. If some failed, the others fail with the message of
/// the first of them.
///
/// # Errors
/// As [`all_succeed`].
pub fn stages_succeed<T>(mesh: &Mesh, mine: Result<T>) -> Result<T> {
    let stages = mesh.axis(Axis::Pipeline);
    let own = mesh.sizes().coordinates(mesh.world().rank() as u32);
    let rank_of = |stage: usize| {
        let place = MeshCoordinates { pp: stage as u32, ..own };
        mesh.sizes().rank(place) as usize
    };
    let (value, mine) = match mine {
        Ok(value) => (Some(value), Ok(())),
        Err(error) => (None, Err(error)),
    };
    members_succeed(&**stages, rank_of, mine)?;
    value.ok_or_else(|| EngineError::Bug("a stage that failed succeeded".into()))
}

/// Succeeds if every member of the group succeeded. `world_rank` converts a rank of the group.
fn members_succeed(group: &dyn ProcessGroup, world_rank: impl Fn(usize) -> usize, mine: Result<()>) -> Result<()> {
    if group.size() == 1 {
        return mine;
    }
    let message = match &mine {
        Ok(()) => Ok(Vec::new()),
        Err(error) => serde_json::to_vec(&(error.exit_code(), error.to_string())).map_err(not_json),
    };
    let messages = message.and_then(|message| gather_messages(group, message));
    // The own error is returned even if it could not be sent.
    mine?;
    for (member, text) in messages?.iter().enumerate() {
        if !text.trim_ascii().is_empty() {
            let (class, message) = serde_json::from_slice(text).map_err(not_json)?;
            let rank = world_rank(member);
            return Err(EngineError::Peer { rank, class, message });
        }
    }
    Ok(())
}

/// Returns the message of every member; empty if no member has one.
fn gather_messages(group: &dyn ProcessGroup, message: Vec<u8>) -> Result<Vec<Vec<u8>>> {
    let longest = Tensor::from(message.len() as i64);
    group.all_reduce(&longest, Reduce::Max)?;
    let longest = longest.int64_value(&[]);
    if longest == 0 {
        return Ok(Vec::new());
    }
    // Trailing blanks are valid JSON.
    let mut padded = message;
    padded.resize(longest as usize, b' ');
    let all = group.all_gather(&Tensor::f_from_slice(&padded)?)?;
    all.iter().map(|text| Ok(Vec::try_from(text)?)).collect()
}
