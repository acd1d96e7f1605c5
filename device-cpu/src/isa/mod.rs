//! The instruction sets that the kernels are compiled for, and which of them a machine has.

#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles;

use crate::CpuError;
use core::fmt;
use core::str::FromStr;
use std::string::ToString;

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// What the compiler's target guarantees.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The same, with AVX512-BF16 for products of bf16.
    Avx512Bf16,
    /// The same, with AMX-BF16 for products of bf16.
    AmxBf16,
}

impl Isa {
    /// Every instruction set, the plainest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::AmxBf16];

    /// Whether this machine has it.
    pub fn available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                std::is_x86_feature_detected!("avx2")
                    && std::is_x86_feature_detected!("fma")
                    && std::is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.available()
                    && std::is_x86_feature_detected!("avx512f")
                    && std::is_x86_feature_detected!("avx512bw")
                    && std::is_x86_feature_detected!("avx512dq")
                    && std::is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512.available() && std::is_x86_feature_detected!("avx512bf16"),
            // Unit tests run on a model of tiles, for which AVX512-BF16 is enough.
            #[cfg(target_arch = "x86_64")]
            Self::AmxBf16 => Self::Avx512Bf16.available() && (cfg!(test) || tiles::available()),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The fastest that this machine has.
    pub fn best() -> Self {
        let mut isas = Self::ALL.into_iter().rev();
        isas.find(|isa| isa.available() && isa.pays_off()).unwrap_or(Self::Portable)
    }

    /// Whether it is worth taking: its instructions are faster than those of the sets before it. A Xeon was
    /// seen to take four times as long for a product of pairs of bf16 as for a multiply-add of f32, so half
    /// as many products a second; Zen 5 takes as long for one as for the other.
    fn pays_off(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => is_amd(),
            _ => true,
        }
    }

    /// The one that the environment variable `MICROSEQ_ISA` names, else the best.
    ///
    /// # Errors
    /// [`CpuError::UnknownIsa`], [`CpuError::IsaUnavailable`].
    pub fn from_environment() -> Result<Self, CpuError> {
        match std::env::var_os("MICROSEQ_ISA") {
            Some(name) => name.to_string_lossy().parse::<Self>()?.checked(),
            None => Ok(Self::best()),
        }
    }

    /// Itself, where this machine has it.
    pub(crate) fn checked(self) -> Result<Self, CpuError> {
        if self.available() { Ok(self) } else { Err(CpuError::IsaUnavailable { isa: self }) }
    }
}

/// Whether the CPU says that AMD made it.
#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    let vendor = core::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
            Self::AmxBf16 => "amxbf16",
        })
    }
}

impl FromStr for Isa {
    type Err = CpuError;

    fn from_str(name: &str) -> Result<Self, CpuError> {
        let known = Self::ALL.into_iter().find(|isa| isa.to_string() == name);
        known.ok_or_else(|| CpuError::UnknownIsa { name: name.to_string() })
    }
}
