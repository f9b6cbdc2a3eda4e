//! What a user writes under `stages`: the closed registry of stage kinds, and one file a kind (config first, then its operator).

use self::seam::Stage;
use crate::declare::shape::optional;
use crate::declare::{Field, Fields, Shape};
use crate::diagnostic::Diagnostics;
use crate::ids::StageId;

mod carry;
pub(crate) mod columns;
mod draw;
pub mod embed;
pub mod exact_dedup;
pub mod filter;
pub mod minhash_dedup;
pub mod policy;
pub mod prototypes;
pub mod sample;
pub mod seam;
pub mod semantic_dedup;
mod vectors;

pub use embed::EmbedConfig;
pub use exact_dedup::ExactDedupConfig;
pub use filter::FilterConfig;
pub use minhash_dedup::MinhashDedupConfig;
pub use prototypes::PrototypesConfig;
pub use sample::SampleConfig;
pub use semantic_dedup::SemanticDedupConfig;

/// The configuration of one stage: its kind and that kind's keys.
#[derive(Debug, Clone, PartialEq)]
pub enum StageConfig {
    /// `filter`.
    Filter(FilterConfig),
    /// `sample`.
    Sample(SampleConfig),
    /// `exact_dedup`.
    ExactDedup(ExactDedupConfig),
    /// `minhash_dedup`.
    MinhashDedup(MinhashDedupConfig),
    /// `embed`.
    Embed(EmbedConfig),
    /// `semantic_dedup`.
    SemanticDedup(SemanticDedupConfig),
    /// `prototypes`.
    Prototypes(PrototypesConfig),
}

/// The stage kinds, each with its keys.
pub const KINDS: &[Field] = &[
    optional("filter", Shape::Map(filter::FIELDS), "Keeps the rows for which an SQL expression holds; NULL counts as false."),
    optional("sample", Shape::Map(sample::FIELDS), "Keeps a random share or number of rows."),
    optional("exact_dedup", Shape::Map(exact_dedup::FIELDS), "Of the rows whose normalised columns are equal, keeps one."),
    optional(
        "minhash_dedup",
        Shape::Map(minhash_dedup::FIELDS),
        "Of rows whose texts share most of their shingles, keeps one; each pair is verified.",
    ),
    optional("embed", Shape::Map(embed::FIELDS), "Makes a vector of each row, with a model or from a column."),
    optional("semantic_dedup", Shape::Map(semantic_dedup::FIELDS), "Of rows whose vectors are near to each other, keeps one (SemDeDup)."),
    optional("prototypes", Shape::Map(prototypes::FIELDS), "Keeps the rows farthest from their cluster's centroid: a coreset."),
];

impl StageConfig {
    /// Reads the map of the kind `kind`, which the table has checked; `None` for a kind that is not in [`KINDS`].
    #[must_use]
    pub fn read(kind: &str, fields: &Fields<'_>, out: &mut Diagnostics) -> Option<Self> {
        Some(match kind {
            "filter" => Self::Filter(FilterConfig::read(fields, out)),
            "sample" => Self::Sample(SampleConfig::read(fields, out)),
            "exact_dedup" => Self::ExactDedup(ExactDedupConfig::read(fields, out)),
            "minhash_dedup" => Self::MinhashDedup(MinhashDedupConfig::read(fields, out)),
            "embed" => Self::Embed(EmbedConfig::read(fields, out)),
            "semantic_dedup" => Self::SemanticDedup(SemanticDedupConfig::read(fields, out)),
            "prototypes" => Self::Prototypes(PrototypesConfig::read(fields, out)),
            _ => return None,
        })
    }

    /// Whether the stage compares vectors, and so needs an embed stage above it.
    #[must_use]
    pub fn needs_embedding(&self) -> bool {
        matches!(self, Self::SemanticDedup(_) | Self::Prototypes(_))
    }

    /// The embed stage that the user named, if any.
    #[must_use]
    pub fn embedding(&self) -> Option<&StageId> {
        match self {
            Self::SemanticDedup(config) => config.embedding.as_ref(),
            Self::Prototypes(config) => config.embedding.as_ref(),
            Self::Filter(_) | Self::Sample(_) | Self::ExactDedup(_) | Self::MinhashDedup(_) | Self::Embed(_) => None,
        }
    }

    /// Whether the stage makes a column, which is named by the stage's id and can be added to the output.
    #[must_use]
    pub fn makes_column(&self) -> bool {
        matches!(self, Self::Embed(_))
    }
}

impl std::ops::Deref for StageConfig {
    type Target = dyn Stage;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Filter(config) => config,
            Self::Sample(config) => config,
            Self::ExactDedup(config) => config,
            Self::MinhashDedup(config) => config,
            Self::Embed(config) => config,
            Self::SemanticDedup(config) => config,
            Self::Prototypes(config) => config,
        }
    }
}
