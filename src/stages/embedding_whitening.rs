//! `embedding_whitening`: vectors moved, turned and scaled until every direction counts the same, so that distances mean something.

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
use crate::error::{Error, Result};
use crate::ids::StageId;
use crate::limits::MAX_FITTED_DIMENSIONS;
use crate::random::Random;
use crate::vector::affine::Affine;
use crate::vector::moments::{Covariance, Moments};
use crate::vector::whiten::{self, Spectrum, Strength};
use crate::words;

words! {
    /// Which map is fitted.
    pub enum Method {
        /// The mean is subtracted, nothing else.
        Center = "center",
        /// Turned to the principal axes and scaled; fewer dimensions come out where some do not vary, or `dims` says so.
        Pca = "pca",
        /// Scaled along the principal axes, in the dimensions of the input.
        Zca = "zca",
        /// `zca` of groups of dimensions, each alone.
        Group = "group",
    }
}

/// `embedding_whitening: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingWhiteningConfig {
    /// Which map is fitted; default `pca`.
    pub method: Method,
    /// 1 whitens wholly, 0 only turns; default 1.
    pub power: f64,
    /// Dimensions that `pca` keeps at most.
    pub dims: Option<u32>,
    /// So many of the strongest axes are left out; default 0.
    pub skip_top: u32,
    /// The share of the largest variance below which a direction is noise; default 10^-6.
    pub floor: f64,
    /// How many groups `group` makes.
    pub groups: Option<u32>,
    /// Whether each new vector is scaled to length 1; default yes.
    pub normalize: bool,
    /// The stage whose vectors are taken; default the nearest above.
    pub embedding: Option<StageId>,
    /// Seed of the groups; default 1234.
    pub seed: u64,
    /// What becomes of a row with a bad vector; default: kept and never compared.
    pub on_bad_vector: OnBadVector,
}

const DIMENSIONS: Shape = Shape::Int { min: 1, max: MAX_FITTED_DIMENSIONS as i64 };

/// The keys of `embedding_whitening`.
pub const FIELDS: &[Field] = &[
    defaulted(
        "method",
        Shape::Choice(Method::WORDS),
        Presence::Text("pca"),
        "`center` subtracts the mean. `pca` turns to the principal axes and scales them alike. `zca` does so and turns back. `group`: `zca` of groups of dimensions, each alone, for few rows.",
    ),
    defaulted(
        "power",
        Shape::Float { min: 0.0, max: 1.0, exclusive: false },
        Presence::Float(1.0),
        "How far the variances are made alike: 1 wholly, 0 not at all, 0.5 their square roots.",
    ),
    optional("dims", DIMENSIONS, "Dimensions that `pca` keeps at most, those of most variance. Default: all that vary."),
    defaulted(
        "skip_top",
        Shape::Int { min: 0, max: MAX_FITTED_DIMENSIONS as i64 },
        Presence::Int(0),
        "So many axes of most variance are left out: they often hold what all texts share.",
    ),
    fitting::FLOOR,
    optional("groups", DIMENSIONS, "The number of groups of `group`."),
    fitting::NORMALIZE,
    policy::EMBEDDING,
    policy::SEED,
    policy::ON_BAD_VECTOR,
];

impl EmbeddingWhiteningConfig {
    /// Reads the checked map; a key that the method has no use for, and `group` without `groups`, are problems.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let method = fields.text("method").and_then(|word| Method::from_word(&word)).unwrap_or(Method::Pca);
        let useless: &[&str] = match method {
            Method::Center => &["power", "dims", "skip_top", "floor", "groups"],
            Method::Pca => &["groups"],
            Method::Zca => &["dims", "groups"],
            Method::Group => &["dims"],
        };
        for key in useless.iter().filter(|key| fields.has(key)) {
            let message = format!("`{key}` has no meaning for `method: {}`", method.word());
            fields.problem(out, key, message, Some(format!("remove `{key}`, or take another method")));
        }
        if method == Method::Group && !fields.has("groups") {
            fields.problem(out, "", "`method: group` needs `groups`", Some("say how many: `groups: 4`".into()));
        }
        let count = |key| fields.int(key).and_then(|value| u32::try_from(value).ok());
        Self {
            method,
            power: fields.float("power").unwrap_or(1.0),
            dims: count("dims"),
            skip_top: count("skip_top").unwrap_or_default(),
            floor: fields.float("floor").unwrap_or_default(),
            groups: count("groups"),
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
            "groups": self.groups,
            "method": self.method.word(),
            "normalize": self.normalize,
            "on_bad_vector": self.on_bad_vector.word(),
            "power": self.power,
            "seed": self.seed,
            "skip_top": self.skip_top,
        })
    }
}

