//! Prompts by likeness, within one partition, and each candidate's verdict.
//!
//! A scan over one-bit sketches of hashed words and character trigrams chooses the candidates; the verifier decides on each. Entries are
//! bounded over all partitions: the oldest makes room.

use std::collections::{BTreeMap, HashMap};

use super::analysis::{EXACT, NAME, VALUE};
use super::lexicon::{LOOSE, lexicon};
use super::{Analysis, analyse, hash, judge, refused_at_once};
use crate::similarity::sketch::Sketcher;

/// Dimensions that words and trigrams are hashed into; a sketch has as many bits.
const DIMENSIONS: usize = 1024;
/// So many are looked at per candidate asked for.
const POOL_PER_CANDIDATE: usize = 8;
/// Numbers, codes and names count for more than words: they tell the prompts of one template apart.
const DISTINCTIVE: f32 = 3.0;

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

/// Words by their meaning, where it is known, and trigrams of their letters; long texts as a whole.
fn features(analysis: &Analysis) -> impl Iterator<Item = (u64, f32)> {
    let words = analysis.terms.iter().map(|term| {
        let group = lexicon().groups(term.groups).first().copied().filter(|&group| group < LOOSE);
        let meaning = group.map_or(u64::from(term.hash), u64::from);
        let distinctive = if term.marks & (VALUE | EXACT | NAME) != 0 { DISTINCTIVE } else { 1.0 };
        let meaning = if term.marks & VALUE != 0 { u64::from(term.hash) << 16 } else { meaning };
        (hash(&meaning.to_le_bytes()), f32::from(term.weight) * distinctive)
    });
    let trigrams = analysis.letters.as_bytes().windows(3).map(|trigram| (hash(trigram), 1.0));
    words.chain(trigrams).chain(std::iter::once((analysis.letters_only, 2.0)))
}

/// The distance within which at least `pool` entries are, or all.
fn furthest(distances: &[u32], bits: usize, pool: usize) -> u32 {
    let mut histogram = vec![0_u32; bits + 1];
    distances.iter().for_each(|&distance| histogram[distance as usize] += 1);
    let mut within = 0;
    let found = histogram.iter().position(|&count| {
        within += count as usize;
        within >= pool
    });
    found.unwrap_or(bits) as u32
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
        let pool = most * POOL_PER_CANDIDATE;
        let furthest = furthest(&self.distances, self.sketcher.bits(), pool);
        let near = self.distances.iter().enumerate().filter(|&(_, &distance)| distance <= furthest);
        let mut order: Vec<(u32, u32)> = near.map(|(row, &distance)| (distance, row as u32)).collect();
        if order.len() > pool {
            order.select_nth_unstable(pool - 1);
            order.truncate(pool);
        }
        order.sort_unstable();
        // Prompts of one template differ in a number or a name: what that refuses at once takes no place from the others.
        let refusals = order.iter().map(|&(_, row)| refused_at_once(&asked.analysis, &rows.entries[row as usize].analysis));
        let mut chosen: Vec<(u32, u32, Option<&'static str>)> =
            order.iter().zip(refusals).map(|(&(distance, row), refusal)| (distance, row, refusal)).collect();
        if chosen.len() > most {
            chosen.sort_by_key(|entry| entry.2.is_some());
            chosen.truncate(most);
        }
        let bits = self.sketcher.bits() as f32;
        let mut found: Vec<Candidate> = chosen
            .into_iter()
            .map(|(distance, row, refusal)| {
                let entry = &rows.entries[row as usize];
                let (score, veto) = refusal.map_or_else(|| judge(&asked.analysis, &entry.analysis), |veto| (0.0, veto));
                let similarity = (std::f32::consts::PI * distance as f32 / bits).cos().clamp(0.0, 1.0);
                Candidate { key: entry.key, similarity, score, veto }
            })
            .collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.similarity.total_cmp(&a.similarity)).then(a.key.cmp(&b.key)));
        found
    }
}
