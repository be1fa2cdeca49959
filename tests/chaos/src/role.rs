//! What a process of a run can be.

mod operator;
pub mod producer;
pub mod worker;
