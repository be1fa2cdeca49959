//! Seeds, each a whole world; and what shows that they say something.

mod conformance;
mod planted;
mod replay;
mod seeds;
