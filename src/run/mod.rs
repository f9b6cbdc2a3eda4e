//! Carries out a plan: scans, features, barriers, lineage, the dataset, and the commit that publishes it.

mod barrier;
mod context;
pub mod explain;
mod feature;
mod fitted;
mod increment;
mod lineage;
mod named;
mod narrow;
mod prune;
pub mod repeats;
mod report;
pub mod runner;
mod scan;
mod tables;
mod task;
mod verdict;
