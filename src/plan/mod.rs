//! Declaration to plan: the graph of the stages, the checks of a whole pipeline, the compiled plan, task keys, and what
//! `trommel plan` prints.

pub mod checked;
pub mod compile;
pub mod graph;
pub mod overlap;
pub mod task;
