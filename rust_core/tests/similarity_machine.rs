//! The index against a search through everything. Larger sizes are searched by the Python tests, in a release build.

use _core::similarity::{LEAST_POOL, SimilarityIndex};
use proptest::prelude::*;

/// Numbers from a seed, between -1 and 1: xorshift64 (Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn vector(&mut self, dimensions: usize) -> Vec<f32> {
        (0..dimensions).map(|_| self.next()).collect()
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The share of the true `k` nearest that the index finds, over `queries`.
fn recall(entries: &[Vec<f32>], queries: &[Vec<f32>], k: usize, min_similarity: f32) -> f64 {
    let mut index = SimilarityIndex::new(entries[0].len(), entries.len());
    for (key, entry) in entries.iter().enumerate() {
        index.add("all", key as u64, entry).unwrap();
    }
    let (mut found, mut wanted) = (0, 0);
    for query in queries {
        let mut truth: Vec<(u64, f64)> = entries.iter().enumerate().map(|(key, entry)| (key as u64, cosine(query, entry))).collect();
        truth.sort_by(|a, b| b.1.total_cmp(&a.1));
        truth.retain(|(_, similarity)| *similarity > f64::from(min_similarity) + 1e-5);
        truth.truncate(k);
        let nearest = index.nearest("all", query, k, min_similarity).unwrap();
        wanted += truth.len();
        found += truth.iter().filter(|(key, _)| nearest.iter().any(|(other, _)| other == key)).count();
    }
    assert!(wanted > 0);
    found as f64 / wanted as f64
}

/// What a semantic cache holds: many topics, several phrasings of each, and a new phrasing as the query.
fn topics(dimensions: usize, is_sparse: bool) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut numbers = Numbers(42);
    let (mut entries, mut queries) = (Vec::new(), Vec::new());
    for topic in 0..100 {
        let mut centre = numbers.vector(dimensions);
        if is_sparse {
            // Like counts of n-grams: never negative, mostly zero.
            centre.iter_mut().for_each(|x| *x = (*x - 0.85).max(0.0));
            centre[topic % dimensions] = 1.0;
        }
        for phrasing in 0..11 {
            let near: Vec<f32> = centre.iter().map(|x| x + numbers.next() * if is_sparse { 0.01 } else { 0.6 }).collect();
            if phrasing == 10 { queries.push(near) } else { entries.push(near) }
        }
    }
    queries.truncate(20);
    (entries, queries)
}

#[test]
fn phrasings_of_one_topic_are_found_among_a_thousand() {
    for (dimensions, is_sparse) in [(1536, false), (256, false), (768, true)] {
        let (entries, queries) = topics(dimensions, is_sparse);
        let share = recall(&entries, &queries, 10, 0.6);
        assert!(share > 0.999, "{dimensions} dimensions, sparse {is_sparse}: found {share} of the nearest ten");
    }
}

#[test]
fn vectors_without_any_order_are_mostly_found() {
    // The hardest case for sketches: nothing is near, the nearest are hardly nearer than the rest.
    let mut numbers = Numbers(7);
    let entries: Vec<Vec<f32>> = (0..1000).map(|_| numbers.vector(384)).collect();
    let queries: Vec<Vec<f32>> = (0..20).map(|_| numbers.vector(384)).collect();
    let share = recall(&entries, &queries, 10, -1.0);
    assert!(share > 0.95, "found {share} of the nearest ten");
}

#[derive(Clone, Debug)]
enum Operation {
    Add { partition: usize, key: u64, seed: u64 },
    Nearest { partition: usize, seed: u64, k: usize },
    Remove { key: u64 },
    Clear { partition: usize },
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let one = prop_oneof![
        6 => (0usize..3, 0u64..30, 1u64..50).prop_map(|(partition, key, seed)| Operation::Add { partition, key, seed }),
        3 => (0usize..3, 1u64..50, 1usize..6).prop_map(|(partition, seed, k)| Operation::Nearest { partition, seed, k }),
        2 => (0u64..30).prop_map(|key| Operation::Remove { key }),
        1 => (0usize..3).prop_map(|partition| Operation::Clear { partition }),
    ];
    proptest::collection::vec(one, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn entries_come_and_go_as_in_a_list_in_order_of_use(operations in operations(), capacity in 1usize..15) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let mut index = SimilarityIndex::new(5, capacity);
        // Least recently used first: key, partition, vector.
        let mut entries: Vec<(u64, usize, Vec<f32>)> = Vec::new();
        for operation in operations {
            match operation {
                Operation::Add { partition, key, seed } => {
                    let vector = Numbers(seed).vector(5);
                    entries.retain(|entry| entry.0 != key);
                    let evicted = (entries.len() == capacity).then(|| entries.remove(0).0);
                    entries.push((key, partition, vector.clone()));
                    prop_assert_eq!(index.add(NAMES[partition], key, &vector), Ok(evicted));
                }
                Operation::Nearest { partition, seed, k } => {
                    let query = Numbers(seed).vector(5);
                    let nearest = index.nearest(NAMES[partition], &query, k, 0.0).unwrap();
                    let here = entries.iter().filter(|entry| entry.1 == partition);
                    let mut truth: Vec<(u64, f64)> = here.map(|entry| (entry.0, cosine(&query, &entry.2))).collect();
                    truth.retain(|(_, similarity)| *similarity >= 0.0);
                    truth.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                    truth.truncate(k);
                    prop_assert_eq!(nearest.len(), truth.len());
                    for ((_, found), (_, expected)) in nearest.iter().zip(&truth) {
                        prop_assert!((f64::from(*found) - expected).abs() < 1e-5);
                    }
                    for (key, _) in nearest.iter().rev() {
                        let at = entries.iter().position(|entry| entry.0 == *key).expect("found what was never added");
                        let used = entries.remove(at);
                        entries.push(used);
                    }
                }
                Operation::Remove { key } => {
                    let count = entries.len();
                    entries.retain(|entry| entry.0 != key);
                    prop_assert_eq!(index.remove(key), entries.len() < count);
                }
                Operation::Clear { partition } => {
                    let count = entries.len();
                    entries.retain(|entry| entry.1 != partition);
                    prop_assert_eq!(index.clear(NAMES[partition]), count - entries.len());
                }
            }
            prop_assert_eq!(index.len(), entries.len());
        }
    }
}

#[test]
fn a_partition_no_larger_than_its_pool_is_searched_exactly() {
    let mut numbers = Numbers(3);
    let entries: Vec<Vec<f32>> = (0..LEAST_POOL).map(|_| numbers.vector(17)).collect();
    let queries: Vec<Vec<f32>> = (0..40).map(|_| numbers.vector(17)).collect();
    assert_eq!(recall(&entries, &queries, 7, -1.0), 1.0);
}
