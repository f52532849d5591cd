//! The nearest vectors by cosine, within one partition: what a semantic cache looks up.
//!
//! A scan over one-bit sketches chooses a pool of candidates, and the exact cosine of each ranks them. The pool is `POOL_PER_RESULT`
//! entries per result asked for, at least `LEAST_POOL`; a partition that is no larger than its pool is searched exactly. Entries are
//! bounded over all partitions: the least recently used one (added, or returned by `nearest`) makes room.

pub(crate) mod sketch;

use std::collections::HashMap;
use std::fmt;

use sketch::Sketcher;

pub const LEAST_POOL: usize = 256;
pub const POOL_PER_RESULT: usize = 16;
/// Vectors of models in use have at most 4,096; the bound keeps sizes far from overflow.
pub const MOST_DIMENSIONS: usize = 65_536;

const NONE: u32 = u32::MAX;

#[derive(Debug, PartialEq)]
pub enum VectorError {
    Length { found: usize, expected: usize },
    NotFinite { at: usize, found: f32 },
    Zero,
}

impl fmt::Display for VectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { found, expected } => write!(f, "vector: found {found} dimensions, expected {expected}"),
            Self::NotFinite { at, found } => write!(f, "vector: found {found} at {at}, expected a finite number within float32"),
            Self::Zero => write!(f, "vector: found all zeros, which has no direction; expected at least one other number"),
        }
    }
}

impl std::error::Error for VectorError {}

/// Rows of sketches and unit vectors, side by side; row i of both belongs to `slots[i]`.
#[derive(Default)]
struct Partition {
    sketches: Vec<u64>,
    vectors: Vec<f32>,
    slots: Vec<u32>,
}

/// One entry: where it is, and its neighbours in the order of use.
struct Slot {
    key: u64,
    partition: u32,
    row: u32,
    newer: u32,
    older: u32,
}

pub struct SimilarityIndex {
    dimensions: usize,
    capacity: usize,
    sketcher: Sketcher,
    partitions: Vec<(String, Partition)>,
    by_name: HashMap<String, u32>,
    free_partitions: Vec<u32>,
    by_key: HashMap<u64, u32>,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    newest: u32,
    oldest: u32,
    // Kept between calls, so that a look-up allocates only its result.
    unit: Vec<f32>,
    query: Vec<u64>,
    distances: Vec<u32>,
    histogram: Vec<u32>,
    found: Vec<(u32, f32)>,
}

