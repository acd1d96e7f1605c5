//! The types of elements, closed sets: devices hold code for each.

use half::{bf16, f16};

mod sealed {
    pub trait Sealed {}
}

/// What memory may hold.
pub trait Scalar: sealed::Sealed + Copy + Default + Send + Sync + core::fmt::Debug + 'static {}

/// An element type, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl DType {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The type in a message between ranks.
    pub(crate) const fn word(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 2,
        }
    }

    /// The inverse of [`word`](DType::word).
    pub(crate) const fn from_word(word: u32) -> Option<Self> {
        match word {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            2 => Some(Self::Bf16),
            _ => None,
        }
    }
}

impl core::fmt::Display for DType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

/// A type that Q, K, V, their outputs and their incoming gradients may have. Arithmetic on it
/// accumulates in f32.
pub trait Element: Scalar + PartialEq {
    /// The type, as a value.
    const DTYPE: DType;
    /// Widens; exact.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
}

macro_rules! element {
    ($($type:ty, $dtype:ident, $to:expr, $from:expr;)*) => {$(
        impl sealed::Sealed for $type {}
        impl Scalar for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
            #[inline]
            fn to_f32(self) -> f32 {
                $to(self)
            }
            #[inline]
            fn from_f32(x: f32) -> Self {
                $from(x)
            }
        }
    )*};
}

element! {
    f32, F32, |x| x, |x| x;
    f16, F16, f16::to_f32, f16::from_f32;
    bf16, Bf16, bf16::to_f32, bf16::from_f32;
}

impl sealed::Sealed for u8 {}
impl Scalar for u8 {}
