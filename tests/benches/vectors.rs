//! Comparison of vectors near each other: `cargo bench --bench vectors -- [--rows N] [--dimensions N] [--cosine X] [--k N]
//! [--probe N] [--iterations N] [--train ROWS_A_CENTROID] [--threads N] [--noise X] [--repeat N] [--flat]`, on planted vectors: clustered, a tenth of them perturbed
//! copies of others. It prints the seconds of each step, the share of pairs found, and GFLOP/s beside those of a plain product.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark reads clocks, and prints")]
#![expect(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use std::time::Instant;

use rayon::prelude::*;
use trommel::cluster::{OnEqual, Star, Threshold};
use trommel::random::{Random, Sequence};
use trommel::vector::dot::products;
use trommel::vector::recall::{evenly, sample_recall};
use trommel::vector::{Cells, KMeans, Matrix, Probed, Source, Training, Vectors, compare_probed, normalise};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1)).cloned();
    let number = |name: &str, default: usize| value(name).map_or(default, |text| text.parse().unwrap());
    let real = |name: &str, default: f64| value(name).map_or(default, |text| text.parse().unwrap());
    let threads = number("--threads", std::thread::available_parallelism().map_or(1, usize::from));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    // Run by `cargo test` without arguments it only shows that it runs.
    let rows = number("--rows", 2_000);
    let dimensions = number("--dimensions", 384);
    let vectors = planted(rows, dimensions, real("--noise", 0.2));
    let source = Source::Memory(vectors.matrix());
    let threshold = Threshold::new(real("--cosine", 0.95), OnEqual::Keep);
    println!("{rows} x {dimensions}, {threads} threads; a plain product reaches {:.0} GFLOP/s", peak(threads));
    for _ in 0..number("--repeat", 1) {
        if arguments.iter().any(|argument| argument == "--flat") {
            run(source, None, threshold);
        } else {
            let quick = Training::quick();
            let rows_a_centroid = number("--train", quick.rows_a_centroid);
            let training = Training { iterations: number("--iterations", quick.iterations), rows_a_centroid, ..quick };
            let k = number("--k", (rows as f64).sqrt().round() as usize);
            run(source, Some((k, number("--probe", 4), training)), threshold);
        }
    }
}

/// One comparison under the star rule, step by step.
fn run(source: Source<'_>, clustered: Option<(usize, usize, Training)>, threshold: Threshold) {
    let rows = source.rows();
    let mut clock = Clock { start: Instant::now(), last: Instant::now(), processors: processors() };
    let order: Vec<u32> = (0..rows as u32).collect();
    let cells = match clustered {
        None => Cells::one(rows),
        Some((k, probe, training)) => {
            let model = KMeans::fit_to(source, k, &training, &Random::new(1234, "benchmark")).unwrap();
            clock.lap("fit");
            let cells = Cells::nearest(source, &model, probe, threshold.minimum()).unwrap().0;
            clock.lap("assign");
            cells
        }
    };
    let probed = Probed { source, order: &order, cells: &cells, block_rows: 0, settled: 0 };
    let recall = sample_recall(&probed, &evenly(rows, 256), threshold.minimum(), |similarity| threshold.accepts(similarity)).unwrap();
    clock.lap("recall");
    let mut star = Star::new(rows, &[threshold]);
    compare_probed(&probed, threshold.minimum(), &mut star, Star::wants, Star::offer, Star::decide, || Ok(())).unwrap();
    let seconds = clock.lap("compare");
    let sizes = cells.sizes();
    let probes: usize = (0..rows as u32).map(|row| cells.of(row).len()).sum();
    let pairs: f64 = (0..rows as u32).flat_map(|row| cells.of(row)).map(|cell| sizes[*cell as usize] as f64 / 2.0).sum();
    let dropped = star.finish()[0].iter().flatten().count();
    println!(
        "  total {:.2} s; compared at {:.0} GFLOP/s; {:.2} cells a row; largest cell {}; dropped {dropped}; of the sample's pairs {}/{} ({:?})",
        clock.start.elapsed().as_secs_f64(),
        2e-9 * pairs * source.dimensions() as f64 / seconds,
        probes as f64 / rows as f64,
        sizes.iter().max().unwrap(),
        recall.found(cells.width()),
        recall.pairs,
        recall.by_rank,
    );
}

/// Seconds of the clock, and of the processors: on a busy machine only the latter say much.
struct Clock {
    start: Instant,
    last: Instant,
    processors: f64,
}

impl Clock {
    fn lap(&mut self, what: &str) -> f64 {
        let (seconds, processors) = (self.last.elapsed().as_secs_f64(), processors());
        print!("  {what} {seconds:.2} s (processors {:.2} s)", processors - self.processors);
        (self.last, self.processors) = (Instant::now(), processors);
        seconds
    }
}

/// Seconds that all threads have run, in hundredths; 0 where the system does not say.
fn processors() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// GFLOP/s of products that fit the caches, on all threads.
fn peak(threads: usize) -> f64 {
    let data = vec![0.5_f32; 512 * 384];
    let matrix = Matrix::try_new(&data, 384).unwrap();
    let rounds = 40;
    let start = Instant::now();
    (0..threads).into_par_iter().for_each(|_| {
        let mut product = Vec::new();
        (0..rounds).for_each(|_| products(matrix, matrix, &mut product));
    });
    2e-9 * (threads * rounds * 512 * 512 * 384) as f64 / start.elapsed().as_secs_f64()
}

fn normal(draws: &mut Sequence) -> f64 {
    (-2.0 * (1.0 - draws.unit()).ln()).sqrt() * (std::f64::consts::TAU * draws.unit()).cos()
}

/// Unit vectors around one centre for 50 rows, in a space of 24 dimensions with some noise outside it; a tenth of the rows are copies
/// of others with noise of this length, a tenth of those exact ones.
fn planted(rows: usize, dimensions: usize, noise: f64) -> Vectors {
    const LATENT: usize = 24;
    let random = Random::new(1, "planted");
    let mut draws = random.sequence(b"centres");
    let centres: Vec<f64> = (0..(1 + rows / 50) * LATENT).map(|_| normal(&mut draws)).collect();
    let projection: Vec<f32> = (0..LATENT * dimensions).map(|_| normal(&mut draws) as f32).collect();
    let mut data = vec![0.0_f32; rows * dimensions];
    data.par_chunks_mut(dimensions).enumerate().for_each(|(row, vector)| {
        let mut draws = random.sequence(&row.to_le_bytes());
        let centre = draws.below(1 + rows as u64 / 50) as usize * LATENT;
        for (latent, directions) in centres[centre..centre + LATENT].iter().zip(projection.chunks(dimensions)) {
            let latent = ((latent + 0.7 * normal(&mut draws)) / (LATENT as f64).sqrt()) as f32;
            for (value, direction) in vector.iter_mut().zip(directions) {
                *value += latent * direction;
            }
        }
        for value in vector.iter_mut() {
            *value += (0.1 * normal(&mut draws)) as f32;
        }
        assert!(normalise(vector));
    });
    let mut draws = random.sequence(b"copies");
    for copy in 0..rows / 10 {
        let (to, from) = (draws.below(rows as u64) as usize * dimensions, draws.below(rows as u64) as usize * dimensions);
        let noise = if copy % 10 == 0 { 0.0 } else { noise / (dimensions as f64).sqrt() };
        for column in 0..dimensions {
            data[to + column] = (f64::from(data[from + column]) + noise * normal(&mut draws)) as f32;
        }
        assert!(normalise(&mut data[to..to + dimensions]));
    }
    Vectors::try_new(data, dimensions).unwrap()
}
