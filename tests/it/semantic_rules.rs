//! Semantic deduplication at the level of its parts: vectors, clusters, rules and selection together, without a pipeline.

use std::collections::BTreeSet;

use trommel::cluster::any_earlier::orphans;
use trommel::cluster::{AnyEarlier, Components, Dropped, Keep, OnEqual, Star, Threshold};
use trommel::random::{Random, Sequence};
use trommel::select::prototypes;
use trommel::vector::{KMeans, Rows, Vectors, compare_earlier, nearest, normalise, similarity};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    Star,
    AnyEarlier,
    Components,
}

const RULES: [Rule; 3] = [Rule::Star, Rule::AnyEarlier, Rule::Components];

fn first(_: &[f64]) -> Keep<'_> {
    Keep::First
}

fn hard(distances: &[f64]) -> Keep<'_> {
    Keep::Hard(distances)
}

fn easy(distances: &[f64]) -> Keep<'_> {
    Keep::Easy(distances)
}

/// One cell: the decisions for each threshold, by position in `order`.
fn decide(vectors: &Vectors, order: &[u32], rule: Rule, thresholds: &[Threshold]) -> Vec<Vec<Option<Dropped>>> {
    let rows = Rows::some(vectors.matrix(), order);
    let minimum = Threshold::loosest(thresholds);
    match rule {
        Rule::Star => {
            let mut star = Star::new(rows.len(), thresholds);
            compare_earlier(rows, minimum, &mut star, Star::wants, Star::offer, Star::decide);
            star.finish()
        }
        Rule::AnyEarlier => {
            let mut rule = AnyEarlier::new(rows.len());
            compare_earlier(rows, minimum, &mut rule, AnyEarlier::wants, AnyEarlier::offer, AnyEarlier::decide);
            let among = |threshold: &Threshold, dropped: &[u32], kept: &[u32]| {
                let (dropped, kept) = (rows.at(dropped), rows.at(kept));
                nearest(Rows::some(vectors.matrix(), &dropped), Rows::some(vectors.matrix(), &kept), threshold.minimum())
            };
            thresholds.iter().map(|threshold| rule.decisions(*threshold, |dropped, kept| among(threshold, dropped, kept))).collect()
        }
        Rule::Components => {
            let mut rule = Components::new(rows.len(), thresholds);
            compare_earlier(rows, minimum, &mut rule, Components::wants, Components::offer, Components::decide);
            rule.finish(|a, b| similarity(rows.row(a as usize), rows.row(b as usize)))
        }
    }
}

/// All cells, in the order of a keep policy: for each row of the corpus why it is dropped, rows in place of positions.
fn corpus(vectors: &Vectors, k: usize, keep: fn(&[f64]) -> Keep<'_>, rule: Rule, thresholds: &[Threshold]) -> Vec<Vec<Option<Dropped>>> {
    let (clusters, cosines) = cells(vectors, k);
    let distances: Vec<f64> = cosines.iter().map(|cosine| 1.0 - cosine).collect();
    let order = keep(&distances).order(vectors.rows());
    let mut result = vec![vec![None; vectors.rows()]; thresholds.len()];
    for cell in 0..k as u32 {
        let members: Vec<u32> = order.iter().copied().filter(|row| clusters[*row as usize] == cell).collect();
        for (result, decisions) in result.iter_mut().zip(decide(vectors, &members, rule, thresholds)) {
            for (position, dropped) in decisions.into_iter().enumerate() {
                result[members[position] as usize] = dropped.map(|dropped| Dropped {
                    representative: dropped.representative.map(|position| members[position as usize]),
                    cause: members[dropped.cause as usize],
                    ..dropped
                });
            }
        }
    }
    result
}

fn cells(vectors: &Vectors, k: usize) -> (Vec<u32>, Vec<f64>) {
    KMeans::fit(vectors.matrix(), k, 100, &Random::new(1234, "semantic")).unwrap().assign(vectors.matrix())
}

fn unit(rows: &[&[f64]]) -> Vectors {
    let dimensions = rows[0].len();
    let mut data: Vec<f32> = rows.iter().flat_map(|row| row.iter().map(|x| *x as f32)).collect();
    for row in data.chunks_mut(dimensions) {
        assert!(normalise(row));
    }
    Vectors::try_new(data, dimensions).unwrap()
}

