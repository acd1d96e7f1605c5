//! Whether tiles can be used: the CPU has them, and the operating system keeps and grants them.

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

/// Whether the CPU has tile registers that multiply bf16, and the operating system keeps them and lets this
/// process use them. Asks the operating system, the first time.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| cpu_has_tiles() && system_keeps_tiles() && system_grants_tiles())
}

/// CPUID names AMX-TILE and AMX-BF16.
fn cpu_has_tiles() -> bool {
    const AMX: u32 = 1 << 24 | 1 << 22;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & AMX == AMX
}

/// The operating system saves tiles and their configuration with a thread's other registers.
fn system_keeps_tiles() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const TILES: u64 = 1 << 17 | 1 << 18;
    // SAFETY: OSXSAVE says that XGETBV may be used.
    __cpuid(1).ecx & OSXSAVE != 0 && unsafe { kept_registers() } & TILES == TILES
}

/// Which registers the operating system keeps.
#[target_feature(enable = "xsave")]
fn kept_registers() -> u64 {
    // SAFETY: register 0 exists wherever XGETBV does.
    unsafe { _xgetbv(0) }
}

/// Asks Linux to let the process use tiles, which holds for all its threads: without, their first use ends
/// it.
#[cfg(target_os = "linux")]
fn system_grants_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: the call takes two numbers and touches no memory of ours; Linux changes rax, rcx and r11
    // alone.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
    result == 0
}

/// Other systems are not known to grant it.
#[cfg(not(target_os = "linux"))]
fn system_grants_tiles() -> bool {
    false
}
