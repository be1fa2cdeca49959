//! What a process of a run can be.

pub(crate) mod guest;
mod operator;
pub mod producer;
pub mod worker;
