//! `minhash_dedup`: of rows whose texts share most of their shingles, keeps one. MinHash bands find candidates (Broder 1997, Indyk
//! and Motwani 1998), and each pair that is acted on is verified.

use serde_json::{Value, json};

use self::decide::MinhashDedup;
use self::sketch::{Shingles, Sketch};
use super::policy::{self, Keep, Normalize};
use super::seam::{Barrier, Incremental, Needs, Roles, RowLocal, ScanContext, Shape as StageShape, Stage};
use crate::declare::shape::{defaulted, optional};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::error::Result;
use crate::ids::StageId;
use crate::limits::{MAX_BANDS, MAX_PERMUTATIONS, MAX_SHINGLE};
use crate::sketch::Bands;
use crate::text::shingle::{Shingle, Unit};
use crate::words;

mod candidates;
mod decide;
mod sketch;
mod verify;

words! {
    /// How a candidate pair is checked before it is acted on.
    pub enum Verify {
        /// The Jaccard similarity of the two shingle sets is computed.
        Exact = "exact",
        /// The similarity is estimated from the two signatures.
        Estimate = "estimate",
        /// It is not: sharing a band is enough, as in the peers.
        None = "none",
    }
}

words! {
    /// Which rows of the graph of similar candidates are dropped.
    pub enum Rule {
        /// In keep order, a row is dropped if and only if a row already kept is similar.
        Star = "star",
        /// One row of each connected component is kept.
        Components = "components",
    }
}

words! {
    /// Whose signatures are made.
    pub enum Preset {
        /// datatrove 0.10: its normalisation and words, 5-word shingles, xxHash64, 14 x 8.
        Datatrove = "datatrove",
        /// data-prep-kit's fuzzy deduplication: its normalisation, 5-word shingles, MurmurHash3, 14 x 8.
        DataPrepKit = "data_prep_kit",
    }
}

/// `minhash_dedup: {...}`.
#[derive(Debug, Clone, PartialEq)]
pub struct MinhashDedupConfig {
    /// The text column; default the role `text`.
    pub column: String,
    /// What is done to each text before it is cut into shingles.
    pub normalize: Vec<Normalize>,
    /// What a shingle is; default five words.
    pub shingle: Shingle,
    /// Whose signatures are made; default our own.
    pub preset: Option<Preset>,
    /// Bands of a signature: rows that agree in one are candidates.
    pub bands: u32,
    /// Values of a band.
    pub rows: u32,
    /// The Jaccard similarity from which on two rows are duplicates. `None` only under `verify: none`.
    pub threshold: Option<f64>,
    /// How candidates are checked.
    pub verify: Verify,
    /// Which rows are dropped.
    pub rule: Rule,
    /// The keep order.
    pub keep: Keep,
    /// Only rows that are equal in this column are compared.
    pub within: Option<String>,
    /// Only rows of different sources are compared.
    pub across: bool,
    /// Further thresholds whose counts are reported from the same pass.
    pub report: Vec<f64>,
    /// Seed of the signatures.
    pub seed: u64,
}

const SHINGLE: &[Field] = &[
    optional("words", Shape::Int { min: 1, max: MAX_SHINGLE }, "So many words (UAX #29); in scripts without spaces, so many characters."),
    optional("chars", Shape::Int { min: 1, max: MAX_SHINGLE }, "So many characters."),
    optional("bytes", Shape::Int { min: 1, max: MAX_SHINGLE }, "So many bytes."),
];

const THRESHOLD: Shape = Shape::Float { min: 0.0, max: 1.0, exclusive: true };

