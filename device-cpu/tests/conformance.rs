//! The conformance suite of core over every instruction set of this machine.

use microseq_core::DType;
use microseq_core::dev::HostHarness;
use microseq_core::dev::conformance;
use microseq_cpu::{Cpu, Isa};

/// dk and dv have the same bits for every cut into steps where rows are summed up one by one; where
/// bf16 rows are multiplied in pairs or in tiles, for cuts that part none.
fn harness(isa: Isa) -> HostHarness<Cpu> {
    // Without rayon there is only the calling thread.
    let threads = if cfg!(feature = "rayon") { 2 } else { 1 };
    let cpu = Cpu::with_threads(threads).and_then(|cpu| cpu.with_isa(isa)).expect("threads and isa");
    let grain: fn(DType) -> Option<usize> = match isa {
        Isa::Avx512Bf16 => |dtype| Some(if dtype == DType::Bf16 { 2 } else { 1 }),
        Isa::AmxBf16 => |dtype| Some(if dtype == DType::Bf16 { 32 } else { 1 }),
        _ => |_| Some(1),
    };
    HostHarness::new(cpu).with_dkv_grain(grain)
}

#[test]
fn portable_conforms() {
    conformance::all(&harness(Isa::Portable));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn avx2_conforms() {
    run_if_available(Isa::Avx2);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn avx512_conforms() {
    run_if_available(Isa::Avx512);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn avx512bf16_conforms() {
    run_if_available(Isa::Avx512Bf16);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn amxbf16_conforms() {
    run_if_available(Isa::AmxBf16);
}

#[cfg(target_arch = "x86_64")]
fn run_if_available(isa: Isa) {
    assert_eq!(isa.available(), os_reports(isa), "detection of {isa} disagrees with the operating system");
    if isa.available() {
        conformance::all(&harness(isa));
    } else {
        println!("{isa} NOT RUN: this machine has none");
    }
}

/// Whether the operating system lists the instruction set: a second opinion, so that a path that
/// should exist cannot go untested.
#[cfg(target_arch = "x86_64")]
fn os_reports(isa: Isa) -> bool {
    let Ok(info) = std::fs::read_to_string("/proc/cpuinfo") else {
        return isa.available();
    };
    let flags: Vec<&str> =
        info.lines().find(|line| line.starts_with("flags")).unwrap_or("").split_whitespace().collect();
    let needed: &[&str] = match isa {
        Isa::Portable => &[],
        Isa::Avx2 => &["avx2", "fma", "f16c"],
        Isa::Avx512 => &["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"],
        Isa::Avx512Bf16 => &["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"],
        Isa::AmxBf16 => {
            &["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16"]
        }
    };
    needed.iter().all(|flag| flags.contains(flag))
}
