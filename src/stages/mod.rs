//! What a user writes under `stages`: the closed registry of stage kinds, and one file a kind (config first, then its operator).

use self::seam::Stage;
use crate::declare::shape::optional;
use crate::declare::{Field, Fields, Shape};
use crate::diagnostic::Diagnostics;

mod carry;
mod cells;
pub mod cluster_permanent_pruning;
pub mod codebook_select;
pub(crate) mod columns;
pub mod density_pruning;
pub mod dimension_select;
pub mod diversity_metrics;
mod draw;
pub mod embed;
pub mod embedding_whitening;
pub mod exact_dedup;
pub mod facility_location;
pub mod filter;
mod fitting;
pub mod gradient_value_select;
mod incumbents;
pub mod k_center;
pub mod label_consistency_screen;
pub mod log_det_select;
pub mod maxvol_select;
pub mod minhash_dedup;
pub mod neighbor_dim_reduction;
mod noted;
pub mod online_loss_filter;
pub mod policy;
pub mod prototypes;
pub mod quota;
mod ranked;
pub mod redundancy_select;
pub mod sample;
pub mod score_filter;
pub mod seam;
mod selecting;
pub mod selector_pool;
pub mod semantic_dedup;
pub mod snippet_pairing;
pub mod type_balanced_select;
pub mod variance_select;
mod vectors;
pub mod weighted_score_filter;

