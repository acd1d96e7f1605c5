//! Every case of the repository's `tests/golden` on the first GPU of this machine.

// Names the crate as the facade's tests do, which share the modules below.
extern crate microseq_core as microseq;

mod common;

#[path = "../../tests/common/golden.rs"]
mod golden;
#[allow(dead_code)]
#[path = "../../tests/common/safetensors.rs"]
mod safetensors;

use common::gpu_test;
use microseq_cuda::CudaHarness;

fn main() {
    let case = |name: String| {
        gpu_test(&name.clone(), move |cuda| golden::case(&CudaHarness::new(cuda), "cuda", &name))
    };
    common::run(golden::names().into_iter().map(case).collect());
}
