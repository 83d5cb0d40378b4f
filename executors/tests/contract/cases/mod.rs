//! The cases, by topic.

pub(crate) mod attempts;
pub(crate) mod cancelling;
pub(crate) mod failures;
pub(crate) mod final_states;
pub(crate) mod joined;
pub(crate) mod output;
pub(crate) mod rendering;
