//! The kernels, instantiated for each instruction set: thin shells that enable it.

use crate::Isa;
#[cfg(target_arch = "x86_64")]
use crate::kernel::Bf16Pairs;
use crate::kernel::{Geometry, Singles, backward, forward};
use crate::scratch::Carver;
use crate::simd::{Portable, Simd};
use microseq_core::{DType, Element};

#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};

/// Sizes of the kernels' arrays, for a call.
pub(crate) fn geometry(isa: Isa, dtype: DType, head_dim: usize) -> Geometry {
    let lanes = match isa {
        Isa::Portable => Portable::LANES,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Avx2::LANES,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => Avx512::LANES,
        #[cfg(not(target_arch = "x86_64"))]
        _ => Portable::LANES,
    };
    Geometry::new(2 * lanes, if pairs(isa, dtype) { 2 } else { 1 }, head_dim)
}

/// Whether products are taken of pairs of bf16.
pub(crate) fn pairs(isa: Isa, dtype: DType) -> bool {
    isa == Isa::Avx512Bf16 && dtype == DType::Bf16
}

/// [`forward::run`] on an instruction set.
///
/// # Safety
/// As [`forward::run`]; the machine has `isa`.
pub(crate) unsafe fn forward<E: Element>(
    isa: Isa,
    operands: &forward::Operands<E>,
    block: &forward::Block,
    upcoming: Option<&forward::Block>,
    panels: usize,
    memory: Carver,
) {
    // SAFETY: the caller's contract, passed on.
    unsafe {
        match isa {
            Isa::Portable => forward_portable(operands, block, upcoming, panels, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => forward_avx2(operands, block, upcoming, panels, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 if pairs(isa, E::DTYPE) => {
                forward_bf16_pairs(operands, block, upcoming, panels, memory)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => forward_avx512(operands, block, upcoming, panels, memory),
            #[cfg(not(target_arch = "x86_64"))]
            _ => forward_portable(operands, block, upcoming, panels, memory),
        }
    }
}

/// [`backward::run`] on an instruction set.
///
/// # Safety
/// As [`backward::run`]; the machine has `isa`.
pub(crate) unsafe fn backward<E: Element>(
    isa: Isa,
    operands: &backward::Operands<E>,
    block: &backward::Block,
    upcoming: Option<&backward::Block>,
    memory: Carver,
) {
    // SAFETY: the caller's contract, passed on.
    unsafe {
        match isa {
            Isa::Portable => backward_portable(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => backward_avx2(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 if pairs(isa, E::DTYPE) => backward_bf16_pairs(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => backward_avx512(operands, block, upcoming, memory),
            #[cfg(not(target_arch = "x86_64"))]
            _ => backward_portable(operands, block, upcoming, memory),
        }
    }
}

/// Two shells for one instruction set. `$mr` values are broadcast at a time: as many as its registers
/// hold accumulators for.
macro_rules! shells {
    ($simd:ty, $arithmetic:ty, $mr:literal, $forward:ident, $backward:ident $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn $forward<E: Element>(
            operands: &forward::Operands<E>,
            block: &forward::Block,
            upcoming: Option<&forward::Block>,
            panels: usize,
            memory: Carver,
        ) {
            // SAFETY: the caller's contract, passed on.
            unsafe { forward::run::<$simd, $arithmetic, E, $mr>(operands, block, upcoming, panels, memory) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn $backward<E: Element>(
            operands: &backward::Operands<E>,
            block: &backward::Block,
            upcoming: Option<&backward::Block>,
            memory: Carver,
        ) {
            // SAFETY: the caller's contract, passed on.
            unsafe { backward::run::<$simd, $arithmetic, E, $mr>(operands, block, upcoming, memory) }
        }
    };
}

shells!(Portable, Singles, 4, forward_portable, backward_portable);
#[cfg(target_arch = "x86_64")]
shells!(Avx2, Singles, 4, forward_avx2, backward_avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
shells!(
    Avx512,
    Singles,
    8,
    forward_avx512,
    backward_avx512,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
);
#[cfg(target_arch = "x86_64")]
shells!(
    Avx512,
    Bf16Pairs,
    8,
    forward_bf16_pairs,
    backward_bf16_pairs,
    "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
);
