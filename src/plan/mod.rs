//! Declaration to plan: the graph of the stages, the checks of a whole pipeline, and (from there on) phases and tasks.

pub mod checked;
pub mod graph;
pub mod overlap;
