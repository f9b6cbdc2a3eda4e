//! What the cells cost: pairs that they keep apart, measured on rows spread evenly over the corpus.

use serde_json::{Value, json};

use crate::cluster::Threshold;
use crate::error::Result;
use crate::vector::recall::{Recall, evenly, sample_recall, sampled_pairs};
use crate::vector::{Cells, KMeans, Matrix, Probed, Source};

/// Rows whose pairs are all looked for.
const RECALL_ROWS: usize = 256;
/// Rows and cells that the efficiency of the clustering is estimated from (section 5 of the paper looks at 20 cells).
pub(super) const EFFICIENCY_ROWS: usize = 128;
const EFFICIENCY_CELLS: usize = 20;

/// Which pairs of a sample of rows with all rows are looked at.
pub(super) fn recall(probed: &Probed<'_>, threshold: Threshold) -> Result<Recall> {
    let sample = evenly(probed.order.len(), RECALL_ROWS);
    sample_recall(probed, &sample, threshold.minimum(), |similarity| threshold.accepts(similarity))
}

/// [`recall`] as reported, with `probe` cells a row.
pub(super) fn recall_report(recall: &Recall, rows: usize, probe: usize) -> Value {
    let percent = recall.share(probe).map(|share| 100.0 * share);
    json!({"found": recall.found(probe), "pairs": recall.pairs, "percent": percent, "rows": rows.min(RECALL_ROWS)})
}

/// Dedup efficiency of the clustering (SemDeDup's eta): of the duplicate pairs of `sampled` rows, spread evenly over all, with rows of the
/// nearest cells, the share that lies inside one cell.
pub(super) fn efficiency(source: Source<'_>, model: &KMeans, cells: &Cells, threshold: Threshold, sampled: usize) -> Result<Value> {
    let sample = evenly(cells.rows(), sampled);
    let mut vectors = Vec::new();
    let vectors: Matrix<'_> = source.gather(&sample, &mut vectors)?;
    let (near, _) = Cells::nearest(Source::Memory(vectors), model, 1 + EFFICIENCY_CELLS, f64::NEG_INFINITY)?;
    let visit = |(within, all): &mut (u64, u64), place: usize, other: u32| {
        let cell = cells.own(other);
        *within += u64::from(cell == cells.own(sample[place]));
        *all += u64::from(near.of(place as u32).contains(&cell));
    };
    let accepts = |similarity| threshold.accepts(similarity);
    let parts = sampled_pairs(source, &sample, threshold.minimum(), accepts, || (0, 0), visit)?;
    let (within, near) = parts.iter().fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    let percent = if near == 0 { Value::Null } else { json!(100.0 * within as f64 / near as f64) };
    Ok(json!({"eta_percent": percent, "pairs_near": near, "pairs_within": within, "rows": sample.len()}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::OnEqual;
    use crate::random::Random;
    use crate::vector::{Vectors, normalise, similarity};

    /// `groups` directions, each with some noisy copies: more for later groups, so that a sample of the first rows would not do.
    fn planted(groups: usize, dimensions: usize) -> Vectors {
        let mut draws = Random::new(11, "planted").sequence(b"eta");
        let mut normal = || (-2.0 * (1.0 - draws.unit()).ln()).sqrt() * (std::f64::consts::TAU * draws.unit()).cos();
        let mut data: Vec<f32> = Vec::new();
        for group in 0..groups {
            let base: Vec<f64> = (0..dimensions).map(|_| normal()).collect();
            for _ in 0..2 + group % 13 + group / 20 {
                let from = data.len();
                data.extend(base.iter().map(|x| (x + 0.35 * normal()) as f32));
                assert!(normalise(&mut data[from..]));
            }
        }
        Vectors::try_new(data, dimensions).unwrap()
    }

    /// Duplicate pairs of each row inside its cell and everywhere, pair by pair.
    fn brute_force(matrix: Matrix<'_>, cells: &[u32], threshold: &Threshold) -> Vec<(u64, u64)> {
        let is_pair = |a: usize, b: usize| a != b && threshold.accepts(similarity(matrix.row(a), matrix.row(b)));
        let rows = 0..cells.len();
        let of = |a: usize| {
            let all: Vec<usize> = rows.clone().filter(|b| is_pair(a, *b)).collect();
            (all.iter().filter(|b| cells[**b] == cells[a]).count() as u64, all.len() as u64)
        };
        rows.clone().map(of).collect()
    }

    /// Seeds S1, check 7: eta over all rows is brute force's, and the sample's lies within two standard errors of it.
    #[test]
    fn eta_is_that_of_all_pairs() {
        let vectors = planted(160, 6);
        let matrix = vectors.matrix();
        let threshold = Threshold::epsilon(0.08, OnEqual::Keep);
        let rows = matrix.rows();
        assert!(rows > 8 * EFFICIENCY_ROWS, "{rows}");
        for k in [3, 8, 20] {
            let model = KMeans::fit(matrix, k, 20, &Random::new(1, "eta")).unwrap();
            let source = Source::Memory(matrix);
            let (cells, _) = Cells::nearest(source, &model, 1, -2.0).unwrap();
            let pairs = brute_force(matrix, &cells.owns(), &threshold);
            let (within, near) = pairs.iter().fold((0, 0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
            let eta = within as f64 / near as f64;
            assert!(eta > 0.3 && eta < 0.98, "the cells cut some groups: {eta}");

            let all = efficiency(source, &model, &cells, threshold, rows).unwrap();
            let wanted =
                json!({"eta_percent": 100.0 * within as f64 / near as f64, "pairs_near": near, "pairs_within": within, "rows": rows});
            assert_eq!(all, wanted);
            assert_eq!(efficiency(source, &model, &cells, threshold, usize::MAX).unwrap(), wanted);

            // The standard error of a ratio estimated from rows drawn without return (Cochran, Sampling Techniques, 2.39).
            let sample = EFFICIENCY_ROWS as f64;
            let mean = near as f64 / rows as f64;
            let residuals: f64 = pairs.iter().map(|pair| (pair.0 as f64 - eta * pair.1 as f64).powi(2)).sum();
            let variance = (1.0 - sample / rows as f64) / sample * residuals / (rows as f64 - 1.0) / mean.powi(2);
            let sampled = efficiency(source, &model, &cells, threshold, EFFICIENCY_ROWS).unwrap();
            let off = sampled["eta_percent"].as_f64().unwrap() / 100.0 - eta;
            assert_eq!(sampled["rows"], EFFICIENCY_ROWS);
            assert!(off.abs() <= 2.0 * variance.sqrt(), "k={k} off={off} standard error={}", variance.sqrt());
        }
    }

    #[test]
    fn eta_of_no_pairs_is_null() {
        let vectors = planted(2, 6);
        let model = KMeans::fit(vectors.matrix(), 2, 20, &Random::new(1, "eta")).unwrap();
        let source = Source::Memory(vectors.matrix());
        let (cells, _) = Cells::nearest(source, &model, 1, -2.0).unwrap();
        let threshold = Threshold::epsilon(0.0, OnEqual::Keep);
        let found = efficiency(source, &model, &cells, threshold, EFFICIENCY_ROWS).unwrap();
        assert_eq!(found, json!({"eta_percent": null, "pairs_near": 0, "pairs_within": 0, "rows": cells.rows()}));
    }
}
