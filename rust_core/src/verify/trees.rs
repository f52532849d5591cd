//! Boosted trees as numbers: `data/verify/trees.txt`, written by `tools/verifier/train.py`, with its figures in `tools/verifier/REPORT.md`.
//!
//! Each line is a tree of depth 3: seven splits (feature threshold side), breadth first, then eight leaves. A value at or below the
//! threshold goes left; one that is missing goes to `side` (0 left, 1 right). The first line is the bias and the calibration.

use std::sync::OnceLock;

use super::features::{COUNT, Features};

const TREES: &str = include_str!("../../data/verify/trees.txt");

struct Tree {
    splits: [(u8, f32, bool); 7],
    leaves: [f32; 8],
}

pub struct Trees {
    bias: f64,
    /// Margin and score, rising: between them the score is linear, beyond them constant.
    calibration: Vec<(f64, f64)>,
    trees: Vec<Tree>,
}

pub fn trees() -> &'static Trees {
    static FOUND: OnceLock<Trees> = OnceLock::new();
    FOUND.get_or_init(|| Trees::read(TREES))
}

impl Trees {
    fn read(text: &str) -> Trees {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let numbers = |line: &str| -> Vec<f64> { line.split_whitespace().map(|word| word.parse().expect("a number")).collect() };
        let first = numbers(lines.next().expect("a first line"));
        let calibration = first[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        let trees = lines
            .map(|line| {
                let found = numbers(line);
                assert!(found.len() == 29, "a tree is 29 numbers");
                let split = |at: usize| (found[3 * at] as u8, found[3 * at + 1] as f32, found[3 * at + 2] != 0.0);
                assert!((0..7).all(|at| usize::from(split(at).0) < COUNT), "a split is on a feature");
                Tree { splits: std::array::from_fn(split), leaves: std::array::from_fn(|at| found[21 + at] as f32) }
            })
            .collect();
        Trees { bias: first[0], calibration, trees }
    }

    /// The sum of the leaves: a log-odds.
    pub fn margin(&self, features: &Features) -> f64 {
        self.bias + self.trees.iter().map(|tree| f64::from(tree.leaf(features))).sum::<f64>()
    }

    pub fn score(&self, features: &Features) -> f64 {
        let margin = self.margin(features);
        let above = self.calibration.partition_point(|point| point.0 <= margin);
        match (above.checked_sub(1).map(|below| self.calibration[below]), self.calibration.get(above)) {
            (None, Some(first)) => first.1,
            (Some(low), Some(high)) => low.1 + (high.1 - low.1) * (margin - low.0) / (high.0 - low.0),
            (Some(last), None) => last.1,
            (None, None) => 0.0,
        }
    }
}

impl Tree {
    fn leaf(&self, features: &Features) -> f32 {
        let mut at = 0;
        for _ in 0..3 {
            let (feature, threshold, missing_right) = self.splits[at];
            let value = features[usize::from(feature)];
            let right = if value.is_nan() { missing_right } else { value > threshold };
            at = 2 * at + 1 + usize::from(right);
        }
        self.leaves[at - 7]
    }
}
