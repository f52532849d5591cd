//! Prompts by likeness, within one partition, and each candidate's verdict.
//!
//! A scan over one-bit sketches of hashed words and character trigrams chooses the candidates; the verifier decides on each. Entries are
//! bounded over all partitions: the oldest makes room.

use std::collections::{BTreeMap, HashMap};

use super::{Analysis, analyse, compare, hash};
use crate::similarity::sketch::Sketcher;

/// Dimensions that words and trigrams are hashed into; a sketch has as many bits.
const DIMENSIONS: usize = 1024;

#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub key: u64,
    /// Estimated cosine of words and trigrams, 0 to 1; 1 for identical texts.
    pub similarity: f32,
    pub score: f64,
    pub veto: &'static str,
}

#[derive(Default)]
struct Partition {
    sketches: Vec<u64>,
    entries: Vec<Entry>,
}

struct Entry {
    key: u64,
    age: u64,
    analysis: Analysis,
}

/// A prompt made ready outside of any lock.
pub struct Prepared {
    analysis: Analysis,
    sketch: Vec<u64>,
}

pub struct PromptIndex {
    capacity: usize,
    sketcher: Sketcher,
    partitions: HashMap<String, Partition>,
    /// Where each key is.
    places: HashMap<u64, (String, u64)>,
    by_age: BTreeMap<u64, u64>,
    next_age: u64,
    distances: Vec<u32>,
}

/// What a look-up or an addition needs of a text.
pub fn prepare(text: &str) -> Prepared {
    let analysis = analyse(text);
    let mut values = vec![0.0; DIMENSIONS];
    for (feature, weight) in features(&analysis) {
        let sign = if feature >> 63 == 0 { weight } else { -weight };
        values[feature as usize % DIMENSIONS] += sign;
    }
    let mut sketch = Vec::new();
    Sketcher::new(DIMENSIONS).sketch(&values, &mut sketch);
    Prepared { analysis, sketch }
}

fn features(analysis: &Analysis) -> impl Iterator<Item = (u64, f32)> {
    let text = analysis.text.as_bytes();
    text.windows(3).map(|trigram| (hash(trigram), 1.0))
}

impl PromptIndex {
    /// `capacity` is at least 1 entry.
    pub fn new(capacity: usize) -> PromptIndex {
        PromptIndex {
            capacity,
            sketcher: Sketcher::new(DIMENSIONS),
            partitions: HashMap::new(),
            places: HashMap::new(),
            by_age: BTreeMap::new(),
            next_age: 0,
            distances: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds an entry, or replaces the one with this key, whichever partition it was in. Returns the key that had to go, if any.
    pub fn add(&mut self, partition: &str, key: u64, prompt: Prepared) -> Option<u64> {
        self.remove(key);
        let evicted = if self.len() == self.capacity { self.by_age.first_key_value().map(|(_, &key)| key) } else { None };
        if let Some(oldest) = evicted {
            self.remove(oldest);
        }
        let age = self.next_age;
        self.next_age += 1;
        let rows = match self.partitions.get_mut(partition) {
            Some(rows) => rows,
            None => self.partitions.entry(partition.to_owned()).or_default(),
        };
        rows.sketches.extend_from_slice(&prompt.sketch);
        rows.entries.push(Entry { key, age, analysis: prompt.analysis });
        self.places.insert(key, (partition.to_owned(), age));
        self.by_age.insert(age, key);
        evicted
    }

    pub fn remove(&mut self, key: u64) -> bool {
        let Some((partition, age)) = self.places.remove(&key) else { return false };
        self.by_age.remove(&age);
        let rows = self.partitions.get_mut(&partition).expect("a place is in a partition");
        // Entries are in the order of age but for those that filled a gap, so the row is looked for.
        let row = rows.entries.iter().position(|entry| entry.key == key).expect("a place has its entry");
        let (words, last) = (self.sketcher.words(), rows.entries.len() - 1);
        rows.entries.swap_remove(row);
        rows.sketches.copy_within(last * words.., row * words);
        rows.sketches.truncate(last * words);
        if last == 0 {
            self.partitions.remove(&partition);
        }
        true
    }

    /// Removes a partition's entries; returns how many there were.
    pub fn clear(&mut self, partition: &str) -> usize {
        let Some(rows) = self.partitions.remove(partition) else { return 0 };
        for entry in &rows.entries {
            self.places.remove(&entry.key);
            self.by_age.remove(&entry.age);
        }
        rows.entries.len()
    }

    /// Up to `most` entries, best score first, then the most similar, then by key.
    pub fn candidates(&mut self, partition: &str, asked: &Prepared, most: usize) -> Vec<Candidate> {
        let Some(rows) = self.partitions.get(partition) else { return Vec::new() };
        self.sketcher.distances(&asked.sketch, &rows.sketches, &mut self.distances);
        let mut order: Vec<(u32, u32)> = self.distances.iter().enumerate().map(|(row, &distance)| (distance, row as u32)).collect();
        if order.len() > most {
            order.select_nth_unstable(most - 1);
            order.truncate(most);
        }
        let bits = self.sketcher.bits() as f32;
        let mut found: Vec<Candidate> = order
            .into_iter()
            .map(|(distance, row)| {
                let entry = &rows.entries[row as usize];
                let verdict = compare(&asked.analysis, &entry.analysis, None);
                let similarity = (std::f32::consts::PI * distance as f32 / bits).cos().clamp(0.0, 1.0);
                Candidate { key: entry.key, similarity, score: verdict.score, veto: verdict.veto }
            })
            .collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.similarity.total_cmp(&a.similarity)).then(a.key.cmp(&b.key)));
        found
    }
}