fn kept(decisions: &[Option<Dropped>]) -> Vec<usize> {
    (0..decisions.len()).filter(|row| decisions[*row].is_none()).collect()
}

fn strict(epsilon: f64) -> Threshold {
    Threshold::epsilon(epsilon, OnEqual::Keep)
}

/// Rows 0, 1, 2, ... as an order.
fn rows(vectors: &Vectors) -> Vec<u32> {
    (0..vectors.rows() as u32).collect()
}

fn normal(draws: &mut Sequence) -> f64 {
    (-2.0 * (1.0 - draws.unit()).ln()).sqrt() * (std::f64::consts::TAU * draws.unit()).cos()
}

/// `bases` directions pairwise below cosine .5, each `copies` times with noise of about this length (0: none).
fn planted(bases: usize, copies: usize, dimensions: usize, noise: f64) -> (Vectors, Vec<usize>) {
    let mut draws = Random::new(5, "planted").sequence(b"semantic");
    let mut chosen: Vec<Vec<f64>> = Vec::new();
    while chosen.len() < bases {
        let base: Vec<f64> = (0..dimensions).map(|_| normal(&mut draws)).collect();
        let length = base.iter().map(|x| x * x).sum::<f64>().sqrt();
        let base: Vec<f64> = base.into_iter().map(|x| x / length).collect();
        if chosen.iter().all(|other| other.iter().zip(&base).map(|(a, b)| a * b).sum::<f64>() < 0.5) {
            chosen.push(base);
        }
    }
    let mut truth = Vec::new();
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for row in 0..bases * copies {
        let base = row * 7919 % bases;
        truth.push(base);
        rows.push(chosen[base].iter().map(|x| x + noise / (dimensions as f64).sqrt() * normal(&mut draws)).collect());
    }
    (unit(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>()), truth)
}

/// Seeds S1, check 1: the pairwise vector of the peers' own tests.
#[test]
fn fixed_vectors_give_the_golden_maxima_and_removals() {
    let vectors = unit(&[&[1., 2., 3.], &[4., 5., 6.], &[7., 8., 9.], &[10., 11., 12.], &[1., 2., 3.], &[1., 2., 3.]]);
    let order = rows(&vectors);
    let mut rule = AnyEarlier::new(6);
    let all = Rows::some(vectors.matrix(), &order);
    compare_earlier(all, 0.0, &mut rule, AnyEarlier::wants, AnyEarlier::offer, AnyEarlier::decide);
    let (references, maxima): (Vec<u32>, Vec<f64>) = rule.nearest().iter().flatten().copied().unzip();
    assert_eq!((rule.nearest()[0], references.as_slice()), (None, [0, 1, 2, 0, 0].as_slice()));
    for (found, wanted) in maxima.iter().zip([0.974_632, 0.998_191, 0.999_619, 1.0, 1.0]) {
        assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
    }
    for (epsilon, removed) in [(0.0001, vec![4, 5]), (0.001, vec![3, 4, 5]), (0.01, vec![2, 3, 4, 5]), (0.03, vec![1, 2, 3, 4, 5])] {
        let decisions = &decide(&vectors, &order, Rule::AnyEarlier, &[strict(epsilon)])[0];
        assert_eq!((0..6).filter(|row| decisions[*row].is_some()).collect::<Vec<_>>(), removed, "epsilon={epsilon}");
    }
    // Equal vectors have cosine exactly 1, so that epsilon 0 is the boundary itself.
    let at_zero = |on_equal| kept(&decide(&vectors, &order, Rule::Star, &[Threshold::epsilon(0.0, on_equal)])[0]);
    assert_eq!((at_zero(OnEqual::Keep), at_zero(OnEqual::Drop)), (vec![0, 1, 2, 3, 4, 5], vec![0, 1, 2, 3]));
}

