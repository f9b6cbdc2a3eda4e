//! `dimension_select`: keeps the dimensions that vary much and repeat little (Infinite Feature Selection, Roffo et al. 2015).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::fitting::{self, Transform, each_sound};
use super::policy::{self, OnBadVector};
use super::seam::{Feature, Fit, Fitted, Narrow, Shape as StageShape, Stage};
use crate::declare::shape::{defaulted, optional};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, spawn};
use crate::error::Result;
use crate::ids::StageId;
use crate::limits::MAX_FITTED_DIMENSIONS;
use crate::random::Random;
use crate::vector::affine::Affine;
use crate::vector::dimensions::{self, Sample, Statistics};
use crate::words;

words! {
    /// How the number of dimensions follows from the scores.
    pub enum Cut {
        /// Those above the best split of the scores in two groups.
        TwoMeans = "two_means",
        /// As many as there are bins of a histogram of the scores that hold more than the mean.
        Histogram = "histogram",
    }
}

/// `dimension_select: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct DimensionSelectConfig {
    /// How much of an edge is variation, the rest is lack of correlation; default 0.5.
    pub alpha: f64,
    /// How much of the longest walks counts, below 1; default 0.9.
    pub damping: f64,
    /// How the number of dimensions follows from the scores.
    pub cut: Cut,
    /// The number of dimensions, in place of `cut`.
    pub dims: Option<u32>,
    /// The rank correlation above which a dimension is a twin of a better one; default 0.95.
    pub redundancy_guard: f64,
    /// Whether each new vector is scaled to length 1; default yes.
    pub normalize: bool,
    /// The stage whose vectors are taken; default the nearest above.
    pub embedding: Option<StageId>,
    /// Seed of the sample that is scored; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

/// The keys of `dimension_select`.
pub const FIELDS: &[Field] = &[
    defaulted(
        "alpha",
        Shape::Float { min: 0.0, max: 1.0, exclusive: false },
        Presence::Float(0.5),
        "What counts: 1 the variation of dimensions alone, 0 their lack of correlation alone.",
    ),
    defaulted(
        "damping",
        Shape::Float { min: 0.0, max: 0.999, exclusive: true },
        Presence::Float(0.9),
        "How much long walks over dimensions count, as a share of the most for which their sum exists.",
    ),
    defaulted(
        "cut",
        Shape::Choice(Cut::WORDS),
        Presence::Text("two_means"),
        "How many are kept: `two_means`, those above the best split of the scores in two groups; `histogram`, as many as the bins that hold more scores than the mean.",
    ),
    optional("dims", Shape::Int { min: 1, max: MAX_FITTED_DIMENSIONS as i64 }, "The number of dimensions to keep, in place of `cut`."),
    defaulted(
        "redundancy_guard",
        Shape::Float { min: 0.0, max: 1.0, exclusive: true },
        Presence::Float(0.95),
        "A dimension whose rank correlation with a better one is above this is left out; 1 leaves none out.",
    ),
    fitting::NORMALIZE,
    policy::EMBEDDING,
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl DimensionSelectConfig {
    /// Reads the checked map; `cut` beside `dims` is a problem.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        if fields.has("cut") && fields.has("dims") {
            fields.problem(
                out,
                "cut",
                "`cut` and `dims` exclude each other",
                Some("keep the one that you mean and remove the other".into()),
            );
        }
        Self {
            alpha: fields.float("alpha").unwrap_or_default(),
            damping: fields.float("damping").unwrap_or_default(),
            cut: fields.text("cut").and_then(|word| Cut::from_word(&word)).unwrap_or(Cut::TwoMeans),
            dims: fields.int("dims").and_then(|value| u32::try_from(value).ok()),
            redundancy_guard: fields.float("redundancy_guard").unwrap_or(1.0),
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
            "alpha": self.alpha,
            "cut": self.dims.map_or_else(|| json!(self.cut.word()), |dims| json!(dims)),
            "damping": self.damping,
            "normalize": self.normalize,
            "on_bad_vector": self.on_bad_vector.word(),
            "redundancy_guard": self.redundancy_guard,
            "seed": self.seed,
        })
    }
}

impl Stage for DimensionSelectConfig {
    fn kind(&self) -> &'static str {
        "dimension_select"
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
        Some(Box::new(Selection { config: self.clone(), stage: stage.clone() }))
    }

    fn transform(&self, map: Affine) -> Option<Box<dyn Feature>> {
        Some(Box::new(Transform { map, normalize: self.normalize, on_bad_vector: self.on_bad_vector }))
    }
}

/// Distinct vectors that are scored at most: a rank correlation of so many is known to 0.01.
const SAMPLE: usize = 1 << 14;
/// Bytes of a number of the sample: itself, and in double precision its column and its ranks.
const NUMBER_BYTES: usize = size_of::<f32>() + 2 * size_of::<f64>();

/// Scores dimensions on a sample.
#[derive(Debug)]
struct Selection {
    config: DimensionSelectConfig,
    stage: StageId,
}

impl Fit for Selection {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Fitted>> {
        Box::pin(async move {
            let dimensions = input.dimensions;
            let sampled = SAMPLE.min(input.rows as usize);
            let memory = fitting::reserve(engine, dimensions, sampled * dimensions * NUMBER_BYTES)?;
            let mut sample = Sample::new(SAMPLE, Random::new(self.config.seed, self.stage.as_str()));
            let mut report = each_sound(engine, input, |vector| sample.push(vector)).await?.report();
            let (map, facts) = spawn::blocking("choosing dimensions", move || {
                let _memory = memory;
                self.fit(&sample, dimensions)
            })
            .await?;
            report.extend(facts);
            Ok(Fitted { map, report })
        })
    }
}

impl Selection {
    fn fit(&self, sample: &Sample, count: usize) -> Result<(Affine, Map<String, Value>)> {
        let config = &self.config;
        let (columns, weights) = sample.columns(count);
        let statistics = Statistics::of(&columns, &weights);
        let scores = dimensions::scores(statistics.graph(config.alpha), count, config.damping)?;
        let ranked = dimensions::ranked(&scores);
        let mut chosen = dimensions::without_twins(&ranked, &statistics, config.redundancy_guard);
        let twins = count - chosen.len();
        let sorted: Vec<f64> = chosen.iter().map(|dimension| scores[*dimension]).collect();
        chosen.truncate(match (config.dims, config.cut) {
            (Some(dims), _) => dims as usize,
            (None, Cut::TwoMeans) => dimensions::two_means(&sorted),
            (None, Cut::Histogram) => dimensions::histogram(&sorted),
        });
        chosen.sort_unstable();
        let map = Affine::picking(vec![0.0; count], &chosen)?;
        let report = Map::from_iter([
            ("dimensions".to_owned(), json!({"from": count, "to": chosen.len()})),
            ("sampled".to_owned(), json!(weights.len())),
            ("twins".to_owned(), json!(twins)),
            ("chosen".to_owned(), json!(chosen)),
        ]);
        Ok((map, report))
    }
}
