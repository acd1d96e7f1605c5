//! The kernels, instantiated for each instruction set: thin shells that enable it.

use crate::Isa;
use crate::kernel::products::PortableSingles;
#[cfg(target_arch = "x86_64")]
use crate::kernel::products::{Avx2Singles, Avx512Pairs, Avx512Singles};
#[cfg(target_arch = "x86_64")]
use crate::kernel::tiles::{self, Tiles};
use crate::kernel::{Geometry, backward, forward};
use crate::scratch::Carver;
use microseq_core::{DType, Element};

/// Sizes of the kernels' arrays, for a call.
pub(crate) fn geometry(isa: Isa, dtype: DType, head_dim: usize) -> Geometry {
    Geometry::new(if pairs(isa, dtype) { 2 } else { 1 }, head_dim)
}

/// Whether products are taken of pairs of bf16.
pub(crate) fn pairs(isa: Isa, dtype: DType) -> bool {
    matches!(isa, Isa::Avx512Bf16 | Isa::AmxBf16) && dtype == DType::Bf16
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
    memory: Carver,
) {
    // SAFETY: the caller's contract, passed on.
    unsafe {
        match isa {
            Isa::Portable => forward_portable(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => forward_avx2(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::AmxBf16 if pairs(isa, E::DTYPE) => forward_tiles(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 if pairs(isa, E::DTYPE) => forward_bf16_pairs(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::AmxBf16 => forward_avx512(operands, block, upcoming, memory),
            #[cfg(not(target_arch = "x86_64"))]
            _ => forward_portable(operands, block, upcoming, memory),
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
            Isa::AmxBf16 if pairs(isa, E::DTYPE) => backward_tiles(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 if pairs(isa, E::DTYPE) => backward_bf16_pairs(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::AmxBf16 => {
                backward_avx512(operands, block, upcoming, memory)
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => backward_portable(operands, block, upcoming, memory),
        }
    }
}

/// Two shells for one instruction set.
macro_rules! shells {
    ($products:ty, $forward:ident, $backward:ident $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn $forward<E: Element>(
            operands: &forward::Operands<E>,
            block: &forward::Block,
            upcoming: Option<&forward::Block>,
            memory: Carver,
        ) {
            // SAFETY: the caller's contract, passed on.
            unsafe { forward::run::<$products, E>(operands, block, upcoming, memory) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn $backward<E: Element>(
            operands: &backward::Operands<E>,
            block: &backward::Block,
            upcoming: Option<&backward::Block>,
            memory: Carver,
        ) {
            // SAFETY: the caller's contract, passed on.
            unsafe { backward::run::<$products, E>(operands, block, upcoming, memory) }
        }
    };
}

shells!(PortableSingles, forward_portable, backward_portable);
#[cfg(target_arch = "x86_64")]
shells!(Avx2Singles, forward_avx2, backward_avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
shells!(Avx512Singles, forward_avx512, backward_avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
shells!(
    Avx512Pairs,
    forward_bf16_pairs,
    backward_bf16_pairs,
    "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
);
#[cfg(target_arch = "x86_64")]
shells!(
    Tiles<Unit>,
    forward_tiles,
    backward_tiles,
    "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
);

/// The machine's tiles; in unit tests, on whatever machine, a model of them.
#[cfg(all(target_arch = "x86_64", not(test)))]
type Unit = tiles::Hardware;
#[cfg(all(target_arch = "x86_64", test))]
type Unit = tiles::Model;