/// Seeds S1, check 2: where the rules part.
#[test]
fn chains_on_the_unit_circle() {
    let threshold = strict(1.0 - 12_f64.to_radians().cos());
    let run = |degrees: &[f64], rule| {
        let points: Vec<[f64; 2]> = degrees.iter().map(|angle| [angle.to_radians().cos(), angle.to_radians().sin()]).collect();
        let vectors = unit(&points.iter().map(<[f64; 2]>::as_slice).collect::<Vec<_>>());
        kept(&decide(&vectors, &rows(&vectors), rule, &[threshold])[0]).into_iter().map(|row| degrees[row]).collect::<Vec<_>>()
    };
    assert_eq!(run(&[0., 10., 20.], Rule::AnyEarlier), [0.]);
    assert_eq!(run(&[0., 10., 20.], Rule::Star), [0., 20.]);
    assert_eq!(run(&[0., 20., 10.], Rule::AnyEarlier), [0., 20.]);
    assert_eq!(run(&[0., 20., 10.], Rule::Star), [0., 20.]);
    assert_eq!(run(&[0., 20., 10.], Rule::Components), [0.]);
    assert_eq!(run(&[0., 10., 20., 30.], Rule::AnyEarlier), [0.]);
    assert_eq!(run(&[0., 10., 20., 30.], Rule::Star), [0., 20.]);
}

/// Seeds S1, check 3: planted copies are found, one cell or many.
#[test]
fn planted_groups_keep_one_each() {
    let (vectors, truth) = planted(20, 10, 32, 0.05);
    for k in [1, 20] {
        for epsilon in [0.02, 0.2, 0.45] {
            for rule in RULES {
                let survivors = kept(&corpus(&vectors, k, first, rule, &[strict(epsilon)])[0]);
                let groups: BTreeSet<usize> = survivors.iter().map(|row| truth[*row]).collect();
                assert_eq!((survivors.len(), groups.len()), (20, 20), "k={k} epsilon={epsilon} {rule:?}");
            }
        }
    }
}

/// Seeds S1, checks 4 and 5: monotone under `any_earlier`; survivors apart under all rules; the star covers.
#[test]
fn survivors_are_apart_and_the_star_covers() {
    let (vectors, _) = planted(30, 20, 8, 0.4);
    let epsilons = [0.01, 0.05, 0.1, 0.2];
    let thresholds = epsilons.map(strict);
    for k in [1, 5] {
        let (clusters, _) = cells(&vectors, k);
        for rule in RULES {
            let runs = corpus(&vectors, k, hard, rule, &thresholds);
            for (decisions, threshold) in runs.iter().zip(thresholds) {
                let survivors = kept(decisions);
                assert!(survivors.len() < 600 && survivors.len() > 1);
                for (a, b) in survivors.iter().flat_map(|a| survivors.iter().map(move |b| (*a, *b))) {
                    if a < b && clusters[a] == clusters[b] {
                        assert!(!threshold.accepts(similarity(vectors.row(a), vectors.row(b))));
                    }
                }
                for (row, dropped) in decisions.iter().enumerate() {
                    let Some(Dropped { representative: Some(representative), similarity: stated, .. }) = *dropped else { continue };
                    let (a, b) = (vectors.row(row), vectors.row(representative as usize));
                    assert!(decisions[representative as usize].is_none() && stated == similarity(a, b));
                    assert!(threshold.accepts(stated) || rule == Rule::Components);
                }
                assert!(rule == Rule::AnyEarlier || orphans(decisions) == 0);
                // One pass for several thresholds gives what a pass for each gives.
                assert_eq!(decisions, &corpus(&vectors, k, hard, rule, &[threshold])[0]);
            }
            if rule == Rule::AnyEarlier {
                for pair in runs.windows(2) {
                    assert!(kept(&pair[1]).iter().all(|row| pair[0][*row].is_none()));
                }
            }
        }
    }
}

/// Seeds S1, check 6: threads and, with an order keyed by content, the order of rows move no decision.
#[test]
fn threads_and_row_order_do_not_matter() {
    let (vectors, _) = planted(40, 30, 12, 0.3);
    let run = |threads: usize, vectors: &Vectors| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| RULES.map(|rule| corpus(vectors, 6, hard, rule, &[strict(0.05), strict(0.1)])))
    };
    let one = run(1, &vectors);
    assert!(one == run(2, &vectors) && one == run(3, &vectors));
    let backwards: Vec<f32> = (0..vectors.rows()).rev().flat_map(|row| vectors.row(row)).copied().collect();
    let back = run(2, &Vectors::try_new(backwards, 12).unwrap());
    let last = vectors.rows() as u32 - 1;
    let mirrored = |dropped: &Option<Dropped>| {
        dropped.map(|dropped| Dropped {
            representative: dropped.representative.map(|row| last - row),
            cause: last - dropped.cause,
            ..dropped
        })
    };
    for (forth, back) in one.iter().flatten().zip(back.iter().flatten()) {
        assert!(forth.iter().copied().eq(back.iter().rev().map(mirrored)));
    }
}

