//! The kernels, instantiated for each instruction set: thin shells that enable it.

use crate::Isa;
use crate::kernel::products::PortableSingles;
#[cfg(target_arch = "x86_64")]
use crate::kernel::products::{Avx2Singles, Avx512Pairs, Avx512Singles};
#[cfg(target_arch = "x86_64")]
use crate::kernel::{self, tiles::Tiles};
use crate::kernel::{Geometry, backward, forward};
use crate::scratch::Carver;
#[cfg(target_arch = "x86_64")]
use core::any::Any;
#[cfg(target_arch = "x86_64")]
use microseq_core::bf16;
use microseq_core::{DType, Element};

/// Sizes of the kernels' arrays, for a call.
pub(crate) fn geometry(isa: Isa, dtype: DType, head_dim: usize) -> Geometry {
    Geometry::new(if pairs(isa, dtype) { 2 } else { 1 }, head_dim)
}

/// Whether products are taken of pairs of bf16.
fn pairs(isa: Isa, dtype: DType) -> bool {
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
            Isa::Portable => portable::forward(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::forward(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::AmxBf16 if let Some(operands) = of_bf16(operands) => {
                tiles::forward::<bf16>(operands, block, upcoming, memory)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 if let Some(operands) = of_bf16(operands) => {
                bf16_pairs::forward::<bf16>(operands, block, upcoming, memory)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::AmxBf16 => {
                avx512::forward(operands, block, upcoming, memory)
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => portable::forward(operands, block, upcoming, memory),
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
            Isa::Portable => portable::backward(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::backward(operands, block, upcoming, memory),
            #[cfg(target_arch = "x86_64")]
            Isa::AmxBf16 if let Some(operands) = of_bf16(operands) => {
                tiles::backward::<bf16>(operands, block, upcoming, memory)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 if let Some(operands) = of_bf16(operands) => {
                bf16_pairs::backward::<bf16>(operands, block, upcoming, memory)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::AmxBf16 => {
                avx512::backward(operands, block, upcoming, memory)
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => portable::backward(operands, block, upcoming, memory),
        }
    }
}

/// The operands, if they are those of bf16: kernels of instructions for bf16 are made of it alone.
#[cfg(target_arch = "x86_64")]
fn of_bf16<Operands: Any>(operands: &dyn Any) -> Option<&Operands> {
    operands.downcast_ref()
}

/// Two shells for one instruction set, in a module of their own: the compiler takes modules as the pieces
/// that it works on at a time.
macro_rules! shells {
    ($isa:ident, $products:ty $(, $features:literal)?) => {
        mod $isa {
            use super::*;

            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn forward<E: Element>(
                operands: &forward::Operands<E>,
                block: &forward::Block,
                upcoming: Option<&forward::Block>,
                memory: Carver,
            ) {
                // SAFETY: the caller's contract, passed on.
                unsafe { forward::run::<$products, E>(operands, block, upcoming, memory) }
            }

            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn backward<E: Element>(
                operands: &backward::Operands<E>,
                block: &backward::Block,
                upcoming: Option<&backward::Block>,
                memory: Carver,
            ) {
                // SAFETY: the caller's contract, passed on.
                unsafe { backward::run::<$products, E>(operands, block, upcoming, memory) }
            }
        }
    };
}

shells!(portable, PortableSingles);
#[cfg(target_arch = "x86_64")]
shells!(avx2, Avx2Singles, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
shells!(avx512, Avx512Singles, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
shells!(bf16_pairs, Avx512Pairs, "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
shells!(tiles, Tiles<Unit>, "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");

/// The machine's tiles; in unit tests, on whatever machine, a model of them.
#[cfg(all(target_arch = "x86_64", not(test)))]
type Unit = kernel::tiles::Hardware;
#[cfg(all(target_arch = "x86_64", test))]
type Unit = kernel::tiles::Model;