/// The keys of `minhash_dedup`.
pub const FIELDS: &[Field] = &[
    optional(
        "threshold",
        THRESHOLD,
        "Two rows are duplicates if the Jaccard similarity of their shingles is at least this. Required, but for `verify: none`.",
    ),
    defaulted("column", Shape::Text, Presence::Text("text"), "The text column that is compared; `text` names the source's role."),
    optional(
        "normalize",
        Normalize::SHAPE,
        "What is done to each text before it is cut, in this order. Default: `[nfc, lowercase, collapse_whitespace]`.",
    ),
    optional("shingle", Shape::Map(SHINGLE), "What a shingle is, such as `{words: 5}`, the default: one of `words`, `chars`, `bytes`."),
    optional(
        "preset",
        Shape::Choice(Preset::WORDS),
        "Makes the signatures of another tool: its normalisation, shingles, hashes and bands.",
    ),
    optional(
        "bands",
        Shape::Int { min: 1, max: MAX_BANDS },
        "Bands of a signature: rows that agree in one are candidates. Goes with `rows`.",
    ),
    optional("rows", Shape::Int { min: 1, max: MAX_BANDS }, "Values of a band. Goes with `bands`."),
    optional(
        "permutations",
        Shape::Int { min: 1, max: MAX_PERMUTATIONS },
        "Values of a signature, where `bands` and `rows` are chosen for `threshold`: the longest bands that find a pair at it with probability .9, or the best that so few values allow. Default 112.",
    ),
    defaulted(
        "verify",
        Shape::Choice(Verify::WORDS),
        Presence::Text("exact"),
        "`exact`: candidates are compared by their shingles. `estimate`: by their signatures. `none`: sharing a band is enough.",
    ),
    defaulted(
        "rule",
        Shape::Choice(Rule::WORDS),
        Presence::Text("star"),
        "`star`: a row is dropped if and only if a row already kept is similar. `components`: one row of each connected component is kept.",
    ),
    defaulted(
        "keep",
        Shape::Any(&[Shape::Choice(&["first", "last", "longest", "shortest"]), Shape::Map(Keep::BY)]),
        Presence::Text("first"),
        "The order in which rows are visited: the corpus's, by the bytes of the text, or by the value of a column.",
    ),
    optional("within", Shape::Text, "Compare only rows that are equal in this column, such as a language."),
    defaulted("across", Shape::Bool, Presence::Bool(false), "Compare only rows of different sources."),
    defaulted("report", Shape::List(&THRESHOLD), Presence::EmptyList, "Further thresholds whose counts are reported from the same pass."),
    policy::SEED,
];

/// Values of a signature where nothing is said.
const PERMUTATIONS: u32 = 112;
/// The keys that a preset fixes.
const OF_PRESET: [&str; 6] = ["normalize", "shingle", "bands", "rows", "permutations", "seed"];