/// Seeds S1, check 7: one cell equals brute force, pair by pair.
#[test]
fn one_cell_equals_brute_force() {
    let (vectors, _) = planted(60, 20, 10, 0.35);
    let (threshold, n) = (strict(0.08), vectors.rows());
    let order = Keep::Random(&(0..n).map(|row| row as u64 * 7919 % 1201).collect::<Vec<_>>()).order(n);
    let near = |a: usize, b: usize| similarity(vectors.row(order[a] as usize), vectors.row(order[b] as usize));
    let (mut star, mut any_earlier) = (vec![true; n], vec![true; n]);
    let mut labels: Vec<usize> = (0..n).collect();
    for later in 0..n {
        for earlier in 0..later {
            if threshold.accepts(near(later, earlier)) {
                star[later] &= !star[earlier];
                any_earlier[later] = false;
                let (from, to) = (labels[later].max(labels[earlier]), labels[later].min(labels[earlier]));
                labels.iter_mut().filter(|label| **label == from).for_each(|label| *label = to);
            }
        }
    }
    let components: Vec<bool> = labels.iter().enumerate().map(|(row, label)| row == *label).collect();
    for (rule, wanted) in [(Rule::Star, star), (Rule::AnyEarlier, any_earlier), (Rule::Components, components)] {
        let found: Vec<bool> = decide(&vectors, &order, rule, &[threshold])[0].iter().map(Option::is_none).collect();
        assert_eq!(found, wanted, "{rule:?}");
        assert!(found.iter().any(|kept| !kept) && found.iter().filter(|kept| **kept).count() > 1);
    }
}

/// Seeds S1, check 8: exact copies go at once, then what is kept falls near-linearly with epsilon.
#[test]
fn the_share_kept_drops_at_once_and_then_falls_evenly() {
    let (mut rows, mut draws) = (Vec::<Vec<f64>>::new(), Random::new(9, "shape").sequence(b"rows"));
    for cluster in 0..40 {
        let centre: Vec<f64> = (0..3).map(|_| normal(&mut draws)).collect();
        let length = centre.iter().map(|x| x * x).sum::<f64>().sqrt();
        // Clusters of many widths, as a corpus has them.
        let width = 0.02 + 0.02 * f64::from(cluster);
        rows.extend((0..40).map(|_| centre.iter().map(|x| x / length + width * normal(&mut draws)).collect::<Vec<_>>()));
    }
    rows.extend((0..400).map(|copy| rows[copy * 3].clone()).collect::<Vec<_>>());
    let vectors = unit(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let share = |epsilon: f64| kept(&corpus(&vectors, 1, first, Rule::Star, &[strict(epsilon)])[0]).len() as f64 / 2000.0;
    assert_eq!(share(0.0), 1.0);
    assert!((share(1e-9) - 0.8).abs() < 0.01, "{}", share(1e-9));
    let points: Vec<(f64, f64)> = (0..8).map(|step| 0.00005 + 0.00005 * f64::from(step)).map(|epsilon| (epsilon, share(epsilon))).collect();
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / points.len() as f64;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let sum = |value: &dyn Fn(f64, f64) -> f64| points.iter().map(|p| value(p.0 - x, p.1 - y)).sum::<f64>();
    let (xy, xx, yy) = (sum(&|x, y| x * y), sum(&|x, _| x * x), sum(&|_, y| y * y));
    assert!(xy < 0.0 && xy * xy / (xx * yy) > 0.98, "R^2={} {points:?}", xy * xy / (xx * yy));
}

/// The test data of NeMo Curator: 1,500 points in three dimensions, five clusters, epsilon .01, equality drops.
#[test]
fn nemo_blobs_give_the_golden_counts() {
    let bytes = include_bytes!("../golden/nemo_blobs.npy");
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(String::from_utf8_lossy(&bytes[10..header]).contains("'descr': '<f8', 'fortran_order': False, 'shape': (1500, 3)"));
    let numbers: Vec<f64> = bytes[header..].chunks_exact(8).map(|chunk| f64::from_le_bytes(chunk.try_into().unwrap())).collect();
    let vectors = unit(&numbers.chunks(3).collect::<Vec<_>>());
    let threshold = [Threshold::epsilon(0.01, OnEqual::Drop)];
    // Orphans as the golden figures count them: no survivor of any cell is within epsilon. The decisions look into the own cell.
    let run = |keep: fn(&[f64]) -> Keep<'_>, rule| {
        let decisions = &corpus(&vectors, 5, keep, rule, &threshold)[0];
        let survivors = kept(decisions);
        let near = |row: usize| survivors.iter().any(|other| threshold[0].accepts(similarity(vectors.row(row), vectors.row(*other))));
        let orphaned = (0..1500).filter(|row| !near(*row)).count();
        assert!(orphaned <= orphans(decisions));
        (1500 - survivors.len(), orphaned)
    };
    assert_eq!(run(hard, Rule::AnyEarlier), (1471, 840));
    assert_eq!(run(easy, Rule::AnyEarlier), (1495, 394));
    assert_eq!(run(hard, Rule::Star), (1500 - 52, 0));
    assert_eq!(run(easy, Rule::Star), (1500 - 38, 0));
}

