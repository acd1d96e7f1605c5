//! Elements to and from the little-endian bytes of safetensors files.

use microseq::{bf16, f16};
use safetensors::Dtype;

/// A type that a file's tensors may have.
pub(crate) trait Stored: Copy {
    /// Its name in a file.
    const STORED: Dtype;
    /// Elements from a tensor's bytes, which may lie at any address.
    fn from_bytes(bytes: &[u8]) -> Vec<Self>;
    /// A tensor's bytes.
    fn to_bytes(elements: &[Self]) -> Vec<u8>;
}

macro_rules! stored {
    ($($type:ty, $name:ident;)*) => {$(
        impl Stored for $type {
            const STORED: Dtype = Dtype::$name;

            fn from_bytes(bytes: &[u8]) -> Vec<Self> {
                let (elements, _) = bytes.as_chunks();
                elements.iter().map(|&element| Self::from_le_bytes(element)).collect()
            }

            fn to_bytes(elements: &[Self]) -> Vec<u8> {
                elements.iter().flat_map(|element| element.to_le_bytes()).collect()
            }
        }
    )*};
}

stored! {
    f32, F32;
    f16, F16;
    bf16, BF16;
    i32, I32;
}