impl SimilarityIndex {
    /// `dimensions` from 1 to `MOST_DIMENSIONS`; `capacity` is at least 1 entry.
    pub fn new(dimensions: usize, capacity: usize) -> SimilarityIndex {
        assert!((1..=MOST_DIMENSIONS).contains(&dimensions) && (1..NONE as usize).contains(&capacity), "checked by the caller");
        let sketcher = Sketcher::new(dimensions);
        let histogram = vec![0; sketcher.bits() + 1];
        SimilarityIndex {
            dimensions,
            capacity,
            sketcher,
            partitions: Vec::new(),
            by_name: HashMap::new(),
            free_partitions: Vec::new(),
            by_key: HashMap::new(),
            slots: Vec::new(),
            free_slots: Vec::new(),
            newest: NONE,
            oldest: NONE,
            unit: Vec::new(),
            query: Vec::new(),
            distances: Vec::new(),
            histogram,
            found: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Adds an entry, or replaces the one with this key, whichever partition it was in. Returns the key that had to go, if any.
    pub fn add(&mut self, partition: &str, key: u64, vector: &[f32]) -> Result<Option<u64>, VectorError> {
        self.normalise(vector)?;
        self.remove(key);
        let evicted = (self.len() == self.capacity).then(|| self.slots[self.oldest as usize].key);
        if let Some(oldest) = evicted {
            self.remove(oldest);
        }
        let id = self.partition_id(partition);
        let rows = &mut self.partitions[id as usize].1;
        let row = rows.slots.len() as u32;
        let slot = Slot { key, partition: id, row, newer: NONE, older: NONE };
        let at = match self.free_slots.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        rows.slots.push(at);
        rows.vectors.extend_from_slice(&self.unit);
        self.sketcher.sketch(&self.unit, &mut rows.sketches);
        self.by_key.insert(key, at);
        self.link_newest(at);
        Ok(evicted)
    }

    /// Up to `k` entries with at least `min_similarity`, most similar first, equal ones by key. They count as used.
    pub fn nearest(&mut self, partition: &str, vector: &[f32], k: usize, min_similarity: f32) -> Result<Vec<(u64, f32)>, VectorError> {
        self.normalise(vector)?;
        let Some(&id) = self.by_name.get(partition) else { return Ok(Vec::new()) };
        let pool = k.saturating_mul(POOL_PER_RESULT).max(LEAST_POOL);
        self.found.clear();
        if self.partitions[id as usize].1.slots.len() <= pool {
            self.rank_all(id, min_similarity);
        } else {
            self.rank_pool(id, pool, min_similarity);
        }
        let slots = &self.slots;
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(slots[a.0 as usize].key.cmp(&slots[b.0 as usize].key));
        self.found.sort_unstable_by(order);
        self.found.truncate(k);
        let nearest = self.found.iter().map(|(slot, similarity)| (slots[*slot as usize].key, *similarity)).collect();
        for at in (0..self.found.len()).rev() {
            let slot = self.found[at].0;
            self.unlink(slot);
            self.link_newest(slot);
        }
        Ok(nearest)
    }

    pub fn remove(&mut self, key: u64) -> bool {
        let Some(at) = self.by_key.remove(&key) else { return false };
        self.unlink(at);
        self.free_slots.push(at);
        let Slot { partition, row, .. } = self.slots[at as usize];
        let (dimensions, words) = (self.dimensions, self.sketcher.words());
        let rows = &mut self.partitions[partition as usize].1;
        let (row, last) = (row as usize, rows.slots.len() - 1);
        rows.vectors.copy_within(last * dimensions.., row * dimensions);
        rows.vectors.truncate(last * dimensions);
        rows.sketches.copy_within(last * words.., row * words);
        rows.sketches.truncate(last * words);
        rows.slots.swap_remove(row);
        if let Some(moved) = rows.slots.get(row) {
            self.slots[*moved as usize].row = row as u32;
        }
        if last == 0 {
            self.drop_partition(partition);
        } else if rows.vectors.len() * 4 < rows.vectors.capacity() {
            // A partition that has shrunk gives its memory back; by halves, so that it is not done at every removal.
            rows.vectors.shrink_to(rows.vectors.len() * 2);
            rows.sketches.shrink_to(rows.sketches.len() * 2);
        }
        true
    }

    /// Removes a partition's entries; returns how many there were.
    pub fn clear(&mut self, partition: &str) -> usize {
        let Some(&id) = self.by_name.get(partition) else { return 0 };
        let slots = std::mem::take(&mut self.partitions[id as usize].1.slots);
        for at in &slots {
            self.by_key.remove(&self.slots[*at as usize].key);
            self.unlink(*at);
            self.free_slots.push(*at);
        }
        self.drop_partition(id);
        slots.len()
    }

    /// Leaves the unit vector in `self.unit`.
    fn normalise(&mut self, vector: &[f32]) -> Result<(), VectorError> {
        if vector.len() != self.dimensions {
            return Err(VectorError::Length { found: vector.len(), expected: self.dimensions });
        }
        if let Some(at) = vector.iter().position(|value| !value.is_finite()) {
            return Err(VectorError::NotFinite { at, found: vector[at] });
        }
        // In f64, where the square of no f32 is lost or infinite.
        let norm = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
        if norm == 0.0 {
            return Err(VectorError::Zero);
        }
        self.unit.clear();
        self.unit.extend(vector.iter().map(|value| (f64::from(*value) / norm) as f32));
        Ok(())
    }

    fn rank_all(&mut self, id: u32, min_similarity: f32) {
        let rows = &self.partitions[id as usize].1;
        for (slot, row) in rows.slots.iter().zip(rows.vectors.chunks_exact(self.dimensions)) {
            let similarity = cosine(&self.unit, row);
            if similarity >= min_similarity {
                self.found.push((*slot, similarity));
            }
        }
    }

    /// Ranks the `pool` entries whose sketches differ least from the query's (more when the last of them are equal).
    fn rank_pool(&mut self, id: u32, pool: usize, min_similarity: f32) {
        self.query.clear();
        self.sketcher.sketch(&self.unit, &mut self.query);
        let rows = &self.partitions[id as usize].1;
        self.sketcher.distances(&self.query, &rows.sketches, &mut self.distances);
        self.histogram.fill(0);
        for distance in &self.distances {
            self.histogram[*distance as usize] += 1;
        }
        let mut left = pool as u32;
        let furthest = self.histogram.iter().position(|count| {
            left = left.saturating_sub(*count);
            left == 0
        });
        let furthest = furthest.unwrap_or(self.histogram.len()).min(self.furthest_useful(min_similarity)) as u32;
        for (row, distance) in self.distances.iter().enumerate() {
            if *distance <= furthest {
                let similarity = cosine(&self.unit, &rows.vectors[row * self.dimensions..][..self.dimensions]);
                if similarity >= min_similarity {
                    self.found.push((rows.slots[row], similarity));
                }
            }
        }
    }

    /// The distance beyond which an entry with `min_similarity` is found in fewer than one case in ten thousand: the bits that
    /// differ are binomial with the angle's share as their mean, and this is four standard deviations above it.
    fn furthest_useful(&self, min_similarity: f32) -> usize {
        let bits = self.sketcher.bits() as f32;
        let share = min_similarity.clamp(-1.0, 1.0).acos() / std::f32::consts::PI;
        (bits * share + 4.0 * (bits * share * (1.0 - share)).sqrt() + 1.0).ceil() as usize
    }

    fn partition_id(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.by_name.get(name) {
            return id;
        }
        let partition = (name.to_owned(), Partition::default());
        let id = match self.free_partitions.pop() {
            Some(id) => {
                self.partitions[id as usize] = partition;
                id
            }
            None => {
                self.partitions.push(partition);
                (self.partitions.len() - 1) as u32
            }
        };
        self.by_name.insert(name.to_owned(), id);
        id
    }

    fn drop_partition(&mut self, id: u32) {
        let (name, _) = std::mem::take(&mut self.partitions[id as usize]);
        self.by_name.remove(&name);
        self.free_partitions.push(id);
    }

    fn link_newest(&mut self, at: u32) {
        self.slots[at as usize].older = self.newest;
        self.slots[at as usize].newer = NONE;
        match self.newest {
            NONE => self.oldest = at,
            newest => self.slots[newest as usize].newer = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let Slot { newer, older, .. } = self.slots[at as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }
}

/// Dot product of unit vectors. Sixteen sums side by side, added up in a fixed order: every CPU gets the same bits.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_blocks, b_blocks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_blocks.zip(b_blocks) {
        for lane in 0..16 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    (sums.iter().sum::<f32>() + rest).clamp(-1.0, 1.0)
}