/// Seeds S2, check 1: of a dense core and a ring around it, prototypes keep the ring.
#[test]
fn prototypes_keep_the_ring() {
    let mut draws = Random::new(3, "ring").sequence(b"rows");
    let points: Vec<[f64; 3]> = (0..400)
        .map(|row| {
            let (radius, angle) = (if row % 2 == 0 { 0.02 } else { 0.3 }, std::f64::consts::TAU * draws.unit());
            let side = if row % 4 < 2 { 1.0 } else { -1.0 };
            [side, radius * angle.cos(), radius * angle.sin()]
        })
        .collect();
    let vectors = unit(&points.iter().map(<[f64; 3]>::as_slice).collect::<Vec<_>>());
    let (clusters, cosines) = cells(&vectors, 2);
    let distances: Vec<f64> = cosines.iter().map(|cosine| 1.0 - cosine).collect();
    let selected = prototypes::select(&clusters, 2, &prototypes::order(&distances), &[1; 400], 200, 0.0);
    assert!(selected.iter().enumerate().all(|(row, kept)| *kept == (row % 2 == 1)));
}

/// Seeds S2, checks 2 and 3: duplicates drag centroids, so survivors are clustered again; at full budget each part is the identity.
#[test]
fn survivors_are_clustered_again() {
    let mut draws = Random::new(4, "d4").sequence(b"rows");
    let mut points: Vec<Vec<f64>> =
        (0..200).map(|_| (0..3).map(|axis| if axis == 0 { 1.0 } else { 0.4 * normal(&mut draws) }).collect()).collect();
    // A hundred copies of one point off the middle.
    points.extend((0..100).map(|_| vec![1.0, 0.5, 0.0]));
    let vectors = unit(&points.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let fit = |vectors: &Vectors| KMeans::fit(vectors.matrix(), 1, 20, &Random::new(1, "d4")).unwrap();
    let survivors = kept(&decide(&vectors, &rows(&vectors), Rule::Star, &[strict(1e-6)])[0]);
    let data = survivors.iter().flat_map(|row| vectors.row(*row)).copied().collect();
    let again = Vectors::try_new(data, 3).unwrap();
    let (before, after) = (fit(&vectors), fit(&again));
    assert!(similarity(before.centroids().row(0), after.centroids().row(0)) < 0.9999);
    let select = |model: &KMeans, keep: u64| {
        let (clusters, cosines) = model.assign(again.matrix());
        let distances: Vec<f64> = cosines.iter().map(|cosine| 1.0 - cosine).collect();
        prototypes::select(&clusters, 1, &prototypes::order(&distances), &vec![1; clusters.len()], keep, 0.0)
    };
    assert_ne!(select(&before, 100), select(&after, 100));
    assert!(select(&after, again.rows() as u64).iter().all(|kept| *kept));
    assert_eq!(kept(&decide(&again, &rows(&again), Rule::Star, &[strict(0.0)])[0]).len(), again.rows());
}