impl MinhashDedupConfig {
    /// Reads the checked map.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let preset = fields.text("preset").and_then(|word| Preset::from_word(&word));
        if let Some(preset) = preset {
            for key in OF_PRESET.into_iter().filter(|key| fields.has(key)) {
                let message = format!("`preset: {}` fixes `{key}`", preset.word());
                fields.problem(out, key, message, Some(format!("remove `{key}`, or remove `preset`")));
            }
        }
        let verify = fields.text("verify").and_then(|word| Verify::from_word(&word)).unwrap_or(Verify::Exact);
        let threshold = fields.float("threshold");
        if verify != Verify::None && !fields.has("threshold") {
            fields.problem(
                out,
                "",
                "`threshold` is missing",
                Some("say from which Jaccard similarity on two texts are duplicates, such as `threshold: 0.8`".into()),
            );
        }
        let report = fields.floats("report");
        let words: Vec<String> = report.iter().map(f64::to_string).collect();
        fields.refuse_repeats(out, "report", &words);
        if verify == Verify::None && !report.is_empty() {
            fields.problem(
                out,
                "report",
                "`report` has no meaning with `verify: none`: no similarity is computed",
                Some("remove `report`, or verify".into()),
            );
        }
        if verify == Verify::None && threshold.is_some() && (preset.is_some() || fields.has("bands")) {
            fields.problem(
                out,
                "threshold",
                "`threshold` has no meaning with `verify: none` and given bands: no similarity is computed",
                Some("remove `threshold`, or verify".into()),
            );
        }
        let (bands, rows) = Self::read_bands(fields, out, preset, threshold);
        let normalize = if fields.has("normalize") {
            Normalize::read(fields, out)
        } else {
            vec![Normalize::Nfc, Normalize::Lowercase, Normalize::CollapseWhitespace]
        };
        Self {
            column: fields.text("column").unwrap_or_default(),
            normalize,
            shingle: read_shingle(fields, out),
            preset,
            bands,
            rows,
            threshold,
            verify,
            rule: fields.text("rule").and_then(|word| Rule::from_word(&word)).unwrap_or(Rule::Star),
            keep: Keep::read(fields),
            within: fields.text("within"),
            across: fields.bool("across").unwrap_or(false),
            report,
            seed: policy::read_seed(fields),
        }
    }

    fn read_bands(fields: &Fields<'_>, out: &mut Diagnostics, preset: Option<Preset>, threshold: Option<f64>) -> (u32, u32) {
        if preset.is_some() {
            return (14, 8);
        }
        let count = |key| fields.int(key).and_then(|value| u32::try_from(value).ok());
        match (fields.has("bands"), fields.has("rows")) {
            (true, true) => {
                if fields.has("permutations") {
                    fields.problem(
                        out,
                        "permutations",
                        "`permutations` is `bands` times `rows`",
                        Some("remove `permutations`, or let it choose: remove `bands` and `rows`".into()),
                    );
                }
                let (bands, rows) = (count("bands").unwrap_or(1), count("rows").unwrap_or(1));
                if i64::from(bands) * i64::from(rows) > MAX_PERMUTATIONS {
                    fields.problem(
                        out,
                        "bands",
                        format!("`bands` times `rows` is {}; the limit is {MAX_PERMUTATIONS}", i64::from(bands) * i64::from(rows)),
                        None,
                    );
                }
                (bands, rows)
            }
            (false, false) => {
                let bands = Bands::for_threshold(threshold.unwrap_or(0.8), count("permutations").unwrap_or(PERMUTATIONS) as usize);
                (bands.bands as u32, bands.rows as u32)
            }
            (given, _) => {
                let (key, other) = if given { ("bands", "rows") } else { ("rows", "bands") };
                fields.problem(out, key, format!("`{key}` without `{other}`"), Some(format!("give `{other}` too, or neither")));
                (1, 1)
            }
        }
    }

    /// How a signature is cut.
    #[must_use]
    pub fn layout(&self) -> Bands {
        Bands { bands: self.bands as usize, rows: self.rows as usize }
    }

    /// The threshold, then the further ones.
    fn thresholds(&self) -> impl Iterator<Item = f64> {
        let further = self.report.iter().filter(|further| Some(**further) != self.threshold);
        self.threshold.iter().chain(further).copied()
    }

    /// Values of a signature.
    #[must_use]
    pub fn permutations(&self) -> usize {
        self.bands as usize * self.rows as usize
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "across": self.across,
            "bands": self.bands,
            "column": self.column,
            "keep": self.keep.canonical(),
            "normalize": self.steps(),
            "preset": self.preset.map(Preset::word),
            "report": self.report,
            "rows": self.rows,
            "rule": self.rule.word(),
            "seed": self.seed,
            "shingle": self.shingle_canonical(),
            "threshold": self.threshold,
            "verify": self.verify.word(),
            "within": self.within,
        })
    }

    fn steps(&self) -> Vec<&'static str> {
        self.normalize.iter().map(|step| step.word()).collect()
    }

    fn shingle_canonical(&self) -> Value {
        match self.shingle.unit {
            Unit::Words => json!({"words": self.shingle.size}),
            Unit::Chars => json!({"chars": self.shingle.size}),
            Unit::Bytes => json!({"bytes": self.shingle.size}),
        }
    }
}