pub use cluster_permanent_pruning::ClusterPermanentPruningConfig;
pub use codebook_select::CodebookSelectConfig;
pub use density_pruning::DensityPruningConfig;
pub use dimension_select::DimensionSelectConfig;
pub use diversity_metrics::DiversityMetricsConfig;
pub use embed::EmbedConfig;
pub use embedding_whitening::EmbeddingWhiteningConfig;
pub use exact_dedup::ExactDedupConfig;
pub use facility_location::FacilityLocationConfig;
pub use filter::FilterConfig;
pub use gradient_value_select::GradientValueSelectConfig;
pub use k_center::KCenterConfig;
pub use label_consistency_screen::LabelConsistencyScreenConfig;
pub use log_det_select::LogDetSelectConfig;
pub use maxvol_select::MaxvolSelectConfig;
pub use minhash_dedup::MinhashDedupConfig;
pub use neighbor_dim_reduction::NeighborDimReductionConfig;
pub use online_loss_filter::OnlineLossFilterConfig;
pub use prototypes::PrototypesConfig;
pub use redundancy_select::RedundancySelectConfig;
pub use sample::SampleConfig;
pub use score_filter::ScoreFilterConfig;
pub use selector_pool::SelectorPoolConfig;
pub use semantic_dedup::SemanticDedupConfig;
pub use snippet_pairing::SnippetPairingConfig;
pub use type_balanced_select::TypeBalancedSelectConfig;
pub use variance_select::VarianceSelectConfig;
pub use weighted_score_filter::WeightedScoreFilterConfig;

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
    /// `embedding_whitening`.
    EmbeddingWhitening(EmbeddingWhiteningConfig),
    /// `neighbor_dim_reduction`.
    NeighborDimReduction(NeighborDimReductionConfig),
    /// `dimension_select`.
    DimensionSelect(DimensionSelectConfig),
    /// `semantic_dedup`.
    SemanticDedup(SemanticDedupConfig),
    /// `prototypes`.
    Prototypes(PrototypesConfig),
    /// `online_loss_filter`.
    OnlineLossFilter(OnlineLossFilterConfig),
    /// `snippet_pairing`.
    SnippetPairing(SnippetPairingConfig),
    /// `diversity_metrics`.
    DiversityMetrics(DiversityMetricsConfig),
    /// `label_consistency_screen`.
    LabelConsistencyScreen(LabelConsistencyScreenConfig),
    /// `selector_pool`.
    SelectorPool(SelectorPoolConfig),
    /// `gradient_value_select`.
    GradientValueSelect(GradientValueSelectConfig),
    /// `score_filter`.
    ScoreFilter(ScoreFilterConfig),
    /// `weighted_score_filter`.
    WeightedScoreFilter(WeightedScoreFilterConfig),
    /// `k_center`.
    KCenter(KCenterConfig),
    /// `facility_location`.
    FacilityLocation(FacilityLocationConfig),
    /// `log_det_select`.
    LogDetSelect(LogDetSelectConfig),
    /// `density_pruning`.
    DensityPruning(DensityPruningConfig),
    /// `redundancy_select`.
    RedundancySelect(RedundancySelectConfig),
    /// `maxvol_select`.
    MaxvolSelect(MaxvolSelectConfig),
    /// `variance_select`.
    VarianceSelect(VarianceSelectConfig),
    /// `codebook_select`.
    CodebookSelect(CodebookSelectConfig),
    /// `cluster_permanent_pruning`.
    ClusterPermanentPruning(ClusterPermanentPruningConfig),
    /// `type_balanced_select`.
    TypeBalancedSelect(TypeBalancedSelectConfig),
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
    optional(
        "embedding_whitening",
        Shape::Map(embedding_whitening::FIELDS),
        "Makes new vectors of those above in which every direction counts the same.",
    ),
    optional(
        "neighbor_dim_reduction",
        Shape::Map(neighbor_dim_reduction::FIELDS),
        "Makes shorter vectors of those above in which neighbours stay neighbours (TLDR in closed form).",
    ),
    optional(
        "dimension_select",
        Shape::Map(dimension_select::FIELDS),
        "Makes shorter vectors of those above: the dimensions that vary much and repeat little (Inf-FS).",
    ),
    optional("semantic_dedup", Shape::Map(semantic_dedup::FIELDS), "Of rows whose vectors are near to each other, keeps one (SemDeDup)."),
    optional("prototypes", Shape::Map(prototypes::FIELDS), "Keeps the rows farthest from their cluster's centroid: a coreset."),
    optional(
        "online_loss_filter",
        Shape::Map(online_loss_filter::FIELDS),
        "Replays recorded losses, and drops the rows that a model which sees them once need not train on.",
    ),
    optional(
        "snippet_pairing",
        Shape::Map(snippet_pairing::FIELDS),
        "Drops nothing, and pairs rows of a group that have to do with each other and do not repeat each other (MDCure).",
    ),
    optional("diversity_metrics", Shape::Map(diversity_metrics::FIELDS), "Drops nothing, and reports how many directions the vectors use."),
    optional(
        "label_consistency_screen",
        Shape::Map(label_consistency_screen::FIELDS),
        "Drops nothing, and reports which labels mean something else in one source than in another (B2NERD).",
    ),
    optional(
        "selector_pool",
        Shape::Map(selector_pool::FIELDS),
        "In each cluster, the score that tells its rows apart chooses what is kept (Adapt-infinity).",
    ),
    optional(
        "gradient_value_select",
        Shape::Map(gradient_value_select::FIELDS),
        "Keeps the tasks and rows whose gradients a model learns most from (TIVE).",
    ),
    optional("score_filter", Shape::Map(score_filter::FIELDS), "Keeps the rows that one column scores best."),
    optional(
        "weighted_score_filter",
        Shape::Map(weighted_score_filter::FIELDS),
        "Keeps the rows that the weighted mean of several columns scores best.",
    ),
    optional(
        "k_center",
        Shape::Map(k_center::FIELDS),
        "Keeps rows such that no other row is far from all of them (k-center, farthest first).",
    ),
    optional(
        "log_det_select",
        Shape::Map(log_det_select::FIELDS),
        "Keeps rows whose vectors span the largest volume (a determinantal point process, greedily).",
    ),
    optional(
        "facility_location",
        Shape::Map(facility_location::FIELDS),
        "Keeps rows such that every row is similar to a kept one (facility location).",
    ),
    optional(
        "density_pruning",
        Shape::Map(density_pruning::FIELDS),
        "Keeps a quota of each cluster's rows, larger where it is spread out and lies apart (density-based pruning).",
    ),
    optional(
        "redundancy_select",
        Shape::Map(redundancy_select::FIELDS),
        "Keeps the rows that correlate least, on average, with all others (PRISM).",
    ),
    optional(
        "maxvol_select",
        Shape::Map(maxvol_select::FIELDS),
        "Keeps rows of which every other row is a small combination (maximal volume, MaxInfo).",
    ),
    optional(
        "variance_select",
        Shape::Map(variance_select::FIELDS),
        "Keeps the rows that lie farthest from the mean along the directions of most variance.",
    ),
    optional("codebook_select", Shape::Map(codebook_select::FIELDS), "Keeps one row in so many of each cluster (TL;DR)."),
    optional(
        "cluster_permanent_pruning",
        Shape::Map(cluster_permanent_pruning::FIELDS),
        "Of each cluster, keeps the rows least like any row before them, up to the cluster's share of the budget.",
    ),
    optional(
        "type_balanced_select",
        Shape::Map(type_balanced_select::FIELDS),
        "Keeps for each label about a quota of rows that lie apart: rare labels wholly, frequent ones thinly.",
    ),
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
            "embedding_whitening" => Self::EmbeddingWhitening(EmbeddingWhiteningConfig::read(fields, out)),
            "neighbor_dim_reduction" => Self::NeighborDimReduction(NeighborDimReductionConfig::read(fields, out)),
            "dimension_select" => Self::DimensionSelect(DimensionSelectConfig::read(fields, out)),
            "semantic_dedup" => Self::SemanticDedup(SemanticDedupConfig::read(fields, out)),
            "prototypes" => Self::Prototypes(PrototypesConfig::read(fields, out)),
            "online_loss_filter" => Self::OnlineLossFilter(OnlineLossFilterConfig::read(fields, out)),
            "snippet_pairing" => Self::SnippetPairing(SnippetPairingConfig::read(fields, out)),
            "diversity_metrics" => Self::DiversityMetrics(DiversityMetricsConfig::read(fields, out)),
            "label_consistency_screen" => Self::LabelConsistencyScreen(LabelConsistencyScreenConfig::read(fields, out)),
            "selector_pool" => Self::SelectorPool(SelectorPoolConfig::read(fields, out)),
            "gradient_value_select" => Self::GradientValueSelect(GradientValueSelectConfig::read(fields, out)),
            "score_filter" => Self::ScoreFilter(ScoreFilterConfig::read(fields, out)),
            "weighted_score_filter" => Self::WeightedScoreFilter(WeightedScoreFilterConfig::read(fields, out)),
            "k_center" => Self::KCenter(KCenterConfig::read(fields, out)),
            "log_det_select" => Self::LogDetSelect(LogDetSelectConfig::read(fields, out)),
            "facility_location" => Self::FacilityLocation(FacilityLocationConfig::read(fields, out)),
            "density_pruning" => Self::DensityPruning(DensityPruningConfig::read(fields, out)),
            "redundancy_select" => Self::RedundancySelect(RedundancySelectConfig::read(fields, out)),
            "maxvol_select" => Self::MaxvolSelect(MaxvolSelectConfig::read(fields, out)),
            "variance_select" => Self::VarianceSelect(VarianceSelectConfig::read(fields, out)),
            "codebook_select" => Self::CodebookSelect(CodebookSelectConfig::read(fields, out)),
            "cluster_permanent_pruning" => Self::ClusterPermanentPruning(ClusterPermanentPruningConfig::read(fields, out)),
            "type_balanced_select" => Self::TypeBalancedSelect(TypeBalancedSelectConfig::read(fields, out)),
            _ => return None,
        })
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
            Self::EmbeddingWhitening(config) => config,
            Self::NeighborDimReduction(config) => config,
            Self::DimensionSelect(config) => config,
            Self::SemanticDedup(config) => config,
            Self::Prototypes(config) => config,
            Self::OnlineLossFilter(config) => config,
            Self::SnippetPairing(config) => config,
            Self::DiversityMetrics(config) => config,
            Self::LabelConsistencyScreen(config) => config,
            Self::SelectorPool(config) => config,
            Self::GradientValueSelect(config) => config,
            Self::ScoreFilter(config) => config,
            Self::WeightedScoreFilter(config) => config,
            Self::TypeBalancedSelect(config) => config,
            Self::ClusterPermanentPruning(config) => config,
            Self::CodebookSelect(config) => config,
            Self::VarianceSelect(config) => config,
            Self::MaxvolSelect(config) => config,
            Self::RedundancySelect(config) => config,
            Self::DensityPruning(config) => config,
            Self::FacilityLocation(config) => config,
            Self::LogDetSelect(config) => config,
            Self::KCenter(config) => config,
        }
    }
}
