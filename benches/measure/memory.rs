//! The process's peak memory, as Linux counts it.

use std::fs;

/// Forgets the peak so far, where the system allows it; else the peak goes on from before.
pub(crate) fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The largest resident size since the process began or since [`reset_peak`], in MB of 10^6 bytes.
/// None where the system does not say.
pub(crate) fn peak_mb() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}
