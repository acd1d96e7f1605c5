//! What is printed.

use serde::Serialize;

/// One measurement, as one line of JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) workload: String,
    #[serde(rename = "type")]
    pub(crate) dtype: String,
    pub(crate) device: &'static str,
    /// Null but on a GPU.
    pub(crate) gpu: Option<String>,
    /// Null on a GPU, like the threads and the peak.
    pub(crate) isa: Option<String>,
    pub(crate) threads: Option<usize>,
    pub(crate) fresh: bool,
    pub(crate) repetitions: usize,
    /// Milliseconds of all steps; medians.
    pub(crate) forward_ms: f64,
    pub(crate) backward_ms: f64,
    /// `4 * pairs * head_dim * heads` operations forward, 2.5 times as many backward.
    pub(crate) forward_gflops: f64,
    pub(crate) backward_gflops: f64,
    /// What `peak_instruction` reaches on as many threads.
    pub(crate) peak_gflops: Option<f64>,
    pub(crate) peak_instruction: Option<String>,
    /// Of the measured part: the check before it is left out. Null where the system does not say.
    pub(crate) max_rss_mb: Option<f64>,
}
