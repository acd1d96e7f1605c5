//! Strided tensors as the copy engine of compute capability 9.0 takes them.
//!
//! Source: CUDA driver API, tensor map object management.

use crate::CudaError;
use crate::args::{TensorMap, View};
use crate::driver::Driver;
use core::ffi::c_void;
use microseq_core::DType;

/// Boxes are so many elements wide. Of 16 bits, they are rows whose 16-byte chunks the engine exchanges
/// (`kernels/panel.cuh`).
const PANEL: u32 = 64;
const SWIZZLE_NONE: u32 = 0;
const SWIZZLE_128_BYTES: u32 = 3;
/// The L2 cache fetches so much at a time.
const PROMOTE_256_BYTES: u32 = 3;
/// Elements outside the tensor are zeros.
const FILL_ZERO: u32 = 0;
const NOT_INTERLEAVED: u32 = 0;
const F32: u32 = 7;

/// Bytes between rows and heads that a map can say.
const STRIDES: core::ops::Range<usize> = 16..1 << 40;

/// The elements of a view: how many a head has, how many heads a row has, and how many rows there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) dtype: DType,
    pub(crate) head_dim: usize,
    pub(crate) heads: usize,
    pub(crate) rows: usize,
}

impl Extent {
    /// Strides of heads and rows in bytes; where there is one only, any that the engine accepts.
    fn strides(&self, view: &View) -> [usize; 2] {
        let bytes = |stride: i64| (stride as usize).saturating_mul(self.dtype.bytes());
        let stride = |count: usize, stride| if count > 1 { bytes(stride) } else { STRIDES.start };
        [stride(self.heads, view.head_stride), stride(self.rows, view.row_stride)]
    }

    /// Whether a map can be made of a view whose heads begin at multiples of 16 bytes.
    pub(crate) fn fits(&self, view: &View) -> bool {
        self.rows > 0 && self.strides(view).iter().all(|stride| STRIDES.contains(stride))
    }

    /// Of the gradients, which are f32.
    pub(crate) fn gradient(&self) -> Self {
        Self { dtype: DType::F32, ..*self }
    }

    /// The map of a view that `fits`: the engine copies boxes of 64 elements of `heads` heads of `rows`
    /// rows.
    pub(crate) fn map(
        &self,
        driver: &Driver,
        view: &View,
        heads: usize,
        rows: usize,
    ) -> Result<TensorMap, CudaError> {
        // CU_TENSOR_MAP_DATA_TYPE_*
        let (data_type, swizzle) = match self.dtype {
            DType::F16 => (6, SWIZZLE_128_BYTES),
            DType::F32 => (F32, SWIZZLE_NONE),
            DType::Bf16 => (9, SWIZZLE_128_BYTES),
        };
        let sizes = [self.head_dim, self.heads, self.rows].map(|size| size as u64);
        let strides = self.strides(view).map(|stride| stride as u64);
        let boxes = [PANEL, heads as u32, rows as u32];
        encode(driver, data_type, view.data, &sizes, &strides, &boxes, swizzle)
    }
}

/// The map of `rows` adjacent rows of `columns` f32 each, a row at a time.
pub(crate) fn dense(
    driver: &Driver,
    address: u64,
    columns: usize,
    rows: usize,
) -> Result<TensorMap, CudaError> {
    let sizes = [columns as u64, rows as u64];
    let strides = [(columns * size_of::<f32>()) as u64];
    encode(driver, F32, address, &sizes, &strides, &[columns as u32, 1], SWIZZLE_NONE)
}

fn encode(
    driver: &Driver,
    data_type: u32,
    address: u64,
    sizes: &[u64],
    strides: &[u64],
    boxes: &[u32],
    swizzle: u32,
) -> Result<TensorMap, CudaError> {
    let mut map = TensorMap::default();
    let every = [1u32; 3];
    // SAFETY: `map` may be written and is aligned to 64 bytes; the arrays hold as many numbers as the
    // tensor has dimensions (strides one less), at most three; the address is not read here.
    let code = unsafe {
        (driver.tensor_map)(
            (&raw mut map).cast(),
            data_type,
            sizes.len() as u32,
            address as *mut c_void,
            sizes.as_ptr(),
            strides.as_ptr(),
            boxes.as_ptr(),
            every.as_ptr(),
            NOT_INTERLEAVED,
            swizzle,
            PROMOTE_256_BYTES,
            FILL_ZERO,
        )
    };
    driver.check("cuTensorMapEncodeTiled", code)?;
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_that_no_map_can_say_do_not_fit() {
        let extent = Extent { dtype: DType::Bf16, head_dim: 128, heads: 4, rows: 10 };
        let view = View { data: 1 << 20, row_stride: 512, head_stride: 128 };
        assert!(extent.fits(&view));
        assert!(!extent.fits(&View { head_stride: 0, ..view }));
        assert!(!extent.fits(&View { row_stride: 1 << 39, ..view }));
        assert!(!Extent { rows: 0, ..extent }.fits(&view));
        let alone = Extent { heads: 1, rows: 1, ..extent };
        assert!(alone.fits(&View { row_stride: 0, head_stride: 0, ..view }));
        assert_eq!(extent.strides(&view), [256, 1024]);
    }
}
