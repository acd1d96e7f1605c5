//! Reading safetensors files.

use microseq::{DType, Element, bf16, f16};
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A file of the repository's `tests/golden`. Cargo runs tests in their package's folder.
pub(crate) fn golden(name: &str) -> PathBuf {
    let here = std::env::current_dir().expect("there is a current directory");
    let mut folders = here.ancestors().map(|folder| folder.join("tests/golden"));
    folders.find(|folder| folder.is_dir()).expect("tests/golden, here or above").join(name)
}

/// Elements that a file may hold.
pub(crate) trait Numbers: Element {
    /// From little-endian bytes.
    fn from_bytes(bytes: &[u8]) -> Self;
}

impl Numbers for f32 {
    fn from_bytes(bytes: &[u8]) -> Self {
        Self::from_le_bytes(bytes.try_into().expect("4 bytes"))
    }
}

impl Numbers for f16 {
    fn from_bytes(bytes: &[u8]) -> Self {
        Self::from_le_bytes(bytes.try_into().expect("2 bytes"))
    }
}

impl Numbers for bf16 {
    fn from_bytes(bytes: &[u8]) -> Self {
        Self::from_le_bytes(bytes.try_into().expect("2 bytes"))
    }
}

/// A tensor read whole.
pub(crate) struct Tensor<E> {
    pub(crate) shape: Vec<usize>,
    pub(crate) elements: Vec<E>,
}

/// A file's bytes and its metadata.
pub(crate) struct File {
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl File {
    pub(crate) fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors header");
        let metadata = header.metadata().clone().unwrap_or_default();
        Self { bytes, metadata }
    }

    /// The input and the expected output of a golden case.
    pub(crate) fn case(name: &str) -> (Self, Self) {
        let open = |part| Self::open(&golden(&format!("{name}.{part}.safetensors")));
        (open("in"), open("expected"))
    }

    /// A value of the metadata, where it is there.
    ///
    /// # Panics
    /// Where it does not parse.
    pub(crate) fn number<T: FromStr<Err: std::fmt::Debug>>(&self, key: &str) -> Option<T> {
        self.metadata.get(key).map(|value| value.parse().expect(key))
    }

    /// The document lengths of a case in the sequence form.
    pub(crate) fn lengths(&self) -> Vec<u32> {
        let lengths = self.metadata["lengths"].split(',');
        lengths.map(|length| length.parse().expect("a length")).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).expect("a safetensors file").tensor(name).is_ok()
    }

    /// The element type of a tensor.
    ///
    /// # Panics
    /// Where it is not there or of no element type.
    pub(crate) fn dtype(&self, name: &str) -> DType {
        match self.view(name).0 {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            other => panic!("{name} is {other:?}, expected F32, F16 or BF16"),
        }
    }

    /// A tensor of the element type.
    ///
    /// # Panics
    /// Where it is not there or of another type.
    pub(crate) fn tensor<E: Numbers>(&self, name: &str) -> Tensor<E> {
        assert_eq!(self.dtype(name), E::DTYPE, "type of {name}");
        let (_, shape, bytes) = self.view(name);
        let elements = bytes.chunks_exact(size_of::<E>()).map(E::from_bytes).collect();
        Tensor { shape, elements }
    }

    /// A tensor of 32-bit integers.
    pub(crate) fn integers(&self, name: &str) -> Vec<i32> {
        let (dtype, _, bytes) = self.view(name);
        assert_eq!(dtype, Dtype::I32, "type of {name}");
        bytes.chunks_exact(4).map(|x| i32::from_le_bytes(x.try_into().expect("4 bytes"))).collect()
    }

    /// A tensor of f32 or f64, in f64.
    pub(crate) fn wide(&self, name: &str) -> Vec<f64> {
        let (dtype, _, bytes) = self.view(name);
        let f64_from = |x: &[u8]| f64::from_le_bytes(x.try_into().expect("8 bytes"));
        match dtype {
            Dtype::F32 => bytes.chunks_exact(4).map(|x| f32::from_bytes(x).into()).collect(),
            Dtype::F64 => bytes.chunks_exact(8).map(f64_from).collect(),
            other => panic!("{name} is {other:?}, expected F32 or F64"),
        }
    }

    fn view(&self, name: &str) -> (Dtype, Vec<usize>, Vec<u8>) {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let view = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        (view.dtype(), view.shape().to_vec(), view.data().to_vec())
    }
}
