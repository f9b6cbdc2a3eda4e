//! The law of row-local operators, for every one that a stage builds: `apply(a ++ b) == apply(a) ++ apply(b)`. Batches therefore
//! change speed alone.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, Float64Array, Int64Array, Int64Builder, LargeStringArray, ListBuilder, RecordBatch, StringArray};
use arrow::array::{StringBuilder, StructBuilder, UInt64Array};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use trommel::ids::StageId;
use trommel::select::online_loss::Settings;
use trommel::select::weighted::Scale;
use trommel::stages::gradient_value_select::Mode;
use trommel::stages::policy::Normalize;
use trommel::stages::policy::{Clusters, Keep, OnBadVector, Order};
use trommel::stages::quota::{Amount, Quota};
use trommel::stages::seam::{ROW, Roles, ScanContext, Shape, Stage};
use trommel::stages::selector_pool;
use trommel::stages::semantic_dedup::{Epsilon, Method, OnEqual, Rule};
use trommel::stages::weighted_score_filter::{Criterion, OnMissing};
use trommel::stages::{
    DiversityMetricsConfig, ExactDedupConfig, FilterConfig, GradientValueSelectConfig, LabelConsistencyScreenConfig,
    OnlineLossFilterConfig, SampleConfig, ScoreFilterConfig, SelectorPoolConfig, SemanticDedupConfig, SnippetPairingConfig,
    WeightedScoreFilterConfig,
};

/// One row: id, text, number, score.
type Row = (Option<String>, Option<String>, Option<i64>, Option<f64>);

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let text = || proptest::option::of(prop_oneof!["[a-cA-C ]{0,6}", "\\PC{0,12}", Just("e\u{301} ﬁ  É,.".to_owned())]);
    let score = proptest::option::of(prop_oneof![any::<f64>(), Just(f64::NAN), Just(-0.0), -2.0..2.0]);
    proptest::collection::vec((text(), text(), proptest::option::of(-3i64..400), score), 0..40)
}

fn batch(rows: &[Row], text: &DataType) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(5..5 + rows.len() as u64));
    let texts = StringArray::from_iter(rows.iter().map(|row| row.1.as_deref()));
    let fields = [("type", DataType::Utf8), ("start", DataType::Int64), ("end", DataType::Int64)];
    let fields: Vec<Field> = fields.into_iter().map(|(name, kind)| Field::new(name, kind, true)).collect();
    let mut entities = ListBuilder::new(StructBuilder::from_fields(fields, 0));
    for (id, _, number, _) in rows {
        let number = number.unwrap_or(0);
        for place in 0..number.rem_euclid(4) {
            let entity = entities.values();
            entity.field_builder::<StringBuilder>(0).unwrap().append_option(id.as_deref());
            entity.field_builder::<Int64Builder>(1).unwrap().append_value(place - 1);
            entity.field_builder::<Int64Builder>(2).unwrap().append_value(number % 6);
            entity.append(true);
        }
        entities.append(number % 5 != 0);
    }
    let columns: [(&str, ArrayRef, bool); 6] = [
        ("entities", Arc::new(entities.finish()), true),
        ("id", Arc::new(LargeStringArray::from_iter(rows.iter().map(|row| row.0.as_deref()))), true),
        ("body", cast(&texts, text).unwrap(), true),
        ("n", Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.2))), true),
        ("score", Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.3))), true),
        (ROW, numbers, false),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn exact(columns: &[&str], normalize: &[Normalize], keep: Keep) -> Box<dyn Stage> {
    Box::new(ExactDedupConfig { columns: columns.iter().map(|column| (*column).to_owned()).collect(), normalize: normalize.to_vec(), keep })
}

fn semantic(keep: Keep) -> Box<dyn Stage> {
    Box::new(SemanticDedupConfig {
        epsilon: Epsilon::Fixed(0.1),
        method: Method::Auto,
        embedding: None,
        rule: Rule::Star,
        keep,
        on_equal: OnEqual::Keep,
        k: Clusters::Auto,
        iterations: None,
        probe: None,
        seed: 9,
        report: Vec::new(),
        write_cells: false,
        on_bad_vector: OnBadVector::Keep,
    })
}

