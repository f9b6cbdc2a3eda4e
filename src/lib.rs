//! Trommel deduplicates training corpora held in Parquet: a declarative pipeline streams the shards, finds exact, near and
//! semantic duplicates, selects a coreset, and writes pruned shards with a lineage that says of every input row what became of it and
//! because of which other row. This page is the architecture; `README.md` is for users.
//!
//! # The one rule
//!
//! Wide data never crosses a barrier. Texts flow from source to sink in row-local phases; a barrier sees narrow rows only: the row
//! id, what features made of the row (hashes, vectors), and columns that a stage names. So nothing wide is shuffled, memory is
//! bounded, and each (phase, shard) is a task whose artefact can be kept and used again.
//!
//! # Floors
//!
//! Imports go down only, and siblings inside the floor of algorithms do not know each other; `tests/it/architecture.rs` reads the
//! `use crate::` lines and fails on an arrow that goes up, and on an outside crate named outside its door.
//!
//! | floor | modules | what lives there |
//! |---|---|---|
//! | 0 base | [`error`], [`diagnostic`], [`ids`], [`limits`], [`random`], [`fault`], [`declare`] | failures with exit codes, problems with positions, names, bounds, keyed randomness, faults on purpose, tables of what may be declared |
//! | 1 doors | [`storage`], [`telemetry`], [`engine`] | files; clocks and progress; DataFusion: each outside thing is named in one folder |
//! | 2 algorithms | [`text`], [`sketch`], [`embed`], [`vector`], [`cluster`], [`select`] | pure, each fast path with a slow oracle in its tests; `embed::runtime` alone names `ort`, `embed::tract` alone tract, `vector::hnsw` alone `hnsw_rs` |
//! | 3 data and state | [`dataset`], [`state`] | shards in and out; artefacts, lineage, manifest, commit, verification, the state of increments |
//! | 4 stages | [`stages`] | what a user writes in YAML: one file a stage, configuration first, then its operator |
//! | 5 declaration | [`config`], [`plan`] | the pipeline file; the graph, the compiled plan, task keys |
//! | 6 execution | [`run`] | phases, lineage, the dataset, the commit |
//! | 7 surface | [`cli`] | one file a command |
//!
//! # The life of a run
//!
//! 1. `dataset::snapshot` lists the shards in an order of our own, hashes them and checks their footers. A shard is its content
//!    hash; its place in the list is its ordinal; a row is (ordinal, row number).
//! 2. `run::scan` reads each shard once, only the columns that stages name. Row-local stages decide, barriers get their cheap
//!    features (hashes, draws, ordering columns), and the document ids are kept: one narrow row for each row of the shard.
//! 3. For each stage in plan order: `run::feature` embeds the live rows of its one column, `run::fitted` fits a map to all vectors and
//!    makes a table of new ones for each shard, `run::barrier` streams the narrow live
//!    rows of all shards through the stage and splits its drops into one table a shard; one that must see texts names rows, which
//!    `run::named` reads once more by row selection. Which rows are live is computed shard by
//!    shard from the artefacts (`run::context`), never held for all.
//! 4. `run::lineage` joins each dropped row with the row that it names by two sorts that spill, and checks conservation and
//!    representatives on the way. `run::prune` writes the rows that the sink receives; what loses no row is copied undecoded.
//! 5. `state::commit` renames the finished folder: a dataset is visible whole or not at all.
//!
//! With a state (`run::increment`, `state::store`), step 1 leaves out what the state knows; a barrier that compares is given the rows that
//! it kept before as well, as narrow rows ahead of the run's, and with what it fitted then; and before step 5 what it kept of the new
//! shards is written as segments, and the next version's manifest is created where there is none, which is the commit. `state::forget`
//! and `state::compact` make versions of their own.
//!
//! # Invariants
//!
//! * Every input row stands once in the lineage; kept + dropped + rejected = input. Checked before publishing and by `verify`.
//! * A representative was kept by the stage that names it. What became of it afterwards, if it is not kept, is said by its drop by a
//!   stage downstream, in its columns or under `also` in its detail: a chain follows that one (`state::chain`), only moves
//!   downstream, and ends in a row that is kept or was dropped for what it is itself.
//! * Bytes of the dataset depend on the shards' content, their names and the plan: not on threads, batch size or listing order.
//! * What a run promised is on disk before it says so: the bytes of a file before its name, the names in a folder before what names the
//!   folder. `TROMMEL_FAULT`, hidden and for tests alone ([`fault`]), ends the process at any operation, fails any, or records all, and
//!   `tests/it` rebuilds from the record what a power loss may leave.
//! * No byte of a dataset or a state can change unseen, `run.json` apart: files are listed with their BLAKE3, and a manifest ends with a
//!   checksum of itself.
//! * A task key holds all that can change the task's artefact; an artefact counts once its receipt is written, and only while
//!   its bytes have the receipt's hash.
//!
//! # Where this differs from a plain reading of the design
//!
//! * One operator adapter (`engine::shard_exec`) stands for scan, stage and sink of a phase: the work between a descriptor and a
//!   receipt is ordinary code, which is easier to read and to test than a chain of stream operators, and the seam that other
//!   machines need (descriptors in, receipts out, artefacts as the truth) is the same.
//! * A barrier decides and makes no columns; a stage that fits to all rows and then makes one narrow row for each has a shape of its own
//!   (`stages::seam::Shape::Fitted`): the fit is one artefact, and its vectors are one a shard, made and read as those of `embed`.
//! * What the seed systems do in two steps, a score and then a cut by it, is one selecting stage here: a barrier decides, and the score stands in
//!   the lineage of each row that it leaves out. So `redundancy_select` is PRISM's score and percentile; how many rows of a coreset are
//!   kept is one budget in the same words everywhere, exact, and rows that are to pass by a selection take another branch.
//! * [`declare`] is a module of the base: stages (floor 4) and the pipeline file (floor 5) read from the same tables, and the JSON
//!   Schema is printed from them.
//! * `run` computes what `plan` prints, because cached artefacts are known by what a run would compute.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod dataset;
pub mod declare;
pub mod diagnostic;
pub mod embed;
pub mod engine;
pub mod error;
pub mod fault;
pub mod ids;
pub mod limits;
pub mod plan;
pub mod random;
pub mod run;
pub mod select;
pub mod sketch;
pub mod stages;
pub mod state;
pub mod storage;
pub mod telemetry;
pub mod text;
pub mod vector;