impl Stage for EmbeddingWhiteningConfig {
    fn kind(&self) -> &'static str {
        "embedding_whitening"
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
        Some(Box::new(Whitening { config: self.clone(), stage: stage.clone() }))
    }

    fn transform(&self, map: Affine) -> Option<Box<dyn Feature>> {
        Some(Box::new(Transform { map, normalize: self.normalize, on_bad_vector: self.on_bad_vector }))
    }
}

/// Takes mean and covariance in one pass; no vector is held.
#[derive(Debug)]
struct Whitening {
    config: EmbeddingWhiteningConfig,
    stage: StageId,
}

impl Fit for Whitening {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Fitted>> {
        Box::pin(async move {
            let dimensions = input.dimensions;
            let _memory = fitting::reserve(engine, dimensions, 0)?;
            let mut moments = Moments::new(dimensions);
            let seen = each_sound(engine, input, |vector| moments.push(vector)).await?;
            let covariance = moments.finish();
            let mut report = seen.report();
            let (map, facts) = spawn::blocking("whitening", move || self.fit(covariance)).await?;
            report.extend(facts);
            Ok(Fitted { map, report })
        })
    }
}

impl Whitening {
    fn fit(&self, covariance: Covariance) -> Result<(Affine, Map<String, Value>)> {
        let config = &self.config;
        let dimensions = covariance.mean.len();
        if let Some(groups) = config.groups.filter(|groups| dimensions > 0 && *groups as usize > dimensions) {
            return Err(Error::usage(format!("more groups than dimensions groups=`{groups}` dimensions=`{dimensions}`"))
                .hint("`groups` divides the dimensions: take fewer"));
        }
        let method = match config.method {
            Method::Center => whiten::Method::Center,
            Method::Pca => whiten::Method::Pca { dims: config.dims.map(|dims| dims as usize) },
            Method::Zca => whiten::Method::Zca,
            Method::Group => whiten::Method::Groups(self.groups(dimensions)),
        };
        let strength = Strength { power: config.power, floor: config.floor, skip_top: config.skip_top as usize };
        let mut report = Map::from_iter([
            ("constant_dimensions".to_owned(), json!(covariance.constant())),
            ("mean_correlation".to_owned(), json!(covariance.mean_correlation())),
        ]);
        let (map, spectrum) = whiten::fit(covariance, &method, strength)?;
        if let Some(rank) = spectrum.as_ref().map(|spectrum| spectrum.rank).filter(|rank| *rank > 0 && *rank <= strength.skip_top) {
            return Err(Error::usage(format!("`skip_top` leaves no direction skip_top=`{}` rank=`{rank}`", strength.skip_top))
                .hint("skip fewer than the vectors have"));
        }
        report.insert("dimensions".into(), json!({"from": dimensions, "to": map.dimensions()}));
        if let Some(Spectrum { rank, condition, effective_rank, explained }) = spectrum {
            report.insert("rank".into(), json!(rank));
            report.insert("condition".into(), json!(condition));
            report.insert("effective_rank".into(), json!(effective_rank));
            report.insert("explained_variance".into(), json!(explained));
        }
        Ok((map, report))
    }

    /// The group of each dimension: dimensions in the order of their draws are dealt out in turn.
    fn groups(&self, dimensions: usize) -> Vec<usize> {
        let random = Random::new(self.config.seed, self.stage.as_str());
        let mut order: Vec<usize> = (0..dimensions).collect();
        order.sort_by_key(|dimension| (random.draw(&(*dimension as u64).to_le_bytes()), *dimension));
        let mut groups = vec![0; dimensions];
        for (place, dimension) in order.into_iter().enumerate() {
            groups[dimension] = place % self.config.groups.unwrap_or(1).max(1) as usize;
        }
        groups
    }
}