fn weighted(on_missing: OnMissing, quota: Option<Quota>) -> Box<dyn Stage> {
    let criterion = |column: &str, weight| Criterion { column: column.to_owned(), weight };
    let scale = Scale { from: [0.0, 1.0], to: [1.0, 5.0] };
    let criteria = vec![criterion("n", 1.0), criterion("score", 2.0)];
    Box::new(WeightedScoreFilterConfig { criteria, scale, min: Some(1.0), quota, report: Vec::new(), on_missing })
}

/// A stage for every operator that there is, and for what its configuration changes in it.
fn stages() -> Vec<Box<dyn Stage>> {
    let filter = |predicate: &str| -> Box<dyn Stage> { Box::new(FilterConfig { predicate: predicate.to_owned() }) };
    let quota = |amount, group: Option<&str>| Quota { amount, group: group.map(str::to_owned), ..Quota::all() };
    let sample = |amount, group| -> Box<dyn Stage> { Box::new(SampleConfig { quota: quota(amount, group), seed: 3 }) };
    let by = |column: &str, order| Keep::By { column: column.to_owned(), order };
    let all = [Normalize::Nfkc, Normalize::Lowercase, Normalize::StripPunctuation, Normalize::CollapseWhitespace];
    vec![
        filter("length(text) > 2"),
        filter("n % 7 <> 3 or (score > 0 and text like 'a%')"),
        filter("regexp_like(text, '^[a-c]') is not false"),
        filter("true"),
        sample(Amount::Fraction(0.5), None),
        sample(Amount::Rows(7), None),
        sample(Amount::Fraction(0.5), Some("n")),
        sample(Amount::Bytes(70), None),
        sample(Amount::Tokens(70), Some("text")),
        exact(&["text"], &[], Keep::First),
        exact(&["text"], &all, Keep::Last),
        exact(&["text", "n"], &[Normalize::Nfc], Keep::Longest),
        exact(&["n", "text", "score"], &all, Keep::Shortest),
        exact(&["text"], &[Normalize::CollapseWhitespace], by("score", Order::Descending)),
        exact(&["n"], &[], by("id", Order::Ascending)),
        semantic(by("n", Order::Ascending)),
        semantic(by("text", Order::Descending)),
        semantic(Keep::Random),
        Box::new(ScoreFilterConfig { column: "score".into(), order: Order::Ascending, min: None, max: Some(1.0), quota: None }),
        Box::new(ScoreFilterConfig {
            column: "n".into(),
            order: Order::Descending,
            min: None,
            max: None,
            quota: Some(quota(Amount::Tokens(9), Some("score"))),
        }),
        Box::new(GradientValueSelectConfig {
            task: "text".into(),
            gradient_norm: "score".into(),
            amount: Amount::Rows(3),
            embedding: None,
            inverse_temperature: 0.5,
            mode: Mode::Sample,
            oversample: false,
            exclude_tasks: Vec::new(),
            seed: 4,
            on_bad_vector: OnBadVector::Keep,
        }),
        Box::new(SelectorPoolConfig {
            scores: vec!["n".into(), "score".into()],
            amount: Amount::Rows(3),
            embedding: None,
            k: Clusters::Auto,
            allocation: selector_pool::Allocation::ScoreStd,
            weigh_by: Some("n".into()),
            pick: selector_pool::Pick::Ccs,
            bins: 50,
            trim: 0.05,
            iterations: 20,
            seed: 4,
            on_bad_vector: OnBadVector::Keep,
        }),
        Box::new(OnlineLossFilterConfig {
            loss: "score".into(),
            column: "text".into(),
            warmup_fraction: 0.1,
            settings: Settings { warmup: 0, window: 9, batch: 8, alpha: 1.0, limit: 0.4, batches: 5 },
        }),
        Box::new(LabelConsistencyScreenConfig {
            entities: "entities".into(),
            column: "text".into(),
            sample_entities: 3,
            sample_texts: 3,
            flag_ratio: 0.3,
            seed: 4,
        }),
        Box::new(SnippetPairingConfig {
            group: "text".into(),
            threshold: 0.7,
            min_words: 3,
            sample_rows: None,
            embedding: None,
            seed: 4,
            on_bad_vector: OnBadVector::Keep,
        }),
        Box::new(DiversityMetricsConfig {
            embedding: None,
            group: Some("text".into()),
            per_source: false,
            on_bad_vector: OnBadVector::Keep,
        }),
        weighted(OnMissing::Drop, None),
        weighted(OnMissing::Renormalize, Some(quota(Amount::Rows(9), Some("text")))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn batches_can_be_cut_anywhere(rows in rows(), cuts in proptest::collection::vec(0usize..40, 1..4), encoding in 0usize..4, with_id in any::<bool>()) {
        let encodings = [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View, DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))];
        let whole = batch(&rows, &encodings[encoding]);
        let roles = Roles { text: Some("body".into()), id: with_id.then(|| "id".into()) };
        let schema = whole.schema();
        let id = StageId::new("s");
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(rows.len())).chain([0, rows.len()]).collect();
        cuts.sort_unstable();
        for stage in stages() {
            let build = || stage.row_local(&ScanContext { stage: &id, roles: &roles, schema: &schema, whole: true }).unwrap().unwrap();
            let mut operator = build();
            let at_once = operator.apply(&whole).unwrap();
            let made: Vec<_> = operator.makes().iter().map(|field| field.name().clone()).collect();
            prop_assert_eq!(at_once.num_columns(), 1 + made.len(), "{:?}", &stage);
            // One operator sees all parts, and it has seen the whole before: it keeps nothing.
            let parts: Vec<RecordBatch> = cuts.windows(2).map(|cut| operator.apply(&whole.slice(cut[0], cut[1] - cut[0])).unwrap()).collect();
            let joined = concat_batches(&at_once.schema(), &parts).unwrap();
            prop_assert_eq!(format!("{:?}", joined.columns()), format!("{:?}", at_once.columns()), "{:?}", &stage);
            prop_assert_eq!(joined.num_rows(), at_once.num_rows());
            // A feature describes each row; what only decides gives some of them.
            if stage.shape() == Shape::Barrier {
                prop_assert_eq!(at_once.num_rows(), rows.len(), "{:?}", &stage);
            }
            prop_assert_eq!(at_once.column(0).null_count(), 0);
            // Built anew, it does the same.
            let again = build().apply(&whole).unwrap();
            prop_assert_eq!(format!("{:?}", again.columns()), format!("{:?}", at_once.columns()));
        }
    }
}