fn read_shingle(fields: &Fields<'_>, out: &mut Diagnostics) -> Shingle {
    let default = Shingle { unit: Unit::Words, size: 5 };
    let Some(map) = fields.map("shingle", SHINGLE) else { return default };
    let units = [("words", Unit::Words), ("chars", Unit::Chars), ("bytes", Unit::Bytes)];
    let given: Vec<_> = units.into_iter().filter(|(key, _)| map.has(key)).collect();
    if let [(key, unit)] = given.as_slice() {
        return map.int(key).and_then(|size| usize::try_from(size).ok()).map_or(default, |size| Shingle { unit: *unit, size });
    }
    let message = if given.is_empty() { "no unit is named" } else { "a shingle has one unit" };
    fields.problem(out, "shingle", message, Some("say one of `words`, `chars`, `bytes`, such as `shingle: {words: 5}`".into()));
    default
}

impl Stage for MinhashDedupConfig {
    fn kind(&self) -> &'static str {
        "minhash_dedup"
    }

    fn version(&self) -> u32 {
        3
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        // Thresholds and rules are the barrier's: changing one sketches nothing again.
        let order = match &self.keep {
            Keep::By { column, .. } => json!({"by": column}),
            Keep::Longest | Keep::Shortest => json!("length"),
            _ => Value::Null,
        };
        Some(json!({
            "bands": self.bands,
            "column": self.column,
            "normalize": self.steps(),
            "order": order,
            "preset": self.preset.map(Preset::word),
            "rows": self.rows,
            "seed": self.seed,
            "shingle": self.shingle_canonical(),
            "signatures": self.verify == Verify::Estimate,
            "within": self.within,
        }))
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn needs(&self, _: &Roles) -> Needs {
        let mut columns = vec![self.column.clone()];
        columns.extend(self.within.clone());
        if let Keep::By { column, .. } = &self.keep {
            columns.push(column.clone());
        }
        Needs { columns, text: vec![self.column.clone()], ..Needs::default() }
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        Ok(Some(Box::new(Sketch::try_new(self, cx)?)))
    }

    fn named(&self) -> Vec<&str> {
        (self.verify == Verify::Exact).then_some(self.column.as_str()).into_iter().collect()
    }

    fn named_rows(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        Ok(Some(Box::new(Shingles::try_new(self, cx)?)))
    }

    fn notes(&self) -> Vec<String> {
        let odds = |threshold: f64| format!("{threshold} with probability {:.3}", self.layout().probability(threshold));
        let found: Vec<String> = self.thresholds().map(odds).collect();
        let mut notes = vec![match found.as_slice() {
            [] => format!("{} bands of {} values", self.bands, self.rows),
            found => format!("{} bands of {} values find a pair at {}", self.bands, self.rows, found.join(", at ")),
        }];
        notes.push(match self.verify {
            Verify::Exact => "each pair acted on is verified by its shingles, texts of candidates are read once more".into(),
            Verify::Estimate => "pairs are estimated from signatures: a dropped row may be under the threshold".into(),
            Verify::None => "pairs are not verified: rows that share a band by chance are dropped".into(),
        });
        notes.push(match (self.rule, self.verify) {
            (Rule::Star, Verify::Exact) => "star: every dropped row is similar to the kept row that it names".into(),
            (Rule::Star, Verify::Estimate) => "star: every dropped row is by estimate similar to the kept row that it names".into(),
            (Rule::Star, Verify::None) => "star: every dropped row shares a band with the kept row that it names".into(),
            (Rule::Components, _) => "components: a chain is dropped whole, its ends may have nothing in common".into(),
        });
        notes
    }

    fn incremental(&self) -> Incremental {
        match self.rule {
            Rule::Star => Incremental::Compares,
            // A row that joins two components would have to take back a row that was kept.
            Rule::Components => Incremental::Refused("`rule: components` may join rows that were kept before: only `rule: star` goes on"),
        }
    }

    fn barrier(&self, _: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(MinhashDedup { config: self.clone() }))
    }
}
