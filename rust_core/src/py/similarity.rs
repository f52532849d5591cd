//! `SimilarityIndex` for Python. Vectors come in as float32 buffers (numpy, array, memoryview) or as sequences of numbers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use super::whole::whole;
use crate::similarity::{self, MOST_DIMENSIONS, VectorError};

/// The GIL is held throughout and no Python code runs under the lock, so it is never waited for with the GIL.
#[pyclass(frozen, module = "sidecar._core")]
pub struct SimilarityIndex {
    index: Mutex<similarity::SimilarityIndex>,
    dimensions: usize,
    capacity: usize,
}

impl SimilarityIndex {
    fn lock(&self) -> MutexGuard<'_, similarity::SimilarityIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl SimilarityIndex {
    #[new]
    #[pyo3(signature = (dimensions, *, capacity))]
    fn new(dimensions: &Bound<'_, PyAny>, capacity: &Bound<'_, PyAny>) -> PyResult<SimilarityIndex> {
        let dimensions = whole("dimensions", dimensions, 1, MOST_DIMENSIONS as u64)? as usize;
        let capacity = whole("capacity", capacity, 1, u64::from(u32::MAX - 1))? as usize;
        let index = Mutex::new(similarity::SimilarityIndex::new(dimensions, capacity));
        Ok(SimilarityIndex { index, dimensions, capacity })
    }

    fn add(&self, partition: &str, key: &Bound<'_, PyAny>, vector: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
        let (key, vector) = (number(key)?, floats(vector)?);
        self.lock().add(partition, key, &vector).map_err(raised)
    }

    fn nearest(&self, partition: &str, vector: &Bound<'_, PyAny>, k: &Bound<'_, PyAny>, min_similarity: f64) -> PyResult<Vec<(u64, f32)>> {
        let (vector, k) = (floats(vector)?, whole("k", k, 1, u64::from(u32::MAX))? as usize);
        if !(-1.0..=1.0).contains(&min_similarity) {
            return Err(PyValueError::new_err(format!("min_similarity: found {min_similarity}, expected -1 to 1")));
        }
        self.lock().nearest(partition, &vector, k, min_similarity as f32).map_err(raised)
    }

    fn remove(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let key = number(key)?;
        Ok(self.lock().remove(key))
    }

    fn clear(&self, partition: &str) -> usize {
        self.lock().clear(partition)
    }

    fn __len__(&self) -> usize {
        self.lock().len()
    }

    #[getter]
    fn dimensions(&self) -> usize {
        self.dimensions
    }

    #[getter]
    fn capacity(&self) -> usize {
        self.capacity
    }
}

fn number(key: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole("key", key, 0, u64::MAX)
}

fn floats(vector: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    if let Ok(buffer) = PyBuffer::<f32>::get(vector) {
        if buffer.dimensions() != 1 {
            return Err(PyValueError::new_err(format!("vector: found {} axes, expected 1", buffer.dimensions())));
        }
        return buffer.to_vec(vector.py());
    }
    // Bytes are a sequence of numbers too: certainly a mistake. As f64 first: a number too large for f32 becomes infinite, which the
    // index refuses by name.
    let is_bytes = vector.is_instance_of::<PyBytes>() || vector.is_instance_of::<PyByteArray>();
    match vector.extract::<Vec<f64>>() {
        Ok(values) if !is_bytes => Ok(values.into_iter().map(|value| value as f32).collect()),
        _ => {
            let found = vector.get_type().name()?;
            Err(PyTypeError::new_err(format!("vector: found {found}, expected a float32 buffer or a sequence of numbers")))
        }
    }
}

fn raised(error: VectorError) -> PyErr {
    PyValueError::new_err(error.to_string())
}