#[test]
fn rows_that_are_equal_are_described_alike_wherever_they_stand() {
    let row: Row = (Some("i".into()), Some("Some  Text".into()), Some(4), Some(0.5));
    let whole = batch(&vec![row; 30], &DataType::Utf8);
    let schema: Arc<Schema> = whole.schema();
    let (roles, id) = (Roles { text: Some("body".into()), id: None }, StageId::new("s"));
    for stage in stages() {
        // Without an id a draw is made of all columns, of which the row's number is none.
        let made = stage
            .row_local(&ScanContext { stage: &id, roles: &roles, schema: &schema, whole: true })
            .unwrap()
            .unwrap()
            .apply(&whole)
            .unwrap();
        for column in made.columns().iter().skip(1) {
            let first = format!("{:?}", column.slice(0, 1));
            assert!((1..made.num_rows()).all(|row| format!("{:?}", column.slice(row, 1)) == first), "{stage:?}");
        }
        assert!([0, 30].contains(&made.num_rows()), "{stage:?}");
    }
}

#[test]
fn a_row_without_an_id_is_refused_where_the_footer_denied_it() {
    let whole = batch(&[(None, Some("t".into()), None, None), (Some("i".into()), None, None, None)], &DataType::Utf8);
    let (schema, id) = (whole.schema(), StageId::new("s"));
    let roles = Roles { text: Some("body".into()), id: Some("id".into()) };
    for amount in [Amount::Rows(7), Amount::Fraction(0.5)] {
        let stage = SampleConfig { quota: Quota { amount, ..Quota::all() }, seed: 3 };
        let build = |whole| stage.row_local(&ScanContext { stage: &id, roles: &roles, schema: &schema, whole }).unwrap().unwrap();
        let error = build(false).apply(&whole).unwrap_err();
        assert!(error.report().contains("the shard's footer says that each has one"), "{}", error.report());
        build(false).apply(&whole.slice(1, 1)).unwrap();
        build(true).apply(&whole).unwrap();
    }
}
