//! `neighbor_dim_reduction`: fewer dimensions, in which neighbours stay neighbours (TLDR, Kalantidis et al. 2022, in closed form).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::fitting::{self, Transform, each_sound};
use super::policy::{self, OnBadVector};
use super::seam::{Feature, Fit, Fitted, Narrow, Shape as StageShape, Stage};
use crate::declare::shape::{defaulted, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, spawn};
use crate::error::Result;
use crate::ids::StageId;
use crate::limits::MAX_FITTED_DIMENSIONS;
use crate::random::Random;
use crate::vector::Matrix;
use crate::vector::affine::Affine;
use crate::vector::cca::{self, TwinCca};
use crate::vector::moments::Moments;
use crate::vector::neighbours::Distinct;

/// `neighbor_dim_reduction: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct NeighborDimReductionConfig {
    /// Dimensions at most.
    pub dims: u32,
    /// Neighbours of each row; default 5.
    pub neighbors: u32,
    /// The share of the largest variance below which a direction is noise; default 10^-6.
    pub floor: f64,
    /// Whether each new vector is scaled to length 1; default yes.
    pub normalize: bool,
    /// The stage whose vectors are taken; default the nearest above.
    pub embedding: Option<StageId>,
    /// Seed of the sample of rows whose neighbours are looked for; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `neighbor_dim_reduction`.
pub const FIELDS: &[Field] = &[
    required(
        "dims",
        Shape::Int { min: 1, max: MAX_FITTED_DIMENSIONS as i64 },
        "Dimensions to keep at most: those in which a row and its neighbours agree most.",
    ),
    defaulted(
        "neighbors",
        Shape::Int { min: 1, max: 1_000 },
        Presence::Int(5),
        "How many most similar other rows are the neighbours of a row. Copies count: drop exact duplicates above.",
    ),
    fitting::FLOOR,
    fitting::NORMALIZE,
    policy::EMBEDDING,
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl NeighborDimReductionConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, _: &mut Diagnostics) -> Self {
        let count = |key| fields.int(key).and_then(|value| u32::try_from(value).ok()).unwrap_or(1);
        Self {
            dims: count("dims"),
            neighbors: count("neighbors"),
            floor: fields.float("floor").unwrap_or_default(),
            normalize: fields.bool("normalize").unwrap_or(true),
            embedding: fields.text("embedding").map(StageId::new),
            seed: policy::read_seed(fields),
            on_bad_vector: policy::read_on_bad_vector(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted. The embedding is named by the graph.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "dims": self.dims,
            "floor": self.floor,
            "neighbors": self.neighbors,
            "normalize": self.normalize,
            "on_bad_vector": self.on_bad_vector.word(),
            "seed": self.seed,
        })
    }
}

impl Stage for NeighborDimReductionConfig {
    fn kind(&self) -> &'static str {
        "neighbor_dim_reduction"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn shape(&self) -> StageShape {
        StageShape::Fitted
    }

    fn embedding(&self) -> Option<Option<&StageId>> {
        Some(self.embedding.as_ref())
    }

    fn made_vectors(&self) -> Option<OnBadVector> {
        Some(self.on_bad_vector)
    }

    fn fit(&self, stage: &StageId) -> Option<Box<dyn Fit>> {
        Some(Box::new(Reduction { config: self.clone(), stage: stage.clone() }))
    }

    fn transform(&self, map: Affine) -> Option<Box<dyn Feature>> {
        Some(Box::new(Transform { map, normalize: self.normalize, on_bad_vector: self.on_bad_vector }))
    }
}

/// Distinct vectors whose neighbours are looked for at most: each is compared with all rows, and so many give a matrix of a thousand
/// dimensions with little noise.
const QUERIES: usize = 1 << 14;
/// Bytes a row beside its vector: its draw, its place among the distinct ones and among the columns, its squared length.
const ROW_BYTES: usize = 40;

/// Holds all vectors: a neighbour may be any of them.
#[derive(Debug)]
struct Reduction {
    config: NeighborDimReductionConfig,
    stage: StageId,
}

impl Fit for Reduction {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Fitted>> {
        Box::pin(async move {
            // A matrix has a dimension even where no row has a vector.
            let (dimensions, rows) = (input.dimensions.max(1), input.rows as usize);
            let found = QUERIES * (self.config.neighbors as usize * size_of::<u32>() + size_of::<Vec<u32>>());
            let memory = fitting::reserve(engine, dimensions, rows * (dimensions * size_of::<f32>() + ROW_BYTES) + found)?;
            let mut moments = Moments::new(dimensions);
            let mut data: Vec<f32> = Vec::with_capacity(rows * dimensions);
            let seen = each_sound(engine, input, |vector| {
                moments.push(vector);
                data.extend_from_slice(vector);
            })
            .await?;
            let mut report = seen.report();
            let fitted = spawn::blocking("neighbours", move || {
                let _memory = memory;
                let vectors = Matrix::try_new(&data, dimensions)?;
                let distinct = Distinct::of(vectors, &Random::new(self.config.seed, self.stage.as_str()));
                let shape = (self.config.dims as usize, self.config.neighbors as usize);
                cca::fit(vectors, &distinct, moments.finish(), shape, self.config.floor, QUERIES)
            });
            let TwinCca { map, correlations, rank, queries, copies } = fitted.await?;
            report.insert("dimensions".into(), json!({"from": dimensions, "to": map.dimensions()}));
            report.insert("rank".into(), json!(rank));
            report.insert("queries".into(), json!(queries));
            report.insert("copies".into(), json!(copies));
            report.insert("correlations".into(), json!(correlations));
            Ok(Fitted { map, report })
        })
    }
}
